"""MoE blocks in float64, read from a released checkpoint by tensor name.

Shares no code with transformers and needs no model class.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rules import rms_norm, sigmoid
from safetensors.torch import load_file

BLOCKS_FILE = "moe_blocks.safetensors"


@dataclass
class Names:
    """Tensor names of one family. All but `layer` follow the prefix of the layer.

    A name of expert tensors with {} is one tensor per expert. Without `up`, `gate` holds both:
    halves of the rows, or rows g0 u0 g1 u1 if interleaved. Without `gate`, there is none.
    """

    layer: str = "model.layers.{}."
    router: str = "mlp.gate.weight"
    router_bias: str = ""
    choice_bias: str = ""
    token_table: str = ""
    gate: str = ""
    up: str = ""
    down: str = ""
    gate_bias: str = ""
    down_bias: str = ""
    transposed: bool = False
    interleaved: bool = False
    flattened: bool = False
    shared_gate: str = ""
    shared_up: str = ""
    shared_down: str = ""
    shared_scale: str = ""
    latent_in: str = ""
    latent_out: str = ""
    output_bias: str = ""
    output_norm: str = ""
    router_scale: str = ""
    expert_scale: str = ""


PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
W132 = ("w1", "w3", "w2")


def per_expert(block="mlp", parts=PROJECTIONS, **others):
    gate, up, down = (f"{block}.experts.{{}}.{part}.weight" for part in parts)
    names = dict(router=f"{block}.gate.weight", gate=gate, up=up, down=down)
    return Names(**{**names, **others})


def fused(block="mlp", **others):
    names = dict(
        router=f"{block}.gate.weight",
        gate=f"{block}.experts.gate_up_proj",
        down=f"{block}.experts.down_proj",
    )
    return Names(**{**names, **others})


def shared(prefix, parts=PROJECTIONS):
    gate, up, down = (f"{prefix}.{part}.weight" for part in parts)
    return dict(shared_gate=gate, shared_up=up, shared_down=down)


class SavedBlock:
    """The MoE block of one layer."""

    def __init__(self, weights, layer, names, rules):
        self.weights, self.names, self.rules = weights, names, rules
        self.prefix = names.layer.format(layer)
        self.router = self._get(names.router)
        self.gate, self.up, self.down = self._experts()
        self.gate_bias, self.up_bias = self._halves(self._optional(names.gate_bias), axis=1)
        self.down_bias = self._optional(names.down_bias)

    def _get(self, name):
        return self.weights[self.prefix + name].double().numpy()

    def _optional(self, name):
        return self._get(name) if name else None

    def _stack(self, name):
        if not name:
            return None
        if "{}" not in name:
            tensor = self._get(name)
            return tensor.transpose(0, 2, 1) if self.names.transposed else tensor
        stack = []
        while self.prefix + name.format(len(stack)) in self.weights:
            stack.append(self._get(name.format(len(stack))))
        return np.stack(stack)

    def _halves(self, tensor, axis):
        if tensor is None:
            return None, None
        if self.names.interleaved:
            return tensor.take(range(0, tensor.shape[axis], 2), axis), tensor.take(
                range(1, tensor.shape[axis], 2), axis
            )
        return np.split(tensor, 2, axis=axis)

    def _experts(self):
        names = self.names
        gate, up, down = (self._stack(name) for name in (names.gate, names.up, names.down))
        if names.flattened:
            experts = len(self.router)
            gate, up, down = (
                tensor.reshape(experts, -1, tensor.shape[1]) for tensor in (gate, up, down)
            )
            down = down.transpose(0, 2, 1)
        if up is None:
            gate, up = self._halves(gate, axis=1)
        return gate, up, down

    def logits(self, x):
        if self.names.router_scale:
            x = rms_norm(x, self._get(self.names.router_scale), self.rules.norm_rows_eps)
            x = x / np.sqrt(x.shape[1])
        products = x @ self.router.T
        if self.names.router_bias:
            products = products + self._get(self.names.router_bias)
        return self.rules.logits(products)

    def route(self, x, top_k, recorded):
        """Experts [T,K], weights [T,K], smallest difference that decides a choice.

        `recorded` gives what else the block was called with, by name.
        """
        logits = self.logits(x)
        if self.names.token_table and self.prefix + self.names.token_table in self.weights:
            table = self.weights[self.prefix + self.names.token_table].numpy()
            expert = table[recorded("token_ids")]
            return expert, self.rules.weigh(logits, expert), np.inf
        bias = self._get(self.names.choice_bias).ravel() if self.names.choice_bias else 0.0
        expert, weight, gap = self.rules.route(logits, bias, top_k)
        if self.names.expert_scale:
            weight = weight * self._get(self.names.expert_scale)[expert]
        return expert, weight, gap

    def expert_row(self, e, x):
        if e >= len(self.down):  # an expert that computes nothing
            return x
        up = x @ self.up[e].T
        gate = None if self.gate is None else x @ self.gate[e].T
        if self.gate_bias is not None:
            gate, up = gate + self.gate_bias[e], up + self.up_bias[e]
        row = self.rules.activation(gate, up) @ self.down[e].T
        return row if self.down_bias is None else row + self.down_bias[e]

    def latent(self, x):
        return x @ self._get(self.names.latent_in).T if self.names.latent_in else x

    def routed(self, x, expert, weight):
        x = self.latent(x)
        y = np.zeros_like(x)
        for token, slot in np.ndindex(expert.shape):
            w, e = weight[token, slot], expert[token, slot]
            if self.rules.weighs_input:
                y[token] += self.expert_row(e, w * x[token])
            else:
                y[token] += w * self.expert_row(e, x[token])
        if self.names.latent_out:
            y = y @ self._get(self.names.latent_out).T
        return y * self.rules.output_scale

    def shared(self, x):
        names = self.names
        if not names.shared_down:
            return 0.0
        activation = self.rules.shared_activation or self.rules.activation
        gate = x @ self._get(names.shared_gate).T if names.shared_gate else None
        up = x @ self._get(names.shared_up).T
        y = activation(gate, up) @ self._get(names.shared_down).T
        return y * sigmoid(x @ self._get(names.shared_scale).T) if names.shared_scale else y

    def output(self, x, expert, weight):
        y = (self.routed(x, expert, weight) + self.shared(x)) * self.rules.combined
        if self.names.output_bias:
            y = y + self._get(self.names.output_bias)
        if self.names.output_norm:
            y = rms_norm(y, self._get(self.names.output_norm), self.rules.norm_rows_eps)
        return y


def _relative_error(actual, exact):
    return float(np.abs(actual - exact).max() / np.abs(exact).max())


def _load_checkpoint(folder):
    weights = {}
    for file in sorted(Path(folder).glob("model*.safetensors")):
        weights.update(load_file(file))
    return weights


def recorded_layers(record):
    return sorted(int(name.split(".")[1]) for name in record if name.endswith(".expert"))


def check_blocks(folder, rules, names, block_class=SavedBlock, output_tolerance=1e-5):
    """Compares the blocks file of a folder with float64 results from its checkpoint.

    `names` may be a function of the layer. Returns the largest relative error, the
    smallest difference that decides a choice of experts or groups, and the number of slots of
    each expert by layer.
    """
    weights, record = _load_checkpoint(folder), load_file(Path(folder) / BLOCKS_FILE)
    worst, gap, loads = 0.0, np.inf, {}
    for layer in recorded_layers(record):
        layer_names = names(layer) if callable(names) else names
        block = block_class(weights, layer, layer_names, rules)
        one_error, one_gap, expert = _check_layer(folder, layer, block, record)
        worst, gap = max(worst, one_error), min(gap, one_gap)
        loads[layer] = np.bincount(expert.ravel(), minlength=len(block.down))
    assert worst < output_tolerance, f"{folder}: relative error {worst}"
    return worst, gap, loads


def _check_layer(folder, layer, block, record):
    def recorded(name):
        tensor = record.get(f"layer.{layer}.{name}")
        return None if tensor is None else tensor.numpy()

    x, expert = recorded("input").astype(np.float64), recorded("expert")
    router_input = recorded("router_input")
    router_x = x if router_input is None else router_input.astype(np.float64)
    own, weight, gap = block.route(router_x, expert.shape[1], recorded)
    own_order, order = np.argsort(own, axis=1), np.argsort(expert, axis=1)
    sorted_own, sorted_expert = (
        np.take_along_axis(own, own_order, axis=1),
        np.take_along_axis(expert, order, axis=1),
    )
    assert (sorted_own == sorted_expert).all(), f"{folder}: experts of layer {layer}"
    found_weight = np.take_along_axis(recorded("weight"), order, axis=1)
    exact_weight = np.take_along_axis(weight, own_order, axis=1)
    weight_error = _relative_error(found_weight, exact_weight)
    assert weight_error < 1e-5, f"{folder}: relative error {weight_error} of weights"
    output_error = _relative_error(recorded("output"), block.output(x, own, weight))
    return max(weight_error, output_error), gap, expert
