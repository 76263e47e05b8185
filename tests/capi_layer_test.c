/* Layers through the C API, against plain double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

/* More tokens than any kernel streams weights for. */
enum { kExperts = 5, kHidden = 19, kFfn = 13, kShared = 7, kTopk = 2, kTokens = 27 };

/* gate and up dense [F,H]; down stored transposed, [F,H] too. */
typedef struct small_expert {
  float gate[kFfn * kHidden];
  float up[kFfn * kHidden];
  float down[kFfn * kHidden];
} small_expert;

typedef struct small_layer {
  float router[kExperts * kHidden];
  small_expert expert[kExperts];
  small_expert shared; /* the first kShared rows */
  float shared_gate[kHidden];
  float x[kTokens * kHidden];
  int32_t calls;
  int32_t refuse; /* the expert that the callback refuses, -1: none */
  switchyard_status refusal;
} small_layer;

static void fill(float* values, size_t count, uint32_t* state) {
  for (size_t i = 0; i < count; ++i) {
    values[i] = next_random(state);
  }
}

static small_layer* new_small_layer(void) {
  small_layer* layer = calloc(1, sizeof *layer);
  uint32_t state = 1;
  const size_t floats = offsetof(small_layer, calls) / sizeof(float);
  fill((float*)(void*)layer, floats, &state);
  layer->refuse = -1;
  return layer;
}

static switchyard_expert_tensors views_of(const small_expert* expert) {
  switchyard_expert_tensors views = {.gate = {.data = expert->gate},
                                     .up = {.data = expert->up},
                                     .down = {.data = expert->down, .out_stride = 1, .in_stride = kHidden}};
  return views;
}

static switchyard_status give_expert(void* context, int32_t expert, switchyard_expert_tensors* tensors) {
  small_layer* layer = context;
  CHECK(expert == layer->calls);
  CHECK(tensors->gate.data == NULL && tensors->down.in_stride == 0);
  ++layer->calls;
  if (expert == layer->refuse) {
    return layer->refusal;
  }
  *tensors = views_of(&layer->expert[expert]);
  return SWITCHYARD_OK;
}

static switchyard_layer_weights weights_of(small_layer* layer) {
  switchyard_layer_weights weights = {.struct_size = sizeof weights,
                                      .experts = kExperts,
                                      .hidden = kHidden,
                                      .ffn = kFfn,
                                      .shared_ffn = kShared,
                                      .expert = give_expert,
                                      .expert_context = layer,
                                      .router = {.data = layer->router},
                                      .shared = views_of(&layer->shared),
                                      .shared_gate = {.data = layer->shared_gate}};
  layer->calls = 0;
  return weights;
}

static double dot(const float* a, const float* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    sum += (double)a[i] * b[i];
  }
  return sum;
}

/* y += scale * expert(x). */
static void add_expert(const small_expert* expert, int ffn, const float* x, double scale, double* y) {
  for (int f = 0; f < ffn; ++f) {
    const double gate = dot(expert->gate + f * kHidden, x, kHidden);
    const double h = gate / (1 + exp(-gate)) * dot(expert->up + f * kHidden, x, kHidden);
    for (int i = 0; i < kHidden; ++i) {
      y[i] += scale * h * expert->down[f * kHidden + i];
    }
  }
}

static void add_shared(const small_layer* layer, const float* x, double* y) {
  const double gate = dot(layer->shared_gate, x, kHidden);
  add_expert(&layer->shared, kShared, x, 1 / (1 + exp(-gate)), y);
}

/* The K best experts of a token, normalised. */
static void route_naively(const small_layer* layer, const float* x, int32_t* expert, double* weight) {
  double logit[kExperts];
  double sum = 0;
  for (int e = 0; e < kExperts; ++e) {
    logit[e] = dot(layer->router + e * kHidden, x, kHidden);
  }
  for (int s = 0; s < kTopk; ++s) {
    int best = 0;
    for (int e = 1; e < kExperts; ++e) {
      best = logit[e] > logit[best] ? e : best;
    }
    expert[s] = best;
    weight[s] = exp(logit[best]);
    sum += weight[s];
    logit[best] = -INFINITY;
  }
  for (int s = 0; s < kTopk; ++s) {
    weight[s] /= sum;
  }
}

static int near(const float* found, const double* expected, int count, double tolerance) {
  double largest = 1;
  double difference = 0;
  for (int i = 0; i < count; ++i) {
    largest = fmax(largest, fabs(expected[i]));
    difference = fabs(found[i] - expected[i]) <= tolerance * largest ? difference : 1;
  }
  return difference < 1;
}

static switchyard_const_matrix x_of(const small_layer* layer) {
  switchyard_const_matrix x = {layer->x, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  return x;
}

static switchyard_matrix y_of(float* data) {
  switchyard_matrix y = {data, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  return y;
}

static void check_forward(const switchyard_layer* layer, const small_layer* from, double tolerance) {
  float y[kTokens * kHidden];
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, kTokens, &bytes));
  CHECK(bytes > 0 && bytes % SWITCHYARD_WORKSPACE_ALIGNMENT == 0);
  void* workspace = new_workspace(bytes);
  memset(y, 0xFF, sizeof y);
  switchyard_forward_result result = {.struct_size = sizeof result};
  CHECK_OK(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, bytes, NULL, &result));
  CHECK(result.path == SWITCHYARD_PATH_GROUPED && result.tokens == kTokens && result.topk == kTopk);
  for (int t = 0; t < kTokens; ++t) {
    int32_t expert[kTopk];
    double weight[kTopk];
    double expected[kHidden] = {0};
    route_naively(from, from->x + t * kHidden, expert, weight);
    CHECK(memcmp(result.expert + t * kTopk, expert, sizeof expert) == 0);
    CHECK(near(result.weight + t * kTopk, weight, kTopk, 1e-5));
    for (int s = 0; s < kTopk; ++s) {
      add_expert(&from->expert[expert[s]], kFfn, from->x + t * kHidden, weight[s], expected);
    }
    add_shared(from, from->x + t * kHidden, expected);
    CHECK(near(y + t * kHidden, expected, kHidden, tolerance));
  }
  free(workspace);
}

/* Slots that are off, a token without any, an expert twice. */
static void check_forward_routed(const switchyard_layer* layer, const small_layer* from) {
  enum { kSlots = 3 };
  int32_t expert[kTokens * kSlots];
  float weight[kTokens * kSlots];
  float y[kTokens * kHidden];
  for (int i = 0; i < kTokens * kSlots; ++i) {
    expert[i] = i % (kExperts + 1) - 1;
    weight[i] = expert[i] < 0 ? NAN : 0.25f * (float)(i % 5);
  }
  expert[0] = expert[1] = expert[2] = -1;
  expert[3] = expert[4] = 2;
  weight[3] = weight[4] = 0.5f;

  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes_routed(layer, kTokens, kSlots, &bytes));
  void* workspace = new_workspace(bytes);
  switchyard_forward_result result = {.struct_size = sizeof result};
  CHECK_OK(switchyard_layer_forward_routed(layer, x_of(from), expert, weight, kSlots, y_of(y), workspace, bytes, NULL));
  CHECK_OK(
      switchyard_layer_forward_routed(layer, x_of(from), expert, weight, kSlots, y_of(y), workspace, bytes, &result));
  CHECK(result.expert == expert && result.weight == weight && result.topk == kSlots && result.tokens == kTokens);
  for (int t = 0; t < kTokens; ++t) {
    double expected[kHidden] = {0};
    for (int i = t * kSlots; i < (t + 1) * kSlots; ++i) {
      if (expert[i] >= 0) {
        add_expert(&from->expert[expert[i]], kFfn, from->x + t * kHidden, weight[i], expected);
      }
    }
    add_shared(from, from->x + t * kHidden, expected);
    CHECK(near(y + t * kHidden, expected, kHidden, 1e-5));
  }
  free(workspace);
}

/* switchyard_route of the layer's own logits is the routing of its forward, bit for bit. */
static void check_router_logits(const switchyard_layer* layer, const small_layer* from) {
  float logits[kTokens][kExperts], y[kTokens * kHidden], weight[kTokens * kTopk];
  int32_t expert[kTokens * kTopk];
  const switchyard_matrix logits_out = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  const switchyard_const_matrix logits_in = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  size_t bytes = 0;
  size_t route_bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, kTokens, &bytes));
  CHECK_OK(switchyard_route_workspace_bytes(kTokens, kExperts, 1, NULL, &route_bytes));
  void* workspace = new_workspace(bytes);
  void* route_workspace = new_workspace(route_bytes);
  CHECK_OK(switchyard_layer_router_logits(layer, x_of(from), logits_out, workspace, bytes));
  for (int t = 0; t < kTokens; ++t) {
    double expected[kExperts];
    for (int e = 0; e < kExperts; ++e) {
      expected[e] = dot(from->router + e * kHidden, from->x + t * kHidden, kHidden);
    }
    CHECK(near(logits[t], expected, kExperts, 1e-5));
  }
  switchyard_router_options options = {.struct_size = sizeof options};
  CHECK_OK(switchyard_layer_router(layer, &options));
  const switchyard_route_outputs outputs = {.struct_size = sizeof outputs,
                                            .expert = {expert, SWITCHYARD_DTYPE_I32},
                                            .weight = {weight, SWITCHYARD_DTYPE_F32}};
  CHECK_OK(switchyard_route(logits_in, &options, NULL, &outputs, route_workspace, route_bytes, NULL));
  switchyard_forward_result result = {.struct_size = sizeof result};
  CHECK_OK(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, bytes, NULL, &result));
  CHECK(memcmp(result.expert, expert, sizeof expert) == 0 && memcmp(result.weight, weight, sizeof weight) == 0);
  free(workspace);
  free(route_workspace);
}

/* Padding and replay reach the router of a layer. */
static void check_inputs(const switchyard_layer* layer, const small_layer* from) {
  const uint8_t valid[kTokens] = {1, 0, 1};
  const int64_t forced[kTokens * kTopk] = {4, 3};
  float y[kTokens * kHidden];
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, kTokens, &bytes));
  void* workspace = new_workspace(bytes);
  switchyard_route_inputs inputs = {
      .struct_size = sizeof inputs, .valid = valid, .forced = {forced, SWITCHYARD_DTYPE_I64}};
  switchyard_forward_result result = {.struct_size = sizeof result};
  CHECK_OK(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, bytes, &inputs, &result));
  CHECK(result.expert[0] == 4 && result.expert[1] == 3 && result.weight[0] > 0);
  CHECK(result.expert[2] == -1 && result.expert[3] == -1 && result.weight[2] == 0);
  CHECK(result.expert[4] == 0 && result.expert[5] == 0);
  inputs.struct_size = 3;
  CHECK_ERROR(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, bytes, &inputs, &result),
              SWITCHYARD_INVALID_ARGUMENT, "route: inputs has struct_size 3, expected 72, its sizeof");
  free(workspace);
}

static void check_no_tokens(const switchyard_layer* layer) {
  const switchyard_const_matrix x = {.cols = kHidden};
  const switchyard_matrix y = {.cols = kHidden};
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, 0, &bytes));
  void* workspace = new_workspace(bytes);
  CHECK_OK(switchyard_layer_forward(layer, x, y, workspace, bytes, NULL, NULL));
  free(workspace);
}

/* Work on threads of the host, here the caller alone. */
static void run_alone(void* host, int workers, switchyard_body body, void* data) {
  *(int*)host += workers;
  body(data, 0);
}

/* What the router of a bf16 layer runs in. Its weight, if it is bf16, is the first half of the memory. */
static switchyard_router_type made_router_type(small_layer* from, switchyard_dtype weight, int32_t narrow,
                                               switchyard_router_type asked) {
  const switchyard_router_options router = {.struct_size = sizeof router, .topk = kTopk};
  switchyard_layer_options options = {.struct_size = sizeof options,
                                      .format = SWITCHYARD_FORMAT_BF16,
                                      .activations = SWITCHYARD_DTYPE_BF16,
                                      .router = asked};
  switchyard_layer_weights weights = weights_of(from);
  weights.router.dtype = weight;
  weights.narrow_router = narrow;
  switchyard_layer* layer = NULL;
  CHECK_OK(switchyard_layer_create(&weights, &router, &options, &layer));
  CHECK_OK(switchyard_layer_get_options(layer, &options));
  switchyard_layer_destroy(layer);
  return options.router;
}

static void check_router_types(small_layer* from) {
  const switchyard_dtype f32 = SWITCHYARD_DTYPE_F32;
  const switchyard_dtype bf16 = SWITCHYARD_DTYPE_BF16;
  CHECK(made_router_type(from, bf16, 0, SWITCHYARD_ROUTER_AS_WEIGHTS) == SWITCHYARD_ROUTER_F32);
  CHECK(made_router_type(from, bf16, 1, SWITCHYARD_ROUTER_AS_WEIGHTS) == SWITCHYARD_ROUTER_BF16);
  CHECK(made_router_type(from, f32, 1, SWITCHYARD_ROUTER_AS_WEIGHTS) == SWITCHYARD_ROUTER_F32);
  CHECK(made_router_type(from, bf16, 1, SWITCHYARD_ROUTER_F32) == SWITCHYARD_ROUTER_F32);
  CHECK(made_router_type(from, f32, 0, SWITCHYARD_ROUTER_BF16) == SWITCHYARD_ROUTER_BF16);
}

void test_layer(void) {
  small_layer* from = new_small_layer();
  int runs = 0;
  const switchyard_layer_weights weights = weights_of(from);
  switchyard_threads host = {.struct_size = sizeof host, .count = 2, .run = run_alone, .host = &runs};
  switchyard_router_options router = {.struct_size = sizeof router, .topk = kTopk, .normalize = 1};
  switchyard_layer_options options = {.struct_size = sizeof options, .threads = &host};
  switchyard_layer* layer = NULL;
  CHECK_OK(switchyard_layer_create(&weights, &router, &options, &layer));
  if (layer == NULL) {
    return;
  }
  CHECK(from->calls == kExperts);
  CHECK(switchyard_layer_experts(layer) == kExperts && switchyard_layer_hidden(layer) == kHidden);
  CHECK(switchyard_layer_ffn(layer) == kFfn);
  CHECK(switchyard_layer_weight_bytes(layer) >= sizeof(float) * 3 * kExperts * kHidden * kFfn);

  switchyard_router_options made_router = {.struct_size = sizeof made_router};
  switchyard_layer_options made_with = {.struct_size = sizeof made_with};
  CHECK_OK(switchyard_layer_router(layer, &made_router));
  CHECK(made_router.topk == kTopk && made_router.score == SWITCHYARD_SCORE_SOFTMAX && made_router.normalize == 1);
  memset(&host, 0, sizeof host); /* the layer has a copy */
  CHECK_OK(switchyard_layer_get_options(layer, &made_with));
  CHECK(made_with.format == SWITCHYARD_FORMAT_F32 && made_with.activations == SWITCHYARD_DTYPE_F32);
  CHECK(made_with.device == SWITCHYARD_DEVICE_CPU && made_with.router == SWITCHYARD_ROUTER_F32);
  CHECK(made_with.threads->run == run_alone);
  CHECK(made_with.threads->count == 2 && made_with.threads->host == &runs);

  check_forward(layer, from, 1e-5);
  check_forward_routed(layer, from);
  CHECK(runs > 0);
  check_router_logits(layer, from);
  check_inputs(layer, from);
  check_no_tokens(layer);
  switchyard_layer_destroy(layer);

  /* All defaults, and bf16 weights. */
  options = (switchyard_layer_options){.struct_size = sizeof options, .format = SWITCHYARD_FORMAT_BF16};
  const switchyard_layer_weights again = weights_of(from);
  CHECK_OK(switchyard_layer_create(&again, &router, &options, &layer));
  CHECK_OK(switchyard_layer_get_options(layer, &made_with));
  CHECK(made_with.format == SWITCHYARD_FORMAT_BF16 && made_with.threads->count >= 1);
  check_forward(layer, from, 0.05);
  switchyard_layer_destroy(layer);
  check_router_types(from);
  free(from);
}

static void check_create_errors(small_layer* from) {
  switchyard_layer* layer = (switchyard_layer*)(void*)from;
  switchyard_layer_weights weights = weights_of(from);
  switchyard_router_options router = {.struct_size = sizeof router, .topk = kTopk};
  switchyard_layer_options options = {.struct_size = sizeof options};

  from->refuse = 2;
  from->refusal = SWITCHYARD_IO;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_IO,
              "layer_create: the expert function returned 4 (input/output error) for expert 2, expected ok (0)");
  CHECK(layer == NULL);
  from->refusal = 99;
  weights = weights_of(from);
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: the expert function returned 99 (unknown code) for expert 2, expected ok (0)");
  from->refuse = -1;

  weights.expert = NULL;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: weights.expert is NULL, expected an address");
  weights = weights_of(from);
  weights.router.dtype = -1;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: router has dtype -1, expected 0..15");
  weights = weights_of(from);
  weights.function.activation = 99;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "experts: found activation 99, expected silu (0) .. softcapped (8)");
  weights = weights_of(from);
  weights.shared_function = (switchyard_expert_function){.activation = SWITCHYARD_ACTIVATION_SWIGLU_OAI, .limit = 7};
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "experts: found alpha 0 for activation swiglu_oai, expected a finite number > 0");
  weights = weights_of(from);
  weights.latent = 3;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer: latent_in has no data, expected it with latent 3");
  weights = weights_of(from);
  weights.output_bias.dtype = 16;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: output_bias has dtype 16, expected 0..15");
  weights = weights_of(from);
  router.topk = kExperts + 1;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "route: found topk 6 for 5 experts, expected 1..5");
  router.topk = kTopk;
  options.activations = SWITCHYARD_DTYPE_BF16;
  CHECK_ERROR(
      switchyard_layer_create(&weights, &router, &options, &layer), SWITCHYARD_INVALID_ARGUMENT,
      "layer: found activations bf16 with weights f32, expected f32, or bf16 with bf16, fp8, mxfp8, mxfp4 or nvfp4");
  options.activations = SWITCHYARD_DTYPE_F32;
  options.device = 2;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, &options, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer: found device 2, expected cpu (0) or cuda (1)");
  options.device = SWITCHYARD_DEVICE_CPU;
  options.router = 3;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, &options, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer: found options.router 3, expected as_weights (0), f32 (1) or bf16 (2)");
  options.reserved = 1;
  CHECK_ERROR(switchyard_layer_create(&weights, &router, &options, &layer), SWITCHYARD_NOT_SUPPORTED,
              "layer: options.reserved is 1, expected 0");
  CHECK_ERROR(switchyard_layer_create(NULL, &router, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: weights is NULL, expected an address");
  CHECK_ERROR(switchyard_layer_create(&weights, &router, NULL, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "layer_create: layer is NULL, expected an address");
}

/* A layer without router takes a given routing only. */
static void check_no_router(small_layer* from) {
  switchyard_layer* layer = NULL;
  switchyard_layer_weights weights = weights_of(from);
  weights.router.data = NULL;
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_create(&weights, NULL, NULL, &layer));
  const char* message = "layer: it was made without a router, expected a forward with a given routing";
  CHECK_ERROR(switchyard_layer_workspace_bytes(layer, kTokens, &bytes), SWITCHYARD_INVALID_ARGUMENT, message);
  float y[kTokens * kHidden];
  CHECK_ERROR(switchyard_layer_forward(layer, x_of(from), y_of(y), NULL, 0, NULL, NULL), SWITCHYARD_INVALID_ARGUMENT,
              message);
  float logits[kTokens * kExperts];
  const switchyard_matrix logits_out = {logits, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  CHECK_ERROR(switchyard_layer_router_logits(layer, x_of(from), logits_out, NULL, 0), SWITCHYARD_INVALID_ARGUMENT,
              message);
  check_forward_routed(layer, from);
  switchyard_layer_destroy(layer);
}

static void check_forward_errors(const switchyard_layer* layer, const small_layer* from) {
  float y[kTokens * kHidden];
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, kTokens, &bytes));
  char* workspace = new_workspace(bytes + SWITCHYARD_WORKSPACE_ALIGNMENT);
  switchyard_forward_result result = {.struct_size = 8};
  CHECK_ERROR(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, bytes, NULL, &result),
              SWITCHYARD_INVALID_ARGUMENT, "layer_forward: result has struct_size 8, expected 40, its sizeof");
  CHECK_ERROR_START(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace, 0, NULL, NULL),
                    SWITCHYARD_INVALID_ARGUMENT, "layer: found a workspace of 0 bytes, expected at least ");
  CHECK_ERROR_START(switchyard_layer_forward(layer, x_of(from), y_of(y), workspace + 1, bytes, NULL, NULL),
                    SWITCHYARD_INVALID_ARGUMENT, "workspace: found memory at ");
  switchyard_matrix wrong = y_of(y);
  wrong.cols = kHidden - 1;
  CHECK_ERROR_START(switchyard_layer_forward(layer, x_of(from), wrong, workspace, bytes, NULL, NULL),
                    SWITCHYARD_INVALID_ARGUMENT, "layer: y is [27, 18] with stride 18, expected ");
  wrong = y_of(y);
  wrong.dtype = SWITCHYARD_DTYPE_F16;
  CHECK_ERROR(switchyard_layer_forward(layer, x_of(from), wrong, workspace, bytes, NULL, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "layer: y is f16, expected f32 or bf16");
  wrong.dtype = 77;
  CHECK_ERROR(switchyard_layer_forward(layer, x_of(from), wrong, workspace, bytes, NULL, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "layer_forward: y has dtype 77, expected 0..15");
  CHECK_ERROR(switchyard_layer_forward(NULL, x_of(from), y_of(y), workspace, bytes, NULL, NULL),
              SWITCHYARD_INVALID_ARGUMENT, "layer_forward: layer is NULL, expected an address");
  float few[kTokens * kExperts];
  switchyard_matrix logits = {few, SWITCHYARD_DTYPE_F32, kTokens, kExperts, 0};
  CHECK_ERROR(switchyard_layer_router_logits(NULL, x_of(from), logits, workspace, bytes), SWITCHYARD_INVALID_ARGUMENT,
              "layer_router_logits: layer is NULL, expected an address");
  CHECK_ERROR_START(switchyard_layer_router_logits(layer, x_of(from), logits, workspace, 0),
                    SWITCHYARD_INVALID_ARGUMENT, "layer: found a workspace of 0 bytes, expected at least ");
  logits.dtype = SWITCHYARD_DTYPE_BF16;
  CHECK_ERROR(switchyard_layer_router_logits(layer, x_of(from), logits, workspace, bytes), SWITCHYARD_INVALID_ARGUMENT,
              "layer: logits is bf16, expected f32");
  logits.dtype = 16;
  CHECK_ERROR(switchyard_layer_router_logits(layer, x_of(from), logits, workspace, bytes), SWITCHYARD_INVALID_ARGUMENT,
              "layer_router_logits: logits has dtype 16, expected 0..15");
  int32_t expert[kTokens] = {0, 1, 2, 3, 4, 5, -1, -1, -1};
  float weight[kTokens] = {0};
  CHECK_ERROR_START(
      switchyard_layer_forward_routed(layer, x_of(from), expert, weight, 1, y_of(y), workspace, bytes, NULL),
      SWITCHYARD_INVALID_ARGUMENT, "plan: token 5 slot 0 names expert 5, expected -1..4");
  CHECK_ERROR_START(
      switchyard_layer_forward_routed(layer, x_of(from), NULL, weight, 1, y_of(y), workspace, bytes, NULL),
      SWITCHYARD_INVALID_ARGUMENT, "layer: ");
  free(workspace);
}

void test_layer_errors(void) {
  small_layer* from = new_small_layer();
  check_create_errors(from);
  check_no_router(from);

  switchyard_layer* layer = NULL;
  const switchyard_layer_weights weights = weights_of(from);
  switchyard_router_options router = {.struct_size = sizeof router, .topk = kTopk};
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_create(&weights, &router, NULL, &layer));
  check_forward_errors(layer, from);
  CHECK_ERROR_START(switchyard_layer_workspace_bytes(layer, -1, &bytes), SWITCHYARD_INVALID_ARGUMENT,
                    "layer: found -1 tokens");
  CHECK_ERROR_START(switchyard_layer_workspace_bytes_routed(layer, 1, 65, &bytes), SWITCHYARD_INVALID_ARGUMENT,
                    "layer: found 1 tokens and 65 slots");
  CHECK_ERROR(switchyard_layer_workspace_bytes_routed(NULL, 1, 1, &bytes), SWITCHYARD_INVALID_ARGUMENT,
              "layer_workspace_bytes_routed: layer is NULL, expected an address");
  CHECK_ERROR(switchyard_layer_router(layer, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "layer_router: options is NULL, expected an address");
  switchyard_layer_options options = {.struct_size = 0};
  CHECK_ERROR(switchyard_layer_get_options(layer, &options), SWITCHYARD_INVALID_ARGUMENT,
              "layer_get_options: options has struct_size 0, expected 32, its sizeof");
  switchyard_layer_destroy(layer);
  switchyard_layer_destroy(NULL);
  CHECK(switchyard_layer_experts(NULL) == 0 && switchyard_layer_hidden(NULL) == 0);
  CHECK(switchyard_layer_ffn(NULL) == 0 && switchyard_layer_weight_bytes(NULL) == 0);
  free(from);
}
