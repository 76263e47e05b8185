// The oracle: a mixture-of-experts block in plain double precision. Shares nothing with the library but its views.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
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

// One token: softmax over all, the K largest (ties: lower id first), NaN as −inf.
inline void route_token(Vector logits, std::int64_t topk, bool normalize, std::int32_t* ids, double* weights) {
  const double lowest = -std::numeric_limits<double>::infinity();
  for (double& logit : logits) {
    logit = std::isnan(logit) ? lowest : logit;
  }
  const double largest = *std::max_element(logits.begin(), logits.end());
  Vector score;
  double total = 0;
  for (const double logit : logits) {
    score.push_back(logit == largest ? 1.0 : std::exp(logit - largest));
    total += score.back();
  }
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t e = 0; e < order.size(); ++e) {
    order[e] = static_cast<std::int32_t>(e);
  }
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  double chosen = 0;
  for (std::int64_t s = 0; s < topk; ++s) {
    ids[s] = order[static_cast<std::size_t>(s)];
    weights[s] = score[static_cast<std::size_t>(ids[s])] / total;
    chosen += weights[s];
  }
  for (std::int64_t s = 0; s < topk && normalize; ++s) {
    weights[s] /= chosen;
  }
}

inline Routing route(const Table& logits, std::int64_t topk, bool normalize) {
  Routing routing;
  routing.topk = topk;
  routing.expert.resize(static_cast<std::size_t>(logits.rows * topk));
  routing.weight.resize(static_cast<std::size_t>(logits.rows * topk));
  for (std::int64_t t = 0; t < logits.rows; ++t) {
    const Vector row(logits.value.begin() + t * logits.cols, logits.value.begin() + (t + 1) * logits.cols);
    route_token(row, topk, normalize, &routing.expert[static_cast<std::size_t>(t * topk)],
                &routing.weight[static_cast<std::size_t>(t * topk)]);
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
