/* The C API, C11. The C++ headers beside it say what is computed; this one says how it is called from C.
 *
 * Conventions
 *
 * 1. Return values. A function that can fail returns a switchyard_status: SWITCHYARD_OK or the kind of failure, and
 *    switchyard_last_error() then says what happened. Nothing is written to an out-parameter by a call that failed, but
 *    for handles, which become NULL. Other functions cannot fail and return their value. No C++ exception leaves.
 *
 * 2. Ownership. A handle (switchyard_layer, switchyard_model, switchyard_tensor_file) comes from a _create or _open
 *    function and is the caller's until its _destroy. A handle does not need the one it was made from. Pointers that
 *    a handle gives out are the handle's, and hold until its _destroy; nothing given out is to be freed. Pointers that
 *    a caller gives are read or written during the call only, but for `run` and `host` of the threads of a layer, which
 *    must live as long as the layer.
 *
 * 3. NULL. _destroy(NULL) does nothing. An argument may be NULL where its comment says what NULL means; else it is
 *    SWITCHYARD_INVALID_ARGUMENT, or 0 or NULL from a function without a status. Data of a matrix may be NULL if it has
 *    no rows.
 *
 * 4. Threads. Handles are immutable: any number of threads may use one at a time, until one destroys it. A workspace
 *    and an output belong to one call at a time. The message of switchyard_last_error() is kept per thread. Calls to
 *    callbacks come from the calling thread, but for the `run` that a caller hands in, which chooses threads itself.
 *
 * 5. Structs. A struct whose first field is struct_size may get more fields at its end in a later version. Set
 *    struct_size to its sizeof and all that is not wanted to 0, also in a struct that the library fills:
 *    `switchyard_layer_options options = {.struct_size = sizeof options};`. 0 is the default of every field that has
 *    one. A caller from before a field was added gets what it got. A field that the library does not know yet and that
 *    is not 0 is SWITCHYARD_NOT_SUPPORTED; in a struct to fill it stays as it was. Structs without struct_size never
 *    change.
 *
 * 6. Numbers of statuses and enumerations are pinned. Counts of tokens and rows are int64_t, ids and small counts
 *    int32_t, memory size_t. Truth is 0 or 1 in an int32_t. Shapes are row-major, in brackets: T tokens, H hidden, F
 *    ffn, E experts, K slots. Text is UTF-8 and ends with 0.
 */
#ifndef SWITCHYARD_SWITCHYARD_H
#define SWITCHYARD_SWITCHYARD_H

#include "switchyard/route.h"
#include "switchyard/types.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Plan. */

/* (token, slot) pairs sorted by expert, stable: the rows of one expert stand together, in token then slot order. Slots
 * with expert -1 have no row. The pointers are into the workspace of switchyard_make_plan and hold until its next use.
 */
typedef struct switchyard_plan {
  uint32_t struct_size;
  int32_t topk;
  int64_t tokens;
  int64_t experts;
  int64_t rows;                /* R: slots that are on, <= T*K */
  const int64_t* offset;       /* [E+1]: expert e has rows offset[e] .. offset[e+1] */
  const int64_t* row_to_token; /* [R] */
  const int64_t* slot_to_row;  /* [T,K], -1 for a slot that is off */
} switchyard_plan;

/* Bytes of workspace for switchyard_make_plan, enough for every smaller number of tokens too; a multiple of
 * SWITCHYARD_WORKSPACE_ALIGNMENT. SWITCHYARD_INVALID_ARGUMENT for sizes out of range. */
SWITCHYARD_API switchyard_status switchyard_plan_bytes(int64_t tokens, int32_t topk, int32_t experts,
                                                       const switchyard_threads* threads, size_t* bytes);

/* Plans expert [T,K], ids in -1..experts-1, duplicates within a token allowed. The same plan for every number of
 * threads. SWITCHYARD_INVALID_ARGUMENT, naming the first bad id, or if the workspace is too small or not aligned. */
SWITCHYARD_API switchyard_status switchyard_make_plan(const int32_t* expert, int64_t tokens, int32_t topk,
                                                      int32_t experts, void* workspace, size_t workspace_bytes,
                                                      const switchyard_threads* threads, switchyard_plan* plan);

/* Layer. */

typedef int32_t switchyard_format; /* what a packed weight is stored as */
enum {
  SWITCHYARD_FORMAT_F32 = 0,
  SWITCHYARD_FORMAT_BF16 = 1,
  SWITCHYARD_FORMAT_I8 = 2,
  SWITCHYARD_FORMAT_I4 = 3,
  SWITCHYARD_FORMAT_F8_E4M3 = 4,
  SWITCHYARD_FORMAT_MXFP4 = 5,
  SWITCHYARD_FORMAT_MXFP8 = 6,
  SWITCHYARD_FORMAT_NVFP4 = 7
};

/* The function between the two GEMMs. g and u are what gate and up give, L is `limit`, a is `alpha`. */
typedef int32_t switchyard_activation;
enum {
  SWITCHYARD_ACTIVATION_SILU = 0,         /* g / (1 + exp(-g)) * u */
  SWITCHYARD_ACTIVATION_GELU = 1,         /* g * Phi(g) * u, by the error function */
  SWITCHYARD_ACTIVATION_GELU_TANH = 2,    /* its approximation by tanh */
  SWITCHYARD_ACTIVATION_RELU = 3,         /* max(g, 0) * u */
  SWITCHYARD_ACTIVATION_RELU_SQUARED = 4, /* max(g, 0)^2 * u */
  SWITCHYARD_ACTIVATION_SILU_CLAMPED = 5, /* silu(min(g, L)) * clamp(u, -L, L) */
  SWITCHYARD_ACTIVATION_SILU_LIMITED = 6, /* min(silu(g), L) * clamp(u, -L, L) */
  SWITCHYARD_ACTIVATION_SWIGLU_OAI = 7,   /* g' = min(g, L): g' / (1 + exp(-a*g')) * (clamp(u, -L, L) + 1) */
  SWITCHYARD_ACTIVATION_SOFTCAPPED = 8    /* a*tanh(g/a) / (1 + exp(-g)) * L*tanh(u/L) */
};

typedef struct switchyard_expert_function {
  switchyard_activation activation;
  int32_t ungated; /* 1: there is no gate, u is 1 and g what `up` gives; the first five only */
  float limit;     /* > 0 where L stands above */
  float alpha;     /* > 0 where a stands above */
} switchyard_expert_function;

typedef int32_t switchyard_device;
enum { SWITCHYARD_DEVICE_CPU = 0, SWITCHYARD_DEVICE_CUDA = 1 };

typedef int32_t switchyard_path; /* how a forward went, see Path in layer.hpp; the bits are the same */
enum { SWITCHYARD_PATH_GROUPED = 0, SWITCHYARD_PATH_SMALL_BATCH = 1 };

/* What a slot's weight multiplies, see WeightSite in layer.hpp. */
typedef int32_t switchyard_weight_site;
enum {
  SWITCHYARD_WEIGHT_SITE_OUTPUT = 0, /* the expert's output */
  SWITCHYARD_WEIGHT_SITE_INPUT = 1,  /* what the expert reads */
  SWITCHYARD_WEIGHT_SITE_BETWEEN = 2 /* what its down projection multiplies */
};

/* "f32", "bf16"; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_format_name(switchyard_format format);
/* "grouped", "small_batch"; "unknown" for other numbers. Static. */
SWITCHYARD_API const char* switchyard_path_name(switchyard_path path);

/* One expert. gate and up [F,H], down [H,F]; biases [F], [F] and [H], no data: none. gate and gate_bias are not looked
 * at without a gate. */
typedef struct switchyard_expert_tensors {
  switchyard_weight_view gate;
  switchyard_weight_view up;
  switchyard_weight_view down;
  switchyard_weight_view gate_bias;
  switchyard_weight_view up_bias;
  switchyard_weight_view down_bias;
} switchyard_expert_tensors;

/* Gives the tensors of an expert, which must stay readable until the next call, or the end of
 * switchyard_layer_create. *tensors is all zero. Any status but SWITCHYARD_OK ends the construction with that status.
 */
typedef switchyard_status (*switchyard_give_expert)(void* context, int32_t expert, switchyard_expert_tensors* tensors);

/* Everything a layer is made of; read during switchyard_layer_create only. */
typedef struct switchyard_layer_weights {
  uint32_t struct_size;
  int32_t experts;               /* E */
  int64_t hidden;                /* H */
  int64_t ffn;                   /* F */
  int64_t shared_ffn;            /* 0: no shared expert */
  switchyard_give_expert expert; /* called once per expert, ascending */
  void* expert_context;
  switchyard_expert_function function; /* of the routed experts */
  switchyard_expert_function shared_function;
  switchyard_weight_view router;      /* [E + Z,H]; no data: only forwards with a given routing */
  switchyard_expert_tensors shared;   /* [shared_ffn,H] and [H,shared_ffn] */
  switchyard_weight_view shared_gate; /* [1,H]: shared expert times sigmoid(x.gate); no data: times shared_scale */
  float shared_scale;                 /* 0: 1 */
  int32_t identity_experts;           /* Z more ids, E..E+Z-1, that stand for the token itself: y += weight * x */
  switchyard_weight_site weight_site; /* what a slot's weight multiplies */
  int32_t narrow_router;              /* 1: bf16 where weight and activations are, see switchyard_router_type */
  switchyard_weight_view output_bias; /* [H], added last; no data: none */
  /* The experts work in `latent` dimensions between two linear maps; shared expert and router see x. 0: they work in
   * H. Biases without data: none. */
  int64_t latent;
  switchyard_weight_view latent_in;       /* [latent,H] */
  switchyard_weight_view latent_out;      /* [H,latent] */
  switchyard_weight_view latent_in_bias;  /* [latent] */
  switchyard_weight_view latent_out_bias; /* [H] */
} switchyard_layer_weights;

/* What the router's GEMM gives: fp32 from the hidden states as they are; or bf16, to which x, weight and logits are
 * rounded; or what the weights ask for: with narrow_router, as families have it whose router runs in the model's type,
 * bf16 where both the router's weight and the activations are bf16, and else f32. */
typedef int32_t switchyard_router_type;
enum { SWITCHYARD_ROUTER_AS_WEIGHTS = 0, SWITCHYARD_ROUTER_F32 = 1, SWITCHYARD_ROUTER_BF16 = 2 };

typedef struct switchyard_layer_options {
  uint32_t struct_size;
  switchyard_format format;     /* what expert weights are packed to */
  switchyard_dtype activations; /* what the experts multiply: f32; or bf16, but not with f32, int8 or int4 weights */
  switchyard_device device;     /* cuda: SWITCHYARD_NOT_SUPPORTED in a build without it */
  switchyard_router_type router;
  int32_t reserved;                  /* 0 */
  const switchyard_threads* threads; /* of the packing and of every forward */
} switchyard_layer_options;

typedef struct switchyard_layer switchyard_layer;

/* Packs. router NULL: topk 1, softmax, for layers without a router; options NULL: all zero. On success the caller owns
 * *layer. SWITCHYARD_INVALID_ARGUMENT, _NOT_SUPPORTED, _OUT_OF_MEMORY, or the status of the expert function. */
SWITCHYARD_API switchyard_status switchyard_layer_create(const switchyard_layer_weights* weights,
                                                         const switchyard_router_options* router,
                                                         const switchyard_layer_options* options,
                                                         switchyard_layer** layer);
SWITCHYARD_API void switchyard_layer_destroy(switchyard_layer* layer);

SWITCHYARD_API int32_t switchyard_layer_experts(const switchyard_layer* layer);     /* E */
SWITCHYARD_API int64_t switchyard_layer_hidden(const switchyard_layer* layer);      /* H */
SWITCHYARD_API int64_t switchyard_layer_ffn(const switchyard_layer* layer);         /* F */
SWITCHYARD_API size_t switchyard_layer_weight_bytes(const switchyard_layer* layer); /* packed, all weights */

/* Fills *options with what the layer was made with; arrays are its copies, none without a router. */
SWITCHYARD_API switchyard_status switchyard_layer_router(const switchyard_layer* layer,
                                                         switchyard_router_options* options);
/* The same; options->threads is the layer's copy, with its count resolved, options->router what the router runs in. */
SWITCHYARD_API switchyard_status switchyard_layer_get_options(const switchyard_layer* layer,
                                                              switchyard_layer_options* options);

/* Bytes that switchyard_layer_forward of up to max_tokens needs; enough for every smaller number. A multiple of
 * SWITCHYARD_WORKSPACE_ALIGNMENT. SWITCHYARD_INVALID_ARGUMENT for a layer without router or tokens out of range. */
SWITCHYARD_API switchyard_status switchyard_layer_workspace_bytes(const switchyard_layer* layer, int64_t max_tokens,
                                                                  size_t* bytes);
/* The same for switchyard_layer_forward_routed with `topk` slots, 1..SWITCHYARD_MAX_TOPK. */
SWITCHYARD_API switchyard_status switchyard_layer_workspace_bytes_routed(const switchyard_layer* layer,
                                                                         int64_t max_tokens, int32_t topk,
                                                                         size_t* bytes);

/* What a forward did. The pointers are into the workspace and hold until its next use; after
 * switchyard_layer_forward_routed they are the caller's own. */
typedef struct switchyard_forward_result {
  uint32_t struct_size;
  switchyard_path path;
  int64_t tokens;
  int64_t topk;
  const int32_t* expert; /* [T,K], -1: slot off */
  const float* weight;   /* [T,K] */
} switchyard_forward_result;

/* x [T,H] -> y [T,H], f32 or bf16 each. Workspace, y, and what is read must not overlap. y[t] = sum over slots of
 * weight * expert(x[t]), fp32, the shared expert last, rounded once. The bits of y[t] depend on x[t], the weights and
 * the type options alone. Allocates nothing. workspace: see switchyard_layer_workspace_bytes. result NULL: not wanted.
 * SWITCHYARD_INVALID_ARGUMENT before any work. */
SWITCHYARD_API switchyard_status switchyard_layer_forward(const switchyard_layer* layer, switchyard_const_matrix x,
                                                          switchyard_matrix y, void* workspace, size_t workspace_bytes,
                                                          const switchyard_route_inputs* inputs,
                                                          switchyard_forward_result* result);

/* The same with the caller's expert [T,topk] (-1: slot off, its weight is not looked at) and weight [T,topk];
 * duplicates count twice. */
SWITCHYARD_API switchyard_status switchyard_layer_forward_routed(const switchyard_layer* layer,
                                                                 switchyard_const_matrix x, const int32_t* expert,
                                                                 const float* weight, int32_t topk, switchyard_matrix y,
                                                                 void* workspace, size_t workspace_bytes,
                                                                 switchyard_forward_result* result);

/* The logits [T,E + Z] f32 that switchyard_layer_forward routes x [T,H], f32 or bf16, by. switchyard_route of
 * them, with the options of switchyard_layer_router and the inputs of that forward, gives the bits of its experts and
 * weights, and every other output and gradient too. workspace: as for switchyard_layer_forward. Workspace,
 * logits and x must not overlap. Allocates nothing. SWITCHYARD_INVALID_ARGUMENT before any work, also for a layer without router. */
SWITCHYARD_API switchyard_status switchyard_layer_router_logits(const switchyard_layer* layer,
                                                                switchyard_const_matrix x, switchyard_matrix logits,
                                                                void* workspace, size_t workspace_bytes);

/* Model. */

typedef struct switchyard_model switchyard_model;

typedef struct switchyard_model_info {
  uint32_t struct_size;
  int32_t layers;           /* all layers of the model */
  int32_t moe_layers;       /* those with experts: length of switchyard_model_moe_layers */
  int32_t experts;          /* E */
  int64_t hidden;           /* H */
  int64_t ffn;              /* F */
  int64_t shared_ffn;       /* 0: no shared expert */
  int32_t shared_gate;      /* 1: the shared expert has a sigmoid gate */
  switchyard_dtype weights; /* type of the expert tensors, codes if they are quantised */
  size_t file_bytes;        /* all tensors */
  size_t moe_bytes;         /* tensors of the MoE blocks */
  /* As switchyard_layer_weights has them; limits of the functions are those of the first layer with experts. */
  switchyard_expert_function function;
  switchyard_expert_function shared_function;
  int64_t latent;
  float shared_scale;
  int32_t identity_experts;
  switchyard_weight_site weight_site;
  int32_t output_bias;    /* 1: yes, as the following */
  int32_t selection_bias; /* the router has one */
  int32_t logit_bias;     /* the router has one */
  int32_t narrow_router;
  switchyard_dtype shared_weights; /* as weights, of the shared expert; f32 if it has several types */
  switchyard_codes codes;          /* of the first layer's routed experts, as the following */
  switchyard_dtype scales;         /* type of what codes are multiplied with; nothing of plain ones */
  int64_t out_block;               /* outputs that share a scale; 0: all */
  int64_t in_block;                /* inputs that share a scale; 0: all */
} switchyard_model_info;

/* Maps a checkpoint folder (config.json and model.safetensors or model.safetensors.index.json); reads no weight. On
 * success the caller owns *model. SWITCHYARD_IO, _BAD_DATA, and _NOT_SUPPORTED for an unknown model_type. */
SWITCHYARD_API switchyard_status switchyard_model_open(const char* folder, switchyard_model** model);
SWITCHYARD_API void switchyard_model_destroy(switchyard_model* model);

SWITCHYARD_API switchyard_status switchyard_model_get_info(const switchyard_model* model, switchyard_model_info* info);
/* How the layers route. */
SWITCHYARD_API switchyard_status switchyard_model_router(const switchyard_model* model,
                                                         switchyard_router_options* options);

/* model_type as config.json has it; the row of the family table; e.g. "per expert, gate_proj/up_proj/down_proj
 * [out,in]". The model's. */
SWITCHYARD_API const char* switchyard_model_type(const switchyard_model* model);
SWITCHYARD_API const char* switchyard_model_family(const switchyard_model* model);
SWITCHYARD_API const char* switchyard_model_layout(const switchyard_model* model);

/* quant_method as config.json has it; "" for none. The model's. */
SWITCHYARD_API const char* switchyard_model_quantization(const switchyard_model* model);

/* Global indices of the layers with experts, [count], ascending. The model's. */
SWITCHYARD_API const int32_t* switchyard_model_moe_layers(const switchyard_model* model, size_t* count);

/* Those of them whose router is a table that wants token ids, [count], ascending. The model's. */
SWITCHYARD_API const int32_t* switchyard_model_table_layers(const switchyard_model* model, size_t* count);

/* What of the family's block is left to the caller, e.g. a norm behind it; "" for nothing. The model's. */
SWITCHYARD_API const char* switchyard_model_outside(const switchyard_model* model);

/* What switchyard_model_layer would refuse, one reason per index from 0; NULL behind the last one, so NULL for 0 means
 * that everything runs. The model's. */
SWITCHYARD_API const char* switchyard_model_unsupported(const switchyard_model* model, size_t index);

/* The known values of model_type, sorted, one per index from 0; NULL behind the last one. Static. */
SWITCHYARD_API const char* switchyard_known_model_type(size_t index);

/* Called after every packed expert. */
typedef void (*switchyard_progress)(void* context, int32_t done, int32_t of);

/* Packs MoE layer `index` (global layer index). options NULL: all zero; progress NULL: not wanted. On success the
 * caller owns *layer. SWITCHYARD_INVALID_ARGUMENT if that layer is not an MoE layer, _BAD_DATA if its tensors do not
 * fit, _NOT_SUPPORTED, _OUT_OF_MEMORY. */
SWITCHYARD_API switchyard_status switchyard_model_layer(const switchyard_model* model, int32_t index,
                                                        const switchyard_layer_options* options,
                                                        switchyard_progress progress, void* progress_context,
                                                        switchyard_layer** layer);
/* The same, with the packed form kept in a file in the folder `cache`, and mapped the next time; NULL: none. A file that
 * is damaged, of another version or of weights that have changed is replaced. _IO, before packing, where a file is
 * needed and cannot be made or has no room, and after it where the file cannot be written. */
SWITCHYARD_API switchyard_status switchyard_model_layer_cached(const switchyard_model* model, int32_t index,
                                                               const switchyard_layer_options* options,
                                                               const char* cache, switchyard_progress progress,
                                                               void* progress_context, switchyard_layer** layer);
/* What switchyard_layer_workspace_bytes of that layer will say, without packing it. */
SWITCHYARD_API switchyard_status switchyard_model_workspace_bytes(const switchyard_model* model, int32_t index,
                                                                  const switchyard_layer_options* options,
                                                                  int64_t max_tokens, size_t* bytes);

/* Tensors in files. */

/* Row-major, little-endian, of any alignment. */
typedef struct switchyard_tensor {
  const char* name;
  switchyard_dtype dtype;
  int32_t dims;
  const int64_t* shape; /* [dims] */
  const void* data;
  size_t bytes;
} switchyard_tensor;

typedef struct switchyard_tensor_file switchyard_tensor_file;

/* Maps a safetensors file, or a sharded set through its *.safetensors.index.json. On success the caller owns *file.
 * SWITCHYARD_IO, and _BAD_DATA for every damage, naming file, tensor and reason. */
SWITCHYARD_API switchyard_status switchyard_tensor_file_open(const char* path, switchyard_tensor_file** file);
SWITCHYARD_API void switchyard_tensor_file_destroy(switchyard_tensor_file* file);

SWITCHYARD_API size_t switchyard_tensor_file_count(const switchyard_tensor_file* file);
/* Tensor `index` of 0..count-1, in the order of the file; its pointers are the file's. SWITCHYARD_INVALID_ARGUMENT for
 * other indices. */
SWITCHYARD_API switchyard_status switchyard_tensor_file_get(const switchyard_tensor_file* file, size_t index,
                                                            switchyard_tensor* tensor);
/* The tensor of that name. SWITCHYARD_BAD_DATA, naming file and tensor, if there is none. */
SWITCHYARD_API switchyard_status switchyard_tensor_file_find(const switchyard_tensor_file* file, const char* name,
                                                             switchyard_tensor* tensor);
/* Lets go of the memory pages of these bytes of the file; reading them again brings them back. Does nothing for memory
 * that is not this file's. */
SWITCHYARD_API void switchyard_tensor_file_release(const switchyard_tensor_file* file, const void* data, size_t bytes);

/* Writes tensors [count] to one safetensors file, replacing it only when all is written. SWITCHYARD_IO,
 * SWITCHYARD_INVALID_ARGUMENT for duplicate names or bytes that do not fit the shape. */
SWITCHYARD_API switchyard_status switchyard_write_safetensors(const char* path, const switchyard_tensor* tensors,
                                                              size_t count);

/* Probe. */

/* Measured rates, all threads together; 0 where the processor lacks the unit. */
typedef struct switchyard_roofline {
  uint32_t struct_size;
  switchyard_isa isa;
  int64_t threads;
  double fma_gflops;  /* fp32 multiply-adds, two operations each */
  double bf16_gflops; /* bf16 dot product into fp32 */
  double vnni_gops;   /* u8*s8 dot product into i32 */
  double dram_gbps;   /* reading memory far larger than the caches, GB = 1e9 bytes */
  double cache_gbps;  /* reading 256 KiB per thread again and again */
} switchyard_roofline;

/* Measures for the current instruction set, about 0.5 s. dram_bytes: memory that it takes for the time of the call; 0:
 * 512 MiB. SWITCHYARD_OUT_OF_MEMORY. */
SWITCHYARD_API switchyard_status switchyard_probe_roofline(const switchyard_threads* threads, size_t dram_bytes,
                                                           switchyard_roofline* roofline);

#ifdef __cplusplus
}
#endif

#endif
