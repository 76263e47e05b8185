#include "switchyard/experts.hpp"

#include <cmath>
#include <iterator>
#include <utility>

#include "experts/packed.hpp"
#include "experts/weight_view.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

constexpr const char* kActivations[] = {"silu",         "gelu",         "gelu_tanh",  "relu",      "relu_squared",
                                        "silu_clamped", "silu_limited", "swiglu_oai", "softcapped"};

constexpr const char* kFormatNames[] = {"f32", "bf16", "int8", "int4", "fp8", "mxfp4", "mxfp8", "nvfp4"};
static_assert(std::size(kFormatNames) == kFormats);

bool is_positive(float value) { return value > 0 && std::isfinite(value); }

void check_function(const ExpertFunction& function) {
  const auto index = static_cast<std::size_t>(function.activation);
  if (index >= std::size(kActivations)) {
    fail(Code::invalid_argument, "experts: found activation {}, expected silu (0) .. softcapped (8)",
         static_cast<int>(function.activation));
  }
  const bool has_limit = function.activation >= Activation::silu_clamped;
  const bool has_alpha = function.activation >= Activation::swiglu_oai;
  if (has_limit && !function.gated) {
    fail(Code::invalid_argument,
         "experts: found activation {} without gate, expected silu, gelu, gelu_tanh, relu or relu_squared",
         kActivations[index]);
  }
  if (has_limit && !is_positive(function.limit)) {
    fail(Code::invalid_argument, "experts: found limit {} for activation {}, expected a finite number > 0",
         function.limit, kActivations[index]);
  }
  if (has_alpha && !is_positive(function.alpha)) {
    fail(Code::invalid_argument, "experts: found alpha {} for activation {}, expected a finite number > 0",
         function.alpha, kActivations[index]);
  }
}

void check_shape(const ExpertShape& shape) {
  if (shape.experts < 1 || shape.experts > kMaxExperts || shape.hidden < 1 || shape.hidden > kMaxFeatures ||
      shape.ffn < 1 || shape.ffn > kMaxFeatures) {
    fail(Code::invalid_argument,
         "experts: found {} experts, hidden {} and ffn {}, expected 1..{} experts and sizes of 1..{}", shape.experts,
         shape.hidden, shape.ffn, kMaxExperts, kMaxFeatures);
  }
  check_function(shape.function);
}

// Types, and that every expert has the biases that the first one has.
void check_biases(std::int32_t expert, const ExpertTensors& tensors, const ExpertTensors& first) {
  struct Bias {
    const char* name;
    const WeightView& view;
    const WeightView& first;
  };
  for (const Bias& bias :
       {Bias{"gate bias", tensors.gate_bias, first.gate_bias}, Bias{"up bias", tensors.up_bias, first.up_bias},
        Bias{"down bias", tensors.down_bias, first.down_bias}}) {
    if ((bias.view.data == nullptr) != (bias.first.data == nullptr)) {
      fail(Code::invalid_argument, "experts: found expert {} {} {}, expected the same as expert 0", expert,
           bias.view.data == nullptr ? "without" : "with", bias.name);
    }
    if (bias.view.data != nullptr) {
      check_weight(bias.view, bias.name);
    }
  }
}

// One expert, checked but for what it has in common with others.
ExpertTensors take_expert(const ExpertWeights::Packed& packed, std::int32_t expert,
                          const std::function<ExpertTensors(std::int32_t)>& tensors) {
  ExpertTensors from = tensors(expert);
  if (packed.shape.function.gated) {
    check_weight(from.gate, "gate");
  } else {
    from.gate_bias = {};
  }
  check_weight(from.up, "up");
  check_weight(from.down, "down");
  return from;
}

void make_biases(ExpertWeights::Packed& packed, const ExpertTensors& first) {
  if (first.gate_bias.data != nullptr || first.up_bias.data != nullptr) {
    packed.up.make_bias();
  }
  if (first.down_bias.data != nullptr) {
    packed.down.make_bias();
  }
}

void pack_expert(ExpertWeights::Packed& packed, std::int32_t expert, const ExpertTensors& from,
                 const Threads& threads) {
  const bool gated = packed.shape.function.gated;
  packed.up.pack(expert, gated ? from.gate : from.up, from.up, threads);
  packed.down.pack(expert, from.down, {}, threads);
  if (from.gate_bias.data != nullptr || from.up_bias.data != nullptr) {
    packed.up.pack_bias(expert, gated ? from.gate_bias : from.up_bias, from.up_bias);
  }
  if (from.down_bias.data != nullptr) {
    packed.down.pack_bias(expert, from.down_bias, {});
  }
}

}  // namespace

const char* format_name(Format format) noexcept {
  const auto index = static_cast<std::size_t>(format);
  return index < std::size(kFormatNames) ? kFormatNames[index] : "unknown";
}

double format_bytes(Format format) noexcept {
  constexpr std::int64_t kDeep = std::int64_t{1} << 40;
  const PanelScales scales = scales_like(format, {}, kDeep, kDeep);
  const double of_scales =
      scales.group == 0 ? 0 : static_cast<double>(scales.size()) / static_cast<double>(scales.group);
  return static_cast<double>(code_bits(format)) / 8 + of_scales;
}

const char* activation_name(Activation activation) noexcept {
  switch (activation) {
    case Activation::silu:
      return "silu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::relu:
      return "relu";
    case Activation::relu_squared:
      return "relu_squared";
    case Activation::silu_clamped:
      return "silu_clamped";
    case Activation::silu_limited:
      return "silu_limited";
    case Activation::swiglu_oai:
      return "swiglu_oai";
    case Activation::softcapped:
      return "softcapped";
  }
  return "unknown";
}

ExpertWeights::ExpertWeights(const ExpertShape& shape, Format format) : packed_(std::make_unique<Packed>()) {
  check_shape(shape);
  if (static_cast<std::uint32_t>(format) >= static_cast<std::uint32_t>(kFormats)) {
    fail(Code::invalid_argument, "experts: found format {}, expected f32 (0) .. nvfp4 ({})", static_cast<int>(format),
         kFormats - 1);
  }
  packed_->shape = shape;
  packed_->format = format;
  packed_->up = PackedMatrices(shape.experts, shape.ffn, shape.hidden, shape.function.gated, format);
  packed_->down = PackedMatrices(shape.experts, shape.hidden, shape.ffn, false, format);
}

ExpertWeights::ExpertWeights(const ExpertShape& shape, Format format,
                             const std::function<ExpertTensors(std::int32_t)>& tensors, const Threads& threads)
    : ExpertWeights(shape, format) {
  pack_experts(*packed_, tensors, threads);
}

void lay_out_experts(ExpertWeights::Packed& packed, const std::function<ExpertTensors(std::int32_t)>& tensors) {
  const ExpertTensors first = take_expert(packed, 0, tensors);
  packed.up.lay_out_like(packed.shape.function.gated ? first.gate : first.up);
  packed.down.lay_out_like(first.down);
  make_biases(packed, first);
}

void pack_experts(ExpertWeights::Packed& packed, const std::function<ExpertTensors(std::int32_t)>& tensors,
                  const Threads& threads) {
  ExpertTensors first;
  for (std::int32_t expert = 0; expert < packed.shape.experts; ++expert) {
    const ExpertTensors from = take_expert(packed, expert, tensors);
    if (expert == 0) {
      first = from;
    }
    check_biases(expert, from, first);
    if (expert == 0) {
      make_biases(packed, first);
    }
    pack_expert(packed, expert, from, threads);
  }
}

ExpertWeights::~ExpertWeights() = default;
ExpertWeights::ExpertWeights(ExpertWeights&&) noexcept = default;
ExpertWeights& ExpertWeights::operator=(ExpertWeights&&) noexcept = default;

const ExpertShape& ExpertWeights::shape() const noexcept { return packed_->shape; }
Format ExpertWeights::format() const noexcept { return packed_->format; }
std::size_t ExpertWeights::bytes() const noexcept { return packed_->up.bytes() + packed_->down.bytes(); }

}  // namespace switchyard
