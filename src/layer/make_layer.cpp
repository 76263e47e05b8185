#include <utility>

#include "cuda/cuda.hpp"
#include "fail.hpp"
#include "layer/parts.hpp"

namespace switchyard {
namespace {

void check_options(const LayerOptions& options) {
  if (options.device == Device::cuda && !cuda_is_built()) {
    fail(Code::not_supported, "layer: device cuda was asked for, expected cpu: this build has no CUDA");
  }
  const bool f32 = options.activations == DType::f32;
  const bool bf16 = options.activations == DType::bf16 && options.format == Format::bf16;
  if (!f32 && !bf16) {
    fail(Code::invalid_argument, "layer: found activations {} with weights {}, expected f32, or bf16 with bf16",
         dtype_name(options.activations), format_name(options.format));
  }
  if (options.router != DType::f32 && options.router != DType::bf16) {
    fail(Code::invalid_argument, "layer: found a router in {}, expected f32 or bf16", dtype_name(options.router));
  }
}

PackedMatrices pack_one(const WeightView& view, const char* what, std::int64_t features, std::int64_t depth,
                        const Threads& threads) {
  if (view.data == nullptr) {
    return {};
  }
  check_weight(view, what);
  PackedMatrices packed(1, features, depth, false, Format::f32);
  packed.pack(0, view, {}, threads);
  return packed;
}

std::optional<ExpertWeights> make_shared(const LayerWeights& weights, const LayerOptions& options) {
  if (weights.shared_ffn == 0) {
    return std::nullopt;
  }
  const ExpertShape shape{1, weights.hidden, weights.shared_ffn, weights.shared_function};
  return ExpertWeights(
      shape, options.format, [&](std::int32_t) { return weights.shared; }, options.threads);
}

}  // namespace

const char* path_name(Path /*path*/) noexcept { return "grouped"; }

Layer::Layer(const LayerWeights& weights, const RouterOptions& router, const LayerOptions& options) {
  check_options(options);
  if (!weights.expert) {
    fail(Code::invalid_argument, "layer: found no function for the experts' tensors, expected one");
  }
  const ExpertShape shape{weights.experts, weights.hidden, weights.ffn, weights.function};
  ExpertWeights experts(shape, options.format, weights.expert, options.threads);
  parts_ = std::make_unique<const Parts>(Parts{
      weights.hidden, options,
      make_router(weights.router, weights.experts + weights.identity_experts, weights.hidden, router, options.router,
                  options.threads),
      std::move(experts), make_shared(weights, options),
      weights.shared_ffn == 0 ? PackedMatrices()
                              : pack_one(weights.shared_gate, "shared gate", 1, weights.hidden, options.threads)});
}

Layer::~Layer() = default;
Layer::Layer(Layer&&) noexcept = default;
Layer& Layer::operator=(Layer&&) noexcept = default;

std::int32_t Layer::experts() const noexcept { return parts_->experts.shape().experts; }
std::int64_t Layer::hidden() const noexcept { return parts_->hidden; }
std::int64_t Layer::ffn() const noexcept { return parts_->experts.shape().ffn; }
const RouterOptions& Layer::router() const noexcept { return parts_->router.options; }
const LayerOptions& Layer::options() const noexcept { return parts_->options; }

std::size_t Layer::weight_bytes() const noexcept {
  return parts_->experts.bytes() + (parts_->shared ? parts_->shared->bytes() : 0) + parts_->router.weight.bytes() +
         parts_->shared_gate.bytes();
}

std::size_t Layer::workspace_bytes(std::int64_t max_tokens) const {
  check_router(*parts_);
  return forward_bytes(*parts_, max_tokens, parts_->router.options.topk, true);
}

std::size_t Layer::workspace_bytes(std::int64_t max_tokens, std::int32_t topk) const {
  return forward_bytes(*parts_, max_tokens, topk, false);
}

}  // namespace switchyard
