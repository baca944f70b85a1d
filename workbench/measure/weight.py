"""How far a compressed weight is from the weight, and what it does to the layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import CompressedWeight
from .pyramid import error_cells

WEIGHT_COLUMNS = {
    "name": "layer",
    "role": "what the layer does",
    "method": "what was done to it; empty where it is unchanged",
    "bits_per_weight": "bits, with scales, zeros and mask",
    "relative_error": "||w' - w|| / ||w||, Frobenius",
    "output_relative_error": "||x (w' - w)^T|| / ||x w^T|| on the evaluation data; empty where nothing enters",
    "sqnr_db": "10 log10(sum w^2 / sum (w' - w)^2), dB",
    "cosine": "of w and w' as vectors",
    "max_error": "largest |w' - w|, in the weight's units",
    "sparsity": "share of weights that are pruned",
    "bytes": "stored size of codes, scales, zeros and mask",
}


def weight_errors(w: Tensor, compressed: CompressedWeight) -> dict[str, float]:
    """relative_error, sqnr_db, cosine, max_error of w [out, in]; see WEIGHT_COLUMNS for the definitions."""
    return error_cells(w.float(), compressed).numbers


class OutputError:
    """||x (w' - w)^T|| / ||x w^T|| over rows x [tokens, in] that arrive in batches."""

    def __init__(self, w: Tensor, change: Tensor):
        self.w, self.change = w, change  # [out, in] float32 each
        self.error = self.output = 0.0

    def add(self, x: Tensor) -> None:
        self.error += float(torch.linalg.vector_norm(x @ self.change.T).double() ** 2)
        self.output += float(torch.linalg.vector_norm(x @ self.w.T).double() ** 2)

    @property
    def value(self) -> float | None:
        return (self.error / self.output) ** 0.5 if self.output > 0 else None
