"""Where the time of a live error map goes: python tests/benchmarks/bench_error_map.py [--rounds N]

A layer of 14336 x 4096, int4 in groups of 128: each step in milliseconds and as a ratio to reading the matrix
once in the same round (its sum by torch on all cores). Rounds are interleaved; medians with quartiles. `whole`
is what a slider costs: scales, codes (`quantize`), and the cells of the error; it should be at most 5 times the
read. `fit` and `encode` are the same in two steps. Not a test: the numbers are the machine's, and a machine with
other work shows more than its own time; the column CPU, the time of all threads, is steadier there.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

import workbench as wb
from workbench.grid import encode, fit, quantize
from workbench.grid.affine import block_range
from workbench.grid.chunks import cores, over_rows
from workbench.measure import error_cells, weight_cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", type=int, nargs=2, default=(14336, 4096), metavar=("OUT", "IN"))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    options = parser.parse_args()
    steps = steps_of(tuple(options.shape), wb.RTN(bits=options.bits, group_size=options.group_size))
    seconds = interleaved(steps, options.rounds)
    read = seconds["read"]
    print(f"{options.shape[0]} x {options.shape[1]}, int{options.bits} g{options.group_size}, ", end="")
    print(f"{cores()} cores, load {os.getloadavg()[0]:.1f}, {options.rounds} rounds")
    print(f"{'step':>12} {'ms':>8} {'quartiles':>15} {'x read':>7} {'quartiles':>11} {'CPU ms':>8}")
    for name, runs in seconds.items():
        low, middle, high = 1e3 * np.quantile(runs[:, 0], [0.25, 0.5, 0.75])
        ratios = np.quantile(runs[:, 0] / read[:, 0], [0.25, 0.5, 0.75])
        print(f"{name:>12} {middle:8.2f} {f'{low:.2f}-{high:.2f}':>15} ", end="")
        print(f"{ratios[1]:7.2f} {f'{ratios[0]:.2f}-{ratios[2]:.2f}':>11} {1e3 * np.median(runs[:, 1]):8.2f}")


def steps_of(shape: tuple[int, int], method: wb.RTN) -> dict[str, Callable[[], object]]:
    """Each step by name, on a Gaussian weight of `shape` [out, in]."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.02
    blocks = method.blocks(shape)
    compressed = method.compress(w)
    known = weight_cells(w)
    array = w.numpy()

    def whole() -> object:
        return error_cells(w, method.compress(w), known)

    return {
        "read": lambda: w.sum(),
        "numpy read": lambda: over_rows(lambda a, b: array[a:b].sum(), shape[0]),
        "block_range": lambda: block_range(w, blocks),
        "fit": lambda: fit(w, blocks, method.bits),
        "encode": lambda: encode(w, compressed.grid, blocks, compressed.scale, compressed.zero),
        "quantize": lambda: quantize(w, blocks, method.bits),
        "error_cells": lambda: error_cells(w, compressed, known),
        "whole": whole,
    }


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """[rounds, 2] for each step: seconds, and seconds of all threads; a first round compiles and is not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return {name: np.array(runs[1:]) for name, runs in seconds.items()}


if __name__ == "__main__":
    main()
