// Whole MoE blocks against what transformers computed (golden/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

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
  }
};

// The same experts, in any order, each with its weight.
void expect_same_routing(const Routing& found, const Block& block) {
  ASSERT_EQ(found.tokens, block.tokens);
  ASSERT_EQ(found.topk, block.topk);
  const auto topk = static_cast<std::size_t>(block.topk);
  for (std::size_t t = 0; t < static_cast<std::size_t>(block.tokens); ++t) {
    const std::int32_t* experts = found.expert + t * topk;
    for (std::size_t s = t * topk; s < (t + 1) * topk; ++s) {
      const std::int32_t* slot = std::find(experts, experts + topk, block.expert[s]);
      ASSERT_NE(slot, experts + topk) << "token " << t << " lacks expert " << block.expert[s];
      ASSERT_NEAR(found.weight[slot - found.expert], block.weight[s], kF32Tolerance) << "token " << t;
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

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  static fs::path folder() {
    const std::string name = GetParam();
    return name == "tiny_qwen3_moe" ? fs::path(SWITCHYARD_EXAMPLES) / name : fs::path(SWITCHYARD_TEST_DATA) / name;
  }
  Model model_ = Model::open(folder());
  TensorFile recorded_ = TensorFile::open(folder() / "moe_blocks.safetensors");
};

TEST_P(Golden, MoeLayersAreThoseRecorded) {
  ASSERT_FALSE(model_.info().moe_layers.empty());
  for (std::int32_t layer = 0; layer < model_.info().layers; ++layer) {
    const auto& moe = model_.info().moe_layers;
    const bool found = recorded_.find("layer." + std::to_string(layer) + ".input") != nullptr;
    EXPECT_EQ(std::find(moe.begin(), moe.end(), layer) != moe.end(), found) << "layer " << layer;
  }
  EXPECT_TRUE(model_.info().unsupported.empty());
}

TEST_P(Golden, F32) {
  for (const std::int32_t index : model_.info().moe_layers) {
    SCOPED_TRACE("layer " + std::to_string(index));
    const Block block(recorded_, index);
    const Layer layer = model_.layer(index);
    const Workspace workspace(layer.workspace_bytes(block.tokens));
    std::vector<float> output(block.output.size(), std::nanf(""));
    const ForwardResult result = layer.forward({block.input.data(), block.tokens, block.hidden},
                                               {output.data(), block.tokens, block.hidden}, workspace);
    expect_same_routing(result.routing, block);
    expect_near(output, block.output, kF32Tolerance);
  }
}

// With the recorded routing, so that the tolerance is that of the experts.
TEST_P(Golden, Bf16Activations) {
  for (const std::int32_t index : model_.info().moe_layers) {
    SCOPED_TRACE("layer " + std::to_string(index));
    Block block(recorded_, index);
    const Layer layer = model_.layer(index, {.format = Format::bf16, .activations = DType::bf16});
    const Workspace workspace(layer.workspace_bytes(block.tokens, block.topk));
    std::vector<float> output(block.output.size(), std::nanf(""));
    layer.forward({block.input.data(), block.tokens, block.hidden},
                  {block.tokens, block.topk, block.expert.data(), block.weight.data()},
                  {output.data(), block.tokens, block.hidden}, workspace);
    expect_near(output, block.output, kBf16Tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         ::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_odd", "olmoe", "granitemoe",
                                           "qwen3_vl_moe", "qwen3_moe_fused", "qwen3_moe_sharded", "deepseek_v2",
                                           "deepseek_v3", "glm4_moe", "dots1", "minimax_m2", "tiny_qwen3_moe"),
                         [](const auto& model) { return model.param; });

}  // namespace
