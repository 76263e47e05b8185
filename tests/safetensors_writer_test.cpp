#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>

#include "checkpoint_files.hpp"

namespace {

using namespace switchyard;
using namespace switchyard::testing;

TEST(SafetensorsWriter, DataBeginsAligned) {
  const TempFolder folder;
  for (const std::size_t length : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    TensorList list;
    list.add(std::string(length, 'n'), {2}, {1, 2});
    write_safetensors(folder / "t.safetensors", list.tensors());
    const TensorFile file = TensorFile::open(folder / "t.safetensors");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(file.tensors()[0].data) % 8, 0u);
  }
}

TEST(SafetensorsWriter, ReplacesTheFileAndLeavesNothingElse) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "old");
  write_text(folder / "t.safetensors.part0", "another writer's");
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  EXPECT_EQ(TensorFile::open(folder / "t.safetensors").tensors().size(), 4u);
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST(SafetensorsWriter, FolderThatIsNotThere) {
  const TempFolder folder;
  const auto path = folder / "absent" / "t.safetensors";
  expect_error(Code::io, {"write_safetensors", path.string(), "cannot be created"},
               [&] { write_safetensors(path, small_tensors().tensors()); });
}

TEST(SafetensorsWriter, TargetThatIsAFolderLeavesNothing) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "t.safetensors");
  expect_error(Code::io, {"write_safetensors", "cannot be opened"},
               [&] { write_safetensors(folder / "t.safetensors", small_tensors().tensors()); });
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
}

TEST(SafetensorsWriter, KeepsThePermissionsOfTheFile) {
  const TempFolder folder;
  write_text(folder / "t.safetensors", "old");
  std::filesystem::permissions(folder / "t.safetensors", std::filesystem::perms(0600));
  write_safetensors(folder / "t.safetensors", small_tensors().tensors());
  EXPECT_EQ(std::filesystem::status(folder / "t.safetensors").permissions(), std::filesystem::perms(0600));
}

TEST(SafetensorsWriter, ReplacesTheTargetOfALink) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "there");
  std::filesystem::create_symlink("there/second", folder / "first");
  std::filesystem::create_symlink("t.safetensors", folder / "there/second");
  for (int run = 0; run < 2; ++run) {  // first without, then with a target
    write_safetensors(folder / "first", small_tensors().tensors());
    EXPECT_TRUE(std::filesystem::is_symlink(folder / "first"));
    EXPECT_TRUE(std::filesystem::is_symlink(folder / "there/second"));
    EXPECT_EQ(TensorFile::open(folder / "there/t.safetensors").tensors().size(), 4u);
  }
}

TEST(SafetensorsWriter, LinksInACircle) {
  const TempFolder folder;
  std::filesystem::create_symlink("b", folder / "a");
  std::filesystem::create_symlink("a", folder / "b");
  expect_error(Code::io, {"write_safetensors", "cannot be created"},
               [&] { write_safetensors(folder / "a", small_tensors().tensors()); });
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "a"));
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(SafetensorsWriter, WritesIntoAPipe) {
  const TempFolder folder;
  const std::filesystem::path pipe = folder / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int reader = ::open(pipe.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // so that the writer need not wait
  ASSERT_GE(reader, 0);
  write_safetensors(pipe, small_tensors().tensors());
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  std::string piped(std::size_t{1} << 14, '\0');
  piped.resize(static_cast<std::size_t>(std::max<ssize_t>(0, ::read(reader, piped.data(), piped.size()))));
  ::close(reader);
  write_safetensors(folder / "file", small_tensors().tensors());
  EXPECT_EQ(piped, read_text(folder / "file"));
}

void expect_refused(const TensorList& list, std::initializer_list<std::string_view> parts) {
  const TempFolder folder;
  expect_error(Code::invalid_argument, parts, [&] { write_safetensors(folder / "t.safetensors", list.tensors()); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriter, DuplicateNames) {
  TensorList list;
  list.add("a", {1}, {1});
  list.add("a", {1}, {2});
  expect_refused(list, {"tensor a appears twice"});
}

TEST(SafetensorsWriter, BytesThatDoNotFitTheShape) {
  TensorList list;
  list.add("a", {3}, {1, 2});
  expect_refused(list, {"tensor a has 8 bytes, expected 12 for f32 [3]"});
}

TEST(SafetensorsWriter, NegativeShape) {
  TensorList list;
  list.add("a", {-1}, {});
  expect_refused(list, {"tensor a has shape [-1]"});
}

TEST(SafetensorsWriter, ReservedName) {
  TensorList list;
  list.add("__metadata__", {1}, {1});
  expect_refused(list, {"reserved"});
}

TEST(SafetensorsWriter, NameThatIsNotUtf8) {
  TensorList list;
  list.add("\xff", {1}, {1});
  expect_refused(list, {"not valid UTF-8, expected"});
}

TEST(SafetensorsWriter, NoData) {
  TensorList list;
  list.add("a", {1}, {1});
  list.tensors()[0].data = nullptr;
  expect_refused(list, {"tensor a has no data, expected 4 bytes"});
}

}  // namespace
