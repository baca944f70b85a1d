"""Recipes from spectra: how much of each layer to prune, or how many bits to give it, by the exponent of its tail.

AlphaPruning (Lu et al. 2024): a small alpha is a heavy tail is a well-trained layer, which is pruned less. The same
signal the other way round gives bits. `metric="alpha_farms"` is the alpha of FARMS, free of the layers' shapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import Refused, near
from ..methods import Method, parameters_of
from ..spectra import shares
from ..spectra.allocation import EPS, spread
from .assign import assigned
from .recipe import Recipe, Step

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("alpha", "alpha_hill", "alpha_farms")
WIDTHS = range(2, 9)


def allocate(
    table: pd.DataFrame,
    method: Method,
    *,
    metric: str = "alpha",
    eps: float = EPS,
    by: str = "block",
) -> Recipe:
    """A recipe that gives each layer of a table of `spectra` its own `sparsity`, or `bits`, of `method`, with the
    method's own value as the mean over all weights.

    `eps`: shares lie between 1 - eps and 1 + eps times the mean, before they are clipped. `by`: "block", layers of a
    block share the mean of their alphas, as in the paper; or "layer". Layers without an alpha count as the median.
    Raises `Refused` for a method without either parameter, a metric that the table has not, and as `shares` does."""
    given = allocated(table, method, metric=metric, eps=eps, by=by)
    name = parameter(method)
    groups: dict[float, list[str]] = {}
    for layer, value in given.items():
        groups.setdefault(value, []).append(layer)
    return Recipe(
        [Step(method.with_(**{name: _value(name, v)}), ", ".join(groups[v])) for v in sorted(groups)]
    )


def allocated(
    table: pd.DataFrame, method: Method, *, metric: str = "alpha", eps: float = EPS, by: str = "block"
) -> dict[str, float]:
    """layer -> sparsity or bits, to look at or to change before a recipe is made of it."""
    if metric not in table:
        raise Refused(
            f"allocation: the table has no column {metric!r}{near(metric, METRICS)}; alpha_farms needs "
            'Reading(extra=("farms",))'
        )
    if by not in ("block", "layer"):
        raise Refused(f"allocation: by {by!r} is neither block nor layer")
    if "head" in table:
        raise Refused("allocation: these rows are of heads; measure whole layers, heads=False")
    alphas, sizes = _alphas(table, metric, by), (table["N"] * table["M"] * table["rf"]).to_numpy(float)
    if parameter(method) == "sparsity":
        mean = float(getattr(method, "sparsity"))  # noqa: B009
        return dict(zip(table["name"], np.round(shares(alphas, sizes, mean, eps=eps), 6), strict=True))
    return _bits(table, alphas, sizes, float(getattr(method, "bits")), eps)  # noqa: B009


def parameter(method: Method) -> str:
    """What is allocated: "sparsity" where the method has it, else "bits"."""
    names = {each.name for each in parameters_of(type(method))}
    if "sparsity" in names and getattr(method, "n_m", None) is None:
        return "sparsity"
    if "bits" in names:
        return "bits"
    raise Refused(
        f"allocation: {method.label} has neither a free sparsity nor bits to give to layers; take Wanda(sparsity=0.5) "
        "or RTN(bits=4), for example"
    )


def _alphas(rows: pd.DataFrame, metric: str, by: str) -> np.ndarray:
    """The alpha that each layer is judged by [n]."""
    alphas = rows[metric].to_numpy(float)
    known = np.isfinite(alphas)
    if not known.any():
        raise Refused(f"allocation: no layer has a finite {metric}: {rows['reason'].iloc[0]}")
    alphas = np.where(known, alphas, np.median(alphas[known]))
    if by == "block":
        # A layer outside blocks is a group of its own.
        blocks = rows["block"].astype(float).to_numpy(float)
        groups = np.where(np.isfinite(blocks), blocks.astype(str), rows["name"].to_numpy(str))
        for group in set(groups):
            alphas[groups == group] = alphas[groups == group].mean()
    return alphas


def _bits(
    rows: pd.DataFrame, alphas: np.ndarray, sizes: np.ndarray, mean: float, eps: float
) -> dict[str, float]:
    """The whole widths whose mean fits and that lie nearest to 1 + eps (heaviest tail) ... 1 - eps times the mean."""
    import pandas as pd

    r = 1 + eps * (1 - 2 * spread(alphas))
    wanted = r * mean * sizes.sum() / (sizes * r).sum()
    choices = [
        {"name": name, "method": str(width), "parameters": size, "bits_per_weight": float(width),
         "kl": size * (width - want) ** 2, "recipe": ""}
        for name, size, want in zip(rows["name"], sizes, wanted, strict=True)
        for width in WIDTHS
    ]  # fmt: skip
    return {name: float(width) for name, width in assigned(pd.DataFrame(choices), mean).items()}


def _value(name: str, value: float) -> float | int:
    return int(value) if name == "bits" else value
