#include "experts/grouped.hpp"

#include <algorithm>

#include "cpu/parallel_for.hpp"

namespace switchyard {
namespace {

// A piece takes a quarter of a thread's share of the work that is left, or more where a part of rows ends: large pieces gather
// their rows once, and the small ones at the end let all threads finish together. With a half or an eighth, layers take as
// long; with 32 equal pieces per thread, most of which gather rows that another one gathers, too, 1.01 to 1.06 times as long.
constexpr std::int64_t kShareOfLeft = 4;
// The smallest piece is 1/64 of a thread's work. With 1/32, 64 tokens on few experts take 1.01 times as long.
constexpr std::int64_t kPiecesPerThread = 64;
// What a panel costs besides its rows, in rows: reading it from memory takes as long as computing about 8 rows (20 flop
// per byte).
constexpr std::int64_t kPanelCost = 8;

// Bytes of weights below which a piece is not cut: its stream is as long as it takes to get up to speed (2 to 8 KiB
// ahead), many times.
constexpr std::int64_t kPieceBytes = std::int64_t{256} << 10;

// However small the caches are: two tiles of 13 rows, so that a panel is read from memory for more than one.
constexpr std::int64_t kFewestRows = 26;

// Rows of a piece, as f32, which is the most they take.
std::int64_t row_limit(const GroupedMemory& memory, std::int64_t padded_depth) {
  const std::int64_t row_bytes = padded_depth * static_cast<std::int64_t>(sizeof(float));
  return std::clamp(memory.tile_bytes / row_bytes, kFewestRows, kMaxGemmRows);
}

// Threads to a panel of the only matrix of a queue: some where it has fewer panels than there are threads, as the router of a
// few experts, and where each of them multiplies its rows longer than it reads the panel.
std::int64_t threads_to_a_panel(std::span<const GroupedGemm> gemms, int threads) {
  const GroupedGemm& gemm = gemms.front();
  if (gemms.size() > 1 || gemm.count > 1) {
    return 1;
  }
  return std::max<std::int64_t>(std::min(threads / gemm.weights->panels(), gemm.offset[1] / kPanelCost), 1);
}

// What a piece costs: at least `fewest()`, and less than twice that if panels and kPieceBytes allow it; or what is left of a
// part of rows.
struct Budget {
  std::int64_t left;  // of all that are not cut yet
  std::int64_t shares;
  std::int64_t least;
  std::int64_t fewest() const { return std::max(left / shares, least); }
};

// Whether the output does not wait in caches for who reads it next: it is larger than a core's L2, and more weights than that
// pass through before. Written to memory at once it costs no reading of what it overwrites, and no waiting for that: in `a`,
// 1024 tokens take 0.97 of the time in bf16, 0.91 in int8.
bool streams_out(const GroupedGemm& gemm) {
  const std::int64_t bytes =
      gemm.offset[gemm.count] * gemm.weights->out_width() * static_cast<std::int64_t>(dtype_bytes(gemm.out_type));
  const bool whole_lines = gemm.out_type == DType::f32 && reinterpret_cast<std::uintptr_t>(gemm.out) % 64 == 0;
  return whole_lines && bytes > static_cast<std::int64_t>(processor_caches().l2_bytes);
}

// How one GEMM is cut.
struct Cut {
  const GroupedGemm& gemm;
  std::int64_t limit;  // rows of a piece

  Cut(const GroupedGemm& of, const GroupedMemory& memory, std::int64_t sharing)
      : gemm(of), limit(row_limit(memory, of.weights->padded_depth())) {
    if (sharing > 1) {
      limit = std::min(limit, (of.offset[1] + sharing - 1) / sharing);
    }
  }

  std::int64_t parts(std::int64_t rows) const { return (rows + limit - 1) / limit; }
  // Of `rows` in so many parts, times all panels.
  std::int64_t cost(std::int64_t rows, std::int64_t parts) const {
    return (rows + parts * kPanelCost) * gemm.weights->panels() * gemm.weights->padded_depth();
  }
  std::int64_t total() const {
    std::int64_t sum = 0;
    for (std::int32_t e = 0; e < gemm.count; ++e) {
      const std::int64_t rows = gemm.offset[e + 1] - gemm.offset[e];
      sum += cost(rows, parts(rows));
    }
    return sum;
  }
  // Cuts the rows of each matrix into as few equal parts as the kernels and the caches take, and their panels as the budget
  // says.
  Piece* make_pieces(std::int32_t index, Budget& budget, Piece* to) const;
};

Piece* Cut::make_pieces(std::int32_t index, Budget& budget, Piece* to) const {
  const std::int64_t panels = gemm.weights->panels();
  const std::int64_t fewest_panels = (kPieceBytes - 1) / gemm.weights->panel_bytes() + 1;
  for (std::int32_t e = 0; e < gemm.count; ++e) {
    const std::int64_t begin = gemm.offset[e];
    const std::int64_t rows = gemm.offset[e + 1] - begin;
    const std::int64_t count = parts(rows);
    for (std::int64_t part = 0; part < count; ++part) {
      const std::int64_t from = begin + part * rows / count;
      const std::int64_t until = begin + (part + 1) * rows / count;
      const std::int64_t panel_cost = cost(until - from, 1) / panels;
      for (std::int64_t panel = 0; panel < panels; ++to) {
        const std::int64_t left = panels - panel;
        const std::int64_t pieces = std::clamp<std::int64_t>(left * panel_cost / budget.fewest(), 1,
                                                             std::max<std::int64_t>(left / fewest_panels, 1));
        const std::int64_t end = panel + (left + pieces - 1) / pieces;
        *to = {index, e, from, until, panel, end};
        budget.left -= (end - panel) * panel_cost;
        panel = end;
      }
    }
  }
  return to;
}

// Returns the number of pieces.
std::int64_t cut(std::span<const GroupedGemm> gemms, int threads, const GroupedMemory& memory) {
  const std::int64_t sharing = threads_to_a_panel(gemms, threads);
  std::int64_t total = 0;
  for (const GroupedGemm& gemm : gemms) {
    total += Cut(gemm, memory, sharing).total();
  }
  Budget budget{total, threads * kShareOfLeft, total / (threads * kPiecesPerThread) + 1};
  Piece* to = memory.pieces;
  for (std::size_t i = 0; i < gemms.size(); ++i) {
    to = Cut(gemms[i], memory, sharing).make_pieces(static_cast<std::int32_t>(i), budget, to);
  }
  return to - memory.pieces;
}

// A piece costs at least Budget::least, or is the last of a part of rows; all costs together are at most threads ·
// kPiecesPerThread of that. A matrix whose panels threads share has a piece per thread at most.
std::int64_t max_pieces(std::int64_t rows, std::int32_t count, int threads) {
  return threads * kPiecesPerThread + std::min<std::int64_t>(rows, count) + rows / kFewestRows;
}

}  // namespace

std::int64_t tile_bytes(const Caches& caches, int threads) {
  const std::size_t part = caches.l3_bytes / static_cast<std::size_t>(caches.l3_cores);
  const int sharing = threads > caches.cores ? std::max(caches.hardware_threads / caches.cores, 1) : 1;
  return static_cast<std::int64_t>(std::max(part, caches.l2_bytes) / 2) / sharing;
}

std::size_t scratch_bytes(Math math, const PackedMatrices& weights, std::int64_t rows) {
  return gemm_scratch_bytes(math, std::min(rows, kMaxGemmRows), weights.padded_depth());
}

GroupedMemory carve_grouped(Carver& carver, std::int64_t rows, std::int32_t count, std::size_t scratch, int threads,
                            int gemms) {
  GroupedMemory memory{};
  memory.tile_bytes = tile_bytes(processor_caches(), threads);
  memory.scratch_bytes = (scratch + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  memory.pieces = carver.take<Piece>(max_pieces(rows * gemms, count, threads));
  memory.scratch = carver.take<std::byte>(static_cast<std::int64_t>(memory.scratch_bytes) * threads);
  return memory;
}

bool run_grouped(std::span<const GroupedGemm> gemms, const GroupedMemory& memory, const Kernels& kernels,
                 const Threads& threads) {
  const std::int64_t pieces = cut(gemms, threads.count(), memory);
  parallel_for(threads, pieces, [&](std::int64_t item, int worker) {
    const Piece& piece = memory.pieces[item];
    const GroupedGemm& gemm = gemms[static_cast<std::size_t>(piece.gemm)];
    const PackedMatrices& weights = *gemm.weights;
    const std::int64_t out_bytes = weights.out_width() * static_cast<std::int64_t>(dtype_bytes(gemm.out_type));
    const std::int64_t row_bytes = gemm.rows.stride * static_cast<std::int64_t>(dtype_bytes(gemm.rows.dtype));
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
    args.h_scale = gemm.h_scale != nullptr ? gemm.h_scale + piece.row_begin : nullptr;
    args.out = static_cast<std::byte*>(gemm.out) + piece.row_begin * out_bytes;
    args.out_type = gemm.out_type;
    args.out_stride = weights.out_width();
    args.streams_out = streams_out(gemm);
    args.scratch = memory.scratch + static_cast<std::size_t>(worker) * memory.scratch_bytes;
    kernels.gemm(args);
  });
  return std::all_of(gemms.begin(), gemms.end(), [&](const GroupedGemm& gemm) {
    const std::int64_t most = kernels.stream_rows(gemm.math, gemm.weights->format());
    return std::adjacent_find(gemm.offset, gemm.offset + gemm.count + 1, [=](std::int64_t begin, std::int64_t end) {
             return end - begin > most;
           }) == gemm.offset + gemm.count + 1;
  });
}

}  // namespace switchyard
