/* Errors, instruction sets, views of memory and threads of the C API; the conventions stand in switchyard.h. */
#ifndef SWITCHYARD_TYPES_H
#define SWITCHYARD_TYPES_H

#include <stddef.h>
#include <stdint.h>

#include "switchyard/export.hpp"  /* macros alone, as the next one */
#include "switchyard/version.hpp" /* SWITCHYARD_VERSION_MAJOR, _MINOR, _PATCH of this header */

#ifdef __cplusplus
extern "C" {
#endif

/* Version and errors. */

/* Of the library that runs: "0.1.0". Static. */
SWITCHYARD_API const char* switchyard_version(void);

typedef int32_t switchyard_status;
enum {
  SWITCHYARD_OK = 0,
  SWITCHYARD_INTERNAL = 1,         /* a defect of the library */
  SWITCHYARD_INVALID_ARGUMENT = 2, /* the caller's fault: sizes, ids, options */
  SWITCHYARD_NOT_SUPPORTED = 3,    /* understood, but not in this build, on this machine or in this version */
  SWITCHYARD_IO = 4,               /* the operating system refused: missing file, no space, no permission */
  SWITCHYARD_BAD_DATA = 5,         /* a file is damaged or does not fit what it says of itself */
  SWITCHYARD_MISMATCH = 6,         /* the command line only */
  SWITCHYARD_OUT_OF_MEMORY = 7
};

/* What went wrong in the last call of this thread that failed: `step: what was found where, what was expected`. "" if
 * none has. Holds until the next failure on this thread, or the thread's end. */
SWITCHYARD_API const char* switchyard_last_error(void);

/* "ok", "invalid argument", ...; "unknown code" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_status_name(switchyard_status status);

/* Instruction sets. */

/* Instructions, and the units that run them. Numbers do not say which is better. f32 and bf16 results have the same bits on
 * all of them. */
typedef int32_t switchyard_isa;
enum {
  SWITCHYARD_ISA_PLAIN = 0,
  SWITCHYARD_ISA_AVX2 = 1,              /* AVX2 + FMA + F16C */
  SWITCHYARD_ISA_AVX512 = 2,            /* AVX-512 F, BW, DQ, VL */
  SWITCHYARD_ISA_AVX512_VNNI = 3,       /* + VNNI */
  SWITCHYARD_ISA_AVX512_BF16 = 4,       /* + VNNI + BF16 + VBMI */
  SWITCHYARD_ISA_AVX512_BF16_HALVES = 5 /* the same instructions in an order for units of 256 bits: Zen 4 and others */
};

/* "plain", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_bf16_halves"; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_isa_name(switchyard_isa isa);

/* Every set that the build knows, [count]; best first, on units as wide as vectors. Static. */
SWITCHYARD_API const switchyard_isa* switchyard_known_isas(size_t* count);

/* The sets that the processor has and the operating system enables, [count], best first. Static. NULL and a count of 0
 * if memory ran out. */
SWITCHYARD_API const switchyard_isa* switchyard_available_isas(size_t* count);

/* The set that forwards use: the best available one, unless SWITCHYARD_ISA in the environment names another or one was
 * set. SWITCHYARD_NOT_SUPPORTED if the environment names a set that is unknown or not available here. */
SWITCHYARD_API switchyard_status switchyard_current_isa(switchyard_isa* isa);

/* Chooses the set of that name for forwards that start after the call, on all threads. SWITCHYARD_INVALID_ARGUMENT if
 * the name is unknown, SWITCHYARD_NOT_SUPPORTED if the set is not available here. */
SWITCHYARD_API switchyard_status switchyard_set_isa(const char* name);

/* Element types and views. */

typedef int32_t switchyard_dtype;
enum {
  SWITCHYARD_DTYPE_F32 = 0,
  SWITCHYARD_DTYPE_BF16 = 1,
  SWITCHYARD_DTYPE_F16 = 2,
  SWITCHYARD_DTYPE_F64 = 3,
  SWITCHYARD_DTYPE_I8 = 4,
  SWITCHYARD_DTYPE_U8 = 5,
  SWITCHYARD_DTYPE_I16 = 6,
  SWITCHYARD_DTYPE_U16 = 7,
  SWITCHYARD_DTYPE_I32 = 8,
  SWITCHYARD_DTYPE_U32 = 9,
  SWITCHYARD_DTYPE_I64 = 10,
  SWITCHYARD_DTYPE_U64 = 11,
  SWITCHYARD_DTYPE_BOOLEAN = 12,
  SWITCHYARD_DTYPE_F8_E4M3 = 13,
  SWITCHYARD_DTYPE_F8_E5M2 = 14,
  SWITCHYARD_DTYPE_F8_E8M0 = 15
};

/* Bytes of one element; 0 for other numbers. */
SWITCHYARD_API size_t switchyard_dtype_bytes(switchyard_dtype dtype);
/* "f32", "bf16", ...; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_dtype_name(switchyard_dtype dtype);

/* What the elements of a weight are stored as: numbers of a switchyard_dtype, or codes that are multiplied with scales. */
typedef int32_t switchyard_codes;
enum {
  SWITCHYARD_CODES_PLAIN = 0,
  SWITCHYARD_CODES_I8 = 1,
  SWITCHYARD_CODES_U8 = 2,
  SWITCHYARD_CODES_I4 = 3,
  SWITCHYARD_CODES_U4 = 4,
  SWITCHYARD_CODES_F8_E4M3 = 5,
  SWITCHYARD_CODES_F4_E2M1 = 6
};

/* "plain", "i8", ...; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_codes_name(switchyard_codes codes);

/* Elements without gaps, as many as the place that takes them says. data NULL: not given. */
typedef struct switchyard_const_array {
  const void* data;
  switchyard_dtype dtype;
} switchyard_const_array;

/* The same, written to. data NULL: not wanted. */
typedef struct switchyard_array {
  void* data;
  switchyard_dtype dtype;
} switchyard_array;

/* Rows [rows, cols] of the caller's memory. stride: distance of two rows in elements, >= cols; 0 stands for cols. */
typedef struct switchyard_const_matrix {
  const void* data;
  switchyard_dtype dtype;
  int64_t rows;
  int64_t cols;
  int64_t stride;
} switchyard_const_matrix;

/* The same, written to. */
typedef struct switchyard_matrix {
  void* data;
  switchyard_dtype dtype;
  int64_t rows;
  int64_t cols;
  int64_t stride;
} switchyard_matrix;

/* A weight [out, in], f32, bf16 or f16: element (o, i) is at data + (o * out_stride + i * in_stride) elements. Both
 * strides 0 stand for a dense [out, in]. data NULL: there is no such weight. */
typedef struct switchyard_weight_view {
  const void* data;
  switchyard_dtype dtype;
  int64_t out_stride;
  int64_t in_stride;
} switchyard_weight_view;

/* Threads. */

typedef void (*switchyard_body)(void* data, int worker);

/* Runs work on threads of the host: must call body(data, 0) and may call body(data, w) for other w in [1, workers),
 * each at most once, at the same time or one after the other; returns when all have returned. Must not throw or jump
 * out. */
typedef void (*switchyard_run)(void* host, int workers, switchyard_body body, void* data);

/* Who does the work; wherever a pointer to it is taken, NULL stands for all zero: the pool with all processors. */
typedef struct switchyard_threads {
  uint32_t struct_size;
  int32_t count;      /* 1..1024; without run, 0 or less: all that the calling thread may use, at most 1024 */
  switchyard_run run; /* NULL: the caller's thread and workers of the one pool of this process, see below */
  void* host;         /* handed to run */
} switchyard_threads;

/* Workers of the pool are started by the first work that wants them and inherit the processors that this work's caller
 * may use; without work they are parked. Where the system has no thread to give, the others do the work. */

/* How many workers these threads are. SWITCHYARD_INVALID_ARGUMENT for a count out of range. */
SWITCHYARD_API switchyard_status switchyard_threads_count(const switchyard_threads* threads, int32_t* count);

/* Makes the calls that switchyard_run describes, on these threads. Errors: as switchyard_threads_count;
 * SWITCHYARD_OUT_OF_MEMORY if there is no room for the pool. */
SWITCHYARD_API switchyard_status switchyard_threads_run(const switchyard_threads* threads, switchyard_body body,
                                                        void* data);

/* Memory for a routing, a plan or a forward is the caller's, aligned to this. */
enum { SWITCHYARD_WORKSPACE_ALIGNMENT = 64 };

#ifdef __cplusplus
}
#endif

#endif
