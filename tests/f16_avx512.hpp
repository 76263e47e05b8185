// The vectors of AVX-512 and what they need.
// clang-format off
#include "cpu/no_dot_avx512.hpp"
#include "cpu/word_sums_avx512.hpp"
#include "cpu/words_avx512.hpp"
#include "cpu/whole_avx512.hpp"
#include "cpu/vec_avx512.hpp"
// clang-format on
