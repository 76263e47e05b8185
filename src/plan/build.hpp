// The plan without its checks, for a layer that has made them.
#pragma once

#include <cstdint>

#include "layer/carve.hpp"
#include "switchyard/plan.hpp"

namespace switchyard {

struct PlanMemory {
  std::int64_t* offset;
  std::int64_t* row_to_token;
  std::int64_t* slot_to_row;
  std::int64_t* counts;  // [blocks, experts]
  std::int64_t blocks;
};

// Memory for plans of up to `tokens` tokens.
PlanMemory carve_plan(Carver& carver, std::int64_t tokens, std::int32_t topk, std::int32_t experts, int threads);

// As make_plan, but that ids from `experts` on are allowed: they have no row, and kIdentityRow in slot_to_row.
Plan build_plan(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t experts,
                const PlanMemory& memory, const Threads& threads);

// Throws invalid_argument naming the first id that is not in −1..ids−1.
void check_experts(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t ids);

}  // namespace switchyard
