"""Families whose routers take a softmax over all experts."""

import re

import torch
import transformers
from cases import (
    COMMON,
    DENSE_FIRST,
    MLA_SIZES,
    ONE_LAYER,
    PLAIN_ROPE,
    SHARED_SIZES,
    VOCAB,
    Case,
    Tiny,
    change_config,
    change_tensors,
    nested,
    published_keys,
    renamed,
    split_experts,
)
from rules import Rules
from saved_block import W132, Names, fused, per_expert, shared

QWEN3_SIZES = dict(
    head_dim=8,
    num_hidden_layers=4,
    decoder_sparse_step=2,
    intermediate_size=32,
    moe_intermediate_size=16,
    num_experts=8,
    num_experts_per_tok=2,
    norm_topk_prob=True,
)

GATED_SHARED = dict(shared("mlp.shared_expert"), shared_scale="mlp.shared_expert_gate.weight")
RENORMALISED = Rules(renormalise=True)


class VisionCase(Case):
    def config(self):
        text = {**COMMON, **self.sizes}
        vision = dict(
            depth=1,
            hidden_size=16,
            intermediate_size=16,
            num_heads=2,
            patch_size=2,
            temporal_patch_size=1,
            out_hidden_size=text["hidden_size"],
            num_position_embeddings=4,
            deepstack_visual_indexes=[],
            initializer_range=text["initializer_range"],
        )
        return transformers.Qwen3VLMoeConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=VOCAB - 4,
            video_token_id=VOCAB - 3,
            vision_start_token_id=VOCAB - 2,
            vision_end_token_id=VOCAB - 1,
            tie_word_embeddings=True,
        )


def name_experts_as_published(folder):
    """Transformers 5 saves num_experts under another name than the published files use."""

    def change(config):
        owner = config.get("text_config", config)
        owner["num_experts"] = owner.pop("num_local_experts")
        return config

    change_config(folder, change)


def transpose_experts(folder):
    """The published checkpoints hold [E, H, 2F] and [E, F, H]; transformers 5 saves
    [E, 2F, H] and [E, H, F], and tells the two apart by shape when it loads."""

    def change(tensors):
        fused_names = ("experts.gate_up_proj", "experts.down_proj")
        return {
            name: tensor.transpose(1, 2) if name.endswith(fused_names) else tensor
            for name, tensor in tensors.items()
        }

    change_tensors(folder, change)


def drop_zero_experts(folder):
    """Experts that compute nothing have no weights; transformers gives them a gate and up."""

    def change(tensors):
        down = re.compile(r"experts\.(\d+)\.down_proj")
        real = {m[1] for name in tensors if (m := down.search(name))}
        expert = re.compile(r"experts\.(\d+)\.")
        return {
            name: tensor
            for name, tensor in tensors.items()
            if not (m := expert.search(name)) or m[1] in real
        }

    change_tensors(folder, change)


CASES = {
    "mixtral": Case(
        "Mixtral",
        dict(
            hidden_size=64,
            head_dim=16,
            intermediate_size=16,
            num_local_experts=8,
            num_experts_per_tok=2,
        ),
        rules=RENORMALISED,
        names=per_expert("block_sparse_moe", W132),
    ),
    "qwen2_moe": Case(
        "Qwen2Moe",
        dict(
            num_hidden_layers=3,
            mlp_only_layers=[0],
            intermediate_size=32,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=20,
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=False,
        ),
        rules=Rules(),
        names=per_expert(**GATED_SHARED),
    ),
    "qwen3_moe": Case(
        "Qwen3Moe", QWEN3_SIZES, rules=RENORMALISED, finish=(name_experts_as_published,)
    ),
    "qwen3_moe_fused": Case(
        "Qwen3Moe",
        QWEN3_SIZES,
        rules=RENORMALISED,
        names=fused(),
        save=dict(save_original_format=False),
    ),
    "qwen3_moe_sharded": Case(
        "Qwen3Moe", QWEN3_SIZES, rules=RENORMALISED, save=dict(max_shard_size="90KB")
    ),
    "qwen3_moe_odd": Case(
        "Qwen3Moe",
        dict(
            hidden_size=72,
            head_dim=8,
            num_hidden_layers=1,
            intermediate_size=32,
            moe_intermediate_size=44,
            num_experts=10,
            num_experts_per_tok=3,
            norm_topk_prob=False,
        ),
        rules=Rules(),
    ),
    "olmoe": Case(
        "Olmoe",
        dict(
            hidden_size=64,
            intermediate_size=24,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=False,
        ),
        rules=Rules(),
        dtype=torch.bfloat16,
    ),
    "deepseek_v2": Case(
        "DeepseekV2",
        {
            **SHARED_SIZES,
            **MLA_SIZES,
            **dict(n_group=4, topk_group=2, routed_scaling_factor=16.0),
            **dict(topk_method="group_limited_greedy", n_shared_experts=2),
        },
        rules=Rules(scale=16.0, groups=4, kept_groups=2, mask=0.0),
        names=per_expert(**shared("mlp.shared_experts")),
    ),
    "qwen3_vl_moe": VisionCase(
        "Qwen3VLMoe",
        dict(
            hidden_size=40,
            head_dim=16,
            intermediate_size=32,
            moe_intermediate_size=24,
            num_experts=8,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            rope_parameters=dict(
                rope_type="default",
                rope_theta=10000.0,
                mrope_interleaved=True,
                mrope_section=[4, 2, 2],
            ),
        ),
        rules=RENORMALISED,
        names=fused(layer="model.language_model.layers.{}.", transposed=True),
        kind="ForConditionalGeneration",
        finish=(name_experts_as_published, transpose_experts),
    ),
    "phimoe": Tiny(
        "Phimoe",
        dict(ONE_LAYER, num_experts_per_tok=2, router_jitter_noise=0.3),
        rules=Rules(sparsemixer_jitter=0.3),
        names=per_expert("block_sparse_moe", W132),
    ),
    "ernie4_5_moe": Tiny(
        "Ernie4_5_Moe",
        dict(moe_layer_start_index=1, moe_num_shared_experts=2, moe_num_experts=6),
        rules=Rules(renormalise=True, norm_min=1e-12),
        names=per_expert(
            choice_bias="mlp.moe_statics.e_score_correction_bias",
            **shared("mlp.shared_experts"),
        ),
    ),
    "hunyuan_v1_moe": Tiny(
        "HunYuanMoEV1",
        ONE_LAYER,
        RENORMALISED,
        names=per_expert(router="mlp.gate.wg.weight", **shared("mlp.shared_mlp")),
        publish=(published_keys(moe_topk=[3], num_shared_expert=[1], moe_intermediate_size=[12]),),
    ),
    "minimax": Tiny("MiniMax", ONE_LAYER, RENORMALISED, names=per_expert("block_sparse_moe", W132)),
    "jamba": Tiny(
        "Jamba",
        dict(intermediate_size=12, attn_layer_period=1, attn_layer_offset=0),
        Rules(),
        names=per_expert("feed_forward", router="feed_forward.router.weight"),
    ),
    "longcat_flash": Tiny(
        "LongcatFlash",
        dict(num_layers=1, ffn_hidden_size=8, zero_expert_num=3, routed_scaling_factor=6.0),
        Rules(scale=6.0),
        names=per_expert(
            router="mlp.router.classifier.weight",
            choice_bias="mlp.router.e_score_correction_bias",
        ),
        publish=(drop_zero_experts,),
    ),
    "mistral4": Tiny(
        "Mistral4",
        dict(
            n_group=4,
            topk_group=2,
            routed_scaling_factor=1.5,
            first_k_dense_replace=1,
            head_dim=16,
        ),
        Rules(
            renormalise=True,
            norm_eps=1e-20,
            scale=1.5,
            groups=4,
            kept_groups=2,
            group_best=2,
            mask=0.0,
        ),
        names=fused(layer="language_model.model.layers.{}.", **shared("mlp.shared_experts")),
        publish=(
            renamed((r"^", "language_model.")),
            nested("mistral3", "Mistral3ForConditionalGeneration"),
        ),
    ),
    "mistral_large4": Tiny(
        "MistralLarge4Text",
        dict(n_group=4, topk_group=2, routed_scaling_factor=1.5),
        Rules(
            renormalise=True,
            norm_eps=1e-20,
            scale=1.5,
            groups=4,
            kept_groups=2,
            group_best=2,
            mask=0.0,
        ),
        names=Names(
            layer="layers.{}.",
            router="gate.weight",
            gate="experts.{}.w1.weight",
            up="experts.{}.w3.weight",
            down="experts.{}.w2.weight",
            **shared("shared_experts", W132),
        ),
        kind="Model",
        publish=(
            renamed(
                (r"(shared_experts|feed_forward)\.gate_proj", r"\1.w1"),
                (r"(shared_experts|feed_forward)\.up_proj", r"\1.w3"),
                (r"(shared_experts|feed_forward)\.down_proj", r"\1.w2"),
            ),
            nested("mistral_large4", "MistralLarge4ForConditionalGeneration"),
        ),
    ),
    "qwen3_5_moe": Tiny(
        "Qwen3_5Moe",
        dict(num_hidden_layers=1, layer_types=["full_attention"]),
        RENORMALISED,
        names=fused(layer="model.language_model.layers.{}.", **GATED_SHARED),
        config_family="Qwen3_5MoeText",
        save=dict(save_original_format=False),
        publish=(
            renamed((r"^model\.", "model.language_model.")),
            nested("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration"),
        ),
    ),
    "qwen3_next": Tiny(
        "Qwen3Next",
        dict(num_hidden_layers=1, layer_types=["full_attention"]),
        RENORMALISED,
        names=per_expert(**GATED_SHARED),
    ),
    "qwen4_exp": Tiny(
        "Qwen4Exp",
        dict(num_hidden_layers=1, layer_types=["linear_attention"]),
        RENORMALISED,
        names=per_expert(**GATED_SHARED),
        config_family="Qwen4ExpText",
    ),
    "dbrx": Tiny(
        "Dbrx",
        dict(
            tie_word_embeddings=False,
            d_model=32,
            n_heads=2,
            n_layers=1,
            max_seq_len=64,
            attn_config=dict(kv_n_heads=1, rope_theta=10000.0, clip_qkv=8.0),
            ffn_config=dict(
                hidden_size=32,
                ffn_hidden_size=12,
                moe_num_experts=8,
                moe_top_k=3,
                moe_normalize_expert_weights=2.0,
            ),
            **PLAIN_ROPE,
        ),
        Rules(renormalise=True, norm_power=2.0),
        names=Names(
            layer="transformer.blocks.{}.ffn.",
            router="router.layer.weight",
            gate="experts.mlp.w1",
            up="experts.mlp.v1",
            down="experts.mlp.w2",
            flattened=True,
        ),
    ),
    "flex_olmo": Tiny("FlexOlmo", dict(ONE_LAYER, norm_topk_prob=False), Rules()),
    "mellum": Tiny(
        "Mellum", dict(num_hidden_layers=1, layer_types=["full_attention"]), RENORMALISED
    ),
    "qwen3_omni_moe": Tiny(
        "Qwen3OmniMoeThinkerText",
        dict(num_hidden_layers=1, norm_topk_prob=True),
        RENORMALISED,
        names=per_expert(layer="thinker.model.layers.{}."),
        kind="Model",
        config_family="Qwen3OmniMoeText",
        publish=(
            renamed((r"^", "thinker.model.")),
            nested(
                "qwen3_omni_moe",
                "Qwen3OmniMoeForConditionalGeneration",
                at="thinker_config.text_config",
            ),
        ),
    ),
    "deepseek_ocr2": Tiny(
        "DeepseekOcr2Text",
        dict(DENSE_FIRST, n_shared_experts=2, routed_scaling_factor=1.5),
        Rules(scale=1.5),
        names=per_expert(**shared("mlp.shared_experts")),
        kind="Model",
        publish=(
            renamed((r"^", "model.")),
            split_experts("mlp"),
            nested("deepseek_ocr2", "DeepseekOcr2ForConditionalGeneration"),
        ),
    ),
}
