// Routing and balance of the C API.
#include <cstdint>
#include <span>

#include "capi/capi.hpp"
#include "switchyard/balance.hpp"
#include "switchyard/route.hpp"
#include "switchyard/workspace.hpp"

namespace switchyard::capi {
namespace {

static_assert(same(Score::softmax, SWITCHYARD_SCORE_SOFTMAX) && same(Score::sigmoid, SWITCHYARD_SCORE_SIGMOID) &&
              same(Score::sqrt_softplus, SWITCHYARD_SCORE_SQRT_SOFTPLUS) &&
              same(Score::logit, SWITCHYARD_SCORE_LOGIT) && same(Score::sparsemixer, SWITCHYARD_SCORE_SPARSEMIXER));
static_assert(same(ChosenScore::none, SWITCHYARD_CHOSEN_SCORE_NONE) &&
              same(ChosenScore::softmax, SWITCHYARD_CHOSEN_SCORE_SOFTMAX) &&
              same(ChosenScore::sigmoid, SWITCHYARD_CHOSEN_SCORE_SIGMOID));
static_assert(same(Normalize::none, SWITCHYARD_NORMALIZE_NONE) && same(Normalize::sum, SWITCHYARD_NORMALIZE_SUM) &&
              same(Normalize::clamped_sum, SWITCHYARD_NORMALIZE_CLAMPED_SUM) &&
              same(Normalize::power_norm, SWITCHYARD_NORMALIZE_POWER_NORM));
static_assert(same(Order::score, SWITCHYARD_ORDER_SCORE) && same(Order::expert, SWITCHYARD_ORDER_EXPERT) &&
              same(Order::any, SWITCHYARD_ORDER_ANY));
static_assert(kMaxTopk == SWITCHYARD_MAX_TOPK && kMaxExperts == SWITCHYARD_MAX_EXPERTS &&
              kMaxGroups == SWITCHYARD_MAX_GROUPS && kMaxTokens == SWITCHYARD_MAX_TOKENS);

// The first version of the structs that may grow: 64-bit, nothing unused at the end that a new field could fall into.
static_assert(sizeof(switchyard_router_options) == 128 && sizeof(switchyard_route_inputs) == 72 &&
              sizeof(switchyard_route_outputs) == 144 && sizeof(switchyard_route_gradients) == 72 &&
              sizeof(switchyard_balance_terms) == 56 && sizeof(switchyard_load) == 32);

// What 0 stands for in a struct of C.
constexpr float kDefaultJitter = RouterOptions().jitter;

float or_one(float value) { return value == 0.0F ? 1.0F : value; }

ConstArray to_array(const switchyard_const_array& array, const char* what) {
  return {array.data, to_dtype(array.dtype, what)};
}

Array to_array(const switchyard_array& array, const char* what) { return {array.data, to_dtype(array.dtype, what)}; }

switchyard_const_array from_array(const ConstArray& array) {
  return {array.data, static_cast<switchyard_dtype>(array.dtype)};
}

RouteOutputs to_outputs(const switchyard_route_outputs* outputs) {
  const switchyard_route_outputs from = read_struct(outputs, "route: outputs");
  RouteOutputs result;
  result.expert = to_array(from.expert, "route: outputs.expert");
  result.weight = to_array(from.weight, "route: outputs.weight");
  result.probability = to_array(from.probability, "route: outputs.probability");
  result.byte_map = from.byte_map;
  result.bit_map = from.bit_map;
  result.chosen_logit = from.chosen_logit;
  result.aux_score = from.aux_score;
  result.count = from.count;
  result.score_sum = from.score_sum;
  result.z_sum = from.z_sum;
  result.valid_count = from.valid_count;
  result.cutoff = from.cutoff;
  result.histogram = from.histogram;
  result.bins = from.bins;
  result.qb_lower = from.qb_lower;
  result.qb_upper = from.qb_upper;
  return result;
}

RouteGradients to_gradients(const switchyard_route_gradients* gradients) {
  const switchyard_route_gradients from = read_struct(gradients, "route_backward: gradients");
  RouteGradients result;
  result.expert = to_array(from.expert, "route_backward: gradients.expert");
  result.weight = to_array(from.weight, "route_backward: gradients.weight");
  result.probability = to_array(from.probability, "route_backward: gradients.probability");
  result.chosen_logit = from.chosen_logit;
  result.aux = from.aux;
  result.z = from.z;
  return result;
}

// The number as a size, once it is one that experts can have.
std::size_t check_experts(std::int64_t experts, const char* step) {
  if (experts < 1 || experts > kMaxExperts) {
    fail(Code::invalid_argument, "{}: found {} experts, expected 1..{}", step, experts, kMaxExperts);
  }
  return static_cast<std::size_t>(experts);
}

}  // namespace

RouterOptions to_router(const switchyard_router_options* options) {
  if (options == nullptr) {
    return {};
  }
  const switchyard_router_options from = read_struct(options, "router: options");
  check_reserved(from.reserved, "router: options.reserved");
  RouterOptions result;
  result.topk = from.topk;
  result.score = static_cast<Score>(from.score);
  result.normalize = static_cast<Normalize>(from.normalize);
  result.epsilon = from.epsilon;
  result.scale = or_one(from.scale);
  result.groups = from.groups;
  result.kept_groups = from.kept_groups;
  result.group_best = from.group_best == 0 ? 1 : from.group_best;
  result.masked_zero = from.masked_zero != 0;
  result.selection_bias = to_array(from.selection_bias, "router: options.selection_bias");
  result.chosen = static_cast<ChosenScore>(from.chosen);
  result.power = or_one(from.power);
  result.expert_scale = from.expert_scale;
  result.logit_scale = or_one(from.logit_scale);
  result.logit_bias = from.logit_bias;
  result.softcap = from.softcap;
  result.round_logits = from.round_logits != 0;
  result.jitter = from.jitter == 0.0F ? kDefaultJitter : from.jitter < 0.0F ? 0.0F : from.jitter;
  result.order = static_cast<Order>(from.order);
  result.table = to_array(from.table, "router: options.table");
  result.table_rows = from.table_rows;
  return result;
}

switchyard_router_options from_router(const RouterOptions& options) {
  switchyard_router_options result{};
  result.topk = options.topk;
  result.score = static_cast<switchyard_score>(options.score);
  result.normalize = static_cast<switchyard_normalize>(options.normalize);
  result.epsilon = options.epsilon;
  result.scale = options.scale;
  result.groups = options.groups;
  result.kept_groups = options.kept_groups;
  result.group_best = options.group_best;
  result.masked_zero = options.masked_zero ? 1 : 0;
  result.selection_bias = from_array(options.selection_bias);
  result.chosen = static_cast<switchyard_chosen_score>(options.chosen);
  result.power = options.power;
  result.expert_scale = options.expert_scale;
  result.logit_scale = options.logit_scale;
  result.softcap = options.softcap;
  result.round_logits = options.round_logits ? 1 : 0;
  result.logit_bias = options.logit_bias;
  result.jitter = options.jitter == 0.0F ? -1.0F : options.jitter;
  result.order = static_cast<switchyard_order>(options.order);
  result.table = from_array(options.table);
  result.table_rows = options.table_rows;
  return result;
}

RouteInputs to_inputs(const switchyard_route_inputs* inputs) {
  const switchyard_route_inputs from = read_optional(inputs, "route: inputs");
  check_reserved(from.reserved, "route: inputs.reserved");
  RouteInputs result;
  result.valid = from.valid;
  result.forced = to_array(from.forced, "route: inputs.forced");
  result.replayed = from.replayed;
  result.token_id = to_array(from.token_id, "route: inputs.token_id");
  result.sequence_begin = from.sequence_begin;
  result.sequences = from.sequences == 0 ? 1 : from.sequences;
  return result;
}

}  // namespace switchyard::capi

using namespace switchyard;
using namespace switchyard::capi;

const char* switchyard_score_name(switchyard_score score) { return score_name(static_cast<Score>(score)); }

switchyard_status switchyard_route_workspace_bytes(int64_t max_tokens, int32_t experts, int64_t sequences,
                                                   const switchyard_threads* threads, size_t* bytes) {
  return guard([&] {
    std::size_t& result = given(bytes, "route_workspace_bytes: bytes");
    result = route_workspace_bytes(max_tokens, experts, sequences == 0 ? 1 : sequences, to_threads(threads));
  });
}

switchyard_status switchyard_route(switchyard_const_matrix logits, const switchyard_router_options* options,
                                   const switchyard_route_inputs* inputs, const switchyard_route_outputs* outputs,
                                   void* workspace, size_t workspace_bytes, const switchyard_threads* threads) {
  return guard([&] {
    const RouterOptions router = to_router(&given(options, "route: options"));
    route(to_matrix(logits, "route: logits"), router, to_inputs(inputs), to_outputs(outputs),
          Workspace(workspace, workspace_bytes), to_threads(threads));
  });
}

switchyard_status switchyard_route_gradient_is_sparse(const switchyard_router_options* options, int32_t* sparse) {
  return guard([&] {
    std::int32_t& result = given(sparse, "route_gradient_is_sparse: sparse");
    const RouterOptions router = to_router(&given(options, "route_gradient_is_sparse: options"));
    result = route_gradient_is_sparse(router) ? 1 : 0;
  });
}

switchyard_status switchyard_route_backward(switchyard_const_matrix logits, const switchyard_router_options* options,
                                            const switchyard_route_inputs* inputs,
                                            const switchyard_route_gradients* gradients, switchyard_matrix dlogits,
                                            void* workspace, size_t workspace_bytes,
                                            const switchyard_threads* threads) {
  return guard([&] {
    const RouterOptions router = to_router(&given(options, "route_backward: options"));
    route_backward(to_matrix(logits, "route_backward: logits"), router, to_inputs(inputs), to_gradients(gradients),
                   to_matrix(dlogits, "route_backward: dlogits"), Workspace(workspace, workspace_bytes),
                   to_threads(threads));
  });
}

switchyard_status switchyard_router_backward(switchyard_const_matrix x, switchyard_weight_view weight,
                                             switchyard_const_matrix dlogits, switchyard_matrix dx,
                                             switchyard_matrix dweight, float* dbias,
                                             const switchyard_threads* threads) {
  return guard([&] {
    router_backward(to_matrix(x, "router_backward: x"), to_view(weight, dx.cols, "router_backward: weight"),
                    to_matrix(dlogits, "router_backward: dlogits"), to_matrix(dx, "router_backward: dx"),
                    to_matrix(dweight, "router_backward: dweight"), dbias, to_threads(threads));
  });
}

switchyard_status switchyard_balance_loss(const switchyard_balance_terms* terms, float* gradient, int32_t add,
                                          double* value) {
  return guard([&] {
    double& result = given(value, "balance_loss: value");
    const switchyard_balance_terms from = read_struct(terms, "balance_loss: terms");
    const std::size_t experts = check_experts(from.experts, "balance_loss");
    BalanceLoss loss;
    loss.count = {&given(from.count, "balance_loss: terms.count"), experts};
    loss.count_tokens = from.count_tokens;
    loss.score_sum = {&given(from.score_sum, "balance_loss: terms.score_sum"), experts};
    loss.score_tokens = from.score_tokens;
    loss.topk = from.topk;
    loss.coefficient = from.coefficient;
    result = balance_loss(loss, gradient == nullptr ? std::span<float>() : std::span(gradient, experts), add != 0);
  });
}

double switchyard_z_loss(double z_sum, int64_t tokens, double coefficient, float* gradient) {
  const ZLoss loss = z_loss(z_sum, tokens, coefficient);
  if (gradient != nullptr) {
    *gradient = loss.gradient;
  }
  return loss.value;
}

switchyard_status switchyard_update_bias(float* bias, const int64_t* count, int32_t experts, float rate,
                                         int32_t centered) {
  return guard([&] {
    const std::size_t size = check_experts(experts, "update_bias");
    update_bias({&given(bias, "update_bias: bias"), size}, {&given(count, "update_bias: count"), size}, rate,
                centered != 0);
  });
}

switchyard_status switchyard_update_bias_by_quantile(float* bias, const int32_t* histogram, int32_t experts,
                                                     int32_t bins, int32_t topk, switchyard_quantile_bounds* bounds) {
  return guard([&] {
    const std::size_t size = check_experts(experts, "update_bias_by_quantile");
    if (bins < 1) {
      fail(Code::invalid_argument, "update_bias_by_quantile: found {} bins, expected 1 or more", bins);
    }
    switchyard_quantile_bounds& both = given(bounds, "update_bias_by_quantile: bounds");
    const QuantileBounds next = update_bias_by_quantile(
        {&given(bias, "update_bias_by_quantile: bias"), size},
        {&given(histogram, "update_bias_by_quantile: histogram"), size * static_cast<std::size_t>(bins)},
        {both.lower, both.upper}, topk);
    both = {next.lower, next.upper};
  });
}

switchyard_status switchyard_load_statistics(const int64_t* count, int32_t experts, switchyard_load* load) {
  return guard([&] {
    check_result(load, "load_statistics: load");
    const std::size_t size = check_experts(experts, "load_statistics");
    const LoadStatistics found = load_statistics({&given(count, "load_statistics: count"), size});
    switchyard_load result{};
    result.unused = static_cast<std::int32_t>(found.unused);
    result.slots = found.slots;
    result.max_over_mean = found.max_over_mean;
    result.entropy = found.entropy;
    write_result(load, result);
  });
}
