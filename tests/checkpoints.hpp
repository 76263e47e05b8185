// Small checkpoints of every family and layout, all made of the same weights.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint_files.hpp"
#include "switchyard/model.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard::testing {

using nlohmann::json;

inline constexpr std::int32_t kExperts = 4;
inline constexpr std::int32_t kTopk = 2;
inline constexpr std::int64_t kHidden = 24;
inline constexpr std::int64_t kFfn = 20;
inline constexpr std::int64_t kShared = 12;
inline constexpr std::int32_t kLayers = 2;
inline constexpr std::int64_t kTokens = 7;

// ---- weights that f32, bf16 and f16 hold exactly

struct Matrix2 {
  std::int64_t out = 0;
  std::int64_t in = 0;
  std::vector<float> values;  // [out,in]
};

inline Matrix2 random_matrix(std::mt19937& random, std::int64_t out, std::int64_t in) {
  Matrix2 matrix{out, in, {}};
  for (std::int64_t i = 0; i < out * in; ++i) {
    matrix.values.push_back(static_cast<float>(static_cast<int>(random() % 127) - 63) / 64.0f);
  }
  return matrix;
}

inline Matrix2 transposed(const Matrix2& matrix) {
  Matrix2 result{matrix.in, matrix.out, std::vector<float>(matrix.values.size())};
  for (std::int64_t o = 0; o < matrix.out; ++o) {
    for (std::int64_t i = 0; i < matrix.in; ++i) {
      result.values[static_cast<std::size_t>(i * matrix.out + o)] =
          matrix.values[static_cast<std::size_t>(o * matrix.in + i)];
    }
  }
  return result;
}

// Outputs of a, then outputs of b.
inline Matrix2 stacked(const Matrix2& a, const Matrix2& b) {
  Matrix2 result = a;
  result.out += b.out;
  result.values.insert(result.values.end(), b.values.begin(), b.values.end());
  return result;
}

struct Weights {
  Matrix2 router;
  std::vector<Matrix2> gate;
  std::vector<Matrix2> up;
  std::vector<Matrix2> down;
  Matrix2 shared_gate;
  Matrix2 shared_up;
  Matrix2 shared_down;
  Matrix2 shared_scale;

  explicit Weights(unsigned seed) {
    std::mt19937 random(seed);
    router = random_matrix(random, kExperts, kHidden);
    for (int e = 0; e < kExperts; ++e) {
      gate.push_back(random_matrix(random, kFfn, kHidden));
      up.push_back(random_matrix(random, kFfn, kHidden));
      down.push_back(random_matrix(random, kHidden, kFfn));
    }
    shared_gate = random_matrix(random, kShared, kHidden);
    shared_up = random_matrix(random, kShared, kHidden);
    shared_down = random_matrix(random, kHidden, kShared);
    shared_scale = random_matrix(random, 1, kHidden);
  }
};

// For values that the type holds exactly.
inline std::uint16_t half_of(float value, DType dtype) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  if (dtype == DType::bf16) return static_cast<std::uint16_t>(bits >> 16);
  if (value == 0) return 0;
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | ((bits >> 23 & 0xFFu) - 112u) << 10 |
                                    (bits >> 13 & 0x3FFu));
}

// ---- checkpoints

class Checkpoint {
 public:
  explicit Checkpoint(DType dtype = DType::f32) : dtype_(dtype) {}

  void add(const std::string& name, std::vector<std::int64_t> shape, const std::vector<float>& values) {
    if (dtype_ == DType::f32) return list.add(name, std::move(shape), values);
    std::vector<std::uint16_t> halves;
    halves.reserve(values.size());
    for (const float value : values) halves.push_back(half_of(value, dtype_));
    list.add(name, dtype_, std::move(shape), halves.data(), halves.size() * sizeof(std::uint16_t));
  }
  void add(const std::string& name, const Matrix2& matrix) { add(name, {matrix.out, matrix.in}, matrix.values); }

  void add_per_expert(const std::string& prefix, const Weights& weights, const std::array<const char*, 3>& names) {
    for (std::size_t e = 0; e < kExperts; ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      add(expert + names[0] + ".weight", weights.gate[e]);
      add(expert + names[1] + ".weight", weights.up[e]);
      add(expert + names[2] + ".weight", weights.down[e]);
    }
  }
  void add_fused(const std::string& gate_up_name, const std::string& down_name, const Weights& weights, bool in_out) {
    std::vector<float> gate_up;
    std::vector<float> down;
    for (std::size_t e = 0; e < kExperts; ++e) {
      const Matrix2 both = stacked(weights.gate[e], weights.up[e]);
      const Matrix2 first = in_out ? transposed(both) : both;
      const Matrix2 second = in_out ? transposed(weights.down[e]) : weights.down[e];
      gate_up.insert(gate_up.end(), first.values.begin(), first.values.end());
      down.insert(down.end(), second.values.begin(), second.values.end());
    }
    using Shape = std::vector<std::int64_t>;
    add(gate_up_name, in_out ? Shape{kExperts, kHidden, 2 * kFfn} : Shape{kExperts, 2 * kFfn, kHidden}, gate_up);
    add(down_name, in_out ? Shape{kExperts, kFfn, kHidden} : Shape{kExperts, kHidden, kFfn}, down);
  }
  void add_shared(const std::string& prefix, const Weights& weights) {
    add(prefix + "shared_expert.gate_proj.weight", weights.shared_gate);
    add(prefix + "shared_expert.up_proj.weight", weights.shared_up);
    add(prefix + "shared_expert.down_proj.weight", weights.shared_down);
    add(prefix + "shared_expert_gate.weight", weights.shared_scale);
  }

  Tensor& tensor(std::string_view name) {
    for (Tensor& tensor : list.tensors()) {
      if (tensor.name == name) return tensor;
    }
    throw std::runtime_error("no such tensor");
  }
  void remove(std::string_view name) {
    std::erase_if(list.tensors(), [&](const Tensor& tensor) { return tensor.name == name; });
  }

  Model open() const {
    const TempFolder folder;
    write(folder.path());
    return Model::open(folder.path());  // what is mapped outlives its name
  }
  void write(const std::filesystem::path& folder) const {
    write_text(folder / "config.json", config.dump());
    write_safetensors(folder / "model.safetensors", list.tensors());
  }

  json config;
  TensorList list;

 private:
  DType dtype_;
};

// A golden folder whose tensors can be changed.
inline Checkpoint golden(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(SWITCHYARD_TEST_DATA) / name;
  Checkpoint checkpoint;
  checkpoint.config = json::parse(std::ifstream(folder / "config.json"));
  const TensorFile file = TensorFile::open(folder / "model.safetensors");
  for (const Tensor& tensor : file.tensors()) {
    checkpoint.list.add(tensor.name, tensor.dtype, tensor.shape, tensor.data, tensor.bytes);
  }
  return checkpoint;
}

// The bytes are the list's own.
template <class T>
T* data_of(Tensor& tensor) {
  return reinterpret_cast<T*>(const_cast<std::byte*>(tensor.data));
}

inline json config_of(const char* model_type, const json& more) {
  json config = {{"model_type", model_type},
                 {"num_hidden_layers", kLayers},
                 {"num_experts_per_tok", kTopk},
                 {"hidden_size", kHidden},
                 {"hidden_act", "silu"}};
  config.update(more);
  return config;
}

inline constexpr std::array<const char*, 3> kProj = {"gate_proj", "up_proj", "down_proj"};
inline constexpr std::array<const char*, 3> kW = {"w1", "w3", "w2"};

inline std::string layer_name(int layer) { return "model.layers." + std::to_string(layer) + "."; }

inline Checkpoint qwen3(DType dtype = DType::f32) {
  Checkpoint checkpoint(dtype);
  checkpoint.config =
      config_of("qwen3_moe", {{"num_experts", kExperts}, {"moe_intermediate_size", kFfn}, {"norm_topk_prob", true}});
  for (int layer = 0; layer < kLayers; ++layer) {
    const Weights weights(static_cast<unsigned>(layer));
    checkpoint.add(layer_name(layer) + "mlp.gate.weight", weights.router);
    checkpoint.add_per_expert(layer_name(layer) + "mlp.", weights, kProj);
  }
  return checkpoint;
}

// The number of the layer and a point stand between the prefix and the names.
struct FusedNames {
  std::string prefix = "model.layers.";
  std::string router = "mlp.gate.weight";
  std::string gate_up = "mlp.experts.gate_up_proj";
  std::string down = "mlp.experts.down_proj";
  bool in_out = false;
};

inline Checkpoint fused(const json& config, const FusedNames& names) {
  Checkpoint checkpoint;
  checkpoint.config = config;
  for (int layer = 0; layer < kLayers; ++layer) {
    const Weights weights(static_cast<unsigned>(layer));
    const std::string prefix = names.prefix + std::to_string(layer) + ".";
    checkpoint.add(prefix + names.router, weights.router);
    checkpoint.add_fused(prefix + names.gate_up, prefix + names.down, weights, names.in_out);
  }
  return checkpoint;
}

inline Checkpoint mixtral() {
  Checkpoint checkpoint;
  checkpoint.config = config_of("mixtral", {{"num_local_experts", kExperts}, {"intermediate_size", kFfn}});
  for (int layer = 0; layer < kLayers; ++layer) {
    const Weights weights(static_cast<unsigned>(layer));
    checkpoint.add(layer_name(layer) + "block_sparse_moe.gate.weight", weights.router);
    checkpoint.add_per_expert(layer_name(layer) + "block_sparse_moe.", weights, kW);
  }
  return checkpoint;
}

inline Checkpoint qwen2(DType dtype = DType::f32) {
  Checkpoint checkpoint(dtype);
  checkpoint.config = config_of(
      "qwen2_moe",
      {{"num_experts", kExperts}, {"moe_intermediate_size", kFfn}, {"shared_expert_intermediate_size", kShared}});
  for (int layer = 0; layer < kLayers; ++layer) {
    const Weights weights(static_cast<unsigned>(layer));
    checkpoint.add(layer_name(layer) + "mlp.gate.weight", weights.router);
    checkpoint.add_per_expert(layer_name(layer) + "mlp.", weights, kProj);
    checkpoint.add_shared(layer_name(layer) + "mlp.", weights);
  }
  return checkpoint;
}

inline const json kQwen3Config =
    config_of("qwen3_moe", {{"num_experts", kExperts}, {"moe_intermediate_size", kFfn}, {"norm_topk_prob", true}});
inline const json kMixtralConfig = config_of("mixtral", {{"num_local_experts", kExperts}, {"intermediate_size", kFfn}});
inline const json kGraniteConfig =
    config_of("granitemoe", {{"num_local_experts", kExperts}, {"intermediate_size", kFfn}});
inline const json kOlmoeConfig =
    config_of("olmoe", {{"num_experts", kExperts}, {"intermediate_size", kFfn}, {"norm_topk_prob", true}});
inline const json kVlText =
    config_of("qwen3_vl_moe_text", {{"num_experts", kExperts}, {"moe_intermediate_size", kFfn}});
inline const json kVlConfig = {{"model_type", "qwen3_vl_moe"}, {"text_config", kVlText}};

// ---- what a model computes

inline std::vector<float> forward(const Model& model, std::int32_t index, const LayerOptions& options = {}) {
  const Layer layer = model.layer(index, options);
  std::mt19937 random(99);
  std::vector<float> x;
  for (std::int64_t i = 0; i < kTokens * kHidden; ++i) x.push_back(static_cast<float>(random() % 2000) / 1000.0f - 1);
  std::vector<float> y(x.size());
  const Workspace workspace(layer.workspace_bytes(kTokens));
  layer.forward({x.data(), kTokens, kHidden}, {y.data(), kTokens, kHidden}, workspace);
  return y;
}

}  // namespace switchyard::testing
