// Routing of logits; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

template <Score kScore>
inline V16 score_in_row(V16 logit, const Softmax& softmax) {
  return kScore == Score::softmax ? probability_of(logit, softmax) : own_score(kScore, logit);
}

template <Score kScore>
inline V16 make_selection_as(const float* bias, const Row& logit, const Softmax& softmax, const Row& row) {
  V16 maxima = V16::set(-__builtin_inff());
  for (std::int32_t at = 0; at < row.size; at += kLanes) {
    V16 value = score_in_row<kScore>(V16::load(logit.value + at), softmax);
    if (bias != nullptr) {
      const bool whole = at + kLanes <= row.size;
      value = V16::add(value, whole ? V16::load(bias + at) : V16::load_part(bias + at, row.size - at, 0.0F));
    }
    value = without_nan(value);
    V16::store(row.value + at, value);
    maxima = V16::max(maxima, value);
  }
  return maxima;
}

// What experts are chosen by → row, and the largest of its elements modulo kLanes.
inline V16 make_selection(const RouterOptions& options, const float* bias, const Row& logit, const Softmax& softmax,
                          const Row& row) {
  V16 maxima;
  switch (options.score) {
    case Score::softmax:
      maxima = make_selection_as<Score::softmax>(bias, logit, softmax, row);
      break;
    case Score::sigmoid:
      maxima = make_selection_as<Score::sigmoid>(bias, logit, softmax, row);
      break;
    case Score::sqrt_softplus:
      maxima = make_selection_as<Score::sqrt_softplus>(bias, logit, softmax, row);
      break;
    default:
      maxima = make_selection_as<Score::logit>(bias, logit, softmax, row);
      break;
  }
  for (std::int32_t i = row.size; i < row.padded; ++i) {
    row.value[i] = -__builtin_inff();
  }
  if (options.groups != 0) {
    keep_groups(row.value, row.size, options);
  }
  if (options.groups != 0 || row.size != row.padded) {
    class_maxima<1>(row.value, row.padded, &maxima);
  }
  return maxima;
}

inline std::int64_t id_at(const ConstArray& ids, std::int64_t at) {
  switch (ids.dtype) {
    case DType::i16:
      return static_cast<const std::int16_t*>(ids.data)[at];
    case DType::i32:
      return static_cast<const std::int32_t*>(ids.data)[at];
    default:
      return static_cast<const std::int64_t*>(ids.data)[at];
  }
}

inline void put_id(const Array& ids, std::int64_t at, std::int32_t id) {
  switch (ids.dtype) {
    case DType::i16:
      static_cast<std::int16_t*>(ids.data)[at] = static_cast<std::int16_t>(id);
      return;
    case DType::i32:
      static_cast<std::int32_t*>(ids.data)[at] = id;
      return;
    default:
      static_cast<std::int64_t*>(ids.data)[at] = id;
  }
}

// Ids that come from the caller: a row of the table, or of a replay if none of it is missing.
inline bool given_ids(const RouterOptions& options, const RouteInputs& inputs, std::int64_t t, std::int32_t* id) {
  const bool replay = inputs.forced.data != nullptr && (inputs.replayed == nullptr || inputs.replayed[t] != 0);
  if (!replay && options.table.data == nullptr) {
    return false;
  }
  const ConstArray& ids = replay ? inputs.forced : options.table;
  const std::int64_t row = replay ? t : id_at(inputs.token_id, t);
  for (std::int32_t s = 0; s < options.topk; ++s) {
    id[s] = static_cast<std::int32_t>(id_at(ids, row * options.topk + s));
    if (id[s] < 0) {
      return false;
    }
  }
  return true;
}

inline void sort_by_id(std::int32_t* id, std::int32_t count) {
  for (std::int32_t i = 1; i < count; ++i) {
    const std::int32_t moved = id[i];
    std::int32_t at = i;
    for (; at > 0 && id[at - 1] > moved; --at) {
      id[at] = id[at - 1];
    }
    id[at] = moved;
  }
}

// One token on its way.
struct Token {
  std::int64_t t;
  std::int32_t id[kMaxTopk];
  alignas(64) float logit[kMaxTopk];   // of the chosen
  alignas(64) float weight[kMaxTopk];  // padded
  V16 maxima;                          // of the row's logits modulo kLanes
  Softmax softmax;
  float cutoff;
};

inline bool needs_softmax(const RouteArgs& r) {
  const RouterOptions& options = *r.options;
  const RouteOutputs& out = *r.outputs;
  const bool selects = r.selection_bias != nullptr || options.groups != 0 || out.cutoff != nullptr;
  const bool own = over_all_experts(options.score) && (selects || !softmax_over_chosen(options));
  const bool aux = (out.aux_score != nullptr || r.score_sum != nullptr) && has_softmax_aux(options.score);
  return (own && options.score == Score::softmax) || aux || r.z_sum != nullptr;
}

// Also the total of the softmax, if it is needed.
inline void choose(const RouteArgs& r, const Row& logit, Token& token) {
  const RouterOptions& options = *r.options;
  const bool given = given_ids(options, *r.inputs, token.t, token.id);
  const bool by_logit = r.selection_bias == nullptr && options.groups == 0;
  const bool softmax = needs_softmax(r);
  const bool total_on_the_way = softmax && by_logit && !given && is_finite(token.softmax.largest);
  if (softmax && !total_on_the_way) {
    token.softmax.total = softmax_total(logit, token.softmax.largest);
  }
  if (given) {
    return;
  }
  const Row select = scratch_row(r.scratch, 1, r.experts);
  const V16 maxima = by_logit ? token.maxima : make_selection(options, r.selection_bias, logit, token.softmax, select);
  const bool with_next = r.outputs->cutoff != nullptr;
  const std::int32_t most = options.topk + (with_next ? 1 : 0);
  Chosen chosen;
  if (by_logit && total_on_the_way) {
    const V16 top = V16::set(token.softmax.largest);
    V16 total = V16::set(0.0F);
    select_largest(logit.value, r.experts, most, maxima, chosen,
                   [&](V16 l) { total = V16::add(total, bounded_term(l, top)); });
    token.softmax.total = V16::sum(total);
  } else {
    select_largest(by_logit ? logit.value : select.value, r.experts, most, maxima, chosen, [](V16) {});
  }
  for (std::int32_t s = 0; s < options.topk; ++s) {
    token.id[s] = chosen.id[s];
  }
  if (with_next) {
    token.cutoff = chosen.value[options.topk];
    if (by_logit) {  // the selection is the score, which has the order of the logits
      const V16 l = V16::set(token.cutoff);
      const V16 score =
          over_all_experts(options.score) ? probability_of(l, token.softmax) : own_score(options.score, l);
      token.cutoff = V16::largest(score);
    }
  }
  if (options.order == Order::expert) {
    sort_by_id(token.id, options.topk);
  }
}

inline void gather(const Row& logit, const std::int32_t* id, std::int32_t topk, float* to) {
  for (std::int32_t s = 0; s < topk; ++s) {
    to[s] = logit.value[id[s]];
  }
  for (std::int32_t s = topk; s < round_to_lanes(topk); ++s) {
    to[s] = -__builtin_inff();
  }
}

inline void write_maps(const RouteArgs& r, const Token& token, bool valid) {
  const RouteOutputs& out = *r.outputs;
  const std::int32_t topk = r.options->topk;
  if (out.byte_map != nullptr) {
    std::uint8_t* map = out.byte_map + token.t * r.experts;
    __builtin_memset(map, 0, static_cast<std::size_t>(r.experts));
    for (std::int32_t s = 0; valid && s < topk; ++s) {
      map[token.id[s]] = 1;
    }
  }
  if (out.bit_map != nullptr) {
    const std::int64_t bytes = (r.experts + 7) / 8;
    std::uint8_t* map = out.bit_map + token.t * bytes;
    __builtin_memset(map, 0, static_cast<std::size_t>(bytes));
    for (std::int32_t s = 0; valid && s < topk; ++s) {
      map[token.id[s] / 8] = static_cast<std::uint8_t>(map[token.id[s] / 8] | 1U << (token.id[s] % 8));
    }
  }
}

inline void write_probability(const RouteArgs& r, const Token& token, bool valid) {
  const Array& out = r.outputs->probability;
  const std::int64_t begin = token.t * r.experts;
  const std::int64_t bytes = out.dtype == DType::f32 ? 4 : 2;
  __builtin_memset(static_cast<std::byte*>(out.data) + begin * bytes, 0, static_cast<std::size_t>(r.experts * bytes));
  for (std::int32_t s = 0; valid && s < r.options->topk; ++s) {
    float weight = 0.0F;  // a duplicate of a replay adds up
    for (std::int32_t i = 0; i < r.options->topk; ++i) {
      weight += token.id[i] == token.id[s] ? token.weight[i] : 0.0F;
    }
    store_some(out.data, out.dtype, begin + token.id[s], V16::set(weight), 1);
  }
}

inline void write_slots(const RouteArgs& r, const Token& token, bool valid) {
  const RouteOutputs& out = *r.outputs;
  const std::int32_t topk = r.options->topk;
  const std::int64_t begin = token.t * topk;
  if (out.expert.data != nullptr) {
    for (std::int32_t s = 0; s < topk; ++s) {
      put_id(out.expert, begin + s, valid ? token.id[s] : -1);
    }
  }
  if (out.weight.data != nullptr && out.weight.dtype == DType::f32) {
    auto* weight = static_cast<float*>(out.weight.data) + begin;
    for (std::int32_t s = 0; s < topk; ++s) {
      weight[s] = valid ? token.weight[s] : 0.0F;
    }
  } else if (out.weight.data != nullptr) {
    for_blocks(topk, [&](std::int32_t at) {
      const V16 weight = valid ? V16::load(token.weight + at) : V16::set(0.0F);
      store_some(out.weight.data, out.weight.dtype, begin + at, weight, topk - at);
    });
  }
  if (out.chosen_logit != nullptr) {
    for (std::int32_t s = 0; s < topk; ++s) {
      out.chosen_logit[begin + s] = valid ? token.logit[s] : 0.0F;
    }
  }
  if (out.cutoff != nullptr) {
    out.cutoff[token.t] = valid ? token.cutoff : -__builtin_inff();
  }
}

// Scores for balance losses, and their sums.
inline void add_aux(const RouteArgs& r, const Row& logit, const Token& token, float* sums) {
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
    if (sums != nullptr) {
      V16::store(sums + at, V16::add(V16::load(sums + at), share));
    }
  });
}

inline void write_padding(const RouteArgs& r, std::int64_t t) {
  Token token;
  token.t = t;
  write_slots(r, token, false);
  write_maps(r, token, false);
  if (r.outputs->probability.data != nullptr) {
    write_probability(r, token, false);
  }
  if (r.outputs->aux_score != nullptr) {
    __builtin_memset(r.outputs->aux_score + t * r.experts, 0, static_cast<std::size_t>(r.experts) * sizeof(float));
  }
}

inline float log_total(const Softmax& softmax) { return softmax.largest + V16::largest(log(V16::set(softmax.total))); }

inline void route_token(const RouteArgs& r, std::int64_t t, const Row& logit, float* sums) {
  const RouterOptions& options = *r.options;
  const RouteOutputs& out = *r.outputs;
  const std::int64_t element = r.logits_type == DType::f32 ? 4 : 2;
  Token token;
  token.t = t;
  token.maxima =
      load_row(options, static_cast<const std::byte*>(r.logits) + t * r.stride * element, r.logits_type, logit);
  token.softmax.largest = V16::largest(token.maxima);
  choose(r, logit, token);
  gather(logit, token.id, options.topk, token.logit);
  weigh(options, logit, token.softmax, token.id, token.logit, token.weight);
  write_slots(r, token, true);
  write_maps(r, token, true);
  if (out.probability.data != nullptr) {
    write_probability(r, token, true);
  }
  if (out.aux_score != nullptr || r.score_sum != nullptr) {
    add_aux(r, logit, token, sums);
  }
  for (std::int32_t s = 0; r.count != nullptr && s < options.topk; ++s) {
    ++r.count[token.id[s]];
  }
  if (r.z_sum != nullptr) {
    const double z = log_total(token.softmax);
    *r.z_sum += z * z;
  }
}

// Sums over tokens run in fp32 for so many tokens, then in fp64.
constexpr std::int32_t kTokensPerSum = 64;

__attribute__((noinline)) void route_tokens(const RouteArgs& r) {
  const Row logit = scratch_row(r.scratch, 0, r.experts);
  const Row sums = scratch_row(r.scratch, 2, r.experts);
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
        route_token(r, t, logit, r.score_sum == nullptr ? nullptr : sums.value);
        ++valid;
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
