#include "switchyard/route.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "cpu/parallel_for.hpp"
#include "experts/weight_view.hpp"
#include "fail.hpp"
#include "route/router.hpp"

namespace switchyard {
namespace {

// Pieces are as many as keep 64 threads busy, each long enough (64 tokens take some 10 µs) to be worth offering.
constexpr std::int64_t kMostPieces = 64;
constexpr std::int64_t kFewestTokens = 64;

// Tokens of one sequence that one thread routes at a time. A function of the tokens and sequences alone, so that sums
// over tokens do not depend on the threads.
struct RoutePiece {
  std::int64_t sequence;
  std::int64_t begin;
  std::int64_t end;
};

struct RouteMemory {
  float* scratch;
  float* selection_bias;  // [E]
  float* cutoff;          // [T]
  std::int64_t most_pieces;
  RoutePiece* pieces;
  std::int64_t* count;        // [pieces,E]
  double* score_sum;          // [pieces,E]
  double* z_sum;              // [pieces]
  std::int64_t* valid_count;  // [pieces]
};

std::int64_t piece_tokens(std::int64_t tokens) {
  const std::int64_t even = (tokens + kMostPieces - 1) / kMostPieces;
  return std::max(kFewestTokens, (even + kFewestTokens - 1) / kFewestTokens * kFewestTokens);
}

RouteMemory carve_route(Carver& carver, std::int64_t tokens, std::int32_t experts, std::int64_t sequences,
                        const Threads& threads) {
  RouteMemory memory{};
  memory.most_pieces = kMostPieces + sequences;
  memory.scratch = carve_route_scratch(carver, experts, threads);
  memory.selection_bias = carver.take<float>(experts);
  memory.cutoff = carver.take<float>(tokens);
  memory.pieces = carver.take<RoutePiece>(memory.most_pieces);
  memory.count = carver.take<std::int64_t>(memory.most_pieces * experts);
  memory.score_sum = carver.take<double>(memory.most_pieces * experts);
  memory.z_sum = carver.take<double>(memory.most_pieces);
  memory.valid_count = carver.take<std::int64_t>(memory.most_pieces);
  return memory;
}

std::int64_t sequences_of(const RouteInputs& inputs) { return inputs.sequence_begin == nullptr ? 1 : inputs.sequences; }

std::int64_t make_pieces(const RouteInputs& inputs, std::int64_t tokens, RoutePiece* pieces) {
  const std::int64_t size = piece_tokens(tokens);
  std::int64_t count = 0;
  for (std::int64_t s = 0; s < sequences_of(inputs); ++s) {
    const std::int64_t first = inputs.sequence_begin == nullptr ? 0 : inputs.sequence_begin[s];
    const std::int64_t last = inputs.sequence_begin == nullptr ? tokens : inputs.sequence_begin[s + 1];
    for (std::int64_t begin = first; begin < last; begin += size) {
      pieces[count++] = {s, begin, std::min(last, begin + size)};
    }
  }
  return count;
}

void check_logits(const ConstMatrix& logits) {
  if (!is_float(logits.dtype) || logits.rows < 0 || logits.rows > kMaxTokens || logits.cols < 1 ||
      logits.cols > kMaxExperts || logits.stride < logits.cols) {
    fail(Code::invalid_argument,
         "route: found logits [{}, {}] {} with stride {}, expected f32, bf16 or f16, 0..{} tokens, 1..{} experts and a "
         "stride of at least the experts",
         logits.rows, logits.cols, dtype_name(logits.dtype), logits.stride, kMaxTokens, kMaxExperts);
  }
  check_offsets("route", "logits", logits.rows, logits.stride);
}

void check_route_workspace(const Workspace& workspace, std::size_t needed) {
  // Without memory it has 0 bytes, which is too few; clang's analyzer does not know.
  if (workspace.data() == nullptr || workspace.bytes() < needed) {
    fail(Code::invalid_argument, "route: found a workspace of {} bytes, expected at least {}", workspace.bytes(),
         needed);
  }
}

void check_forward_memory(const ConstMatrix& logits, const RouterOptions& options, const RouteInputs& inputs,
                          const RouteOutputs& outputs, const Workspace& workspace) {
  const auto experts = static_cast<std::int32_t>(logits.cols);
  NamedMemory read;
  read.add("logits", bytes_of(logits));
  add_options(read, options, experts);
  add_inputs(read, inputs, logits.rows, options.topk);
  NamedMemory written;
  written.add("the workspace", bytes_of(workspace));
  add_outputs(written, outputs, logits.rows, options.topk, experts, sequences_of(inputs));
  check_apart("route", written, read);
}

void check_backward_memory(const ConstMatrix& logits, const RouterOptions& options, const RouteInputs& inputs,
                           const RouteGradients& gradients, const Matrix& dlogits, const Workspace& workspace) {
  const auto experts = static_cast<std::int32_t>(logits.cols);
  NamedMemory read;
  read.add("logits", bytes_of(logits));
  add_options(read, options, experts);
  add_inputs(read, inputs, logits.rows, options.topk);
  add_gradients(read, gradients, logits.rows, options.topk, experts, sequences_of(inputs));
  NamedMemory written;
  written.add("the workspace", bytes_of(workspace));
  written.add("dlogits", bytes_of(dlogits));
  check_apart("route", written, read);
}

const float* widen_bias(const RouterOptions& options, std::int32_t experts, float* to) {
  const ConstArray& bias = options.selection_bias;
  if (bias.data == nullptr || bias.dtype == DType::f32) {
    return static_cast<const float*>(bias.data);
  }
  read_row({bias.data, bias.dtype, 0, 1}, 0, 0, experts, to);
  return to;
}

// Pieces in ascending order, for every sequence on its own.
template <class Value>
void add_pieces(const RouteMemory& memory, std::int64_t pieces, const Value* parts, std::int64_t width,
                std::int64_t sequences, Value* sums) {
  if (sums == nullptr) {
    return;
  }
  std::fill_n(sums, sequences * width, Value{});
  for (std::int64_t i = 0; i < pieces; ++i) {
    Value* sum = sums + memory.pieces[i].sequence * width;
    for (std::int64_t e = 0; e < width; ++e) {
      sum[e] += parts[i * width + e];
    }
  }
}

template <class Value>
Value* cleared(Value* parts, std::int64_t at, std::int64_t width, bool wanted) {
  if (!wanted) {
    return nullptr;
  }
  std::fill_n(parts + at * width, width, Value{});
  return parts + at * width;
}

void count_quantiles(const ConstMatrix& logits, const RouterOptions& options, const RouteInputs& inputs,
                     const RouteOutputs& outputs, const float* cutoff, const Kernels& kernels, const Threads& threads) {
  parallel_for(threads, (logits.cols + kLanes - 1) / kLanes, [&](std::int64_t block, int) {
    kernels.histogram({logits.data, logits.dtype, logits.stride, logits.rows, static_cast<std::int32_t>(logits.cols),
                       &options, inputs.valid, cutoff, block * kLanes, outputs.bins, outputs.qb_lower, outputs.qb_upper,
                       outputs.histogram});
  });
}

}  // namespace

const char* score_name(Score score) noexcept {
  constexpr const char* kNames[] = {"softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer"};
  const auto index = static_cast<std::size_t>(score);
  return index < std::size(kNames) ? kNames[index] : "unknown";
}

bool route_gradient_is_sparse(const RouterOptions& options) noexcept {
  switch (options.score) {
    case Score::softmax:
      return options.normalize == Normalize::sum && options.epsilon == 0.0F;
    case Score::sparsemixer:
      return false;
    default:
      return true;
  }
}

std::int64_t route_scratch_floats(std::int32_t experts) {
  return route_rows(experts) * ((static_cast<std::int64_t>(experts) + kLanes - 1) / kLanes * kLanes);
}

float* carve_route_scratch(Carver& carver, std::int32_t experts, const Threads& threads) {
  return carver.take<float>(route_scratch_floats(experts) * threads.count());
}

std::size_t route_workspace_bytes(std::int64_t max_tokens, std::int32_t experts, std::int64_t sequences,
                                  const Threads& threads) {
  if (max_tokens < 0 || max_tokens > kMaxTokens || experts < 1 || experts > kMaxExperts || sequences < 1 ||
      sequences > kMaxTokens) {
    fail(Code::invalid_argument, "route: found {} tokens, {} experts and {} sequences, expected 0..{}, 1..{} and 1..{}",
         max_tokens, experts, sequences, kMaxTokens, kMaxExperts, kMaxTokens);
  }
  Carver carver;
  carve_route(carver, max_tokens, experts, sequences, threads);
  return carver.bytes();
}

void route(ConstMatrix logits, const RouterOptions& given, const RouteInputs& inputs, const RouteOutputs& outputs,
           const Workspace& workspace, const Threads& threads) {
  check_logits(logits);
  const auto experts = static_cast<std::int32_t>(logits.cols);
  check_router_options(given, experts);
  const RouterOptions options = without_one_group(given);
  if (logits.rows > 0 && logits.data == nullptr) {
    fail(Code::invalid_argument, "route: logits have no data, expected memory for {} tokens", logits.rows);
  }
  check_inputs(options, inputs, logits.rows, experts);
  check_outputs(options, inputs, outputs, experts);
  const std::int64_t sequences = sequences_of(inputs);
  check_route_workspace(workspace, route_workspace_bytes(logits.rows, experts, sequences, threads));
  check_forward_memory(logits, options, inputs, outputs, workspace);

  Carver carver(workspace.data());
  const RouteMemory memory = carve_route(carver, logits.rows, experts, sequences, threads);
  const Kernels& kernels = current_kernels();
  RouteOutputs of_tokens = outputs;
  if (outputs.histogram != nullptr && outputs.cutoff == nullptr) {
    of_tokens.cutoff = memory.cutoff;
  }
  RouteArgs all{};
  all.logits = logits.data;
  all.logits_type = logits.dtype;
  all.stride = logits.stride;
  all.experts = experts;
  all.options = &options;
  all.selection_bias = widen_bias(options, experts, memory.selection_bias);
  all.inputs = &inputs;
  all.outputs = &of_tokens;
  const std::int64_t pieces = make_pieces(inputs, logits.rows, memory.pieces);
  parallel_for(threads, pieces, [&](std::int64_t i, int worker) {
    RouteArgs part = all;
    part.begin = memory.pieces[i].begin;
    part.end = memory.pieces[i].end;
    part.count = cleared(memory.count, i, experts, outputs.count != nullptr);
    part.score_sum = cleared(memory.score_sum, i, experts, outputs.score_sum != nullptr);
    part.z_sum = cleared(memory.z_sum, i, 1, outputs.z_sum != nullptr);
    part.valid_count = cleared(memory.valid_count, i, 1, outputs.valid_count != nullptr);
    part.scratch = memory.scratch + worker * route_scratch_floats(experts);
    kernels.route(part);
  });
  add_pieces(memory, pieces, memory.count, experts, sequences, outputs.count);
  add_pieces(memory, pieces, memory.score_sum, experts, sequences, outputs.score_sum);
  add_pieces(memory, pieces, memory.z_sum, 1, sequences, outputs.z_sum);
  add_pieces(memory, pieces, memory.valid_count, 1, sequences, outputs.valid_count);
  if (outputs.histogram != nullptr) {
    count_quantiles(logits, options, inputs, outputs, of_tokens.cutoff, kernels, threads);
  }
}

void route_backward(ConstMatrix logits, const RouterOptions& options, const RouteInputs& inputs,
                    const RouteGradients& gradients, Matrix dlogits, const Workspace& workspace,
                    const Threads& threads) {
  if (logits.data == nullptr) {
    logits = ConstMatrix(nullptr, DType::f32, dlogits.rows, dlogits.cols);
  }
  check_logits(logits);
  const auto experts = static_cast<std::int32_t>(logits.cols);
  check_router_options(options, experts);
  if (dlogits.rows != logits.rows || dlogits.cols != logits.cols) {
    fail(Code::invalid_argument, "route: found dlogits [{}, {}], expected [{}, {}]", dlogits.rows, dlogits.cols,
         logits.rows, logits.cols);
  }
  RouteInputs kept;
  kept.valid = inputs.valid;
  kept.sequence_begin = inputs.sequence_begin;
  kept.sequences = inputs.sequences;
  check_sequences(kept, logits.rows);
  check_gradients(options, gradients, logits, dlogits);
  const std::int64_t sequences = sequences_of(kept);
  check_route_workspace(workspace, route_workspace_bytes(logits.rows, experts, sequences, threads));
  check_backward_memory(logits, options, kept, gradients, dlogits, workspace);

  Carver carver(workspace.data());
  const RouteMemory memory = carve_route(carver, logits.rows, experts, sequences, threads);
  const Kernels& kernels = current_kernels();
  RouteBackwardArgs all{};
  all.logits = logits.data;
  all.logits_type = logits.dtype;
  all.stride = logits.stride;
  all.experts = experts;
  all.options = &options;
  all.inputs = &kept;
  all.gradients = &gradients;
  all.dlogits = dlogits.data;
  all.dlogits_type = dlogits.dtype;
  all.dlogits_stride = dlogits.stride;
  const std::int64_t pieces = make_pieces(kept, logits.rows, memory.pieces);
  parallel_for(threads, pieces, [&](std::int64_t i, int worker) {
    RouteBackwardArgs part = all;
    part.sequence = memory.pieces[i].sequence;
    part.begin = memory.pieces[i].begin;
    part.end = memory.pieces[i].end;
    part.scratch = memory.scratch + worker * route_scratch_floats(experts);
    kernels.route_backward(part);
  });
}

}  // namespace switchyard
