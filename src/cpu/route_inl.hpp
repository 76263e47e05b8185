// Routing of logits; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

inline void write_maps(const RouteArgs& r, std::int64_t t, const std::int32_t* id, std::int32_t count) {
  const RouteOutputs& out = *r.outputs;
  if (out.byte_map != nullptr) {
    std::uint8_t* map = out.byte_map + t * r.experts;
    __builtin_memset(map, 0, static_cast<std::size_t>(r.experts));
    for (std::int32_t s = 0; s < count; ++s) {
      map[id[s]] = 1;
    }
  }
  if (out.bit_map != nullptr) {
    const std::int64_t bytes = (r.experts + 7) / 8;
    std::uint8_t* map = out.bit_map + t * bytes;
    __builtin_memset(map, 0, static_cast<std::size_t>(bytes));
    for (std::int32_t s = 0; s < count; ++s) {
      map[id[s] / 8] = static_cast<std::uint8_t>(map[id[s] / 8] | 1U << (id[s] % 8));
    }
  }
}

inline std::byte* clear_probability(const RouteArgs& r, std::int64_t t) {
  const Array& out = r.outputs->probability;
  const std::int64_t bytes = r.experts * (out.dtype == DType::f32 ? 4 : 2);
  std::byte* row = static_cast<std::byte*>(out.data) + t * bytes;
  __builtin_memset(row, 0, static_cast<std::size_t>(bytes));
  return row;
}

inline void write_probability(const RouteArgs& r, const Slots& slots, std::int32_t lane) {
  std::byte* row = clear_probability(r, slots.t[lane]);
  const std::int32_t* id = slots.id[lane];
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    float weight = 0.0F;  // a duplicate of a replay adds up
    for (std::int32_t i = 0; i < r.options->topk; ++i) {
      weight += id[i] == id[s] ? slots.weight.value[i][lane] : 0.0F;
    }
    store_some(row, r.outputs->probability.dtype, id[s], V16::set(weight), 1);
  }
}

// So many tokens, the first, may be written with kLanes slots each: the next token's come behind them.
inline std::int32_t count_overwritten(const Slots& slots, std::int32_t topk) {
  const bool in_order = slots.t[slots.tokens - 1] - slots.t[0] == slots.tokens - 1;
  return in_order && topk <= kLanes ? slots.tokens - (kLanes - 1) / topk : 0;
}

// Slots at .. at + kLanes of each token; those from topk on hold anything.
inline void turn_slots(const SlotValues& values, std::int32_t at, std::int32_t tokens, V16* row) {
  if (tokens >= kFewestInLanes) {
    transpose(values.value + at, row);
    return;
  }
  for (std::int32_t lane = 0; lane < tokens; ++lane) {
    alignas(64) float slot[kLanes];
    for (std::int32_t s = 0; s < kLanes; ++s) {
      slot[s] = values.value[at + s][lane];
    }
    row[lane] = V16::load(slot);
  }
}

// Values of slots → an array [T,K].
inline void write_slots(const RouteArgs& r, const Slots& slots, const SlotValues& values, void* to, DType dtype) {
  const std::int32_t topk = r.options->topk;
  const std::int32_t overwritten = count_overwritten(slots, topk);
  for_blocks(topk, [&](std::int32_t at) {
    V16 row[kLanes];
    turn_slots(values, at, slots.tokens, row);
    for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
      const std::int64_t begin = slots.t[lane] * topk + at;
      store_some(to, dtype, begin, row[lane], lane < overwritten ? kLanes : topk - at);
    }
  });
}

inline void write_ids(const RouteArgs& r, const Slots& slots) {
  const std::int32_t topk = r.options->topk;
  const Array& to = r.outputs->expert;
  std::int32_t lane = 0;
  for (const std::int32_t end = to.dtype == DType::i32 ? count_overwritten(slots, topk) : 0; lane < end; ++lane) {
    __builtin_memcpy(static_cast<std::int32_t*>(to.data) + slots.t[lane] * topk, slots.id[lane], kLanes * 4);
  }
  for (; lane < slots.tokens; ++lane) {
    put_ids(to, slots.t[lane] * topk, slots.id[lane], topk);
  }
}

inline void write_token(const RouteArgs& r, const Slots& slots, std::int32_t lane) {
  const RouteOutputs& out = *r.outputs;
  const std::int32_t topk = r.options->topk;
  if (out.cutoff != nullptr) {
    out.cutoff[slots.t[lane]] = slots.cutoff[lane];
  }
  write_maps(r, slots.t[lane], slots.id[lane], topk);
  if (out.probability.data != nullptr) {
    write_probability(r, slots, lane);
  }
}

inline void write_padding(const RouteArgs& r, std::int64_t t) {
  const RouteOutputs& out = *r.outputs;
  const std::int64_t begin = t * r.options->topk;
  for (std::int32_t s = 0; s < r.options->topk; ++s) {
    if (out.expert.data != nullptr) {
      const std::int32_t off = -1;
      put_ids(out.expert, begin + s, &off, 1);
    }
    if (out.weight.data != nullptr) {
      store_some(out.weight.data, out.weight.dtype, begin + s, V16::set(0.0F), 1);
    }
    if (out.chosen_logit != nullptr) {
      out.chosen_logit[begin + s] = 0.0F;
    }
  }
  if (out.cutoff != nullptr) {
    out.cutoff[t] = -__builtin_inff();
  }
  write_maps(r, t, nullptr, 0);
  if (out.probability.data != nullptr) {
    clear_probability(r, t);
  }
  if (out.aux_score != nullptr) {
    __builtin_memset(out.aux_score + t * r.experts, 0, static_cast<std::size_t>(r.experts) * sizeof(float));
  }
}

// Scores for balance losses, and their sums.
inline void add_aux(const RouteArgs& r, const ConstRow& logit, const Token& token, float* sums) {
  float* out = r.outputs->aux_score == nullptr ? nullptr : r.outputs->aux_score + token.t * r.experts;
  const bool over_all = has_softmax_aux(r.options->score);
  const Row score = scratch_row(r.scratch, 1, r.experts);
  float total = token.softmax.total;
  if (!over_all) {
    for_blocks(r.experts, [&](std::int32_t at) {
      V16::store(score.value + at, own_score(r.options->score, V16::load(logit.value + at)));
    });
    total = sum_of(score.value, r.experts) + kAuxEpsilon;
  }
  const V16 top = V16::set(token.softmax.largest);
  for_blocks(r.experts, [&](std::int32_t at) {
    const V16 part = over_all ? softmax_term(V16::load(logit.value + at), top) : V16::load(score.value + at);
    const V16 share = V16::div(part, V16::set(total));
    if (out != nullptr) {
      store_some(out, DType::f32, at, share, r.experts - at);
    }
    if (r.score_sum != nullptr) {
      V16::store(sums + at, V16::add(V16::load(sums + at), share));
    }
  });
}

// log(Σ exp(l)), or 0 where it is infinite: the z-loss passes over such a token.
inline float log_total(const Softmax& softmax) {
  return is_finite(softmax.largest) ? softmax.largest + V16::largest(log(V16::set(softmax.total))) : 0.0F;
}

// Logits → chosen experts, in a lane of `slots`; what needs the whole row happens here.
inline void choose_token(const RouteArgs& r, const Course& course, std::int64_t t, float* sums, std::int32_t lane,
                         Slots& slots) {
  const RouterOptions& options = *r.options;
  const Row logit = scratch_row(r.scratch, 0, r.experts);
  const Row select = scratch_row(r.scratch, 1, r.experts);
  Token token;
  token.t = t;
  token.id = slots.id[lane];
  token.maxima = load_row(options, logits_of(r, t), r.logits_type, logit, course.by_logit ? nullptr : select.value);
  token.softmax.largest = V16::largest(token.maxima);
  choose(r, course, logit, select, token);

  slots.t[lane] = t;
  slots.cutoff[lane] = token.cutoff;
  slots.softmax.largest[lane] = token.softmax.largest;
  slots.softmax.total[lane] = token.softmax.total;
  for (std::int32_t s = 0; s < options.topk; ++s) {
    slots.logit.value[s][lane] = logit.value[token.id[s]];
  }
  if (options.score == Score::sparsemixer) {
    for_sparsemixer_slots(options, logit, token.id, select, [&](std::int32_t slot, const Softmax& softmax) {
      const V16 l = V16::set(slots.logit.value[slot][lane]);
      slots.weight.value[slot][lane] = V16::largest(probability_of(l, softmax));
    });
  }
  if (r.outputs->aux_score != nullptr || r.score_sum != nullptr) {
    add_aux(r, logit, token, sums);
  }
}

// Sums over tokens of what is known of each when its experts are chosen.
inline void add_token(const RouteArgs& r, const Slots& slots, std::int32_t lane) {
  for (std::int32_t s = 0; r.count != nullptr && s < r.options->topk; ++s) {
    ++r.count[slots.id[lane][s]];
  }
  if (r.z_sum != nullptr) {
    const double z = log_total({slots.softmax.largest[lane], slots.softmax.total[lane]});
    *r.z_sum += z * z;
  }
}

// Chosen experts → weights and outputs.
inline void finish(const RouteArgs& r, Slots& slots) {
  for (std::int32_t s = 0; s < r.options->topk; ++s) {  // of equals a chosen −0 may stand for 0
    slots.logit.store(s, without_nan(V16::add(slots.logit.load(s), V16::set(0.0F))));
  }
  if (r.options->score != Score::sparsemixer) {
    weigh(*r.options, slots.softmax, slots.logit, slots.weight);
  }
  scale_slots(*r.options, slots.id, slots.tokens, slots.weight);
  const RouteOutputs& out = *r.outputs;
  const bool one_by_one = r.count != nullptr || r.z_sum != nullptr || out.cutoff != nullptr ||
                          out.byte_map != nullptr || out.bit_map != nullptr || out.probability.data != nullptr;
  for (std::int32_t lane = 0; one_by_one && lane < slots.tokens; ++lane) {
    add_token(r, slots, lane);
    write_token(r, slots, lane);
  }
  if (out.expert.data != nullptr) {
    write_ids(r, slots);
  }
  if (out.weight.data != nullptr) {
    write_slots(r, slots, slots.weight, out.weight.data, out.weight.dtype);
  }
  if (out.chosen_logit != nullptr) {
    write_slots(r, slots, slots.logit, out.chosen_logit, DType::f32);
  }
  slots.tokens = 0;
}

inline void route_slots(const RouteArgs& r, const Course& course, float* sums, Slots& slots) {
  std::uint32_t left = (1U << slots.tokens) - 1U;
  if (course.in_lanes && slots.tokens >= kFewestInLanes) {
    left = choose_in_lanes(r, course, slots);
  }
  for (; left != 0; left &= left - 1) {
    const std::int32_t lane = __builtin_ctz(left);
    choose_token(r, course, slots.t[lane], sums, lane, slots);
  }
  finish(r, slots);
}

// Sums over tokens run in fp32 for so many tokens, then in fp64.
constexpr std::int32_t kTokensPerSum = 64;

__attribute__((noinline)) void route_tokens(const RouteArgs& r) {
  const Course course = course_of(r);
  const Row sums = scratch_row(r.scratch, 2, r.experts);
  Slots slots;
  slots.tokens = 0;
  slots.softmax = {};
  slots.logit.clear(r.options->topk);
  slots.weight.clear(r.options->topk);
  for (std::int64_t begin = r.begin; begin < r.end; begin += kTokensPerSum) {
    const std::int64_t end = begin + kTokensPerSum < r.end ? begin + kTokensPerSum : r.end;
    for (std::int32_t i = 0; r.score_sum != nullptr && i < sums.padded; ++i) {
      sums.value[i] = 0.0F;
    }
    std::int64_t valid = 0;
    for (std::int64_t t = begin; t < end; ++t) {
      if (r.inputs->valid != nullptr && r.inputs->valid[t] == 0) {
        write_padding(r, t);
      } else {
        slots.t[slots.tokens++] = t;
        ++valid;
      }
      if (slots.tokens == kLanes || (t + 1 == end && slots.tokens > 0)) {
        route_slots(r, course, sums.value, slots);
      }
    }
    for (std::int32_t i = 0; r.score_sum != nullptr && i < r.experts; ++i) {
      r.score_sum[i] += static_cast<double>(sums.value[i]);
    }
    if (r.valid_count != nullptr) {
      *r.valid_count += valid;
    }
  }
}

void route(const RouteArgs& r) {
  const FloatMode mode(false);
  route_tokens(r);
}

}  // namespace
}  // namespace switchyard
