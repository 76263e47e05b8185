#include "switchyard/route.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "cpu/parallel_for.hpp"
#include "fail.hpp"
#include "route/router.hpp"

namespace switchyard {
namespace {

// A token takes about 0.3 µs; 64 of them are worth the 1 µs that offering work to a thread costs.
constexpr std::int64_t kTokensPerPiece = 64;

void check_groups(const RouterOptions& options, std::int32_t experts) {
  if (options.groups == 0) {
    return;
  }
  if (options.groups < 2 || options.groups > kMaxGroups || experts % options.groups != 0) {
    fail(Code::invalid_argument, "route: found {} groups for {} experts, expected 0 or 2..{} of equal size",
         options.groups, experts, kMaxGroups);
  }
  const std::int32_t size = experts / options.groups;
  if (options.kept_groups < 1 || options.kept_groups > options.groups || options.kept_groups * size < options.topk) {
    fail(Code::invalid_argument,
         "route: found {} kept groups of {} experts for topk {}, expected 1..{} with enough experts",
         options.kept_groups, size, options.topk, options.groups);
  }
  if (options.group_best < 1 || options.group_best > std::min(size, kMaxTopk)) {
    fail(Code::invalid_argument, "route: found group_best {}, expected 1..{}", options.group_best,
         std::min(size, kMaxTopk));
  }
}

}  // namespace

const char* score_name(Score score) noexcept {
  constexpr const char* kNames[] = {"softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer"};
  const auto index = static_cast<std::size_t>(score);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

void check_router_options(const RouterOptions& options, std::int32_t experts) {
  if (experts < 1 || experts > kMaxExperts) {
    fail(Code::invalid_argument, "route: found {} experts, expected 1..{}", experts, kMaxExperts);
  }
  const std::int32_t most = std::min(experts, kMaxTopk);
  if (options.topk < 1 || options.topk > most) {
    fail(Code::invalid_argument, "route: found topk {} for {} experts, expected 1..{}", options.topk, experts, most);
  }
  if (options.score != Score::softmax && options.score != Score::sigmoid) {
    fail(Code::invalid_argument, "route: found score {}, expected softmax (0) or sigmoid (1)",
         static_cast<int>(options.score));
  }
  if (!(options.epsilon >= 0) || !std::isfinite(options.epsilon) || !std::isfinite(options.scale)) {
    fail(Code::invalid_argument, "route: found epsilon {} and scale {}, expected finite numbers and epsilon >= 0",
         options.epsilon, options.scale);
  }
  check_groups(options, experts);
}

void route_rows(const RouteArgs& args, const Kernels& kernels, const Threads& threads) {
  const std::int64_t pieces = (args.count + kTokensPerPiece - 1) / kTokensPerPiece;
  parallel_for(threads, pieces, [&](std::int64_t piece, int) {
    const std::int64_t begin = piece * kTokensPerPiece;
    RouteArgs part = args;
    part.logits += begin * args.stride;
    part.expert += begin * args.options->topk;
    part.weight += begin * args.options->topk;
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
                       &options,
                       routing.expert,
                       routing.weight};
  route_rows(args, current_kernels(), threads);
}

}  // namespace switchyard
