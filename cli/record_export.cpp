// `switchyard record export`: rows as arrays.
#include <fmt/format.h>

#include <cstring>
#include <deque>
#include <span>

#include "files.hpp"
#include "npy.hpp"
#include "progress.hpp"
#include "record.hpp"
#include "switchyard/tensor_file.hpp"

namespace switchyard::cli {
namespace {

struct Rows {
  RecordSchema schema;
  std::int64_t count = 0;
  std::int64_t layers = 0;
  std::vector<std::byte> ids;
  std::vector<std::uint8_t> valid;
};

Rows read_rows(const RecordStore& store, const RecordSequence& sequence, const RecordOptions& options,
               RecordLayout layout) {
  Rows rows{store.schema(sequence.id), sequence.rows, 0, {}, {}};
  rows.layers = static_cast<std::int64_t>(options.layers.empty() ? rows.schema.layers.size() : options.layers.size());
  const std::size_t set_bytes = record_row_bytes(rows.schema) / rows.schema.layers.size();
  rows.ids.resize(static_cast<std::size_t>(rows.count * rows.layers) * set_bytes);
  rows.valid.resize(static_cast<std::size_t>(rows.count));
  store.read(sequence.id, 0, rows.count, options.layers, layout, rows.ids.data(), rows.valid.data());
  return rows;
}

void export_npy(const RecordStore& store, const RecordSequence& sequence, const RecordOptions& options) {
  const Rows rows = read_rows(store, sequence, options, RecordLayout::rows_first);
  const std::int64_t shape[] = {rows.count, rows.layers, rows.schema.topk};
  const auto row_ids = static_cast<std::size_t>(rows.layers * rows.schema.topk);
  const std::size_t id_bytes = dtype_bytes(record_id_type(rows.schema));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(rows.count) * row_ids, -1);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (rows.valid[i / row_ids] == 0) continue;
    std::uint16_t id = 0;
    std::memcpy(&id, rows.ids.data() + i * id_bytes, id_bytes);
    ids[i] = id;
  }
  write_npy(options.output, shape, ids);
}

void export_safetensors(const RecordStore& store, std::span<const RecordSequence> sequences,
                        const RecordOptions& options) {
  std::deque<Rows> all;
  std::vector<Tensor> tensors;
  Progress progress("reading: sequence");
  for (const RecordSequence& sequence : sequences) {
    progress.show(static_cast<std::int64_t>(all.size()), static_cast<std::int64_t>(sequences.size()));
    const Rows& rows = all.emplace_back(read_rows(store, sequence, options, RecordLayout::layers_first));
    tensors.push_back({sequence.key + ".expert",
                       record_id_type(rows.schema),
                       {rows.layers, rows.count, rows.schema.topk},
                       rows.ids.data(),
                       rows.ids.size()});
    tensors.push_back({sequence.key + ".observed",
                       DType::boolean,
                       {rows.count},
                       reinterpret_cast<const std::byte*>(rows.valid.data()),
                       rows.valid.size()});
  }
  write_safetensors(options.output, tensors);
}

}  // namespace

void export_record(const RecordOptions& options) {
  const bool npy = options.output.extension() == ".npy";
  if (!npy && options.output.extension() != ".safetensors") {
    throw Error(Code::invalid_argument,
                fmt::format("record: --output {}, expected a .npy or .safetensors file", options.output.string()));
  }
  check_writable(options.output, "record");
  const RecordStore store = RecordStore::open(options.store);
  std::vector<RecordSequence> sequences;
  if (options.sequence.empty()) {
    sequences = store.sequences();
  } else if (const auto found = store.find(options.sequence)) {
    sequences = {*found};
  } else {
    throw Error(Code::invalid_argument,
                fmt::format("record: {}: no sequence '{}', expected one that `record show` lists",
                            options.store.string(), options.sequence));
  }
  if (npy && sequences.size() != 1) {
    throw Error(Code::invalid_argument,
                fmt::format("record: {} sequences for an .npy output, expected one --sequence", sequences.size()));
  }
  npy ? export_npy(store, sequences.front(), options) : export_safetensors(store, sequences, options);
  fmt::print("written: {} ({} sequence{})\n", options.output.string(), sequences.size(),
             sequences.size() == 1 ? "" : "s");
}

}  // namespace switchyard::cli
