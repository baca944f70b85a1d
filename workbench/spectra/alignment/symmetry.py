"""Which permutations of hidden units leave a network as it is: groups of units, and the axes that they run along.

Attention is not flat. Heads are permuted as wholes, and the dimensions inside each head in a way of its own: such a
group has a `parent`, and its permutation a row for each of the parent's units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workbench.errors import Refused, near

Tensors = Mapping[str, np.ndarray]
# group -> [size], or [size of the parent, size]: new unit i is old unit permutation[i]
Permutations = Mapping[str, np.ndarray]
Part = str | int  # of an axis: a group, or a number of entries that stay in their order
Axis = tuple[Part, ...]  # outermost first: ("kv", "head", 64) is a row of a query projection


@dataclass(frozen=True)
class Group:
    """Units that may be permuted among themselves. `parent`: the group inside each unit of which these lie."""

    size: int
    parent: str | None = None


@dataclass(frozen=True)
class Symmetry:
    """Which permutations of hidden units leave a network's function as it is.

    `axes`: for each tensor what its axes are made of. `follow`: tensors that are permuted and have no say (running
    statistics of batch norms are no parameters).
    """

    groups: Mapping[str, Group]
    axes: Mapping[str, tuple[Axis, ...]]
    follow: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for tensor, axes in self.axes.items():
            for axis in axes:
                for place, part in enumerate(axis):
                    if isinstance(part, int):
                        continue
                    if part not in self.groups:
                        raise Refused(
                            f"{tensor}: {part!r} is no group of this symmetry: declare it in `groups`"
                        )
                    parent = self.groups[part].parent
                    if parent is not None and parent not in axis[:place]:
                        raise Refused(
                            f"{tensor}: {part!r} lies inside {parent!r}, which its axis must name first"
                        )

    def size(self, part: Part) -> int:
        return part if isinstance(part, int) else self.groups[part].size

    def shape(self, tensor: str) -> tuple[int, ...]:
        """What the tensor's shape has to be."""
        return tuple(int(np.prod([self.size(part) for part in axis])) for axis in self.axes[tensor])

    def identity(self) -> dict[str, np.ndarray]:
        return {name: self._each(group, np.arange(group.size)) for name, group in self.groups.items()}

    def random(self, seed: int) -> dict[str, np.ndarray]:
        """Permutations drawn evenly from all that the symmetry has."""
        rng, identity = np.random.default_rng(seed), self.identity()
        return {name: rng.permuted(identity[name], axis=-1) for name in self.groups}

    def _each(self, group: Group, one: np.ndarray) -> np.ndarray:
        return one if group.parent is None else np.tile(one, (self.groups[group.parent].size, 1))

    def index(self, axis: Axis, permutations: Permutations) -> np.ndarray:
        """[length of the axis]: which old entry stands at each new place."""
        sizes = [self.size(part) for part in axis]
        grid = np.indices(sizes, sparse=True)
        found = np.zeros(sizes, np.intp)
        for part, size, here in zip(axis, sizes, grid, strict=True):
            if isinstance(part, str):
                parent = self.groups[part].parent
                rows = permutations[part]
                here = rows[here] if parent is None else rows[grid[axis.index(parent)], here]
            found = found * size + here
        return found.ravel()

    def apply(self, tensors: Tensors, permutations: Permutations) -> dict[str, np.ndarray]:
        """The tensors with their units in the new order."""
        return {name: self.apply_to(name, value, permutations) for name, value in tensors.items()}

    def units(self, tensors: Tensors, group: str) -> np.ndarray:
        """[size, weights]: of each unit of a group without parent all weights that lead into it and out of it."""
        if group not in self.groups or self.groups[group].parent is not None:
            flat = [name for name, each in self.groups.items() if each.parent is None]
            raise Refused(f"no units {group!r} stand for themselves{near(group, flat)}")
        found = []
        for name, axes in self.axes.items():
            for position, axis in enumerate(axes):
                if group in axis and name not in self.follow:
                    value = np.moveaxis(tensors[name], position, 0)
                    value = value.reshape(*(self.size(part) for part in axis), -1)
                    found.append(
                        np.moveaxis(value, axis.index(group), 0).reshape(self.groups[group].size, -1)
                    )
        return np.concatenate(found, axis=1)

    def apply_to(self, name: str, value: np.ndarray, permutations: Permutations) -> np.ndarray:
        """One tensor in the new order; itself where none of its axes has a group."""
        for position, axis in enumerate(self.axes[name]):
            if any(isinstance(part, str) for part in axis):
                value = value.take(self.index(axis, permutations), axis=position)
        return value


def check(symmetry: Symmetry, tensors: Tensors, who: str) -> None:
    """Refused, with the tensor's name, where these are not the symmetry's tensors or are not finite."""
    if missing := sorted(set(symmetry.axes) ^ set(tensors)):
        state = "is not in" if missing[0] in symmetry.axes else "is in no group of"
        raise Refused(
            f"{who}: {missing[0]} {state} it ({len(missing)} such): give two networks of one architecture"
        )
    for name, value in tensors.items():
        if value.shape != symmetry.shape(name):
            raise Refused(
                f"{who}: {name} is {list(value.shape)}, not {list(symmetry.shape(name))}: shapes must agree"
            )
        if not np.isfinite(value).all():
            bad = int(value.size - np.isfinite(value).sum())
            raise Refused(
                f"{who}: {bad} values of {name} are NaN or Inf: mend the checkpoint, nothing can be matched"
            )


def distance(a: Tensors, b: Tensors, symmetry: Symmetry) -> float:
    """||A - B|| over all tensors that are parameters."""
    names = [name for name in symmetry.axes if name not in symmetry.follow]
    return float(np.sqrt(sum(np.sum((a[name] - b[name]) ** 2) for name in names)))
