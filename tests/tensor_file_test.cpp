#include "switchyard/tensor_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

std::string bytes_of(const Tensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
}

TEST(TensorFile, ReadsWhatTheWriterWrote) {
  const TempFolder folder;
  const TensorList list = small_tensors();
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  ASSERT_EQ(file.tensors().size(), list.tensors().size());
  for (const Tensor& wanted : list.tensors()) {
    const Tensor& found = file.at(wanted.name);
    EXPECT_EQ(found.name, wanted.name);
    EXPECT_EQ(found.dtype, wanted.dtype);
    EXPECT_EQ(found.shape, wanted.shape);
    EXPECT_EQ(bytes_of(found), bytes_of(wanted));
    EXPECT_EQ(file.find(wanted.name), &found);
  }
}

TEST(TensorFile, EveryDTypeComesBack) {
  const TempFolder folder;
  const std::vector<std::byte> zeros(8);
  TensorList list;
  for (int i = 0; i < 16; ++i) {
    const auto dtype = static_cast<DType>(i);
    list.add(dtype_name(dtype), dtype, {1}, zeros.data(), dtype_bytes(dtype));
  }
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  for (const Tensor& wanted : list.tensors()) EXPECT_EQ(file.at(wanted.name).dtype, wanted.dtype);
}

TEST(TensorFile, ListsTensorsInTheOrderOfTheirPlace) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<std::string> names;
  for (const Tensor& tensor : file.tensors()) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"odd", "a.weight", "scalar", "none"}));
}

TEST(TensorFile, UnalignedTensorsAreFine) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  const Tensor& tensor = file.at("a.weight");
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensor.data) % 4, 3u);
  float second = 0;
  std::memcpy(&second, tensor.data + 4, sizeof second);
  EXPECT_EQ(second, 2.0f);
}

TEST(TensorFile, NoTensorsAtAll) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", {});
  EXPECT_TRUE(TensorFile::open(folder / "t.safetensors").tensors().empty());
}

TEST(TensorFile, MetadataAndPaddingAreSkipped) {
  const TempFolder folder;
  write_text(folder / "t.safetensors",
             safetensors_of(
                 R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}     )", 2));
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_EQ(bytes_of(file.at("a")), "\1\1");
}

TEST(TensorFile, UnknownNameIsNullOrAnError) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  EXPECT_EQ(file.find("b"), nullptr);
  expect_error(Code::bad_data, {"t.safetensors", "has no tensor b"}, [&] { file.at("b"); });
}

TEST(TensorFile, StaysReadableWhenMoved) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  TensorFile first = TensorFile::open(folder / "t.safetensors");
  const Tensor* tensor = first.find("odd");
  const TensorFile second = std::move(first);
  EXPECT_EQ(second.find("odd"), tensor);
  EXPECT_EQ(bytes_of(*tensor), "abc");
}

TEST(TensorFile, ReleasedTensorsComeBackFromTheFile) {
  const TempFolder folder;
  std::vector<float> values(100'000);
  std::iota(values.begin(), values.end(), 0.0f);
  TensorList list;
  list.add("odd", DType::u8, {3}, "abc", 3);
  list.add("big", {100'000}, values);
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  const Tensor& big = file.at("big");
  const std::string before = bytes_of(big);
  file.release(big);
  file.release(big.data + 5000, 50'000);
  file.release(big.data, 0);
  EXPECT_TRUE(bytes_of(big) == before);
}

TEST(TensorFile, ReleaseLeavesForeignMemoryAlone) {
  const TempFolder folder;
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<std::byte> mine(1 << 20, std::byte{7});
  file.release(mine.data(), mine.size());
  const Tensor& odd = file.at("odd");
  file.release(odd.data, std::size_t{1} << 40);
  EXPECT_EQ(std::count(mine.begin(), mine.end(), std::byte{7}), 1 << 20);
}

TEST(TensorFile, SeveralThreadsReadAndRelease) {
  const TempFolder folder;
  TensorList list;
  list.add("ones", {50'000}, std::vector<float>(50'000, 1.0f));
  write_safetensors(folder / "t.safetensors", list.tensors());
  const TensorFile file = TensorFile::open(folder / "t.safetensors");
  std::vector<float> sums(4);
  std::vector<std::thread> threads;
  threads.reserve(sums.size());
  for (float& sum : sums) {
    threads.emplace_back([&file, &sum] {
      const Tensor& tensor = file.at("ones");
      for (std::size_t i = 0; i < tensor.bytes; i += sizeof(float)) {
        float value = 0;
        std::memcpy(&value, tensor.data + i, sizeof value);
        sum += value;
        if (i % 4096 == 0) file.release(tensor);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(sums, std::vector<float>(4, 50'000.0f));
}

// A file with holes in the sense of the file system takes no space on disk.
TEST(TensorFile, TensorsBeyondFourGiB) {
  const TempFolder folder;
  const auto path = folder / "t.safetensors";
  constexpr std::uint64_t kBig = 5'000'000'000;  // more than 2^32 bytes, and more elements than that in u8
  const std::string header = R"({"big":{"dtype":"U8","shape":[50000,100000],"data_offsets":[0,5000000000]},)"
                             R"("tail":{"dtype":"U8","shape":[4],"data_offsets":[5000000000,5000000004]}})";
  write_text(path, safetensors_of(header, 0));
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const auto data = static_cast<off_t>(8 + header.size());
  ASSERT_EQ(::pwrite(fd, "tail", 4, data + static_cast<off_t>(kBig)), 4);
  ASSERT_EQ(::pwrite(fd, "end", 3, data + static_cast<off_t>(kBig) - 3), 3);
  ::close(fd);

  const TensorFile file = TensorFile::open(path);
  const Tensor& big = file.at("big");
  EXPECT_EQ(big.bytes, kBig);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(big.data + kBig - 3), 3), "end");
  EXPECT_EQ(bytes_of(file.at("tail")), "tail");
  file.release(big);
}

// ---- files that are none

TEST(TensorFile, FileIsMissing) {
  const TempFolder folder;
  expect_error(Code::io, {"absent.safetensors", "No such file"},
               [&] { TensorFile::open(folder / "absent.safetensors"); });
}

TEST(TensorFile, FileIsAFolder) {
  const TempFolder folder;
  expect_error(Code::io, {folder.path().string(), "Is a directory"}, [&] { TensorFile::open(folder.path()); });
}

TEST(TensorFile, FileIsANamedPipe) {
  const TempFolder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  expect_error(Code::io, {"pipe", "no regular file"}, [&] { TensorFile::open(folder / "pipe"); });
}

}  // namespace
