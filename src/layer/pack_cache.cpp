#include "layer/pack_cache.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "format_text.hpp"

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
constexpr std::string_view kUnfinished = ".unfinished.";

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
using Matrices = std::array<PackedMatrices*, kMatrices>;

Matrices matrices_of(Layer::Parts& parts) {
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

bool is_there(const PackedMatrices* matrix) { return matrix != nullptr && !matrix->empty(); }

MatrixEntry entry_of(const PackedMatrices* matrix) {
  MatrixEntry entry{};
  if (is_there(matrix)) {
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

// A file's matrices, to be filled: as those that were planned, with scales where the file has them.
using Mapped = std::array<PackedMatrices, kMatrices>;

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
  const std::int64_t longest = std::max(scales.group, matrix.padded_depth());
  if (entry.group < 1 || entry.group > longest || entry.group % kShortestGroup != 0 ||
      entry.scale_type != static_cast<std::int64_t>(scales.dtype)) {
    return false;
  }
  scales.group = entry.group;
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

bool is_for(const Header& header, std::size_t file_bytes, const Matrices& matrices, const Fingerprint& source,
            Mapped& mapped) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.version != kPackedVersion ||
      header.checksum != header_checksum(header) || header.file_bytes != file_bytes || header.source != source) {
    return false;
  }
  for (std::size_t m = 0; m < kMatrices; ++m) {
    const PackedMatrices* planned = matrices[m];
    if (!same_matrix(header.matrices[m], entry_of(planned))) {
      return false;
    }
    if (is_there(planned)) {
      mapped[m] =
          PackedMatrices(planned->count(), planned->features(), planned->depth(), planned->gated(), planned->format());
      if (!lay_out(mapped[m], header.matrices[m])) {
        return false;
      }
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

bool is_named(int fd, const char* path) {
  struct stat open {};
  struct stat named {};
  return ::fstat(fd, &open) == 0 && ::lstat(path, &named) == 0 && open.st_dev == named.st_dev &&
         open.st_ino == named.st_ino;
}

// Removes unfinished files whose processes are gone: nobody holds their locks. One that was finished in between has
// another name, and this one may be somebody's again.
void remove_abandoned(const std::filesystem::path& folder) {
  const std::string mark = format_text(".packed{}", kUnfinished);
  std::error_code error;
  for (std::filesystem::directory_iterator at(folder, error), end; at != end; at.increment(error)) {
    const std::filesystem::path& path = at->path();
    const bool marked = path.filename().string().find(mark) != std::string::npos;
    const int fd = marked ? ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) : -1;
    if (fd < 0) {
      continue;
    }
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && is_named(fd, path.c_str())) {
      ::unlink(path.c_str());
    }
    ::close(fd);
  }
}

// An errno, 0: they are reserved, or the filesystem cannot say. In steps, as a signal may undo one.
int reserve(int fd, std::uint64_t bytes) {
  constexpr std::uint64_t kStep = std::uint64_t{64} << 20;
  for (std::uint64_t at = 0; at < bytes;) {
    const std::uint64_t step = std::min(kStep, bytes - at);
    if (::fallocate(fd, 0, static_cast<off_t>(at), static_cast<off_t>(step)) == 0) {
      at += step;
    } else if (errno != EINTR) {
      return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : errno;
    }
  }
  return 0;
}

// Gives every buffer its place in a file, of `parts` that are laid out or packed; returns where the last one ends.
std::uint64_t place_buffers(Layer::Parts& parts, Header& header) {
  std::uint64_t end = kHeaderBytes;
  const Matrices matrices = matrices_of(parts);
  for (std::size_t m = 0; m < kMatrices; ++m) {
    header.matrices[m] = entry_of(matrices[m]);
    for (std::size_t b = 0; is_there(matrices[m]) && b < PackedMatrices::kBuffers; ++b) {
      const std::size_t bytes = b == 0 ? matrices[m]->buffer_bytes(0) : matrices[m]->buffers()[b].size();
      if (bytes > 0) {
        const std::uint64_t alignment = bytes >= kHugePage ? kHugePage : kPage;
        const std::uint64_t offset = (end + alignment - 1) / alignment * alignment;
        header.matrices[m].buffers[b] = {offset, bytes, 0};
        end = offset + bytes;
      }
    }
  }
  return end;
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
  return folder / format_text("layer_{}_{:016x}.packed", layer, hash);
}

bool map_packed(Layer::Parts& parts, const std::filesystem::path& path, const Fingerprint& source) {
  const auto file = std::make_shared<const MappedFile>(path);
  const std::span<const std::byte> bytes = file->bytes();
  Header header;
  if (bytes.size() < kHeaderBytes) {
    return false;
  }
  std::memcpy(&header, bytes.data(), sizeof header);
  const Matrices matrices = matrices_of(parts);
  Mapped mapped;
  if (!is_for(header, bytes.size(), matrices, source, mapped)) {
    return false;
  }
  for (std::size_t m = 0; m < kMatrices; ++m) {
    const bool there = !mapped[m].empty();
    for (std::size_t b = 0; b < PackedMatrices::kBuffers; ++b) {
      const BufferEntry& entry = header.matrices[m].buffers[b];
      if (!is_whole(entry, there ? mapped[m].buffer_bytes(b) : 0, there && b == 0, bytes, parts.options.threads)) {
        return false;
      }
      if (entry.bytes > 0) {
        mapped[m].adopt(b, PageBuffer(file, bytes.data() + entry.offset, entry.bytes));
      }
    }
  }
  for (std::size_t m = 0; m < kMatrices; ++m) {
    if (is_there(matrices[m])) {
      *matrices[m] = std::move(mapped[m]);
    }
  }
  parts.from_cache = true;
  return true;
}

PackedFile::PackedFile(std::filesystem::path path, Layer::Parts& parts) : path_(std::move(path)) {
  remove_abandoned(path_.parent_path());
  make();
  Header header{};
  const std::uint64_t bytes = place_buffers(parts, header);
  if (const int error = reserve(fd_, bytes); error != 0) {
    discard();
    refuse(path_, format_text("{} bytes cannot be reserved", bytes).c_str(), error);
  }
}

PackedFile::~PackedFile() { discard(); }

// Locked, and under a name of its own: the next one where a process took it for abandoned before it was locked.
void PackedFile::make() {
  constexpr int kMostNames = 10000;  // where there are no locks, killed processes leave some
  for (int number = 0; number < kMostNames; ++number) {
    temporary_ = format_text("{}{}{}.{}", path_.string(), kUnfinished, ::getpid(), number);
    fd_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd_ < 0 && errno == EEXIST) {
      continue;
    }
    if (fd_ < 0) {
      refuse(path_.parent_path(), "a file in it cannot be made", errno);
    }
    while (::flock(fd_, LOCK_EX) != 0 && errno == EINTR) {
    }  // where there are no locks, nothing is taken for abandoned
    if (is_named(fd_, temporary_.c_str())) {
      return;
    }
    ::close(std::exchange(fd_, -1));
  }
  refuse(path_.parent_path(), "a file in it cannot be made", EEXIST);
}

void PackedFile::discard() {
  if (fd_ >= 0) {
    ::unlink(temporary_.c_str());
    ::close(std::exchange(fd_, -1));
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
  header.file_bytes = place_buffers(parts, header);
  const Matrices matrices = matrices_of(parts);
  for (std::size_t m = 0; m < kMatrices; ++m) {
    for (std::size_t b = 0; b < PackedMatrices::kBuffers; ++b) {
      if (BufferEntry& entry = header.matrices[m].buffers[b]; entry.bytes > 0) {
        const std::byte* buffer = matrices[m]->buffers()[b].data();
        write(buffer, entry.bytes, entry.offset);
        entry.checksum = checksum_of(buffer, entry.bytes, parts.options.threads);
      }
    }
  }
  header.checksum = header_checksum(header);
  write(&header, sizeof header, 0);
  if (::ftruncate(fd_, static_cast<off_t>(header.file_bytes)) != 0 ||
      ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    refuse(path_, "cannot get its name", errno);
  }
  ::close(std::exchange(fd_, -1));
}

}  // namespace switchyard
