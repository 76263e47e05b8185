// Weights of the chosen, and what their gradient is to the logits; part of a kernel file, see kernels_inl.hpp. Lanes hold
// tokens and slots follow one another, so that sums over slots run in slot order and nothing crosses lanes.

namespace switchyard {
namespace {

// A value of each slot of kLanes tokens. Lanes without a token hold any number.
struct alignas(64) SlotValues {
  float value[kMaxTopk][kLanes];

  V16 load(std::int32_t slot) const { return V16::load(value[slot]); }
  void store(std::int32_t slot, V16 lanes) { V16::store(value[slot], lanes); }
  void clear(std::int32_t topk) {
    for (std::int32_t s = 0; s < topk; ++s) {
      store(s, V16::set(0.0F));
    }
  }
};

// What a softmax over all experts needs of each token.
struct alignas(64) SoftmaxLanes {
  float largest[kLanes];
  float total[kLanes];
};

// The sum of all probabilities cancels, and underflows of it with it.
inline bool softmax_over_chosen(const RouterOptions& options) {
  return options.chosen == ChosenScore::softmax ||
         (options.score == Score::softmax && options.normalize == Normalize::sum && options.epsilon == 0.0F);
}

// What is left to divide by after the scores of the chosen.
inline Normalize normalize_after(const RouterOptions& options) {
  return options.score == Score::softmax && softmax_over_chosen(options) ? Normalize::none : options.normalize;
}

inline V16 sum_of_slots(const SlotValues& values, std::int32_t topk) {
  V16 sum = values.load(0);
  for (std::int32_t s = 1; s < topk; ++s) {
    sum = V16::add(sum, values.load(s));
  }
  return sum;
}

inline V16 sum_of_products(const SlotValues& a, const SlotValues& b, std::int32_t topk) {
  V16 sum = V16::mul(a.load(0), b.load(0));
  for (std::int32_t s = 1; s < topk; ++s) {
    sum = V16::fma(a.load(s), b.load(s), sum);
  }
  return sum;
}

inline void softmax_of_chosen(const SlotValues& logit, std::int32_t topk, SlotValues& to) {
  V16 largest = logit.load(0);
  for (std::int32_t s = 1; s < topk; ++s) {
    largest = V16::max(largest, logit.load(s));
  }
  for (std::int32_t s = 0; s < topk; ++s) {
    to.store(s, softmax_term(logit.load(s), largest));
  }
  const V16 total = sum_of_slots(to, topk);
  for (std::int32_t s = 0; s < topk; ++s) {
    to.store(s, V16::div(to.load(s), total));
  }
}

// Logits of the chosen → their scores before they are normalised. `softmax` is read for a softmax over all experts only.
inline void score_chosen(const RouterOptions& options, const SoftmaxLanes& softmax, const SlotValues& logit,
                         SlotValues& to) {
  if (softmax_over_chosen(options)) {
    softmax_of_chosen(logit, options.topk, to);
    return;
  }
  for (std::int32_t s = 0; s < options.topk; ++s) {
    const V16 l = logit.load(s);
    if (options.score == Score::softmax) {
      to.store(s, V16::div(softmax_term(l, V16::load(softmax.largest)), V16::load(softmax.total)));
    } else {
      to.store(s, options.chosen == ChosenScore::sigmoid ? logistic(l) : own_score(options.score, l));
    }
  }
}

// What scores are divided by.
inline V16 divisor_of(const RouterOptions& options, const SlotValues& score) {
  const Normalize normalize = normalize_after(options);
  if (normalize != Normalize::power_norm) {
    const V16 sum = sum_of_slots(score, options.topk);
    const V16 epsilon = V16::set(options.epsilon);
    return normalize == Normalize::clamped_sum ? V16::choose_less(sum, epsilon, epsilon, sum) : V16::add(sum, epsilon);
  }
  V16 sum = V16::set(0.0F);
  for (std::int32_t s = 0; s < options.topk; ++s) {
    sum = V16::add(sum, power_of(magnitude(score.load(s)), options.power));
  }
  return options.power == 2.0F ? V16::sqrt(sum) : power_of(sum, 1.0F / options.power);
}

// Divides where there is something to divide by, and gives 0 elsewhere.
inline V16 divided(V16 value, V16 divisor) {
  const V16 zero = V16::set(0.0F);
  return V16::choose_equal(divisor, zero, zero, V16::div(value, divisor));
}

// Logits of the chosen → weights before they are scaled; not for the sparse mixer.
inline void weigh(const RouterOptions& options, const SoftmaxLanes& softmax, const SlotValues& logit,
                  SlotValues& weight) {
  score_chosen(options, softmax, logit, weight);
  if (normalize_after(options) == Normalize::none) {
    return;
  }
  const V16 divisor = divisor_of(options, weight);
  for (std::int32_t s = 0; s < options.topk; ++s) {
    weight.store(s, divided(weight.load(s), divisor));
  }
}

// Times scale and the expert's own; id [kLanes][kChosenRoom].
inline void scale_slots(const RouterOptions& options, const std::int32_t (*id)[kChosenRoom], std::int32_t tokens,
                        SlotValues& values) {
  if (options.scale == 1.0F && options.expert_scale == nullptr) {
    return;
  }
  const V16 scale = V16::set(options.scale);
  for (std::int32_t s = 0; s < options.topk; ++s) {
    V16 value = V16::mul(values.load(s), scale);
    if (options.expert_scale != nullptr) {
      alignas(64) float own[kLanes] = {};
      for (std::int32_t i = 0; i < tokens; ++i) {
        own[i] = options.expert_scale[id[i][s]];
      }
      value = V16::mul(value, V16::load(own));
    }
    values.store(s, value);
  }
}

// Gradients of the weights before they are scaled → of the scores of the chosen, in place.
inline void unnormalize(const RouterOptions& options, const SlotValues& score, SlotValues& gradient) {
  const Normalize normalize = normalize_after(options);
  if (normalize == Normalize::none) {
    return;
  }
  const V16 zero = V16::set(0.0F);
  const V16 divisor = divisor_of(options, score);
  V16 shared = V16::div(sum_of_products(gradient, score, options.topk), divisor);
  if (normalize == Normalize::clamped_sum) {  // below epsilon the divisor is a constant
    const V16 epsilon = V16::set(options.epsilon);
    shared = V16::choose_less(epsilon, sum_of_slots(score, options.topk), shared, zero);
  }
  for (std::int32_t s = 0; s < options.topk; ++s) {
    V16 pull = shared;
    if (normalize == Normalize::power_norm) {
      const V16 c = score.load(s);
      const V16 share = V16::div(magnitude(c), divisor);
      const V16 slope = options.power == 1.0F ? V16::set(1.0F) : power_of(share, options.power - 1.0F);
      const V16 signed_slope = V16::choose_less(c, zero, negative(slope), V16::choose_equal(c, zero, zero, slope));
      pull = V16::mul(shared, signed_slope);
    }
    gradient.store(s, divided(V16::sub(gradient.load(s), pull), divisor));
  }
}

// Gradients of the scores of the chosen → of their logits, in place; not for a softmax over all experts.
inline void unscore(const RouterOptions& options, const SlotValues& logit, const SlotValues& score,
                    SlotValues& gradient) {
  if (softmax_over_chosen(options)) {
    const V16 mean = sum_of_products(gradient, score, options.topk);
    for (std::int32_t s = 0; s < options.topk; ++s) {
      gradient.store(s, V16::mul(score.load(s), V16::sub(gradient.load(s), mean)));
    }
    return;
  }
  for (std::int32_t s = 0; s < options.topk; ++s) {
    const V16 l = logit.load(s);
    const V16 slope = options.chosen == ChosenScore::sigmoid ? sigmoid_slope(l) : own_score_slope(options.score, l);
    gradient.store(s, V16::mul(gradient.load(s), slope));
  }
}

// Sparsemixer's first of two slots: the larger logit, the lower id.
inline std::int32_t first_slot(const float* logit, const std::int32_t* id) {
  return logit[1] > logit[0] || (logit[1] == logit[0] && id[1] < id[0]) ? 1 : 0;
}

// The softmax of one of the two over the experts whose logits are not too far below it. It runs over a copy of the row
// with the others masked, which is left in `masked`.
inline Softmax sparsemixer_softmax(const RouterOptions& options, const ConstRow& logit, float own,
                                   std::int32_t excluded, const Row& masked) {
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

// Calls each(slot, softmax) for the two slots of a token, with the softmax of the slot and its masked row in `masked`.
template <class Each>
inline void for_sparsemixer_slots(const RouterOptions& options, const ConstRow& logit, const std::int32_t* id,
                                  const Row& masked, const Each& each) {
  const float chosen[2] = {logit.value[id[0]], logit.value[id[1]]};
  const std::int32_t first = first_slot(chosen, id);
  for (std::int32_t i = 0; i < 2; ++i) {
    const std::int32_t slot = i == 0 ? first : 1 - first;
    const std::int32_t excluded = i == 0 || id[0] == id[1] ? -1 : id[first];
    each(slot, sparsemixer_softmax(options, logit, chosen[slot], excluded, masked));
  }
}

}  // namespace
}  // namespace switchyard
