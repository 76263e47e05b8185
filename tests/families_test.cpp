// The family table: what every model type's configuration means, with the keys that it needs and no others, so that all
// defaults are looked at too.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/model_config.hpp"
#include "checkpoint_files.hpp"
#include "switchyard/model.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;
using nlohmann::json;

std::string activation_text(const ExpertFunction& function) {
  std::string text = activation_name(function.activation);
  if (!function.gated) text += " ungated";
  if (function.limit != 0) text += fmt::format(" L{:g}", function.limit);
  if (function.alpha != 0) text += fmt::format(" a{:g}", function.alpha);
  return text;
}

std::string router_text(const ModelConfig& config) {
  constexpr const char* kChosen[] = {"", " chosen-softmax", " chosen-sigmoid"};
  const RouterOptions& router = config.router;
  std::string text =
      fmt::format("K{} {}{}", router.topk, score_name(router.score), kChosen[static_cast<std::size_t>(router.chosen)]);
  if (config.family->router.narrow) text += " narrow";
  if (config.selection_bias) text += " +bias";
  if (config.family->router.logit_bias) text += " +logit-bias";
  if (router.groups > 0) {
    text += fmt::format(" groups {}/{} best {}{}", router.kept_groups, router.groups, router.group_best,
                        router.masked_zero ? " zero" : "");
  }
  if (router.normalize == Normalize::sum) text += " /sum";
  if (router.normalize == Normalize::clamped_sum) text += " /clamped";
  if (router.normalize == Normalize::power_norm) text += fmt::format(" /norm{:g}", router.power);
  if (router.epsilon != 0) text += fmt::format("+{:g}", router.epsilon);
  if (router.scale != 1) text += fmt::format(" *{:g}", router.scale);
  if (router.softcap != 0) text += fmt::format(" cap{:g}", router.softcap);
  if (router.score == Score::sparsemixer) text += fmt::format(" jitter{:g}", router.jitter);
  return text;
}

std::string describe(const ModelConfig& config) {
  const std::int32_t last = config.moe_layers.empty() ? 0 : config.moe_layers.back();
  std::string text = fmt::format("{}; E{}", fmt::join(config.moe_layers, ","), config.experts);
  if (!config.table_layers.empty()) text += fmt::format(" tables {}", fmt::join(config.table_layers, ","));
  if (config.identity_experts > 0) text += fmt::format(" identity {}", config.identity_experts);
  text += fmt::format(" F{}", config.ffn);
  if (config.latent > 0) text += fmt::format(" latent {}", config.latent);
  text += fmt::format("; {}; {}", router_text(config), activation_text(config.function(last)));
  if (config.family->weight_site == WeightSite::input) text += " weight on input";
  if (config.family->output_bias) text += " output bias";
  if (config.biases) text += " biases";
  if (config.shared_ffn > 0) {
    text += fmt::format("; shared {}", config.shared_ffn);
    if (!(config.shared_function(last) == config.function(last))) {
      text += fmt::format(" {}", activation_text(config.shared_function(last)));
    }
    if (config.family->shared.gate) text += " gated";
    if (config.shared_scale != 1) text += fmt::format(" *{:g}", config.shared_scale);
  }
  for (const std::string& reason : config.unsupported) text += "; REFUSED " + reason;
  return text;
}

// Sizes under the names that a family's configuration uses.
json sizes(const char* experts, const char* topk, const char* ffn, json more = json::object()) {
  json keys = {{"num_hidden_layers", 6}, {"hidden_size", 64}, {experts, 16}, {topk, 2}, {ffn, 24}};
  keys.update(more);
  return keys;
}
json routed(json more = json::object()) {
  return sizes("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", std::move(more));
}
json num(json more = json::object()) {
  return sizes("num_experts", "num_experts_per_tok", "moe_intermediate_size", std::move(more));
}
json local(json more = json::object()) {
  return sizes("num_local_experts", "num_experts_per_tok", "intermediate_size", std::move(more));
}
json shared20() { return {{"shared_expert_intermediate_size", 20}}; }

struct Row {
  const char* model_type;
  json keys;
  const char* expected;
};

const Row kRows[] = {
    {"afmoe", num(), "1,2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum+1e-20; silu; shared 48"},
    {"aria_text", sizes("moe_num_experts", "moe_topk", "intermediate_size"),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu; shared 48"},
    {"axk1", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"axk1", routed({{"moe_layer_freq", 2}, {"first_k_dense_replace", 3}}),
     "4; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"axk2", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.5; silu; shared 24"},
    {"axk2", routed({{"n_group", 4}, {"topk_group", 2}}),
     "1,2,3,4,5; E16 F24; K2 sigmoid +bias groups 2/4 best 2 zero /sum+1e-20 *2.5; silu; shared 24"},
    {"bailing_hybrid", sizes("num_experts", "num_experts_per_token", "moe_intermediate_size"),
     "2,3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"bailing_hybrid", num({{"n_group", 1}, {"norm_topk_prob", false}}),
     "2,3,4,5; E16 F24; K2 sigmoid +bias *2.5; silu; shared 24"},
    {"beam", num(), "3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu"},
    {"cohere2_moe", sizes("num_experts", "num_experts_per_tok", "intermediate_size"),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu"},
    {"cohere2_moe",
     sizes("num_experts", "num_experts_per_tok", "intermediate_size",
           {{"expert_selection_fn", "sigmoid"}, {"num_shared_experts", 2}, {"first_k_dense_replace", 4}}),
     "4,5; E16 F24; K2 logit chosen-sigmoid narrow /sum *0.5; silu; shared 48 *0.5"},
    {"cohere2_moe",
     sizes("num_experts", "num_experts_per_tok", "intermediate_size",
           {{"expert_selection_fn", "sigmoid"},
            {"norm_topk_prob", false},
            {"num_shared_experts", 1},
            {"shared_expert_combination_strategy", "sum"}}),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-sigmoid narrow; silu; shared 24"},
    {"dbrx",
     {{"n_layers", 6},
      {"d_model", 64},
      {"ffn_config", {{"moe_num_experts", 16}, {"moe_top_k", 2}, {"ffn_hidden_size", 24}}}},
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow /norm1; silu"},
    {"dbrx",
     {{"n_layers", 6},
      {"d_model", 64},
      {"ffn_config",
       {{"moe_num_experts", 16},
        {"moe_top_k", 2},
        {"ffn_hidden_size", 24},
        {"moe_normalize_expert_weights", nullptr},
        {"ffn_act_fn", {{"name", "gelu"}}}}}},
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow; gelu"},
    {"deepseek_ocr2_text", routed(), "0,1,2,3,4,5; E16 F24; K2 softmax; silu; shared 48"},
    {"deepseek_v2", routed(), "0,1,2,3,4,5; E16 F24; K2 softmax; silu; shared 48"},
    {"deepseek_v2",
     routed({{"n_group", 4}, {"topk_group", 2}, {"topk_method", "group_limited_greedy"}, {"mlp_bias", true}}),
     "0,1,2,3,4,5; E16 F24; K2 softmax groups 2/4 best 1 zero; silu biases; shared 48"},
    {"deepseek_v3", routed(), "3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"deepseek_v32", routed(), "3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"deepseek_v4", routed(),
     "0,1,2,3,4,5; E16 tables 0,1,2 F24; K2 sqrt_softplus narrow +bias /sum+1e-20 *1.5; silu_clamped L10; shared 24"},
    {"deepseek_v4",
     routed({{"num_hash_layers", 0}, {"scoring_func", "sigmoid"}, {"swiglu_limit", 7}, {"norm_topk_prob", false}}),
     "0,1,2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum+1e-20 *1.5; silu_clamped L7; shared 24"},
    {"deepseek_v4", routed({{"mlp_layer_types", {"hash_moe", "moe", "dense", "hash_moe", "moe", "moe"}}}),
     "0,1,3,4,5; E16 tables 0,3 F24; K2 sqrt_softplus narrow +bias /sum+1e-20 *1.5; silu_clamped L10; shared 24"},
    {"dots1", routed({{"n_shared_experts", 2}}), "0,1,2,3,4,5; E16 F24; K2 sigmoid +bias; silu; shared 48"},
    {"dots3_note_text", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu; shared 1536"},
    {"dots3_note_text",
     routed(
         {{"moe_layer_freq", {1, 0, 1, 0, 1, 1}}, {"moe_shared_expert_intermediate_size", 8}, {"n_shared_experts", 3}}),
     "2,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu; shared 24"},
    {"ernie4_5_moe", sizes("moe_num_experts", "moe_k", "moe_intermediate_size"),
     "1,2,3,4,5; E16 F24; K2 softmax +bias /clamped+1e-12; silu; shared 48"},
    {"ernie4_5_moe",
     sizes("moe_num_experts", "moe_k", "moe_intermediate_size",
           {{"moe_layer_start_index", 2},
            {"moe_layer_end_index", 4},
            {"moe_layer_interval", 2},
            {"moe_norm_min", 1e-3},
            {"moe_num_shared_experts", 0},
            {"use_bias", true}}),
     "3; E16 F24; K2 softmax +bias /clamped+0.001; silu biases"},
    {"exaone_moe", num(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.5; silu; shared 24"},
    {"flex_olmo", sizes("num_experts", "num_experts_per_tok", "intermediate_size"),
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow; silu"},
    {"flint", num(shared20()), "2,3,4,5; E16 F24; K2 sigmoid /sum; silu; shared 20"},
    {"glm4_moe", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu; shared 24"},
    {"glm4_moe_lite", routed({{"first_k_dense_replace", 3}}),
     "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *1.8; silu; shared 24"},
    {"glm4v_moe_text", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu; shared 24"},
    {"glm5_next_text", routed(), "3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.5; silu_clamped L10; shared 24"},
    {"glm_moe_dsa", routed(), "3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.5; silu; shared 24"},
    {"gpt_oss", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow +logit-bias; swiglu_oai L7 a1.702"},
    {"granitemoe", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu"},
    {"granitemoe_swa", local({{"shared_intermediate_size", 20}}),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu"},
    {"granitemoehybrid", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu"},
    {"granitemoehybrid", local({{"num_local_experts", 0}}), "; E0 F0; K1 softmax narrow; silu"},
    {"granitemoeshared", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu"},
    {"hunyuan_v1_moe", sizes("num_experts", "moe_topk", "intermediate_size", {{"moe_topk", {3, 3, 3, 3, 3, 3}}}),
     "0,1,2,3,4,5; E16 F24; K3 softmax /sum; silu; shared 24"},
    {"hy_v3", num(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.826; silu; shared 24"},
    {"hy_v4", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.827; silu_clamped L10; shared 24 silu"},
    {"inkling2_text", routed(), "0,1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *8; softcapped L25 a4"},
    {"jamba", sizes("num_experts", "num_experts_per_tok", "intermediate_size"),
     "1,3,5; E16 F24; K2 softmax narrow; silu"},
    {"jamba",
     sizes("num_experts", "num_experts_per_tok", "intermediate_size",
           {{"expert_layer_period", 3}, {"expert_layer_offset", 2}}),
     "2,5; E16 F24; K2 softmax narrow; silu"},
    {"jetmoe", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax narrow; silu output bias"},
    {"kimi_k2", routed(), "3,4,5; E16 F24; K2 sigmoid +bias groups 4/8 best 2 /sum+1e-20 *2.5; silu; shared 24"},
    {"kimi_linear", sizes("num_experts", "num_experts_per_token", "moe_intermediate_size"),
     "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20 *2.446; silu; shared 24"},
    {"kolibri1", sizes("num_local_experts", "num_experts_per_tok", "moe_intermediate_size", shared20()),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-sigmoid +bias; silu; shared 20"},
    {"laguna", num(shared20()), "1,2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum; silu; shared 20"},
    {"laguna",
     num({{"shared_expert_intermediate_size", 20},
          {"moe_router_logit_softcapping", 30},
          {"moe_routed_scaling_factor", 2.5},
          {"moe_apply_router_weight_on_input", true}}),
     "1,2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum *2.5 cap30; silu; shared 20; REFUSED "
     "moe_apply_router_weight_on_input "
     "is true, supported: false"},
    {"lfm2_moe", num(), "2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum+1e-06; silu"},
    {"lfm2_moe", num({{"use_expert_bias", false}, {"num_dense_layers", 4}}),
     "4,5; E16 F24; K2 sigmoid narrow /sum+1e-06; silu"},
    {"llama4_text", local(), "0,1,2,3,4,5; E16 F24; K2 logit chosen-sigmoid narrow; silu weight on input; shared 24"},
    {"llama4_text", local({{"interleave_moe_layer_step", 2}}),
     "1,3,5; E16 F24; K2 logit chosen-sigmoid narrow; silu weight on input; shared 24"},
    {"llama4_text", local({{"interleave_moe_layer_step", 2}, {"moe_layers", {0, 4}}}),
     "0,4; E16 F24; K2 logit chosen-sigmoid narrow; silu weight on input; shared 24"},
    {"longcat_flash",
     {{"num_layers", 3},
      {"hidden_size", 64},
      {"n_routed_experts", 16},
      {"moe_topk", 2},
      {"expert_ffn_hidden_size", 24},
      {"zero_expert_num", 4}},
     "0,1,2; E16 identity 4 F24; K2 softmax +bias *6; silu"},
    {"mellum", sizes("num_local_experts", "num_experts_per_tok", "moe_intermediate_size"),
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu"},
    {"mimo_v2_flash", routed(), "1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu"},
    {"minimax", local(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu"},
    {"minimax_m2", local(), "0,1,2,3,4,5; E16 F24; K2 sigmoid narrow +bias /sum; silu"},
    {"minimax_m3_vl_text", local({{"moe_layer_freq", {0, 0, 1, 1, 0, 1}}, {"hidden_act", "swigluoai"}}),
     "2,3,5; E16 F24; K2 sigmoid narrow +bias /sum *2; swiglu_oai L7 a1.702; shared 3072"},
    {"mistral4", routed(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum+1e-20; silu; shared 24"},
    {"mistral4", routed({{"n_group", 4}, {"topk_group", 2}}),
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow groups 2/4 best 2 zero /sum+1e-20; silu; shared 24"},
    {"mistral_large4_text", routed(), "1,2,3,4,5; E16 F24; K2 softmax /sum+1e-20; silu; shared 24"},
    {"mixtral", local(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu"},
    {"nemotron_h", routed({{"hybrid_override_pattern", "ME*-EMEM"}, {"moe_shared_expert_intermediate_size", 40}}),
     "1,4,6; E16 F24; K2 sigmoid +bias /sum+1e-20; relu_squared ungated; shared 40"},
    {"nemotron_h",
     routed({{"layers_block_type", {"mamba", "moe", "mlp"}},
             {"moe_shared_expert_intermediate_size", 40},
             {"moe_latent_size", 32},
             {"mlp_bias", true},
             {"mlp_hidden_act", "silu"}}),
     "1; E16 F24 latent 32; K2 sigmoid +bias /sum+1e-20; silu ungated biases; shared 40"},
    {"olmoe", sizes("num_experts", "num_experts_per_tok", "intermediate_size"),
     "0,1,2,3,4,5; E16 F24; K2 softmax narrow; silu"},
    {"openai_privacy_filter", local(),
     "0,1,2,3,4,5; E16 F24; K2 logit chosen-softmax +logit-bias; swiglu_oai L7 a1.702"},
    {"phimoe", local({{"num_experts_per_tok", 4}, {"router_jitter_noise", 0.02}}),
     "0,1,2,3,4,5; E16 F24; K2 sparsemixer narrow jitter0.02; silu"},
    {"qwen2_moe", num(shared20()), "0,1,2,3,4,5; E16 F24; K2 softmax narrow; silu; shared 20 gated"},
    {"qwen3_5_moe_text", num(shared20()), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu; shared 20 gated"},
    {"qwen3_moe", num(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow; silu"},
    {"qwen3_next", num(shared20()), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu; shared 20 gated"},
    {"qwen3_omni_moe_talker_text", num(shared20()), "0,1,2,3,4,5; E16 F24; K2 softmax narrow; silu; shared 20 gated"},
    {"qwen3_omni_moe_text", num(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu"},
    {"qwen3_vl_moe_text", num(), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu"},
    {"qwen4_exp_text", num(shared20()), "0,1,2,3,4,5; E16 F24; K2 softmax narrow /sum; silu; shared 20 gated"},
    {"solar_open", routed(), "0,1,2,3,4,5; E16 F24; K2 sigmoid +bias /sum+1e-20; silu; shared 24"},
    {"step3p5", routed(), "3,4,5; E16 F24; K2 sigmoid narrow +bias /sum; silu; shared 1280"},
    {"step3p5",
     routed({{"moe_layers_enum", "1,4, 5"},
             {"share_expert_dim", 30},
             {"moe_router_scaling_factor", 3},
             {"swiglu_limits", {0, 0, 0, 0, 0, 7, 1}},
             {"swiglu_limits_shared", {0, 0, 0, 0, 0, 16}}}),
     "1,4,5; E16 F24; K2 sigmoid narrow +bias /sum *3; silu_limited L7; shared 30 silu_limited L16"},
    {"unlimited_ocr_text", routed(), "1,2,3,4,5; E16 F24; K2 softmax; silu; shared 48"},
};

std::string described(const char* model_type, json keys) {
  keys["model_type"] = model_type;
  return describe(read_model_config(keys.dump(), "dir/config.json"));
}

TEST(Families, EveryModelTypeWithItsDefaults) {
  for (const Row& row : kRows) EXPECT_EQ(described(row.model_type, row.keys), row.expected) << row.model_type;
}

bool is_refused(const char* model_type) { return find_family(model_type)->refused != nullptr; }

TEST(Families, NoModelTypeIsLeftOut) {
  std::set<std::string> described_types;
  for (const Row& row : kRows) described_types.insert(row.model_type);
  for (const Family& family : families()) {
    for (const char* type : family.model_types) {
      EXPECT_TRUE(type == nullptr || is_refused(type) || described_types.contains(type)) << type;
    }
  }
}

TEST(Families, RefusedOnesAreKnownAndSayWhy) {
  for (const char* type :
       {"diffusion_gemma_text", "doge", "dots3_note_vision_encoder", "ernie4_5_vl_moe_text", "gemma4_text",
        "inkling_text", "muse_spark_text", "nllb-moe", "switch_transformers", "vitpose_backbone", "zaya"}) {
    const ModelConfig config = read_model_config(json{{"model_type", type}}.dump(), "f");
    ASSERT_EQ(config.unsupported.size(), 1u) << type;
    EXPECT_EQ(config.unsupported[0], fmt::format("a block of {}: {}", type, find_family(type)->refused));
    EXPECT_TRUE(config.moe_layers.empty());
  }
}

TEST(Families, KnownModelTypesAreSortedAndThere) {
  const auto types = known_model_types();
  EXPECT_TRUE(std::is_sorted(types.begin(), types.end()));
  EXPECT_EQ(std::set<std::string>(types.begin(), types.end()).size(), types.size());
  for (const char* type : {"mixtral", "gpt_oss", "llama4", "llama4_text", "zaya", "qwen3_omni_moe"}) {
    EXPECT_TRUE(std::binary_search(types.begin(), types.end(), type)) << type;
  }
}

// ---- models around a text model

TEST(Families, EveryWrapperReadsItsTextModel) {
  for (const Wrapper& wrapper : wrappers()) {
    SCOPED_TRACE(wrapper.model_type);
    if (wrapper.text_type == nullptr) continue;
    const Family* family = find_family(wrapper.text_type);
    ASSERT_NE(family, nullptr);
    json config = {{"model_type", wrapper.model_type}, {"num_hidden_layers", 99}};
    const auto row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& candidate) {
      return std::string_view(candidate.model_type) == wrapper.text_type;
    });
    ASSERT_TRUE(family->refused != nullptr || row != std::end(kRows));
    json text = family->refused != nullptr ? json::object() : row->keys;
    std::string object = wrapper.objects[0];
    if (const auto point = object.find('.'); point != object.npos) {
      text = {{object.substr(point + 1), text}};
      object.resize(point);
    }
    config[object] = text;
    const ModelConfig read = read_model_config(config.dump(), "f");
    EXPECT_EQ(read.family, family);
    EXPECT_EQ(read.model_type, wrapper.model_type);
    if (family->refused != nullptr) continue;
    EXPECT_EQ(describe(read), row->expected);
  }
}

TEST(Families, TheTextModelsOwnTypeDecides) {
  json text = local();
  text["model_type"] = "mixtral";
  EXPECT_STREQ(read_model_config(json{{"model_type", "mistral3"}, {"text_config", text}}.dump(), "f").family->name,
               "mixtral");
  text["model_type"] = "mistral";
  expect_error(Code::not_supported, {"config: f: text_config.model_type is mistral, expected one of"}, [&] {
    read_model_config(json{{"model_type", "mistral3"}, {"text_config", text}}.dump(), "f");
  });
  expect_error(Code::not_supported, {"config: f: text_config.model_type is absent"},
               [] { read_model_config(R"({"model_type":"mistral3"})", "f"); });
}

TEST(Families, TheOtherNameOfTheTextObject) {
  const json config = {{"model_type", "unlimited_ocr"}, {"language_config", routed()}};
  EXPECT_EQ(read_model_config(config.dump(), "f").moe_layers.size(), 5u);
}

// ---- per layer

TEST(Families, LimitsPerLayer) {
  json keys = routed({{"swiglu_limits", {0, 0, 0, nullptr, 7, 0}}, {"swiglu_limits_shared", {0, 0, 0, 5, 0, 0}}});
  keys["model_type"] = "step3p5";
  const ModelConfig config = read_model_config(keys.dump(), "f");
  EXPECT_EQ(config.function(3), ExpertFunction{});
  EXPECT_EQ(config.function(4), (ExpertFunction{.activation = Activation::silu_limited, .limit = 7}));
  EXPECT_EQ(config.shared_function(3), (ExpertFunction{.activation = Activation::silu_limited, .limit = 5}));
  EXPECT_EQ(config.shared_function(4), ExpertFunction{});
}

// ---- a row that forgets a name would fail only with the first checkpoint that needs it

TEST(FamilyTable, EveryRowIsComplete) {
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    EXPECT_NE(family.model_types[0], nullptr);
    if (family.refused != nullptr) continue;
    for (const Keys& keys : {family.layers, family.experts, family.topk, family.hidden, family.ffn}) {
      EXPECT_NE(keys[0], nullptr);
    }
    EXPECT_NE(family.places[0].experts, nullptr);
    for (const Place& place : family.places) {
      if (place.experts == nullptr) continue;
      EXPECT_TRUE(place.block && place.router && place.experts->label && place.experts->down);
      EXPECT_EQ(place.experts->gate != nullptr, family.function.gated);
      if (family.shared.has) {
        ASSERT_NE(place.shared, nullptr);
        EXPECT_EQ(place.shared->gate != nullptr, family.function.gated);
        EXPECT_EQ(place.shared->storage, Storage::single);
      }
    }
  }
}

}  // namespace
