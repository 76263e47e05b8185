#include "checkpoint/layout.hpp"

#include <string_view>
#include <utility>

#include "experts/weight_view.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

// In front of a layer's names, in a text model of its own and in the models around it.
constexpr const char* kPrefixes[] = {
    "model.layers.{layer}.",
    "model.language_model.layers.{layer}.",
    "language_model.model.layers.{layer}.",
    "layers.{layer}.",
    "language_model.layers.{layer}.",
    "thinker.model.layers.{layer}.",
    "talker.model.layers.{layer}.",
    "model.llm.layers.{layer}.",
    "backbone.layers.{layer}.",
    "transformer.blocks.{layer}.",
    "language_model.model.blocks.{layer}.",
};

enum Part : std::size_t { kGate, kUp, kDown, kGateBias, kUpBias, kDownBias };

bool is_fused(const ExpertLayout& layout) { return layout.up == nullptr; }

std::vector<std::int64_t> matrix_shape(const ExpertPlace& place, Orientation orientation, std::int64_t out,
                                       std::int64_t in) {
  if (orientation == Orientation::in_out) std::swap(out, in);
  switch (place.layout->storage) {
    case Storage::single:
      return {out, in};
    case Storage::stacked:
      return {place.shape.experts, out, in};
    case Storage::flattened:
      break;
  }
  return {place.shape.experts * out, in};
}

// Rows first, first + step, ... of a matrix; first is below step if that is not 1.
WeightView every(WeightView view, std::int64_t first, std::int64_t step) {
  if (view.data == nullptr) return view;
  view.data = static_cast<const std::byte*>(view.data) + view_bytes(view, first * view.out_stride);
  view.out_stride *= step;
  WeightScales& scales = view.scales;
  if (step == 1) {
    scales.first_out += first;
  } else if (scales.out_block > 1) {  // an even number of rows, half of them these
    scales.out_block /= step;
  } else if (scales.data != nullptr) {
    const auto bytes = static_cast<std::int64_t>(dtype_bytes(scales.dtype));
    scales.data = static_cast<const std::byte*>(scales.data) + first * scales.out_stride * bytes;
    scales.out_stride *= step;
  }
  return view;
}

// How much of the layer is there.
int score(const TensorFile& file, const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer) {
  int score = 0;
  const auto count = [&](const ExpertPlace& place) {
    for (const NamedShape& wanted : expert_names(place, 0)) {
      if (!wanted.name.empty()) score += fit_of(file, wanted);
    }
  };
  count(routed_place(config, choice, layer));
  if (score == 0) return 0;  // the rest may be named alike elsewhere
  if (config.shared_ffn > 0) count(shared_place(config, choice, layer));
  if (file.find(choice.name(choice.place->router, layer)) != nullptr) ++score;
  if (config.selection_bias && file.find(choice.name(choice.place->selection_bias, layer)) != nullptr) ++score;
  return score;
}

}  // namespace

std::string PlaceChoice::layer_name(std::int32_t layer) const {
  return format_text(fmt::runtime(prefix), fmt::arg("layer", layer));
}

std::string PlaceChoice::name(const char* pattern, std::int32_t layer, std::int32_t expert) const {
  return layer_name(layer) +
         format_text(fmt::runtime(pattern), fmt::arg("block", place->block), fmt::arg("expert", expert));
}

std::string bias_name(std::string weight) {
  constexpr std::string_view kWeight = "weight";
  return weight.replace(weight.size() - kWeight.size(), kWeight.size(), "bias");
}

PlaceChoice choose_place(const TensorFile& file, const ModelConfig& config, std::int32_t layer) {
  PlaceChoice best;
  int best_score = 0;
  for (const char* prefix : kPrefixes) {
    for (const Place& place : config.family->places) {
      if (place.experts == nullptr) continue;
      const PlaceChoice choice{&place, prefix};
      const int found = score(file, config, choice, layer);
      if (found > best_score) {
        best_score = found;
        best = choice;
      }
    }
  }
  return best;
}

std::vector<std::string> possible_names(const ModelConfig& config, std::int32_t layer) {
  std::vector<std::string> names;
  for (const Place& place : config.family->places) {
    if (place.experts == nullptr) continue;
    const PlaceChoice choice{&place, kPrefixes[0]};
    names.push_back(choice.name(place.experts->gate == nullptr ? place.experts->up : place.experts->gate, layer));
  }
  return names;
}

ExpertPlace routed_place(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer) {
  const std::int64_t hidden = config.latent > 0 ? config.latent : config.hidden;
  return {choice.place->experts, choice, layer, {config.experts, hidden, config.ffn, config.function(layer)}, false};
}

ExpertPlace shared_place(const ModelConfig& config, const PlaceChoice& choice, std::int32_t layer) {
  return {choice.place->shared,
          choice,
          layer,
          {1, config.hidden, config.shared_ffn, config.shared_function(layer)},
          config.biases};
}

ExpertNames expert_names(const ExpertPlace& place, std::int32_t expert) {
  const ExpertLayout& layout = *place.layout;
  const std::int64_t hidden = place.shape.hidden;
  const std::int64_t ffn = place.shape.ffn;
  const std::int64_t gate_rows = is_fused(layout) ? 2 * ffn : ffn;
  const std::int64_t held = layout.storage == Storage::single ? 1 : place.shape.experts;
  ExpertNames names;
  const auto add = [&](Part part, const char* pattern, Orientation orientation, std::int64_t out, std::int64_t in) {
    if (pattern == nullptr) return;
    names[part] = {place.choice.name(pattern, place.layer, expert), matrix_shape(place, orientation, out, in),
                   orientation, layout.storage, held};
  };
  add(kGate, layout.gate, layout.orientation, gate_rows, hidden);
  add(kUp, layout.up, layout.orientation, ffn, hidden);
  add(kDown, layout.down, layout.down_orientation, hidden, ffn);
  const auto add_bias = [&](Part part, const char* pattern, std::int64_t size) {
    const std::string& weight = names[part - kGateBias].name;
    if (pattern == nullptr && (!place.named_biases || weight.empty())) return;
    const bool stacked = layout.storage != Storage::single;
    names[part].name = pattern != nullptr ? place.choice.name(pattern, place.layer, expert) : bias_name(weight);
    names[part].shape = stacked ? std::vector{held, size} : std::vector{size};
    names[part].storage = stacked ? Storage::stacked : Storage::single;
    names[part].held = held;
  };
  add_bias(kGateBias, layout.gate_bias, gate_rows);
  add_bias(kUpBias, layout.up_bias, ffn);
  add_bias(kDownBias, layout.down_bias, hidden);
  return names;
}

std::int32_t index_of(const ExpertPlace& place, std::int32_t expert) {
  return place.layout->storage == Storage::single ? 0 : expert;
}

ExpertTensors expert_views(const ExpertPlace& place, const ExpertFiles& files, std::int32_t expert) {
  const auto view = [&](Part part) {
    return files[part].parts.codes == nullptr ? WeightView{} : matrix_of(files[part], index_of(place, expert));
  };
  if (!is_fused(*place.layout)) {
    return {view(kGate), view(kUp), view(kDown), view(kGateBias), view(kUpBias), view(kDownBias)};
  }
  const WeightView both = view(kGate);
  const WeightView both_biases = view(kGateBias);
  const bool interleaved = place.layout->fusion == Fusion::interleaved;
  const std::int64_t up = interleaved ? 1 : place.shape.ffn;
  const std::int64_t step = interleaved ? 2 : 1;
  return {every(both, 0, step),        every(both, up, step),        view(kDown),
          every(both_biases, 0, step), every(both_biases, up, step), view(kDownBias)};
}

}  // namespace switchyard
