// Layer: router, experts and shared expert of one MoE block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "switchyard/experts.hpp"
#include "switchyard/export.hpp"
#include "switchyard/route.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard {

enum class Device : std::int32_t { cpu = 0, cuda = 1 };

struct LayerOptions {
  Format format = Format::f32;  // what expert weights are packed to
  // Type that the experts multiply, f32 or bf16: x and the activations between the GEMMs are rounded to it. bf16 needs a
  // format that takes_bf16_activations; with codes, sums of groups are then scaled, not weights (docs/numerics.md).
  DType activations = DType::f32;
  Device device = Device::cpu;  // cuda: not_supported in a build without it
  Threads threads = {};
  // What the router's GEMM gives; none: what LayerWeights::narrow_router says. f32: fp32 from the hidden states as they
  // are. bf16: x, weight and logits are rounded to bf16.
  std::optional<DType> router = std::nullopt;
};

// What a slot's weight multiplies, in fp32. What down or the first GEMM reads is multiplied before it is rounded to the
// activations' type, so it is rounded once; the bias of down then has no weight.
enum class WeightSite : std::int32_t {
  output = 0,   // the expert's output
  input = 1,    // what the expert reads (Llama-4)
  between = 2,  // act(gate · x) * (up · x), which down multiplies (DeepSeek-V4's own code, but not transformers)
};
SWITCHYARD_API const char* weight_site_name(WeightSite site) noexcept;  // "output", "input", "between"

// Everything a layer is made of, as views that are read during construction only.
struct LayerWeights {
  std::int32_t experts = 0;      // E
  std::int64_t hidden = 0;       // H
  std::int64_t ffn = 0;          // F
  ExpertFunction function = {};  // of the routed experts
  WeightView router;             // [E + Z,H]; no data: only forwards with a given routing
  // The router runs in the model's type, as many families have it, and not always in f32: in bf16 where both its weight
  // and LayerOptions::activations are bf16.
  bool narrow_router = false;
  std::function<ExpertTensors(std::int32_t)> expert;  // see ExpertWeights
  std::int64_t shared_ffn = 0;                        // 0: no shared expert
  ExpertTensors shared;                               // [shared_ffn,H] and [H,shared_ffn]
  ExpertFunction shared_function;
  WeightView shared_gate;     // [1,H]: the shared expert times sigmoid(x·gate); no data: times shared_scale
  float shared_scale = 1.0F;  // 0.5: the average of Cohere-2
  // Z more ids, E..E+Z−1, that stand for the token itself: y += weight · x, x as it is given (LongCat-Flash).
  std::int32_t identity_experts = 0;
  WeightSite weight_site = WeightSite::output;  // of the routed experts; an identity expert's output has its weight
  WeightView output_bias;                       // [H], added last (JetMoE); no data: none
  // The experts work in `latent` dimensions between two linear maps, which are packed and multiplied as their weights
  // are; shared experts and router see x (Nemotron-H). 0: none, and they work in H. Not with identity experts.
  std::int64_t latent = 0;
  WeightView latent_in;        // [latent,H]
  WeightView latent_out;       // [H,latent]
  WeightView latent_in_bias;   // [latent], no data: none
  WeightView latent_out_bias;  // [H], no data: none
};

// How rows met the weights of the experts, the shared expert and the maps of a latent space; the bits are the same.
// small_batch: all of these weights passed from memory through registers once, because none met more rows than that is
// faster for: 3 to 26 by format and instruction set (docs/design.md). Rows of the latter two are all tokens of a chunk.
enum class Path : std::int32_t { grouped = 0, small_batch = 1 };
SWITCHYARD_API const char* path_name(Path path) noexcept;  // "grouped", "small_batch"

// What a forward did. `routing` points into the workspace and holds until its next use; after forward with a given
// routing it is that routing.
struct ForwardResult {
  Routing routing;
  Path path = Path::grouped;
};

// Immutable after construction. Several threads may run forwards of one layer at once, each with its own workspace.
//
// y[t] = latent_out · Σ_s weight[t,s] · expert(t,s)(latent_in · x[t]) + g(x[t]) · shared(x[t]) + output_bias, fp32, in
// this order, slots in theirs, rounded once to y's type; without a latent space there are no such maps, and the weight
// stands where weight_site says. Expert e: down · (act(gate · x) * (up · x)), or down · act(up · x) without gate; each
// element is one fp32 chain over the contraction index, in nvfp4 times the factor, and then its bias. The bits of y[t]
// depend on x[t], the weights and the type options alone: not on the batch, threads or instruction set.
// NaN stays NaN, its payload is not defined.
class SWITCHYARD_API Layer {
 public:
  // Packs. Throws invalid_argument, not_supported, out_of_memory.
  Layer(const LayerWeights& weights, const RouterOptions& router, const LayerOptions& options);
  struct Parts;
  // Of parts that are packed: how Model makes a layer from its cache.
  explicit Layer(std::unique_ptr<const Parts> parts);
  ~Layer();
  Layer(Layer&&) noexcept;
  Layer& operator=(Layer&&) noexcept;

  std::int32_t experts() const noexcept;
  std::int64_t hidden() const noexcept;
  std::int64_t ffn() const noexcept;
  // What forward routes by: arrays are the layer's copies, and it lives as long as the layer. Defaults without a router.
  const RouterOptions& router() const noexcept;
  const LayerOptions& options() const noexcept;  // `router` is what it runs in
  std::size_t weight_bytes() const noexcept;     // packed, shared expert and router included
  bool from_cache() const noexcept;              // packed weights stand in a mapped file; see Model::layer

  // Bytes that a forward of up to max_tokens needs; enough for every smaller number. A multiple of kWorkspaceAlignment.
  std::size_t workspace_bytes(std::int64_t max_tokens) const;
  // The same for a given routing of `topk` slots.
  std::size_t workspace_bytes(std::int64_t max_tokens, std::int32_t topk) const;

  // What workspace_bytes(max_tokens) of a layer made of these would say, without packing it: weights.expert is not
  // called and no matrix is read, it only matters whether it has data. Throws as the constructor.
  static std::size_t workspace_bytes(const LayerWeights& weights, const RouterOptions& router,
                                     const LayerOptions& options, std::int64_t max_tokens);

  // x [T,H] → y [T,H], f32 or bf16 each. Workspace, y, and what is read, x and the arrays of `inputs`, must not overlap
  // (columns that lie interleaved count as overlapping): what an earlier forward returned has to be copied before it is
  // replayed. Allocates nothing. Throws invalid_argument before any work.
  ForwardResult forward(ConstMatrix x, Matrix y, const Workspace& workspace, const RouteInputs& inputs = {}) const;

  // The same with the caller's experts [T,K] (−1..E+Z−1; −1: slot off, its weight is not looked at) and weights [T,K];
  // duplicates count twice. They must not lie in y or the workspace: what an earlier forward with it returned has to
  // be copied first.
  ForwardResult forward(ConstMatrix x, Routing routing, Matrix y, const Workspace& workspace) const;

  // The logits [T,E + Z] f32 that forward routes x [T,H], f32 or bf16, by: what the router's GEMM gives,
  // before the scale, bias, rounding and soft cap of RouterOptions, which `route` applies. So `route` of them with router()
  // and the inputs of a forward gives the bits of its experts and weights, and all other outputs and gradients; `forward`
  // with that routing gives the bits of its y. A workspace of workspace_bytes(T) serves this and both forwards. logits
  // must not overlap x, neither may lie in the workspace. Allocates nothing. Throws invalid_argument before any work,
  // also without a router.
  void router_logits(ConstMatrix x, Matrix logits, const Workspace& workspace) const;

 private:
  std::unique_ptr<const Parts> parts_;
};

}  // namespace switchyard
