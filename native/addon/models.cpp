// Whole models as files: written, compared, and the tensors of small files.
#include "models.h"

#include "native/engine/compare.h"
#include "native/engine/model_writer.h"

namespace credence::addon {

namespace {

GgufField gguf_field(const Napi::Value& value, const std::string& key) {
  const char* name = key.c_str();
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
  if (value.IsString()) return string_of(value, name);
  if (value.IsNumber()) return static_cast<uint32_t>(integer_of(value, name));
  if (value.IsTypedArray()) return int32s(value, name);
  if (!value.IsArray()) fail("BAD_OPTION", "metadata: %s is no value that a GGUF holds", name);
  const Napi::Array list = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < list.Length(); ++i) {
    Napi::HandleScope scope(value.Env());
    strings.push_back(string_of(list.Get(i), name));
  }
  return strings;
}

template <class Type, class Name>
Type named(const std::string& wanted, std::initializer_list<Type> types, Name name) {
  std::string known;
  for (const Type type : types) {
    if (wanted == name(type)) return type;
    known += (known.empty() ? "" : ", ") + std::string(name(type));
  }
  fail("BAD_OPTION", "type: expected one of %s, got \"%s\"", known.c_str(), wanted.c_str());
}

struct WriteJob {
  std::string model, adapter, weights, out, format, type;
  int vocabulary = 0;
  uint64_t shard_bytes = 0;
  std::vector<std::pair<std::string, GgufField>> fields;
};

struct WriteResult {
  WrittenModel written;
  std::string type;
};

/// The type asked for; "auto" is the source's own where it is one of those written.
template <class Type, class Name>
std::string type_of(const WriteJob& job, const BaseFiles& base, std::initializer_list<Type> types, Name name) {
  if (job.type != "auto") return job.type;
  for (const Type type : types)
    if (base.storage_type == name(type)) return base.storage_type;
  return "F16";
}

WriteResult write(const WriteJob& job, const AbortFlag* abort) {
  const auto base = BaseFiles::open(job.model);
  std::optional<Adapter> adapter;
  if (!job.adapter.empty()) adapter = load_adapter(job.adapter, base->family, job.model);
  const auto own = job.weights.empty() ? nullptr : TensorFile::open(job.weights);
  const MergedWeights weights(*base, adapter ? &*adapter : nullptr, job.vocabulary, own.get());
  if (job.format == "gguf") {
    const auto types = {GgufType::kF32, GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0, GgufType::kQ4_0};
    const auto name = [](GgufType t) { return gguf_type_info(static_cast<uint32_t>(t))->name; };
    const std::string type = type_of(job, *base, types, name);
    return {write_gguf(weights, job.out, named(type, types, name), job.fields, abort), type};
  }
  const auto types = {Dtype::kF32, Dtype::kF16, Dtype::kBF16};
  const std::string type = type_of(job, *base, types, dtype_name);
  return {write_folder(weights, job.out, named(type, types, dtype_name), job.shard_bytes, abort), type};
}

Napi::Array string_array(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) out.Set(i, values[i]);
  return out;
}

Napi::Value write_model(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object options = object_of(call[0], "options");
    auto job = std::make_shared<WriteJob>();
    job->model = string_of(options.Get("model"), "model");
    job->adapter = string_or(options, "adapter", "");
    job->weights = string_or(options, "weights", "");
    job->out = string_of(options.Get("out"), "out");
    job->format = string_of(options.Get("format"), "format");
    job->type = string_of(options.Get("type"), "type");
    job->vocabulary = integer_or(options, "vocabulary", 0);
    const double shard = number_or(options, "shardBytes", 5e9);
    if (!(shard >= 1 && shard <= 1e18)) fail("BAD_OPTION", "shardBytes: expected a number of bytes, got %g", shard);
    job->shard_bytes = static_cast<uint64_t>(shard);
    if (const Napi::Value metadata = options.Get("metadata"); !absent(metadata)) {
      const Napi::Object fields = object_of(metadata, "metadata");
      const Napi::Array keys = fields.GetPropertyNames();
      for (uint32_t i = 0; i < keys.Length(); ++i) {
        const std::string key = string_of(keys.Get(i), "metadata");
        job->fields.emplace_back(key, gguf_field(fields.Get(key), key));
      }
    }
    auto worker = std::make_shared<Worker>();
    return start<WriteResult>(
        env, *worker, call[1], [job](Job& running) { return write(*job, running.abort()); },
        [worker](Napi::Env to, WriteResult& result) -> Napi::Value {
          const WrittenModel& written = result.written;
          Napi::Object out = Napi::Object::New(to);
          out.Set("type", result.type);
          out.Set("files", string_array(to, written.files));
          out.Set("bytes", static_cast<double>(written.bytes));
          out.Set("notes", string_array(to, written.notes));
          return out;
        });
  });
}

ComparedModel compared(const Napi::Value& value, const char* name) {
  const Napi::Object object = object_of(value, name);
  return {string_of(object.Get("model"), "model"), string_or(object, "adapter", ""), string_or(object, "weights", "")};
}

Napi::Value compare(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    const ComparedModel source = compared(call[0], "source"), written = compared(call[1], "written");
    const std::vector<int32_t> tokens = int32s(call[2], "tokens");
    const DeviceOptions device = device_options(call[3]);
    auto worker = std::make_shared<Worker>();
    return start<LogitDifference>(
        env, *worker, call[4],
        [source, written, tokens, device](Job& job) {
          return compare_models(source, written, tokens, device, job.abort());
        },
        [worker](Napi::Env to, LogitDifference& difference) -> Napi::Value {
          Napi::Object out = Napi::Object::New(to);
          out.Set("largestDifference", difference.largest_difference);
          out.Set("largestLogit", difference.largest_logit);
          out.Set("rows", difference.rows);
          out.Set("sameChoice", difference.same_choice);
          return out;
        });
  });
}

Napi::Value read_tensors(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  return guarded(env, [&]() -> Napi::Value {
    Napi::Array out = Napi::Array::New(env);
    for (const NamedTensor& tensor : read_float_tensors(string_of(call[0], "path"))) {
      Napi::Object object = Napi::Object::New(env);
      Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
      for (uint32_t i = 0; i < tensor.shape.size(); ++i) shape.Set(i, static_cast<double>(tensor.shape[i]));
      object.Set("name", tensor.name);
      object.Set("shape", shape);
      object.Set("data", float_array(env, tensor.data));
      out.Set(out.Length(), object);
    }
    return out;
  });
}

}  // namespace

void register_models(Napi::Env env, Napi::Object exports) {
  exports.Set("writeModel", Napi::Function::New(env, write_model, "writeModel"));
  exports.Set("compareModels", Napi::Function::New(env, compare, "compareModels"));
  exports.Set("readTensors", Napi::Function::New(env, read_tensors, "readTensors"));
}

}  // namespace credence::addon
