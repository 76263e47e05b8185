#include "layer/pack_cache.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

constexpr char kMagic[8] = {'S', 'W', 'Y', 'D', 'P', 'A', 'C', 'K'};
constexpr std::size_t kMatrices = 8;
constexpr std::uint64_t kHeaderBytes = 4096;
// Large buffers may be mapped with huge pages.
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;
constexpr std::uint64_t kPage = 4096;
// A checksum is made of those of blocks, so that all threads take part.
constexpr std::size_t kBlock = std::size_t{4} << 20;

struct BufferEntry {
  std::uint64_t offset;
  std::uint64_t bytes;  // 0: the layer has none
  std::uint64_t checksum;
};

// All that decides the bytes of a packed form beside the weights themselves. Zeros for a matrix that the layer has not.
struct MatrixEntry {
  std::int64_t format;
  std::int64_t gated;
  std::int64_t count;
  std::int64_t features;
  std::int64_t depth;
  std::int64_t group;  // of scales
  std::int64_t scale_type;
  BufferEntry buffers[PackedMatrices::kBuffers];
};

struct Header {
  char magic[sizeof kMagic];
  std::uint64_t version;
  std::uint64_t file_bytes;
  Fingerprint source;
  MatrixEntry matrices[kMatrices];
  std::uint64_t checksum;  // of all before it
};
static_assert(sizeof(Header) <= kHeaderBytes && std::has_unique_object_representations_v<Header>);

std::uint64_t header_checksum(const Header& header) { return XXH3_64bits(&header, offsetof(Header, checksum)); }

// Null for what the layer has not.
std::array<PackedMatrices*, kMatrices> matrices_of(Layer::Parts& parts) {
  ExpertWeights::Packed* shared = parts.shared ? &parts.shared->packed() : nullptr;
  return {&parts.experts.packed().up,
          &parts.experts.packed().down,
          shared ? &shared->up : nullptr,
          shared ? &shared->down : nullptr,
          &parts.router.weight,
          &parts.shared_gate,
          &parts.latent_in,
          &parts.latent_out};
}

MatrixEntry entry_of(const PackedMatrices* matrix) {
  MatrixEntry entry{};
  if (matrix != nullptr && !matrix->empty()) {
    entry.format = static_cast<std::int64_t>(matrix->format());
    entry.gated = matrix->gated() ? 1 : 0;
    entry.count = matrix->count();
    entry.features = matrix->features();
    entry.depth = matrix->depth();
    entry.group = matrix->scales().group;
    entry.scale_type = static_cast<std::int64_t>(matrix->scales().dtype);
  }
  return entry;
}

// But for where the scales stand, which follows from the weights.
bool same_matrix(const MatrixEntry& a, const MatrixEntry& b) {
  return std::memcmp(&a, &b, offsetof(MatrixEntry, group)) == 0;
}

// Takes over where the scales stand; false if they cannot stand there.
bool lay_out(PackedMatrices& matrix, const MatrixEntry& entry) {
  PanelScales scales = matrix.scales();
  if (scales.group == 0) {
    return entry.group == 0;
  }
  const bool narrow = entry.scale_type == static_cast<std::int64_t>(DType::bf16);
  scales.dtype = scales.dtype != DType::f32 && scales.dtype != DType::bf16 ? scales.dtype
                 : narrow                                                  ? DType::bf16
                                                                           : DType::f32;
  scales.group = entry.group;
  if (entry.group < 1 || entry.group % kShortestGroup != 0 ||
      entry.scale_type != static_cast<std::int64_t>(scales.dtype)) {
    return false;
  }
  matrix.lay_out(scales);
  return true;
}

std::uint64_t checksum_of(const std::byte* data, std::size_t bytes, const Threads& threads) {
  std::vector<std::uint64_t> sums((bytes + kBlock - 1) / kBlock);
  parallel_for(threads, static_cast<std::int64_t>(sums.size()), [&](std::int64_t block, int) {
    const std::size_t begin = static_cast<std::size_t>(block) * kBlock;
    sums[static_cast<std::size_t>(block)] = XXH3_64bits(data + begin, std::min(kBlock, bytes - begin));
  });
  return XXH3_64bits(sums.data(), sums.size() * sizeof(std::uint64_t));
}

// A whole file, read-only; empty if there is none that can be mapped.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
      return;
    }
    struct stat status {};
    if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
      const auto bytes = static_cast<std::size_t>(status.st_size);
      void* at = ::mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
      if (at != MAP_FAILED) {
        (void)::madvise(at, bytes, MADV_HUGEPAGE);  // a wish
        bytes_ = {static_cast<const std::byte*>(at), bytes};
      }
    }
    ::close(fd);
  }
  ~MappedFile() {
    if (!bytes_.empty()) {
      ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
    }
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

bool is_for(const Header& header, std::size_t file_bytes, Layer::Parts& parts, const Fingerprint& source) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.version != kPackedVersion ||
      header.checksum != header_checksum(header) || header.file_bytes != file_bytes || header.source != source) {
    return false;
  }
  const auto matrices = matrices_of(parts);
  for (std::size_t m = 0; m < kMatrices; ++m) {
    const bool there = matrices[m] != nullptr && !matrices[m]->empty();
    if (!same_matrix(header.matrices[m], entry_of(matrices[m])) ||
        (there && !lay_out(*matrices[m], header.matrices[m]))) {
      return false;
    }
  }
  return true;
}

bool is_whole(const BufferEntry& entry, std::size_t expected, bool required, std::span<const std::byte> file,
              const Threads& threads) {
  if (entry.bytes == 0) {
    return !required;
  }
  return entry.bytes == expected && entry.offset % kPage == 0 && entry.offset <= file.size() &&
         entry.bytes <= file.size() - entry.offset &&
         checksum_of(file.data() + entry.offset, entry.bytes, threads) == entry.checksum;
}

[[noreturn]] void refuse(const std::filesystem::path& path, const char* what, int error) {
  fail(Code::io, "cache: {}: {}: {}", path.string(), what, std::strerror(error));
}

}  // namespace

std::filesystem::path packed_path(const std::filesystem::path& folder, const std::filesystem::path& model,
                                  std::int32_t layer, Layer::Parts& parts) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!std::filesystem::is_directory(folder, error)) {
    refuse(folder, "is no folder and cannot be made one", error ? error.value() : ENOTDIR);
  }
  const std::string name = std::filesystem::absolute(model).lexically_normal().string();
  std::uint64_t hash = XXH3_64bits(name.data(), name.size());
  for (const PackedMatrices* matrix : matrices_of(parts)) {
    const MatrixEntry entry = entry_of(matrix);
    hash = XXH3_64bits_withSeed(&entry, sizeof entry, hash);
  }
  return folder / fmt::format("layer_{}_{:016x}.packed", layer, hash);
}

bool map_packed(Layer::Parts& parts, const std::filesystem::path& path, const Fingerprint& source) {
  const auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  Header header;
  if (bytes.size() < kHeaderBytes) {
    return false;
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  if (!is_for(header, bytes.size(), parts, source)) {
    return false;
  }
  const auto matrices = matrices_of(parts);
  for (std::size_t m = 0; m < kMatrices; ++m) {
    for (std::size_t b = 0; b < PackedMatrices::kBuffers; ++b) {
      const bool there = matrices[m] != nullptr && !matrices[m]->empty();
      if (!is_whole(header.matrices[m].buffers[b], there ? matrices[m]->buffer_bytes(b) : 0, there && b == 0, bytes,
                    parts.options.threads)) {
        return false;
      }
    }
  }
  for (std::size_t m = 0; m < kMatrices; ++m) {
    for (std::size_t b = 0; b < PackedMatrices::kBuffers; ++b) {
      if (const BufferEntry& entry = header.matrices[m].buffers[b]; entry.bytes > 0) {
        matrices[m]->adopt(b, PageBuffer(file, bytes.data() + entry.offset, entry.bytes));
      }
    }
  }
  parts.from_cache = true;
  return true;
}

PackedFile::PackedFile(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".unfinished.XXXXXX") {
  fd_ = ::mkostemp(temporary_.data(), O_CLOEXEC);
  if (fd_ < 0) {
    refuse(path_.parent_path(), "a file in it cannot be made", errno);
  }
}

PackedFile::~PackedFile() {
  if (fd_ >= 0) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
  }
}

void PackedFile::write(const void* data, std::size_t bytes, std::uint64_t at) const {
  const auto* from = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(fd_, from, bytes, static_cast<off_t>(at));
    if (written < 0 && errno != EINTR) {
      refuse(path_, "cannot be written", errno);
    }
    const auto done = static_cast<std::size_t>(std::max<ssize_t>(written, 0));
    from += done;
    bytes -= done;
    at += done;
  }
}

void PackedFile::finish(Layer::Parts& parts, const Fingerprint& source) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kPackedVersion;
  header.source = source;
  std::uint64_t end = kHeaderBytes;
  const auto matrices = matrices_of(parts);
  for (std::size_t m = 0; m < kMatrices; ++m) {
    header.matrices[m] = entry_of(matrices[m]);
    for (std::size_t b = 0; matrices[m] != nullptr && b < PackedMatrices::kBuffers; ++b) {
      const std::span<const std::byte> buffer = matrices[m]->buffers()[b];
      if (buffer.empty()) {
        continue;
      }
      const std::uint64_t alignment = buffer.size() >= kHugePage ? kHugePage : kPage;
      const std::uint64_t offset = (end + alignment - 1) / alignment * alignment;
      write(buffer.data(), buffer.size(), offset);
      end = offset + buffer.size();
      header.matrices[m].buffers[b] = {offset, buffer.size(),
                                       checksum_of(buffer.data(), buffer.size(), parts.options.threads)};
    }
  }
  header.file_bytes = std::max(end, kHeaderBytes);
  header.checksum = header_checksum(header);
  write(&header, sizeof header, 0);
  if (::fchmod(fd_, 0644) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    refuse(path_, "cannot get its name", errno);
  }
  ::close(std::exchange(fd_, -1));
}

}  // namespace switchyard
