// The machine follows Python's pickletools: a stack of values, a stack of marks, a memo. Values lie in one list and refer
// to each other by index, so that a pickle that refers to itself costs nothing and is freed like any other.
#include "pickle.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "error.h"
#include "zip.h"

namespace credence {

namespace {

/// A checkpoint of 50,000 tensors has a pickle of about that size. A value takes up to 60 times its bytes in memory.
constexpr size_t kLargestPickle = size_t{1} << 23;
/// What a tensor takes at least, with its name, type, sizes and strides.
constexpr size_t kLeastTensor = 32;
constexpr int kDeepest = 16;
constexpr size_t kMostDimensions = 8;

enum class Kind : uint8_t { kOther, kInteger, kString, kTuple, kList, kDict, kGlobal, kStorage, kTensor };
enum class Global : uint8_t { kOrderedDict, kRebuildTensor, kRebuildParameter, kStorageType };

struct Value {
  Kind kind = Kind::kOther;  // None, true, false and floats tell nothing about tensors
  Global global = Global::kOrderedDict;
  Dtype dtype = Dtype::kF32;  // of a storage and its type
  int64_t integer = 0;        // kTensor: its index
  std::string_view text;      // kString; kStorage: its bytes
  uint32_t items = 0;         // kTuple, kList, kDict: which of the machine's lists
};

constexpr std::pair<std::string_view, Dtype> kStorages[] = {
    {"FloatStorage", Dtype::kF32},  {"HalfStorage", Dtype::kF16}, {"BFloat16Storage", Dtype::kBF16},
    {"DoubleStorage", Dtype::kF64}, {"LongStorage", Dtype::kI64}, {"IntStorage", Dtype::kI32},
    {"ShortStorage", Dtype::kI16},  {"CharStorage", Dtype::kI8},  {"ByteStorage", Dtype::kU8},
    {"BoolStorage", Dtype::kBool}};

/// A name from the file as a message may show it.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, 100));
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return out;
}

class Machine {
 public:
  Machine(std::string_view pickle, const StorageOf& storage_of, const std::string& path)
      : pickle_(pickle), storage_of_(storage_of), path_(path) {}

  std::vector<TensorView> run() {
    if (pickle_.size() > kLargestPickle)
      fail("UNSUPPORTED", "%s: its pickle is %zu bytes long; one that describes tensors has at most %zu", path_.c_str(),
           pickle_.size(), kLargestPickle);
    while (step()) {
    }
    if (stack_.size() != 1 || !marks_.empty()) damaged("it does not end with one value");
    collect(stack_.front(), "", 0);
    return std::move(named_);
  }

 private:
  [[noreturn]] void damaged(const char* what) const {
    fail("BAD_FILE", "%s: its pickle is damaged: %s (byte %zu of %zu)", path_.c_str(), what, at_, pickle_.size());
  }

  // ------------------------------------------------------------------------------------------------------- the input

  std::string_view take(size_t bytes) {
    if (bytes > pickle_.size() - at_) damaged("it is cut short");
    const std::string_view taken = pickle_.substr(at_, bytes);
    at_ += bytes;
    return taken;
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view line() {
    const size_t end = pickle_.find('\n', at_);
    if (end == std::string_view::npos) damaged("it is cut short");
    const std::string_view text = take(end - at_);
    ++at_;
    return text;
  }

  // ------------------------------------------------------------------------------------------------------- the stack

  void push(const Value& value) {
    values_.push_back(value);
    stack_.push_back(static_cast<uint32_t>(values_.size() - 1));
  }

  const std::vector<uint32_t>& items(const Value& value) const { return lists_[value.items]; }

  uint32_t pop() {
    if (stack_.size() <= floor()) damaged("it takes more than it has");
    const uint32_t top = stack_.back();
    stack_.pop_back();
    return top;
  }

  uint32_t top() const {
    if (stack_.size() <= floor()) damaged("it takes more than it has");
    return stack_.back();
  }

  /// Values below a mark are taken only by what takes the mark.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }

  std::vector<uint32_t> pop_mark() {
    if (marks_.empty()) damaged("it takes a mark that is not there");
    const auto begin = stack_.begin() + static_cast<int64_t>(marks_.back());
    std::vector<uint32_t> items(begin, stack_.end());
    stack_.erase(begin, stack_.end());
    marks_.pop_back();
    return items;
  }

  void push_tuple(size_t count) {
    if (stack_.size() - floor() < count) damaged("it takes more than it has");
    std::vector<uint32_t> items(stack_.end() - static_cast<int64_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    push_list(Kind::kTuple, std::move(items));
  }

  void push_list(Kind kind, std::vector<uint32_t> items = {}) {
    lists_.push_back(std::move(items));
    Value value;
    value.kind = kind;
    value.items = static_cast<uint32_t>(lists_.size() - 1);
    push(value);
  }

  void push_integer(int64_t integer) {
    Value value;
    value.kind = Kind::kInteger;
    value.integer = integer;
    push(value);
  }

  void push_string(std::string_view text) {
    Value value;
    value.kind = Kind::kString;
    value.text = text;
    push(value);
  }

  void extend(Kind kind, const std::vector<uint32_t>& items) {
    const Value& target = values_[top()];
    if (target.kind != kind || (kind == Kind::kDict && items.size() % 2 != 0))
      damaged("it fills what is no list or dictionary");
    std::vector<uint32_t>& list = lists_[target.items];
    list.insert(list.end(), items.begin(), items.end());
  }

  // ------------------------------------------------------------------------------------------------------ operations

  /// One operation; false at the end.
  bool step() {
    const uint8_t operation = static_cast<uint8_t>(take(1)[0]);
    switch (operation) {
      case 0x80:  // PROTO
        if (const uint8_t protocol = number<uint8_t>(); protocol < 2 || protocol > 5)
          fail("UNSUPPORTED", "%s: a pickle of protocol %d; torch.save writes protocol 2", path_.c_str(), protocol);
        break;
      case 0x95:  // FRAME
        take(8);
        break;
      case '(':
        marks_.push_back(stack_.size());
        break;
      case '}':
        push_list(Kind::kDict);
        break;
      case ']':
        push_list(Kind::kList);
        break;
      case ')':
        push_tuple(0);
        break;
      case 'N':
      case 0x88:  // NEWTRUE
      case 0x89:  // NEWFALSE
        push({});
        break;
      case 'K':
        push_integer(number<uint8_t>());
        break;
      case 'M':
        push_integer(number<uint16_t>());
        break;
      case 'J':
        push_integer(number<int32_t>());
        break;
      case 0x8a:  // LONG1
        long_integer();
        break;
      case 'G':  // BINFLOAT
        take(8);
        push({});
        break;
      case 'U':
      case 0x8c:  // SHORT_BINUNICODE
        push_string(take(number<uint8_t>()));
        break;
      case 'T':
      case 'X':
        push_string(take(number<uint32_t>()));
        break;
      case 't':
        push_list(Kind::kTuple, pop_mark());
        break;
      case 0x85:  // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87:
        push_tuple(operation - 0x84u);
        break;
      case 'a': {
        const uint32_t item = pop();
        extend(Kind::kList, {item});
        break;
      }
      case 'e':
        extend(Kind::kList, pop_mark());
        break;
      case 's': {
        const uint32_t value = pop(), key = pop();
        extend(Kind::kDict, {key, value});
        break;
      }
      case 'u':
        extend(Kind::kDict, pop_mark());
        break;
      case 'q':
        memo_[number<uint8_t>()] = top();
        break;
      case 'r':
        memo_[number<uint32_t>()] = top();
        break;
      case 0x94:  // MEMOIZE
        memo_[static_cast<uint32_t>(memo_.size())] = top();
        break;
      case 'h':
        recall(number<uint8_t>());
        break;
      case 'j':
        recall(number<uint32_t>());
        break;
      case 'c':
      case 'i': {  // INST asks for a global and calls it at once
        const std::string_view module = line(), name = line();
        global(module, name);
        if (operation == 'i') damaged("it makes an object of a class");
        break;
      }
      case 0x93: {  // STACK_GLOBAL
        const uint32_t name = pop(), module = pop();
        global(text(module), text(name));
        break;
      }
      case 'R':
        reduce();
        break;
      case 'b':  // BUILD gives a dictionary attributes (_metadata), which say nothing about its tensors
        pop();
        if (values_[top()].kind != Kind::kDict) damaged("it sets the state of what is no dictionary");
        break;
      case 'Q':
        storage();
        break;
      case '.':
        return false;
      default:
        fail("UNSUPPORTED", "%s: its pickle has the operation 0x%02x at byte %zu, which tensors do not need",
             path_.c_str(), operation, at_ - 1);
    }
    return true;
  }

  /// Two's complement in up to 8 bytes.
  void long_integer() {
    const std::string_view bytes = take(number<uint8_t>());
    if (bytes.size() > 8) damaged("a number has more than 64 bits");
    uint64_t value = 0;
    for (size_t i = 0; i < bytes.size(); ++i) value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
    if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & 0x80)) value |= ~uint64_t{0} << (8 * bytes.size());
    push_integer(static_cast<int64_t>(value));
  }

  void recall(uint32_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) damaged("it recalls what it did not keep");
    stack_.push_back(found->second);
  }

  void global(std::string_view module, std::string_view name) {
    Value value;
    value.kind = Kind::kGlobal;
    if (module == "collections" && name == "OrderedDict") {
      value.global = Global::kOrderedDict;
    } else if (module == "torch._utils" && name == "_rebuild_tensor_v2") {
      value.global = Global::kRebuildTensor;
    } else if (module == "torch._utils" && name == "_rebuild_parameter") {
      value.global = Global::kRebuildParameter;
    } else {
      const auto found = std::find_if(std::begin(kStorages), std::end(kStorages),
                                      [&](const auto& storage) { return storage.first == name; });
      if (module != "torch" || found == std::end(kStorages))
        fail("UNSUPPORTED",
             "%s: its pickle asks for %s.%s, which is no tensor. Nothing in it was run. If you trust the file, load it "
             "with PyTorch and save the tensors alone (a state_dict) as safetensors",
             path_.c_str(), printable(module).c_str(), printable(name).c_str());
      value.global = Global::kStorageType;
      value.dtype = found->second;
    }
    push(value);
  }

  // --------------------------------------------------------------------------------------------------------- tensors

  const Value& argument(const Value& tuple, size_t index, Kind kind) const {
    if (tuple.kind != Kind::kTuple || index >= items(tuple).size() || values_[items(tuple)[index]].kind != kind)
      damaged("what should describe a tensor does not");
    return values_[items(tuple)[index]];
  }

  std::string_view text(uint32_t value) const {
    if (values_[value].kind != Kind::kString) damaged("a name is no string");
    return values_[value].text;
  }

  /// ("storage", type, key, location, elements)
  void storage() {
    const Value& id = values_[pop()];
    if (argument(id, 0, Kind::kString).text != "storage") damaged("it refers to what is no storage");
    const Value& type = argument(id, 1, Kind::kGlobal);
    const int64_t elements = argument(id, 4, Kind::kInteger).integer;
    if (type.global != Global::kStorageType || elements < 0) damaged("it refers to what is no storage");
    const std::string_view key = argument(id, 2, Kind::kString).text, bytes = storage_of_(key);
    const size_t size = dtype_bytes(type.dtype);
    if (static_cast<uint64_t>(elements) > bytes.size() / size)
      fail("BAD_FILE", "%s: storage %s should hold %lld elements of %s but has %zu bytes", path_.c_str(),
           printable(key).c_str(), static_cast<long long>(elements), dtype_name(type.dtype), bytes.size());
    Value value;
    value.kind = Kind::kStorage;
    value.dtype = type.dtype;
    value.text = bytes.substr(0, static_cast<size_t>(elements) * size);
    push(value);
  }

  void reduce() {
    const uint32_t arguments = pop(), function = pop();
    const Value& callee = values_[function];
    if (callee.kind != Kind::kGlobal || values_[arguments].kind != Kind::kTuple)
      damaged("it calls what is no function");
    switch (callee.global) {
      case Global::kOrderedDict:
        if (!items(values_[arguments]).empty()) damaged("an OrderedDict has arguments");
        push_list(Kind::kDict);
        return;
      case Global::kRebuildTensor:
        rebuild(values_[arguments]);
        return;
      case Global::kRebuildParameter:  // (tensor, requires_grad, hooks)
        argument(values_[arguments], 0, Kind::kTensor);
        stack_.push_back(items(values_[arguments])[0]);
        return;
      case Global::kStorageType:
        damaged("it calls a type of storage");
    }
  }

  std::vector<int64_t> sizes(const Value& tuple) const {
    if (items(tuple).size() > kMostDimensions) damaged("a tensor has too many dimensions");
    std::vector<int64_t> out;
    for (size_t i = 0; i < items(tuple).size(); ++i) {
      out.push_back(argument(tuple, i, Kind::kInteger).integer);
      if (out.back() < 0) damaged("a tensor has a negative size or stride");
    }
    return out;
  }

  /// (storage, offset, sizes, strides, requires_grad, hooks)
  void rebuild(const Value& arguments) {
    const Value& storage = argument(arguments, 0, Kind::kStorage);
    const int64_t offset = argument(arguments, 1, Kind::kInteger).integer;
    TensorView tensor;
    tensor.dtype = storage.dtype;
    tensor.shape = sizes(argument(arguments, 2, Kind::kTuple));
    tensor.strides = sizes(argument(arguments, 3, Kind::kTuple));
    if (tensor.strides.size() != tensor.shape.size() || offset < 0)
      damaged("a tensor's sizes and strides do not match");
    const size_t size = dtype_bytes(storage.dtype);
    const uint64_t held = storage.text.size() / size;

    // The last element lies at offset + sum of (extent - 1) stride. More elements than the storage holds would be the
    // same ones again (a tensor that was expanded), and a small file could ask for any amount of memory that way.
    uint64_t elements = 1, last = static_cast<uint64_t>(offset);
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      const uint64_t extent = static_cast<uint64_t>(tensor.shape[i]);
      uint64_t reach = 0;
      if (__builtin_mul_overflow(elements, extent, &elements) ||
          __builtin_mul_overflow(extent == 0 ? 0 : extent - 1, static_cast<uint64_t>(tensor.strides[i]), &reach) ||
          __builtin_add_overflow(last, reach, &last))
        damaged("a tensor has an impossible size");
    }
    if (elements > held || (elements > 0 && last >= held)) damaged("a tensor is larger than its storage");
    tensor.bytes = static_cast<size_t>(elements) * size;
    tensor.data =
        reinterpret_cast<const uint8_t*>(storage.text.data()) + (elements > 0 ? static_cast<size_t>(offset) * size : 0);
    if (elements == 0 || is_row_major(tensor)) tensor.strides.clear();

    Value value;
    value.kind = Kind::kTensor;
    value.integer = static_cast<int64_t>(tensors_.size());
    if (tensors_.size() > pickle_.size() / kLeastTensor) damaged("it has more tensors than its length allows");
    tensors_.push_back(std::move(tensor));
    push(value);
  }

  /// Of a tensor with elements: their count bounds the product of sizes.
  static bool is_row_major(const TensorView& tensor) {
    int64_t stride = 1;
    for (size_t i = tensor.shape.size(); i-- > 0;) {
      if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
      stride *= tensor.shape[i];
    }
    return true;
  }

  // ---------------------------------------------------------------------------------------------------------- result

  void collect(uint32_t index, const std::string& name, int depth) {
    // A value may be in many places: what the walk takes is bounded by the pickle's length, not by the number of ways
    // through it.
    name_bytes_ += name.size();
    if (depth > kDeepest || ++visited_ > pickle_.size() || name_bytes_ > pickle_.size())
      damaged("its dictionaries are nested too deep");
    const Value& value = values_[index];
    const auto below = [&](const std::string& key) { return name.empty() ? key : name + "." + key; };
    if (value.kind == Kind::kTensor) {
      TensorView tensor = tensors_[static_cast<size_t>(value.integer)];
      tensor.name = name;
      if (!names_.insert(name).second)
        fail("BAD_FILE", "%s: tensor %s is there twice", path_.c_str(), printable(name).c_str());
      named_.push_back(std::move(tensor));
    } else if (value.kind == Kind::kList || value.kind == Kind::kTuple) {
      for (size_t i = 0; i < items(value).size(); ++i) collect(items(value)[i], below(std::to_string(i)), depth + 1);
    } else if (value.kind == Kind::kDict) {
      for (size_t i = 0; i + 1 < items(value).size(); i += 2) {
        const Value& key = values_[items(value)[i]];
        if (key.kind == Kind::kString) collect(items(value)[i + 1], below(std::string(key.text)), depth + 1);
        else if (key.kind == Kind::kInteger)
          collect(items(value)[i + 1], below(std::to_string(key.integer)), depth + 1);
      }
    }
  }

  std::string_view pickle_;
  const StorageOf& storage_of_;
  const std::string& path_;
  size_t at_ = 0, visited_ = 0, name_bytes_ = 0;
  std::vector<Value> values_;
  std::vector<std::vector<uint32_t>> lists_;  // of a dictionary: key and value in turns
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, uint32_t> memo_;
  std::vector<TensorView> tensors_, named_;
  std::unordered_set<std::string> names_;
};

}  // namespace

std::vector<TensorView> pickled_tensors(std::string_view pickle, const StorageOf& storage_of, const std::string& path) {
  return Machine(pickle, storage_of, path).run();
}

PickleFile::PickleFile(const std::string& file_path) : file_(file_path) {
  const char* name = file_path.c_str();
  const std::string_view start(reinterpret_cast<const char*>(file_.data()), std::min<size_t>(file_.size(), 4));
  if (start.starts_with("\x80\x02"))
    fail("UNSUPPORTED", "%s: written by a PyTorch before 1.6; load it and save it again with a newer one", name);
  if (!start.starts_with("PK"))
    fail("BAD_FILE", "%s: not what torch.save writes (it does not begin with \"PK\")", name);

  // Everything lies in one folder, whose name follows the file that was first written.
  std::unordered_map<std::string_view, std::string_view> data;
  std::string_view pickle, order = "little";
  bool found = false;
  for (const ZipEntry& entry : zip_entries(file_)) {
    const size_t slash = entry.name.find('/');
    if (slash == std::string_view::npos) continue;
    const std::string_view inside = entry.name.substr(slash + 1);
    if (inside == "data.pkl") pickle = entry.data, found = true;
    else if (inside == "byteorder") order = entry.data;
    else if (inside.starts_with("data/")) data.emplace(inside.substr(5), entry.data);
  }
  if (!found) fail("BAD_FILE", "%s: a zip archive without data.pkl: not what torch.save writes", name);
  if (order != "little") fail("UNSUPPORTED", "%s: its numbers are big-endian", name);
  tensors_ = pickled_tensors(
      pickle,
      [&](std::string_view key) {
        const auto storage = data.find(key);
        if (storage == data.end())
          fail("BAD_FILE", "%s: the storage %s is missing: the file is damaged", name, printable(key).c_str());
        return storage->second;
      },
      file_path);
}

}  // namespace credence
