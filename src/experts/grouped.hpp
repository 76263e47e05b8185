// The grouped GEMM: rows of many experts in one queue of pieces.
#pragma once

#include <cstdint>
#include <span>

#include "cpu/kernels.hpp"
#include "experts/packed.hpp"
#include "layer/carve.hpp"
#include "switchyard/probe.hpp"

namespace switchyard {

// For matrix e: out[r] = h_scale[r] · function(row_scale[r] · rows[row_index[r]] · weights[e]ᵀ + bias[e]) for r in
// offset[e] .. offset[e+1], see GemmArgs.
struct GroupedGemm {
  const PackedMatrices* weights = nullptr;
  std::int32_t count = 0;  // matrices
  const std::int64_t* offset = nullptr;
  Math math = Math::f32;
  ConstMatrix rows;                          // [*, depth]
  const std::int64_t* row_index = nullptr;   // null: row r itself
  const float* row_scale = nullptr;          // null: 1
  const ExpertFunction* function = nullptr;  // null: none; gated as the weights are
  const float* h_scale = nullptr;            // with a function: of what it gives for row r; null: 1
  void* out = nullptr;                       // [R, weights->out_width()]
  DType out_type = DType::f32;
};

// Work for one thread: rows of one matrix times some of its panels.
struct Piece {
  std::int32_t gemm;
  std::int32_t matrix;
  std::int64_t row_begin;
  std::int64_t row_end;
  std::int64_t panel_begin;
  std::int64_t panel_end;
};

struct GroupedMemory {
  std::int64_t tile_bytes;  // of rows that a piece may have
  Piece* pieces;
  std::byte* scratch;  // [threads, scratch_bytes]
  std::size_t scratch_bytes;
};

// Bytes of rows for one piece: every panel passes all of them, so they stay in half of a core's part of the last cache, or
// half of its L2 if that is larger. Hardware threads of a core share that once there are more threads than cores.
std::int64_t tile_bytes(const Caches& caches, int threads);

// What a thread needs for up to `rows` rows times `weights`.
std::size_t scratch_bytes(Math math, const PackedMatrices& weights, std::int64_t rows);

// Memory for any `gemms` GroupedGemms of one call, each of up to `rows` rows, over `count` matrices together, whose threads
// need up to `scratch`.
GroupedMemory carve_grouped(Carver& carver, std::int64_t rows, std::int32_t count, std::size_t scratch, int threads,
                            int gemms = 1);

// All of them from one queue of pieces; none reads what another one writes. Returns whether no matrix had more
// rows than stream_rows, so that all weights were streamed.
bool run_grouped(std::span<const GroupedGemm> gemms, const GroupedMemory& memory, const Kernels& kernels,
                 const Threads& threads);
inline bool run_grouped(const GroupedGemm& gemm, const GroupedMemory& memory, const Kernels& kernels,
                        const Threads& threads) {
  return run_grouped(std::span(&gemm, 1), memory, kernels, threads);
}

}  // namespace switchyard
