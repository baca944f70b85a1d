"""Rich or lazy: how far a training moved a network's representation and its tangent kernel.

A lazy training leaves both where they were and only re-weights them; a rich one builds new ones. Initial weights of
high rank lead to smaller changes, those of low rank to larger ones, unless their few directions suit the task already
(Liu et al. 2024, "How connectivity structure shapes rich and lazy learning in neural circuits"). Which of the ranks
below the paper's axes show could not be seen, so each has its own name. Kernels in, numbers out.
"""

from __future__ import annotations

import numpy as np

from workbench.errors import Refused


def kernel(features: np.ndarray) -> np.ndarray:
    """K = F F^T [inputs, inputs], uncentred: of hidden activity [inputs, units], or of a Jacobian [inputs * outputs,
    parameters], where it is the tangent kernel."""
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise Refused(f"a kernel is made of [inputs, features], not of {list(rows.shape)}: flatten the rest")
    return rows @ rows.T


def kernel_alignment(before: np.ndarray, after: np.ndarray, *, centred: bool = False) -> float:
    """<K0, Kf> / (||K0|| ||Kf||) of two kernels [n, n]: 1 where they agree up to scale. RA of activity, KA of tangents.

    Two kernels with a large common mean look aligned whatever they are; `centred` takes the means of rows and columns
    away first (Cortes, Mohri & Rostamizadeh 2012). NaN where a kernel is zero. Raises Refused for other shapes and for
    NaN or Inf."""
    one, two = (np.asarray(k, np.float64) for k in (before, after))
    if one.shape != two.shape or one.ndim != 2 or one.shape[0] != one.shape[1]:
        raise Refused(
            f"kernels of {list(one.shape)} and {list(two.shape)}: give two square ones of the same inputs"
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise Refused("a kernel holds NaN or Inf: the training diverged, take a smaller learning rate")
    if centred:
        one, two = _centred(one), _centred(two)
    size = np.linalg.norm(one) * np.linalg.norm(two)
    return float(np.vdot(one, two) / size) if size else float("nan")


def kernel_distance(before: np.ndarray, after: np.ndarray) -> float:
    """1 - kernel alignment: 0 lazy, towards 1 rich."""
    return 1.0 - kernel_alignment(before, after)


def sign_agreement(before: np.ndarray, after: np.ndarray) -> float:
    """Share of activations [inputs, units] that are on in both networks or off in both (on: above 0)."""
    one, two = np.asarray(before), np.asarray(after)
    if one.shape != two.shape or not one.size:
        raise Refused(f"activity of {list(one.shape)} and {list(two.shape)}: give the same units and inputs")
    return float(np.mean((one > 0) == (two > 0)))


def low_rank(w: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of w [out, in] of this rank, rescaled to w's Frobenius norm.

    Without the rescaling a low rank would also be a small scale, and small scales are rich by themselves."""
    full = np.asarray(w, np.float64)
    if full.ndim != 2 or not 1 <= rank <= min(full.shape):
        most = min(full.shape) if full.ndim == 2 else 0
        raise Refused(f"a weight of {list(full.shape)} has no approximation of rank {rank}: take 1 to {most}")
    if not np.isfinite(full).all():
        raise Refused(f"a weight of {list(full.shape)} holds NaN or Inf: nothing of a rank can be made of it")
    u, s, vt = np.linalg.svd(full, full_matrices=False)
    kept = np.linalg.norm(s[:rank])
    factor = np.linalg.norm(s) / kept if kept else 1.0
    return (u[:, :rank] * (s[:rank] * factor)) @ vt[:rank]


def ranks(w: np.ndarray) -> dict[str, float]:
    """Five ranks of w [out, in]: how many directions it uses, by five definitions. Refused for NaN, Inf, other shapes.

    `hard_rank`: values above rounding; `stable_rank`: sum s^2 / s_1^2; `participation_ratio`: (sum s^2)^2 / sum s^4;
    `entropy_rank`: exp of the entropy of s / sum s (Roy & Vetterli 2007); `energy_rank`: the same of s^2 / sum s^2.
    """
    matrix = np.asarray(w, np.float64)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise Refused(
            f"ranks: expected finite weights [out, in], got {list(matrix.shape)}, or NaN or Inf in them"
        )
    s = np.linalg.svd(matrix, compute_uv=False)
    if not s.size or not s[0]:
        return dict.fromkeys(RANKS, 0.0)
    energy = s**2
    return {
        "hard_rank": float(np.sum(s > s[0] * max(matrix.shape) * np.finfo(np.float64).eps)),
        "stable_rank": float(energy.sum() / energy[0]),
        "participation_ratio": float(energy.sum() ** 2 / np.sum(energy**2)),
        "entropy_rank": _exp_entropy(s),
        "energy_rank": _exp_entropy(energy),
    }


RANKS = ("hard_rank", "stable_rank", "participation_ratio", "entropy_rank", "energy_rank")


def _exp_entropy(weights: np.ndarray) -> float:
    p = weights[weights > 0] / weights.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def _centred(k: np.ndarray) -> np.ndarray:
    return k - k.mean(0) - k.mean(1, keepdims=True) + k.mean()
