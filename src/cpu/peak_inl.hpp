// What the machine can do; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

float read(const float* data, std::int64_t count) {
  V16 sum[4] = {V16::set(0.0F), V16::set(0.0F), V16::set(0.0F), V16::set(0.0F)};
  const std::int64_t quarter = count / 4 / kLanes * kLanes;
  for (std::int64_t i = 0; i < quarter; i += kLanes) {
    for (int s = 0; s < 4; ++s) {
      sum[s] = V16::add(sum[s], V16::load(data + s * quarter + i));
    }
  }
  return V16::sum(V16::add(V16::add(sum[0], sum[1]), V16::add(sum[2], sum[3])));
}

// Chains that cover the latency of two units, 4 to 5 cycles of an FMA, 6 of VDPBF16PS, with some to spare: units that take
// turns badly need more (12 chains of VDPBF16PS reach 0.92 of what 16 do on Zen 5); as many as registers allow.
constexpr int kChains = V::kWidth == kLanes ? 16 : 10;

// A loop over chains of step(chain, factor), each of `operations` per lane.
template <class Step>
inline double peak(std::int64_t iterations, float* sink, double operations, const Step& step) {
  alignas(64) float out[kChains][V::kWidth] = {};
  V::R sum[kChains];
  const V::R factor = V::broadcast(sink);
  for (int chain = 0; chain < kChains; ++chain) {
    sum[chain] = V::load(out[chain]);
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (V::R& chain : sum) {
      chain = step(chain, factor);
    }
  }
  for (int chain = 0; chain < kChains; ++chain) {
    V::store(out[chain], sum[chain]);
    sink[1] += out[chain][0];
  }
  return operations * V::kWidth * kChains * static_cast<double>(iterations);
}

double peak_fma(std::int64_t iterations, float* sink) {
  return peak(iterations, sink, 2, [](V::R chain, V::R factor) { return V::fma(chain, factor, factor); });
}

}  // namespace
}  // namespace switchyard
