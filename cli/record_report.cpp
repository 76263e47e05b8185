// The page of `switchyard record stats --report`.
#include <algorithm>
#include <span>

#include "files.hpp"
#include "page.hpp"
#include "record.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

constexpr std::size_t kShownRows = 200;  // of a table: the rest is counted
constexpr int kBarHeight = 120;

void add_facts(Page& page, const StoreStats& store) {
  page.add("<section><h2>Store</h2>\n<dl>\n");
  page.fact("sequences", fmt::format("{}", store.sequences));
  page.fact("rows", fmt::format("{}", store.rows));
  page.fact("spans", fmt::format("{}", store.spans));
  page.fact("conflicts", fmt::format("{}", store.conflicts));
  page.fact("file", bytes_text(static_cast<double>(store.file_bytes)));
  page.fact("ids", bytes_text(static_cast<double>(store.raw_bytes())));
  page.fact("ids as stored", bytes_text(static_cast<double>(store.bytes())));
  page.add("</dl>\n");
  std::vector<std::vector<std::string>> rows;
  for (const EncodingStats& encoding : store.encodings) {
    const double ratio =
        static_cast<double>(encoding.bytes) / static_cast<double>(std::max<std::int64_t>(1, encoding.raw_bytes));
    rows.push_back({record_encoding_name(encoding.encoding), fmt::format("{}", encoding.blobs),
                    bytes_text(static_cast<double>(encoding.bytes)), fmt::format("{:.3f}", ratio)});
  }
  page.table({"encoding", "blobs", "stored", "of its ids"}, rows);
  page.add("</section>\n");
}

void add_imbalance(Page& page, const SchemaNumbers& schema) {
  double most = 1;
  for (const PositionPart& part : schema.parts) most = std::max(most, part.imbalance);
  page.add(
      "<section><h2>Imbalance over time</h2>\n<svg role=\"img\" aria-label=\"imbalance by position\" "
      "viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" height=\"{}\">",
      std::max<std::size_t>(1, schema.parts.size()), kBarHeight, kBarHeight);
  for (std::size_t i = 0; i < schema.parts.size(); ++i) {
    const PositionPart& part = schema.parts[i];
    const double height = part.imbalance * kBarHeight / most;
    page.add(
        "<rect x=\"{}\" y=\"{:.2f}\" width=\".9\" height=\"{:.2f}\"><title>positions {}-{}: {} rows, "
        "{:.2f}</title></rect>",
        i, kBarHeight - height, height, part.begin, part.end - 1, part.rows, part.imbalance);
  }
  page.add("</svg>\n");
  if (!schema.parts.empty()) {
    page.add("<div class=\"ends\"><span>position 0</span><span>{}</span></div>\n", schema.parts.back().end - 1);
  }
  page.add(
      "<p class=\"soft\">Rows of the busiest expert over the mean, averaged over the layers; the highest bar is "
      "{:.2f}, and 1 would be even.</p></section>\n",
      most);
}

void add_rest(Page& page, std::size_t all) {
  if (all > kShownRows) page.add("<p class=\"soft\">and {} more</p>\n", all - kShownRows);
}

void add_runs(Page& page, const SchemaNumbers& schema) {
  page.add("<section><h2>Runs of equal rows</h2>\n");
  if (schema.runs.empty()) {
    page.add("<p class=\"good\">No row is the same for more than 8 positions.</p></section>\n");
    return;
  }
  page.add("<p class=\"bad\">More than 8 equal rows look like a capture that stopped working.</p>\n");
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < std::min(kShownRows, schema.runs.size()); ++i) {
    const EqualRun& run = schema.runs[i];
    rows.push_back({run.sequence, fmt::format("{}", run.begin), fmt::format("{}", run.rows)});
  }
  page.table({"sequence", "first position", "rows"}, rows);
  add_rest(page, schema.runs.size());
  page.add("</section>\n");
}

void add_sequences(Page& page, const SchemaNumbers& schema) {
  page.add("<section><h2>Sequences</h2>\n<p>{} rows, {} missing.</p>\n", schema.rows, schema.missing);
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < std::min(kShownRows, schema.sequences.size()); ++i) {
    const SequenceNumbers& s = schema.sequences[i];
    rows.push_back({s.sequence.key, fmt::format("{}", s.sequence.policy_version), fmt::format("{}", s.sequence.rows),
                    fmt::format("{}", s.sequence.rows - s.sequence.observed), fmt::format("{}", s.inherited),
                    fmt::format("{}", s.repeated), fmt::format("{}", s.sequence.conflicts)});
  }
  page.table({"sequence", "policy version", "rows", "missing", "of parents", "as another's", "conflicts"}, rows);
  add_rest(page, schema.sequences.size());
  page.add(
      "<p class=\"soft\">Of parents: rows of a sequence that this one continues. As another’s: own rows that another "
      "sequence has at the same position.</p></section>\n");
}

}  // namespace

void write_record_report(const std::filesystem::path& path, const RecordOptions& options,
                         const RecordNumbers& numbers) {
  Page page;
  page.begin(options.store.filename().string());
  page.add("<p class=\"soft\">Which experts the tokens used.</p></header>\n");
  add_facts(page, numbers.store);
  for (const SchemaNumbers& schema : numbers.schemas) {
    page.add("<section><h2>Model</h2>\n<dl>\n");
    page.fact("fingerprint", schema.schema.model);
    page.fact("experts", fmt::format("{}, {} per token", schema.schema.experts, schema.schema.topk));
    page.fact("layers", ranges_text(schema.schema.layers));
    page.fact("slots", schema.schema.order == SlotOrder::kept ? "as routed" : "ascending");
    page.add("</dl></section>\n");
    std::vector<LayerLoad> loads;
    for (std::size_t l = 0; l < schema.load.size(); ++l) loads.push_back({schema.schema.layers[l], schema.load[l]});
    add_heat_map(page, loads);
    add_imbalance(page, schema);
    add_runs(page, schema);
    add_sequences(page, schema);
  }
  page.end();
  write_file(path, "report", {std::as_bytes(std::span(page.text()))});
}

}  // namespace switchyard::cli
