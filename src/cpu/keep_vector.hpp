// Part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// The value stays in the register where it is.
inline __m512 keep(__m512 value) {
  asm("" : "+v"(value));
  return value;
}

}  // namespace
}  // namespace switchyard
