#include "route/router.hpp"

#include <algorithm>

#include "cpu/parallel_for.hpp"
#include "experts/weight_view.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

// Logits of one go: bounds memory whatever the number of tokens and experts, and stays in the second-level or last
// cache.
constexpr std::int64_t kLogitsBytes = std::int64_t{4} << 20;
constexpr std::int64_t kFewestTokens = 16;
// A token takes about 0.15 µs; 64 of them are worth the 1 µs that offering work to a thread costs.
constexpr std::int64_t kTokensPerPiece = 64;

void keep(const float*& values, std::int32_t count, std::vector<float>& copy) {
  if (values != nullptr) {
    copy.assign(values, values + count);
    values = copy.data();
  }
}

void keep_table(RouterOptions& options, std::int32_t experts, std::vector<std::int32_t>& copy) {
  if (options.table.data == nullptr) {
    return;
  }
  check_table_ids(options, experts);
  const std::int64_t ids = options.table_rows * options.topk;
  copy.resize(static_cast<std::size_t>(ids));
  for (std::int64_t i = 0; i < ids; ++i) {
    copy[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(read_id(options.table, i));
  }
  options.table = {copy.data(), DType::i32};
}

// The inputs from token `begin` on.
RouteInputs inputs_from(const RouteInputs& inputs, std::int64_t begin, std::int32_t topk) {
  const auto from = [](ConstArray array, std::int64_t at) {
    if (array.data != nullptr) {
      array.data = static_cast<const std::byte*>(array.data) + at * static_cast<std::int64_t>(dtype_bytes(array.dtype));
    }
    return array;
  };
  RouteInputs part;
  part.valid = inputs.valid == nullptr ? nullptr : inputs.valid + begin;
  part.replayed = inputs.replayed == nullptr ? nullptr : inputs.replayed + begin;
  part.forced = from(inputs.forced, begin * topk);
  part.token_id = from(inputs.token_id, begin);
  return part;
}

void route_rows(const RouteArgs& args, float* scratch_of_all, const Kernels& kernels, const Threads& threads) {
  const std::int64_t pieces = (args.end + kTokensPerPiece - 1) / kTokensPerPiece;
  parallel_for(threads, pieces, [&](std::int64_t piece, int worker) {
    RouteArgs part = args;
    part.begin = piece * kTokensPerPiece;
    part.end = std::min(part.begin + kTokensPerPiece, args.end);
    part.scratch = scratch_of_all + worker * route_scratch_floats(args.experts);
    kernels.route(part);
  });
}

// Logits of the tokens from `begin` on, up to a chunk of them, into memory.logits; returns their number.
std::int64_t make_logits(const Router& router, ConstMatrix x, std::int64_t begin, const RouterMemory& memory,
                         const GroupedMemory& grouped, const Kernels& kernels, const Threads& threads) {
  const std::int64_t count = std::min(memory.chunk, x.rows - begin);
  const std::int64_t offset[] = {0, count};
  GroupedGemm gemm;
  gemm.weights = &router.weight;
  gemm.count = 1;
  gemm.offset = offset;
  gemm.math = math_of(router.weight.format(), router.type);
  gemm.rows = x;
  gemm.rows.data =
      static_cast<const std::byte*>(x.data) + begin * x.stride * static_cast<std::int64_t>(dtype_bytes(x.dtype));
  gemm.rows.rows = count;
  gemm.out = memory.logits;
  run_grouped(gemm, grouped, kernels, threads);
  return count;
}

}  // namespace

Router make_router(const WeightView& weight, std::int32_t experts, std::int64_t hidden, const RouterOptions& options,
                   DType type) {
  Router router;
  router.experts = experts;
  if (weight.data == nullptr) {
    return router;
  }
  check_router_options(options, experts);
  check_weight(weight, "router");
  router.options = without_one_group(options);
  if (const ConstArray& bias = options.selection_bias; bias.data != nullptr) {
    router.selection_bias.resize(static_cast<std::size_t>(experts));
    read_row({bias.data, bias.dtype, 0, 1}, 0, 0, experts, router.selection_bias.data());
    router.options.selection_bias = {router.selection_bias.data(), DType::f32};
  }
  keep(router.options.logit_bias, experts, router.logit_bias);
  keep(router.options.expert_scale, experts, router.expert_scale);
  keep_table(router.options, experts, router.table);
  router.options.round_logits = router.options.round_logits || type == DType::bf16;
  router.type = type;
  router.weight = PackedMatrices(1, experts, hidden, false, type == DType::bf16 ? Format::bf16 : exact_format(weight));
  return router;
}

RouterMemory carve_router(Carver& carver, const Router& router, std::int64_t tokens, const Threads& threads) {
  const std::int64_t width = router.weight.out_width();
  const std::int64_t most = std::max(kFewestTokens, kLogitsBytes / (width * static_cast<std::int64_t>(sizeof(float))));
  const std::int64_t chunk = std::min(tokens, most);
  return {carver.take<float>(chunk * width), chunk, carve_route_scratch(carver, router.experts, threads)};
}

void run_router(const Router& router, ConstMatrix x, const RouteInputs& inputs, const RouterMemory& memory,
                const GroupedMemory& grouped, Routing routing, const Kernels& kernels, const Threads& threads) {
  const std::int32_t topk = router.options.topk;
  for (std::int64_t begin = 0; begin < x.rows; begin += memory.chunk) {
    const std::int64_t count = make_logits(router, x, begin, memory, grouped, kernels, threads);
    const RouteInputs part = inputs_from(inputs, begin, topk);
    RouteOutputs outputs;
    outputs.expert = {routing.expert + begin * topk, DType::i32};
    outputs.weight = {routing.weight + begin * topk, DType::f32};
    RouteArgs args{};
    args.logits = memory.logits;
    args.logits_type = DType::f32;
    args.stride = router.weight.out_width();
    args.experts = router.experts;
    args.options = &router.options;
    args.selection_bias = static_cast<const float*>(router.options.selection_bias.data);
    args.inputs = &part;
    args.outputs = &outputs;
    args.end = count;
    route_rows(args, memory.scratch, kernels, threads);
  }
}

void run_router_logits(const Router& router, ConstMatrix x, Matrix logits, const RouterMemory& memory,
                       const GroupedMemory& grouped, const Kernels& kernels, const Threads& threads) {
  const std::int64_t width = router.weight.out_width();
  for (std::int64_t begin = 0; begin < x.rows; begin += memory.chunk) {
    const std::int64_t count = make_logits(router, x, begin, memory, grouped, kernels, threads);
    // The GEMM writes whole panels, the caller's rows end where they end.
    auto* to = static_cast<float*>(logits.data) + begin * logits.stride;
    parallel_for(threads, (count + kTokensPerPiece - 1) / kTokensPerPiece, [&](std::int64_t piece, int) {
      for (std::int64_t t = piece * kTokensPerPiece; t < std::min((piece + 1) * kTokensPerPiece, count); ++t) {
        std::copy_n(memory.logits + t * width, router.experts, to + t * logits.stride);
      }
    });
  }
}

}  // namespace switchyard
