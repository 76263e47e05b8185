// Works of the record that stand beside a layer and a trainer: capture and export.
#include <cstring>
#include <memory>

#include "../tests/cases.hpp"
#include "bench_record.hpp"
#include "random_layer.hpp"
#include "switchyard/capture.hpp"
#include "switchyard/record_export.hpp"

namespace switchyard::cli {
namespace {

constexpr std::int32_t kLayers = 48;

RecordSchema schema_of(std::int32_t experts, std::int32_t topk) {
  RecordSchema schema;
  schema.experts = experts;
  schema.topk = topk;
  for (std::int32_t l = 0; l < kLayers; ++l) schema.layers.push_back(l);
  return schema;
}

}  // namespace

// 64 sequences that decode a token each: as many lookups as there can be.
RecordWork make_capture_work() {
  static constexpr std::int64_t kTokens = 64;
  static constexpr std::int64_t kPositions = 1024;
  static constexpr LayerCase kShape = kBenchCases[4];
  struct State {
    Layer layer =
        RandomLayers({kShape.hidden, kShape.ffn, kShape.experts, kShape.topk}, Format::f32, DType::f32, Threads())
            .make();
    std::vector<std::byte> x = random_values(kTokens * kShape.hidden, DType::f32, 1, 3, Threads());
    std::vector<std::byte> y = x;
    Workspace workspace = Workspace(layer.workspace_bytes(kTokens));
    Capture capture = Capture(schema_of(kShape.experts, kShape.topk));
    std::vector<CaptureSpan> spans;
    Routing routing;
    std::int64_t calls = 0;
  };
  const auto state = std::make_shared<State>();
  for (std::int64_t s = 0; s < kTokens; ++s) {
    state->spans.push_back({s, 0, 1});
    state->capture.reserve(s, kPositions);
  }
  const auto forward = [state] {
    state->routing = state->layer
                         .forward({state->x.data(), DType::f32, kTokens, kShape.hidden},
                                  {state->y.data(), DType::f32, kTokens, kShape.hidden}, state->workspace)
                         .routing;
  };
  forward();
  const auto append = [state] {
    const std::int64_t position = state->calls / kLayers % kPositions;
    for (CaptureSpan& span : state->spans) span.position = position;
    state->capture.append(static_cast<std::int32_t>(state->calls++ % kLayers), state->routing, state->spans);
  };
  return {static_cast<double>(kTokens * kShape.topk), append, "the layer's forward", forward};
}

RecordWork make_export_work() {
  static constexpr std::int64_t kTokens = 8192;
  constexpr std::int32_t kTopk = 8;
  struct State {
    RecordSchema schema = schema_of(128, kTopk);
    std::vector<std::byte> rows = std::vector<std::byte>(kTokens * record_row_bytes(schema));
    std::vector<RecordRows> batch;
    ExportOptions options;
    std::vector<std::byte> ids;
    std::vector<std::byte> from;
    std::vector<std::uint8_t> states;
  };
  const auto state = std::make_shared<State>();
  for (std::size_t i = 0; i < state->rows.size(); ++i) state->rows[i] = static_cast<std::byte>((i / 8 + i) % 128);
  const std::size_t row_bytes = record_row_bytes(state->schema);
  const auto read = [from = state->rows.data(), row_bytes](std::int64_t begin, std::int64_t end, void* to) {
    std::memcpy(to, from + static_cast<std::size_t>(begin) * row_bytes,
                static_cast<std::size_t>(end - begin) * row_bytes);
  };
  state->batch.emplace_back(RowSource{kTokens, read});
  state->options.dtype = DType::i16;
  const ExportLayout layout = export_layout(state->schema, std::vector<std::int64_t>{kTokens}, state->options);
  state->ids.resize(layout.bytes);
  state->from.assign(layout.bytes, std::byte{1});
  state->states.resize(static_cast<std::size_t>(layout.rows));
  const auto run = [state] {
    export_rows(state->schema, state->batch, state->options, state->ids.data(), state->ids.size(), state->states);
  };
  return {static_cast<double>(layout.bytes), run, "memcpy of the bytes",
          [state] { std::memcpy(state->ids.data(), state->from.data(), state->ids.size()); }};
}

}  // namespace switchyard::cli
