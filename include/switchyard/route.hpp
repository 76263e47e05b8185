// Routing: which experts a token uses and how much of each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/export.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard {

// Limits that keep every size in 64 bits.
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 40;
inline constexpr std::int32_t kMaxTopk = 64;
inline constexpr std::int32_t kMaxExperts = 65536;
inline constexpr std::int32_t kMaxGroups = 256;

// What a logit l becomes, fp32.
enum class Score : std::int32_t {
  softmax = 0,        // over all experts (Mixtral, Qwen, OLMoE, DeepSeek-V2)
  sigmoid = 1,        // 1 / (1 + exp(−l)) (DeepSeek-V3, GLM-4, Kimi, MiniMax-M2)
  sqrt_softplus = 2,  // sqrt(log(1 + exp(l))) (DeepSeek-V4)
  logit = 3,          // l itself (GPT-OSS, Granite, Llama-4)
  sparsemixer = 4,    // topk is 2, each weight from a masked softmax of its own (Phi-3.5-MoE, arXiv 2409.12136)
};

// "softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer".
SWITCHYARD_API const char* score_name(Score score) noexcept;

// What the scores of the chosen become before they are normalised.
enum class ChosenScore : std::int32_t {
  none = 0,
  softmax = 1,  // over the chosen (GPT-OSS, Granite)
  sigmoid = 2,  // of each (Llama-4, Kolibri)
};

// What they are divided by; 0 if that is 0.
enum class Normalize : std::int32_t {
  none = 0,
  sum = 1,          // sum + epsilon. With Score::softmax and epsilon 0 this is the softmax over the chosen.
  clamped_sum = 2,  // max(sum, epsilon) (Ernie-4.5)
  power_norm = 3,   // (Σ |score|^power)^(1 / power) (DBRX)
};

// How the slots of a token follow one another.
enum class Order : std::int32_t {
  score = 0,   // selection descending, then expert id ascending
  expert = 1,  // expert id ascending
  any = 2,     // as it comes out fastest: some fixed order, the same for every instruction set
};

// How logits become a routing. Fields are only ever added, with a default that keeps what was.
//
//   l         = logit_scale · logit + logit_bias, rounded to bf16 if round_logits, and then softcap · tanh(l / softcap)
//   score     = Score of l
//   selection = score + selection_bias                    what experts are chosen by; −inf where l or the bias is NaN
//   with groups: a group's score is the sum of its group_best largest selections; experts of all but the kept_groups
//                best groups have the selection −inf
//   weight    = chosen(score), normalised, · scale · expert_scale
//
// Sources: DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) with transformers 5.23's group rule; DeepSeek-V2 (arXiv
// 2405.04434, section 2.1.2: group_best 1, masked_zero); TransformerEngine's fused router; FlashInfer's routing methods.
// Arrays are not owned: `route` reads them during the call, a Layer keeps copies.
struct RouterOptions {
  std::int32_t topk = 1;  // K: 1..min(experts, kMaxTopk)
  Score score = Score::softmax;
  Normalize normalize = Normalize::none;
  float epsilon = 0.0F;                    // >= 0
  float scale = 1.0F;                      // `routed_scaling_factor`
  std::int32_t groups = 0;                 // 0, 1: none; else 2..kMaxGroups groups of experts / groups neighbours each
  std::int32_t kept_groups = 0;            // 1..groups, with at least topk experts; without groups 0 or 1
  std::int32_t group_best = 1;             // 1..experts / groups and at most kMaxTopk; 1 is the maximum
  bool masked_zero = false;                // the other groups' experts have the selection 0 instead of −inf
  ConstArray selection_bias = {};          // [E] f32, bf16 or f16, or none; never enters the weights
  ChosenScore chosen = ChosenScore::none;  // softmax and sigmoid need Score::logit
  float power = 1.0F;                      // of Normalize::power_norm, > 0
  const float* expert_scale = nullptr;     // [E] or null
  float logit_scale = 1.0F;
  const float* logit_bias = nullptr;  // [E] or null
  float softcap = 0.0F;               // 0: none
  bool round_logits = false;          // what a router whose GEMM gives bf16 does; its gradient is that of no rounding
  float jitter = 0.01F;               // of Score::sparsemixer, >= 0 (`router_jitter_noise`)
  Order order = Order::score;
  // Table routing: the experts of a token are row token_id of table [table_rows,K] (i16, i32 or i64, ids in 0..E−1, in
  // that order, duplicates allowed); groups and bias choose nothing then (DeepSeek-V4's hash layers).
  ConstArray table = {};
  std::int64_t table_rows = 0;
};

// The choice for T tokens: expert [T,K] with −1 for a slot that is off, weight [T,K]. A view; who made it says who owns
// the memory.
//
// Selection: descending, then expert id ascending; NaN counts as −inf; never a duplicate. Without bias and groups l
// itself decides, which has the order of the scores and fewer ties: where scores are equal in fp32 (sigmoids of 20 and
// 30), a bias of zeros chooses the lower id and no bias the larger l; and a NaN stands among the l of −inf. Its score
// is that of −inf, for weights, aux_score and sums. Logits equal to the row's largest get the softmax of a difference
// of 0, so rows of ±inf are defined too: several +inf share the weight, a row of −inf or NaN alone is uniform.
struct Routing {
  std::int64_t tokens = 0;
  std::int32_t topk = 0;
  std::int32_t* expert = nullptr;
  float* weight = nullptr;
};

// What may come with the tokens; nothing of it has to. Not owned.
struct RouteInputs {
  // [T], 0: padding. Such a token gets ids −1 and weights 0 and counts nowhere; its logits are not looked at.
  const std::uint8_t* valid = nullptr;
  // Replay: [T,K] i16, i32 or i64, kept in this order, duplicates allowed. Weights come from the live, unbiased scores.
  // A token with an id of −1 among them is routed live, which is by the table if there is one.
  ConstArray forced;
  // [T], 0: the token's row of `forced` is missing, it is routed live. Null: none is.
  const std::uint8_t* replayed = nullptr;
  // [T] i32 or i64, needed for a table and read for nothing else.
  ConstArray token_id;
  // Borders of sequences for their own counts and sums, [sequences + 1], from 0 to T, ascending. Null: one sequence.
  const std::int64_t* sequence_begin = nullptr;
  std::int64_t sequences = 1;
};

// What is wanted, each on its own; null: not. The caller owns all of it; every element is written, but for the
// histogram, which is added to. The bits of one do not depend on which others are asked for.
struct RouteOutputs {
  Array expert;                      // [T,K] i16, i32 or i64
  Array weight;                      // [T,K] f32, bf16 or f16
  Array probability;                 // [T,E] f32, bf16 or f16: weights of the chosen (duplicates add up), 0 elsewhere
  std::uint8_t* byte_map = nullptr;  // [T,E]: 1 for a chosen expert
  std::uint8_t* bit_map = nullptr;   // [T,⌈E/8⌉]: the same in bits, the lowest first
  // What the backward of a sparse gradient needs instead of the logits: l of the chosen, [T,K].
  float* chosen_logit = nullptr;
  // Scores for balance losses, [T,E]: the softmax of l for Score::softmax, logit and sparsemixer; else score / (Σ score +
  // 1e-20). 0 for padding.
  float* aux_score = nullptr;
  // Over all valid tokens; per sequence if sequence_begin is given: [S,E].
  std::int64_t* count = nullptr;        // slots of each expert
  double* score_sum = nullptr;          // of aux_score
  double* z_sum = nullptr;              // [S] of log(Σ exp(l))², the z-loss (ST-MoE, arXiv 2202.08906); of a token
                                        // where that is infinite (an l of +inf, or none above −inf) 0
  std::int64_t* valid_count = nullptr;  // [S] valid tokens
  // Quantile Balancing (TransformerEngine's 3-step rule, Kimi K3): the (K+1)-th largest selection, [T], −inf for padding;
  // and for every valid token and every expert e the bin of cutoff − score[e] among `bins` equal ones from qb_lower to
  // qb_upper, the outer ones open: [E,bins], added to, up to 2^31 − 1, where a bin stays. Both need K < E, no groups
  // and nothing given; the histogram needs a score that is not a softmax. An l or a distance of NaN counts nowhere.
  float* cutoff = nullptr;
  std::int32_t* histogram = nullptr;
  std::int32_t bins = 0;
  float qb_lower = 0.0F;
  float qb_upper = 0.0F;
};

// Bytes of workspace for `route` and `route_backward` with up to max_tokens; enough for every smaller number, and for
// every set of outputs. A multiple of kWorkspaceAlignment. Throws invalid_argument.
SWITCHYARD_API std::size_t route_workspace_bytes(std::int64_t max_tokens, std::int32_t experts,
                                                 std::int64_t sequences = 1, const Threads& threads = Threads());

// Routes logits [T,E], f32, bf16 or f16. The bits of a token do not depend on the other tokens, the batch, threads,
// the instruction set or the outputs asked for; sums over tokens depend on the tokens alone. Outputs and the workspace
// must not overlap one another, nor anything that is read, the arrays of options among it (columns that lie interleaved
// count as overlapping). Allocates nothing. Throws invalid_argument before any work.
SWITCHYARD_API void route(ConstMatrix logits, const RouterOptions& options, const RouteInputs& inputs,
                          const RouteOutputs& outputs, const Workspace& workspace, const Threads& threads = Threads());

// What is known of the loss, and of the routing that it followed.
struct RouteGradients {
  ConstArray expert;  // [T,K] as `route` gave it; required
  // dL/dweight [T,K] and dL/dprobability [T,E], f32, bf16 or f16: either or both (they add up) or none.
  ConstArray weight;
  ConstArray probability;
  // RouteOutputs::chosen_logit; then `logits` may have no data if the gradient is sparse (route_gradient_is_sparse, no
  // aux, no z).
  const float* chosen_logit = nullptr;
  // dL/daux_score, the same for all tokens of a sequence: [S,E] or null; see balance.hpp.
  const float* aux = nullptr;
  // dL/d(z_sum), finite: one number for all sequences. Tokens that add nothing to z_sum get nothing from it. A loss
  // that weighs sequences differently takes a call for each.
  float z = 0.0F;
};

// Whether the gradient of the weights is zero for all experts but the chosen: all but Score::sparsemixer and a
// Score::softmax that is not simply divided by its sum.
SWITCHYARD_API bool route_gradient_is_sparse(const RouterOptions& options) noexcept;

// dL/dlogits [T,E], f32, bf16 or f16, every element written; 0 for padding (ids −1). The choice itself counts as
// constant. `inputs` as in the forward; of it only `valid` and the sequences are read. dlogits and the workspace must
// overlap neither one another nor anything that is read, the logits among it (columns that lie interleaved count as
// overlapping). Throws invalid_argument before any work. Allocates nothing.
SWITCHYARD_API void route_backward(ConstMatrix logits, const RouterOptions& options, const RouteInputs& inputs,
                                   const RouteGradients& gradients, Matrix dlogits, const Workspace& workspace,
                                   const Threads& threads = Threads());

// The router's GEMM, backward: logits = x · weightᵀ.
//   dx [T,H]      = dlogits · weight          f32, bf16 or f16, or no data: not wanted
//   dweight [E,H] = dlogitsᵀ · x              f32 only: gradients of weights are summed up over batches; or no data
//   dbias [E]     = Σ_t dlogits               or null
// dbias is the gradient of a bias in this GEMM, which comes before logit_scale: route_backward's dlogits are dL/dlogit.
// RouterOptions::logit_bias comes after it, so its gradient is dbias / logit_scale; logit_scale 0 leaves none to take.
// x [T,H], read for dweight alone; weight [E,H] of plain numbers with in_stride 1, read for dx alone; dlogits [T,E]: each
// f32, bf16 or f16, which is widened to fp32 first. The caller owns all of it; outputs must overlap neither inputs nor
// one another (columns that lie interleaved count as overlapping). Each element is one fp32 chain of fused multiply-adds
// from +0, ascending over experts or tokens, rounded once: the same bits for every number of threads and instruction set.
// Allocates nothing. Throws invalid_argument, and not_supported for another in_stride or codes.
SWITCHYARD_API void router_backward(ConstMatrix x, const WeightView& weight, ConstMatrix dlogits, Matrix dx,
                                    Matrix dweight, float* dbias, const Threads& threads = Threads());

}  // namespace switchyard
