// Products with an operand that is broadcast from memory; part of a kernel file, see kernels_inl.hpp. By instructions spelled
// out: of two uses of one operand g++ makes a register.

namespace switchyard {
namespace {

inline __m512 dot_from_memory(__m512 sum, __m512 pairs, const float* row) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(pairs), "m"(*row));
  return sum;
}

// Unsigned codes times a signed row, as add_products.
inline __m512 products_from_memory(__m512 sum, __m512 codes, const float* row) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*row));
  return sum;
}

}  // namespace
}  // namespace switchyard
