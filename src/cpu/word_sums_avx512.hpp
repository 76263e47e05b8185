// Sums of 32-bit integers, in registers of floats as all sums; part of a kernel file, see kernels_inl.hpp. By instructions
// spelled out: g++ takes what intrinsics add for another variable, and copies it from register to register.

namespace switchyard {
namespace {

inline __m512 add_words(__m512 sum, __m512i words) {
  asm("vpaddd %1, %0, %0" : "+v"(sum) : "v"(words));
  return sum;
}

// Sums of four products of bytes per lane, unsigned times signed.
inline __m512 add_products(__m512 sum, __m512 codes, __m512 row) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(row));
  return sum;
}

}  // namespace
}  // namespace switchyard
