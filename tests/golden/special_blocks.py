"""Blocks in float64 that are not router, experts, weighted sum and a plain shared part."""

import math

import numpy as np
from rules import rms_norm, sigmoid
from saved_block import SavedBlock


class JointlyWeighedBlock(SavedBlock):
    """Inkling: the last S rows of the router weigh S shared experts, in one normalisation."""

    def route(self, x, top_k, _recorded):
        scores = sigmoid(x @ self.router.T)
        count = len(self.down)
        bias = np.concatenate([self._get("gate.bias"), np.full(len(self.router) - count, -np.inf)])
        expert, _, gap = self.rules.route(self.logits(x), bias, top_k)
        chosen = np.take_along_axis(scores, expert, axis=1)
        total = (chosen.sum(axis=1) + scores[:, count:].sum(axis=1))[:, None]
        factor = self.rules.scale * self._get("gate.global_scale") / total
        self.shared_weight = scores[:, count:] * factor
        return expert, chosen * factor, gap

    def shared(self, x):
        rows = self._get("shared_experts.shared_w13_weight")
        down = self._get("shared_experts.shared_w2_weight")
        gate, up = self._halves(rows, axis=1)
        y = 0.0
        for s, one in enumerate(down):
            inner = self.rules.activation(x @ gate[s].T, x @ up[s].T)
            y = y + self.shared_weight[:, s : s + 1] * (inner @ one.T)
        return y


class NormedLatentBlock(SavedBlock):
    """Muse Spark: a norm after the projection in, and one of each row before its weight."""

    PRE_EPS, POST_EPS = 1e-5, 1e-8

    def expert_row(self, e, x):
        row = super().expert_row(e, x)
        gain = 1.0 + self._get("experts.post_expert_norm.weight")
        return rms_norm(row * gain, 1.0, self.POST_EPS)

    def latent(self, x):
        gain = 1.0 + self._get("pre_expert_norm.weight")
        return rms_norm(super().latent(x), gain, self.PRE_EPS)


class StatefulRouterBlock(SavedBlock):
    """Zaya: a router of two layers adds the state of the router before it; the last class skips."""

    EPS = 1e-5

    def route(self, x, top_k, recorded):
        def linear(name, y):
            return y @ self._get(f"gate.{name}.weight").T + self._get(f"gate.{name}.bias")

        hidden, state = linear("down_proj", x), recorded("router_state")
        if state is not None:
            hidden = hidden + state * self._get("gate.router_states_scale")
        hidden = rms_norm(hidden, self._get("gate.router_mlp.norm.weight"), self.EPS)
        hidden = gelu(linear("router_mlp.fc1", hidden))
        hidden = gelu(linear("router_mlp.fc2", hidden))
        logits = hidden @ self.router.T
        expert, weight, gap = self.rules.route(logits, self._get("gate.balancing_biases"), top_k)
        skipped = expert == len(self.down)
        return np.where(skipped, 0, expert), np.where(skipped, 0.0, weight), gap


class TwoPoolBlock(SavedBlock):
    """Ernie VL: text tokens choose among the first E experts, others among the second E."""

    def __init__(self, weights, layer, names, rules):
        super().__init__(weights, layer, names, rules)
        self.router = self.router.T
        self.second_router = self._get("mlp.gate.weight_1").T

    def _stack(self, name):
        """The pools differ in width, so the experts stay a list."""
        count = 2 * self._get(self.names.router).shape[1]
        return [self._get(name.format(e)) for e in range(count)]

    def route(self, x, top_k, recorded):
        biases, second = self._get(self.names.choice_bias), recorded("second_pool") != 0
        pools = [
            self.rules.route(x @ router.T, bias, top_k)
            for router, bias in zip((self.router, self.second_router), biases, strict=True)
        ]
        (expert, weight, gap), (expert_2, weight_2, gap_2) = pools
        expert_2 = expert_2 + len(self.router)
        choose = second[:, None]
        return (
            np.where(choose, expert_2, expert),
            np.where(choose, weight_2, weight),
            min(gap, gap_2),
        )


def gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / np.sqrt(2.0)))
