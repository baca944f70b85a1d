"""The error variance that a grid promises before anything is rounded to it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..grid import CompressedWeight
from ..spectra import predicted_variance


def step_variance(w: Tensor, compressed: CompressedWeight) -> float:
    """Mean variance, weights squared, of rounding w [out, in] to the nearest value of the grid of `compressed`: from
    its steps, scales and where w lies between them, not from its codes. What a mask removes errs by itself, what a
    patch holds not at all. NaN where there are no steps: without a scale, or on a grid that is no list of values."""
    grid, scales = compressed.grid, compressed.scales
    try:
        levels = grid.values.double().numpy()
    except TypeError:
        return float("nan")
    if scales is None or len(levels) < 2:
        return float("nan")
    x, step = w.double(), compressed.blocks.expand(scales).double()
    scaled = x if compressed.input_scale is None else x * compressed.input_scale.double()
    if compressed.order is not None:
        scaled = scaled[:, compressed.order]
    units = scaled / step.where(step != 0, 1.0)
    if compressed.zero is not None:
        units = units + compressed.blocks.expand(compressed.zero.float())
    if getattr(grid, "mirrored", False):  # its values are magnitudes
        units = units.abs()
    found = predicted_variance(units.numpy(), levels, step.numpy())
    if compressed.order is not None:
        found = found[:, compressed.order.argsort().numpy()]
    if compressed.input_scale is not None:
        found = found / np.square(compressed.input_scale.double().numpy())
    if compressed.mask is not None:
        found = np.where(compressed.mask.numpy(), found, np.square(x.numpy()))
    if compressed.patch is not None:
        found[:, compressed.patch.columns.numpy()] = 0.0
    return float(found.mean())
