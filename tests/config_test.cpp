#include "checkpoint/config.hpp"

#include <algorithm>

#include "checkpoint/model_config.hpp"
#include "checkpoint_files.hpp"
#include "switchyard/model.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;
using nlohmann::json;

// What every family's config.json has; the family's own keys are merged into it.
json config_of(const char* model_type, const json& more) {
  json config = {{"model_type", model_type},  {"num_hidden_layers", 4}, {"num_experts_per_tok", 2},
                 {"hidden_size", 32},         {"hidden_act", "silu"},   {"vocab_size", 100},
                 {"initializer_range", 0.02}, {"pad_token_id", nullptr}};
  config.update(more);
  return config;
}
json qwen3(const json& more = json::object()) {
  json config = config_of("qwen3_moe", {{"num_experts", 8}, {"moe_intermediate_size", 16}});
  config.update(more);
  return config;
}
ModelConfig read(const json& config) { return read_model_config(config.dump(), "dir/config.json"); }

void expect_refused(const json& config, std::initializer_list<std::string_view> parts) {
  expect_error(Code::bad_data, parts, [&] { read(config); });
  expect_error(Code::bad_data, {"config: dir/config.json: "}, [&] { read(config); });
}

using Layers = std::vector<std::int32_t>;

// ---- routers

TEST(Router, Qwen3TakesEitherNameOfTheExpertCount) {
  EXPECT_EQ(read(qwen3()).experts, 8);
  json config = qwen3({{"num_local_experts", 8}});
  EXPECT_EQ(read(config).experts, 8);
  config.erase("num_experts");
  EXPECT_EQ(read(config).experts, 8);
}

json deepseek_v3(const json& changes = json::object()) {
  json config =
      config_of("deepseek_v3", {{"n_routed_experts", 16}, {"moe_intermediate_size", 16}, {"n_shared_experts", 2}});
  config.update(changes);
  return config;
}

TEST(Router, OneGroupIsNoLimit) {
  const RouterOptions router = read(deepseek_v3({{"n_group", 1}, {"topk_group", 1}})).router;
  EXPECT_EQ(router.groups, 0);
  EXPECT_EQ(router.kept_groups, 0);
}

TEST(Router, DeepSeekV2HasGroupsOnlyWhereItsMethodAsks) {
  json config = config_of("deepseek_v2", {{"n_routed_experts", 16},
                                          {"moe_intermediate_size", 16},
                                          {"n_shared_experts", 2},
                                          {"n_group", 4},
                                          {"topk_group", 2},
                                          {"routed_scaling_factor", 16}});
  EXPECT_EQ(read(config).router.groups, 0);
  EXPECT_EQ(read(config).router.scale, 16.0F);
  EXPECT_EQ(read(config).router.normalize, Normalize::none);
  config["topk_method"] = "group_limited_greedy";
  EXPECT_EQ(read(config).router.groups, 4);
  EXPECT_EQ(read(config).router.group_best, 1);
  EXPECT_TRUE(read(config).router.masked_zero);
  config["topk_method"] = "lottery";
  expect_refused(config, {"topk_method is lottery", "expected greedy or group_limited_greedy"});
}

TEST(Router, GroupsThatCannotBeAreRefused) {
  expect_refused(deepseek_v3({{"n_group", 5}}), {"n_group is 5", "a divisor of 16 experts"});
  expect_refused(deepseek_v3({{"n_group", 4}, {"topk_group", 5}}), {"topk_group is 5"});
  expect_refused(deepseek_v3({{"n_group", 16}, {"topk_group", 16}}), {"n_group is 16", "groups of 2 experts or more"});
  expect_refused(deepseek_v3({{"routed_scaling_factor", "big"}}), {"routed_scaling_factor is", "a number"});
  expect_refused(deepseek_v3({{"routed_scaling_factor", 1e300}}), {"routed_scaling_factor is", "a number"});
}

TEST(Router, NormalisationWithoutTheKeyIsThatOfTransformers) {
  EXPECT_EQ(read(qwen3()).router.normalize, Normalize::none);
  EXPECT_EQ(read(qwen3({{"norm_topk_prob", nullptr}})).router.normalize, Normalize::none);
  EXPECT_EQ(read(config_of("olmoe", {{"num_experts", 8}, {"intermediate_size", 16}})).router.normalize,
            Normalize::none);
}

TEST(Router, NormalisationWithTheKey) {
  EXPECT_EQ(read(qwen3({{"norm_topk_prob", true}})).router.normalize, Normalize::sum);
  EXPECT_EQ(read(qwen3({{"norm_topk_prob", false}})).router.normalize, Normalize::none);
}

TEST(Router, Qwen3VlReadsItsTextConfig) {
  const json text =
      config_of("qwen3_vl_moe_text", {{"num_experts", 8}, {"moe_intermediate_size", 16}, {"norm_topk_prob", false}});
  const ModelConfig nested = read({{"model_type", "qwen3_vl_moe"}, {"text_config", text}, {"hidden_size", 999}});
  EXPECT_EQ(nested.model_type, "qwen3_vl_moe");
  EXPECT_EQ(nested.hidden, 32);
  EXPECT_EQ(nested.router.normalize, Normalize::sum);
  const ModelConfig alone = read(text);
  EXPECT_EQ(alone.model_type, "qwen3_vl_moe_text");
  EXPECT_STREQ(alone.family->name, "qwen3_vl_moe");
  EXPECT_EQ(alone.experts, 8);
}

TEST(Router, KeysOfANestedObjectAreNamedInFull) {
  expect_refused({{"model_type", "qwen3_vl_moe"}, {"text_config", {{"num_hidden_layers", "two"}}}},
                 {"text_config.num_hidden_layers is \"two\", expected an integer"});
  expect_refused({{"model_type", "qwen3_vl_moe"}, {"text_config", 3}}, {"text_config is 3, expected an object"});
}

TEST(Router, UnknownModelTypeListsTheKnownOnes) {
  expect_error(Code::not_supported,
               {"config: dir/config.json: model_type is llama", "expected one of afmoe, aria, aria_text, axk1, ",
                "qwen2_moe, qwen3_5_moe, ", ", zaya"},
               [] { read(config_of("llama", json::object())); });
}

TEST(Router, NamesThatAreNotKnown) {
  const json v4 = config_of("deepseek_v4", {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}});
  const auto changed = [&](json config, const char* key, const json& value) {
    config[key] = value;
    return config;
  };
  expect_refused(changed(v4, "scoring_func", "lottery"),
                 {"scoring_func is lottery, expected one of softmax, sigmoid, sqrtsoftplus"});
  const json cohere =
      config_of("cohere2_moe", {{"num_experts", 8}, {"intermediate_size", 16}, {"num_shared_experts", 1}});
  expect_refused(changed(cohere, "expert_selection_fn", "max"),
                 {"expert_selection_fn is max, expected one of softmax"});
  expect_refused(changed(cohere, "shared_expert_combination_strategy", "product"), {"expected one of sum, average"});
}

TEST(Router, NumbersOutOfRange) {
  const json v4 = config_of("deepseek_v4", {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}});
  json config = v4;
  config["swiglu_limit"] = 0;
  expect_refused(config, {"swiglu_limit is 0, expected more than 0"});
  config = config_of("ernie4_5_moe", {{"moe_num_experts", 8}, {"moe_intermediate_size", 16}, {"moe_norm_min", -1}});
  expect_refused(config, {"moe_norm_min is -1, expected 0 or more"});
  config = config_of("dbrx", {{"n_layers", 2}, {"d_model", 32}});
  config["ffn_config"] = {{"moe_num_experts", 8}, {"moe_top_k", 9}, {"ffn_hidden_size", 16}};
  expect_refused(config, {"ffn_config.moe_top_k is 9, expected an integer 1..8"});
  config["ffn_config"] = {
      {"moe_num_experts", 8}, {"moe_top_k", 2}, {"ffn_hidden_size", 16}, {"moe_normalize_expert_weights", 0}};
  expect_refused(config, {"ffn_config.moe_normalize_expert_weights is 0, expected more than 0"});
  config = config_of("qwen2_moe", {{"num_experts", 8}, {"moe_intermediate_size", 16}});
  config["shared_expert_intermediate_size"] = -1;
  expect_refused(config, {"shared_expert_intermediate_size is -1, expected an integer 0.."});
  expect_refused(deepseek_v3({{"n_shared_experts", 65536}, {"moe_intermediate_size", 65536}}),
                 {"n_shared_experts is 65536, expected a shared expert narrower than 2^31"});
}

TEST(Router, ListsOfChosenExpertsHaveOneNumber) {
  json config = config_of("hunyuan_v1_moe", {{"num_experts", 8}, {"intermediate_size", 16}, {"moe_topk", {2, 2, 3}}});
  config.erase("num_experts_per_tok");
  expect_refused(config, {"moe_topk is a list with 2 and 3, expected one value"});
  config["moe_topk"] = json::array();
  expect_refused(config, {"moe_topk is an empty list, expected an integer 1..8"});
  config["moe_topk"] = {9, 9};
  expect_refused(config, {"moe_topk is an array with 9"});
}

TEST(Router, IdentityExpertsCanBeChosenToo) {
  json config = config_of("longcat_flash", {{"num_layers", 2},
                                            {"n_routed_experts", 2},
                                            {"zero_expert_num", 2},
                                            {"moe_topk", 4},
                                            {"num_experts_per_tok", nullptr},
                                            {"expert_ffn_hidden_size", 16}});
  EXPECT_EQ(read(config).router.topk, 4);
  config["moe_topk"] = 5;
  expect_refused(config, {"moe_topk is 5, expected an integer 1..4"});
  config["zero_expert_num"] = 65535;
  expect_refused(config, {"zero_expert_num is 65535, expected an integer 0..65534"});
}

// ---- schedule of MoE layers

TEST(Schedule, EveryLayerWithoutKeys) { EXPECT_EQ(read(qwen3()).moe_layers, (Layers{0, 1, 2, 3})); }

TEST(Schedule, SparseStep) {
  EXPECT_EQ(read(qwen3({{"decoder_sparse_step", 2}})).moe_layers, (Layers{1, 3}));
  EXPECT_EQ(read(qwen3({{"decoder_sparse_step", 5}})).moe_layers, Layers{});
}

TEST(Schedule, MlpOnlyLayers) {
  EXPECT_EQ(read(qwen3({{"mlp_only_layers", {2, 0, 77, -1}}})).moe_layers, (Layers{1, 3}));
  EXPECT_EQ(read(qwen3({{"mlp_only_layers", {3}}, {"decoder_sparse_step", 2}})).moe_layers, (Layers{1}));
}

TEST(Schedule, OtherFamiliesDoNotReadThoseKeys) {
  const ModelConfig config =
      read(config_of("mixtral", {{"num_local_experts", 8}, {"intermediate_size", 16}, {"decoder_sparse_step", 2}}));
  EXPECT_EQ(config.moe_layers, (Layers{0, 1, 2, 3}));
}

TEST(Schedule, ListedLayers) {
  EXPECT_EQ(read(qwen3({{"mlp_layer_types", {"dense", "sparse", "moe", "dense"}}})).moe_layers, (Layers{1, 2}));
}

TEST(Schedule, ListOfTheWrongLength) {
  expect_refused(qwen3({{"mlp_layer_types", {"dense", "sparse"}}}),
                 {"mlp_layer_types is an array of 2 values, expected 4, one per layer"});
}

TEST(Schedule, WhatFollowsTheLastLayerIsNotRead) {
  EXPECT_EQ(read(qwen3({{"mlp_layer_types", {"dense", "sparse", "moe", "dense", "sparse"}}})).moe_layers,
            (Layers{1, 2}));
}

TEST(Schedule, ListsOfLayersAsText) {
  json config = config_of("step3p5", {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}, {"share_expert_dim", 8}});
  config["moe_layers_enum"] = "3,1,7";
  EXPECT_EQ(read(config).moe_layers, (Layers{1, 3}));
  config["moe_layers_enum"] = json::array({2});
  EXPECT_EQ(read(config).moe_layers, (Layers{2}));
  for (const char* text : {"1;2", "one", "99999999999999999999"}) {
    config["moe_layers_enum"] = text;
    expect_refused(config, {"moe_layers_enum is ", text, "expected numbers with commas between them"});
  }
  config["moe_layers_enum"] = 3;
  expect_refused(config, {"moe_layers_enum is 3, expected an array"});
}

TEST(Schedule, FlagsPerLayer) {
  json config = config_of("minimax_m3_vl_text", {{"num_local_experts", 8}, {"intermediate_size", 16}});
  config["moe_layer_freq"] = {0, 1, 1};
  expect_refused(config, {"moe_layer_freq is an array of 3 values, expected 4, one per layer"});
  config["moe_layer_freq"] = {0, 1, 1, 2};
  expect_refused(config, {"moe_layer_freq is an array with 2, expected an array, each an integer 0..1"});
}

TEST(Schedule, LimitsPerLayer) {
  json config = config_of("step3p5", {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}, {"share_expert_dim", 8}});
  config["swiglu_limits"] = {1, 2};
  expect_refused(config, {"swiglu_limits is an array of 2 values, expected 4, one per layer"});
  config["swiglu_limits"] = {1, 2, -3, 4};
  expect_refused(config, {"swiglu_limits is an array with -3, expected an array of numbers from 0"});
  config["swiglu_limits"] = {1, "2", 3, 4};
  expect_refused(config, {"swiglu_limits is an array with \"2\""});
}

TEST(Schedule, APatternSaysTheNumberOfLayers) {
  json config =
      config_of("nemotron_h",
                {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}, {"moe_shared_expert_intermediate_size", 8}});
  expect_refused(config, {"hybrid_override_pattern is absent, expected a string"});
  config["hybrid_override_pattern"] = "MEM*E-";
  EXPECT_EQ(read(config).layers, 6);
  EXPECT_EQ(read(config).moe_layers, (Layers{1, 4}));
  config["hybrid_override_pattern"] = "";
  expect_refused(config, {"layers_block_type is an array of 0 values"});
}

TEST(Schedule, ListWithAnUnknownKind) {
  expect_refused(qwen3({{"mlp_layer_types", {"dense", "sparse", "hash_moe", "dense"}}}),
                 {"mlp_layer_types is hash_moe for layer 2, expected sparse, moe or dense"});
}

TEST(Schedule, ListOfNumbers) {
  expect_refused(qwen3({{"mlp_layer_types", {0, 1, 1, 0}}}),
                 {"mlp_layer_types is an array with 0, expected an array of strings"});
}

TEST(Schedule, StepOfZero) {
  expect_refused(qwen3({{"decoder_sparse_step", 0}}), {"decoder_sparse_step is 0, expected an integer 1.."});
}

TEST(Schedule, MlpOnlyLayersThatAreNoIntegers) {
  expect_refused(qwen3({{"mlp_only_layers", {0.5}}}), {"mlp_only_layers is an array with 0.5, expected an array"});
  expect_refused(qwen3({{"mlp_only_layers", 1}}), {"mlp_only_layers is 1, expected an array"});
}

// ---- values out of range or of the wrong type

TEST(ConfigErrors, NoModelType) { expect_refused({{"a", 1}}, {"model_type is absent, expected a string"}); }
TEST(ConfigErrors, ModelTypeIsANumber) { expect_refused({{"model_type", 1}}, {"model_type is 1, expected a string"}); }

TEST(ConfigErrors, MissingKeyNamesAllSynonyms) {
  json config = qwen3();
  config.erase("num_experts");
  expect_refused(config, {"num_experts or num_local_experts is absent, expected an integer 1..65536"});
}

TEST(ConfigErrors, SynonymsThatDisagree) {
  expect_refused(qwen3({{"num_local_experts", 16}}), {"num_local_experts is 16, expected 8 as in num_experts"});
}

TEST(ConfigErrors, ExpertsOutOfRange) {
  for (const auto& value : {json(0), json(-1), json(65537), json(8.0), json("8"), json(true), json(1e300),
                            json(18446744073709551615u), json::array({8})}) {
    expect_refused(qwen3({{"num_experts", value}}), {"num_experts is ", "expected an integer 1..65536"});
  }
  EXPECT_EQ(read(qwen3({{"num_experts", 65536}})).experts, 65536);
}

TEST(ConfigErrors, TopkOutOfRange) {
  expect_refused(qwen3({{"num_experts_per_tok", 0}}), {"num_experts_per_tok is 0, expected an integer 1..8"});
  expect_refused(qwen3({{"num_experts_per_tok", 9}}), {"num_experts_per_tok is 9, expected an integer 1..8"});
  expect_refused(qwen3({{"num_experts", 128}, {"num_experts_per_tok", 65}}), {"expected an integer 1..64"});
  EXPECT_EQ(read(qwen3({{"num_experts_per_tok", 8}})).router.topk, 8);
}

TEST(ConfigErrors, SizesOutOfRange) {
  for (const char* key : {"hidden_size", "moe_intermediate_size"}) {
    for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-5}, std::int64_t{1} << 31}) {
      expect_refused(qwen3({{key, value}}), {key, "expected an integer 1..2147483647"});
    }
    EXPECT_NO_THROW(read(qwen3({{key, 2147483647}})));
  }
}

TEST(ConfigErrors, LayersOutOfRange) {
  expect_refused(qwen3({{"num_hidden_layers", 0}}), {"num_hidden_layers is 0"});
  expect_refused(qwen3({{"num_hidden_layers", 1'000'000'000}}), {"num_hidden_layers is 1000000000"});
}

TEST(ConfigErrors, FlagThatIsNoFlag) {
  expect_refused(qwen3({{"norm_topk_prob", 1}}), {"norm_topk_prob is 1, expected true or false"});
}

TEST(ConfigErrors, LongValuesAreCut) {
  try {
    read(qwen3({{"num_experts", std::string(100'000, 'x')}}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_LT(std::strlen(error.what()), 400u);
  }
}

TEST(ConfigErrors, Text) {
  const auto read_text = [](std::string_view text) { read_model_config(text, "dir/config.json"); };
  expect_error(Code::bad_data, {"config: dir/config.json: the text is not valid JSON"}, [&] { read_text("{"); });
  expect_error(Code::bad_data, {"the text is not valid JSON"}, [&] { read_text(""); });
  expect_error(Code::bad_data, {"the text is [], expected an object"}, [&] { read_text("[]"); });
  expect_error(Code::bad_data, {"names model_type twice"},
               [&] { read_text(R"({"model_type":"mixtral","model_type":"olmoe"})"); });
  expect_error(Code::bad_data, {"nested deeper than 64"}, [&] { read_text(std::string(100'000, '[')); });
}

// ---- understood, but not run

TEST(Unsupported, OtherActivation) {
  const ModelConfig config = read(qwen3({{"hidden_act", "mish"}}));
  ASSERT_EQ(config.unsupported.size(), 1u);
  EXPECT_EQ(config.unsupported[0],
            "hidden_act is mish, supported: silu, swish, gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, "
            "gelu_python_tanh, relu, relu2");
  EXPECT_TRUE(read(qwen3({{"hidden_act", "swish"}})).unsupported.empty());
}

TEST(Unsupported, ALimitedFunctionOfAnythingButSilu) {
  const json config =
      config_of("deepseek_v4", {{"n_routed_experts", 8}, {"moe_intermediate_size", 16}, {"hidden_act", "gelu"}});
  EXPECT_EQ(read(config).unsupported, std::vector<std::string>{"hidden_act is gelu, supported: silu"});
}

TEST(Quantized, MethodsThatAreRead) {
  for (const char* method : {"fp8", "compressed-tensors", "mxfp4", "mxfp8", "modelopt"}) {
    const ModelConfig config = read(qwen3({{"quantization_config", {{"quant_method", method}}}}));
    EXPECT_EQ(config.quantization.method, method);
    EXPECT_TRUE(config.unsupported.empty());
    EXPECT_EQ(config.quantization.block, (std::array<std::int64_t, 2>{128, 128}));
  }
  EXPECT_TRUE(read(qwen3({{"quantization_config", nullptr}})).quantization.method.empty());
}

TEST(Quantized, MethodsThatAreNot) {
  const ModelConfig config = read(qwen3({{"quantization_config", {{"quant_method", "awq"}}}}));
  ASSERT_EQ(config.unsupported.size(), 1u);
  EXPECT_EQ(config.unsupported[0],
            "the weights are quantised (awq), supported: fp8, fbgemm_fp8, compressed-tensors, gptq, mxfp4, mxfp8, "
            "modelopt, modelopt_fp4, modelopt_mixed, nvfp4");
}

TEST(Quantized, InTheNestedObject) {
  json text = config_of("qwen3_vl_moe_text", {{"num_experts", 8}, {"moe_intermediate_size", 16}});
  text["quantization_config"] = {{"bits", 4}};
  const ModelConfig config = read({{"model_type", "qwen3_vl_moe"}, {"text_config", text}});
  ASSERT_EQ(config.unsupported.size(), 1u);
  EXPECT_EQ(config.unsupported[0].find("the weights are quantised (of an unnamed method)"), 0u);
}

TEST(Quantized, ModelOptWithoutAMethod) {
  EXPECT_EQ(read(qwen3({{"quantization_config", {{"quant_algo", "NVFP4"}}}})).quantization.method, "modelopt");
}

TEST(Quantized, Blocks) {
  const json fp8 = {{"quant_method", "fp8"}, {"weight_block_size", {64, 32}}};
  EXPECT_EQ(read(qwen3({{"quantization_config", fp8}})).quantization.block, (std::array<std::int64_t, 2>{64, 32}));
  for (const json& block : {json::array({128}), json::array({3, 128}), json::array({128, 128, 1})}) {
    const json wrong = {{"quant_method", "fp8"}, {"weight_block_size", block}};
    expect_error(Code::bad_data, {"quantization_config.weight_block_size", "two sizes, the first of them even or 1"},
                 [&] {
                   read(qwen3({{"quantization_config", wrong}}));
                 });
  }
}

TEST(Quantized, CompressedTensors) {
  const json group = [](std::int64_t size) { return json{{"weights", {{"group_size", size}}}}; }(64);
  json config = {{"quant_method", "compressed-tensors"},
                 {"format", "pack-quantized"},
                 {"config_groups", {{"group_0", group}, {"group_1", {{"weights", {{"group_size", -1}}}}}}}};
  EXPECT_EQ(read(qwen3({{"quantization_config", config}})).quantization.groups, (std::vector<std::int64_t>{0, 64}));
  config["config_groups"] = {{"all", {{"weights", {{"block_structure", {32, 16}}, {"group_size", nullptr}}}}}};
  EXPECT_EQ(read(qwen3({{"quantization_config", config}})).quantization.block, (std::array<std::int64_t, 2>{32, 16}));
  config["format"] = "marlin-24";
  EXPECT_EQ(read(qwen3({{"quantization_config", config}})).unsupported.size(), 1u);
  config["format"] = "pack-quantized";
  config["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
  EXPECT_EQ(read(qwen3({{"quantization_config", config}})).unsupported[0],
            "the weights are stored sparse-24-bitmask, supported: dense");
}

TEST(Quantized, Gptq) {
  const auto gptq = [](const json& more) {
    json config = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
    config.update(more);
    return read(qwen3({{"quantization_config", config}}));
  };
  EXPECT_EQ(gptq(json::object()).quantization.zero_offset, 1);
  EXPECT_EQ(gptq({{"checkpoint_format", "gptq_v2"}}).quantization.zero_offset, 0);
  EXPECT_EQ(gptq({{"bits", 3}}).unsupported, std::vector<std::string>{"the GPTQ weights have 3 bits, supported: 4, 8"});
  EXPECT_EQ(gptq({{"checkpoint_format", "marlin"}}).unsupported,
            std::vector<std::string>{"the GPTQ weights are packed as marlin, supported: gptq, gptq_v2"});
  EXPECT_EQ(gptq({{"bits", 8}, {"sym", false}}).unsupported.size(), 1u);
  EXPECT_TRUE(gptq({{"bits", 8}}).unsupported.empty());
}

}  // namespace
