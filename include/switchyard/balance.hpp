// Balance: losses, updates and statistics of the load of experts, from the sums that `route` makes in its pass.
#pragma once

#include <cstdint>
#include <span>

#include "switchyard/export.hpp"

namespace switchyard {

// A loss with the gradient that route_backward takes.
//
//   value      = coefficient · E / (K · N) · Σ_e count[e] · score_sum[e] / n
//   gradient_e = coefficient · E / (K · N) · count[e] / n        dL/daux_score[t,e] of every valid token
//
// n valid tokens gave score_sum, N of them gave count. 0 if n or N is 0.
//   switch    count and N of the same tokens (Switch Transformer, arXiv 2101.03961; the fused loss of TransformerEngine)
//   global    count and N summed over ranks or micro-batches, score_sum and n of this one (arXiv 2501.11873)
//   sequence  a call per sequence, coefficient / S each: [S,E] (DeepSeek-V3, arXiv 2412.19437, eq. 17-20)
struct BalanceLoss {
  std::span<const std::int64_t> count;  // [E]
  std::int64_t count_tokens = 0;        // N
  std::span<const double> score_sum;    // [E]
  std::int64_t score_tokens = 0;        // n
  std::int32_t topk = 1;
  double coefficient = 1.0;
};

// Writes gradient [E] if it is not empty; with `add` adds to it, so that several losses share one backward. Sums in
// double, experts ascending. Throws invalid_argument for sizes that differ, topk < 1 and negative numbers of tokens.
SWITCHYARD_API double balance_loss(const BalanceLoss& loss, std::span<float> gradient = {}, bool add = false);

// The z-loss: coefficient · z_sum / tokens, and its gradient for RouteGradients::z. 0 without tokens.
struct ZLoss {
  double value = 0.0;
  float gradient = 0.0F;
};
SWITCHYARD_API ZLoss z_loss(double z_sum, std::int64_t tokens, double coefficient) noexcept;

// Balancing without a loss (arXiv 2408.15664): bias[e] += rate · sign(mean(count) − count[e]), then minus the mean of the
// biases if `centered`. Throws invalid_argument for sizes that differ.
SWITCHYARD_API void update_bias(std::span<float> bias, std::span<const std::int64_t> count, float rate,
                                bool centered = false);

// Quantile Balancing (Kimi K3's report, section 2.3.3 and appendix D): bias[e] becomes the K/E quantile of
// cutoff − score[e], linear within its bin; an expert without entries keeps its bias; then minus the mean over all
// experts. Returns the bounds of the next histogram: the smallest bias − 1, the largest + 1. histogram [E,bins] as `route`
// made it between `lower` and `upper`; 1 <= K < E. Throws invalid_argument.
struct QuantileBounds {
  float lower = 0.0F;
  float upper = 0.0F;
};
SWITCHYARD_API QuantileBounds update_bias_by_quantile(std::span<float> bias, std::span<const std::int32_t> histogram,
                                                      QuantileBounds bounds, std::int32_t topk);

struct LoadStatistics {
  double max_over_mean = 0.0;  // 1: even; E: all on one. 0 without slots.
  double entropy = 0.0;        // −Σ p ln p of the shares p, in nats; ln E: even
  std::int64_t unused = 0;     // experts without a slot
  std::int64_t slots = 0;
};
SWITCHYARD_API LoadStatistics load_statistics(std::span<const std::int64_t> count) noexcept;

}  // namespace switchyard
