#include "checkpoint/json_text.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <unordered_set>
#include <vector>

#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

using nlohmann::json;

constexpr std::size_t kShown = 200;

// What the parser says, without its own prefix. It quotes the text, which may be cut inside a character or not be
// UTF-8 at all, so only ASCII is kept.
std::string reason(const json::exception& error) {
  std::string text = error.what();
  if (const auto end = text.find("] "); text.starts_with('[') && end != std::string::npos) text.erase(0, end + 2);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  }
  return printable(text);
}

// The parser itself keeps the last of several equal names and nests without limit.
class Strictness {
 public:
  explicit Strictness(const std::string& where) : where_(where) {}

  void operator()(int depth, json::parse_event_t event, const json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
        check_depth(depth);
        names_.emplace_back();
        break;
      case json::parse_event_t::array_start:
        check_depth(depth);
        break;
      case json::parse_event_t::object_end:
        names_.pop_back();
        break;
      case json::parse_event_t::key:
        check_name(value.get_ref<const std::string&>());
        break;
      default:
        break;
    }
  }

 private:
  void check_depth(int depth) const {
    if (depth >= kMaxJsonDepth) {
      fail(Code::bad_data, "{} is nested deeper than {} levels, expected less", where_, kMaxJsonDepth);
    }
  }
  void check_name(const std::string& name) {
    if (!names_.back().insert(name).second) {
      fail(Code::bad_data, "{} names {} twice in one object, expected it once", where_, printable(name));
    }
  }

  const std::string& where_;
  std::vector<std::unordered_set<std::string>> names_;
};

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  Strictness strictness(where);
  const auto check = [&strictness](int depth, json::parse_event_t event, json& value) {
    strictness(depth, event, value);
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& error) {
    fail(Code::bad_data, "{} is not valid JSON ({}), expected one JSON value", where, reason(error));
  }
}

std::string read_json_file(const std::filesystem::path& path, const char* step) {
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file || folder) {
    fail(Code::io, "{}: {}: cannot be opened: {}", step, path.string(), std::strerror(folder ? EISDIR : errno));
  }
  // Read piece by piece up to the limit, whatever size the file system claims.
  std::string text;
  std::vector<char> piece(std::size_t{1} << 16);
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount() > 0) {
    text.append(piece.data(), static_cast<std::size_t>(file.gcount()));
    if (text.size() > kMaxJsonBytes) {
      fail(Code::bad_data, "{}: {}: has more than {} bytes, expected less", step, path.string(), kMaxJsonBytes);
    }
  }
  if (file.bad()) fail(Code::io, "{}: {}: cannot be read: {}", step, path.string(), std::strerror(errno));
  return text;
}

std::string printable(std::string_view text) {
  std::string shown(text.substr(0, kShown));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kShown) {
    // Not cut inside a UTF-8 character.
    while (!shown.empty() && (static_cast<unsigned char>(text[shown.size()]) & 0xC0) == 0x80) shown.pop_back();
    shown += "...";
  }
  return shown;
}

std::string printable_value(const json& value) {
  constexpr std::size_t kSmall = 16;
  if (value.is_structured() && value.size() > kSmall) {
    return format_text("an {} of {} values", value.type_name(), value.size());
  }
  return printable(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace switchyard
