// Layers of random weights beside their double-precision copy.
#pragma once

#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cases.hpp"
#include "reference.hpp"
#include "switchyard/switchyard.hpp"
#include "tolerances.hpp"

namespace made {

using namespace switchyard;

// What the experts multiply.
struct Arithmetic {
  const char* name;
  Format format;
  DType activations;
  double tolerance;  // of the largest expected value
};

inline constexpr Arithmetic kArithmetics[] = {
    {"f32", Format::f32, DType::f32, kF32Tolerance},
    {"bf16_weights", Format::bf16, DType::f32, kF32Tolerance},
    {"bf16", Format::bf16, DType::bf16, kBf16Tolerance},
};

enum class Shared { none, plain, gated };

// To 8 significant bits, nearest even.
inline double round_bf16(double value) {
  if (value == 0 || !std::isfinite(value)) {
    return value;
  }
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
}

inline double keep(double value) { return value; }

inline std::uint16_t bf16_bits(double value) {
  const auto narrow = static_cast<float>(value);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &narrow, sizeof bits);
  return static_cast<std::uint16_t>(bits >> 16);
}

inline double bf16_value(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// Random values that are bf16 numbers, so that every format holds them exactly.
inline reference::Table random_table(std::int64_t rows, std::int64_t cols, double scale, std::mt19937& random) {
  std::normal_distribution<double> normal(0, scale);
  reference::Table table(rows, cols);
  for (double& value : table.value) {
    value = round_bf16(normal(random));
  }
  return table;
}

inline std::vector<float> floats(const reference::Table& table) { return {table.value.begin(), table.value.end()}; }

struct ExpertFloats {
  std::vector<float> gate;
  std::vector<float> up;
  std::vector<float> down;
  explicit ExpertFloats(const reference::Expert& from)
      : gate(floats(from.gate)), up(floats(from.up)), down(floats(from.down)) {}
  ExpertTensors views(std::int64_t hidden, std::int64_t ffn) const {
    return {
        {gate.data(), DType::f32, hidden, 1}, {up.data(), DType::f32, hidden, 1}, {down.data(), DType::f32, ffn, 1}};
  }
};

inline reference::Expert random_expert(std::int64_t hidden, std::int64_t ffn, std::mt19937& random) {
  const double up = 1.0 / std::sqrt(static_cast<double>(hidden));
  const double down = 1.0 / std::sqrt(static_cast<double>(ffn));
  return {random_table(ffn, hidden, up, random), random_table(ffn, hidden, up, random),
          random_table(hidden, ffn, down, random)};
}

struct Weights {
  LayerCase shape;
  Shared kind;
  std::int64_t shared_ffn;
  std::vector<reference::Expert> experts;
  reference::Table router;
  reference::Expert shared;
  reference::Table shared_gate;

  Weights(const LayerCase& shape_, Shared kind_, unsigned seed) : shape(shape_), kind(kind_) {
    std::mt19937 random(seed);
    shared_ffn = kind == Shared::none ? 0 : shape.ffn + 5;
    for (std::int32_t e = 0; e < shape.experts; ++e) {
      experts.push_back(random_expert(shape.hidden, shape.ffn, random));
    }
    router = random_table(shape.experts, shape.hidden, 2.0 / std::sqrt(static_cast<double>(shape.hidden)), random);
    if (kind != Shared::none) {
      shared = random_expert(shape.hidden, shared_ffn, random);
      shared_gate = random_table(1, shape.hidden, 1.0 / std::sqrt(static_cast<double>(shape.hidden)), random);
    }
  }

  Layer layer(const RouterOptions& router_options, const LayerOptions& options) const {
    std::vector<ExpertFloats> packed_from(experts.begin(), experts.end());
    const std::vector<float> router_floats = floats(router);
    const std::vector<float> gate_floats = floats(shared_gate);
    std::optional<ExpertFloats> shared_floats;
    LayerWeights weights;
    weights.experts = shape.experts;
    weights.hidden = shape.hidden;
    weights.ffn = shape.ffn;
    weights.router = {router_floats.data(), DType::f32, shape.hidden, 1};
    weights.expert = [&](std::int32_t e) {
      return packed_from[static_cast<std::size_t>(e)].views(shape.hidden, shape.ffn);
    };
    if (kind != Shared::none) {
      shared_floats.emplace(shared);
      weights.shared_ffn = shared_ffn;
      weights.shared = shared_floats->views(shape.hidden, shared_ffn);
      if (kind == Shared::gated) {
        weights.shared_gate = {gate_floats.data(), DType::f32, shape.hidden, 1};
      }
    }
    return Layer(weights, router_options, options);
  }

  reference::Table logits(const reference::Table& x) const {
    reference::Table out(x.rows, shape.experts);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const reference::Vector row = reference::product(router, reference::row_of(x, t));
      std::copy(row.begin(), row.end(), out.value.begin() + t * shape.experts);
    }
    return out;
  }

  reference::Table expected(const reference::Table& x, const reference::Routing& routing, DType activations) const {
    return reference::block(x, experts, routing, kind == Shared::none ? nullptr : &shared,
                            kind == Shared::gated ? &shared_gate : nullptr,
                            activations == DType::bf16 ? round_bf16 : keep);
  }
};

// Rows in the type that is asked for, and what came out of them.
struct Rows {
  DType dtype;
  std::int64_t rows;
  std::int64_t cols;
  std::vector<std::byte> bytes;

  Rows(DType dtype_, std::int64_t rows_, std::int64_t cols_)
      : dtype(dtype_),
        rows(rows_),
        cols(cols_),
        bytes(static_cast<std::size_t>(rows_ * cols_) * dtype_bytes(dtype_), std::byte{0xff}) {}

  Rows(DType dtype_, const reference::Table& from) : Rows(dtype_, from.rows, from.cols) {
    for (std::size_t i = 0; i < from.value.size(); ++i) {
      if (dtype == DType::f32) {
        const auto value = static_cast<float>(from.value[i]);
        std::memcpy(&bytes[i * 4], &value, 4);
      } else {
        const std::uint16_t value = bf16_bits(from.value[i]);
        std::memcpy(&bytes[i * 2], &value, 2);
      }
    }
  }

  double at(std::int64_t r, std::int64_t c) const {
    const auto i = static_cast<std::size_t>(r * cols + c);
    if (dtype == DType::f32) {
      float value = 0;
      std::memcpy(&value, &bytes[i * 4], 4);
      return value;
    }
    std::uint16_t value = 0;
    std::memcpy(&value, &bytes[i * 2], 2);
    return bf16_value(value);
  }

  ConstMatrix view(std::int64_t begin, std::int64_t count) const {
    return {bytes.data() + static_cast<std::size_t>(begin * cols) * dtype_bytes(dtype), dtype, count, cols};
  }
  ConstMatrix view() const { return view(0, rows); }
  Matrix view(std::int64_t begin, std::int64_t count) {
    return {bytes.data() + static_cast<std::size_t>(begin * cols) * dtype_bytes(dtype), dtype, count, cols};
  }
  Matrix view() { return view(0, rows); }
};

// The largest difference relative to the largest expected value; infinite for NaN.
inline double difference(const Rows& found, const reference::Table& expected) {
  double largest = 1e-30;
  double worst = 0;
  for (std::int64_t r = 0; r < expected.rows; ++r) {
    for (std::int64_t c = 0; c < expected.cols; ++c) {
      const double apart = std::abs(found.at(r, c) - expected.at(r, c));
      worst = std::isnan(apart) ? INFINITY : std::max(worst, apart);
      largest = std::max(largest, std::abs(expected.at(r, c)));
    }
  }
  return worst / largest;
}

// Runs a forward in a workspace of exactly the size it asks for, poisoned.
inline Rows forward(const Layer& layer, const Rows& x, DType out = DType::f32) {
  std::vector<std::byte> unaligned(layer.workspace_bytes(x.rows) + kWorkspaceAlignment, std::byte{0xff});
  void* start = unaligned.data();
  std::size_t space = unaligned.size();
  std::align(kWorkspaceAlignment, layer.workspace_bytes(x.rows), start, space);
  Rows y(out, x.rows, x.cols);
  layer.forward(x.view(), y.view(), Workspace(start, layer.workspace_bytes(x.rows)));
  return y;
}

inline Rows forward(const Layer& layer, const Rows& x, Routing routing, DType out = DType::f32) {
  Workspace workspace(layer.workspace_bytes(x.rows, routing.topk));
  std::memset(workspace.data(), 0xff, workspace.bytes());
  Rows y(out, x.rows, x.cols);
  layer.forward(x.view(), routing, y.view(), workspace);
  return y;
}

}  // namespace made
