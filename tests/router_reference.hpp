// The oracle of the router: forward and gradient in plain double precision, a token at a time. Shares nothing with the
// library but its views; see switchyard/route.hpp for what the fields mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "elements.hpp"
#include "switchyard/route.hpp"

namespace reference {

using switchyard::ChosenScore;
using switchyard::Normalize;
using switchyard::Order;
using switchyard::RouteInputs;
using switchyard::RouterOptions;
using switchyard::Score;
using Vector = std::vector<double>;

inline constexpr double kLowest = -std::numeric_limits<double>::infinity();

// [rows, cols], row-major.
struct Table {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  Vector value;
  Table() = default;
  Table(std::int64_t r, std::int64_t c) : rows(r), cols(c), value(static_cast<std::size_t>(r * c)) {}
  double& at(std::int64_t r, std::int64_t c) { return value[static_cast<std::size_t>(r * cols + c)]; }
  double at(std::int64_t r, std::int64_t c) const { return value[static_cast<std::size_t>(r * cols + c)]; }
};

inline Vector row_of(const Table& table, std::int64_t r) {
  return {table.value.begin() + r * table.cols, table.value.begin() + (r + 1) * table.cols};
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// Logits equal to the largest count as a difference of 0, infinite ones too.
inline Vector softmax(const Vector& logits) {
  Vector out;
  const double largest = *std::max_element(logits.begin(), logits.end());
  for (const double logit : logits) {
    out.push_back(logit == largest ? 1.0 : std::exp(logit - largest));
  }
  const double total = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& value : out) {
    value /= total;
  }
  return out;
}

// Indices of the `count` largest, the lower index first where they are equal.
inline std::vector<std::size_t> largest_of(const Vector& values, std::size_t count) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] > values[b]; });
  order.resize(count);
  return order;
}

// One token on its way.
struct Token {
  bool valid = true;
  bool live = true;                // chosen by the selection, neither forced nor from a table
  std::vector<bool> nan;           // [E] whose l is no number
  Vector logit;                    // l [E], −inf for NaN
  Vector score;                    // [E]
  Vector aux;                      // [E]
  Vector selection;                // [E]
  double z = 0;                    // log(Σ exp(l))²
  std::vector<std::size_t> slots;  // [K] experts
  Vector weight;                   // [K]
  // How far rounding may move a selection before another expert or order would come out; infinite if nothing can.
  double gap = std::numeric_limits<double>::infinity();
  // How much larger the terms of the divisor are than the divisor.
  double condition = 1;
};

inline double transformed(double logit, std::size_t e, const RouterOptions& options) {
  double l = static_cast<double>(options.logit_scale) * logit;
  l += options.logit_bias != nullptr ? options.logit_bias[e] : 0.0;
  const auto cap = static_cast<double>(options.softcap);
  return cap > 0 ? cap * std::tanh(l / cap) : l;
}

inline double activation(double l, Score score) {
  switch (score) {
    case Score::sigmoid:
      return sigmoid(l);
    case Score::sqrt_softplus:
      return std::sqrt(l > 30 ? l + std::log1p(std::exp(-l)) : std::log1p(std::exp(l)));
    default:
      return l;
  }
}

inline double activation_slope(double l, Score score) {
  switch (score) {
    case Score::sigmoid:
      return sigmoid(l) * sigmoid(-l);
    case Score::sqrt_softplus:
      return sigmoid(l) / (2 * activation(l, score));
    default:
      return 1;
  }
}

inline bool auxiliary_softmax(Score score) { return score != Score::sigmoid && score != Score::sqrt_softplus; }

inline Vector scores(const Vector& logits, Score score) {
  if (score == Score::softmax) {
    return softmax(logits);
  }
  Vector out;
  for (const double l : logits) {
    out.push_back(activation(l, score));
  }
  return out;
}

inline Vector auxiliary_scores(const Vector& logits, const Vector& score, Score kind) {
  if (auxiliary_softmax(kind)) {
    return softmax(logits);
  }
  Vector out = score;
  const double total = std::accumulate(out.begin(), out.end(), 0.0) + 1e-20;
  for (double& value : out) {
    value /= total;
  }
  return out;
}

// The smallest distance of two neighbours among the first `count` + 1; equal values are equal in any precision.
inline double smallest_gap(const Vector& values, std::size_t count) {
  const auto order = largest_of(values, std::min(values.size(), count + 1));
  double gap = std::numeric_limits<double>::infinity();
  for (std::size_t i = 1; i < order.size(); ++i) {
    const double apart = values[order[i - 1]] - values[order[i]];
    gap = apart == 0 || std::isnan(apart) ? gap : std::min(gap, apart);
  }
  return gap;
}

inline void mask_groups(Token& token, const RouterOptions& options) {
  const std::size_t size = token.selection.size() / static_cast<std::size_t>(options.groups);
  Vector group_score;
  for (std::size_t begin = 0; begin < token.selection.size(); begin += size) {
    const auto from = token.selection.begin() + static_cast<std::ptrdiff_t>(begin);
    const Vector group(from, from + static_cast<std::ptrdiff_t>(size));
    double sum = 0;
    for (const std::size_t e : largest_of(group, static_cast<std::size_t>(options.group_best))) {
      sum += group[e];
    }
    group_score.push_back(std::isnan(sum) ? kLowest : sum);
  }
  // Only who is kept matters, not in which order.
  const auto kept_count = static_cast<std::size_t>(options.kept_groups);
  const auto order = largest_of(group_score, group_score.size());
  if (kept_count < order.size()) {
    const double apart = group_score[order[kept_count - 1]] - group_score[order[kept_count]];
    token.gap = apart == 0 || std::isnan(apart) ? token.gap : apart;
  }
  std::vector<bool> kept(group_score.size());
  for (std::size_t i = 0; i < kept_count; ++i) {
    kept[order[i]] = true;
  }
  for (std::size_t e = 0; e < token.selection.size(); ++e) {
    token.selection[e] = kept[e / size] ? token.selection[e] : options.masked_zero ? 0 : kLowest;
  }
}

// Whether the logits, which have the order of the scores, are what experts are chosen by.
inline bool chosen_by_logit(const RouterOptions& options) {
  return options.selection_bias.data == nullptr && options.groups <= 1;
}

inline void choose(Token& token, const RouterOptions& options) {
  token.selection = token.score;
  for (std::size_t e = 0; e < token.selection.size(); ++e) {
    if (options.selection_bias.data != nullptr) {
      token.selection[e] += elements::value_at(options.selection_bias, static_cast<std::int64_t>(e));
    }
    token.selection[e] = token.nan[e] || std::isnan(token.selection[e]) ? kLowest : token.selection[e];
  }
  if (options.groups > 1) {
    mask_groups(token, options);
  }
  const Vector value = chosen_by_logit(options) ? token.logit : token.selection;
  token.gap = std::min(token.gap, smallest_gap(value, static_cast<std::size_t>(options.topk)));
  token.slots = largest_of(value, static_cast<std::size_t>(options.topk));
  if (options.order == Order::expert) {
    std::sort(token.slots.begin(), token.slots.end());
  }
}

// The experts that take part in one of the two softmaxes of the sparse mixer, and their shares (arXiv 2409.12136, as
// Phi-3.5-MoE evaluates it). `without`: the first expert, for the second softmax.
inline Vector mixer_shares(const Vector& logits, std::size_t chosen, const std::size_t* without, double jitter) {
  const double most = logits[chosen];
  Vector kept(logits.size(), kLowest);
  for (std::size_t e = 0; e < logits.size(); ++e) {
    const bool masked = (most - logits[e]) / std::max(std::abs(logits[e]), most) > 2 * jitter;
    kept[e] = masked || (without != nullptr && e == *without) ? kLowest : logits[e];
  }
  return softmax(kept);
}

// Shares of both slots; the slot with the larger logit is the first.
inline std::vector<Vector> mixer(const Token& token, const RouterOptions& options) {
  const std::size_t a = token.slots[0];
  const std::size_t b = token.slots[1];
  const bool swapped = token.logit[b] > token.logit[a] || (token.logit[b] == token.logit[a] && b < a);
  const std::size_t first = swapped ? b : a;
  const auto jitter = static_cast<double>(options.jitter);
  Vector one = mixer_shares(token.logit, first, nullptr, jitter);
  Vector two = mixer_shares(token.logit, swapped ? a : b, &first, jitter);
  if (swapped) {
    std::swap(one, two);
  }
  return {one, two};
}

// A softmax that is divided by its sum is the softmax over the chosen, also where all of them underflow.
inline bool softmax_over_chosen(const RouterOptions& options) {
  return options.score == Score::softmax && options.normalize == Normalize::sum && options.epsilon == 0;
}

inline Vector chosen_scores(const Token& token, const RouterOptions& options) {
  Vector out;
  for (const std::size_t e : token.slots) {
    out.push_back(softmax_over_chosen(options) ? token.logit[e] : token.score[e]);
  }
  if (options.score == Score::sparsemixer) {
    const auto shares = mixer(token, options);
    out = {shares[0][token.slots[0]], shares[1][token.slots[1]]};
  }
  if (options.chosen == ChosenScore::softmax || softmax_over_chosen(options)) {
    return softmax(out);
  }
  for (double& value : out) {
    value = options.chosen == ChosenScore::sigmoid ? sigmoid(value) : value;
  }
  return out;
}

inline double divisor(const Vector& chosen, const RouterOptions& options) {
  const double sum = std::accumulate(chosen.begin(), chosen.end(), 0.0);
  const auto power = static_cast<double>(options.power);
  double powers = 0;
  for (const double c : chosen) {
    powers += std::pow(std::abs(c), power);
  }
  switch (options.normalize) {
    case Normalize::sum:
      return sum + static_cast<double>(options.epsilon);
    case Normalize::clamped_sum:
      return std::max(sum, static_cast<double>(options.epsilon));
    case Normalize::power_norm:
      return std::pow(powers, 1 / power);
    default:
      return 1;
  }
}

inline double factor(std::size_t e, const RouterOptions& options) {
  return static_cast<double>(options.scale) * (options.expert_scale != nullptr ? options.expert_scale[e] : 1.0);
}

inline void weigh(Token& token, const RouterOptions& options) {
  const Vector chosen = chosen_scores(token, options);
  const double by = divisor(chosen, options);
  double terms = 0;
  for (std::size_t s = 0; s < chosen.size(); ++s) {
    token.weight.push_back(by == 0 ? 0 : chosen[s] / by * factor(token.slots[s], options));
    terms += std::abs(chosen[s]);
  }
  if (options.normalize != Normalize::none && by != 0) {
    token.condition = std::max(1.0, terms / std::abs(by));
  }
}

inline void take(Token& token, switchyard::ConstArray ids, std::int64_t row, std::int64_t topk) {
  for (std::int64_t s = 0; s < topk; ++s) {
    token.slots.push_back(static_cast<std::size_t>(elements::id_at(ids, row * topk + s)));
  }
  token.live = false;
}

inline bool is_replayed(const RouterOptions& options, const RouteInputs& inputs, std::int64_t t) {
  if (inputs.forced.data == nullptr || (inputs.replayed != nullptr && inputs.replayed[t] == 0)) {
    return false;
  }
  for (std::int64_t s = 0; s < options.topk; ++s) {
    if (elements::id_at(inputs.forced, t * options.topk + s) == -1) {
      return false;
    }
  }
  return true;
}

// log(Σ exp(l)); 0 where it is infinite, which adds nothing to the z-loss.
inline double log_total(const Vector& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  if (std::isinf(largest)) {
    return 0;
  }
  double total = 0;
  for (const double l : logits) {
    total += std::exp(l - largest);
  }
  return largest + std::log(total);
}

inline Token route_token(const Vector& logits, std::int64_t t, const RouterOptions& options,
                         const RouteInputs& inputs) {
  Token token;
  token.valid = inputs.valid == nullptr || inputs.valid[t] != 0;
  if (!token.valid) {
    return token;
  }
  for (std::size_t e = 0; e < logits.size(); ++e) {
    const double l = transformed(logits[e], e, options);
    token.nan.push_back(std::isnan(l));
    token.logit.push_back(std::isnan(l) ? kLowest : l);
  }
  token.score = scores(token.logit, options.score);
  token.aux = auxiliary_scores(token.logit, token.score, options.score);
  token.z = std::pow(log_total(token.logit), 2);
  if (is_replayed(options, inputs, t)) {
    take(token, inputs.forced, t, options.topk);
  } else if (options.table.data != nullptr) {
    take(token, options.table, elements::id_at(inputs.token_id, t), options.topk);
  } else {
    choose(token, options);
  }
  weigh(token, options);
  return token;
}

inline std::vector<Token> route_tokens(const Table& logits, const RouterOptions& options, const RouteInputs& inputs) {
  std::vector<Token> tokens;
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    tokens.push_back(route_token(row_of(logits, t), t, options, inputs));
  }
  return tokens;
}

inline double cutoff(const Token& token, const RouterOptions& options) {
  if (!token.valid) {
    return kLowest;
  }
  const auto count = static_cast<std::size_t>(options.topk + 1);
  return chosen_by_logit(options) ? token.score[largest_of(token.logit, count).back()]
                                  : token.selection[largest_of(token.selection, count).back()];
}

// ---- the gradient to the logits

// dL/dweight of each slot → dL/d(chosen score).
inline Vector through_divisor(const Vector& chosen, const Vector& gradient, const RouterOptions& options) {
  const double by = divisor(chosen, options);
  const double sum = std::accumulate(chosen.begin(), chosen.end(), 0.0);
  const auto power = static_cast<double>(options.power);
  Vector out(chosen.size());
  const double dot = std::inner_product(chosen.begin(), chosen.end(), gradient.begin(), 0.0);
  for (std::size_t s = 0; s < chosen.size(); ++s) {
    double slope = 0;  // of the divisor
    if (options.normalize == Normalize::sum || (options.normalize == Normalize::clamped_sum && sum > options.epsilon)) {
      slope = 1;
    } else if (options.normalize == Normalize::power_norm && chosen[s] != 0) {
      slope = std::pow(by, 1 - power) * std::pow(std::abs(chosen[s]), power - 1) * (chosen[s] < 0 ? -1 : 1);
    }
    out[s] = by == 0 ? 0 : gradient[s] / by - (slope == 0 ? 0 : dot / (by * by) * slope);
  }
  return out;
}

// What flows back through a softmax: p · (g − Σ g p).
inline Vector through_softmax(const Vector& share, const Vector& gradient) {
  const double dot = std::inner_product(share.begin(), share.end(), gradient.begin(), 0.0);
  Vector out(share.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = share[i] * (gradient[i] - dot);
  }
  return out;
}

// What is known of the loss of one token.
struct TokenGradient {
  Vector weight;       // [K]
  Vector probability;  // [E] or empty
  Vector aux;          // [E] or empty
  double z = 0;
};

inline void add_to(Vector& sum, const Vector& values) {
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i] += values[i];
  }
}

// dL/dl of the weights.
inline Vector weight_gradient(const Token& token, const RouterOptions& options, const TokenGradient& gradient) {
  Vector slots(token.slots.size());
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const std::size_t e = token.slots[s];
    slots[s] = (gradient.weight.empty() ? 0 : gradient.weight[s]) * factor(e, options);
    slots[s] += (gradient.probability.empty() ? 0 : gradient.probability[e]) * factor(e, options);
  }
  Vector out(token.logit.size());
  const Vector chosen = chosen_scores(token, options);
  if (softmax_over_chosen(options)) {
    slots = through_softmax(chosen, slots);
    for (std::size_t s = 0; s < slots.size(); ++s) {
      out[token.slots[s]] += slots[s];
    }
    return out;
  }
  slots = through_divisor(chosen, slots, options);
  if (options.score == Score::sparsemixer) {
    const auto shares = mixer(token, options);
    for (std::size_t s = 0; s < slots.size(); ++s) {
      Vector one(out.size());
      one[token.slots[s]] = slots[s];
      add_to(out, through_softmax(shares[s], one));
    }
    return out;
  }
  if (options.chosen == ChosenScore::softmax) {
    slots = through_softmax(chosen, slots);
  }
  for (std::size_t s = 0; s < slots.size(); ++s) {
    const double slope = options.chosen == ChosenScore::sigmoid ? chosen[s] * (1 - chosen[s]) : 1;
    out[token.slots[s]] += slots[s] * slope;
  }
  if (options.score == Score::softmax) {
    return through_softmax(token.score, out);
  }
  for (std::size_t e = 0; e < out.size(); ++e) {
    out[e] *= out[e] == 0 ? 0 : activation_slope(token.logit[e], options.score);
  }
  return out;
}

inline Vector auxiliary_gradient(const Token& token, const RouterOptions& options, const Vector& gradient) {
  if (auxiliary_softmax(options.score)) {
    return through_softmax(token.aux, gradient);
  }
  const double total = std::accumulate(token.score.begin(), token.score.end(), 0.0) + 1e-20;
  const double dot = std::inner_product(token.aux.begin(), token.aux.end(), gradient.begin(), 0.0);
  Vector out(gradient.size());
  for (std::size_t e = 0; e < out.size(); ++e) {
    out[e] = (gradient[e] - dot) / total * activation_slope(token.logit[e], options.score);
  }
  return out;
}

// dL/dlogits of one token; the choice is constant.
inline Vector token_gradient(const Token& token, const RouterOptions& options, const TokenGradient& gradient) {
  Vector out = weight_gradient(token, options, gradient);
  if (!gradient.aux.empty()) {
    add_to(out, auxiliary_gradient(token, options, gradient.aux));
  }
  if (gradient.z != 0) {
    const Vector share = softmax(token.logit);
    const double slope = gradient.z * 2 * log_total(token.logit);
    for (std::size_t e = 0; e < out.size(); ++e) {
      out[e] += slope * share[e];
    }
  }
  for (std::size_t e = 0; e < out.size(); ++e) {
    const auto cap = static_cast<double>(options.softcap);
    out[e] *= static_cast<double>(options.logit_scale) * (cap > 0 ? 1 - std::pow(token.logit[e] / cap, 2) : 1);
  }
  return out;
}

}  // namespace reference
