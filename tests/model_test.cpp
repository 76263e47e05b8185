#include "switchyard/model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "checkpoints.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

// ---- what a model says of itself

TEST(Model, Info) {
  Checkpoint checkpoint = qwen2();
  checkpoint.config["mlp_only_layers"] = {0};
  checkpoint.add("model.embed_tokens.weight", {10}, std::vector<float>(10));
  const Model model = checkpoint.open();
  const ModelInfo& info = model.info();
  EXPECT_EQ(info.model_type, "qwen2_moe");
  EXPECT_EQ(info.family, "qwen2_moe");
  EXPECT_EQ(info.layers, kLayers);
  EXPECT_EQ(info.moe_layers, std::vector<std::int32_t>{1});
  EXPECT_EQ(info.experts, kExperts);
  EXPECT_EQ(info.hidden, kHidden);
  EXPECT_EQ(info.ffn, kFfn);
  EXPECT_EQ(info.shared_ffn, kShared);
  EXPECT_TRUE(info.shared_gate);
  EXPECT_EQ(info.router.topk, kTopk);
  EXPECT_EQ(info.router.normalize, Normalize::none);
  EXPECT_EQ(info.weights, DType::f32);
  const auto block = static_cast<std::size_t>(
      4 * (kExperts * kHidden + 3 * kExperts * kFfn * kHidden + 3 * kShared * kHidden + kHidden));
  EXPECT_EQ(info.moe_bytes, block);
  EXPECT_EQ(info.file_bytes, 2 * block + 40);
}

TEST(Model, WeightTypeIsThatOfTheExperts) {
  EXPECT_EQ(qwen3(DType::bf16).open().info().weights, DType::bf16);
  EXPECT_EQ(qwen3(DType::f16).open().info().weights, DType::f16);
}

TEST(Model, ProgressAfterEveryExpert) {
  for (const Checkpoint& checkpoint : {qwen3(), fused(kQwen3Config, {})}) {
    std::vector<std::int32_t> done;
    checkpoint.open().layer(0, {}, [&](std::int32_t expert, std::int32_t of) {
      EXPECT_EQ(of, kExperts);
      done.push_back(expert);
    });
    EXPECT_EQ(done, (std::vector<std::int32_t>{1, 2, 3, 4}));
  }
}

TEST(Model, SeveralTimesTheSameLayer) {
  const Model model = qwen3().open();
  const auto first = forward(model, 1);
  EXPECT_EQ(forward(model, 1), first);
}

TEST(Model, LayersThatHaveNoExperts) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["mlp_only_layers"] = {0};
  const Model model = checkpoint.open();
  for (const std::int32_t layer : {0, 2, -1}) {
    expect_error(Code::invalid_argument, {"layer " + std::to_string(layer) + " has no experts, expected one of [1]"},
                 [&] { model.layer(layer); });
  }
}

TEST(Model, NoMoeLayerAtAll) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["mlp_only_layers"] = {0, 1};
  EXPECT_TRUE(checkpoint.open().info().moe_layers.empty());
}

// Only tensors of MoE layers are looked at.
TEST(Model, DenseLayersNeedNoExperts) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["mlp_only_layers"] = {0};
  std::erase_if(checkpoint.list.tensors(),
                [](const Tensor& tensor) { return tensor.name.starts_with("model.layers.0"); });
  EXPECT_EQ(checkpoint.open().info().moe_layers, std::vector<std::int32_t>{1});
}

// ---- what does not fit

void expect_bad(const Checkpoint& checkpoint, std::initializer_list<std::string_view> parts) {
  expect_error(Code::bad_data, parts, [&] { checkpoint.open(); });
  expect_error(Code::bad_data, {"model: ", "model.safetensors: "}, [&] { checkpoint.open(); });
}

TEST(ModelErrors, EveryTensorIsNeeded) {
  for (const Checkpoint& whole : {qwen2(), mixtral(),
                                  fused(kGraniteConfig, {.router = "block_sparse_moe.router.weight",
                                                        .gate_up = "block_sparse_moe.experts.gate_up_proj",
                                                        .down = "block_sparse_moe.experts.down_proj"})}) {
    for (const Tensor& tensor : whole.list.tensors()) {
      SCOPED_TRACE(tensor.name);
      Checkpoint checkpoint = whole;
      checkpoint.remove(tensor.name);
      expect_bad(checkpoint, {"has no tensor " + tensor.name, "expected one of shape ["});
    }
  }
}

TEST(ModelErrors, EveryShapeIsChecked) {
  const Checkpoint whole = qwen2();
  for (const Tensor& tensor : whole.list.tensors()) {
    SCOPED_TRACE(tensor.name);
    Checkpoint checkpoint = whole;
    const std::int64_t out = tensor.shape[0];
    const std::int64_t in = tensor.shape[1];
    checkpoint.tensor(tensor.name).shape = {out * in, 1};
    expect_bad(checkpoint,
               {fmt::format("tensor {} has shape [{},1], expected [{},{}]", tensor.name, out * in, out, in)});
  }
}

TEST(ModelErrors, FusedShape) {
  Checkpoint checkpoint = fused(kQwen3Config, {});
  checkpoint.tensor("model.layers.1.mlp.experts.down_proj").shape = {kExperts, kFfn, kHidden};
  expect_bad(checkpoint, {"model.layers.1.mlp.experts.down_proj has shape [4,20,24], expected [4,24,20]"});
}

TEST(ModelErrors, NoExpertsAnywhere) {
  Checkpoint checkpoint;
  checkpoint.config = kMixtralConfig;
  checkpoint.add("model.embed_tokens.weight", {10}, std::vector<float>(10));
  expect_bad(checkpoint, {"found no experts of layer 0", "model.layers.0.block_sparse_moe.experts.0.w1.weight",
                          " or model.layers.0.mlp.experts.gate_up_proj"});
}

TEST(ModelErrors, NotAFolder) {
  const TempFolder folder;
  expect_error(Code::io, {"absent", "is no folder"}, [&] { Model::open(folder / "absent"); });
}

TEST(ModelErrors, NoConfig) {
  const TempFolder folder;
  expect_error(Code::io, {"config.json", "cannot be opened: No such file"}, [&] { Model::open(folder.path()); });
}

TEST(ModelErrors, NoTensors) {
  const TempFolder folder;
  write_text(folder / "config.json", kMixtralConfig.dump());
  expect_error(Code::io, {folder.path().string(), "neither model.safetensors nor model.safetensors.index.json"},
               [&] { Model::open(folder.path()); });
}

TEST(ModelErrors, UnknownModelType) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["model_type"] = "llama";
  expect_error(Code::not_supported, {"model_type is llama", "mistral_large4_text, mixtral, muse_spark"},
               [&] { checkpoint.open(); });
}

// ---- understood, but not run

void expect_unsupported(const Checkpoint& checkpoint, const std::string& reason) {
  const Model model = checkpoint.open();
  ASSERT_EQ(model.info().unsupported, std::vector<std::string>{reason});
  expect_error(Code::not_supported, {"model.safetensors", reason}, [&] { model.layer(0); });
}

TEST(ModelUnsupported, Activation) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["hidden_act"] = "mish";
  expect_unsupported(checkpoint,
                     "hidden_act is mish, supported: silu, swish, gelu, gelu_python, gelu_new, gelu_fast, "
                     "gelu_pytorch_tanh, gelu_python_tanh, relu, relu2");
}

constexpr const char* kMethods =
    "fp8, fbgemm_fp8, compressed-tensors, gptq, mxfp4, mxfp8, modelopt, modelopt_fp4, modelopt_mixed, nvfp4";

TEST(ModelUnsupported, QuantisedByTheConfig) {
  Checkpoint checkpoint = qwen3();
  checkpoint.config["quantization_config"] = {{"quant_method", "awq"}};
  checkpoint.remove("model.layers.0.mlp.experts.1.up_proj.weight");
  expect_unsupported(checkpoint, std::string("the weights are quantised (awq), supported: ") + kMethods);
}

TEST(ModelUnsupported, QuantisedWithNamesOfItsOwn) {
  Checkpoint checkpoint;
  checkpoint.config = kQwen3Config;
  checkpoint.config["quantization_config"] = {{"quant_method", "awq"}};
  EXPECT_EQ(checkpoint.open().info().layout, "");
}

void set_type(Tensor& tensor, DType dtype) {
  tensor.shape.back() *= static_cast<std::int64_t>(dtype_bytes(tensor.dtype) / dtype_bytes(dtype));
  tensor.dtype = dtype;
}

TEST(ModelUnsupported, EightBitExperts) {
  for (const DType dtype : {DType::f8_e4m3, DType::i8}) {
    Checkpoint checkpoint = qwen3();
    for (Tensor& tensor : checkpoint.list.tensors()) {
      if (tensor.name.find("experts") != std::string::npos) set_type(tensor, dtype);
    }
    expect_unsupported(checkpoint, std::string("tensors are ") + dtype_name(dtype) +
                                       " without scales, supported without: f32, bf16, f16");
  }
}

// ---- a shared expert of another type than the routed ones

constexpr std::array<const char*, 3> kSharedNames = {"shared_expert.gate_proj.weight", "shared_expert.up_proj.weight",
                                                     "shared_expert.down_proj.weight"};

// Copies the bytes.
void take(Checkpoint& to, Checkpoint from, const std::string& name) {
  const Tensor& tensor = from.tensor(name);
  to.remove(name);
  to.list.add(name, tensor.dtype, tensor.shape, tensor.data, tensor.bytes);
}

Checkpoint with_shared_of(Checkpoint mixed, const Checkpoint& shared) {
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const char* part : kSharedNames) take(mixed, shared, layer_name(layer) + "mlp." + part);
  }
  return mixed;
}

TEST(Model, ASharedExpertMayHaveATypeOfItsOwn) {
  const auto expected = forward(qwen2().open(), 1);
  for (const DType routed : {DType::f32, DType::bf16, DType::f16}) {
    for (const DType shared : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(fmt::format("{} and {}", dtype_name(routed), dtype_name(shared)));
      const Model model = with_shared_of(qwen2(routed), qwen2(shared)).open();
      EXPECT_TRUE(model.info().unsupported.empty());
      EXPECT_EQ(model.info().weights, routed);
      EXPECT_EQ(model.info().shared_weights, shared);
      EXPECT_EQ(forward(model, 1), expected);  // all of them hold the numbers
    }
  }
  Checkpoint both = with_shared_of(qwen2(DType::bf16), qwen2(DType::bf16));
  take(both, qwen2(DType::f16), layer_name(1) + "mlp.shared_expert.up_proj.weight");
  EXPECT_EQ(both.open().info().shared_weights, DType::f32);
}

// As every weight is that a format does not hold.
TEST(Model, ASharedExpertIsRoundedToTheFormat) {
  const Checkpoint rounded = with_shared_of(qwen2(DType::bf16), qwen2());
  Checkpoint wide = rounded;
  for (const char* part : kSharedNames) {
    const std::string name = layer_name(1) + "mlp." + part;
    const Tensor tensor = wide.tensor(name);
    std::vector<float> values(tensor.bytes / sizeof(float));
    std::memcpy(values.data(), tensor.data, tensor.bytes);
    for (float& value : values) value *= 1 + 0x1p-12F;  // bf16 has steps of 2^-8 or 2^-7
    wide.remove(name);
    wide.list.add(name, tensor.shape, values);
  }
  const auto run = [](const Checkpoint& checkpoint, Format format) {
    LayerOptions options;
    options.format = format;
    return forward(checkpoint.open(), 1, options);
  };
  EXPECT_EQ(run(wide, Format::bf16), run(rounded, Format::bf16));
  EXPECT_NE(run(wide, Format::f32), run(rounded, Format::f32));
}

TEST(ModelUnsupported, MixedExperts) {
  Checkpoint checkpoint = qwen3();
  Checkpoint half = qwen3(DType::bf16);
  const char* name = "model.layers.1.mlp.experts.2.down_proj.weight";
  checkpoint.tensor(name) = half.tensor(name);
  expect_unsupported(checkpoint, "routed experts are f32 and bf16, supported: one type for all");
}

TEST(ModelUnsupported, RouterType) {
  Checkpoint checkpoint = qwen3();
  set_type(checkpoint.tensor("model.layers.0.mlp.gate.weight"), DType::u8);
  expect_unsupported(checkpoint, "tensors are u8 without scales, supported without: f32, bf16, f16");
}

// ---- memory

std::size_t mapped_file_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssFile:")) return std::stoul(line.substr(8)) * 1024;
  }
  throw std::runtime_error("no RssFile");
}

// 32 experts of 1.5 MB each; those that are done must not stay.
TEST(Model, HoldsOneExpertOfTheFile) {
  constexpr std::int64_t kWide = 512;
  constexpr std::int64_t kMany = 32;
  Checkpoint checkpoint;
  checkpoint.config = {{"model_type", "qwen3_moe"},
                       {"num_hidden_layers", 1},
                       {"num_experts_per_tok", 1},
                       {"hidden_size", kWide},
                       {"num_experts", kMany},
                       {"mlp_only_layers", json::array()},
                       {"moe_intermediate_size", kWide / 2}};
  checkpoint.add("model.layers.0.mlp.gate.weight", {kMany, kWide}, std::vector<float>(kMany * kWide));
  checkpoint.add("model.layers.0.mlp.experts.gate_up_proj", {kMany, kWide, kWide},
                 std::vector<float>(kMany * kWide * kWide));
  checkpoint.add("model.layers.0.mlp.experts.down_proj", {kMany, kWide, kWide / 2},
                 std::vector<float>(kMany * kWide * kWide / 2));
  const Model model = checkpoint.open();
  const std::size_t before = mapped_file_bytes();
  std::size_t most = 0;
  const Layer layer =
      model.layer(0, {}, [&](std::int32_t, std::int32_t) { most = std::max(most, mapped_file_bytes()); });
  constexpr std::size_t kExpertBytes = 3 * kWide * kWide / 2 * sizeof(float);
  EXPECT_LT(most, before + 2 * kExpertBytes);
}

}  // namespace
