// Memory for packed weights.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

namespace switchyard {

// A zeroed block in huge pages where the system has them, aligned to 2 MiB; or a part of memory that `owner` keeps,
// which is only read. Movable.
class PageBuffer {
 public:
  PageBuffer() = default;
  explicit PageBuffer(std::size_t bytes);  // throws out_of_memory
  PageBuffer(std::shared_ptr<const void> owner, const std::byte* data, std::size_t bytes)
      : data_(const_cast<std::byte*>(data)), bytes_(bytes), owner_(std::move(owner)) {}
  ~PageBuffer();
  PageBuffer(PageBuffer&& other) noexcept;
  PageBuffer& operator=(PageBuffer&& other) noexcept;
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapping_ = nullptr;
  std::size_t mapped_ = 0;
  std::shared_ptr<const void> owner_;
};

}  // namespace switchyard
