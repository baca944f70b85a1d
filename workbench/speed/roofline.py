"""Where a kernel stands against what its machine can do: bytes and operations of a product, and the machine's limits.

A kernel that does I operations per byte of memory cannot do more than min(peak, I x bandwidth) operations a second
(Williams, Waterman and Patterson 2009). Bytes are those that have to move at least once: a kernel that reads an
operand twice from memory, or finds it in a cache, is not where its point says. Limits are measured here, by copying
and reading memory and by the vendor's products, or come from a record; a data sheet's are called so.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Refused
from . import cpu, cuda
from .cpu.roof import roofs
from .kernel import Kernel, kernels
from .ops import DTYPES, OPS, PACKINGS, Shape, problem
from .table import join, parse_shape
from .time import Candidate, Clock, Progress, Timing, time_interleaved, wall_clock
from .vendor import gemm

if TYPE_CHECKING:
    import pandas as pd

LEAST_FLOATS = 64 << 20  # of the buffer that a GPU copies
SIDE = 1024  # of the square product that finds a CPU's peak; on a GPU eight times as long
SAMPLE = (64, 512)  # rows and columns of a packed weight from which its bytes per element are read
ROUNDS = 5
COPY = "copy"  # the baseline of what is no product: it has no operations

COLUMNS = {
    "kernel": "name",
    "bits": "bits of one operand element, of one weight where only that is in few bits",
    "shape": "MxNxK",
    "intensity": "operations per byte that has to come from memory or go there at least once",
    "flops": "operations per second: 2 M N K for a product",
    "seconds": "per call, median",
    "attainable": "the least of the roofs over this intensity, operations per second",
    "of_roof": "flops / attainable; over 1: operands in a cache, or instructions that the roof's product does not use",
    "bound": "memory or arithmetic: which roof that is",
    "where": "measured: here, now; recorded: on another machine or earlier",
}


@dataclass(frozen=True)
class Work:
    """What one call has to do at least: operations (additions and multiplications), and bytes moved."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes


@dataclass(frozen=True)
class Roof:
    """A limit: bytes per second where `per` is "byte", operations per second where it is "flop"; `bits` of the
    operands that it holds for, 0 for memory."""

    name: str
    value: float
    per: str
    bits: int = 0


@dataclass(frozen=True)
class Limits:
    """What one machine can do. `where`: "measured" (here, at `date`), "recorded" or "data sheet"."""

    device: str
    where: str
    date: str
    roofs: tuple[Roof, ...]
    note: str = ""

    @property
    def bandwidth(self) -> float:
        """Bytes per second, the best of the memory roofs."""
        return max((roof.value for roof in self.roofs if roof.per == "byte"), default=float("nan"))

    def peak(self, bits: int = 32) -> float:
        """Operations per second with operands of so many bits: the fastest product that takes operands at least as
        wide, since wider ones can always hold narrower numbers."""
        able = [roof.value for roof in self.roofs if roof.per == "flop" and roof.bits >= min(bits, 32)]
        return max(able, default=float("nan"))

    def attainable(self, intensity: float, bits: int = 32) -> float:
        return min(self.peak(bits), intensity * self.bandwidth)

    def to_json(self) -> dict[str, Any]:
        """For a record."""
        return {
            "device": self.device,
            "date": self.date,
            "roofs": [vars(roof) for roof in self.roofs],
            "note": self.note,
        }


def work(kernel: Kernel, shape: Shape) -> Work:
    """Of one launch: each operand is read or written once. A packed weight costs what its codes, scales and
    metadata cost per element, read from a small one packed the same way."""
    op = OPS[kernel.op]
    shapes = op.shapes(*shape)
    total = 0.0
    for name, dtype in kernel.operands.items():
        if name in shapes and not (name == op.packed and PACKINGS[kernel.packing].make):
            total += float(np.prod(shapes[name])) * DTYPES[dtype].bits / 8
    if PACKINGS[kernel.packing].make:
        total += float(np.prod(shapes[op.packed])) * packed_bytes(kernel)
    return Work(float(op.flops(*shape)), total)


def packed_bytes(kernel: Kernel) -> float:
    """Bytes per element of the operand that the kernel's packing makes, everything that belongs to it counted."""
    op, (rows, columns) = OPS[kernel.op], SAMPLE
    small = (rows, rows, columns)
    shapes = op.shapes(*small)
    made = problem(kernel.op, kernel.operands, small, packing=kernel.packing)
    plain = {name for name in shapes if name != op.packed}
    return sum(array.nbytes for name, array in made.inputs.items() if name not in plain) / np.prod(
        shapes[op.packed]
    )


def points(frame: pd.DataFrame, limits: Limits, *, where: str = "measured") -> pd.DataFrame:
    """The rows of a measured table on the roofline; columns as in COLUMNS. Rows without a time are left out. The
    bytes of a CPU kernel are those of the table (its weight as stored), with activations and result in fp32."""
    import pandas as pd

    known, rows = kernels(), []
    for row in frame.to_dict("records"):
        if not row["seconds"] == row["seconds"] or row["seconds"] is None or row["kernel"] == COPY:
            continue
        seconds, bits = float(row["seconds"]), int(row["bits"])
        done = _row_work(row, known.get(row["kernel"]))
        reach, flops = limits.attainable(done.intensity, bits), done.flops / seconds
        memory = done.intensity * limits.bandwidth < limits.peak(bits)
        rows.append(
            {
                "kernel": row["kernel"],
                "bits": bits,
                "shape": row["shape"],
                "intensity": done.intensity,
                "flops": flops,
                "seconds": seconds,
                "attainable": reach,
                "of_roof": flops / reach,
                "bound": "memory" if memory else "arithmetic",
                "where": where,
            }
        )
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    made.attrs["columns"] = COLUMNS
    return made


def _row_work(row: Mapping[str, Any], kernel: Kernel | None) -> Work:
    M, N, K = shape = parse_shape(row["shape"])
    if kernel is not None:
        return work(kernel, shape)
    gbps = row.get("gbps")
    if not row["kernel"].startswith(
        "cpu-"
    ):  # the vendor's on a GPU: operands of one type, the result in four bytes
        return Work(2.0 * M * N * K, (M * K + K * N) * int(row["bits"]) / 8 + 4.0 * M * N)
    weight = (
        1e9 * gbps * row["seconds"] if gbps is not None and gbps == gbps else K * N * int(row["bits"]) / 8
    )
    return Work(2.0 * M * N * K, weight + 4.0 * (M * K + M * N))


def cpu_limits(*, clock: Clock = wall_clock, progress: Progress | None = None) -> Limits:
    """Copy, read and matrix products of this CPU, the best of five interleaved rounds each; about two seconds."""
    import torch

    made = _memory() + _products()
    timings = time_interleaved(
        [one for one, _ in made], baseline=made[0][0].name, rounds=ROUNDS, clock=clock, progress=progress
    )
    threads = torch.get_num_threads()
    note = join(f"{threads} thread{'s' if threads > 1 else ''}", cpu.busy())
    return Limits(cpu.cpu_name(), "measured", _today(), _best(made, timings), note)


def _memory() -> list[tuple[Candidate, Roof]]:
    """Copying a buffer of three caches (bytes read and written), and reading one."""
    import torch

    floats = 3 * cpu.cache_bytes() // 4
    source, target = torch.ones(floats), torch.empty(floats)
    read = roofs()[0]  # the lab's own, so that its column of_bandwidth means the same
    return [
        (_candidate("copy", lambda i: target.copy_(source)), Roof("copy", 8.0 * floats, "byte")),
        (_candidate("read", read.run), Roof("read", float(read.nbytes), "byte")),
    ]


def _products() -> list[tuple[Candidate, Roof]]:
    """torch's products of square matrices in fp32, bf16 and int8."""
    import torch

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(SIDE, SIDE, generator=generator)
    half, whole = a.bfloat16(), (20 * a).clamp(-127, 127).to(torch.int8)
    flops = 2.0 * SIDE**3
    made = [
        (_candidate("fp32 product", lambda i: torch.mm(a, a)), Roof("fp32 product", flops, "flop", 32)),
        (_candidate("bf16 product", lambda i: torch.mm(half, half)), Roof("bf16 product", flops, "flop", 16)),
    ]
    if hasattr(torch, "_int_mm"):
        product = _candidate("int8 product", lambda i: torch._int_mm(whole, whole))
        made.append((product, Roof("int8 product", flops, "flop", 8)))
    return made


def gpu_limits(device: cuda.Device, *, progress: Progress | None = None) -> Limits:
    """Copy and cuBLAS's products of a GPU through CuPy, timed by events. Random operands: on zeros a chip is faster."""
    import cupy

    floats = max(LEAST_FLOATS, 3 * device.cache_bytes // 4)
    source, target = cupy.ones(floats, dtype=cupy.float32), cupy.empty(floats, dtype=cupy.float32)
    side, random = 8 * SIDE, cupy.random.default_rng(0)
    a = random.standard_normal((side, side), dtype=cupy.float32)
    half = a.astype(cupy.float16)
    flops = 2.0 * side**3

    def product(name: str, one: Any, to: Any, dtype: str, result: str, bits: int) -> tuple[Candidate, Roof]:
        run = partial(gemm, one, one, to, dtype, result)
        return _candidate(name, lambda i: run()), Roof(name, flops, "flop", bits)

    made = [
        (_candidate("copy", lambda i: cupy.copyto(target, source)), Roof("copy", 8.0 * floats, "byte")),
        (_candidate("fp32 product", lambda i: cupy.matmul(a, a)), Roof("fp32 product", flops, "flop", 32)),
        (
            _candidate("fp16 product", lambda i: cupy.matmul(half, half)),
            Roof("fp16 product", flops, "flop", 16),
        ),
        # bf16 is the upper half of fp32, cut off here: what its digits are costs nothing
        product("bf16 product", _upper_halves(a), cupy.empty((side, side), "uint16"), "bf16", "bf16", 16),
        product("int8 product", _whole(a), cupy.empty((side, side), "int32"), "int8", "int32", 8),
    ]
    made = _that_run(made)
    timings = time_interleaved(
        [one for one, _ in made], baseline="copy", rounds=ROUNDS, clock=cuda.event_clock, progress=progress
    )
    return Limits(device.name, "measured", _today(), _best(made, timings))


def _upper_halves(a: Any) -> Any:
    """The upper 16 bits of each float of [M,K]: bf16, rounded towards zero."""
    return (a.view("uint32") >> 16).astype("uint16")


def _whole(a: Any) -> Any:
    """Normal numbers as whole ones in 8 bits."""
    return (30 * a).clip(-127, 127).astype("int8")


def _that_run(made: list[tuple[Candidate, Roof]]) -> list[tuple[Candidate, Roof]]:
    """Those that the device and its library take: an old one has no product of bf16."""
    kept = []
    for candidate, roof in made:
        try:
            candidate.run(0)
        except (RuntimeError, Refused):
            continue
        kept.append((candidate, roof))
    return kept


def _best(made: list[tuple[Candidate, Roof]], timings: Mapping[str, Timing]) -> tuple[Roof, ...]:
    """What each reached in its fastest round. A roof is what can be done, so it is the best and not the median."""
    return tuple(replace(roof, value=roof.value / min(timings[one.name].samples)) for one, roof in made)


def _candidate(name: str, run) -> Candidate:
    return Candidate(name, run, lambda: None, lambda: None, 0.0)


def limits_here() -> Limits:
    """Of this machine's GPU where one answers, else of its CPU; measured now."""
    device, _ = cuda.find_device()
    return gpu_limits(device) if device else cpu_limits()


# Name of the product, as CUDA says it -> TB/s, and dense TFLOP/s (TOP/s) with operands of 32, 16 and 8 bits
DATA_SHEETS = {
    "H200": (4.8, 67.0, 989.0, 1979.0),
    "H100 80GB HBM3": (3.35, 67.0, 989.0, 1979.0),
    "A100-SXM4-80GB": (2.039, 19.5, 312.0, 624.0),
    "A100-SXM4-40GB": (1.555, 19.5, 312.0, 624.0),
    "L4": (0.3, 30.3, 121.0, 242.0),
}


def data_sheet(device: str) -> Limits | None:
    """What the maker prints of a GPU, for a record that measured no limits; None where it is not in the table."""
    for name, (bandwidth, *peaks) in DATA_SHEETS.items():
        if device.endswith(name):
            printed = [Roof("memory", 1e12 * bandwidth, "byte")]
            printed += [
                Roof(f"{bits}-bit product", 1e12 * peak, "flop", bits)
                for bits, peak in zip((32, 16, 8), peaks, strict=True)
            ]
            return Limits(device, "data sheet", "", tuple(printed), "printed by the maker, not measured")
    return None


def recorded_limits(told: Mapping[str, Any]) -> Limits:
    """The limits that `Limits.to_json` wrote."""
    kept = tuple(Roof(**roof) for roof in told["roofs"])
    return Limits(told["device"], "recorded", told["date"], kept, told.get("note", ""))


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
