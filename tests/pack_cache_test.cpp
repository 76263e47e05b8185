// Packed weights in files: the same bits, and no file that is not what it should be is ever used.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "checkpoints.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;
namespace fs = std::filesystem;

const LayerOptions kOptions;

std::vector<float> run(const Layer& layer, std::int64_t hidden) {
  std::vector<float> x;
  for (std::int64_t i = 0; i < kTokens * hidden; ++i) x.push_back(static_cast<float>(i * 37 % 101) / 50.0f - 1);
  std::vector<float> y(x.size());
  const Workspace workspace(layer.workspace_bytes(kTokens));
  layer.forward({x.data(), kTokens, hidden}, {y.data(), kTokens, hidden}, workspace);
  return y;
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A checkpoint and a folder for its cache, with one layer's file in it.
class PackCache : public ::testing::Test {
 protected:
  void SetUp() override {
    qwen2().write(model_.path());
    const Layer first = layer();
    EXPECT_FALSE(first.from_cache());
    expected_ = run(first, kHidden);
    ASSERT_EQ(files_in(cache_.path()).size(), 1U);
    path_ = files_in(cache_.path()).front();
    good_ = read_file(path_);
    EXPECT_TRUE(layer().from_cache());
  }

  Layer layer(const LayerOptions& options = kOptions) const {
    return Model::open(model_.path()).layer(0, options, {}, cache_.path());
  }

  // What is there now must not be used, must be replaced, and the new file must be used.
  void expect_rebuilt(const char* what) const {
    const Layer made = layer();
    EXPECT_FALSE(made.from_cache()) << what;
    EXPECT_EQ(run(made, kHidden), expected_) << what;
    const Layer again = layer();
    EXPECT_TRUE(again.from_cache()) << what;
    EXPECT_EQ(run(again, kHidden), expected_) << what;
    EXPECT_EQ(files_in(cache_.path()).size(), 1U) << what;
  }

  void expect_damage_is_seen(const std::string& bytes, const char* what) const {
    write_text(path_, bytes);
    expect_rebuilt(what);
  }

  TempFolder model_;
  TempFolder cache_;
  fs::path path_;
  std::string good_;
  std::vector<float> expected_;
};

TEST_F(PackCache, GivesTheSameBitsForEveryFormatAndGoldenModel) {
  int models = 0;
  for (const auto& entry : fs::directory_iterator(SWITCHYARD_TEST_DATA)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const Model model = Model::open(entry.path());
    if (!model.info().unsupported.empty() || !model.info().table_layers.empty()) continue;
    ++models;
    for (const LayerOptions& options :
         {LayerOptions{}, LayerOptions{.format = Format::bf16},
          LayerOptions{.format = Format::bf16, .activations = DType::bf16, .router = DType::bf16}}) {
      const TempFolder folder;
      const std::int32_t index = model.info().moe_layers.back();
      const Layer plain = model.layer(index, options);
      const Layer packed = model.layer(index, options, {}, folder.path());
      const Layer mapped = model.layer(index, options, {}, folder.path());
      EXPECT_FALSE(packed.from_cache());
      EXPECT_TRUE(mapped.from_cache()) << entry.path();
      EXPECT_EQ(mapped.weight_bytes(), plain.weight_bytes());
      const std::vector<float> expected = run(plain, model.info().hidden);
      EXPECT_EQ(run(packed, model.info().hidden), expected) << entry.path();
      EXPECT_EQ(run(mapped, model.info().hidden), expected) << entry.path();
    }
  }
  EXPECT_GT(models, 10);
}

TEST_F(PackCache, FormatsAndLayersStandSideBySide) {
  const LayerOptions bf16{.format = Format::bf16};
  EXPECT_FALSE(layer(bf16).from_cache());
  EXPECT_FALSE(Model::open(model_.path()).layer(1, kOptions, {}, cache_.path()).from_cache());
  EXPECT_EQ(files_in(cache_.path()).size(), 3U);
  EXPECT_TRUE(layer().from_cache());
  EXPECT_TRUE(layer(bf16).from_cache());
}

TEST_F(PackCache, OutlivesItsFileItsModelAndItsFolder) {
  const Layer mapped = layer();
  ASSERT_TRUE(mapped.from_cache());
  fs::remove(path_);
  fs::remove(model_ / "model.safetensors");
  EXPECT_EQ(run(mapped, kHidden), expected_);
}

TEST_F(PackCache, MissingFile) {
  fs::remove(path_);
  expect_rebuilt("missing");
}

TEST_F(PackCache, EmptyFile) { expect_damage_is_seen("", "empty"); }

TEST_F(PackCache, ForeignFile) { expect_damage_is_seen(std::string(good_.size(), 'x'), "foreign"); }

TEST_F(PackCache, TruncatedAnywhere) {
  for (const std::size_t left :
       {std::size_t{1}, std::size_t{100}, std::size_t{4095}, std::size_t{4096}, good_.size() / 2, good_.size() - 1}) {
    expect_damage_is_seen(good_.substr(0, left), "truncated");
  }
}

TEST_F(PackCache, LongerThanItWas) { expect_damage_is_seen(good_ + '\0', "longer"); }

TEST_F(PackCache, OtherMagic) {
  std::string bytes = good_;
  bytes[0] = 'X';
  expect_damage_is_seen(bytes, "magic");
}

TEST_F(PackCache, OneBitAnywhereThatIsUsed) {
  // Samples of the header and of the buffers behind it. Padding is not looked at.
  std::vector<std::size_t> places;
  for (std::size_t at = 0; at < 256; at += 5) places.push_back(at);
  for (std::size_t at = 4096; at < good_.size(); at += good_.size() / 7) places.push_back(at);
  places.push_back(good_.size() - 1);
  for (const std::size_t at : places) {
    std::string bytes = good_;
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
    write_text(path_, bytes);
    const Layer made = layer();
    const bool padding = at >= 4096 && made.from_cache();
    EXPECT_TRUE(!made.from_cache() || padding) << "byte " << at;
    EXPECT_EQ(run(made, kHidden), expected_) << "byte " << at;
  }
}

TEST_F(PackCache, LastByteOfABuffer) {
  std::string bytes = good_;
  bytes.back() = static_cast<char>(bytes.back() ^ 0x80);
  expect_damage_is_seen(bytes, "last byte");
}

// The header's checksum is right in these: what it says is what must be refused.
TEST_F(PackCache, FileOfAnotherLayerUnderThisName) {
  TempFolder other;
  const Layer second = Model::open(model_.path()).layer(1, kOptions, {}, other.path());
  EXPECT_FALSE(second.from_cache());
  expect_damage_is_seen(read_file(files_in(other.path()).front()), "another layer");
}

TEST_F(PackCache, FileOfAnotherFormatUnderThisName) {
  TempFolder other;
  const Layer bf16 = Model::open(model_.path()).layer(0, {.format = Format::bf16}, {}, other.path());
  EXPECT_FALSE(bf16.from_cache());
  expect_damage_is_seen(read_file(files_in(other.path()).front()), "another format");
}

TEST_F(PackCache, ChangedWeights) {
  Checkpoint changed = qwen2();
  // Unchanged but for one element; the files' times may be the same.
  const Tensor& tensor = changed.tensor("model.layers.0.mlp.experts.2.down_proj.weight");
  const_cast<std::byte*>(tensor.data)[5] ^= std::byte{0x10};
  changed.write(model_.path());
  expected_ = run(Model::open(model_.path()).layer(0), kHidden);
  expect_rebuilt("weights");
}

TEST_F(PackCache, ChangedConfiguration) {
  Checkpoint changed = qwen2();
  changed.config["norm_topk_prob"] = true;
  changed.write(model_.path());
  expected_ = run(Model::open(model_.path()).layer(0), kHidden);
  expect_rebuilt("config");
}

TEST_F(PackCache, TouchedWeights) {
  fs::last_write_time(model_ / "model.safetensors", fs::file_time_type::clock::now() + std::chrono::hours(1));
  expect_rebuilt("time");
}

TEST_F(PackCache, AFolderUnderTheFilesNameIsAnError) {
  fs::remove(path_);
  fs::create_directory(path_);
  expect_error(Code::io, {"cache", "cannot get its name"}, [&] { (void)layer(); });
  EXPECT_EQ(files_in(cache_.path()).size(), 1U) << "the unfinished file must be gone";
}

TEST_F(PackCache, AFileInPlaceOfTheFolderIsAnError) {
  write_text(model_ / "file", "");
  expect_error(Code::io, {"cache", "file"},
               [&] { (void)Model::open(model_.path()).layer(0, kOptions, {}, model_ / "file"); });
}

TEST_F(PackCache, ReadOnlyFoldersServeWhatTheyHave) {
  ASSERT_EQ(::chmod(model_.path().c_str(), 0755), 0);
  ASSERT_EQ(::chmod(cache_.path().c_str(), 0555), 0);
  constexpr uid_t kNobody = 65534;
  const bool root = ::geteuid() == 0;  // for whom nothing is read-only
  ASSERT_EQ(::seteuid(root ? kNobody : ::geteuid()), 0);
  EXPECT_TRUE(layer().from_cache());
  bool packed = false;
  const auto progress = [&](std::int32_t, std::int32_t) { packed = true; };
  expect_error(Code::io, {"cache", cache_.path().string()},
               [&] { (void)Model::open(model_.path()).layer(1, kOptions, progress, cache_.path()); });
  EXPECT_FALSE(packed) << "found out before the work";
  ASSERT_EQ(::seteuid(root ? 0 : ::geteuid()), 0);
  ASSERT_EQ(::chmod(cache_.path().c_str(), 0700), 0);
}

TEST_F(PackCache, AFolderThatCannotBeMadeIsAnErrorBeforePacking) {
  bool packed = false;
  const auto progress = [&](std::int32_t, std::int32_t) { packed = true; };
  expect_error(Code::io, {"cache", "/proc/none"},
               [&] { (void)Model::open(model_.path()).layer(0, kOptions, progress, "/proc/none"); });
  EXPECT_FALSE(packed);
}

TEST_F(PackCache, SeveralAtOnceAllHaveIt) {
  fs::remove(path_);
  const Model model = Model::open(model_.path());
  std::vector<std::thread> threads;
  std::vector<std::vector<float>> found(6);
  for (std::vector<float>& each : found) {
    threads.emplace_back([&] { each = run(model.layer(0, kOptions, {}, cache_.path()), kHidden); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& each : found) EXPECT_EQ(each, expected_);
  EXPECT_EQ(files_in(cache_.path()).size(), 1U) << "no unfinished file stays";
  EXPECT_TRUE(layer().from_cache());
}

TEST_F(PackCache, ProgressEndsWithAllExperts) {
  std::int32_t last = 0;
  std::int32_t calls = 0;
  const auto progress = [&](std::int32_t done, std::int32_t of) {
    ++calls;
    last = done;
    EXPECT_EQ(of, kExperts);
  };
  (void)Model::open(model_.path()).layer(0, kOptions, progress, cache_.path());
  EXPECT_EQ(last, kExperts);
  EXPECT_EQ(calls, 1) << "nothing was packed";
}

}  // namespace
