// Config: checked reading of a config.json.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace switchyard {

// A key and its synonyms; places that are not used are null. Synonyms that are present together must agree.
using Keys = std::array<const char*, 3>;

// One JSON object. A key with points in it leads through the objects inside; those that are absent count as having no
// keys. A key with the value null counts as absent. Everything throws bad_data naming the file, the key,
// what was found and what was expected.
class Config {
 public:
  Config(std::string_view text, std::string file);

  bool has(const char* key) const { return find(key) != nullptr; }
  // The value is null, which `has` counts as absent.
  bool is_null(const char* key) const;
  // The first of `keys` that is there, or null.
  const char* present(const Keys& keys) const;
  // The object under `key`, or this one if there is none. Keys in messages carry its name.
  Config nested(const char* key) const;

  // Of the values, in the order of the alphabet.
  std::vector<std::string> names() const;

  std::string text(const char* key) const;
  std::string text_or(const char* key, std::string_view otherwise) const;
  std::int64_t integer(const Keys& keys, std::int64_t min, std::int64_t max) const;
  std::int64_t integer_or(const char* key, std::int64_t min, std::int64_t max, std::int64_t otherwise) const;
  // A number or a list of one number again and again.
  std::int64_t integer_or_equal_ones(const Keys& keys, std::int64_t min, std::int64_t max) const;
  bool flag_or(const char* key, bool otherwise) const;
  // A finite number.
  double number_or(const char* key, double otherwise) const;
  // Empty if absent.
  std::vector<std::int64_t> integers(const char* key, std::int64_t min, std::int64_t max) const;
  std::vector<std::string> texts(const char* key) const;
  bool is_list(const char* key) const;
  bool is_text(const char* key) const;
  // Finite numbers >= 0; null counts as 0.
  std::vector<float> limits(const char* key) const;

  // "config: FILE: KEY is VALUE, expected EXPECTED".
  [[noreturn]] void refuse(const char* key, const std::string& value, std::string_view expected) const;

 private:
  Config(nlohmann::json object, std::string file, std::string prefix)
      : object_(std::move(object)), file_(std::move(file)), prefix_(std::move(prefix)) {}

  const nlohmann::json* look_up(std::string_view key) const;
  const nlohmann::json* find(const char* key) const;
  const nlohmann::json* find_array(const char* key, std::string_view expected) const;

  nlohmann::json object_;
  std::string file_;
  std::string prefix_;  // "text_config." in front of the keys of a nested object
};

}  // namespace switchyard
