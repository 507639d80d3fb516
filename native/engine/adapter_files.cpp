#include "adapter_files.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>

#include "error.h"
#include "json.h"

namespace credence {

namespace {

/// Keys that say nothing about what the adapter computes: names, versions, how it was initialised or trained, and
/// switches that are looked at one by one below.
constexpr std::string_view kHarmless[] = {
    "auto_mapping",     "peft_version",        "revision",
    "inference_mode",   "task_type",           "base_model_name_or_path",
    "peft_type",        "target_modules",      "layers_to_transform",
    "layers_pattern",   "init_lora_weights",   "use_rslora",
    "runtime_config",   "eva_config",          "corda_config",
    "lora_ga_config",   "ensure_weight_tying", "velora_config",
    "credence_weights",
};

/// True, a list or an object with something in it. Numbers and strings of unknown keys are settings of what is switched
/// elsewhere.
bool is_switched_on(const Json& value) { return value.is_bool() ? value.as_bool() : value.size() > 0; }

class ConfigReader {
 public:
  ConfigReader(const Json& object, std::string file) : object_(object), file_(std::move(file)) {}

  AdapterConfig read() const {
    if (!object_.is_object()) fail("BAD_FILE", "%s: expected an object, found %s", file_.c_str(), object_.kind());
    const Json* type = find("peft_type");
    if (type && !(type->is_string() && type->as_string() == "LORA")) unsupported("peft_type", "\"LORA\" is");
    refuse_what_is_not_honoured();

    AdapterConfig config;
    const Json* r = find("r");
    if (!r || !r->is_integer() || r->as_integer() < 1 || r->as_integer() > 65536) wrong("r", "a whole number from 1");
    config.r = static_cast<int>(r->as_integer());
    config.alpha = number("lora_alpha", 8);  // PEFT's default
    config.dropout = number("lora_dropout", 0);
    if (!(config.alpha > 0)) wrong("lora_alpha", "a number above 0");
    if (!(config.dropout >= 0 && config.dropout < 1)) wrong("lora_dropout", "a number from 0, below 1");
    if (const Json* rslora = find("use_rslora")) {
      if (!rslora->is_bool()) wrong("use_rslora", "true or false");
      config.rslora = rslora->as_bool();
    }
    if (const Json* base = find("base_model_name_or_path"); base && base->is_string())
      config.base_model = base->as_string();
    read_targets(config);
    read_layers(config);
    return config;
  }

 private:
  /// A null is as good as an absence.
  const Json* find(std::string_view key) const {
    const Json* value = object_.find(key);
    return value && !value->is_null() ? value : nullptr;
  }

  std::string text(const char* key) const {
    const Json* value = object_.find(key);
    return value ? value->text().substr(0, 80) : "missing";
  }

  [[noreturn]] void wrong(const char* key, const char* expected) const {
    fail("BAD_FILE", "%s: \"%s\" is %s; expected %s", file_.c_str(), key, text(key).c_str(), expected);
  }

  [[noreturn]] void unsupported(const char* key, const char* instead) const {
    fail("UNSUPPORTED", "%s: \"%s\" is %s, which is not supported (%s)", file_.c_str(), key, text(key).c_str(),
         instead);
  }

  double number(const char* key, double absent) const {
    const Json* value = find(key);
    if (!value) return absent;
    if (!value->is_number()) wrong(key, "a number");
    return value->as_number();
  }

  void refuse_what_is_not_honoured() const {
    if (const Json* bias = find("bias"); bias && !(bias->is_string() && bias->as_string() == "none"))
      unsupported("bias", "\"none\" is");
    // These initialisations take a part out of the base's weights, and the adapter means nothing without that.
    if (const Json* start = find("init_lora_weights"); start && start->is_string())
      for (const char* altering : {"pissa", "olora", "corda", "loftq", "lora_ga"})
        if (start->as_string().starts_with(altering))
          unsupported("init_lora_weights", "it changes the base; convert the adapter to a plain LoRA with PEFT first");
    for (const auto& [key, value] : object_.as_object()) {
      if (std::find(std::begin(kHarmless), std::end(kHarmless), key) != std::end(kHarmless)) continue;
      if (is_switched_on(value)) unsupported(key.c_str(), "a plain LoRA is");
    }
  }

  void read_targets(AdapterConfig& config) const {
    const Json* targets = find("target_modules");
    if (targets && targets->is_string() && targets->as_string() == "all-linear") {
      config.targets.assign(kProjections.begin(), kProjections.end());
      return;
    }
    if (targets && targets->is_string()) {  // which matrices it means is seen when the tensors are read
      config.pattern = targets->as_string();
      if (find("layers_to_transform")) unsupported("target_modules", "a pattern says itself which layers it means");
      return;
    }
    if (!targets || !targets->is_array() || targets->size() == 0)
      wrong("target_modules", "a list like [\"q_proj\", \"v_proj\"]");
    bool with_layer = false;
    for (const Json& target : targets->as_array()) {
      if (!target.is_string()) wrong("target_modules", "a list like [\"q_proj\", \"v_proj\"]");
      config.names.push_back(target.as_string());
      config.targets.push_back(target_from(target.as_string(), with_layer));
    }
    if (!with_layer) config.names.clear();
    else if (find("layers_to_transform"))
      unsupported("layers_to_transform", "target_modules says already which layers it means");
    std::sort(config.targets.begin(), config.targets.end());
    config.targets.erase(std::unique(config.targets.begin(), config.targets.end()), config.targets.end());
  }

  /// "q_proj", "self_attn.q_proj", or with the layer: "layers.1.self_attn.q_proj", after "model." or not.
  Projection target_from(const std::string& name, bool& with_layer) const {
    for (const Projection projection : kProjections) {
      const std::string path = projection_path(projection);
      if (name == projection_module(projection) || name == path) return projection;
      if (!name.ends_with("." + path)) continue;
      std::string_view layer = std::string_view(name).substr(0, name.size() - path.size() - 1);
      if (layer.starts_with("model.")) layer.remove_prefix(6);
      if (!layer.starts_with("layers.")) continue;
      layer.remove_prefix(7);
      if (layer.empty() || layer.find_first_not_of("0123456789") != std::string_view::npos) continue;
      with_layer = true;
      return projection;
    }
    fail(
        "UNSUPPORTED",
        "%s: \"target_modules\" names \"%s\"; an adapter can sit on q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj",
        file_.c_str(), name.c_str());
  }

  void read_layers(AdapterConfig& config) const {
    const Json* layers = find("layers_to_transform");
    if (!layers) return;
    config.layers.emplace();
    for (const Json& layer : layers->is_array() ? layers->as_array() : Json::Array{*layers}) {
      if (!layer.is_integer() || layer.as_integer() < 0 || layer.as_integer() > 65536)
        wrong("layers_to_transform", "a list of layer numbers");
      config.layers->push_back(static_cast<int>(layer.as_integer()));
    }
    std::sort(config.layers->begin(), config.layers->end());
    config.layers->erase(std::unique(config.layers->begin(), config.layers->end()), config.layers->end());
    if (config.layers->empty()) config.layers.reset();  // PEFT reads [] as every layer
  }

  const Json& object_;
  std::string file_;
};

/// Which matrix of an adapter a key of the file is.
struct TensorKey {
  int layer;
  Projection projection;
  char which;
  auto operator<=>(const TensorKey&) const = default;
};

/// base_model.model.[model.]layers.L.PATH.lora_{A,B}.weight; false for any other key.
bool parse_key(std::string_view key, TensorKey& parsed) {
  constexpr std::string_view kRoot = "base_model.model.", kModel = "model.", kLayers = "layers.";
  if (!key.starts_with(kRoot)) return false;
  key.remove_prefix(kRoot.size());
  if (key.starts_with(kModel)) key.remove_prefix(kModel.size());
  if (!key.starts_with(kLayers)) return false;
  key.remove_prefix(kLayers.size());
  size_t digits = 0;
  parsed.layer = 0;
  while (digits < key.size() && digits < 6 && key[digits] >= '0' && key[digits] <= '9')
    parsed.layer = 10 * parsed.layer + (key[digits++] - '0');
  if (digits == 0 || (digits > 1 && key[0] == '0') || !key.substr(digits).starts_with('.')) return false;
  key.remove_prefix(digits + 1);
  for (const Projection projection : kProjections)
    for (const char which : {'A', 'B'})
      if (key == projection_path(projection) + ".lora_" + which + ".weight")
        return parsed.projection = projection, parsed.which = which, true;
  return false;
}

/// What is known while the tensors of one adapter are matched with a base.
class AdapterReader {
 public:
  AdapterReader(const std::string& directory, const Family& family, const std::string& base)
      : directory_(directory),
        family_(family),
        base_(base),
        config_(load_adapter_config(directory)),
        opened_(TensorFile::open(weights_path(directory))),
        file_(*opened_) {}

  Adapter read() {
    std::map<TensorKey, const TensorView*> tensors;
    for (const TensorView& tensor : file_.tensors()) {
      TensorKey key{};
      if (!parse_key(tensor.name, key))
        fail("UNSUPPORTED", "%s: tensor %s is no LoRA matrix of a decoder's block", file_.path().c_str(),
             tensor.name.c_str());
      if (!tensors.emplace(key, &tensor).second)
        fail("BAD_FILE", "%s: tensor %s is there under two spellings", file_.path().c_str(), tensor.name.c_str());
    }
    // Another width or depth says best that the model is another one, so those are looked at first.
    for (const auto& [key, tensor] : tensors)
      if (touches_hidden(key)) check_shape(*tensor, key);
    check_layers(tensors);
    for (const auto& [key, tensor] : tensors) check_shape(*tensor, key);

    settle_pattern(tensors);
    check_names();
    Adapter adapter;
    adapter.config = config_;
    size_t used = 0;
    for (int layer = 0; layer < family_.layers; ++layer)
      for (const Projection projection : kProjections) {
        if (!config_.adapts(layer, projection)) continue;
        const auto a = tensors.find({layer, projection, 'A'}), b = tensors.find({layer, projection, 'B'});
        for (const auto& [found, which] : {std::pair{a, 'A'}, {b, 'B'}})
          if (found == tensors.end())
            fail("BAD_FILE", "%s: tensor %s is missing, which adapter_config.json calls for", file_.path().c_str(),
                 adapter_tensor_name(layer, projection, which).c_str());
        adapter.pairs.push_back({layer, projection, floats(*a->second), floats(*b->second)});
        used += 2;
      }
    if (used != tensors.size())
      for (const auto& [key, tensor] : tensors)
        if (!config_.adapts(key.layer, key.projection))
          fail("BAD_FILE", "%s: tensor %s is on a matrix that adapter_config.json does not name", file_.path().c_str(),
               tensor->name.c_str());
    return adapter;
  }

 private:
  static std::string weights_path(const std::string& directory) {
    const std::string safe = directory + "/adapter_model.safetensors", pickled = directory + "/adapter_model.bin";
    return !file_exists(safe) && file_exists(pickled) ? pickled : safe;
  }

  /// What a pattern stands for: the matrices that the file has tensors of.
  void settle_pattern(const std::map<TensorKey, const TensorView*>& tensors) {
    if (config_.pattern.empty()) return;
    std::set<std::string> names;
    std::set<Projection> targets;
    for (const auto& [key, tensor] : tensors) {
      names.insert(module_name(key.layer, key.projection));
      targets.insert(key.projection);
    }
    config_.names.assign(names.begin(), names.end());
    config_.targets.assign(targets.begin(), targets.end());
  }

  /// Every name of target_modules must mean a matrix of this model.
  void check_names() const {
    for (const std::string& name : config_.names) {
      AdapterConfig alone;
      alone.names = {name};
      bool found = false;
      for (int layer = 0; layer < family_.layers; ++layer)
        for (const Projection projection : kProjections) found = found || alone.adapts(layer, projection);
      if (!found)
        fail("WRONG_MODEL", "adapter %s sits on \"%s\", which %s, of %d layers, does not have. %s", directory_.c_str(),
             name.c_str(), base_.c_str(), family_.layers, remedy().c_str());
    }
  }

  std::string remedy() const {
    if (config_.base_model.empty()) return "Use the base it was trained on";
    return "Use the base named in its adapter_config.json: " + config_.base_model;
  }

  /// Whether the matrix's wide side is the hidden state: what o and down write, what the others read.
  static bool touches_hidden(const TensorKey& key) {
    const bool writes = key.projection == Projection::kO || key.projection == Projection::kDown;
    return writes == (key.which == 'B');
  }

  void check_shape(const TensorView& tensor, const TensorKey& key) const {
    const bool is_a = key.which == 'A';
    const int64_t width = is_a ? projection_in(family_, key.projection) : projection_out(family_, key.projection);
    const std::vector<int64_t> expected =
        is_a ? std::vector<int64_t>{config_.r, width} : std::vector<int64_t>{width, config_.r};
    if (!is_float(tensor.dtype))
      fail("UNSUPPORTED", "%s: tensor %s is %s; F32, F16 and BF16 are read", file_.path().c_str(), tensor.name.c_str(),
           dtype_name(tensor.dtype));
    if (tensor.shape == expected) return;
    if (tensor.shape.size() != 2 || tensor.shape[is_a ? 0 : 1] != config_.r)
      fail("BAD_FILE", "%s: tensor %s is %s, but adapter_config.json says r = %d", file_.path().c_str(),
           tensor.name.c_str(), shape_text(tensor.shape).c_str(), config_.r);
    const int64_t stored = tensor.shape[is_a ? 1 : 0];
    if (touches_hidden(key))
      fail("WRONG_MODEL", "adapter %s was trained for a model %lld wide; %s is %d wide. %s", directory_.c_str(),
           static_cast<long long>(stored), base_.c_str(), family_.hidden, remedy().c_str());
    fail("WRONG_MODEL", "adapter %s was trained for another model: its %s has %lld %s, that of %s has %lld. %s",
         directory_.c_str(), projection_module(key.projection), static_cast<long long>(stored),
         is_a ? "inputs" : "outputs", base_.c_str(), static_cast<long long>(width), remedy().c_str());
  }

  void check_layers(const std::map<TensorKey, const TensorView*>& tensors) const {
    if (tensors.empty()) fail("BAD_FILE", "%s: no tensors", file_.path().c_str());
    const int last = tensors.rbegin()->first.layer;
    const bool every_layer = !config_.layers && config_.names.empty() && config_.pattern.empty();
    const bool fewer = every_layer && last + 1 < family_.layers;
    const bool beyond = last >= family_.layers || (config_.layers && config_.layers->back() >= family_.layers);
    if (fewer || beyond)
      fail("WRONG_MODEL", "adapter %s was trained for a model of %s%d layers; %s has %d. %s", directory_.c_str(),
           every_layer ? "" : "at least ", std::max(last, config_.layers ? config_.layers->back() : 0) + 1,
           base_.c_str(), family_.layers, remedy().c_str());
  }

  std::vector<float> floats(const TensorView& tensor) const {
    std::vector<float> values = tensor.floats();
    require_finite(values.data(), values.size(), file_.path(), tensor.name);
    return values;
  }

  const std::string& directory_;
  const Family& family_;
  const std::string& base_;
  AdapterConfig config_;
  std::unique_ptr<TensorFile> opened_;
  const TensorFile& file_;
};

}  // namespace

double AdapterConfig::scale() const { return rslora ? alpha / std::sqrt(static_cast<double>(r)) : alpha / r; }

bool AdapterConfig::adapts(int layer, Projection projection) const {
  if (names.empty())
    return std::find(targets.begin(), targets.end(), projection) != targets.end() &&
           (!layers || std::find(layers->begin(), layers->end(), layer) != layers->end());
  const std::string module = module_name(layer, projection);
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return module == name || (module.ends_with(name) && module[module.size() - name.size() - 1] == '.');
  });
}

std::string module_name(int layer, Projection projection) {
  return "model.layers." + std::to_string(layer) + "." + projection_path(projection);
}

std::string adapter_tensor_name(int layer, Projection projection, char which) {
  return "base_model.model." + module_name(layer, projection) + ".lora_" + which + ".weight";
}

AdapterConfig load_adapter_config(const std::string& directory) {
  const std::string path = directory + "/adapter_config.json";
  if (!file_exists(path))
    fail("NO_FILE", "there is no adapter at %s: expected a folder with adapter_config.json", directory.c_str());
  return ConfigReader(read_json_file(path), path).read();
}

Adapter load_adapter(const std::string& directory, const Family& family, const std::string& base) {
  return AdapterReader(directory, family, base).read();
}

std::vector<uint8_t> write_adapter(const Adapter& adapter, const Family& family) {
  std::vector<TensorView> tensors;
  const auto add = [&](const AdapterPair& pair, char which, const std::vector<float>& values,
                       std::vector<int64_t> shape) {
    tensors.push_back({adapter_tensor_name(pair.layer, pair.projection, which), Dtype::kF32, std::move(shape),
                       reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)});
  };
  for (const AdapterPair& pair : adapter.pairs) {
    add(pair, 'A', pair.a, {adapter.config.r, projection_in(family, pair.projection)});
    add(pair, 'B', pair.b, {projection_out(family, pair.projection), adapter.config.r});
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) { return a.name < b.name; });
  return write_safetensors(tensors, {{"format", "pt"}});
}

std::string adapter_config_json(const AdapterConfig& config) {
  const auto number = [](double value) {
    const bool whole = value == std::floor(value) && std::fabs(value) < 1e9;
    return whole ? Json(static_cast<int64_t>(value)) : Json(value);
  };
  std::vector<std::string> targets = config.names;
  if (targets.empty())
    for (const Projection projection : config.targets) targets.emplace_back(projection_module(projection));
  std::sort(targets.begin(), targets.end());

  Json json = Json::object();
  json.set("alpha_pattern", Json::object());
  json.set("auto_mapping", Json());
  json.set("base_model_name_or_path", config.base_model.empty() ? Json() : Json(config.base_model));
  json.set("bias", "none");
  json.set("fan_in_fan_out", false);
  json.set("inference_mode", true);
  json.set("init_lora_weights", true);
  json.set("layers_pattern", Json());
  json.set("layers_to_transform",
           config.layers ? Json(Json::Array(config.layers->begin(), config.layers->end())) : Json());
  json.set("lora_alpha", number(config.alpha));
  json.set("lora_dropout", config.dropout);
  json.set("modules_to_save", Json());
  json.set("peft_type", "LORA");
  json.set("r", config.r);
  json.set("rank_pattern", Json::object());
  json.set("revision", Json());
  json.set("target_modules",
           config.pattern.empty() ? Json(Json::Array(targets.begin(), targets.end())) : Json(config.pattern));
  json.set("task_type", "CAUSAL_LM");
  json.set("use_dora", false);
  json.set("use_rslora", config.rslora);
  return json.text(2) + "\n";
}

}  // namespace credence
