#include "files.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>

#include "switchyard/error.hpp"

namespace switchyard::cli {
namespace {

struct CloseFile {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};
using FilePtr = std::unique_ptr<std::FILE, CloseFile>;

[[noreturn]] void refuse(const std::filesystem::path& path, const char* verb) {
  throw Error(Code::io, fmt::format("{}: cannot {}: {}", path.string(), verb, std::strerror(errno)));
}

FilePtr open_file(const std::filesystem::path& path, const char* mode, const char* verb) {
  FilePtr file(std::fopen(path.c_str(), mode));
  if (!file) refuse(path, verb);
  return file;
}

void write_parts(const std::filesystem::path& path, std::initializer_list<std::span<const std::byte>> parts) {
  FilePtr file = open_file(path, "wb", "be written");
  for (const auto part : parts) {
    if (part.size() > 0 && std::fwrite(part.data(), 1, part.size(), file.get()) != part.size()) {
      refuse(path, "be written");
    }
  }
  if (std::fclose(file.release()) != 0) refuse(path, "be written");
}

}  // namespace

std::vector<std::byte> read_file(const std::filesystem::path& path) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  const FilePtr file = open_file(path, "rb", "be read");
  std::vector<std::byte> bytes;
  for (;;) {
    const std::size_t before = bytes.size();
    bytes.resize(before + kPiece);
    const std::size_t got = std::fread(bytes.data() + before, 1, kPiece, file.get());
    bytes.resize(before + got);
    if (got < kPiece) break;
  }
  if (std::ferror(file.get()) != 0) refuse(path, "be read");
  return bytes;
}

void write_file(const std::filesystem::path& path, std::initializer_list<std::span<const std::byte>> parts) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    write_parts(path, parts);  // /dev/stdout and the like cannot be replaced
    return;
  }
  const std::filesystem::path temporary = path.string() + fmt::format(".{}.part", ::getpid());
  try {
    write_parts(temporary, parts);
    std::error_code error;
    std::filesystem::rename(temporary, path, error);
    if (error) throw Error(Code::io, fmt::format("{}: cannot be written: {}", path.string(), error.message()));
  } catch (...) {
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

void check_writable(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    throw Error(Code::io, fmt::format("{}: cannot be written: it is a folder", path.string()));
  }
  const bool special = std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored);
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (::access(special ? path.c_str() : folder.c_str(), W_OK) != 0) refuse(path, "be written");
}

}  // namespace switchyard::cli
