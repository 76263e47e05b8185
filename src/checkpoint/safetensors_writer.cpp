#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <unordered_set>

#include "checkpoint/json_text.hpp"
#include "checkpoint/safetensors.hpp"
#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

using nlohmann::ordered_json;

void check_tensor(const Tensor& tensor, std::unordered_set<std::string_view>& names) {
  const std::string where = format_text("write_safetensors: tensor {}", printable(tensor.name));
  if (tensor.name == "__metadata__") fail(Code::invalid_argument, "{} has a reserved name, expected another", where);
  if (!names.insert(tensor.name).second) fail(Code::invalid_argument, "{} appears twice, expected once", where);
  const auto bytes = tensor_bytes(tensor.dtype, tensor.shape);
  if (!bytes) {
    fail(Code::invalid_argument, "{} has shape [{}], expected sizes from 0 and a product below 2^64", where,
         fmt::join(tensor.shape, ","));
  }
  if (tensor.bytes != *bytes) {
    fail(Code::invalid_argument, "{} has {} bytes, expected {} for {} [{}]", where, tensor.bytes, *bytes,
         dtype_name(tensor.dtype), fmt::join(tensor.shape, ","));
  }
  if (tensor.data == nullptr && tensor.bytes > 0) {
    fail(Code::invalid_argument, "{} has no data, expected {} bytes", where, tensor.bytes);
  }
}

// Length and JSON text, padded so that the data begins at a multiple of 8.
std::string header_of(std::span<const Tensor> tensors) {
  ordered_json header = ordered_json::object();
  std::unordered_set<std::string_view> names;
  std::size_t begin = 0;
  for (const Tensor& tensor : tensors) {
    check_tensor(tensor, names);
    // push_back appends; operator[] would search all names so far.
    header.get_ref<ordered_json::object_t&>().push_back({tensor.name,
                                                         {{"dtype", safetensors_dtype(tensor.dtype)},
                                                          {"shape", tensor.shape},
                                                          {"data_offsets", {begin, begin + tensor.bytes}}}});
    begin += tensor.bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const ordered_json::exception&) {
    fail(Code::invalid_argument, "write_safetensors: a tensor's name is not valid UTF-8, expected names that are");
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string prefix(kSafetensorsPrefix, '\0');
  for (std::size_t i = 0; i < kSafetensorsPrefix; ++i) prefix[i] = static_cast<char>(text.size() >> (8 * i) & 0xFF);
  return prefix + text;
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

// A new file beside its target, which it replaces in commit(); without that it is removed. A target that is no regular
// file, a pipe for one, is written itself.
class NewFile {
 public:
  explicit NewFile(const std::filesystem::path& path) : target_(path) {
    struct stat status {};
    const bool exists = ::stat(path.c_str(), &status) == 0;
    if (!exists && errno != ENOENT) refuse("cannot be created");
    if (exists && !S_ISREG(status.st_mode)) {
      fd_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
      if (fd_ < 0) refuse("cannot be opened");
      return;
    }
    target_ = linked_file(path);
    create();
    if (exists && ::fchmod(fd_, status.st_mode & 07777) != 0) {
      const int error = errno;
      discard();
      errno = error;
      refuse("cannot be given its permissions");
    }
  }
  ~NewFile() { discard(); }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, std::size_t bytes) {
    constexpr std::size_t kPiece = std::size_t{1} << 30;
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = ::write(fd_, next, std::min(bytes, kPiece));
      if (written < 0) {
        if (errno == EINTR) continue;
        refuse("cannot be written");
      }
      next += written;
      bytes -= static_cast<std::size_t>(written);
    }
  }

  void commit() {
    if (!path_.empty() && ::fsync(fd_) != 0) refuse("cannot be written to disk");
    const int closed = ::close(fd_);
    fd_ = -1;
    if (closed != 0) refuse("cannot be written to disk");
    if (path_.empty()) return;
    if (::rename(path_.c_str(), target_.c_str()) != 0) refuse("cannot be put in place");
    path_.clear();
    sync_folder();
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    fail(Code::io, "write_safetensors: {}: {}: {}", target_.string(), what, std::strerror(errno));
  }

  void create() {
    // Several writers of one target take different names.
    constexpr int kNames = 1000;
    for (int i = 0; i < kNames && fd_ < 0; ++i) {
      path_ = target_.string() + format_text(".part{}", i);
      fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd_ < 0 && errno != EEXIST) break;
    }
    if (fd_ < 0) refuse("cannot be created");
  }

  void discard() noexcept {
    if (fd_ >= 0) ::close(fd_);
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  // Makes the new name last; some file systems cannot, and the data is safe without it.
  void sync_folder() const {
    const auto folder = target_.has_parent_path() ? target_.parent_path() : std::filesystem::path(".");
    const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    ::fsync(fd);
    ::close(fd);
  }

  std::filesystem::path target_;
  std::string path_;  // of the new file; empty if the target itself is written
  int fd_ = -1;
};

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const Tensor> tensors) {
  const std::string header = header_of(tensors);
  NewFile file(path);
  file.write(header.data(), header.size());
  for (const Tensor& tensor : tensors) file.write(tensor.data, tensor.bytes);
  file.commit();
}

}  // namespace switchyard
