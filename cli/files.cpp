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

[[noreturn]] void refuse(const std::filesystem::path& path, const char* step, const char* verb) {
  throw Error(Code::io, fmt::format("{}: {}: cannot {}: {}", step, path.string(), verb, std::strerror(errno)));
}

FilePtr open_file(const std::filesystem::path& path, const char* step, const char* mode, const char* verb) {
  FilePtr file(std::fopen(path.c_str(), mode));
  if (!file) refuse(path, step, verb);
  return file;
}

void write_parts(FilePtr file, const std::filesystem::path& path, const char* step,
                 std::initializer_list<std::span<const std::byte>> parts) {
  for (const auto part : parts) {
    if (part.size() > 0 && std::fwrite(part.data(), 1, part.size(), file.get()) != part.size()) {
      refuse(path, step, "be written");
    }
  }
  if (std::fclose(file.release()) != 0) refuse(path, step, "be written");
}

bool is_special(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored);
}

// The file that a chain of symbolic links ends at, there or not. A circle of them is left for the system to refuse.
std::filesystem::path linked_file(std::filesystem::path path) {
  constexpr int kMaxLinks = 40;
  std::error_code ignored;
  for (int i = 0; i < kMaxLinks && std::filesystem::is_symlink(path, ignored); ++i) {
    path = path.parent_path() / std::filesystem::read_symlink(path, ignored);
  }
  return path;
}

}  // namespace

std::vector<std::byte> read_file(const std::filesystem::path& path, const char* step) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  const FilePtr file = open_file(path, step, "rb", "be read");
  std::vector<std::byte> bytes;
  for (;;) {
    const std::size_t before = bytes.size();
    bytes.resize(before + kPiece);
    const std::size_t got = std::fread(bytes.data() + before, 1, kPiece, file.get());
    bytes.resize(before + got);
    if (got < kPiece) break;
  }
  if (std::ferror(file.get()) != 0) refuse(path, step, "be read");
  return bytes;
}

void write_file(const std::filesystem::path& path, const char* step,
                std::initializer_list<std::span<const std::byte>> parts) {
  if (is_special(path)) {  // it cannot be replaced, and must not be
    write_parts(open_file(path, step, "wb", "be written"), path, step, parts);
    return;
  }
  const std::filesystem::path target = linked_file(path);
  const std::filesystem::path temporary = target.string() + fmt::format(".{}.part", ::getpid());
  FilePtr file = open_file(temporary, step, "wb", "be written");
  try {
    std::error_code error;
    const std::filesystem::file_status before = std::filesystem::status(target, error);
    if (std::filesystem::status_known(before)) error.clear();  // else links in a circle
    if (std::filesystem::exists(before)) std::filesystem::permissions(temporary, before.permissions(), error);
    if (!error) {
      write_parts(std::move(file), path, step, parts);
      std::filesystem::rename(temporary, target, error);
    }
    if (error) {
      throw Error(Code::io, fmt::format("{}: {}: cannot be written: {}", step, path.string(), error.message()));
    }
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw;
  }
}

void check_writable(const std::filesystem::path& path, const char* step) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (std::filesystem::is_directory(status)) {
    throw Error(Code::io,
                fmt::format("{}: {}: cannot be written: it is a folder, expected a file", step, path.string()));
  }
  if (!std::filesystem::status_known(status)) {
    throw Error(Code::io, fmt::format("{}: {}: cannot be written: {}", step, path.string(), error.message()));
  }
  const std::filesystem::path target = is_special(path) ? path : linked_file(path);
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  if (::access(is_special(path) ? path.c_str() : folder.c_str(), W_OK) != 0) refuse(path, step, "be written");
}

bool same_file(const std::filesystem::path& a, const std::filesystem::path& b) {
  const auto whole = [](const std::filesystem::path& path) {
    std::error_code ignored;
    return std::filesystem::weakly_canonical(std::filesystem::absolute(linked_file(path), ignored), ignored);
  };
  return !whole(a).empty() && whole(a) == whole(b);
}

}  // namespace switchyard::cli
