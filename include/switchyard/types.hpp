// Element types and views of memory that the caller owns.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/export.hpp"

namespace switchyard {

// Pinned numbers, shared with the C API.
enum class DType : std::int32_t {
  f32 = 0,
  bf16 = 1,
  f16 = 2,
  f64 = 3,
  i8 = 4,
  u8 = 5,
  i16 = 6,
  u16 = 7,
  i32 = 8,
  u32 = 9,
  i64 = 10,
  u64 = 11,
  boolean = 12,
  f8_e4m3 = 13,
  f8_e5m2 = 14,
  f8_e8m0 = 15,
};

// Bytes of one element.
SWITCHYARD_API std::size_t dtype_bytes(DType dtype) noexcept;
// Lower-case name: "f32", "bf16", ...
SWITCHYARD_API const char* dtype_name(DType dtype) noexcept;

// Elements without gaps whose number follows from where they are used. Not owned; no data: not given, or not wanted.
struct ConstArray {
  const void* data = nullptr;
  DType dtype = DType::f32;
};
struct Array {
  void* data = nullptr;
  DType dtype = DType::f32;
};

// Rows of activations, e.g. x [tokens, hidden]. Not owned. `stride` is the distance of two rows in elements, >= cols.
struct ConstMatrix {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  ConstMatrix() = default;
  ConstMatrix(const void* data_, DType dtype_, std::int64_t rows_, std::int64_t cols_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), stride(cols_) {}
  ConstMatrix(const float* data_, std::int64_t rows_, std::int64_t cols_)
      : ConstMatrix(data_, DType::f32, rows_, cols_) {}
};

// The same, written to.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  Matrix() = default;
  Matrix(void* data_, DType dtype_, std::int64_t rows_, std::int64_t cols_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), stride(cols_) {}
  Matrix(float* data_, std::int64_t rows_, std::int64_t cols_) : Matrix(data_, DType::f32, rows_, cols_) {}
};

// A weight matrix [out, in] wherever it stands: element (o, i) is at data + (o * out_stride + i * in_stride) elements.
// A tensor stored [in, out] has out_stride 1; one half of interleaved gate/up rows has twice the row distance. f32,
// bf16 or f16. Not owned.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t out_stride = 0;
  std::int64_t in_stride = 1;
};

}  // namespace switchyard
