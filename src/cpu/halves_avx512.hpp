// AVX-512 on units of 256 bits, which take a vector in two halves (Zen 4); part of a kernel file, see kernels_inl.hpp.
// whole_avx512.hpp is its counterpart.

namespace switchyard {
namespace {

struct Units : Dot, WordDot {
  // An element of a row for all columns, where it stands: VBROADCASTSS takes the units that look codes up, an operand that is
  // broadcast from memory none, and two are loaded while one is multiplied. Tiles of codes take 0.78 to 0.95 of the
  // time.
  struct Element {
    const float* at;
  };
  static Element element(const float* p) { return {p}; }
  using Dot::dot;
  static __m512 dot(__m512 sum, __m512 a, Element b) { return dot_from_memory(sum, a, b.at); }
  using WordDot::words;
  static __m512 words(__m512 sum, Element row, __m512 codes) { return products_from_memory(sum, codes, row.at); }
  // Rows times codes of 4 bits: codes are looked up beside the products of 4 rows or more, in no time of their own, and with
  // two registers to spare nothing is put on the stack. nvfp4 takes 0.9 of the time that tiles of 13 rows take.
  static constexpr int kShortCodeRows = 12;
  // What is streamed goes to L2: while L1 waits for memory, rows wait for L1. Floats of up to 4 rows are asked for by the
  // processor itself, as in a plain read. Of its rate 1 to 4 rows of f32 and bf16 get 0.96 to 1.0; asked for to L1, 4 KiB
  // ahead, 0.9 to 0.97, 13 rows 0.4 to 0.7 instead of 0.6 to 0.9. More rows ask 6 KiB ahead: 16 GB/s, a core's part of a slow
  // memory, in the 400 ns that it takes; with 4 KiB they get 0.97 of that (`stream_bench`).
  static constexpr bool kStreamsNear = false;
  static constexpr std::int64_t floats_ahead(int rows) { return rows <= 4 ? 0 : 6 << 10; }
  // The codes of up to 3 rows of int8 and of one row of int4 are left to the processor, too: where memory sends 50 GB/s they get
  // 0.9 to 1.05 of it, asked for 0.7 to 0.85; where it sends 33, 0.97 instead of 0.94. What has more rows, or takes more
  // instructions, is not read far enough ahead without asking: 0.4 to 0.9 (`stream_bench` with other values here).
  static constexpr bool asks_for_codes(Format format, int rows) {
    return rows > (format == Format::i8 ? 3 : format == Format::i4 ? 1 : 0);
  }
};

}  // namespace
}  // namespace switchyard
