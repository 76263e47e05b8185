# Kernels must round as written: no contraction of a*b+c behind our back, and no reassociation.
# Nothing throws, and without exceptions no weak personality symbol appears. g++ 12 takes the undefined operands inside its own
# AVX-512 headers for uninitialised ones (GCC bug 105593).
set(kernel_optimization -O3)
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize=")
  set(kernel_optimization -O1)  # instrumented and unrolled, a file would take two minutes to compile
  set(unsanitized -fno-sanitize=all)  # the text of avx512 once more, at a minute each
endif()
set(kernel_flags ${kernel_optimization} -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-exceptions)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND kernel_flags -Wno-maybe-uninitialized -Wno-uninitialized)
endif()
set(isa_flags_plain "")
set(isa_flags_avx2 -mavx2 -mfma -mf16c -mbmi)
set(isa_flags_avx512 ${isa_flags_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
set(isa_flags_avx512_vnni ${isa_flags_avx512} -mavx512vnni ${unsanitized})
set(isa_flags_avx512_bf16 ${isa_flags_avx512_vnni} -mavx512vbmi -mavx512bf16)
set(isa_flags_avx512_bf16_halves ${isa_flags_avx512_bf16})

if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  message(FATAL_ERROR "switchyard: found processor ${CMAKE_SYSTEM_PROCESSOR}, this version knows x86-64 only")
endif()

foreach(isa IN ITEMS plain avx2 avx512 avx512_vnni avx512_bf16 avx512_bf16_halves)
  target_sources(switchyard PRIVATE cpu/kernels_${isa}.cpp)
  set_source_files_properties(cpu/kernels_${isa}.cpp PROPERTIES COMPILE_OPTIONS "${kernel_flags};${isa_flags_${isa}}")
endforeach()
