"""Singular values of one weight matrix, in float64, by the shorter road wherever it loses nothing.

Two roads. The *Gram road* takes the eigenvalues of the smaller of `w w^T` and `w^T w`; squaring costs
accuracy: a singular value at the fraction r of the largest keeps a relative accuracy of about eps / r^2
(Golub & Van Loan, Matrix Computations, 4th ed., section 8.6). The *SVD road* keeps every value to about eps
* sigma_max, and is about three times as slow. The rule: Gram, unless the smallest value lies under
`GRAM_FLOOR` times the largest; then SVD. Rows of zeros (structured pruning) are taken out of the Gram
matrix and give exact zeros, so they do not force the slow road.

LAPACK's four drivers of the symmetric problem (ev, evd, evr, evx) differ by less than 3 % without vectors: all of them
reduce the matrix to tridiagonal form and then iterate alike. The iteration is a third of the time at 576 eigenvalues
and half at 100; `tridiagonal` finds them faster. Whose LAPACK is fastest depends on the processor: `fastest_solver`
measures it.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import scipy.linalg

from workbench.errors import Refused

if TYPE_CHECKING:
    import torch

    Matrix: TypeAlias = "torch.Tensor | np.ndarray"

GRAM_FLOOR = 1e-5  # at this fraction the measured relative error is 4e-8 to 6e-8; at 1e-6 it is 1e-5


BLOCK = 1 << 23  # weights that are put into float64 at a time: 64 MB


class NotFinite(Refused):
    """The weights hold NaN or Inf. A table catches this to show the layer with its reason, not to stop at
    it."""


def singular_values(w: Matrix, *, exact: bool = False) -> np.ndarray:
    """All min(out, in) singular values of w [out, in], descending, float64, in the unit of the weights.

    `w` is a torch tensor or numpy array of any float dtype and is not changed. Values down to `GRAM_FLOOR` *
    sigma_max keep six digits or more; where smaller ones exist, all are exact to about eps * sigma_max.
    `exact`: take the SVD road whatever the values are. Raises `Refused` for a matrix that is not 2-D or not of floats,
    and for NaN or Inf."""
    a = as_matrix(w)
    exponent = _exponent(a)
    found = np.zeros(0) if exact else _by_gram(a, exponent)
    if exact or (len(found) and found[-1] < GRAM_FLOOR * found[0]):
        found = np.asarray(scipy.linalg.svdvals(_scaled(a, exponent, np.float64), check_finite=False))
    return _padded(found, a.shape) * 2.0**exponent


def live_singular_values(w: Matrix) -> np.ndarray:
    """A float32 preview of `singular_values(w)` for a slider that is being dragged; w [out, in] -> float32.

    About 1.6 times as fast. Values near 1e-3 of the largest are off by about 1 %, those under 2e-4 are
    noise, and nothing that is saved, fitted or printed should come from here. Raises `Refused` as
    `singular_values` does."""
    a = as_matrix(w)
    exponent = _exponent(a)
    return _padded(_by_gram(a, exponent, np.float32), a.shape) * np.float32(2.0**exponent)


def spectral_norm(w: Matrix) -> float:
    """||w||_2, the largest singular value of w [out, in]; 0.0 for an empty or zero matrix.

    The largest value loses nothing on the Gram road, so this never takes the slow one. Raises `Refused` as
    `singular_values` does."""
    a = as_matrix(w)
    exponent = _exponent(a)
    return float(_by_gram(a, exponent).max(initial=0.0) * 2.0**exponent)


def as_matrix(w: Matrix) -> np.ndarray:
    """w [out, in] as a float32 or float64 numpy array, perhaps its own memory, so not to be written into. Raises
    `Refused` for what is not 2-D or not floats, `NotFinite` for NaN or Inf."""
    if getattr(w, "ndim", None) != 2:
        shape = list(getattr(w, "shape", ())) or type(w).__name__
        raise Refused(
            f"spectrum: expected a weight matrix [out, in], got {shape}; reshape it first (a convolution: "
            "one [out, in] matrix per kernel position, or [out, in * height * width]: see `esd`)"
        )
    return as_array(w)


def as_array(w: Matrix) -> np.ndarray:
    """w of any shape as `as_matrix` gives it."""
    shape = list(w.shape)
    if not _holds_floats(w):
        raise Refused(
            f"spectrum: weight {shape} holds {w.dtype}, not floats; dequantize the codes "
            "before asking for their spectrum"
        )
    # Whatever is no numpy array is taken for a tensor, so that this room costs no `import torch`.
    if isinstance(w, np.ndarray):
        a = np.asarray(w, dtype=np.float32 if w.itemsize <= 4 else np.float64)
    else:
        a = (w.detach().float() if w.element_size() <= 4 else w.detach().double()).cpu().numpy()
    if not np.isfinite(_largest(a)):  # of NaN too; only now is it worth to look where
        finite = np.isfinite(a)
        first = np.argwhere(~finite)[0].tolist()
        raise NotFinite(
            f"spectrum: {finite.size - np.count_nonzero(finite)} of {finite.size} weights of {shape} "
            f"are NaN or Inf, the first at {first}; repair the checkpoint or leave this layer out"
        )
    return a


def _holds_floats(w: Matrix) -> bool:
    """Whether the dtype of w is a real floating-point one, half and quarter precision included."""
    return w.dtype.kind == "f" if isinstance(w, np.ndarray) else w.is_floating_point()


def _largest(a: np.ndarray) -> float:
    """The largest |element|, 0.0 where there is none; NaN where one is NaN."""
    return float(np.maximum(a.max(initial=0.0), -a.min(initial=0.0)))


def _exponent(a: np.ndarray) -> int:
    """The power of two near the largest entry of a: squares of 1e-200 or 1e200 leave float64, and a power of two moves
    them back without a rounding. Limited so that the power itself stays in range; what is left can be squared."""
    largest = _largest(a)
    limit = 1000 if a.dtype == np.float64 else 100
    return min(max(int(np.frexp(largest)[1]), -limit), limit)


def _scaled(a: np.ndarray, exponent: int, dtype: type[np.floating]) -> np.ndarray:
    """a / 2^exponent in `dtype`."""
    return np.multiply(a, 2.0**-exponent, dtype=np.result_type(a, dtype)).astype(dtype, copy=False)


def _gram(a: np.ndarray, exponent: int, dtype: type[np.floating]) -> np.ndarray:
    """The lower triangle of the smaller of a a^T and a^T a, of a [out, in] / 2^exponent, in `dtype`. Summed up in
    parts, so that a large matrix never lies in memory a second time in float64."""
    wide = a if a.shape[0] <= a.shape[1] else a.T
    gram = np.zeros((len(wide), len(wide)), dtype, order="F")
    step = max(1, BLOCK // max(1, len(wide)))
    for start in range(0, wide.shape[1] if len(wide) else 0, step):
        gram = lower_gram(_scaled(wide[:, start : start + step], exponent, dtype), gram)
    return gram


def lower_gram(w: np.ndarray, onto: np.ndarray | None = None) -> np.ndarray:
    """The lower triangle of w w^T, of w [n, k] in float32 or float64, [n, n] in the order of LAPACK; added to `onto`,
    in place, where there is one. NumPy's product would copy it to the other side, element by element."""
    gram = np.zeros((len(w), len(w)), w.dtype, order="F") if onto is None else onto
    turned = not w.flags.f_contiguous  # BLAS reads columns: of w, or of its transpose
    (rank_k,) = scipy.linalg.get_blas_funcs(("syrk",), dtype=w.dtype)
    return rank_k(1.0, w.T if turned else w, beta=1.0, c=gram, trans=turned, lower=1, overwrite_c=1)


def _by_gram(a: np.ndarray, exponent: int, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Singular values of a [out, in] / 2^exponent, descending, as roots of the eigenvalues of its smaller Gram matrix;
    without the zeros that its zero rows (or columns, where those are fewer) stand for."""
    gram = _gram(a, exponent, dtype)
    alive = gram.diagonal() > 0
    if not alive.all():
        gram = gram[np.ix_(alive, alive)]
    if not len(gram):
        return np.zeros(0, dtype=dtype)
    eigenvalues = symmetric_eigenvalues(gram)
    # Rounding puts the eigenvalues of a singular matrix on either side of zero.
    return np.sqrt(np.maximum(eigenvalues[::-1], 0.0))


def symmetric_eigenvalues(gram: np.ndarray) -> np.ndarray:
    """Eigenvalues, ascending, of a symmetric matrix [n, n], whose lower triangle is read and which may be overwritten,
    by the solver that is fastest on this machine."""
    if len(gram) < STURM_FROM:
        return _scipy(gram)
    if len(gram) >= MEASURED_FROM and (solver := fastest_solver()) != "sturm":
        try:
            return SOLVERS[solver](gram)
        except RuntimeError:  # the GPU's memory is full; these solvers leave the matrix as it was
            pass
    return _sturm(gram)


def _sturm(gram: np.ndarray) -> np.ndarray:
    # numba: half a second that who only lists layers need not wait, and once, before it is kept, four
    from workbench.spectra.tridiagonal import tridiagonal_eigenvalues

    lapack, lower = scipy.linalg.lapack, gram.flags.f_contiguous  # LAPACK reads columns
    reduce = lapack.ssytrd if gram.dtype == np.float32 else lapack.dsytrd
    columns = gram if lower else gram.T
    _, diagonal, beside, _, _ = reduce(columns, lower=lower, lwork=WORK * len(gram), overwrite_a=1)
    return tridiagonal_eigenvalues(diagonal, beside).astype(gram.dtype, copy=False)


def _scipy(gram: np.ndarray) -> np.ndarray:
    return scipy.linalg.eigvalsh(gram, driver="evr", overwrite_a=True, check_finite=False)


def _torch(gram: np.ndarray) -> np.ndarray:
    import torch

    return torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()


def _cuda(gram: np.ndarray) -> np.ndarray:
    import torch

    return torch.linalg.eigvalsh(torch.from_numpy(gram).cuda()).cpu().numpy()


SOLVERS = {"sturm": _sturm, "scipy": _scipy, "torch": _torch, "cuda": _cuda}
MEASURING = threading.Lock()  # two threads that time at once disturb each other, and may choose differently
MEASURED_FROM = 512  # eigenvalues from which a choice of solver is worth measuring
WORK = 64  # columns that LAPACK reduces together; it asks for 32
STURM_FROM = 48  # eigenvalues from which the way to their own solver is worth it


def fastest_solver() -> str:
    """The name in SOLVERS of the fastest on this machine, timed once on a random matrix of 512 rows (about 0.1 s).

    On an AMD Zen 4 scipy's OpenBLAS needs two thirds of the time of torch's MKL, and with the eigenvalues by Sturm
    counts three quarters of that; on Intel's MKL is ahead of OpenBLAS; a GPU wins where its float64 units do. torch
    takes part only where it is loaded already."""
    with MEASURING:
        return _measured("torch" in sys.modules)


@functools.cache
def _measured(with_torch: bool) -> str:
    names = ["sturm", "scipy"]
    if with_torch:
        import torch

        names += ["torch", "cuda"] if torch.cuda.is_available() else ["torch"]
    noise = np.random.default_rng(0).standard_normal((MEASURED_FROM, 2 * MEASURED_FROM))
    gram, seconds = noise @ noise.T, dict.fromkeys(names, float("inf"))
    for _round in range(3):  # the first warms up; the best counts
        for name in names:
            began = time.perf_counter()
            SOLVERS[name](gram.copy())
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return min(names, key=seconds.__getitem__)


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`values` followed by zeros, min(shape) of them in all."""
    return np.pad(values, (0, min(shape) - len(values)))
