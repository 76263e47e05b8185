// What rows of the family table are put together from. A value without a key is what transformers 5.23 does.
#pragma once

#include "checkpoint/places.hpp"

namespace switchyard::rows {

using namespace places;

// What DeepSeek-V3 adds to the sum of the chosen scores.
inline constexpr double kEpsilon = 1e-20;

inline constexpr Keys kNumExperts = {"num_experts", "num_local_experts"};
inline constexpr Keys kLocalExperts = {"num_local_experts", "num_experts"};
inline constexpr Keys kIntermediate = {"intermediate_size"};

// A changed copy under another name, which is also its only model type.
template <class Change>
constexpr Family as(Family row, const char* name, Change change) {
  row.name = name;
  row.model_types = {name};
  change(row);
  return row;
}

template <class Change>
constexpr std::array<Place, 3> both(Place first, Place second, Change change) {
  change(first);
  change(second);
  return {first, second};
}

constexpr Schedule dense_first(std::int32_t layers, const char* key = "first_k_dense_replace") {
  return {.first_key = key, .first = layers};
}
constexpr Groups best_two(std::int32_t count, std::int32_t kept) { return {.count = count, .kept = kept, .best = 2}; }
constexpr SharedColumns shared_times(const char* count, std::int64_t otherwise) {
  return {.has = true, .count = count, .count_otherwise = otherwise};
}
constexpr SharedColumns shared_wide(const char* key, std::int64_t otherwise = -1) {
  return {.has = true, .ffn = {key}, .ffn_otherwise = otherwise};
}

}  // namespace switchyard::rows
