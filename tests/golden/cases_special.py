"""Families whose blocks are more than router, experts, sum and shared experts."""

import torch
from cases import (
    DENSE_FIRST,
    TOKENS,
    Tiny,
    change_tensors,
    nested,
    published_keys,
    renamed,
)
from record_blocks import Watch, pool_choice
from rules import Rules, gelu_glu
from saved_block import Names, per_expert, shared
from special_blocks import (
    JointlyWeighedBlock,
    NormedLatentBlock,
    StatefulRouterBlock,
    TwoPoolBlock,
)

SECOND_POOL = torch.arange(TOKENS) % 3 == 1


def interleave(first, second):
    """Rows f0, s0, f1, s1 of tensors [..., F, H]."""
    return torch.stack((first, second), dim=-2).flatten(-3, -2)


def interleave_inkling(folder):
    """The rows of gate and up alternate in every published tensor, shared experts included."""

    def change(tensors):
        result = {}
        for name, tensor in tensors.items():
            stem, _, last = name.rpartition(".")
            if name.endswith("mlp.experts.gate_up_proj"):
                result[f"{stem}.w13_weight"] = interleave(*tensor.chunk(2, dim=1))
            elif name.endswith("mlp.experts.down_proj"):
                result[f"{stem}.w2_weight"] = tensor
            elif name.endswith("shared_experts.gate_proj"):
                rows = interleave(tensor, tensors[f"{stem}.up_proj"])
                result[f"{stem}.shared_w13_weight"] = rows
            elif name.endswith("shared_experts.down_proj"):
                result[f"{stem}.shared_w2_weight"] = tensor
            elif name.endswith("mlp.gate_proj.weight"):
                stem = stem.removesuffix(".gate_proj")
                rows = interleave(tensor, tensors[f"{stem}.up_proj.weight"])
                result[f"{stem}.w13_dn.weight"] = rows
            elif name.endswith("mlp.down_proj.weight"):
                result[f"{stem.removesuffix('.down_proj')}.w2_md.weight"] = tensor
            elif not name.endswith(("up_proj", "up_proj.weight")):
                result[name] = tensor
        return result

    change_tensors(folder, change)


def join_pools(folder):
    """One list of experts, the second pool behind the first; routers [H,E]; biases [2,E]."""

    def change(tensors):
        result = {}
        for name, tensor in tensors.items():
            if "_moe." not in name:
                result[name] = tensor
                continue
            stem, _, rest = name.partition("_moe.")
            second = stem.endswith("vision")
            stem = stem.rpartition(".")[0]
            if rest == "gate.weight":
                result[f"{stem}.gate.weight" + "_1" * second] = tensor.T
            elif rest == "gate.moe_statics.e_score_correction_bias":
                other = tensors[name.replace("text_moe", "vision_moe")]
                result[f"{stem}.{rest.removeprefix('gate.')}"] = torch.cat((tensor, other))
            else:
                for e, one in enumerate(tensor, start=second * len(tensor)):
                    parts = ("gate_proj", "up_proj") if "gate_up" in rest else ("down_proj",)
                    for part, rows in zip(parts, one.chunk(len(parts)), strict=True):
                        result[f"{stem}.experts.{e}.{part}.weight"] = rows
        return result

    def text_first(tensors):
        return change(dict(sorted(tensors.items(), reverse=True)))

    change_tensors(folder, text_first)


CASES = {
    "gemma4": Tiny(
        "Gemma4",
        dict(
            num_hidden_layers=1,
            enable_moe_block=True,
            layer_types=["full_attention"],
            per_layer_config={},
        ),
        rules=Rules(renormalise=True, activation=gelu_glu),
        names=Names(
            layer="model.language_model.layers.{}.",
            router="router.proj.weight",
            router_scale="router.scale",
            expert_scale="router.per_expert_scale",
            gate="experts.gate_up_proj",
            down="experts.down_proj",
        ),
        watch=Watch(up=0, router="router"),
        config_family="Gemma4Text",
        publish=(
            renamed((r"^model\.", "model.language_model.")),
            nested("gemma4", "Gemma4ForConditionalGeneration"),
        ),
    ),
    "muse_spark": Tiny(
        "MuseSparkText",
        dict(
            num_hidden_layers=1,
            moe_hidden_size=24,
            output_multiplier=0.7,
            routed_scaling_factor=2.5,
            layer_types=["full_attention"],
            layer_rope_theta=[10000.0],
        ),
        rules=Rules("sigmoid", renormalise=True, norm_eps=1e-15, scale=2.5, logit_scale=0.7),
        names=Names(
            layer="model.language_model.layers.{}.mlp.",
            router="gate.weight",
            choice_bias="gate.e_score_correction_bias",
            gate="experts.gate_up_proj",
            down="experts.down_proj",
            latent_in="pre_expert_proj.weight",
            latent_out="post_expert_proj.weight",
        ),
        block=NormedLatentBlock,
        kind="Model",
        publish=(
            renamed((r"^", "model.language_model.")),
            nested("muse_spark", "MuseSparkForConditionalGeneration"),
        ),
    ),
    "inkling": Tiny(
        "Inkling",
        dict(
            DENSE_FIRST,
            n_routed_experts=6,
            n_shared_experts=2,
            route_scale=2.5,
        ),
        rules=Rules("sigmoid", scale=2.5),
        names=Names(
            layer="model.llm.layers.{}.mlp.",
            router="gate.weight",
            gate="experts.w13_weight",
            down="experts.w2_weight",
            interleaved=True,
        ),
        block=JointlyWeighedBlock,
        config_family="InklingText",
        publish=(
            renamed((r"^model\.", "model.llm."), (r"gate\.e_score_correction_bias", "gate.bias")),
            interleave_inkling,
            published_keys(
                mlp_layer_types=None,
                dense_mlp_idx=1,
                moe_intermediate_size=None,
                intermediate_size=12,
                dense_intermediate_size=8,
            ),
            nested("inkling_mm_model", "InklingForConditionalGeneration"),
        ),
    ),
    "zaya": Tiny(
        "Zaya",
        dict(
            num_experts_per_tok=1,
            num_experts=4,
            moe_intermediate_size=8,
            router_hidden_size=16,
            initializer_range=0.5,
        ),
        rules=Rules(),
        names=Names(
            layer="model.layers.{}.mlp.",
            router="gate.router_mlp.out_proj.weight",
            gate="experts.gate_up_proj",
            down="experts.down_proj",
        ),
        watch=Watch(second="router_state"),
        block=StatefulRouterBlock,
        # The bias of the class that skips is -1 whatever the file says; the others lie around it.
        biases=(-0.95, -1.1, -0.9, -1.05, -1.0),
    ),
    "ernie4_5_vl_moe": Tiny(
        "Ernie4_5_VLMoeText",
        dict(
            DENSE_FIRST,
            moe_num_experts=4,
            moe_k=2,
            moe_intermediate_size=[12, 8],
            moe_num_shared_experts=1,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 2, 4]),
        ),
        rules=Rules(renormalise=True, norm_min=1e-12),
        names=per_expert(
            choice_bias="mlp.moe_statics.e_score_correction_bias", **shared("mlp.shared_experts")
        ),
        watch=Watch(
            r"\.(text|vision)_moe\.experts$",
            pool_choice(SECOND_POOL),
            up=2,
            second="second_pool",
            inputs=dict(moe_mm_token_type_ids=SECOND_POOL[None].int()),
        ),
        block=TwoPoolBlock,
        kind="Model",
        publish=(
            renamed((r"^", "model.")),
            join_pools,
            nested("ernie4_5_vl_moe", "Ernie4_5_VLMoeForConditionalGeneration"),
        ),
    ),
}
