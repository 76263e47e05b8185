#include "route/router.hpp"

#include <algorithm>

namespace switchyard {
namespace {

// Logits of one go: bounds memory whatever the number of tokens and experts, and stays in the second-level or last
// cache.
constexpr std::int64_t kLogitsBytes = std::int64_t{4} << 20;
constexpr std::int64_t kFewestTokens = 16;

}  // namespace

RouterMemory carve_router(Carver& carver, const Router& router, std::int64_t tokens) {
  const std::int64_t width = router.weight.out_width();
  const std::int64_t most = std::max(kFewestTokens, kLogitsBytes / (width * static_cast<std::int64_t>(sizeof(float))));
  const std::int64_t chunk = std::min(tokens, most);
  return {carver.take<float>(chunk * width), chunk};
}

void run_router(const Router& router, ConstMatrix x, const RouterMemory& memory, const GroupedMemory& grouped,
                std::int32_t* expert, float* weight, const Kernels& kernels, const Threads& threads) {
  const std::int32_t topk = router.options.topk;
  const std::int64_t token_bytes = x.stride * static_cast<std::int64_t>(dtype_bytes(x.dtype));
  for (std::int64_t begin = 0; begin < x.rows; begin += memory.chunk) {
    const std::int64_t count = std::min(memory.chunk, x.rows - begin);
    const std::int64_t offset[] = {0, count};
    GroupedGemm gemm;
    gemm.weights = &router.weight;
    gemm.count = 1;
    gemm.offset = offset;
    gemm.rows = x;
    gemm.rows.data = static_cast<const std::byte*>(x.data) + begin * token_bytes;
    gemm.out = memory.logits;
    run_grouped(gemm, grouped, kernels, threads);
    const RouteArgs args{memory.logits,         router.weight.out_width(), count, router.experts, &router.options,
                         expert + begin * topk, weight + begin * topk};
    route_rows(args, kernels, threads);
  }
}

}  // namespace switchyard
