// Prints what each format adds to the error of a layer, as the tables of docs/formats.md.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../tests/cases.hpp"
#include "experts/quantise.hpp"
#include "switchyard/switchyard.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kTokens = 64;

std::vector<float> normal_values(std::int64_t count, double scale, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// A matrix [out, in] as a checkpoint has it whose integers of 4 bits share a scale in groups of 32 inputs: rounded as
// groups of 128 are when a layer is packed.
class GroupsOf32 {
 public:
  GroupsOf32(const std::vector<float>& weight, std::int64_t depth) : depth_(depth) {
    for (auto from = weight.begin(); from != weight.end(); from += kGroup) {
      float largest = 0;
      std::for_each_n(from, kGroup, [&](float value) { largest = std::max(largest, std::fabs(value)); });
      scales_.push_back(round_to_bf16(largest / 7));
      const float scale = std::bit_cast<float>(static_cast<std::uint32_t>(scales_.back()) << 16);
      for (std::int64_t i = 0; i < kGroup; i += 2) {
        const auto code = [&](float value) { return static_cast<unsigned>(round_integer(value / scale, -8, 7, 8)); };
        codes_.push_back(static_cast<std::uint8_t>(code(from[i]) | code(from[i + 1]) << 4));
      }
    }
  }

  WeightView view() const {
    WeightView view{codes_.data(), DType::f32, depth_};
    view.codes = Codes::u4;
    view.scales = {scales_.data(), DType::bf16, depth_ / kGroup, 1, 1, kGroup};
    return view;
  }

 private:
  static constexpr std::int64_t kGroup = 32;
  std::int64_t depth_;
  std::vector<std::uint8_t> codes_;
  std::vector<std::uint16_t> scales_;
};

// One expert of a shape, of normally distributed weights, for normally distributed tokens.
class Expert {
 public:
  explicit Expert(const LayerCase& shape)
      : hidden_(shape.hidden),
        ffn_(shape.ffn),
        gate_(normal_values(hidden_ * ffn_, 1 / std::sqrt(static_cast<double>(hidden_)), 1)),
        up_(normal_values(hidden_ * ffn_, 1 / std::sqrt(static_cast<double>(hidden_)), 2)),
        down_(normal_values(hidden_ * ffn_, 1 / std::sqrt(static_cast<double>(ffn_)), 3)),
        x_(normal_values(kTokens * hidden_, 1, 4)) {}

  std::vector<float> run(Format format, DType activations) {
    return run(format, activations,
               {{gate_.data(), DType::f32, hidden_, 1},
                {up_.data(), DType::f32, hidden_, 1},
                {down_.data(), DType::f32, ffn_, 1}});
  }

  std::vector<float> run_groups_of_32() {
    const GroupsOf32 gate(gate_, hidden_);
    const GroupsOf32 up(up_, hidden_);
    const GroupsOf32 down(down_, ffn_);
    return run(Format::i4, DType::f32, {gate.view(), up.view(), down.view()});
  }

 private:
  std::vector<float> run(Format format, DType activations, const ExpertTensors& tensors) {
    LayerWeights weights;
    weights.experts = 1;
    weights.hidden = hidden_;
    weights.ffn = ffn_;
    weights.expert = [&](std::int32_t) { return tensors; };
    LayerOptions options;
    options.format = format;
    options.activations = activations;
    const Layer layer(weights, {}, options);
    std::vector<std::int32_t> expert(kTokens, 0);
    std::vector<float> weight(kTokens, 1.0F);
    std::vector<float> y(x_.size());
    const Workspace workspace(layer.workspace_bytes(kTokens, 1));
    layer.forward({x_.data(), kTokens, hidden_}, {kTokens, 1, expert.data(), weight.data()},
                  {y.data(), kTokens, hidden_}, workspace);
    return y;
  }

  std::int64_t hidden_;
  std::int64_t ffn_;
  std::vector<float> gate_;
  std::vector<float> up_;
  std::vector<float> down_;
  std::vector<float> x_;
};

// The root of the mean square of the difference, over that of what is expected.
double error(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double apart = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    difference += apart * apart;
    size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::sqrt(difference / size);
}

void print_table(DType activations) {
  std::vector<Format> formats;
  for (std::int32_t i = 1; i < kFormats; ++i) {
    const auto format = static_cast<Format>(i);
    if (activations == DType::f32 || takes_bf16_activations(format)) formats.push_back(format);
  }
  const bool groups_of_32 = activations == DType::f32;
  std::printf("%s activations\n\n| H, F |", dtype_name(activations));
  for (const Format format : formats) std::printf(" %s |", format_name(format));
  std::printf("%s\n| --- |", groups_of_32 ? " int4, groups of 32 |" : "");
  for (std::size_t i = 0; i < formats.size(); ++i) std::printf(" --- |");
  std::printf("%s\n", groups_of_32 ? " --- |" : "");
  for (const LayerCase& shape : kBenchCases) {
    Expert expert(shape);
    const std::vector<float> expected = expert.run(Format::f32, DType::f32);
    std::printf("| %lld, %lld |", static_cast<long long>(shape.hidden), static_cast<long long>(shape.ffn));
    for (const Format format : formats) {
      std::printf(" %.2f %% |", 100 * error(expert.run(format, activations), expected));
    }
    if (groups_of_32) std::printf(" %.2f %% |", 100 * error(expert.run_groups_of_32(), expected));
    std::printf("\n");
  }
  std::printf("\n");
}

}  // namespace
}  // namespace switchyard

int main() {
  switchyard::print_table(switchyard::DType::f32);
  switchyard::print_table(switchyard::DType::bf16);
}
