"""Spectra against WeightWatcher, FARMS' procedure and the bare eigenvalue calls, on one thread.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 python tests/benchmarks/bench_spectra.py
        [--repeats N] [--model tiny-llama]   the same layers of a model by WeightWatcher and by us
        [--large]                            one layer of a 70-billion-parameter model: time and memory

Each line compares in one run, interleaved: medians of the repeats, and the quartiles of the ratio. The bare calls are
numpy's Gram product and eigvalsh in float64, nothing checked: the limit. FARMS' reference is its published procedure
(windows, torch.linalg.svdvals, a loop over candidates) in float64. Not a test: the numbers are the machine's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

import workbench as wb
from workbench.engine.spectra import spectra
from workbench.spectra import (
    Reading,
    farms,
    fastest_solver,
    fit_bulk,
    fit_tail,
    live_singular_values,
    singular_values,
    spectrum_row,
)

SHAPES = [(256, 704), (576, 576), (576, 1536), (1024, 4096)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model")
    parser.add_argument("--large", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"threads: OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}; solver: {fastest_solver()}"
    )
    if asked.large:
        large()
        return
    rows(asked.repeats)
    if asked.model:
        model(asked.model)
        return
    against_weightwatcher(asked.repeats)
    search(asked.repeats)
    against_farms(asked.repeats)


def rows(repeats: int) -> None:
    """A row of the table against the bare eigenvalue calls, with the shares of the stages."""
    print(
        f"\n{'out x in':>12} {'bare ms':>9} {'row ms':>9} {'row/bare (target 1.3)':>24} {'values %':>9} {'tail %':>7}",
        end="",
    )
    print(f" {'bulk ms':>8} {'live ms':>8} {'svd ms':>9}")
    for shape in SHAPES:
        w = heavy(shape)
        eigenvalues = singular_values(w) ** 2
        runs = interleaved(
            {
                "bare": lambda w=w: bare(w.astype(np.float64)),
                "row": lambda w=w: spectrum_row(w),
                "values": lambda w=w: singular_values(w),
                "tail": lambda e=eigenvalues: fit_tail(e),
                "bulk": lambda e=eigenvalues, s=shape: fit_bulk(np.sort(e), max(s), min(s)),
                "live": lambda w=w: live_singular_values(w),
                "svd": lambda w=w: np.linalg.svd(w.astype(np.float64), compute_uv=False),
            },
            repeats,
        )
        ms = {name: 1e3 * float(np.median(seconds)) for name, seconds in runs.items()}
        print(
            f"{f'{shape[0]} x {shape[1]}':>12} {ms['bare']:9.2f} {ms['row']:9.2f} "
            f"{ratio(runs['row'], runs['bare']):>24}"
            f" {100 * ms['values'] / ms['row']:9.0f} {100 * ms['tail'] / ms['row']:7.1f} {ms['bulk']:8.2f}"
            f" {ms['live']:8.2f} {ms['svd']:9.2f}"
        )


def against_weightwatcher(repeats: int) -> None:
    """The same layers by WeightWatcher: default columns, and with the Marchenko-Pastur fit."""
    layers = [heavy(shape, seed) for seed, shape in enumerate([(256, 704), (576, 576), (576, 1536)])]
    network = torch.nn.Sequential(*map(linear, layers))
    for name, theirs, reading, target in (
        ("default columns", {}, Reading(), 3),
        ("with the Marchenko-Pastur fit", {"mp_fit": True}, Reading(extra=("mp",)), 25),
    ):
        runs = interleaved(
            {
                "theirs": lambda t=theirs: weightwatcher(network, **t),
                "ours": lambda r=reading: [spectrum_row(w, r) for w in layers],
            },
            max(2, repeats // 2),
        )
        print_ratio(f"WeightWatcher, {name}", runs, target)


def model(name: str) -> None:
    """All layers of a model, once."""
    found = wb.load(name)
    weights = [found.base_weight(layer.name) for layer in found.layers]
    network = torch.nn.Sequential(*(linear(w.numpy()) for w in weights))
    for title, theirs, reading, target in (
        ("default columns", {}, Reading(), 3),
        ("with the Marchenko-Pastur fit", {"mp_fit": True}, Reading(extra=("mp",)), 25),
    ):
        runs = interleaved(
            {
                "theirs": lambda t=theirs: weightwatcher(network, **t),
                "ours": lambda r=reading: [spectrum_row(w, r) for w in weights],
                "bare": lambda: [bare(w.double().numpy()) for w in weights],
                "side by side": lambda r=reading: spectra(found, reading=r),
            },
            1,
            warm=False,
        )
        print_ratio(f"{name}, {len(weights)} layers, {title}", runs, target)
        limit, both = runs["ours"][0] / runs["bare"][0], runs["side by side"][0]
        print(
            f"    {limit:.2f} of the bare eigenvalue calls (target 1.3); wb.Spectra on all cores {both:.2f} s"
        )
    agree(network, weights)


def agree(network: torch.nn.Module, weights: list[torch.Tensor]) -> None:
    """How far the columns lie from WeightWatcher's."""
    details = weightwatcher(network, mp_fit=True)
    ours = [spectrum_row(w, Reading(extra=("mp",))) for w in weights]
    fitted = [i for i, row in enumerate(ours) if row["status"] == "success"]
    worst = {c: max(abs(details[c][i] - ours[i][c]) for i in fitted) for c in ("alpha", "D")}
    flagged = [i for i, row in enumerate(ours) if row["mp_problem"]]
    good = [
        i
        for i in range(len(ours))
        if i not in flagged
        and all(
            abs(details[c][i] - ours[i][c]) <= 1e-6 * abs(details[c][i])
            for c in ("sigma_mp", "bulk_max", "mp_softrank")
        )
    ]
    print(
        f"    largest difference of alpha {worst['alpha']:.1e}, of D {worst['D']:.1e}, on {len(fitted)} layers",
        end="",
    )
    print(f"; Marchenko-Pastur within 1e-6 on {len(good)} of {len(ours)}, {len(flagged)} flagged as no fit")


def search(repeats: int) -> None:
    """The search for xmin alone."""
    from weightwatcher.WW_powerlaw import WWFit

    for n in (256, 576, 4096):
        eigenvalues = np.random.default_rng(0).pareto(2, n) + 1
        runs = interleaved(
            {"theirs": lambda e=eigenvalues: WWFit(e), "ours": lambda e=eigenvalues: fit_tail(e)}, repeats
        )
        print_ratio(f"power-law search, {n} eigenvalues", runs, 10)


def against_farms(repeats: int) -> None:
    """FARMS' procedure against ours, at the settings of its code and of its published runs."""
    for shape, rows_, estimator in (
        ((576, 1536), 100, "median"),
        ((576, 1536), 100, "peak"),
        ((1024, 1024), 512, "peak"),
    ):
        w = heavy(shape).astype(np.float64)
        windows = 10 if rows_ == 100 else 4
        ours = partial(ours_of, w, rows_, windows, estimator)
        theirs = partial(plain_farms, w, rows_, windows, estimator)
        difference = abs(ours() - theirs())
        runs = interleaved({"theirs": theirs, "ours": ours}, max(2, repeats // 2))
        print_ratio(f"FARMS {shape[0]} x {shape[1]}, rows {rows_}, {estimator}", runs, 8)
        print(f"    difference of alpha {difference:.1e}")


def large() -> None:
    """A layer of a 70-billion-parameter Llama (28672 x 8192), read alone."""
    torch.manual_seed(0)
    w = torch.empty(28672, 8192, dtype=torch.bfloat16)
    for part in w.split(1024):  # so that its making leaves no mark on the memory
        part.copy_(torch.randn(part.shape))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    began = time.perf_counter()
    row = spectrum_row(w)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"28672 x 8192: {seconds:.0f} s; the layer is {w.nbytes / 1e9:.2f} GB, memory rose from {before:.2f} "
        f"to {peak:.2f} GB; alpha {row['alpha']:.3f}, {row['status']}"
    )


# Peers and tools


def ours_of(w: np.ndarray, rows_: int, windows: int, estimator: str) -> float:
    return farms(w, rows=rows_, windows=windows, estimator=estimator).alpha


def plain_farms(w: np.ndarray, rows_: int, windows: int, estimator: str) -> float:
    """The published procedure for square windows, in float64."""
    steps = [max(1, (size - rows_) // (windows - 1)) for size in w.shape]
    tensor = torch.from_numpy(w)
    pooled = []
    for i in range(min(windows, (w.shape[0] - rows_) // steps[0] + 1)):
        for j in range(min(windows, (w.shape[1] - rows_) // steps[1] + 1)):
            top, left = i * steps[0], j * steps[1]
            pooled.append(torch.square(torch.linalg.svdvals(tensor[top : top + rows_, left : left + rows_])))
    values = torch.sort(torch.cat(pooled)).values
    logs, n = torch.log(values), len(values)

    def at(i: int) -> tuple[float, float]:
        count = n - i
        alpha = 1 + count / (logs[i:].sum() - count * logs[i])
        ideal = 1 - (values[i:] / values[i]) ** (1 - alpha)
        return float(alpha), float((ideal - torch.arange(count) / count).abs().max())

    if estimator == "median":
        return at(n // 2)[0]
    counts, edges = np.histogram(np.log10(values.numpy()), bins=100)
    peak = 10 ** edges[counts.argmax()]
    fits = [at(i) for i in range(n - 1) if np.log10(0.95 * peak) <= values[i] <= 1.5 * peak]
    return min(fits, key=lambda fit: fit[1])[0]


def weightwatcher(network: torch.nn.Module, **options: bool):
    import weightwatcher as ww

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return ww.WeightWatcher(model=network).analyze(**options)


def linear(w: np.ndarray) -> torch.nn.Linear:
    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(np.asarray(w, np.float32))
    return layer


def heavy(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Noise and some strong directions, as trained layers have."""
    rng = np.random.default_rng(seed)
    k = min(shape) // 4
    left, right = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in shape)
    w = rng.standard_normal(shape) / np.sqrt(max(shape)) + (left * 0.3 * (rng.pareto(2.5, k) + 1)) @ right.T
    return w.astype(np.float32)


def bare(w: np.ndarray) -> np.ndarray:
    """The least that any float64 spectrum of w [out, in] has to do on the Gram road."""
    return np.linalg.eigvalsh(w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w)


def interleaved(
    calls: dict[str, Callable[[], object]], repeats: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of each call, one after another in every round."""
    if warm:
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(one: list[float], other: list[float]) -> str:
    low, middle, high = np.quantile([a / b for a, b in zip(one, other, strict=True)], [0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def print_ratio(what: str, runs: dict[str, list[float]], target: float) -> None:
    theirs, ours = (1e3 * float(np.median(runs[name])) for name in ("theirs", "ours"))
    print(
        f"{what}: {theirs:.1f} ms there, {ours:.1f} ms here, {ratio(runs['theirs'], runs['ours'])} times faster "
        f"(target {target})"
    )


if __name__ == "__main__":
    main()
