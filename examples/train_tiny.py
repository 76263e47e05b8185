#!/usr/bin/env python3
"""Trains a byte-level Qwen3-MoE on the source of Python's standard library.

Writes the checkpoint in its released layout, a held-out text, and what the MoE blocks
compute for that text, to examples/tiny_qwen3_moe. Needs torch, transformers,
safetensors and numpy. How many steps fit into the time depends on the machine, and so
do the results.
"""

import argparse
import math
import shutil
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "golden"))
from record_blocks import record_blocks, write_blocks  # noqa: E402
from rules import Rules  # noqa: E402
from saved_block import check_blocks, per_expert  # noqa: E402

OUTPUT = HERE / "tiny_qwen3_moe"
TEXT_MODULE = "bisect.py"
TEXT_BYTES = 512
HELD_OUT = (TEXT_MODULE, "shelve.py", "sched.py", "fnmatch.py", "queue.py", "timeit.py")
# The code page tables of "encodings" are long runs of escapes that teach nothing else.
SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
}

SEED = 20
BATCH, LENGTH = 16, 256
PEAK_RATE, WARMUP = 3e-3, 0.03


def model_config():
    return Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=32,
        num_experts_per_tok=4,
        norm_topk_prob=True,
        router_aux_loss_coef=0.002,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def training_bytes(stdlib):
    files = []
    for path in sorted(stdlib.rglob("*.py")):
        inside = path.relative_to(stdlib)
        held_out = str(inside) in HELD_OUT
        if not held_out and SKIPPED_FOLDERS.isdisjoint(inside.parts):
            files.append(path.read_bytes())
    return as_tensor(b"\n".join(files))


def as_tensor(text):
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def random_batch(data, generator):
    starts = torch.randint(len(data) - LENGTH, (BATCH, 1), generator=generator)
    return data[starts + torch.arange(LENGTH)].long()


def learning_rate(progress):
    if progress < WARMUP:
        return PEAK_RATE * (progress / WARMUP + 1e-3)
    cosine = 0.5 + 0.5 * math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP))
    return PEAK_RATE * (0.02 + 0.98 * cosine)


@torch.no_grad()
def bits_per_byte(model, data):
    rows = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH).long()
    total = 0.0
    for batch in rows.split(BATCH):
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(
            logits.reshape(-1, 256), batch[:, 1:].reshape(-1), reduction="sum"
        ).item()
    return total / math.log(2) / (len(rows) * (LENGTH - 1))


def make_optimizer(model):
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.05)


def train(model, data, held_out, minutes):
    optimizer = make_optimizer(model)
    generator = torch.Generator().manual_seed(SEED)
    start, step, progress = time.monotonic(), 0, 0.0
    while progress < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        batch = random_batch(data, generator)
        # Asking for the router logits is what adds the load-balancing loss.
        loss = model(
            input_ids=batch, labels=batch, use_cache=False, output_router_logits=True
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        progress = (time.monotonic() - start) / (60 * minutes) if minutes > 0 else 1.0
        if step % 100 == 0:
            bits = bits_per_byte(model, held_out)
            print(
                f"step {step} done {progress:.0%} held out {bits:.3f} bits per byte",
                flush=True,
            )


def save_released(model):
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(scratch) / name, OUTPUT / name)


def write_expected(text, held_out):
    model = Qwen3MoeForCausalLM.from_pretrained(
        OUTPUT, dtype=torch.float32, experts_implementation="eager"
    ).eval()
    bits = bits_per_byte(model, held_out)
    print(f"saved weights: held out {bits:.3f} bits per byte")
    (OUTPUT / "text.txt").write_bytes(text)
    write_blocks(record_blocks(model, list(text)), OUTPUT)
    error, gap, loads = check_blocks(OUTPUT, Rules(renormalise=True), per_expert())
    print(f"relative error {error:.1e}, smallest gap between scores {gap:.1e}")
    for layer, load in loads.items():
        busiest, unused = load.max() / load.mean(), (load == 0).sum()
        print(f"layer {layer}: load max/mean {busiest:.2f}, experts unused {unused}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=14, help="time to train for")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)

    stdlib = Path(sysconfig.get_paths()["stdlib"])
    data = training_bytes(stdlib)
    held_out = as_tensor(b"\n".join((stdlib / name).read_bytes() for name in HELD_OUT))
    model = Qwen3MoeForCausalLM(model_config())
    print(f"{len(data)} bytes to train on, {len(held_out)} held out", flush=True)
    train(model, data, held_out, args.minutes)

    save_released(model.to(torch.bfloat16))
    write_expected((stdlib / TEXT_MODULE).read_bytes()[:TEXT_BYTES], held_out)


if __name__ == "__main__":
    main()
