"""One interleaved run: the candidates, their timings, and what the machine was doing meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from . import cpu
from .clocks import cpu_clocks
from .cpu import roof
from .table import Row, Shape, join, timed
from .time import AGAIN, HOT, Candidate, Progress, Reference, Timing, check, time_interleaved

WARM_UP_S = 0.1  # per candidate; less where the whole budget is small


def checked(makers, expected: Reference, notes: dict[str, str]) -> tuple[list[Candidate], dict[str, float]]:
    """The candidates that are right, and their relative errors; what is wrong with others goes into notes. `makers`:
    pairs of a name and a function without arguments that makes its candidate."""
    candidates, errors = [], {}
    for name, make in makers:
        try:
            candidate = make()
            errors[name] = check(candidate, candidate.expected or expected)
            candidates.append(candidate)
        except Refused as error:
            notes[name] = str(error)
    return candidates, errors


@dataclass(frozen=True)
class Run:
    """What was timed together: the candidates and their timings, what bounds them, and what the machine was doing."""

    candidates: dict[str, Candidate]
    timings: dict[str, Timing]
    baseline: str
    conditions: dict[str, Any]

    @property
    def spread(self) -> float | None:
        """How far the baseline is from itself; None where it was not timed twice."""
        again = self.timings.get(self.baseline + AGAIN)
        return None if again is None else again.spread

    def row(self, shape: Shape, name: str, error: float | None, note: str) -> Row:
        """The measured part of a row; no more than the baseline's name if the kernel was not timed."""
        timing = self.timings.get(name)
        if timing is None:
            return {"baseline": self.baseline}
        candidate, hot = self.candidates[name], self.timings.get(name + HOT)
        note = join(note, candidate.note, self.conditions.get("busy", ""))
        gbps = candidate.nbytes / timing.seconds / 1e9 if candidate.nbytes else None
        read = self.conditions.get("read_gbps")
        return timed(shape, timing, error, note) | {
            "weight_error": candidate.weight_error,
            "verdict": "" if self.spread is None else timing.verdict(self.spread),
            "gbps": gbps,
            "of_bandwidth": gbps / read if gbps and read else None,
            "seconds_hot": hot.seconds if hot else None,
        }

    def facts(self) -> dict[str, Any]:
        """For the record: the conditions, and every sample of every round."""
        return {
            "conditions": {**self.conditions, "aa_spread": self.spread},
            "samples": {
                name: {"seconds": list(one.samples), "ratio": list(one.ratios), "calls": one.calls}
                for name, one in self.timings.items()
            },
        }


def time_on_cpu(candidates: list[Candidate], rounds: int, budget_s: float, progress: Progress | None) -> Run:
    """Time checked candidates, the baseline first, with all that a reader needs to judge the numbers: the baseline
    once more, each kernel with its weight in the cache, the bandwidth, and an empty call."""
    cached = [one.hot() for one in candidates if 0 < one.nbytes <= cpu.cache_bytes()]
    bounds = roof.roofs()
    clocks: list[dict[str, Any]] = []
    busy = cpu.busy()
    baseline = candidates[0].name
    timings = time_interleaved(
        [*candidates, candidates[0].again(), *cached, *bounds],
        baseline=baseline,
        rounds=rounds,
        budget_s=budget_s,
        warm_up_s=min(WARM_UP_S, budget_s / 200),
        progress=progress,
        each_round=lambda: clocks.append(cpu_clocks()),
    )
    conditions = {
        "busy": busy,
        "read_gbps": bounds[0].nbytes / timings[roof.READ].seconds / 1e9,
        "empty_s": timings[roof.EMPTY].seconds,
        "clocks": clocks,
    }
    return Run({one.name: one for one in candidates}, timings, baseline, conditions)
