// The table of what the record does per instruction set. As src/cpu/kernels.hpp: nothing is checked or thrown.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/types.hpp"

namespace switchyard {

// The largest K of a record.
inline constexpr std::int32_t kMaxRecordTopk = 64;

// Makes slot `low` the lesser of the two, slot `high` the other.
struct SortStep {
  std::uint8_t low;
  std::uint8_t high;
};

struct RecordKernels {
  // Decodes 4 · groups base64 characters without padding to 3 · groups bytes, and writes no others. Returns how many
  // groups stand before the first with a character outside the alphabet; the bytes of those from there on are any.
  std::size_t (*decode_base64)(const char* from, std::size_t groups, std::byte* to);

  // Converts `count` ids of type i8, u8, i16, u16, i32 or i64, aligned or not, to ids of 1 or 2 bytes. Returns whether
  // all are in 0..experts−1.
  bool (*narrow)(const void* from, DType from_type, std::int64_t count, void* to, std::size_t id_bytes,
                 std::int32_t experts);

  // ids [sets,topk] of 1 or 2 bytes: whether all are in 0..experts−1, and distinct within their set.
  bool (*are_sets)(const void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk, std::int32_t experts);

  // ids [sets,topk] of 1 or 2 bytes: whether every set ascends.
  bool (*all_ascend)(const void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk);

  // ids [sets,topk] of 1 or 2 bytes, topk 2..64: takes the steps in every set.
  void (*sort_sets)(void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk, const SortStep* steps,
                    std::size_t step_count);
};

// Of current_isa(). The AVX-512 ones need VBMI: without it, an AVX-512 set has those of AVX2.
const RecordKernels& record_kernels();

}  // namespace switchyard
