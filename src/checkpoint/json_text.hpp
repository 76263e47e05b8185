// JSON from files that nobody vouches for.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace switchyard {

// Deepest nesting that is accepted; configurations reach about six levels.
inline constexpr int kMaxJsonDepth = 64;

// Limit of the reference implementation for a header; taken for every JSON file.
inline constexpr std::size_t kMaxJsonBytes = 100'000'000;

// `where` begins every message ("safetensors: FILE: the header"). Throws bad_data for anything but one JSON text in
// valid UTF-8, at most kMaxJsonDepth deep, without two equal names in one object.
nlohmann::json parse_json(std::string_view text, const std::string& where);

// A whole file of at most kMaxJsonBytes. Messages begin with `step`. Throws io, bad_data if the file is longer.
std::string read_json_file(const std::filesystem::path& path, const char* step);

// Text of a file as a message may show it: without control characters and not longer than a line.
std::string printable(std::string_view text);

// A value as a message may show it: the JSON text of small values, else its kind and size.
std::string printable_value(const nlohmann::json& value);

}  // namespace switchyard
