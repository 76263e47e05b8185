#include "switchyard/route.hpp"

#include <algorithm>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "route/router.hpp"

namespace switchyard {
namespace {

// A token takes about 0.3 µs; 64 of them are worth the 1 µs that offering work to a thread costs.
constexpr std::int64_t kTokensPerPiece = 64;

}  // namespace

void check_router_options(const RouterOptions& options, std::int32_t experts) {
  if (experts < 1 || experts > kMaxExperts) {
    fail(Code::invalid_argument, "route: found {} experts, expected 1..{}", experts, kMaxExperts);
  }
  const std::int32_t most = std::min(experts, kMaxTopk);
  if (options.topk < 1 || options.topk > most) {
    fail(Code::invalid_argument, "route: found topk {} for {} experts, expected 1..{}", options.topk, experts, most);
  }
  if (options.score != Score::softmax) {
    fail(Code::invalid_argument, "route: found score {}, expected softmax (0)", static_cast<int>(options.score));
  }
}

void route_rows(const RouteArgs& args, const Kernels& kernels, const Threads& threads) {
  const std::int64_t pieces = (args.count + kTokensPerPiece - 1) / kTokensPerPiece;
  parallel_for(threads, pieces, [&](std::int64_t piece, int) {
    const std::int64_t begin = piece * kTokensPerPiece;
    RouteArgs part = args;
    part.logits += begin * args.stride;
    part.expert += begin * args.topk;
    part.weight += begin * args.topk;
    part.count = std::min(kTokensPerPiece, args.count - begin);
    kernels.route(part);
  });
}

void route_logits(ConstMatrix logits, const RouterOptions& options, Routing routing, const Threads& threads) {
  if (logits.dtype != DType::f32 || logits.rows < 0 || logits.rows > kMaxTokens || logits.stride < logits.cols ||
      logits.cols > kMaxExperts) {
    fail(Code::invalid_argument,
         "route: found logits [{}, {}] {} with stride {}, expected f32, 0..{} tokens, at most {} experts and a stride "
         "of at least the experts",
         logits.rows, logits.cols, dtype_name(logits.dtype), logits.stride, kMaxTokens, kMaxExperts);
  }
  check_router_options(options, static_cast<std::int32_t>(logits.cols));
  if (routing.tokens != logits.rows || routing.topk != options.topk) {
    fail(Code::invalid_argument, "route: found a routing of [{}, {}], expected [{}, {}]", routing.tokens, routing.topk,
         logits.rows, options.topk);
  }
  if (logits.rows > 0 && (logits.data == nullptr || routing.expert == nullptr || routing.weight == nullptr)) {
    fail(Code::invalid_argument, "route: logits, expert or weight has no data, expected memory for {} tokens",
         logits.rows);
  }
  const RouteArgs args{static_cast<const float*>(logits.data),
                       logits.stride,
                       logits.rows,
                       static_cast<std::int32_t>(logits.cols),
                       options.topk,
                       options.normalize,
                       routing.expert,
                       routing.weight};
  route_rows(args, current_kernels(), threads);
}

}  // namespace switchyard
