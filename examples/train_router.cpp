// Training the router of a layer through the layer: its logits, routing, experts, and back to the router's weight. The
// tokens' targets are what the layer gives with another router, so there is a router to be found. Experts stay as
// they are.
//   train_router [STEPS]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "switchyard/switchyard.hpp"

namespace sy = switchyard;

namespace {

constexpr std::int64_t kTokens = 256;
constexpr std::int64_t kHidden = 16;
constexpr std::int64_t kFfn = 24;
constexpr std::int32_t kExperts = 8;
constexpr std::int32_t kTopk = 2;
constexpr float kLearningRate = 2.0F;

std::vector<float> random_values(std::int64_t count, double size, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, size);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(normal(random));
  return values;
}

// A layer does not change: for another router, another layer.
sy::Layer make_layer(const std::vector<float>& router, const std::vector<float>& experts) {
  sy::LayerWeights weights;
  weights.experts = kExperts;
  weights.hidden = kHidden;
  weights.ffn = kFfn;
  weights.router = {router.data(), sy::DType::f32, kHidden, 1};
  weights.expert = [&](std::int32_t e) {
    const float* gate = experts.data() + 3 * e * kFfn * kHidden;
    const float* up = gate + kFfn * kHidden;
    const float* down = up + kFfn * kHidden;
    return sy::ExpertTensors{.gate = {gate, sy::DType::f32, kHidden, 1},
                             .up = {up, sy::DType::f32, kHidden, 1},
                             .down = {down, sy::DType::f32, kFfn, 1}};
  };
  return sy::Layer(weights, {.topk = kTopk, .normalize = sy::Normalize::sum}, {});
}

struct Trainer {
  std::vector<float> experts = random_values(3 * kExperts * kFfn * kHidden, 0.2, 1);
  std::vector<float> router = random_values(kExperts * kHidden, 0.25, 2);
  std::vector<float> x = random_values(kTokens * kHidden, 1.0, 3);
  std::vector<float> target = std::vector<float>(kTokens * kHidden);
  // What route and a forward need, known before.
  sy::Workspace route_workspace{sy::route_workspace_bytes(kTokens, kExperts)};
  sy::Workspace workspace;

  Trainer() {
    const sy::Layer layer = make_layer(random_values(kExperts * kHidden, 0.25, 4), experts);
    workspace = sy::Workspace(std::max(layer.workspace_bytes(kTokens), layer.workspace_bytes(kTokens, 1)));
    layer.forward(tokens(), {target.data(), kTokens, kHidden}, workspace);
  }

  sy::ConstMatrix tokens() const { return {x.data(), kTokens, kHidden}; }

  // A step of gradient descent; returns the loss before it, half the mean of |y − target|².
  double step() {
    const sy::Layer layer = make_layer(router, experts);
    std::vector<float> logits(kTokens * kExperts);
    layer.router_logits(tokens(), {logits.data(), kTokens, kExperts}, workspace);

    // Whatever else is wanted of the routing comes from here: counts, sums for balance losses, maps, ...
    const sy::ConstMatrix l(logits.data(), kTokens, kExperts);
    std::vector<std::int32_t> expert(kTokens * kTopk);
    std::vector<float> weight(kTokens * kTopk);
    sy::RouteOutputs outputs;
    outputs.expert = {expert.data(), sy::DType::i32};
    outputs.weight = {weight.data(), sy::DType::f32};
    sy::route(l, layer.router(), {}, outputs, route_workspace);

    // The bits that layer.forward without a routing would give.
    std::vector<float> y(kTokens * kHidden);
    layer.forward(tokens(), {kTokens, kTopk, expert.data(), weight.data()}, {y.data(), kTokens, kHidden}, workspace);

    double loss = 0;
    std::vector<float> dy(y.size());
    for (std::size_t i = 0; i < y.size(); ++i) {
      dy[i] = (y[i] - target[i]) / static_cast<float>(kTokens);
      loss += 0.5 * (y[i] - target[i]) * dy[i];
    }

    const std::vector<float> dweight = weight_gradient(layer, expert, dy);
    std::vector<float> dlogits(logits.size());
    sy::RouteGradients gradients;
    gradients.expert = {expert.data(), sy::DType::i32};
    gradients.weight = {dweight.data(), sy::DType::f32};
    sy::route_backward(l, layer.router(), {}, gradients, {dlogits.data(), kTokens, kExperts}, route_workspace);

    // A model takes dx as well, and gives the layer before what this one adds to it.
    std::vector<float> drouter(router.size());
    sy::router_backward(tokens(), {}, {dlogits.data(), kTokens, kExperts}, {}, {drouter.data(), kExperts, kHidden},
                        nullptr);
    for (std::size_t i = 0; i < router.size(); ++i) router[i] -= kLearningRate * drouter[i];
    return loss;
  }

  // dL/dweight[t,s] = dy[t] · expert(t,s)(x[t]), which is what a forward with that slot alone gives.
  std::vector<float> weight_gradient(const sy::Layer& layer, const std::vector<std::int32_t>& expert,
                                     const std::vector<float>& dy) const {
    std::vector<float> dweight(expert.size());
    std::vector<std::int32_t> one(kTokens);
    std::vector<float> ones(kTokens, 1.0F);
    std::vector<float> rows(kTokens * kHidden);
    for (std::size_t s = 0; s < kTopk; ++s) {
      for (std::size_t t = 0; t < kTokens; ++t) one[t] = expert[t * kTopk + s];
      layer.forward(tokens(), {kTokens, 1, one.data(), ones.data()}, {rows.data(), kTokens, kHidden}, workspace);
      for (std::size_t i = 0; i < rows.size(); ++i) dweight[i / kHidden * kTopk + s] += dy[i] * rows[i];
    }
    return dweight;
  }
};

}  // namespace

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 200;
  Trainer trainer;
  double first = 0;
  double last = 0;
  for (int step = 0; step <= steps; ++step) {
    last = trainer.step();
    if (step == 0) first = last;
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, last);
  }
  return last < 0.5 * first ? 0 : 1;
}
