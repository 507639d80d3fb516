#include "json.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <unordered_set>

#include "error.h"
#include "mapped_file.h"

namespace credence {

namespace {

[[noreturn]] void wrong_kind(const Json& value, const char* expected) {
  fail("BAD_FILE", "expected %s, found %s", expected, value.kind());
}

}  // namespace

bool Json::as_bool() const {
  if (!is_bool()) wrong_kind(*this, "a boolean");
  return std::get<bool>(value_);
}

int64_t Json::as_integer() const {
  if (is_integer()) return std::get<int64_t>(value_);
  if (!is_number()) wrong_kind(*this, "an integer");
  const double number = std::get<double>(value_);
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (number != std::floor(number) || std::fabs(number) > kExact) wrong_kind(*this, "an integer");
  return static_cast<int64_t>(number);
}

double Json::as_number() const {
  if (is_integer()) return static_cast<double>(std::get<int64_t>(value_));
  if (!is_number()) wrong_kind(*this, "a number");
  return std::get<double>(value_);
}

const std::string& Json::as_string() const {
  if (!is_string()) wrong_kind(*this, "a string");
  return std::get<std::string>(value_);
}

const Json::Array& Json::as_array() const {
  if (!is_array()) wrong_kind(*this, "an array");
  return std::get<Array>(value_);
}

Json::Array& Json::as_array() {
  if (!is_array()) wrong_kind(*this, "an array");
  return std::get<Array>(value_);
}

const Json::Object& Json::as_object() const {
  if (!is_object()) wrong_kind(*this, "an object");
  return std::get<Object>(value_);
}

Json::Object& Json::as_object() {
  if (!is_object()) wrong_kind(*this, "an object");
  return std::get<Object>(value_);
}

const Json* Json::find(std::string_view key) const {
  if (!is_object()) return nullptr;
  for (const auto& [name, value] : std::get<Object>(value_))
    if (name == key) return &value;
  return nullptr;
}

const Json& Json::at(std::string_view key) const {
  if (const Json* value = find(key)) return *value;
  fail("BAD_FILE", "\"%.*s\" is missing", static_cast<int>(key.size()), key.data());
}

const Json& Json::operator[](size_t index) const {
  const Array& array = as_array();
  if (index >= array.size()) fail("BAD_FILE", "an array of %zu has no element %zu", array.size(), index);
  return array[index];
}

size_t Json::size() const {
  if (is_array()) return std::get<Array>(value_).size();
  if (is_object()) return std::get<Object>(value_).size();
  return 0;
}

Json& Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = Object{};
  Object& object = as_object();
  for (auto& [name, stored] : object)
    if (name == key) return stored = std::move(value);
  return object.emplace_back(std::string(key), std::move(value)).second;
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array{};
  as_array().push_back(std::move(value));
}

const char* Json::kind() const {
  constexpr const char* kKinds[] = {"null", "a boolean", "a number", "a number", "a string", "an array", "an object"};
  return kKinds[value_.index()];
}

// ---------------------------------------------------------------------------------------------------------- writing

namespace {

void write_string(const std::string& value, std::string& out) {
  out += '"';
  for (const char c : value) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          char escape[8];
          std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
          out += escape;
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void write_double(double value, std::string& out) {
  if (!std::isfinite(value)) fail("BAD_FILE", "JSON has no NaN and no infinity");
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
  // "1" would read back as an integer.
  if (std::string_view(digits, static_cast<size_t>(end - digits)).find_first_of(".e") == std::string_view::npos)
    out += ".0";
}

void new_line(int indent, int depth, std::string& out) {
  if (indent == 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent * depth), ' ');
}

void write(const Json& value, int indent, int depth, std::string& out) {
  if (value.is_null()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_integer()) {
    out += std::to_string(value.as_integer());
  } else if (value.is_number()) {
    write_double(value.as_number(), out);
  } else if (value.is_string()) {
    write_string(value.as_string(), out);
  } else if (value.is_array()) {
    out += '[';
    bool first = true;
    for (const Json& element : value.as_array()) {
      if (!first) out += ',';
      first = false;
      new_line(indent, depth + 1, out);
      write(element, indent, depth + 1, out);
    }
    if (!first) new_line(indent, depth, out);
    out += ']';
  } else {
    out += '{';
    bool first = true;
    for (const auto& [key, member] : value.as_object()) {
      if (!first) out += ',';
      first = false;
      new_line(indent, depth + 1, out);
      write_string(key, out);
      out += indent ? ": " : ":";
      write(member, indent, depth + 1, out);
    }
    if (!first) new_line(indent, depth, out);
    out += '}';
  }
}

}  // namespace

std::string Json::text(int indent) const {
  std::string out;
  write(*this, indent, 0, out);
  return out;
}

// ---------------------------------------------------------------------------------------------------------- reading

namespace {

/// Bytes of the UTF-8 character that starts at `at`, 0 if it is not one (overlong forms and surrogates included).
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u; };
  const auto follows = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return follows(1) ? 2 : 0;
  if (lead >= 0xe0 && lead < 0xf0) {
    if (!follows(1) || !follows(2)) return 0;
    if (lead == 0xe0 && byte(1) < 0xa0) return 0;
    if (lead == 0xed && byte(1) >= 0xa0) return 0;
    return 3;
  }
  if (lead >= 0xf0 && lead < 0xf5) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (lead == 0xf0 && byte(1) < 0x90) return 0;
    if (lead == 0xf4 && byte(1) >= 0x90) return 0;
    return 4;
  }
  return 0;
}

void append_utf8(uint32_t code, std::string& out) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80u | ((code >> shift) & 0x3fu)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0u | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0u | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0u | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  Json document() {
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;  // a byte order mark
    Json value = parse(0);
    skip_space();
    if (at_ < text_.size()) wrong("expected the end of the text after the value");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 200;  // recursion: a deeper text is an attack, not a config

  [[noreturn]] void wrong(const std::string& what) const {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < at_ && i < text_.size(); ++i) {
      if (text_[i] == '\n') ++line, column = 1;
      else if ((static_cast<unsigned char>(text_[i]) & 0xc0u) != 0x80u) ++column;  // characters, not bytes
    }
    fail("BAD_FILE", "%s:%zu:%zu: %s", name_.c_str(), line, column, what.c_str());
  }

  bool at_end() const { return at_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[at_]; }

  void skip_space() {
    while (!at_end() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }

  void expect(char c, const char* what) {
    skip_space();
    if (at_end()) wrong(std::string("the text ends where ") + what + " should be");
    if (text_[at_] != c) wrong(std::string("expected ") + what);
    ++at_;
  }

  Json parse(int depth) {
    if (depth > kMaxDepth) wrong("nested too deeply");
    skip_space();
    if (at_end()) wrong("the text ends where a value should be");
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"':
        return Json(string());
      case 't':
        return word("true", Json(true));
      case 'f':
        return word("false", Json(false));
      case 'n':
        return word("null", Json());
      default:
        return number();
    }
  }

  Json word(std::string_view spelling, Json value) {
    if (text_.substr(at_, spelling.size()) != spelling) wrong("expected a value");
    at_ += spelling.size();
    return value;
  }

  Json object(int depth) {
    Json::Object members;
    std::unordered_set<std::string> keys;
    ++at_;
    skip_space();
    if (peek() == '}') return ++at_, Json(std::move(members));
    while (true) {
      skip_space();
      if (peek() != '"') wrong("expected a key in quotes");
      const size_t key_at = at_;
      std::string key = string();
      if (!keys.insert(key).second) {
        at_ = key_at;
        wrong("the key \"" + key + "\" appears twice");
      }
      expect(':', "\":\" after the key");
      members.emplace_back(std::move(key), parse(depth + 1));
      skip_space();
      if (peek() == '}') return ++at_, Json(std::move(members));
      expect(',', "\",\" or \"}\"");
    }
  }

  Json array(int depth) {
    Json::Array elements;
    ++at_;
    skip_space();
    if (peek() == ']') return ++at_, Json(std::move(elements));
    while (true) {
      elements.push_back(parse(depth + 1));
      skip_space();
      if (peek() == ']') return ++at_, Json(std::move(elements));
      expect(',', "\",\" or \"]\"");
    }
  }

  uint32_t hex4() {
    uint32_t code = 0;
    if (text_.size() - at_ < 4) wrong("\\u needs four hexadecimal digits");
    const char* begin = text_.data() + at_;
    const auto [end, error] = std::from_chars(begin, begin + 4, code, 16);
    if (error != std::errc() || end != begin + 4) wrong("\\u needs four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void escape(std::string& out) {
    const char c = peek();
    ++at_;
    switch (c) {
      case '"':
      case '\\':
      case '/':
        out += c;
        return;
      case 'b':
        out += '\b';
        return;
      case 'f':
        out += '\f';
        return;
      case 'n':
        out += '\n';
        return;
      case 'r':
        out += '\r';
        return;
      case 't':
        out += '\t';
        return;
      case 'u':
        break;
      default:
        --at_;
        wrong("unknown escape");
    }
    uint32_t code = hex4();
    if (code >= 0xdc00 && code < 0xe000) wrong("the second half of a surrogate pair stands alone");
    if (code >= 0xd800 && code < 0xdc00) {
      if (text_.substr(at_, 2) != "\\u") wrong("the first half of a surrogate pair stands alone");
      at_ += 2;
      const uint32_t low = hex4();
      if (low < 0xdc00 || low >= 0xe000) wrong("the first half of a surrogate pair stands alone");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    append_utf8(code, out);
  }

  std::string string() {
    std::string out;
    const size_t start = at_++;
    while (true) {
      if (at_end()) {
        at_ = start;
        wrong("the string that begins here has no end");
      }
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') return ++at_, out;
      if (c < 0x20) wrong("a control character inside a string must be escaped");
      if (c == '\\') {
        ++at_;
        escape(out);
        continue;
      }
      const size_t length = utf8_length(text_, at_);
      if (length == 0) wrong("not UTF-8");
      out.append(text_, at_, length);
      at_ += length;
    }
  }

  void digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == start) wrong("expected a digit");
  }

  Json number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    if (peek() != '0' && !(peek() >= '1' && peek() <= '9')) {
      at_ = start;
      wrong("expected a value");
    }
    if (peek() == '0') ++at_;
    else digits();
    bool integer = true;
    if (peek() == '.') integer = false, ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const char* begin = text_.data() + start;
    const char* end = text_.data() + at_;
    if (int64_t exact = 0; integer && std::from_chars(begin, end, exact).ec == std::errc()) return Json(exact);
    double value = 0;
    if (std::from_chars(begin, end, value).ec != std::errc()) {
      at_ = start;
      wrong("the number is out of range");
    }
    return Json(value);
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& name) { return Parser(text, name).document(); }

Json read_json_file(const std::string& path) { return parse_json(read_file(path), path); }

}  // namespace credence
