// Vectors that are emulated have no registers.

namespace switchyard {
namespace {

inline __m512 keep(__m512 value) { return value; }

}  // namespace
}  // namespace switchyard
