// A routing that a test gives to a layer.
#pragma once

#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "switchyard/layer.hpp"

namespace made {

struct GivenRouting {
  std::int32_t topk;
  std::vector<std::int32_t> expert;
  std::vector<float> weight;

  switchyard::Routing view() { return view(0, static_cast<std::int64_t>(expert.size()) / topk); }
  switchyard::Routing view(std::int64_t begin, std::int64_t count) {
    return {count, topk, expert.data() + begin * topk, weight.data() + begin * topk};
  }
};

// One of `slots_for_one` slots has an id of −1 .. ids − 1, doubled ones too, the others are off; slots that are off have
// NaN as their weight.
inline GivenRouting random_routing(std::int64_t count, std::int32_t topk, std::int32_t ids, std::mt19937& random,
                                   unsigned slots_for_one = 1) {
  GivenRouting given{topk, {}, {}};
  std::uniform_int_distribution<std::int32_t> id(-1, ids - 1);
  std::uniform_real_distribution<float> weight(-1, 1);
  for (std::int64_t i = 0; i < count * topk; ++i) {
    given.expert.push_back(random() % slots_for_one == 0 ? id(random) : -1);
    given.weight.push_back(given.expert.back() < 0 ? std::numeric_limits<float>::quiet_NaN() : weight(random));
  }
  return given;
}

}  // namespace made
