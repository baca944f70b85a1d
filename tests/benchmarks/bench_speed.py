"""Prints how fast every kernel of the speed room is, as ratios to the baseline of the same run. Not a timed test.

python tests/benchmarks/bench_speed.py [MxNxK ...]
"""

from __future__ import annotations

import sys

import pandas as pd

from workbench.errors import Refused
from workbench.speed import measure

# a token through a small and a large layer, a batch, and a square
SHAPES = ["1x1536x576", "1x4096x4096", "16x4096x4096", "512x512x512"]
SHOWN = [
    "kernel",
    "shape",
    "seconds",
    "gflops",
    "ratio",
    "ratio_q25",
    "ratio_q75",
    "relative_error",
    "registers",
]


def main() -> int:
    notes: dict[str, None] = {}
    for shape in sys.argv[1:] or SHAPES:
        try:
            frame = measure(shape)
        except Refused as error:
            print(error, file=sys.stderr)
            return 1
        print(
            frame[SHOWN].to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-"),
            end="\n\n",
        )
        notes |= dict.fromkeys(
            f"{row.kernel} on {row.device}: {row.note}" for row in frame.itertuples() if row.note
        )
    print(*notes, sep="\n")
    return 0


if __name__ == "__main__":
    pd.set_option("display.width", 160)
    raise SystemExit(main())
