// Whole files in and out.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <vector>

namespace switchyard::cli {

// Throws io.
std::vector<std::byte> read_file(const std::filesystem::path& path);

// Writes the parts one after the other, replacing the file only when all is written. Throws io.
void write_file(const std::filesystem::path& path, std::initializer_list<std::span<const std::byte>> parts);

// Throws io if there is no folder that `path` could be written to: said before the work, not after it.
void check_writable(const std::filesystem::path& path);

}  // namespace switchyard::cli
