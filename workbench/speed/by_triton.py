"""Triton beside the CUDA kernels: what a page of Python and its compiler make of the same product.

The kernels are in `triton_kernels`; each shape is tuned at its first launch. Triton launches through torch, so this
needs a torch that sees the GPU; such a torch brings Triton along.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .ops import LAYER
from .time import Candidate, Reference, copies_for, reference
from .vendor import dense_operands, tolerance

if TYPE_CHECKING:
    import numpy as np

    from .cuda import Sets
    from .pack import LowBit

INSTALL = "pip install triton"
TYPES = ("fp16", "bf16")  # of the left operand; Triton's products of other types are not among these two
DEVICE = "cuda"  # where torch keeps what is its own
HALF = 64  # inputs in either half of a byte: groups of 128


def baselines(sets: Sets) -> list[tuple[str, Callable[[], Candidate]]]:
    """(name, maker) of the products of these operands in Triton: [] where it is no product in fp16 or bf16."""
    types = sets.kernel.operands
    dtype = next(iter(types.values()))
    if dtype not in TYPES or not {"B", "W"} & types.keys():
        return []
    name = f"triton-{dtype}"
    if why := missing("triton", INSTALL):
        return [(name, functools.partial(_refuse, why))]
    made: list[tuple[str, Callable[[], Candidate]]] = [(name, functools.partial(_dense, sets, name))]
    if sets.kernel.op == LAYER:
        made.append(("triton-int4", functools.partial(_weight_only, sets, "triton-int4")))
    return made


def missing(package: str, install: str) -> str:
    """Why a package that launches through torch cannot be used here, with the way out; "" where it can."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed: {install}"
    try:
        import torch
    except ImportError:
        return f"{package} launches through torch, which is not installed: pip install torch"
    if not torch.cuda.is_available():
        return f"{package} launches through torch, and torch {torch.__version__} sees no GPU: install one for CUDA"
    return ""


def _refuse(why: str) -> Candidate:
    raise Refused(why)


def _kernels() -> ModuleType:
    """The module of the kernels. Refused where Triton is here and does not load."""
    try:
        from . import triton_kernels
    except Exception as error:  # an import that runs others' code fails in others' words
        raise Refused(f"triton does not load: {error}; another release may: {INSTALL}") from None
    return triton_kernels


def _dense(sets: Sets, name: str) -> Candidate:
    """The dense product, in copies that exceed the cache as cuBLAS has them."""
    import torch

    triton_kernels = _kernels()
    left, right, dtype, result = dense_operands(sets)
    view = {"fp16": torch.float16, "bf16": torch.bfloat16}
    a, b = ([torch.from_dlpack(x).view(view[dtype]) for x in side] for side in (left, right))
    (M, K), N = a[0].shape, len(b[0])
    out = torch.empty((M, N), dtype=view.get(result, torch.float32), device=DEVICE)

    def launch(i: int) -> None:
        def grid(tile: dict[str, Any]) -> tuple[int]:
            return (_tiles(M, N, tile),)

        triton_kernels.tuned_dense[grid](
            a[i % len(a)], b[i % len(b)], out, M, N, K, ROWS_OF_TILES=triton_kernels.BAND
        )

    packed = sets.kernel.packing != "none"
    loose = {"fp16": 2e-3, "bf16": 1e-2}.get(dtype if packed else result, 1e-5)
    nbytes = sum(x.nbytes for x in (*a, *b))
    return _made(name, launch, out, tolerance(loose, sets), sets.expected, footprint=nbytes)


def _weight_only(sets: Sets, name: str) -> Candidate:
    """The product with the weight rounded once more to 4 bits, a scale and a zero point for 128 inputs. Its error is
    against the product with what its codes stand for."""
    import numpy as np
    import torch

    from .cpu.operands import quantized

    triton_kernels = _kernels()
    dense, types = sets.problem.dense, sets.kernel.operands
    (M, K), N = dense["X"].shape, len(dense["W"])
    if K % (2 * HALF):
        raise Refused(f"{name} takes K a multiple of {2 * HALF}; this is {K}")
    weight = quantized(np.ascontiguousarray(dense["W"], np.float32), "int4")
    assert weight.zero is not None
    view = {"fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = view[types["X"]]
    x = torch.from_numpy(np.ascontiguousarray(dense["X"], np.float32)).to(DEVICE, dtype)
    bytes_of, scale, zero = (
        torch.from_numpy(np.ascontiguousarray(one)).to(DEVICE)
        for one in (halves(weight), weight.scale.astype(np.float16), weight.zero.astype(np.float32))
    )
    count = copies_for(bytes_of.nbytes, sets.cache_bytes)
    codes = [bytes_of] + [bytes_of.clone() for _ in range(count - 1)]
    out = torch.empty((M, N), dtype=view.get(types["Y"], torch.float32), device=DEVICE)

    def launch(i: int) -> None:
        def grid(tile: dict[str, Any]) -> tuple[int]:
            return (_tiles(M, N, tile),)

        triton_kernels.tuned_weight_only[grid](x, codes[i % count], scale, zero, out, M, N, K, HALF=HALF)

    return _made(
        name,
        launch,
        out,
        2e-2 if dtype == torch.bfloat16 else 2e-3,
        reference(dense["X"], weight.dequantize().T, xp=np),
        nbytes=bytes_of.nbytes + scale.nbytes + zero.nbytes,
        note="its own rounding of the weight",
        footprint=count * bytes_of.nbytes,
    )


def halves(weight: LowBit) -> np.ndarray:
    """Codes of 4 bits [N, K] as `triton_kernels.weight_only` reads them, uint8 [N, K/2]: of each group of 128 inputs
    the first 64 in the lower halves of 64 bytes, the others in the upper ones."""
    import numpy as np

    N, K = weight.codes.shape
    groups = weight.codes.astype(np.uint8).reshape(N, K // (2 * HALF), 2, HALF)
    return (groups[:, :, 0] | groups[:, :, 1] << 4).reshape(N, K // 2)


def _tiles(M: int, N: int, tile: dict[str, Any]) -> int:
    return -(-M // tile["TILE_M"]) * -(-N // tile["TILE_N"])


def _made(
    name: str,
    launch: Callable[[int], None],
    out: Any,
    allowed: float,
    expected: Reference,
    *,
    nbytes: int = 0,
    note: str = "",
    footprint: int = 0,
) -> Candidate:
    """A launch as a candidate. Triton's own refusals (a tile needs more shared memory than there is) are Refused."""
    from triton.errors import TritonError

    def run(i: int) -> None:
        try:
            with _on_cupys_stream():
                launch(i)
        except (TritonError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise Refused(f"{name} does not take this product: {first}") from None

    return Candidate(
        name=name,
        run=run,
        poison=lambda: out.fill_(float("nan")),
        output=lambda: out.double().cpu().numpy(),
        tolerance=allowed,
        expected=expected,
        nbytes=nbytes,
        note=note,
        footprint=footprint,
        capturable=True,
    )


def _on_cupys_stream() -> contextlib.AbstractContextManager:
    """Triton launches on torch's current stream, a graph records what is launched on CuPy's."""
    import cupy
    import torch

    pointer = cupy.cuda.get_current_stream().ptr
    return torch.cuda.stream(torch.cuda.ExternalStream(pointer)) if pointer else contextlib.nullcontext()
