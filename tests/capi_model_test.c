/* Models and tensor files through the C API. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "capi_check.h"

enum { kTokens = 33, kPathLength = 4096 };

static const void* data_of(const switchyard_tensor_file* file, int32_t layer, const char* what) {
  char name[64];
  switchyard_tensor tensor = {0};
  snprintf(name, sizeof name, "layer.%d.%s", (int)layer, what);
  CHECK_OK(switchyard_tensor_file_find(file, name, &tensor));
  CHECK(tensor.dims == 2 && tensor.shape[0] == kTokens);
  return tensor.data;
}

static void count_experts(void* context, int32_t done, int32_t of) {
  int32_t* last = context;
  CHECK(done == *last + 1 && done <= of);
  *last = done;
}

/* A layer against what the model's own code computed. */
static void check_layer(const switchyard_model* model, int32_t index, const switchyard_tensor_file* blocks) {
  switchyard_layer* layer = NULL;
  int32_t packed = 0;
  CHECK_OK(switchyard_model_layer(model, index, NULL, count_experts, &packed, &layer));
  if (layer == NULL) {
    return;
  }
  CHECK(packed == switchyard_layer_experts(layer));
  const int64_t hidden = switchyard_layer_hidden(layer);
  size_t bytes = 0;
  CHECK_OK(switchyard_layer_workspace_bytes(layer, kTokens, &bytes));
  size_t beforehand = 0;
  CHECK_OK(switchyard_model_workspace_bytes(model, index, NULL, kTokens, &beforehand));
  CHECK(beforehand == bytes);
  switchyard_layer* refused = NULL;
  CHECK_ERROR_START(switchyard_model_layer_cached(model, index, NULL, "/proc/none", NULL, NULL, &refused),
                    SWITCHYARD_IO, "cache: /proc/none");
  CHECK(refused == NULL);
  void* workspace = new_workspace(bytes);
  float* output = malloc(sizeof(float) * kTokens * (size_t)hidden);
  const switchyard_const_matrix x = {data_of(blocks, index, "input"), SWITCHYARD_DTYPE_F32, kTokens, hidden, 0};
  const switchyard_matrix y = {output, SWITCHYARD_DTYPE_F32, kTokens, hidden, 0};
  switchyard_forward_result result = {.struct_size = sizeof result};
  CHECK_OK(switchyard_layer_forward(layer, x, y, workspace, bytes, NULL, &result));
  const size_t slots = (size_t)(result.tokens * result.topk);
  CHECK(memcmp(result.expert, data_of(blocks, index, "expert"), sizeof(int32_t) * slots) == 0);
  const float* expected = data_of(blocks, index, "output");
  double largest = 0;
  double difference = 0;
  for (int64_t i = 0; i < kTokens * hidden; ++i) {
    largest = fmax(largest, fabs((double)expected[i]));
    difference = fmax(difference, fabs((double)expected[i] - output[i]));
  }
  CHECK(largest > 0 && difference < 1e-5 * largest);
  free(output);
  free(workspace);
  switchyard_layer_destroy(layer);
}

static void check_mixtral(const switchyard_model* model) {
  switchyard_model_info info = {.struct_size = sizeof info};
  CHECK_OK(switchyard_model_get_info(model, &info));
  CHECK(info.layers == 2 && info.moe_layers == 2 && info.experts == 8 && info.hidden == 64 && info.ffn == 16);
  CHECK(info.shared_ffn == 0 && info.shared_gate == 0 && info.weights == SWITCHYARD_DTYPE_F32);
  CHECK(info.codes == SWITCHYARD_CODES_PLAIN && strcmp(switchyard_model_quantization(model), "") == 0);
  CHECK(info.moe_bytes > 0 && info.moe_bytes < info.file_bytes);
  switchyard_router_options router = {.struct_size = sizeof router};
  CHECK_OK(switchyard_model_router(model, &router));
  CHECK(router.topk == 2 && router.score == SWITCHYARD_SCORE_SOFTMAX && router.normalize == 1);
  CHECK(strcmp(switchyard_model_type(model), "mixtral") == 0);
  CHECK(strlen(switchyard_model_family(model)) > 0 && strlen(switchyard_model_layout(model)) > 0);
  CHECK(switchyard_model_unsupported(model, 0) == NULL);
  size_t count = 0;
  const int32_t* layers = switchyard_model_moe_layers(model, &count);
  CHECK(count == 2 && layers[0] == 0 && layers[1] == 1);
}

static void check_qwen2_moe(const switchyard_model* model) {
  switchyard_model_info info = {.struct_size = sizeof info};
  CHECK_OK(switchyard_model_get_info(model, &info));
  CHECK(info.shared_ffn == 20 && info.shared_gate == 1);
  size_t count = 0;
  const int32_t* layers = switchyard_model_moe_layers(model, &count);
  CHECK(count == 2 && layers[0] == 1 && layers[1] == 2);
  switchyard_layer* layer = NULL;
  CHECK_ERROR(switchyard_model_layer(model, 0, NULL, NULL, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "model: layer 0 has no experts, expected one of [1,2]");
  CHECK(layer == NULL);
}

static void check_model(const char* golden, const char* name, void (*check_info)(const switchyard_model*)) {
  char path[kPathLength];
  switchyard_model* model = NULL;
  switchyard_tensor_file* blocks = NULL;
  snprintf(path, sizeof path, "%s/%s", golden, name);
  CHECK_OK(switchyard_model_open(path, &model));
  snprintf(path, sizeof path, "%s/%s/moe_blocks.safetensors", golden, name);
  CHECK_OK(switchyard_tensor_file_open(path, &blocks));
  if (model != NULL && blocks != NULL) {
    check_info(model);
    size_t count = 0;
    const int32_t* layers = switchyard_model_moe_layers(model, &count);
    for (size_t i = 0; i < count; ++i) {
      check_layer(model, layers[i], blocks);
    }
  }
  switchyard_tensor_file_destroy(blocks);
  switchyard_model_destroy(model);
}

static void check_kimi(const switchyard_model* model) {
  switchyard_model_info info = {.struct_size = sizeof info};
  CHECK_OK(switchyard_model_get_info(model, &info));
  CHECK(strcmp(switchyard_model_quantization(model), "compressed-tensors") == 0);
  CHECK(info.weights == SWITCHYARD_DTYPE_I32 && info.codes == SWITCHYARD_CODES_U4);
  CHECK(info.scales == SWITCHYARD_DTYPE_BF16 && info.out_block == 1 && info.in_block == 32);
}

static switchyard_model_info info_of(const char* golden, const char* name, size_t* table_layers, int* left_outside) {
  char path[kPathLength];
  switchyard_model* model = NULL;
  switchyard_model_info info = {.struct_size = sizeof info};
  snprintf(path, sizeof path, "%s/%s", golden, name);
  CHECK_OK(switchyard_model_open(path, &model));
  CHECK_OK(switchyard_model_get_info(model, &info));
  const int32_t* layers = switchyard_model_table_layers(model, table_layers);
  CHECK((layers == NULL) == (*table_layers == 0));
  *left_outside = strlen(switchyard_model_outside(model)) > 0;
  switchyard_model_destroy(model);
  return info;
}

static void check_infos(const char* golden) {
  size_t tables = 0;
  int outside = 0;
  switchyard_model_info info = info_of(golden, "mixtral", &tables, &outside);
  CHECK(info.function.activation == SWITCHYARD_ACTIVATION_SILU && info.function.ungated == 0 && info.latent == 0);
  CHECK(info.shared_scale == 1 && info.identity_experts == 0 && info.weight_site == SWITCHYARD_WEIGHT_SITE_OUTPUT &&
        info.output_bias == 0);
  CHECK(info.selection_bias == 0 && info.logit_bias == 0 && tables == 0 && !outside);
  CHECK(info.narrow_router == 1 && info.shared_ffn == 0);
  info = info_of(golden, "nemotron_h_latent", &tables, &outside);
  CHECK(info.function.activation == SWITCHYARD_ACTIVATION_RELU_SQUARED && info.function.ungated == 1);
  CHECK(info.latent > 0 && info.selection_bias == 1 && info.narrow_router == 0);
  info = info_of(golden, "gpt_oss", &tables, &outside);
  CHECK(info.function.activation == SWITCHYARD_ACTIVATION_SWIGLU_OAI && info.function.limit > 0 &&
        info.logit_bias == 1);
  CHECK(info_of(golden, "cohere2_moe", &tables, &outside).shared_scale == 0.5F);
  CHECK(info_of(golden, "llama4", &tables, &outside).weight_site == SWITCHYARD_WEIGHT_SITE_INPUT);
  CHECK(info_of(golden, "jetmoe", &tables, &outside).output_bias == 1);
  CHECK(info_of(golden, "longcat_flash", &tables, &outside).identity_experts > 0 && tables == 0);
  CHECK(info_of(golden, "deepseek_v4", &tables, &outside).shared_function.limit > 0 && tables > 0 && !outside);
  info = info_of(golden, "axk1", &tables, &outside);
  CHECK(info.shared_ffn > 0 && info.shared_weights == info.weights && outside);
}

void test_model(const char* golden) {
  check_model(golden, "mixtral", check_mixtral);
  check_model(golden, "qwen2_moe", check_qwen2_moe);
  check_model(golden, "kimi_k25_int4", check_kimi);
  check_infos(golden);

  int mixtral = 0;
  size_t types = 0;
  for (const char* type; (type = switchyard_known_model_type(types)) != NULL; ++types) {
    mixtral += strcmp(type, "mixtral") == 0;
    CHECK(types == 0 || strcmp(switchyard_known_model_type(types - 1), type) < 0);
  }
  CHECK(mixtral == 1 && types > 1);
}

void test_model_errors(const char* golden) {
  char path[kPathLength];
  char message[kPathLength + 128];
  switchyard_model* model = (switchyard_model*)(void*)path;
  snprintf(path, sizeof path, "%s/no_such_model", golden);
  snprintf(message, sizeof message, "model: %s: ", path);
  CHECK_ERROR_START(switchyard_model_open(path, &model), SWITCHYARD_IO, message);
  CHECK(model == NULL);
  CHECK_ERROR(switchyard_model_open(NULL, &model), SWITCHYARD_INVALID_ARGUMENT,
              "model_open: folder is NULL, expected an address");
  CHECK_ERROR(switchyard_model_open(path, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "model_open: model is NULL, expected an address");

  switchyard_model_info info = {.struct_size = sizeof info};
  switchyard_router_options router = {.struct_size = sizeof router};
  switchyard_layer* layer = NULL;
  size_t count = 1;
  CHECK_ERROR(switchyard_model_get_info(NULL, &info), SWITCHYARD_INVALID_ARGUMENT,
              "model_get_info: model is NULL, expected an address");
  CHECK_ERROR(switchyard_model_router(NULL, &router), SWITCHYARD_INVALID_ARGUMENT,
              "model_router: model is NULL, expected an address");
  CHECK_ERROR(switchyard_model_layer(NULL, 0, NULL, NULL, NULL, &layer), SWITCHYARD_INVALID_ARGUMENT,
              "model_layer: model is NULL, expected an address");
  CHECK(switchyard_model_type(NULL) == NULL && switchyard_model_family(NULL) == NULL);
  CHECK(switchyard_model_layout(NULL) == NULL && switchyard_model_unsupported(NULL, 0) == NULL);
  CHECK(switchyard_model_moe_layers(NULL, &count) == NULL && count == 0);
  CHECK(switchyard_model_table_layers(NULL, &count) == NULL && switchyard_model_outside(NULL) == NULL);
  switchyard_model_destroy(NULL);
}

static void check_read_back(const char* path, const switchyard_tensor* written, size_t count) {
  switchyard_tensor_file* file = NULL;
  CHECK_OK(switchyard_tensor_file_open(path, &file));
  if (file == NULL) {
    return;
  }
  CHECK(switchyard_tensor_file_count(file) == count);
  switchyard_tensor tensor = {0};
  for (size_t i = 0; i < count; ++i) {
    CHECK_OK(switchyard_tensor_file_get(file, i, &tensor));
    CHECK(strcmp(tensor.name, written[i].name) == 0 && tensor.dtype == written[i].dtype);
    CHECK(tensor.dims == written[i].dims && tensor.bytes == written[i].bytes);
    for (int32_t d = 0; d < tensor.dims; ++d) {
      CHECK(tensor.shape[d] == written[i].shape[d]);
    }
    switchyard_tensor_file_release(file, tensor.data, tensor.bytes);
    CHECK(memcmp(tensor.data, written[i].data, tensor.bytes) == 0);
  }
  CHECK_ERROR(switchyard_tensor_file_get(file, count, &tensor), SWITCHYARD_INVALID_ARGUMENT,
              "tensor_file_get: found index 2, expected less than 2, the number of tensors");
  char message[kPathLength + 128];
  snprintf(message, sizeof message, "safetensors: %s: has no tensor ", path);
  CHECK_ERROR_START(switchyard_tensor_file_find(file, "third", &tensor), SWITCHYARD_BAD_DATA, message);
  CHECK_ERROR(switchyard_tensor_file_find(file, NULL, &tensor), SWITCHYARD_INVALID_ARGUMENT,
              "tensor_file_find: name is NULL, expected an address");
  CHECK_ERROR(switchyard_tensor_file_get(file, 0, NULL), SWITCHYARD_INVALID_ARGUMENT,
              "tensor_file_get: tensor is NULL, expected an address");
  switchyard_tensor_file_destroy(file);
}

static void check_open_errors(const char* folder, const char* damaged) {
  char path[kPathLength];
  switchyard_tensor_file* file = NULL;
  snprintf(path, sizeof path, "%s/capi_test_missing.safetensors", folder);
  CHECK_ERROR_START(switchyard_tensor_file_open(path, &file), SWITCHYARD_IO, "safetensors: ");
  FILE* stream = fopen(damaged, "wb");
  CHECK(stream != NULL && fwrite("short", 1, 5, stream) == 5);
  CHECK(stream != NULL && fclose(stream) == 0);
  CHECK_ERROR_START(switchyard_tensor_file_open(damaged, &file), SWITCHYARD_BAD_DATA, "safetensors: ");
  CHECK(file == NULL);
  CHECK_ERROR(switchyard_tensor_file_open(NULL, &file), SWITCHYARD_INVALID_ARGUMENT,
              "tensor_file_open: path is NULL, expected an address");
  CHECK(switchyard_tensor_file_count(NULL) == 0);
  switchyard_tensor_file_release(NULL, NULL, 0);
  switchyard_tensor_file_destroy(NULL);
}

void test_tensor_file(const char* folder) {
  char path[kPathLength];
  snprintf(path, sizeof path, "%s/capi_test.safetensors", folder);
  const float first[2][3] = {{1, 2, 3}, {4, 5, 6}};
  const int64_t shape[] = {2, 3};
  const int32_t second = 7;
  switchyard_tensor tensors[] = {{"first", SWITCHYARD_DTYPE_F32, 2, shape, first, sizeof first},
                                 {"second", SWITCHYARD_DTYPE_I32, 0, NULL, &second, sizeof second}};
  CHECK_OK(switchyard_write_safetensors(path, tensors, 2));
  check_read_back(path, tensors, 2);

  CHECK_ERROR(switchyard_write_safetensors(NULL, tensors, 2), SWITCHYARD_INVALID_ARGUMENT,
              "write_safetensors: path is NULL, expected an address");
  CHECK_ERROR(switchyard_write_safetensors(path, NULL, 2), SWITCHYARD_INVALID_ARGUMENT,
              "write_safetensors: tensors is NULL, expected an address");
  tensors[1].dims = -1;
  CHECK_ERROR(switchyard_write_safetensors(path, tensors, 2), SWITCHYARD_INVALID_ARGUMENT,
              "write_safetensors: tensor second has -1 dims, expected 0 or more");
  tensors[1].dims = 0;
  tensors[1].name = "first";
  CHECK_ERROR_START(switchyard_write_safetensors(path, tensors, 2), SWITCHYARD_INVALID_ARGUMENT,
                    "write_safetensors: tensor ");
  tensors[1].dtype = 16;
  CHECK_ERROR(switchyard_write_safetensors(path, tensors, 2), SWITCHYARD_INVALID_ARGUMENT,
              "write_safetensors: a tensor has dtype 16, expected 0..15");
  check_open_errors(folder, path);
  CHECK(remove(path) == 0);
}
