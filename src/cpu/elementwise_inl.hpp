// Functions of virtual lanes; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// The lowest x whose exp counts: below it results would not be normal, and are 0.
constexpr float kLowestExp = -86.6F;

// exp(x) = p · 2^n, x = n ln 2 + r, as in Cephes' expf; n + 1.5 · 2^23 in `shifted`.
inline V16 exp_fraction(V16 x, V16& shifted) {
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  shifted = V16::fma(x, V16::set(1.44269504F), magic);
  const V16 n = V16::sub(shifted, magic);
  V16 r = V16::fma(n, V16::set(-0.693359375F), x);
  r = V16::fma(n, V16::set(2.12194440e-4F), r);
  V16 p = V16::set(1.9875691500e-4F);
  p = V16::fma(p, r, V16::set(1.3981999507e-3F));
  p = V16::fma(p, r, V16::set(8.3334519073e-3F));
  p = V16::fma(p, r, V16::set(4.1665795894e-2F));
  p = V16::fma(p, r, V16::set(1.6666665459e-1F));
  p = V16::fma(p, r, V16::set(5.0000001201e-1F));
  p = V16::fma(p, r, V16::set(1.0F));
  return V16::fma(p, r, V16::set(1.0F));
}

// inf above 88.7228.
inline V16 exp(V16 x) {
  const V16 lowest = V16::set(kLowestExp);
  V16 shifted;
  const V16 p = exp_fraction(V16::min(V16::set(88.7228F), V16::max(lowest, x)), shifted);
  const V16 scaled = V16::mul(V16::mul(p, V16::power_below(shifted)), V16::set(2.0F));
  return V16::choose_less(x, lowest, V16::set(0.0F),
                          V16::choose_less(V16::set(88.7228F), x, V16::set(__builtin_inff()), scaled));
}

// exp of x >= kLowestExp, n <= 127 and no NaN; lower x count as kLowestExp.
inline V16 exp_bounded(V16 x) {
  V16 shifted;
  const V16 p = exp_fraction(V16::max(V16::set(kLowestExp), x), shifted);
  return V16::times_power(p, shifted);
}

// exp for x <= 0, no NaN.
inline V16 exp_nonpositive(V16 x) { return V16::choose_less(x, V16::set(kLowestExp), V16::set(0.0F), exp_bounded(x)); }

inline V16 sigmoid(V16 x) {
  const V16 one = V16::set(1.0F);
  return V16::div(one, V16::add(one, exp(V16::sub(V16::set(0.0F), x))));
}

inline V16 silu(V16 x) { return V16::div(x, V16::add(V16::set(1.0F), exp(V16::sub(V16::set(0.0F), x)))); }

}  // namespace
}  // namespace switchyard
