"""Families whose routers take the largest logits and then a softmax or sigmoids of those."""

from cases import ONE_LAYER, PLAIN_ROPE, Case, Tiny, nested, renamed
from record_blocks import Watch, jetmoe_router, llama4_router
from rules import Rules, alpha_swiglu
from saved_block import Names, fused, per_expert, shared

GRANITE = Names(
    router="block_sparse_moe.router.layer.weight",
    gate="block_sparse_moe.input_linear.weight",
    down="block_sparse_moe.output_linear.weight",
)
CHOSEN_SOFTMAX = Rules(renormalise=True, choose_by="logit")

CASES = {
    "granitemoe": Case(
        "GraniteMoe",
        dict(intermediate_size=16, num_local_experts=8, num_experts_per_tok=2),
        rules=CHOSEN_SOFTMAX,
        names=GRANITE,
    ),
    "llama4": Tiny(
        "Llama4",
        dict(intermediate_size=12, intermediate_size_mlp=20, interleave_moe_layer_step=2),
        rules=Rules("sigmoid", choose_by="logit", weighs_input=True),
        names=fused(
            "feed_forward",
            layer="language_model.model.layers.{}.",
            router="feed_forward.router.weight",
            transposed=True,
            **shared("feed_forward.shared_expert"),
        ),
        watch=Watch(r"\.feed_forward\.router$", llama4_router),
        config_family="Llama4Text",
        publish=(
            renamed((r"^", "language_model.")),
            nested("llama4", "Llama4ForConditionalGeneration"),
        ),
    ),
    "gpt_oss": Tiny(
        "GptOss",
        dict(ONE_LAYER, swiglu_limit=1.25, **PLAIN_ROPE),
        rules=Rules(renormalise=True, choose_by="logit", activation=alpha_swiglu(1.702, 1.25)),
        names=fused(
            router="mlp.router.weight",
            router_bias="mlp.router.bias",
            gate_bias="mlp.experts.gate_up_proj_bias",
            down_bias="mlp.experts.down_proj_bias",
            transposed=True,
            interleaved=True,
        ),
    ),
    "openai_privacy_filter": Tiny(
        "OpenAIPrivacyFilter",
        dict(ONE_LAYER, swiglu_limit=1.25, **PLAIN_ROPE),
        rules=Rules(
            renormalise=True,
            choose_by="logit",
            scale=1 / 3,
            output_scale=3.0,
            activation=alpha_swiglu(1.702, 1.25),
        ),
        names=fused(
            router="mlp.router.weight",
            router_bias="mlp.router.bias",
            gate_bias="mlp.experts.gate_up_proj_bias",
            down_bias="mlp.experts.down_proj_bias",
            transposed=True,
        ),
        kind="ForTokenClassification",
    ),
    "granitemoeshared": Tiny("GraniteMoeShared", ONE_LAYER, CHOSEN_SOFTMAX, names=GRANITE),
    "granitemoehybrid": Tiny(
        "GraniteMoeHybrid",
        dict(ONE_LAYER, layer_types=["full_attention"]),
        CHOSEN_SOFTMAX,
        names=GRANITE,
    ),
    "granitemoe_swa": Tiny(
        "GraniteMoeSWA",
        ONE_LAYER,
        CHOSEN_SOFTMAX,
        names=fused("block_sparse_moe", router="block_sparse_moe.router.weight"),
    ),
    "cohere2_moe": Tiny(
        "Cohere2Moe",
        dict(
            num_shared_experts=2,
            intermediate_size=12,
            num_hidden_layers=1,
            layer_types=["full_attention"],
        ),
        Rules(renormalise=True, choose_by="logit", combined=0.5),
        names=per_expert(**shared("mlp.shared_experts")),
    ),
    "cohere2_moe_sigmoid": Tiny(
        "Cohere2Moe",
        dict(
            num_shared_experts=1,
            shared_expert_combination_strategy="sum",
            expert_selection_fn="sigmoid",
            intermediate_size=12,
            num_hidden_layers=1,
            layer_types=["full_attention"],
        ),
        Rules("sigmoid", renormalise=True, choose_by="logit"),
        names=per_expert(**shared("mlp.shared_experts")),
    ),
    "jetmoe": Tiny(
        "JetMoe",
        ONE_LAYER,
        CHOSEN_SOFTMAX,
        names=Names(
            router="mlp.router.layer.weight",
            gate="mlp.input_linear.weight",
            down="mlp.output_linear.weight",
            output_bias="mlp.bias",
        ),
        watch=Watch(r"\.mlp\.router$", jetmoe_router),
    ),
    "aria": Tiny(
        "AriaText",
        dict(ONE_LAYER, moe_num_shared_experts=2),
        CHOSEN_SOFTMAX,
        names=Names(
            layer="language_model.model.layers.{}.",
            router="mlp.router.weight",
            gate="mlp.experts.fc1.weight",
            down="mlp.experts.fc2.weight",
            transposed=True,
            **shared("mlp.shared_experts"),
        ),
        publish=(
            renamed((r"^", "language_model.")),
            nested("aria", "AriaForConditionalGeneration"),
        ),
    ),
}
