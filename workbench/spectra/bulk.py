"""The bulk: the part of a spectrum that a matrix of noise would have, its edge, and the spikes beyond it.

The density of the eigenvalues of X^T X for X [N, M] with independent entries of variance sigma^2 / N is, for Q = N / M,
rho(x) = Q sqrt((x+ - x)(x - x-)) / (2 pi sigma^2 x), x+- = sigma^2 (1 +- 1/sqrt Q)^2: Marchenko & Pastur 1967. The
largest eigenvalue of noise fluctuates about the edge by a scale of M^(-2/3) with the law of Tracy & Widom (Johnstone
2001, theorem 1.1). `fit_bulk` finds sigma as WeightWatcher 0.7.7 does, `median_bulk` from the median eigenvalue.

WeightWatcher's fit: eigenvalues are rescaled to mean 1; their density is estimated with a triangular kernel of width
0.1 at 1000 places; sigma is the minimum of the squared difference on a grid of 195 values, polished by Nelder & Mead.
Square matrices (Q = 1) are fitted in sigma with a quarter circle of fixed radius. The density depends on no sigma: it
is estimated once here, and 195 times there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq, fmin

from workbench.errors import Refused

WIDTH = 0.1  # of the kernel, in eigenvalues of mean 1 (square matrices: in their roots)
PLACES = 1000
FAINT = 0.01  # densities below are left out of the fit
GRID = np.arange(0.05, 2.0, 0.01)  # times sigma_max, the sigma whose edge is the largest eigenvalue
EPS = float(np.finfo(np.float64).eps)
# Between the two edges. Gaussian matrices, and all that are not square in the embedded networks, stay within 0.77 to
# 1.13; square layers reach from 1.1 to 69: the circle is stretched over the long shoulder that their density has.
APART = 1.5
REFUSED = 1000.0  # residual at every place where a sigma is out of question
TRACY_WIDOM = {
    0.5: -1.2686,
    0.9: 0.4501,
    0.95: 0.9793,
    0.99: 2.0234,
}  # quantiles of the law for real matrices


@dataclass(frozen=True)
class Bulk:
    """A fitted bulk. `sigma`: deviation of the entries times sqrt N, in eigenvalues of mean 1. `low`, `high`: edges of
    the bulk, and `reach`: where spikes begin, the edge with WeightWatcher's Tracy-Widom allowance; unit of the
    eigenvalues (weights squared). `spikes`: eigenvalues beyond `reach`. `scale`: factor to singular values of which the
    squares have mean 1. `softrank`: high / lambda_max. `problem`: empty, or why sigma is no fit."""

    sigma: float
    low: float
    high: float
    reach: float
    spikes: int
    scale: float
    softrank: float
    Q: float
    problem: str = ""


def mp_density(x: np.ndarray, Q: float, sigma: float = 1.0) -> np.ndarray:
    """The Marchenko-Pastur density at eigenvalues x [...] for aspect ratio Q >= 1 and deviation sigma; 0 outside the
    bulk. Raises `Refused` as `mp_edges` does, and for a sigma of 0, which has no density."""
    if sigma == 0:
        raise Refused("bulk: noise of deviation 0 has no density; take a sigma above 0")
    low, high = mp_edges(Q, sigma)
    x = np.asarray(x, float)
    inside = (x > max(low, 0.0)) & (x < high)
    at = np.where(inside, x, 1.0)
    root = np.sqrt(np.where(inside, (high - at) * (at - low), 0.0))
    return np.where(inside, Q * root / (2 * np.pi * sigma**2 * at), 0.0)


def mp_edges(Q: float, sigma: float = 1.0) -> tuple[float, float]:
    """x- and x+ of the bulk. Raises `Refused` for Q under 1 and a sigma under 0."""
    if not (1 <= Q < np.inf and 0 <= sigma < np.inf):
        raise Refused(
            f"bulk: Q {Q:g} is the larger dimension over the smaller, 1 or more, and sigma {sigma:g} is 0 or more; of "
            "a matrix that is wider than long take max(shape) / min(shape)"
        )
    return sigma**2 * (1 - Q**-0.5) ** 2, sigma**2 * (1 + Q**-0.5) ** 2


def tracy_widom_edge(N: int, M: int, variance: float, quantile: float = 0.95) -> float:
    """What the largest eigenvalue of X^T X stays under with probability `quantile` (0.5, 0.9, 0.95 or 0.99) for X
    [N, M] of noise with this variance (weights squared). Johnstone 2001, eqs. 1.3-1.5, with N - 1/2 and M - 1/2 (Ma
    2012), which is accurate from a dozen rows on."""
    if quantile not in TRACY_WIDOM:
        raise Refused(f"Tracy-Widom: quantile {quantile} is none of {', '.join(map(str, TRACY_WIDOM))}")
    if min(N, M) < 1 or not variance >= 0:
        raise Refused(
            f"Tracy-Widom: [{N}, {M}] of variance {variance:g}; take dimensions from 1 and a variance from 0"
        )
    a, b = np.sqrt(N - 0.5), np.sqrt(M - 0.5)
    return float(variance * ((a + b) ** 2 + TRACY_WIDOM[quantile] * (a + b) * (1 / a + 1 / b) ** (1 / 3)))


def fit_bulk(eigenvalues: np.ndarray, N: int, M: int) -> Bulk:
    """WeightWatcher's fit to eigenvalues [n], ascending, of matrices of dimensions N >= M. A fit that ran into the end
    of its grid, for which no sigma was possible, or beyond which all eigenvalues lie, says so in `problem`; its numbers
    are no fit. Raises `Refused` for N < M and where no eigenvalue is above zero."""
    Q = _ratio(N, M)
    scaled, scale = _scaled(eigenvalues)
    fitted = np.sqrt(scaled) if Q == 1 else scaled
    x, density = _density(fitted)
    sigma_max = np.sqrt(scaled[-1]) / (1 + Q**-0.5)
    grid = GRID * sigma_max
    residual = _residuals(grid, x, density, Q)
    at = int(np.argmin(residual))
    problem = ""
    if residual[at] >= REFUSED**2:
        problem = "no sigma puts the bulk over the peak of the density"
    elif at in (0, len(grid) - 1):
        problem = (
            "the best sigma lies at the end of the grid: the largest eigenvalue is too far from the bulk"
        )
    polished = fmin(lambda s: float(_residuals(np.asarray(s, float), x, density, Q)[0]), grid[at], disp=False)
    bulk = _bulk(scaled, scale, float(polished[0]), Q, M, problem)
    if not problem and bulk.spikes == len(scaled):
        return replace(bulk, problem=f"all {len(scaled)} eigenvalues lie beyond the bulk: there is none")
    return bulk


def doubt(fit: Bulk, median: Bulk, count: int) -> str:
    """Why the grid's `fit` to `count` eigenvalues is hardly one, where its edge and that of the median's bulk are far
    apart or half of the eigenvalues are spikes; else empty. Empty too where either has a problem of its own."""
    if fit.problem or median.problem:
        return ""
    ratio = fit.high / median.high
    if not 1 / APART < ratio < APART:
        return f"its edge is {ratio:.2g} times that of the median's bulk"
    return f"{fit.spikes} of {count} eigenvalues lie beyond it" if 2 * fit.spikes >= count else ""


def median_bulk(eigenvalues: np.ndarray, N: int, M: int) -> Bulk:
    """The bulk whose median is the median of eigenvalues [n], ascending: spikes do not move it. Gavish & Donoho 2014,
    section III.D, for the noise level of a matrix. Where half of them are zero the median is no noise, which `problem`
    says. Raises `Refused` as `fit_bulk` does."""
    Q = _ratio(N, M)
    scaled, scale = _scaled(eigenvalues)
    middle = float(np.median(scaled))
    zero = middle <= scaled[-1] * (N * EPS) ** 2
    sigma = float(np.sqrt(middle / _mp_median(Q)))
    return _bulk(scaled, scale, sigma, Q, M, "half of the eigenvalues are zero" if zero else "")


def _ratio(N: int, M: int) -> float:
    """Q = N / M of the larger and the smaller dimension."""
    if not N >= M >= 1:
        raise Refused(
            f"bulk: N {N} and M {M} are the larger and the smaller dimension of the matrix; pass N >= M >= 1: "
            "max(w.shape), min(w.shape)"
        )
    return N / M


def _scaled(eigenvalues: np.ndarray) -> tuple[np.ndarray, float]:
    """Eigenvalues of mean 1, ascending, and the factor that their roots were multiplied by."""
    values = np.sort(np.asarray(eigenvalues, float))
    total = values.sum()
    if not len(values) or not np.isfinite(total) or total <= 0:
        raise Refused("bulk: there is no eigenvalue above zero to fit")
    scale = np.sqrt(len(values)) / np.sqrt(total)
    return scale * scale * values, float(scale)


def _bulk(scaled: np.ndarray, scale: float, sigma: float, Q: float, M: int, problem: str) -> Bulk:
    low, high = mp_edges(Q, sigma)
    reach = high + np.sqrt(Q**-0.5 * high ** (2 / 3) * M ** (-2 / 3))
    back = 1 / (scale * scale)
    return Bulk(
        sigma=sigma,
        low=low * back,
        high=high * back,
        reach=float(reach * back),
        spikes=int(np.count_nonzero(scaled > reach)),
        scale=scale,
        softrank=float(high / scaled[-1]),
        Q=Q,
        problem=problem,
    )


def _density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangular-kernel density of values [n], ascending, at PLACES from 0 to half a unit beyond the largest; without
    the places where it is faint."""
    x = np.linspace(0, values[-1] + 0.5, PLACES)
    low, middle, high = (np.searchsorted(values, x + step) for step in (-WIDTH, 0.0, WIDTH))
    total = np.r_[0.0, np.cumsum(values)]
    # sum over the kernel of 1 - |x - v| / WIDTH, from running sums
    below = (middle - low) * x - (total[middle] - total[low])
    above = (total[high] - total[middle]) - (high - middle) * x
    density = ((high - low) - (below + above) / WIDTH) / (len(values) * WIDTH)
    seen = density > FAINT
    return x[seen], density[seen]


def _residuals(sigmas: np.ndarray, x: np.ndarray, density: np.ndarray, Q: float) -> np.ndarray:
    """Squared difference between the law and the density, summed over x [n], for each of sigmas [s]."""
    s = np.atleast_1d(sigmas)[:, None]
    if Q == 1:
        circle = np.sqrt(np.maximum(4 - x**2, 0.0))
        return np.square(circle / (np.pi * s * s) - density).sum(axis=1)
    low, high = s * s * (1 - Q**-0.5) ** 2, s * s * (1 + Q**-0.5) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        law = np.nan_to_num(Q / (2 * np.pi * s * s * x) * np.sqrt((high - x) * (x - low)), posinf=0.0)
    found = np.square(law - density).sum(axis=1)
    peak = x[np.argmax(density)]
    out = ((high < peak) | (high > x.max()) | (low > peak))[:, 0]
    return np.where(out, len(x) * REFUSED**2, found)


def _mp_median(Q: float) -> float:
    """Median of the Marchenko-Pastur law of variance 1."""
    low, high = mp_edges(Q)

    def above(middle: float) -> float:
        # x = low + (high - low) sin^2 a takes the roots at both ends out of the integral
        end = np.arcsin(np.sqrt((middle - low) / (high - low)))
        span = high - low
        mass, _ = quad(
            lambda a: (
                Q * span**2 * 2 * (np.sin(a) * np.cos(a)) ** 2 / (2 * np.pi * (low + span * np.sin(a) ** 2))
            ),
            1e-12,
            end,
        )
        return mass - 0.5

    return float(brentq(above, low + 1e-9, high))  # pyright: ignore[reportArgumentType]
