// What layers routed, batch by batch, as rows of sequences.
#include "switchyard/capture.hpp"

#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "made_layer.hpp"
#include "position_rows.hpp"
#include "switchyard/record_tree.hpp"

namespace {

using namespace position_rows;

using Spans = std::vector<CaptureSpan>;

// Appends rows of `source_of` as if a layer had routed so.
void append(Capture& capture, std::size_t layer, const Spans& spans, std::int64_t salt = 0) {
  const RecordSchema& schema = capture.schema();
  std::vector<std::int32_t> ids;
  std::int64_t tokens = 0;
  for (const CaptureSpan& span : spans) {
    tokens += span.tokens;
    for (std::int64_t t = 0; t < span.tokens; ++t) {
      for (std::int32_t s = 0; s < schema.topk; ++s) {
        const std::int64_t id = id_of(schema, span.position + t, static_cast<std::int64_t>(layer), s, salt);
        ids.push_back(static_cast<std::int32_t>(id));
      }
    }
  }
  capture.append(schema.layers[layer], {tokens, schema.topk, ids.data(), nullptr}, spans);
}

void append_all(Capture& capture, const Spans& spans, std::int64_t salt = 0) {
  for (std::size_t l = 0; l < capture.schema().layers.size(); ++l) append(capture, l, spans, salt);
}

TEST(Capture, HasWhatLayersRouted) {
  const LayerCase& shape = kTestCases[1];
  const RecordSchema schema = {shape.experts, shape.topk, {2, 3, 7}, SlotOrder::kept, ""};
  std::vector<Layer> layers;
  for (unsigned seed = 0; seed < 3; ++seed) {
    const made::Weights weights(shape, made::Shared::none, seed);
    layers.push_back(weights.layer({.topk = shape.topk}, {}));
  }
  Capture capture(schema);
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, std::vector<std::int32_t>> wanted;
  // Prompts in chunks between decoded tokens, and padding.
  const std::vector<Spans> batches = {
      {{5, 0, 9}}, {{5, 9, 1}, {8, 0, 4}}, {{8, 4, 4}, {-1, 0, 2}, {5, 10, 1}}, {}, {{5, 11, 1}, {8, 8, 1}}};
  std::mt19937 random(1);
  for (const Spans& spans : batches) {
    std::int64_t tokens = 0;
    for (const CaptureSpan& span : spans) tokens += span.tokens;
    const made::Rows x(DType::f32, made::random_table(tokens, shape.hidden, 1.0, random));
    for (std::size_t l = 0; l < layers.size(); ++l) {
      made::Rows y(DType::f32, tokens, shape.hidden);
      const Workspace workspace(layers[l].workspace_bytes(tokens));
      const ForwardResult result = layers[l].forward(x.view(), y.view(), workspace);
      capture.append(schema.layers[l], result.routing, spans);
      const std::int32_t* ids = result.routing.expert;
      for (const CaptureSpan& span : spans) {
        for (std::int64_t t = 0; t < span.tokens; ++t, ids += shape.topk) {
          wanted[{span.sequence, span.position + t, static_cast<std::int64_t>(l)}].assign(ids, ids + shape.topk);
        }
      }
    }
  }
  EXPECT_EQ(capture.sequences(), (std::vector<std::int64_t>{5, 8}));
  for (const auto& [sequence, length] : {std::pair{5, 12}, {8, 9}}) {
    const RecordRows rows = capture.rows(sequence);
    ASSERT_EQ(rows.source.rows, length);
    EXPECT_EQ(rows.observed, std::vector<std::uint8_t>(static_cast<std::size_t>(length), 1));
    const std::vector<Row> found = read_all(schema, rows.source);
    for (std::int64_t p = 0; p < length; ++p) {
      for (std::size_t i = 0; i < 9; ++i) {
        const auto id = wanted.at({sequence, p, static_cast<std::int64_t>(i / 3)})[i % 3];
        ASSERT_EQ(static_cast<std::int32_t>(found[static_cast<std::size_t>(p)][i]), id);
      }
    }
  }
}

TEST(Capture, RowsAreThereWhenAllLayersAre) {
  // More layers than bits of a word.
  std::vector<std::int32_t> layers;
  for (std::int32_t l = 0; l < 70; ++l) layers.push_back(2 * l);
  Capture capture(schema_of(300, 3, layers));
  const Spans spans = {{0, 0, 3}};
  for (std::size_t l = 0; l < 70; ++l) {
    append(capture, 69 - l, spans);
    EXPECT_EQ(capture.rows(0).observed, std::vector<std::uint8_t>(3, l == 69 ? 1 : 0));
  }
  const std::vector<Row> rows = read_all(capture.schema(), capture.rows(0).source);
  for (std::int64_t p = 0; p < 3; ++p) {
    EXPECT_EQ(rows[static_cast<std::size_t>(p)], row_of(capture.schema(), p));
  }
  // A position that runs again starts over.
  append(capture, 0, {{0, 1, 1}}, 1);
  EXPECT_EQ(capture.rows(0).observed, (std::vector<std::uint8_t>{1, 0, 1}));
  for (std::size_t l = 1; l < 70; ++l) append(capture, l, {{0, 1, 1}}, 1);
  EXPECT_EQ(capture.rows(0).observed, std::vector<std::uint8_t>(3, 1));
  EXPECT_EQ(read_all(capture.schema(), capture.rows(0).source)[1], row_of(capture.schema(), 1, 1));
}

TEST(Capture, ASlotThatIsOffMakesARowMissing) {
  Capture capture(schema_of(16, 2, {0, 1}));
  std::vector<std::int32_t> holes = {1, 2, -1, 3, 4, 5};
  capture.append(0, {3, 2, holes.data(), nullptr}, Spans{{0, 0, 3}});
  append(capture, 1, {{0, 0, 3}});
  EXPECT_EQ(capture.rows(0).observed, (std::vector<std::uint8_t>{1, 0, 1}));
}

TEST(Capture, LongSequencesWithGaps) {
  Capture capture(schema_of(256, 4));
  append_all(capture, {{3, 250, 300}, {9, 700, 1}});
  append_all(capture, {{3, 0, 5}});
  const RecordRows rows = capture.rows(3);
  ASSERT_EQ(rows.source.rows, 550);
  for (std::int64_t p = 0; p < 550; ++p) EXPECT_EQ(rows.is_observed(p), p < 5 || p >= 250) << p;
  std::vector<std::byte> bytes(300 * record_row_bytes(capture.schema()));
  rows.source.read(250, 550, bytes.data());
  std::vector<std::byte> wanted(bytes.size());
  source_of(capture.schema(), 250, 300).read(0, 300, wanted.data());
  EXPECT_EQ(bytes, wanted);
  EXPECT_EQ(capture.rows(9).source.rows, 701);
}

TEST(Capture, GrowsByBlocksAndForgets) {
  Capture capture(schema_of(256, 4));
  EXPECT_EQ(capture.bytes(), 0U);
  capture.reserve(1, 600);
  const std::size_t reserved = capture.bytes();
  EXPECT_GE(reserved, 600 * record_row_bytes(capture.schema()));
  append_all(capture, {{1, 0, 600}});
  EXPECT_EQ(capture.bytes(), reserved);
  append_all(capture, {{2, 0, 1}});
  EXPECT_GT(capture.bytes(), reserved);
  capture.forget(2);
  EXPECT_EQ(capture.bytes(), reserved);
  EXPECT_EQ(error_of([&] { (void)capture.rows(2); }),
            "invalid argument: capture: found sequence 2, expected one of the 1 that are captured");
}

TEST(Capture, SortsSlotsOfACanonicalSchema) {
  RecordSchema schema = schema_of(300, 3, {0});
  schema.order = SlotOrder::canonical;
  Capture capture(schema);
  std::vector<std::int32_t> ids = {299, 7, 256};
  capture.append(0, {1, 3, ids.data(), nullptr}, Spans{{0, 0, 1}});
  std::uint16_t row[3] = {};
  capture.rows(0).source.read(0, 1, row);
  EXPECT_EQ(std::vector<std::uint16_t>(row, row + 3), (std::vector<std::uint16_t>{7, 256, 299}));
}

TEST(Capture, NamesWhatDoesNotFitAndCapturesNothing) {
  Capture capture(schema_of(16, 2, {0, 3}));
  std::vector<std::int32_t> ids = {1, 2, 3, 4};
  const Routing routing{2, 2, ids.data(), nullptr};
  const auto error = [&](std::int32_t layer, const Routing& of, const Spans& spans) {
    return error_of([&] { capture.append(layer, of, spans); });
  };
  EXPECT_EQ(error(1, routing, {{0, 0, 2}}), "invalid argument: capture: found layer 1, expected one of the schema's 2");
  EXPECT_EQ(error(0, {1, 4, ids.data(), nullptr}, {{0, 0, 1}}),
            "invalid argument: capture: layer 0 routed 1 tokens to 4 experts with ids, expected 2 and ids");
  EXPECT_EQ(error(0, routing, {{0, 0, 1}}),
            "invalid argument: capture: spans have 1 tokens, expected the 2 that layer 0 routed");
  EXPECT_NE(error(0, routing, {{0, 0, 1}, {1, 0, 2}}), "");
  EXPECT_EQ(error(0, routing, {{0, -1, 2}}),
            "invalid argument: capture: span 0 has 2 tokens from position -1, expected 0..1099511627776 of each");
  ids[3] = 16;
  EXPECT_EQ(error(0, routing, {{0, 0, 1}, {4, 7, 1}}),
            "bad data: capture: layer 0 token 1 slot 1 names expert 16, expected -1..15");
  EXPECT_EQ(error(0, routing, {{0, 0, 1}, {-1, 0, 1}}), "");  // nobody looks at padding
  EXPECT_EQ(capture.sequences(), std::vector<std::int64_t>{0});
  ids = {5, 5, 1, 1};
  capture.append(0, routing, Spans{{2, 40, 2}});
  capture.append(3, routing, Spans{{2, 40, 2}});
  const RecordRows rows = capture.rows(2);
  std::byte row[4];
  EXPECT_EQ(error_of([&] { rows.source.read(41, 42, row); }),
            "bad data: record: row 41 layer 0 names expert 1 in slots 0 and 1, expected distinct experts");
}

TEST(Capture, GoesIntoATree) {
  Capture capture(schema_of());
  append_all(capture, {{0, 0, 6}});
  RecordTree tree(capture.schema());
  Turn turn;
  turn.nodes = {{4, 0, false}, {3, 0, true}};
  turn.rows = capture.rows(0);
  const std::int64_t leaf = tree.commit(turn).leaf;
  EXPECT_EQ(tree.branch(leaf).observed, (std::vector<std::uint8_t>{1, 1, 1, 1, 1, 1, 0}));
  // The next turn runs what follows, the last token of this one first.
  append_all(capture, {{0, 6, 4}});
  turn.parent = leaf;
  turn.nodes = {{4, 0, true}};
  turn.rows = capture.rows(0);
  const CommitResult result = tree.commit(turn);
  EXPECT_EQ(result.filled, 1);
  EXPECT_TRUE(result.conflicts.empty());
}

}  // namespace
