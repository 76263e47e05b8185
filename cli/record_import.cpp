// `switchyard record import`: payloads of engines into a store.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <string_view>

#include "files.hpp"
#include "progress.hpp"
#include "record.hpp"
#include "switchyard/payload.hpp"
#include "text.hpp"

namespace switchyard::cli {
namespace {

RecordSchema make_schema(const RecordOptions& options, const Payload& payload) {
  RecordSchema schema{options.experts, options.topk, options.layers, options.order, options.model};
  if (schema.topk == 0) schema.topk = static_cast<std::int32_t>(payload.topk);
  if (schema.layers.empty()) schema.layers = payload.layer_ids;
  if (schema.layers.empty()) {
    schema.layers.resize(static_cast<std::size_t>(payload.layers));
    std::iota(schema.layers.begin(), schema.layers.end(), 0);
  }
  return schema;
}

struct Imported {
  std::string key;
  std::int64_t start = 0;
  std::int64_t missing = 0;
  std::int64_t zero = 0;
  AppendResult result;
};

Imported import_payload(RecordStore& store, const RecordOptions& options, const std::string& key,
                        const Payload& payload) {
  const RecordSchema schema = make_schema(options, payload);
  const RowSource source = rows_of(payload, schema);
  std::vector<RowState> states(static_cast<std::size_t>(payload.rows));
  row_states(payload, schema, 0, payload.rows, states.data());
  std::vector<std::uint8_t> observed(states.size());
  std::transform(states.begin(), states.end(), observed.begin(),
                 [](RowState state) { return state == RowState::observed ? std::uint8_t{1} : std::uint8_t{0}; });
  Imported imported;
  imported.key = key;
  imported.start = payload.start;
  imported.missing = std::count(states.begin(), states.end(), RowState::missing);
  imported.zero = std::count(states.begin(), states.end(), RowState::zero);
  const auto found = store.find(key);
  if (found && !(store.schema(found->id) == schema)) {
    throw Error(Code::invalid_argument,
                fmt::format("record: sequence '{}' has another schema than what is imported, expected the same", key));
  }
  const std::int64_t id =
      found ? found->id : store.add_sequence(schema, key, {.policy_version = options.policy_version});
  imported.result = store.append(id, payload.start, source, observed);
  return imported;
}

std::vector<FoundPayload> payloads_of(const RecordOptions& options, const std::filesystem::path& path,
                                      std::string_view bytes) {
  if (path.extension() == ".npy") {
    Payload payload = npy_payload(PayloadForm::raw, bytes);
    payload.start = options.start;
    return {{0, payload}};
  }
  PayloadHints hints;
  hints.layers = static_cast<std::int64_t>(options.layers.size());
  hints.topk = options.topk;
  hints.start = options.start;
  auto found = find_payloads(bytes, hints);
  if (found.empty()) {
    throw Error(Code::bad_data, fmt::format("record: {}: no routed experts in it, expected some", path.string()));
  }
  return found;
}

}  // namespace

void import_record(const RecordOptions& options) {
  RecordStore store = RecordStore::open(options.store, {.access = StoreAccess::create});
  auto transaction = store.transaction();
  TextTable table({"sequence", "start", "new rows", "known", "conflicts", "missing", "zero"});
  {
    Progress progress("importing: file");
    std::int64_t done = 0;
    for (const std::filesystem::path& path : options.files) {
      progress.show(done++, static_cast<std::int64_t>(options.files.size()));
      const std::vector<std::byte> bytes = read_file(path, "record");
      const auto payloads = payloads_of(options, path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      for (const FoundPayload& found : payloads) {
        std::string key = options.sequence.empty() ? path.filename().string() : options.sequence;
        if (found.choice > 0) key += fmt::format(" {}", found.choice);
        const Imported i = import_payload(store, options, key, found.payload);
        const auto text = [](std::int64_t number) { return fmt::format("{}", number); };
        table.add({i.key, text(i.start), text(i.result.stored), text(i.result.equal), text(i.result.conflicts),
                   text(i.missing), text(i.zero)});
      }
    }
  }
  transaction.commit();
  fmt::print("{}", table.text());
}

}  // namespace switchyard::cli
