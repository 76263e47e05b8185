// Payloads: every form, type and choice of layers against the ids they were made of, and every way to be damaged.
#include "switchyard/payload.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <thread>

#include "made_payload.hpp"

namespace {

using namespace made;

// The ids of the schema's layers, by plain code; `first_layer` is what the payload's layer 0 is called.
std::vector<std::int64_t> expected_rows(const Ids& ids, const RecordSchema& schema, std::int64_t begin,
                                        std::int64_t end, const std::vector<std::int32_t>& layer_ids) {
  std::vector<std::int64_t> expected;
  for (std::int64_t r = begin; r < end; ++r) {
    for (const std::int32_t layer : schema.layers) {
      const auto place = std::find(layer_ids.begin(), layer_ids.end(), layer) - layer_ids.begin();
      std::vector<std::int64_t> slots;
      for (std::int64_t s = 0; s < ids.topk; ++s) slots.push_back(ids.at(r, place, s));
      if (schema.order == SlotOrder::canonical) std::sort(slots.begin(), slots.end());
      expected.insert(expected.end(), slots.begin(), slots.end());
    }
  }
  return expected;
}

struct MadePayload {
  std::string text;
  Payload payload;  // of text
};

enum class Sent { raw, base64, npy, npy_base64, envelope, lists };
constexpr Sent kAllSent[] = {Sent::raw, Sent::base64, Sent::npy, Sent::npy_base64, Sent::envelope, Sent::lists};

void make(const Ids& ids, DType dtype, Sent sent, MadePayload& made) {
  const char* name = dtype == DType::u8    ? "uint8"
                     : dtype == DType::i8  ? "int8"
                     : dtype == DType::u16 ? "uint16"
                     : dtype == DType::i16 ? "int16"
                     : dtype == DType::i32 ? "int32"
                                           : "int64";
  switch (sent) {
    case Sent::raw:
      made.text = bytes_of(ids, dtype);
      made.payload = flat_payload(PayloadForm::raw, dtype, ids.layers, ids.topk, made.text);
      break;
    case Sent::base64:
      made.text = base64_of(bytes_of(ids, dtype));
      made.payload = flat_payload(PayloadForm::base64, dtype, ids.layers, ids.topk, made.text);
      break;
    case Sent::npy:
      made.text = npy_of(ids, dtype);
      made.payload = npy_payload(PayloadForm::raw, made.text);
      break;
    case Sent::npy_base64:
      made.text = base64_of(npy_of(ids, dtype, 2));
      made.payload = npy_payload(PayloadForm::base64, made.text);
      break;
    case Sent::envelope:
      made.text =
          fmt::format("nrlre1:{}:{}x{}x{}:{}", name, ids.rows, ids.layers, ids.topk, base64_of(bytes_of(ids, dtype)));
      made.payload = envelope_payload(made.text);
      break;
    case Sent::lists:
      made.text = lists_of(ids, " ");
      made.payload = lists_payload(made.text);
      break;
  }
}

TEST(Payload, EveryFormAndType) {
  for (const std::int32_t experts : {100, 500}) {
    const Ids ids = random_ids(37, 5, 3, experts, 1);
    const RecordSchema schema = schema_of(experts, 3, {1, 2, 4, 7, 9});
    for (const DType dtype : {DType::i8, DType::u8, DType::i16, DType::u16, DType::i32, DType::i64}) {
      if (dtype_bytes(dtype) == 1 && experts > 127) continue;
      for (const Sent sent : kAllSent) {
        MadePayload made;
        make(ids, dtype, sent, made);
        ASSERT_EQ(made.payload.rows, 37);
        const RowSource source = rows_of(made.payload, schema);
        ASSERT_EQ(source.rows, 37);
        for (const auto& [begin, end] : {std::pair{0, 37}, {5, 6}, {36, 37}, {11, 30}, {4, 4}, {37, 37}, {0, 1}}) {
          ASSERT_EQ(read(source, schema, begin, end), expected_rows(ids, schema, begin, end, schema.layers))
              << dtype_name(dtype) << ' ' << static_cast<int>(sent) << ' ' << begin;
        }
      }
    }
  }
}

// Narrow ids in a wide schema: what somebody sent who chose the type from the data.
TEST(Payload, NarrowTypeOfAWideSchema) {
  const Ids ids = random_ids(9, 2, 4, 256, 2);
  const std::string bytes = bytes_of(ids, DType::u8);
  const RecordSchema schema = schema_of(512, 4, {0, 1});
  const RowSource source = rows_of(flat_payload(PayloadForm::raw, DType::u8, 2, 4, bytes), schema);
  EXPECT_EQ(read(source, schema, 0, 9), ids.values);
}

TEST(Payload, LayersAreTakenByTheirGlobalIndex) {
  for (const SlotOrder order : {SlotOrder::kept, SlotOrder::canonical}) {
    for (const DType dtype : {DType::u8, DType::i32}) {
      for (const Sent sent : {Sent::base64, Sent::raw, Sent::lists}) {
        const Ids ids = random_ids(600, 11, 8, 64, 3);
        MadePayload made;
        make(ids, dtype, sent, made);
        for (const std::vector<std::int32_t>& layers :
             {layers_from(3, 8), layers_from(0, 11), std::vector<std::int32_t>{1, 3, 5, 7, 10}, {10}, {0, 1, 9, 10}}) {
          RecordSchema schema = schema_of(64, 8, layers);
          schema.order = order;
          // All hidden layers, and then layers that are named.
          ASSERT_EQ(read(rows_of(made.payload, schema), schema, 17, 599),
                    expected_rows(ids, schema, 17, 599, layers_from(0, 11)));
          Payload named = made.payload;
          named.layer_ids = layers_from(20, 11);
          RecordSchema moved = schema;
          for (std::int32_t& layer : moved.layers) layer += 20;
          ASSERT_EQ(read(rows_of(named, moved), moved, 0, 600), expected_rows(ids, moved, 0, 600, named.layer_ids));
        }
      }
    }
  }
}

TEST(Payload, LayersThatAreNotThere) {
  const Ids ids = random_ids(2, 4, 2, 8, 4);
  const std::string bytes = bytes_of(ids, DType::u8);
  Payload payload = flat_payload(PayloadForm::raw, DType::u8, 4, 2, bytes);
  const auto refused = [&](const RecordSchema& schema) { return message_of([&] { rows_of(payload, schema); }); };
  EXPECT_NE(refused(schema_of(8, 2, {2, 4})).find("no layer 4 among its 4"), std::string::npos);
  EXPECT_NE(refused(schema_of(8, 3, {2})).find("topk 2, expected the schema's 3"), std::string::npos);
  payload.layer_ids = {1, 3, 5, 7};
  EXPECT_NE(refused(schema_of(8, 2, {1, 4})).find("no layer 4"), std::string::npos);
  EXPECT_NE(refused(schema_of(8, 2, {1, 9})).find("no layer 9"), std::string::npos);
  payload.layer_ids = {1, 3, 5};
  EXPECT_NE(message_of([&] { check_payload(payload); }).find("3 layer ids, expected 4"), std::string::npos);
  payload.layer_ids = {1, 3, 3, 4};
  EXPECT_NE(message_of([&] { check_payload(payload); }).find("layer id 3 after 3"), std::string::npos);
}

// Rows larger than the buffer that they are decoded to.
TEST(Payload, RowsOfAnySize) {
  for (const std::int64_t layers : {1, 70, 300}) {
    const Ids ids = random_ids(5, layers, 64, 1000, 5);
    for (const Sent sent : {Sent::base64, Sent::lists}) {
      MadePayload made;
      make(ids, DType::i64, sent, made);
      for (const std::int32_t first : {0, 1, static_cast<std::int32_t>(layers) - 1}) {
        if (first >= layers) continue;
        const RecordSchema schema = schema_of(1000, 64, layers_from(first, layers - first));
        EXPECT_EQ(read(rows_of(made.payload, schema), schema, 1, 5),
                  expected_rows(ids, schema, 1, 5, layers_from(0, layers)));
      }
    }
  }
}

TEST(Payload, MissingRowsAndZeroRows) {
  for (const DType dtype : {DType::i8, DType::i16, DType::i32, DType::i64}) {
    for (const Sent sent : kAllSent) {
      Ids ids = random_ids(8, 3, 2, 16, 6);
      for (std::int64_t l = 0; l < 3; ++l) {
        for (std::int64_t s = 0; s < 2; ++s) {
          ids.at(2, l, s) = -1;
          ids.at(5, l, s) = 0;
        }
      }
      ids.at(6, 1, 1) = -1;  // one of them: damage, not absence
      ids.at(0, 0, 0) = 0;
      ids.at(0, 0, 1) = 1;
      MadePayload made;
      make(ids, dtype, sent, made);
      const RecordSchema schema = schema_of(16, 2, {0, 1, 2});
      std::vector<RowState> states(8);
      row_states(made.payload, schema, 0, 8, states.data());
      std::vector<RowState> expected(8, RowState::observed);
      expected[2] = RowState::missing;
      expected[5] = RowState::zero;
      EXPECT_EQ(states, expected) << dtype_name(dtype) << ' ' << static_cast<int>(sent);
      row_states(made.payload, schema, 5, 6, states.data());
      EXPECT_EQ(states[0], RowState::zero);

      const RowSource source = rows_of(made.payload, schema);
      EXPECT_EQ(read(source, schema, 3, 5), expected_rows(ids, schema, 3, 5, schema.layers));
      const auto refused = [&](std::int64_t begin, std::int64_t end) {
        return message_of([&] { read(source, schema, begin, end); });
      };
      EXPECT_EQ(refused(0, 4), "payload: row 2 is missing, -1 in every id, expected one that was captured");
      EXPECT_NE(refused(4, 6).find("row 5 is zero in every layer"), std::string::npos) << refused(4, 6);
      EXPECT_EQ(refused(6, 8), "payload: row 6 layer 1 slot 1 names expert -1, expected 0..15");
    }
  }
}

TEST(Payload, StatesAreThoseOfTheSchemasLayers) {
  Ids ids = random_ids(2, 3, 2, 16, 7);
  for (std::int64_t s = 0; s < 2; ++s) {
    ids.at(1, 1, s) = -1;
    ids.at(1, 2, s) = -1;
  }
  const std::string bytes = bytes_of(ids, DType::i16);
  const Payload payload = flat_payload(PayloadForm::raw, DType::i16, 3, 2, bytes);
  RowState states[2];
  row_states(payload, schema_of(16, 2, {1, 2}), 0, 2, states);
  EXPECT_EQ(states[1], RowState::missing);
  row_states(payload, schema_of(16, 2, {0, 2}), 0, 2, states);
  EXPECT_EQ(states[1], RowState::observed);
  EXPECT_NE(message_of([&] { row_states(payload, schema_of(16, 2, {1}), 1, 3, states); }, Code::invalid_argument)
                .find("rows 1 to 3"),
            std::string::npos);
}

// One expert: zero is all that there is.
TEST(Payload, ZeroIsAnExpert) {
  const std::string bytes(3 * 4, '\0');
  const RecordSchema schema = schema_of(1, 1, {0, 1, 2, 3});
  const Payload payload = flat_payload(PayloadForm::raw, DType::u8, 4, 1, bytes);
  RowState states[3];
  row_states(payload, schema, 0, 3, states);
  EXPECT_EQ(std::count(states, states + 3, RowState::observed), 3);
  EXPECT_EQ(read(rows_of(payload, schema), schema, 0, 3), std::vector<std::int64_t>(12, 0));
}

TEST(Payload, IdsOutOfRange) {
  const RecordSchema schema = schema_of(60, 2, {1, 4});
  for (const DType dtype : {DType::u8, DType::i16, DType::u16, DType::i32, DType::i64}) {
    std::vector<std::int64_t> wrong{60, 255};
    if (dtype != DType::u8) wrong.push_back(256 + 7);
    if (dtype == DType::i16 || dtype == DType::i32) wrong.insert(wrong.end(), {-1, -2, -32768});
    if (dtype == DType::i32) wrong.insert(wrong.end(), {65536 + 3, std::numeric_limits<std::int32_t>::min()});
    if (dtype == DType::i64) wrong.insert(wrong.end(), {(std::int64_t{1} << 32) + 3, -1, std::int64_t{1} << 62});
    for (const std::int64_t value : wrong) {
      Ids ids = random_ids(300, 2, 2, 60, 8);
      ids.at(217, 1, 0) = value;
      MadePayload made;
      make(ids, dtype, Sent::base64, made);
      const std::string message = message_of([&] { read(rows_of(made.payload, schema), schema, 3, 300); });
      EXPECT_NE(message.find(fmt::format("row 217 layer 4 slot 0 names expert {}, expected 0..59", value)),
                std::string::npos)
          << message;
    }
  }
}

TEST(Payload, TheSameExpertTwice) {
  Ids ids = random_ids(30, 2, 4, 60, 9);
  ids.at(11, 1, 3) = ids.at(11, 1, 1);
  for (const DType dtype : {DType::u8, DType::i32}) {
    MadePayload made;
    make(ids, dtype, Sent::base64, made);
    const RecordSchema schema = schema_of(60, 4, {0, 1});
    const std::string message = message_of([&] { read(rows_of(made.payload, schema), schema, 0, 30); });
    EXPECT_NE(message.find("row 11 layer 1 names expert"), std::string::npos) << message;
  }
}

TEST(Payload, DamagedBase64IsFoundWhereItIsRead) {
  const Ids ids = random_ids(100, 4, 8, 64, 10);
  std::string text = base64_of(bytes_of(ids, DType::u8));
  const RecordSchema schema = schema_of(64, 8, layers_from(0, 4));
  text[50 * 32 * 4 / 3 + 8] = '~';
  const RowSource source = rows_of(flat_payload(PayloadForm::base64, DType::u8, 4, 8, text), schema);
  EXPECT_EQ(read(source, schema, 60, 100), expected_rows(ids, schema, 60, 100, schema.layers));
  EXPECT_NE(message_of([&] { read(source, schema, 0, 100); }).find("byte 0x7e at character 2141"), std::string::npos);
}

TEST(Payload, SizesThatDoNotFit) {
  const std::string text = base64_of(std::string(64, '\1'));
  const auto refused = [&](const Payload& payload) { return message_of([&] { check_payload(payload); }); };
  Payload payload = flat_payload(PayloadForm::base64, DType::u8, 4, 8, text);
  EXPECT_EQ(payload.rows, 2);
  payload.rows = 3;
  EXPECT_NE(refused(payload).find("64 bytes, expected 96 for shape [3, 4, 8] of u8"), std::string::npos);
  payload.rows = -1;
  EXPECT_NE(refused(payload).find("shape [-1, 4, 8]"), std::string::npos);
  payload.rows = 2;
  payload.offset = std::numeric_limits<std::size_t>::max() - 63;
  EXPECT_NE(refused(payload).find("64 bytes, expected"), std::string::npos);
  payload.offset = 0;
  payload.dtype = DType::f32;
  EXPECT_NE(refused(payload).find("ids of f32"), std::string::npos);
  EXPECT_NE(message_of([&] { flat_payload(PayloadForm::base64, DType::u8, 5, 8, text); }).find("expected 40"),
            std::string::npos);
  EXPECT_NE(message_of([&] { flat_payload(PayloadForm::base64, DType::u8, 0, 8, text); }).find("positive sizes"),
            std::string::npos);
  for (const std::int64_t huge : {std::int64_t{1} << 31, std::int64_t{1} << 62}) {
    payload = {PayloadForm::base64, DType::i32, huge, huge, huge, 0, {}, 0, text};
    EXPECT_NE(refused(payload).find("overflows"), std::string::npos) << refused(payload);
  }
}

TEST(Payload, NoRows) {
  const RecordSchema schema = schema_of(8, 2, {0, 5});
  for (const Payload& payload : {flat_payload(PayloadForm::base64, DType::u8, 2, 2, ""), lists_payload("[ ]"),
                                 envelope_payload("nrlre1:int16:0x2x2:")}) {
    const RowSource source = rows_of(payload, schema);
    EXPECT_EQ(source.rows, 0);
    source.read(0, 0, nullptr);
    row_states(payload, schema, 0, 0, nullptr);
    EXPECT_NE(message_of([&] { source.read(0, 1, nullptr); }, Code::invalid_argument).find("rows 0 to 1"),
              std::string::npos);
  }
}

TEST(Payload, EnvelopesThatAreNone) {
  const std::pair<const char*, const char*> cases[] = {
      {"nrlre2:int8:1x1x1:AA==", "does not begin as an envelope"},
      {"nrlre1:", "without dtype"},
      {"nrlre1:float16:1x1x1:AAA=", "an envelope of 'float16'"},
      {"nrlre1:int8:1x1:AA==", "without layers"},
      {"nrlre1:int8:1x1x1", "without topk"},
      {"nrlre1:int8:1xx1:AA==", "with layers ''"},
      {"nrlre1:int8:-1x1x1:AA==", "with rows '-1'"},
      {"nrlre1:int8:99999999999999999999x1x1:AA==", "with rows '99999999999999999999'"},
      {"nrlre1:int8:4294967296x4294967296x4294967296:AA==", "overflows"},
      {"nrlre1:int8:2x1x1:AA==", "1 bytes, expected 2"},
      {"nrlre1:int8:1x1x1:AA=", "3 characters"},
  };
  for (const auto& [text, part] : cases) {
    const std::string message = message_of([&] { envelope_payload(text); });
    EXPECT_NE(message.find(part), std::string::npos) << text << ": " << message;
  }
}

TEST(Payload, NpyFilesThatAreNone) {
  const Ids ids = random_ids(3, 2, 2, 8, 11);
  for (const PayloadForm form : {PayloadForm::raw, PayloadForm::base64}) {
    const auto refused = [&](const std::string& file, Code code = Code::bad_data) {
      const std::string text = form == PayloadForm::raw ? file : base64_of(file);
      return message_of([&] { npy_payload(form, text); }, code);
    };
    const std::string whole = npy_of(ids, DType::u8);
    EXPECT_EQ(refused(whole), "accepted");
    for (std::size_t size = 0; size < whole.size(); ++size) {
      EXPECT_NE(refused(whole.substr(0, size)), "accepted") << size;
    }
    EXPECT_NE(refused(whole + "x").find("expected 140 for shape [3, 2, 2]"), std::string::npos) << refused(whole + "x");
    std::string two = whole;
    two.replace(two.find("(3, 2, 2)"), 9, "(3, 4)   ");
    EXPECT_NE(refused(two).find("2 dimensions, expected 3"), std::string::npos);
    std::string floats = whole;
    floats.replace(floats.find("|u1"), 3, "<f4");
    EXPECT_NE(refused(floats).find("ids of f32"), std::string::npos);
    std::string fortran = whole;
    fortran.replace(fortran.find("False"), 5, "True ");
    EXPECT_NE(refused(fortran, Code::not_supported).find("fortran_order"), std::string::npos);
    std::string long_header = npy_of(ids, DType::u8, 2);
    long_header[10] = '\x7f';
    EXPECT_NE(refused(long_header).find("expected at most 8192"), std::string::npos);
  }
}

TEST(Payload, ListsThatAreNone) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "lists end at character 0, expected a list"},
      {"[", "expected a list"},
      {"[[[1]]", "expected ',' or ']'"},
      {"[1]", "byte 0x31 at character 1"},
      {"[[1]]", "expected a list"},
      {"[[]]", "expected a list"},
      {"[[[]]]", "expected an integer"},
      {"[[[1,]]]", "expected an integer"},
      {"[[[1.5]]]", "expected ',' or ']'"},
      {"[[[3000000000]]]", "expected an integer of 32 bits"},
      {"[[[\"1\"]]]", "expected an integer"},
      {"[[[1],[2,3]]]", "a list of 2 in row 0, expected 1"},
      {"[[[1]],[[2],[3]]]", "a list of 2 in row 1, expected 1"},
      {"[[[1]]] ", "in 7 of 8 characters"},
  };
  for (const auto& [text, part] : cases) {
    const std::string message = message_of([&] { lists_payload(text); });
    EXPECT_NE(message.find(part), std::string::npos) << text << ": " << message;
  }
}

// More rows than places are kept.
TEST(Payload, LongLists) {
  const Ids ids = random_ids(20011, 2, 2, 90, 12);
  const std::string text = lists_of(ids);
  const RecordSchema schema = schema_of(90, 2, {0, 1});
  const RowSource source = rows_of(lists_payload(text), schema);
  EXPECT_EQ(read(source, schema, 0, 20011), ids.values);
  for (const std::int64_t row : {20010, 7, 8191, 8192, 4096, 12345}) {
    EXPECT_EQ(read(source, schema, row, row + 1), expected_rows(ids, schema, row, row + 1, schema.layers));
  }
}

TEST(Payload, SeveralThreadsReadOneSource) {
  const Ids ids = random_ids(5000, 3, 4, 90, 13);
  const RecordSchema schema = schema_of(90, 4, {0, 2});
  for (const Sent sent : {Sent::base64, Sent::lists}) {
    MadePayload made;
    make(ids, DType::i32, sent, made);
    const RowSource source = rows_of(made.payload, schema);
    std::vector<std::vector<std::int64_t>> found(3);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < found.size(); ++i) {
      threads.emplace_back([&, i] { found[i] = read(source, schema, static_cast<std::int64_t>(i), 5000); });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i], expected_rows(ids, schema, static_cast<std::int64_t>(i), 5000, {0, 1, 2}));
    }
  }
}

}  // namespace
