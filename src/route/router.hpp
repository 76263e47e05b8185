// The router of a layer: x → logits → routing; and what `route` shares with it.
#pragma once

#include <cstdint>
#include <vector>

#include "experts/grouped.hpp"
#include "experts/packed.hpp"
#include "layer/overlap.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

// Moves, never copied: options points into the vectors.
struct Router {
  RouterOptions options;
  std::vector<float> selection_bias;
  std::vector<float> logit_bias;
  std::vector<float> expert_scale;
  std::vector<std::int32_t> table;
  std::int32_t experts = 0;
  DType type = DType::f32;  // of what is multiplied, and of the logits: f32 or bf16
  PackedMatrices weight;    // [E,H] f32, or bf16 for a router in bf16 or a weight that is bf16
};

// Copies the arrays of options; the weight is not packed yet. Without one there are no options. Throws invalid_argument.
Router make_router(const WeightView& weight, std::int32_t experts, std::int64_t hidden, const RouterOptions& options,
                   DType type);

struct RouterMemory {
  float* logits;       // [chunk, padded E]
  std::int64_t chunk;  // tokens routed at a time
  float* scratch;      // carve_route_scratch
};

RouterMemory carve_router(Carver& carver, const Router& router, std::int64_t tokens, const Threads& threads);

// Routes x [T,H] into expert and weight [T,K]. `grouped` must hold a grouped GEMM of router.weight over memory.chunk
// rows.
void run_router(const Router& router, ConstMatrix x, const RouteInputs& inputs, const RouterMemory& memory,
                const GroupedMemory& grouped, Routing routing, const Kernels& kernels, const Threads& threads);

// The logits that run_router routes by, before RouterOptions are applied to them, into logits [T,E] f32.
void run_router_logits(const Router& router, ConstMatrix x, Matrix logits, const RouterMemory& memory,
                       const GroupedMemory& grouped, const Kernels& kernels, const Threads& threads);

// Rows of scratch for every worker.
float* carve_route_scratch(Carver& carver, std::int32_t experts, const Threads& threads);
std::int64_t route_scratch_floats(std::int32_t experts);

// An id of an array of i16, i32 or i64.
std::int64_t read_id(const ConstArray& ids, std::int64_t at);

// Checks at the border; all throw invalid_argument.
void check_router_options(const RouterOptions& options, std::int32_t experts);
void check_inputs(const RouterOptions& options, const RouteInputs& inputs, std::int64_t tokens, std::int32_t experts);
void check_sequences(const RouteInputs& inputs, std::int64_t tokens);
void check_table_ids(const RouterOptions& options, std::int32_t experts);  // all of them
void check_outputs(const RouterOptions& options, const RouteInputs& inputs, const RouteOutputs& outputs,
                   std::int32_t experts);
void check_gradients(const RouterOptions& options, const RouteGradients& gradients, const ConstMatrix& logits,
                     const Matrix& dlogits);

// One group is none: kernels know no groups or at least two.
RouterOptions without_one_group(RouterOptions options);

// What a call reads and writes, for check_apart; sizes are checked.
void add_options(NamedMemory& read, const RouterOptions& options, std::int32_t experts);
void add_inputs(NamedMemory& read, const RouteInputs& inputs, std::int64_t tokens, std::int32_t topk);
void add_outputs(NamedMemory& written, const RouteOutputs& outputs, std::int64_t tokens, std::int32_t topk,
                 std::int64_t experts, std::int64_t sequences);
void add_gradients(NamedMemory& read, const RouteGradients& gradients, std::int64_t tokens, std::int32_t topk,
                   std::int64_t experts, std::int64_t sequences);

}  // namespace switchyard
