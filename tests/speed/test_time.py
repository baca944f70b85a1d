"""The timer, on a clock that the test turns by hand."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.speed import Candidate, check, reference, time_interleaved
from workbench.speed.clocks import read_clocks
from workbench.speed.time import MOST_CAPTURED, MOST_COPIES, MOST_ROWS, copies_for, reference_rows


class Clock:
    """Time passes only when a candidate runs; `log` holds who ran in which sample."""

    def __init__(self):
        self.now, self.log, self.drift = 0.0, [], 1.0

    def candidate(self, name: str, seconds: float) -> Candidate:
        def run(i: int) -> None:
            self.now += seconds * self.drift
            self.log.append(name)

        return Candidate(name, run, lambda: None, lambda: None, 0.0)

    def __call__(self, work) -> float:
        began = self.now
        work()
        return self.now - began


def samples(log: list[str]) -> list[str]:
    """The order of the samples: neighbours of one name are one sample."""
    return [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]


def test_the_ratio_is_how_many_times_faster_than_the_baseline():
    clock = Clock()
    two = [clock.candidate("base", 2e-3), clock.candidate("fast", 1e-3)]
    timings = time_interleaved(two, baseline="base", clock=clock)
    assert timings["fast"].ratio == pytest.approx(2)
    assert timings["base"].ratio == 1
    assert timings["fast"].seconds == pytest.approx(1e-3)


def test_candidates_run_in_turn():
    clock = Clock()
    three = [clock.candidate(name, 1e-3) for name in "abc"]
    time_interleaved(three, baseline="a", rounds=4, clock=clock)
    # the warm-up is the first a b c; then every round begins with another one
    assert samples(clock.log) == list("abc" + "abc" + "bca" + "cab" + "abc")


def test_every_place_in_the_round_is_had_by_the_baseline_where_there_are_fewer_rounds_than_candidates():
    clock, places = Clock(), []

    def note(done: int, total: int, what: str) -> None:
        if "round" in what:
            places.append(what[-1])

    many = [clock.candidate(name, 1e-2) for name in "abcdefghij"]
    time_interleaved(many, baseline="a", rounds=5, clock=clock, progress=note)
    assert [places[10 * i : 10 * i + 10].index("a") for i in range(5)] == [0, 8, 6, 4, 2]


def test_copies_go_on_where_the_last_sample_ended():
    clock, used = Clock(), []

    def run(i: int) -> None:
        used.append(i)
        clock.now += 4e-3

    slow = Candidate("slow", run, lambda: None, lambda: None, 0.0)
    timing = time_interleaved([slow], baseline="slow", rounds=5, clock=clock, warm_up_s=0)["slow"]
    timed = used[-5 * timing.calls :]
    assert timing.calls == 2
    assert timed == list(range(timed[0], timed[0] + 10))


@pytest.mark.parametrize(
    ("nbytes", "count"),
    [(100 << 20, 1), (32 << 20, 3), (10 << 20, 10), (1 << 20, 96), (1, MOST_COPIES), (0, MOST_COPIES)],
)
def test_copies_fill_three_caches_or_are_as_many_as_are_made(nbytes, count):
    assert copies_for(nbytes, 32 << 20) == count


def test_a_drifting_clock_moves_the_seconds_and_not_the_ratio():
    clock = Clock()

    def slower(done: int, total: int, what: str) -> None:
        clock.drift = 1 + done // 2  # both candidates of a round see the same machine

    two = [clock.candidate("base", 2e-2), clock.candidate("fast", 1e-2)]
    fast = time_interleaved(two, baseline="base", clock=clock, progress=slower)["fast"]
    assert fast.ratio_q25 == pytest.approx(2)
    assert fast.ratio_q75 == pytest.approx(2)
    assert fast.seconds_q75 > 1.5 * fast.seconds_q25
    assert fast.noisy


def test_short_products_are_repeated_until_a_sample_is_long_enough():
    clock = Clock()
    timing = time_interleaved([clock.candidate("a", 1e-6)], baseline="a", sample_s=0.01, clock=clock)["a"]
    assert timing.calls == pytest.approx(10_000, rel=0.01)


def test_a_budget_takes_rounds_but_leaves_three():
    clock = Clock()
    one = [clock.candidate("a", 1.0)]
    assert time_interleaved(one, baseline="a", rounds=9, budget_s=5, clock=clock)["a"].rounds == 5
    assert time_interleaved(one, baseline="a", rounds=9, budget_s=1, clock=clock)["a"].rounds == 3
    assert time_interleaved(one, baseline="a", rounds=2, budget_s=1, clock=clock)["a"].rounds == 2


def test_a_candidate_against_itself_says_what_is_no_difference():
    clock = Clock()
    base = clock.candidate("base", 1e-2)
    near, far = clock.candidate("near", 0.95e-2), clock.candidate("far", 0.8e-2)
    beat = iter([0.95, 1.0, 1.1] * 100)

    def jitter(done: int, total: int, what: str) -> None:
        clock.drift = next(beat) if "again" in what and "round" in what else 1.0

    four = [base, base.again(), near, far]
    timings = time_interleaved(four, baseline="base", rounds=12, clock=clock, progress=jitter)
    spread = timings["base again"].spread
    assert 0.03 < spread < 0.1
    assert timings["near"].verdict(0.06) == "equal"
    assert timings["near"].verdict(0.01) == "faster"
    assert timings["far"].verdict(spread) == "faster"
    assert time_interleaved([far, base], baseline="far", clock=clock)["base"].verdict(spread) == "slower"


def test_rounds_that_do_not_agree_on_a_side_are_no_difference():
    clock = Clock()
    two = [clock.candidate("base", 1e-2), clock.candidate("other", 0.9e-2)]
    beat = iter([0.8, 1.0, 1.25] * 100)

    def jitter(done: int, total: int, what: str) -> None:
        clock.drift = next(beat) if "other" in what and "round" in what else 1.0

    other = time_interleaved(two, baseline="base", rounds=12, clock=clock, progress=jitter)["other"]
    assert other.ratio == pytest.approx(1 / 0.9)
    assert other.ratio_q25 < 1 < other.ratio_q75
    assert other.verdict(0.001) == "equal"


class Launches:
    """A device on which a launch costs 6 us and the work of a call less; a graph has one launch for all its calls."""

    def __init__(self, clock: Clock, *refuses: str):
        self.clock, self.refuses, self.asked = clock, refuses, {}

    def __call__(self, candidate: Candidate, calls: int):
        self.asked[candidate.name] = calls
        if candidate.name in self.refuses:
            return None

        def launch() -> None:
            self.clock.now += 6e-6 + calls * 1e-6

        return launch


def test_short_calls_are_launched_together():
    clock = Clock()
    three = [clock.candidate("base", 7e-6), clock.candidate("short", 7e-6), clock.candidate("long", 1e-3)]
    capture = Launches(clock)
    timings = time_interleaved(three, baseline="base", clock=clock, capture=capture)
    assert capture.asked == {"base": MOST_CAPTURED, "short": MOST_CAPTURED}
    assert [timings[name].captured for name in ("base", "short", "long")] == [True, True, False]
    assert timings["short"].seconds == pytest.approx(1e-6, rel=0.01)
    assert timings["short"].calls == MOST_CAPTURED
    assert timings["long"].seconds == pytest.approx(1e-3)


def test_a_baseline_that_cannot_be_launched_together_takes_that_from_all():
    clock = Clock()
    two = [clock.candidate("short", 7e-6), clock.candidate("base", 7e-6)]
    timings = time_interleaved(two, baseline="base", clock=clock, capture=Launches(clock, "base"))
    assert not timings["short"].captured
    assert timings["short"].ratio == pytest.approx(1)
    timings = time_interleaved(two, baseline="base", clock=clock, capture=Launches(clock, "short"))
    assert (timings["base"].captured, timings["short"].captured) == (True, False)


def test_hot_runs_stay_on_one_operand_set():
    sets = []
    cold = Candidate("a", sets.append, lambda: None, lambda: None, 0.0)
    hot = cold.hot()
    for i in range(3):
        cold.run(i)
        hot.run(i)
    assert (hot.name, sets) == ("a hot", [0, 0, 1, 0, 2, 0])


def test_every_sample_is_kept_and_every_round_announced():
    clock, rounds = Clock(), []

    def each_round() -> None:
        rounds.append(clock.now)
        clock.now += 100.0  # reading the clocks takes time, and that is nobody's

    two = [clock.candidate("base", 2e-2), clock.candidate("fast", 1e-2)]
    timings = time_interleaved(two, baseline="base", rounds=4, clock=clock, each_round=each_round)
    assert len(rounds) == 4
    assert timings["fast"].samples == pytest.approx([1e-2] * 4)
    assert timings["fast"].ratios == pytest.approx([2] * 4)


def test_the_sample_that_wakes_the_machine_is_not_timed():
    clock = Clock()

    def asleep() -> None:
        clock.drift = 10.0

    def run(i: int) -> None:
        clock.now += 2e-2 * clock.drift
        clock.drift = 1.0

    one = Candidate("a", run, lambda: None, lambda: None, 0.0)
    timing = time_interleaved([one], baseline="a", rounds=4, clock=clock, each_round=asleep)["a"]
    assert timing.samples == pytest.approx([2e-2] * 4)


def test_the_clocks_of_a_gpu_are_read_from_nvidia_smis_line():
    read = read_clocks("1980, 2619, 701.25, 54, 0x0000000000000004\n")
    assert read == {"sm_mhz": 1980, "memory_mhz": 2619, "power_w": 701.25, "temperature_c": 54, "throttle": 4}
    assert read_clocks("[N/A], 1, 2, 3, 0x0")["sm_mhz"] is None


def test_what_progress_raises_stops_the_measurement():
    clock = Clock()

    def stop(done: int, total: int, what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        time_interleaved([clock.candidate("a", 1.0)], baseline="a", rounds=9, clock=clock, progress=stop)
    assert clock.now < 5


def test_a_baseline_that_is_missing_and_no_rounds_are_refused():
    clock = Clock()
    with pytest.raises(Refused, match="baseline 'b'"):
        time_interleaved([clock.candidate("a", 1.0)], baseline="b", clock=clock)
    with pytest.raises(Refused, match="0 rounds"):
        time_interleaved([clock.candidate("a", 1.0)], baseline="a", rounds=0, clock=clock)


A = np.random.default_rng(0).standard_normal((7, 5), np.float32)
B = np.random.default_rng(1).standard_normal((5, 3), np.float32)


def product(write) -> Candidate:
    """A candidate whose output holds the right result from an earlier run."""
    c = A @ B
    return Candidate("own", lambda i: write(c), lambda: c.fill(np.nan), lambda: c, 1e-5)


def test_a_right_product_passes_with_its_error():
    assert 0 < check(product(lambda c: np.matmul(A, B, out=c)), reference(A, B, xp=np)) < 1e-6


def test_a_candidate_that_does_not_write_its_output_is_refused():
    with pytest.raises(Refused, match="own: 21 of 21 elements"):
        check(product(lambda c: None), reference(A, B, xp=np))


def test_a_candidate_that_leaves_one_element_is_refused():
    with pytest.raises(Refused, match="own: 1 of 21 elements"):
        check(product(lambda c: np.copyto(c.ravel()[1:], (A @ B).ravel()[1:])), reference(A, B, xp=np))


def test_a_wrong_product_is_refused_with_its_error():
    with pytest.raises(Refused, match="wrong, relative error 1 "):
        check(product(lambda c: c.fill(0)), reference(A, B, xp=np))


def test_a_large_reference_has_some_rows_with_the_first_and_the_last():
    M, N, K = 300, 2000, 5000
    assert reference_rows(M, N, K) == MOST_ROWS
    a, b = np.ones((M, K), np.float32), np.zeros((K, N), np.float32)
    b[0] = 2
    expected = reference(a, b, xp=np)
    assert len(set(expected.rows.tolist())) == MOST_ROWS
    assert {0, M - 1} <= set(expected.rows.tolist())
    assert (expected.values == 2).all()
