#include "checkpoint/model_config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "checkpoint/json_text.hpp"
#include "fail.hpp"
#include "format_text.hpp"
#include "switchyard/model.hpp"

namespace switchyard {
namespace {

constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();

template <class Value>
struct Named {
  std::string_view name;
  Value value;
};

constexpr Named<Activation> kActivations[] = {
    {"silu", Activation::silu},
    {"swish", Activation::silu},
    {"gelu", Activation::gelu},
    {"gelu_python", Activation::gelu},
    {"gelu_new", Activation::gelu_tanh},
    {"gelu_fast", Activation::gelu_tanh},
    {"gelu_pytorch_tanh", Activation::gelu_tanh},
    {"gelu_python_tanh", Activation::gelu_tanh},
    {"relu", Activation::relu},
    {"relu2", Activation::relu_squared},
};
constexpr Named<Score> kScores[] = {
    {"softmax", Score::softmax}, {"sigmoid", Score::sigmoid}, {"sqrtsoftplus", Score::sqrt_softplus}};
constexpr Named<ChosenScore> kChosenScores[] = {{"softmax", ChosenScore::softmax}, {"sigmoid", ChosenScore::sigmoid}};
constexpr Named<float> kCombinations[] = {{"sum", 1.0F}, {"average", 0.5F}};

template <class Table>
std::string names(const Table& table) {
  std::vector<std::string_view> result;
  for (const auto& row : table) result.push_back(row.name);
  return format_text("{}", fmt::join(result, ", "));
}

template <class Table>
auto find_named(const Table& table, std::string_view name) -> std::optional<decltype(table[0].value)> {
  for (const auto& row : table) {
    if (row.name == name) return row.value;
  }
  return std::nullopt;
}

// What the text under `key` names; a name that is not in the table is refused.
template <class Table, class Value>
Value named_or(const Config& config, const char* key, const Table& table, Value otherwise) {
  if (key == nullptr || !config.has(key)) return otherwise;
  const std::string name = config.text(key);
  const auto found = find_named(table, name);
  if (!found) config.refuse(key, printable(name), "one of " + names(table));
  return *found;
}

float number_or(const Config& config, const char* key, double otherwise) {
  return static_cast<float>(key == nullptr ? otherwise : config.number_or(key, otherwise));
}

bool flag_or(const Config& config, const char* key, bool otherwise) {
  return key == nullptr ? otherwise : config.flag_or(key, otherwise);
}

float at_least(const Config& config, const char* key, float value, bool zero_too) {
  if (key != nullptr && (value < 0 || (value == 0 && !zero_too))) {
    config.refuse(key, format_text("{}", value), zero_too ? "0 or more" : "more than 0");
  }
  return value;
}

void read_groups(const Config& config, ModelConfig& model) {
  const Groups& groups = model.family->router.groups;
  if (groups.best == 0) return;
  if (groups.method != nullptr) {
    const std::string method = config.text_or("topk_method", "greedy");
    if (method != groups.method) {
      if (method != "greedy") {
        config.refuse("topk_method", printable(method), format_text("greedy or {}", groups.method));
      }
      return;
    }
  }
  const char* count_key = config.present(groups.count_keys);
  const std::int64_t count = count_key == nullptr ? groups.count : config.integer({count_key}, 1, model.experts);
  if (count <= 1) return;
  const char* named = count_key == nullptr ? groups.count_keys[0] : count_key;
  RouterOptions& router = model.router;
  if (count > kMaxGroups || model.experts % count != 0) {
    config.refuse(named, std::to_string(count),
                  format_text("a divisor of {} experts up to {}", model.experts, kMaxGroups));
  }
  const std::int64_t kept = config.integer_or(groups.kept_key, 1, count, groups.kept);
  const std::int64_t size = model.experts / count;
  if (kept < 1 || kept > count || kept * size < router.topk) {
    config.refuse(groups.kept_key, std::to_string(kept),
                  format_text("1..{} groups of {} with {} experts or more", count, size, router.topk));
  }
  if (size < groups.best) {
    config.refuse(named, std::to_string(count), format_text("groups of {} experts or more", groups.best));
  }
  router.groups = static_cast<std::int32_t>(count);
  router.kept_groups = static_cast<std::int32_t>(kept);
  router.group_best = groups.best;
  router.masked_zero = groups.masked_zero;
}

std::int32_t read_topk(const Config& config, const ModelConfig& model) {
  const RouterColumns& columns = model.family->router;
  if (columns.topk != 0) return columns.topk;
  const std::int32_t max = std::min(model.experts + model.identity_experts, kMaxTopk);
  return static_cast<std::int32_t>(columns.topk_list ? config.integer_or_equal_ones(model.family->topk, 1, max)
                                                     : config.integer(model.family->topk, 1, max));
}

Normalize read_normalize(const Config& config, const RouterColumns& columns, ChosenScore chosen) {
  if (chosen == ChosenScore::softmax) return Normalize::none;
  if (columns.power_key != nullptr && config.is_null(columns.power_key)) return Normalize::none;
  const char* key = config.present(columns.normalize_keys);
  if (key == nullptr) return columns.normalize;
  return config.flag_or(key, false) ? Normalize::sum : Normalize::none;
}

void read_router(const Config& config, ModelConfig& model) {
  const RouterColumns& columns = model.family->router;
  RouterOptions& router = model.router;
  router.topk = read_topk(config, model);
  router.score = named_or(config, columns.score_key, kScores, columns.score);
  router.chosen = named_or(config, columns.chosen_key, kChosenScores, columns.chosen);
  router.normalize = read_normalize(config, columns, router.chosen);
  if (router.normalize != Normalize::none) {
    router.epsilon =
        at_least(config, columns.epsilon_key, number_or(config, columns.epsilon_key, columns.epsilon), true);
    router.power = at_least(config, columns.power_key, number_or(config, columns.power_key, columns.power), false);
  }
  router.scale = number_or(config, columns.scale_key, columns.scale);
  router.softcap = at_least(config, columns.softcap_key, number_or(config, columns.softcap_key, 0), true);
  router.jitter = at_least(config, columns.jitter_key, number_or(config, columns.jitter_key, columns.jitter), true);
  model.selection_bias = columns.selection_bias && flag_or(config, columns.selection_bias_key, true);
  read_groups(config, model);
}

bool is_limited(Activation activation) {
  return activation == Activation::silu_clamped || activation == Activation::silu_limited ||
         activation == Activation::swiglu_oai || activation == Activation::softcapped;
}

void read_function(const Config& config, ModelConfig& model) {
  const FunctionColumns& columns = model.family->function;
  ExpertFunction& function = model.function_of_all;
  function = {.activation = columns.activation, .gated = columns.gated};
  if (columns.key != nullptr && config.has(columns.key)) {
    const std::string name = config.text(columns.key);
    const auto found = find_named(kActivations, name);
    const bool limited = is_limited(columns.activation);
    if (!found || (limited && *found != Activation::silu)) {
      model.unsupported.push_back(
          format_text("{} is {}, supported: {}", columns.key, printable(name), limited ? "silu" : names(kActivations)));
    } else if (!limited) {
      function.activation = *found;
    }
  }
  function.limit = at_least(config, columns.limit_key, number_or(config, columns.limit_key, columns.limit), false);
  function.alpha = at_least(config, columns.alpha_key, number_or(config, columns.alpha_key, columns.alpha), false);
  for (const auto& [key, limits] :
       {std::pair{columns.limits_key, &model.limits}, std::pair{columns.shared_limits_key, &model.shared_limits}}) {
    if (key == nullptr || !config.has(key)) continue;
    *limits = config.limits(key);
    if (!limits->empty() && limits->size() < static_cast<std::size_t>(model.layers)) {
      config.refuse(key, format_text("an array of {} values", limits->size()),
                    format_text("{}, one per layer", model.layers));
    }
  }
}

// Without `otherwise` one of the keys has to be there.
std::int64_t size_or(const Config& config, const Keys& keys, std::int64_t otherwise) {
  return otherwise >= 0 && config.present(keys) == nullptr ? otherwise : config.integer(keys, 0, kMaxSize);
}

void read_shared(const Config& config, ModelConfig& model) {
  const SharedColumns& columns = model.family->shared;
  if (!columns.has) return;
  const std::int64_t ffn = columns.ffn[0] == nullptr ? model.ffn : size_or(config, columns.ffn, columns.ffn_otherwise);
  const std::int64_t count = columns.count == nullptr ? 1 : size_or(config, {columns.count}, columns.count_otherwise);
  if (count > kMaxExperts || count * ffn > kMaxSize) {
    config.refuse(columns.count == nullptr ? columns.ffn[0] : columns.count, std::to_string(count),
                  "a shared expert narrower than 2^31");
  }
  model.shared_ffn = count * ffn;
  if (model.shared_ffn == 0 || columns.average_key == nullptr) return;
  model.shared_scale = named_or(config, columns.average_key, kCombinations, 0.5F);
  model.router.scale *= model.shared_scale;
}

void read_sizes(const Config& config, ModelConfig& model) {
  const Family& family = *model.family;
  const bool may_be_dense = family.dense_experts >= 0;
  model.experts = static_cast<std::int32_t>(config.integer(family.experts, may_be_dense ? 0 : 1, kMaxExperts));
  if (model.experts <= family.dense_experts) {
    model.moe_layers.clear();
    return;
  }
  model.hidden = config.integer(family.hidden, 1, kMaxSize);
  model.ffn = config.integer(family.ffn, 1, kMaxSize);
  if (family.identity_experts != nullptr) {
    model.identity_experts =
        static_cast<std::int32_t>(config.integer({family.identity_experts}, 0, kMaxExperts - model.experts));
  }
  if (family.latent != nullptr) model.latent = config.integer_or(family.latent, 1, kMaxSize, 0);
  model.biases = flag_or(config, family.bias_key, false);
  read_router(config, model);
  read_function(config, model);
  read_shared(config, model);
  if (flag_or(config, family.refused_key, false)) {
    model.unsupported.push_back(format_text("{} is true, supported: false", family.refused_key));
  }
}

struct TextModel {
  const Family* family = nullptr;
  Config config;
};

[[noreturn]] void fail_unknown(const std::string& file, const std::string& key, const std::string& model_type) {
  fail(Code::not_supported, "config: {}: {} is {}, expected one of {}", file, key, printable(model_type),
       fmt::join(known_model_types(), ", "));
}

// The family, and the object of the configuration that speaks of its layers.
TextModel find_text_model(const Config& root, const std::string& model_type, const std::string& file) {
  if (const Family* family = find_family(model_type)) return {family, root};
  for (const Wrapper& wrapper : wrappers()) {
    if (model_type != wrapper.model_type) continue;
    const char* object = wrapper.objects[0];
    if (wrapper.objects[1] != nullptr && !root.has(object) && root.has(wrapper.objects[1])) object = wrapper.objects[1];
    const Config config = root.nested(object);
    const std::string text_type = root.has(object) ? config.text_or("model_type", "absent") : "absent";
    const Family* family = find_family(text_type);
    if (family == nullptr && wrapper.text_type != nullptr) family = find_family(wrapper.text_type);
    if (family == nullptr) fail_unknown(file, std::string(object) + ".model_type", text_type);
    return {family, config};
  }
  fail_unknown(file, "model_type", model_type);
}

ExpertFunction limited(ExpertFunction function, const std::vector<float>& limits, std::int32_t layer) {
  if (function.activation != Activation::silu_limited) return function;
  function.limit = limits.empty() ? 0 : limits[static_cast<std::size_t>(layer)];
  if (function.limit == 0) function.activation = Activation::silu;
  return function;
}

}  // namespace

std::vector<std::string> known_model_types() {
  std::vector<std::string> types;
  for (const Family& family : families()) {
    for (const char* type : family.model_types) {
      if (type != nullptr) types.emplace_back(type);
    }
  }
  for (const Wrapper& wrapper : wrappers()) types.emplace_back(wrapper.model_type);
  std::sort(types.begin(), types.end());
  return types;
}

ExpertFunction ModelConfig::function(std::int32_t layer) const { return limited(function_of_all, limits, layer); }

ExpertFunction ModelConfig::shared_function(std::int32_t layer) const {
  if (family->function.shared_unlimited) return {};
  return limited(function_of_all, shared_limits, layer);
}

ModelConfig read_model_config(std::string_view text, const std::string& file) {
  const Config root(text, file);
  ModelConfig model;
  model.model_type = root.text("model_type");
  const TextModel found = find_text_model(root, model.model_type, file);
  model.family = found.family;
  if (model.family->refused != nullptr) {
    model.unsupported.push_back(format_text("a block of {}: {}", model.family->name, model.family->refused));
    return model;
  }
  read_schedule(found.config, model);
  read_sizes(found.config, model);
  model.quantization = read_quantization(root, found.config);
  if (!model.quantization.refused.empty()) model.unsupported.push_back(model.quantization.refused);
  return model;
}

}  // namespace switchyard
