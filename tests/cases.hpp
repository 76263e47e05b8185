// The one table of layer shapes, for tests and benchmarks.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "switchyard/route.hpp"

namespace switchyard {

struct LayerCase {
  std::string_view name;
  std::int64_t hidden;
  std::int64_t ffn;
  std::int32_t experts;
  std::int32_t topk;
};

// Shapes of released models, and a small one that a benchmark is done with soon.
inline constexpr std::array<LayerCase, 5> kBenchCases{{
    {"a", 2048, 1024, 64, 8},  // OLMoE-1B-7B
    {"b", 2048, 768, 128, 8},  // Qwen3-30B-A3B
    {"c", 4096, 3584, 8, 2},   // few large experts
    {"d", 3584, 1024, 64, 8},  // hidden far larger than ffn
    {"s", 512, 256, 32, 4},    // small
}};

// Shapes that a test is done with soon: one that is regular, and what kernels trip over.
inline constexpr std::array<LayerCase, 5> kTestCases{{
    {"h128_f96_e64_k8", 128, 96, 64, 8},
    {"h72_f44_e10_k3", 72, 44, 10, 3},  // no multiples of 16
    {"h33_f17_e5_k5", 33, 17, 5, 5},    // odd, and K = E
    {"h64_f64_e1_k1", 64, 64, 1, 1},    // one expert
    {"h8_f8_e3_k2", 8, 8, 3, 2},        // less than a vector
}};
// The depth runs in blocks and the panels of an expert are split between threads, as in real models.
inline constexpr LayerCase kDeepCase{"h2080_f1056_e3_k2", 2080, 1056, 3, 2};

// Routers that a benchmark times.
struct RouteCase {
  std::string_view name;
  Score score;
  Normalize normalize;
  bool selection_bias;
  std::int32_t groups;
  std::int32_t kept_groups;
  std::int32_t group_best;
};
inline constexpr std::array<RouteCase, 3> kRouteBenchCases{{
    {"softmax", Score::softmax, Normalize::none, false, 0, 0, 1},                // Mixtral and its kind
    {"sigmoid+bias", Score::sigmoid, Normalize::sum, true, 0, 0, 1},             // MiniMax-M2, GLM-4.5
    {"sigmoid+bias+groups 8/4", Score::sigmoid, Normalize::sum, true, 8, 4, 2},  // DeepSeek-V3
}};
inline constexpr std::array<std::int64_t, 2> kRouteBenchTokens{1, 16384};

inline constexpr std::array<std::int64_t, 5> kTestTokens{0, 1, 2, 17, 96};
inline constexpr std::array<std::int64_t, 5> kBenchTokens{1, 16, 64, 256, 1024};

}  // namespace switchyard
