// RecordSchema: which schemas there can be, and which rows. The rows are judged a second time by plain code here.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "switchyard/error.hpp"
#include "switchyard/record.hpp"

namespace {

using namespace switchyard;

RecordSchema schema_of(std::int32_t experts, std::int32_t topk, std::int32_t layers) {
  RecordSchema schema;
  schema.experts = experts;
  schema.topk = topk;
  for (std::int32_t l = 0; l < layers; ++l) {
    schema.layers.push_back(3 + 2 * l);
  }
  return schema;
}

template <class Action>
std::string message_of(const Action& action, Code code) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "accepted";
}

// Ids [rows,L,K] in memory of exactly their size, in the schema's type.
class Rows {
 public:
  Rows(const RecordSchema& schema, const std::vector<std::int32_t>& ids)
      : size_(dtype_bytes(record_id_type(schema))), bytes_(new std::byte[ids.size() * size_]) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      set(i, ids[i]);
    }
  }
  void set(std::size_t i, std::int32_t id) { std::memcpy(bytes_.get() + i * size_, &id, size_); }
  std::int32_t at(std::size_t i) const {
    std::int32_t id = 0;
    std::memcpy(&id, bytes_.get() + i * size_, size_);
    return id;
  }
  const void* data() const { return bytes_.get(); }
  void* data() { return bytes_.get(); }

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

std::vector<std::int32_t> random_ids(const RecordSchema& schema, std::int64_t rows, std::mt19937& random) {
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> all(static_cast<std::size_t>(schema.experts));
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t set = 0; set < rows * static_cast<std::int64_t>(schema.layers.size()); ++set) {
    for (std::int32_t s = 0; s < schema.topk; ++s) {
      const auto other = std::uniform_int_distribution<std::int32_t>(s, schema.experts - 1)(random);
      std::swap(all[static_cast<std::size_t>(s)], all[static_cast<std::size_t>(other)]);
    }
    ids.insert(ids.end(), all.begin(), all.begin() + schema.topk);
  }
  return ids;
}

TEST(RecordSchema, WhatIsNone) {
  const auto refused = [](RecordSchema schema) {
    return message_of([&] { check_schema(schema); }, Code::invalid_argument);
  };
  EXPECT_NE(refused(schema_of(0, 1, 1)).find("0 experts"), std::string::npos);
  EXPECT_NE(refused(schema_of(65537, 1, 1)).find("65537 experts"), std::string::npos);
  EXPECT_NE(refused(schema_of(8, 0, 1)).find("topk 0"), std::string::npos);
  EXPECT_NE(refused(schema_of(8, 9, 1)).find("topk 9, expected 1..8"), std::string::npos);
  EXPECT_NE(refused(schema_of(128, 65, 1)).find("topk 65, expected 1..64"), std::string::npos);
  EXPECT_NE(refused(schema_of(8, 2, 0)).find("no layers"), std::string::npos);
  RecordSchema schema = schema_of(8, 2, 3);
  schema.layers = {-1, 2};
  EXPECT_NE(refused(schema).find("negative"), std::string::npos);
  schema.layers = {2, 2};
  EXPECT_NE(refused(schema).find("layer 2 after layer 2"), std::string::npos);
  check_schema(schema_of(65536, 64, 1));
}

TEST(RecordSchema, TypeFollowsFromExperts) {
  EXPECT_EQ(record_id_type(schema_of(256, 8, 58)), DType::u8);
  EXPECT_EQ(record_id_type(schema_of(257, 8, 58)), DType::u16);
  EXPECT_EQ(record_row_bytes(schema_of(256, 8, 58)), 464U);
  EXPECT_EQ(record_row_bytes(schema_of(512, 10, 48)), 960U);
}

TEST(RecordSchema, MessagesNameRowLayerAndValue) {
  const RecordSchema schema = schema_of(200, 3, 2);
  const std::vector<std::int32_t> good{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const auto with = [&](std::size_t at, std::int32_t id) {
    Rows rows(schema, good);
    rows.set(at, id);
    return message_of([&] { check_rows(schema, rows.data(), 2, 40); }, Code::bad_data);
  };
  EXPECT_EQ(with(10, 200), "record: row 41 layer 5 slot 1 names expert 200, expected 0..199");
  EXPECT_EQ(with(5, 4), "record: row 40 layer 5 names expert 4 in slots 0 and 2, expected distinct experts");
  EXPECT_EQ(with(0, 0), "accepted");
  const Rows zero(schema, std::vector<std::int32_t>(6, 0));
  EXPECT_EQ(message_of([&] { check_rows(schema, zero.data(), 1, 7); }, Code::bad_data),
            "record: row 7 is zero in every layer, expected ids: its capture failed");
}

TEST(RecordSchema, ZeroRows) {
  const auto check = [](const RecordSchema& schema, std::size_t ids) {
    const Rows rows(schema, std::vector<std::int32_t>(ids, 0));
    return message_of([&] { check_rows(schema, rows.data(), 1); }, Code::bad_data);
  };
  EXPECT_EQ(check(schema_of(8, 1, 1), 1), "accepted");
  EXPECT_NE(check(schema_of(8, 1, 4), 4).find("zero in every layer"), std::string::npos);
  EXPECT_EQ(check(schema_of(1, 1, 4), 4), "accepted");  // the only row there is
}

// Every place of a fault, at the borders of vectors too.
TEST(RecordSchema, EveryFaultIsFound) {
  std::mt19937 random(1);
  for (const std::int32_t experts : {65, 200, 256, 300, 65536}) {
    for (const std::int32_t topk : {1, 2, 3, 4, 5, 6, 7, 8, 10, 16, 22, 33, 64}) {
      for (const std::int32_t layers : {2, 3, 4}) {
        const RecordSchema schema = schema_of(experts, topk, layers);
        constexpr std::int64_t kRows = 5;
        const std::vector<std::int32_t> ids = random_ids(schema, kRows, random);
        Rows rows(schema, ids);
        check_rows(schema, rows.data(), kRows);
        for (std::size_t i = 0; i < ids.size(); ++i) {
          const auto set = static_cast<std::int32_t>(i) / topk;
          const std::string place =
              " row " + std::to_string(set / layers) + " layer " + std::to_string(3 + 2 * (set % layers)) + " ";
          const bool representable = experts != 256 && experts != 65536;
          if (representable) {
            rows.set(i, experts);
            const std::string message = message_of([&] { check_rows(schema, rows.data(), kRows); }, Code::bad_data);
            ASSERT_NE(message.find(place), std::string::npos) << message << " expected" << place;
          }
          if (topk > 1) {
            const std::size_t first = i - i % static_cast<std::size_t>(topk);
            const std::size_t other =
                first + (i - first + 1 + random() % static_cast<unsigned>(topk - 1)) % static_cast<std::size_t>(topk);
            rows.set(i, ids[other]);
            const std::string message = message_of([&] { check_rows(schema, rows.data(), kRows); }, Code::bad_data);
            ASSERT_NE(message.find(place + "names expert " + std::to_string(ids[other])), std::string::npos)
                << message << " expected" << place;
          }
          rows.set(i, ids[i]);
        }
      }
    }
  }
}

// The same expert in neighbouring sets is no fault.
TEST(RecordSchema, EqualSetsSideBySide) {
  for (const std::int32_t topk : {2, 3, 4, 7, 8, 22}) {
    const RecordSchema schema = schema_of(64, topk, 2);
    std::vector<std::int32_t> ids;
    for (std::int32_t i = 0; i < 100 * topk; ++i) {
      ids.push_back(i / topk % 2 == 0 ? i % topk : topk - 1 - i % topk);
    }
    const Rows rows(schema, ids);
    EXPECT_NO_THROW(check_rows(schema, rows.data(), 50));
  }
}

TEST(RecordSchema, SortsSlots) {
  std::mt19937 random(2);
  for (const std::int32_t experts : {100, 1000}) {
    for (const std::int32_t topk : {1, 2, 3, 4, 5, 6, 8, 9, 10, 17, 22, 33, 64}) {
      const RecordSchema schema = schema_of(experts, topk, 3);
      for (const std::int64_t rows : {1, 21, 22, 43}) {  // about what is sorted at a time
        std::vector<std::int32_t> ids = random_ids(schema, rows, random);
        if (topk > 1) ids[1] = ids[0];  // what is no set is sorted too
        Rows sorted(schema, ids);
        sort_slots(schema, sorted.data(), rows);
        for (auto set = ids.begin(); set != ids.end(); set += topk) std::sort(set, set + topk);
        for (std::size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(sorted.at(i), ids[i]) << topk << ' ' << rows << ' ' << i;
      }
    }
  }
}

TEST(RecordSchema, RowsInMemory) {
  std::mt19937 random(3);
  const RecordSchema schema = schema_of(300, 4, 3);
  std::vector<std::int32_t> ids = random_ids(schema, 6, random);
  ids[4 * 12 + 1] = ids[4 * 12];
  const Rows rows(schema, ids);
  const RowSource source = rows_in_memory(schema, rows.data(), 6);
  EXPECT_EQ(source.rows, 6);
  std::vector<std::uint16_t> read(24);
  source.read(1, 3, read.data());
  for (std::size_t i = 0; i < read.size(); ++i) {
    EXPECT_EQ(read[i], ids[12 + i]);
  }
  source.read(6, 6, read.data());
  EXPECT_NE(message_of([&] { source.read(3, 5, read.data()); }, Code::bad_data).find("row 4 layer 3"),
            std::string::npos);
}

}  // namespace
