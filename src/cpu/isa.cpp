#include <cpuid.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "cpu/kernels.hpp"
#include "fail.hpp"
#include "switchyard/cpu.hpp"

namespace switchyard {

extern const Kernels kKernelsPlain;
extern const Kernels kKernelsAvx2;
extern const Kernels kKernelsAvx512;
extern const Kernels kKernelsAvx512Vnni;
extern const Kernels kKernelsAvx512Bf16;
extern const Kernels kKernelsAvx512Bf16Halves;

namespace {

// Best first, on units as wide as vectors.
constexpr std::array<Isa, 6> kKnown{Isa::avx512_bf16, Isa::avx512_bf16_halves, Isa::avx512_vnni, Isa::avx512, Isa::avx2,
                                    Isa::plain};

// clang 14 has no __builtin_cpu_supports("f16c"). Its registers are those of AVX.
bool processor_has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

// Of AMD's processors with AVX-512, those of family 0x19 (Zen 4), and others with FP256 and no FP512 (AMD64 Architecture
// Programmer's Manual, volume 3, CPUID Fn8000_001A). Some hypervisors leave that leaf empty.
bool processor_halves_vectors() {
  constexpr unsigned kFp256 = 1U << 2;
  constexpr unsigned kFp512 = 1U << 3;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (!__builtin_cpu_is("amd") || __get_cpuid(1, &a, &b, &c, &d) == 0) {
    return false;
  }
  const unsigned family = (a >> 8 & 0xfU) + (a >> 20 & 0xffU);
  return family == 0x19 || (__get_cpuid(0x8000001A, &a, &b, &c, &d) != 0 && (a & (kFp256 | kFp512)) == kFp256);
}

// __builtin_cpu_supports asks CPUID and, for the registers that the operating system must save, XGETBV.
bool processor_has(Isa isa) {
  switch (isa) {
    case Isa::plain:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("fma") &&
             processor_has_f16c();
    case Isa::avx512:
      return processor_has(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case Isa::avx512_vnni:
      return processor_has(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::avx512_bf16:
    case Isa::avx512_bf16_halves:
      return processor_has(Isa::avx512_vnni) && __builtin_cpu_supports("avx512bf16") &&
             __builtin_cpu_supports("avx512vbmi");
  }
  return false;
}

const Kernels* kernels_of(Isa isa) {
  switch (isa) {
    case Isa::plain:
      return &kKernelsPlain;
    case Isa::avx2:
      return &kKernelsAvx2;
    case Isa::avx512:
      return &kKernelsAvx512;
    case Isa::avx512_vnni:
      return &kKernelsAvx512Vnni;
    case Isa::avx512_bf16:
      return &kKernelsAvx512Bf16;
    case Isa::avx512_bf16_halves:
      return &kKernelsAvx512Bf16Halves;
  }
  return &kKernelsPlain;
}

std::string names(std::span<const Isa> sets) {
  std::string list;
  for (const Isa isa : sets) {
    list += (list.empty() ? "" : ", ") + std::string(isa_name(isa));
  }
  return list;
}

// Null until somebody asks or sets.
std::atomic<const Kernels*> chosen{nullptr};

const Kernels* detect() {
  const std::span<const Isa> available = available_isas();
  const char* forced = std::getenv("SWITCHYARD_ISA");
  if (forced == nullptr || *forced == '\0') {
    return kernels_of(available.front());
  }
  for (const Isa isa : available) {
    if (std::string_view(forced) == isa_name(isa)) {
      return kernels_of(isa);
    }
  }
  fail(Code::not_supported, "cpu: SWITCHYARD_ISA is '{}', expected one of what this machine has: {}", forced,
       names(available));
}

}  // namespace

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::plain:
      return "plain";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::avx512_bf16_halves:
      return "avx512_bf16_halves";
  }
  return "unknown";
}

std::span<const Isa> known_isas() noexcept { return kKnown; }

std::span<const Isa> available_isas() {
  static const std::vector<Isa> sets = [] {
    std::vector<Isa> found;
    std::copy_if(kKnown.begin(), kKnown.end(), std::back_inserter(found), processor_has);
    if (found.front() == Isa::avx512_bf16 && processor_halves_vectors()) {
      std::swap(found[0], found[1]);
    }
    return found;
  }();
  return sets;
}

const Kernels& current_kernels() {
  const Kernels* kernels = chosen.load(std::memory_order_acquire);
  if (kernels == nullptr) {
    const Kernels* detected = detect();
    // Whoever was first, or a set_isa meanwhile, wins.
    kernels = chosen.compare_exchange_strong(kernels, detected) ? detected : kernels;
  }
  return *kernels;
}

Isa current_isa() { return current_kernels().isa; }

void set_isa(Isa isa) {
  const std::span<const Isa> available = available_isas();
  if (std::find(available.begin(), available.end(), isa) == available.end()) {
    fail(Code::not_supported, "cpu: instruction set {} is not available, expected one of what this machine has: {}",
         isa_name(isa), names(available));
  }
  chosen.store(kernels_of(isa), std::memory_order_release);
}

Isa parse_isa(std::string_view name) {
  for (const Isa isa : kKnown) {
    if (name == isa_name(isa)) {
      return isa;
    }
  }
  fail(Code::invalid_argument, "cpu: instruction set '{}' is unknown, expected one of {}", name, names(kKnown));
}

}  // namespace switchyard
