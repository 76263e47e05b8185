// The router of a layer: x → logits → routing.
#pragma once

#include <cstdint>
#include <vector>

#include "experts/grouped.hpp"
#include "experts/packed.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

// Moves, never copied: options.selection_bias points into the vector.
struct Router {
  RouterOptions options;
  std::vector<float> selection_bias;
  std::int32_t experts = 0;
  PackedMatrices weight;  // [E,H] f32
};

// Throws invalid_argument.
void check_router_options(const RouterOptions& options, std::int32_t experts);

struct RouterMemory {
  float* logits;       // [chunk, padded E]
  std::int64_t chunk;  // tokens routed at a time
};

RouterMemory carve_router(Carver& carver, const Router& router, std::int64_t tokens);

// Routes x [T,H] into expert and weight [T,K]. `grouped` must hold a grouped GEMM of router.weight over memory.chunk
// rows.
void run_router(const Router& router, ConstMatrix x, const RouterMemory& memory, const GroupedMemory& grouped,
                std::int32_t* expert, float* weight, const Kernels& kernels, const Threads& threads);

// logits [T, stride] → expert and weight, tokens spread over the threads.
void route_rows(const RouteArgs& args, const Kernels& kernels, const Threads& threads);

}  // namespace switchyard
