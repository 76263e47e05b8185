// Bytes as a config.json: the family is looked up and all keys of its row are read.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "checkpoint/model_config.hpp"
#include "switchyard/error.hpp"

namespace {

using switchyard::Code;

bool is_sound(const switchyard::ModelConfig& config) {
  if (config.family == nullptr) return false;
  // A family that is not run, or a model without experts.
  if (config.moe_layers.empty() &&
      (config.family->refused != nullptr || config.experts <= config.family->dense_experts)) {
    return true;
  }
  if (config.layers < 1) return false;
  if (config.experts < 1 || config.experts > switchyard::kMaxExperts) return false;
  const std::int32_t choices = config.experts + config.identity_experts;
  if (config.router.topk < 1 || config.router.topk > choices || config.router.topk > switchyard::kMaxTopk) return false;
  std::int32_t previous = -1;
  for (const std::int32_t layer : config.moe_layers) {
    if (layer <= previous || layer >= config.layers) return false;
    previous = layer;
  }
  return config.hidden > 0 && config.ffn > 0 && config.shared_ffn >= 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  try {
    const auto config = switchyard::read_model_config({reinterpret_cast<const char*>(bytes), size}, "input");
    if (!is_sound(config)) std::abort();
  } catch (const switchyard::Error& error) {
    if (error.code() != Code::bad_data && error.code() != Code::not_supported) std::abort();
  }
  return 0;
}
