"""Singular values of one weight matrix, in float64, by the shorter road wherever it loses nothing.

Two roads. The *Gram road* takes the eigenvalues of the smaller of `w w^T` and `w^T w`; squaring costs
accuracy: a singular value at the fraction r of the largest keeps a relative accuracy of about eps / r^2
(Golub & Van Loan, Matrix Computations, 4th ed., section 8.6). The *SVD road* keeps every value to about eps
* sigma_max, and is about three times as slow. The rule: Gram, unless the smallest value lies under
`GRAM_FLOOR` times the largest; then SVD. Rows of zeros (structured pruning) are taken out of the Gram
matrix and give exact zeros, so they do not force the slow road.

LAPACK's four drivers of the symmetric problem (ev, evd, evr, evx) were timed on 256, 576 and 1024
eigenvalues: without vectors they differ by less than 3 %, since all of them spend their time in the same
reduction to tridiagonal form. `evr` is scipy's default and is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.linalg

from workbench.errors import Refused

if TYPE_CHECKING:
    import torch

    Matrix: TypeAlias = "torch.Tensor | np.ndarray"

GRAM_FLOOR = 1e-5  # at this fraction the measured relative error is 4e-8 to 6e-8; at 1e-6 it is 1e-5


class NotFinite(Refused):
    """The weights hold NaN or Inf. A table catches this to show the layer with its reason, not to stop at
    it."""


def singular_values(w: Matrix) -> np.ndarray:
    """All min(out, in) singular values of w [out, in], descending, float64, in the unit of the weights.

    `w` is a torch tensor or numpy array of any float dtype and is not changed. Values down to `GRAM_FLOOR` *
    sigma_max keep six digits or more; where smaller ones exist, all are exact to about eps * sigma_max.
    Raises `Refused` for a matrix that is not 2-D or not of floats, and for NaN or Inf."""
    a, scale = _scaled(w, np.float64)
    found = _by_gram(a)
    if len(found) and found[-1] < GRAM_FLOOR * found[0]:
        found = np.asarray(scipy.linalg.svdvals(a, check_finite=False))
    return _padded(found, a.shape) * scale


def live_singular_values(w: Matrix) -> np.ndarray:
    """A float32 preview of `singular_values(w)` for a slider that is being dragged; w [out, in] -> float32.

    About 1.6 times as fast. Values near 1e-3 of the largest are off by about 1 %, those under 2e-4 are
    noise, and nothing that is saved, fitted or printed should come from here. Raises `Refused` as
    `singular_values` does."""
    a, scale = _scaled(w, np.float32)
    return _padded(_by_gram(a), a.shape) * np.float32(scale)


def spectral_norm(w: Matrix) -> float:
    """||w||_2, the largest singular value of w [out, in]; 0.0 for an empty or zero matrix.

    The largest value loses nothing on the Gram road, so this never takes the slow one. Raises `Refused` as
    `singular_values` does."""
    a, scale = _scaled(w, np.float64)
    return float(_by_gram(a).max(initial=0.0) * scale)


def as_matrix(w: Matrix) -> np.ndarray:
    """w [out, in] as a float64 numpy array, perhaps its own memory, so not to be written into. Raises
    `Refused` for what is not 2-D or not floats, `NotFinite` for NaN or Inf."""
    if getattr(w, "ndim", None) != 2:
        shape = list(getattr(w, "shape", ())) or type(w).__name__
        raise Refused(
            f"spectrum: expected a weight matrix [out, in], got {shape}; reshape it first (a convolution: "
            "one [out, in] matrix per kernel position, or [out, in * height * width])"
        )
    if not _holds_floats(w):
        raise Refused(
            f"spectrum: weight {list(w.shape)} holds {w.dtype}, not floats; dequantize the codes "
            "before asking for their spectrum"
        )
    # Whatever is no numpy array is taken for a tensor, so that this room costs no `import torch`.
    if isinstance(w, np.ndarray):
        a = np.asarray(w, dtype=np.float32 if w.itemsize <= 4 else np.float64)
    else:
        a = (w.detach().float() if w.element_size() <= 4 else w.detach().double()).cpu().numpy()
    finite = np.isfinite(a)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise NotFinite(
            f"spectrum: {finite.size - np.count_nonzero(finite)} of {finite.size} weights of {list(w.shape)} "
            f"are NaN or Inf, the first at [{row}, {column}]; repair the checkpoint or leave this layer out"
        )
    return a


def _holds_floats(w: Matrix) -> bool:
    """Whether the dtype of w is a real floating-point one, half and quarter precision included."""
    return w.dtype.kind == "f" if isinstance(w, np.ndarray) else w.is_floating_point()


def _scaled(w: Matrix, dtype: type[np.floating]) -> tuple[np.ndarray, float]:
    """w [out, in] in `dtype`, divided by a power of two near its largest entry, and that power of two."""
    a = as_matrix(w)
    working = np.result_type(a, dtype)
    largest = max(a.max(initial=0.0), -a.min(initial=0.0))
    # Squares of 1e-200 or 1e200 leave float64; a power of two moves them back without a rounding. The limit
    # keeps the power itself in range, and what is left of the extremes can be squared.
    limit = 1000 if working == np.float64 else 100
    exponent = min(max(int(np.frexp(largest)[1]), -limit), limit)
    return np.multiply(a, 2.0**-exponent, dtype=working).astype(dtype, copy=False), 2.0**exponent


def _by_gram(a: np.ndarray) -> np.ndarray:
    """Singular values of a [out, in], descending, as roots of the eigenvalues of its smaller Gram matrix;
    without the zeros that its zero rows (or columns, where those are fewer) stand for."""
    gram = a @ a.T if a.shape[0] <= a.shape[1] else a.T @ a
    alive = gram.diagonal() > 0
    if not alive.all():
        gram = gram[np.ix_(alive, alive)]
    if not len(gram):
        return np.zeros(0, dtype=a.dtype)
    eigenvalues = scipy.linalg.eigvalsh(gram, driver="evr", overwrite_a=True, check_finite=False)
    # Rounding puts the eigenvalues of a singular matrix on either side of zero.
    return np.sqrt(np.maximum(eigenvalues[::-1], 0.0))


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` followed by zeros, min(shape) of them in all."""
    return np.pad(values, (0, min(shape) - len(values)))
