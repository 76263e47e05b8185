/* What experts and layers may be made of, through the C API, against plain double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

enum { kTokens = 3, kExperts = 2, kTopk = 2, kHidden = 4, kFfn = 3, kLatent = 2, kMost = 64 };

/* Numbers that all views are taken from, each at a place of its own. */
typedef struct pool {
  float values[16 * kMost];
  int next;
} pool;

static const float* take(pool* from) { return from->values + kMost * from->next++ % (16 * kMost); }

static void fill(pool* from) {
  uint32_t state = 11;
  for (size_t i = 0; i < sizeof from->values / sizeof(float); ++i) {
    from->values[i] = next_random(&state);
  }
  from->next = 0;
}

typedef struct mlp {
  const float *gate, *up, *down, *up_bias, *down_bias;
} mlp;

typedef struct made {
  pool numbers;
  mlp expert[kExperts];
  mlp shared;
  const float *output_bias, *latent_in, *latent_out, *latent_in_bias, *latent_out_bias;
  float x[kTokens][kHidden];
} made;

static mlp take_mlp(pool* from) {
  mlp taken = {take(from), take(from), take(from), take(from), take(from)};
  return taken;
}

static made* new_made(void) {
  made* layer = calloc(1, sizeof *layer);
  fill(&layer->numbers);
  for (int e = 0; e < kExperts; ++e) {
    layer->expert[e] = take_mlp(&layer->numbers);
  }
  layer->shared = take_mlp(&layer->numbers);
  layer->output_bias = take(&layer->numbers);
  layer->latent_in = take(&layer->numbers) + 7;
  layer->latent_out = layer->latent_in + 11;
  layer->latent_in_bias = layer->latent_in + 23;
  layer->latent_out_bias = layer->latent_in + 31;
  memcpy(layer->x, layer->output_bias + 9, sizeof layer->x);
  return layer;
}

static switchyard_expert_tensors views_of(const mlp* from, int biases) {
  switchyard_expert_tensors views = {.gate = {.data = from->gate},
                                     .up = {.data = from->up},
                                     .down = {.data = from->down},
                                     .up_bias = {.data = biases ? from->up_bias : NULL},
                                     .down_bias = {.data = biases ? from->down_bias : NULL}};
  return views;
}

static switchyard_status give_expert(void* context, int32_t expert, switchyard_expert_tensors* tensors) {
  *tensors = views_of(&((made*)context)->expert[expert], 1);
  return SWITCHYARD_OK;
}

static double dot(const float* a, const double* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

/* y += scale * down(within * max(up(x), 0)^2), with biases. */
static void add_ungated(const mlp* from, int hidden, const double* x, double within, double scale, double* y) {
  double h[kFfn];
  for (int f = 0; f < kFfn; ++f) {
    h[f] = within * pow(fmax(dot(from->up + f * hidden, x, hidden) + from->up_bias[f], 0), 2);
  }
  for (int i = 0; i < hidden; ++i) {
    y[i] += scale * (dot(from->down + i * kFfn, h, kFfn) + from->down_bias[i]);
  }
}

/* y += scale * down(swiglu_oai(gate(x), up(x))). */
static void add_clamped(const mlp* from, const double* x, double scale, double limit, double alpha, double* y) {
  double h[kFfn];
  for (int f = 0; f < kFfn; ++f) {
    const double g = fmin(dot(from->gate + f * kHidden, x, kHidden), limit);
    const double u = fmax(fmin(dot(from->up + f * kHidden, x, kHidden), limit), -limit);
    h[f] = g / (1 + exp(-alpha * g)) * (u + 1);
  }
  for (int i = 0; i < kHidden; ++i) {
    y[i] += scale * dot(from->down + i * kFfn, h, kFfn);
  }
}

static switchyard_layer_weights weights_of(made* layer) {
  switchyard_layer_weights weights = {
      .struct_size = sizeof weights,
      .experts = kExperts,
      .hidden = kHidden,
      .ffn = kFfn,
      .shared_ffn = kFfn,
      .expert = give_expert,
      .expert_context = layer,
      .function = {.activation = SWITCHYARD_ACTIVATION_RELU_SQUARED, .ungated = 1},
      .shared_function = {.activation = SWITCHYARD_ACTIVATION_SWIGLU_OAI, .limit = 0.5f, .alpha = 1.5f},
      .shared = views_of(&layer->shared, 0)};
  return weights;
}

static void forward(const switchyard_layer_weights* weights, const made* from, const int32_t* expert,
                    const float* weight, float* y) {
  switchyard_layer* layer = NULL;
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_create(weights, NULL, NULL, &layer));
  if (layer == NULL) {
    return;
  }
  CHECK_OK(switchyard_layer_workspace_bytes_routed(layer, kTokens, kTopk, &bytes));
  void* workspace = new_workspace(bytes);
  const switchyard_const_matrix x = {from->x, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  const switchyard_matrix out = {y, SWITCHYARD_DTYPE_F32, kTokens, kHidden, 0};
  CHECK_OK(switchyard_layer_forward_routed(layer, x, expert, weight, kTopk, out, workspace, bytes, NULL));
  free(workspace);
  switchyard_layer_destroy(layer);
}

static void check_row(const float* y, const double* expected) {
  for (int i = 0; i < kHidden; ++i) {
    CHECK(fabs(y[i] - expected[i]) <= 1e-5 * fmax(1, fabs(expected[i])));
  }
}

/* An identity expert, a scaled shared one, biases; and weights at every site. */
static void check_identity(made* from) {
  const int32_t expert[kTokens][kTopk] = {{0, 2}, {1, 0}, {2, 2}};
  const float weight[kTokens][kTopk] = {{0.5f, 0.25f}, {1, 2}, {0.125f, 0.5f}};
  for (switchyard_weight_site site = SWITCHYARD_WEIGHT_SITE_OUTPUT; site <= SWITCHYARD_WEIGHT_SITE_BETWEEN; ++site) {
    float y[kTokens][kHidden];
    switchyard_layer_weights weights = weights_of(from);
    weights.identity_experts = 1;
    weights.shared_scale = 0.5f;
    weights.output_bias.data = from->output_bias;
    weights.weight_site = site;
    forward(&weights, from, expert[0], weight[0], y[0]);
    for (int t = 0; t < kTokens; ++t) {
      double expected[kHidden], x[kHidden], scaled[kHidden];
      for (int i = 0; i < kHidden; ++i) {
        x[i] = from->x[t][i];
        expected[i] = from->output_bias[i];
      }
      add_clamped(&from->shared, x, 0.5, 0.5, 1.5, expected);
      for (int k = 0; k < kTopk; ++k) {
        const double w = weight[t][k];
        for (int i = 0; i < kHidden; ++i) {
          scaled[i] = site == SWITCHYARD_WEIGHT_SITE_INPUT ? w * x[i] : x[i];
          expected[i] += expert[t][k] == kExperts ? w * x[i] : 0;
        }
        if (expert[t][k] < kExperts) {
          add_ungated(&from->expert[expert[t][k]], kHidden, scaled, site == SWITCHYARD_WEIGHT_SITE_BETWEEN ? w : 1,
                      site == SWITCHYARD_WEIGHT_SITE_OUTPUT ? w : 1, expected);
        }
      }
      check_row(y[t], expected);
    }
  }
}

static void check_latent(made* from) {
  const int32_t expert[kTokens][kTopk] = {{0, 1}, {1, -1}, {-1, -1}};
  const float weight[kTokens][kTopk] = {{0.5f, 0.25f}, {1, 0}, {0, 0}};
  float y[kTokens][kHidden];
  switchyard_layer_weights weights = weights_of(from);
  weights.shared_ffn = 0;
  weights.latent = kLatent;
  weights.latent_in.data = from->latent_in;
  weights.latent_out.data = from->latent_out;
  weights.latent_in_bias.data = from->latent_in_bias;
  weights.latent_out_bias.data = from->latent_out_bias;
  forward(&weights, from, expert[0], weight[0], y[0]);
  for (int t = 0; t < kTokens; ++t) {
    double expected[kHidden], x[kHidden], in[kLatent], sum[kLatent] = {0};
    for (int i = 0; i < kHidden; ++i) {
      x[i] = from->x[t][i];
    }
    for (int i = 0; i < kLatent; ++i) {
      in[i] = dot(from->latent_in + i * kHidden, x, kHidden) + from->latent_in_bias[i];
    }
    for (int k = 0; k < kTopk; ++k) {
      if (expert[t][k] >= 0) {
        add_ungated(&from->expert[expert[t][k]], kLatent, in, 1, weight[t][k], sum);
      }
    }
    for (int i = 0; i < kHidden; ++i) {
      expected[i] = dot(from->latent_out + i * kLatent, sum, kLatent) + from->latent_out_bias[i];
    }
    check_row(y[t], expected);
  }
}

void test_expert_variants(void) {
  made* from = new_made();
  check_identity(from);
  check_latent(from);
  free(from);
}
