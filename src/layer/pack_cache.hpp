// A layer's packed weights in a file: written once, mapped the next time.
//
// The file is a header, and the buffers of every matrix at places aligned to the pages they may be mapped with. The
// header says what the file is for: version of the packed form, sizes and formats of the layer, fingerprint of the
// source; and it has a checksum of itself and of every buffer. A file that does not fit in any of them is not used. A
// new file gets its name when it is whole, so that nobody sees half of one and what is mapped stays as it was. Until then
// its process holds a lock on it: what a process that died has left has none, and goes when the next file is made.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>

#include "layer/parts.hpp"

namespace switchyard {

using Fingerprint = std::array<std::uint64_t, 2>;

// Where in `folder` the packed weights of a model's layer stand: a name of its own for every model, layer, size and
// format. Makes the folder. Throws io.
std::filesystem::path packed_path(const std::filesystem::path& folder, const std::filesystem::path& model,
                                  std::int32_t layer, Layer::Parts& parts);

// Maps the packed weights of `parts`, which are planned, from `path`, reading all of it once. False, with parts as they
// were, if there is no file or it is of another version, layer or source, or damaged in any byte that would be used.
bool map_packed(Layer::Parts& parts, const std::filesystem::path& path, const Fingerprint& source);

// A file to become `path`: made before packing, so that a folder that cannot be written is found out first. Who may read
// it is the process's umask's to say.
class PackedFile {
 public:
  // Reserves the room that `parts`, which are laid out, will take, where the filesystem can. Throws io.
  PackedFile(std::filesystem::path path, Layer::Parts& parts);
  ~PackedFile();  // removes what has not been finished
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  // Writes all of `parts`, which are packed, and gives the file its name. Throws io.
  void finish(Layer::Parts& parts, const Fingerprint& source);

 private:
  void make();
  void discard();
  void write(const void* data, std::size_t bytes, std::uint64_t at) const;

  std::filesystem::path path_;
  std::string temporary_;
  int fd_ = -1;
};

}  // namespace switchyard
