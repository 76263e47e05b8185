#include "switchyard/plan.hpp"

#include <algorithm>

#include "cpu/kernels.hpp"
#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "layer/overlap.hpp"
#include "plan/build.hpp"

namespace switchyard {
namespace {

// Slots that are worth a block of their own: counting and placing takes about 2 ns a slot, offering work to a thread 1
// µs.
constexpr std::int64_t kSlotsPerBlock = 4096;

std::int64_t block_count(std::int64_t tokens, std::int32_t topk, int threads) {
  return std::clamp<std::int64_t>(tokens * topk / kSlotsPerBlock, 1, threads);
}

void check_sizes(std::int64_t tokens, std::int32_t topk, std::int32_t experts) {
  if (tokens < 0 || tokens > kMaxTokens || topk < 1 || topk > kMaxTopk || experts < 1 || experts > kMaxExperts) {
    fail(Code::invalid_argument,
         "plan: found {} tokens, {} slots and {} experts, expected 0..{} tokens, 1..{} slots and 1..{} experts", tokens,
         topk, experts, kMaxTokens, kMaxTopk, kMaxExperts);
  }
}

// counts[block][e] becomes the row where that block's first slot of expert e stands.
void counts_to_rows(const PlanMemory& memory, std::int64_t blocks, std::int32_t experts) {
  std::int64_t row = 0;
  for (std::int32_t e = 0; e < experts; ++e) {
    memory.offset[e] = row;
    for (std::int64_t block = 0; block < blocks; ++block) {
      std::int64_t& count = memory.counts[block * experts + e];
      const std::int64_t first = row;
      row += count;
      count = first;
    }
  }
  memory.offset[experts] = row;
}

}  // namespace

PlanMemory carve_plan(Carver& carver, std::int64_t tokens, std::int32_t topk, std::int32_t experts, int threads) {
  PlanMemory memory{};
  memory.blocks = block_count(tokens, topk, threads);
  memory.offset = carver.take<std::int64_t>(experts + 1);
  memory.row_to_token = carver.take<std::int64_t>(tokens * topk);
  memory.slot_to_row = carver.take<std::int64_t>(tokens * topk);
  memory.counts = carver.take<std::int64_t>(memory.blocks * experts);
  return memory;
}

Plan build_plan(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t experts,
                const PlanMemory& memory, const Threads& threads) {
  const std::int64_t blocks = std::min(memory.blocks, block_count(tokens, topk, threads.count()));
  const auto first_token = [&](std::int64_t block) { return block * tokens / blocks; };
  parallel_for(threads, blocks, [&](std::int64_t block, int) {
    std::int64_t* count = memory.counts + block * experts;
    std::fill_n(count, experts, 0);
    for (std::int64_t slot = first_token(block) * topk; slot < first_token(block + 1) * topk; ++slot) {
      if (expert[slot] >= 0 && expert[slot] < experts) {
        ++count[expert[slot]];
      }
    }
  });
  counts_to_rows(memory, blocks, experts);
  parallel_for(threads, blocks, [&](std::int64_t block, int) {
    std::int64_t* next = memory.counts + block * experts;
    for (std::int64_t token = first_token(block); token < first_token(block + 1); ++token) {
      for (std::int64_t slot = token * topk; slot < (token + 1) * topk; ++slot) {
        const std::int32_t id = expert[slot];
        const std::int64_t row = id < 0 ? kOffRow : id < experts ? next[id]++ : kIdentityRow;
        memory.slot_to_row[slot] = row;
        if (row >= 0) {
          memory.row_to_token[row] = token;
        }
      }
    }
  });
  return {tokens, topk, experts, memory.offset[experts], memory.offset, memory.row_to_token, memory.slot_to_row};
}

void check_experts(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t ids) {
  for (std::int64_t slot = 0; slot < tokens * topk; ++slot) {
    if (expert[slot] < -1 || expert[slot] >= ids) {
      fail(Code::invalid_argument, "plan: token {} slot {} names expert {}, expected -1..{}", slot / topk, slot % topk,
           expert[slot], ids - 1);
    }
  }
}

std::size_t plan_bytes(std::int64_t tokens, std::int32_t topk, std::int32_t experts, const Threads& threads) {
  check_sizes(tokens, topk, experts);
  Carver carver;
  carve_plan(carver, tokens, topk, experts, threads.count());
  return carver.bytes();
}

Plan make_plan(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t experts,
               const Workspace& workspace, const Threads& threads) {
  const std::size_t needed = plan_bytes(tokens, topk, experts, threads);
  if (workspace.bytes() < needed) {
    fail(Code::invalid_argument, "plan: found a workspace of {} bytes, expected at least {}", workspace.bytes(),
         needed);
  }
  if (tokens > 0 && expert == nullptr) {
    fail(Code::invalid_argument, "plan: found no expert ids, expected [{}, {}]", tokens, topk);
  }
  if (overlap(bytes_of(workspace), bytes_of(expert, static_cast<std::size_t>(tokens * topk)))) {
    fail(Code::invalid_argument, "plan: the expert ids lie in the workspace, expected separate memory");
  }
  check_experts(expert, tokens, topk, experts);
  Carver carver(workspace.data());
  return build_plan(expert, tokens, topk, experts, carve_plan(carver, tokens, topk, experts, threads.count()), threads);
}

}  // namespace switchyard
