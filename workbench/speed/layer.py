"""A compressed layer, run: packed for every kernel that can take it, checked, timed, and the errors kept apart.

There are two errors, and a method should answer for one of them only. The kernel's is what its arithmetic adds to the
product with the weights that the codes stand for (fp32 sums, activations in 8 bits). The weights' is what that product
differs from the one with the weights before they were compressed.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import Refused, near
from . import cpu
from .kernel import Kernel
from .layer_cuda import LayerOperands, cuda_rows, fitting, suited
from .pack import LowBit, low_bit
from .run import Found, Run, checked, part, time_on_cpu
from .table import Row, join, new_row, to_frame
from .time import Candidate, Progress, Reference, copies_for, reference

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from ..grid import CompressedWeight

KERNELS = ("dequant", "dot", "lut")
WOULD_FIT = (
    "what would fit: whole numbers of 1 to 8 bits, or tables of up to 16 values (nf4, e2m1, mxfp4, kmeans), "
    "with one scale for 32, 64 or 128 inputs or a multiple"
)


def run_layer(
    compressed: CompressedWeight,
    batch: int = 1,
    kernel: str = "*",
    rounds: int = 7,
    *,
    x: Tensor | None = None,
    original: Tensor | None = None,
    emulate: bool = False,
    budget_s: float = 20.0,
    progress: Progress | None = None,
    found: Found | None = None,
) -> pd.DataFrame:
    """Y = X W^T of a compressed W [out, in] by torch in fp32 on what it stands for (the baseline) and by every CPU
    kernel, and by the CUDA kernels for weights of its kind, against cuBLAS in fp16, which has a row, too; a row for
    each, columns as in `measure`. Refused: inputs or an original that do not fit or hold no numbers, no rounds.

    x [batch, in]: inputs, else `batch` random ones (normal). original [out, in]: the weights before, for
    `weight_error`. kernel: globs over the names, with commas between; those that cannot run this weight are rows that
    say why. emulate: where no GPU answers, run the CUDA kernels on the emulator with a few tokens and output channels,
    for their `relative_error`; under a second each. An input scale, an order of the columns and a quantizer of the
    inputs belong to the input: they are done to x before, not timed, and said in the note. Masks are packed as the code
    of 0.
    progress and found: as in `measure`.
    """
    import numpy as np
    import torch

    if rounds < 1:
        raise Refused(
            f"run_layer: {rounds} rounds cannot be timed; take 1 or more, 5 for quartiles that mean something"
        )
    if not hasattr(compressed, "grid"):
        raise Refused(
            f"run_layer runs a compressed weight, and this is a {type(compressed).__name__}; "
            "make one of it, such as RTN(bits=4).compress(w)"
        )
    N, K = compressed.shape
    if x is None:
        if batch < 1:
            raise Refused(f"run_layer: batch={batch}: a product has 1 or more rows of inputs; take batch=1")
        x = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, K), dtype=np.float32))
    _usable(x, original, (N, K))
    weight, why = _codes(compressed)
    on_cpu, on_gpu = _select(kernel, compressed, weight)
    running = compressed.running()
    seen = (x.float() if running.inputs is None else running.inputs(x.float())).contiguous().numpy()
    matrix = running.matrix.contiguous().numpy()
    inside = seen if weight is None else _inside(compressed, seen)
    operands = LayerOperands(weight, inside, matrix, seen, compressed.inputs is not None)
    expected = reference(seen, matrix.T, xp=np)
    lost = None if original is None else _lost(expected, x, original)

    rows: list[Row] = []
    runs: dict[str, Any] = {}
    share = len(on_cpu) / (len(on_cpu) + len(on_gpu))
    if on_cpu:
        tell = part(progress, 0, share)
        rows, run = _cpu_rows(
            on_cpu, compressed, operands, why, expected, lost, rounds, budget_s, tell, found
        )
        runs["cpu"] = run.facts()
    if on_gpu:

        def remarked(rows: list[Row]) -> list[Row]:
            return [row | {"note": join(row["note"], _remarks(compressed))} for row in rows]

        pass_on = None if found is None else lambda rows: found(remarked(rows))
        tell = part(progress, share, 1)
        made, of_gpu = cuda_rows(
            on_gpu, operands, expected, lost, rounds, budget_s, tell, emulate=emulate, found=pass_on
        )
        rows += remarked(made)
        runs |= of_gpu
    frame = to_frame(rows)
    frame.attrs["runs"] = runs
    return frame


def kernel_for(compressed: CompressedWeight, batch: int = 1) -> tuple[Kernel, str]:
    """(the CUDA kernel to look at for this weight and so many tokens, ""); or the one for plain fp16 weights, and why
    none reads these codes, and what would fit."""
    weight, why = _codes(compressed)
    whole = compressed.inputs is not None
    try:
        found = fitting(weight, batch, whole=whole)
    except Refused as error:
        dense = fitting(None, batch, whole=whole)
        return dense, f"no CUDA kernel reads these groups, the CPU's do: {error}; {WOULD_FIT}"
    return found, f"no kernel reads this grid: {why}; {WOULD_FIT}" if why else ""


def _usable(x: Tensor, original: Tensor | None, shape: tuple[int, int]) -> None:
    """Refused where inputs or original do not fit a weight of `shape`, or leave an error that means nothing."""
    N, K = shape
    if x.ndim != 2 or x.shape[1] != K or not len(x):
        raise Refused(
            f"run_layer: x of shape {tuple(x.shape)} for a weight of {N} x {K}: "
            f"it has to be [batch, {K}], batch 1 or more"
        )
    if original is not None and tuple(original.shape) != shape:
        raise Refused(
            f"run_layer: the original of shape {tuple(original.shape)} for a weight of {N} x {K}; they have to agree"
        )
    if wrong := int((~x.isfinite()).sum()):
        raise Refused(
            f"run_layer: {wrong} of {x.numel()} elements of x are NaN or infinite; give finite inputs, or leave x out"
        )
    if not x.any():
        raise Refused(
            "run_layer: x is all zeros, and an error relative to a product of zeros means nothing; "
            "give inputs that are not, or leave x out"
        )


def _codes(compressed: CompressedWeight) -> tuple[LowBit | None, str]:
    """The weight as kernels take it, or None and why they do not."""
    try:
        return low_bit(compressed), ""
    except Refused as error:
        return None, str(error)


def _select(
    kernel: str, compressed: CompressedWeight, weight: LowBit | None
) -> tuple[dict[str, str], list[Kernel]]:
    """The CPU kernels whose names match the glob, with their stems (none: torch's), and the CUDA kernels."""
    globs = [glob.strip() for glob in kernel.split(",")]
    of_cpu = {cpu.BASELINE: "", "cpu-torch-bf16": ""}
    of_cpu |= {f"cpu-w{compressed.grid.code_bits}-{stem}": stem for stem in KERNELS}
    of_gpu = suited(weight, whole=compressed.inputs is not None)
    on_cpu = {name: stem for name, stem in of_cpu.items() if any(fnmatch.fnmatchcase(name, g) for g in globs)}
    on_gpu = [one for name, one in of_gpu.items() if any(fnmatch.fnmatchcase(name, g) for g in globs)]
    if not on_cpu and not on_gpu:
        raise Refused(
            f"no kernel for a compressed layer matches {kernel!r}{near(kernel, [*of_cpu, *of_gpu])}"
        )
    return on_cpu, on_gpu


def _cpu_rows(
    wanted: dict[str, str],
    compressed: CompressedWeight,
    operands: LayerOperands,
    why: str,
    expected: Reference,
    lost: float | None,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    found: Found | None,
) -> tuple[list[Row], Run]:
    """Rows of the CPU kernels (name -> stem); `why` those with a stem cannot take the weight, if they cannot."""
    import numpy as np

    sets = cpu.Operands(operands.seen, np.ascontiguousarray(operands.matrix.T))
    every, weight = cpu.rungs(), operands.weight
    notes = dict.fromkeys(wanted, _remarks(compressed))
    makers: list[tuple[str, Callable[[], Candidate]]] = [
        (name, partial(every[name].make, sets))
        for name in dict.fromkeys((cpu.BASELINE, *wanted))
        if not wanted.get(name)
    ]
    if weight is None:
        notes |= {name: why for name, stem in wanted.items() if stem}
    else:
        makers += [
            (name, partial(_candidate, name, stem, weight, operands.inside, expected, lost))
            for name, stem in wanted.items()
            if stem
        ]
    candidates, errors = checked(makers, expected, notes, part(progress, 0, 0.4))
    if cpu.BASELINE not in errors:
        raise Refused(f"the baseline itself fails: {notes.get(cpu.BASELINE)}")

    def rows_of(run: Run) -> list[Row]:
        rows: list[Row] = []
        for name, stem in wanted.items():
            bits = compressed.grid.code_bits if stem else every[name].bits
            digest = cpu.source(stem).hash if stem else every[name].hash
            row = new_row(operands.shape, name, cpu.cpu_name(), bits, digest, notes[name])
            rows.append(row | run.row(operands.shape, name, errors.get(name), notes[name]))
            if name in errors:
                rows[-1]["weight_error"] = lost
            rows[-1]["packing"] = cpu.source(stem).packing if stem else "none"
        return rows

    so_far = None if found is None else lambda run: found(rows_of(run))
    run = time_on_cpu(candidates, rounds, budget_s, part(progress, 0.4, 1), so_far)
    return rows_of(run), run


def _candidate(
    name: str, stem: str, weight: LowBit, x: np.ndarray, expected: Reference, lost: float | None
) -> Candidate:
    """The weight packed for one kernel, in as many copies as fill three caches."""
    of = cpu.source(stem)
    product = cpu.Product(of, one := cpu.Packed(weight, of.packing), x.shape[0])
    copies = copies_for(one.nbytes, cpu.cache_bytes())
    packed = [one] + [one.copy() for _ in range(copies - 1)]
    tolerance = of.tolerance
    if expected.values.size <= cpu.FEW:
        tolerance = cpu.allowed(tolerance, x, weight.dequantize(), expected)
    return cpu.product_candidate(name, tolerance, product, packed, x, expected=expected, weight_error=lost)


def _inside(compressed: CompressedWeight, seen: np.ndarray) -> np.ndarray:
    """What the codes are multiplied with: x divided by the input scale, in the order of the codes."""
    import numpy as np

    if compressed.input_scale is not None:
        seen = seen / compressed.input_scale.float().numpy()
    if compressed.order is not None:
        seen = seen[:, compressed.order.numpy()]
    return np.ascontiguousarray(seen, np.float32)


def _lost(expected: Reference, x: Tensor, original: Tensor) -> float:
    """||r - r0|| / ||r0||: r the product with the compressed weights, r0 with those before; float64."""
    import numpy as np

    before: Any = reference(x.float().numpy(), original.float().numpy().T, xp=np).values
    return float(np.linalg.norm(expected.values - before) / np.linalg.norm(before))


def _remarks(compressed: CompressedWeight) -> str:
    """What is done outside the timed product."""
    return join(
        "inputs divided by the input scale before" if compressed.input_scale is not None else "",
        "inputs put in the order of the codes before" if compressed.order is not None else "",
        f"inputs quantized before ({compressed.inputs.label})" if compressed.inputs is not None else "",
        "the shift of the output is not in it" if compressed.shift is not None else "",
    )
