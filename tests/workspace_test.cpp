// Memory: sizes known beforehand, exactly sized buffers between guard pages, no allocation in a forward.
#include "switchyard/workspace.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "layer_variants.hpp"

namespace {

std::atomic<std::int64_t> allocations{0};

}  // namespace

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) {
    return memory;
  }
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  ++allocations;
  if (void* memory = std::aligned_alloc(static_cast<std::size_t>(alignment), bytes)) {
    return memory;
  }
  throw std::bad_alloc();
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::aligned_alloc(static_cast<std::size_t>(alignment), bytes);
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using namespace made;

// Memory whose end (or start) touches a page that nobody may read or write.
class Guarded {
 public:
  Guarded(std::size_t bytes, bool at_end) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inside = (bytes + page - 1) / page * page;
    mapped_ = inside + 2 * page;
    base_ = static_cast<std::byte*>(mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    EXPECT_EQ(mprotect(base_ + page, inside, PROT_READ | PROT_WRITE), 0);
    data_ = base_ + page + (at_end ? inside - bytes : 0);
    std::memset(base_ + page, 0xff, inside);  // NaN in f32 and bf16
  }
  ~Guarded() { munmap(base_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* base_;
  std::byte* data_;
  std::size_t mapped_;
};

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
