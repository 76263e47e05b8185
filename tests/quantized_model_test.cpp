// Quantised checkpoints: what is said of them, what fits, and what does not. Golden folders are changed for it.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "checkpoints.hpp"
#include "experts/weight_view.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

void expect_bad(const Checkpoint& checkpoint, std::initializer_list<std::string_view> parts) {
  expect_error(Code::bad_data, parts, [&] { checkpoint.open(); });
}

void expect_unsupported(const Checkpoint& checkpoint, std::string_view reason) {
  const Model model = checkpoint.open();
  ASSERT_EQ(model.info().unsupported.size(), 1u);
  EXPECT_NE(model.info().unsupported[0].find(reason), std::string::npos) << model.info().unsupported[0];
  expect_error(Code::not_supported, {"model: ", reason}, [&] { model.layer(model.info().moe_layers[0]); });
}

// ---- what is said

struct Stored {
  const char* folder;
  const char* method;
  DType weights;
  Codes codes;
  DType scales;
  std::int64_t out_block;
  std::int64_t in_block;
};

constexpr Stored kStored[] = {
    {"deepseek_v3_fp8", "fp8", DType::f8_e4m3, Codes::f8_e4m3, DType::f32, 16, 32},
    {"qwen3_moe_fp8", "fp8", DType::f8_e4m3, Codes::f8_e4m3, DType::bf16, 16, 32},
    {"qwen3_5_moe_fp8_fused", "fp8", DType::f8_e4m3, Codes::f8_e4m3, DType::f32, 16, 32},
    {"llama4_fp8", "compressed-tensors", DType::f8_e4m3, Codes::f8_e4m3, DType::bf16, 1, 0},
    {"mixtral_fp8", "modelopt", DType::f8_e4m3, Codes::f8_e4m3, DType::f32, 0, 0},
    {"mixtral_f16", "", DType::f16, Codes::plain, DType::f32, 0, 0},
    {"deepseek_v4_mxfp4", "fp8", DType::i8, Codes::f4_e2m1, DType::f8_e8m0, 1, 32},
    {"gpt_oss_mxfp4", "mxfp4", DType::u8, Codes::f4_e2m1, DType::f8_e8m0, 1, 32},
    {"minimax_m2_mxfp4", "compressed-tensors", DType::u8, Codes::f4_e2m1, DType::f8_e8m0, 1, 32},
    {"minimax_m3_vl_mxfp8", "mxfp8", DType::f8_e4m3, Codes::f8_e4m3, DType::f8_e8m0, 1, 32},
    {"kimi_k25_int4", "compressed-tensors", DType::i32, Codes::u4, DType::bf16, 1, 32},
    {"glm4_moe_int8", "compressed-tensors", DType::i8, Codes::i8, DType::f32, 1, 0},
    {"qwen2_moe_gptq", "gptq", DType::i32, Codes::u4, DType::f16, 1, 16},
    {"qwen3_moe_gptq", "gptq", DType::i32, Codes::u4, DType::f16, 1, 32},
    {"mixtral_packed_int8", "compressed-tensors", DType::i32, Codes::u8, DType::bf16, 1, 0},
    {"olmoe_gptq_int8", "gptq", DType::i32, Codes::u8, DType::f16, 1, 16},
    {"nemotron_h_nvfp4", "modelopt", DType::u8, Codes::f4_e2m1, DType::f8_e4m3, 1, 16},
    {"qwen3_next_nvfp4", "compressed-tensors", DType::u8, Codes::f4_e2m1, DType::f8_e4m3, 1, 16},
};

TEST(QuantizedModel, InfoSaysWhatIsStored) {
  for (const Stored& stored : kStored) {
    SCOPED_TRACE(stored.folder);
    const Model model = Model::open(std::filesystem::path(SWITCHYARD_TEST_DATA) / stored.folder);
    const ModelInfo& info = model.info();
    EXPECT_TRUE(info.unsupported.empty());
    EXPECT_EQ(info.quantization, stored.method);
    EXPECT_EQ(info.weights, stored.weights);
    EXPECT_EQ(info.codes, stored.codes);
    EXPECT_EQ(info.scales, stored.scales);
    EXPECT_EQ(info.out_block, stored.out_block);
    EXPECT_EQ(info.in_block, stored.in_block);
  }
}

// The cache knows a weight by all of its tensors.
TEST(QuantizedModel, PackedFilesAreMappedAgainUntilAScaleChanges) {
  const TempFolder cache;
  Checkpoint checkpoint = golden("kimi_k25_int4");
  const TempFolder folder;
  checkpoint.write(folder.path());
  const auto packed_experts = [&] {
    int calls = 0;
    Model::open(folder.path())
        .layer(
            1, {}, [&](std::int32_t, std::int32_t) { ++calls; }, cache.path());
    return calls;
  };
  EXPECT_EQ(packed_experts(), 8);
  EXPECT_EQ(packed_experts(), 1);
  const char* name = "language_model.model.layers.1.mlp.experts.3.up_proj.weight_scale";
  data_of<std::uint16_t>(checkpoint.tensor(name))[0] ^= 1;
  checkpoint.write(folder.path());
  EXPECT_EQ(packed_experts(), 8);
}

// ---- parts that are missing or do not fit

TEST(QuantizedMisfit, MissingScales) {
  const std::pair<const char*, const char*> all[] = {
      {"deepseek_v3_fp8", "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"},
      {"qwen3_5_moe_fp8_fused", "model.language_model.layers.0.mlp.experts.down_proj_scale_inv"},
      {"deepseek_v4_mxfp4", "layers.1.ffn.experts.2.w2.scale"},
      {"gpt_oss_mxfp4", "model.layers.0.mlp.experts.gate_up_proj_scales"},
      {"minimax_m2_mxfp4", "model.layers.0.block_sparse_moe.experts.7.w1.weight_scale"},
      {"kimi_k25_int4", "language_model.model.layers.1.mlp.experts.0.gate_proj.weight_scale"},
      {"glm4_moe_int8", "model.layers.1.mlp.shared_experts.down_proj.weight_scale"},
      {"qwen2_moe_gptq", "model.layers.2.mlp.experts.1.down_proj.scales"},
      {"nemotron_h_nvfp4", "backbone.layers.1.mixer.experts.4.up_proj.weight_scale"},
  };
  for (const auto& [folder, name] : all) {
    SCOPED_TRACE(folder);
    Checkpoint checkpoint = golden(folder);
    checkpoint.tensor(name);  // is there
    checkpoint.remove(name);
    expect_bad(checkpoint, {"model.safetensors: has no scales for tensor", name});
  }
}

TEST(QuantizedMisfit, MissingCodes) {
  Checkpoint checkpoint = golden("kimi_k25_int4");
  checkpoint.remove("language_model.model.layers.1.mlp.experts.5.up_proj.weight_packed");
  expect_bad(checkpoint, {"has no tensor language_model.model.layers.1.mlp.experts.5.up_proj.weight, expected one"});
}

TEST(QuantizedMisfit, MissingFactor) {
  for (const auto& [folder, name] :
       {std::pair{"nemotron_h_nvfp4", "backbone.layers.1.mixer.experts.4.up_proj.weight_scale_2"},
        std::pair{"qwen3_next_nvfp4", "model.layers.0.mlp.experts.4.up_proj.weight_global_scale"}}) {
    Checkpoint checkpoint = golden(folder);
    checkpoint.tensor(name);
    checkpoint.remove(name);
    expect_bad(checkpoint, {"has no factor for tensor", "weight_scale_2 or", "weight_global_scale"});
  }
}

TEST(QuantizedMisfit, MissingZeros) {
  Checkpoint checkpoint = golden("qwen2_moe_gptq");
  checkpoint.remove("model.layers.1.mlp.experts.1.down_proj.qzeros");
  expect_bad(checkpoint, {"has no zeros for tensor model.layers.1.mlp.experts.1.down_proj.qweight"});
}

void expect_misshapen(const char* folder, const char* name, std::vector<std::int64_t> shape, std::string_view found,
                      std::string_view expected) {
  SCOPED_TRACE(name);
  Checkpoint checkpoint = golden(folder);
  Tensor& tensor = checkpoint.tensor(name);
  std::size_t elements = 1;
  for (const std::int64_t size : shape) elements *= static_cast<std::size_t>(size);
  const Tensor old = tensor;
  checkpoint.remove(name);
  const std::vector<std::byte> bytes(elements * dtype_bytes(old.dtype));
  checkpoint.list.add(name, old.dtype, std::move(shape), bytes.data(), bytes.size());
  expect_bad(checkpoint, {"model.safetensors: tensor", name, found, expected});
}

TEST(QuantizedMisfit, ScalesOfAnotherShape) {
  expect_misshapen("deepseek_v3_fp8", "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv", {3, 2}, "[3,2]",
                   "expected [1,1] or [44,1] or [3,3]");
  expect_misshapen("deepseek_v3_fp8", "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv", {45}, "[45]", "[44,1]");
  expect_misshapen("qwen3_5_moe_fp8_fused", "model.language_model.layers.0.mlp.experts.gate_up_proj_scale_inv", {6, 3},
                   "[6,3]", "[8,6,3]");
  expect_misshapen("minimax_m3_vl_mxfp8",
                   "language_model.model.layers.1.block_sparse_moe.experts.0.w1.weight_scale_inv", {32, 3}, "[32,3]",
                   "[32,2]");
  expect_misshapen("gpt_oss_mxfp4", "model.layers.0.mlp.experts.gate_up_proj_scales", {8, 64, 1}, "[8,64,1]",
                   "[8,64,2]");
  expect_misshapen("deepseek_v4_mxfp4", "layers.1.ffn.experts.2.w2.scale", {64, 1}, "[64,1]", "[64,2]");
  expect_misshapen("kimi_k25_int4", "language_model.model.layers.1.mlp.experts.0.gate_proj.weight_scale", {40, 4},
                   "[40,4]", "[40,2] or [40,1]");
  expect_misshapen("nemotron_h_nvfp4", "backbone.layers.1.mixer.experts.4.up_proj.weight_scale", {32, 2}, "[32,2]",
                   "[32,3]");
  expect_misshapen("nemotron_h_nvfp4", "backbone.layers.1.mixer.experts.4.up_proj.weight_scale_2", {2}, "[2]", "[1]");
  expect_misshapen("qwen2_moe_gptq", "model.layers.1.mlp.experts.0.gate_proj.scales", {32, 4}, "[32,4]", "[4,32]");
  expect_misshapen("qwen2_moe_gptq", "model.layers.1.mlp.experts.0.gate_proj.qzeros", {4, 3}, "[4,3]", "[4,4]");
  expect_misshapen("qwen2_moe_gptq", "model.layers.1.mlp.experts.0.gate_proj.g_idx", {63}, "[63]", "[64]");
}

TEST(QuantizedMisfit, CodesOfAnotherShape) {
  expect_misshapen("deepseek_v3_fp8", "model.layers.1.mlp.experts.3.up_proj.weight", {44, 71}, "[44,71]", "[44,72]");
  expect_misshapen("kimi_k25_int4", "language_model.model.layers.1.mlp.experts.0.gate_proj.weight_packed", {40, 7},
                   "[40,7]", "[40,8]");
  expect_misshapen("gpt_oss_mxfp4", "model.layers.0.mlp.experts.down_proj_blocks", {8, 64, 2, 16}, "[8,64,2,16]",
                   "[8,64,1,16]");
  expect_misshapen("qwen2_moe_gptq", "model.layers.1.mlp.experts.0.gate_proj.qweight", {32, 8}, "[32,8]", "[8,32]");
}

TEST(QuantizedMisfit, ScalesOfAnotherType) {
  for (const auto& [folder, name, expected] :
       {std::tuple{"deepseek_v3_fp8", "model.layers.1.mlp.experts.3.up_proj.weight_scale_inv",
                   "is i32, expected f32, bf16, f16, f8_e8m0 or u8"},
        std::tuple{"deepseek_v4_mxfp4", "layers.1.ffn.experts.2.w2.scale", "expected f8_e8m0, u8 or f8_e4m3"},
        std::tuple{"nemotron_h_nvfp4", "backbone.layers.1.mixer.experts.4.up_proj.weight_scale_2", "expected f32"}}) {
    Checkpoint checkpoint = golden(folder);
    Tensor& tensor = checkpoint.tensor(name);
    tensor.dtype = dtype_bytes(tensor.dtype) == 4 ? DType::i32 : DType::i8;
    expect_bad(checkpoint, {name, expected});
  }
}

TEST(QuantizedMisfit, OddDepth) {
  Checkpoint checkpoint;
  checkpoint.config = kQwen3Config;
  checkpoint.config["hidden_size"] = 25;
  checkpoint.config["quantization_config"] = {{"quant_method", "mxfp4"}};
  const Weights weights(0);
  const std::vector<std::uint8_t> codes(13 * kFfn);
  for (int layer = 0; layer < kLayers; ++layer) {
    const std::string prefix = layer_name(layer) + "mlp.";
    checkpoint.add(prefix + "gate.weight", {kExperts, 25}, std::vector<float>(kExperts * 25));
    for (int expert = 0; expert < kExperts; ++expert) {
      const std::string name = prefix + "experts." + std::to_string(expert) + ".gate_proj.weight";
      checkpoint.list.add(name, DType::u8, {kFfn, 13}, codes.data(), codes.size());
      checkpoint.list.add(name + "_scale", DType::u8, {kFfn, 1}, codes.data(), kFfn);
    }
  }
  expect_bad(checkpoint, {"holds two codes in a byte, found 25 inputs, expected an even number"});
}

TEST(QuantizedMisfit, BlocksThatAreNotWhole) {
  Checkpoint checkpoint = golden("gpt_oss_mxfp4");
  checkpoint.config["hidden_size"] = 48;
  for (const char* name : {"model.layers.0.mlp.router.weight", "model.layers.0.mlp.experts.down_proj_bias"}) {
    Tensor& tensor = checkpoint.tensor(name);
    tensor.shape[1] = 48;
    tensor.bytes = tensor.bytes / 64 * 48;
  }
  expect_bad(checkpoint, {"gate_up_proj_blocks holds blocks of 32 codes, found 48 inputs"});
}

TEST(QuantizedMisfit, GptqOfOddSizes) {
  Checkpoint checkpoint = golden("qwen2_moe_gptq");
  checkpoint.config["moe_intermediate_size"] = 30;
  expect_bad(checkpoint, {"holds 8 codes in an i32, found 30 outputs and 64 inputs"});
}

TEST(QuantizedMisfit, AnotherOutline) {
  const char* name = "language_model.model.layers.1.mlp.experts.0.gate_proj.weight_shape";
  Checkpoint checkpoint = golden("kimi_k25_int4");
  data_of<std::int64_t>(checkpoint.tensor(name))[1] = 63;
  expect_bad(checkpoint, {name, "holds [40,63], expected [40,64]"});
}

// Only the first expert is looked at when a model is opened.
TEST(QuantizedMisfit, AnotherOutlineLater) {
  const char* name = "language_model.model.layers.1.mlp.experts.6.down_proj.weight_shape";
  Checkpoint checkpoint = golden("kimi_k25_int4");
  data_of<std::int64_t>(checkpoint.tensor(name))[0] = 1;
  const Model model = checkpoint.open();
  expect_error(Code::bad_data, {name, "holds [1,40], expected [64,40]"}, [&] { model.layer(1); });
}

// ---- understood, but not read

TEST(QuantizedUnsupported, GroupsOutOfOrder) {
  Checkpoint checkpoint = golden("qwen2_moe_gptq");
  checkpoint.config["quantization_config"]["desc_act"] = true;
  EXPECT_TRUE(checkpoint.open().info().unsupported.empty());  // in order all the same
  std::swap(data_of<std::int32_t>(checkpoint.tensor("model.layers.1.mlp.experts.0.up_proj.g_idx"))[3],
            data_of<std::int32_t>(checkpoint.tensor("model.layers.1.mlp.experts.0.up_proj.g_idx"))[40]);
  expect_unsupported(checkpoint, "experts.0.up_proj.g_idx puts input 3 in group 2, supported: groups in order");
}

TEST(QuantizedUnsupported, GroupsOutOfOrderLater) {
  for (const char* name :
       {"model.layers.1.mlp.experts.7.down_proj.g_idx", "model.layers.1.mlp.shared_expert.up_proj.g_idx"}) {
    Checkpoint checkpoint = golden("qwen2_moe_gptq");
    data_of<std::int32_t>(checkpoint.tensor(name))[0] = 1;
    const Model model = checkpoint.open();
    EXPECT_TRUE(model.info().unsupported.empty());
    expect_error(Code::not_supported, {"model: ", name, "puts input 0 in group 1"}, [&] { model.layer(1); });
    model.layer(2);
  }
}

TEST(QuantizedUnsupported, ZerosOfEightBitCodes) {
  Checkpoint checkpoint = golden("olmoe_gptq_int8");
  data_of<std::uint8_t>(checkpoint.tensor("model.layers.0.mlp.experts.0.up_proj.qzeros"))[5] = 127;
  expect_unsupported(checkpoint, "up_proj.qzeros holds 127, supported: 128");
}

TEST(QuantizedUnsupported, PackedIntegersWithZeros) {
  Checkpoint checkpoint = golden("kimi_k25_int4");
  const std::string name = "language_model.model.layers.1.mlp.experts.2.up_proj.weight_zero_point";
  checkpoint.list.add(name, DType::i32, {1}, "zero", 4);
  expect_unsupported(checkpoint, "the packed integers have zeros of their own");
}

TEST(QuantizedUnsupported, PackedIntegersOutOfOrder) {
  Checkpoint checkpoint = golden("kimi_k25_int4");
  const std::string name = "language_model.model.layers.1.mlp.experts.2.up_proj.weight_g_idx";
  checkpoint.list.add(name, DType::i32, {1}, "zero", 4);
  expect_unsupported(checkpoint, "(g_idx), supported: groups in order");
}

TEST(QuantizedUnsupported, QweightOfAnotherMethod) {
  Checkpoint checkpoint = golden("qwen2_moe_gptq");
  checkpoint.config.erase("quantization_config");
  expect_unsupported(checkpoint, "tensors are named qweight");
}

TEST(QuantizedUnsupported, AnotherFloat) {
  Checkpoint checkpoint = golden("mixtral_fp8");
  checkpoint.tensor("model.layers.0.block_sparse_moe.experts.2.w2.weight").dtype = DType::f8_e5m2;
  expect_unsupported(checkpoint, "tensors are f8_e5m2, supported:");
}

// ---- blocks of 128 in matrices of 130 and 200, in every place

constexpr std::int64_t kWide = 200;
constexpr std::int64_t kNarrow = 130;

struct Grid {
  std::vector<std::uint8_t> codes;  // [out,in]
  std::vector<float> scales;        // [ceil(out / 128), ceil(in / 128)]
  std::vector<float> values;        // [out,in]
  std::int64_t out = 0;
  std::int64_t in = 0;
};

Grid random_grid(std::mt19937& random, std::int64_t out, std::int64_t in) {
  Grid grid{{}, {}, {}, out, in};
  const std::int64_t cols = (in + 127) / 128;
  for (std::int64_t i = 0; i < (out + 127) / 128 * cols; ++i) {
    grid.scales.push_back(static_cast<float>(random() % 1000 + 1) / 777777.0F);
  }
  for (std::int64_t o = 0; o < out; ++o) {
    for (std::int64_t i = 0; i < in; ++i) {
      grid.codes.push_back(static_cast<std::uint8_t>(random() % 127 + random() % 2 * 128));
      const float scale = grid.scales[static_cast<std::size_t>(o / 128 * cols + i / 128)];
      grid.values.push_back(f8_e4m3_value(grid.codes.back()) * scale);
    }
  }
  return grid;
}

template <class T>
std::vector<T> turned(const std::vector<T>& values, std::int64_t rows) {
  const auto height = static_cast<std::size_t>(rows);
  const std::size_t width = values.size() / height;
  std::vector<T> result;
  for (std::size_t col = 0; col < width; ++col) {
    for (std::size_t row = 0; row < height; ++row) result.push_back(values[row * width + col]);
  }
  return result;
}

// A model of one layer, quantised and plain.
struct Pair {
  Checkpoint quantized;
  Checkpoint plain;

  explicit Pair(const char* model_type) {
    plain.config = config_of(model_type, {{"num_hidden_layers", 1},
                                          {"hidden_size", kWide},
                                          {"num_experts", kExperts},
                                          {"moe_intermediate_size", kNarrow}});
    quantized.config = plain.config;
    quantized.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
    std::mt19937 random(1);
    const Matrix2 router = random_matrix(random, kExperts, kWide);
    for (Checkpoint* checkpoint : {&quantized, &plain}) checkpoint->add("model.layers.0.mlp.gate.weight", router);
  }

  // The grids one after the other, each turned if `in_out`.
  void add(const std::string& name, std::vector<std::int64_t> shape, std::vector<std::int64_t> scale_shape,
           const std::string& scale_name, const std::vector<Grid>& grids, bool in_out) {
    std::vector<std::uint8_t> codes;
    std::vector<float> scales;
    std::vector<float> values;
    const auto append = [&](auto& to, const auto& from, std::int64_t rows) {
      const auto part = in_out ? turned(from, rows) : from;
      to.insert(to.end(), part.begin(), part.end());
    };
    for (const Grid& grid : grids) {
      append(codes, grid.codes, grid.out);
      append(scales, grid.scales, (grid.out + 127) / 128);
      append(values, grid.values, grid.out);
    }
    quantized.list.add(name, DType::f8_e4m3, shape, codes.data(), codes.size());
    quantized.add(scale_name, std::move(scale_shape), scales);
    plain.add(name, std::move(shape), values);
  }

  void expect_same_bits() const {
    const Model a = quantized.open();
    const Model b = plain.open();
    EXPECT_EQ(a.info().layout, b.info().layout);
    for (const Format format : {Format::f32, Format::bf16}) EXPECT_EQ(output(a, format), output(b, format));
  }

  static std::vector<float> output(const Model& model, Format format) {
    const Layer layer = model.layer(0, {.format = format});
    std::mt19937 random(5);
    std::vector<float> x;
    for (std::int64_t i = 0; i < kTokens * kWide; ++i) x.push_back(static_cast<float>(random() % 2000) / 1000 - 1);
    std::vector<float> y(x.size());
    const Workspace workspace(layer.workspace_bytes(kTokens));
    layer.forward({x.data(), kTokens, kWide}, {y.data(), kTokens, kWide}, workspace);
    EXPECT_TRUE(std::any_of(y.begin(), y.end(), [](float value) { return value != 0 && std::isfinite(value); }));
    return y;
  }
};

TEST(QuantizedBlocks, PerExpert) {
  Pair pair("qwen3_moe");
  std::mt19937 random(2);
  for (int expert = 0; expert < kExperts; ++expert) {
    for (const char* part : kProj) {
      const bool down = std::string_view(part) == "down_proj";
      const Grid grid = random_grid(random, down ? kWide : kNarrow, down ? kNarrow : kWide);
      const std::string name = "model.layers.0.mlp.experts." + std::to_string(expert) + "." + part + ".weight";
      pair.add(name, {grid.out, grid.in}, {2, 2}, name + "_scale_inv", {grid}, false);
    }
  }
  pair.expect_same_bits();
}

// Gate and up are one matrix of 260 outputs: up begins in the middle of a block.
TEST(QuantizedBlocks, Fused) {
  for (const bool in_out : {false, true}) {
    Pair pair("qwen3_vl_moe_text");
    std::mt19937 random(3);
    std::vector<Grid> gate_up;
    std::vector<Grid> down;
    for (int expert = 0; expert < kExperts; ++expert) {
      gate_up.push_back(random_grid(random, 2 * kNarrow, kWide));
      down.push_back(random_grid(random, kWide, kNarrow));
    }
    using Shape = std::vector<std::int64_t>;
    const std::string prefix = "model.layers.0.mlp.experts.";
    pair.add(
        prefix + "gate_up_proj", in_out ? Shape{kExperts, kWide, 2 * kNarrow} : Shape{kExperts, 2 * kNarrow, kWide},
        in_out ? Shape{kExperts, 2, 3} : Shape{kExperts, 3, 2}, prefix + "gate_up_proj_scale_inv", gate_up, in_out);
    pair.add(prefix + "down_proj", in_out ? Shape{kExperts, kNarrow, kWide} : Shape{kExperts, kWide, kNarrow},
             {kExperts, 2, 2}, prefix + "down_proj_scale_inv", down, in_out);
    pair.expect_same_bits();
  }
}

}  // namespace
