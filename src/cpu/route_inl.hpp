// Routing of logits; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Logits [at, at + kLanes) with NaN, and lanes beyond the end, as −inf.
inline V16 load_logits(const float* logits, std::int64_t at, std::int64_t experts) {
  const float lowest = -__builtin_inff();
  const V16 value = at + kLanes <= experts ? V16::load(logits + at) : V16::load_part(logits + at, experts - at, lowest);
  return V16::choose_nan(value, V16::set(lowest), value);
}

// exp(l − m); logits equal to the largest count as a difference of 0 even when they are infinite.
inline V16 softmax_term(V16 logit, V16 largest) {
  return exp(V16::choose_equal(logit, largest, V16::set(0.0F), V16::sub(logit, largest)));
}

// The best K so far: value descending, id ascending. Ids come in ascending order, so an equal value never passes an
// earlier one.
struct Best {
  float value[kMaxTopk];
  std::int32_t id[kMaxTopk];
  std::int32_t count = 0;

  void insert(float candidate, std::int32_t expert, std::int32_t topk) {
    std::int32_t at = count < topk ? count++ : topk - 1;
    for (; at > 0 && value[at - 1] < candidate; --at) {
      value[at] = value[at - 1];
      id[at] = id[at - 1];
    }
    value[at] = candidate;
    id[at] = expert;
  }
};

inline void select(const float* logits, const RouteArgs& r, Best& best) {
  alignas(64) float lane[kLanes];
  for (std::int32_t at = 0; at < r.experts; at += kLanes) {
    const V16 value = load_logits(logits, at, r.experts);
    if (best.count == r.topk && !V16::any_less(V16::set(best.value[r.topk - 1]), value)) {
      continue;
    }
    V16::store(lane, value);
    const std::int32_t count = r.experts - at < kLanes ? r.experts - at : kLanes;
    for (std::int32_t i = 0; i < count; ++i) {
      if (best.count < r.topk || lane[i] > best.value[r.topk - 1]) {
        best.insert(lane[i], at + i, r.topk);
      }
    }
  }
}

inline void route_token(const float* logits, const RouteArgs& r, std::int32_t* expert, float* weight) {
  V16 largest_lanes = V16::set(-__builtin_inff());
  for (std::int64_t at = 0; at < r.experts; at += kLanes) {
    largest_lanes = V16::max(largest_lanes, load_logits(logits, at, r.experts));
  }
  const V16 largest = V16::set(max_lanes(largest_lanes));
  V16 total_lanes = V16::set(0.0F);
  for (std::int64_t at = 0; at < r.experts; at += kLanes) {
    const V16 term = softmax_term(load_logits(logits, at, r.experts), largest);
    total_lanes = V16::add(total_lanes, V16::keep_first(term, r.experts - at));
  }
  const V16 total = V16::set(sum_lanes(total_lanes));
  Best best;
  for (float& value : best.value) {
    value = 0.0F;
  }
  select(logits, r, best);
  alignas(64) float score[kMaxTopk];
  for (std::int32_t at = 0; at < r.topk; at += kLanes) {
    V16::store(score + at, V16::div(softmax_term(V16::load(best.value + at), largest), total));
  }
  float chosen = 0.0F;
  for (std::int32_t s = 0; s < r.topk; ++s) {
    chosen += score[s];
  }
  for (std::int32_t s = 0; s < r.topk; ++s) {
    expert[s] = best.id[s];
    weight[s] = r.normalize ? score[s] / chosen : score[s];
  }
}

void route(const RouteArgs& r) {
  for (std::int64_t t = 0; t < r.count; ++t) {
    route_token(r.logits + t * r.stride, r, r.expert + t * r.topk, r.weight + t * r.topk);
  }
}

}  // namespace
}  // namespace switchyard
