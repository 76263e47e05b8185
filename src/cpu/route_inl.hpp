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

// What a token's logits need to become scores.
struct Softmax {
  V16 largest;
  V16 total;
};

inline Softmax softmax_of(const float* logits, std::int32_t experts) {
  V16 largest_lanes = V16::set(-__builtin_inff());
  for (std::int64_t at = 0; at < experts; at += kLanes) {
    largest_lanes = V16::max(largest_lanes, load_logits(logits, at, experts));
  }
  const V16 largest = V16::set(max_lanes(largest_lanes));
  V16 total = V16::set(0.0F);
  for (std::int64_t at = 0; at < experts; at += kLanes) {
    const V16 term = softmax_term(load_logits(logits, at, experts), largest);
    total = V16::add(total, V16::keep_first(term, experts - at));
  }
  return {largest, V16::set(sum_lanes(total))};
}

inline V16 score_of(V16 logit, const RouterOptions& options, const Softmax& softmax) {
  return options.score == Score::sigmoid ? sigmoid(logit)
                                         : V16::div(softmax_term(logit, softmax.largest), softmax.total);
}

// One token on its way: what experts are chosen by, in blocks of kLanes.
struct Selection {
  const float* logits;
  std::int32_t experts;
  const RouterOptions& options;
  const Softmax& softmax;

  // Scores are monotone in the logits: where nothing is added to them, the logits choose the same experts.
  bool by_logit() const { return options.selection_bias.data == nullptr && options.groups == 0; }

  V16 block(std::int64_t at) const {
    const V16 logit = load_logits(logits, at, experts);
    if (by_logit()) {
      return logit;
    }
    V16 value = score_of(logit, options, softmax);
    if (const auto* bias = static_cast<const float*>(options.selection_bias.data)) {
      value = V16::add(value,
                       at + kLanes <= experts ? V16::load(bias + at) : V16::load_part(bias + at, experts - at, 0.0F));
      value = V16::choose_nan(value, V16::set(-__builtin_inff()), value);
    }
    return value;
  }
};

// The best so far: value descending, id ascending. Ids come in ascending order, so an equal value never passes an
// earlier one.
struct Best {
  float value[kMaxTopk];
  std::int32_t id[kMaxTopk];
  std::int32_t count = 0;

  bool takes(float candidate, std::int32_t most) const { return count < most || candidate > value[most - 1]; }

  void insert(float candidate, std::int32_t expert, std::int32_t most) {
    std::int32_t at = count < most ? count++ : most - 1;
    for (; at > 0 && value[at - 1] < candidate; --at) {
      value[at] = value[at - 1];
      id[at] = id[at - 1];
    }
    value[at] = candidate;
    id[at] = expert;
  }
};

// Calls each(value, expert) for all experts, ascending; skips a block when `skip` says that nothing in it counts.
template <class Skip, class Each>
inline void for_experts(const Selection& selection, const Skip& skip, const Each& each) {
  alignas(64) float lane[kLanes];
  for (std::int32_t at = 0; at < selection.experts; at += kLanes) {
    const V16 value = selection.block(at);
    if (skip(value)) {
      continue;
    }
    V16::store(lane, value);
    const std::int32_t count = selection.experts - at < kLanes ? selection.experts - at : kLanes;
    for (std::int32_t i = 0; i < count; ++i) {
      each(lane[i], at + i);
    }
  }
}

inline void select(const Selection& selection, std::int32_t topk, Best& best) {
  for_experts(
      selection, [&](V16 value) { return best.count == topk && !V16::any_less(V16::set(best.value[topk - 1]), value); },
      [&](float value, std::int32_t expert) {
        if (best.takes(value, topk)) {
          best.insert(value, expert, topk);
        }
      });
}

// The sum of each group's best, largest first, and from these the kept groups.
inline void keep_groups(const Selection& selection, bool* kept) {
  const RouterOptions& options = selection.options;
  const std::int32_t size = selection.experts / options.groups;
  float score[kMaxGroups];
  Best best;
  for_experts(
      selection, [](V16) { return false; },
      [&](float value, std::int32_t expert) {
        if (best.takes(value, options.group_best)) {
          best.insert(value, expert, options.group_best);
        }
        if ((expert + 1) % size == 0) {
          float sum = best.value[0];
          for (std::int32_t i = 1; i < best.count; ++i) {
            sum += best.value[i];
          }
          score[expert / size] = sum != sum ? -__builtin_inff() : sum;
          best.count = 0;
        }
      });
  for (std::int32_t g = 0; g < options.groups; ++g) {
    std::int32_t better = 0;
    for (std::int32_t other = 0; other < options.groups; ++other) {
      better += score[other] > score[g] || (score[other] == score[g] && other < g) ? 1 : 0;
    }
    kept[g] = better < options.kept_groups;
  }
}

inline void select_in_groups(const Selection& selection, std::int32_t topk, Best& best) {
  const std::int32_t size = selection.experts / selection.options.groups;
  const float masked = selection.options.masked_zero ? 0.0F : -__builtin_inff();
  bool kept[kMaxGroups];
  keep_groups(selection, kept);
  for_experts(
      selection, [](V16) { return false; },
      [&](float value, std::int32_t expert) {
        const float candidate = kept[expert / size] ? value : masked;
        if (best.takes(candidate, topk)) {
          best.insert(candidate, expert, topk);
        }
      });
}

// Unbiased scores of the chosen experts → their weights.
inline void weigh(const float* logits, const RouterOptions& options, const Softmax& softmax, const Best& best,
                  float* weight) {
  const float lowest = -__builtin_inff();
  alignas(64) float score[kMaxTopk];
  for (std::int32_t s = 0; s < kMaxTopk; ++s) {
    const float logit = s < options.topk ? logits[best.id[s]] : 0.0F;
    score[s] = logit != logit ? lowest : logit;
  }
  float sum = 0.0F;
  for (std::int32_t at = 0; at < options.topk; at += kLanes) {
    V16::store(score + at, score_of(V16::load(score + at), options, softmax));
  }
  for (std::int32_t s = 0; s < options.topk; ++s) {
    sum += score[s];
  }
  sum += options.epsilon;
  for (std::int32_t s = 0; s < options.topk; ++s) {
    const float share = options.normalize == Normalize::none ? score[s] : sum == 0.0F ? 0.0F : score[s] / sum;
    weight[s] = share * options.scale;
  }
}

inline void route_token(const float* logits, const RouteArgs& r, std::int32_t* expert, float* weight) {
  const RouterOptions& options = *r.options;
  const Softmax softmax =
      options.score == Score::softmax ? softmax_of(logits, r.experts) : Softmax{V16::set(0.0F), V16::set(1.0F)};
  const Selection selection{logits, r.experts, options, softmax};
  Best best;
  if (options.groups == 0) {
    select(selection, options.topk, best);
  } else {
    select_in_groups(selection, options.topk, best);
  }
  weigh(logits, options, softmax, best, weight);
  for (std::int32_t s = 0; s < options.topk; ++s) {
    expert[s] = best.id[s];
  }
}

__attribute__((noinline)) void route_tokens(const RouteArgs& r) {
  const std::int32_t topk = r.options->topk;
  for (std::int64_t t = 0; t < r.count; ++t) {
    route_token(r.logits + t * r.stride, r, r.expert + t * topk, r.weight + t * topk);
  }
}

void route(const RouteArgs& r) {
  const FloatMode mode(false);
  route_tokens(r);
}

}  // namespace
}  // namespace switchyard
