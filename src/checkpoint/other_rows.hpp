// Rows of families with other scores. Included by the family table alone.
#pragma once

#include "checkpoint/sigmoid_rows.hpp"

namespace switchyard::rows {

// ---- other scores with a bias

inline constexpr Family kDeepSeekV4 = as(kDeepSeekV3, "deepseek_v4", [](Family& row) {
  row.ffn = {"moe_intermediate_size", "intermediate_size"};
  row.bias_key = "mlp_bias";
  row.router.score_key = "scoring_func";
  row.router.score = Score::sqrt_softplus;
  row.router.normalize_keys = {};
  row.router.scale = 1.5;
  row.router.narrow = true;
  row.router.groups = {};
  row.function = {.activation = Activation::silu_clamped, .limit_key = "swiglu_limit", .limit = 10};
  row.shared = {.has = true};
  row.schedule = {.table_layers = "num_hash_layers", .tables = 3};
  row.places[0].block = "ffn.";
  row.places[0].experts = &kW;
  row.places[0].selection_bias = "{block}gate.bias";
  row.places[0].shared = &kSharedW;
});
inline constexpr Family kErnie = {
    .name = "ernie4_5_moe",
    .model_types = {"ernie4_5_moe"},
    .experts = {"moe_num_experts", "num_experts"},
    .topk = {"moe_k", "num_experts_per_tok"},
    .bias_key = "use_bias",
    .router = {.normalize = Normalize::clamped_sum,
               .epsilon_key = "moe_norm_min",
               .epsilon = 1e-12,
               .selection_bias = true},
    .shared = shared_times("moe_num_shared_experts", 2),
    .schedule = {.first_key = "moe_layer_start_index",
                 .first = 1,
                 .last_key = "moe_layer_end_index",
                 .step_key = "moe_layer_interval",
                 .shift = 1},
    .places = {with(kMlpProj,
                    [](Place& place) { place.selection_bias = "{block}moe_statics.e_score_correction_bias"; }),
               with(kMlpFused,
                    [](Place& place) { place.selection_bias = "{block}gate.moe_statics.e_score_correction_bias"; })},
};
inline constexpr Family kLongcat = {
    .name = "longcat_flash",
    .model_types = {"longcat_flash"},
    .layers = {"num_layers"},
    .topk = {"moe_topk", "num_experts_per_tok"},
    .ffn = {"expert_ffn_hidden_size", "moe_intermediate_size"},
    .identity_experts = "zero_expert_num",
    .router = {.scale_key = "routed_scaling_factor", .scale = 6, .selection_bias = true},
    .places = both(kMlpProj, kMlpFused,
                   [](Place& place) {
                     place.router = "{block}router.classifier.weight";
                     place.selection_bias = "{block}router.e_score_correction_bias";
                   }),
};
inline constexpr Family kKolibri = {
    .name = "kolibri1",
    .model_types = {"kolibri1"},
    .experts = kLocalExperts,
    .router = {.score = Score::logit,
               .chosen = ChosenScore::sigmoid,
               .normalize_keys = {"norm_topk_prob"},
               .selection_bias = true},
    .shared = shared_wide("shared_expert_intermediate_size"),
    .places = {with(kMlpProj, [](Place& place) { place.selection_bias = "moe.router.expert_bias"; }), kMlpFused},
};

// ---- the chosen logits alone

inline constexpr Family kGranite = {
    .name = "granitemoe",
    // The shared expert of the others stands beside the block, in their layer.
    .model_types = {"granitemoe", "granitemoeshared", "granitemoe_swa"},
    .experts = {"num_local_experts"},
    .ffn = kIntermediate,
    .router = {.score = Score::logit, .chosen = ChosenScore::softmax, .narrow = true},
    .places = {kSparseLinear, kSparseFused},
};
// Its layer may have no experts at all.
inline constexpr Family kGraniteHybrid = as(kGranite, "granitemoehybrid", [](Family& row) { row.dense_experts = 0; });
inline constexpr Family kJetMoe = as(kGranite, "jetmoe", [](Family& row) {
  row.output_bias = true;
  row.function.key = "activation_function";
  row.places = {with(kSparseLinear, [](Place& place) { place.block = "mlp."; })};
});
inline constexpr Family kGptOss = as(kGranite, "gpt_oss", [](Family& row) {
  row.experts = kLocalExperts;
  row.router.logit_bias = true;
  row.function = kMiniMaxM3.function;
  row.places = {Place{.experts = &kInterleavedInOutBias, .router = "{block}router.weight"},
                Place{.experts = &kInterleavedBias, .router = "{block}router.weight"}};
});
inline constexpr Family kPrivacyFilter = as(kGptOss, "openai_privacy_filter", [](Family& row) {
  row.router.narrow = false;
  row.places[0].experts = &kFusedInOutBias;
  row.places[1] = {};
});
inline constexpr Family kAria = as(kGranite, "aria", [](Family& row) {
  row.model_types = {"aria_text"};
  row.experts = {"moe_num_experts"};
  row.topk = {"moe_topk"};
  row.bias_key = "mlp_bias";
  row.function.key = nullptr;
  row.shared = shared_times("moe_num_shared_experts", 2);
  row.places = both(kMlpFused, kMlpFused, [](Place& place) { place.router = "{block}router.weight"; });
  row.places[0].experts = &kFcInOut;
  row.places[1].experts = &kFusedInOut;
});
inline constexpr Family kCohere2 = as(kGranite, "cohere2_moe", [](Family& row) {
  row.experts = kNumExperts;
  row.router.chosen_key = "expert_selection_fn";
  row.router.normalize_keys = {"norm_topk_prob"};
  row.router.normalize = Normalize::sum;
  row.shared = shared_times("num_shared_experts", 0);
  row.shared.average_key = "shared_expert_combination_strategy";
  row.schedule = dense_first(0);
  row.places = {kMlpProj, kMlpFused};
});
inline constexpr Family kLlama4 = as(kGranite, "llama4", [](Family& row) {
  row.model_types = {"llama4_text"};
  row.weight_site = WeightSite::input;
  row.router.chosen = ChosenScore::sigmoid;
  row.shared = {.has = true};
  row.schedule = {.only = "moe_layers", .step_key = "interleave_moe_layer_step", .shift = 1};
  row.places = both(Place{.experts = &kFusedInOut, .shared = &kSharedExpert},
                    Place{.experts = &kProj, .shared = &kSharedExpert}, [](Place& place) {
                      place.block = "feed_forward.";
                      place.router = "{block}router.weight";
                    });
});

// ---- softmax scores

inline constexpr Family kMixtral = {
    .name = "mixtral",
    .model_types = {"mixtral", "minimax"},
    .experts = kLocalExperts,
    .ffn = kIntermediate,
    .router = {.normalize = Normalize::sum, .narrow = true},
    .places = {kSparseW, kMlpFused},
};
inline constexpr Family kPhi = as(kMixtral, "phimoe", [](Family& row) {
  row.router = {.score = Score::sparsemixer, .jitter_key = "router_jitter_noise", .narrow = true, .topk = 2};
  row.places[1].router = "{block}router.weight";
});
inline constexpr Family kHunyuan = as(kMixtral, "hunyuan_v1_moe", [](Family& row) {
  row.experts = kNumExperts;
  row.topk = {"moe_topk", "num_experts_per_tok"};
  row.router.topk_list = true;
  row.router.narrow = false;
  row.shared = {.has = true};
  row.places = both(kMlpProj, kMlpFused, [](Place& place) {
    place.router = "{block}gate.wg.weight";
    place.shared = &kSharedMlp;
  });
});
inline constexpr Family kJamba = as(kMixtral, "jamba", [](Family& row) {
  row.experts = kNumExperts;
  row.dense_experts = 1;
  row.router.normalize = Normalize::none;
  row.schedule = {.step_key = "expert_layer_period", .step = 2, .shift = -1, .offset_key = "expert_layer_offset"};
  row.places = both(kMlpProj, kMlpFused, [](Place& place) {
    place.block = "feed_forward.";
    place.router = "{block}router.weight";
  });
});
inline constexpr Family kDbrx = {
    .name = "dbrx",
    .model_types = {"dbrx"},
    .layers = {"n_layers"},
    .experts = {"ffn_config.moe_num_experts"},
    .topk = {"ffn_config.moe_top_k"},
    .hidden = {"d_model"},
    .ffn = {"ffn_config.ffn_hidden_size"},
    .router = {.normalize = Normalize::power_norm,
               .power_key = "ffn_config.moe_normalize_expert_weights",
               .narrow = true},
    .function = {.key = "ffn_config.ffn_act_fn.name"},
    .places = {Place{.block = "ffn.", .experts = &kFlattened, .router = "{block}router.layer.weight"}},
};
inline constexpr Family kDeepSeekV2 = {
    .name = "deepseek_v2",
    .model_types = {"deepseek_v2", "deepseek_ocr2_text"},
    .bias_key = "mlp_bias",
    .router = {.scale_key = "routed_scaling_factor",
               .groups = {.best = 1, .masked_zero = true, .method = "group_limited_greedy"}},
    .shared = shared_times("n_shared_experts", 2),
    .schedule = dense_first(0),
    .places = {kMlpProj, kMlpFused},
};
inline constexpr Family kUnlimited = as(kDeepSeekV2, "unlimited_ocr", [](Family& row) {
  row.model_types = {"unlimited_ocr_text"};
  row.schedule = dense_first(1);
});
inline constexpr Family kMistral4 = as(kDeepSeekV2, "mistral4", [](Family& row) {
  row.bias_key = nullptr;
  row.router.normalize_keys = {"norm_topk_prob"};
  row.router.normalize = Normalize::sum;
  row.router.epsilon = kEpsilon;
  row.router.narrow = true;
  row.router.groups = best_two(1, 1);
  row.router.groups.masked_zero = true;
  row.shared.count_otherwise = 1;
  row.places = {kMlpFused, kMlpProj};
});
inline constexpr Family kMistralLarge4 = as(kMistral4, "mistral_large4", [](Family& row) {
  row.model_types = {"mistral_large4_text"};
  row.router.normalize_keys = {};
  row.router.narrow = false;
  row.schedule = dense_first(1);
  const Place bare = {.block = "", .experts = &kW, .shared = &kSharedW};
  row.places = {bare, bare, kMlpFused};
  row.places[1].shared = &kSharedExperts;
});
inline constexpr Family kOlmoe = {
    .name = "olmoe",
    .model_types = {"olmoe", "flex_olmo"},
    .experts = kNumExperts,
    .ffn = kIntermediate,
    .router = {.normalize_keys = {"norm_topk_prob"}, .narrow = true},
    .places = {kMlpProj, kMlpFused},
};
inline constexpr Family kQwen3 = as(kOlmoe, "qwen3_moe", [](Family& row) {
  row.ffn = {"moe_intermediate_size"};
  row.schedule = {.step_key = "decoder_sparse_step", .shift = 1, .dense = "mlp_only_layers"};
});
inline constexpr Family kQwen3Omni = as(kQwen3, "qwen3_omni_moe", [](Family& row) {
  row.model_types = {"qwen3_omni_moe_text"};
  row.router.normalize = Normalize::sum;
});
inline constexpr Family kQwen3Vl = as(kQwen3Omni, "qwen3_vl_moe", [](Family& row) {
  row.model_types = {"qwen3_vl_moe_text"};
  row.router.normalize_keys = {};
  row.places[0].experts = &kFusedInOut;
});
inline constexpr Family kMellum = as(kQwen3Omni, "mellum", [](Family& row) { row.schedule = {}; });
inline constexpr Family kQwen2 = as(kQwen3, "qwen2_moe", [](Family& row) {
  row.model_types = {"qwen2_moe", "qwen3_omni_moe_talker_text"};
  row.shared = shared_wide("shared_expert_intermediate_size");
  row.shared.gate = true;
  row.places = both(kMlpProj, kMlpFused, [](Place& place) { place.shared = &kSharedExpert; });
});
inline constexpr Family kQwen3Next =
    as(kQwen2, "qwen3_next", [](Family& row) { row.router.normalize = Normalize::sum; });
inline constexpr Family kQwen4 = as(kQwen3Next, "qwen4_exp", [](Family& row) {
  row.model_types = {"qwen4_exp_text"};
  row.schedule = {};
});
inline constexpr Family kQwen35 = as(kQwen4, "qwen3_5_moe", [](Family& row) {
  row.model_types = {"qwen3_5_moe_text"};
  row.router.normalize_keys = {};
});

}  // namespace switchyard::rows
