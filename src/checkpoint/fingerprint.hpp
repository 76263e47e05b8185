// What a layer's weights were made from, in 128 bits.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "layer/pack_cache.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard {

// XXH3 of config.json, the sizes and times of last change of the files, names, types, shapes of the tensors, and
// samples of their content: a page at either end and one in 16 MiB. It differs whenever one of these does; a change
// that leaves all of them as they are, times included, is not seen.
Fingerprint fingerprint(std::string_view config, const TensorFile& file, std::int32_t layer,
                        std::span<const Tensor* const> tensors);

}  // namespace switchyard
