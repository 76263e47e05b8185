#include <cmath>
#include <utility>
#include <vector>

#include "cuda/cuda.hpp"
#include "experts/weight_view.hpp"
#include "fail.hpp"
#include "layer/parts.hpp"

namespace switchyard {
namespace {

void check_options(const LayerOptions& options) {
  if (options.device == Device::cuda && !cuda_is_built()) {
    fail(Code::not_supported, "layer: device cuda was asked for, expected cpu: this build has no CUDA");
  }
  const bool f32 = options.activations == DType::f32;
  const bool bf16 = options.activations == DType::bf16 && takes_bf16_activations(options.format);
  if (!f32 && !bf16) {
    fail(Code::invalid_argument,
         "layer: found activations {} with weights {}, expected f32, or bf16 with bf16, fp8, mxfp8, mxfp4 or nvfp4",
         dtype_name(options.activations), format_name(options.format));
  }
  if (options.router && options.router != DType::f32 && options.router != DType::bf16) {
    fail(Code::invalid_argument, "layer: found a router in {}, expected f32 or bf16", dtype_name(*options.router));
  }
}

void check_weights(const LayerWeights& weights) {
  if (weights.identity_experts < 0 || weights.identity_experts > std::int64_t{kMaxExperts} - weights.experts) {
    fail(Code::invalid_argument, "layer: found {} identity experts beside {} experts, expected 0 and up to {} together",
         weights.identity_experts, weights.experts, kMaxExperts);
  }
  if (weights.latent < 0 || weights.latent > kMaxFeatures) {
    fail(Code::invalid_argument, "layer: found latent {}, expected 0..{}", weights.latent, kMaxFeatures);
  }
  if (weights.latent > 0 && weights.identity_experts > 0) {
    fail(Code::invalid_argument, "layer: found {} identity experts with latent {}, expected one of them to be 0",
         weights.identity_experts, weights.latent);
  }
  if (weights.latent > 0 && (weights.latent_in.data == nullptr || weights.latent_out.data == nullptr)) {
    fail(Code::invalid_argument, "layer: {} has no data, expected it with latent {}",
         weights.latent_in.data == nullptr ? "latent_in" : "latent_out", weights.latent);
  }
  if (static_cast<std::uint32_t>(weights.weight_site) > static_cast<std::uint32_t>(WeightSite::between)) {
    fail(Code::invalid_argument, "layer: found weight_site {}, expected output (0), input (1) or between (2)",
         static_cast<int>(weights.weight_site));
  }
  if (!std::isfinite(weights.shared_scale)) {
    fail(Code::invalid_argument, "layer: found shared_scale {}, expected a finite number", weights.shared_scale);
  }
}

DType router_type(const LayerWeights& weights, const LayerOptions& options) {
  if (options.router) {
    return *options.router;
  }
  const bool all_bf16 = options.activations == DType::bf16 && weights.router.dtype == DType::bf16;
  return weights.narrow_router && all_bf16 ? DType::bf16 : DType::f32;
}

// Empty without data.
PackedMatrices plan_one(const WeightView& view, const char* what, std::int64_t features, std::int64_t depth,
                        Format format) {
  if (view.data == nullptr) {
    return {};
  }
  check_weight(view, what);
  return {1, features, depth, false, format};
}

void pack_one(PackedMatrices& packed, const WeightView& view, const Threads& threads) {
  if (!packed.empty()) {
    packed.pack(0, view, {}, threads);
  }
}

void lay_out_linear(PackedMatrices& packed, const WeightView& view, const WeightView& bias) {
  packed.lay_out_like(view);
  if (bias.data != nullptr) {
    packed.make_bias();
  }
}

void pack_linear(PackedMatrices& packed, const WeightView& view, const WeightView& bias, const char* bias_what,
                 const Threads& threads) {
  pack_one(packed, view, threads);
  if (bias.data != nullptr) {
    check_weight(bias, bias_what);
    packed.make_bias();
    packed.pack_bias(0, bias, {});
  }
}

std::vector<float> make_output_bias(const WeightView& view, std::int64_t hidden) {
  if (view.data == nullptr) {
    return {};
  }
  check_weight(view, "output bias");
  std::vector<float> bias(static_cast<std::size_t>((hidden + kPanel - 1) / kPanel * kPanel));
  for (std::int64_t i = 0; i < hidden; ++i) {
    read_row(view, i, 0, 1, &bias[static_cast<std::size_t>(i)]);
  }
  return bias;
}

std::optional<ExpertWeights> plan_shared(const LayerWeights& weights, const LayerOptions& options) {
  if (weights.shared_ffn == 0) {
    return std::nullopt;
  }
  return ExpertWeights({1, weights.hidden, weights.shared_ffn, weights.shared_function}, options.format);
}

}  // namespace

const char* path_name(Path path) noexcept { return path == Path::small_batch ? "small_batch" : "grouped"; }

const char* weight_site_name(WeightSite site) noexcept {
  switch (site) {
    case WeightSite::output:
      return "output";
    case WeightSite::input:
      return "input";
    case WeightSite::between:
      return "between";
  }
  return "unknown";
}

Layer::Parts plan_parts(const LayerWeights& weights, const RouterOptions& router, const LayerOptions& options) {
  check_options(options);
  check_weights(weights);
  LayerOptions kept = options;
  kept.router = router_type(weights, options);
  const bool latent = weights.latent > 0;
  const ExpertShape shape{weights.experts, latent ? weights.latent : weights.hidden, weights.ffn, weights.function};
  ExpertWeights experts(shape, options.format);
  auto parts = Layer::Parts{.hidden = weights.hidden,
                            .options = kept,
                            .router = make_router(weights.router, weights.experts + weights.identity_experts,
                                                  weights.hidden, router, *kept.router),
                            .experts = std::move(experts),
                            .identity_experts = weights.identity_experts,
                            .weight_site = weights.weight_site,
                            .shared = plan_shared(weights, options),
                            .shared_gate = {},
                            .shared_scale = weights.shared_scale,
                            .latent_in = {},
                            .latent_out = {},
                            .output_bias = make_output_bias(weights.output_bias, weights.hidden)};
  if (parts.shared) {
    parts.shared_gate =
        plan_one(weights.shared_gate, "shared gate", 1, weights.hidden, exact_format(weights.shared_gate));
  }
  if (latent) {
    parts.latent_in = plan_one(weights.latent_in, "latent_in", weights.latent, weights.hidden, options.format);
    parts.latent_out = plan_one(weights.latent_out, "latent_out", weights.hidden, weights.latent, options.format);
  }
  return parts;
}

void lay_out_parts(Layer::Parts& parts, const LayerWeights& weights) {
  lay_out_experts(parts.experts.packed(), weights.expert);
  if (parts.shared) {
    lay_out_experts(parts.shared->packed(), [&](std::int32_t) { return weights.shared; });
  }
  if (!parts.latent_in.empty()) {
    lay_out_linear(parts.latent_in, weights.latent_in, weights.latent_in_bias);
    lay_out_linear(parts.latent_out, weights.latent_out, weights.latent_out_bias);
  }
}

void pack_parts(Layer::Parts& parts, const LayerWeights& weights) {
  if (!weights.expert) {
    fail(Code::invalid_argument, "layer: found no function for the experts' tensors, expected one");
  }
  const Threads& threads = parts.options.threads;
  pack_experts(parts.experts.packed(), weights.expert, threads);
  pack_one(parts.router.weight, weights.router, threads);
  if (parts.shared) {
    pack_experts(
        parts.shared->packed(), [&](std::int32_t) { return weights.shared; }, threads);
  }
  pack_one(parts.shared_gate, weights.shared_gate, threads);
  if (!parts.latent_in.empty()) {
    pack_linear(parts.latent_in, weights.latent_in, weights.latent_in_bias, "latent_in bias", threads);
    pack_linear(parts.latent_out, weights.latent_out, weights.latent_out_bias, "latent_out bias", threads);
  }
}

Layer::Layer(const LayerWeights& weights, const RouterOptions& router, const LayerOptions& options) {
  Parts parts = plan_parts(weights, router, options);
  pack_parts(parts, weights);
  parts_ = std::make_unique<const Parts>(std::move(parts));
}

Layer::Layer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}

Layer::~Layer() = default;
Layer::Layer(Layer&&) noexcept = default;
Layer& Layer::operator=(Layer&&) noexcept = default;

std::int32_t Layer::experts() const noexcept { return parts_->experts.shape().experts; }
std::int64_t Layer::hidden() const noexcept { return parts_->hidden; }
std::int64_t Layer::ffn() const noexcept { return parts_->experts.shape().ffn; }
const RouterOptions& Layer::router() const noexcept { return parts_->router.options; }
const LayerOptions& Layer::options() const noexcept { return parts_->options; }

bool Layer::from_cache() const noexcept { return parts_->from_cache; }

std::size_t Layer::weight_bytes() const noexcept {
  return parts_->experts.bytes() + (parts_->shared ? parts_->shared->bytes() : 0) + parts_->router.weight.bytes() +
         parts_->shared_gate.bytes() + parts_->latent_in.bytes() + parts_->latent_out.bytes() +
         parts_->output_bias.size() * sizeof(float);
}

std::size_t Layer::workspace_bytes(std::int64_t max_tokens) const {
  check_router(*parts_);
  return forward_bytes(*parts_, max_tokens, parts_->router.options.topk, true);
}

std::size_t Layer::workspace_bytes(std::int64_t max_tokens, std::int32_t topk) const {
  return forward_bytes(*parts_, max_tokens, topk, false);
}

std::size_t Layer::workspace_bytes(const LayerWeights& weights, const RouterOptions& router,
                                   const LayerOptions& options, std::int64_t max_tokens) {
  const Parts parts = plan_parts(weights, router, options);
  check_router(parts);
  return forward_bytes(parts, max_tokens, parts.router.options.topk, true);
}

}  // namespace switchyard
