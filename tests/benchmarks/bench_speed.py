"""Prints how fast the kernels of the speed room are, as ratios to the baseline of the same run, beside what they should
reach. Not a timed test.

python tests/benchmarks/bench_speed.py [--path portable|avx2|avx512] [MxNxK ...]     every kernel of these shapes
python tests/benchmarks/bench_speed.py                                               the targets, then two threads

Torch has one thread in both, set before its first product, as the low-bit kernels have.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pandas as pd
import torch

from workbench.errors import Refused
from workbench.speed import cpu, measure
from workbench.speed.run import time_on_cpu
from workbench.speed.time import Candidate, check

ROUNDS, BUDGET_S = 15, 60.0
# shape, path, kernels, what they should reach against torch in fp32, one thread
TARGETS = [
    ("1x4096x4096", "avx512", "cpu-w4-dot", 8.0),
    ("1x4096x4096", "avx512", "cpu-w3-dot", 8.0),
    ("1x4096x4096", "avx512", "cpu-w2-dot", 12.0),
    ("1x4096x4096", "avx512", "cpu-w1-dot", 15.0),
    ("1x4096x4096", "avx512", "cpu-w4-lut", 8.0),
    ("1x4096x4096", "avx512", "cpu-w3-lut", 8.0),
    ("1x4096x4096", "avx512", "cpu-w2-lut", 12.0),
    ("1x4096x4096", "avx512", "cpu-w1-lut", 15.0),
    ("8x4096x4096", "avx512", "cpu-w4-dot", 5.0),
    ("1x4096x4096", "avx2", "cpu-w4-dot", 6.0),
    ("1x4096x4096", "avx2", "cpu-w4-lut", 6.0),
    ("768x768x768", "avx512", "cpu-register-tiled", 0.9),
    ("1024x1024x1024", "avx512", "cpu-register-tiled", 0.9),
]
OF_BANDWIDTH = 1 / 1.5  # at 4 bits, batch 1
SHOWN = ["kernel", "seconds", "seconds_hot", "gflops", "ratio", "ratio_q25", "ratio_q75", "verdict"]
SHOWN += ["relative_error", "weight_error", "gbps", "of_bandwidth", "registers"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", default="")
    parser.add_argument("shapes", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if asked.path:
            os.environ["WORKBENCH_ISA"] = asked.path
        for shape in asked.shapes:
            every_kernel(shape)
        if not asked.shapes:
            targets()
            two_threads((1, 4096, 4096))
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def every_kernel(shape: str) -> None:
    frame = measure(shape, rounds=ROUNDS, budget_s=BUDGET_S)
    print(f"\n{shape}, path {cpu.isa()}")
    print(frame[SHOWN].to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-"))
    for row in frame.itertuples():
        if row.note:
            print(f"  {row.kernel} on {row.device}: {row.note}")


def targets() -> None:
    """Every target beside what was reached, one interleaved run for each shape and path."""
    rows = []
    for shape, path in dict.fromkeys((shape, path) for shape, path, _, _ in TARGETS):
        if path not in cpu.paths():
            print(f"{shape}: this CPU does not run {path}")
            continue
        os.environ["WORKBENCH_ISA"] = path
        goals = {name: goal for s, p, name, goal in TARGETS if (s, p) == (shape, path)}
        glob = "cpu-register-tiled" if "cpu-register-tiled" in goals else "cpu-w[1-4]-[dl][ou]*"
        frame = measure(shape, glob, rounds=ROUNDS, budget_s=BUDGET_S)
        facts = frame.attrs["runs"]["cpu"]["conditions"]
        print(
            f"{shape} {path}: read {facts['read_gbps']:.1f} GB/s, empty call {1e6 * facts['empty_s']:.2f} us,",
            end=" ",
        )
        print(f"baseline against itself within {100 * facts['aa_spread']:.0f} %; {facts['busy'] or 'quiet'}")
        for row in frame.itertuples():
            if row.kernel in goals:
                met = row.ratio >= goals[row.kernel]
                rows.append(
                    [shape, path, row.kernel, goals[row.kernel], row.ratio, row.ratio_q25, row.ratio_q75]
                )
                rows[-1] += ["yes" if met else "NO", 1e3 * row.seconds, row.of_bandwidth]
    os.environ.pop("WORKBENCH_ISA")
    names = ["shape", "path", "kernel", "target", "ratio", "q25", "q75", "met", "ms", "of_bandwidth"]
    print(pd.DataFrame(rows, columns=names).to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    print(f"of_bandwidth at 4 bits and batch 1 should be {OF_BANDWIDTH:.2f} or more")


def two_threads(shape: tuple[int, int, int]) -> None:
    """The 4-bit product with its rows on two threads, beside one."""
    sets = cpu.operand_sets(*shape)
    weight, expected, _ = sets.low_bit("int4")
    candidates = []
    with ThreadPoolExecutor(1) as pool:
        for stem in ("dot", "lut"):
            of = cpu.source(stem)
            packed = sets.packed("int4", of.packing)
            product = cpu.Product(of, packed[0], shape[0])
            y = np.empty((shape[0], weight.shape[0]), np.float32)
            for threads in (1, 2):

                def run(i, product=product, packed=packed, y=y, threads=threads):
                    product.threaded(sets.a, y, pool, threads, packed[i % len(packed)])

                one = Candidate(
                    f"{stem}, {threads} threads", run, lambda y=y: y.fill(np.nan), lambda y=y: y, 2e-2
                )
                check(one, expected)
                candidates.append(one)
        for pair in (candidates[:2], candidates[2:]):
            run = time_on_cpu(pair, ROUNDS, BUDGET_S, None)
            timing = run.timings[pair[1].name]
            print(
                f"{pair[1].name}: {timing.ratio:.2f}x of one ({timing.ratio_q25:.2f} to {timing.ratio_q75:.2f})",
                end="; ",
            )
            print(run.conditions["busy"] or "quiet")


if __name__ == "__main__":
    pd.set_option("display.width", 200)
    raise SystemExit(main())
