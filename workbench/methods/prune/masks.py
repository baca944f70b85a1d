"""Masks from saliencies: which weights stay, with one rule for ties everywhere.

True = kept. Exactly floor(sparsity * n) weights go, the least salient first, and of equal ones those that come
first in the flattened matrix (the order of a stable sort, found without sorting).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def keep_layer(saliency: Tensor, sparsity: float) -> Tensor:
    """Mask [out, in] that removes floor(sparsity * out * in) weights, compared over the whole matrix."""
    return keep_rows(saliency.reshape(1, -1), sparsity).reshape(saliency.shape)


def keep_rows(saliency: Tensor, sparsity: float) -> Tensor:
    """Mask [out, in] that removes floor(sparsity * in) weights of each row."""
    inputs = saliency.shape[1]
    removed = math.floor(sparsity * inputs + 1e-9)
    if removed == 0:
        return torch.ones_like(saliency, dtype=torch.bool)
    if removed == inputs:
        return torch.zeros_like(saliency, dtype=torch.bool)
    threshold = saliency.kthvalue(removed, 1, keepdim=True).values
    below, equal = saliency < threshold, saliency == threshold
    # Of those equal to the threshold the first few go, so that the count is exact.
    still = removed - below.sum(1, keepdim=True)
    return ~(below | (equal & (equal.cumsum(1) <= still)))


def keep_n_m(saliency: Tensor, kept: int, of: int) -> Tensor:
    """Mask [out, in] that keeps the `kept` most salient of every aligned run of `of` inputs.

    A shorter last run keeps `kept` as well, or all it has: its padding is the first to go.
    """
    out, inputs = saliency.shape
    runs = torch.nn.functional.pad(saliency, (0, -inputs % of), value=-math.inf).reshape(-1, of)
    order = runs.argsort(dim=1, stable=True)
    mask = torch.ones_like(runs, dtype=torch.bool)
    mask.scatter_(1, order[:, : of - kept], False)
    return mask.reshape(out, -1)[:, :inputs]
