"""Honest timing: check first, warm up, then run the candidates in turn, A B C A B C, and compare within each
round.

A clock that drifts, a neighbour that takes a core, a chip that grows warm then hit all candidates alike, and
the ratio to the baseline is taken per round, so it has a spread. Works for any candidates on one device; the
clock is the caller's (wall time on a CPU, event pairs on a GPU).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import Refused, near

Clock = Callable[[Callable[[], object]], float]  # does the work, returns its seconds
Progress = Callable[[int, int, str], None]  # done, total, what; raising from it stops the measurement
Work = Callable[[], object]

MOST_ROWS = 256  # of C checked against float64 in a product too large to check whole
SMALL = 2_000_000_000  # multiply-adds that a float64 reference may cost
AGREE = 0.05  # two warm-up samples this close: the clock has settled
MOST_WARM_UPS = 1000
COLD = 3  # caches that the copies of an operand fill, so that a product finds its own in memory
MOST_COPIES = (
    4096  # of one operand: what is smaller than some 40 KB lies in the cache in part, and its row says so
)
SHORT_S = 20e-6  # under this a call may cost more to launch than to run
MOST_CAPTURED = 1000  # calls in one graph
AGAIN, HOT = (
    " again",
    " hot",
)  # what is put behind a name: the same once more; the same with its operands in the cache


@dataclass(frozen=True)
class Candidate:
    """One way to compute C[M,N] = A[M,K] B[K,N]. `run(i)` computes it once from operand set i (taken modulo
    the number of sets) into the candidate's own output, and may return before a GPU has finished; `output()`
    waits and returns that output, [M,N] floats of NumPy or CuPy; `poison()` fills it with NaN. `tolerance` is
    on the relative error ||c - r|| / ||r||.

    nbytes: what one product reads of its B, for the bandwidth; 0 if nobody asks. expected: what a kernel on rounded
    weights is compared with, the product with what its codes stand for; weight_error: how far that is from the
    product with the weights before."""

    name: str
    run: Callable[[int], object]
    poison: Callable[[], object]
    output: Callable[[], Any]
    tolerance: float
    nbytes: int = 0
    expected: Reference | None = None
    weight_error: float | None = None
    note: str = ""  # what a reader of its row must know
    footprint: int = 0  # bytes of all the copies that it rotates through; 0 where that is not known
    capturable: bool = False  # every launch goes to the current stream, so that a graph can hold them

    def again(self) -> Candidate:
        """The same under another name. Timed in the same run, its ratio to the first should be 1: how far it is off
        is what this machine, today, cannot tell apart."""
        return replace(self, name=self.name + AGAIN)

    def hot(self) -> Candidate:
        """The same on one operand set, which then stays in the cache if it fits."""
        return replace(self, name=self.name + HOT, run=lambda _: self.run(0))


@dataclass(frozen=True)
class Reference:
    """The float64 product in `rows` of C: values [len(rows), N], in NumPy or CuPy as its operands."""

    rows: Any
    values: Any


@dataclass(frozen=True)
class Timing:
    """Seconds per product, and how many times faster than the baseline; median and quartiles over the
    rounds."""

    name: str
    baseline: str
    seconds: float
    seconds_q25: float
    seconds_q75: float
    ratio: float
    ratio_q25: float
    ratio_q75: float
    rounds: int
    calls: int  # products per sample
    captured: bool = False  # the sample was one launch of a graph
    samples: tuple[float, ...] = ()  # seconds per product, one of each round
    ratios: tuple[float, ...] = ()  # to the baseline of the same round

    @property
    def spread(self) -> float:
        """How far the quartiles of the ratios lie from 1: of a candidate against itself, what is not a difference."""
        return max(abs(self.ratio_q25 - 1), abs(self.ratio_q75 - 1))

    def verdict(self, spread: float) -> str:
        """ "faster", "slower" or "equal": equal where the ratio differs from 1 by no more than `spread`, that of the
        baseline against itself, or where 1 lies between its quartiles: the rounds then do not agree on a side."""
        if max(self.ratio, 1 / self.ratio) - 1 <= spread or self.ratio_q25 <= 1 <= self.ratio_q75:
            return "equal"
        return "faster" if self.ratio > 1 else "slower"

    @property
    def noisy(self) -> bool:
        """The middle half of the samples spreads over more than 5 % of their median."""
        return self.seconds_q75 - self.seconds_q25 > 0.05 * self.seconds


def wall_clock(work: Callable[[], object]) -> float:
    """Seconds that `work` takes on the CPU."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def copies_for(nbytes: int, cache_bytes: int, most: int = MOST_COPIES) -> int:
    """How many copies of an operand of `nbytes` bytes fill three caches; at most `most`."""
    return max(1, min(most, -(-COLD * cache_bytes // max(nbytes, 1))))


def reference_rows(M: int, N: int, K: int) -> int:
    """How many rows of C the float64 reference has: all where that is cheap, else 256."""
    return min(M, max(MOST_ROWS, SMALL // (N * K)))


def reference(a: Any, b: Any, *, xp: Any, seed: int = 0) -> Reference:
    """A[M,K] B[K,N] in float64; `xp` is numpy or cupy. Of a large product only some rows, drawn at random
    (rows at a fixed distance would always meet the same place of a tile), with the first and the last."""
    import numpy as np

    (M, K), N = a.shape, b.shape[1]
    most, rows = reference_rows(M, N, K), np.arange(M)
    if most < M:
        inner = np.random.default_rng(seed).choice(np.arange(1, M - 1), most - 2, replace=False)
        rows = np.sort(np.concatenate([[0], inner, [M - 1]]))
    rows = xp.asarray(rows)
    left = a[rows].astype("float64")
    values = xp.empty((len(rows), N), dtype="float64")
    for n in range(0, N, 1024):  # B is never whole in float64: it may be most of the memory
        values[:, n : n + 1024] = left @ b[:, n : n + 1024].astype("float64")
    return Reference(rows, values)


def check(candidate: Candidate, expected: Reference) -> float:
    """Run once into a poisoned output; the relative error ||c - r|| / ||r|| against float64.
    Refused if an element was left unwritten (or is NaN), or the error is above the candidate's tolerance."""
    candidate.poison()
    candidate.run(0)
    c = candidate.output()
    unwritten = int((c != c).sum())
    if unwritten:
        raise Refused(
            f"{candidate.name}: {unwritten} of {c.size} elements of C are NaN or were never written"
        )
    difference = c[expected.rows].astype("float64") - expected.values
    error = float((difference**2).sum() ** 0.5 / (expected.values**2).sum() ** 0.5)
    if not error <= candidate.tolerance:
        raise Refused(
            f"{candidate.name}: the result is wrong, relative error {error:.2g} against float64 "
            f"where {candidate.tolerance:.2g} is allowed"
        )
    return error


def time_interleaved(
    candidates: Sequence[Candidate],
    *,
    baseline: str,
    rounds: int = 7,
    budget_s: float = float("inf"),
    sample_s: float = 0.01,
    warm_up_s: float = 0.1,
    clock: Clock = wall_clock,
    progress: Progress | None = None,
    each_round: Callable[[], object] | None = None,
    so_far: Callable[[dict[str, Timing]], object] | None = None,
    capture: Callable[[Candidate, int], Work | None] | None = None,
) -> dict[str, Timing]:
    """Name -> Timing, in the candidates' order; they have passed `check`. One sample is as many products as fill
    `sample_s` seconds; each candidate is warmed up for `warm_up_s` seconds and until two samples agree. Fewer
    rounds, but not under three, where they would take more than `budget_s` seconds. Every round begins with another
    candidate, so that no one always has the chip as the one before leaves it. `each_round` is called before every
    round, to write down the clocks; neither it nor one sample after it, which wakes the machine, is timed. `so_far` is
    given the timings after every round but the last.
    `capture(candidate, calls)` makes one launch of so many short calls, or None where that cannot be done; if it cannot
    for a short baseline, it is done for nobody, since a ratio has to compare like with like. Refused if `baseline` is
    not among the candidates or there is less than one round."""
    names = [candidate.name for candidate in candidates]
    if baseline not in names:
        raise Refused(f"the baseline {baseline!r} is not among the candidates{near(baseline, names)}")
    if rounds < 1:
        raise Refused(f"{rounds} rounds cannot be timed; take 1 or more, 5 for quartiles that mean something")
    total = len(candidates) * (rounds + 1)
    done = 0

    def say(what: str) -> None:
        nonlocal done
        if progress:
            progress(done, total, what)
        done += 1

    calls: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for candidate in candidates:
        say(f"warming up {candidate.name}")
        calls[candidate.name], seconds[candidate.name] = _warm_up(candidate, sample_s, warm_up_s, clock)
    cost = sum(calls[name] * seconds[name] for name in names)
    rounds = min(rounds, max(3, int(budget_s / cost))) if cost * rounds > budget_s else rounds
    total = len(candidates) * (rounds + 1)
    works = _captured(candidates, baseline, calls, seconds, capture) if capture else {}

    def sample(candidate: Candidate, number: int) -> float:
        one, name = works.get(candidate.name), candidate.name
        # the copies go on where the last sample ended: those of a slow kernel would else be the same few, and hot
        return (
            clock(one) / calls[name] if one else _sample(candidate, calls[name], clock, number * calls[name])
        )

    samples: dict[str, list[float]] = {name: [] for name in names}
    step = max(1, len(candidates) // rounds)
    for number in range(rounds):
        start = number * step % len(candidates)
        turn = [*candidates[start:], *candidates[:start]]
        if each_round:
            each_round()
            sample(turn[0], number)
        for candidate in turn:
            say(f"round {number + 1} of {rounds}: {candidate.name}")
            samples[candidate.name].append(sample(candidate, number + 1))
        if so_far and number + 1 < rounds:
            so_far(_timings(names, baseline, samples, calls, works))
    return _timings(names, baseline, samples, calls, works)


def _captured(
    candidates: Sequence[Candidate],
    baseline: str,
    calls: dict[str, int],
    seconds: dict[str, float],
    capture: Callable[[Candidate, int], Work | None],
) -> dict[str, Work]:
    """Name -> one launch of all calls of a sample, of the candidates whose calls are short; `calls` is cut to what
    a graph should hold. {} where the baseline is short and cannot be launched so."""
    made: dict[str, Work] = {}
    for candidate in sorted(candidates, key=lambda one: one.name != baseline):
        name = candidate.name
        if seconds[name] >= SHORT_S:
            continue
        several = min(calls[name], MOST_CAPTURED)
        work = capture(candidate, several)
        if work is None and name == baseline:
            return {}
        if work is not None:
            made[name], calls[name] = work, several
            work()  # the first launch of a graph brings it to the device
    return made


def _warm_up(candidate: Candidate, sample_s: float, warm_up_s: float, clock: Clock) -> tuple[int, float]:
    """Bring caches and clocks to rest; returns the products per sample, and the seconds of one product."""
    spent, before, calls = 0.0, float("inf"), 1
    seconds = 0.0
    for _ in range(MOST_WARM_UPS):
        seconds = _sample(candidate, calls, clock)
        spent += seconds * calls
        calls = max(1, round(sample_s / max(seconds, 1e-9)))
        settled = abs(seconds - before) <= AGREE * before
        before = seconds
        # a product of seconds, or a machine that other work shares, does not settle by waiting for it
        if spent >= warm_up_s and (settled or spent >= 5 * warm_up_s):
            break
    return calls, seconds


def _sample(candidate: Candidate, calls: int, clock: Clock, first: int = 0) -> float:
    """Seconds per product over `calls` products in a row, on the operand sets from `first` on."""

    def work() -> None:
        for i in range(first, first + calls):
            candidate.run(i)

    return clock(work) / calls


def _timings(
    names: Sequence[str],
    baseline: str,
    samples: dict[str, list[float]],
    calls: dict[str, int],
    works: dict[str, Work],
) -> dict[str, Timing]:
    return {
        name: replace(_timing(name, baseline, samples, calls[name]), captured=name in works) for name in names
    }


def _timing(name: str, baseline: str, samples: dict[str, list[float]], calls: int) -> Timing:
    ratios = [base / own for base, own in zip(samples[baseline], samples[name], strict=True)]
    seconds, ratio = _quartiles(samples[name]), _quartiles(ratios)
    return Timing(
        name=name,
        baseline=baseline,
        seconds=seconds[1],
        seconds_q25=seconds[0],
        seconds_q75=seconds[2],
        ratio=ratio[1],
        ratio_q25=ratio[0],
        ratio_q75=ratio[2],
        rounds=len(ratios),
        calls=calls,
        samples=tuple(samples[name]),
        ratios=tuple(ratios),
    )


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper
