#include "route_outputs.hpp"

#include <algorithm>

namespace switchyard::cli {

RouteMemory::RouteMemory(const std::vector<std::string>& names, const RouteSizes& sizes, DType expert_type,
                         DType weight_type)
    : names_(names) {
  const auto [tokens, experts, topk, sequences, bins] = sizes;
  outputs.expert = {take("expert", expert_type, {tokens, topk}), expert_type};
  outputs.weight = {take("weight", weight_type, {tokens, topk}), weight_type};
  outputs.probability = {take("probability", weight_type, {tokens, experts}), weight_type};
  outputs.byte_map = take<std::uint8_t>("byte_map", DType::u8, {tokens, experts});
  outputs.bit_map = take<std::uint8_t>("bit_map", DType::u8, {tokens, (experts + 7) / 8});
  outputs.chosen_logit = take<float>("chosen_logit", DType::f32, {tokens, topk});
  outputs.aux_score = take<float>("aux_score", DType::f32, {tokens, experts});
  outputs.count = take<std::int64_t>("count", DType::i64, {sequences, experts});
  outputs.score_sum = take<double>("score_sum", DType::f64, {sequences, experts});
  outputs.z_sum = take<double>("z_sum", DType::f64, {sequences});
  outputs.valid_count = take<std::int64_t>("valid_count", DType::i64, {sequences});
  outputs.cutoff = take<float>("cutoff", DType::f32, {tokens});
  outputs.histogram = take<std::int32_t>("histogram", DType::i32, {experts, bins});
  outputs.bins = bins;
}

void* RouteMemory::take(const char* name, DType dtype, const std::vector<std::int64_t>& shape) {
  if (std::find(names_.begin(), names_.end(), name) == names_.end()) return nullptr;
  std::size_t bytes = dtype_bytes(dtype);
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  // Also nothing has an address: null is what is not wanted.
  std::vector<std::byte>& memory = memory_.emplace_back(std::max<std::size_t>(bytes, 1));
  tensors.push_back({name, dtype, shape, memory.data(), bytes});
  return memory.data();
}

}  // namespace switchyard::cli
