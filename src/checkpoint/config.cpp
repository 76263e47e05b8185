#include "checkpoint/config.hpp"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "checkpoint/json_text.hpp"
#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

using nlohmann::json;

std::optional<std::int64_t> integer_in(const json& value, std::int64_t min, std::int64_t max) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
    return std::nullopt;
  }
  const auto number = value.get<std::int64_t>();
  if (number < min || number > max) return std::nullopt;
  return number;
}

std::string range(std::int64_t min, std::int64_t max) { return format_text("an integer {}..{}", min, max); }

}  // namespace

Config::Config(std::string_view text, std::string file) : file_(std::move(file)) {
  const std::string where = format_text("config: {}: the text", file_);
  object_ = parse_json(text, where);
  if (!object_.is_object()) fail(Code::bad_data, "{} is {}, expected an object", where, printable_value(object_));
}

Config Config::nested(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) return *this;
  if (!value->is_object()) refuse(key, printable_value(*value), "an object");
  return Config(*value, file_, prefix_ + key + ".");
}

bool Config::is_null(const char* key) const {
  const json* value = look_up(key);
  return value != nullptr && value->is_null();
}

const char* Config::present(const Keys& keys) const {
  for (const char* key : keys) {
    if (key != nullptr && has(key)) return key;
  }
  return nullptr;
}

std::vector<std::string> Config::names() const {
  std::vector<std::string> names;
  for (const auto& value : object_.items()) names.push_back(value.key());
  return names;
}

std::string Config::text(const char* key) const {
  const json* value = find(key);
  if (value == nullptr) refuse(key, "absent", "a string");
  if (!value->is_string()) refuse(key, printable_value(*value), "a string");
  return value->get<std::string>();
}

std::string Config::text_or(const char* key, std::string_view otherwise) const {
  return has(key) ? text(key) : std::string(otherwise);
}

std::int64_t Config::integer(const Keys& keys, std::int64_t min, std::int64_t max) const {
  const char* first = nullptr;
  std::int64_t result = 0;
  for (const char* key : keys) {
    const json* value = key == nullptr ? nullptr : find(key);
    if (value == nullptr) continue;
    const auto number = integer_in(*value, min, max);
    if (!number) refuse(key, printable_value(*value), range(min, max));
    if (first != nullptr && *number != result) {
      refuse(key, printable_value(*value), format_text("{} as in {}{}", result, prefix_, first));
    }
    first = key;
    result = *number;
  }
  if (first == nullptr) {
    std::string names = keys[0];
    for (std::size_t i = 1; i < keys.size() && keys[i] != nullptr; ++i) names += format_text(" or {}", keys[i]);
    refuse(names.c_str(), "absent", range(min, max));
  }
  return result;
}

std::int64_t Config::integer_or(const char* key, std::int64_t min, std::int64_t max, std::int64_t otherwise) const {
  return has(key) ? integer({key}, min, max) : otherwise;
}

std::int64_t Config::integer_or_equal_ones(const Keys& keys, std::int64_t min, std::int64_t max) const {
  const char* key = present(keys);
  if (key == nullptr || !is_list(key)) return integer(keys, min, max);
  const std::vector<std::int64_t> numbers = integers(key, min, max);
  for (const std::int64_t number : numbers) {
    if (number != numbers.front())
      refuse(key, format_text("a list with {} and {}", numbers.front(), number), "one value");
  }
  if (numbers.empty()) refuse(key, "an empty list", range(min, max));
  return numbers.front();
}

bool Config::flag_or(const char* key, bool otherwise) const {
  const json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) refuse(key, printable_value(*value), "true or false");
  return value->get<bool>();
}

double Config::number_or(const char* key, double otherwise) const {
  const json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_number() || !std::isfinite(value->get<float>())) {
    refuse(key, printable_value(*value), "a number that float holds");
  }
  return value->get<double>();
}

std::vector<std::int64_t> Config::integers(const char* key, std::int64_t min, std::int64_t max) const {
  const std::string expected = "an array, each " + range(min, max);
  std::vector<std::int64_t> result;
  const json* array = find_array(key, expected);
  if (array == nullptr) return result;
  for (const json& value : *array) {
    const auto number = integer_in(value, min, max);
    if (!number) refuse(key, "an array with " + printable_value(value), expected);
    result.push_back(*number);
  }
  return result;
}

std::vector<std::string> Config::texts(const char* key) const {
  constexpr std::string_view kExpected = "an array of strings";
  std::vector<std::string> result;
  const json* array = find_array(key, kExpected);
  if (array == nullptr) return result;
  for (const json& value : *array) {
    if (!value.is_string()) refuse(key, "an array with " + printable_value(value), kExpected);
    result.push_back(value.get<std::string>());
  }
  return result;
}

bool Config::is_list(const char* key) const {
  const json* value = find(key);
  return value != nullptr && value->is_array();
}

bool Config::is_text(const char* key) const {
  const json* value = find(key);
  return value != nullptr && value->is_string();
}

std::vector<float> Config::limits(const char* key) const {
  constexpr std::string_view kExpected = "an array of numbers from 0 that float holds";
  std::vector<float> result;
  const json* array = find_array(key, kExpected);
  if (array == nullptr) return result;
  for (const json& value : *array) {
    const float limit = value.is_number() ? value.get<float>() : 0.0F;
    if ((!value.is_number() && !value.is_null()) || !std::isfinite(limit) || limit < 0) {
      refuse(key, "an array with " + printable_value(value), kExpected);
    }
    result.push_back(limit);
  }
  return result;
}

void Config::refuse(const char* key, const std::string& value, std::string_view expected) const {
  fail(Code::bad_data, "config: {}: {}{} is {}, expected {}", file_, prefix_, key, value, expected);
}

const json* Config::look_up(std::string_view key) const {
  const json* object = &object_;
  for (auto point = key.find('.'); point != key.npos; point = key.find('.')) {
    const auto inner = object->find(key.substr(0, point));
    if (inner == object->end() || !inner->is_object()) return nullptr;
    object = &*inner;
    key.remove_prefix(point + 1);
  }
  const auto found = object->find(key);
  return found == object->end() ? nullptr : &*found;
}

const json* Config::find(const char* key) const {
  const json* value = look_up(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

const json* Config::find_array(const char* key, std::string_view expected) const {
  const json* value = find(key);
  if (value != nullptr && !value->is_array()) refuse(key, printable_value(*value), expected);
  return value;
}

}  // namespace switchyard
