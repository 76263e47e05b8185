// Narrowing and checking of ids, for vectors of kVectorBytes. Included inside an unnamed namespace, after kVectorBytes.

template <class T>
struct UnalignedType {
  using Type __attribute__((aligned(1), may_alias)) = T;
};
template <class T>
using Unaligned = typename UnalignedType<T>::Type;

template <class From, class To>
bool narrow_ids(const void* from, std::int64_t count, To* to, std::int32_t experts) {
  const auto* values = static_cast<const Unaligned<From>*>(from);
  // Wide enough that no negative number, which `+` makes an int first, becomes a small one.
  using Wide = std::conditional_t<sizeof(From) == 8, std::uint64_t, std::uint32_t>;
  Wide bad = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto value = static_cast<Wide>(+values[i]);
    bad |= static_cast<Wide>(value >= static_cast<Wide>(experts));
    to[i] = static_cast<To>(value);
  }
  return bad == 0;
}

template <class To>
bool narrow_to(const void* from, DType from_type, std::int64_t count, To* to, std::int32_t experts) {
  switch (from_type) {
    case DType::i8:
      return narrow_ids<std::int8_t>(from, count, to, experts);
    case DType::u8:
      return narrow_ids<std::uint8_t>(from, count, to, experts);
    case DType::i16:
      return narrow_ids<std::int16_t>(from, count, to, experts);
    case DType::u16:
      return narrow_ids<std::uint16_t>(from, count, to, experts);
    case DType::i32:
      return narrow_ids<std::int32_t>(from, count, to, experts);
    default:
      return narrow_ids<std::int64_t>(from, count, to, experts);
  }
}

bool narrow(const void* from, DType from_type, std::int64_t count, void* to, std::size_t id_bytes,
            std::int32_t experts) {
  return id_bytes == 1 ? narrow_to(from, from_type, count, static_cast<std::uint8_t*>(to), experts)
                       : narrow_to(from, from_type, count, static_cast<std::uint16_t*>(to), experts);
}

template <class Id>
bool is_set(const Id* ids, std::int32_t topk, std::int32_t experts) {
  for (std::int32_t s = 0; s < topk; ++s) {
    if (static_cast<std::int32_t>(ids[s]) >= experts) {
      return false;
    }
    for (std::int32_t before = 0; before < s; ++before) {
      if (ids[before] == ids[s]) {
        return false;
      }
    }
  }
  return true;
}

// Compares the stream of ids with itself, moved by 1..K−1 places; what crosses into the next set does not count. kTopk:
// K where vectors begin at sets, else 0.
template <class Id, std::int32_t kTopk>
bool are_sets_of(const Id* ids, std::int64_t sets, std::int32_t any_topk, std::int32_t experts) {
  using Signed = std::conditional_t<sizeof(Id) == 1, std::int8_t, std::int16_t>;
  using Vector __attribute__((vector_size(kVectorBytes))) = Id;
  using Places __attribute__((vector_size(kVectorBytes))) = Signed;
  constexpr auto kLanes = static_cast<std::int32_t>(kVectorBytes / sizeof(Id));
  const std::int32_t topk = kTopk > 0 ? kTopk : any_topk;

  Signed place[kMaxRecordTopk + kLanes];  // of an id in its set, for vectors that begin at any place
  for (std::int32_t i = 0; i < topk + kLanes; ++i) {
    place[i] = static_cast<Signed>(i % topk);
  }
  const Vector largest = Vector{} + static_cast<Id>(experts - 1);
  const std::int64_t count = sets * topk;
  Places bad{};
  std::int64_t i = 0;
  std::int32_t phase = 0;
  Places places;
  __builtin_memcpy(&places, place, sizeof(places));
  for (; i + kLanes + topk - 1 <= count; i += kLanes) {
    Vector id;
    __builtin_memcpy(&id, ids + i, sizeof(id));
    bad |= id > largest;
    if constexpr (kTopk == 0) {
      __builtin_memcpy(&places, place + phase, sizeof(places));
      phase = (phase + kLanes) % topk;
    }
    for (std::int32_t distance = 1; distance < topk; ++distance) {
      Vector other;
      __builtin_memcpy(&other, ids + i + distance, sizeof(other));
      bad |= (id == other) & (places < static_cast<Signed>(topk - distance));
    }
  }
  std::uint64_t words[kVectorBytes / 8];
  __builtin_memcpy(words, &bad, sizeof(words));
  for (const std::uint64_t word : words) {
    if (word != 0) {
      return false;
    }
  }
  for (std::int64_t set = i / topk; set < sets; ++set) {
    if (!is_set(ids + set * topk, topk, experts)) {
      return false;
    }
  }
  return true;
}

template <class Id>
bool are_sets_by_topk(const Id* ids, std::int64_t sets, std::int32_t topk, std::int32_t experts) {
  switch (topk) {
    case 2:
      return are_sets_of<Id, 2>(ids, sets, topk, experts);
    case 4:
      return are_sets_of<Id, 4>(ids, sets, topk, experts);
    case 8:
      return are_sets_of<Id, 8>(ids, sets, topk, experts);
    default:
      return are_sets_of<Id, 0>(ids, sets, topk, experts);
  }
}

bool are_sets(const void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk, std::int32_t experts) {
  return id_bytes == 1 ? are_sets_by_topk(static_cast<const std::uint8_t*>(ids), sets, topk, experts)
                       : are_sets_by_topk(static_cast<const std::uint16_t*>(ids), sets, topk, experts);
}

// Compares the stream of ids with itself, moved by one place; what crosses into the next set does not count.
template <class Id>
bool all_ascend_in(const Id* ids, std::size_t sets, std::size_t topk) {
  using Vector __attribute__((vector_size(kVectorBytes))) = Id;
  using Signed = std::conditional_t<sizeof(Id) == 1, std::int8_t, std::int16_t>;
  using Places __attribute__((vector_size(kVectorBytes))) = Signed;
  constexpr std::size_t kLanes = kVectorBytes / sizeof(Id);
  Signed is_inner[kMaxRecordTopk + kLanes];  // −1 for all slots but a set's last one
  for (std::size_t i = 0; i < topk + kLanes; ++i) is_inner[i] = static_cast<Signed>(i % topk == topk - 1 ? 0 : -1);
  const std::size_t count = sets * topk;
  Places bad{};
  std::size_t i = 0;
  const std::size_t turn = kLanes % topk;
  for (std::size_t phase = 0; i + kLanes + 1 <= count; i += kLanes) {
    Vector id;
    Vector next;
    Places inner;
    __builtin_memcpy(&id, ids + i, sizeof(id));
    __builtin_memcpy(&next, ids + i + 1, sizeof(next));
    __builtin_memcpy(&inner, is_inner + phase, sizeof(inner));
    bad |= (id >= next) & inner;
    phase += phase + turn < topk ? turn : turn - topk;
  }
  std::uint64_t words[kVectorBytes / 8];
  __builtin_memcpy(words, &bad, sizeof(words));
  for (const std::uint64_t word : words) {
    if (word != 0) return false;
  }
  for (; i + 1 < count; ++i) {
    if (i % topk != topk - 1 && ids[i] >= ids[i + 1]) return false;
  }
  return true;
}

bool all_ascend(const void* ids, std::size_t id_bytes, std::int64_t sets, std::int32_t topk) {
  const auto count = static_cast<std::size_t>(sets);
  const auto slots = static_cast<std::size_t>(topk);
  return id_bytes == 1 ? all_ascend_in(static_cast<const std::uint8_t*>(ids), count, slots)
                       : all_ascend_in(static_cast<const std::uint16_t*>(ids), count, slots);
}
