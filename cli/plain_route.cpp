#include "plain_route.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace switchyard::cli {
namespace {

// Splitting finer than this costs more than it balances.
constexpr std::int64_t kTokensPerPiece = 64;

float widen(const void* data, DType dtype, std::int64_t i) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[i];
  const std::uint32_t bits = static_cast<const std::uint16_t*>(data)[i];
  if (dtype == DType::bf16) return std::bit_cast<float>(bits << 16);
  const float magnitude = std::bit_cast<float>((bits & 0x7fff) << 13) * 0x1p112F;  // of finite values
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// One thread's arrays.
struct Scratch {
  explicit Scratch(std::size_t experts, std::size_t groups)
      : score(experts), selection(experts), id(experts), sorted(experts), group_score(groups), group(groups) {}
  std::vector<float> score;
  std::vector<float> selection;
  std::vector<std::int32_t> id;
  std::vector<float> sorted;
  std::vector<float> group_score;
  std::vector<std::int32_t> group;
};

void softmax(std::vector<float>& values) {
  const float largest = *std::max_element(values.begin(), values.end());
  float sum = 0;
  for (float& value : values) sum += value = std::exp(value - largest);
  for (float& value : values) value /= sum;
}

void score_all(Score score, std::vector<float>& values) {
  if (score == Score::softmax) return softmax(values);
  for (float& value : values) {
    if (score == Score::sigmoid) value = 1 / (1 + std::exp(-value));
    if (score == Score::sqrt_softplus) value = std::sqrt(std::log1p(std::exp(value)));
  }
}

// Ids of the `count` largest values first, the smaller id where they are equal.
void sort_best(const std::vector<float>& values, std::int32_t count, std::vector<std::int32_t>& id) {
  std::iota(id.begin(), id.end(), 0);
  std::partial_sort(id.begin(), id.begin() + count, id.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = values[static_cast<std::size_t>(a)];
    const float y = values[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  });
}

void keep_best_groups(const RouterOptions& options, Scratch& scratch) {
  const auto size = static_cast<std::ptrdiff_t>(scratch.selection.size()) / options.groups;
  scratch.sorted = scratch.selection;
  for (std::int32_t g = 0; g < options.groups; ++g) {
    const auto begin = scratch.sorted.begin() + g * size;
    std::partial_sort(begin, begin + options.group_best, begin + size, std::greater<>());
    scratch.group_score[static_cast<std::size_t>(g)] = std::accumulate(begin, begin + options.group_best, 0.0F);
  }
  sort_best(scratch.group_score, options.kept_groups, scratch.group);
  for (std::int32_t i = options.kept_groups; i < options.groups; ++i) {
    const auto begin = scratch.selection.begin() + scratch.group[static_cast<std::size_t>(i)] * size;
    std::fill(begin, begin + size, -std::numeric_limits<float>::infinity());
  }
}

void route_token(ConstMatrix logits, std::int64_t token, const RouterOptions& options, Scratch& scratch,
                 std::int32_t* expert, float* weight) {
  const auto* bias = static_cast<const float*>(options.selection_bias.data);
  for (std::size_t e = 0; e < scratch.score.size(); ++e) {
    scratch.score[e] = widen(logits.data, logits.dtype, token * logits.stride + static_cast<std::int64_t>(e));
  }
  score_all(options.score, scratch.score);
  scratch.selection = scratch.score;
  if (bias != nullptr) {
    for (std::size_t e = 0; e < scratch.score.size(); ++e) scratch.selection[e] += bias[e];
  }
  if (options.groups > 1) keep_best_groups(options, scratch);
  sort_best(scratch.selection, options.topk, scratch.id);
  float sum = options.epsilon;
  for (std::int32_t k = 0; k < options.topk; ++k) {
    expert[k] = scratch.id[static_cast<std::size_t>(k)];
    sum += weight[k] = scratch.score[static_cast<std::size_t>(expert[k])];
  }
  for (std::int32_t k = 0; k < options.topk; ++k) {
    weight[k] *= options.scale / (options.normalize == Normalize::sum ? sum : 1);
  }
}

struct Work {
  ConstMatrix logits;
  const RouterOptions* options;
  std::int32_t* expert;
  float* weight;
  std::atomic<std::int64_t> next{0};
};

void route_pieces(void* data, int /*worker*/) {
  Work& work = *static_cast<Work*>(data);
  const RouterOptions& options = *work.options;
  Scratch scratch(static_cast<std::size_t>(work.logits.cols), static_cast<std::size_t>(options.groups));
  for (std::int64_t first = 0; (first = work.next.fetch_add(kTokensPerPiece)) < work.logits.rows;) {
    const std::int64_t end = std::min(first + kTokensPerPiece, work.logits.rows);
    for (std::int64_t t = first; t < end; ++t) {
      route_token(work.logits, t, options, scratch, work.expert + t * options.topk, work.weight + t * options.topk);
    }
  }
}

}  // namespace

void plain_route(ConstMatrix logits, const RouterOptions& options, std::int32_t* expert, float* weight,
                 const Threads& threads) {
  Work work{logits, &options, expert, weight};
  if (logits.rows <= kTokensPerPiece) {
    route_pieces(&work, 0);
  } else {
    threads.run(route_pieces, &work);
  }
}

}  // namespace switchyard::cli
