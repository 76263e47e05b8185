// Packed weights in files: the same bits, and no file that is not what it should be is ever used.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "checkpoints.hpp"
#include "elements.hpp"
#include "layer/pack_cache.hpp"

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
  std::vector<LayerOptions> all;
  for (std::int32_t format = 0; format < kFormats; ++format) all.push_back({.format = static_cast<Format>(format)});
  all.push_back({.format = Format::bf16, .activations = DType::bf16, .router = DType::bf16});
  int models = 0;
  for (const auto& entry : fs::directory_iterator(SWITCHYARD_TEST_DATA)) {
    if (!fs::exists(entry.path() / "config.json")) continue;
    const Model model = Model::open(entry.path());
    if (!model.info().unsupported.empty() || !model.info().table_layers.empty()) continue;
    ++models;
    for (const LayerOptions& options : all) {
      SCOPED_TRACE(entry.path().filename().string() + " as " + format_name(options.format));
      const TempFolder folder;
      const std::int32_t index = model.info().moe_layers.back();
      const Layer plain = model.layer(index, options);
      const Layer packed = model.layer(index, options, {}, folder.path());
      const Layer mapped = model.layer(index, options, {}, folder.path());
      EXPECT_FALSE(packed.from_cache());
      EXPECT_TRUE(mapped.from_cache());
      EXPECT_EQ(mapped.weight_bytes(), plain.weight_bytes());
      const std::vector<float> expected = run(plain, model.info().hidden);
      EXPECT_EQ(run(packed, model.info().hidden), expected);
      EXPECT_EQ(run(mapped, model.info().hidden), expected);
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

TEST_F(PackCache, FileOfAnotherVersion) {
  // The checksum stands after all that it is of.
  std::size_t place = 8;
  while (place < 4096 && XXH3_64bits(good_.data(), place) != elements::load<std::uint64_t>(good_.data() + place, 0)) {
    place += 8;
  }
  ASSERT_LT(place, 4096U);
  ASSERT_EQ(elements::load<std::uint64_t>(good_.data(), 1), kPackedVersion);
  for (const std::uint64_t version : {kPackedVersion - 1, kPackedVersion + 1}) {
    std::string bytes = good_;
    std::memcpy(&bytes[8], &version, sizeof version);
    const std::uint64_t checksum = XXH3_64bits(bytes.data(), place);
    std::memcpy(&bytes[place], &checksum, sizeof checksum);
    expect_damage_is_seen(bytes, "another version");
  }
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
  for (const fs::path& folder : {model_.path(), cache_.path()}) {  // whatever the umask
    for (const fs::path& file : files_in(folder)) ASSERT_EQ(::chmod(file.c_str(), 0644), 0);
  }
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

TEST_F(PackCache, WhatAKilledProcessLeftIsRemoved) {
  fs::remove(path_);
  const pid_t child = ::fork();
  if (child == 0) {  // without the threads of the pool, which are the parent's
    const auto alone = [](void*, int, Threads::Body body, void* data) { body(data, 0); };
    const LayerOptions options{.threads = Threads::host(1, alone, nullptr)};
    const auto die = [](std::int32_t, std::int32_t) { (void)::raise(SIGKILL); };
    (void)::alarm(60);
    try {
      (void)Model::open(model_.path()).layer(0, options, die, cache_.path());
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  ASSERT_EQ(files_in(cache_.path()).size(), 1U);
  EXPECT_NE(files_in(cache_.path()).front(), path_);
  expect_rebuilt("killed");
}

TEST_F(PackCache, WhatIsBeingMadeStays) {
  fs::remove(path_);
  bool begun = false;
  const auto progress = [&](std::int32_t, std::int32_t) {
    if (std::exchange(begun, true)) return;
    EXPECT_FALSE(Model::open(model_.path()).layer(1, kOptions, {}, cache_.path()).from_cache());
  };
  EXPECT_FALSE(Model::open(model_.path()).layer(0, kOptions, progress, cache_.path()).from_cache());
  EXPECT_TRUE(layer().from_cache());
  EXPECT_EQ(files_in(cache_.path()).size(), 2U);
}

// Bounds the size of files for a while, as a full disk does.
class FileLimit {
 public:
  explicit FileLimit(std::uintmax_t bytes) : handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit bound{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &bound);
  }
  ~FileLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    ::signal(SIGXFSZ, handler_);
  }
  FileLimit(const FileLimit&) = delete;
  FileLimit& operator=(const FileLimit&) = delete;

 private:
  sighandler_t handler_;
  rlimit before_{};
};

bool can_reserve(const fs::path& folder) {
  const int fd = ::open((folder / "try").c_str(), O_RDWR | O_CREAT, 0600);
  const bool can = fd >= 0 && ::fallocate(fd, 0, 0, 4096) == 0;
  ::close(fd);
  fs::remove(folder / "try");
  return can;
}

// Of a format whose scales stand where the checkpoint has them, with biases and with latent maps.
TEST_F(PackCache, AFileThatHasNoRoomIsAnErrorBeforePacking) {
  if (!can_reserve(model_.path())) GTEST_SKIP() << "the filesystem cannot reserve";
  for (const auto& [name, format] :
       {std::pair{"kimi_k25_int4", Format::i4}, {"gpt_oss", Format::bf16}, {"nemotron_h_nvfp4", Format::nvfp4}}) {
    SCOPED_TRACE(name);
    const TempFolder folder;
    const Model model = Model::open(fs::path(SWITCHYARD_TEST_DATA) / name);
    bool packed = false;
    const auto make = [&] {
      const auto progress = [&](std::int32_t, std::int32_t) { packed = true; };
      return model.layer(model.info().moe_layers.front(), {.format = format}, progress, folder.path()).from_cache();
    };
    EXPECT_FALSE(make());
    ASSERT_EQ(files_in(folder.path()).size(), 1U);
    const std::uintmax_t bytes = fs::file_size(files_in(folder.path()).front());
    fs::remove(files_in(folder.path()).front());
    packed = false;
    {
      const FileLimit limit(bytes - 1);
      expect_error(Code::io, {"cache", folder.path().string(), "bytes cannot be reserved"}, make);
    }
    EXPECT_FALSE(packed);
    EXPECT_TRUE(files_in(folder.path()).empty());
    const FileLimit limit(bytes);
    EXPECT_FALSE(make());
    EXPECT_TRUE(make());
  }
}

TEST_F(PackCache, WhoMayReadIsTheUmasksToSay) {
  for (const mode_t mask : {0022U, 0077U, 0027U}) {
    fs::remove(path_);
    const mode_t before = ::umask(mask);
    EXPECT_FALSE(layer().from_cache());
    ::umask(before);
    struct stat status {};
    ASSERT_EQ(::stat(path_.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0644U & ~mask);
  }
}

// Weights that have a format already, with scales elsewhere than where it has them.
struct GroupsOf32 {
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(96 * 64 / 2, 0x5b);
  std::vector<float> scales = std::vector<float>(96 * 3, 0.25F);

  LayerWeights weights() const {
    LayerWeights weights;
    weights.experts = 2;
    weights.hidden = 96;
    weights.ffn = 64;
    weights.expert = [&](std::int32_t) {
      const auto view = [&](std::int64_t depth) {
        WeightView weight{codes.data(), DType::f32, depth};
        weight.codes = Codes::i4;
        weight.scales = {scales.data(), DType::f32, 3, 1, 1, 32};
        return weight;
      };
      return ExpertTensors{view(96), view(96), view(64)};
    };
    return weights;
  }
};

TEST_F(PackCache, PartsStayAsTheyWereWhereAFileIsNotUsed) {
  const GroupsOf32 source;
  const LayerWeights weights = source.weights();
  const auto plan = [&] { return plan_parts(weights, {}, {.format = Format::i4}); };
  Layer::Parts packed = plan();
  const fs::path path = packed_path(cache_.path(), "model", 0, packed);
  lay_out_parts(packed, weights);
  PackedFile file(path, packed);
  pack_parts(packed, weights);
  file.finish(packed, {1, 2});
  const std::string good = read_file(path);

  Layer::Parts parts = plan();
  const PackedMatrices& up = parts.experts.packed().up;
  const PanelScales planned = up.scales();
  const std::size_t bytes = up.bytes();
  ASSERT_NE(planned.group, 32);
  const auto expect_untouched = [&] {
    EXPECT_FALSE(parts.from_cache);
    EXPECT_EQ(up.scales().group, planned.group);
    EXPECT_EQ(up.scales().dtype, planned.dtype);
    EXPECT_EQ(up.bytes(), bytes);
    EXPECT_TRUE(up.buffers()[0].empty());
  };
  EXPECT_FALSE(map_packed(parts, path, {1, 3}));
  expect_untouched();
  std::string bad = good;
  bad.back() = static_cast<char>(bad.back() ^ 1);
  write_text(path, bad);
  EXPECT_FALSE(map_packed(parts, path, {1, 2}));
  expect_untouched();
  write_text(path, good);
  EXPECT_TRUE(map_packed(parts, path, {1, 2}));
  EXPECT_EQ(up.scales().group, 32);
  EXPECT_EQ(up.bytes(), packed.experts.packed().up.bytes());
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
