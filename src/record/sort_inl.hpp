// Sorting of many small sets at once: a network of comparisons, the same for every set, with sets in the lanes.
// Included inside an unnamed namespace.

constexpr std::size_t kSortedSets = 64;

// Numbers at even places to the first half of `to`, the others to the second. With numbers [sets,2^s], s times makes
// them [2^s,sets]: places in binary turn right by one digit each time.
template <std::size_t kCount, class Id>
void unzip(const Id* __restrict from, Id* __restrict to) {
  for (std::size_t i = 0; i < kCount / 2; ++i) {
    to[i] = from[2 * i];
    to[i + kCount / 2] = from[2 * i + 1];
  }
}
template <std::size_t kCount, class Id>
void zip(const Id* __restrict from, Id* __restrict to) {
  for (std::size_t i = 0; i < kCount / 2; ++i) {
    to[2 * i] = from[i];
    to[2 * i + 1] = from[i + kCount / 2];
  }
}

// Up to kSortedSets sets in two buffers of kCount numbers, with room for kSlots ≥ K slots. Slots from K on may be any:
// no step has them, and they are never what is left in `ids`.
template <class Id, std::size_t kSlots>
class SetSorter {
 public:
  SetSorter(std::size_t topk, const SortStep* steps, std::size_t step_count)
      : topk_(topk), steps_(steps), step_count_(step_count) {}

  void sort(Id* ids, std::size_t sets) {
    load(ids, sets);
    for (std::size_t slots = kSlots; slots > 1; slots /= 2) {
      unzip<kCount>(from_, to_);
      turn();
    }
    for (std::size_t s = 0; s < step_count_; ++s) {
      Id* __restrict low = from_ + steps_[s].low * kSortedSets;  // low and high differ
      Id* __restrict high = from_ + steps_[s].high * kSortedSets;
      for (std::size_t set = 0; set < kSortedSets; ++set) {
        const Id x = low[set];
        const Id y = high[set];
        low[set] = x < y ? x : y;
        high[set] = x < y ? y : x;
      }
    }
    for (std::size_t slots = kSlots; slots > 1; slots /= 2) {
      zip<kCount>(from_, to_);
      turn();
    }
    store(ids, sets);
  }

 private:
  static constexpr std::size_t kCount = kSortedSets * kSlots;

  void turn() {
    Id* const other = from_;
    from_ = to_;
    to_ = other;
  }
  // Sets are moved with what follows them, which is a move of fixed size, except the last.
  void load(const Id* ids, std::size_t sets) {
    if (topk_ == kSlots) {
      __builtin_memcpy(from_, ids, sets * kSlots * sizeof(Id));
      return;
    }
    for (std::size_t set = 0; set + 1 < sets; ++set) {
      __builtin_memcpy(from_ + set * kSlots, ids + set * topk_, kSlots * sizeof(Id));
    }
    __builtin_memcpy(from_ + (sets - 1) * kSlots, ids + (sets - 1) * topk_, topk_ * sizeof(Id));
  }
  void store(Id* ids, std::size_t sets) const {
    if (topk_ == kSlots) {
      __builtin_memcpy(ids, from_, sets * kSlots * sizeof(Id));
      return;
    }
    for (std::size_t set = 0; set + 1 < sets; ++set) {
      __builtin_memcpy(ids + set * topk_, from_ + set * kSlots, kSlots * sizeof(Id));
    }
    __builtin_memcpy(ids + (sets - 1) * topk_, from_ + (sets - 1) * kSlots, topk_ * sizeof(Id));
  }

  alignas(64) Id buffers_[2][kCount] = {};
  std::size_t topk_;
  const SortStep* steps_;
  std::size_t step_count_;
  Id* from_ = buffers_[0];
  Id* to_ = buffers_[1];
};

template <class Id, std::size_t kSlots>
void sort_with_slots(Id* ids, std::size_t sets, std::size_t topk, const SortStep* steps, std::size_t step_count) {
  if constexpr (kSlots < kMaxRecordTopk) {
    if (topk > kSlots) return sort_with_slots<Id, 2 * kSlots>(ids, sets, topk, steps, step_count);
  }
  SetSorter<Id, kSlots> sorter(topk, steps, step_count);
  for (std::size_t done = 0; done < sets; done += kSortedSets) {
    sorter.sort(ids + done * topk, sets - done < kSortedSets ? sets - done : kSortedSets);
  }
}

void sort_sets(void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk, const SortStep* steps,
               std::size_t step_count) {
  const auto count = static_cast<std::size_t>(sets);
  const auto slots = static_cast<std::size_t>(topk);
  if (id_bytes == 1) {
    sort_with_slots<std::uint8_t, 2>(static_cast<std::uint8_t*>(ids), count, slots, steps, step_count);
  } else {
    sort_with_slots<std::uint16_t, 2>(static_cast<std::uint16_t*>(ids), count, slots, steps, step_count);
  }
}
