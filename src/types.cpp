#include "switchyard/types.hpp"

#include <array>

namespace switchyard {
namespace {

struct DTypeRow {
  const char* name;
  std::size_t bytes;
};

// In the order of the enum's numbers.
constexpr std::array<DTypeRow, 16> kDTypes{{{"f32", 4},
                                            {"bf16", 2},
                                            {"f16", 2},
                                            {"f64", 8},
                                            {"i8", 1},
                                            {"u8", 1},
                                            {"i16", 2},
                                            {"u16", 2},
                                            {"i32", 4},
                                            {"u32", 4},
                                            {"i64", 8},
                                            {"u64", 8},
                                            {"bool", 1},
                                            {"f8_e4m3", 1},
                                            {"f8_e5m2", 1},
                                            {"f8_e8m0", 1}}};

}  // namespace

std::size_t dtype_bytes(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].bytes; }
const char* dtype_name(DType dtype) noexcept { return kDTypes[static_cast<std::size_t>(dtype)].name; }

}  // namespace switchyard
