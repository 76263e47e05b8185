// The model families: rows of a table, no code per family.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "checkpoint/config.hpp"
#include "switchyard/experts.hpp"
#include "switchyard/layer.hpp"
#include "switchyard/route.hpp"

namespace switchyard {

// How a weight matrix stands in its tensor.
enum class Orientation { out_in, in_out };

// How gate and up share the output features of a fused tensor: all of gate first, or one of each in turn.
enum class Fusion { gate_first, interleaved };

// How many experts a tensor holds: one; all, [E,rows,cols]; all, [E·rows,cols].
enum class Storage { single, stacked, flattened };

// Where the tensors of experts are, of the routed ones or of the shared one. Names follow the layer's prefix; {block} in
// them is Place::block, {expert} the expert's number. Without a gate there is only `up`; gate and up are fused, [2F,H],
// if `up` is null. Sizes with Orientation::out_in: gate and up [F,H], down [H,F].
struct ExpertLayout {
  const char* label = nullptr;  // ModelInfo::layout
  const char* gate = nullptr;
  const char* up = nullptr;
  const char* down = nullptr;
  const char* gate_bias = nullptr;  // [F], or [2F] as the weights are fused
  const char* up_bias = nullptr;
  const char* down_bias = nullptr;  // [H]
  Storage storage = Storage::single;
  Orientation orientation = Orientation::out_in;  // of gate and up
  Orientation down_orientation = Orientation::out_in;
  Fusion fusion = Fusion::gate_first;
};

// One way in which a family's layer is stored. A name that the family does not need may be null.
struct Place {
  const char* block = "mlp.";
  const ExpertLayout* experts = nullptr;
  const char* router = "{block}gate.weight";                           // [E + Z,H]
  const char* logit_bias = "{block}router.bias";                       // [E + Z]
  const char* selection_bias = "{block}gate.e_score_correction_bias";  // [E + Z] or [1,E + Z]
  const char* table = "{block}gate.tid2eid";                           // [vocabulary,K]
  const ExpertLayout* shared = nullptr;
  const char* shared_gate = "{block}shared_expert_gate.weight";  // [1,H]
  const char* latent_in = "{block}fc1_latent_proj.weight";       // [latent,H]
  const char* latent_out = "{block}fc2_latent_proj.weight";      // [H,latent]
  const char* output_bias = "{block}bias";                       // [H]
};

// Limits the choice to the best groups of experts.
struct Groups {
  Keys count_keys = {"n_group"};
  std::int32_t count = 0;  // without a key; 0 and 1 mean no limit
  const char* kept_key = "topk_group";
  std::int32_t kept = 0;  // without the key
  std::int32_t best = 0;  // see RouterOptions::group_best; 0: the family has no groups
  bool masked_zero = false;
  const char* method = nullptr;  // the value of topk_method that asks for groups; null: always
};

// A value next to a key is what holds without the key.
struct RouterColumns {
  const char* score_key = nullptr;
  Score score = Score::softmax;
  const char* chosen_key = nullptr;
  ChosenScore chosen = ChosenScore::none;
  Keys normalize_keys = {};  // flags; none: `normalize` always
  Normalize normalize = Normalize::none;
  const char* epsilon_key = nullptr;
  double epsilon = 0;
  const char* power_key = nullptr;  // null in the configuration: not normalised
  double power = 1;
  const char* scale_key = nullptr;
  double scale = 1;
  const char* softcap_key = nullptr;
  const char* jitter_key = nullptr;
  double jitter = 0.01;
  const char* selection_bias_key = nullptr;  // a flag, true without the key; null: `selection_bias` always
  bool selection_bias = false;
  bool logit_bias = false;
  bool narrow = false;     // see LayerWeights::narrow_router
  std::int32_t topk = 0;   // 0: what the configuration says
  bool topk_list = false;  // may be a list of equal numbers
  Groups groups = {};
};

// The function between the GEMMs. One of the limited ones stands for silu with a limit.
struct FunctionColumns {
  const char* key = "hidden_act";  // null: `activation` always
  Activation activation = Activation::silu;
  bool gated = true;
  const char* limit_key = nullptr;
  double limit = 0;
  const char* alpha_key = nullptr;
  double alpha = 0;
  const char* limits_key = nullptr;         // lists, one per layer; 0: no limit, which is silu
  const char* shared_limits_key = nullptr;  // the same for the shared expert
  bool shared_unlimited = false;            // the shared expert has silu
};

// The shared expert is as wide as the first of `ffn` that there is, else as a routed one, and that `count` times.
struct SharedColumns {
  bool has = false;
  Keys ffn = {};
  std::int64_t ffn_otherwise = -1;  // -1: one of `ffn`, if any, has to be there
  const char* count = nullptr;
  std::int64_t count_otherwise = -1;
  bool gate = false;                  // it goes through a sigmoid gate
  const char* average_key = nullptr;  // "average", the value without the key, halves routed and shared; else "sum"
};

// Which layers have experts: layer L if L >= first, L <= last, (L + shift) % step == 0, and the lists allow it.
// Keys that are null are not read.
struct Schedule {
  const char* kinds = "mlp_layer_types";  // a list with a name for each layer decides alone, where there is one
  bool kinds_count = false;               // that list or `pattern` says the number of layers, and has other names too
  const char* pattern = nullptr;          // a text with a letter for each layer, E for experts, decides alone
  const char* only = nullptr;             // a list, or a text with commas, of the layers with experts decides alone
  const char* table_layers = nullptr;     // so many layers take their experts from a table
  std::int32_t tables = 0;
  const char* first_key = nullptr;
  std::int32_t first = 0;
  const char* last_key = nullptr;  // -1, also without the key: no last
  const char* step_key = nullptr;  // may be a list of 0 and 1, one for each layer, which decides besides `first`
  std::int32_t step = 1;
  std::int32_t shift = 0;
  const char* offset_key = nullptr;  // its value is -shift
  const char* dense = nullptr;       // a list of layers without experts
  std::int32_t dense_otherwise = 0;  // without that list, so many of the first layers
};

// Lists are filled from the front.
struct Family {
  const char* name = nullptr;
  std::array<const char*, 4> model_types = {};
  const char* refused = nullptr;      // why its block is not run; nothing else of the row matters then
  const char* refused_key = nullptr;  // a flag of the configuration that is refused if it is true
  const char* outside = nullptr;      // ModelInfo::outside
  Keys layers = {"num_hidden_layers"};
  Keys experts = {"n_routed_experts"};
  std::int32_t dense_experts = -1;  // with so many experts or fewer there is no MoE layer
  Keys topk = {"num_experts_per_tok"};
  Keys hidden = {"hidden_size"};
  Keys ffn = {"moe_intermediate_size"};
  const char* identity_experts = nullptr;
  const char* latent = nullptr;
  const char* bias_key = nullptr;  // a flag: the shared expert and the latent maps have biases, named .bias
  WeightSite weight_site = WeightSite::output;
  bool output_bias = false;
  RouterColumns router = {};
  FunctionColumns function = {};
  SharedColumns shared = {};
  Schedule schedule = {};
  std::array<Place, 3> places = {};
};

// A model type around a text model.
struct Wrapper {
  const char* model_type = nullptr;
  std::array<const char*, 2> objects = {};  // the text model's configuration, the first that there is
  const char* text_type = nullptr;          // the text model's type if it does not say a known one; null: it must
};

std::span<const Family> families() noexcept;
std::span<const Wrapper> wrappers() noexcept;

// Null if there is none.
const Family* find_family(std::string_view model_type) noexcept;

}  // namespace switchyard
