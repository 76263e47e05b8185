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

constexpr Place kBlock = {.block = "b."};

ExpertPlace place_of(const ExpertLayout& layout) { return {&layout, {&kBlock, "p.{layer}."}, 7, kShape, false}; }

// The part of an expert tensor at `name`, all experts one after the other, or one; element (e, out, in) by `value`.
template <class Value>
std::vector<float> filled(const ExpertLayout& layout, Orientation orientation, std::int64_t out, std::int64_t in,
                          const Value& value, int expert) {
  std::vector<float> values;
  const int first = layout.storage == Storage::single ? expert : 0;
  const int last = layout.storage == Storage::single ? expert + 1 : kShape.experts;
  const bool transposed = orientation == Orientation::in_out;
  for (int e = first; e < last; ++e) {
    for (std::int64_t row = 0; row < (transposed ? in : out); ++row) {
      for (std::int64_t col = 0; col < (transposed ? out : in); ++col) {
        values.push_back(transposed ? value(e, col, row) : value(e, row, col));
      }
    }
  }
  return values;
}

// Every weight in its place, whatever the layout.
void expect_layout(const ExpertLayout& layout, std::vector<std::vector<std::int64_t>> shapes) {
  const bool fused = layout.up == nullptr;
  for (int e = 0; e < kShape.experts; ++e) {
    SCOPED_TRACE(e);
    const ExpertPlace place = place_of(layout);
    const ExpertNames names = expert_names(place, e);
    TensorList list;
    std::array<int, kExpertParts> at{};
    const auto add = [&](std::size_t part, Orientation orientation, std::int64_t out, std::int64_t in,
                         const auto& value) {
      if (names[part].name.empty()) return;
      at[part] = static_cast<int>(list.tensors().size()) + 1;
      EXPECT_EQ(names[part].shape, shapes[part]);
      list.add(names[part].name, names[part].shape, filled(layout, orientation, out, in, value, e));
    };
    const auto gate_value = [&](int expert, std::int64_t out, std::int64_t in) {
      if (!fused) return value_of(0, expert, out, in);
      const bool interleaved = layout.fusion == Fusion::interleaved;
      const int matrix = static_cast<int>(interleaved ? out % 2 : out / kShape.ffn);
      return value_of(matrix, expert, interleaved ? out / 2 : out % kShape.ffn, in);
    };
    const auto matrix_value = [](int matrix) {
      return [=](int expert, std::int64_t out, std::int64_t in) { return value_of(matrix, expert, out, in); };
    };
    const std::int64_t gate_rows = fused ? 2 * kShape.ffn : kShape.ffn;
    add(0, layout.orientation, gate_rows, kShape.hidden, gate_value);
    add(1, layout.orientation, kShape.ffn, kShape.hidden, matrix_value(1));
    add(2, layout.down_orientation, kShape.hidden, kShape.ffn, matrix_value(2));
    add(3, Orientation::out_in, gate_rows, 1, gate_value);
    add(4, Orientation::out_in, kShape.ffn, 1, matrix_value(1));
    add(5, Orientation::out_in, kShape.hidden, 1, matrix_value(2));
    ExpertFiles files{};
    for (std::size_t part = 0; part < kExpertParts; ++part) {
      if (at[part] != 0) {
        files[part] = plain_weight(list.tensors()[static_cast<std::size_t>(at[part] - 1)], names[part]);
      }
    }
    const ExpertTensors expert = expert_views(place, files, e);
    expect_values(expert, e);
    if (files[3].parts.codes == nullptr) continue;
    for (std::int64_t f = 0; f < kShape.ffn; ++f) {
      ASSERT_EQ(read(expert.gate_bias, f, 0), value_of(0, e, f, 0));
      ASSERT_EQ(read(expert.up_bias, f, 0), value_of(1, e, f, 0));
    }
    for (std::int64_t h = 0; h < kShape.hidden; ++h) ASSERT_EQ(read(expert.down_bias, h, 0), value_of(2, e, h, 0));
  }
}

constexpr ExpertLayout kFused = {.gate = "{block}gate_up", .down = "{block}down", .storage = Storage::stacked};
constexpr ExpertLayout kPerExpert = {
    .gate = "{expert}.g.weight", .up = "{expert}.u.weight", .down = "{expert}.d.weight"};

ExpertLayout fused(Orientation orientation, Fusion fusion, bool biases = false) {
  ExpertLayout layout = kFused;
  layout.orientation = layout.down_orientation = orientation;
  layout.fusion = fusion;
  if (biases) {
    layout.gate_bias = "gb";
    layout.down_bias = "db";
  }
  return layout;
}

TEST(Layout, FusedOutIn) { expect_layout(fused(Orientation::out_in, Fusion::gate_first), {{3, 8, 5}, {}, {3, 5, 4}}); }
TEST(Layout, FusedInOut) { expect_layout(fused(Orientation::in_out, Fusion::gate_first), {{3, 5, 8}, {}, {3, 4, 5}}); }
TEST(Layout, InterleavedOutIn) {
  expect_layout(fused(Orientation::out_in, Fusion::interleaved), {{3, 8, 5}, {}, {3, 5, 4}});
}
TEST(Layout, InterleavedInOut) {
  expect_layout(fused(Orientation::in_out, Fusion::interleaved), {{3, 5, 8}, {}, {3, 4, 5}});
}
TEST(Layout, BiasesAreFusedAsTheWeightsAre) {
  for (const Fusion fusion : {Fusion::gate_first, Fusion::interleaved}) {
    expect_layout(fused(Orientation::in_out, fusion, true), {{3, 5, 8}, {}, {3, 4, 5}, {3, 8}, {}, {3, 5}});
  }
}
TEST(Layout, PerExpert) { expect_layout(kPerExpert, {{4, 5}, {4, 5}, {5, 4}}); }
TEST(Layout, Stacked) {
  ExpertLayout layout = kPerExpert;
  layout.storage = Storage::stacked;
  expect_layout(layout, {{3, 4, 5}, {3, 4, 5}, {3, 5, 4}});
}
TEST(Layout, Flattened) {
  ExpertLayout layout = kPerExpert;
  layout.storage = Storage::flattened;
  layout.down_orientation = Orientation::in_out;
  expect_layout(layout, {{12, 5}, {12, 5}, {12, 5}});
}

TEST(Layout, NamesInFull) {
  EXPECT_EQ(expert_names(place_of(kFused), 0)[0].name, "p.7.b.gate_up");
  EXPECT_EQ(expert_names(place_of(kPerExpert), 2)[1].name, "p.7.2.u.weight");
  EXPECT_EQ(expert_names(place_of(kPerExpert), 2)[4].name, "");
  ExpertPlace biased = place_of(kPerExpert);
  biased.named_biases = true;
  EXPECT_EQ(expert_names(biased, 2)[4].name, "p.7.2.u.bias");
  EXPECT_EQ(expert_names(biased, 2)[4].shape, std::vector<std::int64_t>{4});
}

TEST(Layout, WithoutAGate) {
  ExpertLayout layout = kPerExpert;
  layout.gate = nullptr;
  ExpertPlace place = place_of(layout);
  place.named_biases = true;
  const ExpertNames names = expert_names(place, 0);
  EXPECT_EQ(names[0].name, "");
  EXPECT_EQ(names[3].name, "");
  TensorList list;
  list.add("u", {4, 5}, std::vector<float>(20));
  list.add("d", {5, 4}, std::vector<float>(20));
  const ExpertFiles files = {StoredWeight{}, plain_weight(list.tensors()[0], names[1]),
                             plain_weight(list.tensors()[1], names[2])};
  const ExpertTensors expert = expert_views(place, files, 0);
  EXPECT_EQ(expert.gate.data, nullptr);
  EXPECT_EQ(expert.up.data, list.tensors()[0].data);
  EXPECT_EQ(expert.down.data, list.tensors()[1].data);
}

// More rows than experts are those of identity experts.
TEST(Layout, AStackThatHoldsMore) {
  TensorList list;
  list.add("x", {5, 8, 5}, std::vector<float>(200));
  const Tensor& tensor = list.tensors()[0];
  const NamedShape wanted = expert_names(place_of(kFused), 0)[0];
  EXPECT_EQ(matrix_of(plain_weight(tensor, wanted), 1).data, tensor.data + tensor.bytes / 5);
}

ModelConfig config_of(const char* model_type, const ExpertShape& shape) {
  ModelConfig config;
  config.family = find_family(model_type);
  config.experts = shape.experts;
  config.hidden = shape.hidden;
  config.ffn = shape.ffn;
  return config;
}

// What is chosen for a file with a gate_up_proj and a down_proj of these shapes.
PlaceChoice choose(const ExpertShape& shape, std::vector<std::int64_t> gate_up, std::vector<std::int64_t> down) {
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
  return choose_place(TensorFile::open(folder / "t.safetensors"), config_of("qwen3_vl_moe_text", shape), 2);
}

TEST(Layout, OrientationByShape) {
  const ExpertShape shape = {.experts = 2, .hidden = 5, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 5, 8}, {2, 4, 5}).place->experts->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 5}, {2, 5, 4}).place->experts->orientation, Orientation::out_in);
  EXPECT_STREQ(choose(shape, {2, 5, 8}, {2, 4, 5}).prefix, "model.language_model.layers.{layer}.");
}

TEST(Layout, OrientationWhereDownIsSquare) {
  const ExpertShape shape = {.experts = 2, .hidden = 4, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 4, 8}, {2, 4, 4}).place->experts->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 4}, {2, 4, 4}).place->experts->orientation, Orientation::out_in);
}

TEST(Layout, OrientationWhereGateAndUpAreSquare) {
  const ExpertShape shape = {.experts = 2, .hidden = 8, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 8, 8}, {2, 4, 8}).place->experts->orientation, Orientation::in_out);
  EXPECT_EQ(choose(shape, {2, 8, 8}, {2, 8, 4}).place->experts->orientation, Orientation::out_in);
}

TEST(Layout, PublishedOrientationWhereNothingFits) {
  const ExpertShape shape = {.experts = 2, .hidden = 5, .ffn = 4};
  EXPECT_EQ(choose(shape, {2, 3, 3}, {2, 3, 3}).place->experts->orientation, Orientation::in_out);
}

TEST(Layout, NoneWithoutTensors) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", {});
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(choose_place(file, config_of("mixtral", kShape), 0).place, nullptr);
}

}  // namespace
