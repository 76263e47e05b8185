/* Gradients of routing and balance through the C API, against plain double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

enum { kTokens = 4, kExperts = 5, kTopk = 2, kHidden = 3, kBins = 4 };

static int near(double found, double expected) { return fabs(found - expected) <= 1e-5 * fmax(1, fabs(expected)); }

static void fill(float* values, int count) {
  uint32_t state = 3;
  for (int i = 0; i < count; ++i) {
    values[i] = next_random(&state);
  }
}

/* dL/dlogits of a token: sigmoid scores, the chosen ones divided by their sum; L has the gradient g for their weights, a
 * for the scores divided by the sum of all, z for log(sum of exp(l))^2. */
static void expected_gradient(const float* l, const int32_t* expert, const float* g, const float* a, double z,
                              double* d) {
  double score[kExperts], all = 0, total = 0, chosen = 0, mean_a = 0, mean_g = 0;
  for (int e = 0; e < kExperts; ++e) {
    score[e] = 1 / (1 + exp(-(double)l[e]));
    all += score[e];
    total += exp((double)l[e]);
  }
  for (int e = 0; e < kExperts; ++e) {
    mean_a += a[e] * score[e] / all;
  }
  for (int k = 0; k < kTopk; ++k) {
    chosen += score[expert[k]];
  }
  for (int k = 0; k < kTopk; ++k) {
    mean_g += g[k] * score[expert[k]] / chosen;
  }
  for (int e = 0; e < kExperts; ++e) {
    d[e] = (a[e] - mean_a) / all * score[e] * (1 - score[e]) + z * 2 * log(total) * exp((double)l[e]) / total;
  }
  for (int k = 0; k < kTopk; ++k) {
    const double s = score[expert[k]];
    d[expert[k]] += (g[k] - mean_g) / chosen * s * (1 - s);
  }
}

static void check_backward(const float* logits, void* memory, size_t bytes) {
  int32_t expert[kTokens][kTopk];
  float chosen[kTokens][kTopk], g[kTokens][kTopk], a[kExperts], d[kTokens][kExperts], sparse[kTokens][kExperts];
  fill(g[0], kTokens * kTopk);
  fill(a, kExperts);
  const switchyard_router_options options = {.struct_size = sizeof options,
                                             .topk = kTopk,
                                             .score = SWITCHYARD_SCORE_SIGMOID,
                                             .normalize = SWITCHYARD_NORMALIZE_SUM};
  switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  switchyard_matrix result = {d, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  switchyard_route_outputs outputs = {
      .struct_size = sizeof outputs, .expert = {expert, SWITCHYARD_DTYPE_I32}, .chosen_logit = chosen[0]};
  switchyard_route_gradients gradients = {.struct_size = sizeof gradients,
                                          .z = 0.25f,
                                          .expert = {expert, SWITCHYARD_DTYPE_I32},
                                          .weight = {g, SWITCHYARD_DTYPE_F32},
                                          .aux = a};
  CHECK_OK(switchyard_route(matrix, &options, NULL, &outputs, memory, bytes, NULL));
  CHECK_OK(switchyard_route_backward(matrix, &options, NULL, &gradients, result, memory, bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    double expected[kExperts];
    expected_gradient(logits + t * kExperts, expert[t], g[t], a, 0.25, expected);
    for (int e = 0; e < kExperts; ++e) {
      CHECK(near(d[t][e], expected[e]));
    }
  }

  /* Without balance the chosen logits are enough. */
  int32_t is_sparse = -1;
  CHECK_OK(switchyard_route_gradient_is_sparse(&options, &is_sparse));
  CHECK(is_sparse == 1);
  gradients.aux = NULL;
  gradients.z = 0;
  CHECK_OK(switchyard_route_backward(matrix, &options, NULL, &gradients, result, memory, bytes, NULL));
  gradients.chosen_logit = chosen[0];
  matrix.data = NULL;
  result.data = sparse;
  CHECK_OK(switchyard_route_backward(matrix, &options, NULL, &gradients, result, memory, bytes, NULL));
  CHECK(memcmp(sparse, d, sizeof d) == 0);

  gradients.chosen_logit = NULL;
  CHECK_ERROR(switchyard_route_backward(matrix, &options, NULL, &gradients, result, memory, bytes, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "route: found no logits, expected them or the chosen ones");
}

static void check_backward_errors(const float* logits, void* memory, size_t bytes) {
  float d[kTokens * kExperts];
  const switchyard_router_options options = {.struct_size = sizeof options, .topk = kTopk};
  const switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  switchyard_matrix result = {d, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  switchyard_route_gradients gradients = {.struct_size = sizeof gradients};
  int32_t sparse = 1;
#define EXPECT(start)                                                                                           \
  CHECK_ERROR_START(switchyard_route_backward(matrix, &options, NULL, &gradients, result, memory, bytes, NULL), \
                    SWITCHYARD_INVALID_ARGUMENT, start)
  EXPECT("route: found a gradient without expert, expected what route gave");
  gradients.z = NAN;
  EXPECT("route: found a gradient of z of nan, expected a finite number");
  gradients.z = 0;
  gradients.weight.dtype = 16;
  EXPECT("route_backward: gradients.weight has dtype 16, expected 0..15");
  gradients.struct_size = 1;
  EXPECT("route_backward: gradients has struct_size 1, expected 72, its sizeof");
  result.dtype = -5;
  gradients = (switchyard_route_gradients){.struct_size = sizeof gradients};
  EXPECT("route_backward: dlogits has dtype -5, expected 0..15");
  result = (switchyard_matrix){d, SWITCHYARD_DTYPE_F32, kTokens, kExperts - 1, 0};
  EXPECT("route: found dlogits [4, 4], expected [4, 5]");
#undef EXPECT
  CHECK_ERROR(switchyard_route_backward(matrix, NULL, NULL, &gradients, result, memory, bytes, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "route_backward: options is NULL, expected an address");
  CHECK_ERROR(switchyard_route_backward(matrix, &options, NULL, NULL, result, memory, bytes, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "route_backward: gradients is NULL, expected an address");
  CHECK_OK(switchyard_route_gradient_is_sparse(&options, &sparse));
  CHECK(sparse == 0);
  CHECK_ERROR(switchyard_route_gradient_is_sparse(NULL, &sparse), SWITCHYARD_INVALID_ARGUMENT,
              "route_gradient_is_sparse: options is NULL, expected an address");
  CHECK_ERROR(switchyard_route_gradient_is_sparse(&options, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "route_gradient_is_sparse: sparse is NULL, expected an address");
}

void test_route_backward(void) {
  float logits[kTokens * kExperts];
  size_t bytes = 0;
  fill(logits, kTokens * kExperts);
  CHECK_OK(switchyard_route_workspace_bytes(kTokens, kExperts, 0, NULL, &bytes));
  void* memory = new_workspace(bytes);
  check_backward(logits, memory, bytes);
  check_backward_errors(logits, memory, bytes);
  free(memory);
}

/* Powers of two, whose 16 bits of bf16 or of f16 are all in the exponent: 2^-(i % 3). */
static void fill_powers(uint16_t* bits, int count, switchyard_dtype dtype) {
  for (int i = 0; i < count; ++i) {
    bits[i] = (uint16_t)(dtype == SWITCHYARD_DTYPE_BF16 ? (127 - i % 3) << 7 : (15 - i % 3) << 10);
  }
}

/* Everything in 16 bits but the gradient of the weight. dx and dw are sums of powers of two, exact in either type. */
static void check_narrow_router_backward(void) {
  for (switchyard_dtype dtype = SWITCHYARD_DTYPE_BF16; dtype <= SWITCHYARD_DTYPE_F16; ++dtype) {
    uint16_t x[kTokens * kHidden], w[kExperts * kHidden], d[kTokens * kExperts], dx[kTokens * kHidden];
    float dw[kExperts][kHidden], db[kExperts];
    fill_powers(x, kTokens * kHidden, dtype);
    fill_powers(w, kExperts * kHidden, dtype);
    fill_powers(d, kTokens * kExperts, dtype);
    const switchyard_const_matrix x_view = {x, dtype, kTokens, kHidden, 0};
    const switchyard_weight_view w_view = {.data = w, .dtype = dtype};
    const switchyard_const_matrix d_view = {d, dtype, kTokens, kExperts, 0};
    const switchyard_matrix dx_view = {dx, dtype, kTokens, kHidden, 0};
    const switchyard_matrix dw_view = {dw, SWITCHYARD_DTYPE_F32, kExperts, kHidden, 0};
    CHECK_OK(switchyard_router_backward(x_view, w_view, d_view, dx_view, dw_view, db, NULL));
    for (int h = 0; h < kHidden; ++h) {
      for (int t = 0; t < kTokens; ++t) {
        double sum = 0;
        for (int e = 0; e < kExperts; ++e) {
          sum += ldexp(1, -((t * kExperts + e) % 3) - (e * kHidden + h) % 3);
        }
        const uint16_t bits = dx[t * kHidden + h];
        const double value = dtype == SWITCHYARD_DTYPE_BF16 ? ldexp(128 + bits % 128, (bits >> 7) - 134)
                                                            : ldexp(1024 + bits % 1024, (bits >> 10) - 25);
        CHECK(value == sum);
      }
      for (int e = 0; e < kExperts; ++e) {
        double sum = 0;
        double bias = 0;
        for (int t = 0; t < kTokens; ++t) {
          sum += ldexp(1, -((t * kExperts + e) % 3) - (t * kHidden + h) % 3);
          bias += ldexp(1, -((t * kExperts + e) % 3));
        }
        CHECK(dw[e][h] == sum && db[e] == bias);
      }
    }
    const switchyard_matrix narrow = {x, dtype, kExperts, kHidden, 0};
    CHECK_ERROR_START(switchyard_router_backward(x_view, w_view, d_view, dx_view, narrow, NULL, NULL),
                      SWITCHYARD_INVALID_ARGUMENT, "router backward: found dweight [5, 3] ");
  }
}

void test_router_backward(void) {
  float x[kTokens][kHidden], w[kExperts][kHidden], d[kTokens][kExperts];
  float dx[kTokens][kHidden], dw[kExperts][kHidden], db[kExperts];
  fill(x[0], kTokens * kHidden);
  fill(w[0], kExperts * kHidden);
  fill(d[0], kTokens * kExperts);
  const switchyard_const_matrix x_view = {x, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  const switchyard_weight_view w_view = {.data = w};
  switchyard_const_matrix d_view = {d, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  const switchyard_matrix dx_view = {dx, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  const switchyard_matrix dw_view = {dw, SWITCHYARD_DTYPE_F32, kExperts, kHidden, 0};
  const switchyard_matrix none = {.data = NULL};
  CHECK_OK(switchyard_router_backward(x_view, w_view, d_view, dx_view, dw_view, db, NULL));
  for (int h = 0; h < kHidden; ++h) {
    for (int t = 0; t < kTokens; ++t) {
      double sum = 0;
      for (int e = 0; e < kExperts; ++e) {
        sum += (double)d[t][e] * w[e][h];
      }
      CHECK(near(dx[t][h], sum));
    }
    for (int e = 0; e < kExperts; ++e) {
      double sum = 0;
      double bias = 0;
      for (int t = 0; t < kTokens; ++t) {
        sum += (double)d[t][e] * x[t][h];
        bias += d[t][e];
      }
      CHECK(near(dw[e][h], sum) && near(db[e], bias));
    }
  }
  CHECK_OK(switchyard_router_backward(x_view, w_view, d_view, none, none, NULL, NULL));
  check_narrow_router_backward();
  const switchyard_weight_view no_weight = {.data = NULL};
  CHECK_ERROR(switchyard_router_backward(x_view, no_weight, d_view, dx_view, none, NULL, NULL),
              SWITCHYARD_INVALID_ARGUMENT,
              "router backward: found a weight without data in f32, expected data in f32, bf16 or f16");
  d_view.data = NULL;
  CHECK_ERROR(switchyard_router_backward(x_view, w_view, d_view, dx_view, dw_view, db, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "router backward: dlogits has no data, expected memory for 4 tokens");
  d_view.dtype = 16;
  CHECK_ERROR(switchyard_router_backward(x_view, w_view, d_view, dx_view, dw_view, db, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "router_backward: dlogits has dtype 16, expected 0..15");
}

static void check_losses(void) {
  const int64_t count[kExperts] = {4, 0, 2, 1, 1};
  const double score_sum[kExperts] = {1.5, 0.25, 0.75, 1, 0.5};
  float gradient[kExperts];
  double value = 0;
  switchyard_balance_terms terms = {.struct_size = sizeof terms,
                                    .topk = kTopk,
                                    .experts = kExperts,
                                    .count = count,
                                    .count_tokens = 4,
                                    .score_sum = score_sum,
                                    .score_tokens = 4,
                                    .coefficient = 0.5};
  CHECK_OK(switchyard_balance_loss(&terms, gradient, 0, &value));
  CHECK(near(value, 0.5 * 5 / (2 * 4.0) * (4 * 1.5 + 2 * 0.75 + 1 + 0.5) / 4));
  CHECK(near(gradient[0], 0.5 * 5 / (2 * 4.0) * 4 / 4) && gradient[1] == 0);
  CHECK_OK(switchyard_balance_loss(&terms, gradient, 1, &value));
  CHECK(near(gradient[0], 0.5 * 5 / (2 * 4.0) * 4 / 2));
  CHECK_OK(switchyard_balance_loss(&terms, NULL, 0, &value));

  float z = -1;
  CHECK(near(switchyard_z_loss(12, 4, 0.5, &z), 1.5) && near(z, 0.125));
  CHECK(near(switchyard_z_loss(12, 4, 0.5, NULL), 1.5));
  CHECK(switchyard_z_loss(0, 0, 1, &z) == 0 && z == 0);

  CHECK_ERROR(switchyard_balance_loss(&terms, NULL, 0, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "balance_loss: value is NULL, expected an address");
  CHECK_ERROR(switchyard_balance_loss(NULL, NULL, 0, &value), SWITCHYARD_INVALID_ARGUMENT,
              "balance_loss: terms is NULL, expected an address");
  terms.topk = 0;
  CHECK_ERROR_START(switchyard_balance_loss(&terms, NULL, 0, &value), SWITCHYARD_INVALID_ARGUMENT,
                    "balance: found topk 0, ");
  terms.count = NULL;
  CHECK_ERROR(switchyard_balance_loss(&terms, NULL, 0, &value), SWITCHYARD_INVALID_ARGUMENT,
              "balance_loss: terms.count is NULL, expected an address");
  terms.experts = 0;
  CHECK_ERROR(switchyard_balance_loss(&terms, NULL, 0, &value), SWITCHYARD_INVALID_ARGUMENT,
              "balance_loss: found 0 experts, expected 1..65536");
  terms.struct_size = 16;
  CHECK_ERROR(switchyard_balance_loss(&terms, NULL, 0, &value), SWITCHYARD_INVALID_ARGUMENT,
              "balance_loss: terms has struct_size 16, expected 56, its sizeof");
}

static void check_updates(void) {
  const int64_t count[kExperts] = {4, 0, 2, 2, 2};
  float bias[kExperts] = {0, 0, 0, 0, 1};
  CHECK_OK(switchyard_update_bias(bias, count, kExperts, 0.5f, 0));
  CHECK(bias[0] == -0.5f && bias[1] == 0.5f && bias[2] == 0 && bias[4] == 1);
  CHECK_OK(switchyard_update_bias(bias, count, kExperts, 0, 1));
  CHECK(near(bias[0], -0.7) && near(bias[4], 0.8));
  CHECK_ERROR(switchyard_update_bias(NULL, count, kExperts, 1, 0), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias: bias is NULL, expected an address");
  CHECK_ERROR(switchyard_update_bias(bias, NULL, kExperts, 1, 0), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias: count is NULL, expected an address");
  CHECK_ERROR(switchyard_update_bias(bias, count, -1, 1, 0), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias: found -1 experts, expected 1..65536");

  /* Two experts, K 1: the bias is the median, here the middle of bin 0 and of bin 2, minus their mean. */
  const int32_t histogram[2][kBins] = {{8, 0, 0, 0}, {0, 0, 6, 0}};
  float pair[2] = {9, 9};
  switchyard_quantile_bounds bounds = {-1, 1};
  CHECK_OK(switchyard_update_bias_by_quantile(pair, histogram[0], 2, kBins, 1, &bounds));
  CHECK(near(pair[0], -0.5) && near(pair[1], 0.5) && near(bounds.lower, -1.5) && near(bounds.upper, 1.5));
  CHECK_ERROR(switchyard_update_bias_by_quantile(pair, histogram[0], 2, 0, 1, &bounds), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias_by_quantile: found 0 bins, expected 1 or more");
  CHECK_ERROR_START(switchyard_update_bias_by_quantile(pair, histogram[0], 2, kBins, 2, &bounds),
                    SWITCHYARD_INVALID_ARGUMENT, "balance: found topk 2 for 2 experts, expected ");
  CHECK_ERROR(switchyard_update_bias_by_quantile(NULL, histogram[0], 2, kBins, 1, &bounds), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias_by_quantile: bias is NULL, expected an address");
  CHECK_ERROR(switchyard_update_bias_by_quantile(pair, NULL, 2, kBins, 1, &bounds), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias_by_quantile: histogram is NULL, expected an address");
  CHECK_ERROR(switchyard_update_bias_by_quantile(pair, histogram[0], 2, kBins, 1, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias_by_quantile: bounds is NULL, expected an address");
  CHECK_ERROR(switchyard_update_bias_by_quantile(pair, histogram[0], 0, kBins, 1, &bounds), SWITCHYARD_INVALID_ARGUMENT,
              "update_bias_by_quantile: found 0 experts, expected 1..65536");
}

/* A router that likes its later experts more: its own histogram makes the biases that even its load out. */
static void check_quantile_loop(void) {
  enum { kMany = 600, kSteps = 12, kFine = 200 };
  static float logits[kMany * kExperts];
  int64_t count[kExperts];
  float bias[kExperts] = {0};
  switchyard_quantile_bounds bounds = {-1, 1};
  switchyard_load load = {.struct_size = sizeof load};
  size_t bytes = 0;
  fill(logits, kMany * kExperts);
  for (int i = 0; i < kMany * kExperts; ++i) {
    logits[i] = 2 * logits[i] + 0.5f * (float)(i % kExperts);
  }
  CHECK_OK(switchyard_route_workspace_bytes(kMany, kExperts, 0, NULL, &bytes));
  void* memory = new_workspace(bytes);
  const switchyard_router_options options = {.struct_size = sizeof options,
                                             .topk = kTopk,
                                             .score = SWITCHYARD_SCORE_SIGMOID,
                                             .selection_bias = {bias, SWITCHYARD_DTYPE_F32}};
  const switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, kMany, kExperts, 0};
  for (int step = 0; step < kSteps; ++step) {
    int32_t histogram[kExperts][kFine] = {{0}};
    const switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                              .bins = kFine,
                                              .count = count,
                                              .histogram = histogram[0],
                                              .qb_lower = bounds.lower,
                                              .qb_upper = bounds.upper};
    CHECK_OK(switchyard_route(matrix, &options, NULL, &outputs, memory, bytes, NULL));
    CHECK_OK(switchyard_load_statistics(count, kExperts, &load));
    CHECK(load.slots == kMany * kTopk && (step > 0 || load.max_over_mean > 1.4));
    CHECK_OK(switchyard_update_bias_by_quantile(bias, histogram[0], kExperts, kFine, kTopk, &bounds));
  }
  CHECK(load.max_over_mean < 1.05 && bias[0] > bias[kExperts - 1]);
  free(memory);
}

void test_balance(void) {
  check_losses();
  check_updates();
  check_quantile_loop();
  const int64_t count[4] = {2, 0, 4, 2};
  switchyard_load load = {.struct_size = sizeof load};
  CHECK_OK(switchyard_load_statistics(count, 4, &load));
  CHECK(load.struct_size == sizeof load && load.unused == 1 && load.slots == 8 && near(load.max_over_mean, 2));
  CHECK(near(load.entropy, -(0.5 * log(0.25) + 0.5 * log(0.5))));
  CHECK_ERROR(switchyard_load_statistics(NULL, 4, &load), SWITCHYARD_INVALID_ARGUMENT,
              "load_statistics: count is NULL, expected an address");
  CHECK_ERROR(switchyard_load_statistics(count, 65537, &load), SWITCHYARD_INVALID_ARGUMENT,
              "load_statistics: found 65537 experts, expected 1..65536");
  CHECK_ERROR(switchyard_load_statistics(count, 4, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "load_statistics: load is NULL, expected an address");
  load.struct_size = 0;
  CHECK_ERROR(switchyard_load_statistics(count, 4, &load), SWITCHYARD_INVALID_ARGUMENT,
              "load_statistics: load has struct_size 0, expected 32, its sizeof");
}
