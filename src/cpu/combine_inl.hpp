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

// Rows and shared rows are padded to whole panels, so they can be read past the hidden size.
inline void combine_token(const CombineArgs& c, std::int64_t t) {
  const std::int64_t* row = c.slot_to_row + t * c.topk;
  const float* weight = c.weight + t * c.topk;
  const V16 gate = c.gate_logits != nullptr ? sigmoid(V16::set(c.gate_logits[t * c.gate_stride])) : V16::set(1.0F);
  for (std::int64_t at = 0; at < c.hidden; at += 2 * kLanes) {
    V16 low = V16::set(0.0F);
    V16 high = V16::set(0.0F);
    for (std::int32_t s = 0; s < c.topk; ++s) {
      if (row[s] >= 0) {
        const float* from = c.rows + row[s] * c.rows_stride + at;
        const V16 w = V16::set(weight[s]);
        low = V16::fma(w, V16::load(from), low);
        high = V16::fma(w, V16::load(from + kLanes), high);
      }
    }
    if (c.shared != nullptr) {
      const float* from = c.shared + t * c.shared_stride + at;
      low = V16::fma(gate, V16::load(from), low);
      high = V16::fma(gate, V16::load(from + kLanes), high);
    }
    store_out(c, t, at, low);
    if (at + kLanes < c.hidden) {
      store_out(c, t, at + kLanes, high);
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
