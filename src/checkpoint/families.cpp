#include "checkpoint/families.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "checkpoint/json_text.hpp"
#include "fail.hpp"
#include "switchyard/model.hpp"

namespace switchyard {
namespace {

constexpr ExpertLayout kPerExpertProj = {
    .label = "per expert, gate_proj/up_proj/down_proj [out,in]",
    .router = "mlp.gate.weight",
    .gate = "mlp.experts.{expert}.gate_proj.weight",
    .up = "mlp.experts.{expert}.up_proj.weight",
    .down = "mlp.experts.{expert}.down_proj.weight",
};
constexpr ExpertLayout kPerExpertW = {
    .label = "per expert, w1/w3/w2 [out,in]",
    .router = "block_sparse_moe.gate.weight",
    .gate = "block_sparse_moe.experts.{expert}.w1.weight",
    .up = "block_sparse_moe.experts.{expert}.w3.weight",
    .down = "block_sparse_moe.experts.{expert}.w2.weight",
};
// What transformers 5 writes for every family that it does not convert back.
constexpr ExpertLayout kFused = {
    .label = "fused, gate_up_proj/down_proj [out,in]",
    .router = "mlp.gate.weight",
    .gate = "mlp.experts.gate_up_proj",
    .down = "mlp.experts.down_proj",
};
constexpr ExpertLayout kFusedTransposed = {
    .label = "fused, gate_up_proj/down_proj [in,out]",
    .router = "mlp.gate.weight",
    .gate = "mlp.experts.gate_up_proj",
    .down = "mlp.experts.down_proj",
    .orientation = Orientation::in_out,
};
constexpr ExpertLayout kGranite = {
    .label = "fused, input_linear/output_linear [out,in]",
    .router = "block_sparse_moe.router.layer.weight",
    .gate = "block_sparse_moe.input_linear.weight",
    .down = "block_sparse_moe.output_linear.weight",
};
constexpr ExpertLayout kGraniteFused = {
    .label = "fused, gate_up_proj/down_proj [out,in]",
    .router = "block_sparse_moe.router.weight",
    .gate = "block_sparse_moe.experts.gate_up_proj",
    .down = "block_sparse_moe.experts.down_proj",
};
constexpr SharedNames kSharedExpert = {
    .gate = "mlp.shared_expert.gate_proj.weight",
    .up = "mlp.shared_expert.up_proj.weight",
    .down = "mlp.shared_expert.down_proj.weight",
    .scale = "mlp.shared_expert_gate.weight",
};
constexpr SharedNames kSharedExperts = {
    .gate = "mlp.shared_experts.gate_proj.weight",
    .up = "mlp.shared_experts.up_proj.weight",
    .down = "mlp.shared_experts.down_proj.weight",
};
constexpr const char* kGateBias = "mlp.gate.e_score_correction_bias";
// What DeepSeek-V3 adds to the sum of the chosen scores.
constexpr float kEpsilon = 1e-20F;

constexpr std::array<const char*, 4> kText = {"model.layers.{layer}.", "layers.{layer}."};
constexpr std::array<const char*, 4> kVision = {"model.language_model.layers.{layer}.",
                                                "language_model.model.layers.{layer}.", "model.layers.{layer}.",
                                                "layers.{layer}."};

// Layouts: the published one first. A flag's value without its key is what transformers takes.
constexpr Family kFamilies[] = {
    {.name = "deepseek_v2",
     .model_types = {"deepseek_v2"},
     .experts = {"n_routed_experts"},
     .ffn = {"moe_intermediate_size"},
     .shared_count = "n_shared_experts",
     .scale_key = "routed_scaling_factor",
     .groups = {.best = 1, .masked_zero = true, .method = "group_limited_greedy"},
     .dense_first = 0,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused},
     .shared = kSharedExperts},
    {.name = "deepseek_v3",
     .model_types = {"deepseek_v3", "deepseek_v32", "kimi_k2"},
     .experts = {"n_routed_experts"},
     .ffn = {"moe_intermediate_size"},
     .shared_count = "n_shared_experts",
     .normalize_key = "norm_topk_prob",
     .normalize = Normalize::sum,
     .score = Score::sigmoid,
     .epsilon = kEpsilon,
     .scale_key = "routed_scaling_factor",
     .scale = 2.5,
     .groups = {.count = 8, .kept = 4, .best = 2},
     .selection_bias = kGateBias,
     .dense_first = 3,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused},
     .shared = kSharedExperts},
    {.name = "dots1",
     .model_types = {"dots1"},
     .experts = {"n_routed_experts"},
     .ffn = {"moe_intermediate_size"},
     .shared_count = "n_shared_experts",
     .normalize_key = "norm_topk_prob",
     .score = Score::sigmoid,
     .epsilon = kEpsilon,
     .scale_key = "routed_scaling_factor",
     .groups = {.count = 1, .kept = 1, .best = 2},
     .selection_bias = kGateBias,
     .dense_first = 0,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused},
     .shared = kSharedExperts},
    {.name = "glm4_moe",
     .model_types = {"glm4_moe"},
     .experts = {"n_routed_experts"},
     .ffn = {"moe_intermediate_size"},
     .shared_count = "n_shared_experts",
     .normalize_key = "norm_topk_prob",
     .normalize = Normalize::sum,
     .score = Score::sigmoid,
     .epsilon = kEpsilon,
     .scale_key = "routed_scaling_factor",
     .groups = {.count = 1, .kept = 1, .best = 2},
     .selection_bias = kGateBias,
     .dense_first = 1,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused},
     .shared = kSharedExperts},
    {.name = "granitemoe",
     .model_types = {"granitemoe"},
     .experts = {"num_local_experts"},
     .ffn = {"intermediate_size"},
     .normalize = Normalize::sum,  // softmax over the chosen logits is the normalised softmax
     .prefixes = kText,
     .layouts = {kGranite, kGraniteFused}},
    {.name = "minimax_m2",
     .model_types = {"minimax_m2"},
     .experts = {"num_local_experts", "num_experts"},
     .ffn = {"intermediate_size"},
     .normalize = Normalize::sum,
     .score = Score::sigmoid,
     .selection_bias = "block_sparse_moe.e_score_correction_bias",
     .prefixes = kText,
     .layouts = {kPerExpertW, kFused}},
    {.name = "mixtral",
     .model_types = {"mixtral"},
     .experts = {"num_local_experts", "num_experts"},
     .ffn = {"intermediate_size"},
     .normalize = Normalize::sum,
     .prefixes = kText,
     .layouts = {kPerExpertW, kFused}},
    {.name = "olmoe",
     .model_types = {"olmoe"},
     .experts = {"num_experts", "num_local_experts"},
     .ffn = {"intermediate_size"},
     .normalize_key = "norm_topk_prob",
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused}},
    {.name = "qwen2_moe",
     .model_types = {"qwen2_moe"},
     .experts = {"num_experts"},
     .ffn = {"moe_intermediate_size"},
     .shared_ffn = {"shared_expert_intermediate_size"},
     .normalize_key = "norm_topk_prob",
     .sparse_step = true,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused},
     .shared = kSharedExpert},
    {.name = "qwen3_moe",
     .model_types = {"qwen3_moe"},
     .experts = {"num_experts", "num_local_experts"},
     .ffn = {"moe_intermediate_size"},
     .normalize_key = "norm_topk_prob",
     .sparse_step = true,
     .prefixes = kText,
     .layouts = {kPerExpertProj, kFused}},
    {.name = "qwen3_vl_moe",
     .model_types = {"qwen3_vl_moe", "qwen3_vl_moe_text"},
     .nested = "text_config",
     .experts = {"num_experts", "num_local_experts"},
     .ffn = {"moe_intermediate_size"},
     .normalize = Normalize::sum,  // whatever norm_topk_prob says
     .sparse_step = true,
     .prefixes = kVision,
     .layouts = {kFusedTransposed, kFused}},
};

constexpr std::int64_t kMaxLayers = 65536;
constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

const Family& find_family(const std::string& model_type, const std::string& file) {
  for (const Family& family : kFamilies) {
    for (const char* known : family.model_types) {
      if (known != nullptr && model_type == known) return family;
    }
  }
  fail(Code::not_supported, "config: {}: model_type is {}, expected one of {}", file, printable(model_type),
       fmt::join(known_model_types(), ", "));
}

std::vector<std::int32_t> listed_moe_layers(const Config& config, std::int32_t layers) {
  const std::vector<std::string> kinds = config.texts("mlp_layer_types");
  if (kinds.size() != static_cast<std::size_t>(layers)) {
    config.refuse("mlp_layer_types", fmt::format("an array of {} values", kinds.size()),
                  fmt::format("{}, one per layer", layers));
  }
  std::vector<std::int32_t> moe_layers;
  for (std::int32_t layer = 0; layer < layers; ++layer) {
    const std::string& kind = kinds[static_cast<std::size_t>(layer)];
    if (kind == "sparse" || kind == "moe") {
      moe_layers.push_back(layer);
    } else if (kind != "dense") {
      config.refuse("mlp_layer_types", fmt::format("{} for layer {}", printable(kind), layer), "sparse, moe or dense");
    }
  }
  return moe_layers;
}

std::vector<std::int32_t> read_schedule(const Config& config, const Family& family, std::int32_t layers) {
  if (config.has("mlp_layer_types")) return listed_moe_layers(config, layers);
  std::int64_t step = 1;
  std::vector<std::int64_t> dense;
  if (family.sparse_step) {
    step = config.integer_or("decoder_sparse_step", 1, kMaxSize, 1);
    dense = config.integers("mlp_only_layers", std::numeric_limits<std::int64_t>::min(),
                            std::numeric_limits<std::int64_t>::max());
    std::sort(dense.begin(), dense.end());
  }
  std::int64_t first = 0;
  if (family.dense_first >= 0) first = config.integer_or("first_k_dense_replace", 0, kMaxSize, family.dense_first);
  std::vector<std::int32_t> moe_layers;
  for (std::int32_t layer = 0; layer < layers; ++layer) {
    if (layer < first) continue;
    if ((layer + 1) % step == 0 && !std::binary_search(dense.begin(), dense.end(), layer)) moe_layers.push_back(layer);
  }
  return moe_layers;
}

void read_groups(const Config& config, const Groups& groups, ModelConfig& model) {
  if (groups.best == 0) return;
  if (groups.method != nullptr) {
    const std::string method = config.text_or("topk_method", "greedy");
    if (method != groups.method) {
      if (method != "greedy") {
        config.refuse("topk_method", printable(method), fmt::format("greedy or {}", groups.method));
      }
      return;
    }
  }
  const std::int64_t count = config.integer_or("n_group", 1, model.experts, groups.count);
  if (count <= 1) return;
  RouterOptions& router = model.router;
  if (count > kMaxGroups || model.experts % count != 0) {
    config.refuse("n_group", std::to_string(count),
                  fmt::format("a divisor of {} experts up to {}", model.experts, kMaxGroups));
  }
  const std::int64_t kept = config.integer_or("topk_group", 1, count, groups.kept);
  const std::int64_t size = model.experts / count;
  if (kept < 1 || kept > count || kept * size < router.topk) {
    config.refuse("topk_group", std::to_string(kept),
                  fmt::format("1..{} groups of {} with {} experts or more", count, size, router.topk));
  }
  if (size < groups.best) {
    config.refuse("n_group", std::to_string(count), fmt::format("groups of {} experts or more", groups.best));
  }
  router.groups = static_cast<std::int32_t>(count);
  router.kept_groups = static_cast<std::int32_t>(kept);
  router.group_best = groups.best;
  router.masked_zero = groups.masked_zero;
}

void read_router(const Config& config, const Family& family, ModelConfig& model) {
  const std::int32_t max_topk = std::min(model.experts, kMaxTopk);
  RouterOptions& router = model.router;
  router.topk = static_cast<std::int32_t>(config.integer(family.topk, 1, max_topk));
  router.normalize = family.normalize;
  if (family.normalize_key != nullptr) {
    const bool normalize = config.flag_or(family.normalize_key, family.normalize != Normalize::none);
    router.normalize = normalize ? Normalize::sum : Normalize::none;
  }
  router.score = family.score;
  router.epsilon = family.epsilon;
  if (family.scale_key != nullptr) router.scale = static_cast<float>(config.number_or(family.scale_key, family.scale));
  read_groups(config, family.groups, model);
}

// The method of a quantised checkpoint, empty if there is none.
std::string read_quantization(const Config& config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    if (config.has(key)) return printable(config.nested(key).text_or("quant_method", "of an unnamed method"));
  }
  return {};
}

}  // namespace

std::span<const Family> families() noexcept { return kFamilies; }

std::vector<std::string> known_model_types() {
  std::vector<std::string> types;
  for (const Family& family : kFamilies) {
    for (const char* type : family.model_types) {
      if (type != nullptr) types.emplace_back(type);
    }
  }
  std::sort(types.begin(), types.end());
  return types;
}

ModelConfig read_model_config(std::string_view text, const std::string& file) {
  const Config root(text, file);
  ModelConfig model;
  model.model_type = root.text("model_type");
  const Family& family = find_family(model.model_type, file);
  const Config config = family.nested == nullptr ? root : root.nested(family.nested);
  model.family = &family;
  model.layers = static_cast<std::int32_t>(config.integer(family.layers, 1, kMaxLayers));
  model.moe_layers = read_schedule(config, family, model.layers);
  model.experts = static_cast<std::int32_t>(config.integer(family.experts, 1, kMaxExperts));
  model.hidden = config.integer(family.hidden, 1, kMaxSize);
  model.ffn = config.integer(family.ffn, 1, kMaxSize);
  if (family.shared_ffn[0] != nullptr) model.shared_ffn = config.integer(family.shared_ffn, 0, kMaxSize);

  if (family.shared_count != nullptr) {
    const std::int64_t count = config.integer({family.shared_count}, 0, kMaxExperts);
    if (count * model.ffn > kMaxSize) {
      config.refuse(family.shared_count, std::to_string(count), "a shared expert narrower than 2^31");
    }
    model.shared_ffn = count * model.ffn;
  }
  read_router(config, family, model);

  const std::string activation = config.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    model.unsupported.push_back(fmt::format("hidden_act is {}, supported: silu", printable(activation)));
  }
  model.quantization = read_quantization(root);
  if (model.quantization.empty()) model.quantization = read_quantization(config);
  if (!model.quantization.empty()) {
    model.unsupported.push_back(
        fmt::format("the weights are quantised ({}), supported: f32, bf16, f16", model.quantization));
  }
  return model;
}

}  // namespace switchyard
