#include "cuda/cuda.hpp"

namespace switchyard {

bool cuda_is_built() noexcept { return false; }

}  // namespace switchyard
