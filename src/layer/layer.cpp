#include "switchyard/layer.hpp"

#include <algorithm>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "layer/parts.hpp"

namespace switchyard {
namespace {

Math math_of(const LayerOptions& options) {
  if (options.format == Format::f32) {
    return Math::f32;
  }
  return options.activations == DType::bf16 ? Math::bf16 : Math::widened;
}

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
  void* h;
  float* out;
};

void run_experts(const ExpertRows& rows, ConstMatrix x, const LayerOptions& options, const GroupedMemory& memory,
                 const Kernels& kernels) {
  const ExpertWeights::Packed& weights = *rows.weights;
  GroupedGemm up;
  up.weights = &weights.up;
  up.count = weights.shape.experts;
  up.offset = rows.offset;
  up.math = math_of(options);
  up.rows = x;
  up.row_index = rows.row_index;
  up.out = rows.h;
  up.out_type = options.activations;
  run_grouped(up, memory, kernels, options.threads);

  GroupedGemm down = up;
  down.weights = &weights.down;
  down.rows = {rows.h, options.activations, rows.offset[weights.shape.experts], weights.shape.ffn};
  down.rows.stride = weights.up.out_width();
  down.row_index = nullptr;
  down.out = rows.out;
  down.out_type = DType::f32;
  run_grouped(down, memory, kernels, options.threads);
}

void run_shared(const Layer::Parts& parts, ConstMatrix x, const ChunkMemory& memory, const Kernels& kernels) {
  const std::int64_t offset[] = {0, x.rows};
  run_experts({&parts.shared->packed(), offset, nullptr, memory.shared_h, memory.shared_out}, x, parts.options,
              memory.grouped, kernels);
  if (!parts.shared_gate.empty()) {
    GroupedGemm gate;
    gate.weights = &parts.shared_gate;
    gate.count = 1;
    gate.offset = offset;
    gate.rows = x;
    gate.out = memory.gate_logits;
    run_grouped(gate, memory.grouped, kernels, parts.options.threads);
  }
}

void run_combine(const Layer::Parts& parts, const Plan& plan, const float* weight, const ChunkMemory& memory, Matrix y,
                 const Kernels& kernels) {
  // A piece reads some 64 KiB of rows or more: far above the cost of taking it from the queue.
  const std::int64_t tokens_per_piece = (std::int64_t{1} << 14) / (plan.topk * parts.hidden) + 1;
  CombineArgs all{};
  all.rows = memory.out;
  all.rows_stride = parts.experts.packed().down.out_width();
  all.topk = plan.topk;
  all.hidden = parts.hidden;
  all.out_type = y.dtype;
  all.out_stride = y.stride;
  if (parts.shared) {
    all.shared_stride = parts.shared->packed().down.out_width();
    all.gate_stride = parts.shared_gate.out_width();
  }
  parallel_for(parts.options.threads, (plan.tokens + tokens_per_piece - 1) / tokens_per_piece,
               [&](std::int64_t piece, int) {
                 const std::int64_t begin = piece * tokens_per_piece;
                 CombineArgs args = all;
                 args.count = std::min(tokens_per_piece, plan.tokens - begin);
                 args.slot_to_row = plan.slot_to_row + begin * plan.topk;
                 args.weight = weight + begin * plan.topk;
                 args.out = rows_from(y, begin, args.count).data;
                 args.shared = parts.shared ? memory.shared_out + begin * all.shared_stride : nullptr;
                 args.gate_logits = parts.shared_gate.empty() ? nullptr : memory.gate_logits + begin * all.gate_stride;
                 kernels.combine(args);
               });
}

// The way of a token's rows: plan, experts, combine; in chunks of tokens, so that rows take bounded memory.
void run_chunks(const Layer::Parts& parts, ConstMatrix x, Routing routing, Matrix y, const ForwardMemory& memory,
                const Kernels& kernels) {
  const ChunkMemory& chunk = memory.chunk;
  const std::int64_t chunks = x.rows == 0 ? 0 : (x.rows + chunk.tokens - 1) / chunk.tokens;
  for (std::int64_t i = 0; i < chunks; ++i) {
    const std::int64_t begin = i * x.rows / chunks;
    const std::int64_t count = (i + 1) * x.rows / chunks - begin;
    const std::int32_t* expert = routing.expert + begin * routing.topk;
    const float* weight = routing.weight + begin * routing.topk;

    const ConstMatrix tokens = rows_from(x, begin, count);
    const Plan plan =
        build_plan(expert, count, routing.topk, parts.experts.shape().experts, chunk.plan, parts.options.threads);
    run_experts({&parts.experts.packed(), plan.offset, plan.row_to_token, chunk.h, chunk.out}, tokens, parts.options,
                chunk.grouped, kernels);
    if (parts.shared) {
      run_shared(parts, tokens, chunk, kernels);
    }
    run_combine(parts, plan, weight, chunk, rows_from(y, begin, count), kernels);
  }
}

}  // namespace

ForwardResult Layer::forward(ConstMatrix x, Matrix y, const Workspace& workspace, const RouteInputs& inputs) const {
  const Parts& parts = *parts_;
  check_router(parts);
  check_matrices(parts, x, y);
  const std::int32_t topk = parts.router.options.topk;
  check_inputs(parts.router.options, inputs, x.rows, parts.router.experts);
  check_workspace(workspace, workspace_bytes(x.rows), x, y);

  Carver carver(workspace.data());
  const ForwardMemory memory = carve_forward(carver, parts, x.rows, topk, true);
  const Kernels& kernels = current_kernels();
  const Routing routing{x.rows, topk, memory.expert, memory.weight};
  run_router(parts.router, x, inputs, memory.router, memory.chunk.grouped, routing, kernels, parts.options.threads);
  run_chunks(parts, x, routing, y, memory, kernels);
  return {routing, Path::grouped};
}

ForwardResult Layer::forward(ConstMatrix x, Routing routing, Matrix y, const Workspace& workspace) const {
  const Parts& parts = *parts_;
  check_matrices(parts, x, y);
  check_routing(parts, x, routing);
  check_workspace(workspace, workspace_bytes(x.rows, routing.topk), x, routing, y);

  Carver carver(workspace.data());
  const ForwardMemory memory = carve_forward(carver, parts, x.rows, routing.topk, false);
  run_chunks(parts, x, routing, y, memory, current_kernels());
  return {routing, Path::grouped};
}

}  // namespace switchyard
