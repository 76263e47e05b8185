// `switchyard record`: what is in a store, is it whole, and make it small.
#include "record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "files.hpp"
#include "progress.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kShownRuns = 10;

double percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? 100 * static_cast<double>(part) / static_cast<double>(whole) : 0;
}

const char* order_name(SlotOrder order) { return order == SlotOrder::kept ? "kept" : "canonical"; }

std::string schema_text(const RecordSchema& schema) {
  return fmt::format("E {}, K {}, layers {}, order {}{}{}", schema.experts, schema.topk, ranges_text(schema.layers),
                     order_name(schema.order), schema.model.empty() ? "" : ", model ", schema.model);
}

Json schema_json(const RecordSchema& schema) {
  return {{"experts", schema.experts},
          {"topk", schema.topk},
          {"layers", schema.layers},
          {"order", order_name(schema.order)},
          {"model", schema.model}};
}

Json sequence_json(const RecordSequence& sequence) {
  Json json{{"id", sequence.id},
            {"key", sequence.key},
            {"policy_version", sequence.policy_version},
            {"rows", sequence.rows},
            {"observed", sequence.observed},
            {"missing", sequence.rows - sequence.observed},
            {"conflicts", sequence.conflicts}};
  if (sequence.parent != 0) {
    json["parent"] = sequence.parent;
    json["parent_rows"] = sequence.parent_rows;
  }
  return json;
}

Json store_json(const StoreStats& stats) {
  Json json{{"sequences", stats.sequences},  {"spans", stats.spans},           {"rows", stats.rows},
            {"conflicts", stats.conflicts},  {"raw_bytes", stats.raw_bytes()}, {"bytes", stats.bytes()},
            {"file_bytes", stats.file_bytes}};
  json["encodings"] = Json::array();
  for (const EncodingStats& encoding : stats.encodings) {
    json["encodings"].push_back({{"encoding", record_encoding_name(encoding.encoding)},
                                 {"blobs", encoding.blobs},
                                 {"bytes", encoding.bytes},
                                 {"raw_bytes", encoding.raw_bytes}});
  }
  return json;
}

std::string store_text(const StoreStats& stats) {
  const double ratio =
      stats.raw_bytes() > 0 ? static_cast<double>(stats.bytes()) / static_cast<double>(stats.raw_bytes()) : 1;
  return fmt::format("{} sequence{}, {} rows in {} spans, {}: {} of ids in {} ({:.3f}), {} conflicts\n",
                     stats.sequences, stats.sequences == 1 ? "" : "s", stats.rows, stats.spans,
                     bytes_text(static_cast<double>(stats.file_bytes)),
                     bytes_text(static_cast<double>(stats.raw_bytes())), bytes_text(static_cast<double>(stats.bytes())),
                     ratio, stats.conflicts);
}

void show(const RecordOptions& options, const RecordStore& store) {
  const std::vector<RecordSequence> sequences = store.sequences();
  if (options.json) {
    Json json{{"path", options.store.string()}, {"store", store_json(store.stats())}, {"sequences", Json::array()}};
    for (const RecordSequence& sequence : sequences) {
      Json entry = sequence_json(sequence);
      entry["schema"] = schema_json(store.schema(sequence.id));
      json["sequences"].push_back(std::move(entry));
    }
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("{}: {}", options.store.string(), store_text(store.stats()));
  std::map<std::int64_t, std::string> keys;
  std::vector<RecordSchema> schemas;
  std::vector<TextTable> tables;
  for (const RecordSequence& sequence : sequences) {
    keys[sequence.id] = sequence.key;
    const RecordSchema schema = store.schema(sequence.id);
    auto at = static_cast<std::size_t>(std::find(schemas.begin(), schemas.end(), schema) - schemas.begin());
    if (at == schemas.size()) {
      schemas.push_back(schema);
      tables.emplace_back(std::vector<std::string>{"sequence", "version", "continues", "rows", "missing", "conflicts"});
    }
    std::string parent = "-";
    if (sequence.parent != 0) {
      const auto known = keys.find(sequence.parent);
      parent = fmt::format("{} at {}", known == keys.end() ? "(removed)" : known->second, sequence.parent_rows);
    }
    tables[at].add({sequence.key, fmt::format("{}", sequence.policy_version), parent, fmt::format("{}", sequence.rows),
                    fmt::format("{}", sequence.rows - sequence.observed), fmt::format("{}", sequence.conflicts)});
  }
  for (std::size_t i = 0; i < schemas.size(); ++i) fmt::print("\n{}\n{}", schema_text(schemas[i]), tables[i].text());
}

Json numbers_json(const RecordNumbers& numbers) {
  Json json{{"store", store_json(numbers.store)}, {"schemas", Json::array()}};
  for (const SchemaNumbers& schema : numbers.schemas) {
    Json entry{{"schema", schema_json(schema.schema)},
               {"rows", schema.rows},
               {"missing", schema.missing},
               {"load", schema.load},
               {"parts", Json::array()},
               {"runs", Json::array()},
               {"sequences", Json::array()}};
    for (const PositionPart& part : schema.parts) {
      entry["parts"].push_back(
          {{"begin", part.begin}, {"end", part.end}, {"rows", part.rows}, {"imbalance", part.imbalance}});
    }
    for (const EqualRun& run : schema.runs) {
      entry["runs"].push_back({{"sequence", run.sequence}, {"begin", run.begin}, {"rows", run.rows}});
    }
    for (const SequenceNumbers& sequence : schema.sequences) {
      Json one = sequence_json(sequence.sequence);
      one["inherited"] = sequence.inherited;
      one["repeated"] = sequence.repeated;
      entry["sequences"].push_back(std::move(one));
    }
    json["schemas"].push_back(std::move(entry));
  }
  return json;
}

void print_schema(const SchemaNumbers& schema) {
  fmt::print("\n{}\n{} rows, {} missing\n", schema_text(schema.schema), schema.rows, schema.missing);
  for (std::size_t l = 0; l < schema.load.size(); ++l) {
    const auto& load = schema.load[l];
    const auto most = std::max_element(load.begin(), load.end());
    fmt::print("  layer {:<3} {}  most {:.1f} % of the rows (expert {})\n", schema.schema.layers[l],
               load.size() <= 128 ? bars_text(load) : "", percent(*most, schema.rows), most - load.begin());
  }
  std::int64_t inherited = 0;
  std::int64_t repeated = 0;
  for (const SequenceNumbers& sequence : schema.sequences) {
    inherited += sequence.inherited;
    repeated += sequence.repeated;
  }
  fmt::print("shared: {} rows of parents, {} rows that another sequence has at the same position\n", inherited,
             repeated);
  if (schema.runs.empty()) return;
  fmt::print("suspicious: {} runs of more than 8 equal rows\n", schema.runs.size());
  for (std::size_t i = 0; i < std::min(kShownRuns, schema.runs.size()); ++i) {
    const EqualRun& run = schema.runs[i];
    fmt::print("  {} positions {}-{}\n", run.sequence, run.begin, run.begin + run.rows - 1);
  }
}

void stats(const RecordOptions& options, const RecordStore& store) {
  if (!options.report.empty()) check_writable(options.report, "record");
  const RecordNumbers numbers = count_record(store);
  if (options.json) {
    fmt::print("{}\n", numbers_json(numbers).dump(2));
  } else {
    fmt::print("{}", store_text(numbers.store));
    TextTable table({"encoding", "blobs", "stored", "ratio"});
    for (const EncodingStats& encoding : numbers.store.encodings) {
      table.add({record_encoding_name(encoding.encoding), fmt::format("{}", encoding.blobs),
                 bytes_text(static_cast<double>(encoding.bytes)),
                 fmt::format("{:.3f}", percent(encoding.bytes, encoding.raw_bytes) / 100)});
    }
    if (!numbers.store.encodings.empty()) fmt::print("{}", table.text());
    for (const SchemaNumbers& schema : numbers.schemas) print_schema(schema);
  }
  if (options.report.empty()) return;
  write_record_report(options.report, options, numbers);
  if (!options.json) fmt::print("\nreport: {}\n", options.report.string());
}

void verify(const RecordOptions& options, const RecordStore& store) {
  std::vector<StoreDamage> damages;
  {
    Progress progress("checking: span");
    damages = store.verify([&](std::int64_t done, std::int64_t of) { progress.show(done, of); });
  }
  if (options.json) {
    Json json{{"path", options.store.string()}, {"damages", Json::array()}};
    for (const StoreDamage& damage : damages) {
      json["damages"].push_back({{"sequence", damage.sequence},
                                 {"begin", damage.begin},
                                 {"end", damage.end},
                                 {"first_layer", damage.first_layer},
                                 {"last_layer", damage.last_layer},
                                 {"what", damage.what}});
    }
    fmt::print("{}\n", json.dump(2));
  } else {
    for (const StoreDamage& damage : damages) fmt::print("{}\n", damage.what);
    if (damages.empty()) fmt::print("{}: no damage\n", options.store.string());
  }
  if (!damages.empty()) {
    throw Error(Code::bad_data, fmt::format("record: {}: damaged in {} place{}, expected none", options.store.string(),
                                            damages.size(), damages.size() == 1 ? "" : "s"));
  }
}

void compact(const RecordOptions& options, RecordStore& store) {
  CompactResult result;
  {
    Progress progress("compacting: span");
    result = store.compact([&](std::int64_t done, std::int64_t of) { progress.show(done, of); });
  }
  if (options.json) {
    const Json json{{"dropped_rows", result.dropped_rows},
                    {"merged_spans", result.merged_spans},
                    {"damaged_spans", result.damaged_spans},
                    {"bytes_before", result.bytes_before},
                    {"bytes_after", result.bytes_after}};
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("{}: {} -> {}, {} spans merged, {} rows dropped, {} damaged spans left\n", options.store.string(),
             bytes_text(static_cast<double>(result.bytes_before)), bytes_text(static_cast<double>(result.bytes_after)),
             result.merged_spans, result.dropped_rows, result.damaged_spans);
}

}  // namespace

std::string free_key(const RecordStore& store, const std::string& name) {
  std::string key = name;
  for (int i = 2; store.find(key); ++i) key = fmt::format("{} {}", name, i);
  return key;
}

void record(const RecordOptions& options) {
  if (options.what == "export") return export_record(options);
  if (options.what == "import") return import_record(options);
  const bool writes = options.what == "compact";
  RecordStore store = RecordStore::open(options.store, {.access = writes ? StoreAccess::write : StoreAccess::read});
  if (options.what == "show") show(options, store);
  if (options.what == "stats") stats(options, store);
  if (options.what == "verify") verify(options, store);
  if (options.what == "compact") compact(options, store);
}

}  // namespace switchyard::cli
