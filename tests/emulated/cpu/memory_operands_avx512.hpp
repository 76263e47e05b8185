// The same of vectors that are emulated and have no instructions.

namespace switchyard {
namespace {

inline __m512 dot_from_memory(__m512 sum, __m512 pairs, const float* row) {
  return Dot::dot(sum, pairs, _mm512_set1_ps(*row));
}

inline __m512 products_from_memory(__m512 sum, __m512 codes, const float* row) {
  return add_products(sum, codes, _mm512_set1_ps(*row));
}

}  // namespace
}  // namespace switchyard
