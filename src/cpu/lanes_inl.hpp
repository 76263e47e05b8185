// The experts of kLanes tokens at once, for few slots; part of a kernel file, see kernels_inl.hpp. What comes here gets the
// experts that choose_inl.hpp gives it: most tokens meet a bound that 8 to 16 of their elements reach, and those are sorted
// by a network whose lanes are tokens. The others are left to it.

namespace switchyard {
namespace {

// Sixteen numbers are sorted for their eight largest.
constexpr std::int32_t kLaneCandidates = 16;
// Below so many tokens each is quicker on its own: sorting all lanes costs as much for one token as for all. Measured: from
// 4 to 6 on, by score.
constexpr std::int32_t kFewestInLanes = 5;
// A mask's elements are written before they are counted.
constexpr std::int32_t kLaneRoom = kLaneCandidates + kMaskBits + kBitsAhead;
constexpr float kLargest = 3.40282347e+38F;

// Rows of the tokens in lanes: logits, and what experts are chosen by, with its largest modulo kLanes.
struct LaneRows {
  const float* logit[kLanes];
  const std::uint16_t* bf16[kLanes];  // logits that were not widened; null for others
  const float* value[kLanes];
  std::int32_t padded;  // length of value
  alignas(64) float maxima[kLanes][kLanes];
};

inline Ahead ahead_of(const RouteArgs& r, std::int64_t t) {
  const std::int64_t next = t + kLanes;
  if (next >= r.end) {
    return nothing_ahead(logits_of(r, t));
  }
  return {static_cast<const std::byte*>(logits_of(r, next)), kLanes * (r.logits_type == DType::f32 ? 4 : 2)};
}

// The n-th candidate of each lane, ascending in id; behind the last of them what is less than any.
struct alignas(64) LaneCandidates {
  float value[kLaneRoom][kLanes];
  std::int32_t id[kLaneRoom][kLanes];
  std::int64_t count[kLanes];
};

template <class Sorted>
inline void exchange(Sorted& a, Sorted& b) {
  const Sorted larger = Sorted::max(a, b);
  b = Sorted::min(a, b);
  a = larger;
}

// Descending: the network of 19 exchanges (Knuth, The Art of Computer Programming 3, 5.3.4).
template <class Sorted>
inline void sort_eight(Sorted* row) {
  constexpr std::int32_t kPairs[19][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}, {0, 4}, {1, 5}, {2, 6},
                                          {3, 7}, {0, 1}, {2, 3}, {4, 5}, {6, 7}, {2, 4}, {3, 5},
                                          {1, 4}, {3, 6}, {1, 2}, {3, 4}, {5, 6}};
#pragma GCC unroll 19
  for (const auto& pair : kPairs) {
    exchange(row[pair[0]], row[pair[1]]);
  }
}

// The eight largest of sixteen, descending, in the first eight: two sorted halves make a bitonic sequence (Batcher).
template <class Sorted>
inline void sort_largest(Sorted* row) {
  sort_eight(row);
  sort_eight(row + 8);
#pragma GCC unroll 8
  for (std::int32_t i = 0; i < 8; ++i) {
    row[i] = Sorted::max(row[i], row[15 - i]);
  }
#pragma GCC unroll 3
  for (std::int32_t distance = 4; distance > 0; distance /= 2) {
#pragma GCC unroll 8
    for (std::int32_t i = 0; i < 8; ++i) {
      if ((i & distance) == 0) {
        exchange(row[i], row[i + distance]);
      }
    }
  }
}

// Whole blocks of logits → f32, and the largest of them modulo kLanes.
template <DType kType>
inline V16 widen_row(const void* logits, std::int32_t size, float* to) {
  V16 largest = V16::set(-__builtin_inff());
#pragma GCC unroll 2
  for (std::int32_t at = 0; at < size; at += kLanes) {
    const V16 value = load_elements(logits, kType, at);
    V16::store(to + at, value);
    largest = V16::max(value, largest);
  }
  return largest;
}

inline Row selection_row(const RouteArgs& r, std::int32_t lane) {
  return scratch_row(r.scratch, 3 + kLanes + lane, r.experts);
}

// score: of groups, if those are chosen in lanes.
__attribute__((noinline)) void load_lanes(const RouteArgs& r, const Course& course, const Slots& slots, LaneRows& rows,
                                          float (*score)[kLanes]) {
  const RouterOptions& options = *r.options;
  // Such rows need no copy but for their type. Their NaN are passed over where they are compared.
  const bool whole = r.experts % kLanes == 0 && !is_transformed(options);
  const bool in_place = whole && r.logits_type == DType::f32;
  rows.padded = round_to_lanes(r.experts);
  if (in_place && course.by_logit) {
    for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
      V16 maxima;
      rows.logit[lane] = rows.value[lane] = static_cast<const float*>(logits_of(r, slots.t[lane]));
      class_maxima<1>(rows.logit[lane], r.experts, &maxima);
      V16::store(rows.maxima[lane], maxima);
    }
    return;
  }
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    const std::int64_t t = slots.t[lane];
    const Row copy = scratch_row(r.scratch, 3 + lane, r.experts);
    rows.logit[lane] = rows.value[lane] = in_place ? static_cast<const float*>(logits_of(r, t)) : copy.value;
    V16 maxima;
    const bool narrow = whole && r.logits_type == DType::bf16 && !course.by_logit;
    rows.bf16[lane] = narrow ? static_cast<const std::uint16_t*>(logits_of(r, t)) : nullptr;
    const Row select = selection_row(r, lane);
    const float* with_nan = rows.logit[lane];
    if (!whole) {
      maxima = load_row(options, logits_of(r, t), r.logits_type, copy, course.by_logit ? nullptr : select.value);
      with_nan = select.value;
    } else if (!in_place && !narrow) {
      maxima = r.logits_type == DType::bf16 ? widen_row<DType::bf16>(logits_of(r, t), r.experts, copy.value)
                                            : widen_row<DType::f16>(logits_of(r, t), r.experts, copy.value);
    }
    if (!course.by_logit) {
      const float* bias = r.selection_bias;
      rows.value[lane] = select.value;
      maxima = narrow ? make_scores<DType::bf16>(options, bias, rows.bf16[lane], {}, ahead_of(r, t), select)
                      : make_scores<DType::f32>(options, bias, with_nan, {}, ahead_of(r, t), select);
      if (course.lane_groups) {
        score_groups(select.value, r.experts / options.groups, options, score[lane]);
      } else {
        finish_selection(options, select, maxima);
      }
    }
    V16::store(rows.maxima[lane], maxima);
  }
}

// Which groups of each lane are kept.
struct LaneGroups {
  alignas(64) float score[kLanes][kLanes];           // of a lane's groups
  std::int32_t lift[kLanes][kLaneExperts / kLanes];  // from places among what is kept to experts' ids, per kLanes
};

// Σ 2^g of the groups g with the kept_groups largest scores, the lower g first.
inline void mark_kept(const RouterOptions& options, const float (*scores)[kLanes], float* kept) {
  const V16 zero = V16::set(0.0F);
  const V16 one = V16::set(1.0F);
  V16 score[kLanes];
  V16 rank[kLanes];
  transpose(scores, score);
  for (std::int32_t g = 0; g < options.groups; ++g) {
    rank[g] = V16::set(static_cast<float>(g));
    for (std::int32_t lower = 0; lower < g; ++lower) {
      const V16 before = V16::choose_less(score[lower], score[g], one, zero);
      rank[lower] = V16::add(rank[lower], before);
      rank[g] = V16::sub(rank[g], before);
    }
  }
  V16 sum = zero;
  for (std::int32_t g = 0; g < options.groups; ++g) {
    const V16 bit = V16::set(static_cast<float>(1U << g));
    sum = V16::add(sum, V16::choose_less(rank[g], V16::set(static_cast<float>(options.kept_groups)), bit, zero));
  }
  V16::store(kept, sum);
}

// Moves what is kept to the front of its row.
__attribute__((noinline)) void keep_groups_in_lanes(const RouteArgs& r, std::int32_t tokens, LaneGroups& groups,
                                                    LaneRows& rows) {
  const std::int64_t members = r.experts / r.options->groups;
  alignas(64) float kept[kLanes];
  mark_kept(*r.options, groups.score, kept);
  rows.padded = static_cast<std::int32_t>(r.options->kept_groups * members);
  for (std::int32_t lane = 0; lane < tokens; ++lane) {
    float* const value = selection_row(r, lane).value;
    V16 maxima = V16::set(-__builtin_inff());
    std::int64_t to = 0;
    for (auto left = static_cast<std::uint32_t>(kept[lane]); left != 0; left &= left - 1) {
      const std::int64_t lift = __builtin_ctz(left) * members - to;
      for (const std::int64_t end = to + members; to < end; to += kLanes) {
        const V16 moved = V16::load(value + to + lift);
        V16::store(value + to, moved);
        maxima = V16::max(maxima, moved);
        groups.lift[lane][to / kLanes] = static_cast<std::int32_t>(lift);
      }
    }
    V16::store(rows.maxima[lane], maxima);
  }
}

// Places among what is kept → experts' ids.
inline void number_lane(const std::int32_t* lift, std::int32_t* id) {
#pragma GCC unroll 8
  for (std::int32_t s = 0; s < kLaneTopk; ++s) {
    id[s] += lift[static_cast<std::uint32_t>(id[s]) / kLanes];
  }
}

// Elements of value [padded] that reach the bound → candidates of a lane. Returns their number; more than
// kLaneCandidates: not all.
template <bool kAsk>
inline std::int64_t find_in_lane(const float* value, std::int64_t padded, float bound, Ahead ahead, float* found,
                                 std::int32_t* id) {
  const V16 least = V16::set(bound);
  std::int64_t count = 0;
  const auto take = [&](std::uint64_t mask, std::int64_t at, std::int64_t last) {
    float* to = found + count * kLanes;
    std::int32_t* id_to = id + count * kLanes;
    const float* from = value + at;
    count += take_bits(mask, last, [&](std::int64_t i, std::int64_t bit) {
      id_to[i * kLanes] = static_cast<std::int32_t>(at + bit);
      to[i * kLanes] = from[bit];
    });
  };
  std::int64_t at = 0;
  for (; at + kMaskBits <= padded && count <= kLaneCandidates; at += kMaskBits) {
    for (std::int64_t i = 0; kAsk && i < kMaskBits; i += kLanes) {
      ahead.ask();
    }
    take(V16::mask_at_least(value + at, least), at, kMaskBits - 1);
  }
  for (; at < padded && count <= kLaneCandidates; at += kLanes) {
    take(V16::at_least(V16::load(value + at), least), at, kLanes - 1);
  }
  for (std::int64_t i = 0; i < kBitsAhead; ++i) {
    found[(count + i) * kLanes] = -kLargest;
  }
  return count;
}

// kAsk: nothing else has asked for what is ahead.
template <bool kAsk>
__attribute__((noinline)) void find_in_lanes(const RouteArgs& r, const Slots& slots, const LaneRows& rows,
                                             const float* bound, LaneCandidates& found) {
  for (std::int32_t i = 0; i < kLaneCandidates; ++i) {
    V16::store(found.value[i], V16::set(-kLargest));
    __builtin_memset(found.id[i], 0, sizeof found.id[i]);
  }
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    found.count[lane] = find_in_lane<kAsk>(rows.value[lane], rows.padded, bound[lane], ahead_of(r, slots.t[lane]),
                                           found.value[0] + lane, found.id[0] + lane);
  }
}

// Σ exp(l − largest) for every lane, in the order of softmax_total; NaN if there is one.
inline void add_terms(const RouteArgs& r, const float* const* value, std::int32_t padded, Slots& slots) {
  alignas(64) float part[kLanes][kLanes] = {};
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    const V16 largest = V16::set(slots.softmax.largest[lane]);
    Ahead ahead = ahead_of(r, slots.t[lane]);
    V16 total = V16::set(0.0F);
    for (std::int32_t at = 0; at < padded; at += kLanes) {
      ahead.ask();
      total = add_bounded_term(total, V16::load(value[lane] + at), largest);
    }
    V16::store(part[lane], total);
  }
  V16 row[kLanes];
  transpose(part, row);
  for (std::int32_t width = kLanes / 2; width > 0; width /= 2) {  // the tree of V16::sum
    for (std::int32_t i = 0; i < width; ++i) {
      row[i] = V16::add(row[i], row[i + width]);
    }
  }
  V16::store(slots.softmax.total, row[0]);
}

// Candidates → the experts of every lane and the values that chose them, whether they are right or not.
__attribute__((noinline)) void sort_lanes(const LaneCandidates& found, Slots& slots) {
  alignas(64) std::int32_t id[kLaneTopk][kLanes];
  for (std::int32_t at = 0; at < kLanes; at += Keys::kWidth) {
    Keys row[kLaneCandidates];
    for (std::int32_t i = 0; i < kLaneCandidates; ++i) {
      row[i] = Keys::make(found.value[i] + at, found.id[i] + at);
    }
    sort_largest(row);
    for (std::int32_t s = 0; s < kLaneTopk; ++s) {
      row[s].split(slots.logit.value[s] + at, id[s] + at);
    }
  }
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
#pragma GCC unroll 8
    for (std::int32_t s = 0; s < kLaneTopk; ++s) {
      slots.id[lane][s] = id[s][lane];
    }
  }
}

// Logits of the experts that were chosen by something else; of the slots behind topk those of any experts.
inline void take_logits(const LaneRows& rows, std::int32_t lane, Slots& slots) {
  const std::int32_t* id = slots.id[lane];
  if (const std::uint16_t* bf16 = rows.bf16[lane]; bf16 != nullptr) {
#pragma GCC unroll 8
    for (std::int32_t s = 0; s < kLaneTopk; ++s) {
      slots.logit.value[s][lane] = __builtin_bit_cast(float, std::uint32_t{bf16[id[s]]} << 16);
    }
    return;
  }
#pragma GCC unroll 8
  for (std::int32_t s = 0; s < kLaneTopk; ++s) {
    slots.logit.value[s][lane] = rows.logit[lane][id[s]];
  }
}

// Chooses the experts of all tokens of `slots`, and says for which it has not.
__attribute__((noinline)) std::uint32_t choose_in_lanes(const RouteArgs& r, const Course& course, Slots& slots) {
  const RouterOptions& options = *r.options;
  LaneRows rows;
  for (auto& maxima : rows.maxima) {
    V16::store(maxima, V16::set(0.0F));
  }
  LaneGroups groups;
  load_lanes(r, course, slots, rows, groups.score);
  if (course.lane_groups) {
    keep_groups_in_lanes(r, slots.tokens, groups, rows);
  }
  V16 row[kLanes];
  transpose(rows.maxima, row);
  sort_largest(row);
  alignas(64) float bound[kLanes];
  V16::store(bound, row[options.topk - 1]);
  V16::store(slots.softmax.largest, row[0]);
  if (course.softmax) {
    add_terms(r, rows.logit, rows.padded, slots);
  }
  LaneCandidates found;
  (course.softmax || !course.by_logit ? find_in_lanes<false> : find_in_lanes<true>)(r, slots, rows, bound, found);
  sort_lanes(found, slots);

  // What the experts of other groups are chosen by must be below all candidates.
  const float lowest = course.lane_groups && options.masked_zero ? 0.0F : -kLargest;
  std::uint32_t left = 0;
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    const float largest = slots.softmax.largest[lane];
    const float total = course.softmax ? slots.softmax.total[lane] : 0.0F;
    const bool chosen =
        found.count[lane] <= kLaneCandidates && bound[lane] > lowest && largest <= kLargest && total == total;
    left |= chosen ? 0U : 1U << lane;
    if (chosen && course.lane_groups) {
      number_lane(groups.lift[lane], slots.id[lane]);
    }
    if (chosen && !course.by_logit) {
      take_logits(rows, lane, slots);
    }
  }
  return left;
}

}  // namespace
}  // namespace switchyard
