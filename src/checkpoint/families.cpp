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
constexpr std::array<const char*, 4> kText = {"model.layers.{layer}.", "layers.{layer}."};
constexpr std::array<const char*, 4> kVision = {"model.language_model.layers.{layer}.",
                                                "language_model.model.layers.{layer}.", "model.layers.{layer}.",
                                                "layers.{layer}."};

// Layouts: the published one first. A flag's value without its key is what transformers takes.
constexpr Family kFamilies[] = {
    {.name = "granitemoe",
     .model_types = {"granitemoe"},
     .experts = {"num_local_experts"},
     .ffn = {"intermediate_size"},
     .normalize = true,  // softmax over the chosen logits is the normalised softmax
     .prefixes = kText,
     .layouts = {kGranite, kGraniteFused}},
    {.name = "mixtral",
     .model_types = {"mixtral"},
     .experts = {"num_local_experts", "num_experts"},
     .ffn = {"intermediate_size"},
     .normalize = true,
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
     .normalize = true,  // whatever norm_topk_prob says
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
  std::vector<std::int32_t> moe_layers;
  for (std::int32_t layer = 0; layer < layers; ++layer) {
    if ((layer + 1) % step == 0 && !std::binary_search(dense.begin(), dense.end(), layer)) moe_layers.push_back(layer);
  }
  return moe_layers;
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

  const std::int32_t max_topk = std::min(model.experts, kMaxTopk);
  model.router.topk = static_cast<std::int32_t>(config.integer(family.topk, 1, max_topk));
  model.router.normalize =
      family.normalize_key == nullptr ? family.normalize : config.flag_or(family.normalize_key, family.normalize);

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
