"""Descent: Adam on a handful of small parameters, cosine decay to a tenth, and the best of what was seen is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..grid import Report
from ..jobs import beat
from .learned import Adam

CHECKS = 8  # times that all batches are looked at; each costs a run without gradients
LAST_SHARE = 0.1  # of a learning rate at the end of its cosine


@dataclass(frozen=True)
class Descent:
    """`losses` step by step (each of one batch), and the loss over all batches before and after."""

    losses: tuple[float, ...]
    before: float
    after: float
    diverged: bool = False

    @property
    def report(self) -> Report:
        facts = {"loss before": self.before, "loss after": self.after}
        report = Report({"loss": list(self.losses)}, facts)
        return (
            report.warn("the loss left the finite numbers: lower the learning rates")
            if self.diverged
            else report
        )


def descend(
    groups: Sequence[tuple[Sequence[Tensor], float]],
    error: Callable[[int], Tensor],
    batches: int,
    steps: int,
    after: Callable[[], None] = lambda: None,
) -> Descent:
    """Change the parameters of `groups` (with their learning rates) in place until `error(batch)`, averaged over all
    batches, is least among the start and `CHECKS` later points. `after` is called after each step."""
    parameters = [p for group, _ in groups for p in group]

    @torch.no_grad()
    def whole() -> float:
        return sum(error(batch).item() for batch in range(batches)) / max(batches, 1)

    def copied() -> list[Tensor]:
        return [p.detach().clone() for p in parameters]

    best = before = whole()
    kept, losses, diverged = copied(), [], False
    adam = Adam([(p, rate) for group, rate in groups for p in group])  # without decay AdamW is Adam
    for step in range(steps):
        loss = error(step % batches)
        value = loss.item()
        if diverged := not math.isfinite(value):
            break
        loss.backward()
        adam.step(LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * step / steps)) / 2)
        after()
        losses.append(value)
        beat(step + 1, steps, loss=losses[-1])
        if (step + 1) % max(1, steps // CHECKS) == 0 and (now := whole()) < best:
            best, kept = now, copied()
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return Descent(tuple(losses), before, best, diverged)
