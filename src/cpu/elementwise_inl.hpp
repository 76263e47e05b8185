// Functions of virtual lanes; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// exp as in Cephes' expf: 2^n · p(r), x = n ln 2 + r; 0 below −86.6 (the smallest normal results) and inf
// above 88.7228.
inline V16 exp(V16 x) {
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const V16 clamped = V16::min(V16::set(88.7228F), V16::max(V16::set(-86.6F), x));
  const V16 shifted = V16::fma(clamped, V16::set(1.44269504F), magic);
  const V16 n = V16::sub(shifted, magic);
  V16 r = V16::fma(n, V16::set(-0.693359375F), clamped);
  r = V16::fma(n, V16::set(2.12194440e-4F), r);
  V16 p = V16::set(1.9875691500e-4F);
  p = V16::fma(p, r, V16::set(1.3981999507e-3F));
  p = V16::fma(p, r, V16::set(8.3334519073e-3F));
  p = V16::fma(p, r, V16::set(4.1665795894e-2F));
  p = V16::fma(p, r, V16::set(1.6666665459e-1F));
  p = V16::fma(p, r, V16::set(5.0000001201e-1F));
  p = V16::fma(p, V16::mul(r, r), V16::add(r, V16::set(1.0F)));
  const V16 scaled = V16::mul(V16::mul(p, V16::power_below(shifted)), V16::set(2.0F));
  return V16::choose_less(x, V16::set(-86.6F), V16::set(0.0F),
                          V16::choose_less(V16::set(88.7228F), x, V16::set(__builtin_inff()), scaled));
}

inline V16 sigmoid(V16 x) {
  const V16 one = V16::set(1.0F);
  return V16::div(one, V16::add(one, exp(V16::sub(V16::set(0.0F), x))));
}

inline V16 silu(V16 x) { return V16::div(x, V16::add(V16::set(1.0F), exp(V16::sub(V16::set(0.0F), x)))); }

inline V16 negative(V16 x) { return V16::sub(V16::set(0.0F), x); }
inline V16 magnitude(V16 x) { return V16::choose_less(x, V16::set(0.0F), negative(x), x); }

// As in Cephes' tanhf.
inline V16 tanh(V16 x) {
  const V16 one = V16::set(1.0F);
  const V16 size = magnitude(x);
  const V16 square = V16::mul(x, x);
  V16 p = V16::set(-5.70498872745e-3F);
  p = V16::fma(p, square, V16::set(2.06390887954e-2F));
  p = V16::fma(p, square, V16::set(-5.37397155531e-2F));
  p = V16::fma(p, square, V16::set(1.33314422036e-1F));
  p = V16::fma(p, square, V16::set(-3.33332819422e-1F));
  const V16 near_zero = V16::fma(V16::mul(p, square), x, x);
  const V16 far = V16::sub(one, V16::div(V16::set(2.0F), V16::add(exp(V16::add(size, size)), one)));
  const V16 with_sign = V16::choose_less(x, V16::set(0.0F), negative(far), far);
  return V16::choose_less(size, V16::set(0.625F), near_zero, with_sign);
}

// Elements [at, at + kLanes) of a row of f32 or bf16 as f32, zero from `end` on.
inline V16 load_elements(const void* row, DType type, std::int64_t at, std::int64_t end) {
  if (at >= end) {
    return V16::set(0.0F);
  }
  if (type == DType::f32) {
    const float* from = static_cast<const float*>(row) + at;
    return at + kLanes <= end ? V16::load(from) : V16::load_part(from, end - at, 0.0F);
  }
  const std::uint16_t* from = static_cast<const std::uint16_t*>(row) + at;
  if (at + kLanes <= end) {
    return V16::load_bf16(from);
  }
  alignas(64) std::uint16_t part[kLanes] = {};
  for (std::int64_t i = 0; i < end - at; ++i) {
    part[i] = from[i];
  }
  return V16::load_bf16(part);
}

// A fixed tree over the virtual lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
inline float sum_lanes(V16 value) {
  alignas(64) float lane[kLanes];
  V16::store(lane, value);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      lane[i] += lane[i + width];
    }
  }
  return lane[0];
}

inline float max_lanes(V16 value) {
  alignas(64) float lane[kLanes];
  V16::store(lane, value);
  float largest = lane[0];
  for (int i = 1; i < kLanes; ++i) {
    largest = lane[i] > largest ? lane[i] : largest;
  }
  return largest;
}

}  // namespace
}  // namespace switchyard
