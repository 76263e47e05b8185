// Gradients of a routing to its logits, and Quantile Balancing's histogram; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// dl/dlogit of the transformation.
inline V16 transform_slope(const RouterOptions& options, V16 l) {
  V16 slope = V16::set(options.logit_scale);
  if (options.softcap != 0.0F) {
    const V16 share = V16::div(l, V16::set(options.softcap));
    const V16 one = V16::set(1.0F);
    const V16 bend = V16::sub(one, V16::mul(share, share));
    const V16 nan_was_here = V16::set(-__builtin_inff());
    slope = V16::mul(slope, V16::choose_equal(l, nan_was_here, V16::set(0.0F), bend));
  }
  return slope;
}

// A token on its way back. Rows of scratch: 0 logits, 1 probabilities or scores, 2 gradient.
struct Return {
  std::int64_t t;
  std::int32_t id[kMaxTopk];
  alignas(64) float logit[kMaxTopk];
  alignas(64) float gradient[kMaxTopk];
  Row l;
  Row score;
  Row out;
};

// Whether it is a token that was routed.
inline bool load_ids(const RouteBackwardArgs& r, Return& token) {
  if (r.inputs->valid != nullptr && r.inputs->valid[token.t] == 0) {
    return false;
  }
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    token.id[s] = static_cast<std::int32_t>(id_at(r.gradients->expert, token.t * r.options->topk + s));
    if (token.id[s] < 0) {
      return false;
    }
  }
  return true;
}

// Of the weights of the chosen before they are scaled.
inline void load_gradient(const RouteBackwardArgs& r, Return& token) {
  const RouterOptions& options = *r.options;
  const ConstArray& of_weight = r.gradients->weight;
  const ConstArray& of_probability = r.gradients->probability;
  for_blocks(options.topk, [&](std::int32_t at) {
    V16 g = V16::set(0.0F);
    if (of_weight.data != nullptr) {
      g = load_some(of_weight.data, of_weight.dtype, token.t * options.topk + at, options.topk - at);
    }
    if (of_probability.data != nullptr) {
      alignas(64) float gathered[kLanes] = {};
      for (std::int32_t i = 0; i < kLanes && at + i < options.topk; ++i) {
        const std::int64_t from = token.t * r.experts + token.id[at + i];
        gathered[i] = V16::sum(load_some(of_probability.data, of_probability.dtype, from, 1));
      }
      g = V16::add(g, V16::load(gathered));
    }
    V16::store(token.gradient + at, V16::mul(g, scale_of(options, token.id, at)));
  });
}

inline void add_sparsemixer(const RouteBackwardArgs& r, const Return& token) {
  const std::int32_t first = first_slot(token.logit, token.id);
  for (std::int32_t i = 0; i < 2; ++i) {
    const std::int32_t slot = i == 0 ? first : 1 - first;
    const std::int32_t excluded = i == 0 || token.id[0] == token.id[1] ? -1 : token.id[first];
    const Softmax softmax = sparsemixer_softmax(*r.options, token.l, token.logit[slot], excluded, token.score);
    const V16 weight = probability_of(V16::set(token.logit[slot]), softmax);
    const V16 pull = V16::mul(V16::set(token.gradient[slot]), weight);
    for_blocks(r.experts, [&](std::int32_t at) {
      const V16 p = probability_of(V16::load(token.score.value + at), softmax);
      V16::store(token.out.value + at, V16::sub(V16::load(token.out.value + at), V16::mul(pull, p)));
    });
    token.out.value[token.id[slot]] += V16::largest(pull);
  }
}

// The parts that reach the logits through a softmax over all experts: of the weights, a balance loss, the z-loss. In
// `out` stands the gradient of the probabilities.
inline void through_softmax(const RouteBackwardArgs& r, const Return& token, const Softmax& softmax) {
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 p = probability_of(V16::load(token.l.value + at), softmax);
    V16::store(token.score.value + at, p);
  });
  V16 dot = V16::set(0.0F);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 product = V16::mul(V16::load(token.score.value + at), V16::load(token.out.value + at));
    dot = V16::add(dot, V16::keep_first(product, r.experts - at));
  });
  const float of_z = r.gradients->z == 0.0F ? 0.0F : 2.0F * r.gradients->z * log_total(softmax);
  const V16 shift = V16::set(of_z - V16::sum(dot));
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = V16::add(V16::load(token.out.value + at), shift);
    V16::store(token.out.value + at, V16::mul(V16::load(token.score.value + at), g));
  });
}

// A balance loss over scores / (their sum + epsilon).
inline void add_aux_of_own_scores(const RouteBackwardArgs& r, const Return& token, const float* aux) {
  V16 dot = V16::set(0.0F);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 score = own_score(r.options->score, V16::load(token.l.value + at));
    V16::store(token.score.value + at, score);
    const V16 product = V16::mul(score, load_some(aux, DType::f32, at, r.experts - at));
    dot = V16::add(dot, V16::keep_first(product, r.experts - at));
  });
  const V16 total = V16::set(sum_of(token.score.value, r.experts) + kAuxEpsilon);
  const V16 pull = V16::div(V16::set(V16::sum(dot)), total);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = V16::div(V16::sub(load_some(aux, DType::f32, at, r.experts - at), pull), total);
    const V16 slope = own_score_slope(r.options->score, V16::load(token.l.value + at));
    V16::store(token.out.value + at, V16::fma(g, slope, V16::load(token.out.value + at)));
  });
}

// The gradient of the transformed logits → out.
inline void fill_dense(const RouteBackwardArgs& r, Return& token, float largest, const float* aux) {
  const RouterOptions& options = *r.options;
  const bool weights = options.score == Score::softmax && !softmax_over_chosen(options);
  const bool softmax_aux = aux != nullptr && has_softmax_aux(options.score);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = softmax_aux ? load_some(aux, DType::f32, at, r.experts - at) : V16::set(0.0F);
    V16::store(token.out.value + at, g);
  });
  Softmax softmax{largest, 1.0F};
  if (weights || softmax_aux || r.gradients->z != 0.0F) {
    softmax.total = softmax_total(token.l, largest);
  }
  if (weights) {
    alignas(64) float score[kMaxTopk];
    score_chosen(options, softmax, token.logit, score);
    unnormalize(options, score, token.gradient);
    for (std::int32_t s = 0; s < options.topk; ++s) {
      token.out.value[token.id[s]] += token.gradient[s];
    }
  }
  if (weights || softmax_aux || r.gradients->z != 0.0F) {
    through_softmax(r, token, softmax);
  }
  if (aux != nullptr && !softmax_aux) {
    add_aux_of_own_scores(r, token, aux);
  }
  if (options.score == Score::sparsemixer) {
    add_sparsemixer(r, token);
  }
}

inline void* gradient_row(const RouteBackwardArgs& r, std::int64_t t) {
  const std::int64_t element = r.dlogits_type == DType::f32 ? 4 : 2;
  return static_cast<std::byte*>(r.dlogits) + t * r.dlogits_stride * element;
}

inline void store_gradient(const RouteBackwardArgs& r, const Return& token) {
  void* to = gradient_row(r, token.t);
  for_blocks(r.experts, [&](std::int32_t at) {
    store_some(to, r.dlogits_type, at, V16::load(token.out.value + at), r.experts - at);
  });
}

inline void zero_gradient(const RouteBackwardArgs& r, std::int64_t t) {
  const std::int64_t element = r.dlogits_type == DType::f32 ? 4 : 2;
  __builtin_memset(gradient_row(r, t), 0, static_cast<std::size_t>(r.experts * element));
}

inline void return_token(const RouteBackwardArgs& r, Return& token) {
  const RouterOptions& options = *r.options;
  const float* aux = r.gradients->aux == nullptr ? nullptr : r.gradients->aux + r.sequence * r.experts;
  const bool sparse = softmax_over_chosen(options) || !over_all_experts(options.score);
  const bool dense = !sparse || aux != nullptr || r.gradients->z != 0.0F;
  float largest = 0.0F;
  if (dense || r.gradients->chosen_logit == nullptr) {
    const std::int64_t element = r.logits_type == DType::f32 ? 4 : 2;
    largest = V16::largest(load_row(options, static_cast<const std::byte*>(r.logits) + token.t * r.stride * element,
                                    r.logits_type, token.l));
    gather(token.l, token.id, options.topk, token.logit);
  } else {
    for (std::int32_t s = 0; s < round_to_lanes(options.topk); ++s) {
      token.logit[s] = s < options.topk ? r.gradients->chosen_logit[token.t * options.topk + s] : -__builtin_inff();
    }
  }
  load_gradient(r, token);
  if (dense) {
    fill_dense(r, token, largest, aux);
  } else {
    for (std::int32_t i = 0; i < token.out.padded; ++i) {
      token.out.value[i] = 0.0F;
    }
  }
  if (dense && is_transformed(options)) {
    for_blocks(r.experts, [&](std::int32_t at) {
      const V16 slope = transform_slope(options, V16::load(token.l.value + at));
      V16::store(token.out.value + at, V16::mul(V16::load(token.out.value + at), slope));
    });
  }
  if (sparse) {
    alignas(64) float score[kMaxTopk];
    score_chosen(options, {}, token.logit, score);
    unnormalize(options, score, token.gradient);
    unscore(options, token.logit, score, token.gradient);
    for_blocks(options.topk, [&](std::int32_t at) {
      const V16 slope = transform_slope(options, V16::load(token.logit + at));
      V16::store(token.gradient + at, V16::mul(V16::load(token.gradient + at), slope));
    });
    for (std::int32_t s = 0; s < options.topk; ++s) {
      token.out.value[token.id[s]] += token.gradient[s];
    }
  }
  store_gradient(r, token);
}

__attribute__((noinline)) void return_tokens(const RouteBackwardArgs& r) {
  Return token;
  token.l = scratch_row(r.scratch, 0, r.experts);
  token.score = scratch_row(r.scratch, 1, r.experts);
  token.out = scratch_row(r.scratch, 2, r.experts);
  for (token.t = r.begin; token.t < r.end; ++token.t) {
    if (load_ids(r, token)) {
      return_token(r, token);
    } else {
      zero_gradient(r, token.t);
    }
  }
}

void route_backward(const RouteBackwardArgs& r) {
  const FloatMode mode(false);
  return_tokens(r);
}

// One block of experts for all tokens, so that nobody else counts in its rows.
__attribute__((noinline)) void count_bins(const HistogramArgs& h) {
  const std::int64_t element = h.logits_type == DType::f32 ? 4 : 2;
  const std::int64_t count = h.experts - h.begin < kLanes ? h.experts - h.begin : kLanes;
  const V16 last = V16::set(static_cast<float>(h.bins - 1));
  const V16 lower = V16::set(h.lower);
  const V16 bins_per_unit = V16::div(V16::set(static_cast<float>(h.bins)), V16::sub(V16::set(h.upper), lower));
  alignas(64) float bin[kLanes];
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    if (h.valid != nullptr && h.valid[t] == 0) {
      continue;
    }
    const void* row = static_cast<const std::byte*>(h.logits) + t * h.stride * element;
    const V16 logit = transformed(*h.options, load_some(row, h.logits_type, h.begin, count), h.begin, count);
    const V16 score = own_score(h.options->score, without_nan(logit));
    const V16 distance = V16::sub(V16::sub(V16::set(h.cutoff[t]), score), lower);
    const V16 place = V16::mul(distance, bins_per_unit);
    const V16 inside = V16::min(last, V16::max(V16::set(0.0F), place));
    V16::store(bin, V16::choose_nan(place, V16::set(-1.0F), inside));
    for (std::int64_t i = 0; i < count; ++i) {
      if (bin[i] >= 0.0F) {
        ++h.histogram[(h.begin + i) * h.bins + static_cast<std::int64_t>(bin[i])];
      }
    }
  }
}

void histogram(const HistogramArgs& h) {
  const FloatMode mode(false);
  count_bins(h);
}

}  // namespace
}  // namespace switchyard
