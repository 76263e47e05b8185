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

enum class Score : std::int32_t {
  softmax = 0,  // p = softmax(logits) over all experts, fp32 (Mixtral, Qwen, OLMoE; with `normalize` also Granite)
};

// How logits become a routing. Fields are only ever added, with a default that keeps what was.
struct RouterOptions {
  std::int32_t topk = 1;  // K: 1..min(experts, kMaxTopk)
  Score score = Score::softmax;
  bool normalize = false;  // divide the K chosen scores by their sum (`norm_topk_prob`)
};

// The choice for T tokens: expert [T,K] with −1 for a slot that is off, weight [T,K]. A view; who made it says who owns
// the memory.
//
// Selection: score descending, then expert id ascending; NaN counts as −inf; never a duplicate. The logits decide,
// which have the order of their softmax. Logits equal to the row's largest get the softmax of a difference of 0, so
// rows of ±inf are defined too: several +inf share the weight, a row of −inf or NaN alone is uniform.
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
