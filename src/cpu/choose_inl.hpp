// The experts of a token; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Chosen experts of up to kLanes tokens, on their way to weights.
struct Slots {
  std::int32_t tokens;
  std::int64_t t[kLanes];
  std::int32_t id[kLanes][kChosenRoom];
  float cutoff[kLanes];
  SoftmaxLanes softmax;
  SlotValues logit;
  SlotValues weight;
};

inline const void* logits_of(const RouteArgs& r, std::int64_t t) {
  const std::int64_t element = r.logits_type == DType::f32 ? 4 : 2;
  return static_cast<const std::byte*>(r.logits) + t * r.stride * element;
}

// Logits of a later token, which the processor does not read so far ahead. They are asked for line by line on the way through
// a row of this one: it would wait for many at once.
struct Ahead {
  const std::byte* at;
  std::int64_t step;  // bytes of kLanes logits; 0 if there is nothing ahead

  void ask() {
    V::prefetch(at);
    at += step;
  }
};

inline Ahead nothing_ahead(const void* row) { return {static_cast<const std::byte*>(row), 0}; }

// Where the quick way of lanes_inl.hpp ends.
constexpr std::int32_t kLaneTopk = 8;

// What is the same for all tokens of a call.
struct Course {
  bool given;         // ids may come from the caller
  bool by_logit;      // experts are chosen by logit, which is in the order of the scores
  bool softmax;       // the total of the softmax over all experts is wanted
  bool in_lanes;      // the quick way of lanes_inl.hpp
  bool lane_groups;   // its groups, too, are chosen for all lanes at once
  std::int32_t most;  // the chosen, and one more if there is a cutoff
};

inline Course course_of(const RouteArgs& r) {
  const RouterOptions& options = *r.options;
  const RouteOutputs& out = *r.outputs;
  Course course{};
  course.given = r.inputs->forced.data != nullptr || options.table.data != nullptr;
  course.by_logit = r.selection_bias == nullptr && options.groups == 0;
  course.most = options.topk + (out.cutoff != nullptr ? 1 : 0);
  const bool aux = out.aux_score != nullptr || r.score_sum != nullptr;
  const bool own =
      options.score == Score::softmax && (!course.by_logit || out.cutoff != nullptr || !softmax_over_chosen(options));
  course.softmax = own || (aux && has_softmax_aux(options.score)) || r.z_sum != nullptr;
  const bool simple = !course.given && out.cutoff == nullptr && !aux && options.score != Score::sparsemixer;
  course.in_lanes = simple && options.topk <= kLaneTopk && r.experts <= kLaneExperts &&
                    !(course.softmax && !course.by_logit) && options.order != Order::expert;
  course.lane_groups = options.groups != 0 && options.groups <= kLanes && r.experts / options.groups % kLanes == 0;
  return course;
}

// NaN stays NaN, whatever is added to it later.
template <Score kScore>
inline V16 selection_of(V16 logit, const Softmax& softmax) {
  switch (kScore) {
    case Score::softmax:
      return probability_of(logit, softmax);
    case Score::sigmoid:
      return logistic_bounded(logit);
    default:
      return own_score(kScore, logit);
  }
}

template <Score kScore, DType kType>
inline V16 make_scores_as(const float* bias, const void* logits, const Softmax& softmax, Ahead ahead, const Row& row) {
  V16 maxima = V16::set(-__builtin_inff());
  float* const to = row.value;
  const std::int32_t size = row.size;
  const auto block = [&](std::int32_t at, V16 added) {
    ahead.ask();
    const V16 value = without_nan(V16::add(selection_of<kScore>(load_elements(logits, kType, at), softmax), added));
    V16::store(to + at, value);
    maxima = V16::max(maxima, value);
  };
  std::int32_t at = 0;
  for (; bias != nullptr && at + kLanes <= size; at += kLanes) {
    block(at, V16::load(bias + at));
  }
  for (; at < size; at += kLanes) {
    block(at, bias == nullptr ? V16::set(0.0F) : V16::load_part(bias + at, size - at, 0.0F));
  }
  for (std::int32_t i = size; i < row.padded; ++i) {
    to[i] = -__builtin_inff();
  }
  return maxima;
}

// What experts are chosen by, before groups are left out → row, with NaN as −inf. Logits of kType, their NaN among
// them, are whole blocks; f32 may stand in the row itself. Returns the largest of the row's elements modulo kLanes;
// finish_selection makes them right where there is padding.
template <DType kType>
inline V16 make_scores(const RouterOptions& options, const float* bias, const void* logits, const Softmax& softmax,
                       Ahead ahead, const Row& row) {
  switch (options.score) {
    case Score::softmax:
      return make_scores_as<Score::softmax, kType>(bias, logits, softmax, ahead, row);
    case Score::sigmoid:
      return make_scores_as<Score::sigmoid, kType>(bias, logits, softmax, ahead, row);
    case Score::sqrt_softplus:
      return make_scores_as<Score::sqrt_softplus, kType>(bias, logits, softmax, ahead, row);
    default:
      return make_scores_as<Score::logit, kType>(bias, logits, softmax, ahead, row);
  }
}

// Leaves groups out of a row of scores. maxima: the largest of its elements modulo kLanes, before and after.
inline void finish_selection(const RouterOptions& options, const Row& row, V16& maxima) {
  if (options.groups != 0) {
    keep_groups(row.value, row.size, options);
  }
  if (options.groups != 0 || row.size != row.padded) {
    class_maxima<1>(row.value, row.padded, &maxima);
  }
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

template <class Id>
inline void put_ids_as(void* to, std::int64_t at, const std::int32_t* id, std::int32_t count) {
  for (std::int32_t s = 0; s < count; ++s) {
    static_cast<Id*>(to)[at + s] = static_cast<Id>(id[s]);
  }
}

inline void put_ids(const Array& ids, std::int64_t at, const std::int32_t* id, std::int32_t count) {
  switch (ids.dtype) {
    case DType::i16:
      return put_ids_as<std::int16_t>(ids.data, at, id, count);
    case DType::i32:
      return put_ids_as<std::int32_t>(ids.data, at, id, count);
    default:
      return put_ids_as<std::int64_t>(ids.data, at, id, count);
  }
}

// False: one is missing.
inline bool take_ids(const ConstArray& ids, std::int64_t row, std::int32_t topk, std::int32_t* id) {
  for (std::int32_t s = 0; s < topk; ++s) {
    id[s] = static_cast<std::int32_t>(id_at(ids, row * topk + s));
    if (id[s] < 0) {
      return false;
    }
  }
  return true;
}

// Ids that come from the caller: a row of a replay if none of it is missing, else of the table.
inline bool given_ids(const RouterOptions& options, const RouteInputs& inputs, std::int64_t t, std::int32_t* id) {
  const bool replay = inputs.forced.data != nullptr && (inputs.replayed == nullptr || inputs.replayed[t] != 0);
  if (replay && take_ids(inputs.forced, t, options.topk, id)) {
    return true;
  }
  return options.table.data != nullptr && take_ids(options.table, id_at(inputs.token_id, t), options.topk, id);
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
  V16 maxima;  // of the row's logits modulo kLanes
  Softmax softmax;
  std::int64_t t;
  std::int32_t* id;  // [kChosenRoom]
  float cutoff;
};

// The score of what was not chosen last.
inline float cutoff_of(const RouterOptions& options, const Course& course, float selected, const Softmax& softmax) {
  if (!course.by_logit) {
    return selected;
  }
  const V16 l = V16::set(selected);
  return V16::largest(options.score == Score::softmax ? probability_of(l, softmax) : own_score(options.score, l));
}

// Also the total of the softmax, if it is wanted. select: where experts are not chosen by logit, the logits with their NaN;
// becomes what they are chosen by.
inline void choose(const RouteArgs& r, const Course& course, const ConstRow& logit, const Row& select, Token& token) {
  const RouterOptions& options = *r.options;
  const bool given = course.given && given_ids(options, *r.inputs, token.t, token.id);
  const bool total_on_the_way = course.softmax && course.by_logit && !given && is_finite(token.softmax.largest);
  if (course.softmax && !total_on_the_way) {
    token.softmax.total = softmax_total(logit, token.softmax.largest);
  }
  if (given) {
    return;
  }
  const float* value = logit.value;
  if (total_on_the_way) {
    const V16 top = V16::set(token.softmax.largest);
    V16 total = V16::set(0.0F);
    const bool all = select_largest(value, r.experts, course.most, token.maxima, token.id,
                                    [&](V16 l) { total = add_bounded_term(total, l, top); });
    token.softmax.total = all ? V16::sum(total) : softmax_total(logit, token.softmax.largest);
  } else {
    V16 maxima = token.maxima;
    if (!course.by_logit) {
      maxima = make_scores<DType::f32>(options, r.selection_bias, select.value, token.softmax,
                                       nothing_ahead(select.value), select);
      finish_selection(options, select, maxima);
      value = select.value;
    }
    select_largest(value, r.experts, course.most, maxima, token.id, [](V16) {});
  }
  if (course.most > options.topk) {
    token.cutoff = cutoff_of(options, course, value[token.id[options.topk]], token.softmax);
  }
  if (options.order == Order::expert) {
    sort_by_id(token.id, options.topk);
  }
}

}  // namespace
}  // namespace switchyard
