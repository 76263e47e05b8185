// `switchyard run --record`: what the layers routed, as a sequence of a store.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "files.hpp"
#include "record.hpp"

namespace switchyard::cli {
namespace {

// What tells two models apart as far as their routing goes.
std::string fingerprint(const ModelInfo& model) {
  return fmt::format("{} E {} K {} H {} F {}", model.model_type, model.experts, model.router.topk, model.hidden,
                     model.ffn);
}

}  // namespace

void check_record_run(const RunOptions& options) {
  check_writable(options.record, "run");
  if (std::filesystem::exists(options.record)) RecordStore::open(options.record, {.access = StoreAccess::write});
}

std::string record_run(const RunOptions& options, const ModelRun& run) {
  const LayerRun& first = run.layers.front();
  RecordSchema schema{
      run.model.experts + run.model.identity_experts, first.topk, {}, SlotOrder::kept, fingerprint(run.model)};
  for (const LayerRun& layer : run.layers) {
    if (layer.tokens != first.tokens || layer.topk != first.topk) {
      throw Error(
          Code::invalid_argument,
          fmt::format("run: --record: layer {} has {} tokens and K {}, layer {} has {} and {}, expected the same",
                      layer.layer, layer.tokens, layer.topk, first.layer, first.tokens, first.topk));
    }
    schema.layers.push_back(layer.layer);
  }
  const auto rows = static_cast<std::size_t>(first.tokens);
  const std::size_t row_bytes = record_row_bytes(schema);
  const std::size_t id_bytes = dtype_bytes(record_id_type(schema));
  const auto topk = static_cast<std::size_t>(schema.topk);
  std::vector<std::byte> ids(rows * row_bytes);
  std::vector<std::uint8_t> observed(rows, 1);
  for (std::size_t l = 0; l < run.layers.size(); ++l) {
    for (std::size_t i = 0; i < rows * topk; ++i) {
      const std::int32_t expert = run.layers[l].expert[i];
      if (expert < 0) observed[i / topk] = 0;  // a slot that is off
      const auto id = static_cast<std::uint16_t>(std::max(expert, 0));
      std::memcpy(ids.data() + i / topk * row_bytes + (l * topk + i % topk) * id_bytes, &id, id_bytes);
    }
  }
  RecordStore store = RecordStore::open(options.record, {.access = StoreAccess::create});
  auto transaction = store.transaction();
  std::string key = free_key(store, options.input.filename().string());
  store.append(store.add_sequence(schema, key), 0, rows_in_memory(schema, ids.data(), first.tokens), observed);
  transaction.commit();
  return key;
}

}  // namespace switchyard::cli
