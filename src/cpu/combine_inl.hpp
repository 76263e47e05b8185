// Combine; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

inline void store_out(const CombineArgs& c, std::int64_t token, std::int64_t at, V16 value) {
  const std::int64_t left = c.hidden - at;
  if (c.out_type == DType::f32) {
    float* out = static_cast<float*>(c.out) + token * c.out_stride + at;
    if (left >= kLanes) {
      V16::store(out, value);
      return;
    }
    alignas(64) float part[kLanes];
    V16::store(part, value);
    for (std::int64_t i = 0; i < left; ++i) {
      out[i] = part[i];
    }
    return;
  }
  std::uint16_t* out = static_cast<std::uint16_t*>(c.out) + token * c.out_stride + at;
  if (left >= kLanes) {
    V16::store_bf16(out, value);
    return;
  }
  alignas(64) std::uint16_t part[kLanes];
  V16::store_bf16(part, value);
  for (std::int64_t i = 0; i < left; ++i) {
    out[i] = part[i];
  }
}

// Two times kLanes sums of a token.
struct Sums {
  V16 low;
  V16 high;

  void add(V16 factor, const float* from) {
    low = V16::fma(factor, V16::load(from), low);
    high = V16::fma(factor, V16::load(from + kLanes), high);
  }
  void add(V16 factor, const CombineArgs& c, std::int64_t token, std::int64_t at) {
    const void* row = static_cast<const std::byte*>(c.x) + token * c.x_stride * (c.x_type == DType::f32 ? 4 : 2);
    low = V16::fma(factor, load_some(row, c.x_type, at, c.hidden - at), low);
    high = V16::fma(factor, load_some(row, c.x_type, at + kLanes, c.hidden - at - kLanes), high);
  }
};

inline void add_slots(const CombineArgs& c, std::int64_t t, std::int64_t at, Sums& sums) {
  const std::int64_t* row = c.slot_to_row + t * c.topk;
  const float* weight = c.weight + t * c.topk;
  for (std::int32_t s = 0; s < c.topk; ++s) {
    if (row[s] >= 0) {
      sums.add(V16::set(c.weighted_rows ? 1.0F : weight[s]), c.rows + row[s] * c.rows_stride + at);
    } else if (row[s] == kIdentityRow) {
      sums.add(V16::set(weight[s]), c, t, at);
    }
  }
}

// All but x and y is padded to whole panels and can be read past the hidden size.
inline void combine_token(const CombineArgs& c, std::int64_t t) {
  const V16 one = V16::set(1.0F);
  const V16 factor =
      c.gate_logits != nullptr ? sigmoid(V16::set(c.gate_logits[t * c.gate_stride])) : V16::set(c.shared_scale);
  for (std::int64_t at = 0; at < c.hidden; at += 2 * kLanes) {
    Sums sums{V16::set(0.0F), V16::set(0.0F)};
    if (c.start != nullptr) {
      sums.add(one, c.start + t * c.start_stride + at);
    }
    add_slots(c, t, at, sums);
    if (c.shared != nullptr) {
      sums.add(factor, c.shared + t * c.shared_stride + at);
    }
    if (c.bias != nullptr) {
      sums.add(one, c.bias + at);
    }
    store_out(c, t, at, sums.low);
    if (at + kLanes < c.hidden) {
      store_out(c, t, at + kLanes, sums.high);
    }
  }
}

__attribute__((noinline)) void combine_tokens(const CombineArgs& c) {
  for (std::int64_t t = 0; t < c.count; ++t) {
    combine_token(c, t);
  }
}

void combine(const CombineArgs& c) {
  const FloatMode mode(false);
  combine_tokens(c);
}

}  // namespace
}  // namespace switchyard
