"""The table of the speed lab: its columns, its rows, and the shape that it is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .time import Timing

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "kernel": "name; CPU kernels begin with cpu-",
    "device": "what it ran on, or the architecture it was compiled for",
    "bits": "bits of one operand element, of one weight where only that is in few bits",
    "packing": "how the weights are laid out; none: as numbers in rows",
    "shape": "MxNxK of C[M,N] = A[M,K] B[K,N]",
    "seconds": "s per product, median over the rounds",
    "baseline": "the kernel that ratio compares with, timed in the same run",
    "ratio": "how many times faster than the baseline; median of the ratios of each round",
    "gflops": "10^9 operations per second, 2 M N K operations per product",
    "relative_error": "the kernel's: ||c - r|| / ||r|| against the float64 product with the same (rounded) weights",
    "weight_error": "the weights': the same for that product against the one with the weights before rounding",
    "verdict": "faster or slower than the baseline; equal: no further off than it is from itself, or quartiles about 1",
    "gbps": "10^9 bytes per second of B as stored, scales included, on the CPU; of all operands on a GPU",
    "of_bandwidth": "gbps as a share of what one thread that only reads memory reached in the same round; median",
    "seconds_hot": "s per product on one copy of the operands, in the cache; seconds is on many in turn, from memory",
    "seconds_q25": "s, lower quartile",
    "seconds_q75": "s, upper quartile",
    "ratio_q25": "lower quartile of the rounds' ratios",
    "ratio_q75": "upper quartile of the rounds' ratios",
    "rounds": "interleaved rounds",
    "registers": "per thread (CUDA)",
    "shared_bytes": "bytes of shared memory per block (CUDA)",
    "spills": "bytes per thread written to memory for want of registers (CUDA)",
    "where": "measured: here, now; compiled only: no time; skipped: neither, the note says why",
    "source_hash": "changes with the kernel's source",
    "note": "what a reader of the row must know",
}
WHOLE = ("bits", "rounds", "registers", "shared_bytes", "spills")
REAL = (
    "seconds",
    "ratio",
    "gflops",
    "relative_error",
    "weight_error",
    "gbps",
    "of_bandwidth",
    "seconds_hot",
    "seconds_q25",
    "seconds_q75",
    "ratio_q25",
    "ratio_q75",
)

Shape = tuple[int, int, int]
Row = dict[str, Any]


def parse_shape(text: str) -> Shape:
    """ "4096x1x4096" -> (4096, 1, 4096): M, N, K of C[M,N] = A[M,K] B[K,N]. Refused for anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not match or not all(int(size) for size in match.groups()):
        raise Refused(
            f"shape {text!r} is not MxNxK, three whole numbers from 1 on, such as 4096x1x4096 "
            "(C[M,N] = A[M,K] B[K,N])"
        )
    M, N, K = (int(size) for size in match.groups())
    return M, N, K


def read_shape(shape: Sequence[int] | str) -> Shape:
    """(M, N, K) of a text or of numbers. Refused as in `parse_shape`, for anything else, too."""
    if isinstance(shape, str):
        return parse_shape(shape)
    return parse_shape("x".join(map(str, shape)) if isinstance(shape, Iterable) else str(shape))


def new_row(shape: Shape, kernel: str, device: str, bits: int, source_hash: str, note: str) -> Row:
    return {
        "kernel": kernel,
        "device": device,
        "bits": bits,
        "shape": "x".join(str(size) for size in shape),
        "where": "skipped",
        "source_hash": source_hash,
        "note": note,
    }


def timed(shape: Shape, timing: Timing, error: float | None, note: str) -> Row:
    """What the rounds say of one kernel."""
    if timing.noisy:
        spread = 100 * (timing.seconds_q75 - timing.seconds_q25) / timing.seconds
        note = join(note, f"noisy: the quartiles lie {spread:.0f} % of the median apart")
    M, N, K = shape
    return {
        "baseline": timing.baseline,
        "seconds": timing.seconds,
        "seconds_q25": timing.seconds_q25,
        "seconds_q75": timing.seconds_q75,
        "ratio": timing.ratio,
        "ratio_q25": timing.ratio_q25,
        "ratio_q75": timing.ratio_q75,
        "rounds": timing.rounds,
        "gflops": 2e-9 * M * N * K / timing.seconds,
        "relative_error": error,
        "where": "measured",
        "note": note,
    }


def join(*notes: str) -> str:
    """The notes that say something, as one."""
    return "; ".join(filter(None, notes))


def to_frame(rows: list[Row]) -> pd.DataFrame:
    """A DataFrame with COLUMNS; what a row does not know is missing in it."""
    import pandas as pd

    frame = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS))
    for name in COLUMNS:
        if name in WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif name in REAL:
            frame[name] = frame[name].astype(float)
        else:
            frame[name] = frame[name].fillna("").astype(str)
    return frame
