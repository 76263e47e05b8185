// Rows of families that score by the sigmoid and choose by a bias. Included by the family table alone.
#pragma once

#include "checkpoint/row_parts.hpp"

namespace switchyard::rows {

// ---- sigmoid scores with a selection bias and groups

inline constexpr Family kDeepSeekV3 = {
    .name = "deepseek_v3",
    .model_types = {"deepseek_v3", "deepseek_v32", "kimi_k2"},
    .router = {.score = Score::sigmoid,
               .normalize_keys = {"norm_topk_prob"},
               .normalize = Normalize::sum,
               .epsilon = kEpsilon,
               .scale_key = "routed_scaling_factor",
               .scale = 2.5,
               .selection_bias = true,
               .groups = best_two(8, 4)},
    .shared = shared_times("n_shared_experts", 1),
    .schedule = dense_first(3),
    .places = {kMlpProj, kMlpFused},
};
inline constexpr Family kGlmMoeDsa =
    as(kDeepSeekV3, "glm_moe_dsa", [](Family& row) { row.router.groups = best_two(1, 1); });
inline constexpr Family kGlm4 = as(kGlmMoeDsa, "glm4_moe", [](Family& row) {
  row.model_types = {"glm4_moe", "glm4v_moe_text"};
  row.router.scale = 1;
  row.schedule = dense_first(1);
});
inline constexpr Family kGlm4Lite = as(kGlm4, "glm4_moe_lite", [](Family& row) {
  row.router.scale = 1.8;
  row.schedule = {.first = 1};
});
inline constexpr Family kGlm5Next = as(kGlmMoeDsa, "glm5_next", [](Family& row) {
  row.model_types = {"glm5_next_text"};
  row.function = {.key = nullptr, .activation = Activation::silu_clamped, .limit_key = "swiglu_limit", .limit = 10};
  row.schedule = {.first = 3};
});
inline constexpr Family kHyV4 = as(kGlm5Next, "hy_v4", [](Family& row) {
  row.router.scale = 2.827;
  row.function.shared_unlimited = true;
  row.schedule = {.first = 1};
  row.places = {kMlpFused, kMlpFused, kMlpProj};
  row.places[0].shared = &kSharedLinearGate;
});
inline constexpr Family kDots1 = as(kGlm4, "dots1", [](Family& row) {
  row.router.normalize = Normalize::none;
  row.shared.count_otherwise = -1;
  row.schedule = dense_first(0);
});
inline constexpr Family kDots3 = as(kGlm4, "dots3_note", [](Family& row) {
  row.model_types = {"dots3_note_text"};
  row.shared.ffn = {"moe_shared_expert_intermediate_size", "shared_experts_intermediate_size"};
  row.shared.ffn_otherwise = 1536;
  row.schedule.step_key = "moe_layer_freq";
});
inline constexpr Family kAxk1 = as(kDeepSeekV3, "axk1", [](Family& row) {
  row.outside = "post_mlp_layernorm, an RMSNorm of the block's output";
  row.schedule = {.first_key = "first_k_dense_replace", .first = 1, .step_key = "moe_layer_freq"};
});
inline constexpr Family kAxk2 = as(kAxk1, "axk2", [](Family& row) {
  row.outside = nullptr;
  row.router.groups = best_two(0, 0);
  row.router.groups.masked_zero = true;
});
inline constexpr Family kBailing = as(kDeepSeekV3, "bailing_hybrid", [](Family& row) {
  row.experts = kNumExperts;
  row.topk = {"num_experts_per_token", "num_experts_per_tok"};
  row.router.normalize_keys = {"moe_renormalize", "norm_topk_prob"};
  row.router.groups.count_keys = {"num_expert_group", "n_group"};
  row.shared.count = "num_shared_experts";
  row.schedule = dense_first(2);
  row.places[0].selection_bias = "{block}gate.expert_bias";
});
inline constexpr Family kKimiLinear = as(kBailing, "kimi_linear", [](Family& row) {
  row.router.groups.count = row.router.groups.kept = 1;
  row.router.scale = 2.446;
  row.schedule = dense_first(1);
  row.places[0] = kSparseW;
  row.places[0].shared = &kSharedExperts;
});
inline constexpr Family kBeam = as(kDeepSeekV3, "beam", [](Family& row) {
  row.experts = kNumExperts;
  row.shared = {};
  row.schedule = {.first = 3};
});
inline constexpr Family kExaone = as(kGlmMoeDsa, "exaone_moe", [](Family& row) {
  row.experts = kNumExperts;
  row.shared.count = "num_shared_experts";
  row.schedule = dense_first(1);
  row.places[0].selection_bias = "{block}e_score_correction_bias";
});
inline constexpr Family kMimo = as(kGlm4, "mimo_v2_flash", [](Family& row) {
  row.shared = {};
  row.schedule = {.first = 1};
});
inline constexpr Family kSolar = as(kGlm4, "solar_open", [](Family& row) { row.schedule = {}; });
inline constexpr Family kNemotron = as(kGlm4, "nemotron_h", [](Family& row) {
  row.latent = "moe_latent_size";
  row.bias_key = "mlp_bias";
  row.function = {.key = "mlp_hidden_act", .activation = Activation::relu_squared, .gated = false};
  row.shared = shared_wide("moe_shared_expert_intermediate_size");
  row.schedule = {.kinds = "layers_block_type", .kinds_count = true, .pattern = "hybrid_override_pattern"};
  row.places = both(kMlpProj, kMlpFused, [](Place& place) {
    place.block = "mixer.";
    place.shared = &kSharedUpDown;
  });
  row.places[0].experts = &kUpDown;
  row.places[1].experts = &kUpDownStacked;
});

// ---- sigmoid scores with a selection bias

inline constexpr Family kHyV3 = as(kDeepSeekV3, "hy_v3", [](Family& row) {
  row.experts = kNumExperts;
  row.bias_key = "mlp_bias";
  row.router.normalize_keys = {};
  row.router.scale_key = "router_scaling_factor";
  row.router.scale = 2.826;
  row.router.groups = {};
  row.shared.count = "num_shared_experts";
  row.schedule = {.first = 1};
  row.places[0].router = "{block}router.gate.weight";
  row.places[0].selection_bias = "{block}expert_bias";
  row.places[0].shared = &kSharedMlp;
  row.places[1].selection_bias = "{block}e_score_correction_bias";
});
inline constexpr Family kAfmoe = as(kHyV3, "afmoe", [](Family& row) {
  row.bias_key = nullptr;
  row.router.narrow = true;
  row.router.scale_key = "route_scale";
  row.router.scale = 1;
  row.shared.count_otherwise = 2;
  row.schedule = dense_first(1, "num_dense_layers");
  row.places = both(kMlpProj, kMlpFused, [](Place& place) {
    place.router = "{block}router.gate.weight";
    place.selection_bias = "{block}expert_bias";
  });
});
inline constexpr Family kMiniMaxM2 = as(kHyV3, "minimax_m2", [](Family& row) {
  row.experts = kLocalExperts;
  row.ffn = kIntermediate;
  row.bias_key = nullptr;
  row.router.epsilon = 0;
  row.router.scale_key = nullptr;
  row.router.scale = 1;
  row.router.narrow = true;
  row.shared = {};
  row.schedule = {};
  row.places = both(kSparseW, kMlpFused, [](Place& place) { place.selection_bias = "{block}e_score_correction_bias"; });
});
inline constexpr Family kMiniMaxM3 = as(kMiniMaxM2, "minimax_m3_vl", [](Family& row) {
  row.model_types = {"minimax_m3_vl_text"};
  row.router.scale_key = "routed_scaling_factor";
  row.router.scale = 2;
  row.function = {.key = nullptr,
                  .activation = Activation::swiglu_oai,
                  .limit_key = "swiglu_limit",
                  .limit = 7,
                  .alpha_key = "swiglu_alpha",
                  .alpha = 1.702};
  row.shared = shared_wide("shared_intermediate_size", 3072);
  row.schedule = {.step_key = "moe_layer_freq"};
  row.places[0].shared = &kSharedExperts;
  row.places[1] = kMlpFused;
  row.places[1].shared = &kSharedFused;
});
inline constexpr Family kStep = as(kMiniMaxM2, "step3p7", [](Family& row) {
  row.model_types = {"step3p5"};
  row.experts = {"n_routed_experts", "moe_num_experts"};
  row.topk = {"num_experts_per_tok", "moe_top_k"};
  row.ffn = {"moe_intermediate_size"};
  row.bias_key = "mlp_bias";
  row.router.scale_key = "moe_router_scaling_factor";
  row.function = {.activation = Activation::silu_limited,
                  .limits_key = "swiglu_limits",
                  .shared_limits_key = "swiglu_limits_shared"};
  row.shared = {.has = true, .ffn = {"share_expert_dim", "share_expert_dims"}, .ffn_otherwise = 1280};
  row.schedule = {.only = "moe_layers_enum", .first = 3};
  row.places = {kMlpFused, kMlpFused};
  row.places[0].block = "moe.";
  row.places[0].experts = &kStackedProj;
  row.places[0].selection_bias = "{block}router_bias";
  row.places[0].shared = &kShareExpert;
});
inline constexpr Family kLaguna = as(kMiniMaxM2, "laguna", [](Family& row) {
  row.experts = kNumExperts;
  row.ffn = {"moe_intermediate_size"};
  row.refused_key = "moe_apply_router_weight_on_input";
  row.router.scale_key = "moe_routed_scaling_factor";
  row.router.softcap_key = "moe_router_logit_softcapping";
  row.shared = shared_wide("shared_expert_intermediate_size");
  row.schedule = {.first = 1};
  row.places = {kMlpProj, kMlpFused};
  row.places[0].selection_bias = "{block}experts.e_score_correction_bias";
  row.places[0].shared = &kSharedExpert;
});
inline constexpr Family kInkling2 = as(kDeepSeekV3, "inkling2", [](Family& row) {
  row.model_types = {"inkling2_text"};
  row.ffn = {"moe_intermediate_size", "intermediate_size"};
  row.router.score_key = "scoring_func";
  row.router.normalize_keys = {};
  row.router.scale_key = "route_scale";
  row.router.scale = 8;
  row.router.groups = {};
  row.function = {.key = nullptr,
                  .activation = Activation::softcapped,
                  .limit_key = "mlp_up_softcap",
                  .limit = 25,
                  .alpha_key = "mlp_gate_softcap",
                  .alpha = 4};
  row.shared = {};
  row.schedule = {};
  row.places = {kMlpFused, kMlpFused};
  row.places[0].experts = &kInterleavedW;
  row.places[0].selection_bias = "{block}gate.bias";
});
inline constexpr Family kLfm2 = as(kDeepSeekV3, "lfm2_moe", [](Family& row) {
  row.experts = kNumExperts;
  row.router.epsilon = 1e-6;
  row.router.scale = 1;
  row.router.narrow = true;
  row.router.selection_bias_key = "use_expert_bias";
  row.router.groups = {};
  row.function.key = nullptr;
  row.shared = {};
  row.schedule = dense_first(2, "num_dense_layers");
  row.places = both(kSparseW, kMlpFused, [](Place& place) {
    place.block = "feed_forward.";
    place.selection_bias = "{block}expert_bias";
  });
});
inline constexpr Family kFlint = as(kLfm2, "flint", [](Family& row) {
  row.router.epsilon = 0;
  row.router.scale_key = nullptr;
  row.router.selection_bias_key = nullptr;
  row.router.selection_bias = false;
  row.router.narrow = false;
  row.function = {};
  row.shared = shared_wide("shared_expert_intermediate_size");
  row.schedule = {.step_key = "decoder_sparse_step", .shift = 1, .dense = "mlp_only_layers", .dense_otherwise = 2};
  row.places = both(kMlpProj, kMlpFused, [](Place& place) { place.shared = &kSharedExpert; });
});

}  // namespace switchyard::rows
