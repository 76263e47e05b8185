#include "experts/weight_view.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "fail.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kChunk = 256;  // codes that are unpacked at a time

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);  // tensors in a file stand at any alignment
  return value;
}

float widen_f32(const std::byte* p) { return load<float>(p); }
float widen_bf16(const std::byte* p) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(p)) << 16);
}
float widen_f16(const std::byte* p) {
  const std::uint32_t bits = load<std::uint16_t>(p);
  const std::uint32_t sign = (bits & 0x8000U) << 16;
  const std::uint32_t magnitude = bits & 0x7fffU;
  if (magnitude >= 0x7c00U) {  // inf and NaN
    return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  }
  if (magnitude < 0x400U) {  // denormal or zero: an integer times 2^-24, exact under any mode of the calling thread
    const float value = static_cast<float>(magnitude) * 0x1p-24F;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112U << 23)));
}

template <float (*kWiden)(const std::byte*), std::int64_t kSize>
void read_run(const std::byte* from, std::int64_t step, std::int64_t count, float* to) {
  if (step == 1) {
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = kWiden(from + i * kSize);
    }
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = kWiden(from + i * step * kSize);
    }
  }
}

void read_plain(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, float* to) {
  const std::byte* from =
      static_cast<const std::byte*>(view.data) +
      (out * view.out_stride + in * view.in_stride) * static_cast<std::int64_t>(dtype_bytes(view.dtype));
  switch (view.dtype) {
    case DType::f32:
      read_run<widen_f32, 4>(from, view.in_stride, count, to);
      break;
    case DType::bf16:
      read_run<widen_bf16, 2>(from, view.in_stride, count, to);
      break;
    default:
      read_run<widen_f16, 2>(from, view.in_stride, count, to);
      break;
  }
}

using Values = std::array<float, 256>;

constexpr float e4m3(unsigned code) {
  const unsigned exponent = (code >> 3) & 15U;
  const unsigned mantissa = code & 7U;
  if (exponent == 15U && mantissa == 7U) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  // 1.mmm · 2^(e-7), and 0.mmm · 2^-6 for e = 0
  float value = static_cast<float>(exponent == 0U ? mantissa : mantissa + 8U) * 0x1p-10F;
  for (unsigned i = 0; i < std::max(exponent, 1U); ++i) {
    value *= 2.0F;
  }
  return (code & 128U) != 0U ? -value : value;
}

constexpr std::array<float, 16> kE2m1 = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                         -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

// What the code stands for before the zero of a u4 is subtracted. `bits` of the code are looked at.
constexpr Values make_values(Codes codes) {
  Values values{};
  for (unsigned i = 0; i < values.size(); ++i) {
    const auto code = static_cast<int>(i);
    switch (codes) {
      case Codes::plain:
        break;
      case Codes::i8:
        values[i] = static_cast<float>(code < 128 ? code : code - 256);
        break;
      case Codes::u8:
        values[i] = static_cast<float>(code - 128);
        break;
      case Codes::i4:
        values[i] = static_cast<float>(code % 16 < 8 ? code % 16 : code % 16 - 16);
        break;
      case Codes::u4:
        values[i] = static_cast<float>(code % 16);
        break;
      case Codes::f8_e4m3:
        values[i] = e4m3(i);
        break;
      case Codes::f4_e2m1:
        values[i] = kE2m1[i % 16U];
        break;
    }
  }
  return values;
}

// In the order of the enum's numbers.
constexpr std::array<Values, 7> kValues = {
    make_values(Codes::plain), make_values(Codes::i8),      make_values(Codes::u8),     make_values(Codes::i4),
    make_values(Codes::u4),    make_values(Codes::f8_e4m3), make_values(Codes::f4_e2m1)};
constexpr std::array<const char*, 7> kNames = {"plain", "i8", "u8", "i4", "u4", "f8_e4m3", "f4_e2m1"};

// The smallest code but 0.
constexpr double smallest(Codes codes) {
  return codes == Codes::f8_e4m3 ? 0x1p-9 : codes == Codes::f4_e2m1 ? 0.5 : 1.0;
}

std::uint8_t half_byte(const std::byte* from, std::int64_t at) {
  const unsigned both = std::to_integer<unsigned>(from[at / 2]);
  return static_cast<std::uint8_t>(at % 2 == 0 ? both & 15U : both >> 4);
}

// The codes as they are stored, one per byte.
void fetch(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, std::uint8_t* to) {
  const auto* from = static_cast<const std::byte*>(view.data);
  const bool dense = view.in_run == 1 && view.in_stride == 1;
  const std::int64_t first = out * view.out_stride + in;  // of a dense row
  const auto at = [&](std::int64_t i) {
    return out * view.out_stride + i / view.in_run * view.in_stride + i % view.in_run;
  };
  if (code_bits(view.codes) == 8) {
    if (dense) {
      std::memcpy(to, from + first, static_cast<std::size_t>(count));
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = std::to_integer<std::uint8_t>(from[at(in + i)]);
    }
    return;
  }
  if (!dense || first % 2 != 0) {
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = half_byte(from, at(in + i));
    }
    return;
  }
  for (std::int64_t i = 0; i + 1 < count; i += 2) {
    const unsigned both = std::to_integer<unsigned>(from[(first + i) / 2]);
    to[i] = static_cast<std::uint8_t>(both & 15U);
    to[i + 1] = static_cast<std::uint8_t>(both >> 4);
  }
  if (count % 2 != 0) {
    to[count - 1] = half_byte(from, first + count - 1);
  }
}

std::int64_t scale_row(const WeightView& view, std::int64_t out) {
  return (out + view.scales.first_out) / view.scales.out_block;
}

// Of a u4, that all elements with one scale share.
std::int32_t zero_of(const WeightView& view, std::int64_t out, std::int64_t block) {
  if (view.codes != Codes::u4) {
    return 0;
  }
  const WeightZeros& zeros = view.zeros;
  if (zeros.data == nullptr) {
    return zeros.offset;
  }
  const std::int64_t at = scale_row(view, out) * zeros.out_stride + block * zeros.in_stride;
  return (half_byte(static_cast<const std::byte*>(zeros.data), at) + zeros.offset) % 16;
}

float scale_of(const WeightView& view, std::int64_t out, std::int64_t block) {
  const WeightScales& scales = view.scales;
  if (scales.data == nullptr) {
    return 1.0F;
  }
  const std::int64_t at = scale_row(view, out) * scales.out_stride + block * scales.in_stride;
  const std::byte* from =
      static_cast<const std::byte*>(scales.data) + at * static_cast<std::int64_t>(dtype_bytes(scales.dtype));
  switch (scales.dtype) {
    case DType::f32:
      return widen_f32(from);
    case DType::bf16:
      return widen_bf16(from);
    case DType::f16:
      return widen_f16(from);
    case DType::f8_e4m3:
      return f8_e4m3_value(std::to_integer<std::uint8_t>(*from));
    default:
      return f8_e8m0_value(std::to_integer<std::uint8_t>(*from));
  }
}

// Denormals too, whatever the mode of the calling thread.
double widen(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7f800000U) != 0U) {
    return value;
  }
  const double magnitude = static_cast<double>(bits & 0x7fffffU) * 0x1p-149;
  return (bits >> 31) != 0U ? -magnitude : magnitude;
}

// To nearest even, denormals too, whatever the mode of the calling thread.
float narrow(double value) {
  if (!(std::fabs(value) < 0x1p-126)) {
    return static_cast<float>(value);
  }
  const double steps = std::fabs(value) * 0x1p149;  // below 2^23
  const auto whole = static_cast<std::uint32_t>((steps + 0x1p52) - 0x1p52);
  return std::bit_cast<float>(whole | (std::signbit(value) ? 0x80000000U : 0U));
}

// Codes that share a scale.
void scale_run(Codes codes, const std::uint8_t* from, std::int32_t zero, double scale, std::int64_t count, float* to) {
  const Values& values = kValues[static_cast<std::size_t>(codes)];
  const auto subtracted = static_cast<float>(zero);
  if (std::fabs(scale) * smallest(codes) >= 0x1p-126) {
    for (std::int64_t i = 0; i < count; ++i) {
      to[i] = static_cast<float>(static_cast<double>(values[from[i]] - subtracted) * scale);
    }
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    to[i] = narrow(static_cast<double>(values[from[i]] - subtracted) * scale);
  }
}

// Calls visit(block, first, count) for every stretch of inputs with one scale.
template <class Visit>
void for_each_block(const WeightView& view, std::int64_t in, std::int64_t count, const Visit& visit) {
  for (std::int64_t i = 0; i < count;) {
    const std::int64_t block = (in + i) / view.scales.in_block;
    const std::int64_t run = std::min(count - i, view.scales.in_block - (in + i) % view.scales.in_block);
    visit(block, i, run);
    i += run;
  }
}

void check_codes(const WeightView& view, const char* what) {
  const WeightScales& scales = view.scales;
  const char* name = codes_name(view.codes);
  if (scales.data == nullptr) {
    fail(Code::invalid_argument, "experts: {} is {} without scales, expected some", what, name);
  }
  if (!is_float(scales.dtype) && scales.dtype != DType::f8_e8m0 && scales.dtype != DType::f8_e4m3) {
    fail(Code::invalid_argument, "experts: {} has scales in {}, expected f32, bf16, f16, f8_e8m0 or f8_e4m3", what,
         dtype_name(scales.dtype));
  }
  if (scales.out_block < 1 || scales.in_block < 1 || scales.out_block > kWholeBlock || scales.in_block > kWholeBlock ||
      scales.first_out < 0 || scales.first_out > kWholeBlock) {
    fail(Code::invalid_argument, "experts: {} has scales for blocks of {} x {} after {} outputs, expected 1 or more",
         what, scales.out_block, scales.in_block, scales.first_out);
  }
  if (view.codes != Codes::u4 ? view.zeros.data != nullptr : view.zeros.offset < 0 || view.zeros.offset > 15) {
    fail(Code::invalid_argument, "experts: {} is {} with zeros{}, expected zeros for u4 alone, offset 0..15", what,
         name, view.codes == Codes::u4 ? " at an offset beyond 15" : "");
  }
}

}  // namespace

const char* codes_name(Codes codes) noexcept {
  const auto index = static_cast<std::size_t>(codes);
  return index < kNames.size() ? kNames[index] : "unknown";
}

float f8_e4m3_value(std::uint8_t code) { return kValues[static_cast<std::size_t>(Codes::f8_e4m3)][code]; }
float f4_e2m1_value(std::uint8_t code) { return kE2m1[code % 16U]; }
float f8_e8m0_value(std::uint8_t code) {
  if (code == 255U) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  return std::bit_cast<float>(code == 0U ? 0x00400000U : static_cast<std::uint32_t>(code) << 23);
}

std::int64_t view_bytes(const WeightView& view, std::int64_t elements) {
  return view.codes == Codes::plain ? elements * static_cast<std::int64_t>(dtype_bytes(view.dtype))
                                    : elements * code_bits(view.codes) / 8;
}

void read_row(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, float* to) {
  if (view.codes == Codes::plain) {
    read_plain(view, out, in, count, to);
    return;
  }
  const double factor = widen(view.scales.factor);
  std::array<std::uint8_t, kChunk> codes;
  for (std::int64_t done = 0; done < count; done += kChunk) {
    const std::int64_t chunk = std::min(kChunk, count - done);
    fetch(view, out, in + done, chunk, codes.data());
    for_each_block(view, in + done, chunk, [&](std::int64_t block, std::int64_t first, std::int64_t run) {
      scale_run(view.codes, codes.data() + first, zero_of(view, out, block), widen(scale_of(view, out, block)) * factor,
                run, to + done + first);
    });
  }
}

void read_codes(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, std::uint8_t* to) {
  fetch(view, out, in, count, to);
  if (view.codes == Codes::i8 || view.codes == Codes::f8_e4m3 || view.codes == Codes::f4_e2m1) {
    return;
  }
  const Values& values = kValues[static_cast<std::size_t>(view.codes)];
  for_each_block(view, in, count, [&](std::int64_t block, std::int64_t first, std::int64_t run) {
    const std::int32_t zero = zero_of(view, out, block);
    for (std::int64_t i = first; i < first + run; ++i) {
      to[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(values[to[i]]) - zero);
    }
  });
}

float scale_at(const WeightView& view, std::int64_t out, std::int64_t in) {
  return scale_of(view, out, in / view.scales.in_block);
}

void check_weight(const WeightView& view, const char* what) {
  if (view.data == nullptr) {
    fail(Code::invalid_argument, "experts: {} has no data", what);
  }
  if (static_cast<std::size_t>(view.codes) >= kNames.size() || view.in_run < 1) {
    fail(Code::invalid_argument, "experts: {} has codes {} in runs of {}, expected plain (0) .. f4_e2m1 (6), 1 or more",
         what, static_cast<int>(view.codes), view.in_run);
  }
  if (view.codes != Codes::plain) {
    check_codes(view, what);
    return;
  }
  if (!is_float(view.dtype)) {
    fail(Code::invalid_argument, "experts: {} is {}, expected f32, bf16 or f16", what, dtype_name(view.dtype));
  }
  if (view.scales.data != nullptr || view.in_run != 1) {
    fail(Code::invalid_argument, "experts: {} has plain codes {}, expected none with them", what,
         view.in_run != 1 ? "in runs" : "and scales");
  }
}

}  // namespace switchyard
