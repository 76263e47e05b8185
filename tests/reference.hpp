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

struct Expert {
  Table gate;  // [F,H]
  Table up;    // [F,H]
  Table down;  // [H,F]
};

struct Routing {
  std::int64_t topk = 0;
  std::vector<std::int32_t> expert;  // [T,K]
  Vector weight;                     // [T,K]
};

// weight · row
inline Vector product(const Table& weight, const Vector& row) {
  Vector out(static_cast<std::size_t>(weight.rows));
  for (std::int64_t o = 0; o < weight.rows; ++o) {
    double sum = 0;
    for (std::int64_t i = 0; i < weight.cols; ++i) {
      sum += weight.at(o, i) * row[static_cast<std::size_t>(i)];
    }
    out[static_cast<std::size_t>(o)] = sum;
  }
  return out;
}

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// `round` stands for what happens to the activations between the GEMMs.
template <class Round>
Vector expert(const Expert& weights, const Vector& row, Round round) {
  Vector h = product(weights.gate, row);
  const Vector up = product(weights.up, row);
  for (std::size_t f = 0; f < h.size(); ++f) {
    h[f] = round(h[f] * sigmoid(h[f]) * up[f]);
  }
  return product(weights.down, h);
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

// y = Σ weight · expert(x) (+ sigmoid(x · shared_gate) · shared(x)). `shared` null: none; `shared_gate` null: factor 1.
// The gate sees x before `round`, the experts after.
template <class Round>
Table block(const Table& x, const std::vector<Expert>& experts, const Routing& routing, const Expert* shared,
            const Table* shared_gate, Round round) {
  Table y(x.rows, x.cols);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    Vector row = row_of(x, t);
    const double gate = shared_gate != nullptr ? sigmoid(product(*shared_gate, row)[0]) : 1.0;
    std::transform(row.begin(), row.end(), row.begin(), round);
    const auto add = [&](const Expert& weights, double factor) {
      const Vector out = expert(weights, row, round);
      for (std::int64_t h = 0; h < x.cols; ++h) {
        y.at(t, h) += factor * out[static_cast<std::size_t>(h)];
      }
    };
    for (std::int64_t s = 0; s < routing.topk; ++s) {
      const auto slot = static_cast<std::size_t>(t * routing.topk + s);
      if (routing.expert[slot] >= 0) {
        add(experts[static_cast<std::size_t>(routing.expert[slot])], routing.weight[slot]);
      }
    }
    if (shared != nullptr) {
      add(*shared, gate);
    }
  }
  return y;
}

}  // namespace reference
