"""Objectives: what methods that learn make small. Both are relative to the output's own energy.

layer    tr(D H D^T) / tr(W H W^T),  D = w^ - w: the squared output error on all calibration inputs, exactly
block    |run(x^, w^) - y|^2 / |y|^2: a block on the inputs it gets, against what the unchanged one answers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .base import Span

ALONE = "layer"  # the name of a weight that is learned alone


class Objective(Protocol):
    def loss(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        """The loss that step sees, differentiable."""
        ...

    def total(self, values: Mapping[str, Tensor]) -> float:
        """The loss on all data."""
        ...


class LayerError:
    """The squared output error of w^ against w [out, in], relative, under the inputs' hessian [in, in]."""

    def __init__(self, w: Tensor, hessian: Tensor):
        self.w, self.hessian = w, hessian
        self.energy = float(((w @ hessian) * w).sum()) or 1.0

    def loss(self, values: Mapping[str, Tensor], step: int = 0) -> Tensor:
        return _Quadratic.apply(values[ALONE] - self.w, self.hessian) / self.energy

    def total(self, values: Mapping[str, Tensor]) -> float:
        return float(self.loss(values))


class _Quadratic(torch.autograd.Function):
    """tr(D H D^T) for symmetric H, whose gradient 2 D H is known by then: one product instead of three."""

    @staticmethod
    def forward(ctx: Any, d: Tensor, h: Tensor) -> Tensor:
        product = d @ h
        ctx.save_for_backward(product)
        return (product * d).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return 2 * gradients[0] * ctx.saved_tensors[0], None


class BlockError:
    """The squared error of a block's output, relative; one batch a step, in an order drawn anew for each round."""

    def __init__(self, span: Span, seed: int = 0):
        self.span, self.count = span, len(span.inputs)
        self.energy = sum(float(y.square().sum()) for y in span.targets) / self.count or 1.0
        self.generator = torch.Generator().manual_seed(seed)
        self.order: list[int] = []

    def loss(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        if step % self.count == 0:
            self.order = torch.randperm(self.count, generator=self.generator).tolist()
        return self._of(values, self.order[step % self.count])

    def total(self, values: Mapping[str, Tensor]) -> float:
        return sum(float(self._of(values, i)) for i in range(self.count)) / self.count

    def _of(self, values: Mapping[str, Tensor], i: int) -> Tensor:
        return (
            self.span.run(self.span.inputs[i], values) - self.span.targets[i]
        ).square().sum() / self.energy
