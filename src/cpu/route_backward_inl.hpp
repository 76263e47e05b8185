// Gradients of a routing to its logits; part of a kernel file, see kernels_inl.hpp.

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

// Tokens on their way back: kLanes of them where the chosen logits are enough, else one. Rows of scratch: 0 logits, 1
// probabilities or scores, 2 gradient.
struct Return {
  std::int64_t t[kLanes];
  std::int32_t id[kLanes][kChosenRoom];
  SlotValues logit;
  SlotValues score;
  SlotValues gradient;
  Row l;
  Row scores;
  Row out;
  std::int32_t tokens;
};

// Takes a token up if it was routed.
inline bool take_up(const RouteBackwardArgs& r, std::int64_t t, Return& back) {
  if (r.inputs->valid != nullptr && r.inputs->valid[t] == 0) {
    return false;
  }
  std::int32_t* id = back.id[back.tokens];
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    id[s] = static_cast<std::int32_t>(id_at(r.gradients->expert, t * r.options->topk + s));
    if (id[s] < 0) {
      return false;
    }
  }
  back.t[back.tokens++] = t;
  return true;
}

inline float element_at(const ConstArray& array, std::int64_t at) {
  return V16::sum(load_some(array.data, array.dtype, at, 1));
}

// Of the weights of the chosen before they are scaled.
inline void load_gradient(const RouteBackwardArgs& r, Return& back) {
  const RouterOptions& options = *r.options;
  const ConstArray& of_weight = r.gradients->weight;
  const ConstArray& of_probability = r.gradients->probability;
  for (std::int32_t lane = 0; lane < back.tokens; ++lane) {
    for (std::int32_t s = 0; s < options.topk; ++s) {
      float g = 0.0F;
      if (of_weight.data != nullptr) {
        g = element_at(of_weight, back.t[lane] * options.topk + s);
      }
      if (of_probability.data != nullptr) {
        g += element_at(of_probability, back.t[lane] * r.experts + back.id[lane][s]);
      }
      back.gradient.value[s][lane] = g;
    }
  }
  scale_slots(options, back.id, back.tokens, back.gradient);
}

inline void add_sparsemixer(const RouteBackwardArgs& r, const Return& back) {
  const std::int32_t* id = back.id[0];
  for_sparsemixer_slots(*r.options, back.l, id, back.scores, [&](std::int32_t slot, const Softmax& softmax) {
    const V16 weight = probability_of(V16::set(back.logit.value[slot][0]), softmax);
    const V16 pull = V16::mul(V16::set(back.gradient.value[slot][0]), weight);
    for_blocks(r.experts, [&](std::int32_t at) {
      const V16 p = probability_of(V16::load(back.scores.value + at), softmax);
      V16::store(back.out.value + at, V16::sub(V16::load(back.out.value + at), V16::mul(pull, p)));
    });
    back.out.value[id[slot]] += V16::largest(pull);
  });
}

// The parts that reach the logits through a softmax over all experts: of the weights, a balance loss, the z-loss. In
// `out` stands the gradient of the probabilities.
inline void through_softmax(const RouteBackwardArgs& r, const Return& back, const Softmax& softmax) {
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 p = probability_of(V16::load(back.l.value + at), softmax);
    V16::store(back.scores.value + at, p);
  });
  V16 dot = V16::set(0.0F);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 product = V16::mul(V16::load(back.scores.value + at), V16::load(back.out.value + at));
    dot = V16::add(dot, V16::keep_first(product, r.experts - at));
  });
  const float of_z = r.gradients->z == 0.0F ? 0.0F : 2.0F * r.gradients->z * log_total(softmax);
  const V16 shift = V16::set(of_z - V16::sum(dot));
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = V16::add(V16::load(back.out.value + at), shift);
    V16::store(back.out.value + at, V16::mul(V16::load(back.scores.value + at), g));
  });
}

// A balance loss over scores / (their sum + epsilon).
inline void add_aux_of_own_scores(const RouteBackwardArgs& r, const Return& back, const float* aux) {
  V16 dot = V16::set(0.0F);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 score = own_score(r.options->score, V16::load(back.l.value + at));
    V16::store(back.scores.value + at, score);
    const V16 product = V16::mul(score, load_some(aux, DType::f32, at, r.experts - at));
    dot = V16::add(dot, V16::keep_first(product, r.experts - at));
  });
  const V16 total = V16::set(sum_of(back.scores.value, r.experts) + kAuxEpsilon);
  const V16 pull = V16::div(V16::set(V16::sum(dot)), total);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = V16::div(V16::sub(load_some(aux, DType::f32, at, r.experts - at), pull), total);
    const V16 slope = own_score_slope(r.options->score, V16::load(back.l.value + at));
    V16::store(back.out.value + at, V16::fma(g, slope, V16::load(back.out.value + at)));
  });
}

// The gradient of one token's transformed logits → out, where it is not sparse.
inline void fill_dense(const RouteBackwardArgs& r, Return& back, float largest, const float* aux) {
  const RouterOptions& options = *r.options;
  const bool weights = options.score == Score::softmax && !softmax_over_chosen(options);
  const bool softmax_aux = aux != nullptr && has_softmax_aux(options.score);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 g = softmax_aux ? load_some(aux, DType::f32, at, r.experts - at) : V16::set(0.0F);
    V16::store(back.out.value + at, g);
  });
  Softmax softmax{largest, 1.0F};
  if (weights || softmax_aux || r.gradients->z != 0.0F) {
    softmax.total = softmax_total(back.l, largest);
  }
  if (weights) {
    SoftmaxLanes lanes{};
    lanes.largest[0] = softmax.largest;
    lanes.total[0] = softmax.total;
    score_chosen(options, lanes, back.logit, back.score);
    unnormalize(options, back.score, back.gradient);
    for (std::int32_t s = 0; s < options.topk; ++s) {
      back.out.value[back.id[0][s]] += back.gradient.value[s][0];
    }
  }
  if (weights || softmax_aux || r.gradients->z != 0.0F) {
    through_softmax(r, back, softmax);
  }
  if (aux != nullptr && !softmax_aux) {
    add_aux_of_own_scores(r, back, aux);
  }
  if (options.score == Score::sparsemixer) {
    add_sparsemixer(r, back);
  }
  if (is_transformed(options)) {
    for_blocks(r.experts, [&](std::int32_t at) {
      const V16 slope = transform_slope(options, V16::load(back.l.value + at));
      V16::store(back.out.value + at, V16::mul(V16::load(back.out.value + at), slope));
    });
  }
}

inline void* gradient_row(const RouteBackwardArgs& r, std::int64_t t) {
  const std::int64_t element = r.dlogits_type == DType::f32 ? 4 : 2;
  return static_cast<std::byte*>(r.dlogits) + t * r.dlogits_stride * element;
}

inline void zero_gradient(const RouteBackwardArgs& r, std::int64_t t) {
  const std::int64_t element = r.dlogits_type == DType::f32 ? 4 : 2;
  __builtin_memset(gradient_row(r, t), 0, static_cast<std::size_t>(r.experts * element));
}

// Gradients of the weights → of the chosen logits, in place.
inline void return_slots(const RouterOptions& options, Return& back) {
  score_chosen(options, {}, back.logit, back.score);
  unnormalize(options, back.score, back.gradient);
  unscore(options, back.logit, back.score, back.gradient);
  for (std::int32_t s = 0; is_transformed(options) && s < options.topk; ++s) {
    back.gradient.store(s, V16::mul(back.gradient.load(s), transform_slope(options, back.logit.load(s))));
  }
}

inline void add_slots(std::int32_t topk, const Return& back, std::int32_t lane) {
  for (std::int32_t s = 0; s < topk; ++s) {
    back.out.value[back.id[lane][s]] += back.gradient.value[s][lane];
  }
}

inline void store_gradient(const RouteBackwardArgs& r, const Return& back, std::int32_t lane) {
  void* to = gradient_row(r, back.t[lane]);
  for_blocks(r.experts, [&](std::int32_t at) {
    store_some(to, r.dlogits_type, at, V16::load(back.out.value + at), r.experts - at);
  });
}

// Tokens whose gradient is zero but for the chosen.
inline void return_sparse(const RouteBackwardArgs& r, Return& back) {
  load_gradient(r, back);
  return_slots(*r.options, back);
  for (std::int32_t lane = 0; lane < back.tokens; ++lane) {
    for (std::int32_t i = 0; i < back.out.padded; ++i) {
      back.out.value[i] = 0.0F;
    }
    add_slots(r.options->topk, back, lane);
    store_gradient(r, back, lane);
  }
  back.tokens = 0;
}

inline float load_logits(const RouteBackwardArgs& r, Return& back) {
  const std::int32_t lane = back.tokens - 1;
  const std::int64_t element = r.logits_type == DType::f32 ? 4 : 2;
  const void* from = static_cast<const std::byte*>(r.logits) + back.t[lane] * r.stride * element;
  const float largest = V16::largest(load_row(*r.options, from, r.logits_type, back.l));
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    back.logit.value[s][lane] = back.l.value[back.id[lane][s]];
  }
  return largest;
}

inline void load_chosen_logits(const RouteBackwardArgs& r, Return& back) {
  const std::int32_t lane = back.tokens - 1;
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    back.logit.value[s][lane] = r.gradients->chosen_logit[back.t[lane] * r.options->topk + s];
  }
}

inline void return_dense(const RouteBackwardArgs& r, Return& back, const float* aux) {
  const float largest = load_logits(r, back);
  load_gradient(r, back);
  fill_dense(r, back, largest, aux);
  if (softmax_over_chosen(*r.options) || !over_all_experts(r.options->score)) {
    return_slots(*r.options, back);
    add_slots(r.options->topk, back, 0);
  }
  store_gradient(r, back, 0);
  back.tokens = 0;
}

__attribute__((noinline)) void return_tokens(const RouteBackwardArgs& r) {
  const std::int32_t topk = r.options->topk;
  const float* aux = r.gradients->aux == nullptr ? nullptr : r.gradients->aux + r.sequence * r.experts;
  const bool sparse = softmax_over_chosen(*r.options) || !over_all_experts(r.options->score);
  const bool dense = !sparse || aux != nullptr || r.gradients->z != 0.0F;
  Return back;
  back.tokens = 0;
  back.logit.clear(topk);
  back.gradient.clear(topk);
  back.l = scratch_row(r.scratch, 0, r.experts);
  back.scores = scratch_row(r.scratch, 1, r.experts);
  back.out = scratch_row(r.scratch, 2, r.experts);
  for (std::int64_t t = r.begin; t < r.end; ++t) {
    if (!take_up(r, t, back)) {
      zero_gradient(r, t);
    } else if (dense) {
      return_dense(r, back, aux);
    } else {
      if (r.gradients->chosen_logit != nullptr) {
        load_chosen_logits(r, back);
      } else {
        load_logits(r, back);
      }
      if (back.tokens == kLanes) {
        return_sparse(r, back);
      }
    }
  }
  if (back.tokens > 0) {
    return_sparse(r, back);
  }
}

void route_backward(const RouteBackwardArgs& r) {
  const FloatMode mode(false);
  return_tokens(r);
}

}  // namespace
}  // namespace switchyard
