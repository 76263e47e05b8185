// Codes of packed weights as the tiles read them; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// The scales of columns `column` .. column + kLanes in one group.
inline V16 load_scales(const PanelScales& scales, const std::byte* panel, std::int64_t group, std::int64_t column) {
  const std::byte* from = panel + scales.begin() + (group * kPanel + column) * scales.size();
  switch (scales.dtype) {
    case DType::f8_e8m0:
      return V16::load_e8m0(from);
    case DType::f8_e4m3:
      return V16::load_e4m3(from);
    default:
      return load_elements(from, scales.dtype, 0);
  }
}

template <int kNumber>
struct Constant {
  static constexpr int kValue = kNumber;
};

// Calls body(Constant<i>) for i = 0 .. kCount.
template <int kCount, int kStep = 0, class Body>
__attribute__((always_inline)) inline void for_steps(const Body& body) {
  if constexpr (kStep < kCount) {
    body(Constant<kStep>());
    for_steps<kCount, kStep + 1>(body);
  }
}

// Codes in 32 bits of a column: kParts parts of kPartSteps contraction steps.
constexpr int kPartSteps = 4;
struct E4m3 {
  static constexpr int kParts = 1;
  static constexpr int kBits = 32 / (kParts * kPartSteps);
  template <int kPart>
  using Held = V::E4m3;
  template <class U>
  using Pairs = typename U::E4m3Pairs;
};
struct E2m1 {
  static constexpr int kParts = 2;
  static constexpr int kBits = 32 / (kParts * kPartSteps);
  template <int kPart>
  using Held = V::E2m1<kPart>;
  template <class U>
  using Pairs = typename U::E2m1Pairs;
};

// What the codes in 32 bits of V::kWidth columns stand for: f32, a step each.
template <class Code>
struct Singles {
  static constexpr int kSteps = Code::kParts * kPartSteps;
  const std::byte* words;

  static Singles hold(const std::byte* words) { return {words}; }
  template <int kStep>
  V::R step() const {
    using Held = typename Code::template Held<kStep / kPartSteps>;
    static constexpr float kScale = Held::kScale;
    return V::mul(Held::hold(words).template step<kStep % kPartSteps>(), V::broadcast(&kScale));
  }
};

// The same as Math::scaled multiplies it: pairs of bf16 where there is a unit.
template <class Code, class U, bool kHasDot>
struct OperandsOf {
  using Type = Singles<Code>;
};
template <class Code, class U>
struct OperandsOf<Code, U, true> {
  using Type = typename Code::template Pairs<U>;
};
template <class Code>
using Operands = typename OperandsOf<Code, V, V::kHasDot>::Type;

// What the codes of a group are multiplied with: by, or by and then second where their scale is so large or small that its
// product with the codes' kScale is not exact; by is exact, then, and all is rounded once. Elsewhere second is 1, or not set
// if no scale of this type can be such; for Scaling::sums it is 1 / by.
struct GroupScales {
  alignas(64) float by[kPanel];
  alignas(64) float second[kPanel];
  bool twice;
};

inline bool any_differ(V16 a, V16 b) { return V16::any_less(a, b) || V16::any_less(b, a); }

template <class Code>
inline void load_group(const GemmArgs& g, const std::byte* panel, std::int64_t group, GroupScales& to) {
  constexpr float kScale = Code::template Held<0>::kScale;
  const V16 unit = V16::set(kScale);
  const V16 low = load_scales(g.scales, panel, group, 0);
  const V16 high = load_scales(g.scales, panel, group, kLanes);
  const auto inexact = [&](V16 scale) {
    return any_differ(V16::mul(V16::mul(scale, unit), V16::set(1.0F / kScale)), scale);
  };
  const bool exact =
      Code::kBits == 4 && g.scales.dtype == DType::f8_e4m3;  // from 2^-9 to 448, and kScale is 0.5 or 2^-25
  to.twice = !exact && (inexact(low) || inexact(high));
  V16::store(to.by, to.twice ? unit : V16::mul(low, unit));
  V16::store(to.by + kLanes, to.twice ? unit : V16::mul(high, unit));
  if (!exact) {
    const V16 one = V16::set(1.0F);
    V16::store(to.second, to.twice ? low : one);
    V16::store(to.second + kLanes, to.twice ? high : one);
  }
}

// A step of what is held of V::kWidth columns.
template <int kStep, bool kTwice, class Held>
inline V::R scaled_step(const Held& held, V::R by, V::R second) {
  const V::R value = V::mul(held.template step<kStep>(), by);
  if constexpr (kTwice) {
    return V::mul(value, second);
  } else {
    return value;
  }
}

// The steps of a word of V::kWidth columns to lines of kPanel.
template <class Code, bool kTwice, int kPart = 0>
inline void decode_word(const std::byte* words, V::R by, V::R second, float* to) {
  const auto held = Code::template Held<kPart>::hold(words);
  for_steps<kPartSteps>([&](auto step) {
    constexpr int kStep = decltype(step)::kValue;
    V::store(to + (kPart * kPartSteps + kStep) * kPanel, scaled_step<kStep, kTwice>(held, by, second));
  });
  if constexpr (kPart + 1 < Code::kParts) {
    decode_word<Code, kTwice, kPart + 1>(words, by, second, to);
  }
}

// Steps begin .. end of a panel as f32 [steps][kPanel].
template <class Code, bool kTwice>
inline void decode_steps(const GroupScales& scales, const std::byte* codes, std::int64_t begin, std::int64_t end,
                         float* to) {
  constexpr int kSteps = Code::kParts * kPartSteps;
  for (std::int64_t column = 0; column < kPanel; column += V::kWidth) {
    const V::R by = V::load(scales.by + column);
    const V::R second = kTwice ? V::load(scales.second + column) : by;
    for (std::int64_t step = begin; step < end; step += kSteps) {
      const std::byte* words = codes + (step / kSteps * kPanel + column) * 4;
      decode_word<Code, kTwice>(words, by, second, to + step * kPanel + column);
    }
  }
}

// The same without scales, where sums of groups are multiplied with those: operands [*][kPanel].
template <Math kMath, class Held>
inline void decode_words(const std::byte* codes, std::int64_t depth, float* to) {
  for (std::int64_t line = 0; line < line_of(kMath).floats(depth); line += Held::kSteps) {
    const std::byte* words = codes + line / Held::kSteps * kPanel * 4;
    for (std::int64_t column = 0; column < kPanel; column += V::kWidth) {
      const Held held = Held::hold(words + column * 4);
      for_steps<Held::kSteps>([&](auto step) {
        constexpr int kStep = decltype(step)::kValue;
        V::store(to + (line + kStep) * kPanel + column, held.template step<kStep>());
      });
    }
  }
}

template <class Code>
inline void decode_floats(const GemmArgs& g, const std::byte* panel, const std::byte* codes, std::int64_t k,
                          std::int64_t depth, float* to) {
  if (g.math == Math::scaled) {
    return decode_words<Math::scaled, Singles<Code>>(codes, depth, to);
  }
  GroupScales scales;
  for (std::int64_t end = 0; end < depth;) {
    const std::int64_t begin = end;
    const std::int64_t group = (k + begin) / g.scales.group;
    const std::int64_t group_end = (group + 1) * g.scales.group - k;
    end = group_end < depth ? group_end : depth;
    load_group<Code>(g, panel, group, scales);
    const auto decode = scales.twice ? decode_steps<Code, true> : decode_steps<Code, false>;
    decode(scales, codes, begin, end, to);
  }
}

// Whether tiles read something else than what is packed.
inline bool is_decoded(Format format) { return has_scales(format) && (format != Format::i8 || V::Bytes::kSteps > 1); }

// What a tile reads for steps k .. k + depth of a panel: the codes themselves where nothing is to be decoded, or `block`.
inline const std::byte* decode(const GemmArgs& g, const std::byte* panel, const std::byte* codes, std::int64_t k,
                               std::int64_t depth, float* block) {
  if (!is_decoded(g.format)) {
    return codes;
  }
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
      decode_words<Math::integer, V::Bytes>(codes, depth, block);
      break;
    default:
      decode_words<Math::integer, V::HalfBytes>(codes, depth, block);
  }
  return reinterpret_cast<const std::byte*>(block);
}

}  // namespace
}  // namespace switchyard
