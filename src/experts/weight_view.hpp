// Reading a WeightView. One that check_weight let pass is read without further checks.
#pragma once

#include <cstdint>

#include "switchyard/format.hpp"
#include "switchyard/types.hpp"

namespace switchyard {

// What gradients, routers and scales may be stored as.
constexpr bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16; }

// Throws invalid_argument, naming `what`, unless the view has data of a type that can be read.
void check_weight(const WeightView& view, const char* what);

// Elements (out, in), (out, in + 1), … as f32, each the exact product of code, scale and factor rounded once, whatever
// the calling thread does with denormals. The factor of nvfp4 is therefore not first rounded into its scales.
void read_row(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, float* to);

// The same codes without scales, one per byte: integers less their zeros as two's complement, f8_e4m3 and f4_e2m1 as
// they are stored (0..15 for the latter). Not for plain codes.
void read_codes(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, std::uint8_t* to);

// The scale of element (out, in), exact, without the factor; 1 if there are no scales.
float scale_at(const WeightView& view, std::int64_t out, std::int64_t in);

// The number that a byte of f8_e4m3, f8_e8m0 or a half byte of f4_e2m1 stands for, exact.
float f8_e4m3_value(std::uint8_t code);
float f8_e8m0_value(std::uint8_t code);
float f4_e2m1_value(std::uint8_t code);

// Bits of a code that is not plain.
constexpr int code_bits(Codes codes) {
  return codes == Codes::i4 || codes == Codes::u4 || codes == Codes::f4_e2m1 ? 4 : 8;
}

// The smallest format that holds all that is read from a view which check_weight let pass, where f16 and codes count as f32.
inline Format exact_format(const WeightView& view) {
  return view.codes == Codes::plain && view.dtype == DType::bf16 ? Format::bf16 : Format::f32;
}

// Bytes that so many elements take; an even number of them if they have 4 bits.
std::int64_t view_bytes(const WeightView& view, std::int64_t elements);

}  // namespace switchyard
