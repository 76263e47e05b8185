// The table of what a layer may have beyond the plain gated SiLU experts.
#pragma once

#include <array>

#include "made_layer.hpp"

namespace made {

struct NamedFunction {
  const char* name;
  ExpertFunction function;
};

// Limits and slopes that act on values around 1.
inline constexpr std::array<NamedFunction, 14> kFunctions{{
    {"silu", {}},
    {"gelu", {.activation = Activation::gelu}},
    {"gelu_tanh", {.activation = Activation::gelu_tanh}},
    {"relu", {.activation = Activation::relu}},
    {"relu_squared", {.activation = Activation::relu_squared}},
    {"silu_clamped", {.activation = Activation::silu_clamped, .limit = 0.7F}},
    {"silu_limited", {.activation = Activation::silu_limited, .limit = 0.4F}},
    {"swiglu_oai", {.activation = Activation::swiglu_oai, .limit = 0.9F, .alpha = 1.702F}},
    {"softcapped", {.activation = Activation::softcapped, .limit = 1.5F, .alpha = 0.8F}},
    {"ungated_silu", {.gated = false}},
    {"ungated_gelu", {.activation = Activation::gelu, .gated = false}},
    {"ungated_gelu_tanh", {.activation = Activation::gelu_tanh, .gated = false}},
    {"ungated_relu", {.activation = Activation::relu, .gated = false}},
    {"ungated_relu_squared", {.activation = Activation::relu_squared, .gated = false}},
}};

inline constexpr ExpertFunction kReluSquared = kFunctions[13].function;
inline constexpr ExpertFunction kSwigluOai = kFunctions[7].function;

inline constexpr std::array<Extras, 16> kVariants{{
    {.name = "biases", .biases = true},
    {.name = "weight_on_input", .weight_site = WeightSite::input},
    {.name = "weight_on_input_biases", .function = kSwigluOai, .biases = true, .weight_site = WeightSite::input},
    {.name = "weight_between", .weight_site = WeightSite::between},
    {.name = "weight_between_biases", .function = kSwigluOai, .biases = true, .weight_site = WeightSite::between},
    {.name = "weight_between_ungated",
     .function = kReluSquared,
     .shared_function = kSwigluOai,
     .weight_site = WeightSite::between},
    {.name = "identity", .identity_experts = 4},
    {.name = "identity_weight_on_input", .identity_experts = 3, .weight_site = WeightSite::input},
    {.name = "identity_weight_between", .identity_experts = 3, .weight_site = WeightSite::between},
    {.name = "output_bias", .output_bias = true},
    {.name = "shared_scale", .shared_function = kReluSquared, .biases = true, .shared_scale = 0.5F},
    {.name = "latent", .latent = 40},
    {.name = "latent_biases", .function = kReluSquared, .biases = true, .latent = 20, .latent_biases = true},
    {.name = "wide_latent", .weight_site = WeightSite::input, .output_bias = true, .latent = 200},
    {.name = "latent_weight_between", .biases = true, .weight_site = WeightSite::between, .latent = 40},
    {.name = "all",
     .function = kSwigluOai,
     .shared_function = kReluSquared,
     .biases = true,
     .identity_experts = 2,
     .weight_site = WeightSite::input,
     .output_bias = true},
}};

}  // namespace made
