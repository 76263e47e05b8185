// The model families: one row each, no code per family.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/config.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

// How a stacked or single weight matrix stands in its tensor.
enum class Orientation { out_in, in_out };

// How gate and up share the output features of a fused tensor: all of gate first, or one of each in turn.
enum class Fusion { gate_first, interleaved };

// Where the tensors of the routed experts are. Names follow the layer's prefix; {expert} in them means one tensor per
// expert. Sizes with Orientation::out_in:
//   per expert   gate [F,H]       up [F,H]     down [H,F]
//   stacked      gate [E,F,H]     up [E,F,H]   down [E,H,F]
//   fused        gate [E,2F,H]    up is null   down [E,H,F]
struct ExpertLayout {
  const char* label = nullptr;   // ModelInfo::layout
  const char* router = nullptr;  // [E,H]
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  Orientation orientation = Orientation::out_in;
  Fusion fusion = Fusion::gate_first;
};

// The shared expert, all [out,in]; no names: the family has none.
struct SharedNames {
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  const char* scale = nullptr;  // [1,H], through a sigmoid
};

// Limits the choice to the best groups of experts: `n_group` of them, `topk_group` kept.
struct Groups {
  std::int32_t count = 0;  // without the key n_group; 0 and 1 mean no limit
  std::int32_t kept = 0;   // without the key topk_group
  std::int32_t best = 0;   // see RouterOptions::group_best; 0: the family has no groups
  bool masked_zero = false;
  const char* method = nullptr;  // the value of topk_method that asks for groups; null: always
};

// Lists are filled from the front.
struct Family {
  const char* name = nullptr;
  std::array<const char*, 4> model_types = {};
  const char* nested = nullptr;  // the object in config.json that holds the keys, where there is one
  Keys layers = {"num_hidden_layers"};
  Keys experts = {};
  Keys topk = {"num_experts_per_tok"};
  Keys hidden = {"hidden_size"};
  Keys ffn = {};
  Keys shared_ffn = {};
  const char* shared_count = nullptr;     // the shared expert is this many times as wide as a routed one
  const char* normalize_key = nullptr;    // null: `normalize` always
  Normalize normalize = Normalize::none;  // without the key
  Score score = Score::softmax;
  float epsilon = 0;
  const char* scale_key = nullptr;
  double scale = 1;  // without the key
  Groups groups = {};
  const char* selection_bias = nullptr;  // the tensor, [E]
  bool sparse_step = false;              // decoder_sparse_step and mlp_only_layers choose the MoE layers
  std::int32_t dense_first = -1;  // first_k_dense_replace layers are dense, so many without the key; -1: no such key
  std::array<const char*, 4> prefixes = {};
  std::array<ExpertLayout, 2> layouts = {};
  SharedNames shared = {};
};

std::span<const Family> families() noexcept;

// What config.json says of the MoE layers.
struct ModelConfig {
  const Family* family = nullptr;
  std::string model_type;
  std::int32_t layers = 0;
  std::vector<std::int32_t> moe_layers;
  std::int32_t experts = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int64_t shared_ffn = 0;
  RouterOptions router;
  std::string quantization;              // empty: none
  std::vector<std::string> unsupported;  // each with its reason
};

// `file` is used in messages. Throws bad_data, and not_supported for an unknown model_type.
ModelConfig read_model_config(std::string_view text, const std::string& file);

}  // namespace switchyard
