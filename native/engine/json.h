// JSON values: what config files, safetensors headers and fixtures are written in.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace credence {

/// A JSON value. Integers that fit an int64 stay exact; objects keep the order of their keys.
class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(static_cast<int64_t>(value)) {}
  Json(int64_t value) : value_(value) {}
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}
  static Json array() { return Json(Array{}); }
  static Json object() { return Json(Object{}); }

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(value_); }
  bool is_number() const { return is_integer() || std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  /// The value as the type named; another kind throws Error "BAD_FILE". as_integer also takes 4.0.
  bool as_bool() const;
  int64_t as_integer() const;
  double as_number() const;
  const std::string& as_string() const;
  const Array& as_array() const;
  Array& as_array();
  const Object& as_object() const;
  Object& as_object();

  /// The member, or null (the pointer) where there is none or this is no object.
  const Json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// The member; a missing one throws, naming it.
  const Json& at(std::string_view key) const;
  const Json& operator[](size_t index) const;
  /// Elements of an array, members of an object, 0 otherwise.
  size_t size() const;
  /// Sets or replaces a member (null becomes an object); returns the value stored.
  Json& set(std::string_view key, Json value);
  void push_back(Json value);

  /// "null", "boolean", "number", "string", "array" or "object", for messages.
  const char* kind() const;
  bool operator==(const Json& other) const = default;

  /// JSON text. indent 0: one line without spaces. Doubles are the shortest text that reads back the same;
  /// NaN and infinities have none and throw.
  std::string text(int indent = 0) const;

 private:
  std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object> value_;
};

/// Parses one JSON value; anything after it but white space is an error. Errors read `name:line:column: what is wrong`.
/// A key that appears twice in one object is an error.
Json parse_json(std::string_view text, const std::string& name = "json");

/// Reads and parses a file.
Json read_json_file(const std::string& path);

}  // namespace credence
