"""Learning: what methods share that find codes, scales or exponents by gradient descent.

A `Part` is one weight while it is learned: its parameters, its values [out, in] as a differentiable function of them,
and what would be stored if it ended now. `learn` moves the parts of one objective together and keeps the best state
that it has seen as it would be stored, the start (round to nearest) among them: so nothing ends worse than it began.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from ..grid import CompressedWeight, Fit, Report
from ..jobs import beat
from .base import Span, Statistics
from .objective import ALONE, BlockError, LayerError, Objective
from .rounding import Rounding

CHECKS = 20  # times that the state is looked at as it would be stored


class Part(Protocol):
    """A weight [out, in] while it is learned."""

    @property
    def trained(self) -> Sequence[tuple[Tensor, float]]:
        """The parameters, each with its share of the learning rate."""
        ...

    def values(self) -> Tensor:
        """The weight that the parameters stand for now, differentiable."""
        ...

    def penalty(self, progress: float) -> Tensor | None:
        """What is added to the loss after this share of the steps: a sum over the weights, in units of the loss of the
        start for each weight."""
        ...

    def compressed(self) -> CompressedWeight:
        """What would be stored now."""
        ...


class Adam:
    """Kingma & Ba 2015, algorithm 1, with their constants. Torch's own loads a compiler at its first step."""

    def __init__(self, groups: Sequence[tuple[Tensor, float]]):
        self.groups = [(x, share, torch.zeros_like(x), torch.zeros_like(x)) for x, share in groups]
        self.steps = 0

    def step(self, rate: float) -> None:
        """One step; `rate` is multiplied by each group's share."""
        self.steps += 1
        first, second = 1 - 0.9**self.steps, 1 - 0.999**self.steps
        with torch.no_grad():
            for x, share, mean, square in self.groups:
                if x.grad is None:
                    continue
                mean.lerp_(x.grad, 0.1)
                square.mul_(0.999).addcmul_(x.grad, x.grad, value=0.001)
                x.addcdiv_(mean, (square / second).sqrt_().add_(1e-8), value=-rate * share / first)
                x.grad = None


@dataclass(frozen=True)
class Learnt:
    """The best state, its loss and that of the start, both as stored, and what happened on the way."""

    weights: Mapping[str, CompressedWeight]
    start: float
    best: float
    step: int  # after which the best state was seen; 0 is the start
    losses: Sequence[float]
    penalties: Sequence[float]
    diverged: bool = False

    @property
    def report(self) -> Report:
        curves = {"loss": self.losses} | ({"regulariser": self.penalties} if any(self.penalties) else {})
        facts: dict[str, float | str] = {"loss at the start": self.start, "loss at the end": self.best}
        report = Report(curves, facts | {"best step": self.step})
        if self.diverged:
            return report.warn("the loss left the finite numbers: take a lower rate")
        if self.step == 0 and self.losses:
            return report.warn("nothing better than the start was found: take more steps or a lower rate")
        return report


def learn(
    parts: Mapping[str, Part],
    objective: Objective,
    start: Mapping[str, CompressedWeight],
    *,
    steps: int,
    schedule: Callable[[float], float],
) -> Learnt:
    """Adam on all parts for `steps` steps; `schedule` gives the learning rate after a share of them."""
    best, kept = dict(start), 0
    with torch.no_grad():
        first = least = objective.total({name: made.dequantize() for name, made in best.items()})
    trained = [each for part in parts.values() for each in part.trained]
    if first == 0 or not trained:
        return Learnt(best, first, first, 0, [], [])
    unit = first / sum(made.numel for made in start.values())  # so that a weight's gradient is about 1
    adam, losses, penalties, diverged = Adam(trained), [], [], False
    for step in range(steps):
        with torch.enable_grad():
            loss = objective.loss({name: part.values() for name, part in parts.items()}, step)
            extra = [p for part in parts.values() if (p := part.penalty(step / steps)) is not None]
            penalty = sum(extra, torch.zeros(()))
            (loss / unit + penalty).backward()
        if diverged := not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        penalties.append(unit * penalty.item())
        adam.step(schedule(step / steps))
        if (step + 1) * CHECKS // steps > step * CHECKS // steps:
            with torch.no_grad():
                made = {name: part.compressed() for name, part in parts.items()}
                found = objective.total({name: each.dequantize() for name, each in made.items()})
            if found < least:
                best, least, kept = made, found, step + 1
        beat(step + 1, steps, loss=losses[-1])
    return Learnt(best, first, least, kept, losses, penalties, diverged)


class Learning(Rounding):
    """Base of the quantizers that learn: a `Part` for each weight, and which error they make small."""

    reconstruct: Literal["layer", "block"] = Field(
        "layer", description="whose output error is made small: each layer's, or that of a block as a whole"
    )
    steps: int = Field(
        400, ge=1, le=20000, description="steps of gradient descent",
        json_schema_extra={"stops": [50, 200, 400, 1000]},
    )  # fmt: skip

    @property
    def works_on(self) -> Literal["layer", "block"]:
        return self.reconstruct

    @property
    def needed(self) -> frozenset[str]:
        return super().needed | {"hessian" if self.reconstruct == "layer" else "sample"}

    @abstractmethod
    def part(self, w: Tensor, fit: Fit, mask: Tensor | None) -> Part:
        """w [out, in] on its grid, ready to be learned; mask [out, in] True = kept."""

    @abstractmethod
    def schedule(self, progress: float) -> float:
        """The learning rate after this share of the steps."""

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to the codes of least output error; of a sample's where there is no Hessian."""
        known = self.given(statistics)
        x = known.sample
        hessian = known.hessian if known.hessian is not None or x is None else x.T @ x / len(x)
        assert hessian is not None
        return self._learnt({ALONE: w}, {ALONE: known}, LayerError(w, hessian))[ALONE]

    def rebuild(self, span: Span) -> Mapping[str, CompressedWeight]:
        """All weights of a block together, towards what the unchanged block answers."""
        return self._learnt(span.weights, span.statistics, BlockError(span))

    def _learnt(
        self, weights: Mapping[str, Tensor], statistics: Mapping[str, Statistics], objective: Objective
    ) -> dict[str, CompressedWeight]:
        parts: dict[str, Part] = {}
        start: dict[str, CompressedWeight] = {}
        for name, w in weights.items():
            w, known = w.contiguous(), statistics.get(name) or Statistics()
            fit = self.fitted(w, known)
            parts[name] = self.part(w, fit, known.mask)
            start[name] = fit.encode(w).with_mask(known.mask)
        learnt = learn(parts, objective, start, steps=self.steps, schedule=self.schedule)
        return {n: w.with_report(learnt.report + moved(start[n], w)) for n, w in learnt.weights.items()}


def moved(before: CompressedWeight, after: CompressedWeight) -> Report:
    """How many weights took another point of the grid, and how far the farthest went."""
    places = [torch.searchsorted(w.grid.values, w.grid.decode(w.codes)) for w in (before, after)]
    steps = (places[1] - places[0]).abs()
    if after.mask is not None:
        steps = steps[after.mask]
    share = 100 * float(steps.gt(0).float().mean()) if len(steps) else 0.0
    return Report(facts={"changed codes, %": share, "farthest move": int(steps.max()) if len(steps) else 0})
