// Part of a kernel file; see kernels_inl.hpp.

namespace switchyard {
namespace {

// Arithmetic as the kernels are written for, whatever the calling thread has set: rounding to nearest, no exceptions,
// and denormals either kept or, as VDPBF16PS has them in any case, zero.
class FloatMode {
 public:
  explicit FloatMode(bool flush_denormals) : saved_(_mm_getcsr()) {
    _mm_setcsr(flush_denormals ? 0x9fc0U : 0x1f80U);  // all exceptions masked; FTZ and DAZ
  }
  ~FloatMode() { _mm_setcsr(saved_); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  unsigned saved_;
};

}  // namespace
}  // namespace switchyard
