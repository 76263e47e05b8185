// `switchyard inspect`: what a checkpoint is, without reading a weight.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "engine.hpp"
#include "switchyard/model.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

const char* chosen_name(ChosenScore chosen) { return chosen == ChosenScore::softmax ? "softmax" : "sigmoid"; }

std::string function_text(const ExpertFunction& function) {
  std::string text = activation_name(function.activation);
  if (!function.gated) text += " without gate";
  if (function.limit != 0) text += fmt::format(", limit {:g}", function.limit);
  if (function.alpha != 0) text += fmt::format(", alpha {:g}", function.alpha);
  return text;
}

// Bytes of the experts of all MoE layers when they are packed to `format`.
double packed_bytes(const ModelInfo& info, Format format) {
  const double per_layer = info.experts * expert_elements(info) + common_elements(info);
  return static_cast<double>(info.moe_layers.size()) * per_layer * format_bytes(format);
}

// The one that is asked for, or all.
std::vector<Format> formats_of(const InspectOptions& options) {
  if (options.weights) return {*options.weights};
  std::vector<Format> formats;
  formats.reserve(kFormats);
  for (std::int32_t i = 0; i < kFormats; ++i) formats.push_back(static_cast<Format>(i));
  return formats;
}

// Keys that are there only where they say something.
void add_router(nlohmann::ordered_json& json, const ModelInfo& info) {
  const RouterOptions& router = info.router;
  if (router.chosen != ChosenScore::none) json["chosen"] = chosen_name(router.chosen);
  if (router.normalize == Normalize::clamped_sum) json["least_sum"] = router.epsilon;
  if (router.normalize == Normalize::power_norm) json["power"] = router.power;
  if (router.score == Score::sparsemixer) json["jitter"] = router.jitter;
  if (router.softcap != 0) json["softcap"] = router.softcap;
  if (info.logit_bias) json["logit_bias"] = true;
  if (!info.table_layers.empty()) json["table_layers"] = info.table_layers;
}

void add_block(nlohmann::ordered_json& json, const ModelInfo& info) {
  if (!(info.function == ExpertFunction{})) json["function"] = function_text(info.function);
  if (info.shared_ffn > 0 && !(info.shared_function == info.function)) {
    json["shared_function"] = function_text(info.shared_function);
  }
  if (info.shared_scale != 1) json["shared_scale"] = info.shared_scale;
  if (info.shared_ffn > 0 && info.shared_weights != info.weights) {
    json["shared_weights"] = dtype_name(info.shared_weights);
  }
  if (info.identity_experts > 0) json["identity_experts"] = info.identity_experts;
  if (info.latent > 0) json["latent"] = info.latent;
  if (info.weight_site != WeightSite::output) json["weight_site"] = weight_site_name(info.weight_site);
  if (info.output_bias) json["output_bias"] = true;
  if (!info.outside.empty()) json["outside"] = info.outside;
}

// Bytes for every MoE layer, in their order; empty if nobody asks or no layer runs.
std::vector<std::size_t> workspace_bytes(const InspectOptions& options, const Model& model) {
  std::vector<std::size_t> bytes;
  if (options.tokens == 0 || !model.info().unsupported.empty()) return bytes;
  const LayerOptions made = layer_options(model.info(), options.dtype, options.weights, options.threads);
  for (const std::int32_t layer : model.info().moe_layers) {
    bytes.push_back(model.workspace_bytes(layer, made, options.tokens));
  }
  return bytes;
}

std::string json_text(const InspectOptions& options, const ModelInfo& info, const std::vector<std::size_t>& workspace) {
  nlohmann::ordered_json json;
  json["path"] = options.model.string();
  json["model_type"] = info.model_type;
  json["family"] = info.family;
  json["layers"] = info.layers;
  json["moe_layers"] = info.moe_layers;
  json["experts"] = info.experts;
  json["topk"] = info.router.topk;
  json["hidden"] = info.hidden;
  json["ffn"] = info.ffn;
  json["shared_ffn"] = info.shared_ffn;
  json["shared_gate"] = info.shared_gate;
  const RouterOptions& router = info.router;
  json["router"] = {{"score", score_name(router.score)},
                    {"normalize", router.normalize != Normalize::none},
                    {"scale", router.scale},
                    {"gemm", info.narrow_router ? "model" : "f32"},
                    {"selection_bias", info.selection_bias},
                    {"groups", router.groups},
                    {"kept_groups", router.kept_groups}};
  add_router(json["router"], info);
  add_block(json, info);
  json["layout"] = info.layout;
  json["weights"] = dtype_name(info.weights);
  if (!info.quantization.empty()) json["quantization"] = info.quantization;
  if (info.codes != Codes::plain) {
    json["codes"] = codes_name(info.codes);
    json["scales"] = dtype_name(info.scales);
    json["block"] = {info.out_block, info.in_block};
  }
  json["file_bytes"] = info.file_bytes;
  json["moe_bytes"] = info.moe_bytes;
  json["formats"] = nlohmann::ordered_json::object();
  for (const Format format : formats_of(options)) {
    json["formats"][format_name(format)] = static_cast<std::uint64_t>(packed_bytes(info, format));
  }
  if (options.tokens > 0) {
    json["tokens"] = options.tokens;
    json["threads"] = Threads::pool(options.threads).count();
    json["workspace_bytes"] = workspace;
  }
  json["unsupported"] = info.unsupported;
  // A path need not be UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string normalize_text(const RouterOptions& router) {
  switch (router.normalize) {
    case Normalize::sum:
      return "weights divided by their sum";
    case Normalize::clamped_sum:
      return fmt::format("weights divided by their sum, or by {:g} if that is more", router.epsilon);
    case Normalize::power_norm:
      return fmt::format("weights divided by their {:g}-norm", router.power);
    case Normalize::none:
      break;
  }
  return router.chosen == ChosenScore::none ? "weights as they are"
                                            : fmt::format("weights the {} of the chosen", chosen_name(router.chosen));
}

std::string router_text(const ModelInfo& info) {
  const RouterOptions& router = info.router;
  std::string text = score_name(router.score);
  if (info.logit_bias) text += ", with a bias";
  if (router.softcap != 0) text += fmt::format(", capped at {:g}", router.softcap);
  if (info.selection_bias) text += ", with a bias to choose by";
  text += ", " + normalize_text(router);
  if (router.scale != 1) text += fmt::format(", times {:g}", router.scale);
  if (router.groups > 0) {
    text +=
        fmt::format("; from {} of {} groups by their best {}", router.kept_groups, router.groups, router.group_best);
  }
  text += info.narrow_router ? "; in the model's type" : "; in f32";
  if (!info.table_layers.empty()) {
    text += fmt::format("; experts by token id in {}", ranges_text(info.table_layers));
  }
  return text;
}

std::string experts_text(const ModelInfo& info) {
  std::string text = fmt::format("E {}, K {}", info.experts, info.router.topk);
  if (info.identity_experts > 0) text += fmt::format(", and {} that give the token back", info.identity_experts);
  text += fmt::format(", {}", function_text(info.function));
  if (info.weight_site != WeightSite::output)
    text += fmt::format(", weights at the {}", weight_site_name(info.weight_site));
  if (info.output_bias) text += ", a bias on the output";
  return text;
}

std::string shared_text(const ModelInfo& info) {
  std::string text = fmt::format("F {}, {}", info.shared_ffn, info.shared_gate ? "sigmoid gate" : "no gate");
  if (info.shared_weights != info.weights) text += fmt::format(", {}", dtype_name(info.shared_weights));
  if (info.shared_scale != 1) text += fmt::format(", times {:g}", info.shared_scale);
  if (!(info.shared_function == info.function)) text += fmt::format(", {}", function_text(info.shared_function));
  return text;
}

void line(const char* name, const std::string& value) { fmt::print("  {:<13} {}\n", name, value); }

void print_block(const ModelInfo& info) {
  line("layers", fmt::format("{}, {} of them with experts: {}", info.layers, info.moe_layers.size(),
                             ranges_text(info.moe_layers)));
  line("experts", experts_text(info));
  line("sizes", fmt::format("H {}, F {}{}", info.hidden, info.ffn,
                            info.latent > 0 ? fmt::format(", latent {}", info.latent) : ""));
  if (info.shared_ffn > 0) line("shared expert", shared_text(info));
  line("router", router_text(info));
  line("layout", info.layout);
  line("weights", weights_text(info));
}

void print_workspace(const InspectOptions& options, const std::vector<std::size_t>& workspace) {
  if (workspace.empty()) return;
  const int threads = Threads::pool(options.threads).count();
  const auto [least, most] = std::minmax_element(workspace.begin(), workspace.end());
  const std::string least_text = *least == *most ? "" : bytes_text(static_cast<double>(*least)) + " to ";
  line("workspace", fmt::format("{}{} for {} token{} in {} on {} thread{}; one serves all layers", least_text,
                                bytes_text(static_cast<double>(*most)), options.tokens, options.tokens == 1 ? "" : "s",
                                dtype_name(options.dtype), threads, threads == 1 ? "" : "s"));
}

void print_text(const InspectOptions& options, const ModelInfo& info, const std::vector<std::size_t>& workspace) {
  fmt::print("{}\n", options.model.string());
  line("model_type", fmt::format("{} (family {})", info.model_type, info.family));
  if (info.layers > 0) print_block(info);
  line("bytes", fmt::format("{} in files, {} of them MoE blocks", bytes_text(static_cast<double>(info.file_bytes)),
                            bytes_text(static_cast<double>(info.moe_bytes))));
  if (info.layers > 0) {
    std::string text;
    for (const Format format : formats_of(options)) {
      text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", format_name(format),
                          bytes_text(packed_bytes(info, format)));
    }
    line("formats", text + " packed, all layers");
  }
  print_workspace(options, workspace);
  if (!info.outside.empty()) line("left to you", info.outside);
  line("not supported", info.unsupported.empty() ? "nothing: every MoE layer runs" : "");
  for (const std::string& reason : info.unsupported) fmt::print("    {}\n", reason);
}

}  // namespace

void inspect(const InspectOptions& options) {
  const Model model = Model::open(options.model);
  const std::vector<std::size_t> workspace = workspace_bytes(options, model);
  if (options.json) {
    fmt::print("{}\n", json_text(options, model.info(), workspace));
  } else {
    print_text(options, model.info(), workspace);
  }
}

}  // namespace switchyard::cli
