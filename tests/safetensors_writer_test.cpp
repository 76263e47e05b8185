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
  expect_error(Code::io, {"cannot be put in place"},
               [&] { write_safetensors(folder / "t.safetensors", small_tensors().tensors()); });
  const auto files = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 1);
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
  expect_refused(list, {"not valid UTF-8"});
}

TEST(SafetensorsWriter, NoData) {
  TensorList list;
  list.add("a", {1}, {1});
  list.tensors()[0].data = nullptr;
  expect_refused(list, {"tensor a has no data"});
}

}  // namespace
