// The experts of kLanes tokens at once, for few slots; part of a kernel file, see kernels_inl.hpp. What comes here gets the
// experts that choose_inl.hpp gives it: most tokens meet a bound that 8 to 16 of their elements reach, and those are sorted
// by a network whose lanes are tokens. The others are left to it.

namespace switchyard {
namespace {

// Sixteen numbers are sorted for their eight largest.
constexpr std::int32_t kLaneCandidates = 16;
// Below so many tokens each is quicker on its own: sorting all lanes takes some 2300 instructions, and saves 500 for each.
constexpr std::int32_t kFewestInLanes = 5;
// A mask's elements are written before they are counted.
constexpr std::int32_t kLaneRoom = kLaneCandidates + kMaskBits;
constexpr float kLargest = 3.40282347e+38F;

// The n-th candidate of each lane, ascending in id; behind the last of them what is less than any.
struct alignas(64) LaneCandidate {
  float value[kLanes];
  std::int32_t id[kLanes];
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

inline Row selection_row(const RouteArgs& r, std::int32_t lane) {
  return scratch_row(r.scratch, 3 + kLanes + lane, r.experts);
}

// A lane's logits, and the largest of what its experts are chosen by modulo kLanes; that goes to selection_row, if it is not
// the logits.
inline const float* take_lane(const RouteArgs& r, const Course& course, std::int64_t t, std::int32_t lane,
                              V16& maxima) {
  const Row copy = scratch_row(r.scratch, 3 + lane, r.experts);
  const bool in_place = r.logits_type == DType::f32 && r.experts % kLanes == 0 && !is_transformed(*r.options);
  const float* value = copy.value;
  if (in_place) {  // NaN is passed over here, and where it is compared
    value = static_cast<const float*>(logits_of(r, t));
    if (course.by_logit) {
      class_maxima<1>(value, r.experts, &maxima);
    }
  } else {
    maxima = load_row(*r.options, logits_of(r, t), r.logits_type, copy);
  }
  if (!course.by_logit) {
    maxima = make_selection(*r.options, r.selection_bias, ConstRow(value, r.experts), {}, selection_row(r, lane));
  }
  return value;
}

// Elements of value [padded] that reach the bound → candidates of a lane. Returns their number; more than
// kLaneCandidates: not all.
inline std::int64_t find_in_lane(const float* value, std::int64_t padded, float bound, std::int32_t lane,
                                 LaneCandidate* found) {
  const V16 least = V16::set(bound);
  std::int64_t count = 0;
  for (std::int64_t at = 0; at < padded && count <= kLaneCandidates; at += kMaskBits) {
    std::int64_t last = kMaskBits - 1;
    std::uint64_t mask = 0;
    if (at + kMaskBits <= padded) {
      mask = V16::mask_at_least(value + at, least);
    } else {
      last = padded - at - 1;
      for (std::int64_t bit = 0; bit < last; bit += kLanes) {
        mask |= std::uint64_t{V16::at_least(V16::load(value + at + bit), least)} << bit;
      }
    }
    LaneCandidate* to = found + count;
    count += take_bits(mask, last, [&](std::int64_t i, std::int64_t bit) {
      to[i].id[lane] = static_cast<std::int32_t>(at + bit);
      to[i].value[lane] = value[at + bit];
    });
  }
  for (std::int64_t i = 0; i < kBitsAhead; ++i) {
    found[count + i].value[lane] = -kLargest;
  }
  return count;
}

// Σ exp(l − largest) for every lane, in the order of softmax_total; NaN if there is one.
inline void add_terms(const float* const* value, std::int32_t padded, Slots& slots) {
  alignas(64) float part[kLanes][kLanes] = {};
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    const V16 largest = V16::set(slots.softmax.largest[lane]);
    V16 total = V16::set(0.0F);
    for (std::int32_t at = 0; at < padded; at += kLanes) {
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
inline void sort_lanes(const LaneCandidate* found, std::int32_t topk, Slots& slots) {
  alignas(64) std::int32_t id[kLaneTopk][kLanes];
  for (std::int32_t at = 0; at < kLanes; at += Keys::kWidth) {
    Keys row[kLaneCandidates];
    for (std::int32_t i = 0; i < kLaneCandidates; ++i) {
      row[i] = Keys::make(found[i].value + at, found[i].id + at);
    }
    sort_largest(row);
    for (std::int32_t s = 0; s < kLaneTopk; ++s) {
      row[s].split(slots.logit.value[s] + at, id[s] + at);
    }
  }
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    for (std::int32_t s = 0; s < topk; ++s) {
      slots.id[lane][s] = id[s][lane];
    }
  }
}

// Asks for the logits of this lane's next token, which the processor does not read ahead while it computes.
inline void prefetch_lane(const RouteArgs& r, std::int64_t t) {
  const auto* from = static_cast<const std::byte*>(logits_of(r, t + kLanes < r.end ? t + kLanes : t));
  const std::int64_t bytes = std::int64_t{r.experts} * (r.logits_type == DType::f32 ? 4 : 2);
#pragma GCC unroll 8
  for (std::int64_t at = 0; at < bytes; at += 64) {
    V::prefetch(from + at);
  }
}

// Chooses the experts of all tokens of `slots`, and says for which it has not.
__attribute__((noinline)) std::uint32_t choose_in_lanes(const RouteArgs& r, const Course& course, Slots& slots) {
  const std::int32_t topk = r.options->topk;
  const std::int32_t padded = round_to_lanes(r.experts);
  const float* logit[kLanes];
  alignas(64) float maxima[kLanes][kLanes] = {};
  alignas(64) float bound[kLanes];
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    V16 of_lane;
    logit[lane] = take_lane(r, course, slots.t[lane], lane, of_lane);
    V16::store(maxima[lane], of_lane);
  }
  V16 row[kLanes];
  transpose(maxima, row);
  sort_largest(row);
  V16::store(bound, row[topk - 1]);
  V16::store(slots.softmax.largest, row[0]);

  LaneCandidate found[kLaneRoom];
  for (std::int32_t i = 0; i < kLaneCandidates; ++i) {
    V16::store(found[i].value, V16::set(-kLargest));
    __builtin_memset(found[i].id, 0, sizeof found[i].id);
  }
  if (course.softmax) {
    add_terms(logit, padded, slots);
  }
  std::uint32_t left = 0;
  for (std::int32_t lane = 0; lane < slots.tokens; ++lane) {
    prefetch_lane(r, slots.t[lane]);
    const float* value = course.by_logit ? logit[lane] : selection_row(r, lane).value;
    const std::int64_t count = find_in_lane(value, padded, bound[lane], lane, found);
    const float largest = slots.softmax.largest[lane];
    const float total = course.softmax ? slots.softmax.total[lane] : 0.0F;
    const bool chosen = count <= kLaneCandidates && bound[lane] > -kLargest && largest <= kLargest && total == total;
    left |= chosen ? 0U : 1U << lane;
  }
  sort_lanes(found, topk, slots);
  for (std::int32_t lane = 0; lane < slots.tokens && !course.by_logit; ++lane) {
    for (std::int32_t s = 0; (left >> lane & 1U) == 0 && s < topk; ++s) {
      slots.logit.value[s][lane] = logit[lane][slots.id[lane][s]];
    }
  }
  return left;
}

}  // namespace
}  // namespace switchyard
