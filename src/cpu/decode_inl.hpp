// Codes of packed weights as the tiles read them; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// kLanes scales as f32.
inline V16 load_scales(const std::byte* from, DType dtype) {
  switch (dtype) {
    case DType::f8_e8m0:
      return V16::load_e8m0(from);
    case DType::f8_e4m3:
      return V16::load_e4m3(from);
    default:
      return load_elements(from, dtype, 0);
  }
}

// The scales of one group, [kPanel].
inline void decode_scales(const PanelScales& scales, const std::byte* panel, std::int64_t group, float* to) {
  const std::byte* from = panel + scales.begin() + group * kPanel * scales.size();
  V16::store(to, load_scales(from, scales.dtype));
  V16::store(to + kLanes, load_scales(from + kLanes * scales.size(), scales.dtype));
}

// Codes of kParts · 4 contraction steps in 32 bits of a column; kScale times what is decoded is what they stand for.
constexpr int kPartSteps = 4;
struct E4m3 {
  static constexpr int kParts = 1;
  static constexpr float kScale = 0x1p120F;
  template <int kPart>
  static void decode(const std::byte* words, V::R (&to)[kPartSteps]) {
    V::tiny_e4m3(words, to);
  }
};
struct E2m1 {
  static constexpr int kParts = 2;
  static constexpr float kScale = V::kE2m1Scale;
  template <int kPart>
  static void decode(const std::byte* words, V::R (&to)[kPartSteps]) {
    V::e2m1<kPart>(words, to);
  }
};

// What the codes of a group are multiplied with, by · factor, rounded once in all: where there is a factor, the first
// product is exact.
struct GroupScales {
  alignas(64) float by[kPanel];
  alignas(64) float factor[kPanel];
  bool has_factor;
};

inline bool any_differ(V16 a, V16 b) { return V16::any_less(a, b) || V16::any_less(b, a); }

template <class Code>
inline void load_group(const GemmArgs& g, const std::byte* panel, std::int64_t group, GroupScales& to) {
  const V16 unit = V16::set(Code::kScale);
  const V16 unit_inverse = V16::set(1.0F / Code::kScale);
  decode_scales(g.scales, panel, group, to.by);
  // Scales so large or small that their product with kScale is not exact stay apart; no factor goes with such.
  bool apart = false;
  for (float* by = to.by; by < to.by + kPanel; by += kLanes) {
    const V16 scale = V16::load(by);
    apart |= any_differ(V16::mul(V16::mul(scale, unit), unit_inverse), scale);
  }
  to.has_factor = apart || g.scales.has_factor;
  for (std::int64_t at = 0; at < kPanel; at += kLanes) {
    const V16 scale = V16::load(to.by + at);
    V16::store(to.by + at, apart ? unit : V16::mul(scale, unit));
    if (to.has_factor) {
      V16::store(to.factor + at, apart ? scale : V16::load(reinterpret_cast<const float*>(panel)));
    }
  }
}

// A part of the words of V::kWidth columns.
template <class Code, int kPart, bool kHasFactor>
inline void decode_part(const std::byte* words, V::R by, V::R factor, V::R (&to)[kPartSteps]) {
  Code::template decode<kPart>(words, to);
  for (V::R& value : to) {
    value = V::mul(value, by);
    if constexpr (kHasFactor) {
      value = V::mul(value, factor);
    }
  }
}

// The steps of those words to lines of kPanel.
template <class Code, bool kHasFactor, int kPart = 0>
inline void decode_word(const std::byte* words, V::R by, V::R factor, float* to) {
  V::R value[kPartSteps];
  decode_part<Code, kPart, kHasFactor>(words, by, factor, value);
  for (int i = 0; i < kPartSteps; ++i) {
    V::store(to + (kPart * kPartSteps + i) * kPanel, value[i]);
  }
  if constexpr (kPart + 1 < Code::kParts) {
    decode_word<Code, kHasFactor, kPart + 1>(words, by, factor, to);
  }
}

// Steps begin .. end of a panel as f32 [steps][kPanel].
template <class Code, bool kHasFactor>
inline void decode_steps(const GroupScales& scales, const std::byte* codes, std::int64_t begin, std::int64_t end,
                         float* to) {
  constexpr int kSteps = Code::kParts * kPartSteps;
  for (std::int64_t column = 0; column < kPanel; column += V::kWidth) {
    const V::R by = V::load(scales.by + column);
    const V::R factor = kHasFactor ? V::load(scales.factor + column) : by;
    for (std::int64_t step = begin; step < end; step += kSteps) {
      const std::byte* words = codes + (step / kSteps * kPanel + column) * 4;
      decode_word<Code, kHasFactor>(words, by, factor, to + step * kPanel + column);
    }
  }
}

template <class Code>
inline void decode_floats(const GemmArgs& g, const std::byte* panel, const std::byte* codes, std::int64_t k,
                          std::int64_t depth, float* to) {
  GroupScales scales;
  for (std::int64_t end = 0; end < depth;) {
    const std::int64_t begin = end;
    const std::int64_t group = (k + begin) / g.scales.group;
    const std::int64_t group_end = (group + 1) * g.scales.group - k;
    end = group_end < depth ? group_end : depth;
    load_group<Code>(g, panel, group, scales);
    const auto decode = scales.has_factor ? decode_steps<Code, true> : decode_steps<Code, false>;
    decode(scales, codes, begin, end, to);
  }
}

// The same of integers, without scales: operands of V::words, [depth / V::kWordSteps][kPanel].
template <int kSteps, class Split>
inline void decode_words(const std::byte* codes, std::int64_t depth, float* to, const Split& split) {
  constexpr int kWords = kSteps / V::kWordSteps;
  for (std::int64_t word = 0; word < depth / kSteps; ++word) {
    for (std::int64_t column = 0; column < kPanel; column += V::kWidth) {
      V::R value[kWords];
      split(codes + (word * kPanel + column) * 4, value);
      for (int i = 0; i < kWords; ++i) {
        V::store(to + (word * kWords + i) * kPanel + column, value[i]);
      }
    }
  }
}

// What a tile reads for steps k .. k + depth of a panel: the codes themselves where nothing is to be decoded, or `block`.
inline const std::byte* decode(const GemmArgs& g, const std::byte* panel, const std::byte* codes, std::int64_t k,
                               std::int64_t depth, float* block) {
  switch (g.format) {
    case Format::f8_e4m3:
    case Format::mxfp8:
      decode_floats<E4m3>(g, panel, codes, k, depth, block);
      break;
    case Format::mxfp4:
    case Format::nvfp4:
      decode_floats<E2m1>(g, panel, codes, k, depth, block);
      break;
    case Format::i8:
      if constexpr (V::kWordSteps == 4) {
        return codes;
      } else {
        decode_words<4>(codes, depth, block, [](const std::byte* words, auto& to) { V::bytes(words, to); });
      }
      break;
    case Format::i4:
      decode_words<8>(codes, depth, block, [](const std::byte* words, auto& to) { V::half_bytes(words, to); });
      break;
    default:
      return codes;
  }
  return reinterpret_cast<const std::byte*>(block);
}

}  // namespace
}  // namespace switchyard
