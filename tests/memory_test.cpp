// What a forward really takes, beside what it said beforehand: the allocator's view and the resident set.
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <string>

#include "checkpoints.hpp"
#include "counted_new.hpp"
#include "layer_variants.hpp"

namespace {

using namespace made;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // its shadow is resident too
#else
constexpr bool kSanitized = false;
#endif

// Whole pages that are not resident before they are touched.
class Pages {
 public:
  explicit Pages(std::size_t bytes) : bytes_(std::max<std::size_t>(bytes, 1)) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(data_, MAP_FAILED);
    EXPECT_EQ(madvise(data_, bytes_, MADV_NOHUGEPAGE), 0);  // a huge page would count for what was not touched
  }
  ~Pages() { munmap(data_, bytes_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  void* data() const { return data_; }
  std::size_t resident() const {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages((bytes_ + page - 1) / page);
    EXPECT_EQ(mincore(data_, bytes_, pages.data()), 0);
    return page * static_cast<std::size_t>(std::count_if(pages.begin(), pages.end(), [](auto is) { return is & 1; }));
  }

 private:
  void* data_;
  std::size_t bytes_;
};

// VmHWM or VmRSS of this process.
std::size_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key + ":")) {
      return std::stoul(line.substr(key.size() + 1)) << 10;
    }
  }
  ADD_FAILURE() << "no " << key;
  return 0;
}

void reset_peak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5\n";
}

std::size_t allocated() {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

// Expert e takes what a row of E, K, H and F takes: a real layer's shape, but for its size.
constexpr LayerCase kShape{"h128_f96_e64_k8", 128, 96, 64, 8};

Layer make_layer(const Arithmetic& arithmetic) {
  return Weights(kShape, Shared::gated, 1)
      .layer({.topk = kShape.topk}, {arithmetic.format, arithmetic.activations, Device::cpu, Threads::pool(2)});
}

TEST(Memory, AForwardTakesItsOutputAndItsWorkspaceAndNothingElse) {
  for (const Arithmetic& arithmetic : kArithmetics) {
    const Layer layer = make_layer(arithmetic);
    for (const std::int64_t tokens : {1, 64, 8192}) {
      std::mt19937 random(2);
      const Rows x(DType::bf16, random_table(tokens, kShape.hidden, 1.0, random));
      const std::size_t needed = layer.workspace_bytes(tokens);
      {
        const Pages y(x.bytes.size());
        const Pages memory(needed);  // once, so that threads have started and their stacks are touched
        layer.forward(x.view(), {y.data(), DType::bf16, tokens, kShape.hidden}, Workspace(memory.data(), needed));
      }
      const Pages y(x.bytes.size());
      const Pages memory(needed);
      const Workspace workspace(memory.data(), needed);
      reset_peak();
      const std::size_t before = status_bytes("VmRSS");
      const std::int64_t calls = allocations;
      const std::size_t heap = allocated();
      layer.forward(x.view(), {y.data(), DType::bf16, tokens, kShape.hidden}, workspace);
      const std::int64_t calls_after = allocations;
      const std::size_t heap_after = allocated();
      const std::size_t peak = status_bytes("VmHWM");
      EXPECT_EQ(calls_after, calls) << arithmetic.name << " tokens " << tokens;
      if (!kSanitized) {
        EXPECT_EQ(heap_after, heap) << "by malloc, " << arithmetic.name << " tokens " << tokens;
        // Pages that were only partly asked for, and what reading /proc takes.
        constexpr std::size_t kSlack = std::size_t{256} << 10;
        EXPECT_LE(peak, before + x.bytes.size() + needed + kSlack) << arithmetic.name << " tokens " << tokens;
        // Nothing is asked for in vain: most of the workspace is really used by a batch of that size. One token may be
        // done before a second thread has come, whose own part stays untouched.
        if (tokens > 1) {
          EXPECT_GE(memory.resident(), needed / 2) << arithmetic.name << " tokens " << tokens;
        }
      }
    }
  }
}

TEST(Memory, RowsAreDenseAndBoundedWhateverTheExpertsAndTokens) {
  // Routing and plan of every slot, 128 MiB of rows, 4 MiB of logits, and the threads' own.
  constexpr std::size_t kBounded = (std::size_t{128} + 4) << 20;
  const LayerCase many{"many", 64, 32, 512, 8};
  const Layer layer = Weights(many, Shared::plain, 3).layer({.topk = many.topk}, {.threads = Threads::pool(2)});
  std::size_t before = 0;
  for (const std::int64_t tokens : {1, 64, 8192, 1 << 20}) {
    const std::size_t bytes = layer.workspace_bytes(tokens);
    const std::size_t slots = static_cast<std::size_t>(tokens * many.topk);
    EXPECT_LE(bytes, kBounded + (std::size_t{4} << 20) + slots * 8 + (std::size_t{2} << 20)) << tokens;
    EXPECT_GE(bytes, before);
    before = bytes;
  }
  // A shared expert that is wider than all chosen experts together makes chunks shorter, not the workspace larger.
  Weights wide(LayerCase{"wide", 64, 32, 8, 2}, Shared::plain, 4);
  wide.shared_ffn = 4096;
  std::mt19937 random(5);
  wide.block.shared = {random_expert(64, 4096, false, random)};
  const Layer with_wide = wide.layer({.topk = 2}, {.threads = Threads::pool(2)});
  EXPECT_LE(with_wide.workspace_bytes(1 << 20), kBounded + (std::size_t{8} << 20) + (std::size_t{1} << 20) * 16);
}

TEST(Memory, SizesAreKnownBeforeALayerIsMade) {
  const Weights weights(kShape, Shared::gated, 6);
  const RouterOptions router{.topk = kShape.topk};
  const LayerOptions options{.threads = Threads::pool(3)};
  const Layer layer = weights.layer(router, options);
  LayerWeights sizes;
  const float something = 0;
  const WeightView there{&something, DType::f32, 1, 1};
  sizes.experts = kShape.experts;
  sizes.hidden = kShape.hidden;
  sizes.ffn = kShape.ffn;
  sizes.router = there;
  sizes.shared_ffn = weights.shared_ffn;
  sizes.shared_gate = there;
  for (const std::int64_t tokens : {0, 1, 64, 8192}) {
    EXPECT_EQ(Layer::workspace_bytes(sizes, router, options, tokens), layer.workspace_bytes(tokens));
  }
}

TEST(Memory, AModelSaysTheSameAsItsLayers) {
  for (const DType activations : {DType::f32, DType::bf16}) {
    const Model model = switchyard::testing::qwen2().open();
    const LayerOptions options{Format::bf16, activations, Device::cpu, Threads::pool(2)};
    for (const std::int32_t index : model.info().moe_layers) {
      const Layer layer = model.layer(index, options);
      for (const std::int64_t tokens : {1, 64, 8192}) {
        EXPECT_EQ(model.workspace_bytes(index, options, tokens), layer.workspace_bytes(tokens));
      }
    }
    EXPECT_THROW((void)model.workspace_bytes(99, options, 1), Error);
  }
}

}  // namespace
