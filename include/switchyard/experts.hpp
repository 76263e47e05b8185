// ExpertWeights: the experts of one layer, packed once for the grouped GEMM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "switchyard/export.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// What a packed weight is stored as.
enum class Format : std::int32_t { f32 = 0, bf16 = 1 };

SWITCHYARD_API const char* format_name(Format format) noexcept;

// The function between the two GEMMs. g and u are what gate and up give, L is `limit`, a is `alpha`; clamps pass NaN on.
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
  float limit = 0.0F;  // > 0 where L stands above
  float alpha = 0.0F;  // > 0 where a stands above

  bool operator==(const ExpertFunction&) const = default;
};

// One expert as the checkpoint has it. gate and up [F,H], down [H,F]; biases [F], [F] and [H], element o at
// data + o · out_stride, no data: none. `gate` and `gate_bias` are not looked at without a gate.
struct ExpertTensors {
  WeightView gate;
  WeightView up;
  WeightView down;
  WeightView gate_bias = {};
  WeightView up_bias = {};
  WeightView down_bias = {};
};

struct ExpertShape {
  std::int32_t experts = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  ExpertFunction function = {};
};

// Immutable after construction; any number of threads may read it.
class SWITCHYARD_API ExpertWeights {
 public:
  // `tensors(e)` is called once per expert, ascending, from the calling thread; its views must stay readable until the
  // call for the next expert, or the end of construction: no more than one expert is looked at at a time. The
  // conversion to `format` is exact or rounds to nearest even. Packing uses all of `threads`. Throws invalid_argument
  // for sizes or types that cannot be, out_of_memory.
  ExpertWeights(const ExpertShape& shape, Format format, const std::function<ExpertTensors(std::int32_t)>& tensors,
                const Threads& threads = Threads());
  ~ExpertWeights();
  ExpertWeights(ExpertWeights&&) noexcept;
  ExpertWeights& operator=(ExpertWeights&&) noexcept;

  const ExpertShape& shape() const noexcept;
  Format format() const noexcept;
  // Bytes of the packed form, all experts.
  std::size_t bytes() const noexcept;

  struct Packed;
  const Packed& packed() const noexcept { return *packed_; }

 private:
  std::unique_ptr<Packed> packed_;
};

}  // namespace switchyard
