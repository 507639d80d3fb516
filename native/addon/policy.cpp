#include "native/engine/reading.h"
#include "objects.h"

namespace credence::addon {

void PolicyObject::init(Napi::Env env) {
  Environment::of(env).policy = Napi::Persistent(DefineClass(
      env, "NativePolicy",
      {InstanceMethod<&PolicyObject::tensors>("tensors"), InstanceMethod<&PolicyObject::set_tensors>("setTensors"),
       InstanceMethod<&PolicyObject::generate>("generate"), InstanceMethod<&PolicyObject::forward>("forward"),
       InstanceMethod<&PolicyObject::read_head>("readHead"), InstanceMethod<&PolicyObject::trainer>("trainer"),
       InstanceMethod<&PolicyObject::dispose>("dispose"), InstanceAccessor<&PolicyObject::trainable>("trainable"),
       InstanceAccessor<&PolicyObject::owns_weights>("ownsWeights")}));
}

PolicyObject::PolicyObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PolicyObject>(info) {}

Napi::Value PolicyObject::create(Napi::Env env, std::shared_ptr<Policy> policy, std::shared_ptr<Worker> worker) {
  Napi::Object object = Environment::of(env).policy.New({});
  PolicyObject* self = Unwrap(object);
  self->policy_.set(std::move(policy));
  self->worker_ = std::move(worker);
  return object;
}

Napi::Value PolicyObject::trainable(const Napi::CallbackInfo& call) {
  return guarded(call.Env(), [&]() -> Napi::Value {
    return Napi::Number::New(call.Env(), static_cast<double>(policy_.get("policy")->count()));
  });
}

Napi::Value PolicyObject::owns_weights(const Napi::CallbackInfo& call) {
  return guarded(call.Env(), [&]() -> Napi::Value {
    return Napi::Boolean::New(call.Env(), policy_.get("policy")->owned().spec().any());
  });
}

Napi::Value PolicyObject::tensors(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& policy = policy_.get("policy");
    std::lock_guard lock(policy->base()->mutex());
    return policy_tensors(env, *policy, policy->read_parameters());
  });
}

void PolicyObject::set_tensors(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const auto& policy = policy_.get("policy");
    const std::vector<NamedTensor> tensors = tensors_of(call[0], "tensors");
    std::lock_guard lock(policy->base()->mutex());
    policy->set_parameters(tensors);
  });
}

namespace {

Napi::Object sample_object(Napi::Env env, const Sample& sample) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("prompt", sample.prompt);
  out.Set("sample", sample.sample);
  out.Set("tokens", int_array(env, sample.tokens));
  out.Set("logprobs", float_array(env, sample.logprobs));
  out.Set("finish", sample.stopped ? "stop" : "length");
  if (sample.stop_token >= 0) out.Set("stopToken", sample.stop_token);
  auto put = [&](const char* name, const std::vector<float>& values) {
    if (!values.empty()) out.Set(name, float_array(env, values));
  };
  put("promptHidden", sample.prompt_hidden);
  put("answerHidden", sample.answer_hidden);
  put("promptHeads", sample.prompt_heads);
  put("answerHeads", sample.answer_heads);
  return out;
}

GenerateOptions generate_options(const Napi::Object& options) {
  GenerateOptions out;
  const Napi::Value prompts = options.Get("prompts");
  if (!prompts.IsArray()) fail("BAD_OPTION", "prompts: expected a list of Int32Array");
  const Napi::Array list = prompts.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) out.prompts.push_back(int32s(list.Get(i), "prompts"));
  out.samples = integer_of(options.Get("samples"), "samples");
  out.first_samples = integers_or_none(options, "firstSamples");
  out.temperature = number_of(options.Get("temperature"), "temperature");
  out.score_temperature = number_or(options, "scoreTemperature", 1);
  out.top_k = integer_or(options, "topK", 0);
  out.top_p = number_or(options, "topP", 1);
  out.repetition_penalty = number_or(options, "repetitionPenalty", 1);
  out.max_new_tokens = integer_of(options.Get("maxNewTokens"), "maxNewTokens");
  out.stop_tokens = integers_or_none(options, "stopTokens");
  out.stop_strings = strings_or_none(options, "stopStrings");
  out.seed = static_cast<uint64_t>(number_or(options, "seed", 0));
  out.adapter = boolean_or(options, "adapter", true);
  out.collect = integers_or_none(options, "collect");
  out.answer_heads = strings_or_none(options, "answerHeads");
  out.prompt_heads = strings_or_none(options, "promptHeads");
  out.max_batch = integer_or(options, "maxBatch", 0);
  out.fast_decode = boolean_or(options, "fastDecode", false);
  return out;
}

/// A step's tokens as [row, token, row, token, ..] to JavaScript, which gives the rows to end, if any: nothing waits for it.
void tell(Job& job, const std::shared_ptr<Napi::FunctionReference>& watch, const GenerateOptions& options,
          const std::vector<Chosen>& tokens) {
  auto told = std::make_shared<std::vector<int32_t>>();
  for (const auto [row, token] : tokens) told->insert(told->end(), {row, token});
  job.call([watch, told, ended = options.ended](Napi::Env env) {
    guarded(env, [&] {
      const Napi::Value rows = watch->Value().Call({int_array(env, *told)});
      if (absent(rows)) return;
      for (const int32_t row : int32s(rows, "rows to end")) ended->at(row) = true;
    });
  });
}

}  // namespace

Napi::Value PolicyObject::generate(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto policy = policy_.get("policy");
    auto options = std::make_shared<GenerateOptions>(generate_options(object_of(call[0], "options")));
    const auto kept = [](const Napi::Value& function) {
      if (!function.IsFunction()) fail("BAD_OPTION", "generate: expected functions that take samples and tokens");
      auto reference = std::make_shared<Napi::FunctionReference>(Napi::Persistent(function.As<Napi::Function>()));
      reference->SuppressDestruct();
      return reference;
    };
    auto callback = kept(call[1]);
    const auto watch = absent(call[3]) ? nullptr : kept(call[3]);
    if (watch) {
      options->ended =
          std::make_shared<std::vector<std::atomic<bool>>>(options->prompts.size() * std::max(options->samples, 0));
    }
    return start<GenerateStats>(
        env, *worker_, call[2],
        [policy, options, callback, watch](Job& job) {
          std::lock_guard lock(policy->base()->mutex());
          if (watch) options->chosen = [&](const std::vector<Chosen>& tokens) { tell(job, watch, *options, tokens); };
          return credence::generate(
              policy, *options,
              [&](std::vector<Sample>&& samples) {
                job.call([callback, samples = std::make_shared<std::vector<Sample>>(std::move(samples))](Napi::Env to) {
                  Napi::Array list = Napi::Array::New(to, samples->size());
                  for (uint32_t i = 0; i < samples->size(); ++i) list.Set(i, sample_object(to, (*samples)[i]));
                  callback->Value().Call({list});
                });
              },
              job.abort());
        },
        [callback, watch](Napi::Env to, GenerateStats& stats) -> Napi::Value {
          callback->Reset();
          if (watch) watch->Reset();
          Napi::Object out = Napi::Object::New(to);
          out.Set("promptTokens", static_cast<double>(stats.prompt_tokens));
          out.Set("newTokens", static_cast<double>(stats.new_tokens));
          out.Set("seconds", stats.seconds);
          out.Set("maxBatch", stats.max_batch);
          return out;
        });
  });
}

Napi::Value PolicyObject::forward(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto policy = policy_.get("policy");
    auto batch = std::make_shared<HostBatch>(batch_of(call[0]));
    const Napi::Object options = object_of(call[1], "options");
    auto request = std::make_shared<PassRequest>(request_of(options));
    request->adapter = boolean_or(options, "adapter", true);
    request->spans = spans_of(options.Get("spans"), "spans");
    request->collect = integers_or_none(options, "collect");
    for (const std::string& head : strings_or_none(options, "heads")) request->heads.push_back({head, request->spans});
    const bool collected = !request->collect.empty();
    return start<PassResult>(
        env, *worker_, call[2],
        [policy, batch, request](Job& job) {
          std::lock_guard lock(policy->base()->mutex());
          return read_batch(policy, *batch, *request, job.abort());
        },
        [collected](Napi::Env to, PassResult& result) -> Napi::Value { return pass_result(to, result, collected); });
  });
}

Napi::Value PolicyObject::read_head(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& policy = policy_.get("policy");
    const Head& head = policy->head(string_of(call[0], "head"));
    std::lock_guard lock(policy->base()->mutex());
    return float_array(env, apply_head(*policy, head, floats(call[1], "hidden")));
  });
}

Napi::Value PolicyObject::trainer(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& policy = policy_.get("policy");
    const Napi::Object options = object_of(call[0], "optimizer");
    OptimizerSpec optimizer;
    optimizer.beta1 = number_or(options, "beta1", optimizer.beta1);
    optimizer.beta2 = number_or(options, "beta2", optimizer.beta2);
    optimizer.epsilon = number_or(options, "epsilon", optimizer.epsilon);
    optimizer.weight_decay = number_or(options, "weightDecay", 0);
    optimizer.max_gradient_norm = number_or(options, "maxGradientNorm", 0);
    optimizer.seed = static_cast<uint64_t>(number_or(options, "seed", 0));
    optimizer.average_decay = number_or(options, "averageDecay", 0);
    std::lock_guard lock(policy->base()->mutex());
    return TrainerObject::create(env, std::make_shared<Trainer>(policy, optimizer), worker_);
  });
}

void PolicyObject::dispose(const Napi::CallbackInfo&) {
  policy_.dispose();
  worker_.reset();
}

}  // namespace credence::addon
