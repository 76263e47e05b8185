"""Records what the MoE blocks of a transformers model compute.

Used by make_golden.py (beside this file) and examples/train_tiny.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from saved_block import BLOCKS_FILE


def experts_call(_module, args, _output):
    """Nearly every experts module is called with (hidden, expert, weight)."""
    return args[1], args[2]


def llama4_router(module, _args, output):
    """The experts see all tokens; the router gives sigmoids [T,E], zero where not chosen."""
    weight, expert = output[0].topk(module.top_k, dim=1)
    return expert, weight


def jetmoe_router(module, _args, output):
    """Gives the slots sorted by expert."""
    slot, _, weight, load, _ = output
    expert = torch.repeat_interleave(torch.arange(len(load)), torch.tensor(load))
    in_order = torch.argsort(slot)
    return expert[in_order].view(-1, module.top_k), weight[in_order].view(-1, module.top_k)


def pool_choice(second_pool):
    """Two modules each choose for the tokens of their pool; experts of the second count on."""
    tokens = (~second_pool).nonzero().flatten(), second_pool.nonzero().flatten()
    so_far = {}

    def read(module, args, _output):
        _, expert, weight = args
        second = len(expert) == len(tokens[1])
        if not second:
            so_far["expert"] = expert.new_zeros(len(second_pool), expert.shape[1])
            so_far["weight"] = weight.new_zeros(len(second_pool), weight.shape[1])
        so_far["expert"][tokens[second]] = expert + second * module.num_experts
        so_far["weight"][tokens[second]] = weight
        return so_far["expert"], so_far["weight"]

    return read


@dataclass
class Watch:
    """Which modules choose and which compute.

    chooser: pattern of the names of modules whose call tells experts and weights, by `read`.
    block: their ancestor that computes the block, as a number of name parts to drop.
    router: name, beside the chooser, of a router that reads something else than the block.
    second: what the second argument of the block is recorded as.
    inputs: further arguments of the model.
    """

    chooser: str = r"\.experts$"
    read: Callable = experts_call
    up: int = 1
    router: str = ""
    second: str = ""
    inputs: dict = field(default_factory=dict)


def _layer_index(module_name):
    return int(re.search(r"\b(?:layers|blocks)\.(\d+)\.", module_name).group(1))


def _flat(tensor):
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    return rows.to(torch.float32).contiguous().clone()


def _watch_choice(record, layer, read):
    def hook(module, args, kwargs, output):
        expert, weight = read(module, (*args, *kwargs.values()), output)
        record[f"layer.{layer}.expert"] = expert.to(torch.int32).contiguous().clone()
        record[f"layer.{layer}.weight"] = _flat(weight)

    return hook


def _watch_block(record, layer, second_name):
    def hook(module, args, kwargs, output):
        first, *others = (*args, *kwargs.values())
        record[f"layer.{layer}.input"] = _flat(first)
        if second_name and others and others[0] is not None:
            second = others[0]
            record[f"layer.{layer}.{second_name}"] = (
                _flat(second) if second.is_floating_point() else second.reshape(-1).long().clone()
            )
        result = output[0] if isinstance(output, tuple) else output
        record[f"layer.{layer}.output"] = _flat(result)

    return hook


def _watch_router(record, layer):
    def hook(module, args, kwargs, output):
        record[f"layer.{layer}.router_input"] = _flat((*args, *kwargs.values())[0])

    return hook


def record_blocks(model, input_ids, watch=None):
    """Runs one sequence of token ids and returns the tensors of the blocks file."""
    watch = watch or Watch()
    record = {"input_ids": torch.tensor(input_ids, dtype=torch.int32)}
    handles = []

    def listen(module, hook):
        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    for name, module in model.named_modules():
        if not re.search(watch.chooser, name):
            continue
        layer, parts = _layer_index(name), name.split(".")
        listen(module, _watch_choice(record, layer, watch.read))
        block = model.get_submodule(".".join(parts[: len(parts) - watch.up]))
        listen(block, _watch_block(record, layer, watch.second))
        if watch.router:
            router = model.get_submodule(".".join((*parts[:-1], watch.router)))
            listen(router, _watch_router(record, layer))
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([input_ids]), use_cache=False, **watch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return record


def write_blocks(record, folder):
    save_file(record, Path(folder) / BLOCKS_FILE)
