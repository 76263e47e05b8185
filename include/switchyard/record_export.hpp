// Export: the rows of a batch as one rank of a trainer takes them.
//
// Sequences are packed one after the other, padded and split; what a rank gets is [layers,rows,K], and one state per row.
// Nothing else is read or copied. The order of the splits is pipeline (layers), context, tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "switchyard/export.hpp"
#include "switchyard/record.hpp"
#include "switchyard/record_rows.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// The parts of n rows that C context ranks get: contiguous, part r of C; zigzag, parts r and 2C − 1 − r of 2C.
enum class ContextSplit : std::int32_t { contiguous = 0, zigzag = 1 };

// What is split: every sequence on its own (verl, Megatron), or all of them as one (slime's all-gather).
enum class SplitUnit : std::int32_t { sequence = 0, batch = 1 };

// Ids of a row that is missing.
enum class Filler : std::int32_t {
  native = 0,       // it is routed live; its ids are 0..K−1, in case somebody looks at them
  repeat_last = 1,  // those of the observed row before it in its sequence (verifiers); without one as native
  minus_one = 2,    // −1: it is routed live. Not for u8.
  // Distinct within a row, the same load for all experts and expert-parallel ranks: with ordinal p of the row among the
  // missing ones and the padding of the whole batch, layer l of the schema, slot c, P ranks of Q = E / P experts:
  // a = p·K + c + l·P·K, expert (a mod P)·Q + (a / P) mod Q (slime #2308).
  balanced = 3,
  zero = 4,  // 0 in every slot, as most trainers pad
};

// State of an exported row; not 0 is what RouteInputs::replayed takes for a row to replay.
enum class ReplayState : std::uint8_t {
  live = 0,      // missing: to be routed live
  observed = 1,  // the engine's
  filled = 2,    // missing: to be replayed with the ids of its filler
};

struct ExportOptions {
  DType dtype = DType::i32;          // u8, i16, i32 or i64; the experts have to fit
  std::vector<std::int32_t> layers;  // global indices of the rank's layers, in the order wanted; none: all
  std::int32_t context_ranks = 1;
  std::int32_t context_rank = 0;
  ContextSplit context_split = ContextSplit::contiguous;
  SplitUnit context_unit = SplitUnit::sequence;
  std::int32_t tensor_ranks = 1;  // T: rank t gets rows t·n/T..(t + 1)·n/T − 1 of its context rank's n
  std::int32_t tensor_rank = 0;
  // A sequence is padded to a multiple of this, and of what its split needs (C, for zigzag 2C).
  std::int64_t sequence_multiple = 1;
  // All rows of a context rank are padded to a multiple of this, and of T (and 2 for a zigzag of the batch).
  std::int64_t batch_multiple = 1;
  Filler tail = Filler::native;     // missing rows behind the last observed one of a sequence
  Filler missing = Filler::native;  // those before it
  Filler padding = Filler::native;
  std::int32_t expert_ranks = 1;  // P of Filler::balanced, a divisor of E
};

struct ExportLayout {
  std::int64_t layers = 0;
  std::int64_t rows = 0;  // of this rank; the states have as many bytes
  std::int32_t topk = 0;
  std::size_t bytes = 0;  // of the ids, layers · rows · topk of them
  // [sequences + 1] where sequences begin in the whole batch, their padding included and the batch's not. For a split of
  // each sequence those of a context rank are 1/C of it.
  std::vector<std::int64_t> cu_seqlens;
};

// What export_rows will write for sequences of these lengths. Throws invalid_argument for options that contradict
// themselves, the schema or its experts.
SWITCHYARD_API ExportLayout export_layout(const RecordSchema& schema, std::span<const std::int64_t> lengths,
                                          const ExportOptions& options);

// Writes every one of layout.bytes to `ids` and layout.rows ReplayStates to `states`; `ids_bytes` and states.size() have to
// be exactly that. The caller owns both. Reads only the rank's rows, and the one that a filler repeats; allocates less
// than 64 KiB beside a few words per sequence. Throws invalid_argument before any work, and what the sources throw.
SWITCHYARD_API ExportLayout export_rows(const RecordSchema& schema, std::span<const RecordRows> sequences,
                                        const ExportOptions& options, void* ids, std::size_t ids_bytes,
                                        std::span<std::uint8_t> states);

}  // namespace switchyard
