// What a layer holds, the memory of its forwards and the checks at its border.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "experts/grouped.hpp"
#include "experts/packed.hpp"
#include "layer/carve.hpp"
#include "layer/overlap.hpp"
#include "plan/build.hpp"
#include "route/router.hpp"
#include "switchyard/layer.hpp"

namespace switchyard {

struct Layer::Parts {
  std::int64_t hidden;
  LayerOptions options;
  Router router;  // an empty weight: only forwards with a given routing
  ExpertWeights experts;
  std::int32_t identity_experts;
  WeightSite weight_site;
  std::optional<ExpertWeights> shared;
  PackedMatrices shared_gate;  // [1,H], all its bits; empty: the factor is shared_scale
  float shared_scale;
  PackedMatrices latent_in;        // [latent,H]; empty: the experts work in H
  PackedMatrices latent_out;       // [H,latent]
  std::vector<float> output_bias;  // [H padded to the panel]; empty: none
  bool from_cache = false;
};

// What a layer of these will hold, with all sizes, and nothing packed yet. Throws as Layer.
Layer::Parts plan_parts(const LayerWeights& weights, const RouterOptions& router, const LayerOptions& options);
// Gives what was planned for the same weights all the sizes that it will have when it is packed: scales stand where those
// of a checkpoint do. Reads no more than what describes the weights.
void lay_out_parts(Layer::Parts& parts, const LayerWeights& weights);
// Packs what was planned for the same weights, laid out or not.
void pack_parts(Layer::Parts& parts, const LayerWeights& weights);

// For one chunk of tokens.
struct ChunkMemory {
  std::int64_t tokens;
  PlanMemory plan;
  GroupedMemory grouped;
  std::byte* h;        // [tokens · topk, ffn padded] of the activations' type
  float* out;          // [tokens · topk, hidden or latent padded]
  float* row_weight;   // [tokens · topk], unless weights multiply outputs
  float* latent;       // [tokens, latent padded]: the experts' input, and then their combined output
  float* from_latent;  // [tokens, hidden padded]
  std::byte* shared_h;
  float* shared_out;   // [tokens, hidden padded]
  float* gate_logits;  // [tokens, kPanel]
};

struct ForwardMemory {
  std::int32_t* expert;  // [T,K], with_router only
  float* weight;         // [T,K], with_router only
  RouterMemory router;
  ChunkMemory chunk;
};

// The one function that sizes and carves the workspace of a forward.
ForwardMemory carve_forward(Carver& carver, const Layer::Parts& parts, std::int64_t tokens, std::int32_t topk,
                            bool with_router);

// What carve_forward takes. Throws invalid_argument.
std::size_t forward_bytes(const Layer::Parts& parts, std::int64_t tokens, std::int32_t topk, bool with_router);

// Throw invalid_argument.
void check_router(const Layer::Parts& parts);
void check_matrices(const Layer::Parts& parts, const ConstMatrix& x, const Matrix& y);
void check_logits(const Layer::Parts& parts, const ConstMatrix& x, const Matrix& logits);
void check_routing(const Layer::Parts& parts, const ConstMatrix& x, const Routing& routing);
void check_workspace(const Workspace& workspace, std::size_t needed);
// What is written, the workspace and `out` of that name, overlaps nothing that is read: x and the rest.
void check_memory(const Workspace& workspace, const char* name, const Matrix& out, const ConstMatrix& x,
                  NamedMemory read);

}  // namespace switchyard
