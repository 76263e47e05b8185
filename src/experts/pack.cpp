#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "cpu/parallel_for.hpp"
#include "experts/packed.hpp"
#include "fail.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kChunk = 64;  // contraction steps that are converted at a time: 8 KiB for a panel, in L1

// Throws out_of_memory if the product does not fit.
std::size_t bytes_of(std::int64_t count, std::int64_t panels, std::int64_t panel_bytes) {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(count, panels, &bytes) || __builtin_mul_overflow(bytes, panel_bytes, &bytes)) {
    fail(Code::out_of_memory, "experts: found {} matrices of {} panels of {} bytes, expected less than 2^63 bytes",
         count, panels, panel_bytes);
  }
  return static_cast<std::size_t>(bytes);
}

std::int64_t round_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

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

std::uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) {
    return static_cast<std::uint16_t>(((bits & 0x80000000U) | 0x7fc00000U) >> 16);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
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

using Chunk = std::array<std::array<float, kChunk>, kPanel>;

// [kPanel][kChunk] → `depth` steps of the panel, f32 [k][kPanel] or bf16 [k / 2][kPanel][2].
void write_chunk(const Chunk& chunk, std::int64_t depth, Format format, std::byte* to) {
  if (format == Format::f32) {
    auto* out = reinterpret_cast<float*>(to);
    for (std::int64_t k = 0; k < depth; ++k) {
      for (std::int64_t j = 0; j < kPanel; ++j) {
        out[k * kPanel + j] = chunk[j][k];
      }
    }
    return;
  }
  auto* out = reinterpret_cast<std::uint16_t*>(to);
  for (std::int64_t k = 0; k < depth; k += 2) {
    for (std::int64_t j = 0; j < kPanel; ++j) {
      out[k * kPanel + 2 * j] = round_to_bf16(chunk[j][k]);
      out[k * kPanel + 2 * j + 1] = round_to_bf16(chunk[j][k + 1]);
    }
  }
}

}  // namespace

void read_row(const WeightView& view, std::int64_t out, std::int64_t in, std::int64_t count, float* to) {
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

PackedMatrices::PackedMatrices(std::int32_t count, std::int64_t features, std::int64_t depth, bool gated, Format format)
    : format_(format),
      gated_(gated),
      count_(count),
      features_(features),
      depth_(depth),
      padded_depth_(round_up(depth, kDepth)),
      panels_(round_up(features, gated ? kGatedPanel : kPanel) / (gated ? kGatedPanel : kPanel)),
      panel_bytes_(padded_depth_ * kPanel * (format == Format::f32 ? 4 : 2)),
      bytes_(bytes_of(count, panels_, panel_bytes_)) {}

std::int64_t PackedMatrices::feature_of(std::int64_t panel, std::int64_t column) const {
  return gated_ ? panel * kGatedPanel + column / 16 * 8 + column % 8 : panel * kPanel + column;
}

bool PackedMatrices::is_up(std::int64_t column) const { return gated_ && column % 16 >= 8; }

void PackedMatrices::pack(std::int32_t matrix, const WeightView& view, const WeightView& up, const Threads& threads) {
  if (buffer_.bytes() == 0) {
    buffer_ = PageBuffer(bytes_);
  }
  std::byte* base = buffer_.data() + matrix * panels_ * panel_bytes_;
  const std::int64_t step_bytes = panel_bytes_ / padded_depth_;
  parallel_for(threads, panels_, [&](std::int64_t panel, int) {
    Chunk chunk;
    for (std::int64_t k = 0; k < depth_; k += kChunk) {
      const std::int64_t count = std::min(kChunk, depth_ - k);
      for (std::int64_t column = 0; column < kPanel; ++column) {
        const std::int64_t feature = feature_of(panel, column);
        float* to = chunk[column].data();
        std::fill_n(to, kChunk, 0.0F);
        if (feature < features_) {
          read_row(is_up(column) ? up : view, feature, k, count, to);
        }
      }
      write_chunk(chunk, std::min(kChunk, padded_depth_ - k), format_, base + panel * panel_bytes_ + k * step_bytes);
    }
  });
}

void PackedMatrices::make_bias() { bias_ = PageBuffer(buffer_bytes(1)); }

std::array<std::span<const std::byte>, PackedMatrices::kBuffers> PackedMatrices::buffers() const {
  return {std::span(buffer_.data(), buffer_.bytes()), std::span(bias_.data(), bias_.bytes())};
}

std::size_t PackedMatrices::buffer_bytes(std::size_t index) const {
  return index == 0 ? bytes_ : bytes_of(count_, panels_, kPanel * static_cast<std::int64_t>(sizeof(float)));
}

void PackedMatrices::adopt(std::size_t index, PageBuffer buffer) { (index == 0 ? buffer_ : bias_) = std::move(buffer); }

void PackedMatrices::pack_bias(std::int32_t matrix, const WeightView& view, const WeightView& up) {
  float* to = reinterpret_cast<float*>(bias_.data()) + matrix * panels_ * kPanel;
  for (std::int64_t i = 0; i < panels_ * kPanel; ++i) {
    const std::int64_t feature = feature_of(i / kPanel, i % kPanel);
    const WeightView& from = is_up(i % kPanel) ? up : view;
    if (from.data != nullptr && feature < features_) {
      read_row(from, feature, 0, 1, to + i);
    }
  }
}

void check_weight(const WeightView& view, const char* what) {
  if (view.data == nullptr) {
    fail(Code::invalid_argument, "experts: {} has no data", what);
  }
  if (view.dtype != DType::f32 && view.dtype != DType::bf16 && view.dtype != DType::f16) {
    fail(Code::invalid_argument, "experts: {} is {}, expected f32, bf16 or f16", what, dtype_name(view.dtype));
  }
}

}  // namespace switchyard
