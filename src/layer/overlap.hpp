// Memory that must not be shared between arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "switchyard/types.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard {

struct Bytes {
  const void* begin;
  std::size_t count;
};

// From the first row to the last: columns that lie interleaved count as overlapping.
template <class M>
Bytes bytes_of(const M& matrix) {
  const std::int64_t elements = matrix.rows == 0 ? 0 : (matrix.rows - 1) * matrix.stride + matrix.cols;
  return {matrix.data, static_cast<std::size_t>(elements) * dtype_bytes(matrix.dtype)};
}
inline Bytes bytes_of(const Workspace& workspace) { return {workspace.data(), workspace.bytes()}; }
template <class T>
Bytes bytes_of(const T* data, std::size_t count) {
  return {data, count * sizeof(T)};
}

inline bool overlap(const Bytes& a, const Bytes& b) {
  const auto end = [](const Bytes& bytes) { return static_cast<const std::byte*>(bytes.begin) + bytes.count; };
  const std::less<const void*> before;
  return a.count > 0 && b.count > 0 && before(a.begin, end(b)) && before(b.begin, end(a));
}

}  // namespace switchyard
