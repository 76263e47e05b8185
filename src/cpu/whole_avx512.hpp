// AVX-512 on units of 512 bits; part of a kernel file, see kernels_inl.hpp. halves_avx512.hpp is its counterpart.

namespace switchyard {
namespace {

struct Units : Dot, WordDot {
  // An element of a row for all columns: a register costs one load, and these units multiply twice as fast as they load.
  static __m512 element(const float* p) { return _mm512_set1_ps(*p); }
  // Rows times codes of 4 bits: as many as have room, for fewer are decoded more often.
  static constexpr int kShortCodeRows = 13;
  // What is streamed goes to L1: 8 rows of bf16 get 0.97 of the rate of a plain read, 13 rows 0.87; with 2 KiB, to L2, 0.94
  // and 0.75; with either alone, 0.96 and 0.8 (`stream_bench`).
  static constexpr bool kStreamsNear = true;
  static constexpr std::int64_t floats_ahead(int) { return 4 << 10; }
};

}  // namespace
}  // namespace switchyard
