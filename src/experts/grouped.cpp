#include "experts/grouped.hpp"

#include <algorithm>

#include "cpu/parallel_for.hpp"

namespace switchyard {
namespace {

// Pieces per thread: the last piece of the slowest thread is 1/32 of its work, and gathering its rows again is still
// small.
constexpr std::int64_t kPiecesPerThread = 32;
// What a panel costs besides its rows, in rows: reading it from memory takes as long as computing about 8 rows (20 flop
// per byte).
constexpr std::int64_t kPanelCost = 8;

// Bytes of weights below which a piece is not cut: its stream is as long as it takes to get up to speed (24 KiB ahead),
// many times.
constexpr std::int64_t kPieceBytes = std::int64_t{256} << 10;

std::int64_t row_pieces(std::int64_t rows) { return (rows + kMaxGemmRows - 1) / kMaxGemmRows; }

// Cuts the rows of each matrix into as few equal parts as the kernels take, and the panels so that every piece costs
// about the same.
std::int64_t cut(const GroupedGemm& gemm, int threads, Piece* pieces) {
  const std::int64_t panels = gemm.weights->panels();
  std::int64_t total = 0;
  for (std::int32_t e = 0; e < gemm.count; ++e) {
    const std::int64_t rows = gemm.offset[e + 1] - gemm.offset[e];
    total += rows + row_pieces(rows) * kPanelCost;
  }
  const std::int64_t most_splits = std::max<std::int64_t>(1, panels * gemm.weights->panel_bytes() / kPieceBytes);
  const std::int64_t target = total * panels / (threads * kPiecesPerThread) + 1;
  std::int64_t count = 0;
  for (std::int32_t e = 0; e < gemm.count; ++e) {
    const std::int64_t begin = gemm.offset[e];
    const std::int64_t rows = gemm.offset[e + 1] - begin;
    const std::int64_t parts = row_pieces(rows);
    for (std::int64_t part = 0; part < parts; ++part) {
      const std::int64_t from = begin + part * rows / parts;
      const std::int64_t to = begin + (part + 1) * rows / parts;
      const std::int64_t cost = (to - from + kPanelCost) * panels;
      const std::int64_t splits = std::min({panels, most_splits, (cost + target - 1) / target});
      for (std::int64_t split = 0; split < splits; ++split) {
        pieces[count++] = {e, from, to, split * panels / splits, (split + 1) * panels / splits};
      }
    }
  }
  return count;
}

// Every part of rows yields at most cost / target + 1 pieces, and all costs together are at most target · threads ·
// kPiecesPerThread.
std::int64_t max_pieces(std::int64_t rows, std::int32_t count, int threads) {
  return threads * kPiecesPerThread + std::min<std::int64_t>(rows, count) + rows / kMaxGemmRows;
}

}  // namespace

std::size_t scratch_bytes(const PackedMatrices& weights, std::int64_t rows) {
  return gemm_scratch_bytes(math_of(weights.format()), std::min(rows, kMaxGemmRows), weights.padded_depth());
}

GroupedMemory carve_grouped(Carver& carver, std::int64_t rows, std::int32_t count, std::size_t scratch, int threads) {
  GroupedMemory memory{};
  memory.scratch_bytes = (scratch + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  memory.pieces = carver.take<Piece>(max_pieces(rows, count, threads));
  memory.scratch = carver.take<std::byte>(static_cast<std::int64_t>(memory.scratch_bytes) * threads);
  return memory;
}

void run_grouped(const GroupedGemm& gemm, const GroupedMemory& memory, const Kernels& kernels, const Threads& threads) {
  const PackedMatrices& weights = *gemm.weights;
  const std::int64_t pieces = cut(gemm, threads.count(), memory.pieces);
  const std::int64_t out_bytes = weights.out_width() * static_cast<std::int64_t>(dtype_bytes(gemm.out_type));
  const std::int64_t row_bytes = gemm.rows.stride * static_cast<std::int64_t>(dtype_bytes(gemm.rows.dtype));
  parallel_for(threads, pieces, [&](std::int64_t item, int worker) {
    const Piece& piece = memory.pieces[item];
    GemmArgs args{};
    args.math = gemm.math;
    args.format = weights.format();
    args.scales = weights.scales();
    args.rows = gemm.row_index != nullptr ? gemm.rows.data
                                          : static_cast<const std::byte*>(gemm.rows.data) + piece.row_begin * row_bytes;
    args.rows_type = gemm.rows.dtype;
    args.rows_stride = gemm.rows.stride;
    args.row_index = gemm.row_index != nullptr ? gemm.row_index + piece.row_begin : nullptr;
    args.row_scale = gemm.row_scale != nullptr ? gemm.row_scale + piece.row_begin : nullptr;
    args.row_count = piece.row_end - piece.row_begin;
    args.depth = weights.depth();
    args.panels = weights.matrix(piece.matrix);
    args.panel_bytes = weights.panel_bytes();
    args.panel_begin = piece.panel_begin;
    args.panel_end = piece.panel_end;
    args.padded_depth = weights.padded_depth();
    args.bias = weights.bias(piece.matrix);
    args.function = gemm.function;
    args.out = static_cast<std::byte*>(gemm.out) + piece.row_begin * out_bytes;
    args.out_type = gemm.out_type;
    args.out_stride = weights.out_width();
    args.scratch = memory.scratch + static_cast<std::size_t>(worker) * memory.scratch_bytes;
    kernels.gemm(args);
  });
}

}  // namespace switchyard
