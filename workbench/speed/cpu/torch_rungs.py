"""What torch has for the same product: the baseline, half precision, and its own products of few bits."""

from __future__ import annotations

from ...errors import Refused
from ..time import Candidate, wall_clock
from .operands import GROUP, Operands, allowed, fp32_tolerance
from .rungs import BASELINE, rung


@rung(
    BASELINE,
    bits=32,
    idea="What torch calls: the vendor's BLAS, on torch's threads, in the layout of the weight that is faster.",
)
def torch_fp32(sets: Operands) -> Candidate:
    return _torch(BASELINE, sets, "float32", fp32_tolerance(sets))


@rung(
    "cpu-torch-bf16",
    bits=16,
    idea="Half the bytes: pays where memory is the limit, and where the CPU has bfloat16 instructions.",
    note="operands and result rounded to bfloat16",
)
def torch_bf16(sets: Operands) -> Candidate:
    # three roundings of 2^-9 at most: about 3e-3
    return _torch("cpu-torch-bf16", sets, "bfloat16", allowed(1e-2, sets.a, sets.b.T, sets.expected))


def _torch(name: str, sets: Operands, dtype: str, tolerance: float) -> Candidate:
    """The faster of the two layouts that W can have. A layer keeps W [N,K], but a baseline should not lose by that."""
    import numpy as np
    import torch

    kind = getattr(torch, dtype)
    a = torch.from_numpy(sets.a).to(kind)
    w = torch.from_numpy(np.ascontiguousarray(sets.b.T)).to(kind)
    b = torch.from_numpy(sets.b).to(kind)
    c = torch.empty(a.shape[0], w.shape[0], dtype=kind)

    def seconds(right: torch.Tensor) -> float:
        return min(wall_clock(lambda: torch.mm(a, right, out=c)) for _ in range(3))

    as_layer = seconds(w.T) < seconds(b)
    one = w if as_layer else b
    weights = [one] + [one.clone() for _ in range(sets.copies(one.nbytes) - 1)]
    rights = [weight.T if as_layer else weight for weight in weights]
    threads = torch.get_num_threads()
    layout = "W [N,K] as a layer keeps it" if as_layer else "B [K,N], which is faster here than W [N,K]"
    return Candidate(
        name=name,
        run=lambda i: torch.mm(a, rights[i % len(rights)], out=c),
        poison=lambda: c.fill_(float("nan")),
        output=lambda: c.float().numpy(),
        tolerance=tolerance,
        nbytes=one.nbytes,
        footprint=len(weights) * one.nbytes,
        note=f"{layout}; {threads} thread{'s' if threads > 1 else ''}",
    )


@rung(
    "cpu-torch-int8",
    bits=8,
    idea="torch._int_mm: both operands in 8 bits, whole numbers summed exactly, scaled at the end.",
    note="weights per row and activations per token in 8 bits; the scaling is timed with it",
)
def torch_int8(sets: Operands) -> Candidate:
    import torch

    weight, expected, lost = sets.low_bit("int8-channel")
    codes = torch.from_numpy(weight.codes.astype("int16") - 128).to(torch.int8)
    scale = torch.from_numpy(weight.scale[:, 0])
    copies = [codes] + [codes.clone() for _ in range(sets.copies(codes.nbytes) - 1)]
    a = torch.from_numpy(sets.a)
    c = torch.empty(a.shape[0], codes.shape[0])

    def run(i: int) -> None:
        step = a.abs().amax(1, keepdim=True) / 127
        q = (a / step).round_().to(torch.int8)
        torch.mul(torch._int_mm(q, copies[i % len(copies)].T), step * scale, out=c)

    return Candidate(
        "cpu-torch-int8",
        run,
        lambda: c.fill_(float("nan")),
        lambda: c.numpy(),
        allowed(2e-2, sets.a, weight.dequantize(), expected),
        nbytes=codes.nbytes,
        footprint=len(copies) * codes.nbytes,
        expected=expected,
        weight_error=lost,
    )


@rung(
    "cpu-torch-int4",
    bits=4,
    idea="torch's own 4-bit product, _weight_int4pack_mm_for_cpu, on bfloat16 activations.",
    note="activations, scales and result in bfloat16",
)
def torch_int4(sets: Operands) -> Candidate:
    import torch

    weight, expected, lost = sets.low_bit("int4")
    N, K = weight.shape
    if N % 16 or K % GROUP:
        raise Refused(f"torch's 4-bit product takes N a multiple of 16 and K of {GROUP}; this is {N} x {K}")
    assert weight.zero is not None
    # its convention: w = (code - 8) * scale + offset
    offset = (8 - weight.zero) * weight.scale
    qparams = torch.stack([torch.from_numpy(weight.scale.T.copy()), torch.from_numpy(offset.T.copy())], -1)
    qparams = qparams.to(torch.bfloat16).contiguous()
    codes = torch.from_numpy(weight.codes.astype("int32"))
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    copies = [packed] + [packed.clone() for _ in range(sets.copies(packed.nbytes) - 1)]
    a = torch.from_numpy(sets.a).bfloat16()
    held: dict[str, torch.Tensor] = {}

    def run(i: int) -> None:
        product = torch.ops.aten._weight_int4pack_mm_for_cpu
        held["c"] = product(a, copies[i % len(copies)], GROUP, qparams)

    return Candidate(
        "cpu-torch-int4",
        run,
        held.clear,  # the product allocates its result: nothing of an earlier one can be in it
        lambda: held["c"].float().numpy(),
        2e-2,
        nbytes=packed.nbytes + qparams.nbytes,
        footprint=len(copies) * packed.nbytes,
        expected=expected,
        weight_error=lost,
    )
