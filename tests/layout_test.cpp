#include "checkpoint/layout.hpp"

#include <array>

#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

constexpr ExpertShape kShape = {.experts = 3, .hidden = 5, .ffn = 4};

// Every weight has a value of its own: matrix (0 gate, 1 up, 2 down), expert, output, input.
float value_of(int matrix, int expert, std::int64_t out, std::int64_t in) {
  return static_cast<float>(((matrix * 10 + expert) * 10 + out) * 10 + in);
}

float read(const WeightView& view, std::int64_t out, std::int64_t in) {
  float value = 0;
  const auto at = (out * view.out_stride + in * view.in_stride) * static_cast<std::int64_t>(sizeof value);
  std::memcpy(&value, static_cast<const std::byte*>(view.data) + at, sizeof value);
  return value;
}

void expect_values(const ExpertTensors& expert, int e) {
  for (std::int64_t f = 0; f < kShape.ffn; ++f) {
    for (std::int64_t h = 0; h < kShape.hidden; ++h) {
      ASSERT_EQ(read(expert.gate, f, h), value_of(0, e, f, h)) << "gate " << f << ' ' << h;
      ASSERT_EQ(read(expert.up, f, h), value_of(1, e, f, h)) << "up " << f << ' ' << h;
      ASSERT_EQ(read(expert.down, h, f), value_of(2, e, h, f)) << "down " << h << ' ' << f;
    }
  }
}

// Matrix and row of the row-th output feature of a fused tensor.
std::pair<int, std::int64_t> fused_row(Fusion fusion, std::int64_t row) {
  if (fusion == Fusion::interleaved) return {static_cast<int>(row % 2), row / 2};
  return {static_cast<int>(row / kShape.ffn), row % kShape.ffn};
}

void expect_fused(Orientation orientation, Fusion fusion) {
  const ExpertLayout layout = {
      .router = "r", .gate = "gate_up", .down = "down", .orientation = orientation, .fusion = fusion};
  const bool transposed = orientation == Orientation::in_out;
  const std::int64_t h = kShape.hidden;
  const std::int64_t f = kShape.ffn;
  std::vector<float> gate_up(static_cast<std::size_t>(kShape.experts * 2 * f * h));
  std::vector<float> down(static_cast<std::size_t>(kShape.experts * f * h));
  for (int e = 0; e < kShape.experts; ++e) {
    for (std::int64_t i = 0; i < h; ++i) {
      for (std::int64_t row = 0; row < 2 * f; ++row) {
        const auto [matrix, out] = fused_row(fusion, row);
        const std::int64_t at = e * 2 * f * h + (transposed ? i * 2 * f + row : row * h + i);
        gate_up[static_cast<std::size_t>(at)] = value_of(matrix, e, out, i);
      }
      for (std::int64_t in = 0; in < f; ++in) {
        const std::int64_t at = e * f * h + (transposed ? in * h + i : i * f + in);
        down[static_cast<std::size_t>(at)] = value_of(2, e, i, in);
      }
    }
  }
  const auto names = expert_names(layout, "p.", kShape, 0);
  ASSERT_EQ(names.size(), 2u);
  EXPECT_EQ(names[0].name, "p.gate_up");
  TensorList list;
  list.add(names[0].name, names[0].shape, gate_up);
  list.add(names[1].name, names[1].shape, down);
  EXPECT_EQ(names[0].shape, transposed ? (std::vector<std::int64_t>{3, 5, 8}) : (std::vector<std::int64_t>{3, 8, 5}));
  EXPECT_EQ(names[1].shape, transposed ? (std::vector<std::int64_t>{3, 4, 5}) : (std::vector<std::int64_t>{3, 5, 4}));
  const std::array<const Tensor*, 2> tensors = {&list.tensors()[0], &list.tensors()[1]};
  for (int e = 0; e < kShape.experts; ++e) {
    SCOPED_TRACE(e);
    expect_values(expert_views(layout, kShape, tensors, e), e);
    const auto slices = expert_slices(layout, kShape, tensors, e);
    EXPECT_EQ(slices[0].data(), tensors[0]->data + tensors[0]->bytes / 3 * static_cast<std::size_t>(e));
    EXPECT_EQ(slices[1].size(), tensors[1]->bytes / 3);
  }
}

TEST(Layout, FusedOutIn) { expect_fused(Orientation::out_in, Fusion::gate_first); }
TEST(Layout, FusedInOut) { expect_fused(Orientation::in_out, Fusion::gate_first); }
TEST(Layout, InterleavedOutIn) { expect_fused(Orientation::out_in, Fusion::interleaved); }
TEST(Layout, InterleavedInOut) { expect_fused(Orientation::in_out, Fusion::interleaved); }

TEST(Layout, PerExpert) {
  const ExpertLayout layout = {.router = "r", .gate = "{expert}.g", .up = "{expert}.u", .down = "{expert}.d"};
  for (int e = 0; e < kShape.experts; ++e) {
    TensorList list;
    const auto names = expert_names(layout, "p.", kShape, e);
    ASSERT_EQ(names.size(), 3u);
    EXPECT_EQ(names[1].name, "p." + std::to_string(e) + ".u");
    for (int matrix = 0; matrix < 3; ++matrix) {
      const NamedShape& name = names[static_cast<std::size_t>(matrix)];
      std::vector<float> values;
      for (std::int64_t out = 0; out < name.shape[0]; ++out) {
        for (std::int64_t in = 0; in < name.shape[1]; ++in) values.push_back(value_of(matrix, e, out, in));
      }
      list.add(name.name, name.shape, values);
    }
    const std::array<const Tensor*, 3> tensors = {&list.tensors()[0], &list.tensors()[1], &list.tensors()[2]};
    expect_values(expert_views(layout, kShape, tensors, e), e);
    EXPECT_EQ(expert_slices(layout, kShape, tensors, e)[2].size(), tensors[2]->bytes);
  }
}

const Family& family_named(std::string_view name) {
  for (const Family& family : families()) {
    if (name == family.name) return family;
  }
  throw std::runtime_error("no such family");
}

// What is chosen for a file with a gate_up_proj and a down_proj of these shapes.
LayoutChoice choose(const ExpertShape& shape, std::vector<std::int64_t> gate_up, std::vector<std::int64_t> down) {
  const TempFolder folder;
  TensorList list;
  for (auto* tensor_shape : {&gate_up, &down}) {
    std::size_t elements = 1;
    for (const std::int64_t size : *tensor_shape) elements *= static_cast<std::size_t>(size);
    const char* name = tensor_shape == &gate_up ? "gate_up_proj" : "down_proj";
    list.add(std::string("model.language_model.layers.2.mlp.experts.") + name, *tensor_shape,
             std::vector<float>(elements));
  }
  write_safetensors(folder / "t.safetensors", list.tensors());
  return choose_layout(TensorFile::open(folder / "t.safetensors"), family_named("qwen3_vl_moe"), shape, 2);
}

TEST(Layout, OrientationByShape) {
  const ExpertShape shape = {.experts = 2, .hidden = 5, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 5, 8}, {2, 4, 5}).layout->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 5}, {2, 5, 4}).layout->orientation, Orientation::out_in);
  EXPECT_STREQ(choose(shape, {2, 5, 8}, {2, 4, 5}).prefix, "model.language_model.layers.{layer}.");
}

TEST(Layout, OrientationWhereDownIsSquare) {
  const ExpertShape shape = {.experts = 2, .hidden = 4, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 4, 8}, {2, 4, 4}).layout->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 4}, {2, 4, 4}).layout->orientation, Orientation::out_in);
}

TEST(Layout, OrientationWhereGateAndUpAreSquare) {
  const ExpertShape shape = {.experts = 2, .hidden = 8, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 8, 8}, {2, 4, 8}).layout->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 8}, {2, 8, 4}).layout->orientation, Orientation::out_in);
}

TEST(Layout, PublishedOrientationWhereNothingFits) {
  const ExpertShape shape = {.experts = 2, .hidden = 5, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 3, 3}, {2, 3, 3}).layout->orientation, Orientation::in_out);
}

TEST(Layout, NoneWithoutTensors) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", {});
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(choose_layout(file, family_named("mixtral"), kShape, 0).layout, nullptr);
}

}  // namespace
