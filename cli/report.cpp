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
#include "switchyard/cpu.hpp"
#include "switchyard/version.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b2330;--soft:#5c6778;--line:#dde2ea;--heat:#0b63ce;--off:#ecd3b0;--bad:#b3261e;--good:#1b7a3d}
@media(prefers-color-scheme:dark){:root{--page:#11151b;--card:#1a2029;--text:#e6eaf0;--soft:#9aa6b6;--line:#2e3744;--heat:#58a6ff;--off:#5d472c;--bad:#ff8a80;--good:#6fd08c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--page);color:var(--text);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:.5rem 0 0}h2{font-size:1.15rem;margin:0 0 .75rem}
p{margin:.5rem 0}.soft{color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
section{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:1rem;margin:1rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:.75rem;margin:0}
dt{color:var(--soft);font-size:.85rem}dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.scroll{overflow-x:auto}.heat{display:grid;grid-template-columns:max-content 1fr;gap:3px .6rem;align-items:center}
.heat span{position:sticky;left:0;background:var(--card);padding-right:.25rem;font-size:.85rem;color:var(--soft)}
svg{display:block;width:100%;overflow:visible}rect{fill:var(--heat)}rect.off{fill:var(--off)}
rect:hover{stroke:var(--text);stroke-width:2px;vector-effect:non-scaling-stroke}
.mean{stroke:var(--text);stroke-width:1.5px;stroke-dasharray:5 4;vector-effect:non-scaling-stroke}
.ends{display:flex;justify-content:space-between;font-size:.85rem;color:var(--soft);margin-top:.25rem}
.scale{height:.75rem;border-radius:.2rem;max-width:20rem;background:linear-gradient(to right,transparent,var(--heat));border:1px solid var(--line)}
.bars{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem}.bars>*{min-width:0}
.bars h3{font-size:1rem;margin:0 0 .5rem}
summary{cursor:pointer;color:var(--soft);font-size:.9rem;margin-top:.5rem}
.numbers{display:grid;grid-template-columns:repeat(auto-fill,minmax(5.5rem,1fr));gap:.1rem .75rem;font-size:.85rem;font-variant-numeric:tabular-nums}
.numbers span{display:flex;justify-content:space-between;border-bottom:1px solid var(--line)}.numbers b{font-weight:400;color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500;font-size:.85rem}
th:first-child,td:first-child{text-align:left}
@media(max-width:44rem){thead{display:none}table,tbody,tr,td{display:block}tr{padding:.5rem 0;border-bottom:2px solid var(--line)}
td,td:first-child{display:flex;justify-content:space-between;gap:1rem;border:0;padding:.1rem 0;text-align:right}td::before{content:attr(data-label);color:var(--soft)}}
)";

// Cells narrower than this many pixels cannot be hit: the heat map scrolls instead.
constexpr int kCellPixels = 7;
constexpr int kBarHeight = 120;

std::string escape(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += c;
    }
  }
  return safe;
}

class Page {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }
  void fact(std::string_view name, std::string_view value) {
    add("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
  }
  void table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void Page::table(const std::vector<std::string>& columns, const std::vector<std::vector<std::string>>& rows) {
  add("<div class=\"scroll\"><table>\n<thead><tr>");
  for (const std::string& column : columns) add("<th scope=\"col\">{}</th>", escape(column));
  add("</tr></thead>\n<tbody>\n");
  for (const auto& row : rows) {
    add("<tr>");
    for (std::size_t c = 0; c < row.size(); ++c) {
      add("<td data-label=\"{}\">{}</td>", escape(columns[c]), escape(row[c]));
    }
    add("</tr>\n");
  }
  add("</tbody></table></div>\n");
}

double over_mean(const LayerRun& layer, std::int64_t rows) {
  const double mean = layer.mean_load();
  return mean > 0 ? static_cast<double>(rows) / mean : 0;
}

std::string cell_title(const LayerRun& layer, std::size_t expert) {
  const std::int64_t rows = layer.load[expert];
  return fmt::format("layer {}, expert {}: {} row{}, {:.2f} × mean", layer.layer, expert, rows, rows == 1 ? "" : "s",
                     over_mean(layer, rows));
}

void add_head(Page& page, const ModelRun& run) {
  const std::string name = escape(run.model.model_type);
  page.add(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Switchyard: {}</title>\n<style>{}</style>\n</head>\n<body>\n<header><h1>Switchyard: {}</h1>\n",
      name, kStyle, name);
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

// Rows are layers, columns experts; one scale for all, so that layers compare.
void add_heat_map(Page& page, const ModelRun& run) {
  double most = 0;
  for (const LayerRun& layer : run.layers) most = std::max(most, over_mean(layer, layer.max_load()));
  page.add("<section><h2>Load per expert and layer</h2>\n<div class=\"scroll\"><div class=\"heat\">\n");
  for (const LayerRun& layer : run.layers) {
    page.add(
        "<span>layer {}</span><svg role=\"img\" aria-label=\"load of layer {}\" viewBox=\"0 0 {} 1\" "
        "preserveAspectRatio=\"none\" height=\"24\" style=\"min-width:{}px\">",
        layer.layer, layer.layer, layer.load.size(), layer.load.size() * kCellPixels);
    for (std::size_t e = 0; e < layer.load.size(); ++e) {
      const double share = most > 0 ? over_mean(layer, layer.load[e]) / most : 0;
      const std::string look =
          layer.load[e] == 0 ? "class=\"off\"" : fmt::format("fill-opacity=\"{:.3f}\"", 0.04 + 0.96 * share);
      page.add("<rect x=\"{}\" width=\".9\" height=\"1\" {}><title>{}</title></rect>", e, look, cell_title(layer, e));
    }
    page.add("</svg>\n");
  }
  page.add(
      "</div></div>\n<p class=\"soft\">One row per layer, one column per expert, expert 0 on the left. Brown: not "
      "used.</p>\n<div class=\"scale\"></div><div class=\"ends\" style=\"max-width:20rem\"><span>0</span>"
      "<span>{:.2f} × the layer’s mean</span></div></section>\n",
      most);
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
             kBarHeight - height, height, cell_title(layer, e));
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
  add_heat_map(page, run);
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
  page.add("<footer class=\"soft\"><p>switchyard {}.{}.{}</p></footer>\n</body>\n</html>\n", SWITCHYARD_VERSION_MAJOR,
           SWITCHYARD_VERSION_MINOR, SWITCHYARD_VERSION_PATCH);
  return page.text();
}

}  // namespace

void write_report(const std::filesystem::path& path, const ModelRun& run, const std::optional<BenchResult>& bench) {
  const std::string text = page_text(run, bench);
  write_file(path, "report", {std::as_bytes(std::span(text))});
}

}  // namespace switchyard::cli
