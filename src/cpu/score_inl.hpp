// Functions that turn logits into scores; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// log(1 + z) for z in [sqrt(1/2) − 1, sqrt(2) − 1], plus e · ln 2; as in Cephes' logf.
inline V16 log_near_one(V16 z, V16 e) {
  const V16 square = V16::mul(z, z);
  V16 p = V16::set(7.0376836292e-2F);
  p = V16::fma(p, z, V16::set(-1.1514610310e-1F));
  p = V16::fma(p, z, V16::set(1.1676998740e-1F));
  p = V16::fma(p, z, V16::set(-1.2420140846e-1F));
  p = V16::fma(p, z, V16::set(1.4249322787e-1F));
  p = V16::fma(p, z, V16::set(-1.6668057665e-1F));
  p = V16::fma(p, z, V16::set(2.0000714765e-1F));
  p = V16::fma(p, z, V16::set(-2.4999993993e-1F));
  p = V16::fma(p, z, V16::set(3.3333331174e-1F));
  p = V16::mul(V16::mul(p, square), z);
  p = V16::fma(e, V16::set(-2.12194440e-4F), p);
  p = V16::fma(square, V16::set(-0.5F), p);
  return V16::fma(e, V16::set(0.693359375F), V16::add(z, p));
}

// For x >= 0: −inf at 0.
inline V16 log(V16 x) {
  const V16 one = V16::set(1.0F);
  const V16 smallest_normal = V16::set(0x1p-126F);
  const V16 normal = V16::choose_less(x, smallest_normal, V16::mul(x, V16::set(0x1p24F)), x);
  const V16 lift = V16::choose_less(x, smallest_normal, V16::set(24.0F), V16::set(0.0F));
  V16 e = V16::sub(V16::exponent(normal), lift);
  V16 m = V16::mantissa(normal);
  const V16 border = V16::set(1.41421356F);
  e = V16::choose_less(border, m, V16::add(e, one), e);
  m = V16::choose_less(border, m, V16::mul(m, V16::set(0.5F)), m);
  const V16 value = log_near_one(V16::sub(m, one), e);
  const V16 infinite = V16::set(__builtin_inff());
  return V16::choose_equal(x, V16::set(0.0F), negative(infinite), V16::choose_equal(x, infinite, infinite, value));
}

// log(1 + y) for y in [0, 1].
inline V16 log1p_of_fraction(V16 y) {
  const V16 one = V16::set(1.0F);
  const V16 border = V16::set(0.41421356F);
  const V16 halved = V16::mul(V16::sub(y, one), V16::set(0.5F));
  return log_near_one(V16::choose_less(border, y, halved, y), V16::choose_less(border, y, one, V16::set(0.0F)));
}

// x^power for x >= 0.
inline V16 power_of(V16 x, float power) {
  if (power == 1.0F) {
    return x;
  }
  if (power == 2.0F) {
    return V16::mul(x, x);
  }
  return exp(V16::mul(V16::set(power), log(x)));
}

// Below this exp(x) is the softplus of x to the last bit, and its root is exp(x / 2), which does not underflow.
constexpr float kLowestSoftplus = -17.0F;

inline V16 sqrt_softplus(V16 x) {
  const V16 zero = V16::set(0.0F);
  const V16 small = log1p_of_fraction(exp_nonpositive(negative(magnitude(x))));
  const V16 root = V16::sqrt(V16::add(V16::max(x, zero), small));
  return V16::choose_less(x, V16::set(kLowestSoftplus), exp_nonpositive(V16::min(zero, V16::mul(x, V16::set(0.5F)))),
                          root);
}

// Below it the sigmoid would not be normal.
constexpr float kLowestLogistic = -87.0F;

// sigmoid(max(x, kLowestLogistic)): what experts are chosen by. NaN stays NaN.
inline V16 logistic_bounded(V16 x) {
  const V16 one = V16::set(1.0F);
  return V16::div(one, add_exp_negative_bounded(one, V16::max(V16::set(kLowestLogistic), x)));
}

// sigmoid: 0 below kLowestLogistic. NaN stays NaN.
inline V16 logistic(V16 x) {
  return V16::choose_less(x, V16::set(kLowestLogistic), V16::set(0.0F), logistic_bounded(x));
}

inline V16 sigmoid_slope(V16 x) { return V16::mul(logistic(x), logistic(negative(x))); }

inline V16 sqrt_softplus_slope(V16 x) {
  const V16 root = sqrt_softplus(x);
  const V16 slope = V16::div(logistic(x), V16::add(root, root));
  return V16::choose_less(x, V16::set(kLowestSoftplus), V16::mul(root, V16::set(0.5F)), slope);
}

// The score of each expert on its own; softmax and sparsemixer have none. NaN stays NaN.
inline V16 own_score(Score score, V16 logit) {
  switch (score) {
    case Score::sigmoid:
      return logistic(logit);
    case Score::sqrt_softplus:
      return sqrt_softplus(logit);
    default:
      return logit;
  }
}

inline V16 own_score_slope(Score score, V16 logit) {
  switch (score) {
    case Score::sigmoid:
      return sigmoid_slope(logit);
    case Score::sqrt_softplus:
      return sqrt_softplus_slope(logit);
    default:
      return V16::set(1.0F);
  }
}

inline bool over_all_experts(Score score) { return score == Score::softmax || score == Score::sparsemixer; }

}  // namespace
}  // namespace switchyard
