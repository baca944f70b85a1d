"""How far a compressed weight is from the weight, and what it does to the layer's output."""

from __future__ import annotations

import torch
from torch import Tensor

from ..grid import CompressedWeight, Running
from .pyramid import error_cells

WEIGHT_COLUMNS = {
    "name": "layer",
    "role": "what the layer does",
    "method": "what was done to it; empty where it is unchanged",
    "bits_per_weight": "bits, with scales, zeros and mask",
    "relative_error": "||w' - w|| / ||w||, Frobenius",
    "output_relative_error": "||x (w' - w)^T|| / ||x w^T|| on the evaluation data; empty where nothing enters",
    "vs_plain": "error of the layer's output on the calibration data over that of the plain method (rtn, magnitude) "
    "with the same bits; of the weight where nothing was calibrated; above 1 it lost",
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
    """||y' - y|| / ||y|| of a layer's output y = x w^T over rows x [tokens, in] that arrive in batches; y' is that of
    what runs in its place, with its input quantized and its output shifted where that belongs to it."""

    def __init__(self, w: Tensor, running: Running):
        self.w, self.running = w, running  # w [out, in] float32
        self.error = self.output = 0.0

    def add(self, x: Tensor) -> None:
        run = self.running
        if run.inputs is None:
            change = x @ (run.matrix - self.w).T
        else:
            change = run.inputs(x) @ run.matrix.T - x @ self.w.T
        if run.shift is not None:
            change = change + run.shift
        self.error += float(torch.linalg.vector_norm(change).double() ** 2)
        self.output += float(torch.linalg.vector_norm(x @ self.w.T).double() ** 2)

    @property
    def value(self) -> float | None:
        return (self.error / self.output) ** 0.5 if self.output > 0 else None
