// The experts of a token; part of a kernel file, see kernels_inl.hpp.

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
  V16 maxima;  // of the row's logits modulo kLanes
  Softmax softmax;
  std::int32_t* id;  // [topk]
  float cutoff;
};

inline bool needs_softmax(const RouteArgs& r) {
  const RouterOptions& options = *r.options;
  const RouteOutputs& out = *r.outputs;
  const bool selects = r.selection_bias != nullptr || options.groups != 0 || out.cutoff != nullptr;
  const bool own = options.score == Score::softmax && (selects || !softmax_over_chosen(options));
  const bool aux = (out.aux_score != nullptr || r.score_sum != nullptr) && has_softmax_aux(options.score);
  return own || aux || r.z_sum != nullptr;
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
          options.score == Score::softmax ? probability_of(l, token.softmax) : own_score(options.score, l);
      token.cutoff = V16::largest(score);
    }
  }
  if (options.order == Order::expert) {
    sort_by_id(token.id, options.topk);
  }
}

}  // namespace
}  // namespace switchyard
