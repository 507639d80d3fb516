#include "objects.h"

namespace credence::addon {

void TrainerObject::init(Napi::Env env) {
  Environment::of(env).trainer = Napi::Persistent(DefineClass(
      env, "NativeTrainer",
      {InstanceMethod<&TrainerObject::accumulate>("accumulate"),
       InstanceMethod<&TrainerObject::ppo_sums_so_far>("ppoSums"),
       InstanceMethod<&TrainerObject::accumulate_head>("accumulateHead"),
       InstanceMethod<&TrainerObject::forward>("forward"), InstanceMethod<&TrainerObject::backward>("backward"),
       InstanceMethod<&TrainerObject::update>("update"), InstanceMethod<&TrainerObject::gradients>("gradients"),
       InstanceMethod<&TrainerObject::clear_gradients>("clearGradients"),
       InstanceMethod<&TrainerObject::state>("state"), InstanceMethod<&TrainerObject::average>("average"),
       InstanceMethod<&TrainerObject::restore>("restore"), InstanceMethod<&TrainerObject::dispose>("dispose"),
       InstanceAccessor<&TrainerObject::pass_size>("passSize")}));
}

TrainerObject::TrainerObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TrainerObject>(info) {}

Napi::Value TrainerObject::create(Napi::Env env, std::shared_ptr<Trainer> trainer, std::shared_ptr<Worker> worker) {
  Napi::Object object = Environment::of(env).trainer.New({});
  TrainerObject* self = Unwrap(object);
  self->trainer_.set(std::move(trainer));
  self->worker_ = std::move(worker);
  return object;
}

namespace {
std::mutex& mutex_of(const Trainer& trainer) { return trainer.policy()->base()->mutex(); }
}  // namespace

Napi::Value TrainerObject::accumulate(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    auto batch = std::make_shared<HostBatch>(batch_of(call[0]));
    if (string_of(object_of(call[1], "loss").Get("kind"), "loss.kind") == "ppo") {
      auto ppo = std::make_shared<PpoLoss>(ppo_loss_of(call[1]));
      return start<bool>(
          env, *worker_, env.Undefined(),
          [trainer, batch, ppo](Job& job) {
            std::lock_guard lock(mutex_of(*trainer));
            trainer->accumulate(*batch, *ppo, job.abort());
            return true;
          },
          [](Napi::Env to, bool&) -> Napi::Value { return to.Undefined(); });
    }
    auto loss = std::make_shared<Loss>(loss_of(call[1]));
    return start<bool>(
        env, *worker_, env.Undefined(),
        [trainer, batch, loss](Job& job) {
          std::lock_guard lock(mutex_of(*trainer));
          trainer->accumulate(*batch, *loss, job.abort());
          return true;
        },
        [](Napi::Env to, bool&) -> Napi::Value { return to.Undefined(); });
  });
}

Napi::Value TrainerObject::accumulate_head(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    const std::string head = string_of(call[0], "head");
    auto hidden = std::make_shared<std::vector<float>>(floats(call[1], "hidden"));
    auto targets = std::make_shared<std::vector<float>>(floats(call[2], "targets"));
    return start<bool>(
        env, *worker_, env.Undefined(),
        [trainer, head, hidden, targets](Job& job) {
          std::lock_guard lock(mutex_of(*trainer));
          trainer->accumulate(head, *hidden, *targets, job.abort());
          return true;
        },
        [](Napi::Env to, bool&) -> Napi::Value { return to.Undefined(); });
  });
}

Napi::Value TrainerObject::forward(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    auto batch = std::make_shared<HostBatch>(batch_of(call[0]));
    const Napi::Object options = object_of(call[1], "readouts");
    auto request = std::make_shared<PassRequest>(request_of(options));
    if (!absent(options.Get("heads"))) {
      const Napi::Array heads = options.Get("heads").As<Napi::Array>();
      for (uint32_t i = 0; i < heads.Length(); ++i) {
        const Napi::Object head = object_of(heads.Get(i), "readouts.heads");
        request->heads.push_back({string_of(head.Get("name"), "head.name"), spans_of(head.Get("spans"), "head.spans")});
      }
    }
    return start<PassResult>(
        env, *worker_, env.Undefined(),
        [trainer, batch, request](Job& job) {
          std::lock_guard lock(mutex_of(*trainer));
          return trainer->forward(*batch, *request, job.abort());
        },
        [](Napi::Env to, PassResult& result) -> Napi::Value { return pass_result(to, result, false); });
  });
}

Napi::Value TrainerObject::backward(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    const Napi::Object options = object_of(call[0], "upstream");
    auto upstream = std::make_shared<Upstream>();
    if (!absent(options.Get("logprobs"))) upstream->logprobs = floats(options.Get("logprobs"), "upstream.logprobs");
    if (!absent(options.Get("entropy"))) upstream->entropy = floats(options.Get("entropy"), "upstream.entropy");
    if (!absent(options.Get("closedSet")))
      upstream->closed_set = floats(options.Get("closedSet"), "upstream.closedSet");
    if (!absent(options.Get("divergence")))
      upstream->divergence = floats(options.Get("divergence"), "upstream.divergence");
    if (!absent(options.Get("values"))) upstream->values = floats(options.Get("values"), "upstream.values");
    if (!absent(options.Get("heads"))) {
      const Napi::Object heads = object_of(options.Get("heads"), "upstream.heads");
      const Napi::Array names = heads.GetPropertyNames();
      for (uint32_t i = 0; i < names.Length(); ++i) {
        const std::string name = string_of(names.Get(i), "head");
        upstream->heads[name] = floats(heads.Get(name), "upstream.heads");
      }
    }
    return start<bool>(
        env, *worker_, env.Undefined(),
        [trainer, upstream](Job& job) {
          std::lock_guard lock(mutex_of(*trainer));
          trainer->backward(*upstream, job.abort());
          return true;
        },
        [](Napi::Env to, bool&) -> Napi::Value { return to.Undefined(); });
  });
}

Napi::Value TrainerObject::update(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    const Napi::Object options = object_of(call[0], "options");
    const double rate = number_of(options.Get("learningRate"), "learningRate"),
                 count = number_of(options.Get("count"), "count");
    const auto groups = groups_of(options.Get("groups"));
    return start<StepResult>(
        env, *worker_, env.Undefined(),
        [trainer, rate, count, groups](Job&) {
          std::lock_guard lock(mutex_of(*trainer));
          return trainer->update(rate, count, groups);
        },
        [](Napi::Env to, StepResult& step) -> Napi::Value {
          Napi::Object out = Napi::Object::New(to);
          out.Set("loss", step.loss);
          out.Set("gradientNorm", step.gradient_norm);
          out.Set("ppo", ppo_sums(to, step.ppo));
          return out;
        });
  });
}

Napi::Value TrainerObject::ppo_sums_so_far(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto trainer = trainer_.get("trainer");
    return start<PpoSums>(
        env, *worker_, env.Undefined(),
        [trainer](Job&) {
          std::lock_guard lock(mutex_of(*trainer));
          return trainer->ppo_sums();
        },
        [](Napi::Env to, PpoSums& sums) -> Napi::Value { return ppo_sums(to, sums); });
  });
}

Napi::Value TrainerObject::gradients(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& trainer = trainer_.get("trainer");
    std::lock_guard lock(mutex_of(*trainer));
    return tensor_array(env, trainer->policy()->all_parameters(), trainer->gradients());
  });
}

void TrainerObject::clear_gradients(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const auto& trainer = trainer_.get("trainer");
    std::lock_guard lock(mutex_of(*trainer));
    trainer->clear_gradients();
  });
}

Napi::Value TrainerObject::state(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& trainer = trainer_.get("trainer");
    std::lock_guard lock(mutex_of(*trainer));
    const std::vector<Parameter> parameters = trainer->policy()->all_parameters();
    const Napi::Array first = tensor_array(env, parameters, trainer->first_moment(), "m.");
    const Napi::Array second = tensor_array(env, parameters, trainer->second_moment(), "v.");
    Napi::Array tensors = Napi::Array::New(env);
    for (const Napi::Array& list : {first, second}) {
      for (uint32_t i = 0; i < list.Length(); ++i) tensors.Set(tensors.Length(), list.Get(i));
    }
    Napi::Object out = Napi::Object::New(env);
    out.Set("step", static_cast<double>(trainer->step()));
    out.Set("seed", static_cast<double>(trainer->seed()));
    out.Set("tensors", tensors);
    return out;
  });
}

Napi::Value TrainerObject::average(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& trainer = trainer_.get("trainer");
    std::lock_guard lock(mutex_of(*trainer));
    const std::vector<float> flat = trainer->average();
    return flat.empty() ? env.Undefined() : policy_tensors(env, *trainer->policy(), flat);
  });
}

namespace {
/// The flat buffer's numbers from tensors in its order, each list of them with a prefix before the parameters' names.
std::vector<std::vector<float>> flat_numbers(const std::vector<Parameter>& parameters,
                                             const std::vector<NamedTensor>& tensors,
                                             const std::vector<std::string>& prefixes) {
  if (tensors.size() != prefixes.size() * parameters.size()) {
    fail("WRONG_MODEL", "optimiser state: expected %zu tensors but received %zu. Was it saved by another recipe?",
         prefixes.size() * parameters.size(), tensors.size());
  }
  std::vector<std::vector<float>> out(prefixes.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Parameter& p = parameters[i % parameters.size()];
    const std::string name = prefixes[i / parameters.size()] + p.name;
    if (tensors[i].name != name || tensors[i].shape != p.shape) {
      fail("WRONG_MODEL", "optimiser state: expected %s %s but received %s %s", name.c_str(),
           shape_text(p.shape).c_str(), tensors[i].name.c_str(), shape_text(tensors[i].shape).c_str());
    }
    auto& to = out[i / parameters.size()];
    to.insert(to.end(), tensors[i].data.begin(), tensors[i].data.end());
  }
  return out;
}
}  // namespace

void TrainerObject::restore(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const auto& trainer = trainer_.get("trainer");
    const Napi::Object state = object_of(call[0], "state");
    const std::vector<Parameter> parameters = trainer->policy()->all_parameters();
    const auto moments = flat_numbers(parameters, tensors_of(state.Get("tensors"), "state.tensors"), {"m.", "v."});
    std::vector<std::vector<float>> average;
    if (!absent(state.Get("average")))
      average = flat_numbers(parameters, tensors_of(state.Get("average"), "state.average"), {""});
    std::lock_guard lock(mutex_of(*trainer));
    if (!average.empty()) trainer->restore_average(average[0]);
    trainer->restore(static_cast<int64_t>(number_of(state.Get("step"), "state.step")),
                     static_cast<uint64_t>(number_or(state, "seed", static_cast<double>(trainer->seed()))), moments[0],
                     moments[1]);
  });
}

Napi::Value TrainerObject::pass_size(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& trainer = trainer_.get("trainer");
    std::lock_guard lock(mutex_of(*trainer));
    Napi::Object out = Napi::Object::New(env);
    out.Set("tokens", trainer->pass_size().tokens);
    out.Set("recompute", trainer->pass_size().recompute);
    return out;
  });
}

void TrainerObject::dispose(const Napi::CallbackInfo&) {
  trainer_.dispose();
  worker_.reset();
}

}  // namespace credence::addon
