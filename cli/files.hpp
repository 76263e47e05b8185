// Whole files in and out.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <vector>

namespace switchyard::cli {

// Throws io; messages begin with `step`.
std::vector<std::byte> read_file(const std::filesystem::path& path, const char* step);

// Writes the parts one after the other, replacing the file only when all is written. The same file is replaced and
// keeps its permissions as by write_safetensors: the target of a symbolic link; a pipe or device is written itself.
void write_file(const std::filesystem::path& path, const char* step,
                std::initializer_list<std::span<const std::byte>> parts);

// Throws io if there is no folder that `path` could be written to: said before the work, not after it.
void check_writable(const std::filesystem::path& path, const char* step);

// Whether both would be written to one file, there or not.
bool same_file(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace switchyard::cli
