// Quantised checkpoints in the format that they have: what they compute is what their codes and scales say.
#include <algorithm>
#include <cmath>
#include <random>

#include "checkpoints.hpp"
#include "elements.hpp"
#include "kernel_runs.hpp"
#include "reference.hpp"
#include "tolerances.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;
using kernel_runs::normal_values;

// Rows and the experts they take: few, and as many as are blocked.
struct Batch {
  std::int64_t tokens;
  std::vector<float> x;
  std::vector<std::int32_t> expert;  // [T, kTopk]
  std::vector<float> weight;

  Batch(std::int64_t count, const Layer& layer)
      : tokens(count), x(normal_values(static_cast<std::size_t>(count * layer.hidden()), 3)) {
    for (std::int64_t t = 0; t < count; ++t) {
      for (std::int32_t s = 0; s < kTopk; ++s) {
        expert.push_back(static_cast<std::int32_t>((t * 3 + s) % layer.experts()));
        weight.push_back(0.5F + 0.25F * static_cast<float>(s));
      }
    }
  }

  std::vector<float> run(const Layer& layer) {
    std::vector<float> y(x.size(), std::nanf(""));
    const Workspace workspace(layer.workspace_bytes(tokens, kTopk));
    layer.forward({x.data(), tokens, layer.hidden()}, {tokens, kTopk, expert.data(), weight.data()},
                  {y.data(), tokens, layer.hidden()}, workspace);
    return y;
  }
};
constexpr std::int64_t kBatches[] = {3, 100};

// Makes a shared expert that is not of the format one that adds zeros, whatever it is packed to.
void silence_shared_expert(Checkpoint& checkpoint) {
  int found = 0;
  for (Tensor& tensor : checkpoint.list.tensors()) {
    const bool down =
        tensor.name.find(".down_proj.") != std::string::npos || tensor.name.find(".w2.") != std::string::npos;
    if (tensor.name.find("shared_expert") == std::string::npos || !down) continue;
    std::fill_n(data_of<std::byte>(tensor), tensor.bytes, std::byte{});
    ++found;
  }
  ASSERT_GT(found, 0);
}

// Makes the factors of nvfp4 powers of two: sums that are multiplied by them have the bits of sums of weights that were.
void round_factors(Checkpoint& checkpoint) {
  int found = 0;
  for (Tensor& tensor : checkpoint.list.tensors()) {
    if (!tensor.name.ends_with("weight_scale_2") && !tensor.name.ends_with("weight_global_scale")) continue;
    auto* factor = data_of<float>(tensor);
    for (std::size_t i = 0; i < tensor.bytes / sizeof(float); ++i)
      factor[i] = std::exp2(std::round(std::log2(factor[i])));
    ++found;
  }
  ASSERT_GT(found, 0);
}

// ---- codes of floats

struct Floats {
  const char* folder;
  Format format;
  bool shared_is_another = false;
  std::size_t plain_layers = 0;  // at the end
};

class NativeFloats : public ::testing::TestWithParam<Floats> {};

TEST_P(NativeFloats, GiveTheBitsOfF32) {
  Checkpoint checkpoint = golden(GetParam().folder);
  if (GetParam().shared_is_another) silence_shared_expert(checkpoint);
  if (GetParam().format == Format::nvfp4) round_factors(checkpoint);
  const Model model = checkpoint.open();
  const auto& layers = model.info().moe_layers;
  ASSERT_GT(layers.size(), GetParam().plain_layers);
  for (std::size_t i = 0; i < layers.size() - GetParam().plain_layers; ++i) {
    const Layer native = model.layer(layers[i], {.format = GetParam().format});
    const Layer exact = model.layer(layers[i]);
    EXPECT_LT(native.weight_bytes(), exact.weight_bytes());
    for (const std::int64_t tokens : kBatches) {
      Batch batch(tokens, native);
      const std::vector<float> expected = batch.run(exact);
      EXPECT_EQ(batch.run(native), expected) << "layer " << layers[i] << ", " << tokens << " tokens";
      EXPECT_TRUE(std::all_of(expected.begin(), expected.end(), [](float y) { return y != 0 && std::isfinite(y); }));
    }
  }
}

// What bf16 activations compute is tested in scaled_sums_test.cpp.
TEST_P(NativeFloats, TakeBf16Activations) {
  Checkpoint checkpoint = golden(GetParam().folder);
  if (GetParam().shared_is_another) silence_shared_expert(checkpoint);
  const Model model = checkpoint.open();
  const std::int32_t first = model.info().moe_layers[0];
  const Layer native = model.layer(first, {.format = GetParam().format, .activations = DType::bf16});
  const Layer exact = model.layer(first);
  for (const std::int64_t tokens : kBatches) {
    Batch batch(tokens, native);
    const std::vector<float> expected = batch.run(exact);
    const std::vector<float> found = batch.run(native);
    float largest = 0;
    for (const float y : expected) largest = std::max(largest, std::fabs(y));
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], expected[i], largest * kBf16Tolerance) << "element " << i << " of " << tokens << " tokens";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Folders, NativeFloats,
    ::testing::Values(Floats{"deepseek_v3_fp8", Format::f8_e4m3}, Floats{"qwen3_moe_fp8", Format::f8_e4m3, false, 1},
                      Floats{"qwen3_5_moe_fp8_fused", Format::f8_e4m3}, Floats{"llama4_fp8", Format::f8_e4m3, true},
                      Floats{"mixtral_fp8", Format::f8_e4m3}, Floats{"deepseek_v4_mxfp4", Format::mxfp4, true},
                      Floats{"gpt_oss_mxfp4", Format::mxfp4}, Floats{"minimax_m2_mxfp4", Format::mxfp4},
                      Floats{"minimax_m3_vl_mxfp8", Format::mxfp8, true}, Floats{"nemotron_h_nvfp4", Format::nvfp4},
                      Floats{"qwen3_next_nvfp4", Format::nvfp4, true}),
    [](const auto& folder) { return std::string(folder.param.folder); });

// ---- integers

struct Integers {
  const char* folder;
  Format format;
  std::int64_t group;  // 0: all inputs
  const char* layer;   // what stands before and after the number of the layer
  const char* block;
  std::array<const char*, 3> names;  // gate, up, down
  const char* shared = nullptr;      // null: there is none of this format
};

constexpr Integers kIntegers[] = {
    {"glm4_moe_int8", Format::i8, 0, "model.layers.", ".mlp.", kProj, "shared_experts."},
    {"mixtral_packed_int8", Format::i8, 0, "model.layers.", ".block_sparse_moe.", kW},
    {"kimi_k25_int4", Format::i4, 32, "language_model.model.layers.", ".mlp.", kProj},
    {"qwen3_moe_gptq", Format::i4, 32, "model.layers.", ".mlp.", kProj},
};

const Tensor* find(const Checkpoint& checkpoint, const std::string& name) {
  const auto& tensors = checkpoint.list.tensors();
  const auto found = std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

// Code `place` of those that share the 32 bits of word `at`.
double code_of(const Tensor& words, std::int64_t at, std::int64_t place, std::int64_t bits) {
  return elements::load<std::uint32_t>(words.data, at) >> (place * bits) & ((1U << bits) - 1);
}

double scale_of(const Tensor& scales, std::int64_t at) { return elements::value_at({scales.data, scales.dtype}, at); }

template <class Value>
reference::Table filled(std::int64_t outs, std::int64_t ins, const Value& value) {
  reference::Table table(outs, ins);
  for (std::int64_t o = 0; o < outs; ++o) {
    for (std::int64_t i = 0; i < ins; ++i) table.value[static_cast<std::size_t>(o * ins + i)] = value(o, i);
  }
  return table;
}

// The weight `name` [outs, ins] as its release says it has to be read; groups of 0 inputs: one of all.
reference::Table decode(const Checkpoint& checkpoint, const std::string& name, std::int64_t bits, std::int64_t group) {
  const double half = bits == 8 ? 128 : 8;
  const std::int64_t run = 32 / bits;
  const auto group_of = [=](std::int64_t i) { return group == 0 ? 0 : i / group; };
  if (const Tensor* bytes = find(checkpoint, name + ".weight")) {
    const Tensor& scales = *find(checkpoint, name + ".weight_scale");
    return filled(bytes->shape[0], bytes->shape[1], [&](std::int64_t o, std::int64_t i) {
      return elements::load<std::int8_t>(bytes->data, o * bytes->shape[1] + i) * scale_of(scales, o);
    });
  }
  if (const Tensor* words = find(checkpoint, name + ".weight_packed")) {
    const Tensor& scales = *find(checkpoint, name + ".weight_scale");
    const Tensor& sizes = *find(checkpoint, name + ".weight_shape");
    const auto size = [&](std::int64_t axis) { return elements::load<std::int64_t>(sizes.data, axis); };
    return filled(size(0), size(1), [&](std::int64_t o, std::int64_t i) {
      const double code = code_of(*words, o * words->shape[1] + i / run, i % run, bits) - half;
      return code * scale_of(scales, o * scales.shape[1] + group_of(i));
    });
  }
  const Tensor& words = *find(checkpoint, name + ".qweight");
  const Tensor& zeros = *find(checkpoint, name + ".qzeros");
  const Tensor& scales = *find(checkpoint, name + ".scales");
  const std::int64_t outs = words.shape[1];
  const double more = checkpoint.config["quantization_config"].value("checkpoint_format", "gptq") == "gptq" ? 1 : 0;
  return filled(outs, words.shape[0] * run, [&](std::int64_t o, std::int64_t i) {
    const double zero = code_of(zeros, (group_of(i) * outs + o) / run, o % run, bits) + more;
    return (code_of(words, i / run * outs + o, i % run, bits) - zero) * scale_of(scales, group_of(i) * outs + o);
  });
}

// Of the codes half of the range, so that rounding anew would find other scales.
void halve_codes(Checkpoint& checkpoint, Format format) {
  for (Tensor& tensor : checkpoint.list.tensors()) {
    if (tensor.dtype == DType::i8) {
      std::for_each_n(data_of<std::int8_t>(tensor), tensor.bytes, [](std::int8_t& code) { code /= 2; });
    } else if (tensor.name.ends_with(".weight_packed") || tensor.name.ends_with(".qweight")) {
      const std::uint32_t mask = format == Format::i8 ? 0x7f7f7f7fU : 0x77777777U;
      const std::uint32_t lowest = format == Format::i8 ? 0x40404040U : 0x44444444U;
      std::for_each_n(data_of<std::uint32_t>(tensor), tensor.bytes / 4,
                      [=](std::uint32_t& word) { word = (word & mask) + lowest; });
    }
  }
}

// A row as the integers that are multiplied, times their scale.
reference::Vector as_integers(const reference::Vector& row) {
  float largest = 0;
  for (const double value : row) largest = std::max(largest, std::fabs(static_cast<float>(value)));
  const float scale = largest / 127.0F;
  reference::Vector result;
  for (const double value : row) {
    result.push_back(scale > 0 ? static_cast<double>(std::nearbyint(static_cast<float>(value) * (1.0F / scale))) *
                                     static_cast<double>(scale)
                               : 0);
  }
  return result;
}

reference::Vector run_expert(const reference::Expert& weights, const reference::Vector& row) {
  const reference::Vector x = as_integers(row);
  const reference::Vector gate = reference::product(weights.gate, x);
  reference::Vector h = reference::product(weights.up, x);
  for (std::size_t f = 0; f < h.size(); ++f) h[f] = reference::activated({}, gate[f], h[f]);
  return reference::product(weights.down, as_integers(h));
}

reference::Table expected(const Batch& batch, const std::vector<reference::Expert>& experts,
                          const std::vector<reference::Expert>& shared) {
  const auto hidden = static_cast<std::int64_t>(batch.x.size()) / batch.tokens;
  reference::Table y(batch.tokens, hidden);
  for (std::int64_t t = 0; t < batch.tokens; ++t) {
    const auto first = batch.x.begin() + t * hidden;
    const reference::Vector row(first, first + hidden);
    reference::Vector sum(row.size());
    for (std::int64_t slot = t * kTopk; slot < (t + 1) * kTopk; ++slot) {
      const auto at = static_cast<std::size_t>(slot);
      reference::add_to(sum, batch.weight[at], run_expert(experts[static_cast<std::size_t>(batch.expert[at])], row));
    }
    for (const reference::Expert& each : shared) reference::add_to(sum, 1, run_expert(each, row));
    std::copy(sum.begin(), sum.end(), y.value.begin() + t * hidden);
  }
  return y;
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  double apart = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(std::isfinite(found[i]));
    largest = std::max(largest, std::fabs(expected[i]));
    apart = std::max(apart, std::fabs(static_cast<double>(found[i]) - expected[i]));
  }
  EXPECT_GT(largest, 0);
  EXPECT_LE(apart, largest * kF32Tolerance);
}

class NativeIntegers : public ::testing::TestWithParam<Integers> {};

TEST_P(NativeIntegers, AreTheSumsOfTheirCodes) {
  const Integers& from = GetParam();
  Checkpoint checkpoint = golden(from.folder);
  halve_codes(checkpoint, from.format);
  if (std::string_view(from.folder) == "kimi_k25_int4") silence_shared_expert(checkpoint);
  const Model model = checkpoint.open();
  const std::int64_t bits = from.format == Format::i8 ? 8 : 4;
  for (const std::int32_t index : model.info().moe_layers) {
    const std::string prefix = from.layer + std::to_string(index) + from.block;
    const auto expert = [&](const std::string& name) {
      const auto part = [&](std::size_t i) {
        return decode(checkpoint, prefix + name + from.names[i], bits, from.group);
      };
      return reference::Expert{part(0), part(1), part(2)};
    };
    const Layer layer = model.layer(index, {.format = from.format});
    std::vector<reference::Expert> experts;
    for (std::int32_t e = 0; e < layer.experts(); ++e) experts.push_back(expert("experts." + std::to_string(e) + "."));
    std::vector<reference::Expert> shared;
    if (from.shared != nullptr) shared.push_back(expert(from.shared));
    for (const std::int64_t tokens : kBatches) {
      SCOPED_TRACE("layer " + std::to_string(index) + ", " + std::to_string(tokens) + " tokens");
      Batch batch(tokens, layer);
      expect_near(batch.run(layer), expected(batch, experts, shared).value);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, NativeIntegers, ::testing::ValuesIn(kIntegers),
                         [](const auto& folder) { return std::string(folder.param.folder); });

// ---- GPTQ of any groups and zeros

struct Gptq {
  std::int64_t bits;
  std::int64_t group;  // 0: all inputs
  bool second;         // gptq_v2: zeros are stored as they are, not 1 less
  bool symmetric = true;
};

constexpr std::int64_t kGptqHidden = 256;
constexpr std::int64_t kGptqFfn = 128;
const std::string kGptqPrefix = "model.layers.0.mlp.";

Checkpoint make(const Gptq& how) {
  Checkpoint checkpoint;
  checkpoint.config = config_of("qwen3_moe", {{"num_experts", kExperts},
                                              {"num_hidden_layers", 1},
                                              {"hidden_size", kGptqHidden},
                                              {"moe_intermediate_size", kGptqFfn}});
  checkpoint.config["quantization_config"] = {{"quant_method", "gptq"},
                                              {"bits", how.bits},
                                              {"group_size", how.group == 0 ? -1 : how.group},
                                              {"checkpoint_format", how.second ? "gptq_v2" : "gptq"}};
  std::mt19937 random(11);
  checkpoint.add(kGptqPrefix + "gate.weight", random_matrix(random, kExperts, kGptqHidden));
  const std::int64_t run = 32 / how.bits;
  for (int expert = 0; expert < kExperts; ++expert) {
    for (const char* part : kProj) {
      const bool down = std::string_view(part) == "down_proj";
      const std::int64_t outs = down ? kGptqHidden : kGptqFfn;
      const std::int64_t ins = down ? kGptqFfn : kGptqHidden;
      const std::int64_t groups = how.group == 0 ? 1 : ins / how.group;
      std::vector<std::uint32_t> codes;
      for (std::int64_t i = 0; i < ins / run * outs; ++i) codes.push_back(static_cast<std::uint32_t>(random()));
      std::vector<std::uint16_t> scales;
      for (std::int64_t i = 0; i < groups * outs; ++i) {
        scales.push_back(elements::f16_bits(static_cast<float>(random() % 1000 + 1) / 77777.0F));
      }
      const std::uint32_t ones = how.bits == 8 ? 0x01010101U : 0x11111111U;
      std::vector<std::uint32_t> zeros(static_cast<std::size_t>(groups * outs / run),
                                       ones * ((1U << (how.bits - 1)) - (how.second ? 0 : 1)));
      if (!how.symmetric) zeros.back() ^= 1U << 28;
      const std::string name = kGptqPrefix + "experts." + std::to_string(expert) + "." + part + ".";
      const auto add = [&](const char* what, DType dtype, std::vector<std::int64_t> shape, const auto& values) {
        checkpoint.list.add(name + what, dtype, std::move(shape), values.data(), values.size() * sizeof values[0]);
      };
      add("qweight", DType::i32, {ins / run, outs}, codes);
      add("scales", DType::f16, {groups, outs}, scales);
      add("qzeros", DType::i32, {groups, outs / run}, zeros);
    }
  }
  return checkpoint;
}

TEST(NativeGptq, SymmetricCodesAreKept) {
  for (const Gptq& how :
       {Gptq{4, 128, false}, {4, 32, true}, {4, 0, false}, {4, 0, true}, {8, 0, false}, {8, 0, true}}) {
    SCOPED_TRACE(std::to_string(how.bits) + " bits, groups of " + std::to_string(how.group));
    Checkpoint checkpoint = make(how);
    const Format format = how.bits == 8 ? Format::i8 : Format::i4;
    halve_codes(checkpoint, format);
    const Layer layer = checkpoint.open().layer(0, {.format = format});
    std::vector<reference::Expert> experts;
    for (int e = 0; e < kExperts; ++e) {
      const auto part = [&](const char* name) {
        return decode(checkpoint, kGptqPrefix + "experts." + std::to_string(e) + "." + name, how.bits, how.group);
      };
      experts.push_back({part(kProj[0]), part(kProj[1]), part(kProj[2])});
    }
    Batch batch(20, layer);
    expect_near(batch.run(layer), expected(batch, experts, {}).value);
  }
}

// One zero that is another in each matrix: the same bits as from a plain checkpoint of these weights.
TEST(NativeGptq, ZerosOfTheirOwnAreRoundedAnew) {
  for (const bool second : {false, true}) {
    const Checkpoint checkpoint = make({4, 128, second, false});
    Checkpoint plain;
    plain.config = checkpoint.config;
    plain.config.erase("quantization_config");
    const Tensor& router = *find(checkpoint, kGptqPrefix + "gate.weight");
    plain.list.add(router.name, router.dtype, router.shape, router.data, router.bytes);
    for (int e = 0; e < kExperts; ++e) {
      for (const char* part : kProj) {
        const std::string name = kGptqPrefix + "experts." + std::to_string(e) + "." + part;
        const reference::Table table = decode(checkpoint, name, 4, 128);
        plain.add(name + ".weight", {table.rows, table.cols}, {table.value.begin(), table.value.end()});
      }
    }
    const Layer layer = checkpoint.open().layer(0, {.format = Format::i4});
    Batch batch(20, layer);
    EXPECT_EQ(batch.run(layer), batch.run(plain.open().layer(0, {.format = Format::i4})));
  }
}

}  // namespace
