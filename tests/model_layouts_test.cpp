// One set of weights gives the same bits from every layout.
#include "checkpoints.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

void expect_same_output(const Model& model, std::string_view layout) {
  EXPECT_EQ(model.info().layout, layout);
  EXPECT_TRUE(model.info().unsupported.empty());
  const Model reference = qwen3().open();
  for (int layer = 0; layer < kLayers; ++layer) EXPECT_EQ(forward(model, layer), forward(reference, layer));
  EXPECT_NE(forward(model, 0), forward(model, 1));
}

TEST(ModelLayouts, Qwen3PerExpertInHalfPrecision) {
  expect_same_output(qwen3(DType::bf16).open(), "per expert, gate_proj/up_proj/down_proj [out,in]");
  expect_same_output(qwen3(DType::f16).open(), "per expert, gate_proj/up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, Qwen3Fused) {
  expect_same_output(fused(kQwen3Config, {}).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, Qwen3WithoutModelPrefix) {
  expect_same_output(fused(kQwen3Config, {.prefix = "layers."}).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, MixtralPerExpert) { expect_same_output(mixtral().open(), "per expert, w1/w3/w2 [out,in]"); }

TEST(ModelLayouts, MixtralFused) {
  expect_same_output(fused(kMixtralConfig, {}).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, OlmoePerExpert) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config = kOlmoeConfig;
  expect_same_output(checkpoint.open(), "per expert, gate_proj/up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, OlmoeFused) {
  expect_same_output(fused(kOlmoeConfig, {}).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, GraniteAsPublished) {
  const FusedNames names = {.router = "block_sparse_moe.router.layer.weight",
                            .gate_up = "block_sparse_moe.input_linear.weight",
                            .down = "block_sparse_moe.output_linear.weight"};
  expect_same_output(fused(kGraniteConfig, names).open(), "fused, input_linear/output_linear [out,in]");
}

TEST(ModelLayouts, GraniteSavedAgain) {
  const FusedNames names = {.router = "block_sparse_moe.router.weight",
                            .gate_up = "block_sparse_moe.experts.gate_up_proj",
                            .down = "block_sparse_moe.experts.down_proj"};
  expect_same_output(fused(kGraniteConfig, names).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, Qwen3VlAsPublished) {
  const FusedNames names = {.prefix = "model.language_model.layers.", .in_out = true};
  expect_same_output(fused(kVlConfig, names).open(), "fused, gate_up_proj/down_proj [in,out]");
}

TEST(ModelLayouts, Qwen3VlSavedAgain) {
  const FusedNames names = {.prefix = "model.language_model.layers."};
  expect_same_output(fused(kVlConfig, names).open(), "fused, gate_up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, Qwen3VlUnderOtherPrefixes) {
  for (const char* prefix : {"language_model.model.layers.", "model.layers.", "layers."}) {
    const FusedNames names = {.prefix = prefix, .in_out = true};
    expect_same_output(fused(kVlText, names).open(), "fused, gate_up_proj/down_proj [in,out]");
  }
}

TEST(ModelLayouts, Sharded) {
  const TempFolder folder;
  const Checkpoint checkpoint = qwen3();
  write_text(folder / "config.json", checkpoint.config.dump());
  // One tensor here, the next one there, so that one expert's matrices lie in different files.
  std::array<std::vector<Tensor>, 2> shards;
  json map = json::object();
  for (std::size_t i = 0; i < checkpoint.list.tensors().size(); ++i) {
    const Tensor& tensor = checkpoint.list.tensors()[i];
    shards[i % 2].push_back(tensor);
    map[tensor.name] = i % 2 == 0 ? "0.safetensors" : "1.safetensors";
  }
  write_safetensors(folder / "0.safetensors", shards[0]);
  write_safetensors(folder / "1.safetensors", shards[1]);
  write_text(folder / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  expect_same_output(Model::open(folder.path()), "per expert, gate_proj/up_proj/down_proj [out,in]");
}

TEST(ModelLayouts, SharedExpertChangesTheOutput) {
  Checkpoint plain = qwen3();
  plain.config["norm_topk_prob"] = false;
  EXPECT_NE(forward(qwen2().open(), 0), forward(plain.open(), 0));
  Checkpoint fused_experts;
  fused_experts.config = qwen2().config;
  for (int layer = 0; layer < kLayers; ++layer) {
    const Weights weights(static_cast<unsigned>(layer));
    const std::string prefix = layer_name(layer) + "mlp.";
    fused_experts.add(prefix + "gate.weight", weights.router);
    fused_experts.add_fused(prefix + "experts.gate_up_proj", prefix + "experts.down_proj", weights, false);
    fused_experts.add_shared(prefix, weights);
  }
  EXPECT_EQ(forward(qwen2().open(), 1), forward(fused_experts.open(), 1));
}

TEST(ModelLayouts, RouterMayHaveAnotherTypeThanTheExperts) {
  Checkpoint checkpoint = qwen3(DType::bf16);
  Checkpoint full = qwen3();
  for (const char* name : {"model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.weight"}) {
    checkpoint.tensor(name) = full.tensor(name);
  }
  expect_same_output(checkpoint.open(), "per expert, gate_proj/up_proj/down_proj [out,in]");
}

}  // namespace
