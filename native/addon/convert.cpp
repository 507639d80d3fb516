#include "convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "jobs.h"

namespace credence::addon {

Napi::Error to_error(Napi::Env env, const std::exception& error) {
  const auto* own = dynamic_cast<const Error*>(&error);
  const bool memory = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  const Napi::String code = Napi::String::New(env, own ? own->code : memory ? "NO_MEMORY" : "INTERNAL");
  const Napi::FunctionReference& make = Environment::of(env).error;
  if (!make.IsEmpty()) return {env, make.New({code, Napi::String::New(env, error.what())})};
  Napi::Error out = Napi::Error::New(env, error.what());
  out.Value().Set("code", code);
  return out;
}

bool absent(const Napi::Value& value) { return value.IsEmpty() || value.IsUndefined() || value.IsNull(); }

namespace {
[[noreturn]] void expected(const Napi::Value& value, const char* name, const char* what) {
  std::string received = value.IsEmpty() ? "nothing" : value.ToString().Utf8Value();
  if (received.size() > 60) received = received.substr(0, 57) + "...";
  fail("BAD_OPTION", "%s: expected %s but received %s", name, what, received.c_str());
}

template <class Array, class Element>
std::vector<Element> typed(const Napi::Value& value, napi_typedarray_type type, const char* name, const char* what) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) expected(value, name, what);
  Array array = value.As<Array>();
  const size_t length = array.ElementLength();
  return length ? std::vector<Element>(array.Data(), array.Data() + length) : std::vector<Element>();
}

template <class Array, class Element>
Array filled(Napi::Env env, const std::vector<Element>& values) {
  Array array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(Element));
  return array;
}
}  // namespace

Napi::Object object_of(const Napi::Value& value, const char* name) {
  if (value.IsEmpty() || !value.IsObject()) expected(value, name, "an object");
  return value.As<Napi::Object>();
}
std::string string_of(const Napi::Value& value, const char* name) {
  if (value.IsEmpty() || !value.IsString()) expected(value, name, "a string");
  return value.As<Napi::String>().Utf8Value();
}
double number_of(const Napi::Value& value, const char* name) {
  if (value.IsEmpty() || !value.IsNumber()) expected(value, name, "a number");
  return value.As<Napi::Number>().DoubleValue();
}
int integer_of(const Napi::Value& value, const char* name) {
  const double number = number_of(value, name);
  if (number != std::floor(number) || std::fabs(number) > 2147483647.0) expected(value, name, "a whole number");
  return static_cast<int>(number);
}
bool boolean_of(const Napi::Value& value, const char* name) {
  if (value.IsEmpty() || !value.IsBoolean()) expected(value, name, "true or false");
  return value.As<Napi::Boolean>().Value();
}

double number_or(const Napi::Object& options, const char* name, double otherwise) {
  const Napi::Value value = options.Get(name);
  return absent(value) ? otherwise : number_of(value, name);
}
int integer_or(const Napi::Object& options, const char* name, int otherwise) {
  const Napi::Value value = options.Get(name);
  return absent(value) ? otherwise : integer_of(value, name);
}
bool boolean_or(const Napi::Object& options, const char* name, bool otherwise) {
  const Napi::Value value = options.Get(name);
  return absent(value) ? otherwise : boolean_of(value, name);
}
std::string string_or(const Napi::Object& options, const char* name, const char* otherwise) {
  const Napi::Value value = options.Get(name);
  return absent(value) ? otherwise : string_of(value, name);
}

namespace {
template <class Element, class Read>
std::vector<Element> list(const Napi::Value& value, const char* name, Read&& read) {
  std::vector<Element> out;
  if (absent(value)) return out;
  if (value.IsTypedArray()) {
    const Napi::Object array = value.As<Napi::Object>();
    const uint32_t length = static_cast<uint32_t>(value.As<Napi::TypedArray>().ElementLength());
    for (uint32_t i = 0; i < length; ++i) out.push_back(read(array.Get(i), name));
    return out;
  }
  if (!value.IsArray()) expected(value, name, "a list");
  const Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length(); ++i) out.push_back(read(array.Get(i), name));
  return out;
}
}  // namespace

std::vector<std::string> strings_or_none(const Napi::Object& options, const char* name) {
  return list<std::string>(options.Get(name), name, string_of);
}
std::vector<int> integers_or_none(const Napi::Object& options, const char* name) {
  return list<int>(options.Get(name), name, integer_of);
}

std::vector<uint8_t> bytes(const Napi::Value& value, const char* name) {
  return typed<Napi::Uint8Array, uint8_t>(value, napi_uint8_array, name, "a Uint8Array");
}
std::vector<int32_t> int32s(const Napi::Value& value, const char* name) {
  return typed<Napi::Int32Array, int32_t>(value, napi_int32_array, name, "an Int32Array");
}
std::vector<float> floats(const Napi::Value& value, const char* name) {
  return typed<Napi::Float32Array, float>(value, napi_float32_array, name, "a Float32Array");
}
std::vector<double> doubles(const Napi::Value& value, const char* name) {
  return typed<Napi::Float64Array, double>(value, napi_float64_array, name, "a Float64Array");
}
Napi::Float32Array float_array(Napi::Env env, const std::vector<float>& values) {
  return filled<Napi::Float32Array>(env, values);
}
Napi::Int32Array int_array(Napi::Env env, const std::vector<int32_t>& values) {
  return filled<Napi::Int32Array>(env, values);
}
Napi::Float64Array double_array(Napi::Env env, const std::vector<double>& values) {
  return filled<Napi::Float64Array>(env, values);
}

DeviceOptions device_options(const Napi::Value& value) {
  DeviceOptions out;
  if (absent(value)) return out;
  const Napi::Object options = object_of(value, "options");
  out.device = string_or(options, "device", "auto");
  out.dtype = string_or(options, "dtype", "auto");
  out.isa = string_or(options, "isa", "auto");
  out.threads = integer_or(options, "threads", 0);
  const double memory = number_or(options, "maxMemory", 0);
  if (!(memory >= 0 && memory < 9007199254740992.0))
    fail("BAD_OPTION", "maxMemory: expected a number of bytes but received %g", memory);
  out.max_memory = static_cast<size_t>(memory);
  out.dry = boolean_or(options, "dry", false);
  return out;
}

HostBatch batch_of(const Napi::Value& value) {
  const Napi::Object object = object_of(value, "batch");
  HostBatch batch{int32s(object.Get("tokens"), "batch.tokens"), int32s(object.Get("offsets"), "batch.offsets")};
  if (!absent(object.Get("prefixOf"))) batch.prefix_of = int32s(object.Get("prefixOf"), "batch.prefixOf");
  if (!absent(object.Get("queryOnly"))) batch.query_only = bytes(object.Get("queryOnly"), "batch.queryOnly");
  if (!absent(object.Get("positions"))) batch.positions = int32s(object.Get("positions"), "batch.positions");
  return batch;
}

std::vector<ReadSpan> spans_of(const Napi::Value& value, const char* name) {
  return list<ReadSpan>(value, name, [](const Napi::Value& entry, const char* what) {
    const Napi::Object span = object_of(entry, what);
    return ReadSpan{integer_of(span.Get("sequence"), "span.sequence"), integer_of(span.Get("from"), "span.from"),
                    integer_of(span.Get("to"), "span.to")};
  });
}

std::vector<HeadSpec> heads_of(const Napi::Value& value) {
  return list<HeadSpec>(value, "heads", [](const Napi::Value& entry, const char* what) {
    const Napi::Object object = object_of(entry, what);
    HeadSpec head;
    head.name = string_of(object.Get("name"), "head.name");
    head.layer = integer_or(object, "layer", -1);
    head.outputs = integer_or(object, "outputs", 1);
    const std::string kind = string_or(object, "kind", "linear");
    if (kind == "mlp") {
      head.widths = integers_or_none(object, "widths");
      if (head.widths.empty()) fail("BAD_OPTION", "head %s: an mlp needs widths, e.g. [288, 144]", head.name.c_str());
    } else if (kind != "linear") {
      fail("BAD_OPTION", "head.kind: expected linear or mlp but received \"%s\"", kind.c_str());
    }
    head.bias = boolean_or(object, "bias", true);
    if (!absent(object.Get("seed"))) head.seed = static_cast<uint64_t>(number_of(object.Get("seed"), "head.seed"));
    return head;
  });
}

ClosedSetRead closed_set_of(const Napi::Value& value) {
  const Napi::Object object = object_of(value, "closedSet");
  return {int32s(object.Get("candidates"), "closedSet.candidates"), int32s(object.Get("rows"), "closedSet.rows")};
}

Divergence divergence_of(const Napi::Value& value) {
  const std::string kind = string_of(value, "divergence.kind");
  if (kind == "kl") return Divergence::kKl;
  if (kind == "reverse-kl") return Divergence::kReverseKl;
  if (kind == "jsd") return Divergence::kJsd;
  fail("BAD_OPTION", "divergence.kind: expected kl, reverse-kl or jsd but received \"%s\"", kind.c_str());
}

PassRequest request_of(const Napi::Object& options) {
  PassRequest request;
  request.logprobs = boolean_or(options, "logprobs", false);
  request.entropy = boolean_or(options, "entropy", false);
  request.temperature = number_or(options, "temperature", 1);
  if (!absent(options.Get("closedSet"))) request.closed_set = closed_set_of(options.Get("closedSet"));
  if (!absent(options.Get("divergence"))) {
    const Napi::Object object = object_of(options.Get("divergence"), "divergence");
    request.divergence = {divergence_of(object.Get("kind")), bytes(object.Get("mask"), "divergence.mask")};
  }
  if (!absent(options.Get("mask"))) request.mask = bytes(options.Get("mask"), "mask");
  if (!absent(options.Get("values"))) {
    const Napi::Object object = object_of(options.Get("values"), "values");
    request.values = {string_of(object.Get("head"), "values.head"), bytes(object.Get("mask"), "values.mask")};
  }
  return request;
}

Loss loss_of(const Napi::Value& value) {
  const Napi::Object options = object_of(value, "loss");
  const std::string kind = string_of(options.Get("kind"), "loss.kind");
  Loss loss;
  if (kind == "nll") {
    loss.nll_weights = floats(options.Get("weights"), "loss.weights");
  } else if (kind == "sigmoid-mse") {
    loss.read.head = string_of(options.Get("head"), "loss.head");
    loss.read.spans = spans_of(options.Get("spans"), "loss.spans");
    loss.targets = floats(options.Get("targets"), "loss.targets");
  } else if (kind == "closed-set") {
    loss.closed_set = {closed_set_of(value), int32s(options.Get("labels"), "loss.labels"),
                       floats(options.Get("weights"), "loss.weights")};
  } else if (kind == "divergence") {
    loss.divergence = divergence_of(options.Get("divergence"));
    loss.divergence_weights = floats(options.Get("weights"), "loss.weights");
  } else {
    fail("BAD_OPTION", "loss.kind: expected nll, sigmoid-mse, closed-set, divergence or ppo but received \"%s\"",
         kind.c_str());
  }
  return loss;
}

AdapterSpec adapter_of(const Napi::Object& object) {
  AdapterSpec spec;
  spec.config.r = integer_of(object.Get("rank"), "adapter.rank");
  spec.config.alpha = number_of(object.Get("alpha"), "adapter.alpha");
  spec.config.rslora = boolean_or(object, "rslora", false);
  spec.config.dropout = number_or(object, "dropout", 0);
  for (const std::string& name : strings_or_none(object, "targets"))
    spec.config.targets.push_back(projection_from_name(name));
  if (!absent(object.Get("layers"))) spec.config.layers = integers_or_none(object, "layers");
  spec.seed = static_cast<uint64_t>(number_or(object, "seed", 0));
  return spec;
}

OwnedSpec owned_of(const Napi::Value& value) {
  if (absent(value)) return {};
  const Napi::Object object = object_of(value, "train");
  return {boolean_or(object, "embeddings", false), boolean_or(object, "lmHead", false),
          boolean_or(object, "norms", false), boolean_or(object, "projections", false)};
}

std::map<Group, GroupSettings> groups_of(const Napi::Value& value) {
  std::map<Group, GroupSettings> groups;
  if (absent(value)) return groups;
  const Napi::Object object = object_of(value, "groups");
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = string_of(names.Get(i), "group");
    const auto* group =
        std::find_if(std::begin(kGroups), std::end(kGroups), [&](Group known) { return name == group_name(known); });
    if (group == std::end(kGroups)) fail("BAD_OPTION", "groups: there is no group \"%s\" of parameters", name.c_str());
    const Napi::Object given = object_of(object.Get(name), name.c_str());
    GroupSettings& settings = groups[*group];
    if (!absent(given.Get("learningRate")))
      settings.learning_rate = number_of(given.Get("learningRate"), "learningRate");
    if (!absent(given.Get("weightDecay"))) settings.weight_decay = number_of(given.Get("weightDecay"), "weightDecay");
  }
  return groups;
}

std::vector<NamedTensor> tensors_of(const Napi::Value& value, const char* name) {
  return list<NamedTensor>(value, name, [](const Napi::Value& entry, const char* what) {
    const Napi::Object object = object_of(entry, what);
    NamedTensor tensor{string_of(object.Get("name"), "tensor.name"), {}, floats(object.Get("data"), "tensor.data")};
    int64_t count = 1;
    for (int size : integers_or_none(object, "shape")) {
      tensor.shape.push_back(size);
      count *= size;
    }
    if (count != static_cast<int64_t>(tensor.data.size())) {
      fail("BAD_OPTION", "tensor %s: shape %s does not hold %zu numbers", tensor.name.c_str(),
           shape_text(tensor.shape).c_str(), tensor.data.size());
    }
    return tensor;
  });
}

Napi::Array tensor_array(Napi::Env env, const std::vector<Parameter>& parameters, const std::vector<float>& flat,
                         const std::string& prefix) {
  Napi::Array out = Napi::Array::New(env, parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    Napi::Object tensor = Napi::Object::New(env);
    Napi::Array shape = Napi::Array::New(env, p.shape.size());
    for (size_t d = 0; d < p.shape.size(); ++d) shape.Set(static_cast<uint32_t>(d), static_cast<double>(p.shape[d]));
    tensor.Set("name", prefix + p.name);
    tensor.Set("shape", shape);
    tensor.Set("data", float_array(env, {flat.begin() + p.offset, flat.begin() + p.offset + p.count()}));
    out.Set(static_cast<uint32_t>(i), tensor);
  }
  return out;
}

Napi::Object policy_tensors(Napi::Env env, const Policy& policy, const std::vector<float>& flat) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("weights", tensor_array(env, policy.owned_parameters(), flat));
  out.Set("adapter", tensor_array(env, policy.adapter_parameters(), flat));
  out.Set("heads", tensor_array(env, policy.head_parameters(), flat));
  return out;
}

Napi::Object pass_result(Napi::Env env, const PassResult& result, bool collected) {
  Napi::Object out = Napi::Object::New(env);
  if (!result.logprobs.empty()) out.Set("logprobs", float_array(env, result.logprobs));
  if (!result.entropy.empty()) out.Set("entropy", float_array(env, result.entropy));
  if (!result.closed_set.empty()) out.Set("closedSet", float_array(env, result.closed_set));
  if (!result.divergence.empty()) out.Set("divergence", float_array(env, result.divergence));
  if (!result.values.empty()) out.Set("values", float_array(env, result.values));
  if (collected) out.Set("hidden", float_array(env, result.collected));
  if (!result.heads.empty()) {
    Napi::Object heads = Napi::Object::New(env);
    for (const auto& [name, values] : result.heads) heads.Set(name, float_array(env, values));
    out.Set("heads", heads);
  }
  return out;
}

}  // namespace credence::addon
