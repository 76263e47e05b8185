/* What each field of the router's options does to a token with four experts, in numbers worked out by hand. */
#include <math.h>
#include <stdlib.h>

#include "capi_check.h"

enum { kExperts = 4, kTopk = 2 };

typedef struct option_case {
  const char* what;
  float logits[kExperts];
  switchyard_router_options options; /* but for struct_size and topk */
  int32_t expert[kTopk];
  double weight[kTopk];
} option_case;

#define LOGIT .score = SWITCHYARD_SCORE_LOGIT

static const float kBias[kExperts] = {0, 0, 0, 4};
static const float kScale[kExperts] = {1, 2, 4, 8};

/* sigmoid(1) = 1 / (1 + exp(-1)), and so on. */
#define SIGMOID_1 0.7310585786300049
#define SIGMOID_2 0.8807970779778823
#define SIGMOID_0_001 0.5002499999791666
#define SIGMOID_0_05 0.5124973964842103

static const option_case kCases[] = {
    {"score logit", {3, 1, 2, 0}, {LOGIT}, {0, 2}, {3, 2}},
    {"score softmax", {0, 0, 0, 0}, {.score = SWITCHYARD_SCORE_SOFTMAX}, {0, 1}, {0.25, 0.25}},
    {"score sigmoid", {1, 2, 0, 0}, {.score = SWITCHYARD_SCORE_SIGMOID}, {1, 0}, {SIGMOID_2, SIGMOID_1}},
    /* log(1 + exp(0)) = log 2; log(1 + exp(l)) = 4 for l = log(exp(4) - 1) */
    {"score sqrt_softplus",
     {0, 3.9815146f, -9, -9},
     {.score = SWITCHYARD_SCORE_SQRT_SOFTPLUS},
     {1, 0},
     {2, 0.8325546111576977}},

    {"sum", {3, 1, 0, 0}, {LOGIT, .normalize = SWITCHYARD_NORMALIZE_SUM}, {0, 1}, {0.75, 0.25}},
    {"sum and epsilon",
     {3, 1, 0, 0},
     {LOGIT, .normalize = SWITCHYARD_NORMALIZE_SUM, .epsilon = 4},
     {0, 1},
     {0.375, 0.125}},
    {"clamped sum above epsilon",
     {3, 1, 0, 0},
     {LOGIT, .normalize = SWITCHYARD_NORMALIZE_CLAMPED_SUM, .epsilon = 2},
     {0, 1},
     {0.75, 0.25}},
    {"clamped sum below epsilon",
     {3, 1, 0, 0},
     {LOGIT, .normalize = SWITCHYARD_NORMALIZE_CLAMPED_SUM, .epsilon = 8},
     {0, 1},
     {0.375, 0.125}},
    {"power norm without a power is that of 1",
     {3, 4, 0, 0},
     {LOGIT, .normalize = SWITCHYARD_NORMALIZE_POWER_NORM},
     {1, 0},
     {4.0 / 7, 3.0 / 7}},
    {"power norm of 2",
     {3, 4, 0, 0},
     {LOGIT, .normalize = SWITCHYARD_NORMALIZE_POWER_NORM, .power = 2},
     {1, 0},
     {0.8, 0.6}},

    {"chosen softmax",
     {2, 1, 0, 0},
     {LOGIT, .chosen = SWITCHYARD_CHOSEN_SCORE_SOFTMAX},
     {0, 1},
     {SIGMOID_1, 1 - SIGMOID_1}},
    {"chosen sigmoid",
     {2, 1, 0, 0},
     {LOGIT, .chosen = SWITCHYARD_CHOSEN_SCORE_SIGMOID},
     {0, 1},
     {SIGMOID_2, SIGMOID_1}},

    {"scale", {3, 1, 0, 0}, {LOGIT, .scale = 2.5f}, {0, 1}, {7.5, 2.5}},
    {"expert_scale", {3, 1, 0, 2}, {LOGIT, .expert_scale = kScale}, {0, 3}, {3, 16}},
    {"logit_scale", {3, 1, 0, -2}, {LOGIT, .logit_scale = -1}, {3, 2}, {2, 0}},
    {"logit_bias", {3, 1, 0, 2}, {LOGIT, .logit_bias = kBias}, {3, 0}, {6, 3}},
    {"selection_bias", {3, 1, 0, 2}, {LOGIT, .selection_bias = {kBias, SWITCHYARD_DTYPE_F32}}, {3, 0}, {2, 3}},
    /* 2 tanh(1) and 2 tanh(1/2) */
    {"softcap", {2, 1, 0, 0}, {LOGIT, .softcap = 2}, {0, 1}, {1.5231883119115297, 0.9242343145200195}},
    /* bf16 has steps of 1/128 there: 1 + 3/512 is nearest to the first of them, 1 + 1/256 in the middle: the even 1. */
    {"not rounded", {1.005859375f, 1.00390625f, 0, 0}, {LOGIT}, {0, 1}, {1.005859375, 1.00390625}},
    {"round_logits", {1.005859375f, 1.00390625f, 0, 0}, {LOGIT, .round_logits = 1}, {0, 1}, {1.0078125, 1}},

    /* The mixer's first softmax leaves out what is more than 2 jitter of the larger one below: 0.025, 0.0005 of it. */
    {"jitter of 0.01 by default", {2, 1.95f, 0, 0}, {.score = SWITCHYARD_SCORE_SPARSEMIXER}, {0, 1}, {1, 1}},
    {"jitter of 0.01 by default, closer",
     {2, 1.999f, 0, 0},
     {.score = SWITCHYARD_SCORE_SPARSEMIXER},
     {0, 1},
     {SIGMOID_0_001, 1}},
    {"jitter", {2, 1.95f, 0, 0}, {.score = SWITCHYARD_SCORE_SPARSEMIXER, .jitter = 0.05f}, {0, 1}, {SIGMOID_0_05, 1}},
    {"no jitter", {2, 1.999f, 0, 0}, {.score = SWITCHYARD_SCORE_SPARSEMIXER, .jitter = -1}, {0, 1}, {1, 1}},

    {"order of scores", {1, 2, 0, 4}, {LOGIT}, {3, 1}, {4, 2}},
    {"order of experts", {1, 2, 0, 4}, {LOGIT, .order = SWITCHYARD_ORDER_EXPERT}, {1, 3}, {2, 4}},

    /* Two groups: {3, -2} is better by its maximum, {2, 1} by its sum. */
    {"group by maximum", {3, -2, 2, 1}, {LOGIT, .groups = 2, .kept_groups = 1}, {0, 1}, {3, -2}},
    {"group_best", {3, -2, 2, 1}, {LOGIT, .groups = 2, .kept_groups = 1, .group_best = 2}, {2, 3}, {2, 1}},
    {"kept_groups", {3, -2, 2, 1}, {LOGIT, .groups = 2, .kept_groups = 2}, {0, 2}, {3, 2}},
    {"masked to -inf", {-3, -1, -2, -4}, {LOGIT, .groups = 2, .kept_groups = 1}, {1, 0}, {-1, -3}},
    {"masked_zero", {-3, -1, -2, -4}, {LOGIT, .groups = 2, .kept_groups = 1, .masked_zero = 1}, {2, 3}, {-2, -4}},
};

static void route_one(const float* logits, const switchyard_router_options* options, int32_t* expert, float* weight) {
  size_t bytes = 0;
  CHECK_OK(switchyard_route_workspace_bytes(1, kExperts, 0, NULL, &bytes));
  void* memory = new_workspace(bytes);
  const switchyard_const_matrix matrix = {logits, SWITCHYARD_DTYPE_F32, 1, kExperts, 0};
  const switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                            .expert = {expert, SWITCHYARD_DTYPE_I32},
                                            .weight = {weight, SWITCHYARD_DTYPE_F32}};
  CHECK_OK(switchyard_route(matrix, options, NULL, &outputs, memory, bytes, NULL));
  free(memory);
}

void test_route_options(void) {
  for (size_t i = 0; i < sizeof kCases / sizeof *kCases; ++i) {
    const option_case* c = &kCases[i];
    switchyard_router_options options = c->options;
    options.struct_size = sizeof options;
    options.topk = kTopk;
    int32_t expert[kTopk] = {-7, -7};
    float weight[kTopk] = {NAN, NAN};
    route_one(c->logits, &options, expert, weight);
    for (int k = 0; k < kTopk; ++k) {
      check(expert[k] == c->expert[k] && fabs(weight[k] - c->weight[k]) < 1e-5, c->what, __FILE__, __LINE__);
    }
  }
  /* Some order, with every weight at its expert. */
  switchyard_router_options options = {
      .struct_size = sizeof options, .topk = kTopk, LOGIT, .order = SWITCHYARD_ORDER_ANY};
  const float logits[kExperts] = {1, 2, 0, 4};
  int32_t expert[kTopk];
  float weight[kTopk];
  route_one(logits, &options, expert, weight);
  CHECK(expert[0] + expert[1] == 4 && expert[0] * expert[1] == 3);
  CHECK(weight[0] == logits[expert[0]] && weight[1] == logits[expert[1]]);
}
