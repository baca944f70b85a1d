"""Assign: mixed precision under a budget of bits, by dynamic programming over the curves of `sensitivity`.

Each layer takes one row of the table. Among all choices whose stored bits fit the budget, the sum of the layers' KL is
made least: a multiple-choice knapsack (Sinha & Zoltners 1979). That sum stands for the KL of the model, which is what
HAWQ-V2 (Dong et al. 2020, eq. 2) assumes of its own measure: layers that are changed together do not interact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Refused, near
from ..methods import Method
from .recipe import Recipe, Step

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 0.005  # of the budget: what rounding sizes up to cells may waste in all
NEEDED = ("name", "method", "parameters", "bits_per_weight", "kl", "recipe")


@dataclass(frozen=True)
class Curves:
    """The rows of a table, layer by layer: bits[i][j] stored and kl[i][j] of alternative j of layer i, of which
    `rows[i][j]` is the place in the table. `weights` of all layers together."""

    names: tuple[str, ...]
    rows: tuple[np.ndarray, ...]
    bits: tuple[np.ndarray, ...]
    kl: tuple[np.ndarray, ...]
    weights: int

    @classmethod
    def of(cls, table: pd.DataFrame) -> Curves:
        """Refused where the table is empty, or has a layer without a KL."""
        if missing := [name for name in NEEDED if name not in table]:
            raise Refused(f"this is no table of sensitivities: it has no column {', '.join(missing)}")
        if not len(table):
            raise Refused("the table of sensitivities is empty: there is nothing to assign")
        usable = np.isfinite(table["kl"].to_numpy(float))
        if not usable.any():
            raise Refused(
                "no row of the table has a KL (all are NaN): measure on data that the model can run"
            )
        bits = (table["bits_per_weight"] * table["parameters"]).round().to_numpy(float).astype(np.int64)
        kl, name = table["kl"].to_numpy(float), table["name"].to_numpy()
        names = tuple(dict.fromkeys(name))
        rows = tuple(np.flatnonzero((name == each) & usable) for each in names)
        if empty := [each for each, row in zip(names, rows, strict=True) if not len(row)]:
            raise Refused(
                f"{empty[0]} has no KL under any method (all are NaN): leave the layer out of the table"
            )
        weights = sum(int(table["parameters"].iloc[row[0]]) for row in rows)
        return cls(names, rows, tuple(bits[row] for row in rows), tuple(kl[row] for row in rows), weights)

    def cells(self, most: int) -> tuple[int, list[np.ndarray]]:
        """(bits a cell, size of each alternative in cells), beyond the smallest of its layer. Sizes are rounded up, so
        that what fits in cells fits in bits; where all of them have a divisor that is coarse enough, nothing is."""
        extra = [bits - bits.min() for bits in self.bits]
        divisor = reduce(math.gcd, (int(each) for bits in extra for each in bits), 0) or 1
        unit = max(divisor, int(TOLERANCE * most / len(self.bits)))
        return unit, [-(-bits // unit) for bits in extra]

    @property
    def smallest(self) -> int:
        return int(sum(bits.min() for bits in self.bits))

    @property
    def largest(self) -> int:
        return int(sum(bits.max() for bits in self.bits))


def assign(table: pd.DataFrame, budget_bits: float) -> Recipe:
    """The recipe with the least sum of the layers' KL whose bits per weight, over the layers of the table, do not
    exceed the budget; of equal sums the one with fewer bits.

    Exact on sizes rounded up to cells: together the rounding wastes at most 0.5 % of the budget, and nothing where the
    sizes have a coarse common divisor, as widths of one method do. Refused below the smallest possible budget.
    """
    return recipe_from(table, assigned(table, budget_bits))


def assigned(table: pd.DataFrame, budget_bits: float) -> dict[str, str]:
    """The same as layer -> method, to look at or to change by hand before `recipe_from`."""
    curves = Curves.of(table)
    smallest = curves.smallest / curves.weights
    if not budget_bits >= smallest * (1 - 1e-9):  # NaN too
        raise Refused(
            f"a budget of {budget_bits:g} bits per weight is below the smallest possible here, {smallest:.4g}: "
            "raise it, or add a method of fewer bits"
        )
    most = min(math.floor(min(budget_bits, 1e6) * curves.weights * (1 + 1e-9)), curves.largest)
    solved = _solved(curves, most)
    fits = np.where(solved.spent <= most - curves.smallest, solved.best, np.inf)
    at = int(np.lexsort((solved.spent, fits))[0])  # of equals the one with fewer bits
    picked: dict[str, str] = {}
    for index in reversed(range(len(solved.sizes))):
        choice = int(solved.taken[index][at])
        picked[curves.names[index]] = str(table["method"].iloc[curves.rows[index][choice]])
        at -= int(solved.sizes[index][choice])
    return dict(reversed(picked.items()))


def frontier(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(bits per weight, least sum of KL): one point wherever another bit of budget buys something."""
    curves = Curves.of(table)
    solved = _solved(curves, curves.largest)
    # Cells are rounded sizes, so true ones may be out of order.
    order = np.lexsort((solved.best, solved.spent))
    best, spent = solved.best[order], solved.spent[order]
    better = best < np.minimum.accumulate(np.r_[np.inf, best])[:-1]
    return (curves.smallest + spent[better]) / curves.weights, best[better]


@dataclass(frozen=True)
class Solved:
    """best[c]: the least sum of KL of exactly c cells, `spent[c]` bits beyond the smallest in truth; taken[i][c]: which
    alternative of layer i gives it; sizes[i][j] in cells."""

    best: np.ndarray
    spent: np.ndarray
    taken: list[np.ndarray]
    sizes: list[np.ndarray]


def _solved(curves: Curves, most: int) -> Solved:
    """Layer by layer: best(c) = min over j of best of the layers before (c - size j) + kl j."""
    unit, sizes = curves.cells(most)
    # Every size is rounded up by less than a cell: what fits may lie so many cells further out.
    room = min((most - curves.smallest) // unit + len(sizes), sum(int(size.max()) for size in sizes))
    best, spent = np.full(room + 1, np.inf), np.zeros(room + 1, np.int64)
    best[0] = 0.0
    taken = []
    for size, kl, bits in zip(sizes, curves.kl, curves.bits, strict=True):
        now, now_spent = np.full(room + 1, np.inf), np.zeros(room + 1, np.int64)
        choice = np.zeros(room + 1, np.int16)
        for j in np.argsort(bits, kind="stable"):  # of equals the smaller one stays
            cells = int(size[j])
            if cells > room:
                continue
            found = np.r_[np.full(cells, np.inf), best[: room + 1 - cells] + kl[j]]
            better = found < now
            now[better], choice[better] = found[better], j
            now_spent[better] = (
                np.r_[np.zeros(cells, np.int64), spent[: room + 1 - cells]][better] + bits[j] - bits.min()
            )
        best, spent = now, now_spent
        taken.append(choice)
    return Solved(best, spent, taken, sizes)


def recipe_from(table: pd.DataFrame, choices: Mapping[str, str | Method]) -> Recipe:
    """A recipe that gives each layer the method chosen for it: `choices` maps layers to methods, or to their names in
    the table. Layers of one method share a step, in the order of the table; layers not named stay as they are."""
    if not choices:
        raise Refused("no layer was given a method: choose at least one")
    known = dict(zip(table["method"], table["recipe"], strict=True))
    names = set(table["name"])
    layers: dict[str, list[str]] = {}
    for name, method in choices.items():
        label = _named(method, known)
        if name not in names:
            raise Refused(f"the table has no layer {name!r}{near(str(name), names)}")
        if label not in set(table.loc[table["name"] == name, "method"]):
            raise Refused(f"{label} was not tried on {name}: the table has no such row")
        layers.setdefault(label, []).append(name)
    order = {name: place for place, name in enumerate(dict.fromkeys(table["name"]))}
    steps = []
    for label in (each for each in known if each in layers):
        selector = ", ".join(sorted(layers[label], key=order.__getitem__))
        steps += [Step(step.method, selector) for step in Recipe.from_yaml(known[label])]
    return Recipe(steps)


def _named(method: Any, known: Mapping[str, str]) -> str:
    """The name of a method in the table."""
    if isinstance(method, Method):
        text = Recipe(method).to_yaml()
        method = next((label for label, recipe in known.items() if recipe == text), repr(method))
    if method not in known:
        raise Refused(f"the table has no method {method!r}{near(str(method), known)}")
    return str(method)


def predicted(table: pd.DataFrame, choices: Mapping[str, str]) -> dict[str, float]:
    """{"bits_per_weight", "bytes", "kl"} of these choices by the table: KL is the sum of the layers' own."""
    known = table.set_index(["name", "method"])
    if missing := [pair for pair in choices.items() if pair not in known.index]:
        raise Refused(f"{missing[0][1]} was not tried on {missing[0][0]}: the table has no such row")
    chosen = known.loc[list(choices.items())]
    bits = (chosen["bits_per_weight"] * chosen["parameters"]).sum()
    return {
        "bits_per_weight": float(bits / chosen["parameters"].sum()),
        "bytes": int(chosen["bytes"].sum()),
        "kl": float(chosen["kl"].sum()),
    }
