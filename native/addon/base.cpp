#include "objects.h"

namespace credence::addon {

void BaseObject::init(Napi::Env env) {
  Environment::of(env).base = Napi::Persistent(DefineClass(
      env, "NativeBase",
      {InstanceMethod<&BaseObject::set_vocabulary>("setVocabulary"), InstanceMethod<&BaseObject::policy>("policy"),
       InstanceMethod<&BaseObject::memory>("memory"), InstanceMethod<&BaseObject::advantages>("advantages"),
       InstanceMethod<&BaseObject::dispose>("dispose"), InstanceAccessor<&BaseObject::info>("info")}));
}

BaseObject::BaseObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<BaseObject>(info) {}

Napi::Value BaseObject::create(Napi::Env env, std::shared_ptr<Base> base, std::shared_ptr<Worker> worker) {
  Napi::Object object = Environment::of(env).base.New({});
  BaseObject* self = Unwrap(object);
  self->base_.set(std::move(base));
  self->worker_ = std::move(worker);
  return object;
}

Napi::Value BaseObject::info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& base = base_.get("model");
    const Family& f = base->family();
    const Device& device = *base->device();
    Napi::Object out = Napi::Object::New(env);
    out.Set("architecture", f.architecture);
    out.Set("device", device.table().name);
    out.Set("isa", device.table().isa);
    out.Set("dtype", device.dtype() == CREDENCE_BF16 ? "bf16" : "f32");
    out.Set("threads", device.threads());
    if (!device.why_not_cuda().empty()) out.Set("notCuda", device.why_not_cuda());
    const char* const differ = device.table().rows_differ(device.backend());
    if (differ) out.Set("rowsDiffer", differ);
    out.Set("layers", f.layers);
    out.Set("hiddenSize", f.hidden);
    out.Set("vocabularySize", f.vocabulary);
    out.Set("contextLength", f.context);
    out.Set("parameters", static_cast<double>(parameter_count(f)));
    out.Set("storageType", base->files().storage_type);
    Napi::Array files = Napi::Array::New(env);
    for (const std::string& file : base->files().files) files.Set(files.Length(), file);
    out.Set("files", files);
    return out;
  });
}

Napi::Value BaseObject::advantages(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto base = base_.get("model");
    auto input = std::make_shared<AdvantageInput>(advantage_input(call[0]));
    return start<AdvantageOutput>(
        env, *worker_, env.Undefined(),
        [base, input](Job&) {
          std::lock_guard lock(base->mutex());
          return credence::advantages(base->device(), *input);
        },
        [](Napi::Env to, AdvantageOutput& output) -> Napi::Value { return advantage_output(to, output); });
  });
}

void BaseObject::set_vocabulary(const Napi::CallbackInfo& call) {
  guarded(call.Env(), [&] {
    const auto& base = base_.get("model");
    if (!call[0].IsTypedArray() || call[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
      fail("BAD_OPTION", "setVocabulary: expected the pieces' bytes as a Uint8Array");
    }
    const auto bytes = call[0].As<Napi::Uint8Array>();
    const std::vector<int32_t> offsets = int32s(call[1], "offsets");
    std::vector<std::string> pieces;
    for (size_t i = 0; i + 1 < offsets.size(); ++i) {
      if (offsets[i] < 0 || offsets[i + 1] < offsets[i] ||
          static_cast<size_t>(offsets[i + 1]) > bytes.ElementLength()) {
        fail("BAD_OPTION", "setVocabulary: offsets %zu and %zu do not lie in order inside the pieces", i, i + 1);
      }
      pieces.emplace_back(reinterpret_cast<const char*>(bytes.Data()) + offsets[i], offsets[i + 1] - offsets[i]);
    }
    pieces.resize(std::max<size_t>(pieces.size(), base->family().vocabulary));  // padding ids have no text
    std::lock_guard lock(base->mutex());
    base->vocabulary_pieces = std::move(pieces);
  });
}

Napi::Value BaseObject::policy(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const auto& base = base_.get("model");
    const Napi::Object options = object_of(call[0], "options");
    const std::vector<HeadSpec> heads = heads_of(options.Get("heads"));
    std::lock_guard lock(base->mutex());
    std::shared_ptr<Policy> policy;
    const std::string own = string_or(options, "weights", "");
    const auto weights = own.empty() ? nullptr : TensorFile::open(own);
    const OwnedSpec owned = weights ? owned_in(*weights) : owned_of(options.Get("train"));
    if (absent(options.Get("adapter"))) {
      policy = std::make_shared<Policy>(base, std::nullopt, heads, owned);
    } else {
      const Napi::Object adapter = object_of(options.Get("adapter"), "adapter");
      policy = absent(adapter.Get("path"))
                   ? std::make_shared<Policy>(base, std::optional(adapter_of(adapter)), heads, owned)
                   : std::make_shared<Policy>(base, string_of(adapter.Get("path"), "adapter.path"), heads, owned);
    }
    if (weights) policy->load_owned(*weights);
    return PolicyObject::create(env, std::move(policy), worker_);
  });
}

Napi::Value BaseObject::memory(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const bool restart = !absent(call[0]) && boolean_or(object_of(call[0], "options"), "restartPeak", false);
    const credence_memory memory = base_.get("model")->device()->memory(restart);
    Napi::Object out = Napi::Object::New(env);
    out.Set("current", static_cast<double>(memory.current));
    out.Set("peak", static_cast<double>(memory.peak));
    out.Set("weights", static_cast<double>(memory.weights));
    out.Set("adapters", static_cast<double>(memory.adapters));
    return out;
  });
}

void BaseObject::dispose(const Napi::CallbackInfo&) {
  base_.dispose();
  worker_.reset();
}

}  // namespace credence::addon
