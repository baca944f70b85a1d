"""Where the time of a spectra row goes: python tests/benchmarks/bench_spectra.py [--repeats N]

For each shape the milliseconds, the stages' shares, and the ratio of the whole row to the bare eigenvalue
call (numpy's Gram product and eigvalsh on float64, nothing checked). Runs are interleaved; medians over the
runs, with the quartiles of the ratio. Not a test: the numbers are the machine's. OPENBLAS_NUM_THREADS=1
steadies them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from workbench.spectra import fit_tail, live_singular_values, singular_values, spectrum_row

SHAPES = [(256, 704), (576, 1536), (4096, 1024)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print(f"{'out x in':>11} {'bare ms':>8} {'row ms':>8} {'ratio':>6} {'quartiles':>12}", end="")
    print(f" {'values %':>9} {'tail %':>7} {'rest %':>7} {'live ms':>8} {'svd ms':>8}")
    for shape in SHAPES:
        print(line(shape, repeats=repeats))
    eigenvalues = np.random.default_rng(0).pareto(2, 4096) + 1
    milliseconds = 1e3 * np.median(timed(lambda: fit_tail(eigenvalues), repeats))
    print(f"tail fit alone, 4096 eigenvalues: {milliseconds:.1f} ms")


def line(shape: tuple[int, int], *, repeats: int) -> str:
    """One line of the table, for a Gaussian float32 matrix of `shape` (out, in)."""
    w = (np.random.default_rng(0).standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
    eigenvalues = singular_values(w) ** 2
    stages: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(w.astype(np.float64)),
        "row": lambda: spectrum_row(w),
        "values": lambda: singular_values(w),
        "tail": lambda: fit_tail(eigenvalues),
        "live": lambda: live_singular_values(w),
        "svd": lambda: np.linalg.svd(w.astype(np.float64), compute_uv=False),
    }
    for stage in stages.values():
        stage()
    runs = [{name: timed(stage, 1)[0] for name, stage in stages.items()} for _ in range(repeats)]
    ratios = np.quantile([run["row"] / run["bare"] for run in runs], [0.25, 0.5, 0.75])
    median = {name: 1e3 * float(np.median([run[name] for run in runs])) for name in stages}
    values, tail = (np.median([100 * run[name] / run["row"] for run in runs]) for name in ("values", "tail"))
    return (
        f"{f'{shape[0]} x {shape[1]}':>11} {median['bare']:8.2f} {median['row']:8.2f} {ratios[1]:6.2f} "
        f"{f'{ratios[0]:.2f}-{ratios[2]:.2f}':>12} {values:9.0f} {tail:7.0f} {100 - values - tail:7.0f} "
        f"{median['live']:8.2f} {median['svd']:8.2f}"
    )


def bare(w: np.ndarray) -> np.ndarray:
    """The least that any float64 spectrum of w [out, in] has to do on the Gram road."""
    return np.linalg.eigvalsh(w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w)


def timed(call: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
