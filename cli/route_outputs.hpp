// Memory for what a routing is asked to write, by name.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "switchyard/route.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard::cli {

inline constexpr std::array<const char*, 13> kRouteOutputs{
    "expert", "weight",    "probability", "byte_map",    "bit_map", "chosen_logit", "aux_score",
    "count",  "score_sum", "z_sum",       "valid_count", "cutoff",  "histogram"};

struct RouteSizes {
  std::int64_t tokens = 0;
  std::int64_t experts = 0;
  std::int64_t topk = 0;
  std::int64_t sequences = 1;
  std::int32_t bins = 0;
};

// All of it zero at first. Not copied: `outputs` and `tensors` point into it.
class RouteMemory {
 public:
  // names: of kRouteOutputs; weight_type is that of probabilities too.
  RouteMemory(const std::vector<std::string>& names, const RouteSizes& sizes, DType expert_type, DType weight_type);
  RouteMemory(const RouteMemory&) = delete;
  RouteMemory& operator=(const RouteMemory&) = delete;

  RouteOutputs outputs;
  std::vector<Tensor> tensors;  // one per name

 private:
  void* take(const char* name, DType dtype, const std::vector<std::int64_t>& shape);
  template <class Element>
  Element* take(const char* name, DType dtype, const std::vector<std::int64_t>& shape) {
    return static_cast<Element*>(take(name, dtype, shape));
  }

  const std::vector<std::string>& names_;
  std::deque<std::vector<std::byte>> memory_;
};

}  // namespace switchyard::cli
