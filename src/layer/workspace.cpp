#include "switchyard/workspace.hpp"

#include <cstdint>
#include <new>
#include <utility>

#include "fail.hpp"

namespace switchyard {

Workspace::Workspace(std::size_t bytes) : bytes_(bytes), owned_(true) {
  data_ = ::operator new (bytes, std::align_val_t{kWorkspaceAlignment}, std::nothrow);
  if (data_ == nullptr) {
    fail(Code::out_of_memory, "workspace: {} bytes could not be allocated", bytes);
  }
}

Workspace::Workspace(void* data, std::size_t bytes) : data_(data), bytes_(bytes) {
  if (data == nullptr && bytes > 0) {
    fail(Code::invalid_argument, "workspace: found no memory for {} bytes, expected a block of that size", bytes);
  }
  if (reinterpret_cast<std::uintptr_t>(data) % kWorkspaceAlignment != 0) {
    fail(Code::invalid_argument, "workspace: found memory at {}, expected an alignment of {}", data,
         kWorkspaceAlignment);
  }
}

Workspace::~Workspace() {
  if (owned_) {
    ::operator delete (data_, std::align_val_t{kWorkspaceAlignment});
  }
}

Workspace::Workspace(Workspace&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      owned_(std::exchange(other.owned_, false)) {}

Workspace& Workspace::operator=(Workspace&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(owned_, other.owned_);
  return *this;
}

}  // namespace switchyard
