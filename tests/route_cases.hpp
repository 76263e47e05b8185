// The one list of router rules that the tests run through: every score with every way to normalise and to scale.
#pragma once

#include <string>
#include <vector>

#include "switchyard/route.hpp"

namespace route_cases {

using namespace switchyard;

struct Rule {
  std::string name;
  RouterOptions options;
};

inline constexpr std::size_t kMostExperts = 8300;

// One value per expert, `from` + 0..63 steps, which single precision holds exactly.
inline std::vector<float> per_expert(float from, float step, std::size_t stride) {
  std::vector<float> values(kMostExperts);
  for (std::size_t e = 0; e < values.size(); ++e) {
    values[e] = from + step * static_cast<float>(e * stride % 64);
  }
  return values;
}

inline const float* expert_scale() {
  static const std::vector<float> kScale = per_expert(0.5F, 1.0F / 64, 37);
  return kScale.data();
}

inline const float* logit_bias() {
  static const std::vector<float> kBias = per_expert(-0.125F, 1.0F / 256, 29);
  return kBias.data();
}

struct Divisor {
  const char* name;
  Normalize normalize;
  float epsilon;
  float power;
};
inline constexpr Divisor kDivisors[] = {
    {"none", Normalize::none, 0.0F, 1.0F},
    {"sum", Normalize::sum, 0.0F, 1.0F},
    {"sum_1e-20", Normalize::sum, 1e-20F, 1.0F},
    {"sum_0.1", Normalize::sum, 0.125F, 1.0F},
    {"clamped", Normalize::clamped_sum, 1e-12F, 1.0F},
    {"clamped_high", Normalize::clamped_sum, 500.0F, 1.0F},
    {"power_1", Normalize::power_norm, 0.0F, 1.0F},
    {"power_2", Normalize::power_norm, 0.0F, 2.0F},
    {"power_1.5", Normalize::power_norm, 0.0F, 1.5F},
};

struct Kind {
  const char* name;
  Score score;
  ChosenScore chosen;
};
inline constexpr Kind kKinds[] = {
    {"softmax", Score::softmax, ChosenScore::none},
    {"sigmoid", Score::sigmoid, ChosenScore::none},
    {"sqrt_softplus", Score::sqrt_softplus, ChosenScore::none},
    {"logit", Score::logit, ChosenScore::none},
    {"logit_softmax", Score::logit, ChosenScore::softmax},
    {"logit_sigmoid", Score::logit, ChosenScore::sigmoid},
};

inline void scale_all(RouterOptions& options) {
  options.scale = 2.5F;
  options.expert_scale = expert_scale();
  options.logit_scale = 0.75F;
  options.logit_bias = logit_bias();
}

// Rules for that many experts of a token; the sparse mixer is among them only for two.
inline std::vector<Rule> rules(std::int32_t topk) {
  std::vector<Rule> all;
  for (const Kind& kind : kKinds) {
    for (const Divisor& divisor : kDivisors) {
      for (const bool scaled : {false, true}) {
        for (const float cap : {0.0F, 4.0F}) {
          RouterOptions options{.topk = topk, .score = kind.score, .normalize = divisor.normalize};
          options.epsilon = divisor.epsilon;
          options.power = divisor.power;
          options.chosen = kind.chosen;
          options.softcap = cap;
          if (scaled) {
            scale_all(options);
          }
          all.push_back(
              {std::string(kind.name) + " / " + divisor.name + (scaled ? ", scaled" : "") + (cap > 0 ? ", capped" : ""),
               options});
        }
      }
    }
  }
  for (const float jitter : {0.01F, 0.0F, 0.3F}) {
    for (const bool scaled : {false, true}) {
      RouterOptions options{.topk = 2, .score = Score::sparsemixer};
      options.jitter = jitter;
      if (scaled) {
        scale_all(options);
        options.softcap = 4.0F;
      }
      if (topk == 2) {
        all.push_back({"sparsemixer " + std::to_string(jitter) + (scaled ? ", scaled, capped" : ""), options});
      }
    }
  }
  return all;
}

}  // namespace route_cases
