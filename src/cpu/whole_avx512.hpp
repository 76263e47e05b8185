// AVX-512 on units of 512 bits; part of a kernel file, see kernels_inl.hpp. halves_avx512.hpp is its counterpart.

namespace switchyard {
namespace {

struct Units : Dot, WordDot {
  // An element of a row for all columns, in a register: one load. These units multiply as fast as they load, and would wait for
  // a load per column.
  static __m512 element(const float* p) { return _mm512_set1_ps(*p); }
  // Rows times codes of 4 bits: as many as have room, for fewer are decoded more often.
  static constexpr int kShortCodeRows = 13;
  // What is streamed goes to L1, floats 4 KiB ahead: what memory sends to one core, up to 25 GB/s, in the 150 ns that a busy
  // memory takes. 8 rows of bf16 get 0.97 of the rate of a plain read, 13 rows 0.87; with 2 KiB, to L2, 0.94 and 0.75; with
  // either alone, 0.96 and 0.8; 1 to 4 rows 0.95 to 1 however it is done (`stream_bench`). Codes from L2, mxfp4, take 1.06 of
  // the time.
  static constexpr bool kStreamsNear = true;
  static constexpr std::int64_t floats_ahead(int) { return 4 << 10; }
  static constexpr bool asks_for_codes(Format, int) { return true; }
};

}  // namespace
}  // namespace switchyard
