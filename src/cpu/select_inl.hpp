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

// Value descending, id ascending; behind those that were asked for, whatever else was ranked.
struct Chosen {
  alignas(64) float value[kMaxCandidates + kLanes];
  std::int32_t id[kMaxCandidates + kLanes];
};

// Ids come in ascending order, so an equal value never passes an earlier one.
struct Insertion {
  Chosen& chosen;
  std::int32_t most;
  std::int32_t count = 0;

  bool takes(float value) const { return count < most || value > chosen.value[most - 1]; }
  void insert(float value, std::int32_t id) {
    std::int32_t at = count < most ? count++ : most - 1;
    for (; at > 0 && chosen.value[at - 1] < value; --at) {
      chosen.value[at] = chosen.value[at - 1];
      chosen.id[at] = chosen.id[at - 1];
    }
    chosen.value[at] = value;
    chosen.id[at] = id;
  }
};

__attribute__((noinline)) void select_by_insertion(const float* value, std::int32_t size, std::int32_t most,
                                                   Chosen& chosen) {
  Insertion best{chosen, most};
  for (std::int32_t i = 0; i < size; ++i) {
    if (best.takes(value[i])) {
      best.insert(value[i], i);
    }
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
// blocks, which come last: whole blocks have loops of few lengths, which a processor can foresee.
inline void place(const float* value, std::int32_t count, std::int32_t* places) {
  const std::int32_t padded = round_to_lanes(count);
  std::int32_t sum = 0;
  for (std::int32_t at = 0; at < padded; at += kLanes) {
    const V16 own = V16::load(value + at);
    V16 larger = V16::set(0.0F);
    for (std::int32_t block = 0; block < padded; block += kLanes) {
      for (std::int32_t j = block; j < block + kLanes; ++j) {
        larger = V16::count_less(larger, own, V16::set(value[j]));
      }
    }
    V16::store_count(places + at, larger);
    sum += V16::sum_count(larger);
  }
  // Without equals the ranks of `count` values are 0..count-1, and the padding's are `count`.
  if (sum != count * (count - 1) / 2 + (padded - count) * count) {
    part_equals(value, padded, places);
  }
}

// Of kGroups · kLanes classes of elements, the largest of each.
template <int kGroups>
inline void class_maxima(const float* value, std::int32_t padded, V16* largest) {
  for (int g = 0; g < kGroups; ++g) {
    largest[g] = V16::load(value + g * kLanes);
  }
  std::int32_t at = kGroups * kLanes;
  for (; at + kGroups * kLanes <= padded; at += kGroups * kLanes) {
    for (int g = 0; g < kGroups; ++g) {
      largest[g] = V16::max(largest[g], V16::load(value + at + g * kLanes));
    }
  }
  for (; at < padded; at += kLanes) {
    largest[0] = V16::max(largest[0], V16::load(value + at));
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

static_assert(kMaxExperts <= 1 << 16, "candidates are numbered in 16 bits");

// The `most` largest of value [size], padded, 1 <= most <= size; the lower id first where they are equal. maxima: the
// largest of the elements whose number is 0, 1, … modulo kLanes. Calls visit(block) for all blocks on the way, for work
// that keeps other units busy.
template <class Visit>
inline void select_largest(const float* value, std::int32_t size, std::int32_t most, V16 maxima, Chosen& chosen,
                           const Visit& visit) {
  std::uint16_t candidate[kMaxCandidates + kLanes];
  alignas(64) float found[kMaxCandidates + kLanes];
  alignas(64) std::int32_t places[kMaxCandidates + kLanes];
  const std::int32_t padded = round_to_lanes(size);
  const V16 bound = V16::set(reached_by(value, padded, most, maxima));
  std::int32_t count = 0;
  for (std::int32_t at = 0; at < padded; at += kLanes) {
    const V16 block = V16::load(value + at);
    visit(block);
    count += V16::pack_at_least(candidate + (count <= kMaxCandidates ? count : kMaxCandidates), block, bound, at);
  }
  if (count > kMaxCandidates) {
    select_by_insertion(value, size, most, chosen);
    return;
  }
  const std::int32_t whole = round_to_lanes(count);
  __builtin_memset(candidate + count, 0, kLanes * sizeof(std::uint16_t));
  for (std::int32_t i = 0; i < whole; ++i) {
    found[i] = value[candidate[i]];
  }
  V16::store(found + count, V16::set(-__builtin_inff()));
  place(found, count, places);
  for (std::int32_t i = 0; i < whole; ++i) {
    chosen.value[places[i]] = found[i];
    chosen.id[places[i]] = candidate[i];
  }
}

// The sum of the `best` largest of value [size], largest first; −inf for a NaN.
inline float sum_of_best(const float* value, std::int32_t size, std::int32_t best) {
  const float lowest = -__builtin_inff();
  float sum = 0.0F;
  if (best > 2) {
    Chosen chosen;
    select_by_insertion(value, size, best, chosen);
    sum = chosen.value[0];
    for (std::int32_t i = 1; i < best; ++i) {
      sum += chosen.value[i];
    }
  } else {
    V16 first = V16::set(lowest);
    V16 second = first;
    for (std::int32_t at = 0; at < size; at += kLanes) {
      const V16 next = at + kLanes <= size ? V16::load(value + at) : V16::load_part(value + at, size - at, lowest);
      second = V16::max(second, V16::min(first, next));
      first = V16::max(first, next);
    }
    sum = V16::largest(first);
    if (best == 2) {
      const V16 largest = V16::set(sum);
      const std::uint32_t lanes = V16::at_least(first, largest);
      const bool twice = (lanes & (lanes - 1)) != 0;
      sum += twice ? sum : V16::largest(V16::choose_equal(first, largest, second, first));
    }
  }
  return sum != sum ? lowest : sum;
}

// Masks the experts of all but the kept_groups best groups.
inline void keep_groups(float* value, std::int32_t size, const RouterOptions& options) {
  const std::int32_t members = size / options.groups;
  alignas(64) float score[kMaxGroups];
  alignas(64) std::int32_t places[kMaxGroups];
  for (std::int32_t g = 0; g < options.groups; ++g) {
    score[g] = sum_of_best(value + g * members, members, options.group_best);
  }
  for (std::int32_t g = options.groups; g < round_to_lanes(options.groups); ++g) {
    score[g] = -__builtin_inff();
  }
  place(score, options.groups, places);
  const float masked = options.masked_zero ? 0.0F : -__builtin_inff();
  for (std::int32_t g = 0; g < options.groups; ++g) {
    if (places[g] >= options.kept_groups) {
      for (std::int32_t i = g * members; i < (g + 1) * members; ++i) {
        value[i] = masked;
      }
    }
  }
}

}  // namespace
}  // namespace switchyard
