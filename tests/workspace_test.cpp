// Memory: sizes known beforehand, exactly sized buffers between guard pages, no allocation in a forward.
#include "switchyard/workspace.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "counted_new.hpp"
#include "guarded.hpp"
#include "layer_variants.hpp"

namespace {

using namespace made;
using switchyard::testing::Guarded;

struct Case {
  LayerCase shape;
  std::int64_t tokens;
  bool at_end;
};

// Runs x with x, y and workspace of exactly their sizes between guard pages; with the router, or a routing if one is given.
std::vector<std::byte> guarded_forward(const Layer& layer, const Rows& x, bool at_end,
                                       const Routing* routing = nullptr) {
  const Guarded in(x.bytes.size(), at_end);
  const Guarded out(x.bytes.size(), at_end);
  const std::size_t needed =
      routing == nullptr ? layer.workspace_bytes(x.rows) : layer.workspace_bytes(x.rows, routing->topk);
  const Guarded memory(needed, at_end);
  std::copy(x.bytes.begin(), x.bytes.end(), in.data());
  const ConstMatrix from(in.data(), x.dtype, x.rows, x.cols);
  const Matrix to(out.data(), x.dtype, x.rows, x.cols);
  if (routing == nullptr) {
    layer.forward(from, to, Workspace(memory.data(), needed));
  } else {
    layer.forward(from, *routing, to, Workspace(memory.data(), needed));
  }
  return {out.data(), out.data() + x.bytes.size()};
}

TEST(Workspace, ExactSizesBetweenGuardPagesInRandomOrderOfShapes) {
  std::vector<Case> cases;
  for (const LayerCase& shape : kTestCases) {
    for (const std::int64_t tokens : {1, 2, 17}) {
      cases.push_back({shape, tokens, true});
      cases.push_back({shape, tokens, false});
    }
  }
  std::mt19937 random(1);
  std::shuffle(cases.begin(), cases.end(), random);
  for (const Case& each : cases) {
    const Weights weights(each.shape, Shared::gated, 2);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = each.shape.topk},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      const Rows x(DType::bf16, random_table(each.tokens, each.shape.hidden, 1.0, random));
      Rows expected(DType::bf16, x.rows, x.cols);
      const Workspace workspace(layer.workspace_bytes(x.rows));
      const Routing routing = layer.forward(x.view(), expected.view(), workspace).routing;
      EXPECT_EQ(guarded_forward(layer, x, each.at_end), expected.bytes) << each.shape.name << " tokens " << each.tokens;
      EXPECT_EQ(guarded_forward(layer, x, each.at_end, &routing), expected.bytes)
          << each.shape.name << " tokens " << each.tokens << ", given routing";
    }
  }
}

TEST(Workspace, ExactSizesForEveryVariant) {
  const LayerCase shape = kTestCases[1];
  std::mt19937 random(9);
  for (const Extras& extras : kVariants) {
    const Weights weights(shape, Shared::gated, 10, extras);
    for (const Arithmetic& arithmetic : kArithmetics) {
      const Layer layer = weights.layer({.topk = shape.topk},
                                        {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
      for (const std::int64_t tokens : {0, 1, 17}) {
        const Rows x(DType::bf16, random_table(tokens, shape.hidden, 1.0, random));
        Rows expected(DType::bf16, x.rows, x.cols);
        const Workspace workspace(layer.workspace_bytes(200));
        const Routing routing = layer.forward(x.view(), expected.view(), workspace).routing;
        const std::int64_t counted = allocations;
        layer.forward(x.view(), expected.view(), workspace);
        EXPECT_EQ(allocations, counted) << extras.name;
        EXPECT_EQ(guarded_forward(layer, x, true), expected.bytes) << extras.name << " tokens " << tokens;
        EXPECT_EQ(guarded_forward(layer, x, false, &routing), expected.bytes) << extras.name << " tokens " << tokens;
      }
    }
  }
}

TEST(Workspace, OneServesEverySmallerBatchInAnyOrder) {
  const LayerCase shape = kTestCases[1];
  const Weights weights(shape, Shared::gated, 3);
  const Layer layer = weights.layer({.topk = shape.topk, .normalize = Normalize::sum}, {});
  const std::size_t needed = layer.workspace_bytes(300);
  Guarded memory(needed, true);
  std::mt19937 random(4);
  std::size_t before = 0;
  for (std::int64_t tokens = 0; tokens <= 300; ++tokens) {
    EXPECT_GE(layer.workspace_bytes(tokens), before) << "sizes must not shrink";
    before = layer.workspace_bytes(tokens);
    EXPECT_EQ(before % kWorkspaceAlignment, 0U);
  }
  for (int i = 0; i < 20; ++i) {
    const auto tokens = std::uniform_int_distribution<std::int64_t>(0, 300)(random);
    const Rows x(DType::f32, random_table(tokens, shape.hidden, 1.0, random));
    Rows y(DType::f32, x.rows, x.cols);
    layer.forward(x.view(), y.view(), Workspace(memory.data(), needed));
    EXPECT_EQ(y.bytes, forward(layer, x).bytes) << "tokens " << tokens;
  }
}

TEST(Workspace, AForwardAllocatesNothing) {
  const LayerCase shape = kTestCases[0];
  const Weights weights(shape, Shared::gated, 5);
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer = weights.layer({.topk = shape.topk, .normalize = Normalize::sum},
                                      {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(3)});
    std::mt19937 random(6);
    const Rows x(DType::f32, random_table(200, shape.hidden, 1.0, random));
    Rows y(DType::f32, x.rows, x.cols);
    const Workspace workspace(layer.workspace_bytes(x.rows));
    layer.forward(x.view(), y.view(), workspace);
    const std::int64_t counted = allocations;
    for (const std::int64_t tokens : {200, 1, 0, 17}) {
      layer.forward(x.view(0, tokens), y.view(0, tokens), workspace);
    }
    EXPECT_EQ(allocations, counted);
    EXPECT_GT(counted, 100) << "making layers allocates: the counter must have seen it";
  }
}

TEST(Workspace, RouterLogitsAllocateNothing) {
  const LayerCase shape = kTestCases[0];
  const Weights weights(shape, Shared::gated, 5);
  const Layer layer = weights.layer({.topk = shape.topk}, {.threads = Threads::pool(3)});
  std::mt19937 random(6);
  const Rows x(DType::f32, random_table(200, shape.hidden, 1.0, random));
  Rows logits(DType::f32, x.rows, shape.experts);
  const Workspace workspace(layer.workspace_bytes(x.rows));
  layer.router_logits(x.view(), logits.view(), workspace);
  const std::int64_t counted = allocations;
  for (const std::int64_t tokens : {200, 1, 0, 17}) {
    layer.router_logits(x.view(0, tokens), logits.view(0, tokens), workspace);
  }
  EXPECT_EQ(allocations, counted);
  EXPECT_GT(counted, 0) << "making layers allocates: the counter must have seen it";
}

TEST(Workspace, TooSmallOrUnalignedIsAnError) {
  const LayerCase shape = kTestCases[4];
  const Weights weights(shape, Shared::none, 7);
  const Layer layer = weights.layer({.topk = shape.topk, .normalize = Normalize::sum}, {});
  std::mt19937 random(8);
  const Rows x(DType::f32, random_table(5, shape.hidden, 1.0, random));
  Rows y(DType::f32, 5, shape.hidden);
  const std::size_t needed = layer.workspace_bytes(5);
  Workspace small(needed - 64);
  try {
    layer.forward(x.view(), y.view(), small);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_argument);
    EXPECT_EQ(std::string(error.what()), "layer: found a workspace of " + std::to_string(needed - 64) +
                                             " bytes, expected at least " + std::to_string(needed));
  }
  alignas(64) std::byte memory[128];
  EXPECT_THROW(Workspace(memory + 1, 64), Error);
}

}  // namespace
