// Sharded checkpoints: TensorFile through an index.
#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

constexpr const char* kIndex = "model.safetensors.index.json";

// Two shards: a and b in one, c in two.
class Sharded : public ::testing::Test {
 protected:
  void SetUp() override {
    TensorList one;
    one.add("a", {2}, {1, 2});
    one.add("b", {1}, {3});
    TensorList two;
    two.add("c", {1}, {4});
    write_safetensors(folder_ / "one.safetensors", one.tensors());
    write_safetensors(folder_ / "two.safetensors", two.tensors());
  }

  TensorFile open(std::string_view index) {
    write_text(folder_ / kIndex, index);
    return TensorFile::open(folder_ / kIndex);
  }
  void expect_damage(std::string_view index, Code code, std::initializer_list<std::string_view> parts) {
    expect_error(code, parts, [&] { open(index); });
  }

  TempFolder folder_;
};

TEST_F(Sharded, FindsTensorsInEveryShard) {
  const TensorFile file = open(R"({"metadata":{"total_size":16},
    "weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
  ASSERT_EQ(file.tensors().size(), 3u);
  float value = 0;
  std::memcpy(&value, file.at("c").data, sizeof value);
  EXPECT_EQ(value, 4.0f);
  EXPECT_EQ(file.at("a").shape, std::vector<std::int64_t>{2});
  for (const Tensor& tensor : file.tensors()) file.release(tensor);
}

TEST_F(Sharded, TensorsThatTheIndexDoesNotNameAreLeftOut) {
  const TensorFile file = open(R"({"weight_map":{"b":"one.safetensors"}})");
  EXPECT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(file.find("a"), nullptr);
}

TEST_F(Sharded, MissingIndex) {
  expect_error(Code::io, {kIndex, "No such file"}, [&] { TensorFile::open(folder_ / kIndex); });
}

TEST_F(Sharded, MissingShard) {
  expect_damage(R"({"weight_map":{"a":"three.safetensors"}})", Code::io, {"three.safetensors", "No such file"});
}

TEST_F(Sharded, ShardWithoutAPromisedTensor) {
  expect_damage(R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})", Code::bad_data,
                {kIndex, "promises tensor c in one.safetensors, which has no such tensor"});
}

TEST_F(Sharded, DamagedShardIsNamed) {
  write_text(folder_ / "two.safetensors", "short");
  expect_damage(R"({"weight_map":{"c":"two.safetensors"}})", Code::bad_data, {"two.safetensors", "has 5 bytes"});
}

TEST_F(Sharded, IndexIsNotJson) { expect_damage("{", Code::bad_data, {kIndex, "the index is not valid JSON"}); }
TEST_F(Sharded, IndexIsAnArray) { expect_damage("[]", Code::bad_data, {kIndex, "has no weight_map"}); }
TEST_F(Sharded, IndexWithoutMap) { expect_damage("{}", Code::bad_data, {kIndex, "has no weight_map"}); }
TEST_F(Sharded, MapIsAnArray) { expect_damage(R"({"weight_map":[]})", Code::bad_data, {kIndex, "has no weight_map"}); }

TEST_F(Sharded, TensorNamedTwice) {
  expect_damage(R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})", Code::bad_data,
                {kIndex, "names a twice"});
}

TEST_F(Sharded, ShardIsNotAString) {
  expect_damage(R"({"weight_map":{"a":1}})", Code::bad_data, {kIndex, "weight_map has 1 for tensor a"});
}

TEST_F(Sharded, ShardIsNoPlainFileName) {
  for (const char* name : {"", ".", "..", "../one.safetensors", "/etc/passwd", "sub/one.safetensors",
                           "sub\\\\one.safetensors", "one.safetensors\\u0000"}) {
    expect_damage(std::string(R"({"weight_map":{"a":")") + name + "\"}}", Code::bad_data,
                  {kIndex, "for tensor a, expected the name of a file in the same folder"});
  }
}

}  // namespace
