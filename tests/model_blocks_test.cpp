// Models of blocks with more than a router and experts: every tensor is needed, and read as it is stored.
#include <fmt/format.h>

#include <iterator>

#include "checkpoints.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

struct Folder {
  const char* name;
  const char* block;    // its tensors, and no others, are needed
  std::size_t tensors;  // so many
};

constexpr Folder kFolders[] = {
    {"gpt_oss", "model.layers.0.mlp.", 6},
    {"deepseek_v4", "layers.", 46},
    {"nemotron_h_latent", "backbone.layers.1.mixer.", 22},
    {"jetmoe", "model.layers.0.mlp.", 4},
    {"dbrx", "transformer.blocks.0.ffn.", 4},
    {"ernie4_5_moe", "model.layers.1.mlp.", 23},
    {"minimax_m3_vl", "language_model.model.layers.1.block_sparse_moe.", 29},
    {"longcat_flash", "model.layers.0.mlp.", 26},
};

TEST(ModelBlocks, EveryTensorIsNeeded) {
  for (const Folder& folder : kFolders) {
    const Checkpoint whole = golden(folder.name);
    std::size_t needed = 0;
    for (const Tensor& tensor : whole.list.tensors()) {
      SCOPED_TRACE(tensor.name);
      Checkpoint checkpoint = whole;
      checkpoint.remove(tensor.name);
      if (!tensor.name.starts_with(folder.block)) {
        EXPECT_NO_THROW(checkpoint.open());
        continue;
      }
      ++needed;
      expect_error(Code::bad_data, {"has no tensor " + tensor.name, "expected one of shape ["},
                   [&] { checkpoint.open(); });
    }
    EXPECT_EQ(needed, folder.tensors) << folder.name;
  }
}

TEST(ModelBlocks, EveryShapeIsChecked) {
  for (const Folder& folder : kFolders) {
    const Checkpoint whole = golden(folder.name);
    for (const Tensor& tensor : whole.list.tensors()) {
      if (!tensor.name.starts_with(folder.block)) continue;
      SCOPED_TRACE(tensor.name);
      Checkpoint checkpoint = whole;
      checkpoint.tensor(tensor.name).shape.push_back(1);
      expect_error(Code::bad_data, {"tensor " + tensor.name + " has shape [", "expected ["},
                   [&] { checkpoint.open(); });
    }
  }
}

void expect_unsupported(const Checkpoint& checkpoint, const std::string& reason) {
  const Model model = checkpoint.open();
  ASSERT_EQ(model.info().unsupported, std::vector<std::string>{reason});
  expect_error(Code::not_supported, {reason}, [&] { model.layer(0); });
}

TEST(ModelBlocks, ATableHasIds) {
  Checkpoint checkpoint = golden("deepseek_v4");
  checkpoint.tensor("layers.0.ffn.gate.tid2eid").dtype = DType::f64;
  expect_unsupported(checkpoint, "the table of experts is f64, supported: i16, i32, i64");
}

// ---- arrays of the router

std::vector<float> forward_golden(const Checkpoint& checkpoint, std::int32_t index) {
  const Layer layer = checkpoint.open().layer(index);
  std::mt19937 random(5);
  std::vector<float> x;
  for (std::int64_t i = 0; i < kTokens * layer.hidden(); ++i) x.push_back(static_cast<float>(random() % 200) / 100 - 1);
  std::vector<std::int64_t> tokens(kTokens);
  for (std::int64_t& token : tokens) token = static_cast<std::int64_t>(random() % 64);
  RouteInputs inputs;
  if (layer.router().table.data != nullptr) inputs.token_id = {tokens.data(), DType::i64};
  std::vector<float> y(x.size());
  const Workspace workspace(layer.workspace_bytes(kTokens));
  layer.forward({x.data(), kTokens, layer.hidden()}, {y.data(), kTokens, layer.hidden()}, workspace, inputs);
  return y;
}

// The same numbers in another type; they are multiples of 1/64 below 2, which all of the types hold.
void store_as(Checkpoint& checkpoint, const std::string& name, DType dtype) {
  const std::vector<std::int64_t> shape = checkpoint.tensor(name).shape;
  std::size_t elements = 1;
  for (const std::int64_t size : shape) elements *= static_cast<std::size_t>(size);
  std::vector<float> values;
  for (std::size_t i = 0; i < elements; ++i) values.push_back(static_cast<float>((i * 37) % 64) / 64.0F - 0.5F);
  checkpoint.remove(name);
  if (dtype == DType::f32) return checkpoint.list.add(name, shape, values);
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(half_of(value, dtype));
  checkpoint.list.add(name, dtype, shape, halves.data(), 2 * halves.size());
}

TEST(ModelBlocks, BiasesOfAnyFloatType) {
  for (const auto& [folder, name] :
       {std::pair{"minimax_m3_vl", "language_model.model.layers.1.block_sparse_moe.e_score_correction_bias"},
        std::pair{"ernie4_5_moe", "model.layers.1.mlp.moe_statics.e_score_correction_bias"},
        std::pair{"gpt_oss", "model.layers.0.mlp.router.bias"}, std::pair{"jetmoe", "model.layers.0.mlp.bias"},
        std::pair{"gpt_oss", "model.layers.0.mlp.experts.gate_up_proj_bias"},
        std::pair{"gpt_oss", "model.layers.0.mlp.experts.down_proj_bias"}}) {
    SCOPED_TRACE(name);
    Checkpoint checkpoint = golden(folder);
    const std::int32_t layer = checkpoint.open().info().moe_layers.front();
    const auto before = forward_golden(checkpoint, layer);
    store_as(checkpoint, name, DType::f32);
    const auto expected = forward_golden(checkpoint, layer);
    EXPECT_NE(expected, before);
    for (const DType dtype : {DType::bf16, DType::f16}) {
      store_as(checkpoint, name, dtype);
      EXPECT_EQ(forward_golden(checkpoint, layer), expected) << dtype_name(dtype);
    }
  }
}

TEST(ModelBlocks, TablesOfAnyIdType) {
  Checkpoint checkpoint = golden("deepseek_v4");
  const std::string name = "layers.0.ffn.gate.tid2eid";
  const auto expected = forward_golden(checkpoint, 0);
  const Tensor table = checkpoint.tensor(name);
  std::vector<std::int64_t> ids(table.bytes / sizeof(std::int64_t));
  std::memcpy(ids.data(), table.data, table.bytes);
  const std::vector<std::int64_t> shape = table.shape;
  const std::vector<std::int32_t> ids32(ids.begin(), ids.end());
  const std::vector<std::int16_t> ids16(ids.begin(), ids.end());
  checkpoint.remove(name);
  Checkpoint other = checkpoint;
  checkpoint.list.add(name, DType::i32, shape, ids32.data(), 4 * ids32.size());
  other.list.add(name, DType::i16, shape, ids16.data(), 2 * ids16.size());
  EXPECT_EQ(forward_golden(checkpoint, 0), expected);
  EXPECT_EQ(forward_golden(other, 0), expected);
}

TEST(ModelBlocks, ATableThatNamesNoExpert) {
  Checkpoint checkpoint = golden("deepseek_v4");
  Tensor& table = checkpoint.tensor("layers.0.ffn.gate.tid2eid");
  std::vector<std::byte> damaged(table.data, table.data + table.bytes);
  damaged[0] = std::byte{200};
  table.data = damaged.data();
  const Model model = checkpoint.open();
  expect_error(Code::bad_data, {"tensor layers.0.ffn.gate.tid2eid row 0 slot 0 names expert 200, expected 0..5"},
               [&] { model.layer(0); });
}

// ---- biases of the shared expert and of latent maps, which a flag asks for

TEST(ModelBlocks, NamedBiases) {
  Checkpoint checkpoint = golden("nemotron_h_latent");
  const auto without = forward_golden(checkpoint, 1);
  checkpoint.config["mlp_bias"] = true;
  const std::string block = "backbone.layers.1.mixer.";
  for (const auto& [name, weight] : {std::pair{"fc1_latent_proj.bias", "fc1_latent_proj.weight"},
                                     std::pair{"fc2_latent_proj.bias", "fc2_latent_proj.weight"},
                                     std::pair{"shared_experts.up_proj.bias", "shared_experts.up_proj.weight"},
                                     std::pair{"shared_experts.down_proj.bias", "shared_experts.down_proj.weight"}}) {
    expect_error(Code::bad_data, {"has no tensor " + block + name}, [&] { checkpoint.open(); });
    const std::int64_t size = checkpoint.tensor(block + weight).shape[0];
    checkpoint.add(block + name, {size}, std::vector<float>(static_cast<std::size_t>(size)));
  }
  EXPECT_EQ(forward_golden(checkpoint, 1), without);
  for (const char* name : {"fc1_latent_proj.bias", "fc2_latent_proj.bias", "shared_experts.up_proj.bias",
                           "shared_experts.down_proj.bias"}) {
    Checkpoint changed = checkpoint;
    const std::int64_t size = changed.tensor(block + name).shape[0];
    changed.remove(block + name);
    changed.add(block + name, {size}, std::vector<float>(static_cast<std::size_t>(size), 0.5F));
    EXPECT_NE(forward_golden(changed, 1), without) << name;
  }
}

// ---- stacks with rows for identity experts

TEST(ModelBlocks, StacksMayHoldIdentityExperts) {
  const Checkpoint split = golden("longcat_flash");
  const ModelInfo info = split.open().info();
  const std::string block = "model.layers.0.mlp.";
  for (const std::int32_t spare : {0, info.identity_experts}) {
    Checkpoint stacked = split;
    std::vector<float> gate_up;
    std::vector<float> down;
    const auto move = [&](std::int32_t expert, const char* matrix, std::vector<float>& to) {
      const std::string name = fmt::format("{}experts.{}.{}.weight", block, expert, matrix);
      const auto* values = reinterpret_cast<const float*>(stacked.tensor(name).data);
      to.insert(to.end(), values, values + info.ffn * info.hidden);
      stacked.remove(name);
    };
    for (std::int32_t expert = 0; expert < info.experts; ++expert) {
      move(expert, "gate_proj", gate_up);
      move(expert, "up_proj", gate_up);
      move(expert, "down_proj", down);
    }
    const std::int64_t rows = info.experts + spare;
    gate_up.resize(static_cast<std::size_t>(rows * 2 * info.ffn * info.hidden));
    stacked.add(block + "experts.gate_up_proj", {rows, 2 * info.ffn, info.hidden}, gate_up);
    stacked.add(block + "experts.down_proj", {info.experts, info.hidden, info.ffn}, down);
    EXPECT_EQ(forward_golden(stacked, 0), forward_golden(split, 0)) << spare;
  }
}

// ---- models that are known and not run

TEST(ModelBlocks, RefusedModelsOpen) {
  Checkpoint checkpoint;
  checkpoint.config = {{"model_type", "zaya"}};
  checkpoint.add("model.embed_tokens.weight", {10}, std::vector<float>(10));
  const Model model = checkpoint.open();
  EXPECT_EQ(model.info().file_bytes, 40u);
  EXPECT_TRUE(model.info().moe_layers.empty());
  expect_error(Code::not_supported, {"a block of zaya: its router carries a state"}, [&] { model.layer(0); });
}

}  // namespace
