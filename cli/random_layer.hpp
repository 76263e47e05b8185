// Layers of random weights, for benchmarks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "switchyard/layer.hpp"

namespace switchyard::cli {

// `count` values of f32, bf16 or f16, the same for the same seed, about uniform in -scale..scale.
std::vector<std::byte> random_values(std::size_t count, DType dtype, double scale, std::uint64_t seed,
                                     const Threads& threads);

struct RandomShape {
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  std::int32_t experts = 0;
  std::int32_t topk = 0;
};

// What weights of a format mostly come with, and engines hand over: hidden states and routers in bf16, in f32 with f32.
constexpr DType usual_dtype(Format format) { return format == Format::f32 ? DType::f32 : DType::bf16; }

// Makes layers of one shape. Experts are pieces of one pool of random values, each from another place on, so that
// making a layer costs little more than packing it.
class RandomLayers {
 public:
  // dtype: of the weights before they are packed, f32 or bf16; of the activations, too, if the format takes it.
  RandomLayers(const RandomShape& shape, Format format, DType dtype, const Threads& threads);
  Layer make() const;

 private:
  RandomShape shape_;
  Format format_;
  DType dtype_;
  Threads threads_;
  std::vector<std::byte> pool_;
  std::vector<std::byte> router_;
};

}  // namespace switchyard::cli
