// Errors, instruction sets, views and threads of the C API.
#include "capi/capi.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <utility>

#include "switchyard/cpu.hpp"
#include "switchyard/types.hpp"

namespace switchyard::capi {
namespace {

static_assert(same(Code::ok, SWITCHYARD_OK) && same(Code::internal, SWITCHYARD_INTERNAL) &&
              same(Code::invalid_argument, SWITCHYARD_INVALID_ARGUMENT) &&
              same(Code::not_supported, SWITCHYARD_NOT_SUPPORTED) && same(Code::io, SWITCHYARD_IO) &&
              same(Code::bad_data, SWITCHYARD_BAD_DATA) && same(Code::mismatch, SWITCHYARD_MISMATCH) &&
              same(Code::out_of_memory, SWITCHYARD_OUT_OF_MEMORY));
static_assert(same(Isa::plain, SWITCHYARD_ISA_PLAIN) && same(Isa::avx2, SWITCHYARD_ISA_AVX2) &&
              same(Isa::avx512, SWITCHYARD_ISA_AVX512) && same(Isa::avx512_vnni, SWITCHYARD_ISA_AVX512_VNNI) &&
              same(Isa::avx512_bf16, SWITCHYARD_ISA_AVX512_BF16) &&
              same(Isa::avx512_bf16_halves, SWITCHYARD_ISA_AVX512_BF16_HALVES));
static_assert(same(DType::f32, SWITCHYARD_DTYPE_F32) && same(DType::bf16, SWITCHYARD_DTYPE_BF16) &&
              same(DType::f16, SWITCHYARD_DTYPE_F16) && same(DType::f64, SWITCHYARD_DTYPE_F64) &&
              same(DType::i8, SWITCHYARD_DTYPE_I8) && same(DType::u8, SWITCHYARD_DTYPE_U8) &&
              same(DType::i16, SWITCHYARD_DTYPE_I16) && same(DType::u16, SWITCHYARD_DTYPE_U16) &&
              same(DType::i32, SWITCHYARD_DTYPE_I32) && same(DType::u32, SWITCHYARD_DTYPE_U32) &&
              same(DType::i64, SWITCHYARD_DTYPE_I64) && same(DType::u64, SWITCHYARD_DTYPE_U64) &&
              same(DType::boolean, SWITCHYARD_DTYPE_BOOLEAN) && same(DType::f8_e4m3, SWITCHYARD_DTYPE_F8_E4M3) &&
              same(DType::f8_e5m2, SWITCHYARD_DTYPE_F8_E5M2) && same(DType::f8_e8m0, SWITCHYARD_DTYPE_F8_E8M0));
static_assert(same(Codes::plain, SWITCHYARD_CODES_PLAIN) && same(Codes::i8, SWITCHYARD_CODES_I8) &&
              same(Codes::u8, SWITCHYARD_CODES_U8) && same(Codes::i4, SWITCHYARD_CODES_I4) &&
              same(Codes::u4, SWITCHYARD_CODES_U4) && same(Codes::f8_e4m3, SWITCHYARD_CODES_F8_E4M3) &&
              same(Codes::f4_e2m1, SWITCHYARD_CODES_F4_E2M1));

struct LastError {
  std::string text;
  const char* message = "";

  // Without memory for the message, the kind alone has to do.
  void keep(const char* found, Code code) noexcept {
    try {
      std::string copy = found;
      text = std::move(copy);
      message = text.c_str();
    } catch (...) {
      message = code_name(code);
    }
  }
};

LastError& last_error() noexcept {
  thread_local LastError error;
  return error;
}

bool is_dtype(switchyard_dtype dtype) { return dtype >= SWITCHYARD_DTYPE_F32 && dtype <= SWITCHYARD_DTYPE_F8_E8M0; }

struct IsaNumbers {
  std::array<switchyard_isa, 16> isas{};
  std::size_t count = 0;
};

IsaNumbers numbers(std::span<const Isa> sets) noexcept {
  IsaNumbers list;
  for (const Isa isa : sets.first(std::min(sets.size(), list.isas.size()))) {
    list.isas[list.count++] = static_cast<switchyard_isa>(isa);
  }
  return list;
}

}  // namespace

switchyard_status keep_current_exception() noexcept {
  Code code = Code::internal;
  try {
    throw;
  } catch (const Error& error) {
    code = error.code();
    last_error().keep(error.what(), code);
  } catch (const std::bad_alloc&) {
    code = Code::out_of_memory;
    last_error().keep("memory: an allocation failed", code);
  } catch (const std::exception& error) {
    last_error().keep(error.what(), code);
  } catch (...) {
    last_error().keep("internal: found an exception of unknown type", code);
  }
  return static_cast<switchyard_status>(code);
}

void check_struct_size(std::size_t found, std::size_t known, const char* what) {
  if (found < known) {
    fail(Code::invalid_argument, "{} has struct_size {}, expected {}, its sizeof", what, found, known);
  }
}

void check_unknown_fields(const unsigned char* begin, std::size_t bytes, const char* what) {
  for (std::size_t i = 0; i < bytes; ++i) {
    if (begin[i] != 0) {
      fail(Code::not_supported, "{} has a field of a later version set, expected 0 there for version {}", what,
           switchyard_version());
    }
  }
}

void check_reserved(std::int32_t found, const char* what) {
  if (found != 0) {
    fail(Code::not_supported, "{} is {}, expected 0", what, found);
  }
}

DType to_dtype(switchyard_dtype dtype, const char* what) {
  if (!is_dtype(dtype)) {
    fail(Code::invalid_argument, "{} has dtype {}, expected 0..{}", what, dtype,
         static_cast<int>(SWITCHYARD_DTYPE_F8_E8M0));
  }
  return static_cast<DType>(dtype);
}

ConstMatrix to_matrix(const switchyard_const_matrix& matrix, const char* what) {
  ConstMatrix result(matrix.data, to_dtype(matrix.dtype, what), matrix.rows, matrix.cols);
  result.stride = matrix.stride == 0 ? matrix.cols : matrix.stride;
  return result;
}

Matrix to_matrix(const switchyard_matrix& matrix, const char* what) {
  Matrix result(matrix.data, to_dtype(matrix.dtype, what), matrix.rows, matrix.cols);
  result.stride = matrix.stride == 0 ? matrix.cols : matrix.stride;
  return result;
}

WeightView to_view(const switchyard_weight_view& view, std::int64_t in, const char* what) {
  const bool dense = view.out_stride == 0 && view.in_stride == 0;
  return {view.data, to_dtype(view.dtype, what), dense ? in : view.out_stride, dense ? 1 : view.in_stride};
}

Threads to_threads(const switchyard_threads* threads) {
  const switchyard_threads read = read_optional(threads, "threads: the struct");
  return read.run == nullptr ? Threads::pool(read.count) : Threads::host(read.count, read.run, read.host);
}

}  // namespace switchyard::capi

using namespace switchyard;
using namespace switchyard::capi;

#define SWITCHYARD_TEXT_OF(number) #number
#define SWITCHYARD_TEXT(number) SWITCHYARD_TEXT_OF(number)

const char* switchyard_version(void) {
  return SWITCHYARD_TEXT(SWITCHYARD_VERSION_MAJOR) "." SWITCHYARD_TEXT(SWITCHYARD_VERSION_MINOR) "." SWITCHYARD_TEXT(
      SWITCHYARD_VERSION_PATCH);
}

const char* switchyard_last_error(void) { return last_error().message; }

const char* switchyard_status_name(switchyard_status status) { return code_name(static_cast<Code>(status)); }

const char* switchyard_isa_name(switchyard_isa isa) { return isa_name(static_cast<Isa>(isa)); }

const switchyard_isa* switchyard_known_isas(size_t* count) {
  static const IsaNumbers list = numbers(known_isas());
  if (count == nullptr) {
    return nullptr;
  }
  *count = list.count;
  return list.isas.data();
}

const switchyard_isa* switchyard_available_isas(size_t* count) {
  if (count == nullptr) {
    return nullptr;
  }
  *count = 0;
  const IsaNumbers* list = nullptr;
  const switchyard_status status = guard([&] {
    static const IsaNumbers available = numbers(available_isas());
    list = &available;
  });
  if (status != SWITCHYARD_OK) {
    return nullptr;
  }
  *count = list->count;
  return list->isas.data();
}

switchyard_status switchyard_current_isa(switchyard_isa* isa) {
  return guard([&] { given(isa, "current_isa: isa") = static_cast<switchyard_isa>(current_isa()); });
}

switchyard_status switchyard_set_isa(const char* name) {
  return guard([&] { set_isa(parse_isa(&given(name, "set_isa: name"))); });
}

size_t switchyard_dtype_bytes(switchyard_dtype dtype) {
  return is_dtype(dtype) ? dtype_bytes(static_cast<DType>(dtype)) : 0;
}

const char* switchyard_dtype_name(switchyard_dtype dtype) {
  return is_dtype(dtype) ? dtype_name(static_cast<DType>(dtype)) : "unknown";
}

const char* switchyard_codes_name(switchyard_codes codes) { return codes_name(static_cast<Codes>(codes)); }

switchyard_status switchyard_threads_count(const switchyard_threads* threads, int32_t* count) {
  return guard([&] {
    std::int32_t& result = given(count, "threads_count: count");
    result = to_threads(threads).count();
  });
}

switchyard_status switchyard_threads_run(const switchyard_threads* threads, switchyard_body body, void* data) {
  return guard([&] { to_threads(threads).run(given(body, "threads_run: body"), data); });
}
