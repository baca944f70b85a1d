"""Alignment: permute the hidden units of one network until its weights lie closest to those of another.

`match` maximises <A, pi(B)> over all its tensors, which minimises ||A - pi(B)||, by coordinate ascent: all groups of
units but one are held, and the one is a linear assignment (Ainsworth, Hayase & Srinivasa 2023, "Git Re-Basin",
algorithm 1); `merge` brings any number of networks to their mean (algorithm 3). The problem is bilinear, so the end
depends on the order of the groups: several orders are tried and the best is kept. Cost: one product [n, rest] by
[rest, n] and one assignment, O(n^3), for each group and sweep.

Where a group lies inside another (dimensions inside heads) the assignment of the outer one weighs, for every pair of
heads, the best that can be had inside.

Arrays by name in, permutations out; which tensors a network has is `workbench.engine.alignment`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from workbench.errors import Refused
from workbench.spectra.alignment.symmetry import Part, Permutations, Symmetry, Tensors, check

Step = Callable[[int, int, float], None]  # step(sweep, sweeps, objective): may raise to stop

SWEEPS = 100  # at most; networks of a few layers settle in 5 to 15
GAIN = 1e-12  # of ||A|| ||B||: below, a step is rounding
SETTLED = 1e-3  # of the spread: a round of merging that gains less is the last
INNER = 10  # rounds over the groups inside one pair of heads; two or three do


@dataclass(frozen=True, eq=False)
class Matching:
    """What `match` found. `objective`: <A, pi(B)> at the start and after each assignment of the best order tried,
    never falling; `tried`: the end of every order; `sweeps` of the best."""

    permutations: dict[str, np.ndarray]
    objective: list[float]
    tried: list[float] = field(default_factory=list)
    sweeps: int = 0


def match(
    a: Tensors,
    b: Tensors,
    symmetry: Symmetry,
    *,
    orders: int = 3,
    seed: int = 0,
    start: Permutations | None = None,
    step: Step = lambda sweep, sweeps, objective: None,
) -> Matching:
    """The permutations of b's units that bring it closest to a; `orders` random orders of the groups are tried.

    Raises Refused where the tensors' names or shapes are not the symmetry's, or hold NaN or Inf."""
    if orders < 1:
        raise Refused(f"match: {orders} orders of the groups is none; take 1 or more")
    check(symmetry, a, "the first network")
    check(symmetry, b, "the second network")
    ends = [_ascend(a, b, symmetry, np.random.default_rng([seed, k]), start, step) for k in range(orders)]
    best = max(ends, key=lambda end: end.objective[-1])
    return Matching(best.permutations, best.objective, [end.objective[-1] for end in ends], best.sweeps)


def _ascend(
    a: Tensors,
    b: Tensors,
    symmetry: Symmetry,
    rng: np.random.Generator,
    start: Permutations | None,
    step: Step,
) -> Matching:
    """Coordinate ascent with one order of the groups a sweep, until no group can gain anything."""
    found = {name: np.array(rows) for name, rows in (symmetry.identity() if start is None else start).items()}
    families = [_Family(symmetry, name) for name, group in symmetry.groups.items() if group.parent is None]
    voting = [name for name in symmetry.axes if name not in symmetry.follow]
    now = symmetry.apply({name: b[name] for name in voting}, found)
    parts = {name: float(np.vdot(a[name], now[name])) for name in voting}
    scale = sum(float(np.linalg.norm(a[n]) * np.linalg.norm(b[n])) for n in voting) or 1.0
    curve, sweep = [sum(parts.values())], 0
    open_ones = set(range(len(families)))  # whose surroundings have changed since they were last solved
    while open_ones and sweep < SWEEPS:
        sweep += 1
        for index in rng.permutation(sorted(open_ones)):
            step(sweep, SWEEPS, curve[-1])
            family = families[index]
            better = {**found, **family.best(a, b, found)}
            gained = {n: float(np.vdot(a[n], symmetry.apply_to(n, b[n], better))) for n in family.tensors}
            # Where a tensor has one group on both axes the assignment is a guess: only what is better is kept.
            gains = sum(gained.values()) > sum(parts[n] for n in family.tensors) + GAIN * scale
            if gains:
                found = better
                parts |= gained
                open_ones |= {k for k, each in enumerate(families) if set(each.tensors) & set(family.tensors)}
            if family.exact or not gains:
                open_ones.discard(int(index))
            curve.append(sum(parts.values()))
    return Matching(found, curve, sweeps=sweep)


class _Family:
    """A group without parent, the groups inside it, and the tensors that have them."""

    def __init__(self, symmetry: Symmetry, root: str):
        self.symmetry, self.root = symmetry, root
        self.inside = [name for name, group in symmetry.groups.items() if group.parent == root]
        self.places = [
            (name, position)
            for name, axes in symmetry.axes.items()
            for position, axis in enumerate(axes)
            if root in axis and name not in symmetry.follow
        ]
        self.tensors = list(dict.fromkeys(name for name, _ in self.places))
        # One assignment is its optimum then, and solving it again changes nothing while the others stay.
        self.exact = not self.inside and len(self.tensors) == len(self.places)

    def best(self, a: Tensors, b: Tensors, now: Permutations) -> dict[str, np.ndarray]:
        """The family's permutations that are best while all others stay."""
        pieces = list(self._pieces(a, b, now))
        if not self.inside:
            score = np.zeros((self.symmetry.groups[self.root].size,) * 2)
            for _, one, two in pieces:
                score += one.reshape(len(one), -1) @ two.reshape(len(two), -1).T
            return {self.root: _assigned(score)}
        size = self.symmetry.groups[self.root].size
        score = np.zeros((size, size))
        inner: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        for i, j in np.ndindex(size, size):
            # The pair that stands now begins where it is, so that the step cannot lose.
            start = {
                n: now[n][i] if now[self.root][i] == j else np.arange(now[n].shape[1]) for n in self.inside
            }
            score[i, j], inner[i, j] = _inside([(parts, one[i], two[j]) for parts, one, two in pieces], start)
        chosen = _assigned(score)
        rows = {n: np.stack([inner[i, int(j)][n] for i, j in enumerate(chosen)]) for n in self.inside}
        return {self.root: chosen, **rows}

    def _pieces(
        self, a: Tensors, b: Tensors, now: Permutations
    ) -> Iterator[tuple[tuple[Part, ...], np.ndarray, np.ndarray]]:
        """(the parts after the first, A, B), the root's units first, then the groups inside it, then all the rest in
        one; B with every group outside the family permuted already."""
        symmetry, identity = self.symmetry, self.symmetry.identity()
        still = {**now, **{n: identity[n] for n in (self.root, *self.inside)}}
        for name, position in self.places:
            axes = list(symmetry.axes[name])
            value = b[name]
            for other, axis in enumerate(axes):
                if any(isinstance(part, str) for part in axis):
                    value = value.take(symmetry.index(axis, still if other == position else now), axis=other)
            axis = axes[position]
            order = [axis.index(n) for n in (self.root, *self.inside) if n in axis]
            rest = [place for place in range(len(axis)) if place not in order]
            shape = [symmetry.size(part) for part in axis]

            def arranged(
                x: np.ndarray, at: int = position, shape=shape, order=order, rest=rest
            ) -> np.ndarray:
                x = np.moveaxis(x, at, 0)
                x = x.reshape(*shape, -1).transpose(*order, *rest, len(shape))
                return np.ascontiguousarray(x).reshape(*x.shape[: len(order)], -1)

            yield tuple(axis[place] for place in order[1:]), arranged(a[name]), arranged(value)


def _inside(
    pieces: Sequence[tuple[tuple[Part, ...], np.ndarray, np.ndarray]], start: dict[str, np.ndarray]
) -> tuple[float, dict[str, np.ndarray]]:
    """(score, permutations) of the groups inside one pair of heads: pieces (parts, A [*parts, rest], B the same)."""

    def permuted(parts: tuple[Part, ...], x: np.ndarray, but: str | None = None) -> np.ndarray:
        for place, part in enumerate(parts):
            if part != but:
                x = x.take(found[str(part)], axis=place)
        return x

    def total() -> float:
        return float(sum(np.vdot(one, permuted(parts, two)) for parts, one, two in pieces))

    found = dict(start)
    best = total()
    for _round in range(INNER):
        for name in found:
            score = np.zeros((len(found[name]),) * 2)
            for parts, one, two in pieces:
                if name in parts:
                    place = parts.index(name)
                    left, right = (np.moveaxis(x, place, 0) for x in (one, permuted(parts, two, but=name)))
                    score += left.reshape(len(left), -1) @ right.reshape(len(right), -1).T
            found[name] = _assigned(score)
        now = total()
        if now <= best + GAIN * abs(best):
            break
        best = now
    return total(), found


@dataclass(frozen=True, eq=False)
class Merging:
    """What `merge` made: the mean, every network's permutations, and the sum of the networks' squared distances to
    their mean, at the start and after each step, never rising."""

    mean: dict[str, np.ndarray]
    permutations: list[dict[str, np.ndarray]]
    spread: list[float]


def merge(
    networks: Sequence[Tensors],
    symmetry: Symmetry,
    *,
    seed: int = 0,
    rounds: int = 20,
    step: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Merging:
    """Permute each network in turn towards the mean of the others until that gains nothing worth the name, then average
    (algorithm 3).

    Raises Refused for fewer than two networks and for what `match` refuses."""
    if len(networks) < 2:
        raise Refused(
            f"merge: {len(networks)} network is nothing to merge; give two or more of one architecture"
        )
    for number, network in enumerate(networks, 1):
        check(symmetry, network, f"network {number}")
    rng = np.random.default_rng(seed)
    found = [symmetry.identity() for _ in networks]
    placed = [symmetry.apply(network, own) for network, own in zip(networks, found, strict=True)]
    spread = [_spread(placed, symmetry)]
    for turn in range(rounds):
        before = spread[-1]
        for place, index in enumerate(rng.permutation(len(networks))):
            done = turn * len(networks) + place

            def tell(
                *_: object, done: int = done, text: str = f"round {turn + 1}: network {index + 1}"
            ) -> None:
                step(done, rounds * len(networks), text)

            others = _mean([each for other, each in enumerate(placed) if other != index])
            ascent = _ascend(others, networks[index], symmetry, rng, found[index], tell)
            found[index] = ascent.permutations
            placed[index] = symmetry.apply(networks[index], found[index])
            spread.append(_spread(placed, symmetry))
        if before - spread[-1] <= SETTLED * before:
            break
    return Merging(_mean(placed), found, spread)


def _mean(networks: Sequence[Tensors]) -> dict[str, np.ndarray]:
    return {name: sum(each[name] for each in networks) / len(networks) for name in networks[0]}  # type: ignore[misc]


def _spread(networks: Sequence[Tensors], symmetry: Symmetry) -> float:
    mean = _mean(networks)
    names = [name for name in mean if name not in symmetry.follow]
    return sum(float(np.sum((each[name] - mean[name]) ** 2)) for each in networks for name in names)


def _assigned(score: np.ndarray) -> np.ndarray:
    """[n]: for each row the column that is its, so that the sum of the scores [n, n] is largest."""
    # Here and not above: scipy.optimize takes a tenth of a second, which other users of the room spare.
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(score, maximize=True)[1]
