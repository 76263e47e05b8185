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

// Codes of kSteps contraction steps in 32 bits each, kWidth columns; as `scale` times what they stand for.
struct E4m3 {
  static constexpr int kSteps = 4;
  static constexpr float kScale = 1.0F;
  static void decode(const std::byte* words, V::R (&to)[kSteps]) { V::e4m3(words, to); }
};
struct E2m1 {
  static constexpr int kSteps = 8;
  static constexpr float kScale = 0.5F;  // exact for every scale: those of 2^-127 become denormal
  static void decode(const std::byte* words, V::R (&to)[kSteps]) { V::twice_e2m1(words, to); }
};

// Steps k .. k + depth of a panel as f32 [depth][kPanel].
template <class Code, bool kHasFactor>
inline void decode_floats(const GemmArgs& g, const std::byte* panel, const std::byte* codes, std::int64_t k,
                          std::int64_t depth, float* to) {
  alignas(64) float scale[kPanel];
  for (std::int64_t end = 0; end < depth;) {
    const std::int64_t begin = end;
    const std::int64_t group = (k + begin) / g.scales.group;
    const std::int64_t group_end = (group + 1) * g.scales.group - k;
    end = group_end < depth ? group_end : depth;
    decode_scales(g.scales, panel, group, scale);
    for (std::int64_t column = 0; column < kPanel; column += V::kWidth) {
      const float unit = Code::kScale;
      const V::R factor =
          V::load(kHasFactor ? reinterpret_cast<const float*>(panel) + column % kLanes : scale + column);
      const V::R by = V::mul(V::load(scale + column), V::broadcast(&unit));
      for (std::int64_t step = begin; step < end; step += Code::kSteps) {
        V::R value[Code::kSteps];
        Code::decode(codes + (step / Code::kSteps * kPanel + column) * 4, value);
        for (int i = 0; i < Code::kSteps; ++i) {
          const V::R scaled = V::mul(value[i], by);
          V::store(to + (step + i) * kPanel + column, kHasFactor ? V::mul(scaled, factor) : scaled);
        }
      }
    }
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
      decode_floats<E4m3, false>(g, panel, codes, k, depth, block);
      break;
    case Format::mxfp4:
      decode_floats<E2m1, false>(g, panel, codes, k, depth, block);
      break;
    case Format::nvfp4:
      decode_floats<E2m1, true>(g, panel, codes, k, depth, block);
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
