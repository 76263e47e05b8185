// What the benchmarks of single kernels multiply.
#pragma once

#include <cstddef>

#include "cpu/kernels.hpp"
#include "experts/packed.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard {

struct GemmType {
  const char* name;
  Format format;
  DType rows;
};
inline constexpr GemmType kGemmTypes[] = {
    {"f32", Format::f32, DType::f32},           {"bf16_weights", Format::bf16, DType::f32},
    {"bf16", Format::bf16, DType::bf16},        {"int8", Format::i8, DType::f32},
    {"int4", Format::i4, DType::f32},           {"fp8", Format::f8_e4m3, DType::f32},
    {"mxfp8", Format::mxfp8, DType::f32},       {"mxfp4", Format::mxfp4, DType::f32},
    {"nvfp4", Format::nvfp4, DType::f32},       {"fp8_bf16", Format::f8_e4m3, DType::bf16},
    {"mxfp8_bf16", Format::mxfp8, DType::bf16}, {"mxfp4_bf16", Format::mxfp4, DType::bf16},
    {"nvfp4_bf16", Format::nvfp4, DType::bf16}};

// `rows` rows at x times the only matrix of `packed`; out and scratch still to come.
inline GemmArgs gemm_args(const GemmType& type, const PackedMatrices& packed, const std::byte* x, std::int64_t rows) {
  GemmArgs args{};
  args.math = math_of(type.format, type.rows);
  args.format = type.format;
  args.scales = packed.scales();
  args.rows = x;
  args.rows_type = type.rows;
  args.rows_stride = packed.depth();
  args.row_count = rows;
  args.depth = packed.depth();
  args.panels = packed.matrix(0);
  args.panel_bytes = packed.panel_bytes();
  args.panel_end = packed.panels();
  args.padded_depth = packed.padded_depth();
  args.out_type = DType::f32;
  args.out_stride = packed.out_width();
  return args;
}

}  // namespace switchyard
