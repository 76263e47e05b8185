// Functions of virtual lanes; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// The lowest x whose exp counts: below it results would not be normal, and are 0.
constexpr float kLowestExp = -86.6F;

// exp = fraction · power. With kSign · x = k ln 2 / 8 + r the power is 2^(k/8), from a table of eight, and the fraction the
// polynomial of degree 3 in r whose largest relative error on |r| <= ln 2 / 16 is the least, 2.6e-8, with 1 + r kept. ln 2 is
// rounded, for 2.4e-10 · |k| more: less than an ulp up to |x| = 20, and 4 ulps at the ends. x keeps the power normal.
struct ExpParts {
  V16 fraction;
  V16 shifted;  // k + 1.5 · 2^23
};

template <int kSign = 1>
inline ExpParts exp_parts(V16 x) {
  constexpr float kSigned = kSign;
  const V16 magic = V16::set(12582912.0F);  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  const V16 shifted = V16::fma(x, V16::set(kSigned * 11.54156033F), magic);
  const V16 r = V16::fma(V16::sub(shifted, magic), V16::set(kSigned * -0.0866433976F), x);  // times kSign
  V16 p = V16::fma(V16::set(kSigned * 1.6666858600e-1F), r, V16::set(5.0006453654e-1F));
  p = V16::fma(p, r, V16::set(kSigned));
  return {V16::fma(p, r, V16::set(1.0F)), shifted};
}

// inf above 88.7228.
inline V16 exp(V16 x) {
  const V16 lowest = V16::set(kLowestExp);
  const ExpParts parts = exp_parts(V16::min(V16::set(88.7228F), V16::max(lowest, x)));
  const V16 half = V16::power_of_eighths(V16::sub(parts.shifted, V16::set(8.0F)));  // where 2^(k/8) is too much
  const V16 scaled = V16::mul(V16::mul(parts.fraction, half), V16::set(2.0F));
  return V16::choose_less(x, lowest, V16::set(0.0F),
                          V16::choose_less(V16::set(88.7228F), x, V16::set(__builtin_inff()), scaled));
}

// added + exp(x) for x >= kLowestExp and below 88; lower x count as kLowestExp. NaN stays NaN.
inline V16 add_exp_bounded(V16 added, V16 x) {
  const ExpParts parts = exp_parts(V16::max(V16::set(kLowestExp), x));
  return V16::fma(parts.fraction, V16::power_of_eighths(parts.shifted), added);
}

// added + exp(−x) likewise.
inline V16 add_exp_negative_bounded(V16 added, V16 x) {
  const ExpParts parts = exp_parts<-1>(V16::min(V16::set(-kLowestExp), x));
  return V16::fma(parts.fraction, V16::power_of_eighths(parts.shifted), added);
}

// exp for x <= 0. NaN stays NaN.
inline V16 exp_nonpositive(V16 x) {
  return V16::choose_less(x, V16::set(kLowestExp), V16::set(0.0F), add_exp_bounded(V16::set(0.0F), x));
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

// kLanes elements of f32, bf16 or f16 as f32.
inline V16 load_elements(const void* from, DType dtype, std::int64_t at) {
  switch (dtype) {
    case DType::f32:
      return V16::load(static_cast<const float*>(from) + at);
    case DType::bf16:
      return V16::load_bf16(static_cast<const std::uint16_t*>(from) + at);
    default:
      return V16::load_f16(static_cast<const std::uint16_t*>(from) + at);
  }
}

// The same with zeros from `count` on.
inline V16 load_some(const void* from, DType dtype, std::int64_t at, std::int64_t count) {
  if (count >= kLanes) {
    return load_elements(from, dtype, at);
  }
  if (count <= 0) {
    return V16::set(0.0F);
  }
  if (dtype == DType::f32) {
    return V16::load_part(static_cast<const float*>(from) + at, count, 0.0F);
  }
  alignas(64) std::uint16_t part[kLanes] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    part[i] = static_cast<const std::uint16_t*>(from)[at + i];
  }
  return dtype == DType::bf16 ? V16::load_bf16(part) : V16::load_f16(part);
}

inline void store_elements(void* to, DType dtype, std::int64_t at, V16 value) {
  switch (dtype) {
    case DType::f32:
      V16::store(static_cast<float*>(to) + at, value);
      return;
    case DType::bf16:
      V16::store_bf16(static_cast<std::uint16_t*>(to) + at, value);
      return;
    default:
      V16::store_f16(static_cast<std::uint16_t*>(to) + at, value);
  }
}

inline void store_some(void* to, DType dtype, std::int64_t at, V16 value, std::int64_t count) {
  if (count >= kLanes) {
    store_elements(to, dtype, at, value);
    return;
  }
  alignas(64) float wide[kLanes];
  store_elements(wide, dtype, 0, value);
  for (std::int64_t i = 0; i < count; ++i) {
    if (dtype == DType::f32) {
      static_cast<float*>(to)[at + i] = wide[i];
    } else {
      static_cast<std::uint16_t*>(to)[at + i] = reinterpret_cast<const std::uint16_t*>(wide)[i];
    }
  }
}

}  // namespace
}  // namespace switchyard
