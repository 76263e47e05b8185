// The peak of VDPBF16PS; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

double peak_bf16(std::int64_t iterations, float* sink) {
  return peak(iterations, sink, 2 * 2, [](V::R chain, V::R factor) { return V::dot(chain, factor, factor); });
}

}  // namespace
}  // namespace switchyard
