#include "random_layer.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>

namespace switchyard::cli {
namespace {

// Experts begin at this many different places of the pool, a whole cache line apart.
constexpr std::size_t kPlaces = 1021;
constexpr std::size_t kPlaceElements = 32;

// A counter through a mixing function: value i does not depend on who computes it. (splitmix64)
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15U;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

// Truncated to the format's digits; what is too small for a normal number becomes 0.
std::uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  const std::uint32_t magnitude = bits & 0x7fffffff;
  constexpr std::uint32_t kSmallest = (127 - 14) << 23;
  return static_cast<std::uint16_t>(sign | (magnitude < kSmallest ? 0 : (magnitude - kSmallest + (1U << 23)) >> 13));
}

std::uint16_t to_bf16(float value) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16); }

constexpr std::size_t kPieceElements = std::size_t{1} << 16;

// A queue of pieces: whoever comes takes the next one.
struct Fill {
  std::byte* values;
  std::size_t count;
  DType dtype;
  float scale;
  std::uint64_t seed;
  std::atomic<std::size_t> next{0};
};

void fill_pieces(void* data, int /*worker*/) {
  Fill& fill = *static_cast<Fill*>(data);
  for (std::size_t first = 0; (first = fill.next.fetch_add(kPieceElements)) < fill.count;) {
    const std::size_t end = std::min(first + kPieceElements, fill.count);
    for (std::size_t i = first; i < end; ++i) {
      const auto bits = static_cast<std::int32_t>(mix(fill.seed + i) >> 32);
      const float value = static_cast<float>(bits) * 0x1p-31F * fill.scale;
      if (fill.dtype == DType::f32) {
        reinterpret_cast<float*>(fill.values)[i] = value;
      } else {
        reinterpret_cast<std::uint16_t*>(fill.values)[i] = fill.dtype == DType::f16 ? to_f16(value) : to_bf16(value);
      }
    }
  }
}

}  // namespace

std::vector<std::byte> random_values(std::size_t count, DType dtype, double scale, std::uint64_t seed,
                                     const Threads& threads) {
  std::vector<std::byte> values(count * dtype_bytes(dtype));
  Fill fill{values.data(), count, dtype, static_cast<float>(scale), mix(seed)};
  threads.run(fill_pieces, &fill);
  return values;
}

RandomLayers::RandomLayers(const RandomShape& shape, Format format, DType dtype, const Threads& threads)
    : shape_(shape), format_(format), dtype_(dtype), threads_(threads) {
  const auto matrix = static_cast<std::size_t>(shape.hidden * shape.ffn);
  const auto router = static_cast<std::size_t>(shape.hidden * shape.experts);
  const double scale = 1 / std::sqrt(static_cast<double>(std::min(shape.hidden, shape.ffn)));
  pool_ = random_values(3 * matrix + kPlaces * kPlaceElements, dtype, scale, 1, threads);
  router_ = random_values(router, dtype, 3 / std::sqrt(static_cast<double>(shape.hidden)), 2, threads);
}

Layer RandomLayers::make() const {
  LayerWeights weights;
  weights.experts = shape_.experts;
  weights.hidden = shape_.hidden;
  weights.ffn = shape_.ffn;
  weights.router = {router_.data(), dtype_, shape_.hidden, 1};
  weights.expert = [this](std::int32_t expert) {
    const std::size_t matrix = static_cast<std::size_t>(shape_.hidden * shape_.ffn) * dtype_bytes(dtype_);
    const std::size_t place = static_cast<std::size_t>(expert) * 37 % kPlaces * kPlaceElements;
    const std::byte* first = pool_.data() + place * dtype_bytes(dtype_);
    return ExpertTensors{{first, dtype_, shape_.hidden, 1},
                         {first + matrix, dtype_, shape_.hidden, 1},
                         {first + 2 * matrix, dtype_, shape_.ffn, 1}};
  };
  RouterOptions router;
  router.topk = shape_.topk;
  router.normalize = Normalize::sum;
  LayerOptions options;
  options.format = format_;
  options.activations = takes_bf16_activations(format_) ? dtype_ : DType::f32;
  options.threads = threads_;
  return Layer(weights, router, options);
}

}  // namespace switchyard::cli
