"""Families whose routers score each expert by itself, and choose by scores plus a bias."""

import torch
from cases import (
    DENSE_FIRST,
    FULL_ATTENTION,
    MLA_SIZES,
    SHARED_SIZES,
    Case,
    Tiny,
    change_tensors,
    nested,
    published_keys,
    renamed,
    split_experts,
)
from record_blocks import Watch
from rules import (
    Rules,
    alpha_swiglu,
    clamped_swiglu,
    relu_squared,
    softcapped_swiglu,
    swiglu,
    swiglu_clamped,
)
from saved_block import W132, Names, fused, per_expert, shared

GATE_BIAS = dict(choice_bias="mlp.gate.e_score_correction_bias")
SHARED = shared("mlp.shared_experts")
DEEPSEEK = per_expert(**GATE_BIAS, **SHARED)
MINIMAX = per_expert(
    "block_sparse_moe", W132, choice_bias="block_sparse_moe.e_score_correction_bias"
)
# Enough experts for the type of the router to decide some choices.
BF16_SIZES = dict(
    num_hidden_layers=1, intermediate_size=8, moe_intermediate_size=8, num_experts_per_tok=6
)
GROUPS = dict(n_group=4, topk_group=2)
TWO_OF_FOUR = dict(groups=4, kept_groups=2, group_best=2)


def deepseek_rules(scale=1.0, **others):
    """DeepSeek-V3: sigmoids, renormalised and scaled."""
    return Rules("sigmoid", renormalise=True, norm_eps=1e-20, scale=scale, **others)


def mark_dense_first(**others):
    """The keys by which published DeepSeek-like files say that one dense layer comes first."""
    return published_keys(mlp_layer_types=None, first_k_dense_replace=1, **others)


def split_rows(pattern, *new):
    """Cuts tensors [2N, ...] whose names end in `pattern` into two."""

    def change(tensors):
        result = {}
        for name, tensor in tensors.items():
            if name.endswith(pattern):
                stem = name.removesuffix(pattern)
                halves = tensor.chunk(2, dim=tensor.dim() - 2)
                result.update(zip((stem + n for n in new), halves, strict=True))
            else:
                result[name] = tensor
        return result

    return lambda folder: change_tensors(folder, change)


CASES = {
    "deepseek_v3": Case(
        "DeepseekV3",
        {**SHARED_SIZES, **MLA_SIZES, **GROUPS, **dict(routed_scaling_factor=2.5)},
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=DEEPSEEK,
    ),
    "glm4_moe": Case(
        "Glm4Moe",
        dict(SHARED_SIZES, head_dim=8, routed_scaling_factor=1.5),
        rules=deepseek_rules(1.5),
        names=DEEPSEEK,
    ),
    "dots1": Case(
        "Dots1",
        dict(SHARED_SIZES, head_dim=8, n_group=1, topk_group=1, n_shared_experts=2),
        rules=Rules("sigmoid"),
        names=DEEPSEEK,
    ),
    "minimax_m2": Case(
        "MiniMaxM2",
        dict(
            head_dim=8,
            rotary_dim=8,
            intermediate_size=16,
            num_local_experts=8,
            num_experts_per_tok=3,
        ),
        rules=Rules("sigmoid", True),
        names=MINIMAX,
    ),
    "minimax_m2_bf16": Tiny(
        "MiniMaxM2",
        dict(BF16_SIZES, rotary_dim=8, num_local_experts=32),
        rules=Rules("sigmoid", True, bf16_logits=True),
        names=MINIMAX,
        seed=3,
        dtype=torch.bfloat16,
        recorded_in=torch.bfloat16,
    ),
    "deepseek_v3_bf16": Tiny(
        "DeepseekV3",
        dict(
            **BF16_SIZES,
            **MLA_SIZES,
            **dict(n_routed_experts=32, first_k_dense_replace=0, n_group=1, topk_group=1),
        ),
        rules=deepseek_rules(2.5),
        names=DEEPSEEK,
        seed=4,
        dtype=torch.bfloat16,
        recorded_in=torch.bfloat16,
    ),
    "deepseek_v4": Tiny(
        "DeepseekV4",
        dict(
            mlp_layer_types=["hash_moe", "moe"],
            layer_types=["sliding_attention"] * 2,
            head_dim=16,
            num_key_value_heads=1,
            n_routed_experts=6,
            moe_intermediate_size=8,
            swiglu_limit=1.0,
            routed_scaling_factor=1.5,
        ),
        rules=Rules(
            "sqrt_softplus",
            renormalise=True,
            norm_eps=1e-20,
            scale=1.5,
            activation=clamped_swiglu(1.0),
        ),
        names=lambda layer: per_expert(
            "ffn",
            W132,
            layer="layers.{}.",
            choice_bias="" if layer == 0 else "ffn.gate.bias",
            token_table="ffn.gate.tid2eid" if layer == 0 else "",
            **shared("ffn.shared_experts", W132),
        ),
        watch=Watch(second="token_ids"),
        publish=(
            renamed((r"^model\.", "")),
            published_keys(mlp_layer_types=None, num_hash_layers=1),
        ),
    ),
    "nemotron_h": Tiny(
        "NemotronH",
        dict(
            layers_block_type=["full_attention", "moe"],
            moe_shared_expert_intermediate_size=20,
            moe_intermediate_size=16,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, activation=relu_squared),
        names=Names(
            layer="backbone.layers.{}.mixer.",
            router="gate.weight",
            choice_bias="gate.e_score_correction_bias",
            up="experts.{}.up_proj.weight",
            down="experts.{}.down_proj.weight",
            shared_up="shared_experts.up_proj.weight",
            shared_down="shared_experts.down_proj.weight",
        ),
        publish=(published_keys(layers_block_type=None, hybrid_override_pattern="*E"),),
    ),
    "nemotron_h_latent": Tiny(
        "NemotronH",
        dict(
            GROUPS,
            layers_block_type=["full_attention", "moe"],
            moe_shared_expert_intermediate_size=20,
            moe_intermediate_size=16,
            moe_latent_size=24,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR, activation=relu_squared),
        names=Names(
            layer="backbone.layers.{}.mixer.",
            router="gate.weight",
            choice_bias="gate.e_score_correction_bias",
            up="experts.{}.up_proj.weight",
            down="experts.{}.down_proj.weight",
            shared_up="shared_experts.up_proj.weight",
            shared_down="shared_experts.down_proj.weight",
            latent_in="fc1_latent_proj.weight",
            latent_out="fc2_latent_proj.weight",
        ),
    ),
    "hy_v3": Tiny(
        "HYV3",
        dict(router_scaling_factor=2.5),
        rules=deepseek_rules(2.5),
        names=per_expert(
            router="mlp.router.gate.weight",
            choice_bias="mlp.expert_bias",
            **shared("mlp.shared_mlp"),
        ),
    ),
    "minimax_m3_vl": Tiny(
        "MiniMaxM3VL",
        dict(
            DENSE_FIRST,
            **FULL_ATTENTION,
            intermediate_size=12,
            dense_intermediate_size=20,
            rotary_dim=8,
            swiglu_limit=1.25,
            routed_scaling_factor=2.0,
        ),
        rules=Rules(
            "sigmoid",
            renormalise=True,
            output_scale=2.0,
            activation=alpha_swiglu(1.702, 1.25),
        ),
        names=per_expert(
            "block_sparse_moe",
            W132,
            layer="language_model.model.layers.{}.",
            choice_bias="block_sparse_moe.e_score_correction_bias",
            **shared("block_sparse_moe.shared_experts"),
        ),
        config_family="MiniMaxM3VLText",
        publish=(
            renamed(
                (r"^", "language_model."),
                (r"mlp\.gate\.e_score", "mlp.e_score"),
                (r"mlp\.(experts|gate|shared_experts|e_score\w+)(?=\.|$)", r"block_sparse_moe.\1"),
            ),
            split_experts("block_sparse_moe", W132),
            split_rows("gate_up_proj.weight", "gate_proj.weight", "up_proj.weight"),
            published_keys(mlp_layer_types=None, moe_layer_freq=[0, 1]),
            nested("minimax_m3_vl", "MiniMaxM3SparseForConditionalGeneration"),
        ),
    ),
    "lfm2_moe": Tiny(
        "Lfm2Moe",
        dict(FULL_ATTENTION, num_dense_layers=1, routed_scaling_factor=1.5),
        rules=Rules("sigmoid", renormalise=True, norm_eps=1e-6, scale=1.5),
        names=per_expert("feed_forward", W132, choice_bias="feed_forward.expert_bias"),
    ),
    "laguna": Tiny(
        "Laguna",
        dict(
            DENSE_FIRST,
            **FULL_ATTENTION,
            num_attention_heads_per_layer=[2, 2],
            moe_routed_scaling_factor=2.5,
            moe_router_logit_softcapping=1.5,
        ),
        rules=Rules("sigmoid", renormalise=True, softcap=1.5, output_scale=2.5),
        names=per_expert(
            choice_bias="mlp.experts.e_score_correction_bias", **shared("mlp.shared_expert")
        ),
    ),
    "kolibri1": Tiny(
        "Kolibri1",
        dict(num_hidden_layers=1, norm_topk_prob=True),
        rules=Rules("sigmoid", renormalise=True, choose_by="logit"),
        names=per_expert(choice_bias="moe.router.expert_bias", **SHARED),
    ),
    "afmoe": Tiny(
        "Afmoe",
        dict(FULL_ATTENTION, num_dense_layers=1, num_shared_experts=1, route_scale=2.5),
        rules=deepseek_rules(2.5),
        names=per_expert(router="mlp.router.gate.weight", choice_bias="mlp.expert_bias", **SHARED),
    ),
    "flint": Tiny(
        "Flint",
        dict(num_hidden_layers=2, mlp_only_layers=[0], decoder_sparse_step=1),
        rules=Rules("sigmoid", renormalise=True),
        names=per_expert(**shared("mlp.shared_expert")),
    ),
    "kimi_linear": Tiny(
        "KimiLinear",
        dict(
            DENSE_FIRST,
            num_expert_group=4,
            topk_group=2,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=per_expert(
            "block_sparse_moe",
            W132,
            choice_bias="block_sparse_moe.gate.e_score_correction_bias",
            **shared("block_sparse_moe.shared_experts"),
        ),
        publish=(
            renamed((r"block_sparse_moe\.(\w+_proj)", r"mlp.\1")),
            mark_dense_first(moe_layer_freq=1),
        ),
    ),
    "bailing_hybrid": Tiny(
        "BailingHybrid",
        dict(
            first_k_dense_replace=1,
            num_expert_group=4,
            topk_group=2,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=per_expert(choice_bias="mlp.gate.expert_bias", **SHARED),
        publish=(mark_dense_first(),),
    ),
    "exaone_moe": Tiny(
        "ExaoneMoe",
        dict(GROUPS, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=per_expert(choice_bias="mlp.e_score_correction_bias", **SHARED),
    ),
    "mimo_v2_flash": Tiny(
        "MiMoV2Flash",
        dict(head_dim=12, num_key_value_heads=1, routed_scaling_factor=1.5),
        rules=deepseek_rules(1.5),
        names=per_expert(**GATE_BIAS),
        publish=(published_keys(mlp_layer_types=None, moe_layer_freq=[0, 1]),),
    ),
    "step3p7": Tiny(
        "Step3p7Text",
        dict(
            DENSE_FIRST,
            **FULL_ATTENTION,
            pad_token_id=0,
            share_expert_dim=16,
            swiglu_limits=[0.0, 0.5],
            swiglu_limits_shared=[0.0, 0.75],
            moe_router_scaling_factor=2.5,
        ),
        rules=Rules(
            "sigmoid",
            renormalise=True,
            output_scale=2.5,
            activation=swiglu_clamped(0.5),
            shared_activation=swiglu_clamped(0.75),
        ),
        names=Names(
            router="moe.gate.weight",
            choice_bias="moe.router_bias",
            gate="moe.gate_proj.weight",
            up="moe.up_proj.weight",
            down="moe.down_proj.weight",
            **shared("share_expert"),
        ),
        kind="Model",
        publish=(
            renamed(
                (r"^", "model."),
                (r"mlp\.shared_experts", "share_expert"),
                (r"mlp\.gate\.e_score_correction_bias", "moe.router_bias"),
                (r"mlp\.gate\.weight", "moe.gate.weight"),
                (r"mlp\.experts\.down_proj", "moe.down_proj.weight"),
                (r"mlp\.experts\.gate_up_proj", "moe.gate_up_proj.weight"),
            ),
            split_rows("gate_up_proj.weight", "gate_proj.weight", "up_proj.weight"),
            published_keys(
                mlp_layer_types=None,
                n_routed_experts=None,
                num_experts_per_tok=None,
                moe_layers_enum="1",
                moe_num_experts=8,
                moe_top_k=3,
            ),
            nested("step3p7", "Step3p7ForConditionalGeneration"),
        ),
    ),
    "solar_open": Tiny(
        "SolarOpen",
        dict(GROUPS, num_hidden_layers=1, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=DEEPSEEK,
    ),
    "glm5_next": Tiny(
        "Glm5NextText",
        dict(
            DENSE_FIRST,
            layer_types=["linear_attention", "linear_attention"],
            qk_rope_head_dim=0,
            swiglu_limit=1.0,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, activation=clamped_swiglu(1.0)),
        names=per_expert(layer="model.language_model.layers.{}.", **GATE_BIAS, **SHARED),
        kind="Model",
        publish=(
            renamed((r"^", "model.language_model.")),
            split_experts("mlp"),
            nested("glm5_next", "Glm5NextForConditionalGeneration"),
        ),
    ),
    "hy_v4": Tiny(
        "HYV4",
        dict(swiglu_limit=1.0, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, activation=clamped_swiglu(1.0), shared_activation=swiglu),
        names=fused(
            **GATE_BIAS, **shared("mlp.shared_experts", ("linear_gate", "up_proj", "down_proj"))
        ),
    ),
    "axk1": Tiny(
        "AXK1",
        dict(GROUPS, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=per_expert(output_norm="post_mlp_layernorm.weight", **GATE_BIAS, **SHARED),
        publish=(mark_dense_first(moe_layer_freq=1),),
    ),
    "axk2": Tiny(
        "AXK2",
        dict(n_group=4, topk_group=3, num_experts_per_tok=5, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, groups=4, kept_groups=3, group_best=2, mask=0.0),
        names=DEEPSEEK,
        publish=(mark_dense_first(moe_layer_freq=1),),
        # One expert of each group always has a negative sum, and masked ones are taken before it.
        biases=(0.1, -1.1, -1.2, 0.05, 0.0, -1.3, -1.15, 0.15),
    ),
    "beam": Tiny(
        "Beam",
        dict(DENSE_FIRST, **GROUPS, routed_scaling_factor=2.5),
        rules=deepseek_rules(**TWO_OF_FOUR, output_scale=2.5),
        names=per_expert(**GATE_BIAS),
    ),
    "dots3_note": Tiny(
        "Dots3Note",
        dict(
            DENSE_FIRST,
            **FULL_ATTENTION,
            **GROUPS,
            per_layer_config={},
            shared_experts_intermediate_size=16,
            routed_scaling_factor=2.5,
        ),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=DEEPSEEK,
        config_family="Dots3NoteText",
        publish=(
            mark_dense_first(
                moe_layer_freq=[0, 1],
                model_type="dots3_note",
                architectures=["Dots3NoteForConditionalGeneration"],
            ),
        ),
    ),
    "inkling2": Tiny(
        "Inkling2",
        dict(
            num_hidden_layers=1,
            mlp_gate_softcap=1.0,
            mlp_up_softcap=1.5,
            route_scale=2.5,
        ),
        rules=deepseek_rules(2.5, activation=softcapped_swiglu(1.0, 1.5)),
        names=Names(
            layer="model.llm.layers.{}.mlp.",
            router="gate.weight",
            choice_bias="gate.bias",
            gate="experts.w13_weight",
            down="experts.w2_weight",
            interleaved=True,
        ),
        config_family="Inkling2Text",
        publish=(nested("inkling2", "Inkling2ForConditionalGeneration"),),
    ),
    "glm4_moe_lite": Tiny(
        "Glm4MoeLite",
        dict(GROUPS, routed_scaling_factor=1.5),
        rules=deepseek_rules(1.5, **TWO_OF_FOUR),
        names=DEEPSEEK,
        publish=(mark_dense_first(),),
    ),
    "glm_moe_dsa": Tiny(
        "GlmMoeDsa",
        dict(first_k_dense_replace=1, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5),
        names=DEEPSEEK,
        publish=(mark_dense_first(),),
    ),
    "glm4v_moe": Tiny(
        "Glm4vMoeText",
        dict(
            routed_scaling_factor=1.5,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2]),
        ),
        rules=deepseek_rules(1.5),
        names=per_expert(layer="model.language_model.layers.{}.", **GATE_BIAS, **SHARED),
        kind="Model",
        publish=(
            renamed((r"^", "model.language_model.")),
            split_experts("mlp"),
            nested("glm4v_moe", "Glm4vMoeForConditionalGeneration"),
        ),
    ),
    "kimi_k25": Tiny(
        "DeepseekV3",
        dict(first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.827),
        rules=deepseek_rules(2.827),
        names=per_expert(layer="language_model.model.layers.{}.", **GATE_BIAS, **SHARED),
        publish=(
            renamed((r"^", "language_model.")),
            nested("kimi_k25", "KimiK25ForConditionalGeneration", text_type="kimi_k2"),
        ),
    ),
    "deepseek_v32": Tiny(
        "DeepseekV32",
        dict(GROUPS, first_k_dense_replace=1, routed_scaling_factor=2.5),
        rules=deepseek_rules(2.5, **TWO_OF_FOUR),
        names=DEEPSEEK,
        publish=(mark_dense_first(moe_layer_freq=1),),
    ),
}
