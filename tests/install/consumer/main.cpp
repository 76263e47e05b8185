// The installed library from C++: two experts of one feature, one token for each; and a store, which needs more libraries.
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "switchyard/switchyard.hpp"

namespace sy = switchyard;

namespace {

bool stores_a_row() {
  const std::filesystem::path path = std::filesystem::current_path() / "consumer.db";
  std::filesystem::remove(path);
  sy::RecordStore store = sy::RecordStore::open(path, {.access = sy::StoreAccess::create});
  const sy::RecordSchema schema{4, 2, {0}, sy::SlotOrder::kept, "consumer"};
  const std::array<unsigned char, 2> row{3, 1};
  const auto id = store.add_sequence(schema, "one");
  store.append(id, 0, sy::rows_in_memory(schema, row.data(), 1));
  std::array<unsigned char, 2> back{};
  unsigned char valid = 0;
  store.read(id, 0, 1, {}, sy::RecordLayout::rows_first, back.data(), &valid);
  return valid == 1 && back == row && store.verify().empty();
}

}  // namespace

int main() {
  const std::array<float, 4> router{1, 0, 0, 1};
  const std::array<float, 2> ones{1, 1};
  const std::array<float, 4> down{1, 1, 2, 2};  // expert 1 gives twice as much
  sy::LayerWeights weights;
  weights.experts = 2;
  weights.hidden = 2;
  weights.ffn = 1;
  weights.router = {router.data(), sy::DType::f32, 2, 1};
  weights.expert = [&](std::int32_t expert) {
    const sy::WeightView in{ones.data(), sy::DType::f32, 2, 1};
    return sy::ExpertTensors{in, in, {down.data() + 2 * expert, sy::DType::f32, 1, 1}};
  };
  sy::RouterOptions options;
  options.normalize = sy::Normalize::sum;
  const sy::Layer layer(weights, options, {});

  const std::array<float, 4> x{1, 0, 0, 1};
  std::array<float, 4> y{};
  const sy::Workspace workspace(layer.workspace_bytes(2));
  const sy::ForwardResult result = layer.forward({x.data(), 2, 2}, {y.data(), 2, 2}, workspace);
  const float silu = 1 / (1 + std::exp(-1.0f));
  std::printf("%s: experts %d %d, y %g %g\n", sy::isa_name(sy::current_isa()), result.routing.expert[0],
              result.routing.expert[1], static_cast<double>(y[0]), static_cast<double>(y[2]));
  const bool right = std::abs(y[0] - silu) < 1e-6f && std::abs(y[2] - 2 * silu) < 1e-6f;
  return right && stores_a_row() && result.routing.expert[0] == 0 && result.routing.expert[1] == 1 ? 0 : 1;
}
