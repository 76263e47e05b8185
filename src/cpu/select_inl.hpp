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

// Value descending, id ascending.
struct Chosen {
  alignas(64) float value[kMaxChosen];
  std::int32_t id[kMaxChosen];
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

// How many of values [count] stand before each, in descending order, the lower index first. Values are padded to whole
// blocks; ranks of the padding mean nothing.
inline void rank(const float* value, std::int32_t count, float* ranks) {
  alignas(64) static constexpr float kIndex[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const V16 index = V16::load(kIndex);
  const V16 one = V16::set(1.0F);
  const V16 zero = V16::set(0.0F);
  for (std::int32_t at = 0; at < count; at += kLanes) {
    const V16 own = V16::load(value + at);
    V16 before = zero;
    for (std::int32_t j = 0; j < count; ++j) {
      const V16 other = V16::set(value[j]);
      const V16 first_of_equals = V16::choose_less(V16::set(static_cast<float>(j - at)), index, one, zero);
      const V16 if_equal = V16::choose_equal(own, other, first_of_equals, zero);
      before = V16::add(before, V16::choose_less(own, other, one, if_equal));
    }
    V16::store(ranks + at, before);
  }
}

// A value that at least `most` elements of the row reach, close to the most-th largest of them: the most-th largest of
// the maxima of kGroups · kLanes classes of elements.
template <int kGroups>
inline float reached_by(const float* value, std::int32_t padded, std::int32_t most) {
  V16 largest[kGroups];
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
  alignas(64) float maxima[kGroups * kLanes];
  for (int g = 0; g < kGroups; ++g) {
    V16::store(maxima + g * kLanes, largest[g]);
  }
  const V16 one = V16::set(1.0F);
  V16 smallest = V16::set(__builtin_inff());  // of the maxima that fewer than `most` others pass
  for (int g = 0; g < kGroups; ++g) {
    V16 above = V16::set(0.0F);
    for (float other : maxima) {
      above = V16::add(above, V16::choose_less(largest[g], V16::set(other), one, V16::set(0.0F)));
    }
    const V16 kept = V16::choose_less(above, V16::set(static_cast<float>(most)), largest[g], smallest);
    smallest = V16::min(kept, smallest);
  }
  return -V16::largest(V16::sub(V16::set(0.0F), smallest));
}

// Half as many classes as are wanted pass on average some twice as many elements as are wanted, and ranking all maxima
// costs the square of their number.
inline float reached_by(const float* value, std::int32_t padded, std::int32_t most) {
  if (most <= 12 && padded >= 2 * kLanes) {
    return reached_by<1>(value, padded, most);
  }
  if (most <= 28 && padded >= 4 * kLanes) {
    return reached_by<2>(value, padded, most);
  }
  if (most <= 56 && padded >= 8 * kLanes) {
    return reached_by<4>(value, padded, most);
  }
  if (padded >= 16 * kLanes) {
    return reached_by<8>(value, padded, most);
  }
  return -__builtin_inff();
}

// Elements that reach `bound`, in ascending order; −1 if they are more than kMaxCandidates.
inline std::int32_t collect(const float* value, std::int32_t size, float bound, float* found, std::int32_t* id) {
  constexpr std::int32_t kBits = 4 * kLanes;
  const V16 border = V16::set(bound);
  std::int32_t count = 0;
  for (std::int32_t at = 0; at < size; at += kBits) {
    std::uint64_t bits = 0;
    for (std::int32_t block = 0; block < 4 && at + block * kLanes < size; ++block) {
      bits |= static_cast<std::uint64_t>(V16::at_least(V16::load(value + at + block * kLanes), border))
              << (block * kLanes);
    }
    if (size - at < kBits) {
      bits &= (std::uint64_t{1} << (size - at)) - 1;
    }
    if (count + __builtin_popcountll(bits) > kMaxCandidates) {
      return -1;
    }
    for (; bits != 0; bits &= bits - 1) {
      const std::int32_t e = at + __builtin_ctzll(bits);
      id[count] = e;
      found[count++] = value[e];
    }
  }
  return count;
}

// The `most` largest of value [size], padded, 1 <= most <= size; the lower id first where they are equal.
inline void select_largest(const float* value, std::int32_t size, std::int32_t most, Chosen& chosen) {
  alignas(64) float found[kMaxCandidates];
  std::int32_t id[kMaxCandidates];
  const std::int32_t count = collect(value, size, reached_by(value, round_to_lanes(size), most), found, id);
  if (count < 0) {
    select_by_insertion(value, size, most, chosen);
    return;
  }
  alignas(64) float ranks[kMaxCandidates];
  for (std::int32_t i = count; i < round_to_lanes(count); ++i) {
    found[i] = -__builtin_inff();
  }
  rank(found, count, ranks);
  for (std::int32_t i = 0; i < count; ++i) {
    const auto place = static_cast<std::int32_t>(ranks[i]);
    if (place < most) {
      chosen.value[place] = found[i];
      chosen.id[place] = id[i];
    }
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
      const bool twice = __builtin_popcount(V16::at_least(first, largest)) > 1;
      sum += twice ? sum : V16::largest(V16::choose_equal(first, largest, second, first));
    }
  }
  return sum != sum ? lowest : sum;
}

// Masks the experts of all but the kept_groups best groups.
inline void keep_groups(float* value, std::int32_t size, const RouterOptions& options) {
  const std::int32_t members = size / options.groups;
  alignas(64) float score[kMaxGroups];
  alignas(64) float ranks[kMaxGroups];
  for (std::int32_t g = 0; g < options.groups; ++g) {
    score[g] = sum_of_best(value + g * members, members, options.group_best);
  }
  for (std::int32_t g = options.groups; g < round_to_lanes(options.groups); ++g) {
    score[g] = -__builtin_inff();
  }
  rank(score, options.groups, ranks);
  const float masked = options.masked_zero ? 0.0F : -__builtin_inff();
  for (std::int32_t g = 0; g < options.groups; ++g) {
    if (ranks[g] >= static_cast<float>(options.kept_groups)) {
      for (std::int32_t i = g * members; i < (g + 1) * members; ++i) {
        value[i] = masked;
      }
    }
  }
}

}  // namespace
}  // namespace switchyard
