/* Checks of the C API's test: they count failures and go on. */
#ifndef SWITCHYARD_TESTS_CAPI_CHECK_H
#define SWITCHYARD_TESTS_CAPI_CHECK_H

#include "switchyard/switchyard.h"

extern int failures;

void check(int holds, const char* what, const char* file, int line);
/* `found` is SWITCHYARD_OK. */
void check_ok(switchyard_status found, const char* what, const char* file, int line);
/* `found` is `expected` and the message is `message`. */
void check_error(switchyard_status found, switchyard_status expected, const char* message, const char* file, int line);
/* The same for a message that begins so. */
void check_error_start(switchyard_status found, switchyard_status expected, const char* start, const char* file,
                       int line);

#define CHECK(condition) check(condition, #condition, __FILE__, __LINE__)
#define CHECK_OK(call) check_ok(call, #call, __FILE__, __LINE__)
#define CHECK_ERROR(call, expected, message) check_error(call, expected, message, __FILE__, __LINE__)
#define CHECK_ERROR_START(call, expected, start) check_error_start(call, expected, start, __FILE__, __LINE__)

/* In [-1, 1), the same sequence for a state on every machine. */
float next_random(uint32_t* state);
/* Aligned to SWITCHYARD_WORKSPACE_ALIGNMENT, filled with NaN; free() it. */
void* new_workspace(size_t bytes);

void test_route(void);
void test_route_options(void);
void test_route_errors(void);
void test_route_backward(void);
void test_router_backward(void);
void test_balance(void);
void test_expert_variants(void);
void test_layer(void);
void test_layer_errors(void);
void test_model(const char* golden);
void test_model_errors(const char* golden);
void test_tensor_file(const char* folder);

#endif
