// What sorts the experts of several tokens at once; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

// Numbers in the order of value, and the lower id first: a double has 29 bits more than a float, and 16 of them hold the id.
struct Keys {
  static constexpr int kWidth = 4;
  __m256d number;

  // Not of ±inf and NaN. −0 becomes 0.
  static Keys make(const float* value, const std::int32_t* id) {
    const __m256d wide = _mm256_cvtps_pd(_mm_add_ps(_mm_loadu_ps(value), _mm_setzero_ps()));
    const __m256i own = _mm256_cvtepi32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(id)));
    return {_mm256_or_pd(wide, _mm256_castsi256_pd(_mm256_xor_si256(own, flip(wide))))};
  }
  static Keys min(Keys a, Keys b) { return {_mm256_min_pd(a.number, b.number)}; }
  static Keys max(Keys a, Keys b) { return {_mm256_max_pd(a.number, b.number)}; }
  void split(float* value, std::int32_t* id) const {
    const __m256i bits = _mm256_and_si256(_mm256_castpd_si256(number), _mm256_set1_epi64x(0xffff));
    const __m256i own = _mm256_xor_si256(bits, flip(number));
    const __m256i first = _mm256_permutevar8x32_epi32(own, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(id), _mm256_castsi256_si128(first));
    _mm_storeu_ps(value, _mm256_cvtpd_ps(number));  // the id is less than half of the last place
  }

 private:
  // What makes a lower id a larger number: it counts down above 0, and up below it, where more bits are less.
  static __m256i flip(__m256d a) {
    const __m256i negative = _mm256_castpd_si256(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_LT_OQ));
    return _mm256_andnot_si256(negative, _mm256_set1_epi64x(0xffff));
  }
};

// Columns 0..7 of rows 0..7 that stand kLanes apart.
inline void transpose_eight(const float* from, __m256* to) {
  __m256 row[8];
  __m256 pair[8];
  for (int i = 0; i < 8; ++i) {
    row[i] = _mm256_loadu_ps(from + i * kLanes);
  }
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm256_unpacklo_ps(row[i], row[i + 1]);
    pair[i + 1] = _mm256_unpackhi_ps(row[i], row[i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    const __m256* p = pair + 4 * i;
    row[4 * i] = _mm256_shuffle_ps(p[0], p[2], 0x44);
    row[4 * i + 1] = _mm256_shuffle_ps(p[0], p[2], 0xee);
    row[4 * i + 2] = _mm256_shuffle_ps(p[1], p[3], 0x44);
    row[4 * i + 3] = _mm256_shuffle_ps(p[1], p[3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    to[i] = _mm256_permute2f128_ps(row[i], row[i + 4], 0x20);
    to[i + 4] = _mm256_permute2f128_ps(row[i], row[i + 4], 0x31);
  }
}

// Columns of [kLanes][kLanes].
inline void transpose(const float (*from)[kLanes], V16* to) {
  for (int column = 0; column < kLanes; column += 8) {
    __m256 upper[8];
    __m256 lower[8];
    transpose_eight(from[0] + column, upper);
    transpose_eight(from[8] + column, lower);
    for (int i = 0; i < 8; ++i) {
      to[column + i] = V16::join(upper[i], lower[i]);
    }
  }
}

// The largest of some numbers in each lane, and the next.
struct TopTwo {
  __m256 first;
  __m256 second;
};

inline TopTwo merge(TopTwo a, TopTwo b) {
  return {_mm256_max_ps(a.first, b.first),
          _mm256_max_ps(_mm256_min_ps(a.first, b.first), _mm256_max_ps(a.second, b.second))};
}

inline TopTwo top_two(V16 first, V16 second) {
  return merge({V16::lower(first), V16::lower(second)}, {V16::upper(first), V16::upper(second)});
}

// Of each of kTopGroups groups, from those of its lanes: halves of them side by side, until each has a lane.
inline void top_two_of_groups(TopTwo* top, float* largest, float* next) {
  for (int g = 0; g < 4; ++g) {
    const TopTwo& a = top[g];
    const TopTwo& b = top[g + 4];
    top[g] = merge({_mm256_permute2f128_ps(a.first, b.first, 0x20), _mm256_permute2f128_ps(a.second, b.second, 0x20)},
                   {_mm256_permute2f128_ps(a.first, b.first, 0x31), _mm256_permute2f128_ps(a.second, b.second, 0x31)});
  }
  for (int g = 0; g < 2; ++g) {
    const TopTwo& a = top[2 * g];
    const TopTwo& b = top[2 * g + 1];
    top[g] = merge({_mm256_shuffle_ps(a.first, b.first, 0x44), _mm256_shuffle_ps(a.second, b.second, 0x44)},
                   {_mm256_shuffle_ps(a.first, b.first, 0xee), _mm256_shuffle_ps(a.second, b.second, 0xee)});
  }
  const TopTwo& a = top[0];
  const TopTwo& b = top[1];
  const TopTwo all = merge({_mm256_shuffle_ps(a.first, b.first, 0x88), _mm256_shuffle_ps(a.second, b.second, 0x88)},
                           {_mm256_shuffle_ps(a.first, b.first, 0xdd), _mm256_shuffle_ps(a.second, b.second, 0xdd)});
  _mm256_storeu_ps(largest, all.first);
  _mm256_storeu_ps(next, all.second);
}

}  // namespace
}  // namespace switchyard
