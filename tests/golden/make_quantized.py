#!/usr/bin/env python3
"""Makes the golden folders of quantised releases, from those of make_golden.py.

A folder has the configuration and the tensor names of its base, other sizes and random weights. What its blocks compute
is computed in float64 from the decoded weights. Needs torch, transformers, safetensors and numpy.
Usage: make_quantized.py [case ...]
"""

import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from make_golden import CASES, HERE, SMALLEST_GAP
from quantizers import (
    E8M0,
    fp8,
    gptq,
    int8,
    int_packed,
    mxfp4_blocks,
    mxfp4_bytes,
    mxfp4_packed,
    nvfp4,
    plain,
)
from safetensors.torch import load_file, save_file
from saved_block import BLOCKS_FILE, Names, per_expert, recorded_layers, shared
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

TOKENS = 33
BLOCK = r"\.\d+\.(mlp|ffn|mixer|feed_forward|block_sparse_moe)\.(?!(gate|up|down)_proj)"
EXPERTS = r"\.experts\.|shared_expert"
ROUTED = r"\.experts\."


@dataclass
class Quantized:
    base: str
    sizes: dict  # of the tensors: the base's → this one's
    config: dict
    quantization: dict
    quantize: tuple  # (pattern of names, quantizer), the first that fits
    names: Names | Callable | None = None
    prepare: Callable = lambda tensors: tensors
    dtype: torch.dtype = torch.bfloat16  # of what is not quantised
    seed: int = 1


def transposed(tensors):
    return {
        n: t.transpose(1, 2) if t.dim() == 3 else t for n, t in tensors.items()
    }


def one_by_one(tensors):
    """Of fused experts [E, in, out] those that stand alone."""
    result = {}
    for name, tensor in tensors.items():
        prefix, found, part = name.rpartition("experts.")
        if part not in ("gate_up_proj", "down_proj"):
            result[name] = tensor
            continue
        for e, one in enumerate(tensor.transpose(1, 2)):
            halves = zip(("gate_proj", "up_proj"), one.chunk(2))
            for half, weight in halves if part == "gate_up_proj" else [(part, one)]:
                result[f"{prefix}experts.{e}.{half}.weight"] = weight
    return result


def compressed(format, **weights):
    groups = dict(group_0=dict(targets=["Linear"], weights=weights))
    return dict(quant_method="compressed-tensors", format=format, config_groups=groups)


def change_names(base, **changes):
    return dataclasses.replace(CASES[base].names, **changes)


F8_GRID = dict(quant_method="fp8", weight_block_size=[16, 32], activation_scheme="dynamic")
WIDE = dict(hidden_size=72, moe_intermediate_size=44)
H64 = dict(hidden_size=64, moe_intermediate_size=32)

QUANTIZED = {
    "deepseek_v3_fp8": Quantized(
        "deepseek_v3",
        {48: 72, 16: 44},
        WIDE,
        F8_GRID,
        ((EXPERTS, fp8("weight_scale_inv", (16, 32))),),
    ),
    "qwen3_moe_fp8": Quantized(
        "qwen3_moe",
        {48: 40, 16: 20},
        dict(hidden_size=40, moe_intermediate_size=20),
        {**F8_GRID, "modules_to_not_convert": ["model.layers.3.mlp.experts"]},
        ((r"\.1\.mlp\.experts", fp8("weight_scale_inv", (16, 32), torch.bfloat16)),),
    ),
    "qwen3_5_moe_fp8_fused": Quantized(
        "qwen3_5_moe",
        {32: 72, 12: 44, 24: 88, 16: 20},
        {**WIDE, "shared_expert_intermediate_size": 20},
        F8_GRID,
        (
            (ROUTED, fp8("scale_inv", (16, 32))),
            (r"shared_expert\.", fp8("weight_scale_inv", (16, 32))),
        ),
    ),
    "llama4_fp8": Quantized(
        "llama4",
        {32: 48, 12: 20, 24: 40},
        dict(hidden_size=48, intermediate_size=20),
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        ((ROUTED, fp8("weight_scale", (1, 0), torch.bfloat16)),),
        names=per_expert(
            "feed_forward",
            layer="language_model.model.layers.{}.",
            router="feed_forward.router.weight",
            **shared("feed_forward.shared_expert"),
        ),
        prepare=one_by_one,
    ),
    "mixtral_fp8": Quantized(
        "mixtral",
        {64: 40, 16: 20},
        dict(hidden_size=40, intermediate_size=20),
        dict(quant_method="modelopt", quant_algo="FP8"),
        ((ROUTED, fp8("weight_scale", (0, 0))),),
    ),
    "mixtral_f16": Quantized(
        "mixtral",
        {64: 40, 16: 20},
        dict(hidden_size=40, intermediate_size=20),
        {},
        ((ROUTED, plain),),
        dtype=torch.float16,
    ),
    "deepseek_v4_mxfp4": Quantized(
        "deepseek_v4",
        {32: 64, 8: 48},
        dict(hidden_size=64, moe_intermediate_size=48),
        {**F8_GRID, "weight_block_size": [32, 32], "scale_fmt": "ue8m0"},
        ((ROUTED, mxfp4_bytes), (EXPERTS, fp8("scale", (32, 32), E8M0))),
    ),
    "gpt_oss_mxfp4": Quantized(
        "gpt_oss",
        {32: 64, 12: 32, 24: 64},
        dict(hidden_size=64, intermediate_size=32),
        dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.mlp.router"]),
        ((r"experts\.(gate_up|down)_proj$", mxfp4_blocks),),
        names=change_names("gpt_oss", transposed=False),
        prepare=transposed,
    ),
    "minimax_m2_mxfp4": Quantized(
        "minimax_m2",
        {48: 64, 16: 32},
        dict(hidden_size=64, intermediate_size=32),
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32),
        ((ROUTED, mxfp4_packed),),
    ),
    "minimax_m3_vl_mxfp8": Quantized(
        "minimax_m3_vl",
        {32: 64, 12: 32, 16: 40},
        dict(hidden_size=64, intermediate_size=32, shared_intermediate_size=40),
        dict(quant_method="mxfp8", ignored_layers=["shared_experts"]),
        ((ROUTED, fp8("weight_scale_inv", (1, 32), torch.uint8)),),
    ),
    "kimi_k25_int4": Quantized(
        "kimi_k25",
        {32: 64, 12: 40},
        dict(hidden_size=64, moe_intermediate_size=40),
        compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=32),
        ((ROUTED, int_packed(4, 32)),),
    ),
    "glm4_moe_int8": Quantized(
        "glm4_moe",
        {48: 40, 16: 20},
        dict(hidden_size=40, moe_intermediate_size=20),
        compressed("int-quantized", num_bits=8, type="int", strategy="channel"),
        ((EXPERTS, int8),),
    ),
    "qwen2_moe_gptq": Quantized(
        "qwen2_moe",
        {48: 64, 16: 32, 20: 48},
        {**H64, "shared_expert_intermediate_size": 48},
        dict(quant_method="gptq", bits=4, group_size=16, desc_act=False, sym=False),
        ((ROUTED, gptq(4, 16, False)), (r"shared_expert\.", gptq(4, 16, True))),
    ),
    "qwen3_moe_gptq": Quantized(
        "qwen3_moe",
        {48: 64, 16: 32},
        H64,
        dict(quant_method="gptq", bits=4, group_size=32, desc_act=False, sym=True),
        ((ROUTED, gptq(4, 32, True)),),
    ),
    "mixtral_packed_int8": Quantized(
        "mixtral",
        {64: 42, 16: 20},
        dict(hidden_size=42, intermediate_size=20),
        compressed("pack-quantized", num_bits=8, type="int", strategy="channel"),
        ((ROUTED, int_packed(8, 0)),),
    ),
    "olmoe_gptq_int8": Quantized(
        "olmoe",
        {64: 48, 24: 32},
        dict(hidden_size=48, intermediate_size=32),
        dict(quant_method="gptq", bits=8, group_size=16, sym=True, checkpoint_format="gptq_v2"),
        ((ROUTED, gptq(8, 16, True, 0)),),
    ),
    "nemotron_h_nvfp4": Quantized(
        "nemotron_h_latent",
        {32: 80, 24: 48, 16: 32, 20: 24},
        dict(
            hidden_size=80,
            moe_latent_size=48,
            moe_intermediate_size=32,
            moe_shared_expert_intermediate_size=24,
        ),
        dict(quant_method="modelopt", quant_algo="NVFP4", group_size=16),
        ((EXPERTS + r"|latent", nvfp4("", "_scale_2", False)),),
    ),
    "qwen3_next_nvfp4": Quantized(
        "qwen3_next",
        {32: 64, 12: 32, 16: 24},
        {**H64, "shared_expert_intermediate_size": 24},
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
        ((ROUTED, nvfp4("_packed", "_global_scale", True)),),
    ),
}


def random_tensors(case):
    torch.manual_seed(case.seed)
    tensors = {}
    for name, tensor in load_file(HERE / case.base / "model.safetensors").items():
        if not re.search(BLOCK, name):
            continue
        if not tensor.is_floating_point():
            tensors[name] = tensor
            continue
        experts = re.search(r"\.experts\.\w+$|gate\.weight$|router|bias$", name)
        kept = tensor.shape[:1] if experts else ()  # a number of experts
        shape = [*kept, *(case.sizes.get(size, size) for size in tensor.shape[len(kept) :])]
        spread = torch.empty(shape)
        if name.endswith("bias"):
            tensors[name] = spread.uniform_(-0.3, 0.3)
        else:
            tensors[name] = spread.normal_(0.0, 0.2)
    return case.prepare(tensors)


def store(case, tensors):
    """What is stored, and the same decoded under the names of plain weights."""
    stored, decoded = {}, {}
    for name, tensor in tensors.items():
        quantizer = next((q for p, q in case.quantize if re.search(p, name)), None)
        if quantizer is not None and not name.endswith("bias"):
            parts, decoded[name] = quantizer(name, tensor)
            stored.update(parts)
        else:
            one = tensor.to(case.dtype) if tensor.is_floating_point() else tensor
            stored[name] = decoded[name] = one
    return {name: t.contiguous() for name, t in stored.items()}, decoded


def change_config(case):
    config = json.loads((HERE / case.base / "config.json").read_text())
    text = config.get("text_config", config)
    missing = [key for key in case.config if key not in text]
    assert not missing, missing
    text.update(case.config)
    if case.quantization:
        config["quantization_config"] = case.quantization
    return config


def compute(case, decoded, base):
    generator = torch.Generator().manual_seed(case.seed)
    hidden = case.config["hidden_size"]
    record = {}
    for layer in recorded_layers(base):
        names = case.names or CASES[case.base].names
        names = names(layer) if callable(names) else names
        block = CASES[case.base].block(decoded, layer, names, CASES[case.base].rules)
        x = torch.randn(TOKENS, hidden, generator=generator)
        topk = base[f"layer.{layer}.expert"].shape[1]

        def recorded(name):
            return base[f"layer.{layer}.{name}"].numpy()

        expert, weight, gap = block.route(x.double().numpy(), topk, recorded)
        assert gap >= SMALLEST_GAP, f"scores too close ({gap}), choose another seed"
        y = block.output(x.double().numpy(), expert, weight)
        values = dict(input=x, expert=expert, weight=weight, output=y)
        types = dict(input=torch.float32, expert=torch.int32, weight=torch.float32)
        for name, value in values.items():
            tensor = torch.as_tensor(value).to(types.get(name, torch.float32)).contiguous()
            record[f"layer.{layer}.{name}"] = tensor
        if f"layer.{layer}.token_ids" in base:
            record[f"layer.{layer}.token_ids"] = base[f"layer.{layer}.token_ids"]
    return record


def check_mxfp4(stored, decoded):
    """transformers decodes the same."""
    for name, blocks in stored.items():
        if name.endswith("_blocks"):
            plain_name = name.removesuffix("_blocks")
            scales = stored[f"{plain_name}_scales"]
            theirs = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
            assert (theirs.transpose(1, 2).double() == decoded[plain_name]).all(), plain_name


def make(name):
    case = QUANTIZED[name]
    base = load_file(HERE / case.base / BLOCKS_FILE)
    stored, decoded = store(case, random_tensors(case))
    check_mxfp4(stored, decoded)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = change_config(case)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(compute(case, decoded, base), folder / BLOCKS_FILE)
    print(f"{name}: {sum(path.stat().st_size for path in folder.iterdir())} bytes")


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or QUANTIZED:
        make(name)


if __name__ == "__main__":
    main()
