// What the library asks of its CUDA part; no_cuda.cpp answers in a build without it.
#pragma once

namespace switchyard {

bool cuda_is_built() noexcept;

}  // namespace switchyard
