// A router as one writes it without this library: what `bench route` compares with.
#pragma once

#include <cstdint>

#include "switchyard/route.hpp"

namespace switchyard::cli {

// Two passes over each token: scores of all experts into an array, then std::partial_sort of ids by their selection.
// expert and weight [T,K]. options: any score but sparsemixer, groups, normalize none or sum, scale, an f32 bias.
void plain_route(ConstMatrix logits, const RouterOptions& options, std::int32_t* expert, float* weight,
                 const Threads& threads);

}  // namespace switchyard::cli
