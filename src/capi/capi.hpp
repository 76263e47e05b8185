// What the C face's files share: exceptions into statuses, structs of callers of other versions, C values into C++
// ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "fail.hpp"
#include "switchyard/layer.hpp"
#include "switchyard/switchyard.h"

namespace switchyard::capi {

// For the assertions that pin numbers.
template <class Enum>
constexpr bool same(Enum value, int number) {
  return static_cast<int>(value) == number;
}

// The status of the exception in flight, its message kept for switchyard_last_error.
switchyard_status keep_current_exception() noexcept;

// Runs a function's body; no exception leaves.
template <class Body>
switchyard_status guard(Body&& body) noexcept {
  try {
    body();
    return SWITCHYARD_OK;
  } catch (...) {
    return keep_current_exception();
  }
}

// The argument, unless it is NULL. `what` reads "function: argument".
template <class T>
T& given(T* argument, const char* what) {
  if (argument == nullptr) {
    fail(Code::invalid_argument, "{} is NULL, expected an address", what);
  }
  return *argument;
}

void check_struct_size(std::size_t found, std::size_t known, const char* what);
// Fields of a later version that this library would ignore.
void check_unknown_fields(const unsigned char* begin, std::size_t bytes, const char* what);

// A caller's struct with struct_size as this library knows it.
template <class T>
T read_struct(const T* argument, const char* what) {
  static_assert(std::is_trivially_copyable_v<T> && offsetof(T, struct_size) == 0);
  const std::uint32_t size = given(argument, what).struct_size;
  check_struct_size(size, sizeof(T), what);
  if (size > sizeof(T)) {
    check_unknown_fields(reinterpret_cast<const unsigned char*>(argument) + sizeof(T), size - sizeof(T), what);
  }
  return *argument;
}

// The same, NULL standing for all zero.
template <class T>
T read_optional(const T* argument, const char* what) {
  if (argument == nullptr) {
    T zero{};
    zero.struct_size = sizeof(T);
    return zero;
  }
  return read_struct(argument, what);
}

// A struct to fill: found fit before any work, written at the end.
template <class T>
void check_result(const T* argument, const char* what) {
  check_struct_size(given(argument, what).struct_size, sizeof(T), what);
}

template <class T>
void write_result(T* argument, T value) noexcept {
  value.struct_size = argument->struct_size;
  *argument = value;
}

// A field that has no meaning yet.
void check_reserved(std::int32_t found, const char* what);

DType to_dtype(switchyard_dtype dtype, const char* what);
ConstMatrix to_matrix(const switchyard_const_matrix& matrix, const char* what);
Matrix to_matrix(const switchyard_matrix& matrix, const char* what);
// Both strides 0 stand for a dense [out, in].
WeightView to_view(const switchyard_weight_view& view, std::int64_t in, const char* what);
Threads to_threads(const switchyard_threads* threads);
RouterOptions to_router(const switchyard_router_options* options);
switchyard_router_options from_router(const RouterOptions& options);
RouteInputs to_inputs(const switchyard_route_inputs* inputs);

// A layer's handle; model.layer makes one too.
switchyard_layer* new_layer(Layer layer, const switchyard_layer_options& options);
LayerOptions to_layer_options(const switchyard_layer_options& options);

}  // namespace switchyard::capi
