// The kernels' text, written once. A file per instruction set includes it after defining, in an unnamed namespace,
//   V    the native vector of kWidth floats: load, store, broadcast, zero, mul, fma; element, a row's factor of dot and
//        words; even and odd, which widen the first and second elements of bf16 pairs; if kHasDot, dot of pairs, E4m3Pairs
//        and E2m1Pairs, which hold packed codes and give its operands; prefetch, prefetch_near and hold_loads; kRegisters,
//        kTileRows and tile_vectors(rows); stream_vectors(rows), stream_rows(format) and stream_panels(format, rows); E4m3
//        and E2m1<part>, which hold 32 bits of codes per lane and decode 4 of them, a step at a time; for sums of integers,
//        in lanes of the same type: words, which adds the products of kWordSteps steps per lane, Bytes and HalfBytes, which
//        hold packed codes and give its second operand, a step at a time, store_steps, which makes the first, and
//        difference, which gives floats; where groups have sums of their own, group_rows(format), the rows of a tile that
//        decodes in registers, word_vectors(rows), its columns of integers, side_groups(format, rows), how many groups of a
//        panel are summed at once, stream_tiles(format), how many such tiles there may be, and streams_all(format), whether
//        any number; kStreamsNear, whether what is read once is asked for to L1, and floats_ahead(rows), how many bytes
//        ahead if it is no codes, 0 for not at all; asks_for_codes(format, rows), whether codes
//        whose groups have sums are asked for
//   V16  kLanes virtual lanes for elementwise work; stream, which stores a cache line past the caches, and end_streams, after
//        which other threads find what was streamed once they are told
//   Keys  native vectors of numbers that order experts by value, then id
//   TopTwo  the largest and the next in each lane: top_two, top_two_of_groups; and transpose, of kLanes rows
//   FloatMode  a scope of known rounding, with or without denormals
// and then makes its table. No standard header may be included from here: code for one instruction set must not reach
// the others.

// clang-format off
#include "cpu/tile_inl.hpp"
#include "cpu/elementwise_inl.hpp"
#include "cpu/activation_inl.hpp"
#include "cpu/decode_inl.hpp"
#include "cpu/quantise_inl.hpp"
#include "cpu/stream_inl.hpp"
#include "cpu/stream_groups_inl.hpp"
#include "cpu/gemm_inl.hpp"
#include "cpu/score_inl.hpp"
#include "cpu/select_inl.hpp"
#include "cpu/row_inl.hpp"
#include "cpu/weigh_inl.hpp"
#include "cpu/choose_inl.hpp"
#include "cpu/lanes_inl.hpp"
#include "cpu/route_inl.hpp"
#include "cpu/route_backward_inl.hpp"
#include "cpu/histogram_inl.hpp"
#include "cpu/combine_inl.hpp"
#include "cpu/accumulate_inl.hpp"
#include "cpu/peak_inl.hpp"
// clang-format on
