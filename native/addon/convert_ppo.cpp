// Proximal policy optimisation across the line: its losses, their sums, the advantage step.
#include "convert.h"

namespace credence::addon {

PpoLoss ppo_loss_of(const Napi::Value& value) {
  const Napi::Object options = object_of(value, "loss");
  PpoLoss loss;
  loss.weights = floats(options.Get("weights"), "loss.weights");
  loss.old_logprobs = floats(options.Get("oldLogprobs"), "loss.oldLogprobs");
  loss.advantages = floats(options.Get("advantages"), "loss.advantages");
  loss.clip_low = number_of(options.Get("clipLow"), "loss.clipLow");
  loss.clip_high = number_of(options.Get("clipHigh"), "loss.clipHigh");
  loss.entropy = number_or(options, "entropy", 0);
  loss.temperature = number_or(options, "temperature", 1);
  if (!absent(options.Get("kl"))) {
    const Napi::Object kl = object_of(options.Get("kl"), "loss.kl");
    loss.kl = {floats(kl.Get("reference"), "loss.kl.reference"),
               number_of(kl.Get("coefficient"), "loss.kl.coefficient"),
               integer_of(kl.Get("estimator"), "loss.kl.estimator")};
  }
  if (!absent(options.Get("value"))) {
    const Napi::Object critic = object_of(options.Get("value"), "loss.value");
    PpoLoss::Value& to = loss.value.emplace();
    to.head = string_of(critic.Get("head"), "loss.value.head");
    to.weights = floats(critic.Get("weights"), "loss.value.weights");
    to.returns = floats(critic.Get("returns"), "loss.value.returns");
    to.clip = number_or(critic, "clip", 0);
    if (to.clip != 0) to.old_values = floats(critic.Get("oldValues"), "loss.value.oldValues");
    to.coefficient = number_or(critic, "coefficient", 1);
  }
  return loss;
}

Napi::Object ppo_sums(Napi::Env env, const PpoSums& sums) {
  Napi::Object out = Napi::Object::New(env);
  const credence_policy_sums& policy = sums.policy;
  for (const auto& [name, number] :
       std::initializer_list<std::pair<const char*, double>>{{"loss", sums.loss},
                                                             {"weight", policy.weight},
                                                             {"policy", policy.policy},
                                                             {"entropy", policy.entropy},
                                                             {"ratio", policy.ratio},
                                                             {"ratioChange", policy.ratio_change},
                                                             {"clipped", policy.clipped},
                                                             {"outside", policy.outside},
                                                             {"oldKl1", policy.old_kl1},
                                                             {"oldKl2", policy.old_kl2},
                                                             {"referenceKl", policy.reference_kl},
                                                             {"valueWeight", sums.value.weight},
                                                             {"value", sums.value.loss},
                                                             {"valueError", sums.value.error},
                                                             {"valueClipped", sums.value.clipped}})
    out.Set(name, number);
  return out;
}

namespace {
credence_whitening whitening_of(const Napi::Object& options, const char* name) {
  const std::string kind = string_or(options, name, "none");
  if (kind == "none") return CREDENCE_NOT_WHITENED;
  if (kind == "biased") return CREDENCE_BIASED;
  if (kind == "unbiased") return CREDENCE_UNBIASED;
  fail("BAD_OPTION", "%s: expected none, biased or unbiased but received \"%s\"", name, kind.c_str());
}
}  // namespace

AdvantageInput advantage_input(const Napi::Value& value) {
  const Napi::Object options = object_of(value, "advantages");
  const auto given = [&](const char* name) { return !absent(options.Get(name)); };
  AdvantageInput in;
  in.offsets = int32s(options.Get("offsets"), "offsets");
  in.completion_start = int32s(options.Get("completionStart"), "completionStart");
  in.scores = floats(options.Get("scores"), "scores");
  if (given("mask")) in.mask = bytes(options.Get("mask"), "mask");
  if (given("values")) in.values = floats(options.Get("values"), "values");
  if (given("tokenRewards")) in.token_rewards = floats(options.Get("tokenRewards"), "tokenRewards");
  if (given("bootstrap")) in.bootstrap = floats(options.Get("bootstrap"), "bootstrap");
  if (given("scoreAt")) in.score_at = int32s(options.Get("scoreAt"), "scoreAt");
  if (given("kl")) {
    const Napi::Object kl = object_of(options.Get("kl"), "kl");
    in.logprobs = floats(kl.Get("logprobs"), "kl.logprobs");
    in.reference = floats(kl.Get("reference"), "kl.reference");
    in.kl_coefficient = number_of(kl.Get("coefficient"), "kl.coefficient");
    in.kl_estimator = integer_or(kl, "estimator", 1);
    in.kl_clamp = boolean_or(kl, "clamp", false);
  }
  in.score_shift = number_or(options, "scoreShift", 0);
  in.score_scale = number_or(options, "scoreScale", 1);
  in.score_clamp = number_or(options, "scoreClamp", 0);
  in.gamma = number_or(options, "gamma", 1);
  in.lambda = number_or(options, "lambda", 1);
  in.whiten_rewards = whitening_of(options, "whitenRewards");
  in.whiten_advantages = whitening_of(options, "whitenAdvantages");
  in.keep_mean = boolean_or(options, "keepMean", false);
  in.whiten_eps = number_or(options, "whitenEpsilon", in.whiten_eps);
  in.slots = integer_or(options, "slots", 0);
  return in;
}

Napi::Object advantage_output(Napi::Env env, const AdvantageOutput& output) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("rewards", float_array(env, output.rewards));
  out.Set("advantages", float_array(env, output.advantages));
  out.Set("returns", float_array(env, output.returns));
  out.Set("whitened", float_array(env, output.whitened));
  const auto moments = [&](size_t from) {
    Napi::Object of = Napi::Object::New(env);
    of.Set("count", output.moments[from]);
    of.Set("mean", output.moments[from + 1]);
    of.Set("squares", output.moments[from + 2]);
    return of;
  };
  out.Set("moments", moments(0));
  out.Set("rewardMoments", moments(3));
  return out;
}

}  // namespace credence::addon
