#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <utility>

#include "cpu/float_mode_x86.hpp"
#include "cpu/parallel_for.hpp"
#include "experts/packed.hpp"
#include "experts/quantise.hpp"
#include "experts/source.hpp"
#include "experts/weight_view.hpp"
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

PackedMatrices::PackedMatrices(std::int32_t count, std::int64_t features, std::int64_t depth, bool gated, Format format)
    : format_(format),
      gated_(gated),
      count_(count),
      features_(features),
      depth_(depth),
      padded_depth_(round_up(depth, kDepth)),
      panels_(round_up(features, gated ? kGatedPanel : kPanel) / (gated ? kGatedPanel : kPanel)),
      scales_(scales_like(format, {}, depth, padded_depth_)) {
  lay_out(scales_);
}

void PackedMatrices::lay_out(const PanelScales& scales) {
  // An integer sum of a group stays below 2^31, and the sum of its row codes below 2^24.
  constexpr std::int64_t kMostIntegers = std::int64_t{1} << 17;
  if (is_integer(format_) && std::min(scales.group, padded_depth_) > kMostIntegers) {
    fail(Code::not_supported, "experts: found {} weights with one scale for {} inputs, expected at most {}",
         format_name(format_), depth_, kMostIntegers);
  }
  scales_ = scales;
  panel_bytes_ = scales.end(padded_depth_) + padded_depth_ * kPanel * code_bits(format_) / 8;
  bytes_ = bytes_of(count_, panels_, panel_bytes_);
}

void PackedMatrices::lay_out_like(const WeightView& view) {
  lay_out(scales_like(format_, view, depth_, padded_depth_));
}

std::int64_t PackedMatrices::feature_of(std::int64_t panel, std::int64_t column) const {
  return gated_ ? panel * kGatedPanel + column / 16 * 8 + column % 8 : panel * kPanel + column;
}

bool PackedMatrices::is_up(std::int64_t column) const { return gated_ && column % 16 >= 8; }

void PackedMatrices::pack_floats(const std::array<Source, 2>& sources, std::int64_t panel, std::byte* to) const {
  Chunk chunk;
  for (std::int64_t k = 0; k < depth_; k += kChunk) {
    const std::int64_t count = std::min(kChunk, depth_ - k);
    for (std::int64_t column = 0; column < kPanel; ++column) {
      const std::int64_t feature = feature_of(panel, column);
      float* values = chunk[static_cast<std::size_t>(column)].data();
      std::fill_n(values, kChunk, 0.0F);
      if (feature < features_) {
        read_row(*sources[is_up(column) ? 1 : 0].view, feature, k, count, values);
      }
    }
    write_chunk(chunk, std::min(kChunk, padded_depth_ - k), format_, to + k * kPanel * code_bits(format_) / 8);
  }
}

void PackedMatrices::pack(std::int32_t matrix, const WeightView& view, const WeightView& up, const Threads& threads) {
  if (buffer_.bytes() == 0) {
    lay_out_like(view);
    buffer_ = PageBuffer(bytes_);
  }
  std::byte* base = buffer_.data() + matrix * panels_ * panel_bytes_;
  const std::array<Source, 2> sources = look_at(view, gated_ ? up : view, threads);
  const std::int64_t scales = groups() * kPanel;
  std::vector<float> memory(static_cast<std::size_t>(scales * threads.count()));
  parallel_for(threads, panels_, [&](std::int64_t panel, int worker) {
    const FloatMode mode(false);
    std::byte* to = base + panel * panel_bytes_;
    if (has_scales(format_)) {
      pack_codes(sources, panel, memory.data() + scales * worker, to);
    } else {
      pack_floats(sources, panel, to);
    }
  });
}

void PackedMatrices::make_bias() {
  if (bias_.bytes() == 0) {
    bias_ = PageBuffer(buffer_bytes(1));
  }
}

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

}  // namespace switchyard
