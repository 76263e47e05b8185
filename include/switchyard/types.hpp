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

// What the elements of a weight are stored as. Two 4-bit codes share a byte, the low half is the first of them.
enum class Codes : std::int32_t {
  plain = 0,    // numbers of WeightView::dtype
  i8 = 1,       // two's complement
  u8 = 2,       // unsigned, minus a zero of 128
  i4 = 3,       // two's complement
  u4 = 4,       // unsigned, minus the zero of WeightZeros
  f8_e4m3 = 5,  // no infinities; 0x7f and 0xff are NaN
  f4_e2m1 = 6,  // 0, 0.5, 1, 1.5, 2, 3, 4, 6; the high bit is the sign
};

// "plain", "i8", ...
SWITCHYARD_API const char* codes_name(Codes codes) noexcept;

// A block that is never left: one scale for all elements of a row, or of a column.
inline constexpr std::int64_t kWholeBlock = std::int64_t{1} << 62;

// What the codes of a weight are multiplied with. The scale of element (o, i) stands at data + (p * out_stride + q *
// in_stride) elements, where p = (o + first_out) / out_block and q = i / in_block. f32, bf16, f16, f8_e8m0 (2^(byte -
// 127), 255 is NaN) or f8_e4m3. Not owned; no data: there are none.
struct WeightScales {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t out_stride = 0;
  std::int64_t in_stride = 0;
  std::int64_t out_block = 1;
  std::int64_t in_block = 1;
  std::int64_t first_out = 0;  // outputs of the scaled tensor before this weight
  float factor = 1.0F;         // one more for the whole weight
};

// What is subtracted from codes of type u4: one number per scale, itself u4, at data + (p * out_stride + q * in_stride)
// half bytes; the zero is (stored + offset) mod 16. No data: `offset` everywhere. Not owned.
struct WeightZeros {
  const void* data = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t in_stride = 0;
  std::int32_t offset = 8;
};

// A weight matrix [out, in] wherever it stands. Element (o, i) is at data + (o * out_stride + i / in_run * in_stride +
// i % in_run) elements, half bytes if the codes have 4 bits. A tensor stored [in, out] has out_stride 1; one half of
// interleaved gate/up rows has twice the row distance; words [in / 8, out] of eight codes along the inputs have in_run 8,
// out_stride 8 and in_stride 8 * out. The element is code * scale * factor: the exact product rounded once to f32. Plain
// ones are f32, bf16 or f16 without scales; all others need scales. Not owned.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::f32;  // of plain codes
  std::int64_t out_stride = 0;
  std::int64_t in_stride = 1;
  std::int64_t in_run = 1;
  Codes codes = Codes::plain;
  WeightScales scales = {};
  WeightZeros zeros = {};
};

}  // namespace switchyard
