// Weights of the chosen, and what their gradient is to the logits; part of a kernel file, see kernels_inl.hpp. Arrays of
// slots are padded to whole blocks, logits with −inf; what else stands in the padding means nothing.

namespace switchyard {
namespace {

// The sum of all probabilities cancels, and underflows of it with it.
inline bool softmax_over_chosen(const RouterOptions& options) {
  return options.chosen == ChosenScore::softmax ||
         (options.score == Score::softmax && options.normalize == Normalize::sum && options.epsilon == 0.0F);
}

// What is left to divide by after the scores of the chosen.
inline Normalize normalize_after(const RouterOptions& options) {
  return options.score == Score::softmax && softmax_over_chosen(options) ? Normalize::none : options.normalize;
}

inline void softmax_of_chosen(const float* logit, std::int32_t topk, float* to) {
  V16 largest = V16::set(-__builtin_inff());
  for_blocks(topk, [&](std::int32_t at) { largest = V16::max(largest, V16::load(logit + at)); });
  const V16 top = V16::set(V16::largest(largest));
  for_blocks(topk, [&](std::int32_t at) { V16::store(to + at, softmax_term(V16::load(logit + at), top)); });
  const V16 total = V16::set(sum_of(to, topk));
  for_blocks(topk, [&](std::int32_t at) { V16::store(to + at, V16::div(V16::load(to + at), total)); });
}

// Logits of the chosen → their scores before they are normalised.
inline void score_chosen(const RouterOptions& options, const Softmax& softmax, const float* logit, float* to) {
  if (softmax_over_chosen(options)) {
    softmax_of_chosen(logit, options.topk, to);
    return;
  }
  for_blocks(options.topk, [&](std::int32_t at) {
    const V16 l = V16::load(logit + at);
    const V16 score = options.score == Score::softmax          ? probability_of(l, softmax)
                      : options.chosen == ChosenScore::sigmoid ? logistic(l)
                                                               : own_score(options.score, l);
    V16::store(to + at, score);
  });
}

// What scores are divided by.
inline float divisor_of(const RouterOptions& options, const float* score) {
  const std::int32_t topk = options.topk;
  if (normalize_after(options) != Normalize::power_norm) {
    const float sum = sum_of(score, topk);
    const bool clamped = options.normalize == Normalize::clamped_sum;
    return clamped ? (sum > options.epsilon ? sum : options.epsilon) : sum + options.epsilon;
  }
  alignas(64) float powers[kMaxTopk];
  for_blocks(topk, [&](std::int32_t at) {
    V16::store(powers + at, power_of(magnitude(V16::load(score + at)), options.power));
  });
  const V16 sum = V16::set(sum_of(powers, topk));
  return V16::largest(options.power == 2.0F ? V16::sqrt(sum) : power_of(sum, 1.0F / options.power));
}

inline V16 scale_of(const RouterOptions& options, const std::int32_t* id, std::int32_t at) {
  const V16 scale = V16::set(options.scale);
  if (options.expert_scale == nullptr) {
    return scale;
  }
  alignas(64) float own[kLanes];
  for (std::int32_t i = 0; i < kLanes; ++i) {
    own[i] = at + i < options.topk ? options.expert_scale[id[at + i]] : 0.0F;
  }
  return V16::mul(scale, V16::load(own));
}

// Sparsemixer's first of two slots: the larger logit, the lower id.
inline std::int32_t first_slot(const float* logit, const std::int32_t* id) {
  return logit[1] > logit[0] || (logit[1] == logit[0] && id[1] < id[0]) ? 1 : 0;
}

// The softmax of one of the two over the experts whose logits are not too far below it. It runs over a copy of the row
// with the others masked, which is left in `masked`.
inline Softmax sparsemixer_softmax(const RouterOptions& options, const Row& logit, float own, std::int32_t excluded,
                                   const Row& masked) {
  const V16 m = V16::set(own);
  const V16 lowest = V16::set(-__builtin_inff());
  const V16 border = V16::set(2.0F * options.jitter);
  V16 largest = lowest;
  for_blocks(logit.size, [&](std::int32_t at) {
    const V16 l = V16::load(logit.value + at);
    const V16 distance = V16::div(V16::sub(m, l), V16::max(magnitude(l), m));
    V16::store(masked.value + at, V16::choose_less(border, distance, lowest, l));
  });
  if (excluded >= 0) {
    masked.value[excluded] = -__builtin_inff();
  }
  for_blocks(logit.size, [&](std::int32_t at) { largest = V16::max(largest, V16::load(masked.value + at)); });
  const float top = V16::largest(largest);
  return {top, softmax_total(masked, top)};
}

inline void weigh_sparsemixer(const RouterOptions& options, const Row& logit, const std::int32_t* id,
                              const float* chosen, float* weight) {
  const std::int32_t first = first_slot(chosen, id);
  const Row masked{logit.value + logit.padded, logit.size, logit.padded};
  for (std::int32_t i = 0; i < 2; ++i) {
    const std::int32_t slot = i == 0 ? first : 1 - first;
    const std::int32_t excluded = i == 0 || id[0] == id[1] ? -1 : id[first];
    const Softmax softmax = sparsemixer_softmax(options, logit, chosen[slot], excluded, masked);
    weight[slot] = V16::largest(probability_of(V16::set(chosen[slot]), softmax));
  }
  V16::store(weight, V16::mul(V16::load(weight), scale_of(options, id, 0)));
}

// Logits of the chosen → weights.
inline void weigh(const RouterOptions& options, const Row& logit, const Softmax& softmax, const std::int32_t* id,
                  const float* chosen, float* weight) {
  if (options.score == Score::sparsemixer) {
    weigh_sparsemixer(options, logit, id, chosen, weight);
    return;
  }
  score_chosen(options, softmax, chosen, weight);
  const bool divides = normalize_after(options) != Normalize::none;
  const V16 divisor = V16::set(divides ? divisor_of(options, weight) : 1.0F);
  const V16 zero = V16::set(0.0F);
  for_blocks(options.topk, [&](std::int32_t at) {
    V16 share = V16::load(weight + at);
    if (divides) {
      share = V16::choose_equal(divisor, zero, zero, V16::div(share, divisor));
    }
    V16::store(weight + at, V16::mul(share, scale_of(options, id, at)));
  });
}

// Gradients of the weights before they are scaled → of the scores of the chosen, in place.
inline void unnormalize(const RouterOptions& options, const float* score, float* gradient) {
  const std::int32_t topk = options.topk;
  const Normalize normalize = normalize_after(options);
  if (normalize == Normalize::none) {
    return;
  }
  const float divisor = divisor_of(options, score);
  alignas(64) float products[kMaxTopk];
  for_blocks(topk, [&](std::int32_t at) {
    V16::store(products + at, V16::mul(V16::load(gradient + at), V16::load(score + at)));
  });
  const bool constant = normalize == Normalize::clamped_sum && sum_of(score, topk) <= options.epsilon;
  const V16 zero = V16::set(0.0F);
  const V16 d = V16::set(divisor);
  const V16 shared = V16::div(V16::set(constant ? 0.0F : sum_of(products, topk)), d);
  for_blocks(topk, [&](std::int32_t at) {
    const V16 c = V16::load(score + at);
    V16 pull = shared;
    if (normalize == Normalize::power_norm) {
      const V16 share = V16::div(magnitude(c), d);
      const V16 slope = options.power == 1.0F ? V16::set(1.0F) : power_of(share, options.power - 1.0F);
      const V16 signed_slope = V16::choose_less(c, zero, negative(slope), V16::choose_equal(c, zero, zero, slope));
      pull = V16::mul(shared, signed_slope);
    }
    const V16 result = V16::div(V16::sub(V16::load(gradient + at), pull), d);
    V16::store(gradient + at, V16::choose_equal(d, zero, zero, result));
  });
}

// Gradients of the scores of the chosen → of their logits, in place; not for a softmax over all experts.
inline void unscore(const RouterOptions& options, const float* logit, const float* score, float* gradient) {
  const std::int32_t topk = options.topk;
  float mean = 0.0F;
  if (softmax_over_chosen(options)) {
    alignas(64) float products[kMaxTopk];
    for_blocks(topk, [&](std::int32_t at) {
      V16::store(products + at, V16::mul(V16::load(gradient + at), V16::load(score + at)));
    });
    mean = sum_of(products, topk);
  }
  for_blocks(topk, [&](std::int32_t at) {
    const V16 g = V16::load(gradient + at);
    const V16 l = V16::load(logit + at);
    const V16 result = softmax_over_chosen(options)
                           ? V16::mul(V16::load(score + at), V16::sub(g, V16::set(mean)))
                           : V16::mul(g, options.chosen == ChosenScore::sigmoid ? sigmoid_slope(l)
                                                                                : own_score_slope(options.score, l));
    V16::store(gradient + at, result);
  });
}

}  // namespace
}  // namespace switchyard
