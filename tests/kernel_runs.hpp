// Single kernels of a table on given data, and the bits that they yield.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/kernels.hpp"
#include "experts/packed.hpp"
#include "switchyard/workspace.hpp"

namespace kernel_runs {

using namespace switchyard;

// NaN as one value: its payload is not defined.
inline std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::memcpy(&bits[i], &values[i], 4);
    bits[i] = std::isnan(values[i]) ? 0x7fc00000U : bits[i];
  }
  return bits;
}

inline constexpr Format kScaledFormats[] = {Format::i8,    Format::i4,    Format::f8_e4m3,
                                            Format::mxfp4, Format::mxfp8, Format::nvfp4};

// What a GEMM may have besides; empty: nothing.
struct GemmExtras {
  std::vector<float> bias = {};       // of each feature; with a gate, of gate and up both
  std::vector<float> row_scale = {};  // of each row
  std::vector<float> h_scale = {};    // of each row, with a function
  Format format = Format::f32;        // of the weights, if the math is decoded or integer
  bool streams_out = false;
};

// rows [*, depth] · view [features, depth]ᵀ; with a function, which takes weight for the gate's and for up's: h.
inline std::vector<std::uint32_t> gemm(const Kernels& kernels, Math math, const std::vector<float>& rows,
                                       const WeightView& view, std::int64_t features, std::int64_t depth,
                                       const ExpertFunction* function = nullptr, const GemmExtras& extras = {}) {
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / depth;
  const bool gated = function != nullptr && function->gated;
  const Format format = math == Math::f32                             ? Format::f32
                        : math == Math::widened || math == Math::bf16 ? Format::bf16
                                                                      : extras.format;
  PackedMatrices packed(1, features, depth, gated, format);
  packed.pack(0, view, view, Threads::pool(1));
  if (!extras.bias.empty()) {
    const WeightView bias{extras.bias.data(), DType::f32, 1, 0};
    packed.make_bias();
    packed.pack_bias(0, bias, bias);
  }
  std::vector<float> out(static_cast<std::size_t>(count * packed.out_width()));
  const std::size_t out_bytes = out.size() * sizeof(float);
  const Workspace aligned(out_bytes);
  Workspace scratch(gemm_scratch_bytes(math, count, packed.padded_depth()));
  GemmArgs args{};
  args.math = math;
  args.format = format;
  args.scales = packed.scales();
  args.rows = rows.data();
  args.rows_type = DType::f32;
  args.rows_stride = depth;
  args.row_count = count;
  args.depth = depth;
  args.panels = packed.matrix(0);
  args.panel_bytes = packed.panel_bytes();
  args.panel_end = packed.panels();
  args.padded_depth = packed.padded_depth();
  args.bias = packed.bias(0);
  args.row_scale = extras.row_scale.empty() ? nullptr : extras.row_scale.data();
  args.function = function;
  args.h_scale = extras.h_scale.empty() ? nullptr : extras.h_scale.data();
  args.out = aligned.data();
  args.out_type = DType::f32;
  args.out_stride = packed.out_width();
  args.streams_out = extras.streams_out;
  args.scratch = static_cast<std::byte*>(scratch.data());
  kernels.gemm(args);
  std::memcpy(out.data(), aligned.data(), out_bytes);
  return bits_of(out);
}

// The same of weight [*, depth].
inline std::vector<std::uint32_t> gemm(const Kernels& kernels, Math math, const std::vector<float>& rows,
                                       const std::vector<float>& weight, std::int64_t depth,
                                       const ExpertFunction* function = nullptr, const GemmExtras& extras = {}) {
  return gemm(kernels, math, rows, WeightView{weight.data(), DType::f32, depth, 1},
              static_cast<std::int64_t>(weight.size()) / depth, depth, function, extras);
}

// bf16 values of every kind: normal, huge, tiny, denormal, zero of both signs; not finite ones only if asked for.
inline std::vector<float> wild_values(std::size_t count, bool finite, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    auto bits = static_cast<std::uint32_t>(random() & 0xffff0000U);
    if (random() % 4 == 0) {
      bits &= 0x807f0000U;  // a denormal or zero
    }
    if (finite && (bits & 0x7f800000U) >= 0x60000000U) {
      bits &= 0xbfffffffU;  // keeps sums finite
    }
    std::memcpy(&value, &bits, 4);
  }
  return values;
}

inline std::vector<float> normal_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(random);
  }
  return values;
}

struct Routed {
  std::vector<std::int32_t> expert;
  std::vector<std::uint32_t> weight;
  bool operator==(const Routed&) const = default;
};

inline Routed route(const Kernels& kernels, const std::vector<float>& logits, std::int32_t experts,
                    const RouterOptions& options) {
  const std::int64_t count = static_cast<std::int64_t>(logits.size()) / experts;
  std::vector<std::int32_t> expert(static_cast<std::size_t>(count * options.topk));
  std::vector<float> weight(expert.size());
  const RouteInputs inputs;
  RouteOutputs outputs;
  outputs.expert = {expert.data(), DType::i32};
  outputs.weight = {weight.data(), DType::f32};
  const Workspace scratch(route_workspace_bytes(count, experts));
  RouteArgs args{};
  args.logits = logits.data();
  args.logits_type = DType::f32;
  args.stride = experts;
  args.experts = experts;
  args.options = &options;
  args.selection_bias = static_cast<const float*>(options.selection_bias.data);
  args.inputs = &inputs;
  args.outputs = &outputs;
  args.end = count;
  args.scratch = static_cast<float*>(scratch.data());
  kernels.route(args);
  return {expert, bits_of(weight)};
}

// Every second slot off, a shared row with a gate, hidden of any size; bf16 results as they are, f32 ones as their
// bits. With `all`, slots of identity experts, a start and a bias too.
inline std::vector<std::uint32_t> combine(const Kernels& kernels, std::int64_t hidden, DType out_type,
                                          bool all = false) {
  constexpr std::int32_t kTopk = 3;
  constexpr std::int64_t kTokens = 5;
  const std::int64_t width = (hidden + kPanel - 1) / kPanel * kPanel;
  const std::vector<float> rows = normal_values(static_cast<std::size_t>(kTokens * kTopk * width), 1);
  const std::vector<float> shared = normal_values(static_cast<std::size_t>(kTokens * width), 2);
  const std::vector<float> gates = normal_values(kTokens, 3);
  const std::vector<float> weight = normal_values(kTokens * kTopk, 4);
  std::vector<std::int64_t> slot_to_row(kTokens * kTopk);
  for (std::size_t slot = 0; slot < slot_to_row.size(); ++slot) {
    slot_to_row[slot] = slot % 2 == 0 ? static_cast<std::int64_t>(slot) : all ? kIdentityRow : kOffRow;
  }
  std::vector<std::uint32_t> out(static_cast<std::size_t>(kTokens * hidden));
  CombineArgs args{};
  args.rows = rows.data();
  args.rows_stride = width;
  args.slot_to_row = slot_to_row.data();
  args.weight = weight.data();
  args.topk = kTopk;
  args.shared = shared.data();
  args.shared_stride = width;
  args.gate_logits = gates.data();
  args.gate_stride = 1;
  args.count = kTokens;
  args.hidden = hidden;
  args.out = out.data();
  args.out_type = out_type;
  args.out_stride = hidden;
  if (all) {
    args.start = args.rows;
    args.start_stride = width;
    args.weighted_rows = true;
    args.x = shared.data();
    args.x_type = out_type;
    args.x_stride = width;
    args.bias = args.shared;
  }
  kernels.combine(args);
  return out;
}

// Numbers of anything but large exponents, in 16 bits; or normal ones in f32.
inline std::vector<float> matrix_values(std::int64_t count, DType dtype, unsigned seed) {
  std::vector<float> values = normal_values(static_cast<std::size_t>(count), seed);
  if (dtype != DType::f32) {
    std::mt19937 random(seed);
    for (float& value : values) {
      const std::uint32_t pair = static_cast<std::uint32_t>(random()) & 0xbbffbbffU;
      std::memcpy(&value, &pair, sizeof pair);
    }
  }
  return values;
}

// [rows,depth] · [depth,cols], the first as it is or transposed in memory. bf16 and f16 results as they are, f32 ones as
// their bits.
inline std::vector<std::uint32_t> accumulate(const Kernels& kernels, std::int64_t rows, std::int64_t cols,
                                             std::int64_t depth, bool transposed, DType a_type, DType b_type,
                                             DType out_type) {
  const std::vector<float> a = matrix_values(rows * depth, a_type, 1);
  const std::vector<float> b = matrix_values(depth * cols, b_type, 2);
  std::vector<std::uint32_t> out(static_cast<std::size_t>(rows * cols));
  kernels.accumulate({a.data(), a_type, transposed ? 1 : depth, transposed ? rows : 1, b.data(), b_type, cols, rows,
                      cols, depth, out.data(), out_type, cols});
  return out;
}

}  // namespace kernel_runs
