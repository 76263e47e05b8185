// Selection of the largest; part of a kernel file, see kernels_inl.hpp. Rows are padded with −inf to whole blocks of
// kLanes and hold no NaN.

namespace switchyard {
namespace {

// One more than the slots: Quantile Balancing asks for the first value that was not chosen.
constexpr std::int32_t kMaxChosen = kMaxTopk + 1;
// Candidates that are ranked by comparing all with all; more go through a sorted insertion.
constexpr std::int32_t kMaxCandidates = 96;
static_assert(kMaxCandidates % kLanes == 0 && kMaxCandidates >= kMaxChosen);

constexpr std::int32_t round_to_lanes(std::int32_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Bits of a mask of elements.
constexpr std::int32_t kMaskBits = 64;
// Room for ids: candidates, and what is written behind them on the way.
constexpr std::int32_t kChosenRoom = kMaxCandidates + kMaskBits;

// Ids of the `most` largest, value descending, id ascending. They come in ascending order, so an equal value never passes
// an earlier one.
__attribute__((noinline)) void select_by_insertion(const float* value, std::int32_t size, std::int32_t most,
                                                   std::int32_t* id) {
  float best[kMaxChosen];
  std::int32_t count = 0;
  for (std::int32_t i = 0; i < size; ++i) {
    if (count == most && !(value[i] > best[most - 1])) {
      continue;
    }
    std::int32_t at = count < most ? count++ : most - 1;
    for (; at > 0 && best[at - 1] < value[i]; --at) {
      best[at] = best[at - 1];
      id[at] = id[at - 1];
    }
    best[at] = value[i];
    id[at] = i;
  }
}

// Equal values share a rank: each is moved behind its equals of lower index.
__attribute__((noinline)) void part_equals(const float* value, std::int32_t count, std::int32_t* ranks) {
  for (std::int32_t i = 0; i < count; ++i) {
    for (std::int32_t j = 0; j < i; ++j) {
      ranks[i] += value[j] == value[i] ? 1 : 0;
    }
  }
}

// Places of values [count] in descending order, the lower index first: 0..count-1. Values are padded with −inf to whole
// blocks, which come last. Each is compared with `others` of them, count or more: a processor can foresee the loops where
// the same number comes again and again.
inline void place(const float* value, std::int32_t count, std::int32_t others, std::int32_t* places) {
  const std::int32_t padded = round_to_lanes(count);
  std::int32_t sum = 0;
  for (std::int32_t at = 0; at < padded; at += kLanes) {
    const V16 own = V16::load(value + at);
    V16 larger = V16::set(0.0F);
    for (std::int32_t j = 0; j < others; ++j) {
      larger = V16::count_less(larger, own, V16::set(value[j]));
    }
    V16::store_count(places + at, larger);
    sum += V16::sum_count(larger);
  }
  // Without equals the ranks of `count` values are 0..count-1, and the padding's are `count`.
  if (sum != count * (count - 1) / 2 + (padded - count) * count) {
    part_equals(value, padded, places);
  }
}

// Of kGroups · kLanes classes of elements, the largest of each, NaN passed over.
template <int kGroups>
inline void class_maxima(const float* value, std::int32_t padded, V16* largest) {
  for (int g = 0; g < kGroups; ++g) {
    largest[g] = V16::set(-__builtin_inff());
  }
  const auto take = [&](std::int32_t from) {
    for (int g = 0; g < kGroups; ++g) {
      largest[g] = V16::max(V16::load(value + from + g * kLanes), largest[g]);
    }
  };
  constexpr std::int32_t kStep = kGroups * kLanes;
  std::int32_t at = 0;
  for (; at + 4 * kStep <= padded; at += 4 * kStep) {
    take(at);
    take(at + kStep);
    take(at + 2 * kStep);
    take(at + 3 * kStep);
  }
  for (; at + kStep <= padded; at += kStep) {
    take(at);
  }
  for (; at < padded; at += kLanes) {
    largest[0] = V16::max(V16::load(value + at), largest[0]);
  }
}

// The most-th largest of the maxima: at least `most` elements reach it, and not many more.
template <int kGroups>
inline float reached_by(const V16* largest, std::int32_t most) {
  alignas(64) float maxima[kGroups * kLanes];
  for (int g = 0; g < kGroups; ++g) {
    V16::store(maxima + g * kLanes, largest[g]);
  }
  V16 smallest = V16::set(__builtin_inff());  // of the maxima that fewer than `most` others pass
  for (int g = 0; g < kGroups; ++g) {
    V16 above = V16::set(0.0F);
    for (float other : maxima) {
      above = V16::count_less(above, largest[g], V16::set(other));
    }
    smallest = V16::min(V16::choose_count_below(above, most, largest[g], smallest), smallest);
  }
  return -V16::largest(V16::sub(V16::set(0.0F), smallest));
}

template <int kGroups>
inline float reached_by(const float* value, std::int32_t padded, std::int32_t most) {
  V16 largest[kGroups];
  class_maxima<kGroups>(value, padded, largest);
  return reached_by<kGroups>(largest, most);
}

// So many classes that some 1.3 to 2 times as many elements pass as are wanted (E elements until k of c classes are met:
// c · (H(c) − H(c − k))); ranking the maxima costs the square of their number.
inline float reached_by(const float* value, std::int32_t padded, std::int32_t most, V16 maxima) {
  if (most <= 12) {
    return padded < 2 * kLanes ? -__builtin_inff() : reached_by<1>(&maxima, most);
  }
  if (most <= 28 && padded >= 4 * kLanes) {
    return reached_by<2>(value, padded, most);
  }
  if (most <= 56 && padded >= 8 * kLanes) {
    return reached_by<4>(value, padded, most);
  }
  return padded < 16 * kLanes ? -__builtin_inff() : reached_by<8>(value, padded, most);
}

// Of a mask so many bits are taken without asking whether they are set: what is not is overwritten by the next. 2 or 3 are
// set at K = 8 and E = 256, and a branch that is guessed wrong costs as much as three more.
constexpr std::int32_t kBitsAhead = 4;

// Calls take(i, number of the i-th bit that is set) for all of them and for up to kBitsAhead, then with any number up to
// `last`, which no bit exceeds. Returns how many they are.
template <class Take>
inline std::int64_t take_bits(std::uint64_t mask, std::int64_t last, const Take& take) {
  const std::int64_t many = __builtin_popcountll(mask);
  const std::uint64_t end = std::uint64_t{1} << last;
  for (std::int64_t i = 0; i < kBitsAhead; ++i, mask &= mask - 1) {
    take(i, std::int64_t{__builtin_ctzll(mask | end)});
  }
  for (std::int64_t i = kBitsAhead; i < many; ++i, mask &= mask - 1) {
    take(i, std::int64_t{__builtin_ctzll(mask)});
  }
  return many;
}

// Numbers of the elements of value [padded] that are at least `bound`, ascending, and how many they are; more than
// kMaxCandidates: not all. Calls visit(block) for the blocks on the way, for work that keeps other units busy.
template <class Visit>
inline std::int32_t find_candidates(const float* value, std::int32_t padded, V16 bound, std::int32_t* candidate,
                                    const Visit& visit) {
  std::int64_t count = 0;
  for (std::int64_t at = 0; at < padded && count <= kMaxCandidates; at += kMaskBits) {
    std::uint64_t mask = 0;
    const std::int64_t bits = padded - at < kMaskBits ? padded - at : kMaskBits;
    for (std::int64_t bit = 0; bit < bits; bit += kLanes) {
      const V16 block = V16::load(value + at + bit);
      visit(block);
      mask |= std::uint64_t{V16::at_least(block, bound)} << bit;
    }
    std::int32_t* to = candidate + count;
    count += take_bits(mask, bits - 1,
                       [&](std::int64_t i, std::int64_t bit) { to[i] = static_cast<std::int32_t>(at + bit); });
  }
  return static_cast<std::int32_t>(count);
}

// Candidates → ids, value descending, id ascending.
inline void rank(const float* value, std::int32_t* candidate, std::int32_t count, std::int32_t* id) {
  alignas(64) float found[kChosenRoom];
  alignas(64) std::int32_t places[kChosenRoom];
  const std::int32_t whole = round_to_lanes(count);
  __builtin_memset(candidate + count, 0, kLanes * sizeof(std::int32_t));
  for (std::int32_t at = 0; at < whole; at += kLanes) {
    const V16 values = V16::gather(value, candidate + at);
    V16::store(found + at, V16::fill_from(values, count - at, -__builtin_inff()));
  }
  place(found, count, whole, places);
  for (std::int32_t i = 0; i < whole; ++i) {
    id[places[i]] = candidate[i];
  }
}

// Ids of the `most` largest of value [size], padded, 1 <= most <= size, value descending, id ascending; behind them whatever
// else was ranked. maxima: the largest of the elements whose number is 0, 1, … modulo kLanes. Calls visit(block) for
// blocks on the way; false: not for all.
template <class Visit>
inline bool select_largest(const float* value, std::int32_t size, std::int32_t most, V16 maxima, std::int32_t* id,
                           const Visit& visit) {
  std::int32_t candidate[kChosenRoom];
  const std::int32_t padded = round_to_lanes(size);
  const V16 bound = V16::set(reached_by(value, padded, most, maxima));
  const std::int32_t count = find_candidates(value, padded, bound, candidate, visit);
  if (count > kMaxCandidates) {
    select_by_insertion(value, size, most, id);
    return false;
  }
  rank(value, candidate, count, id);
  return true;
}

// The largest and the next of the elements of value [size] modulo kLanes.
inline TopTwo top_two_of(const float* value, std::int32_t size) {
  const float lowest = -__builtin_inff();
  V16 first = V16::set(lowest);
  V16 second = first;
  const auto take = [&](V16 next) {
    second = V16::max(second, V16::min(first, next));
    first = V16::max(first, next);
  };
  std::int32_t at = 0;
  for (; at + kLanes <= size; at += kLanes) {
    take(V16::load(value + at));
  }
  if (at < size) {
    take(V16::load_part(value + at, size - at, lowest));
  }
  return top_two(first, second);
}

inline float sum_of_best(const float* value, std::int32_t size, std::int32_t best) {
  std::int32_t id[kMaxChosen];
  select_by_insertion(value, size, best, id);
  float sum = value[id[0]];
  for (std::int32_t i = 1; i < best; ++i) {
    sum += value[id[i]];
  }
  return sum;
}

// Of each group of `members` the sum of its best, largest first; −inf for a NaN, and behind the last group up to whole
// blocks.
inline void score_groups(const float* value, std::int32_t members, const RouterOptions& options, float* score) {
  const V16 lowest = V16::set(-__builtin_inff());
  const std::int32_t padded = round_to_lanes(options.groups);
  alignas(64) float next[kMaxGroups];
  for (std::int32_t at = 0; at < padded; at += kLanes) {
    V16::store(score + at, lowest);
    V16::store(next + at, lowest);
  }
  for (std::int32_t from = 0; options.group_best <= 2 && from < options.groups; from += kTopGroups) {
    TopTwo top[kTopGroups];
    const float* group = value + from * members;
    if (members == 2 * kLanes && from + kTopGroups <= options.groups) {  // 256 experts in 8 groups
#pragma GCC unroll 8
      for (std::int32_t g = 0; g < kTopGroups; ++g, group += 2 * kLanes) {
        const V16 second = V16::load(group + kLanes);
        top[g] = top_two(V16::max(V16::load(group), second), V16::min(V16::load(group), second));
      }
    } else {
      for (std::int32_t g = 0; g < kTopGroups; ++g, group += members) {
        top[g] = from + g < options.groups ? top_two_of(group, members) : top_two(lowest, lowest);
      }
    }
    top_two_of_groups(top, score + from, next + from);
  }
  for (std::int32_t g = 0; options.group_best > 2 && g < options.groups; ++g) {
    score[g] = sum_of_best(value + g * members, members, options.group_best);
  }
  for (std::int32_t at = 0; at < padded; at += kLanes) {
    V16 sum = V16::load(score + at);
    if (options.group_best == 2) {
      sum = V16::add(sum, V16::load(next + at));
    }
    V16::store(score + at, V16::max(sum, lowest));
  }
}

// Masks the experts of all but the kept_groups best groups.
inline void keep_groups(float* value, std::int32_t size, const RouterOptions& options) {
  const std::int32_t members = size / options.groups;
  alignas(64) float score[kMaxGroups];
  alignas(64) std::int32_t places[kMaxGroups];
  std::int32_t descending[kMaxGroups];
  score_groups(value, members, options, score);
  place(score, options.groups, options.groups, places);
  for (std::int32_t g = 0; g < options.groups; ++g) {
    descending[places[g]] = g;
  }
  // As many for every token, which a processor foresees; whether a group is kept it would guess wrong as often as not.
  const V16 masked = V16::set(options.masked_zero ? 0.0F : -__builtin_inff());
  for (std::int32_t i = options.kept_groups; i < options.groups; ++i) {
    float* group = value + descending[i] * members;
    for (std::int32_t at = 0; at < members; at += kLanes) {
      store_some(group, DType::f32, at, masked, members - at);
    }
  }
}

}  // namespace
}  // namespace switchyard
