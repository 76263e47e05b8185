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

// Ten chains cover the latency of every unit (4 to 5 cycles, two units) and fit the smallest register file.
constexpr int kChains = 10;

double peak_fma(std::int64_t iterations, float* sink) {
  V::R sum[kChains];
  const V::R factor = V::broadcast(sink);
  for (V::R& chain : sum) {
    chain = factor;
  }
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (V::R& chain : sum) {
      chain = V::fma(chain, factor, factor);
    }
  }
  alignas(64) float out[kChains][V::kWidth];
  for (int chain = 0; chain < kChains; ++chain) {
    V::store(out[chain], sum[chain]);
    sink[1] += out[chain][0];
  }
  return 2.0 * V::kWidth * kChains * static_cast<double>(iterations);
}

}  // namespace
}  // namespace switchyard
