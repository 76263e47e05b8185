// How many rows the kernels stream weights for, seen in what they leave in their scratch memory.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "cpu/kernels.hpp"
#include "experts/packed.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard::testing {

// Runs `rows` rows of ones. Rows that go by tiles leave their sums behind the tiles or, with scales, a decoded block of
// weights behind the sums; streamed ones neither.
inline bool leaves_no_tiles(Math math, Format format, std::int64_t rows) {
  constexpr std::int64_t kDeep = 128;
  const std::vector<float> ones(static_cast<std::size_t>(std::max(rows, kPanel) * kDeep), 1.0F);
  PackedMatrices packed(1, kPanel, kDeep, false, format);
  packed.pack(0, {ones.data(), DType::f32, kDeep, 1}, {}, Threads::pool(1));
  const Workspace scratch(gemm_scratch_bytes(math, rows, packed.padded_depth()));
  std::fill_n(static_cast<std::byte*>(scratch.data()), scratch.bytes(), std::byte{0xa5});
  std::vector<float> out(static_cast<std::size_t>(rows * packed.out_width()));
  GemmArgs args{};
  args.math = math;
  args.format = format;
  args.scales = packed.scales();
  args.rows = ones.data();
  args.rows_type = DType::f32;
  args.rows_stride = kDeep;
  args.row_count = rows;
  args.depth = kDeep;
  args.panels = packed.matrix(0);
  args.panel_bytes = packed.panel_bytes();
  args.panel_end = packed.panels();
  args.padded_depth = packed.padded_depth();
  args.out = out.data();
  args.out_type = DType::f32;
  args.out_stride = packed.out_width();
  args.scratch = static_cast<std::byte*>(scratch.data());
  current_kernels().gemm(args);
  const std::int64_t tiles = rows * packed.padded_depth();
  const std::int64_t begin = has_scales(format) ? tiles + rows * kPanel : tiles;
  const std::int64_t end = has_scales(format) ? begin + kDecodeDepth * kPanel : begin + rows * kPanel;
  const auto* bytes = static_cast<const std::byte*>(scratch.data());
  return std::all_of(bytes + begin * 4, bytes + end * 4, [](std::byte b) { return b == std::byte{0xa5}; });
}

// The most rows that are streamed, fewer ones too; none: any number leaves nothing, as where codes are multiplied as they
// are packed, or decoded in registers.
inline std::optional<std::int64_t> streamed_rows(Math math, Format format) {
  if (leaves_no_tiles(math, format, 100)) return std::nullopt;
  std::int64_t rows = 0;
  while (leaves_no_tiles(math, format, rows + 1)) ++rows;
  return rows;
}

}  // namespace switchyard::testing
