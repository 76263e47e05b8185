/* Routing and balance of the C API; the conventions stand in switchyard.h. What is computed: route.hpp, balance.hpp. */
#ifndef SWITCHYARD_ROUTE_H
#define SWITCHYARD_ROUTE_H

#include "switchyard/types.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SWITCHYARD_MAX_TOPK = 64, SWITCHYARD_MAX_EXPERTS = 65536, SWITCHYARD_MAX_GROUPS = 256 };
#define SWITCHYARD_MAX_TOKENS (INT64_C(1) << 40)

typedef int32_t switchyard_score; /* what a logit l becomes */
enum {
  SWITCHYARD_SCORE_SOFTMAX = 0,       /* over all experts */
  SWITCHYARD_SCORE_SIGMOID = 1,       /* 1 / (1 + exp(-l)) */
  SWITCHYARD_SCORE_SQRT_SOFTPLUS = 2, /* sqrt(log(1 + exp(l))) */
  SWITCHYARD_SCORE_LOGIT = 3,         /* l itself */
  SWITCHYARD_SCORE_SPARSEMIXER = 4    /* topk is 2, each weight from a masked softmax of its own */
};

typedef int32_t switchyard_chosen_score; /* what the scores of the chosen become before they are normalised */
enum {
  SWITCHYARD_CHOSEN_SCORE_NONE = 0,
  SWITCHYARD_CHOSEN_SCORE_SOFTMAX = 1, /* over the chosen */
  SWITCHYARD_CHOSEN_SCORE_SIGMOID = 2  /* of each */
};

typedef int32_t switchyard_normalize; /* what they are divided by; 0 if that is 0 */
enum {
  SWITCHYARD_NORMALIZE_NONE = 0,
  SWITCHYARD_NORMALIZE_SUM = 1,         /* sum + epsilon */
  SWITCHYARD_NORMALIZE_CLAMPED_SUM = 2, /* max(sum, epsilon) */
  SWITCHYARD_NORMALIZE_POWER_NORM = 3   /* (sum of |score|^power)^(1 / power) */
};

typedef int32_t switchyard_order; /* how the slots of a token follow one another */
enum {
  SWITCHYARD_ORDER_SCORE = 0,  /* selection descending, then expert id ascending */
  SWITCHYARD_ORDER_EXPERT = 1, /* expert id ascending */
  SWITCHYARD_ORDER_ANY = 2     /* as it comes out fastest: some fixed order */
};

/* "softmax", "sigmoid", "sqrt_softplus", "logit", "sparsemixer"; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_score_name(switchyard_score score);

/* How logits become a routing.
 *
 *   l         = logit_scale * logit + logit_bias, rounded to bf16 with round_logits, then softcap * tanh(l / softcap)
 *   score     = switchyard_score of l
 *   selection = score + selection_bias, what experts are chosen by; -inf where l or the bias is NaN
 *   weight    = chosen(score), normalised, * scale * expert_scale
 *
 * With groups, a group's score is the sum of its group_best largest selections; experts of all but the kept_groups best
 * groups have the selection -inf. Arrays are read during the call; a layer keeps copies, which its queries point to. */
typedef struct switchyard_router_options {
  uint32_t struct_size;
  int32_t topk; /* K: 1..min(E, SWITCHYARD_MAX_TOPK); no default */
  switchyard_score score;
  switchyard_normalize normalize;
  float epsilon;                         /* >= 0 */
  float scale;                           /* of the weights; 0 stands for 1, no scale can be 0 */
  int32_t groups;                        /* 0, 1: none; else 2..SWITCHYARD_MAX_GROUPS equal ones of neighbours */
  int32_t kept_groups;                   /* 1..groups, with at least topk experts; without groups 0 or 1 */
  int32_t group_best;                    /* 1..min(E / groups, SWITCHYARD_MAX_TOPK); 0: 1, the maximum */
  int32_t masked_zero;                   /* 1: the other groups' experts have the selection 0, not -inf */
  switchyard_const_array selection_bias; /* [E] f32, bf16 or f16, or none; never in the weights */
  switchyard_chosen_score chosen;        /* but for none, only with SWITCHYARD_SCORE_LOGIT */
  float power;                           /* of SWITCHYARD_NORMALIZE_POWER_NORM, > 0; 0 stands for 1 */
  const float* expert_scale;             /* [E] or NULL */
  float logit_scale;                     /* 0 stands for 1, no scale can be 0 */
  float softcap;                         /* 0: none */
  const float* logit_bias;               /* [E] or NULL */
  float jitter;                          /* of SWITCHYARD_SCORE_SPARSEMIXER; 0: 0.01; less than 0: none */
  switchyard_order order;
  int32_t round_logits; /* 1: l is rounded to bf16 before the soft cap */
  int32_t reserved;     /* 0 */
  /* Table routing: the experts of a token are row token_id of table [table_rows,K] (i16, i32 or i64), in that order;
   * groups and bias choose nothing then. */
  switchyard_const_array table;
  int64_t table_rows;
} switchyard_router_options;

/* What may come with the tokens; wherever a pointer to it is taken, NULL stands for all zero: nothing does. */
typedef struct switchyard_route_inputs {
  uint32_t struct_size;
  int32_t reserved; /* 0 */
  /* [T], 0: padding, which gets ids -1 and weights 0 and counts nowhere. NULL: all tokens are valid. */
  const uint8_t* valid;
  /* Replay: [T,K] i16, i32 or i64, kept in this order; weights come from the live scores. A token with an id of -1
   * among them is routed live, which is by the table if there is one. */
  switchyard_const_array forced;
  /* [T], 0: the token's row of `forced` is missing, it is routed live. NULL: none is. */
  const uint8_t* replayed;
  /* [T] i32 or i64, needed for a table and read for nothing else. */
  switchyard_const_array token_id;
  /* [sequences + 1], from 0 to T, ascending. NULL: one sequence. */
  const int64_t* sequence_begin;
  int64_t sequences; /* S; 0: 1 */
} switchyard_route_inputs;

/* What is wanted, each on its own; NULL: not. The caller owns all of it; every element is written, but for the
 * histogram, which is added to. The bits of one do not depend on which others are asked for. */
typedef struct switchyard_route_outputs {
  uint32_t struct_size;
  int32_t bins;                 /* of the histogram */
  switchyard_array expert;      /* [T,K] i16, i32 or i64 */
  switchyard_array weight;      /* [T,K] f32, bf16 or f16 */
  switchyard_array probability; /* [T,E] f32, bf16 or f16: weights of the chosen (duplicates add up), 0 elsewhere */
  uint8_t* byte_map;            /* [T,E]: 1 for a chosen expert */
  uint8_t* bit_map;             /* [T,ceil(E/8)]: the same in bits, the lowest first */
  float* chosen_logit;          /* [T,K]: l of the chosen, for a backward without logits */
  float* aux_score;             /* [T,E]: scores for balance losses, 0 for padding */
  int64_t* count;               /* [S,E]: slots of each expert */
  double* score_sum;            /* [S,E]: of aux_score */
  double* z_sum;                /* [S]: of log(sum of exp(l))^2; of a token where that is infinite 0 */
  int64_t* valid_count;         /* [S]: valid tokens */
  /* Quantile Balancing: the (K+1)-th largest selection [T], -inf for padding; and, [E,bins], for every valid token and
   * expert the bin of cutoff - score among equal ones from qb_lower to qb_upper, the outer ones open; a bin stays at
   * 2^31 - 1. Both need K < E, no groups and nothing given, the histogram a score that is not a softmax. */
  float* cutoff;
  int32_t* histogram;
  float qb_lower;
  float qb_upper;
} switchyard_route_outputs;

/* Bytes of workspace for switchyard_route and switchyard_route_backward with up to max_tokens; enough for every smaller
 * number and all outputs. sequences 0: 1. A multiple of SWITCHYARD_WORKSPACE_ALIGNMENT. SWITCHYARD_INVALID_ARGUMENT. */
SWITCHYARD_API switchyard_status switchyard_route_workspace_bytes(int64_t max_tokens, int32_t experts,
                                                                  int64_t sequences, const switchyard_threads* threads,
                                                                  size_t* bytes);

/* Routes logits [T,E], f32, bf16 or f16: selection descending, then expert id ascending; NaN counts as -inf; never a
 * duplicate. Without bias and groups l itself decides, which ties less often than scores do. A token's bits depend on
 * its own logits alone. Outputs and the workspace must not overlap one another, nor anything that is read. Allocates
 * nothing. SWITCHYARD_INVALID_ARGUMENT before any work. */
SWITCHYARD_API switchyard_status switchyard_route(switchyard_const_matrix logits,
                                                  const switchyard_router_options* options,
                                                  const switchyard_route_inputs* inputs,
                                                  const switchyard_route_outputs* outputs, void* workspace,
                                                  size_t workspace_bytes, const switchyard_threads* threads);

/* What is known of the loss L, and of the routing that it followed. */
typedef struct switchyard_route_gradients {
  uint32_t struct_size;
  float z;                            /* dL/d(z_sum), one number for all sequences */
  switchyard_const_array expert;      /* [T,K] as switchyard_route gave it; required */
  switchyard_const_array weight;      /* dL/dweight [T,K], f32, bf16 or f16, or none */
  switchyard_const_array probability; /* dL/dprobability [T,E], f32, bf16 or f16, or none; adds to `weight` */
  const float* chosen_logit;          /* NULL, or as switchyard_route gave it; then logits may have no data if the
                                         gradient is sparse, without aux and z */
  const float* aux;                   /* [S,E] or NULL: dL/daux_score, the same for all tokens of a sequence */
} switchyard_route_gradients;

/* *sparse: 1 if the gradient of the weights is zero for all experts but the chosen. */
SWITCHYARD_API switchyard_status switchyard_route_gradient_is_sparse(const switchyard_router_options* options,
                                                                     int32_t* sparse);

/* dL/dlogits [T,E], f32, bf16 or f16, every element written; 0 for padding. The choice itself counts as constant.
 * `inputs` as in the forward; of it only `valid` and the sequences are read. dlogits and the workspace must overlap
 * neither one another nor anything that is read. Allocates nothing. SWITCHYARD_INVALID_ARGUMENT before any work. */
SWITCHYARD_API switchyard_status switchyard_route_backward(switchyard_const_matrix logits,
                                                           const switchyard_router_options* options,
                                                           const switchyard_route_inputs* inputs,
                                                           const switchyard_route_gradients* gradients,
                                                           switchyard_matrix dlogits, void* workspace,
                                                           size_t workspace_bytes, const switchyard_threads* threads);

/* The router's GEMM, backward: logits = x * weight^T.
 *   dx [T,H]      = dlogits * weight       f32, bf16 or f16, or no data: not wanted
 *   dweight [E,H] = dlogits^T * x          f32 only: gradients of weights are summed up over batches; or no data
 *   dbias [E]     = sum of dlogits over t  or NULL; the gradient of logit_bias is dbias / logit_scale
 * x [T,H] (no data without dweight), weight [E,H] of plain numbers with in_stride 1 and dlogits [T,E], each f32, bf16 or
 * f16, are widened to fp32 first. Outputs must overlap neither inputs nor one another. The same bits for every number of
 * threads. SWITCHYARD_INVALID_ARGUMENT, and SWITCHYARD_NOT_SUPPORTED for another in_stride or codes. */
SWITCHYARD_API switchyard_status switchyard_router_backward(switchyard_const_matrix x, switchyard_weight_view weight,
                                                            switchyard_const_matrix dlogits, switchyard_matrix dx,
                                                            switchyard_matrix dweight, float* dbias,
                                                            const switchyard_threads* threads);

/* Balance. */

/* What a balance loss is made of: coefficient * E / (K * N) * sum over e of count[e] * score_sum[e] / n, where n valid
 * tokens gave score_sum and N of them gave count. 0 if n or N is 0. balance.hpp names the losses that it makes. */
typedef struct switchyard_balance_terms {
  uint32_t struct_size;
  int32_t topk;            /* K */
  int64_t experts;         /* E, 1..SWITCHYARD_MAX_EXPERTS */
  const int64_t* count;    /* [E] */
  int64_t count_tokens;    /* N */
  const double* score_sum; /* [E] */
  int64_t score_tokens;    /* n */
  double coefficient;
} switchyard_balance_terms;

/* *value is the loss. gradient [E], dL/daux_score of every valid token, is written, with add = 1 added to; NULL: not
 * wanted. */
SWITCHYARD_API switchyard_status switchyard_balance_loss(const switchyard_balance_terms* terms, float* gradient,
                                                         int32_t add, double* value);

/* coefficient * z_sum / tokens, 0 without tokens. *gradient: what switchyard_route_gradients.z takes; NULL: not wanted. */
SWITCHYARD_API double switchyard_z_loss(double z_sum, int64_t tokens, double coefficient, float* gradient);

/* bias[e] += rate * sign(mean(count) - count[e]), with centered = 1 then minus the mean of the biases. bias and count
 * [experts]. */
SWITCHYARD_API switchyard_status switchyard_update_bias(float* bias, const int64_t* count, int32_t experts, float rate,
                                                        int32_t centered);

typedef struct switchyard_quantile_bounds {
  float lower;
  float upper;
} switchyard_quantile_bounds;

/* Quantile Balancing: bias [experts] becomes the K/E quantile of cutoff - score, minus the mean over the experts; an
 * expert without entries keeps its bias. histogram [experts,bins] as switchyard_route made it between *bounds, which
 * becomes the bounds of the next one. */
SWITCHYARD_API switchyard_status switchyard_update_bias_by_quantile(float* bias, const int32_t* histogram,
                                                                    int32_t experts, int32_t bins, int32_t topk,
                                                                    switchyard_quantile_bounds* bounds);

typedef struct switchyard_load {
  uint32_t struct_size;
  int32_t unused;       /* experts without a slot */
  int64_t slots;        /* all */
  double max_over_mean; /* 1: even; E: all on one. 0 without slots. */
  double entropy;       /* -sum of p ln p of the shares p, in nats; ln E: even */
} switchyard_load;

/* Fills *load from count [experts]. */
SWITCHYARD_API switchyard_status switchyard_load_statistics(const int64_t* count, int32_t experts,
                                                            switchyard_load* load);

#ifdef __cplusplus
}
#endif

#endif
