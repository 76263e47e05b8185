// Routing: which experts a token uses and how much of each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "switchyard/export.hpp"
#include "switchyard/threads.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// Limits that keep every size in 64 bits.
inline constexpr std::int64_t kMaxTokens = std::int64_t{1} << 40;
inline constexpr std::int32_t kMaxTopk = 64;
inline constexpr std::int32_t kMaxExperts = 65536;

inline constexpr std::int32_t kMaxGroups = 256;

enum class Score : std::int32_t {
  softmax =
      0,  // p = softmax(logits) over all experts (Mixtral, Qwen, OLMoE, DeepSeek-V2; with `normalize` also Granite)
  sigmoid = 1,  // s = 1 / (1 + exp(−logit)) (DeepSeek-V3, GLM-4, Kimi, MiniMax-M2)
};

// How logits become a routing. Fields are only ever added, with a default that keeps what was.
//
//   score     = softmax or sigmoid of the logits, fp32
//   selection = score + selection_bias                    what experts are chosen by
//   with groups: a group's score is the sum of its group_best largest selections; experts of all but the kept_groups
//                best groups have the selection −inf
//   weight    = score of the chosen (/ (their sum + epsilon), if normalize; 0 if that is 0) · scale
//
// Sources: DeepSeek-V3 (arXiv 2412.19437, section 2.1.2) with transformers 5.23's group rule; DeepSeek-V2 (arXiv
// 2405.04434, section 2.1.2: group_best 1, masked_zero).
struct RouterOptions {
  std::int32_t topk = 1;  // K: 1..min(experts, kMaxTopk)
  Score score = Score::softmax;
  bool normalize = false;        // divide the K chosen scores by their sum (`norm_topk_prob`)
  float epsilon = 0.0F;          // >= 0
  float scale = 1.0F;            // `routed_scaling_factor`
  std::int32_t groups = 0;       // 0: none; else 2..kMaxGroups groups of experts / groups neighbours each
  std::int32_t kept_groups = 0;  // 1..groups, with at least topk experts
  std::int32_t group_best = 1;   // 1..experts / groups and at most kMaxTopk; 1 is the maximum
  bool masked_zero = false;      // the other groups' experts have the selection 0 instead of −inf
  // [E] or null: none. route_logits reads it during the call; a Layer keeps a copy. Never enters the weights.
  const float* selection_bias = nullptr;
};

// The choice for T tokens: expert [T,K] with −1 for a slot that is off, weight [T,K]. A view; who made it says who owns
// the memory.
//
// Selection: descending, then expert id ascending; NaN counts as −inf; never a duplicate. Without bias and groups the
// logits decide, which have the order of their scores and fewer ties. Logits equal to the row's largest get the softmax
// of a difference of 0, so rows of ±inf are defined too: several +inf share the weight, a row of −inf or NaN alone is
// uniform.
struct Routing {
  std::int64_t tokens = 0;
  std::int32_t topk = 0;
  std::int32_t* expert = nullptr;
  float* weight = nullptr;
};

// Routes given logits [T,E], f32. Writes routing.expert and routing.weight, which the caller owns, each [T,K] with K =
// options.topk. The bits of a token do not depend on the other tokens, threads or the instruction set. Throws
// invalid_argument for sizes that do not fit.
SWITCHYARD_API void route_logits(ConstMatrix logits, const RouterOptions& options, Routing routing,
                                 const Threads& threads = Threads());

}  // namespace switchyard
