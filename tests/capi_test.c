/* The C API from C11: every function and its errors. Usage: capi_test GOLDEN_FOLDER TEMPORARY_FOLDER */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

int failures = 0;

void check(int holds, const char* what, const char* file, int line) {
  if (!holds) {
    ++failures;
    printf("%s:%d: does not hold: %s\n", file, line, what);
  }
}

void check_ok(switchyard_status found, const char* what, const char* file, int line) {
  if (found != SWITCHYARD_OK) {
    ++failures;
    printf("%s:%d: %s: %s: %s\n", file, line, what, switchyard_status_name(found), switchyard_last_error());
  }
}

static void check_message(int fits, switchyard_status found, switchyard_status expected, const char* message,
                          const char* file, int line) {
  if (!fits || found != expected) {
    ++failures;
    printf("%s:%d: found %s: %s\n  expected %s: %s\n", file, line, switchyard_status_name(found),
           switchyard_last_error(), switchyard_status_name(expected), message);
  }
}

void check_error(switchyard_status found, switchyard_status expected, const char* message, const char* file, int line) {
  check_message(strcmp(switchyard_last_error(), message) == 0, found, expected, message, file, line);
}

void check_error_start(switchyard_status found, switchyard_status expected, const char* start, const char* file,
                       int line) {
  check_message(strncmp(switchyard_last_error(), start, strlen(start)) == 0, found, expected, start, file, line);
}

float next_random(uint32_t* state) {
  *state = *state * 1664525u + 1013904223u;
  return (float)(*state >> 8) / 8388608.0f - 1.0f;
}

void* new_workspace(size_t bytes) {
  void* memory = aligned_alloc(SWITCHYARD_WORKSPACE_ALIGNMENT, bytes > 0 ? bytes : SWITCHYARD_WORKSPACE_ALIGNMENT);
  memset(memory, 0xFF, bytes);
  return memory;
}

static void test_names(void) {
  char version[32];
  snprintf(version, sizeof version, "%d.%d.%d", SWITCHYARD_VERSION_MAJOR, SWITCHYARD_VERSION_MINOR,
           SWITCHYARD_VERSION_PATCH);
  CHECK(strcmp(switchyard_version(), version) == 0);
  CHECK(strcmp(switchyard_status_name(SWITCHYARD_OK), "ok") == 0);
  CHECK(strcmp(switchyard_status_name(SWITCHYARD_OUT_OF_MEMORY), "out of memory") == 0);
  CHECK(strcmp(switchyard_status_name(99), "unknown code") == 0);
  CHECK(strcmp(switchyard_isa_name(SWITCHYARD_ISA_AVX512_VNNI), "avx512_vnni") == 0);
  CHECK(strcmp(switchyard_isa_name(-1), "unknown") == 0);
  CHECK(strcmp(switchyard_dtype_name(SWITCHYARD_DTYPE_BF16), "bf16") == 0);
  CHECK(strcmp(switchyard_dtype_name(16), "unknown") == 0);
  CHECK(strcmp(switchyard_codes_name(SWITCHYARD_CODES_F4_E2M1), "f4_e2m1") == 0);
  CHECK(strcmp(switchyard_codes_name(7), "unknown") == 0 && strcmp(switchyard_codes_name(-1), "unknown") == 0);
  CHECK(switchyard_dtype_bytes(SWITCHYARD_DTYPE_F64) == 8 && switchyard_dtype_bytes(-1) == 0);
  CHECK(strcmp(switchyard_format_name(SWITCHYARD_FORMAT_BF16), "bf16") == 0);
  CHECK(strcmp(switchyard_format_name(8), "unknown") == 0);
  CHECK(strcmp(switchyard_path_name(SWITCHYARD_PATH_GROUPED), "grouped") == 0);
  CHECK(strcmp(switchyard_path_name(SWITCHYARD_PATH_SMALL_BATCH), "small_batch") == 0);
  CHECK(strcmp(switchyard_path_name(7), "unknown") == 0);
}

static void test_isas(void) {
  size_t known = 0;
  size_t available = 0;
  const switchyard_isa* all = switchyard_known_isas(&known);
  const switchyard_isa* here = switchyard_available_isas(&available);
  CHECK(known == 6 && all[0] == SWITCHYARD_ISA_AVX512_BF16 && all[5] == SWITCHYARD_ISA_PLAIN);
  CHECK(available >= 1 && available <= known && here[available - 1] == SWITCHYARD_ISA_PLAIN);
  CHECK(switchyard_known_isas(NULL) == NULL && switchyard_available_isas(NULL) == NULL);

  switchyard_isa before = -1;
  switchyard_isa now = -1;
  CHECK_OK(switchyard_current_isa(&before));
  CHECK_OK(switchyard_set_isa("plain"));
  CHECK_OK(switchyard_current_isa(&now));
  CHECK(now == SWITCHYARD_ISA_PLAIN);
  CHECK_ERROR(switchyard_set_isa("sse9"), SWITCHYARD_INVALID_ARGUMENT,
              "cpu: instruction set 'sse9' is unknown, expected one of avx512_bf16, avx512_bf16_halves, avx512_vnni, "
              "avx512, avx2, plain");
  CHECK_ERROR(switchyard_set_isa(NULL), SWITCHYARD_INVALID_ARGUMENT, "set_isa: name is NULL, expected an address");
  CHECK_ERROR(switchyard_current_isa(NULL), SWITCHYARD_INVALID_ARGUMENT,
              "current_isa: isa is NULL, expected an address");
  for (size_t i = 0; i < known; ++i) {
    int found = 0;
    for (size_t j = 0; j < available; ++j) {
      found = found || here[j] == all[i];
    }
    if (!found) {
      CHECK_ERROR_START(switchyard_set_isa(switchyard_isa_name(all[i])), SWITCHYARD_NOT_SUPPORTED,
                        "cpu: instruction set ");
    }
  }
  CHECK_OK(switchyard_set_isa(switchyard_isa_name(before)));
}

static void count_call(void* data, int worker) { ((int*)data)[worker] += 1; }

/* In the wrong order and one after the other, which a host may do. */
static void run_backwards(void* host, int workers, switchyard_body body, void* data) {
  *(int*)host += 1;
  for (int worker = workers - 1; worker >= 0; --worker) {
    body(data, worker);
  }
}

static void test_threads(void) {
  int32_t count = 0;
  int runs = 0;
  int calls[8] = {0};
  switchyard_threads pool = {.struct_size = sizeof pool, .count = 3};
  switchyard_threads host = {.struct_size = sizeof host, .count = 4, .run = run_backwards, .host = &runs};
  switchyard_threads bad = {.struct_size = sizeof bad, .count = 1025};

  CHECK_OK(switchyard_threads_count(NULL, &count));
  CHECK(count >= 1);
  CHECK_OK(switchyard_threads_count(&pool, &count));
  CHECK(count == 3);
  CHECK_OK(switchyard_threads_run(&pool, count_call, calls));
  CHECK(calls[0] == 1 && calls[1] <= 1 && calls[2] <= 1 && calls[3] == 0);
  memset(calls, 0, sizeof calls);
  CHECK_OK(switchyard_threads_run(&host, count_call, calls));
  CHECK(runs == 1 && calls[0] == 1 && calls[3] == 1 && calls[4] == 0);

  CHECK_ERROR(switchyard_threads_count(&bad, &count), SWITCHYARD_INVALID_ARGUMENT,
              "threads: found a count of 1025, expected at most 1024");
  CHECK_ERROR(switchyard_threads_count(&pool, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "threads_count: count is NULL, expected an address");
  CHECK_ERROR(switchyard_threads_run(&pool, NULL, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "threads_run: body is NULL, expected an address");
  host.count = 0;
  CHECK_ERROR(switchyard_threads_run(&host, count_call, calls), SWITCHYARD_INVALID_ARGUMENT,
              "threads: found a host with 0 threads, expected 1..1024 and a function");
}

/* A caller of a later version: one field more. */
typedef struct later_threads {
  switchyard_threads now;
  int64_t later;
} later_threads;

static void test_struct_sizes(void) {
  int32_t count = 0;
  switchyard_threads forgotten = {.count = 1};
  later_threads later = {.now = {.struct_size = sizeof later, .count = 2}};
  CHECK_ERROR(switchyard_threads_count(&forgotten, &count), SWITCHYARD_INVALID_ARGUMENT,
              "threads: the struct has struct_size 0, expected 24, its sizeof");
  CHECK_OK(switchyard_threads_count(&later.now, &count));
  CHECK(count == 2);
  later.later = 1;
  char message[128];
  snprintf(message, sizeof message,
           "threads: the struct has a field of a later version set, expected 0 there for version %s",
           switchyard_version());
  CHECK_ERROR(switchyard_threads_count(&later.now, &count), SWITCHYARD_NOT_SUPPORTED, message);
}

static void* fail_elsewhere(void* unused) {
  CHECK(strcmp(switchyard_last_error(), "") == 0);
  CHECK_ERROR_START(switchyard_set_isa("elsewhere"), SWITCHYARD_INVALID_ARGUMENT,
                    "cpu: instruction set 'elsewhere' is unknown");
  return unused;
}

static void test_message_is_kept_per_thread(void) {
  pthread_t thread;
  CHECK_ERROR_START(switchyard_set_isa("here"), SWITCHYARD_INVALID_ARGUMENT, "cpu: instruction set 'here'");
  CHECK(pthread_create(&thread, NULL, fail_elsewhere, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  int32_t count = 0;
  CHECK_OK(switchyard_threads_count(NULL, &count));
  CHECK(strncmp(switchyard_last_error(), "cpu: instruction set 'here'", 27) == 0);
}

static void test_plan(void) {
  enum { kTokens = 3, kTopk = 2, kExperts = 4 };
  const int32_t expert[kTokens][kTopk] = {{3, 1}, {-1, 3}, {1, 1}};
  const int64_t offset[kExperts + 1] = {0, 0, 3, 3, 5};
  const int64_t row_to_token[] = {0, 2, 2, 0, 1};
  const int64_t slot_to_row[] = {3, 0, -1, 4, 1, 2};
  size_t bytes = 0;
  CHECK_OK(switchyard_plan_bytes(kTokens, kTopk, kExperts, NULL, &bytes));
  CHECK(bytes > 0 && bytes % SWITCHYARD_WORKSPACE_ALIGNMENT == 0);
  char* workspace = new_workspace(bytes + SWITCHYARD_WORKSPACE_ALIGNMENT);
  switchyard_plan plan = {.struct_size = sizeof plan};
  CHECK_OK(switchyard_make_plan(expert[0], kTokens, kTopk, kExperts, workspace, bytes, NULL, &plan));
  CHECK(plan.struct_size == sizeof plan && plan.tokens == kTokens && plan.topk == kTopk && plan.experts == kExperts);
  CHECK(plan.rows == 5 && memcmp(plan.offset, offset, sizeof offset) == 0);
  CHECK(memcmp(plan.row_to_token, row_to_token, sizeof row_to_token) == 0);
  CHECK(memcmp(plan.slot_to_row, slot_to_row, sizeof slot_to_row) == 0);
  CHECK_OK(switchyard_make_plan(NULL, 0, kTopk, kExperts, workspace, bytes, NULL, &plan));
  CHECK(plan.rows == 0);

  const int32_t bad[] = {0, 4};
  CHECK_ERROR(switchyard_make_plan(bad, 1, kTopk, kExperts, workspace, bytes, NULL, &plan), SWITCHYARD_INVALID_ARGUMENT,
              "plan: token 0 slot 1 names expert 4, expected -1..3");
  CHECK_ERROR_START(switchyard_make_plan(expert[0], kTokens, kTopk, kExperts, workspace, 64, NULL, &plan),
                    SWITCHYARD_INVALID_ARGUMENT, "plan: found a workspace of 64 bytes, expected at least ");
  CHECK_ERROR_START(switchyard_make_plan(expert[0], kTokens, kTopk, kExperts, workspace + 4, bytes, NULL, &plan),
                    SWITCHYARD_INVALID_ARGUMENT, "workspace: found memory at ");
  CHECK_ERROR(switchyard_make_plan(NULL, kTokens, kTopk, kExperts, workspace, bytes, NULL, &plan),
              SWITCHYARD_INVALID_ARGUMENT, "make_plan: expert is NULL, expected an address");
  CHECK_ERROR(switchyard_make_plan(expert[0], kTokens, kTopk, kExperts, workspace, bytes, NULL, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "make_plan: plan is NULL, expected an address");
  CHECK_ERROR_START(switchyard_plan_bytes(-1, kTopk, kExperts, NULL, &bytes), SWITCHYARD_INVALID_ARGUMENT,
                    "plan: found -1 tokens");
  CHECK_ERROR(switchyard_plan_bytes(1, kTopk, kExperts, NULL, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "plan_bytes: bytes is NULL, expected an address");
  free(workspace);
}

static void test_probe(void) {
  switchyard_threads one = {.struct_size = sizeof one, .count = 1};
  switchyard_roofline roofline = {.struct_size = sizeof roofline};
  CHECK_OK(switchyard_probe_roofline(&one, (size_t)16 << 20, &roofline));
  switchyard_isa isa = -1;
  CHECK_OK(switchyard_current_isa(&isa));
  CHECK(roofline.isa == isa && roofline.threads == 1);
  CHECK(roofline.fma_gflops > 0 && roofline.dram_gbps > 0 && roofline.cache_gbps > 0);
  CHECK(roofline.bf16_gflops >= 0 && roofline.vnni_gops >= 0);
  CHECK_ERROR(switchyard_probe_roofline(&one, 0, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "probe_roofline: roofline is NULL, expected an address");
}

int main(int argc, char** argv) {
  if (argc != 3) {
    printf("usage: capi_test GOLDEN_FOLDER TEMPORARY_FOLDER\n");
    return 2;
  }
  test_names();
  test_isas();
  test_threads();
  test_struct_sizes();
  test_message_is_kept_per_thread();
  test_route();
  test_route_options();
  test_route_errors();
  test_route_backward();
  test_router_backward();
  test_balance();
  test_plan();
  test_expert_variants();
  test_layer();
  test_layer_errors();
  test_model(argv[1]);
  test_model_errors(argv[1]);
  test_tensor_file(argv[2]);
  test_probe();
  printf("%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}
