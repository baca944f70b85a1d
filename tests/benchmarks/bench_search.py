"""The live scale search: python tests/benchmarks/bench_search.py [--size 4096] [--repeats N]

RTN with the activation-weighted search against RTN without a search, and both against reading the weight once (a sum
over it, the floor of anything that looks at every weight). Interleaved; medians. And what the search gains: the
weighted error against the plain one's. Not a test: the numbers are the machine's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

import workbench as wb
from workbench.methods import Statistics


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(options.size, options.size, generator=generator) * 0.02
    h = torch.rand(options.size, generator=generator) ** 4 * 30 + 0.01
    known = Statistics(tokens=1, mean_square=h)
    print(f"{options.size} x {options.size}, {torch.get_num_threads()} threads")
    print(
        f"{'method':<28} {'read ms':>8} {'plain ms':>9} {'search ms':>10} {'search/plain':>13} {'error':>6}"
    )
    for fields in (
        {"bits": 4},
        {"bits": 3},
        {"bits": 2},
        {"bits": 4, "symmetric": True},
        {"format": "nf4"},
        {"format": "e2m1"},
    ):
        plain, searched = wb.RTN(**fields), wb.RTN(**fields, scale_search="activation")
        stages: dict[str, Callable[[], object]] = {
            "read": lambda: w.sum(),
            "plain": lambda m=plain: m.compress(w),
            "search": lambda m=searched: m.compress(w, known),
        }
        found = medians(stages, options.repeats)
        error = [
            float(((m.compress(w, known).dequantize() - w).square() * h).sum()) for m in (searched, plain)
        ]
        print(
            f"{searched.label:<28} {found['read']:8.1f} {found['plain']:9.1f} {found['search']:10.1f} "
            f"{found['search'] / found['plain']:13.1f} {error[0] / error[1]:6.2f}"
        )


def medians(stages: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Milliseconds of each, interleaved; the first round warms up."""
    runs: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(repeats + 1):
        for name, stage in stages.items():
            begun = time.perf_counter()
            stage()
            runs[name].append(1e3 * (time.perf_counter() - begun))
    return {name: float(np.median(times[1:])) for name, times in runs.items()}


if __name__ == "__main__":
    main()
