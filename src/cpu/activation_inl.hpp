// The functions between the two GEMMs of an expert; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Where gelu has reached 0.
constexpr float kLowestGelu = -15.0F;

// Φ(−z) = exp(−z²/2) · t · p(t), t = 1 / (1 + 0.27 z), for z in [0, 15]: the form of Abramowitz & Stegun 26.2.17 with
// coefficients of our own, relative error 4e-7. The rounding of z² is put back, or it would grow with z.
inline V16 normal_tail(V16 z) {
  const V16 one = V16::set(1.0F);
  const V16 t = V16::div(one, V16::fma(V16::set(0.27F), z, one));
  V16 p = V16::set(2.8996439696e-2F);
  p = V16::fma(p, t, V16::set(-1.2666305328e-1F));
  p = V16::fma(p, t, V16::set(1.7016484279e-1F));
  p = V16::fma(p, t, V16::set(-6.9660235745e-2F));
  p = V16::fma(p, t, V16::set(1.0814886449e-1F));
  p = V16::fma(p, t, V16::set(7.1905778820e-2F));
  p = V16::fma(p, t, V16::set(1.0184917536e-1F));
  p = V16::fma(p, t, V16::set(1.0753719178e-1F));
  p = V16::fma(p, t, V16::set(1.0772100808e-1F));
  const V16 minus_half = V16::set(-0.5F);
  const V16 square = V16::mul(z, z);
  const V16 rest = V16::fma(z, z, negative(square));
  const V16 value = V16::mul(exp(V16::mul(minus_half, square)), V16::mul(t, p));
  return V16::fma(V16::mul(minus_half, rest), value, value);
}

// x · Φ(x), without the cancellation of 1 + erf.
inline V16 gelu(V16 x) {
  const V16 tail = normal_tail(V16::min(V16::set(-kLowestGelu), magnitude(x)));
  const V16 share = V16::choose_less(x, V16::set(0.0F), tail, V16::sub(V16::set(1.0F), tail));
  return V16::mul(V16::max(V16::set(kLowestGelu), x), share);
}

// x / 2 · (1 + tanh(w)) = x / (1 + exp(−2 w)), w = sqrt(2 / π) · (x + 0.044715 x³).
inline V16 gelu_tanh(V16 x) {
  const V16 one = V16::set(1.0F);
  const V16 bounded = V16::max(V16::set(kLowestGelu), x);
  const V16 factor = V16::fma(V16::mul(V16::set(0.044715F), bounded), bounded, one);
  const V16 power = V16::mul(V16::mul(V16::set(-1.59576912F), bounded), factor);
  return V16::div(bounded, V16::add(one, exp(power)));
}

// min and max give their second operand if one is NaN: so NaN passes.
inline V16 relu(V16 x) { return V16::max(V16::set(0.0F), x); }

// Each is gate(g) · up(u), or gate(u) without gate.
struct PlainUp {
  explicit PlainUp(const ExpertFunction& /*function*/) {}
  V16 up(V16 u) const { return u; }
};

struct Silu : PlainUp {
  using PlainUp::PlainUp;
  V16 gate(V16 g) const { return silu(g); }
};

struct Gelu : PlainUp {
  using PlainUp::PlainUp;
  V16 gate(V16 g) const { return gelu(g); }
};

struct GeluTanh : PlainUp {
  using PlainUp::PlainUp;
  V16 gate(V16 g) const { return gelu_tanh(g); }
};

struct Relu : PlainUp {
  using PlainUp::PlainUp;
  V16 gate(V16 g) const { return relu(g); }
};

struct ReluSquared : PlainUp {
  using PlainUp::PlainUp;
  V16 gate(V16 g) const { return V16::mul(relu(g), relu(g)); }
};

struct ClampedUp {
  V16 limit;
  explicit ClampedUp(const ExpertFunction& function) : limit(V16::set(function.limit)) {}
  V16 at_most(V16 x) const { return V16::min(limit, x); }
  V16 up(V16 u) const { return at_most(V16::max(negative(limit), u)); }
};

struct SiluClamped : ClampedUp {
  using ClampedUp::ClampedUp;
  V16 gate(V16 g) const { return silu(at_most(g)); }
};

struct SiluLimited : ClampedUp {
  using ClampedUp::ClampedUp;
  V16 gate(V16 g) const { return at_most(silu(g)); }
};

struct SwigluOai {
  ClampedUp clamped;
  V16 minus_alpha;
  explicit SwigluOai(const ExpertFunction& function) : clamped(function), minus_alpha(V16::set(-function.alpha)) {}
  V16 gate(V16 g) const {
    const V16 most = clamped.at_most(g);
    return V16::div(most, V16::add(V16::set(1.0F), exp(V16::mul(minus_alpha, most))));
  }
  V16 up(V16 u) const { return V16::add(clamped.up(u), V16::set(1.0F)); }
};

inline V16 softcap(V16 x, V16 cap) { return V16::mul(cap, tanh(V16::div(x, cap))); }

struct Softcapped {
  V16 alpha;
  V16 limit;
  explicit Softcapped(const ExpertFunction& function)
      : alpha(V16::set(function.alpha)), limit(V16::set(function.limit)) {}
  V16 gate(V16 g) const { return V16::div(softcap(g, alpha), V16::add(V16::set(1.0F), exp(negative(g)))); }
  V16 up(V16 u) const { return softcap(u, limit); }
};

}  // namespace
}  // namespace switchyard
