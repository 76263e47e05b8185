// Prints what each format adds to the error of a layer, as the table of docs/formats.md.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "../tests/cases.hpp"
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

  std::vector<float> run(Format format) {
    LayerWeights weights;
    weights.experts = 1;
    weights.hidden = hidden_;
    weights.ffn = ffn_;
    weights.expert = [&](std::int32_t) {
      return ExpertTensors{{gate_.data(), DType::f32, hidden_, 1},
                           {up_.data(), DType::f32, hidden_, 1},
                           {down_.data(), DType::f32, ffn_, 1}};
    };
    LayerOptions options;
    options.format = format;
    const Layer layer(weights, {}, options);
    std::vector<std::int32_t> expert(kTokens, 0);
    std::vector<float> weight(kTokens, 1.0F);
    std::vector<float> y(x_.size());
    const Workspace workspace(layer.workspace_bytes(kTokens, 1));
    layer.forward({x_.data(), kTokens, hidden_}, {kTokens, 1, expert.data(), weight.data()},
                  {y.data(), kTokens, hidden_}, workspace);
    return y;
  }

 private:
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

void print_table() {
  std::printf("| H, F |");
  for (std::int32_t i = 1; i < kFormats; ++i) std::printf(" %s |", format_name(static_cast<Format>(i)));
  std::printf("\n| --- |");
  for (std::int32_t i = 1; i < kFormats; ++i) std::printf(" --- |");
  std::printf("\n");
  for (const LayerCase& shape : kBenchCases) {
    Expert expert(shape);
    const std::vector<float> expected = expert.run(Format::f32);
    std::printf("| %lld, %lld |", static_cast<long long>(shape.hidden), static_cast<long long>(shape.ffn));
    for (std::int32_t i = 1; i < kFormats; ++i) {
      std::printf(" %.2f %% |", 100 * error(expert.run(static_cast<Format>(i)), expected));
    }
    std::printf("\n");
  }
}

}  // namespace
}  // namespace switchyard

int main() { switchyard::print_table(); }
