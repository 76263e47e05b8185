// Whole MoE blocks against what transformers computed (golden/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "switchyard/error.hpp"
#include "switchyard/model.hpp"
#include "switchyard/tensor_file.hpp"
#include "tolerances.hpp"

namespace {

using namespace switchyard;
namespace fs = std::filesystem;

template <class T>
std::vector<T> values_of(const Tensor& tensor) {
  std::vector<T> values(tensor.bytes / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), tensor.data, tensor.bytes);
  return values;
}

// What was recorded of one layer.
struct Block {
  std::int64_t tokens = 0;
  std::int64_t hidden = 0;
  std::int32_t topk = 0;
  std::vector<float> input;          // [T,H]
  std::vector<std::int32_t> expert;  // [T,K]
  std::vector<float> weight;         // [T,K]
  std::vector<float> output;         // [T,H]
  std::vector<std::int64_t> token;   // [T], where experts are looked up by them

  Block(const TensorFile& file, std::int32_t layer) {
    const std::string prefix = "layer." + std::to_string(layer) + ".";
    const Tensor& x = file.at(prefix + "input");
    tokens = x.shape.at(0);
    hidden = x.shape.at(1);
    topk = static_cast<std::int32_t>(file.at(prefix + "expert").shape.at(1));
    input = values_of<float>(x);
    expert = values_of<std::int32_t>(file.at(prefix + "expert"));
    weight = values_of<float>(file.at(prefix + "weight"));
    output = values_of<float>(file.at(prefix + "output"));
    if (const Tensor* ids = file.find(prefix + "token_ids")) token = values_of<std::int64_t>(*ids);
  }

  RouteInputs inputs() const {
    RouteInputs inputs;
    if (!token.empty()) inputs.token_id = {token.data(), DType::i64};
    return inputs;
  }
};

// Some blocks scale their output, which is done to the weights here: how much they are larger than the recorded ones.
double scale_of(const std::vector<float>& found, const std::vector<float>& recorded) {
  const double sum = std::accumulate(recorded.begin(), recorded.end(), 0.0);
  return std::accumulate(found.begin(), found.end(), 0.0) / sum;
}

// The same experts, in any order, each with its weight, all times one number. That one the output shows to be right.
void expect_same_routing(const Routing& found, const Block& block) {
  ASSERT_EQ(found.tokens, block.tokens);
  ASSERT_EQ(found.topk, block.topk);
  const auto topk = static_cast<std::size_t>(block.topk);
  const double scale = scale_of({found.weight, found.weight + block.weight.size()}, block.weight);
  for (std::size_t t = 0; t < static_cast<std::size_t>(block.tokens); ++t) {
    const std::int32_t* experts = found.expert + t * topk;
    for (std::size_t s = t * topk; s < (t + 1) * topk; ++s) {
      const std::int32_t* slot = std::find(experts, experts + topk, block.expert[s]);
      ASSERT_NE(slot, experts + topk) << "token " << t << " lacks expert " << block.expert[s];
      ASSERT_NEAR(found.weight[slot - found.expert] / scale, block.weight[s],
                  kF32Tolerance * std::max(1.0F, block.weight[s]))
          << "token " << t;
    }
  }
}

// Differences relative to the largest expected value.
void expect_near(const std::vector<float>& found, const std::vector<float>& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0;
  double difference = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(std::isfinite(found[i])) << "element " << i;
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    difference = std::max(difference, std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i])));
  }
  ASSERT_GT(largest, 0);
  EXPECT_LE(difference / largest, tolerance);
}

// All folders, and those whose block is not run.
std::vector<std::string> folders() {
  std::vector<std::string> names = {"tiny_qwen3_moe"};
  for (const fs::directory_entry& entry : fs::directory_iterator(SWITCHYARD_TEST_DATA)) {
    if (fs::exists(entry.path() / "config.json")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}
const std::set<std::string> kRefused = {"ernie4_5_vl_moe", "gemma4", "inkling", "muse_spark", "zaya"};

fs::path path_of(const std::string& name) {
  return name == "tiny_qwen3_moe" ? fs::path(SWITCHYARD_EXAMPLES) / name : fs::path(SWITCHYARD_TEST_DATA) / name;
}

// Recorded in bf16, and not in f32 as the others.
const std::set<std::string> kBf16 = {"deepseek_v3_bf16", "minimax_m2_bf16"};

std::vector<std::string> folders_that_run() {
  std::vector<std::string> names = folders();
  std::erase_if(names, [](const std::string& name) { return kRefused.contains(name) || kBf16.contains(name); });
  return names;
}

// What A.X-K1 does to its block's output, and a Layer leaves to the caller.
void normalise_rows(const fs::path& folder, std::int32_t layer, std::int64_t hidden, std::vector<float>& rows) {
  const double epsilon = nlohmann::json::parse(std::ifstream(folder / "config.json")).at("rms_norm_eps");
  const TensorFile file = TensorFile::open(folder / "model.safetensors");
  const auto gain = values_of<float>(file.at("model.layers." + std::to_string(layer) + ".post_mlp_layernorm.weight"));
  for (auto row = rows.begin(); row != rows.end(); row += hidden) {
    const double squares = std::inner_product(row, row + hidden, row, 0.0);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(hidden) + epsilon);
    for (std::int64_t i = 0; i < hidden; ++i) {
      row[i] = static_cast<float>(row[i] * factor) * gain[static_cast<std::size_t>(i)];
    }
  }
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  void expect_output(std::int32_t layer, const Block& block, std::vector<float> output, double tolerance) const {
    if (!model_.info().outside.empty()) normalise_rows(path_of(GetParam()), layer, block.hidden, output);
    expect_near(output, block.output, tolerance);
  }

  Model model_ = Model::open(path_of(GetParam()));
  TensorFile recorded_ = TensorFile::open(path_of(GetParam()) / "moe_blocks.safetensors");
};

TEST_P(Golden, MoeLayersAreThoseRecorded) {
  ASSERT_FALSE(model_.info().moe_layers.empty());
  for (std::int32_t layer = 0; layer < model_.info().layers; ++layer) {
    const auto& moe = model_.info().moe_layers;
    const bool found = recorded_.find("layer." + std::to_string(layer) + ".input") != nullptr;
    EXPECT_EQ(std::find(moe.begin(), moe.end(), layer) != moe.end(), found) << "layer " << layer;
  }
  EXPECT_EQ(model_.info().unsupported, std::vector<std::string>{});
}

TEST_P(Golden, F32) {
  for (const std::int32_t index : model_.info().moe_layers) {
    SCOPED_TRACE("layer " + std::to_string(index));
    const Block block(recorded_, index);
    const Layer layer = model_.layer(index);
    const Workspace workspace(layer.workspace_bytes(block.tokens));
    std::vector<float> output(block.output.size(), std::nanf(""));
    const ForwardResult result = layer.forward({block.input.data(), block.tokens, block.hidden},
                                               {output.data(), block.tokens, block.hidden}, workspace, block.inputs());
    expect_same_routing(result.routing, block);
    expect_output(index, block, output, kF32Tolerance);
  }
}

// With the routing of the fp32 layer, so that the tolerance is that of the experts.
TEST_P(Golden, Bf16Activations) {
  for (const std::int32_t index : model_.info().moe_layers) {
    SCOPED_TRACE("layer " + std::to_string(index));
    Block block(recorded_, index);
    const Layer layer = model_.layer(index, {.format = Format::bf16, .activations = DType::bf16});
    const Workspace workspace(layer.workspace_bytes(block.tokens, block.topk));
    std::vector<float> output(block.output.size(), std::nanf(""));
    const ConstMatrix x(block.input.data(), block.tokens, block.hidden);
    const Matrix y(output.data(), block.tokens, block.hidden);
    const Layer exact = model_.layer(index);
    const Workspace exact_workspace(exact.workspace_bytes(block.tokens));
    const Routing routing = exact.forward(x, y, exact_workspace, block.inputs()).routing;
    layer.forward(x, routing, y, workspace);
    expect_output(index, block, output, kBf16Tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(folders_that_run()),
                         [](const auto& model) { return model.param; });

class GoldenBf16 : public ::testing::TestWithParam<std::string> {};

std::set<std::int32_t> experts_of(const std::int32_t* slots, std::int32_t topk) { return {slots, slots + topk}; }

// Weights are f32 in both families, so they show the type of the logits in every token; and in some token the other type
// chooses other experts.
TEST_P(GoldenBf16, RoutersRunInTheTypeOfTheFamily) {
  const Model model = Model::open(path_of(GetParam()));
  const TensorFile recorded = TensorFile::open(path_of(GetParam()) / "moe_blocks.safetensors");
  const Block block(recorded, 0);
  std::vector<float> output(block.output.size(), std::nanf(""));
  const ConstMatrix x(block.input.data(), block.tokens, block.hidden);
  const Matrix y(output.data(), block.tokens, block.hidden);

  LayerOptions options{.format = Format::bf16, .activations = DType::bf16};
  const Layer layer = model.layer(0, options);
  EXPECT_EQ(layer.options().router, model.info().narrow_router ? DType::bf16 : DType::f32);
  const Workspace workspace(layer.workspace_bytes(block.tokens));
  expect_same_routing(layer.forward(x, y, workspace).routing, block);
  expect_near(output, block.output, kBf16Tolerance);

  options.router = model.info().narrow_router ? DType::f32 : DType::bf16;
  const Layer other = model.layer(0, options);
  const Workspace other_workspace(other.workspace_bytes(block.tokens));
  const Routing found = other.forward(x, y, other_workspace).routing;
  std::int64_t same = 0;
  for (std::int64_t slot = 0; slot < block.tokens * block.topk; slot += block.topk) {
    same += experts_of(found.expert + slot, block.topk) ==
            experts_of(&block.expert[static_cast<std::size_t>(slot)], block.topk);
  }
  EXPECT_LT(same, block.tokens);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenBf16, ::testing::ValuesIn(kBf16), [](const auto& model) { return model.param; });

class Refused : public ::testing::TestWithParam<std::string> {};

TEST_P(Refused, OpensAndSaysWhy) {
  const Model model = Model::open(path_of(GetParam()));
  ASSERT_EQ(model.info().unsupported.size(), 1u);
  try {
    model.layer(0);
    FAIL() << "a layer was made";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::not_supported);
    EXPECT_NE(std::string_view(error.what()).find(model.info().unsupported[0]), std::string_view::npos);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Refused, ::testing::ValuesIn(kRefused), [](const auto& model) { return model.param; });

}  // namespace
