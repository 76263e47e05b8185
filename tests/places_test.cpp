// The names of a layer in the forms that are not the first one: what transformers 5.23 writes with
// save_original_format=False, and older forms. The first ones are those of the golden folders.
#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/block.hpp"
#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;

ModelConfig config_of(const Family& family) {
  ModelConfig config;
  config.family = &family;
  config.layers = 2;
  config.experts = 4;
  config.hidden = 8;
  config.ffn = 6;
  config.shared_ffn = family.shared.has ? 6 : 0;
  config.latent = family.latent != nullptr ? 4 : 0;
  config.selection_bias = family.router.selection_bias;
  config.router.topk = 2;
  config.function_of_all.gated = family.function.gated;
  if (family.schedule.table_layers != nullptr) config.table_layers = {1};
  return config;
}

// Sorted; layer 0, and layer 1 too if it has a table.
std::string names_of(const Family& family, const Place& place) {
  const ModelConfig config = config_of(family);
  const PlaceChoice choice{&place, ""};
  std::set<std::string> names;
  for (const std::int32_t layer : {0, 1}) {
    for (const BlockTensor& tensor : block_tensors(config, choice, layer)) names.insert(tensor.wanted.name);
    std::vector<ExpertPlace> places = {routed_place(config, choice, layer)};
    if (config.shared_ffn > 0) places.push_back(shared_place(config, choice, layer));
    for (const ExpertPlace& experts : places) {
      for (const NamedShape& name : expert_names(experts, 0)) names.insert(name.name);
    }
  }
  names.erase("");
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

struct Written {
  const char* names;
  std::set<std::string> families;
};

const Written kWritten[] = {
    {"block_sparse_moe.experts.down_proj block_sparse_moe.experts.gate_up_proj block_sparse_moe.router.weight",
     {"granitemoe", "granitemoehybrid"}},
    {"experts.0.w1.weight experts.0.w2.weight experts.0.w3.weight gate.weight shared_experts.down_proj.weight "
     "shared_experts.gate_proj.weight shared_experts.up_proj.weight",
     {"mistral_large4"}},
    {"feed_forward.expert_bias feed_forward.experts.down_proj feed_forward.experts.gate_up_proj "
     "feed_forward.gate.weight",
     {"lfm2_moe"}},
    {"feed_forward.experts.down_proj feed_forward.experts.gate_up_proj feed_forward.router.weight", {"jamba"}},
    {"mixer.experts.down_proj mixer.experts.up_proj mixer.fc1_latent_proj.weight mixer.fc2_latent_proj.weight "
     "mixer.gate.e_score_correction_bias mixer.gate.weight mixer.shared_experts.down_proj.weight "
     "mixer.shared_experts.up_proj.weight",
     {"nemotron_h"}},
    {"mlp.e_score_correction_bias mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight", {"minimax_m2"}},
    {"mlp.e_score_correction_bias mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"hy_v3"}},
    {"mlp.expert_bias mlp.experts.down_proj mlp.experts.gate_up_proj mlp.router.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"afmoe"}},
    {"mlp.experts.0.down_proj.weight mlp.experts.0.gate_proj.weight mlp.experts.0.up_proj.weight "
     "mlp.gate.e_score_correction_bias mlp.gate.weight mlp.shared_experts.down_proj.weight "
     "mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"hy_v4"}},
    {"mlp.experts.0.down_proj.weight mlp.experts.0.gate_proj.weight mlp.experts.0.up_proj.weight mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"mistral4"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.e_score_correction_bias mlp.gate.tid2eid mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"deepseek_v4"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.e_score_correction_bias mlp.gate.weight",
     {"beam", "inkling2", "mimo_v2_flash"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.e_score_correction_bias mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"axk1", "axk2", "bailing_hybrid", "deepseek_v3", "dots1", "dots3_note", "exaone_moe", "glm4_moe", "glm4_moe_lite",
      "glm5_next", "glm_moe_dsa", "hy_v4", "kimi_linear", "kolibri1", "laguna", "solar_open", "step3p7"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.e_score_correction_bias mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_up_proj.weight",
     {"minimax_m3_vl"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.moe_statics.e_score_correction_bias mlp.gate.weight "
     "mlp.shared_experts.down_proj.weight mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"ernie4_5_moe"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight",
     {"mellum", "mixtral", "olmoe", "qwen3_moe", "qwen3_omni_moe", "qwen3_vl_moe"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight mlp.shared_expert.down_proj.weight "
     "mlp.shared_expert.gate_proj.weight mlp.shared_expert.up_proj.weight",
     {"flint"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight mlp.shared_expert.down_proj.weight "
     "mlp.shared_expert.gate_proj.weight mlp.shared_expert.up_proj.weight mlp.shared_expert_gate.weight",
     {"qwen2_moe", "qwen3_5_moe", "qwen3_next", "qwen4_exp"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.weight mlp.shared_experts.down_proj.weight "
     "mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"cohere2_moe", "deepseek_v2", "mistral_large4", "unlimited_ocr"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.gate.wg.weight mlp.shared_mlp.down_proj.weight "
     "mlp.shared_mlp.gate_proj.weight mlp.shared_mlp.up_proj.weight",
     {"hunyuan_v1_moe"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.router.classifier.weight mlp.router.e_score_correction_bias",
     {"longcat_flash"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.router.weight", {"phimoe"}},
    {"mlp.experts.down_proj mlp.experts.gate_up_proj mlp.router.weight mlp.shared_experts.down_proj.weight "
     "mlp.shared_experts.gate_proj.weight mlp.shared_experts.up_proj.weight",
     {"aria"}},
    {"feed_forward.experts.0.down_proj.weight feed_forward.experts.0.gate_proj.weight "
     "feed_forward.experts.0.up_proj.weight feed_forward.router.weight feed_forward.shared_expert.down_proj.weight "
     "feed_forward.shared_expert.gate_proj.weight feed_forward.shared_expert.up_proj.weight",
     {"llama4"}},
    {"mlp.experts.down_proj mlp.experts.down_proj_bias mlp.experts.gate_up_proj mlp.experts.gate_up_proj_bias "
     "mlp.router.bias mlp.router.weight",
     {"gpt_oss"}},
};

TEST(Places, NamesBesideTheReleasedOnes) {
  std::map<std::string, std::set<std::string>> found;
  for (const Family& family : families()) {
    for (std::size_t i = 1; i < family.places.size(); ++i) {
      if (family.places[i].experts != nullptr) found[names_of(family, family.places[i])].insert(family.name);
    }
  }
  for (const Written& written : kWritten) EXPECT_EQ(found[written.names], written.families) << written.names;
  for (const auto& [names, families] : found) {
    const auto known = [&names = names](const Written& written) { return written.names == names; };
    EXPECT_TRUE(std::any_of(std::begin(kWritten), std::end(kWritten), known)) << names;
  }
}

}  // namespace
