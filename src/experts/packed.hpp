// Packed weights: matrices in the panels that the kernels read; see cpu/kernels.hpp for their layout.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "cpu/kernels.hpp"
#include "cpu/memory.hpp"
#include "switchyard/experts.hpp"

namespace switchyard {

// The largest hidden or ffn size: keeps the bytes of a panel in 64 bits.
inline constexpr std::int64_t kMaxFeatures = std::int64_t{1} << 31;

// Where scales of a format stand for weights of this depth: where those of `like` do, if it has codes of the format, and
// else where the format has them.
PanelScales scales_like(Format format, const WeightView& like, std::int64_t depth, std::int64_t padded_depth);

// Of the bytes of a packed form: raised by whatever changes them, what is kept of a checkpoint's codes too, so that caches
// on disk are packed anew.
inline constexpr std::uint32_t kPackedVersion = 2;

// `count` matrices [features, depth] of one size. Gated ones hold two matrices, gate and up, interleaved. Sizes are
// known from construction on; memory is taken by the first matrix that is packed, which may have scales elsewhere.
class PackedMatrices {
 public:
  PackedMatrices() = default;
  // Throws out_of_memory, not_supported.
  PackedMatrices(std::int32_t count, std::int64_t features, std::int64_t depth, bool gated, Format format);

  // Before memory is taken: where the scales stand, or will stand if the first matrix that is packed is `view`. Throw as
  // the constructor.
  void lay_out(const PanelScales& scales);
  void lay_out_like(const WeightView& view);

  // Packs one matrix; `up` is read only if gated. Codes and scales that the format has are kept, all else is rounded, see
  // docs/formats.md. All of `threads` take part.
  void pack(std::int32_t matrix, const WeightView& view, const WeightView& up, const Threads& threads);

  // Makes room for the biases of all matrices, zeros, if there is none yet.
  void make_bias();
  // Packs the bias of one matrix, `up` only if gated; a view without data stands for zeros.
  void pack_bias(std::int32_t matrix, const WeightView& view, const WeightView& up);

  // What a cache on disk holds: weights, and biases if there are any.
  static constexpr std::size_t kBuffers = 2;
  std::array<std::span<const std::byte>, kBuffers> buffers() const;
  // What buffer `index` takes if it is there.
  std::size_t buffer_bytes(std::size_t index) const;
  // Takes a buffer of that size instead of packing.
  void adopt(std::size_t index, PageBuffer buffer);

  std::int32_t count() const { return count_; }
  std::int64_t features() const { return features_; }
  Format format() const { return format_; }
  bool gated() const { return gated_; }
  std::int64_t depth() const { return depth_; }
  std::int64_t padded_depth() const { return padded_depth_; }
  std::int64_t panels() const { return panels_; }
  std::int64_t panel_bytes() const { return panel_bytes_; }
  const PanelScales& scales() const { return scales_; }
  std::int64_t groups() const { return scales_.groups(padded_depth_); }
  // Width of an output row: the features padded to whole panels.
  std::int64_t out_width() const { return panels_ * (gated_ ? kGatedPanel : kPanel); }
  std::size_t bytes() const { return bytes_ + bias_.bytes(); }
  bool empty() const { return panels_ == 0; }
  const std::byte* matrix(std::int32_t index) const { return buffer_.data() + index * panels_ * panel_bytes_; }
  // [panels, kPanel] f32 in the order of the panels' columns; null without biases.
  const float* bias(std::int32_t index) const {
    return bias_.bytes() == 0 ? nullptr : reinterpret_cast<const float*>(bias_.data()) + index * panels_ * kPanel;
  }

 private:
  // The feature that a column of a panel holds, and whether it is `up`'s.
  std::int64_t feature_of(std::int64_t panel, std::int64_t column) const;
  bool is_up(std::int64_t column) const;

  // What is known of a matrix before its panels are packed; of gate (or all there is) and of up.
  struct Source;
  std::array<Source, 2> look_at(const WeightView& view, const WeightView& up, const Threads& threads) const;
  bool keeps(const WeightView& view) const;
  void measure(Source& source, const Threads& threads) const;
  void pack_floats(const std::array<Source, 2>& sources, std::int64_t panel, std::byte* to) const;
  // `scales` [kPanel, groups] is its working memory.
  void pack_codes(const std::array<Source, 2>& sources, std::int64_t panel, float* scales, std::byte* to) const;
  void find_scales(const Source& source, std::int64_t feature, float* to) const;
  void find_codes(const Source& source, std::int64_t feature, std::int64_t k, float* scales, std::uint8_t* to) const;

  Format format_ = Format::f32;
  bool gated_ = false;
  std::int32_t count_ = 0;
  std::int64_t features_ = 0;
  std::int64_t depth_ = 0;
  std::int64_t padded_depth_ = 0;
  std::int64_t panels_ = 0;
  std::int64_t panel_bytes_ = 0;
  std::size_t bytes_ = 0;  // of all matrices
  PageBuffer buffer_;
  PageBuffer bias_;
  PanelScales scales_;
};

struct ExpertWeights::Packed {
  ExpertShape shape;
  Format format = Format::f32;
  PackedMatrices up;    // gate, if there is one, and up, [F,H] each
  PackedMatrices down;  // [H,F]
};

// Gives all experts the sizes that they will have when they are packed; asks for the first.
void lay_out_experts(ExpertWeights::Packed& packed, const std::function<ExpertTensors(std::int32_t)>& tensors);

// Packs all experts; see ExpertWeights.
void pack_experts(ExpertWeights::Packed& packed, const std::function<ExpertTensors(std::int32_t)>& tensors,
                  const Threads& threads);

}  // namespace switchyard
