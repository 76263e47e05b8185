#include <algorithm>

#include "fail.hpp"
#include "layer/overlap.hpp"
#include "layer/parts.hpp"

namespace switchyard {
namespace {

// Rows of one chunk between the GEMMs and before combine: every chunk reads the weights again. An expert of a Qwen3-30B layer
// gets some 100 rows per chunk (76 KiB per token), where computing takes several times as long as reading; with half as many
// 1024 tokens take 1.02 times as long in bf16. 128 experts of DeepSeek-V3's size get 32; with half as many, 1.06 times.
constexpr std::int64_t kChunkBytes = std::int64_t{128} << 20;
constexpr std::int64_t kFewestTokens = 16;

std::int64_t row_bytes(const ExpertWeights& experts, DType activations) {
  const ExpertWeights::Packed& packed = experts.packed();
  return packed.up.out_width() * static_cast<std::int64_t>(dtype_bytes(activations)) +
         packed.down.out_width() * static_cast<std::int64_t>(sizeof(float));
}

std::int64_t chunk_tokens(const Layer::Parts& parts, std::int64_t tokens, std::int32_t topk) {
  const DType activations = parts.options.activations;
  const std::int64_t token_bytes =
      row_bytes(parts.experts, activations) * topk + (parts.shared ? row_bytes(*parts.shared, activations) : 0) +
      (parts.latent_in.out_width() + parts.latent_out.out_width()) * static_cast<std::int64_t>(sizeof(float));
  return std::min(tokens, std::max(kFewestTokens, kChunkBytes / token_bytes));
}

// The deepest and the most numerous of all GEMMs of a forward.
GroupedMemory carve_gemms(Carver& carver, const Layer::Parts& parts, std::int64_t rows, bool with_router) {
  const ExpertWeights::Packed& experts = parts.experts.packed();
  std::size_t scratch = 0;
  const auto need = [&](const PackedMatrices& weights, DType activations) {
    scratch = std::max(scratch, scratch_bytes(math_of(weights.format(), activations), weights, rows));
  };
  for (const PackedMatrices* weights : {&experts.up, &experts.down, &parts.latent_in, &parts.latent_out}) {
    need(*weights, parts.options.activations);
  }
  need(parts.shared_gate, DType::f32);
  if (parts.shared) {
    need(parts.shared->packed().up, parts.options.activations);
    need(parts.shared->packed().down, parts.options.activations);
  }
  if (with_router) {
    need(parts.router.weight, parts.router.type);
  }
  const int gemms = parts.shared ? 2 : 1;
  const std::int32_t matrices = parts.experts.shape().experts + gemms - 1;
  return carve_grouped(carver, rows, matrices, scratch, parts.options.threads.count(), gemms);
}

void check_matrix(const char* name, const void* data, DType dtype, std::int64_t rows, std::int64_t cols,
                  std::int64_t stride, std::int64_t expected_cols) {
  if (dtype != DType::f32 && dtype != DType::bf16) {
    fail(Code::invalid_argument, "layer: {} is {}, expected f32 or bf16", name, dtype_name(dtype));
  }
  if (rows < 0 || rows > kMaxTokens || cols != expected_cols || stride < cols || stride > kMaxFeatures) {
    fail(Code::invalid_argument,
         "layer: {} is [{}, {}] with stride {}, expected 0..{} tokens, {} columns and a stride of {}..{}", name, rows,
         cols, stride, kMaxTokens, expected_cols, expected_cols, kMaxFeatures);
  }
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(rows, stride * static_cast<std::int64_t>(dtype_bytes(dtype)), &bytes)) {
    fail(Code::invalid_argument, "layer: {} is [{}, {}] with stride {}, expected less than 2^63 bytes", name, rows,
         cols, stride);
  }
  if (rows > 0 && data == nullptr) {
    fail(Code::invalid_argument, "layer: {} has no data, expected [{}, {}]", name, rows, cols);
  }
}

void check_rows(const ConstMatrix& x, const Matrix& out, const char* name) {
  if (out.rows != x.rows) {
    fail(Code::invalid_argument, "layer: {} has {} rows, expected {} as x", name, out.rows, x.rows);
  }
}

}  // namespace

ForwardMemory carve_forward(Carver& carver, const Layer::Parts& parts, std::int64_t tokens, std::int32_t topk,
                            bool with_router) {
  ForwardMemory memory{};
  if (with_router) {
    memory.expert = carver.take<std::int32_t>(tokens * topk);
    memory.weight = carver.take<float>(tokens * topk);
    memory.router = carve_router(carver, parts.router, tokens, parts.options.threads);
  }
  ChunkMemory& chunk = memory.chunk;
  chunk.tokens = chunk_tokens(parts, tokens, topk);
  const std::int64_t rows = chunk.tokens * topk;
  const int threads = parts.options.threads.count();
  const auto activation = static_cast<std::int64_t>(dtype_bytes(parts.options.activations));
  chunk.plan = carve_plan(carver, chunk.tokens, topk, parts.experts.shape().experts, threads);
  chunk.grouped = carve_gemms(carver, parts, std::max(rows, memory.router.chunk), with_router);
  chunk.h = carver.take<std::byte>(rows * parts.experts.packed().up.out_width() * activation);
  chunk.out = carver.take<float>(rows * parts.experts.packed().down.out_width());
  chunk.row_weight = carver.take<float>(parts.weight_site == WeightSite::output ? 0 : rows);
  chunk.latent = carver.take<float>(chunk.tokens * parts.latent_in.out_width());
  chunk.from_latent = carver.take<float>(chunk.tokens * parts.latent_out.out_width());
  if (parts.shared) {
    chunk.shared_h = carver.take<std::byte>(chunk.tokens * parts.shared->packed().up.out_width() * activation);
    chunk.shared_out = carver.take<float>(chunk.tokens * parts.shared->packed().down.out_width());
    chunk.gate_logits = carver.take<float>(chunk.tokens * parts.shared_gate.out_width());
  }
  return memory;
}

std::size_t forward_bytes(const Layer::Parts& parts, std::int64_t tokens, std::int32_t topk, bool with_router) {
  if (tokens < 0 || tokens > kMaxTokens || topk < 1 || topk > kMaxTopk) {
    fail(Code::invalid_argument, "layer: found {} tokens and {} slots, expected 0..{} and 1..{}", tokens, topk,
         kMaxTokens, kMaxTopk);
  }
  Carver carver;
  carve_forward(carver, parts, tokens, topk, with_router);
  return carver.bytes();
}

void check_router(const Layer::Parts& parts) {
  if (parts.router.weight.empty()) {
    fail(Code::invalid_argument, "layer: it was made without a router, expected a forward with a given routing");
  }
}

void check_matrices(const Layer::Parts& parts, const ConstMatrix& x, const Matrix& y) {
  check_matrix("x", x.data, x.dtype, x.rows, x.cols, x.stride, parts.hidden);
  check_matrix("y", y.data, y.dtype, y.rows, y.cols, y.stride, parts.hidden);
  check_rows(x, y, "y");
}

void check_logits(const Layer::Parts& parts, const ConstMatrix& x, const Matrix& logits) {
  check_matrix("x", x.data, x.dtype, x.rows, x.cols, x.stride, parts.hidden);
  if (logits.dtype != DType::f32) {
    fail(Code::invalid_argument, "layer: logits is {}, expected f32", dtype_name(logits.dtype));
  }
  check_matrix("logits", logits.data, logits.dtype, logits.rows, logits.cols, logits.stride, parts.router.experts);
  check_rows(x, logits, "logits");
}

void check_routing(const Layer::Parts& parts, const ConstMatrix& x, const Routing& routing) {
  if (routing.tokens != x.rows || routing.topk < 1 || routing.topk > kMaxTopk) {
    fail(Code::invalid_argument, "layer: found a routing of [{}, {}], expected {} tokens and 1..{} slots",
         routing.tokens, routing.topk, x.rows, kMaxTopk);
  }
  if (x.rows > 0 && (routing.expert == nullptr || routing.weight == nullptr)) {
    fail(Code::invalid_argument, "layer: the routing has no experts or no weights, expected both for {} tokens",
         x.rows);
  }
  check_experts(routing.expert, routing.tokens, routing.topk, parts.experts.shape().experts + parts.identity_experts);
}

void check_workspace(const Workspace& workspace, std::size_t needed) {
  if (workspace.bytes() < needed) {
    fail(Code::invalid_argument, "layer: found a workspace of {} bytes, expected at least {}", workspace.bytes(),
         needed);
  }
}

void check_memory(const Workspace& workspace, const char* name, const Matrix& out, const ConstMatrix& x,
                  NamedMemory read) {
  NamedMemory written;
  written.add("the workspace", bytes_of(workspace));
  written.add(name, bytes_of(out));
  read.add("x", bytes_of(x));
  check_apart("layer", written, read);
}

}  // namespace switchyard
