#!/usr/bin/env python3
"""Makes the golden folders: small random models and what their MoE blocks compute.

Needs torch, transformers, safetensors and numpy. Usage: make_golden.py [case ...]
"""

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from record_blocks import Rules, check_blocks, record_blocks, write_blocks  # noqa: E402

TOKENS = 33
VOCAB = 64
SMALLEST_GAP = 1e-5

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
    # The default of 0.02 gives outputs near zero and almost equal router scores.
    initializer_range=0.2,
    tie_word_embeddings=True,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)

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


MLA_SIZES = dict(
    q_lora_rank=8,
    kv_lora_rank=8,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    num_key_value_heads=2,
)

SHARED_SIZES = dict(
    intermediate_size=32,
    moe_intermediate_size=16,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_shared_experts=1,
    first_k_dense_replace=1,
)


@dataclass
class Case:
    family: str
    sizes: dict
    rules: Rules
    seed: int = 1
    dtype: torch.dtype = torch.float32
    save: dict = field(default_factory=dict)
    finish: tuple = ()
    transposed: bool = False

    def config(self):
        return getattr(transformers, f"{self.family}Config")(**{**COMMON, **self.sizes})

    def model_class(self):
        return getattr(transformers, f"{self.family}ForCausalLM")

    def model(self):
        torch.manual_seed(self.seed)
        model = self.model_class()(self.config()).to(self.dtype)
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):  # zeros, and then it chooses nothing
                tensor.uniform_(-0.3, 0.3)
        return model


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

    def model_class(self):
        return transformers.Qwen3VLMoeForConditionalGeneration


def name_experts_as_published(folder):
    # transformers 5 saves num_experts under another name than the published files use.
    path = folder / "config.json"
    config = json.loads(path.read_text())
    owner = config.get("text_config", config)
    owner["num_experts"] = owner.pop("num_local_experts")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def transpose_experts(folder):
    # The published checkpoints hold [E, H, 2F] and [E, F, H]; transformers 5 saves
    # [E, 2F, H] and [E, H, F], and tells the two apart by shape when it loads.
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name in weights:
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            weights[name] = weights[name].transpose(1, 2).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


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
        rules=Rules(renormalise=True),
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
    ),
    "qwen3_moe": Case(
        "Qwen3Moe", QWEN3_SIZES, rules=Rules(renormalise=True), finish=(name_experts_as_published,)
    ),
    "qwen3_moe_fused": Case(
        "Qwen3Moe", QWEN3_SIZES, rules=Rules(renormalise=True), save=dict(save_original_format=False)
    ),
    "qwen3_moe_sharded": Case(
        "Qwen3Moe", QWEN3_SIZES, rules=Rules(renormalise=True), save=dict(max_shard_size="90KB")
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
    "granitemoe": Case(
        "GraniteMoe",
        dict(intermediate_size=16, num_local_experts=8, num_experts_per_tok=2),
        rules=Rules(renormalise=True),
    ),
    "deepseek_v3": Case(
        "DeepseekV3",
        {
            **SHARED_SIZES,
            **MLA_SIZES,
            **dict(n_group=4, topk_group=2, routed_scaling_factor=2.5),
        },
        rules=Rules("sigmoid", True, 2.5, groups=4, kept_groups=2, group_best=2),
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
    ),
    "glm4_moe": Case(
        "Glm4Moe",
        dict(SHARED_SIZES, head_dim=8, routed_scaling_factor=1.5),
        rules=Rules("sigmoid", True, 1.5),
    ),
    "dots1": Case(
        "Dots1",
        dict(SHARED_SIZES, head_dim=8, n_group=1, topk_group=1, n_shared_experts=2),
        rules=Rules("sigmoid"),
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
        rules=Rules(renormalise=True),
        finish=(name_experts_as_published, transpose_experts),
        transposed=True,
    ),
}


def save_released(case, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        case.model().save_pretrained(scratch, **case.save)
        for path in Path(scratch).iterdir():
            if path.name != "generation_config.json":
                shutil.copyfile(path, folder / path.name)
    for step in case.finish:
        step(folder)


def make(name):
    case, folder = CASES[name], HERE / name
    save_released(case, folder)
    # Loading what was saved shows that the files alone define the expected results.
    model, loading = case.model_class().from_pretrained(
        folder,
        dtype=torch.float32,
        experts_implementation="eager",
        output_loading_info=True,
    )
    assert not any(loading.values()), f"{name}: {loading}"
    ids = torch.randint(
        VOCAB - 4, (TOKENS,), generator=torch.Generator().manual_seed(case.seed)
    )
    write_blocks(record_blocks(model.eval(), ids.tolist()), folder)
    error, gap, loads = check_blocks(folder, case.rules, case.transposed)
    assert gap >= SMALLEST_GAP, f"{name}: scores too close ({gap}), choose another seed"
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{name}: {size} bytes, relative error {error:.1e}, smallest gap {gap:.1e}")
    for layer, load in loads.items():
        print(f"  layer {layer}: slots of each expert {load.tolist()}")


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        make(name)


if __name__ == "__main__":
    main()
