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
    {"int8", Format::i8, DType::f32, kI8Tolerance},
    {"int4", Format::i4, DType::f32, kI4Tolerance},
    {"fp8", Format::f8_e4m3, DType::f32, kE4m3Tolerance},
    {"mxfp4", Format::mxfp4, DType::f32, kE2m1Tolerance},
    {"mxfp8", Format::mxfp8, DType::f32, kE4m3Tolerance},
    {"nvfp4", Format::nvfp4, DType::f32, kE2m1Tolerance},
    {"fp8_bf16", Format::f8_e4m3, DType::bf16, kE4m3Tolerance},
    {"nvfp4_bf16", Format::nvfp4, DType::bf16, kE2m1Tolerance},
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

inline std::vector<float> floats(const reference::Vector& values) { return {values.begin(), values.end()}; }

inline WeightView column(const std::vector<float>& values) {
  return {values.empty() ? nullptr : values.data(), DType::f32, 1, 0};
}

struct ExpertFloats {
  std::vector<float> gate;
  std::vector<float> up;
  std::vector<float> down;
  std::vector<float> gate_bias;
  std::vector<float> up_bias;
  std::vector<float> down_bias;
  explicit ExpertFloats(const reference::Expert& from)
      : gate(floats(from.gate)),
        up(floats(from.up)),
        down(floats(from.down)),
        gate_bias(floats(from.gate_bias)),
        up_bias(floats(from.up_bias)),
        down_bias(floats(from.down_bias)) {}
  ExpertTensors views(std::int64_t hidden, std::int64_t ffn) const {
    return {{gate.data(), DType::f32, hidden, 1},
            {up.data(), DType::f32, hidden, 1},
            {down.data(), DType::f32, ffn, 1},
            column(gate_bias),
            column(up_bias),
            column(down_bias)};
  }
};

inline reference::Vector random_vector(std::int64_t count, std::mt19937& random) {
  return random_table(1, count, 0.5, random).value;
}

inline reference::Expert random_expert(std::int64_t hidden, std::int64_t ffn, bool biases, std::mt19937& random) {
  const double up = 1.0 / std::sqrt(static_cast<double>(hidden));
  const double down = 1.0 / std::sqrt(static_cast<double>(ffn));
  reference::Expert expert{random_table(ffn, hidden, up, random), random_table(ffn, hidden, up, random),
                           random_table(hidden, ffn, down, random)};
  if (biases) {
    expert.gate_bias = random_vector(ffn, random);
    expert.up_bias = random_vector(ffn, random);
    expert.down_bias = random_vector(hidden, random);
  }
  return expert;
}

inline reference::Function reference_of(const ExpertFunction& function) {
  return {static_cast<reference::Act>(function.activation), function.gated, function.limit, function.alpha};
}

// What a layer may have beyond experts, router and shared expert.
struct Extras {
  const char* name = "none";
  ExpertFunction function = {};
  ExpertFunction shared_function = {};
  bool biases = false;  // of all experts
  std::int32_t identity_experts = 0;
  WeightSite weight_site = WeightSite::output;
  bool output_bias = false;
  float shared_scale = 1.0F;
  std::int64_t latent = 0;
  bool latent_biases = false;
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

struct Weights {
  LayerCase shape;
  Shared kind;
  Extras extras;
  std::int64_t shared_ffn;
  reference::Block block;
  reference::Table router;

  Weights(const LayerCase& shape_, Shared kind_, unsigned seed, const Extras& extras_ = {})
      : shape(shape_), kind(kind_), extras(extras_) {
    std::mt19937 random(seed);
    const double from_hidden = 1.0 / std::sqrt(static_cast<double>(shape.hidden));
    shared_ffn = kind == Shared::none ? 0 : shape.ffn + 5;
    for (std::int32_t e = 0; e < shape.experts; ++e) {
      block.experts.push_back(random_expert(inner(), shape.ffn, extras.biases, random));
    }
    router = random_table(ids(), shape.hidden, 2 * from_hidden, random);
    if (kind != Shared::none) {
      block.shared.push_back(random_expert(shape.hidden, shared_ffn, extras.biases, random));
    }
    if (kind == Shared::gated) {
      block.shared_gate = random_table(1, shape.hidden, from_hidden, random);
    }
    block.function = reference_of(extras.function);
    block.shared_function = reference_of(extras.shared_function);
    block.shared_scale = extras.shared_scale;
    block.weight_site = static_cast<reference::Site>(extras.weight_site);
    block.output_bias = extras.output_bias ? random_vector(shape.hidden, random) : reference::Vector();
    if (extras.latent > 0) {
      block.latent_in = random_table(extras.latent, shape.hidden, from_hidden, random);
      block.latent_out = random_table(shape.hidden, extras.latent, 1.0 / std::sqrt(extras.latent), random);
    }
    if (extras.latent_biases) {
      block.latent_in_bias = random_vector(extras.latent, random);
      block.latent_out_bias = random_vector(shape.hidden, random);
    }
  }

  std::int64_t inner() const { return extras.latent > 0 ? extras.latent : shape.hidden; }
  std::int32_t ids() const { return shape.experts + extras.identity_experts; }

  // `stored`: what router and shared gate are given in.
  Layer layer(const RouterOptions& router_options, const LayerOptions& options, DType stored = DType::f32) const {
    const std::vector<ExpertFloats> experts(block.experts.begin(), block.experts.end());
    const std::vector<ExpertFloats> shared(block.shared.begin(), block.shared.end());
    const Rows router_rows(stored, router);
    const Rows gate(stored, block.shared_gate);
    const std::vector<float> output_bias = floats(block.output_bias);
    const std::vector<float> in = floats(block.latent_in);
    const std::vector<float> out = floats(block.latent_out);
    const std::vector<float> in_bias = floats(block.latent_in_bias);
    const std::vector<float> out_bias = floats(block.latent_out_bias);
    LayerWeights weights;
    weights.experts = shape.experts;
    weights.hidden = shape.hidden;
    weights.ffn = shape.ffn;
    weights.function = extras.function;
    weights.router = {router_rows.bytes.data(), stored, shape.hidden, 1};
    weights.expert = [&](std::int32_t e) { return experts[static_cast<std::size_t>(e)].views(inner(), shape.ffn); };
    if (kind != Shared::none) {
      weights.shared_ffn = shared_ffn;
      weights.shared = shared[0].views(shape.hidden, shared_ffn);
      weights.shared_function = extras.shared_function;
      weights.shared_gate = {gate.rows == 0 ? nullptr : gate.bytes.data(), stored, shape.hidden, 1};
      weights.shared_scale = extras.shared_scale;
    }
    weights.identity_experts = extras.identity_experts;
    weights.weight_site = extras.weight_site;
    weights.output_bias = column(output_bias);
    weights.latent = extras.latent;
    weights.latent_in = {in.empty() ? nullptr : in.data(), DType::f32, shape.hidden, 1};
    weights.latent_out = {out.empty() ? nullptr : out.data(), DType::f32, extras.latent, 1};
    weights.latent_in_bias = column(in_bias);
    weights.latent_out_bias = column(out_bias);
    return Layer(weights, router_options, options);
  }

  reference::Table logits(const reference::Table& x) const {
    reference::Table out(x.rows, router.rows);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      const reference::Vector row = reference::product(router, reference::row_of(x, t));
      std::copy(row.begin(), row.end(), out.value.begin() + t * router.rows);
    }
    return out;
  }

  reference::Table expected(const reference::Table& x, const reference::Routing& routing, DType activations) const {
    return reference::run(block, x, routing, activations == DType::bf16 ? round_bf16 : keep);
  }
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
