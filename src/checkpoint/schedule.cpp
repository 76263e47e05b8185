// Which layers have experts.

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>

#include "checkpoint/json_text.hpp"
#include "checkpoint/model_config.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kMaxLayers = 65536;
constexpr std::int64_t kMaxStep = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();

// Values after the last layer belong to layers for multi-token prediction, which are not part of the model.
void check_length(const Config& config, const char* key, std::size_t length, std::int32_t layers) {
  if (length >= static_cast<std::size_t>(layers)) return;
  config.refuse(key, format_text("an array of {} values", length), format_text("{}, one per layer", layers));
}

void read_kinds(const Config& config, const std::vector<std::string>& kinds, ModelConfig& model) {
  const Schedule& schedule = model.family->schedule;
  check_length(config, schedule.kinds, kinds.size(), model.layers);
  const bool tables = schedule.table_layers != nullptr;
  for (std::int32_t layer = 0; layer < model.layers; ++layer) {
    const std::string& kind = kinds[static_cast<std::size_t>(layer)];
    if (kind == "sparse" || kind == "moe" || (tables && kind == "hash_moe")) {
      model.moe_layers.push_back(layer);
      if (kind == "hash_moe") model.table_layers.push_back(layer);
    } else if (kind != "dense" && !schedule.kinds_count) {
      config.refuse(schedule.kinds, format_text("{} for layer {}", printable(kind), layer),
                    tables ? "sparse, moe, hash_moe or dense" : "sparse, moe or dense");
    }
  }
}

// A list of layers, or a text of them with commas between; null if there is none. Numbers of no layer are passed over.
std::optional<std::vector<std::int64_t>> read_layer_list(const Config& config, const char* key) {
  if (key == nullptr || !config.has(key)) return std::nullopt;
  std::vector<std::int64_t> listed;
  if (!config.is_text(key)) {
    listed = config.integers(key, -kAny, kAny);
  } else {
    const std::string text = config.text(key);
    const char* at = text.data();
    const char* end = at + text.size();
    while (at != end) {
      if (*at == ' ' || *at == ',') {
        ++at;
        continue;
      }
      std::int64_t layer = 0;
      const auto [after, error] = std::from_chars(at, end, layer);
      if (error != std::errc()) config.refuse(key, printable(text), "numbers with commas between them");
      listed.push_back(layer);
      at = after;
    }
  }
  std::sort(listed.begin(), listed.end());
  return listed;
}

bool in(const std::vector<std::int64_t>& sorted, std::int64_t value) {
  return std::binary_search(sorted.begin(), sorted.end(), value);
}

void read_steps(const Config& config, ModelConfig& model) {
  const Schedule& schedule = model.family->schedule;
  const auto integer = [&](const char* key, std::int64_t min, std::int64_t otherwise) {
    return key == nullptr ? otherwise : config.integer_or(key, min, kMaxStep, otherwise);
  };
  const std::int64_t first = integer(schedule.first_key, 0, schedule.first);
  const std::int64_t last = integer(schedule.last_key, -1, -1);
  std::vector<std::int64_t> flags;
  std::int64_t step = 1;
  if (schedule.step_key != nullptr && config.is_list(schedule.step_key)) {
    flags = config.integers(schedule.step_key, 0, 1);
    check_length(config, schedule.step_key, flags.size(), model.layers);
  } else {
    step = integer(schedule.step_key, 1, schedule.step);
  }
  const std::int64_t shift = -integer(schedule.offset_key, 0, -schedule.shift);
  const auto dense = read_layer_list(config, schedule.dense);
  for (std::int32_t layer = 0; layer < model.layers; ++layer) {
    if (layer < first || (last >= 0 && layer > last) || (layer + shift) % step != 0) continue;
    if (!flags.empty() && flags[static_cast<std::size_t>(layer)] == 0) continue;
    if (dense ? in(*dense, layer) : layer < schedule.dense_otherwise) continue;
    model.moe_layers.push_back(layer);
  }
}

void read_tables(const Config& config, ModelConfig& model) {
  const Schedule& schedule = model.family->schedule;
  if (schedule.table_layers == nullptr) return;
  const std::int64_t tables = config.integer_or(schedule.table_layers, 0, kMaxStep, schedule.tables);
  std::copy_if(model.moe_layers.begin(), model.moe_layers.end(), std::back_inserter(model.table_layers),
               [&](std::int32_t layer) { return layer < tables; });
}

// A letter per layer.
std::vector<std::string> read_pattern(const Config& config, const char* key) {
  std::vector<std::string> kinds;
  for (const char letter : config.text(key)) kinds.emplace_back(letter == 'E' ? "moe" : std::string(1, letter));
  return kinds;
}

}  // namespace

void read_schedule(const Config& config, ModelConfig& model) {
  const Schedule& schedule = model.family->schedule;
  std::optional<std::vector<std::string>> kinds;
  if (schedule.kinds_count && !config.has(schedule.kinds)) {
    kinds = read_pattern(config, schedule.pattern);
  } else if (config.has(schedule.kinds)) {
    kinds = config.texts(schedule.kinds);
  }
  if (schedule.kinds_count) {
    model.layers = static_cast<std::int32_t>(kinds->size());
    if (kinds->empty() || model.layers > kMaxLayers) {
      config.refuse(schedule.kinds, format_text("an array of {} values", kinds->size()), "one per layer");
    }
  } else {
    model.layers = static_cast<std::int32_t>(config.integer(model.family->layers, 1, kMaxLayers));
  }
  if (kinds) return read_kinds(config, *kinds, model);
  if (const auto only = read_layer_list(config, schedule.only)) {
    for (std::int32_t layer = 0; layer < model.layers; ++layer) {
      if (in(*only, layer)) model.moe_layers.push_back(layer);
    }
  } else {
    read_steps(config, model);
  }
  read_tables(config, model);
}

}  // namespace switchyard
