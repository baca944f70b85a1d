"""One interleaved run: the candidates, their timings, and what the machine was doing meanwhile."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import Refused
from . import cpu
from .clocks import cpu_clocks
from .cpu import roof
from .table import Row, Shape, join, timed
from .time import AGAIN, COLD, HOT, SHORT_S, Candidate, Progress, Reference, Timing, check, time_interleaved

WARM_UP_S = 0.1  # per candidate; less where the whole budget is small
WHOLE = 1000  # steps of a bar that several parts of the work share

Found = Callable[
    [list[Row]], object
]  # is given rows when they are known; later ones of a kernel replace the earlier


def part(progress: Progress | None, begin: float, end: float) -> Progress | None:
    """The progress of one part of the work, on the bar of the whole: from `begin` to `end`, shares from 0 to 1. A bar
    for each part would begin anew, and foretell the end from the parts before."""
    if progress is None:
        return None

    def tell(done: int, total: int, what: str) -> None:
        progress(int(WHOLE * (begin + (end - begin) * done / max(total, 1))), WHOLE, what)

    return tell


def checked(
    makers, expected: Reference, notes: dict[str, str], progress: Progress | None = None
) -> tuple[list[Candidate], dict[str, float]]:
    """The candidates that are right, and their relative errors; what is wrong with others goes into notes. `makers`:
    pairs of a name and a function without arguments that makes its candidate, and compiles it where it must."""
    candidates, errors, total = [], {}, len(makers)
    for done, (name, make) in enumerate(makers):
        if progress:
            progress(done, total, f"checking {name}, {done + 1} of {total}")
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
    cache_bytes: int = 0  # of the last level
    read_bytes: int = 0  # that one sample call of `roof.READ` reads; 0 where it was not timed

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
        note = join(note, candidate.note, self.conditions.get("busy", ""), self._remarks(candidate, timing))
        gbps = candidate.nbytes / timing.seconds / 1e9 if candidate.nbytes else None
        return timed(shape, timing, error, note) | {
            "weight_error": candidate.weight_error,
            "verdict": "" if self.spread is None else timing.verdict(self.spread),
            "gbps": gbps,
            "of_bandwidth": self._of_bandwidth(candidate, timing),
            "seconds_hot": hot.seconds if hot else None,
        }

    def _of_bandwidth(self, candidate: Candidate, timing: Timing) -> float | None:
        """Bytes per second as a share of what reading reached in the same round, the median of the rounds."""
        read = self.timings.get(roof.READ)
        if read is None or not self.read_bytes or not candidate.nbytes:
            return None
        share = candidate.nbytes / self.read_bytes
        return statistics.median(
            share * alone / own for alone, own in zip(read.samples, timing.samples, strict=True)
        )

    def _remarks(self, candidate: Candidate, timing: Timing) -> str:
        """Where the operands lay, and what launching may have cost."""
        partly = 0 < candidate.footprint < COLD * self.cache_bytes
        return join(
            "operands partly in the cache" if partly else "",
            "launched from a graph" if timing.captured else "",
            "launched one by one, which may be what takes the time"
            if "captured" in self.conditions and timing.seconds < SHORT_S and not timing.captured
            else "",
        )

    def facts(self) -> dict[str, Any]:
        """For the record: the conditions, and every sample of every round."""
        return {
            "conditions": {**self.conditions, "aa_spread": self.spread},
            "samples": {
                name: {
                    "seconds": list(one.samples),
                    "ratio": list(one.ratios),
                    "calls": one.calls,
                    "captured": one.captured,
                }
                for name, one in self.timings.items()
            },
            "footprints": {name: one.footprint for name, one in self.candidates.items() if one.footprint},
        }


def time_on_cpu(
    candidates: list[Candidate],
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    so_far: Callable[[Run], object] | None = None,
) -> Run:
    """Time checked candidates, the baseline first, with all that a reader needs to judge the numbers: the baseline
    once more, each kernel with its weight in the cache, the bandwidth, and an empty call. `so_far` is given the run
    after every round."""
    cached = [one.hot() for one in candidates if 0 < one.nbytes <= cpu.cache_bytes()]
    bounds = roof.roofs()
    clocks: list[dict[str, Any]] = []
    busy = cpu.busy()
    baseline = candidates[0].name

    def run_of(timings: dict[str, Timing]) -> Run:
        conditions = {
            "busy": busy,
            "read_gbps": bounds[0].nbytes / timings[roof.READ].seconds / 1e9,
            "empty_s": timings[roof.EMPTY].seconds,
            "cache_bytes": cpu.cache_bytes(),
            "clocks": clocks,
        }
        known = {one.name: one for one in candidates}
        return Run(known, timings, baseline, conditions, cpu.cache_bytes(), bounds[0].nbytes)

    timings = time_interleaved(
        [*candidates, candidates[0].again(), *cached, *bounds],
        baseline=baseline,
        rounds=rounds,
        budget_s=budget_s,
        warm_up_s=min(WARM_UP_S, budget_s / 200),
        progress=progress,
        each_round=lambda: clocks.append(cpu_clocks()),
        so_far=None if so_far is None else lambda timings: so_far(run_of(timings)),
    )
    run = run_of(timings)
    if so_far is not None:
        so_far(run)
    return run
