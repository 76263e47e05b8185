#include "checkpoint/quantization.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "checkpoint/json_text.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kLargestBlock = std::int64_t{1} << 31;

// Their tensors are told apart by name, type and shape.
constexpr std::string_view kMethods[] = {"fp8",   "fbgemm_fp8", "compressed-tensors", "gptq",           "mxfp4",
                                         "mxfp8", "modelopt",   "modelopt_fp4",       "modelopt_mixed", "nvfp4"};
constexpr std::string_view kCompressed[] = {
    "dense",          "float-quantized",      "naive-quantized",      "int-quantized",
    "pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized",
    "mixed-precision"};

template <class List>
bool has(const List& list, std::string_view value) {
  return std::find(std::begin(list), std::end(list), value) != std::end(list);
}

void read_block(const Config& config, const char* key, Quantization& found) {
  const std::vector<std::int64_t> block = config.integers(key, 1, kLargestBlock);
  if (block.empty()) return;
  // Rows of gate and up in turn can only share a grid whose blocks hold as many of both.
  if (block.size() != 2 || (block[0] > 1 && block[0] % 2 != 0)) {
    config.refuse(key, format_text("[{}]", fmt::join(block, ", ")), "two sizes, the first of them even or 1");
  }
  found.block = {block[0], block[1]};
}

void read_group(const Config& config, Quantization& found) {
  if (!config.has("group_size")) return;
  const std::int64_t size = config.integer({"group_size"}, -1, kLargestBlock);
  found.groups.push_back(std::max<std::int64_t>(size, 0));
}

void read_compressed(const Config& config, Quantization& found) {
  const std::string format = config.text_or("format", "dense");
  if (!has(kCompressed, format)) {
    found.refused =
        format_text("the weights are compressed as {}, supported: {}", printable(format), fmt::join(kCompressed, ", "));
  }
  const std::string sparse = config.text_or("sparsity_config.format", "dense");
  if (sparse != "dense") found.refused = format_text("the weights are stored {}, supported: dense", printable(sparse));
  const Config groups = config.nested("config_groups");
  if (!config.has("config_groups")) return;
  for (const std::string& name : groups.names()) {
    const std::string key = name + ".weights";
    if (!groups.has(key.c_str())) continue;
    const Config weights = groups.nested(key.c_str());
    read_block(weights, "block_structure", found);
    read_group(weights, found);
  }
}

void read_gptq(const Config& config, Quantization& found) {
  found.bits = static_cast<std::int32_t>(config.integer({"bits"}, 1, 32));
  read_group(config, found);
  const std::string format = config.text_or("checkpoint_format", "gptq");
  if (format == "gptq_v2") found.zero_offset = 0;
  if (format != "gptq" && format != "gptq_v2") {
    found.refused = format_text("the GPTQ weights are packed as {}, supported: gptq, gptq_v2", printable(format));
  } else if (found.bits != 4 && found.bits != 8) {
    found.refused = format_text("the GPTQ weights have {} bits, supported: 4, 8", found.bits);
  } else if (found.bits == 8 && !config.flag_or("sym", true)) {
    found.refused = "the GPTQ weights have 8 bits and zeros of their own, supported: symmetric ones";
  }
}

Quantization read_object(const Config& config) {
  Quantization found;
  const char* unnamed = config.has("quant_algo") ? "modelopt" : "of an unnamed method";
  found.method = printable(config.text_or("quant_method", unnamed));
  if (!has(kMethods, found.method)) {
    found.refused =
        format_text("the weights are quantised ({}), supported: {}", found.method, fmt::join(kMethods, ", "));
    return found;
  }
  read_block(config, "weight_block_size", found);
  if (found.method == "compressed-tensors") read_compressed(config, found);
  if (found.method == "gptq") read_gptq(config, found);
  std::sort(found.groups.begin(), found.groups.end());
  return found;
}

}  // namespace

Quantization read_quantization(const Config& root, const Config& text_model) {
  for (const Config* config : {&root, &text_model}) {
    for (const char* key : {"quantization_config", "compression_config"}) {
      if (config->has(key)) return read_object(config->nested(key));
    }
  }
  return {};
}

}  // namespace switchyard
