// The installed library from C++: two experts of one feature, one token for each.
#include <array>
#include <cmath>
#include <cstdio>

#include "switchyard/switchyard.hpp"

namespace sy = switchyard;

int main() {
  const std::array<float, 4> router{1, 0, 0, 1};
  const std::array<float, 2> ones{1, 1};
  const std::array<float, 4> down{1, 1, 2, 2};  // expert 1 gives twice as much
  sy::LayerWeights weights;
  weights.experts = 2;
  weights.hidden = 2;
  weights.ffn = 1;
  weights.router = {router.data(), sy::DType::f32, 2, 1};
  weights.expert = [&](std::int32_t expert) {
    const sy::WeightView in{ones.data(), sy::DType::f32, 2, 1};
    return sy::ExpertTensors{in, in, {down.data() + 2 * expert, sy::DType::f32, 1, 1}};
  };
  sy::RouterOptions options;
  options.normalize = sy::Normalize::sum;
  const sy::Layer layer(weights, options, {});

  const std::array<float, 4> x{1, 0, 0, 1};
  std::array<float, 4> y{};
  const sy::Workspace workspace(layer.workspace_bytes(2));
  const sy::ForwardResult result = layer.forward({x.data(), 2, 2}, {y.data(), 2, 2}, workspace);
  const float silu = 1 / (1 + std::exp(-1.0f));
  std::printf("%s: experts %d %d, y %g %g\n", sy::isa_name(sy::current_isa()), result.routing.expert[0],
              result.routing.expert[1], static_cast<double>(y[0]), static_cast<double>(y[2]));
  const bool right = std::abs(y[0] - silu) < 1e-6f && std::abs(y[2] - 2 * silu) < 1e-6f;
  return right && result.routing.expert[0] == 0 && result.routing.expert[1] == 1 ? 0 : 1;
}
