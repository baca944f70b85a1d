"""Recipes from spectra: how much of each layer to prune, or how many bits to give it, by the exponent of its tail.

AlphaPruning (Lu et al. 2024): a small alpha is a heavy tail is a well-trained layer, which is pruned less. The same
signal the other way round gives bits. `metric="alpha_peak"` is the exponent that AlphaPruning itself goes by;
`metric="alpha_farms"` is that of FARMS, free of the layers' shapes. Embeddings and heads are left alone, as they are
under a recipe's "*": with their many weights they would take a share of the budget that nothing else can have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import Refused, near
from ..methods import Method, parameters_of
from ..spectra import shares
from ..spectra.allocation import EPS, check_eps, spread
from .assign import assigned
from .plan import SPARED
from .recipe import Recipe, Step

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("alpha", "alpha_hill", "alpha_peak", "alpha_farms")
EXTRA_OF = {"alpha_peak": "peak", "alpha_farms": "farms"}  # the extra columns that a metric needs
GROUPS = ("block", "layer")
WIDTHS = range(2, 9)
WITH_BITS = ("int", "power", "kmeans")  # formats that have bits to choose


def allocate(
    table: pd.DataFrame,
    method: Method,
    *,
    metric: str = "alpha",
    eps: float = EPS,
    by: str = "block",
    spare: bool = True,
) -> Recipe:
    """A recipe that gives each layer of a table of `spectra` its own `sparsity`, or `bits`, of `method`, with the
    method's own value as the mean over all weights that it changes.

    `eps`: shares lie between 1 - eps and 1 + eps times the mean, before they are clipped. `by`: "block", layers of a
    block share the mean of their alphas, as in the paper; or "layer". Layers without an alpha count as the median.
    `spare`: leave what `left_alone` names out. Raises `Refused` for a method without either parameter, a metric that
    the table has not, an eps outside 0 to 1, and as `shares` does."""
    given = allocated(table, method, metric=metric, eps=eps, by=by, spare=spare)
    name = parameter(method)
    groups: dict[float, list[str]] = {}
    for layer, value in given.items():
        groups.setdefault(value, []).append(layer)
    count = "1 group" if len(groups) == 1 else f"{len(groups)} groups"
    return Recipe(
        [Step(method.with_(**{name: _value(name, v)}), ", ".join(groups[v])) for v in sorted(groups)],
        label=f"{method.label} by {metric} ({count})",
    )


def allocated(
    table: pd.DataFrame,
    method: Method,
    *,
    metric: str = "alpha",
    eps: float = EPS,
    by: str = "block",
    spare: bool = True,
) -> dict[str, float]:
    """layer -> sparsity or bits, to look at or to change before a recipe is made of it."""
    check_allocation(method, eps=eps, by=by)
    if metric not in table or table[metric].dtype.kind not in "fiu":
        known = [name for name in METRICS if name in table]
        extra = f'; measure with extra=("{EXTRA_OF[metric]}",)' if metric in EXTRA_OF else near(metric, known)
        raise Refused(f"allocation: the table has no numbers in {metric!r}{extra}")
    if "head" in table:
        raise Refused("allocation: these rows are of heads; measure whole layers, heads=False")
    alone = left_alone(table, method, spare=spare)
    rows = table.loc[~table["name"].isin(list(alone))]
    if not len(rows):
        raise Refused(f"allocation: no layer is left to change: {'; '.join(sorted(set(alone.values())))}")
    alphas, sizes = _alphas(rows, metric, by), (rows["N"] * rows["M"] * rows["rf"]).to_numpy(float)
    if parameter(method) == "sparsity":
        mean = float(getattr(method, "sparsity"))  # noqa: B009
        return dict(zip(rows["name"], np.round(shares(alphas, sizes, mean, eps=eps), 6), strict=True))
    return _bits(rows, alphas, sizes, method, eps)


def left_alone(table: pd.DataFrame, method: Method, *, spare: bool = True) -> dict[str, str]:
    """layer -> why it gets no share: embeddings and heads, where the table holds anything else and `spare` does not
    say otherwise; an embedding always, where `method` needs inputs, which a plan would skip."""
    roles = dict(zip(table["name"], table["role"], strict=True))
    only = all(role in SPARED for role in roles.values())
    needs = method.needed or method.works_on == "block"
    found = {}
    for name, role in roles.items():
        if role == "embed" and needs:
            found[name] = f"an embedding reads no inputs that {method.name} could be calibrated on"
        elif role in SPARED and spare and not only:
            found[name] = f"{role}: left alone, as '*' of a recipe leaves it"
    return found


def check_allocation(method: Method, *, eps: float = EPS, by: str = "block") -> None:
    """Refused for what can be known before anything is measured."""
    parameter(method)
    check_eps(eps)
    if by not in GROUPS:
        raise Refused(f"allocation: by {by!r} is neither block nor layer{near(by, GROUPS)}")


def parameter(method: Method) -> str:
    """What is allocated: "sparsity" where the method has it, else "bits"."""
    names = {each.name for each in parameters_of(type(method))}
    if "sparsity" in names and getattr(method, "n_m", None) is None:
        return "sparsity"
    if getattr(method, "bits", None) is not None and getattr(method, "format", "int") in WITH_BITS:
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
    rows: pd.DataFrame, alphas: np.ndarray, sizes: np.ndarray, method: Method, eps: float
) -> dict[str, float]:
    """The whole widths whose mean fits and that lie nearest to 1 + eps (heaviest tail) ... 1 - eps times the mean."""
    import pandas as pd

    mean, widths = float(getattr(method, "bits")), _widths(method)  # noqa: B009
    r = 1 + eps * (1 - 2 * spread(alphas))
    wanted = r * mean * sizes.sum() / (sizes * r).sum()
    choices = [
        {"name": name, "method": str(width), "parameters": size, "bits_per_weight": float(width),
         "kl": size * (width - want) ** 2, "recipe": ""}
        for name, size, want in zip(rows["name"], sizes, wanted, strict=True)
        for width in widths
    ]  # fmt: skip
    return {name: float(width) for name, width in assigned(pd.DataFrame(choices), mean).items()}


def _widths(method: Method) -> list[int]:
    """Those of WIDTHS that the method has, and its own."""
    found = {int(getattr(method, "bits"))}  # noqa: B009
    for width in WIDTHS:
        try:
            found.add(int(getattr(method.with_(bits=width), "bits")))  # noqa: B009
        except Refused:
            continue
    return sorted(found)


def _value(name: str, value: float) -> float | int:
    return int(value) if name == "bits" else value
