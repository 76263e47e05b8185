#include "report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench_machine.hpp"
#include "files.hpp"
#include "page.hpp"
#include "switchyard/cpu.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr int kBarHeight = 120;

void add_head(Page& page, const ModelRun& run) {
  page.begin(run.model.model_type);
  if (run.layers.empty() || !run.layers.front().comparison) {
    page.add("<p class=\"soft\">Outputs were not compared.</p></header>\n");
  } else if (run.holds()) {
    page.add("<p class=\"good\">Every layer agrees with its expected output.</p></header>\n");
  } else {
    page.add("<p class=\"bad\">Outputs differ from what was expected.</p></header>\n");
  }
}

void add_facts(Page& page, const ModelRun& run) {
  const ModelInfo& model = run.model;
  page.add("<section><h2>Model and run</h2>\n<dl>\n");
  page.fact("model type", model.model_type);
  page.fact("layers with experts", fmt::format("{} of {}", model.moe_layers.size(), model.layers));
  page.fact("experts", fmt::format("{}, {} per token", model.experts, model.router.topk));
  page.fact("hidden, ffn", fmt::format("{}, {}", model.hidden, model.ffn));
  if (model.shared_ffn > 0) page.fact("shared expert", fmt::format("ffn {}", model.shared_ffn));
  page.fact("weights in the files",
            fmt::format("{}, {}", dtype_name(model.weights), bytes_text(static_cast<double>(model.moe_bytes))));
  page.fact("weights packed as", format_name(run.format));
  page.fact("activations", dtype_name(run.activations));
  page.fact("router", dtype_name(run.router));
  page.fact("instruction set", isa_name(current_isa()));
  page.fact("threads", fmt::format("{}", run.threads));
  page.add("</dl></section>\n");
}

void add_bars(Page& page, const LayerRun& layer) {
  const std::int64_t most = layer.max_load();
  const auto busiest =
      static_cast<std::size_t>(std::max_element(layer.load.begin(), layer.load.end()) - layer.load.begin());
  const double scale = most > 0 ? static_cast<double>(kBarHeight) / static_cast<double>(most) : 0;
  page.add(
      "<div><h3>Layer {}</h3>\n<svg role=\"img\" aria-label=\"rows per expert of layer {}\" viewBox=\"0 0 {} {}\" "
      "preserveAspectRatio=\"none\" height=\"{}\">",
      layer.layer, layer.layer, layer.load.size(), kBarHeight, kBarHeight);
  for (std::size_t e = 0; e < layer.load.size(); ++e) {
    const double height = static_cast<double>(layer.load[e]) * scale;
    page.add("<rect x=\"{}\" y=\"{:.2f}\" width=\".8\" height=\"{:.2f}\"><title>{}</title></rect>", e,
             kBarHeight - height, height, load_title({layer.layer, layer.load}, e));
  }
  const double mean = kBarHeight - layer.mean_load() * scale;
  page.add("<line class=\"mean\" x1=\"0\" x2=\"{}\" y1=\"{:.2f}\" y2=\"{:.2f}\"/></svg>\n", layer.load.size(), mean,
           mean);
  page.add("<div class=\"ends\"><span>expert 0</span><span>{}</span></div>\n", layer.load.size() - 1);
  page.add("<p>Mean {:.1f} rows (dashed), most {} (expert {}), {} of {} experts used.</p>\n", layer.mean_load(), most,
           busiest, layer.experts_used(), layer.load.size());
  page.add("<details><summary>Rows of every expert</summary><div class=\"numbers\">");
  for (std::size_t e = 0; e < layer.load.size(); ++e) page.add("<span><b>{}</b>{}</span>", e, layer.load[e]);
  page.add("</div></details></div>\n");
}

std::string page_text(const ModelRun& run, const std::optional<BenchResult>& bench) {
  Page page;
  add_head(page, run);
  add_facts(page, run);
  std::vector<LayerLoad> loads;
  for (const LayerRun& layer : run.layers) loads.push_back({layer.layer, layer.load});
  add_heat_map(page, loads);
  page.add("<section><h2>Rows per expert</h2><div class=\"bars\">\n");
  for (const LayerRun& layer : run.layers) add_bars(page, layer);
  page.add("</div></section>\n<section><h2>Layers</h2>\n");
  std::vector<std::vector<std::string>> rows;
  for (const LayerRun& layer : run.layers) rows.push_back(layer_cells(layer));
  page.table(layer_columns(run), rows);
  page.add("</section>\n");
  if (bench) {
    page.add("<section><h2>Speed of one layer</h2>\n<p class=\"soft\">{}. Weights are cold.</p>\n",
             escape(probe_text(bench->probe)));
    rows.clear();
    for (const BenchRow& row : bench->rows) rows.push_back(bench_cells(row));
    page.table(bench_columns(), rows);
    page.add("</section>\n");
  }
  page.end();
  return page.text();
}

}  // namespace

void write_report(const std::filesystem::path& path, const ModelRun& run, const std::optional<BenchResult>& bench) {
  const std::string text = page_text(run, bench);
  write_file(path, "report", {std::as_bytes(std::span(text))});
}

}  // namespace switchyard::cli
