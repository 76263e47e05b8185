// AVX-512 without a bf16 dot product; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

struct Dot {
  static constexpr bool kHasDot = false;
};

}  // namespace
}  // namespace switchyard
