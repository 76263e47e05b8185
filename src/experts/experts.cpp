#include "switchyard/experts.hpp"

#include <utility>

#include "experts/packed.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

void check_shape(const ExpertShape& shape) {
  if (shape.experts < 1 || shape.experts > kMaxExperts || shape.hidden < 1 || shape.hidden > kMaxFeatures ||
      shape.ffn < 1 || shape.ffn > kMaxFeatures) {
    fail(Code::invalid_argument,
         "experts: found {} experts, hidden {} and ffn {}, expected 1..{} experts and sizes of 1..{}", shape.experts,
         shape.hidden, shape.ffn, kMaxExperts, kMaxFeatures);
  }
  if (shape.function != ExpertFunction{}) {
    fail(Code::invalid_argument, "experts: found activation {}, expected silu (0)",
         static_cast<int>(shape.function.activation));
  }
}

}  // namespace

const char* format_name(Format format) noexcept { return format == Format::f32 ? "f32" : "bf16"; }

ExpertWeights::ExpertWeights(const ExpertShape& shape, Format format,
                             const std::function<ExpertTensors(std::int32_t)>& tensors, const Threads& threads)
    : packed_(std::make_unique<Packed>()) {
  check_shape(shape);
  if (format != Format::f32 && format != Format::bf16) {
    fail(Code::invalid_argument, "experts: found format {}, expected f32 (0) or bf16 (1)", static_cast<int>(format));
  }
  packed_->shape = shape;
  packed_->format = format;
  packed_->up = PackedMatrices(shape.experts, shape.ffn, shape.hidden, true, format);
  packed_->down = PackedMatrices(shape.experts, shape.hidden, shape.ffn, false, format);
  for (std::int32_t expert = 0; expert < shape.experts; ++expert) {
    const ExpertTensors from = tensors(expert);
    check_weight(from.gate, "gate");
    check_weight(from.up, "up");
    check_weight(from.down, "down");
    packed_->up.pack(expert, from.gate, from.up, threads);
    packed_->down.pack(expert, from.down, {}, threads);
  }
}

ExpertWeights::~ExpertWeights() = default;
ExpertWeights::ExpertWeights(ExpertWeights&&) noexcept = default;
ExpertWeights& ExpertWeights::operator=(ExpertWeights&&) noexcept = default;

const ExpertShape& ExpertWeights::shape() const noexcept { return packed_->shape; }
Format ExpertWeights::format() const noexcept { return packed_->format; }
std::size_t ExpertWeights::bytes() const noexcept { return packed_->up.bytes() + packed_->down.bytes(); }

}  // namespace switchyard
