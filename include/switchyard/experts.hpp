// ExpertWeights: the experts of one layer, packed once for the grouped GEMM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "switchyard/activation.hpp"
#include "switchyard/export.hpp"
#include "switchyard/format.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// Bytes that a weight takes when it is packed from plain numbers, its share of the scales included.
SWITCHYARD_API double format_bytes(Format format) noexcept;

// "silu", "gelu", "gelu_tanh", "relu", "relu_squared", "silu_clamped", "silu_limited", "swiglu_oai", "softcapped".
SWITCHYARD_API const char* activation_name(Activation activation) noexcept;

// One expert as the checkpoint has it. gate and up [F,H], down [H,F]; biases [F], [F] and [H], element o at data + o ·
// out_stride elements, no data: none, and then for no expert. Biases are packed as f32. `gate` and `gate_bias` are not
// looked at without a gate.
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
  // Sizes alone, nothing packed: what bytes() is before there are tensors. Throws invalid_argument.
  ExpertWeights(const ExpertShape& shape, Format format);
  ~ExpertWeights();
  ExpertWeights(ExpertWeights&&) noexcept;
  ExpertWeights& operator=(ExpertWeights&&) noexcept;

  const ExpertShape& shape() const noexcept;
  Format format() const noexcept;
  // Bytes of the packed form, all experts.
  std::size_t bytes() const noexcept;

  struct Packed;
  const Packed& packed() const noexcept { return *packed_; }
  Packed& packed() noexcept { return *packed_; }

 private:
  std::unique_ptr<Packed> packed_;
};

}  // namespace switchyard
