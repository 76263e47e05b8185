// Kernels: the operations that an instruction set provides. They check nothing, allocate nothing and throw nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/activation.hpp"
#include "switchyard/cpu.hpp"
#include "switchyard/format.hpp"
#include "switchyard/route.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// Packed weights are the same for every instruction set: panels of kPanel output features, each [depth / n][kPanel][n],
// n codes in 32 bits, the depth padded with zeros to a multiple of kDepth. i8 and i4 are unsigned, 128 and 8 more than
// they stand for; of 8 codes in 32 bits, low halves of bytes are the first four. Scales stand before the codes of a
// panel.
inline constexpr std::int64_t kPanel = 32;
inline constexpr std::int64_t kDepth = 32;
// A gated panel holds kPanel / 2 features: gates 0..7, ups 0..7, gates 8..15, ups 8..15, so that every vector width
// finds gate and up of a feature within one tile.
inline constexpr std::int64_t kGatedPanel = kPanel / 2;
// Sums over lanes and elementwise functions run on this many virtual lanes on every instruction set.
inline constexpr int kLanes = 16;
static_assert(kMaxTopk % kLanes == 0, "the chosen experts of a token are processed in whole lanes");
// Bits of 2^(i / 8) less i · 2^20, twice: what is to be added to k · 2^20 for 2^(k / 8).
alignas(64) inline constexpr std::uint32_t kEighths[16] = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7,
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};

// Groups of experts whose scores are found at once.
inline constexpr int kTopGroups = 8;
// Rows that one call of gemm takes at most: a multiple of the tile heights 6 and 13, and 5 MiB of rows at a depth of
// 8192.
inline constexpr std::int64_t kMaxGemmRows = 156;

constexpr std::int64_t code_bits(Format format) {
  switch (format) {
    case Format::f32:
      return 32;
    case Format::bf16:
      return 16;
    case Format::i8:
    case Format::f8_e4m3:
    case Format::mxfp8:
      return 8;
    default:
      return 4;
  }
}
constexpr bool is_integer(Format format) { return format == Format::i8 || format == Format::i4; }
constexpr bool has_scales(Format format) { return format != Format::f32 && format != Format::bf16; }

inline constexpr std::int64_t kShortestGroup = 16;

// Where the scales of a panel are: one per column and `group` contraction steps, a multiple of kShortestGroup (of kDepth for
// integers); the last group may be cut off by the padded depth. A panel is a factor [kLanes] f32 for the sums of columns
// i and kLanes + i, if it has one, the scales [groups][kPanel], padded to whole cache lines, and the codes.
struct PanelScales {
  std::int64_t group = 0;    // 0: no scales
  DType dtype = DType::f32;  // f32, bf16, f8_e8m0, f8_e4m3
  bool has_factor = false;

  constexpr std::int64_t groups(std::int64_t padded_depth) const {
    return group == 0 ? 0 : (padded_depth + group - 1) / group;
  }
  constexpr std::int64_t size() const { return dtype == DType::f32 ? 4 : dtype == DType::bf16 ? 2 : 1; }
  // Where they begin, and where the codes do.
  constexpr std::int64_t begin() const { return has_factor ? kLanes * 4 : 0; }
  constexpr std::int64_t end(std::int64_t padded_depth) const {
    return begin() + (groups(padded_depth) * kPanel * size() + 63) / 64 * 64;
  }
};

// How an output element is accumulated.
enum class Math : std::int32_t {
  f32,      // f32 weights, f32 rows: one FMA chain, ascending
  widened,  // bf16 weights widened, f32 rows: the same chain, the same bits as f32 on widened weights
  bf16,     // bf16 weights and rows, in pairs: odd element first, then even, as VDPBF16PS does; denormals are zero
  decoded,  // codes times scales, each product rounded once, f32 rows: the same bits as f32 on weights of these values;
            // where a panel has a factor, that multiplies the finished sum
  integer,  // rows as i8 with a scale each; the exact sum of a group times its scale joins a chain over the groups
  scaled,   // codes and bf16 rows, in pairs as bf16; the sum of a group times its scale joins a chain over the groups
};

// Of weights of a format and activations that are rounded to a type, f32 or bf16.
constexpr Math math_of(Format format, DType activations = DType::f32) {
  const bool narrow = activations == DType::bf16;
  return format == Format::f32    ? Math::f32
         : format == Format::bf16 ? narrow ? Math::bf16 : Math::widened
         : is_integer(format)     ? Math::integer
         : narrow                 ? Math::scaled
                                  : Math::decoded;
}
// Whether the sums of groups join chains.
constexpr bool has_group_sums(Math math) { return math == Math::integer || math == Math::scaled; }

struct GemmArgs {
  Math math;
  Format format;
  PanelScales scales;
  // Rows [row_count, depth] of f32 or bf16; row i stands at row_index[i], or at i without an index.
  const void* rows;
  DType rows_type;
  std::int64_t rows_stride;
  const std::int64_t* row_index;
  const float* row_scale;  // [row_count], multiplies what row i reads, rounded to the math's type once; or null
  std::int64_t row_count;
  std::int64_t depth;
  // Panels panel_begin .. panel_end of one packed matrix.
  const std::byte* panels;
  std::int64_t panel_bytes;
  std::int64_t panel_begin;
  std::int64_t panel_end;
  std::int64_t padded_depth;
  const float* bias;  // [panels, kPanel], added to the finished sums, or null
  // Applied to the sums (or null), its fields checked. The panels are gated if it is.
  const ExpertFunction* function;
  const float* h_scale;  // [row_count], multiplies what the function gives, before it is rounded to out_type; or null
  // out [row_count, all features padded to the panel]; gated: half as wide. f32, or bf16 with a function.
  void* out;
  DType out_type;
  std::int64_t out_stride;
  bool streams_out;    // out goes past the caches: f32, every row and panel at a multiple of 64 bytes
  std::byte* scratch;  // gemm_scratch_bytes, aligned to 64
};

// Steps that are decoded at a time: 16 KiB of f32, half of the smallest L1.
inline constexpr std::int64_t kDecodeDepth = 128;

// For any instruction set: row tiles as f32 and a tile of sums for every row; with codes, a decoded block; where groups have
// sums of their own, a tile of them for every row; for integers, a scale and a sum per group for every row, too.
constexpr std::size_t gemm_scratch_bytes(Math math, std::int64_t rows, std::int64_t padded_depth) {
  std::int64_t floats = rows * (padded_depth + kPanel);
  if (math == Math::decoded || has_group_sums(math)) {
    floats += kDecodeDepth * kPanel;
  }
  if (has_group_sums(math)) {
    floats += rows * kPanel;
  }
  if (math == Math::integer) {
    floats += rows * (padded_depth / kDepth + 1);  // no group is shorter
  }
  return static_cast<std::size_t>(floats) * sizeof(float);
}

// What scores for balance losses add to a sum of scores before they divide by it.
inline constexpr float kAuxEpsilon = 1e-20F;
// Up to so many experts the experts of kLanes tokens are chosen at once; the rows of all of them stay in L2.
inline constexpr std::int32_t kLaneExperts = 1024;
// Rows of scratch, each as long as the experts padded to kLanes, for routing and its gradient: three of a token, then two
// for every lane.
constexpr std::int64_t route_rows(std::int32_t experts) { return experts <= kLaneExperts ? 3 + 2 * kLanes : 3; }

// Whether balance losses see the softmax of the logits.
constexpr bool has_softmax_aux(Score score) {
  return score == Score::softmax || score == Score::logit || score == Score::sparsemixer;
}

// Tokens begin .. end of one sequence; see switchyard/route.hpp for the rules.
struct RouteArgs {
  const void* logits;
  DType logits_type;
  std::int64_t stride;
  std::int32_t experts;
  const RouterOptions* options;
  const float* selection_bias;  // [E] or null
  const RouteInputs* inputs;
  const RouteOutputs* outputs;  // those of tokens; sums go to:
  std::int64_t begin;
  std::int64_t end;
  std::int64_t* count;  // [E]; null: not wanted, as the others
  double* score_sum;    // [E]
  double* z_sum;
  std::int64_t* valid_count;
  float* scratch;  // route_rows(experts) rows, aligned to 64
};

struct RouteBackwardArgs {
  const void* logits;  // null if chosen logits are enough
  DType logits_type;
  std::int64_t stride;
  std::int32_t experts;
  const RouterOptions* options;
  const RouteInputs* inputs;
  const RouteGradients* gradients;
  std::int64_t sequence;
  std::int64_t begin;
  std::int64_t end;
  void* dlogits;
  DType dlogits_type;
  std::int64_t dlogits_stride;
  float* scratch;  // as for RouteArgs
};

// Bins of cutoff − score for experts begin .. begin + kLanes and all tokens.
struct HistogramArgs {
  const void* logits;
  DType logits_type;
  std::int64_t stride;
  std::int64_t tokens;
  std::int32_t experts;
  const RouterOptions* options;
  const std::uint8_t* valid;
  const float* cutoff;
  std::int64_t begin;
  std::int32_t bins;
  float lower;
  float upper;
  std::int32_t* histogram;
};

// In slot_to_row: the slot has no row. An identity expert's slot stands for the token itself.
inline constexpr std::int64_t kOffRow = -1;
inline constexpr std::int64_t kIdentityRow = -2;

// y[t] = start[t] + Σ_s weight[t,s] · row(t,s) + shared_factor[t] · shared[t] + bias, in this order; row(t,s) is
// rows[slot_to_row[t,s]] or x[t].
struct CombineArgs {
  const float* start;  // [count, hidden] or null: zeros
  std::int64_t start_stride;
  const float* rows;
  std::int64_t rows_stride;
  const std::int64_t* slot_to_row;  // [count, topk], kOffRow or kIdentityRow where there is no row
  const float* weight;              // [count, topk]
  bool weighted_rows;               // the rows have their weights already; x has not
  std::int32_t topk;
  const void* x;  // [count, hidden], read for identity experts alone
  DType x_type;
  std::int64_t x_stride;
  const float* shared;  // [count, hidden] or null
  std::int64_t shared_stride;
  float shared_scale;        // the factor without gate_logits
  const float* gate_logits;  // one per token at gate_stride, the factor is its sigmoid; or null
  std::int64_t gate_stride;
  const float* bias;  // [hidden] or null
  std::int64_t count;
  std::int64_t hidden;
  void* out;
  DType out_type;
  std::int64_t out_stride;
};

// out[m,n] = Σ_k a[m,k] · b[k,n], m < rows <= kAccumulateRows, n < cols <= kAccumulateCols: one FMA chain per element from
// +0, ascending over k < depth. a[m,k] stands at m · a_row + k · a_step: a_step is 1, or for a matrix that comes
// transposed a_row; a single row may have any. Types f32, bf16 or f16; a and b are widened first, out is rounded once.
inline constexpr std::int64_t kAccumulateRows = 48;  // tiles of 6 or of 12 rows
inline constexpr std::int64_t kAccumulateCols = 4 * kPanel;

struct AccumulateArgs {
  const void* a;
  DType a_type;
  std::int64_t a_row;
  std::int64_t a_step;
  const void* b;
  DType b_type;
  std::int64_t b_stride;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t depth;
  void* out;
  DType out_type;
  std::int64_t out_stride;
};

// A loop that keeps one unit of the processor busy; returns the operations done.
using PeakLoop = double (*)(std::int64_t iterations, float* sink);

struct Kernels {
  Isa isa;
  void (*gemm)(const GemmArgs&);
  // Up to so many rows gemm takes the weights of a matrix from memory through registers once. Beyond, codes are decoded, and
  // f32 and bf16 read, a block at a time for several tiles of rows.
  std::int64_t (*stream_rows)(Math, Format);
  void (*route)(const RouteArgs&);
  void (*route_backward)(const RouteBackwardArgs&);
  void (*histogram)(const HistogramArgs&);
  void (*combine)(const CombineArgs&);
  void (*accumulate)(const AccumulateArgs&);
  // Adds up f32 at `data`; for measuring bandwidth.
  float (*read)(const float* data, std::int64_t count);
  PeakLoop peak_fma;
  PeakLoop peak_bf16;  // null: no such unit
  PeakLoop peak_vnni;  // null: no such unit
};

// The table of the current instruction set; may be asked once per forward. Throws as current_isa.
const Kernels& current_kernels();

}  // namespace switchyard
