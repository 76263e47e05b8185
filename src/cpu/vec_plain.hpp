// Vectors in plain C++; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

float from_bits(std::uint32_t bits) {
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::uint32_t to_bits(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <int kCount, class F>
struct Lanes {
  float lane[kCount];

  template <class Make>
  static F make(Make of_lane) {
    F result;
    for (int i = 0; i < kCount; ++i) {
      result.lane[i] = of_lane(i);
    }
    return result;
  }
  static F set(float a) {
    return make([=](int) { return a; });
  }
  static F load(const float* p) {
    return make([=](int i) { return p[i]; });
  }
  static void store(float* p, const F& a) {
    for (int i = 0; i < kCount; ++i) {
      p[i] = a.lane[i];
    }
  }
  static F fma(const F& a, const F& b, const F& c) {
    return make([&](int i) { return __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]); });
  }
};

struct Lanes8 : Lanes<8, Lanes8> {};

float tiny_e4m3(std::uint32_t code) { return from_bits((code & 0x80U) << 24 | (code & 0x7fU) << 20); }

struct V : Lanes8 {
  using R = Lanes8;
  static constexpr int kWidth = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kTileRows = 6;
  static constexpr bool kHasDot = false;
  static constexpr int kWordSteps = 4;
  static constexpr int tile_vectors(int) { return 1; }
  static constexpr int stream_vectors(int) { return 1; }
  static constexpr int stream_rows(Format format) { return has_scales(format) ? 6 : 3; }
  static constexpr int stream_panels(Format, int) { return 1; }

  static constexpr int group_rows(Format) { return 4; }
  static constexpr int word_vectors(int) { return 1; }
  static constexpr int side_groups(Format, int) { return 1; }
  static constexpr int stream_tiles(Format) { return 2; }
  static constexpr bool streams_all(Format) { return false; }

  static constexpr bool kStreamsNear = true;
  static constexpr std::int64_t floats_ahead(int) { return 0; }
  static constexpr bool asks_for_codes(Format, int) { return true; }

  static R zero() { return set(0.0F); }
  static R broadcast(const float* p) { return set(*p); }
  static R element(const float* p) { return broadcast(p); }
  static R even(const std::byte* pairs) {
    return make([=](int i) { return from_bits(word(pairs, i) << 16); });
  }
  static R odd(const std::byte* pairs) {
    return make([=](int i) { return from_bits(word(pairs, i) & 0xffff0000U); });
  }
  static R mul(const R& a, const R& b) {
    return make([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  // Codes of kWidth columns, 32 bits of each; kScale times a step is what its code stands for. Codes of NaN count as 480:
  // they are not packed.
  struct E4m3 {
    static constexpr float kScale = 0x1p120F;
    const std::byte* words;

    static E4m3 hold(const std::byte* words) { return {words}; }
    template <int kStep>
    R step() const {
      return make([this](int i) { return tiny_e4m3(word(words, i) >> 8 * kStep); });
    }
  };
  // The first four of 8 codes in 32 bits, or the last four.
  template <int kPart>
  struct E2m1 {
    static constexpr float kScale = 0.5F;
    const std::byte* words;

    static E2m1 hold(const std::byte* words) { return {words}; }
    template <int kStep>
    R step() const {
      constexpr float kTwice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
      return make([&](int i) { return kTwice[word(words, i) >> (8 * kStep + 4 * kPart) & 15U]; });
    }
  };
  static R words(const R& sum, const R& row, const R& codes) {
    return make([&](int i) {
      std::uint32_t total = to_bits(sum.lane[i]);
      for (int shift = 0; shift < 32; shift += 8) {
        const auto value = static_cast<std::int8_t>(to_bits(row.lane[i]) >> shift);
        total += static_cast<std::uint32_t>(value) * (to_bits(codes.lane[i]) >> shift & 0xffU);
      }
      return from_bits(total);
    });
  }
  struct Bytes {
    static constexpr int kSteps = 1;
    const std::byte* words;

    static Bytes hold(const std::byte* words) { return {words}; }
    template <int kStep>
    R step() const {
      return make([this](int i) { return from_bits(word(words, i)); });
    }
  };
  struct HalfBytes {
    static constexpr int kSteps = 2;
    const std::byte* words;

    static HalfBytes hold(const std::byte* words) { return {words}; }
    template <int kStep>
    R step() const {
      return make([this](int i) { return from_bits(word(words, i) >> 4 * kStep & 0x0f0f0f0fU); });
    }
  };
  static void store_steps(float* to, const float* steps) {
    for (int i = 0; i < kLanes; ++i) {
      reinterpret_cast<std::int8_t*>(to)[i] = static_cast<std::int8_t>(steps[i]);
    }
  }
  static R difference(const R& a, const R& b) {
    return make(
        [&](int i) { return static_cast<float>(static_cast<std::int32_t>(to_bits(a.lane[i]) - to_bits(b.lane[i]))); });
  }
  static void hold_loads() {}
  static void prefetch(const std::byte*) {}
  static void prefetch_near(const std::byte*) {}

 private:
  static std::uint32_t word(const std::byte* words, int i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, words + 4 * i, sizeof bits);
    return bits;
  }
};

struct V16 : Lanes<kLanes, V16> {
  static void stream(float* p, const V16& a) { store(p, a); }
  static void end_streams() {}
  static V16 load_halves(const float* p, const float* q) {
    return make([=](int i) { return i < 8 ? p[i] : q[i - 8]; });
  }
  static V16 load_part(const float* p, std::int64_t count, float fill) {
    return make([=](int i) { return i < count ? p[i] : fill; });
  }
  static V16 gather(const float* p, const std::int32_t* numbers) {
    return make([=](int i) { return p[numbers[i]]; });
  }
  // Lanes from `count` on become `fill`.
  static V16 fill_from(const V16& a, std::int64_t count, float fill) {
    return make([&](int i) { return i < count ? a.lane[i] : fill; });
  }
  static V16 add(const V16& a, const V16& b) {
    return make([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static V16 sub(const V16& a, const V16& b) {
    return make([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static V16 mul(const V16& a, const V16& b) {
    return make([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static V16 div(const V16& a, const V16& b) {
    return make([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  // The second operand if one is NaN.
  static V16 min(const V16& a, const V16& b) { return choose_less(a, b, a, b); }
  static V16 max(const V16& a, const V16& b) { return choose_less(b, a, a, b); }
  static V16 choose_less(const V16& a, const V16& b, const V16& yes, const V16& no) {
    return make([&](int i) { return a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]; });
  }
  static V16 choose_equal(const V16& a, const V16& b, const V16& yes, const V16& no) {
    return make([&](int i) { return a.lane[i] == b.lane[i] ? yes.lane[i] : no.lane[i]; });
  }
  static V16 choose_nan(const V16& a, const V16& yes, const V16& no) {
    return make([&](int i) { return a.lane[i] != a.lane[i] ? yes.lane[i] : no.lane[i]; });
  }
  static bool any_less(const V16& a, const V16& b) {
    bool any = false;
    for (int i = 0; i < kLanes; ++i) {
      any = any || a.lane[i] < b.lane[i];
    }
    return any;
  }
  // Lanes from `count` on become 0.
  static V16 keep_first(const V16& a, std::int64_t count) {
    return make([&](int i) { return i < count ? a.lane[i] : 0.0F; });
  }
  // 2^(k / 8) from k + 1.5 · 2^23, if it is normal.
  static V16 power_of_eighths(const V16& shifted) {
    return make([&](int i) {
      const std::uint32_t k = to_bits(shifted.lane[i]);
      return from_bits(kEighths[k % 8] + (k << 20));
    });
  }
  // Lanes as integers from 0: one more where a < b.
  static V16 count_less(const V16& count, const V16& a, const V16& b) {
    return make([&](int i) { return from_bits(to_bits(count.lane[i]) + (a.lane[i] < b.lane[i] ? 1U : 0U)); });
  }
  static V16 choose_count_below(const V16& count, std::int32_t end, const V16& yes, const V16& no) {
    return make(
        [&](int i) { return static_cast<std::int32_t>(to_bits(count.lane[i])) < end ? yes.lane[i] : no.lane[i]; });
  }
  static std::int32_t sum_count(const V16& count) {
    std::uint32_t sum = 0;
    for (const float lane : count.lane) {
      sum += to_bits(lane);
    }
    return static_cast<std::int32_t>(sum);
  }
  static void store_count(std::int32_t* p, const V16& count) {
    for (int i = 0; i < kLanes; ++i) {
      p[i] = static_cast<std::int32_t>(to_bits(count.lane[i]));
    }
  }
  // a = mantissa · 2^exponent, mantissa in [1, 2), for positive normal a.
  static V16 exponent(const V16& a) {
    return make([&](int i) { return static_cast<float>(static_cast<int>(to_bits(a.lane[i]) >> 23) - 127); });
  }
  static V16 mantissa(const V16& a) {
    return make([&](int i) { return from_bits((to_bits(a.lane[i]) & 0x7fffffU) | 0x3f800000U); });
  }
  static V16 sqrt(const V16& a) {
    return make([&](int i) { return __builtin_sqrtf(a.lane[i]); });
  }
  // Bit i: value[i], i < 64, is at least `least`, the same in all lanes.
  static std::uint64_t mask_at_least(const float* value, const V16& least) {
    std::uint64_t mask = 0;
    for (int i = 0; i < 64; ++i) {
      mask |= value[i] >= least.lane[0] ? std::uint64_t{1} << i : 0U;
    }
    return mask;
  }
  // Bit i: lane i of a is at least b's.
  static std::uint32_t at_least(const V16& a, const V16& b) {
    std::uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) {
      bits |= a.lane[i] >= b.lane[i] ? 1U << i : 0U;
    }
    return bits;
  }
  // Over all lanes, none of them NaN.
  static float largest(const V16& a) {
    float value = a.lane[0];
    for (int i = 1; i < kLanes; ++i) {
      value = a.lane[i] > value ? a.lane[i] : value;
    }
    return value;
  }
  // A fixed tree over the lanes: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
  static float sum(V16 a) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) {
        a.lane[i] += a.lane[i + width];
      }
    }
    return a.lane[0];
  }
  static V16 load_bf16(const std::uint16_t* p) {
    return make([=](int i) { return from_bits(static_cast<std::uint32_t>(p[i]) << 16); });
  }
  static V16 round_to_bf16(const V16& a) {
    return make([&](int i) { return from_bits(static_cast<std::uint32_t>(round(a.lane[i])) << 16); });
  }
  static void store_bf16(std::uint16_t* p, const V16& a) {
    for (int i = 0; i < kLanes; ++i) {
      p[i] = round(a.lane[i]);
    }
  }
  // 2^(byte − 127), NaN of 255.
  static V16 load_e8m0(const std::byte* p) {
    return make([=](int i) {
      const auto code = static_cast<std::uint32_t>(p[i]);
      return from_bits(code == 0 ? 0x400000U : code == 255 ? 0x7fc00000U : code << 23);
    });
  }
  // NaN of 0x7f and 0xff.
  static V16 load_e4m3(const std::byte* p) {
    return make([=](int i) {
      const auto code = static_cast<std::uint32_t>(p[i]);
      return (code & 0x7fU) == 0x7fU ? __builtin_nanf("") : tiny_e4m3(code) * 0x1p120F;
    });
  }
  static V16 load_f16(const std::uint16_t* p) {
    return make([=](int i) { return widen_f16(p[i]); });
  }
  static void store_f16(std::uint16_t* p, const V16& a) {
    for (int i = 0; i < kLanes; ++i) {
      p[i] = round_f16(a.lane[i]);
    }
  }

 private:
  // To nearest even; NaN becomes the quiet NaN of its sign.
  static std::uint16_t round(float a) {
    const std::uint32_t bits = to_bits(a);
    const std::uint32_t rounded = a != a ? (bits & 0x80000000U) | 0x7fc00000U : bits + 0x7fffU + ((bits >> 16) & 1U);
    return static_cast<std::uint16_t>(rounded >> 16);
  }
  // Exact; NaN becomes quiet.
  static float widen_f16(std::uint16_t half) {
    const std::uint32_t sign = (half & 0x8000U) << 16;
    const std::uint32_t rest = half & 0x7fffU;
    if (rest < 0x400U) {
      return from_bits(sign | to_bits(static_cast<float>(rest) * 0x1p-24F));
    }
    const std::uint32_t bias = rest >= 0x7c00U ? 255U - 31U : 127U - 15U;
    return from_bits(sign | ((rest << 13) + (bias << 23)) | (rest > 0x7c00U ? 0x400000U : 0U));
  }
  // To nearest even; NaN becomes quiet.
  static std::uint16_t round_f16(float a) {
    const std::uint32_t bits = to_bits(a);
    const std::uint32_t sign = (bits >> 16) & 0x8000U;
    const std::uint32_t rest = bits & 0x7fffffffU;
    std::uint32_t half = 0x7c00U;
    if (rest > 0x7f800000U) {
      half = 0x7e00U | ((rest >> 13) & 0x3ffU);
    } else if (rest < 0x38800000U) {  // below 2^-14: the ulp of 0.5 is f16's smallest denormal
      half = to_bits(from_bits(rest) + 0.5F) - to_bits(0.5F);
    } else if (rest < 0x47800000U) {  // below 2^16
      half = (rest + 0xfffU + ((rest >> 13) & 1U) - (112U << 23)) >> 13;
    }
    return static_cast<std::uint16_t>(sign | half);
  }
};

// A number in the order of value, and the lower id first.
struct Keys {
  static constexpr int kWidth = 1;
  float value;
  std::int32_t id;

  // −0 becomes 0.
  static Keys make(const float* value, const std::int32_t* id) { return {*value + 0.0F, *id}; }
  static bool less(Keys a, Keys b) { return a.value < b.value || (a.value == b.value && a.id > b.id); }
  static Keys min(Keys a, Keys b) { return less(b, a) ? b : a; }
  static Keys max(Keys a, Keys b) { return less(b, a) ? a : b; }
  void split(float* value_out, std::int32_t* id_out) const {
    *value_out = value;
    *id_out = id;
  }
};

// The largest of some numbers in each lane, and the next.
struct TopTwo {
  V16 first;
  V16 second;
};

inline TopTwo top_two(const V16& first, const V16& second) { return {first, second}; }

// Of each of kTopGroups groups, from those of its lanes.
inline void top_two_of_groups(const TopTwo* top, float* largest, float* next) {
  for (int g = 0; g < kTopGroups; ++g) {
    largest[g] = top[g].first.lane[0];
    next[g] = top[g].second.lane[0];
    for (int i = 1; i < kLanes; ++i) {
      const float own = top[g].first.lane[i];
      const float lower = own > largest[g] ? largest[g] : own;
      largest[g] = own > largest[g] ? own : largest[g];
      next[g] = lower > next[g] ? lower : next[g];
      next[g] = top[g].second.lane[i] > next[g] ? top[g].second.lane[i] : next[g];
    }
  }
}

// Columns of [kLanes][kLanes].
inline void transpose(const float (*from)[kLanes], V16* to) {
  for (int c = 0; c < kLanes; ++c) {
    to[c] = V16::make([=](int i) { return from[i][c]; });
  }
}

}  // namespace
}  // namespace switchyard
