"""gemlite beside the CUDA kernels: its layers with weights of 4 and of 8 bits, in groups of 128, tuned by itself.

Source: github.com/dropbox/gemlite, README, "Usage".
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .by_triton import missing
from .ops import LAYER
from .time import Candidate, copies_for, reference

if TYPE_CHECKING:
    from .cuda import Sets

INSTALL = "pip install gemlite"
BITS = (4, 8)
DEVICE = "cuda"  # where torch keeps its operands
MOST_LAYERS = 64  # copies: each is packed by launches of its own


def baselines(sets: Sets) -> list[tuple[str, Callable[[], Candidate]]]:
    """(name, maker) of gemlite's layers: [] where the family is no layer in fp16 or bf16."""
    if sets.kernel.op != LAYER or sets.kernel.operands["X"] not in ("fp16", "bf16"):
        return []
    if why := missing("gemlite", INSTALL):
        return [(f"gemlite-int{BITS[0]}", functools.partial(_refuse, why))]
    return [(f"gemlite-int{bits}", functools.partial(_layer, sets, bits)) for bits in BITS]


def _refuse(why: str) -> Candidate:
    raise Refused(why)


def _layer(sets: Sets, bits: int) -> Candidate:
    """A GemLiteLinear on the weight, rounded once more to `bits` with a scale and a zero point for 128 inputs. Its
    error is against the product with what its codes stand for; it keeps zero x scale in half precision."""
    import numpy as np
    import torch

    from .cpu.operands import GROUP, quantized

    try:
        from gemlite import DType, GemLiteLinear
    except Exception as error:  # its import asks the driver and torch, and fails in their words
        why = _first_line(error)
        raise Refused(f"gemlite does not load: {why}; another release may: {INSTALL}") from None

    name, dense = f"gemlite-int{bits}", sets.problem.dense
    N, K = dense["W"].shape
    if K % GROUP:
        raise Refused(f"{name} takes K a multiple of {GROUP}; this is {K}")
    weight = quantized(np.ascontiguousarray(dense["W"], np.float32), f"int{bits}")
    assert weight.zero is not None
    half = sets.kernel.operands["X"] == "fp16"
    dtype, called = (torch.float16, DType.FP16) if half else (torch.bfloat16, DType.BF16)
    x = torch.from_numpy(np.ascontiguousarray(dense["X"], np.float32)).to(DEVICE, dtype)
    codes = torch.from_numpy(np.ascontiguousarray(weight.codes.astype(np.uint8))).to(DEVICE)
    scale, zero = (
        torch.from_numpy(np.ascontiguousarray(one, np.float32)).to(DEVICE, dtype)
        for one in (weight.scale, weight.zero)
    )

    def layer() -> Any:
        made = GemLiteLinear(
            bits,
            group_size=GROUP,
            in_features=K,
            out_features=N,
            input_dtype=called,
            output_dtype=called,
        )
        made.pack(codes, scale, zero, None)
        return made

    nbytes = bits * N * K // 8 + scale.nbytes + zero.nbytes
    try:
        layers = [layer() for _ in range(copies_for(nbytes, sets.cache_bytes, MOST_LAYERS))]
    except (NotImplementedError, RuntimeError, AssertionError) as error:
        raise Refused(f"{name} does not take this weight: {_first_line(error)}") from None
    held: dict[str, torch.Tensor] = {}

    def run(i: int) -> None:
        try:
            with torch.no_grad():
                held["y"] = layers[i % len(layers)](x)
        except RuntimeError as error:
            raise Refused(f"{name} does not take this shape: {_first_line(error)}") from None

    return Candidate(
        name=name,
        run=run,
        poison=held.clear,  # the layer allocates its result: nothing of an earlier one can be in it
        output=lambda: held["y"].double().cpu().numpy(),
        tolerance=2e-2,
        nbytes=nbytes,
        expected=reference(dense["X"], weight.dequantize().T, xp=np),
        note=f"its own rounding of the weight; scales and result in {sets.kernel.operands['X']}",
        footprint=len(layers) * nbytes,
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
