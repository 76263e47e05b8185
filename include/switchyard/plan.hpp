// Plan: where each row stands when token-slot pairs are sorted by expert.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/export.hpp"
#include "switchyard/route.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard {

// A stable counting sort of (token, slot) pairs: the rows of one expert stand together, in token then slot order. Slots
// with expert −1 have no row. A view into the workspace of make_plan.
struct Plan {
  std::int64_t tokens = 0;
  std::int32_t topk = 0;
  std::int32_t experts = 0;
  std::int64_t rows = 0;                       // R = number of slots that are on, <= T·K
  const std::int64_t* offset = nullptr;        // [E+1]: expert e has rows offset[e] .. offset[e+1]
  const std::int64_t* row_to_token = nullptr;  // [R]
  const std::int64_t* slot_to_row = nullptr;   // [T,K], −1 for a slot that is off
};

// Bytes of workspace for make_plan, enough for every smaller number of tokens too.
SWITCHYARD_API std::size_t plan_bytes(std::int64_t tokens, std::int32_t topk, std::int32_t experts,
                                      const Threads& threads);

// Plans expert [T,K], ids in −1..experts−1, duplicates within a token allowed. The same plan for every number of
// threads. Throws invalid_argument naming the first bad id, or if the workspace is too small.
SWITCHYARD_API Plan make_plan(const std::int32_t* expert, std::int64_t tokens, std::int32_t topk, std::int32_t experts,
                              const Workspace& workspace, const Threads& threads = Threads());

}  // namespace switchyard
