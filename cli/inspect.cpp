// `switchyard inspect`: what a checkpoint is, without reading a weight.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.hpp"
#include "switchyard/model.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

// Bytes of the experts of all MoE layers when they are packed to `format`.
double packed_bytes(const ModelInfo& info, Format format) {
  const double ffn =
      static_cast<double>(info.experts) * static_cast<double>(info.ffn) + static_cast<double>(info.shared_ffn);
  const double per_layer = 3 * static_cast<double>(info.hidden) * ffn;
  return static_cast<double>(info.moe_layers.size()) * per_layer * (format == Format::bf16 ? 2 : 4);
}

std::string json_text(const InspectOptions& options, const ModelInfo& info) {
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
                    {"selection_bias", info.selection_bias},
                    {"groups", router.groups},
                    {"kept_groups", router.kept_groups}};
  json["layout"] = info.layout;
  json["weights"] = dtype_name(info.weights);
  json["file_bytes"] = info.file_bytes;
  json["moe_bytes"] = info.moe_bytes;
  json["formats"] = nlohmann::ordered_json::object();
  for (const Format format : {Format::f32, Format::bf16}) {
    json["formats"][format_name(format)] = static_cast<std::uint64_t>(packed_bytes(info, format));
  }
  json["unsupported"] = info.unsupported;
  // A path need not be UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string router_text(const ModelInfo& info) {
  const RouterOptions& router = info.router;
  std::string text =
      fmt::format("{}, {}weights {}", score_name(router.score), info.selection_bias ? "with a bias to choose by, " : "",
                  router.normalize != Normalize::none ? "divided by their sum" : "as they are");
  if (router.scale != 1) text += fmt::format(", times {:g}", router.scale);
  if (router.groups > 0) text += fmt::format("; from {} of {} groups", router.kept_groups, router.groups);
  return text;
}

void print_text(const InspectOptions& options, const ModelInfo& info) {
  fmt::print("{}\n", options.model.string());
  const auto line = [](const char* name, const std::string& value) { fmt::print("  {:<13} {}\n", name, value); };
  line("model_type", fmt::format("{} (family {})", info.model_type, info.family));
  line("layers", fmt::format("{}, {} of them with experts: {}", info.layers, info.moe_layers.size(),
                             ranges_text(info.moe_layers)));
  line("experts", fmt::format("E {}, K {}", info.experts, info.router.topk));
  line("sizes", fmt::format("H {}, F {}", info.hidden, info.ffn));
  if (info.shared_ffn > 0) {
    line("shared expert", fmt::format("F {}, {}", info.shared_ffn, info.shared_gate ? "sigmoid gate" : "no gate"));
  }
  line("router", router_text(info));
  line("layout", info.layout);
  line("weights", dtype_name(info.weights));
  line("bytes", fmt::format("{} in files, {} of them MoE blocks", bytes_text(static_cast<double>(info.file_bytes)),
                            bytes_text(static_cast<double>(info.moe_bytes))));
  line("formats", fmt::format("f32: {}, bf16: {} packed, all layers", bytes_text(packed_bytes(info, Format::f32)),
                              bytes_text(packed_bytes(info, Format::bf16))));
  line("not supported", info.unsupported.empty() ? "nothing: every MoE layer runs" : "");
  for (const std::string& reason : info.unsupported) fmt::print("    {}\n", reason);
}

}  // namespace

void inspect(const InspectOptions& options) {
  const Model model = Model::open(options.model);
  if (options.json) {
    fmt::print("{}\n", json_text(options, model.info()));
  } else {
    print_text(options, model.info());
  }
}

}  // namespace switchyard::cli
