"""A compressed layer on the CUDA kernels: which can take it, what each is given, and its error on the emulator.

A kernel is made for groups of 128; here its source is made for the weight's. Inputs are rounded to fp16, or to int8 by
token, and scales to fp16: that is the kernel's error as much as its sums are. Without a GPU the emulator runs the same
source on the same codes, a few tokens and output channels of them, so that the error is known where the time is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Refused
from . import cuda, emulator, ops
from .kernel import Kernel, kernels
from .nvrtc import CompileError, NoCompiler
from .on_gpu import compiled_rows, timed_rows
from .pack import LowBit
from .pack import cuda as pack
from .run import Found, part
from .table import Row, Shape, join, new_row
from .time import Progress, Reference

if TYPE_CHECKING:
    from typing import Any

EMULATED_TOKENS = 2
EMULATED_WORK = 1 << 21  # multiply-adds of one emulated launch: under a second
SPARE_BITS = (
    4  # up to here there are kernels for weights alone with fewer bits, so int8 is not what one would take
)
SCHEDULE = "greedy"


@dataclass(frozen=True)
class LayerOperands:
    """A compressed layer and its inputs. weight: the codes, None where they are of no kind that kernels take; inside
    [M, K]: what the codes are multiplied with; matrix [N, K] and seen [M, K]: the same product in floats, its columns
    in the order of the checkpoint; whole: the layer quantizes its inputs."""

    weight: LowBit | None
    inside: np.ndarray
    matrix: np.ndarray
    seen: np.ndarray
    whole: bool

    @property
    def shape(self) -> Shape:
        return len(self.seen), *self.matrix.shape

    @cached_property
    def fitted(self) -> LowBit:
        """The weight with groups and scales that the kernels have. Refused as in `pack.cuda.fitted`."""
        assert self.weight is not None
        return pack.fitted(self.weight)

    def cut(self, tokens: int, rows: int) -> LayerOperands:
        """The first tokens and the first output channels."""
        weight = self.weight
        if weight is not None:
            zero = None if weight.zero is None else weight.zero[:rows]
            weight = replace(weight, codes=weight.codes[:rows], scale=weight.scale[:rows], zero=zero)
        return LayerOperands(weight, self.inside[:tokens], self.matrix[:rows], self.seen[:tokens], self.whole)

    def kernel(self, kernel: Kernel) -> Kernel:
        """The kernel for the groups of this weight. Refused where it has none such."""
        if kernel.packing == "none":
            return kernel
        text = pack.regrouped(kernel.source, self.fitted.group_size)
        return Kernel.parse(text, where=kernel.where)

    def problem(self, kernel: Kernel) -> ops.Problem:
        """The operands for a kernel that `kernel` made. Refused where it cannot hold them."""
        if kernel.op == ops.SCALED_LAYER:
            assert self.weight is not None
            return ops.scaled_layer(kernel.operands, self.weight, self.inside)
        if kernel.packing == "none":
            return ops.plain_layer(kernel.operands, self.matrix, self.seen)
        return ops.layer(kernel.operands, kernel.packing, self.fitted, self.inside)


def suited(weight: LowBit | None, *, whole: bool) -> dict[str, Kernel]:
    """The kernels for weights of this kind, by name: those of the fewest bits that hold its codes, by table or not; the
    product of whole numbers for more than 4 bits or quantized inputs (`whole`); the dense one for any."""
    every = kernels()
    layouts = {name: pack.LAYOUTS.get(kernel.packing.rpartition("-")[0]) for name, kernel in every.items()}
    bits = 0
    if weight is not None:
        table = weight.values is not None
        bits = min(
            (one.bits for one in pack.LAYOUTS.values() if one.bits >= weight.bits and one.table == table),
            default=0,
        )

    def takes(kernel: Kernel) -> bool:
        if kernel.op == ops.SCALED_LAYER:
            return weight is not None and (weight.bits > SPARE_BITS or whole)
        if kernel.op != ops.LAYER:
            return False
        layout = layouts[kernel.name]
        if layout is None:
            return kernel.packing == "none"
        return weight is not None and layout.bits == bits and layout.table == (weight.values is not None)

    return {name: kernel for name, kernel in every.items() if takes(kernel)}


def fitting(weight: LowBit | None, batch: int, *, whole: bool) -> Kernel:
    """The CUDA kernel that reads a weight of this kind best, made for its groups: with several tokens one that reads
    each code once for as many of them as there are, else the last rung of the ladder; where the inputs are quantized
    (`whole`) and every row has one scale, the product of whole numbers. The dense one, for weights in
    fp16, where none reads its codes (None). Refused where no kernel has its groups."""
    known = suited(weight, whole=whole).values()
    codes = [kernel for kernel in known if kernel.packing != "none"]
    by_rows = [kernel for kernel in known if kernel.op == ops.SCALED_LAYER]
    if weight is not None and whole and by_rows and weight.group_size >= weight.shape[1]:
        return by_rows[0]
    if weight is None or not codes:
        return next(kernel for kernel in known if kernel.op == ops.LAYER and kernel.packing == "none")

    def order(kernel: Kernel) -> tuple[int, int, int]:
        tokens = kernel.constants.get("BATCH", 1)
        return min(tokens, batch), -tokens, kernel.rung

    best = max(codes, key=order)
    return Kernel.parse(pack.regrouped(best.source, pack.fitted(weight).group_size), where=best.where)


def cuda_rows(
    wanted: list[Kernel],
    operands: LayerOperands,
    expected: Reference,
    lost: float | None,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    *,
    emulate: bool,
    found: Found | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """A row for each kernel, and the facts of its runs: timed where a GPU answers, else compiled and, with `emulate`,
    run on the emulator. A kernel that cannot take the layer is a row that says why."""
    device, why = cuda.find_device()
    refused: list[Row] = []
    ready: list[Kernel] = []
    for kernel in wanted:
        try:
            ready.append(operands.kernel(kernel))
        except Refused as error:
            where = device.name if device else "none"
            refused.append(new_row(operands.shape, kernel.name, where, kernel.bits, kernel.hash, str(error)))
    if refused and found:
        found(refused)
    if device is None:
        share = 0.5 if emulate else 1.0
        rows = compiled_rows(operands.shape, ready, why, part(progress, 0, share), found)
        for place, kernel in enumerate(ready if emulate else []):
            tell = part(progress, share + share * place / len(ready), 1)
            rows[place] = _emulated(rows[place], kernel, operands, lost, tell)
            if found:
                found([rows[place]])
        return rows + refused, {}

    def make_sets(kernel: Kernel) -> cuda.Sets:
        given = operands.problem(kernel)
        return cuda.operand_sets(
            kernel, operands.shape, device, given=given, expected=expected, weight_error=lost
        )

    try:
        rows, runs = timed_rows(
            operands.shape, ready, device, rounds, budget_s, progress, make_sets=make_sets, found=found
        )
    except Refused as error:  # the only family; the CPU's rows are not lost for it
        rows, runs = [], {}
        refused += [new_row(operands.shape, k.name, device.name, k.bits, k.hash, str(error)) for k in ready]
    return rows + refused, runs


def _emulated(
    row: Row, kernel: Kernel, operands: LayerOperands, lost: float | None, progress: Progress | None
) -> Row:
    """The row with the kernel's error on the emulator, as of the measured ones: against the float64 product with what
    the codes stand for, and the inputs before they were rounded."""
    if progress:
        progress(0, 1, f"emulating {kernel.name}")
    try:
        error, said = emulated_error(kernel, operands)
    except (Refused, NoCompiler, CompileError) as problem:
        return row | {"note": join(row["note"], f"not emulated: {problem}")}
    return row | {
        "relative_error": error,
        "weight_error": lost if error is not None else None,
        "note": join(row["note"], said),
    }


def emulated_error(kernel: Kernel, operands: LayerOperands) -> tuple[float | None, str]:
    """(||y - r|| / ||r|| of a kernel that `LayerOperands.kernel` made, what was run), for as many of the first tokens
    and output channels as take under a second; None where the run itself failed, and how. r: float64, of the codes and
    of the inputs before rounding. NoCompiler, Refused: there is no emulator here, or the kernel cannot hold the layer.
    """
    M, N, K = operands.shape
    tokens = min(M, EMULATED_TOKENS)
    rows = min(N, max(16, EMULATED_WORK // (tokens * K)))
    part = operands.cut(tokens, rows)
    one = emulator.run(kernel, part.shape, SCHEDULE, given=part.problem(kernel))
    of = f"emulated with {tokens} of {M} tokens and {rows} of {N} output channels"
    if not one.passed:
        return None, f"{of}: {one.message}"
    r = part.seen.astype(np.float64) @ part.matrix.T.astype(np.float64)
    error = float(np.linalg.norm(one.output - r) / (np.linalg.norm(r) or 1.0))
    return error, f"{of}: relative_error is of these; the arithmetic alone makes {one.relative_error:.1e}"
