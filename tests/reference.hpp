// The oracle: a mixture-of-experts block in plain double precision. Shares nothing with the library but its views.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace reference {

using Vector = std::vector<double>;

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

enum class Act {
  silu,
  gelu,
  gelu_tanh,
  relu,
  relu_squared,
  silu_clamped,
  silu_limited,
  swiglu_oai,
  softcapped,
};

// The function between an expert's GEMMs; see switchyard/activation.hpp for what the fields mean.
struct Function {
  Act act = Act::silu;
  bool gated = true;
  double limit = 0;
  double alpha = 0;
};

// Biases may be empty: none. `gate` is not looked at without a gate.
struct Expert {
  Table gate;  // [F,H]
  Table up;    // [F,H]
  Table down;  // [H,F]
  Vector gate_bias = {};
  Vector up_bias = {};
  Vector down_bias = {};
};

struct Routing {
  std::int64_t topk = 0;
  std::vector<std::int32_t> expert;  // [T,K]
  Vector weight;                     // [T,K]
};

// weight · row + bias
inline Vector product(const Table& weight, const Vector& row, const Vector& bias = {}) {
  Vector out(static_cast<std::size_t>(weight.rows));
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    double sum = bias.empty() ? 0 : bias[static_cast<std::size_t>(o)];
    for (std::int64_t i = 0; i < weight.cols; ++i) {
      sum += weight.at(o, i) * row[static_cast<std::size_t>(i)];
    }
    out[static_cast<std::size_t>(o)] = sum;
  }
  return out;
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// h of one feature; u is 1 without a gate.
inline double activated(const Function& function, double g, double u) {
  const double limit = function.limit;
  const double alpha = function.alpha;
  const double clamped = std::min(std::max(u, -limit), limit);
  switch (function.act) {
    case Act::silu:
      return g * sigmoid(g) * u;
    case Act::gelu:
      return 0.5 * g * std::erfc(-g / std::sqrt(2.0)) * u;
    case Act::gelu_tanh:
      return 0.5 * g * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g))) * u;
    case Act::relu:
      return std::max(g, 0.0) * u;
    case Act::relu_squared:
      return std::max(g, 0.0) * std::max(g, 0.0) * u;
    case Act::silu_clamped:
      return std::min(g, limit) * sigmoid(std::min(g, limit)) * clamped;
    case Act::silu_limited:
      return std::min(g * sigmoid(g), limit) * clamped;
    case Act::swiglu_oai:
      return std::min(g, limit) * sigmoid(alpha * std::min(g, limit)) * (clamped + 1);
    default:
      return alpha * std::tanh(g / alpha) * sigmoid(g) * limit * std::tanh(u / limit);
  }
}

// `round` stands for what happens to the activations between the GEMMs.
template <class Round>
Vector expert(const Expert& weights, const Function& function, const Vector& row, Round round) {
  Vector h = product(weights.up, row, weights.up_bias);
  const Vector gate = function.gated ? product(weights.gate, row, weights.gate_bias) : Vector();
  for (std::size_t f = 0; f < h.size(); ++f) {
    h[f] = round(function.gated ? activated(function, gate[f], h[f]) : activated(function, h[f], 1));
  }
  return product(weights.down, h, weights.down_bias);
}

// How logits become a routing; see switchyard/route.hpp for what the fields mean.
struct Rules {
  std::int64_t topk = 1;
  bool sigmoid = false;  // else softmax
  bool normalize = false;
  double epsilon = 0;
  double scale = 1;
  std::int64_t groups = 0;
  std::int64_t kept_groups = 0;
  std::int64_t group_best = 1;
  bool masked_zero = false;
  Vector bias = {};  // empty: none
};

// Indices of the `count` largest, the lower index first where they are equal.
inline std::vector<std::size_t> largest_of(const Vector& values, std::int64_t count) {
  std::vector<std::size_t> order(values.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] > values[b]; });
  order.resize(static_cast<std::size_t>(count));
  return order;
}

inline Vector scores(const Vector& logits, bool use_sigmoid) {
  Vector score;
  const double largest = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const double logit : logits) {
    score.push_back(use_sigmoid ? sigmoid(logit) : logit == largest ? 1.0 : std::exp(logit - largest));
    total += score.back();
  }
  for (double& value : score) {
    value = use_sigmoid ? value : value / total;
  }
  return score;
}

inline void mask_groups(Vector& values, const Rules& rules) {
  const std::size_t size = values.size() / static_cast<std::size_t>(rules.groups);
  Vector group_score;
  for (std::size_t begin = 0; begin < values.size(); begin += size) {
    Vector group(values.begin() + static_cast<std::ptrdiff_t>(begin),
                 values.begin() + static_cast<std::ptrdiff_t>(begin + size));
    std::sort(group.begin(), group.end(), std::greater<>());
    double sum = 0;
    for (std::int64_t i = 0; i < rules.group_best; ++i) {
      sum += group[static_cast<std::size_t>(i)];
    }
    group_score.push_back(sum);
  }
  std::vector<bool> kept(group_score.size());
  for (const std::size_t group : largest_of(group_score, rules.kept_groups)) {
    kept[group] = true;
  }
  for (std::size_t e = 0; e < values.size(); ++e) {
    values[e] = kept[e / size] ? values[e] : rules.masked_zero ? 0 : -std::numeric_limits<double>::infinity();
  }
}

// One token; NaN counts as −inf.
inline void route_token(Vector logits, const Rules& rules, std::int32_t* ids, double* weights) {
  const double lowest = -std::numeric_limits<double>::infinity();
  for (double& logit : logits) {
    logit = std::isnan(logit) ? lowest : logit;
  }
  const Vector score = scores(logits, rules.sigmoid);
  Vector chosen_by = logits;  // has the order of the scores
  if (!rules.bias.empty() || rules.groups > 0) {
    chosen_by = score;
    for (std::size_t e = 0; e < rules.bias.size(); ++e) {
      chosen_by[e] = std::isnan(rules.bias[e]) ? lowest : chosen_by[e] + rules.bias[e];
    }
  }
  if (rules.groups > 0) {
    mask_groups(chosen_by, rules);
  }
  const std::vector<std::size_t> order = largest_of(chosen_by, rules.topk);
  double sum = rules.epsilon;
  for (const std::size_t e : order) {
    sum += score[e];
  }
  for (std::size_t s = 0; s < order.size(); ++s) {
    ids[s] = static_cast<std::int32_t>(order[s]);
    weights[s] = score[order[s]] * rules.scale;
    if (rules.normalize) {
      weights[s] = sum == 0 ? 0 : weights[s] / sum;
    }
  }
}

inline Routing route(const Table& logits, const Rules& rules) {
  Routing routing;
  routing.topk = rules.topk;
  routing.expert.resize(static_cast<std::size_t>(logits.rows * rules.topk));
  routing.weight.resize(static_cast<std::size_t>(logits.rows * rules.topk));
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const Vector row(logits.value.begin() + t * logits.cols, logits.value.begin() + (t + 1) * logits.cols);
    route_token(row, rules, &routing.expert[static_cast<std::size_t>(t * rules.topk)],
                &routing.weight[static_cast<std::size_t>(t * rules.topk)]);
  }
  return routing;
}

inline Vector row_of(const Table& table, std::int64_t r) {
  return {table.value.begin() + r * table.cols, table.value.begin() + (r + 1) * table.cols};
}

// A whole block; see LayerWeights in switchyard/layer.hpp for what the fields mean. Empty: none.
struct Block {
  std::vector<Expert> experts;
  Function function = {};
  std::vector<Expert> shared = {};  // one, or none
  Function shared_function = {};
  Table shared_gate = {};
  double shared_scale = 1;
  bool weight_on_input = false;
  Vector output_bias = {};
  Table latent_in = {};
  Table latent_out = {};
  Vector latent_in_bias = {};
  Vector latent_out_bias = {};
};

template <class Round>
Vector rounded(Vector row, Round round) {
  std::transform(row.begin(), row.end(), row.begin(), round);
  return row;
}

inline void add_to(Vector& sum, double factor, const Vector& row) {
  for (std::size_t i = 0; i < sum.size(); ++i) {
    sum[i] += factor * row[i];
  }
}

// Σ weight · row of one token, ids beyond the experts standing for the token itself.
template <class Round>
Vector slots(const Block& block, const Vector& row, const Routing& routing, std::int64_t token, Round round) {
  Vector sum(row.size());
  for (std::int64_t s = 0; s < routing.topk; ++s) {
    const auto slot = static_cast<std::size_t>(token * routing.topk + s);
    const auto id = static_cast<std::size_t>(routing.expert[slot]);
    const double weight = routing.weight[slot];
    if (routing.expert[slot] < 0) {
      continue;
    }
    if (id >= block.experts.size()) {
      add_to(sum, weight, row);
    } else if (block.weight_on_input) {
      Vector scaled(row.size());
      add_to(scaled, weight, row);
      add_to(sum, 1, expert(block.experts[id], block.function, rounded(scaled, round), round));
    } else {
      add_to(sum, weight, expert(block.experts[id], block.function, rounded(row, round), round));
    }
  }
  return sum;
}

// y of x [T,H]. The shared expert's gate and identity experts see x before `round`, the other experts after.
template <class Round>
Table run(const Block& block, const Table& x, const Routing& routing, Round round) {
  Table y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    const Vector row = row_of(x, t);
    Vector sum;
    if (block.latent_in.rows > 0) {
      const Vector latent = product(block.latent_in, rounded(row, round), block.latent_in_bias);
      const Vector inner = rounded(slots(block, latent, routing, t, round), round);
      sum = product(block.latent_out, inner, block.latent_out_bias);
    } else {
      sum = slots(block, row, routing, t, round);
    }
    if (!block.shared.empty()) {
      const double factor =
          block.shared_gate.rows > 0 ? sigmoid(product(block.shared_gate, row)[0]) : block.shared_scale;
      add_to(sum, factor, expert(block.shared[0], block.shared_function, rounded(row, round), round));
    }
    if (!block.output_bias.empty()) {
      add_to(sum, 1, block.output_bias);
    }
    std::copy(sum.begin(), sum.end(), y.value.begin() + t * x.cols);
  }
  return y;
}

}  // namespace reference
