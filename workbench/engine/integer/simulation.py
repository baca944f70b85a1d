"""Simulation: what the integer network computes, once more in float64, written apart from its kernels.

Only the constants are the network's own: codes, zero points, multipliers, shifts. Every operation is done here by its
formula: zero points are taken off before a product, not after; roots and quotients are those of float64 with a floor;
exp and SiLU are evaluated, not looked up. Each number that is rounded is exact in float64 (see `ops`), so both have to
agree in every bit, and an `assert` holds the bound that this rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from .network import Block, IntegerNetwork
from .ops import (
    EXP_BITS,
    EXP_SIZE,
    EXP_STEP,
    RECIPROCAL,
    UNIT,
    Dyadic,
    Linear,
    Norm,
    Point,
    Product,
    Rotary,
    Softmax,
    Sum,
    Table,
)

Hear = Callable[[str, np.ndarray], None]  # hear(point, codes), codes as float64
EXACT = 2.0**53  # whole numbers up to here are float64


def simulated(network: IntegerNetwork, tokens: Tensor, hear: Hear = lambda point, codes: None) -> np.ndarray:
    """Token ids [windows, n] to logits [windows, n, vocabulary], float64 in units of `network.unit`."""
    x = doubles(network.embed)[tokens.numpy()]
    hear("embed", x)
    for index, block in enumerate(network.blocks):
        x = _block(network, block, x, lambda name, codes, i=index: hear(f"{i}.{name}", codes))
    x = norm(network.norm, x)
    hear("norm", x)
    return linear(network.head, x)


def _block(network: IntegerNetwork, block: Block, x: np.ndarray, hear: Hear) -> np.ndarray:
    windows, n, _ = x.shape
    made: dict[str, np.ndarray] = {}

    def keep(name: str, codes: np.ndarray) -> np.ndarray:
        hear(name, codes)
        return made.setdefault(name, codes)

    def heads(codes: np.ndarray, count: int) -> np.ndarray:
        return codes.reshape(windows, n, count, network.head_dim).swapaxes(1, 2)

    def shared(codes: np.ndarray) -> np.ndarray:
        return np.repeat(codes, network.heads // network.kv_heads, axis=1)

    h = keep("norm1", norm(block.norm1, x))
    q, k, v = (keep(name, linear(getattr(block, name), h)) for name in "qkv")
    q = keep("q_rot", rotary(block.q_rot, heads(q, network.heads)))
    k = keep("k_rot", rotary(block.k_rot, heads(k, network.kv_heads)))
    scores = keep("scores", product(block.scores, np.matmul, q, shared(k).swapaxes(2, 3)))
    probs = keep("probs", softmax(block.probs, scores))
    attn = product(block.attn, np.matmul, probs, shared(heads(v, network.kv_heads)))
    attn = keep("attn", attn.swapaxes(1, 2).reshape(windows, n, -1))
    mid = keep("mid", added(block.mid, x, keep("o", linear(block.o, attn))))
    h = keep("norm2", norm(block.norm2, mid))
    act = keep("act", silu(block.act, keep("gate", linear(block.gate, h))))
    hidden = keep("hidden", product(block.hidden, np.multiply, act, keep("up", linear(block.up, h))))
    return keep("out", added(block.out, mid, keep("down", linear(block.down, hidden))))


def doubles(x: Tensor) -> np.ndarray:
    return x.numpy().astype(np.float64)


def requantized(acc: np.ndarray, dyadic: Dyadic) -> np.ndarray:
    """floor(acc M / 2^n + 1/2)."""
    scaled = acc * doubles(dyadic.multiplier)
    assert np.abs(scaled).max() < EXACT / 2, "an accumulator is larger than was foreseen"
    return np.floor(scaled / 2.0 ** doubles(dyadic.shift) + 0.5)


def clamped(steps: np.ndarray, point: Point) -> np.ndarray:
    return np.clip(steps + point.zero, -(2.0 ** (point.bits - 1)), 2.0 ** (point.bits - 1) - 1)


def linear(op: Linear, x: np.ndarray) -> np.ndarray:
    """sum_i (x_i - zx)(w_oi - zw_o), requantized."""
    w = doubles(op.codes) - doubles(op.zero)[:, None]
    made = requantized((x - op.inputs.zero) @ w.T, op.dyadic)
    return made if op.outputs is None else clamped(made, op.outputs)


def norm(op: Norm, x: np.ndarray) -> np.ndarray:
    d = x - op.inputs.zero
    root = np.floor(np.sqrt((np.square(d).sum(-1, keepdims=True) + op.epsilon) * 4.0**op.t))
    root = np.maximum(root, 1.0)
    reciprocal = np.floor((2.0**RECIPROCAL + np.floor(root / 2)) / root)
    unit = np.floor(d * reciprocal / 2.0 ** (RECIPROCAL - op.t - UNIT) + 0.5)
    return clamped(requantized(unit * doubles(op.gain), op.dyadic), op.outputs)


def rotary(op: Rotary, x: np.ndarray) -> np.ndarray:
    d = x - op.inputs.zero
    n, half = x.shape[2], x.shape[3] // 2
    turned = np.concatenate([-d[..., half:], d[..., :half]], axis=-1)
    return clamped(requantized(d * doubles(op.cos)[:n] + turned * doubles(op.sin)[:n], op.dyadic), op.outputs)


def softmax(op: Softmax, scores: np.ndarray) -> np.ndarray:
    """round(2^15 exp(-place / 2^8)) over its sum, in units of 1 / levels; the future has probability 0."""
    seen = np.tril(np.ones(scores.shape[-2:], dtype=bool))
    greatest = np.where(seen, scores, -np.inf).max(-1, keepdims=True)
    place = requantized(np.where(seen, greatest - scores, 0.0), op.dyadic)
    place = np.minimum(place, EXP_SIZE * 2**EXP_STEP - 1)
    e = np.where(seen, np.rint(np.exp(-place / 2.0**EXP_STEP) * 2.0**EXP_BITS), 0.0)
    total = e.sum(-1, keepdims=True)
    levels = 2.0**op.outputs.bits - 1
    return clamped(np.floor((2 * e * levels + total) / (2 * total)), op.outputs)


def product(op: Product, multiply: Callable[..., Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return clamped(requantized(multiply(a - op.left.zero, b - op.right.zero), op.dyadic), op.outputs)


def added(op: Sum, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    acc = (a - op.left.zero) * op.factors[0] + (b - op.right.zero) * op.factors[1]
    assert np.abs(acc).max() < EXACT / 2, "a sum is larger than was foreseen"
    return clamped(np.floor(acc / 2.0**op.shift + 0.5), op.outputs)


def silu(op: Table, x: np.ndarray) -> np.ndarray:
    """round(x sigmoid(x) / s'), half to even."""
    values = (x - op.inputs.zero) * op.inputs.scale
    with np.errstate(over="ignore"):  # exp of a large -x is inf, and x / inf is the 0 that is meant
        made = values / (1 + np.exp(-values))
    return clamped(np.rint(made / op.outputs.scale), op.outputs)
