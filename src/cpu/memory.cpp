#include "cpu/memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "fail.hpp"

namespace switchyard {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

PageBuffer::PageBuffer(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) {
    return;
  }
  mapped_ = bytes + kHugePage;  // room to align
  mapping_ = mapped_ < bytes
                 ? MAP_FAILED
                 : mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    fail(Code::out_of_memory, "memory: {} bytes could not be mapped", bytes);
  }
  const auto at = reinterpret_cast<std::uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) + ((kHugePage - at % kHugePage) % kHugePage);
  (void)madvise(data_, bytes, MADV_HUGEPAGE);  // a wish: without huge pages it only is slower
}

PageBuffer::~PageBuffer() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapped_);
  }
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapped_(std::exchange(other.mapped_, 0)),
      owner_(std::move(other.owner_)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(owner_, other.owner_);
  return *this;
}

}  // namespace switchyard
