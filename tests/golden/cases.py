"""A case: the small model of one golden folder, how it is saved and how its blocks are checked."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers
from record_blocks import Watch
from rules import Rules
from safetensors.torch import load_file, save_file
from saved_block import PROJECTIONS, Names, SavedBlock, per_expert

TOKENS = 33
VOCAB = 64

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

# What configurations may call their sizes. Each takes those that it knows.
TINY = {
    **COMMON,
    **{
        key: value
        for value, keys in (
            (32, "hidden_size attention_chunk_size mamba_d_head"),
            (8, "intermediate_size ffn_hidden_size"),
            (16, "shared_expert_intermediate_size shared_intermediate_size"),
            (12, "moe_intermediate_size expert_ffn_hidden_size"),
            (8, "n_routed_experts num_experts num_local_experts moe_num_experts"),
            (3, "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts"),
            (2, "num_key_value_heads swa_num_attention_heads swa_num_key_value_heads"),
            (2, "num_sliding_attention_heads linear_num_key_heads linear_num_value_heads"),
            (2, "linear_num_heads mamba_num_heads mamba_n_heads index_n_heads o_groups"),
            (2, "linear_conv_kernel_dim mamba_d_conv conv_kernel short_conv_kernel_size"),
            (2, "hc_mult"),
            (8, "q_lora_rank kv_lora_rank o_lora_rank v_head_dim qk_rope_head_dim"),
            (8, "qk_nope_head_dim head_dim swa_head_dim linear_key_head_dim"),
            (8, "linear_value_head_dim linear_head_dim mamba_head_dim kv_channels"),
            (8, "router_hidden_size hc_lowrank"),
            (4, "ssm_state_size mamba_d_state mamba_dt_rank d_rel gated_norm_rank"),
            (16, "index_head_dim index_topk sliding_window sliding_window_size rel_extent"),
            (VOCAB, "unpadded_vocab_size vocab_size_per_layer_input"),
            (1, "n_groups"),
            (0, "hidden_size_per_layer_input"),
            (False, "use_mamba_kernels"),
        )
        for key in keys.split()
    },
}

# Zeros or ones when a model is new, and then they do nothing.
BIASES = (
    r"e_score_correction_bias$|expert_bias$|balancing_biases$|proj_bias$|"
    r"(router|\.mlp|router_mlp\.fc[12]|gate\.down_proj)\.bias$|(pre|post)_expert_norm\.weight$"
)
GAINS = (
    r"post_mlp_layernorm\.weight$|router\.scale$|per_expert_scale$|global_scale$|"
    r"router_states_scale$|router_mlp\.norm\.weight$"
)

# The tensors of what stands after attention in a layer.
FEED_FORWARD = (
    r"\.\d+\.(mlps?|moe|ffn|mixer|feed_forward|block_sparse_moe|shared_mlp|share_expert|"
    r"shared_experts|experts|gate|router|post_mlp_layernorm)\."
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

# One layer, and the width of the experts is called intermediate_size.
ONE_LAYER = dict(num_hidden_layers=1, intermediate_size=12)
DENSE_FIRST = dict(mlp_layer_types=["dense", "sparse"])
FULL_ATTENTION = dict(layer_types=["full_attention", "full_attention"])
PLAIN_ROPE = dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0))


@dataclass
class Case:
    family: str
    sizes: dict
    rules: Rules
    seed: int = 1
    dtype: torch.dtype = torch.float32
    recorded_in: torch.dtype = torch.float32
    save: dict = field(default_factory=dict)
    finish: tuple = ()
    names: Names | Callable = field(default_factory=per_expert)
    watch: Watch = field(default_factory=Watch)
    kind: str = "ForCausalLM"
    publish: tuple = ()
    biases: tuple = ()
    block: type = SavedBlock

    def config(self):
        return getattr(transformers, f"{self.family}Config")(**{**COMMON, **self.sizes})

    def model_class(self):
        return getattr(transformers, f"{self.family}{self.kind}")

    def model(self):
        torch.manual_seed(self.seed)
        model = self.model_class()(self.config()).to(self.dtype)
        for name, tensor in model.state_dict().items():
            if self.biases and name.endswith(("e_score_correction_bias", "balancing_biases")):
                tensor.copy_(torch.tensor(self.biases))
            elif re.search(BIASES, name):
                tensor.uniform_(-0.3, 0.3)
            elif re.search(GAINS, name):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("tid2eid"):
                tensor.random_(self.config().num_local_experts)
            elif tensor.dim() > 1 and not tensor.any():
                tensor.normal_(0.0, COMMON["initializer_range"])
        return model


@dataclass
class Tiny(Case):
    """A model with the sizes of TINY; only feed-forward tensors are kept."""

    config_family: str = ""

    def config(self):
        cls = getattr(transformers, f"{self.config_family or self.family}Config")
        known = cls.__dataclass_fields__
        sizes = {key: value for key, value in TINY.items() if key in known}
        return cls(**{**sizes, **self.sizes})


def change_config(folder, change):
    path = folder / "config.json"
    config = change(json.loads(path.read_text()))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = {name: t.contiguous() for name, t in change(load_file(path)).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def published_keys(**keys):
    """Replaces what transformers writes by the keys of the published files; None removes."""

    def change(config):
        config = {**config, **keys}
        return {key: value for key, value in config.items() if value is not None or key not in keys}

    return lambda folder: change_config(folder, change)


def nested(model_type, architecture, *, at="text_config", text_type=None):
    """The configuration of a text model as part of a larger one."""

    def change(text):
        text = {key: value for key, value in text.items() if key != "architectures"}
        text["model_type"] = text_type or text["model_type"]
        whole = {at: text}
        if "." in at:
            outer, inner = at.split(".")
            whole = {outer: {inner: text, "model_type": f"{model_type}_{outer.split('_')[0]}"}}
        return {"architectures": [architecture], "model_type": model_type, **whole}

    return lambda folder: change_config(folder, change)


def renamed(*patterns):
    """Renames tensors: (pattern, replacement), in this order."""

    def new_name(name):
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        return name

    return lambda folder: change_tensors(
        folder, lambda tensors: {new_name(name): t for name, t in tensors.items()}
    )


def split_experts(block, parts=PROJECTIONS):
    """One tensor per expert and projection, where transformers keeps fused ones."""

    def change(tensors):
        result = {}
        for name, tensor in tensors.items():
            prefix, found, projection = name.rpartition(f"{block}.experts.")
            if not found or projection not in ("gate_up_proj", "down_proj"):
                result[name] = tensor
                continue
            for e, one in enumerate(tensor):
                expert = f"{prefix}{found}{e}"
                if projection == "down_proj":
                    result[f"{expert}.{parts[2]}.weight"] = one
                else:
                    gate, up = one.chunk(2)
                    result[f"{expert}.{parts[0]}.weight"] = gate
                    result[f"{expert}.{parts[1]}.weight"] = up
        return result

    return lambda folder: change_tensors(folder, change)


def keep_feed_forward(folder):
    change_tensors(
        folder,
        lambda tensors: {n: t for n, t in tensors.items() if re.search(FEED_FORWARD, n)},
    )
