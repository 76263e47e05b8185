#include "switchyard/layer.hpp"

#include <algorithm>
#include <array>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "layer/overlap.hpp"
#include "layer/parts.hpp"

namespace switchyard {
namespace {

Math math_of(const LayerOptions& options) { return math_of(options.format, options.activations); }

std::int64_t size_of(DType dtype) { return static_cast<std::int64_t>(dtype_bytes(dtype)); }

ConstMatrix rows_from(ConstMatrix x, std::int64_t begin, std::int64_t count) {
  x.data = static_cast<const std::byte*>(x.data) + begin * x.stride * size_of(x.dtype);
  x.rows = count;
  return x;
}

Matrix rows_from(Matrix y, std::int64_t begin, std::int64_t count) {
  y.data = static_cast<std::byte*>(y.data) + begin * y.stride * size_of(y.dtype);
  y.rows = count;
  return y;
}

// Rows of x through gate, up, activation and down of their experts: h and then out, both in row order.
struct ExpertRows {
  const ExpertWeights::Packed* weights;
  const std::int64_t* offset;
  const std::int64_t* row_index;
  WeightSite weight_site;
  const float* row_weight;  // null if it multiplies the output
  void* h;
  float* out;
};

struct ExpertGemms {
  GroupedGemm up;
  GroupedGemm down;
};

ExpertGemms gemms_of(const ExpertRows& rows, ConstMatrix x, const LayerOptions& options) {
  const ExpertWeights::Packed& weights = *rows.weights;
  GroupedGemm up;
  up.weights = &weights.up;
  up.count = weights.shape.experts;
  up.offset = rows.offset;
  up.math = math_of(options);
  up.rows = x;
  up.row_index = rows.row_index;
  up.row_scale = rows.weight_site == WeightSite::input ? rows.row_weight : nullptr;
  up.function = &weights.shape.function;
  up.h_scale = rows.weight_site == WeightSite::between ? rows.row_weight : nullptr;
  up.out = rows.h;
  up.out_type = options.activations;

  GroupedGemm down;
  down.weights = &weights.down;
  down.count = up.count;
  down.offset = up.offset;
  down.math = up.math;
  down.rows = {rows.h, options.activations, rows.offset[weights.shape.experts], weights.shape.ffn};
  down.rows.stride = weights.up.out_width();
  down.out = rows.out;
  return {up, down};
}

// out [T, out_width] = x · weightsᵀ + bias. Returns what run_grouped does, as the following.
bool run_linear(const PackedMatrices& weights, ConstMatrix x, Math math, float* out, const Layer::Parts& parts,
                const GroupedMemory& memory, const Kernels& kernels) {
  const std::int64_t offset[] = {0, x.rows};
  GroupedGemm gemm;
  gemm.weights = &weights;
  gemm.count = 1;
  gemm.offset = offset;
  gemm.math = math;
  gemm.rows = x;
  gemm.out = out;
  return run_grouped(gemm, memory, kernels, parts.options.threads);
}

// Routed experts and the shared one from the same two queues; the shared expert reads the tokens as they are.
bool run_experts(const Layer::Parts& parts, const ExpertRows& routed, ConstMatrix routed_x, ConstMatrix tokens,
                 const ChunkMemory& memory, const Kernels& kernels) {
  const Threads& threads = parts.options.threads;
  const ExpertGemms first = gemms_of(routed, routed_x, parts.options);
  if (!parts.shared) {
    const bool streamed = run_grouped(first.up, memory.grouped, kernels, threads);
    return run_grouped(first.down, memory.grouped, kernels, threads) && streamed;
  }
  const std::int64_t offset[] = {0, tokens.rows};
  const ExpertRows shared{&parts.shared->packed(), offset,           nullptr, WeightSite::output, nullptr,
                          memory.shared_h,         memory.shared_out};
  const ExpertGemms second = gemms_of(shared, tokens, parts.options);
  bool streamed = run_grouped(std::array{first.up, second.up}, memory.grouped, kernels, threads);
  streamed &= run_grouped(std::array{first.down, second.down}, memory.grouped, kernels, threads);
  if (!parts.shared_gate.empty()) {
    run_linear(parts.shared_gate, tokens, math_of(parts.shared_gate.format()), memory.gate_logits, parts,
               memory.grouped, kernels);
  }
  return streamed;
}

// Spreads the tokens of `all` over the threads.
void run_combine(const CombineArgs& all, const Threads& threads, const Kernels& kernels) {
  // A piece reads some 64 KiB of rows or more: far above the cost of taking it from the queue.
  const std::int64_t tokens_per_piece = (std::int64_t{1} << 14) / ((all.topk + 1) * all.hidden) + 1;
  parallel_for(threads, (all.count + tokens_per_piece - 1) / tokens_per_piece, [&](std::int64_t piece, int) {
    const std::int64_t begin = piece * tokens_per_piece;
    const auto at_token = [begin](const auto* data, std::int64_t stride) {
      return data == nullptr ? nullptr : data + begin * stride;
    };
    CombineArgs args = all;
    args.count = std::min(tokens_per_piece, all.count - begin);
    args.start = at_token(all.start, all.start_stride);
    args.slot_to_row = at_token(all.slot_to_row, all.topk);
    args.weight = at_token(all.weight, all.topk);
    args.x = at_token(static_cast<const std::byte*>(all.x), all.x_stride * size_of(all.x_type));
    args.shared = at_token(all.shared, all.shared_stride);
    args.gate_logits = at_token(all.gate_logits, all.gate_stride);
    args.out = static_cast<std::byte*>(all.out) + begin * all.out_stride * size_of(all.out_type);
    kernels.combine(args);
  });
}

// The sum over the slots: into y, or without rounding into the latent rows.
CombineArgs slots_of(const Layer::Parts& parts, const Plan& plan, const float* weight, ConstMatrix x,
                     const ChunkMemory& memory) {
  CombineArgs args{};
  args.rows = memory.out;
  args.rows_stride = parts.experts.packed().down.out_width();
  args.slot_to_row = plan.slot_to_row;
  args.weight = weight;
  args.weighted_rows = parts.weight_site != WeightSite::output;
  args.topk = plan.topk;
  args.x = x.data;
  args.x_type = x.dtype;
  args.x_stride = x.stride;
  args.count = plan.tokens;
  args.hidden = parts.experts.shape().hidden;
  return args;
}

// Adds what follows the experts, and rounds into y.
void finish_combine(CombineArgs args, const Layer::Parts& parts, const ChunkMemory& memory, Matrix y,
                    const Kernels& kernels) {
  args.shared_scale = parts.shared_scale;
  if (parts.shared) {
    args.shared = memory.shared_out;
    args.shared_stride = parts.shared->packed().down.out_width();
  }
  if (!parts.shared_gate.empty()) {
    args.gate_logits = memory.gate_logits;
    args.gate_stride = parts.shared_gate.out_width();
  }
  args.bias = parts.output_bias.empty() ? nullptr : parts.output_bias.data();
  args.out = y.data;
  args.out_type = y.dtype;
  args.out_stride = y.stride;
  run_combine(args, parts.options.threads, kernels);
}

// The slots' sum in the latent space, and from there on in H.
CombineArgs leave_latent(CombineArgs slots, const Layer::Parts& parts, const ChunkMemory& memory,
                         const Kernels& kernels, bool& streamed) {
  slots.out = memory.latent;
  slots.out_type = DType::f32;
  slots.out_stride = parts.latent_in.out_width();
  run_combine(slots, parts.options.threads, kernels);
  ConstMatrix sums(memory.latent, slots.count, slots.hidden);
  sums.stride = slots.out_stride;
  streamed &=
      run_linear(parts.latent_out, sums, math_of(parts.options), memory.from_latent, parts, memory.grouped, kernels);
  CombineArgs args{};
  args.start = memory.from_latent;
  args.start_stride = parts.latent_out.out_width();
  args.count = slots.count;
  args.hidden = parts.hidden;
  return args;
}

// What the experts read: x, or x in the latent space.
ConstMatrix enter_latent(const Layer::Parts& parts, ConstMatrix x, const ChunkMemory& memory, const Kernels& kernels,
                         bool& streamed) {
  if (parts.latent_in.empty()) {
    return x;
  }
  streamed &= run_linear(parts.latent_in, x, math_of(parts.options), memory.latent, parts, memory.grouped, kernels);
  ConstMatrix latent(memory.latent, x.rows, parts.experts.shape().hidden);
  latent.stride = parts.latent_in.out_width();
  return latent;
}

// The weight of each row in the order of the plan, unless it multiplies the expert's output: then null.
const float* order_weights(const Layer::Parts& parts, const Plan& plan, const float* weight,
                           const ChunkMemory& memory) {
  if (parts.weight_site == WeightSite::output) {
    return nullptr;
  }
  for (std::int64_t slot = 0; slot < plan.tokens * plan.topk; ++slot) {
    if (plan.slot_to_row[slot] >= 0) {
      memory.row_weight[plan.slot_to_row[slot]] = weight[slot];
    }
  }
  return memory.row_weight;
}

// The way of a token's rows: plan, experts, combine; in chunks of tokens, so that rows take bounded memory.
Path run_chunks(const Layer::Parts& parts, ConstMatrix x, Routing routing, Matrix y, const ForwardMemory& memory,
                const Kernels& kernels) {
  const ChunkMemory& chunk = memory.chunk;
  const std::int64_t chunks = x.rows == 0 ? 0 : (x.rows + chunk.tokens - 1) / chunk.tokens;
  bool streamed = true;
  for (std::int64_t i = 0; i < chunks; ++i) {
    const std::int64_t begin = i * x.rows / chunks;
    const std::int64_t count = (i + 1) * x.rows / chunks - begin;
    const std::int32_t* expert = routing.expert + begin * routing.topk;
    const float* weight = routing.weight + begin * routing.topk;

    const ConstMatrix tokens = rows_from(x, begin, count);
    const Plan plan =
        build_plan(expert, count, routing.topk, parts.experts.shape().experts, chunk.plan, parts.options.threads);
    const ExpertRows rows{&parts.experts.packed(),
                          plan.offset,
                          plan.row_to_token,
                          parts.weight_site,
                          order_weights(parts, plan, weight, chunk),
                          chunk.h,
                          chunk.out};
    const ConstMatrix routed_x = enter_latent(parts, tokens, chunk, kernels, streamed);
    streamed &= run_experts(parts, rows, routed_x, tokens, chunk, kernels);
    CombineArgs sums = slots_of(parts, plan, weight, tokens, chunk);
    if (!parts.latent_in.empty()) {
      sums = leave_latent(sums, parts, chunk, kernels, streamed);
    }
    finish_combine(sums, parts, chunk, rows_from(y, begin, count), kernels);
  }
  return streamed ? Path::small_batch : Path::grouped;
}

}  // namespace

ForwardResult Layer::forward(ConstMatrix x, Matrix y, const Workspace& workspace, const RouteInputs& inputs) const {
  const Parts& parts = *parts_;
  check_router(parts);
  check_matrices(parts, x, y);
  const std::int32_t topk = parts.router.options.topk;
  check_inputs(parts.router.options, inputs, x.rows, parts.router.experts);
  check_workspace(workspace, workspace_bytes(x.rows));
  NamedMemory read;
  add_inputs(read, inputs, x.rows, topk);
  check_memory(workspace, "y", y, x, read);

  Carver carver(workspace.data());
  const ForwardMemory memory = carve_forward(carver, parts, x.rows, topk, true);
  const Kernels& kernels = current_kernels();
  const Routing routing{x.rows, topk, memory.expert, memory.weight};
  run_router(parts.router, x, inputs, memory.router, memory.chunk.grouped, routing, kernels, parts.options.threads);
  return {routing, run_chunks(parts, x, routing, y, memory, kernels)};
}

void Layer::router_logits(ConstMatrix x, Matrix logits, const Workspace& workspace) const {
  const Parts& parts = *parts_;
  check_router(parts);
  check_logits(parts, x, logits);
  check_workspace(workspace, workspace_bytes(x.rows));
  check_memory(workspace, "logits", logits, x, {});

  Carver carver(workspace.data());
  const ForwardMemory memory = carve_forward(carver, parts, x.rows, parts.router.options.topk, true);
  run_router_logits(parts.router, x, logits, memory.router, memory.chunk.grouped, current_kernels(),
                    parts.options.threads);
}

ForwardResult Layer::forward(ConstMatrix x, Routing routing, Matrix y, const Workspace& workspace) const {
  const Parts& parts = *parts_;
  check_matrices(parts, x, y);
  check_routing(parts, x, routing);
  check_workspace(workspace, workspace_bytes(x.rows, routing.topk));
  NamedMemory read;
  read.add("the routing's experts", routing.expert, x.rows * routing.topk, DType::i32);
  read.add("the routing's weights", routing.weight, x.rows * routing.topk, DType::f32);
  check_memory(workspace, "y", y, x, read);

  Carver carver(workspace.data());
  const ForwardMemory memory = carve_forward(carver, parts, x.rows, routing.topk, false);
  return {routing, run_chunks(parts, x, routing, y, memory, current_kernels())};
}

}  // namespace switchyard
