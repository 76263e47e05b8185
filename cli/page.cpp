#include "page.hpp"

#include <algorithm>
#include <numeric>

#include "switchyard/version.hpp"

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

}  // namespace

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

void Page::begin(std::string_view name) {
  const std::string safe = escape(name);
  add("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>Switchyard: {}</title>\n<style>{}</style>\n</head>\n<body>\n<header><h1>Switchyard: {}</h1>\n",
      safe, kStyle, safe);
}

void Page::fact(std::string_view name, std::string_view value) {
  add("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value));
}

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

void Page::end() {
  add("<footer class=\"soft\"><p>switchyard {}.{}.{}</p></footer>\n</body>\n</html>\n", SWITCHYARD_VERSION_MAJOR,
      SWITCHYARD_VERSION_MINOR, SWITCHYARD_VERSION_PATCH);
}

std::int64_t LayerLoad::most() const { return load.empty() ? 0 : *std::max_element(load.begin(), load.end()); }

double LayerLoad::mean() const {
  const auto rows = static_cast<double>(std::accumulate(load.begin(), load.end(), std::int64_t{0}));
  return load.empty() ? 0 : rows / static_cast<double>(load.size());
}

double LayerLoad::over_mean(std::int64_t rows) const { return mean() > 0 ? static_cast<double>(rows) / mean() : 0; }

std::string load_title(const LayerLoad& layer, std::size_t expert) {
  const std::int64_t rows = layer.load[expert];
  return fmt::format("layer {}, expert {}: {} row{}, {:.2f} × mean", layer.layer, expert, rows, rows == 1 ? "" : "s",
                     layer.over_mean(rows));
}

void add_heat_map(Page& page, std::span<const LayerLoad> layers) {
  double most = 0;
  for (const LayerLoad& layer : layers) most = std::max(most, layer.over_mean(layer.most()));
  page.add("<section><h2>Load per expert and layer</h2>\n<div class=\"scroll\"><div class=\"heat\">\n");
  for (const LayerLoad& layer : layers) {
    page.add(
        "<span>layer {}</span><svg role=\"img\" aria-label=\"load of layer {}\" viewBox=\"0 0 {} 1\" "
        "preserveAspectRatio=\"none\" height=\"24\" style=\"min-width:{}px\">",
        layer.layer, layer.layer, layer.load.size(), layer.load.size() * kCellPixels);
    for (std::size_t e = 0; e < layer.load.size(); ++e) {
      const double share = most > 0 ? layer.over_mean(layer.load[e]) / most : 0;
      const std::string look =
          layer.load[e] == 0 ? "class=\"off\"" : fmt::format("fill-opacity=\"{:.3f}\"", 0.04 + 0.96 * share);
      page.add("<rect x=\"{}\" width=\".9\" height=\"1\" {}><title>{}</title></rect>", e, look, load_title(layer, e));
    }
    page.add("</svg>\n");
  }
  page.add(
      "</div></div>\n<p class=\"soft\">One row per layer, one column per expert, expert 0 on the left. Brown: not "
      "used.</p>\n<div class=\"scale\"></div><div class=\"ends\" style=\"max-width:20rem\"><span>0</span>"
      "<span>{:.2f} × the layer’s mean</span></div></section>\n",
      most);
}

}  // namespace switchyard::cli
