// The oracle: a mixture-of-experts block in plain double precision. Shares nothing with the library but its views.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "router_reference.hpp"

namespace reference {

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

// `round` stands for what happens to the activations between the GEMMs, times `weight`.
template <class Round>
Vector expert(const Expert& weights, const Function& function, const Vector& row, Round round, double weight = 1) {
  Vector h = product(weights.up, row, weights.up_bias);
  const Vector gate = function.gated ? product(weights.gate, row, weights.gate_bias) : Vector();
  for (std::size_t f = 0; f < h.size(); ++f) {
    h[f] = round(weight * (function.gated ? activated(function, gate[f], h[f]) : activated(function, h[f], 1)));
  }
  return product(weights.down, h, weights.down_bias);
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

// What a slot's weight multiplies.
enum class Site { output, input, between };

// A whole block; see LayerWeights in switchyard/layer.hpp for what the fields mean. Empty: none.
struct Block {
  std::vector<Expert> experts;
  Function function = {};
  std::vector<Expert> shared = {};  // one, or none
  Function shared_function = {};
  Table shared_gate = {};
  double shared_scale = 1;
  Site weight_site = Site::output;
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
    } else if (block.weight_site == Site::input) {
      Vector scaled(row.size());
      add_to(scaled, weight, row);
      add_to(sum, 1, expert(block.experts[id], block.function, rounded(scaled, round), round));
    } else if (block.weight_site == Site::between) {
      add_to(sum, 1, expert(block.experts[id], block.function, rounded(row, round), round, weight));
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
