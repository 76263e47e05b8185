// Experts that give constants, and routings of them: what a row adds to an output is known exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "layer_variants.hpp"

namespace made {

using namespace switchyard;

// Expert e gives the constant e + 1 in every feature, whatever it reads: a row that is dropped, doubled or weighted by
// another slot's weight changes the sum, which is exact.
inline Layer constant_layer(std::int32_t experts, std::int64_t hidden, std::int64_t ffn, int threads,
                            Format format = Format::f32, DType activations = DType::f32,
                            std::int32_t identity_experts = 0) {
  const std::vector<float> zeros(static_cast<std::size_t>(hidden * ffn));
  std::vector<float> constant(static_cast<std::size_t>(hidden));
  LayerWeights weights;
  weights.experts = experts;
  weights.hidden = hidden;
  weights.ffn = ffn;
  weights.function = kReluSquared;
  weights.identity_experts = identity_experts;
  weights.expert = [&](std::int32_t e) {
    std::fill(constant.begin(), constant.end(), static_cast<float>(e + 1));
    ExpertTensors tensors{{}, {zeros.data(), DType::f32, hidden, 1}, {zeros.data(), DType::f32, ffn, 1}};
    tensors.down_bias = {constant.data(), DType::f32, 1, 1};
    return tensors;
  };
  LayerOptions options;
  options.format = format;
  options.activations = activations;
  options.threads = Threads::pool(threads);
  return Layer(weights, {}, options);
}

struct Given {
  std::int64_t tokens;
  std::int32_t topk;
  std::vector<std::int32_t> expert;
  std::vector<float> weight;
  Routing view() { return {tokens, topk, expert.data(), weight.data()}; }
  double sum(std::int64_t token) const {
    double sum = 0;
    for (std::int64_t slot = token * topk; slot < (token + 1) * topk; ++slot) {
      const auto at = static_cast<std::size_t>(slot);
      sum += expert[at] < 0 ? 0.0 : static_cast<double>(weight[at]) * (expert[at] + 1);
    }
    return sum;
  }
};

// Ids of −1 .. experts − 1, doubled ones too; weights that are sums of few powers of two.
inline Given random_given(std::int64_t tokens, std::int32_t topk, std::int32_t experts, std::mt19937& random) {
  Given given{tokens, topk, {}, {}};
  for (std::int64_t slot = 0; slot < tokens * topk; ++slot) {
    given.expert.push_back(std::uniform_int_distribution<std::int32_t>(-1, experts - 1)(random));
    given.weight.push_back(static_cast<float>(std::uniform_int_distribution<int>(-8, 8)(random)) / 8);
  }
  return given;
}

template <class T>
T random_of(std::mt19937& random, T least, T most) {
  return std::uniform_int_distribution<T>(least, most)(random);
}

}  // namespace made
