"""Records what the MoE blocks of a transformers model compute, checks it in float64.

Used by make_golden.py (beside this file) and examples/train_tiny.py.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

BLOCKS_FILE = "moe_blocks.safetensors"


@dataclass
class Rules:
    """How a family turns logits into experts and weights, in float64."""

    score: str = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 0
    kept_groups: int = 0
    group_best: int = 1
    mask: float = -np.inf

    def scores(self, logits):
        if self.score == "sigmoid":
            return sigmoid(logits)
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)

    def masked(self, selection):
        """The selection with dropped groups masked, and the smallest gap of a choice of groups."""
        if self.groups <= 1:
            return selection, np.inf
        grouped = selection.reshape(len(selection), self.groups, -1)
        best = np.sort(grouped, axis=2)[:, :, -self.group_best :].sum(axis=2)
        ranked = -np.sort(-best, axis=1)
        gap = (ranked[:, self.kept_groups - 1] - ranked[:, self.kept_groups]).min()
        kept = best >= ranked[:, self.kept_groups - 1 : self.kept_groups]
        return np.where(kept[:, :, None], grouped, self.mask).reshape(selection.shape), gap

    def weights(self, scores):
        if self.renormalise:
            scores = scores / scores.sum(axis=1, keepdims=True)
        return scores * self.scale


def _layer_index(module_name):
    return int(re.search(r"\blayers\.(\d+)\.", module_name).group(1))


def _flat(tensor):
    rows = tensor.detach().reshape(-1, tensor.shape[-1])
    return rows.to(torch.float32).contiguous().clone()


def _watch_experts(record, layer):
    # The experts module is called with (hidden, expert, weight) in every family,
    # while routers differ in what they return.
    def hook(module, args, kwargs):
        _, expert, weight = (*args, *kwargs.values())[:3]
        record[f"layer.{layer}.expert"] = expert.to(torch.int32).contiguous().clone()
        record[f"layer.{layer}.weight"] = _flat(weight)

    return hook


def _watch_block(record, layer):
    def hook(module, args, kwargs, output):
        first = args[0] if args else next(iter(kwargs.values()))
        record[f"layer.{layer}.input"] = _flat(first)
        result = output[0] if isinstance(output, tuple) else output
        record[f"layer.{layer}.output"] = _flat(result)

    return hook


def record_blocks(model, input_ids):
    """Runs one sequence of token ids and returns the tensors of the blocks file."""
    record = {"input_ids": torch.tensor(input_ids, dtype=torch.int32)}
    handles = []
    for name, module in model.named_modules():
        if not name.endswith(".experts"):
            continue
        layer = _layer_index(name)
        block = model.get_submodule(name.rpartition(".")[0])
        handles.append(
            module.register_forward_pre_hook(
                _watch_experts(record, layer), with_kwargs=True
            )
        )
        handles.append(
            block.register_forward_hook(_watch_block(record, layer), with_kwargs=True)
        )
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([input_ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return record


def write_blocks(record, folder):
    save_file(record, Path(folder) / BLOCKS_FILE)


def recorded_layers(record):
    return sorted(
        int(name.split(".")[1]) for name in record if name.endswith(".expert")
    )


class SavedBlock:
    """One MoE block in float64, read from a released checkpoint by tensor name."""

    def __init__(self, weights, layer, transposed):
        self.weights = weights
        self.prefix = self._find_prefix(layer)
        self.transposed = transposed
        self.router = self._first("gate.weight", "router.layer.weight")
        self.gate, self.up, self.down = self._experts(len(self.router))

    def _find_prefix(self, layer):
        for parent in ("model.", "model.language_model."):
            for block in ("mlp.", "block_sparse_moe."):
                prefix = f"{parent}layers.{layer}.{block}"
                if any(name.startswith(prefix) for name in self.weights):
                    return prefix
        raise KeyError(f"no MoE block in layer {layer}")

    def _get(self, suffix):
        tensor = self.weights.get(self.prefix + suffix)
        return None if tensor is None else tensor.double().numpy()

    def _first(self, *suffixes):
        return next(t for t in map(self._get, suffixes) if t is not None)

    def _experts(self, expert_count):
        for gate, up, down in (
            ("gate_proj", "up_proj", "down_proj"),
            ("w1", "w3", "w2"),
        ):
            if self._get(f"experts.0.{gate}.weight") is not None:
                return tuple(
                    np.stack(
                        [
                            self._get(f"experts.{e}.{n}.weight")
                            for e in range(expert_count)
                        ]
                    )
                    for n in (gate, up, down)
                )
        gate_up = self._first("experts.gate_up_proj", "input_linear.weight")
        down = self._first("experts.down_proj", "output_linear.weight")
        if self.transposed:
            gate_up, down = gate_up.transpose(0, 2, 1), down.transpose(0, 2, 1)
        gate, up = np.split(gate_up, 2, axis=1)
        return gate, up, down

    def logits(self, x):
        return x @ self.router.T

    def selection_bias(self):
        names = ("gate.e_score_correction_bias", "e_score_correction_bias")
        found = [t for t in map(self._get, names) if t is not None]
        return found[0] if found else 0.0

    def shared(self, x):
        for block in ("shared_expert", "shared_experts"):
            if self._get(f"{block}.gate_proj.weight") is not None:
                names = ("gate_proj", "up_proj", "down_proj")
                y = swiglu(x, *(self._get(f"{block}.{n}.weight") for n in names))
                gate = self._get(f"{block}_gate.weight")
                return y if gate is None else y * sigmoid(x @ gate.T)
        return np.zeros_like(x)

    def routed(self, x, expert, weight):
        y = np.zeros_like(x)
        for token, slot in np.ndindex(expert.shape):
            e = expert[token, slot]
            one = swiglu(x[token], self.gate[e], self.up[e], self.down[e])
            y[token] += weight[token, slot] * one
        return y


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def swiglu(x, gate, up, down):
    g = x @ gate.T
    return (g * sigmoid(g) * (x @ up.T)) @ down.T


def _relative_error(actual, exact):
    return float(np.abs(actual - exact).max() / np.abs(exact).max())


def _load_checkpoint(folder):
    weights = {}
    for file in sorted(Path(folder).glob("model*.safetensors")):
        weights.update(load_file(file))
    return weights


def check_blocks(folder, rules, transposed=False, tolerance=1e-5):
    """Compares the blocks file of a folder with float64 results from its checkpoint.

    Returns the largest relative error, the smallest difference that decides a choice of
    experts or groups, and the number of slots of each expert by layer.
    """
    weights, record = _load_checkpoint(folder), load_file(Path(folder) / BLOCKS_FILE)
    worst, gap, loads = 0.0, np.inf, {}
    for layer in recorded_layers(record):
        block = SavedBlock(weights, layer, transposed)
        x, expert, weight, output = (
            record[f"layer.{layer}.{name}"].numpy()
            for name in ("input", "expert", "weight", "output")
        )
        x, top_k = x.astype(np.float64), expert.shape[1]
        scores = rules.scores(block.logits(x))
        selection, group_gap = rules.masked(scores + block.selection_bias())
        order = np.argsort(-selection, axis=1, kind="stable")
        same = np.sort(order[:, :top_k], axis=1) == np.sort(expert, axis=1)
        assert same.all(), f"{folder}: experts of layer {layer}"
        ranked = np.take_along_axis(selection, order, axis=1)
        gap = min(gap, group_gap, (ranked[:, top_k - 1] - ranked[:, top_k]).min())
        exact_weight = rules.weights(np.take_along_axis(scores, expert, axis=1))
        exact = block.routed(x, expert, exact_weight) + block.shared(x)
        worst = max(
            worst, _relative_error(weight, exact_weight), _relative_error(output, exact)
        )
        loads[layer] = np.bincount(expert.ravel(), minlength=len(block.router))
    assert worst < tolerance, f"{folder}: relative error {worst}"
    return worst, gap, loads
