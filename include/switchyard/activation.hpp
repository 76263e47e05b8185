// ExpertFunction: what stands between the two GEMMs of an expert.
#pragma once

#include <cstdint>

namespace switchyard {

// The function between the two GEMMs, fp32. g and u are what gate and up give, L is `limit`, a is `alpha`; clamps pass
// NaN on.
enum class Activation : std::int32_t {
  silu = 0,          // g / (1 + exp(−g)) · u
  gelu = 1,          // g · Φ(g) · u, by the error function
  gelu_tanh = 2,     // its approximation by tanh (Gemma)
  relu = 3,          // max(g, 0) · u
  relu_squared = 4,  // max(g, 0)² · u (without gate: Nemotron)
  silu_clamped = 5,  // silu(min(g, L)) · clamp(u, −L, L) (DeepSeek-V4)
  silu_limited = 6,  // min(silu(g), L) · clamp(u, −L, L) (Step-3.5)
  swiglu_oai = 7,    // g' = min(g, L): g' / (1 + exp(−a·g')) · (clamp(u, −L, L) + 1) (GPT-OSS)
  softcapped = 8,    // a·tanh(g/a) / (1 + exp(−g)) · L·tanh(u/L) (Inkling-2, Kimi-K3's SiTU)
};

struct ExpertFunction {
  Activation activation = Activation::silu;
  bool gated = true;   // false: there is no gate, u is 1 and g what `up` gives; the first five only
  float limit = 0.0F;  // > 0 and finite where L stands above
  float alpha = 0.0F;  // > 0 and finite where a stands above

  bool operator==(const ExpertFunction&) const = default;
};

}  // namespace switchyard
