// docs/memory.md: the table of bytes is what the library says today, beside the formulas of others.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "switchyard/layer.hpp"

namespace {

using namespace switchyard;

struct ModelShape {
  const char* name;
  std::int64_t hidden;
  std::int64_t ffn;
  std::int32_t experts;
  std::int32_t topk;
  std::int64_t shared_ffn;
  bool dense;  // others run all experts on all tokens, and have no other way
};

constexpr ModelShape kModels[] = {
    {"Llama-4 Scout", 5120, 8192, 16, 1, 8192, true},
    {"Llama-4 Maverick", 5120, 8192, 128, 1, 8192, true},
    {"DeepSeek-V3", 7168, 2048, 256, 8, 2048, false},
    {"Qwen3-30B-A3B", 2048, 768, 128, 8, 0, false},
};
constexpr std::int64_t kTokens[] = {1, 64, 8192};
constexpr int kThreads = 16;
constexpr double kSize = 2;  // bytes of an activation, bf16

double output(const ModelShape& m, std::int64_t tokens) {
  return kSize * static_cast<double>(tokens) * static_cast<double>(m.hidden);
}

double ours(const ModelShape& m, std::int64_t tokens) {
  const float something = 0;
  LayerWeights sizes;
  sizes.experts = m.experts;
  sizes.hidden = m.hidden;
  sizes.ffn = m.ffn;
  sizes.shared_ffn = m.shared_ffn;
  sizes.router = {&something, DType::f32, 1, 1};
  if (m.dense) sizes.weight_site = WeightSite::input;
  const LayerOptions options{Format::bf16, DType::bf16, Device::cpu, Threads::pool(kThreads)};
  return static_cast<double>(Layer::workspace_bytes(sizes, {.topk = m.topk}, options, tokens)) + output(m, tokens);
}

// All experts on all tokens: their rows, gate, up and product; scores [E,T]; top-k values and indices.
double dense(const ModelShape& m, std::int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  const auto d = static_cast<double>(m.hidden);
  const auto f = static_cast<double>(m.ffn);
  return kSize * m.experts * t * (d + 3 * f) + output(m, tokens) + kSize * m.experts * t + 8 * t +
         (kSize + 8) * t * m.topk;
}

// One expert after the other: a one-hot mask of int64 and the busiest expert's tokens, evenly spread.
double eager(const ModelShape& m, std::int64_t tokens) {
  const auto t = static_cast<double>(tokens);
  const auto d = static_cast<double>(m.hidden);
  const auto f = static_cast<double>(m.ffn);
  const auto most = static_cast<double>((tokens * m.topk + m.experts - 1) / m.experts);
  return 8 * t * m.topk * m.experts + output(m, tokens) +
         most * (std::max(kSize * d + 4 * kSize * f, 2 * kSize * d + 2 * kSize * f + 4 * d) + 20);
}

double grouped(const ModelShape& m, std::int64_t tokens) {
  const double rows = static_cast<double>(tokens) * m.topk;
  const auto d = static_cast<double>(m.hidden);
  const auto f = static_cast<double>(m.ffn);
  return rows * std::max(14 * d + 6 * f, 4 * d + 8 * f) + output(m, tokens);
}

// Copies the weights of every chosen pair.
double batched(const ModelShape& m, std::int64_t tokens) {
  return kSize * static_cast<double>(tokens) * m.topk * 3 * static_cast<double>(m.hidden) * static_cast<double>(m.ffn) +
         output(m, tokens);
}

std::int64_t align(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

// NVFP4 rows: up to 640 of them in the worst case of every expert, and beyond that in tiles.
double flashinfer(const ModelShape& m, std::int64_t tokens) {
  const std::int64_t rows = tokens * m.topk;
  const std::int64_t scales = align(m.hidden / 16, 4);
  if (rows <= 640) {
    const std::int64_t per_expert = rows * (8 + m.hidden / 2) + align(rows, 128) * scales;
    return static_cast<double>(m.experts * (per_expert + 12) + 4 * std::max<std::int64_t>(m.experts, rows)) +
           output(m, tokens);
  }
  const std::int64_t e = m.experts;
  const std::int64_t tile = rows < 15 * e ? 16 : rows < 48 * e ? 32 : rows < 96 * e ? 64 : 128;
  const std::int64_t tiles = (rows + tile - 1) / tile + std::min(e, rows) - 1;
  const std::int64_t padded = tiles * tile;
  const std::int64_t tasks = tiles * ((m.ffn + 127) / 128);
  return static_cast<double>(padded * (8 + m.hidden / 2) + align(padded, 128) * scales + 12 * e + 8 * tasks) +
         output(m, tokens);
}

std::string mib(double bytes) {
  const double value = bytes / (1 << 20);
  return value < 10 ? fmt::format("{:.2f}", value) : fmt::format("{:.0f}", value);
}

std::string row(const ModelShape& m, std::int64_t tokens) {
  const auto only = [](bool has, double bytes) { return has ? mib(bytes) : std::string("–"); };
  return fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} |", m.name, tokens, mib(output(m, tokens)),
                     mib(ours(m, tokens)), only(m.dense, dense(m, tokens)),
                     m.dense ? mib(dense(m, tokens)) : mib(eager(m, tokens)), only(!m.dense, grouped(m, tokens)),
                     only(!m.dense, batched(m, tokens)), mib(flashinfer(m, tokens)));
}

TEST(MemoryPage, HasTheBytesOfToday) {
  std::ifstream file(SWITCHYARD_EXAMPLES "/../docs/memory.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  for (const ModelShape& model : kModels) {
    for (const std::int64_t tokens : kTokens) {
      EXPECT_NE(page.find(row(model, tokens) + "\n"), std::string::npos) << "docs/memory.md lacks\n"
                                                                         << row(model, tokens);
    }
  }
}

TEST(MemoryPage, FormulasOfOthersGiveTheirPublishedBytes) {
  // llama-models at 8192 tokens: 7.33 GiB for Scout, 58.1 GiB for Maverick.
  EXPECT_NEAR(dense(kModels[0], 8192) / (1 << 30), 7.33, 0.1);
  EXPECT_NEAR(dense(kModels[1], 8192) / (1 << 30), 58.1, 0.1);
  // FlashInfer's static workspace of DeepSeek-V3 for 80 tokens: 631 MiB.
  EXPECT_NEAR((flashinfer(kModels[2], 80) - output(kModels[2], 80)) / (1 << 20), 631, 1);
  // grouped_mm of DeepSeek-V3 at 8192 tokens: 6.9 GiB; batched_mm at 64: 42 GiB.
  EXPECT_NEAR(grouped(kModels[2], 8192) / (1 << 30), 6.9, 0.1);
  EXPECT_NEAR(batched(kModels[2], 64) / (1 << 30), 42, 0.1);
}

}  // namespace
