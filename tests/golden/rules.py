"""What a family does with router logits and inside an expert, in float64 NumPy."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def sqrt_softplus(x):
    return np.sqrt(np.logaddexp(0.0, x))


def rms_norm(x, gain, eps):
    return gain * x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def silu(x):
    return x * sigmoid(x)


def swiglu(gate, up):
    return silu(gate) * up


def gelu_glu(gate, up):
    inner = np.sqrt(2.0 / np.pi) * (gate + 0.044715 * gate**3)
    return 0.5 * gate * (1.0 + np.tanh(inner)) * up


def relu_squared(_gate, up):
    return np.maximum(up, 0.0) ** 2


def clamped_swiglu(limit):
    """Bounds before the activation: DeepSeek-V4, HY-4, GLM-5-next."""
    return lambda gate, up: swiglu(np.minimum(gate, limit), np.clip(up, -limit, limit))


def swiglu_clamped(limit):
    """Bounds after the activation: Step-3.7."""
    return lambda gate, up: np.minimum(silu(gate), limit) * np.clip(up, -limit, limit)


def alpha_swiglu(alpha, limit):
    """One added to up, slope alpha in the sigmoid: GPT-OSS, MiniMax-M3."""

    def activation(gate, up):
        gate = np.minimum(gate, limit)
        return (np.clip(up, -limit, limit) + 1.0) * gate * sigmoid(alpha * gate)

    return activation


def softcapped_swiglu(gate_cap, up_cap):
    """Both factors bounded by tanh: Inkling-2."""

    def cap(x, bound):
        return bound * np.tanh(x / bound)

    return lambda gate, up: cap(gate, gate_cap) * sigmoid(gate) * cap(up, up_cap)


SCORES = {"softmax": softmax, "sigmoid": sigmoid, "sqrt_softplus": sqrt_softplus}


@dataclass
class Rules:
    """How a family turns logits [T,E] into experts and weights, and what it does with them.

    choose_by: what the selection bias is added to and the largest K of are taken.
    bf16_logits: the router runs in bf16.
    scale: multiplies the weights. output_scale: the routed sum. combined: routed + shared.
    """

    score: str = "softmax"
    renormalise: bool = False
    scale: float = 1.0
    groups: int = 0
    kept_groups: int = 0
    group_best: int = 1
    mask: float = -np.inf
    choose_by: str = "score"
    norm_power: float = 1.0
    norm_eps: float = 0.0
    norm_min: float = 0.0
    logit_scale: float = 1.0
    bf16_logits: bool = False
    softcap: float = 0.0
    sparsemixer_jitter: float = 0.0
    weighs_input: bool = False
    output_scale: float = 1.0
    combined: float = 1.0
    norm_rows_eps: float = 1e-6
    activation: Callable = swiglu
    shared_activation: Callable | None = None

    def logits(self, products):
        logits = products * self.logit_scale
        if self.bf16_logits:
            logits = torch.from_numpy(logits).bfloat16().double().numpy()
        return self.softcap * np.tanh(logits / self.softcap) if self.softcap else logits

    def scores(self, logits):
        return SCORES[self.score](logits)

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

    def choose(self, logits, bias, top_k):
        """The experts [T,K] and the smallest difference that decides a choice."""
        chosen_by = self.scores(logits) if self.choose_by == "score" else logits
        selection, group_gap = self.masked(chosen_by + bias)
        order = np.argsort(-selection, axis=1, kind="stable")
        ranked = np.take_along_axis(selection, order, axis=1)
        gap = (ranked[:, top_k - 1] - ranked[:, top_k]).min()
        return order[:, :top_k], min(gap, group_gap)

    def weights(self, scores):
        if self.renormalise:
            power = scores**self.norm_power
            total = power.sum(axis=1, keepdims=True) ** (1.0 / self.norm_power)
            scores = scores / np.maximum(total + self.norm_eps, self.norm_min)
        return scores * self.scale

    def route(self, logits, bias, top_k):
        """Experts [T,K], their weights [T,K], smallest gap of a choice."""
        if self.sparsemixer_jitter:
            return sparsemixer(logits, 2.0 * self.sparsemixer_jitter)
        expert, gap = self.choose(logits, bias, top_k)
        return expert, self.weigh(logits, expert), gap

    def weigh(self, logits, expert):
        return self.weights(np.take_along_axis(self.scores(logits), expert, axis=1))


def sparsemixer(logits, threshold):
    """Two maxima in turn, each weighed by a softmax over the logits near it (PhiMoE)."""
    rows = np.arange(len(logits))
    experts, weights, gaps = [], [], []
    left = logits.copy()
    for _ in range(2):
        ranked = np.sort(left, axis=1)
        top = ranked[:, -1:]
        distance = (top - logits) / np.maximum(np.abs(logits), top)
        near = np.where(distance > threshold, -np.inf, left)
        expert = left.argmax(axis=1)
        experts.append(expert)
        weights.append(softmax(near)[rows, expert])
        gaps += [(ranked[:, -1] - ranked[:, -2]).min(), np.abs(distance - threshold).min()]
        left[rows, expert] = -np.inf
    return np.stack(experts, axis=1), np.stack(weights, axis=1), min(gaps)
