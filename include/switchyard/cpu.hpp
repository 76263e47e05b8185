// Instruction sets of the processor: which there are, which one runs.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "switchyard/export.hpp"

namespace switchyard {

// Instructions, and the units that run them. Numbers do not say which is better. f32 and bf16 results have the same bits on
// all of them.
enum class Isa : std::int32_t {
  plain = 0,
  avx2 = 1,                // AVX2 + FMA + F16C
  avx512 = 2,              // AVX-512 F, BW, DQ, VL
  avx512_vnni = 3,         // + VNNI
  avx512_bf16 = 4,         // + VNNI + BF16 + VBMI: Sapphire Rapids, Zen 5 and later
  avx512_bf16_halves = 5,  // the same instructions in an order for units of 256 bits: Zen 4 and others
};

// "plain", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_bf16_halves".
SWITCHYARD_API const char* isa_name(Isa isa) noexcept;

// Every set that this build knows, whether the machine has it or not; best first, on units as wide as vectors.
SWITCHYARD_API std::span<const Isa> known_isas() noexcept;

// The sets that this processor has and the operating system enables, best first.
SWITCHYARD_API std::span<const Isa> available_isas();

// The set that forwards use: the best available one, unless the environment variable SWITCHYARD_ISA names another or
// set_isa was called. Throws not_supported if SWITCHYARD_ISA names a set that is unknown or not available here.
SWITCHYARD_API Isa current_isa();

// Chooses the set for forwards that start after the call, on all threads. Throws not_supported if it is not available
// here.
SWITCHYARD_API void set_isa(Isa isa);

// The set of that name. Throws invalid_argument, listing the known names.
SWITCHYARD_API Isa parse_isa(std::string_view name);

}  // namespace switchyard
