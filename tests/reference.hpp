// The oracle: a mixture-of-experts block in plain double precision. Shares nothing with the library but its views.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "router_reference.hpp"

namespace reference {

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

inline Routing route(const Table& logits, const RouterOptions& options) {
  Routing routing;
  routing.topk = options.topk;
  for (const Token& token : route_tokens(logits, options, {})) {
    routing.expert.insert(routing.expert.end(), token.slots.begin(), token.slots.end());
    routing.weight.insert(routing.weight.end(), token.weight.begin(), token.weight.end());
  }
  return routing;
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
