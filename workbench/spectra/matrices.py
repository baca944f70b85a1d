"""How a weight becomes the matrices whose eigenvalues are pooled: a linear layer is one, a convolution has three
readings, an attention projection can be cut into its heads.

The reading of a convolution changes alpha, so it is always named. "slices" is WeightWatcher's (0.7.7, `pool=True`): a
matrix [out, in] for each place of the kernel, all multiplied by sqrt(1/2), their eigenvalues pooled. "im2col" is the
matrix that the convolution multiplies patches with, [out, in * height * width].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import Refused, near
from workbench.spectra.values import as_array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.spectra.values import Matrix

CONVOLUTIONS = ("slices", "im2col")
SLICE_FACTOR = math.sqrt(0.5)  # WeightWatcher's conv2d_norm with its pooled slices


@dataclass(frozen=True, eq=False)
class Matrices:
    """`parts`: matrices of one shape, in float32 or float64, each [out, in]. `N`, `M`: their larger and smaller
    dimension."""

    parts: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of each."""
        out, inner = self.parts[0].shape
        return int(out), int(inner)

    @property
    def N(self) -> int:
        return max(self.shape)

    @property
    def M(self) -> int:
        return min(self.shape)


def matrices(w: Matrix, conv: str = "slices") -> Matrices:
    """w [out, in], or a convolution [out, in, width] or [out, in, height, width], read as `conv` says.

    Raises `Refused` for vectors, scalars, other shapes, a kernel without places, integers, and a reading that does not
    exist; `NotFinite` for NaN or Inf."""
    check_reading(conv)
    if getattr(w, "ndim", None) not in (2, 3, 4):
        shape = list(getattr(w, "shape", ())) or type(w).__name__
        raise Refused(
            f"spectrum: expected a weight matrix [out, in] or a convolution [out, in, height, width], got {shape}; "
            "a vector (a bias, a norm) has no spectrum"
        )
    places = math.prod(w.shape[2:])
    if not places:
        raise Refused(
            f"spectrum: the kernel of a convolution {list(w.shape)} has no place; take at least 1 x 1"
        )
    a = as_array(w)
    if a.ndim == 2:
        return Matrices((a,))
    if conv == "im2col":
        return Matrices((a.reshape(len(a), a.shape[1] * places),))
    slices = np.moveaxis(a.reshape(*a.shape[:2], places), 2, 0)
    return Matrices(tuple(np.multiply(part, SLICE_FACTOR, dtype=np.float64) for part in slices))


def check_reading(conv: str) -> None:
    """Refused, with near names, for a reading of convolutions that does not exist."""
    if conv not in CONVOLUTIONS:
        raise Refused(
            f"spectrum: a convolution is read as {' or '.join(CONVOLUTIONS)}, not {conv!r}{near(conv, CONVOLUTIONS)}"
        )


def sizes(shape: Sequence[int], conv: str = "slices") -> tuple[int, int, int]:
    """(N, M, how many) of the `matrices` of a weight of this shape [out, in, ...], without its values."""
    places = math.prod(shape[2:])
    if conv == "im2col":
        shape, places = (shape[0], shape[1] * places), 1
    return max(shape[:2]), min(shape[:2]), places


def head_matrices(w: Matrix, heads: int, *, columns: bool = False) -> tuple[np.ndarray, ...]:
    """The matrices of the attention heads: w [heads * size, in] cut into rows (q, k, v), or w [out, heads * size] into
    columns (o). Raises `Refused` where the heads do not divide the dimension."""
    a = matrices(w).parts[0]
    size = a.shape[1] if columns else a.shape[0]
    if heads < 1 or size % heads:
        raise Refused(
            f"spectrum: {size} {'columns' if columns else 'rows'} cannot be cut into {heads} heads; "
            "take the number of heads (or of key-value heads) of the model's configuration"
        )
    return tuple(np.split(a, heads, axis=1 if columns else 0))
