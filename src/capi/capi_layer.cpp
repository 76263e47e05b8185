// Plan, layer and probe of the C API.
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "capi/capi.hpp"
#include "switchyard/plan.hpp"
#include "switchyard/probe.hpp"
#include "switchyard/workspace.hpp"

struct switchyard_layer {
  switchyard::Layer layer;
  switchyard_threads threads;  // what the layer was made with, for switchyard_layer_get_options
};

namespace switchyard::capi {
namespace {

static_assert(same(Format::f32, SWITCHYARD_FORMAT_F32) && same(Format::bf16, SWITCHYARD_FORMAT_BF16) &&
              same(Format::i8, SWITCHYARD_FORMAT_I8) && same(Format::i4, SWITCHYARD_FORMAT_I4) &&
              same(Format::f8_e4m3, SWITCHYARD_FORMAT_F8_E4M3) && same(Format::mxfp4, SWITCHYARD_FORMAT_MXFP4) &&
              same(Format::mxfp8, SWITCHYARD_FORMAT_MXFP8) && same(Format::nvfp4, SWITCHYARD_FORMAT_NVFP4));
static_assert(same(Activation::silu, SWITCHYARD_ACTIVATION_SILU) &&
              same(Activation::gelu, SWITCHYARD_ACTIVATION_GELU) &&
              same(Activation::gelu_tanh, SWITCHYARD_ACTIVATION_GELU_TANH) &&
              same(Activation::relu, SWITCHYARD_ACTIVATION_RELU) &&
              same(Activation::relu_squared, SWITCHYARD_ACTIVATION_RELU_SQUARED) &&
              same(Activation::silu_clamped, SWITCHYARD_ACTIVATION_SILU_CLAMPED) &&
              same(Activation::silu_limited, SWITCHYARD_ACTIVATION_SILU_LIMITED) &&
              same(Activation::swiglu_oai, SWITCHYARD_ACTIVATION_SWIGLU_OAI) &&
              same(Activation::softcapped, SWITCHYARD_ACTIVATION_SOFTCAPPED));
static_assert(same(Device::cpu, SWITCHYARD_DEVICE_CPU) && same(Device::cuda, SWITCHYARD_DEVICE_CUDA));
static_assert(same(Path::grouped, SWITCHYARD_PATH_GROUPED) && same(Path::small_batch, SWITCHYARD_PATH_SMALL_BATCH));
static_assert(same(WeightSite::output, SWITCHYARD_WEIGHT_SITE_OUTPUT) &&
              same(WeightSite::input, SWITCHYARD_WEIGHT_SITE_INPUT) &&
              same(WeightSite::between, SWITCHYARD_WEIGHT_SITE_BETWEEN));
static_assert(kWorkspaceAlignment == SWITCHYARD_WORKSPACE_ALIGNMENT);

// The first version of the structs that may grow: 64-bit, nothing unused at the end that a new field could fall into.
static_assert(sizeof(switchyard_threads) == 24 && sizeof(switchyard_plan) == 56 &&
              sizeof(switchyard_layer_weights) == 520 && sizeof(switchyard_layer_options) == 32 &&
              sizeof(switchyard_forward_result) == 40 && sizeof(switchyard_model_info) == 160 &&
              sizeof(switchyard_roofline) == 56);

ExpertTensors to_tensors(const switchyard_expert_tensors& tensors, std::int64_t hidden, std::int64_t ffn) {
  return {
      to_view(tensors.gate, hidden, "layer_create: gate"),  to_view(tensors.up, hidden, "layer_create: up"),
      to_view(tensors.down, ffn, "layer_create: down"),     to_view(tensors.gate_bias, 1, "layer_create: gate_bias"),
      to_view(tensors.up_bias, 1, "layer_create: up_bias"), to_view(tensors.down_bias, 1, "layer_create: down_bias")};
}

ExpertFunction to_function(const switchyard_expert_function& from) {
  return {static_cast<Activation>(from.activation), from.ungated == 0, from.limit, from.alpha};
}

// A status of the caller's function becomes the status of the call.
void check_expert_status(switchyard_status status, std::int32_t expert) {
  if (status == SWITCHYARD_OK) {
    return;
  }
  const bool known = status > SWITCHYARD_OK && status <= SWITCHYARD_OUT_OF_MEMORY;
  fail(known ? static_cast<Code>(status) : Code::invalid_argument,
       "layer_create: the expert function returned {} ({}) for expert {}, expected ok (0)", status,
       switchyard_status_name(status), expert);
}

LayerWeights to_weights(const switchyard_layer_weights& from) {
  LayerWeights weights;
  weights.experts = from.experts;
  weights.hidden = from.hidden;
  weights.ffn = from.ffn;
  weights.function = to_function(from.function);
  weights.router = to_view(from.router, from.hidden, "layer_create: router");
  weights.shared_ffn = from.shared_ffn;
  weights.shared = to_tensors(from.shared, from.hidden, from.shared_ffn);
  weights.shared_function = to_function(from.shared_function);
  weights.shared_gate = to_view(from.shared_gate, from.hidden, "layer_create: shared_gate");
  weights.shared_scale = from.shared_scale == 0.0F ? 1.0F : from.shared_scale;
  weights.identity_experts = from.identity_experts;
  weights.weight_site = static_cast<WeightSite>(from.weight_site);
  weights.narrow_router = from.narrow_router != 0;
  weights.output_bias = to_view(from.output_bias, 1, "layer_create: output_bias");
  weights.latent = from.latent;
  weights.latent_in = to_view(from.latent_in, from.hidden, "layer_create: latent_in");
  weights.latent_out = to_view(from.latent_out, from.latent, "layer_create: latent_out");
  weights.latent_in_bias = to_view(from.latent_in_bias, 1, "layer_create: latent_in_bias");
  weights.latent_out_bias = to_view(from.latent_out_bias, 1, "layer_create: latent_out_bias");
  weights.expert = [function = &given(from.expert, "layer_create: weights.expert"), &from](std::int32_t expert) {
    switchyard_expert_tensors tensors{};
    check_expert_status(function(from.expert_context, expert, &tensors), expert);
    return to_tensors(tensors, from.latent == 0 ? from.hidden : from.latent, from.ffn);
  };
  return weights;
}

std::optional<DType> to_router_type(switchyard_router_type type) {
  switch (type) {
    case SWITCHYARD_ROUTER_AS_WEIGHTS:
      return std::nullopt;
    case SWITCHYARD_ROUTER_F32:
      return DType::f32;
    case SWITCHYARD_ROUTER_BF16:
      return DType::bf16;
    default:
      fail(Code::invalid_argument, "layer: found options.router {}, expected as_weights (0), f32 (1) or bf16 (2)",
           type);
  }
}

switchyard_forward_result from_result(const ForwardResult& from) {
  switchyard_forward_result result{};
  result.path = static_cast<switchyard_path>(from.path);
  result.tokens = from.routing.tokens;
  result.topk = from.routing.topk;
  result.expert = from.routing.expert;
  result.weight = from.routing.weight;
  return result;
}

// `run` makes the ForwardResult.
template <class Run>
switchyard_status forward(switchyard_forward_result* result, Run&& run) {
  return guard([&] {
    if (result == nullptr) {
      run();
    } else {
      check_result(result, "layer_forward: result");
      write_result(result, from_result(run()));
    }
  });
}

}  // namespace

LayerOptions to_layer_options(const switchyard_layer_options& from) {
  if (from.device != SWITCHYARD_DEVICE_CPU && from.device != SWITCHYARD_DEVICE_CUDA) {
    fail(Code::invalid_argument, "layer: found device {}, expected cpu (0) or cuda (1)", from.device);
  }
  check_reserved(from.reserved, "layer: options.reserved");
  LayerOptions options;
  options.format = static_cast<Format>(from.format);
  options.activations = to_dtype(from.activations, "layer: options.activations");
  options.device = static_cast<Device>(from.device);
  options.router = to_router_type(from.router);
  options.threads = to_threads(from.threads);
  return options;
}

switchyard_layer* new_layer(Layer layer, const switchyard_layer_options& options) {
  switchyard_threads threads = read_optional(options.threads, "threads: the struct");
  threads.struct_size = sizeof threads;
  threads.count = layer.options().threads.count();
  return new switchyard_layer{std::move(layer), threads};
}

}  // namespace switchyard::capi

using namespace switchyard;
using namespace switchyard::capi;

switchyard_status switchyard_plan_bytes(int64_t tokens, int32_t topk, int32_t experts,
                                        const switchyard_threads* threads, size_t* bytes) {
  return guard([&] {
    std::size_t& result = given(bytes, "plan_bytes: bytes");
    result = plan_bytes(tokens, topk, experts, to_threads(threads));
  });
}

switchyard_status switchyard_make_plan(const int32_t* expert, int64_t tokens, int32_t topk, int32_t experts,
                                       void* workspace, size_t workspace_bytes, const switchyard_threads* threads,
                                       switchyard_plan* plan) {
  return guard([&] {
    check_result(plan, "make_plan: plan");
    if (tokens > 0) {
      given(expert, "make_plan: expert");
    }
    const Plan made =
        make_plan(expert, tokens, topk, experts, Workspace(workspace, workspace_bytes), to_threads(threads));
    switchyard_plan result{};
    result.topk = made.topk;
    result.tokens = made.tokens;
    result.experts = made.experts;
    result.rows = made.rows;
    result.offset = made.offset;
    result.row_to_token = made.row_to_token;
    result.slot_to_row = made.slot_to_row;
    write_result(plan, result);
  });
}

const char* switchyard_format_name(switchyard_format format) { return format_name(static_cast<Format>(format)); }

const char* switchyard_path_name(switchyard_path path) {
  const bool known = path == SWITCHYARD_PATH_GROUPED || path == SWITCHYARD_PATH_SMALL_BATCH;
  return known ? path_name(static_cast<Path>(path)) : "unknown";
}

switchyard_status switchyard_layer_create(const switchyard_layer_weights* weights,
                                          const switchyard_router_options* router,
                                          const switchyard_layer_options* options, switchyard_layer** layer) {
  return guard([&] {
    given(layer, "layer_create: layer") = nullptr;
    const switchyard_layer_weights from = read_struct(weights, "layer_create: weights");
    const switchyard_layer_options read = read_optional(options, "layer_create: options");
    *layer = new_layer(Layer(to_weights(from), to_router(router), to_layer_options(read)), read);
  });
}

void switchyard_layer_destroy(switchyard_layer* layer) { delete layer; }

int32_t switchyard_layer_experts(const switchyard_layer* layer) { return layer ? layer->layer.experts() : 0; }
int64_t switchyard_layer_hidden(const switchyard_layer* layer) { return layer ? layer->layer.hidden() : 0; }
int64_t switchyard_layer_ffn(const switchyard_layer* layer) { return layer ? layer->layer.ffn() : 0; }
size_t switchyard_layer_weight_bytes(const switchyard_layer* layer) { return layer ? layer->layer.weight_bytes() : 0; }

switchyard_status switchyard_layer_router(const switchyard_layer* layer, switchyard_router_options* options) {
  return guard([&] {
    check_result(options, "layer_router: options");
    write_result(options, from_router(given(layer, "layer_router: layer").layer.router()));
  });
}

switchyard_status switchyard_layer_get_options(const switchyard_layer* layer, switchyard_layer_options* options) {
  return guard([&] {
    check_result(options, "layer_get_options: options");
    const LayerOptions& from = given(layer, "layer_get_options: layer").layer.options();
    switchyard_layer_options result{};
    result.format = static_cast<switchyard_format>(from.format);
    result.activations = static_cast<switchyard_dtype>(from.activations);
    result.device = static_cast<switchyard_device>(from.device);
    result.router = from.router == DType::bf16 ? SWITCHYARD_ROUTER_BF16 : SWITCHYARD_ROUTER_F32;
    result.threads = &layer->threads;
    write_result(options, result);
  });
}

switchyard_status switchyard_layer_workspace_bytes(const switchyard_layer* layer, int64_t max_tokens, size_t* bytes) {
  return guard([&] {
    std::size_t& result = given(bytes, "layer_workspace_bytes: bytes");
    result = given(layer, "layer_workspace_bytes: layer").layer.workspace_bytes(max_tokens);
  });
}

switchyard_status switchyard_layer_workspace_bytes_routed(const switchyard_layer* layer, int64_t max_tokens,
                                                          int32_t topk, size_t* bytes) {
  return guard([&] {
    std::size_t& result = given(bytes, "layer_workspace_bytes_routed: bytes");
    result = given(layer, "layer_workspace_bytes_routed: layer").layer.workspace_bytes(max_tokens, topk);
  });
}

switchyard_status switchyard_layer_forward(const switchyard_layer* layer, switchyard_const_matrix x,
                                           switchyard_matrix y, void* workspace, size_t workspace_bytes,
                                           const switchyard_route_inputs* inputs, switchyard_forward_result* result) {
  return forward(result, [&] {
    const Layer& made = given(layer, "layer_forward: layer").layer;
    return made.forward(to_matrix(x, "layer_forward: x"), to_matrix(y, "layer_forward: y"),
                        Workspace(workspace, workspace_bytes), to_inputs(inputs));
  });
}

switchyard_status switchyard_layer_forward_routed(const switchyard_layer* layer, switchyard_const_matrix x,
                                                  const int32_t* expert, const float* weight, int32_t topk,
                                                  switchyard_matrix y, void* workspace, size_t workspace_bytes,
                                                  switchyard_forward_result* result) {
  return forward(result, [&] {
    const Layer& made = given(layer, "layer_forward_routed: layer").layer;
    // A forward reads a given routing only.
    const Routing routing{x.rows, topk, const_cast<std::int32_t*>(expert), const_cast<float*>(weight)};
    return made.forward(to_matrix(x, "layer_forward_routed: x"), routing, to_matrix(y, "layer_forward_routed: y"),
                        Workspace(workspace, workspace_bytes));
  });
}

switchyard_status switchyard_layer_router_logits(const switchyard_layer* layer, switchyard_const_matrix x,
                                                 switchyard_matrix logits, void* workspace, size_t workspace_bytes) {
  return guard([&] {
    const Layer& made = given(layer, "layer_router_logits: layer").layer;
    made.router_logits(to_matrix(x, "layer_router_logits: x"), to_matrix(logits, "layer_router_logits: logits"),
                       Workspace(workspace, workspace_bytes));
  });
}

switchyard_status switchyard_probe_roofline(const switchyard_threads* threads, size_t dram_bytes,
                                            switchyard_roofline* roofline) {
  return guard([&] {
    check_result(roofline, "probe_roofline: roofline");
    const Threads on = to_threads(threads);
    const Roofline found = probe_roofline(on, dram_bytes == 0 ? kProbeBytes : dram_bytes);
    switchyard_roofline result{};
    result.isa = static_cast<switchyard_isa>(found.isa);
    result.threads = found.threads;
    result.fma_gflops = found.fma_gflops;
    result.bf16_gflops = found.bf16_gflops;
    result.vnni_gops = found.vnni_gops;
    result.dram_gbps = found.dram_gbps;
    result.cache_gbps = found.cache_gbps;
    write_result(roofline, result);
  });
}
