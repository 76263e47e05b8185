#!/usr/bin/env python3
"""Times Hugging Face's experts beside `switchyard bench layer`, if that is given: configuration a, OLMoE's shape.

    bench/layer_transformers.py [--switchyard build/release/cli/switchyard] [--dtype f32] [--tokens 1,16,64,256,1024]

Needs PyTorch and transformers. The block has random weights; every call has other tokens, so that few weights are in the
caches. Both use as many threads as there are cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import torch
from transformers import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

HIDDEN, FFN, EXPERTS, TOPK = 2048, 1024, 64, 8
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
BATCHED_TOKENS = 16  # batched_mm copies the weights of every slot


def make_block(dtype, implementation):
    config = OlmoeConfig(hidden_size=HIDDEN, intermediate_size=FFN, num_experts=EXPERTS, num_experts_per_tok=TOPK)
    config._experts_implementation = implementation
    torch.manual_seed(1)
    block = OlmoeSparseMoeBlock(config).to(dtype)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return block.eval()


def median_ms(block, dtype, tokens, seconds):
    inputs = [torch.randn(1, tokens, HIDDEN, dtype=dtype) for _ in range(8)]
    times = []
    with torch.inference_mode():
        block(inputs[0])
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            begin = time.perf_counter()
            block(inputs[len(times) % len(inputs)])
            times.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(times)


def switchyard_ms(program, dtype, tokens):
    command = [program, "bench", "layer", "--config", "a", "--tokens", str(tokens), "--dtype", dtype, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["rows"][0]["ms"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--switchyard", help="the program, to time beside")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--tokens", default="1,16,64,256,1024")
    parser.add_argument("--seconds", type=float, default=2, help="for each time")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    dtype = DTYPES[options.dtype]
    print("tokens  " + "".join(f"{name:>12}" for name in IMPLEMENTATIONS) + f"{'switchyard':>12}  ms, {options.dtype}")
    blocks = {name: make_block(dtype, name) for name in IMPLEMENTATIONS}
    for tokens in map(int, options.tokens.split(",")):
        cells = []
        for name, block in blocks.items():
            runs = name != "batched_mm" or tokens <= BATCHED_TOKENS
            cells.append(f"{median_ms(block, dtype, tokens, options.seconds):12.1f}" if runs else f"{'-':>12}")
        if options.switchyard:
            cells.append(f"{switchyard_ms(options.switchyard, options.dtype, tokens):12.1f}")
        print(f"{tokens:6}  " + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
