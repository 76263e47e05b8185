// The bytes of every packed form, which caches on disk hold: they change with their version alone.
#include <gtest/gtest.h>

#include <vector>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "experts/packed.hpp"

namespace {

using namespace switchyard;

constexpr std::uint32_t kVersion = 2;

struct Known {
  Format format;
  std::uint64_t single;
  std::uint64_t gated;
};
constexpr Known kKnown[] = {
    {Format::f32, 0xba154152abdb7f7c, 0xd4d151465ff76793},     {Format::bf16, 0xcaf3f214cb76ac13, 0x1009c3ba030f93dd},
    {Format::i8, 0xc104f4eebbb00a32, 0x8d00258fd7b58b3a},      {Format::i4, 0xb1daa102ce21d1ee, 0xa8cba3eb6fbfab6},
    {Format::f8_e4m3, 0x9540923e79c0923e, 0xf3eeac69f96bc1ff}, {Format::mxfp4, 0x408c5d8e598651a1, 0x142259d311249827},
    {Format::mxfp8, 0x27165abfdb98ffb8, 0x2e74eb55f8cfcb60},   {Format::nvfp4, 0x1499e14e8c55376b, 0xbd45f5ac51fbb263},
};
constexpr std::uint64_t kGroupsOf32 = 0xf6c8c9fdb1f6c3d1;  // int4 with scales as a checkpoint has them

constexpr std::int64_t kFeatures = 45;
constexpr std::int64_t kDepth = 200;

// Numbers that everybody computes alike.
std::vector<float> numbers(std::int64_t count, std::int64_t first) {
  std::vector<float> values;
  for (std::int64_t i = first; i < first + count; ++i) {
    values.push_back(static_cast<float>(i * 37 % 101 - 50) / static_cast<float>(64 << i % 3));
  }
  return values;
}

std::uint64_t hash_of(PackedMatrices& packed, const WeightView& view, const WeightView& up) {
  const std::vector<float> bias = numbers(kFeatures, 3);
  packed.make_bias();
  for (std::int32_t matrix = 0; matrix < packed.count(); ++matrix) {
    packed.pack(matrix, view, up, Threads::pool(1));
    packed.pack_bias(matrix, {bias.data(), DType::f32, 1}, {bias.data(), DType::f32, 1});
  }
  std::uint64_t hash = 0;
  for (const auto& buffer : packed.buffers()) hash = XXH3_64bits_withSeed(buffer.data(), buffer.size(), hash);
  return hash;
}

void expect_known(std::uint64_t found, std::uint64_t known, const char* name) {
  EXPECT_EQ(found, known) << std::hex << "0x" << found << ": the packed form of " << name
                          << " has changed: raise kPackedVersion, so that no file of the old form is used, and put the "
                             "new numbers and the version here";
}

TEST(PackedForm, ChangesWithItsVersionAlone) {
  ASSERT_EQ(kPackedVersion, kVersion) << "put the numbers of this version here";
  static_assert(std::size(kKnown) == kFormats);
  const std::vector<float> gate = numbers(kFeatures * kDepth, 0);
  const std::vector<float> up = numbers(kFeatures * kDepth, 1000);
  const WeightView view{gate.data(), DType::f32, kDepth};
  for (const Known& known : kKnown) {
    PackedMatrices single(2, kFeatures, kDepth, false, known.format);
    expect_known(hash_of(single, view, {}), known.single, format_name(known.format));
    PackedMatrices gated(2, kFeatures, kDepth, true, known.format);
    expect_known(hash_of(gated, view, {up.data(), DType::f32, kDepth}), known.gated, format_name(known.format));
  }
}

TEST(PackedForm, OfKeptCodesChangesWithItsVersionAlone) {
  std::vector<std::uint8_t> codes;
  for (std::int64_t i = 0; i < kFeatures * kDepth / 2; ++i) codes.push_back(static_cast<std::uint8_t>(i * 37 % 256));
  std::vector<std::uint16_t> scales;
  for (std::int64_t i = 0; i < kFeatures * 7; ++i) scales.push_back(static_cast<std::uint16_t>(0x3c00 + i));
  WeightView view{codes.data(), DType::f32, kDepth};
  view.codes = Codes::u4;
  view.scales = {scales.data(), DType::bf16, 7, 1, 1, 32};
  PackedMatrices packed(2, kFeatures, kDepth, false, Format::i4);
  expect_known(hash_of(packed, view, {}), kGroupsOf32, "int4 in groups of 32");
}

}  // namespace
