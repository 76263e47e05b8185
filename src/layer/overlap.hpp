// Memory that must not be shared between arguments.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "fail.hpp"
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

// Offsets in bytes must fit into 64 bits. rows >= 0, stride >= 1.
inline void check_offsets(const char* step, const char* name, std::int64_t rows, std::int64_t stride) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 60;
  if (stride > kMostElements / (rows > 0 ? rows : 1)) {
    fail(Code::invalid_argument, "{}: {} has {} rows with stride {}, expected at most 2^60 elements", step, name, rows,
         stride);
  }
}

// What a call reads, or what it writes, by name; of both what is there.
class NamedMemory {
 public:
  void add(const char* name, const Bytes& bytes) {
    if (bytes.begin != nullptr) {
      all_.at(count_++) = {name, bytes};
    }
  }
  void add(const char* name, const void* data, std::int64_t count, DType dtype) {
    if (data != nullptr) {
      add(name, {data, static_cast<std::size_t>(count) * dtype_bytes(dtype)});
    }
  }

  // Throws invalid_argument if what is written overlaps what is read, or something else that is written.
  friend void check_apart(const char* step, const NamedMemory& written, const NamedMemory& read) {
    for (std::size_t i = 0; i < written.count_; ++i) {
      for (std::size_t j = 0; j < read.count_; ++j) {
        check_pair(step, written.all_[i], read.all_[j]);
      }
      for (std::size_t j = 0; j < i; ++j) {
        check_pair(step, written.all_[i], written.all_[j]);
      }
    }
  }

 private:
  struct Named {
    const char* name;
    Bytes bytes;
  };

  static void check_pair(const char* step, const Named& written, const Named& other) {
    if (overlap(written.bytes, other.bytes)) {
      fail(Code::invalid_argument, "{}: {} and {} overlap, expected separate memory", step, written.name, other.name);
    }
  }

  static constexpr std::size_t kMost = 24;  // a routing writes 13 outputs and the workspace

  std::array<Named, kMost> all_;
  std::size_t count_ = 0;
};

}  // namespace switchyard
