// The peak of VPDPBUSD; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

double peak_vnni(std::int64_t iterations, float* sink) {
  return peak(iterations, sink, 2 * 4, [](V::R chain, V::R factor) { return V::words(chain, factor, factor); });
}

}  // namespace
}  // namespace switchyard
