// Memory of a forward: its size is known beforehand, the caller owns it.
#pragma once

#include <cstddef>

#include "switchyard/export.hpp"

namespace switchyard {

inline constexpr std::size_t kWorkspaceAlignment = 64;

// A block of bytes. Its content means nothing before and after a call, but for the views that the call returned. One
// forward at a time may use a workspace.
class SWITCHYARD_API Workspace {
 public:
  Workspace() = default;
  // Owns `bytes` of fresh memory. Throws out_of_memory.
  explicit Workspace(std::size_t bytes);
  // Borrows; data must be aligned to kWorkspaceAlignment and outlive the workspace. Throws invalid_argument if it is
  // not aligned.
  Workspace(void* data, std::size_t bytes);
  ~Workspace();
  Workspace(Workspace&& other) noexcept;
  Workspace& operator=(Workspace&& other) noexcept;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const noexcept { return data_; }
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  bool owned_ = false;
};

}  // namespace switchyard
