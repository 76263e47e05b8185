#include "switchyard/tensor_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "checkpoint/json_text.hpp"
#include "checkpoint/safetensors.hpp"
#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";

[[noreturn]] void refuse(const std::filesystem::path& path, const char* what, int error) {
  fail(Code::io, "safetensors: {}: {}: {}", path.string(), what, std::strerror(error));
}

class FileDescriptor {
 public:
  // Without waiting, so that a named pipe is refused below instead of blocking here.
  explicit FileDescriptor(const std::filesystem::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (fd_ < 0) refuse(path, "cannot be opened", errno);
  }
  ~FileDescriptor() { ::close(fd_); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const noexcept { return fd_; }

 private:
  int fd_;
};

// A whole file, read-only. The addresses stay when the object moves.
class Mapping {
 public:
  explicit Mapping(const std::filesystem::path& path) {
    const FileDescriptor file(path);
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) refuse(path, "cannot be examined", errno);
    if (S_ISDIR(status.st_mode)) refuse(path, "cannot be read", EISDIR);
    if (!S_ISREG(status.st_mode)) fail(Code::io, "safetensors: {}: is no regular file, expected one", path.string());
    const auto size = static_cast<std::size_t>(status.st_size);
    state_ = {size, static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec};
    if (size == 0) return;  // nothing can be mapped; too short is said by the parser
    void* base = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (base == MAP_FAILED) refuse(path, "cannot be mapped", errno);
    bytes_ = {static_cast<const std::byte*>(base), size};
  }
  ~Mapping() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})), state_(other.state_) {}
  Mapping& operator=(Mapping&&) = delete;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::span<const std::byte> bytes() const noexcept { return bytes_; }
  const FileState& state() const noexcept { return state_; }

  bool holds(const std::byte* data, std::size_t bytes) const noexcept {
    const auto first = reinterpret_cast<std::uintptr_t>(bytes_.data());
    const auto at = reinterpret_cast<std::uintptr_t>(data);
    return at >= first && at - first <= bytes_.size() && bytes <= bytes_.size() - (at - first);
  }

  // All pages that hold one of these bytes. A page at either end is a neighbour's too: dropping it costs the neighbour
  // one page fault, keeping it would leave a page per expert in memory.
  static void release(const std::byte* data, std::size_t bytes) noexcept {
    if (bytes == 0) return;
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t before = reinterpret_cast<std::uintptr_t>(data) % page;
    ::madvise(const_cast<std::byte*>(data - before), bytes + before, MADV_DONTNEED);
  }

 private:
  std::span<const std::byte> bytes_;
  FileState state_;
};

// Shard file → names of its tensors.
using Shards = std::map<std::string, std::vector<std::string>>;

bool is_plain_file_name(std::string_view name) {
  constexpr std::string_view kSeparators("/\\\0", 3);
  return !name.empty() && name != "." && name != ".." && name.find_first_of(kSeparators) == std::string_view::npos;
}

Shards read_index(const std::filesystem::path& path) {
  const std::string where = format_text("safetensors: {}", path.string());
  const nlohmann::json index = parse_json(read_json_file(path, "safetensors"), where + ": the index");
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object()) {
    fail(Code::bad_data, "{}: the index has no weight_map, expected an object of tensor and file names", where);
  }
  Shards shards;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_file_name(shard.get_ref<const std::string&>())) {
      fail(Code::bad_data, "{}: weight_map has {} for tensor {}, expected the name of a file in the same folder", where,
           printable_value(shard), printable(tensor));
    }
    shards[shard.get<std::string>()].push_back(tensor);
  }
  return shards;
}

}  // namespace

struct TensorFile::Impl {
  std::string name;
  std::vector<Mapping> files;
  std::vector<FileState> states;
  std::vector<Tensor> tensors;
  std::unordered_map<std::string_view, const Tensor*> by_name;  // into `tensors`, which no longer changes

  std::vector<Tensor> map(const std::filesystem::path& path) {
    files.emplace_back(path);
    states.push_back(files.back().state());
    return parse_safetensors(files.back().bytes(), path.string());
  }

  // The tensors that the index names, and no others.
  void map_shards(const std::filesystem::path& index) {
    for (auto& [shard, names] : read_index(index)) {
      std::sort(names.begin(), names.end());
      std::size_t found = 0;
      for (Tensor& tensor : map(index.parent_path() / shard)) {
        if (!std::binary_search(names.begin(), names.end(), tensor.name)) continue;
        ++found;
        tensors.push_back(std::move(tensor));
      }
      if (found != names.size()) fail_missing(names, shard, found);
    }
  }

  [[noreturn]] void fail_missing(const std::vector<std::string>& names, const std::string& shard,
                                 std::size_t found) const {
    std::unordered_set<std::string_view> present;
    for (const Tensor& tensor : std::span(tensors).last(found)) present.insert(tensor.name);
    const auto missing = std::find_if_not(names.begin(), names.end(),
                                          [&](const std::string& wanted) { return present.contains(wanted); });
    fail(Code::bad_data, "safetensors: {}: the index promises tensor {} in {}, which has no such tensor, expected one",
         name, printable(*missing), shard);
  }
};

TensorFile::TensorFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TensorFile::~TensorFile() = default;
TensorFile::TensorFile(TensorFile&&) noexcept = default;
TensorFile& TensorFile::operator=(TensorFile&&) noexcept = default;

TensorFile TensorFile::open(const std::filesystem::path& path) {
  auto impl = std::make_unique<Impl>();
  impl->name = path.string();
  if (path.filename().string().ends_with(kIndexSuffix)) {
    impl->map_shards(path);
  } else {
    impl->tensors = impl->map(path);
  }
  impl->by_name.reserve(impl->tensors.size());
  for (const Tensor& tensor : impl->tensors) impl->by_name.emplace(tensor.name, &tensor);
  return TensorFile(std::move(impl));
}

std::span<const FileState> TensorFile::files() const noexcept { return impl_->states; }

std::span<const Tensor> TensorFile::tensors() const noexcept { return impl_->tensors; }

const Tensor* TensorFile::find(std::string_view name) const noexcept {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : found->second;
}

const Tensor& TensorFile::at(std::string_view name) const {
  const Tensor* tensor = find(name);
  if (tensor == nullptr) {
    fail(Code::bad_data, "safetensors: {}: has no tensor {}, expected one", impl_->name, printable(name));
  }
  return *tensor;
}

void TensorFile::release(const Tensor& tensor) const noexcept { release(tensor.data, tensor.bytes); }

void TensorFile::release(const std::byte* data, std::size_t bytes) const noexcept {
  // Only mapped pages come back from a file; anything else would be lost.
  for (const Mapping& file : impl_->files) {
    if (file.holds(data, bytes)) return Mapping::release(data, bytes);
  }
}

}  // namespace switchyard
