#include "switchyard/balance.hpp"

#include <algorithm>
#include <cmath>

#include "fail.hpp"

namespace switchyard {
namespace {

void subtract_mean(std::span<float> bias) {
  double sum = 0;
  for (const float value : bias) {
    sum += value;
  }
  const double mean = sum / static_cast<double>(bias.size());
  for (float& value : bias) {
    value = static_cast<float>(value - mean);
  }
}

void check_loss(const BalanceLoss& loss, std::span<const float> gradient) {
  const std::size_t experts = loss.count.size();
  if (loss.score_sum.size() != experts || (!gradient.empty() && gradient.size() != experts)) {
    fail(Code::invalid_argument,
         "balance: found {} counts, {} score sums and a gradient of {}, expected the same number, or no gradient",
         experts, loss.score_sum.size(), gradient.size());
  }
  if (loss.topk < 1 || loss.count_tokens < 0 || loss.score_tokens < 0) {
    fail(Code::invalid_argument,
         "balance: found topk {}, {} counted and {} scored tokens, expected topk of at least 1 and no negative number",
         loss.topk, loss.count_tokens, loss.score_tokens);
  }
}

void check_quantile(std::span<const float> bias, std::span<const std::int32_t> histogram, QuantileBounds bounds,
                    std::int32_t topk) {
  const std::size_t experts = bias.size();
  if (experts < 2 || topk < 1 || static_cast<std::size_t>(topk) >= experts) {
    fail(Code::invalid_argument,
         "balance: found topk {} for {} experts, expected at least 1 and fewer than the experts", topk, experts);
  }
  if (histogram.empty() || histogram.size() % experts != 0) {
    fail(Code::invalid_argument, "balance: found a histogram of {} bins for {} experts, expected the same for each",
         histogram.size(), experts);
  }
  if (!std::isfinite(bounds.lower) || !std::isfinite(bounds.upper) || bounds.lower >= bounds.upper) {
    fail(Code::invalid_argument, "balance: found bins from {} to {}, expected finite bounds, the lower one first",
         bounds.lower, bounds.upper);
  }
  const auto negative = std::find_if(histogram.begin(), histogram.end(), [](std::int32_t count) { return count < 0; });
  if (negative != histogram.end()) {
    const auto at = static_cast<std::size_t>(negative - histogram.begin());
    const std::size_t bins = histogram.size() / experts;
    fail(Code::invalid_argument, "balance: expert {} bin {} holds {} entries, expected no negative number", at / bins,
         at % bins, *negative);
  }
}

// Where, in bins from the first one's begin, `share` of all entries lie below. `total` > 0 entries, 0 < share <= 1.
double quantile(std::span<const std::int32_t> row, std::int64_t total, double share) {
  const double target = static_cast<double>(total) * share;
  std::int64_t below = 0;
  std::size_t bin = 0;
  while (static_cast<double>(below + row[bin]) < target) {
    below += row[bin++];
  }
  return static_cast<double>(bin) + (target - static_cast<double>(below)) / row[bin];
}

}  // namespace

double balance_loss(const BalanceLoss& loss, std::span<float> gradient, bool add) {
  check_loss(loss, gradient);
  if (loss.count_tokens == 0 || loss.score_tokens == 0) {
    if (!add) {
      std::fill(gradient.begin(), gradient.end(), 0.0F);
    }
    return 0.0;
  }
  const std::size_t experts = loss.count.size();
  const double scale = loss.coefficient * static_cast<double>(experts) /
                       (static_cast<double>(loss.topk) * static_cast<double>(loss.count_tokens));
  const auto tokens = static_cast<double>(loss.score_tokens);
  double sum = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    sum += static_cast<double>(loss.count[e]) * loss.score_sum[e];
  }
  for (std::size_t e = 0; e < gradient.size(); ++e) {
    const double slope = scale * static_cast<double>(loss.count[e]) / tokens;
    gradient[e] = static_cast<float>(add ? gradient[e] + slope : slope);
  }
  return scale * sum / tokens;
}

ZLoss z_loss(double z_sum, std::int64_t tokens, double coefficient) noexcept {
  if (tokens <= 0) {
    return {};
  }
  const double slope = coefficient / static_cast<double>(tokens);
  return {slope * z_sum, static_cast<float>(slope)};
}

void update_bias(std::span<float> bias, std::span<const std::int64_t> count, float rate, bool centered) {
  if (bias.size() != count.size()) {
    fail(Code::invalid_argument, "balance: found {} biases and {} counts, expected the same number", bias.size(),
         count.size());
  }
  const auto experts = static_cast<double>(count.size());
  double total = 0;
  for (const std::int64_t slots : count) {
    total += static_cast<double>(slots);
  }
  for (std::size_t e = 0; e < count.size(); ++e) {
    // E times the distance to the mean: exact, unlike the mean.
    const double missing = total - experts * static_cast<double>(count[e]);
    if (missing != 0) {
      bias[e] += missing > 0 ? rate : -rate;
    }
  }
  if (centered && !bias.empty()) {
    subtract_mean(bias);
  }
}

QuantileBounds update_bias_by_quantile(std::span<float> bias, std::span<const std::int32_t> histogram,
                                       QuantileBounds bounds, std::int32_t topk) {
  check_quantile(bias, histogram, bounds, topk);
  const std::size_t bins = histogram.size() / bias.size();
  const double width = (static_cast<double>(bounds.upper) - bounds.lower) / static_cast<double>(bins);
  const double share = static_cast<double>(topk) / static_cast<double>(bias.size());
  for (std::size_t e = 0; e < bias.size(); ++e) {
    const std::span<const std::int32_t> row = histogram.subspan(e * bins, bins);
    std::int64_t total = 0;
    for (const std::int32_t entries : row) {
      total += entries;
    }
    if (total > 0) {
      bias[e] = static_cast<float>(bounds.lower + quantile(row, total, share) * width);
    }
  }
  subtract_mean(bias);
  const auto [smallest, largest] = std::minmax_element(bias.begin(), bias.end());
  return {*smallest - 1.0F, *largest + 1.0F};
}

LoadStatistics load_statistics(std::span<const std::int64_t> count) noexcept {
  LoadStatistics statistics;
  std::int64_t most = 0;
  for (const std::int64_t slots : count) {
    statistics.slots += slots;
    statistics.unused += slots == 0 ? 1 : 0;
    most = std::max(most, slots);
  }
  if (statistics.slots == 0) {
    return statistics;
  }
  const auto total = static_cast<double>(statistics.slots);
  statistics.max_over_mean = static_cast<double>(most) * static_cast<double>(count.size()) / total;
  for (const std::int64_t slots : count) {
    if (slots > 0) {
      const double share = static_cast<double>(slots) / total;
      statistics.entropy -= share * std::log(share);
    }
  }
  return statistics;
}

}  // namespace switchyard
