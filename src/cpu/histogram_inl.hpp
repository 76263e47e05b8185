// Quantile Balancing's histogram; part of a kernel file, see kernels_inl.hpp.

namespace switchyard {
namespace {

constexpr std::int32_t kMostEntries = 0x7fffffff;

// One block of experts for all tokens, so that nobody else counts in its rows.
__attribute__((noinline)) void count_bins(const HistogramArgs& h) {
  const std::int64_t element = h.logits_type == DType::f32 ? 4 : 2;
  const std::int64_t count = h.experts - h.begin < kLanes ? h.experts - h.begin : kLanes;
  const V16 last = V16::set(static_cast<float>(h.bins - 1));
  const V16 lower = V16::set(h.lower);
  const V16 bins_per_unit = V16::div(V16::set(static_cast<float>(h.bins)), V16::sub(V16::set(h.upper), lower));
  alignas(64) float bin[kLanes];
  for (std::int64_t t = 0; t < h.tokens; ++t) {
    if (h.valid != nullptr && h.valid[t] == 0) {
      continue;
    }
    const void* row = static_cast<const std::byte*>(h.logits) + t * h.stride * element;
    const V16 logit = transformed(*h.options, load_some(row, h.logits_type, h.begin, count), h.begin, count);
    const V16 score = own_score(h.options->score, logit);  // NaN, which counts nowhere, stays NaN
    const V16 distance = V16::sub(V16::sub(V16::set(h.cutoff[t]), score), lower);
    const V16 place = V16::mul(distance, bins_per_unit);
    const V16 inside = V16::min(last, V16::max(V16::set(0.0F), place));
    V16::store(bin, V16::choose_nan(place, V16::set(-1.0F), inside));
    for (std::int64_t i = 0; i < count; ++i) {
      if (bin[i] >= 0.0F) {
        std::int32_t& entries = h.histogram[(h.begin + i) * h.bins + static_cast<std::int64_t>(bin[i])];
        entries += entries < kMostEntries ? 1 : 0;
      }
    }
  }
}

void histogram(const HistogramArgs& h) {
  const FloatMode mode(false);
  count_bins(h);
}

}  // namespace
}  // namespace switchyard
