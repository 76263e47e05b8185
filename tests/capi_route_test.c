/* Routing and balance through the C API, against plain double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

enum { kTokens = 5, kExperts = 6, kTopk = 2, kSequences = 2, kBins = 8 };

typedef struct workspace {
  void* memory;
  size_t bytes;
} workspace;

static workspace route_workspace(void) {
  workspace made = {NULL, 0};
  CHECK_OK(switchyard_route_workspace_bytes(kTokens, kExperts, kSequences, NULL, &made.bytes));
  CHECK(made.bytes % SWITCHYARD_WORKSPACE_ALIGNMENT == 0);
  made.memory = new_workspace(made.bytes);
  return made;
}

static switchyard_const_matrix logits_of(const float* logits) {
  switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  return matrix;
}

static float* new_logits(void) {
  float* logits = malloc(sizeof(float) * kTokens * kExperts);
  uint32_t state = 7;
  for (int i = 0; i < kTokens * kExperts; ++i) {
    logits[i] = 3 * next_random(&state);
  }
  return logits;
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static int near(double found, double expected) { return fabs(found - expected) <= 1e-5 * fmax(1, fabs(expected)); }

/* The best expert that is not `without`. */
static int best_expert(const float* logits, int without) {
  int best = without == 0 ? 1 : 0;
  for (int e = 0; e < kExperts; ++e) {
    best = e != without && logits[e] > logits[best] ? e : best;
  }
  return best;
}

static void check_plain_route(const float* logits, workspace ws) {
  int32_t expert[kTokens][kTopk];
  float weight[kTokens][kTopk];
  switchyard_router_options options = {
      .struct_size = sizeof options, .topk = kTopk, .normalize = SWITCHYARD_NORMALIZE_SUM};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                      .expert = {expert, SWITCHYARD_DTYPE_I32},
                                      .weight = {weight, SWITCHYARD_DTYPE_F32}};
  CHECK_OK(switchyard_route(logits_of(logits), &options, NULL, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    const float* row = logits + t * kExperts;
    const int first = best_expert(row, -1);
    const int second = best_expert(row, first);
    CHECK(expert[t][0] == first && expert[t][1] == second);
    CHECK(near(weight[t][0], sigmoid((double)row[first] - row[second])));
    CHECK(near(weight[t][1], sigmoid((double)row[second] - row[first])));
  }
}

/* A bias makes expert 5 the first, and it weighs what its score weighs; groups, scales and types of every kind. */
static void check_biased_route(const float* logits, workspace ws) {
  const float bias[kExperts] = {0, 0, 0, 0, 0, 10};
  const float expert_scale[kExperts] = {1, 1, 1, 1, 1, 4};
  const float logit_bias[kExperts] = {0, 0, 0, 0, 0, 0.5f};
  int64_t expert[kTokens];
  float weight[kTokens];
  switchyard_router_options options = {.struct_size = sizeof options,
                                       .topk = 1,
                                       .score = SWITCHYARD_SCORE_SIGMOID,
                                       .scale = 2,
                                       .groups = 3,
                                       .kept_groups = 1,
                                       .group_best = 2,
                                       .selection_bias = {bias, SWITCHYARD_DTYPE_F32},
                                       .expert_scale = expert_scale,
                                       .logit_scale = 0.5f,
                                       .logit_bias = logit_bias,
                                       .softcap = 2};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                      .expert = {expert, SWITCHYARD_DTYPE_I64},
                                      .weight = {weight, SWITCHYARD_DTYPE_F32}};
  CHECK_OK(switchyard_route(logits_of(logits), &options, NULL, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    const double l = 2 * tanh((0.5 * (double)logits[t * kExperts + 5] + 0.5) / 2);
    CHECK(expert[t] == 5 && near(weight[t], 8 * sigmoid(l)));
  }
}

/* Every output, with padding and two sequences. */
static void check_outputs(const float* logits, workspace ws) {
  const uint8_t valid[kTokens] = {1, 1, 0, 1, 1};
  const int64_t begin[kSequences + 1] = {0, 2, kTokens};
  int16_t expert[kTokens][kTopk];
  float weight[kTokens][kTopk], probability[kTokens][kExperts], chosen[kTokens][kTopk], aux[kTokens][kExperts];
  uint8_t byte_map[kTokens][kExperts], bit_map[kTokens];
  int64_t count[kSequences][kExperts], valid_count[kSequences], expected_count[kSequences][kExperts] = {{0}};
  double score_sum[kSequences][kExperts], z_sum[kSequences], expected_z[kSequences] = {0};
  float cutoff[kTokens];
  int32_t histogram[kExperts][kBins] = {{0}};
  switchyard_router_options options = {.struct_size = sizeof options, .topk = kTopk, .score = SWITCHYARD_SCORE_SIGMOID};
  switchyard_route_inputs inputs = {
      .struct_size = sizeof inputs, .valid = valid, .sequence_begin = begin, .sequences = kSequences};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                      .bins = kBins,
                                      .expert = {expert, SWITCHYARD_DTYPE_I16},
                                      .weight = {weight, SWITCHYARD_DTYPE_F32},
                                      .probability = {probability, SWITCHYARD_DTYPE_F32},
                                      .byte_map = byte_map[0],
                                      .bit_map = bit_map,
                                      .chosen_logit = chosen[0],
                                      .aux_score = aux[0],
                                      .count = count[0],
                                      .score_sum = score_sum[0],
                                      .z_sum = z_sum,
                                      .valid_count = valid_count,
                                      .cutoff = cutoff,
                                      .histogram = histogram[0],
                                      .qb_lower = -1,
                                      .qb_upper = 1};
  CHECK_OK(switchyard_route(logits_of(logits), &options, &inputs, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    const float* row = logits + t * kExperts;
    const int s = t < begin[1] ? 0 : 1;
    double sum = 0;
    double total = 0;
    int bits = 0;
    for (int e = 0; e < kExperts; ++e) {
      sum += sigmoid(row[e]);
      total += exp((double)row[e]);
      bits |= byte_map[t][e] << e;
    }
    CHECK(bit_map[t] == bits);
    if (!valid[t]) {
      CHECK(expert[t][0] == -1 && expert[t][1] == -1 && weight[t][0] == 0 && bits == 0);
      CHECK(aux[t][0] == 0 && probability[t][0] == 0 && cutoff[t] == -INFINITY);
      continue;
    }
    for (int k = 0; k < kTopk; ++k) {
      const int e = expert[t][k];
      CHECK(e == best_expert(row, k == 0 ? -1 : expert[t][0]));
      CHECK(probability[t][e] == weight[t][k] && byte_map[t][e] == 1 && chosen[t][k] == row[e]);
      CHECK(near(weight[t][k], sigmoid(row[e])) && near(aux[t][e], sigmoid(row[e]) / sum));
      ++expected_count[s][e];
    }
    expected_z[s] += log(total) * log(total);
  }
  CHECK(memcmp(count, expected_count, sizeof count) == 0 && valid_count[0] == 2 && valid_count[1] == 2);
  CHECK(near(z_sum[0], expected_z[0]) && near(z_sum[1], expected_z[1]));
  for (int e = 0; e < kExperts; ++e) {
    int entries = 0;
    for (int b = 0; b < kBins; ++b) {
      entries += histogram[e][b];
    }
    CHECK(entries == 4);
    CHECK(near(score_sum[0][e], (double)aux[0][e] + aux[1][e]));
  }
}

/* Replay and tables. */
static void check_given_experts(const float* logits, workspace ws) {
  const int32_t forced[kTokens][kTopk] = {{5, 0}, {3, 3}, {-1, 2}, {1, 4}, {0, 1}};
  const uint8_t replayed[kTokens] = {1, 1, 1, 0, 1};
  const int16_t table[2][kTopk] = {{4, 2}, {0, 5}};
  const int64_t token_id[kTokens] = {0, 1, 1, 0, 1};
  int32_t expert[kTokens][kTopk];
  float weight[kTokens][kTopk];
  switchyard_router_options options = {.struct_size = sizeof options, .topk = kTopk, .score = SWITCHYARD_SCORE_SIGMOID};
  switchyard_route_inputs inputs = {
      .struct_size = sizeof inputs, .forced = {forced, SWITCHYARD_DTYPE_I32}, .replayed = replayed};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                      .expert = {expert, SWITCHYARD_DTYPE_I32},
                                      .weight = {weight, SWITCHYARD_DTYPE_F32}};
  CHECK_OK(switchyard_route(logits_of(logits), &options, &inputs, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    const float* row = logits + t * kExperts;
    const int live = t == 2 || t == 3;
    CHECK(expert[t][0] == (live ? best_expert(row, -1) : forced[t][0]));
    CHECK(expert[t][1] == (live ? best_expert(row, expert[t][0]) : forced[t][1]));
    CHECK(near(weight[t][0], sigmoid(row[expert[t][0]])) && near(weight[t][1], sigmoid(row[expert[t][1]])));
  }
  options.table = (switchyard_const_array){table, SWITCHYARD_DTYPE_I16};
  options.table_rows = 2;
  inputs = (switchyard_route_inputs){.struct_size = sizeof inputs, .token_id = {token_id, SWITCHYARD_DTYPE_I64}};
  CHECK_OK(switchyard_route(logits_of(logits), &options, &inputs, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    CHECK(expert[t][0] == table[token_id[t]][0] && expert[t][1] == table[token_id[t]][1]);
  }
  inputs.forced = (switchyard_const_array){forced, SWITCHYARD_DTYPE_I32};
  inputs.replayed = replayed;
  options.groups = 1;
  CHECK_OK(switchyard_route(logits_of(logits), &options, &inputs, &outputs, ws.memory, ws.bytes, NULL));
  for (int t = 0; t < kTokens; ++t) {
    const int by_table = t == 2 || t == 3;
    for (int s = 0; s < kTopk; ++s) {
      CHECK(expert[t][s] == (by_table ? table[token_id[t]][s] : forced[t][s]));
    }
  }
}

void test_route(void) {
  CHECK(strcmp(switchyard_score_name(SWITCHYARD_SCORE_SQRT_SOFTPLUS), "sqrt_softplus") == 0);
  CHECK(strcmp(switchyard_score_name(5), "unknown") == 0 && strcmp(switchyard_score_name(-1), "unknown") == 0);
  float* logits = new_logits();
  const workspace ws = route_workspace();
  check_plain_route(logits, ws);
  check_biased_route(logits, ws);
  check_outputs(logits, ws);
  check_given_experts(logits, ws);
  free(ws.memory);
  free(logits);
}

/* Messages about options, by a change of good ones. */
static void check_option_errors(const float* logits, workspace ws) {
  int32_t expert[kTokens * kTopk];
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs, .expert = {expert, SWITCHYARD_DTYPE_I32}};
  const switchyard_router_options good = {.struct_size = sizeof good, .topk = kTopk};
  switchyard_router_options options = good;
#define EXPECT(change, start)                                                                                 \
  options = good;                                                                                             \
  options.change;                                                                                             \
  CHECK_ERROR_START(switchyard_route(logits_of(logits), &options, NULL, &outputs, ws.memory, ws.bytes, NULL), \
                    SWITCHYARD_INVALID_ARGUMENT, start)
  EXPECT(struct_size = 8, "router: options has struct_size 8, expected 128, its sizeof");
  EXPECT(topk = 0, "route: found topk 0 for 6 experts, expected 1..6");
  EXPECT(score = 5, "route: found score 5, expected ");
  EXPECT(chosen = 3, "route: found chosen 3, expected ");
  EXPECT(chosen = 1, "route: found score softmax with a function of the chosen, expected score logit");
  EXPECT(normalize = -1, "route: found normalize -1, expected ");
  EXPECT(order = 3, "route: found order 3, expected ");
  EXPECT(epsilon = -1, "route: found epsilon -1 and scale 1, expected ");
  EXPECT(softcap = -1, "route: found softcap -1 and logit_scale 1, expected ");
  EXPECT(groups = 4, "route: found 4 groups for 6 experts, expected ");
  EXPECT(groups = 2, "route: found 0 kept groups of 3 experts for topk 2, expected ");
  EXPECT(selection_bias.dtype = 16, "router: options.selection_bias has dtype 16, expected 0..15");
  EXPECT(table.dtype = -1, "router: options.table has dtype -1, expected 0..15");
  options = good;
  options.selection_bias = (switchyard_const_array){logits, SWITCHYARD_DTYPE_F64};
  CHECK_ERROR(switchyard_route(logits_of(logits), &options, NULL, &outputs, ws.memory, ws.bytes, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "route: selection_bias is f64, expected f32, bf16 or f16");
  options = good;
  options.reserved = 1;
  CHECK_ERROR(switchyard_route(logits_of(logits), &options, NULL, &outputs, ws.memory, ws.bytes, NULL),
              SWITCHYARD_NOT_SUPPORTED, "router: options.reserved is 1, expected 0");
#undef EXPECT
}

static void check_argument_errors(const float* logits, workspace ws) {
  const int32_t forced[kTokens * kTopk] = {0, 1, 2, kExperts};
  const int64_t begin[] = {0, 3, 2};
  int32_t expert[kTokens * kTopk];
  const switchyard_router_options options = {.struct_size = sizeof options, .topk = kTopk};
  switchyard_route_inputs inputs = {.struct_size = sizeof inputs, .forced = {forced, SWITCHYARD_DTYPE_I32}};
  switchyard_route_outputs outputs = {.struct_size = sizeof outputs, .expert = {expert, SWITCHYARD_DTYPE_I32}};
  switchyard_const_matrix matrix = logits_of(logits);
#define EXPECT(start)                                                                                 \
  CHECK_ERROR_START(switchyard_route(matrix, &options, &inputs, &outputs, ws.memory, ws.bytes, NULL), \
                    SWITCHYARD_INVALID_ARGUMENT, start)
  EXPECT("route: forced row 1 slot 1 names expert 6, expected -1..5");
  inputs.forced.dtype = SWITCHYARD_DTYPE_U8;
  EXPECT("route: forced is u8, expected i16, i32 or i64");
  inputs = (switchyard_route_inputs){.struct_size = sizeof inputs, .sequence_begin = begin, .sequences = 2};
  EXPECT("route: sequence 1 is from 3 to 2, expected ");
  inputs.struct_size = 4;
  EXPECT("route: inputs has struct_size 4, expected 72, its sizeof");
  inputs = (switchyard_route_inputs){.struct_size = sizeof inputs, .token_id = {NULL, 99}};
  EXPECT("route: inputs.token_id has dtype 99, expected 0..15");
  inputs = (switchyard_route_inputs){.struct_size = sizeof inputs, .reserved = 2};
  CHECK_ERROR(switchyard_route(matrix, &options, &inputs, &outputs, ws.memory, ws.bytes, NULL),
              SWITCHYARD_NOT_SUPPORTED, "route: inputs.reserved is 2, expected 0");
  inputs.reserved = 0;
  outputs.expert.dtype = SWITCHYARD_DTYPE_F32;
  EXPECT("route: expert is f32, expected i16, i32 or i64");
  outputs.expert.dtype = 16;
  EXPECT("route: outputs.expert has dtype 16, expected 0..15");
  outputs = (switchyard_route_outputs){.struct_size = sizeof outputs, .histogram = expert};
  EXPECT("route: found a histogram with score softmax, expected ");
  outputs = (switchyard_route_outputs){.struct_size = 0};
  EXPECT("route: outputs has struct_size 0, expected 144, its sizeof");
  outputs.struct_size = sizeof outputs;
  matrix.dtype = 16;
  EXPECT("route: logits has dtype 16, expected 0..15");
  matrix = logits_of(NULL);
  EXPECT("route: logits have no data, expected memory for 5 tokens");
#undef EXPECT
  matrix = logits_of(logits);
  CHECK_ERROR(switchyard_route(matrix, NULL, NULL, &outputs, ws.memory, ws.bytes, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "route: options is NULL, expected an address");
  CHECK_ERROR(switchyard_route(matrix, &options, NULL, NULL, ws.memory, ws.bytes, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "route: outputs is NULL, expected an address");
  CHECK_ERROR_START(switchyard_route(matrix, &options, NULL, &outputs, (char*)ws.memory + 4, ws.bytes, NULL),
                    SWITCHYARD_INVALID_ARGUMENT, "workspace: found memory at ");
  size_t bytes = 0;
  CHECK_ERROR_START(switchyard_route_workspace_bytes(-1, kExperts, 1, NULL, &bytes), SWITCHYARD_INVALID_ARGUMENT,
                    "route: found -1 tokens, 6 experts and 1 sequences, expected ");
  CHECK_ERROR(switchyard_route_workspace_bytes(1, kExperts, 0, NULL, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "route_workspace_bytes: bytes is NULL, expected an address");
}

void test_route_errors(void) {
  float* logits = new_logits();
  const workspace ws = route_workspace();
  check_option_errors(logits, ws);
  check_argument_errors(logits, ws);
  free(ws.memory);
  free(logits);
}
