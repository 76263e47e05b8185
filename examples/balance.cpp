// Training a router to use its experts evenly: route, losses, backward, an update of the weights and of the selection
// bias. The tokens have much in common, so that at first a few experts get nearly all of them.
//   balance [STEPS]
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "switchyard/switchyard.hpp"

namespace sy = switchyard;

namespace {

constexpr std::int64_t kTokens = 512;
constexpr std::int64_t kHidden = 32;
constexpr std::int32_t kExperts = 16;
constexpr std::int32_t kTopk = 2;
constexpr double kBalance = 0.05;  // coefficient of the balance loss
constexpr double kZ = 1e-3;        // of the z-loss
constexpr float kBiasRate = 0.002F;
constexpr float kLearningRate = 1.0F;

struct Step {
  double loss = 0;
  sy::LoadStatistics load;
};

class Router {
 public:
  Router() : weight_(kExperts * kHidden), bias_(kExperts), workspace_(sy::route_workspace_bytes(kTokens, kExperts)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0.0F, 1 / std::sqrt(static_cast<float>(kHidden)));
    for (float& w : weight_) w = normal(random);
    options_.topk = kTopk;
    options_.score = sy::Score::sigmoid;
    options_.normalize = sy::Normalize::sum;
    options_.selection_bias = {bias_.data(), sy::DType::f32};
  }

  Step train(const std::vector<float>& x) {
    const std::vector<float> logits = multiply(x);
    const sy::ConstMatrix l(logits.data(), kTokens, kExperts);
    std::vector<std::int32_t> expert(kTokens * kTopk);
    std::vector<std::int64_t> count(kExperts);
    std::vector<double> score_sum(kExperts);
    double z_sum = 0;
    sy::RouteOutputs outputs;  // a model takes the weights too, and gives RouteGradients::weight back
    outputs.expert = {expert.data(), sy::DType::i32};
    outputs.count = count.data();
    outputs.score_sum = score_sum.data();
    outputs.z_sum = &z_sum;
    sy::route(l, options_, {}, outputs, workspace_);

    std::vector<float> aux(kExperts);
    const sy::ZLoss z = sy::z_loss(z_sum, kTokens, kZ);
    Step step;
    step.loss = z.value + sy::balance_loss({.count = count,
                                            .count_tokens = kTokens,
                                            .score_sum = score_sum,
                                            .score_tokens = kTokens,
                                            .topk = kTopk,
                                            .coefficient = kBalance},
                                           aux);
    step.load = sy::load_statistics(count);

    std::vector<float> dlogits(logits.size());
    std::vector<float> dweight(weight_.size());
    sy::RouteGradients gradients;
    gradients.expert = {expert.data(), sy::DType::i32};
    gradients.aux = aux.data();
    gradients.z = z.gradient;
    sy::route_backward(l, options_, {}, gradients, {dlogits.data(), kTokens, kExperts}, workspace_);
    sy::router_backward({x.data(), kTokens, kHidden}, {}, {dlogits.data(), kTokens, kExperts}, {},
                        {dweight.data(), kExperts, kHidden}, nullptr);
    for (std::size_t i = 0; i < weight_.size(); ++i) weight_[i] -= kLearningRate * dweight[i];
    sy::update_bias(bias_, count, kBiasRate, true);
    return step;
  }

 private:
  std::vector<float> multiply(const std::vector<float>& x) const {
    std::vector<float> logits(kTokens * kExperts);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      for (std::int64_t e = 0; e < kExperts; ++e) {
        float sum = 0;
        for (std::int64_t h = 0; h < kHidden; ++h) sum += x[t * kHidden + h] * weight_[e * kHidden + h];
        logits[t * kExperts + e] = sum;
      }
    }
    return logits;
  }

  std::vector<float> weight_;  // [E,H]
  std::vector<float> bias_;    // [E]
  sy::RouterOptions options_;
  sy::Workspace workspace_;
};

std::vector<float> tokens_alike() {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> common(kHidden);
  for (float& value : common) value = normal(random);
  std::vector<float> x(kTokens * kHidden);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = common[i % kHidden] + normal(random);
  return x;
}

}  // namespace

int main(int argc, char** argv) {
  const int steps = argc > 1 ? std::atoi(argv[1]) : 200;
  const std::vector<float> x = tokens_alike();
  Router router;
  Step first;
  Step last;
  for (int step = 0; step <= steps; ++step) {
    last = router.train(x);
    if (step == 0) first = last;
    if (step % 50 == 0) {
      std::printf("step %3d  loss %.4f  max/mean load %.2f  entropy %.3f of %.3f  unused %lld\n", step, last.loss,
                  last.load.max_over_mean, last.load.entropy, std::log(kExperts),
                  static_cast<long long>(last.load.unused));
    }
  }
  return last.load.max_over_mean < first.load.max_over_mean && last.load.entropy > first.load.entropy ? 0 : 1;
}
