"""What the CUDA kernels are compared with, in the same run: cuBLAS, torch's own way to it, a copy."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .ops import DTYPES, LAYER, SCALED_LAYER
from .time import Candidate, Reference, copies_for, reference

if TYPE_CHECKING:
    import numpy as np

    from .cuda import Sets
    from .pack import LowBit


def baselines(sets: Sets) -> list[tuple[str, Callable[[], Candidate]]]:
    """(name, maker) of what a family is compared with, the first the baseline of its ratios: cuBLAS on the dense
    operands with results of the same type; a copy where nothing is multiplied. A product of whole numbers with scales
    also meets the one in fp16 that it replaces."""
    types = sets.kernel.operands
    if "X" in types and "W" not in types:
        return [("copy", functools.partial(_copy, sets))]
    left = next(iter(types))
    name = f"cublas-{types[left]}"
    if sets.kernel.op == "C[M,N] = A[M,K] B[K,N]" and types[left] == "fp32":
        return [(name, functools.partial(_cublas_fp32, sets, name))]
    if sets.kernel.op == SCALED_LAYER:
        half = ("cublas-fp16", functools.partial(_cublas, sets, "cublas-fp16", "fp16"))
        scaled = f"{name}-scaled"
        return [(scaled, functools.partial(_cublas_scaled, sets, scaled)), *_torch_baselines(sets), half]
    return [(name, functools.partial(_cublas, sets, name)), *_torch_baselines(sets)]


def _cublas_fp32(sets: Sets, name: str) -> Candidate:
    """cuBLAS in fp32. TF32 is off unless CUPY_TF32 is set, and then the check against float64 refuses it."""
    import cupy

    c = cupy.empty(sets.problem.outputs["C"], dtype=cupy.float32)
    return _made(
        sets,
        name,
        lambda i: cupy.matmul(sets.array(i, "A"), sets.array(i, "B"), out=c),
        c,
        tolerance(5e-6, sets),
    )


def dense_operands(sets: Sets, dtype: str = "") -> tuple[list[Any], list[Any], str, str]:
    """Left and right operand [M,K], [N,K] in each copy, unpacked and in the type of the left one; that type; the
    result's. Rows are filled up with zeros to 16 elements, which libraries are fast for and int8 needs. `dtype`:
    another type, and whole numbers then come with their scales."""
    import cupy
    import numpy as np

    types, dense = sets.kernel.operands, sets.problem.dense
    names = [name for name in ("A", "X", "B", "W") if name in dense]
    scaled = [f"S{name}" for name in names] if dtype and sets.kernel.op == SCALED_LAYER else []
    sides = [dense[name] for name in names]
    if scaled:
        sides = [side * dense[scale][:, None] for side, scale in zip(sides, scaled, strict=True)]
    dtype, result = dtype or types[names[0]], types[sets.kernel.outputs[0]]
    fill = -sides[0].shape[1] % 16
    wide = (np.pad(side.astype(np.float32), ((0, 0), (0, fill))) for side in sides)
    hosts = [np.ascontiguousarray(DTYPES[dtype].encode(array)) for array in wide]
    count = copies_for(
        sum(host.nbytes for host in hosts), sets.cache_bytes
    )  # of these: packed ones are smaller
    left, right = ([cupy.asarray(host) for _ in range(count)] for host in hosts)
    return left, right, dtype, result


# cudaDataType_t and cublasComputeType_t; int8 multiplies into int32, everything else sums in fp32
_CUDA_TYPES = {"fp32": 0, "fp16": 2, "int8": 3, "int32": 10, "bf16": 14}
_COMPUTE_32F, _COMPUTE_32I = 68, 72


def _cublas(sets: Sets, name: str, as_type: str = "") -> Candidate:
    """cublasGemmEx on the dense operands. A weight that the packing rounds is dense here, and rounded to the type
    of the inputs (or `as_type`): its tolerance allows for that."""
    import cupy

    left, right, dtype, result = dense_operands(sets, as_type)
    c = cupy.empty(sets.problem.outputs[sets.kernel.outputs[0]], dtype=DTYPES[result].storage)
    packed = sets.kernel.packing != "none" or bool(as_type)
    loose = {"fp16": 2e-3, "bf16": 1e-2}.get(dtype if packed else result, 1e-5)
    if result == "int32":
        loose = 0.0

    def run(i: int) -> None:
        try:
            gemm(left[i % len(left)], right[i % len(right)], c, dtype, result)
        except RuntimeError as error:  # cublas.CUBLASError is one
            raise Refused(f"{name} does not take this product: {error}") from None

    return _made(sets, name, run, c, tolerance(loose, sets), result, sum(x.nbytes for x in (*left, *right)))


def _cublas_scaled(sets: Sets, name: str) -> Candidate:
    """cublasGemmEx into int32, and one elementwise kernel of CuPy's that scales it and rounds it to the result."""
    import cupy

    left, right, dtype, result = dense_operands(sets)
    shape = sets.problem.outputs[sets.kernel.outputs[0]]
    whole, y = (
        cupy.empty(shape, dtype=DTYPES["int32"].storage),
        cupy.empty(shape, dtype=DTYPES[result].storage),
    )

    def run(i: int) -> None:
        try:
            gemm(left[i % len(left)], right[i % len(right)], whole, dtype, "int32")
        except RuntimeError as error:
            raise Refused(f"{name} does not take this product: {error}") from None
        _scale(whole, sets.array(i, "SX"), sets.array(i, "SW"), y, result)

    return _made(sets, name, run, y, tolerance(1e-3, sets), result, sum(x.nbytes for x in (*left, *right)))


def _scale(whole: Any, token: Any, channel: Any, y: Any, result: str) -> None:
    """y[M,N] = token[M] channel[N] whole[M,N] in the type `result`, read and written once."""
    _scaling(result == "bf16")(whole, token[:, None], channel, y)


@functools.cache
def _scaling(bf16: bool) -> Any:
    import cupy

    # to nearest, ties to even, as bit patterns: CuPy has no bf16
    rounded = "const unsigned u = __float_as_uint(v); y = (u + 0x7FFFu + (u >> 16 & 1u)) >> 16"
    scaled = f"const float v = static_cast<float>(c) * s * t; {rounded if bf16 else 'y = v'}"
    return cupy.ElementwiseKernel("int32 c, float32 s, float32 t", "T y", scaled, "workbench_scaled")


def gemm(a: Any, b: Any, c: Any, dtype: str, result: str) -> None:
    """c[M,N] = a[M,K] b[N,K]^T. cuBLAS counts columns first, so it is asked for c^T = (b^T)^T a^T."""
    from cupy.cuda.device import get_cublas_handle
    from cupy_backends.cuda.libs import cublas

    (M, K), N = a.shape, b.shape[0]
    whole = result == "int32"
    one, zero = _one_and_zero(whole)
    kind, compute = _CUDA_TYPES[dtype], _COMPUTE_32I if whole else _COMPUTE_32F
    transpose, plain = 1, 0
    asked = (
        *(get_cublas_handle(), transpose, plain, N, M, K, one.ctypes.data),
        *(b.data.ptr, kind, K, a.data.ptr, kind, K, zero.ctypes.data),
        *(c.data.ptr, _CUDA_TYPES[result], N, compute, -1),  # CUBLAS_GEMM_DEFAULT
    )
    try:
        cublas.gemmEx(*asked)
    except NotImplementedError:  # CuPy lets no call to cuBLAS into a graph, cuBLAS does
        _gemm_in_graph(*asked)


@functools.cache
def _one_and_zero(whole: bool) -> tuple[Any, Any]:
    """alpha and beta on the host; cuBLAS reads them during the call."""
    import numpy as np

    one, zero = (np.array(x, np.int32 if whole else np.float32) for x in (1, 0))
    return one, zero


WORKSPACE = 32 << 20  # bytes; what cuBLAS would take for itself on a new GPU


@functools.cache
def _cublas_library() -> tuple[ctypes.CDLL, Any]:
    """The library that CuPy has loaded, and memory for it to work in: inside of a graph it must not ask for any.
    Refused where it does not go by one of its names."""
    import cupy

    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    for name in (f"libcublas.so.{major}", f"cublas64_{major}.dll"):
        try:
            return ctypes.CDLL(name), cupy.empty(WORKSPACE, dtype="uint8")
        except OSError:
            continue
    raise Refused(f"cuBLAS {major} is not found by its name, so its calls cannot be put into a graph")


def _gemm_in_graph(handle: int, *asked: int) -> None:
    """cublasGemmEx on the stream that captures, without CuPy's wrapper."""
    import cupy

    library, memory = _cublas_library()
    pointer, whole = ctypes.c_void_p, ctypes.c_int
    stream = pointer(cupy.cuda.get_current_stream().ptr)
    # handle; two transpositions and three sizes; alpha; A, type, pitch; B, type, pitch; beta; C, type, pitch; how
    pointers = {5, 6, 9, 12, 13}
    given = [pointer(x) if i in pointers else whole(x) for i, x in enumerate(asked)]
    for status in (
        library.cublasSetStream_v2(pointer(handle), stream),
        library.cublasSetWorkspace_v2(pointer(handle), pointer(memory.data.ptr), ctypes.c_size_t(WORKSPACE)),
        library.cublasGemmEx(pointer(handle), *given),
    ):
        if status:
            raise RuntimeError(f"cuBLAS status {status} in a graph")


def _torch_baselines(sets: Sets) -> list[tuple[str, Callable[[], Candidate]]]:
    """torch's own way to the same product, where torch sees the GPU: it chooses cuBLASLt and its algorithm itself."""
    dtype = next(iter(sets.kernel.operands.values()))
    try:
        import torch

        if dtype not in ("bf16", "fp16", "int8") or not torch.cuda.is_available():
            return []
    except ImportError:
        return []
    name = f"torch-{dtype}-scaled" if sets.kernel.op == SCALED_LAYER else f"torch-{dtype}"
    made: list[tuple[str, Callable[[], Candidate]]] = [(name, functools.partial(_torch, sets, name))]
    if sets.kernel.op == LAYER:
        made.append(("torch-int4", functools.partial(_torch_int4, sets)))
    return made


def _torch(sets: Sets, name: str) -> Candidate:
    """x @ w.T, or `_int_mm` of whole numbers, and then their scales by two more of torch's products."""
    import torch

    left, right, dtype, result = dense_operands(sets)
    views = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.int8}
    a, b = ([torch.from_dlpack(x).view(views[dtype]) for x in side] for side in (left, right))
    scales = [torch.from_dlpack(sets.array(0, one)) for one in ("SX", "SW") if one in sets.problem.inputs]
    made: list[Any] = [None]

    def run(i: int) -> None:
        x, w = a[i % len(a)], b[i % len(b)]
        try:
            made[0] = torch._int_mm(x, w.T) if dtype == "int8" else x @ w.T
        except RuntimeError as error:  # _int_mm takes no fewer than 17 rows, and only multiples of 8
            raise Refused(f"{name} does not take this shape: {str(error).splitlines()[0]}") from None
        if scales:
            made[0] = (made[0] * scales[0][:, None] * scales[1]).to(views[result])

    exact = dtype == "int8" and not scales
    return Candidate(
        name=name,
        run=run,
        poison=lambda: made.__setitem__(0, None),
        output=lambda: made[0].double().cpu().numpy(),
        tolerance=(0.0 if exact else 1e-3 if scales else 2e-2) + sets.slack,
        expected=sets.expected,
        note="" if dtype == "int8" else f"result in {dtype}",
        footprint=sum(x.nbytes for x in (*left, *right)),
    )


def _torch_int4(sets: Sets) -> Candidate:
    """torch's own product of few bits, `_weight_int4pack_mm`, on the same weight, rounded once more to 4 bits with a
    scale and an offset for 128 inputs; everything else in bf16. Its error is against the product with what its codes
    stand for."""
    import numpy as np
    import torch

    from .cpu.operands import GROUP, quantized

    dense = sets.problem.dense
    N, K = dense["W"].shape
    if N % 8 or K % GROUP:
        raise Refused(f"torch-int4 takes N a multiple of 8 and K of {GROUP}; this is {N} x {K}")
    weight = quantized(np.ascontiguousarray(dense["W"], np.float32), "int4")
    nibbles, steps = int4_operands(weight)
    x = torch.from_numpy(np.ascontiguousarray(dense["X"], np.float32)).bfloat16().cuda()
    try:
        packed = torch.ops.aten._convert_weight_to_int4pack(torch.from_numpy(nibbles).cuda(), 8)
        qparams = torch.from_numpy(steps).bfloat16().cuda()
    except RuntimeError as error:
        raise Refused(f"torch-int4 does not take this weight: {str(error).splitlines()[0]}") from None
    count = copies_for(packed.nbytes, sets.cache_bytes)
    weights = [packed] + [packed.clone() for _ in range(count - 1)]
    held: dict[str, torch.Tensor] = {}

    def run(i: int) -> None:
        try:
            held["y"] = torch.ops.aten._weight_int4pack_mm(x, weights[i % count], GROUP, qparams)
        except RuntimeError as error:
            raise Refused(f"torch-int4 does not take this shape: {str(error).splitlines()[0]}") from None

    return Candidate(
        name="torch-int4",
        run=run,
        poison=held.clear,  # the product allocates its result: nothing of an earlier one can be in it
        output=lambda: held["y"].double().cpu().numpy(),
        tolerance=2e-2,
        nbytes=packed.nbytes + qparams.nbytes,
        expected=reference(dense["X"], weight.dequantize().T, xp=np),
        note="its own rounding of the weight; activations, scales and result in bf16",
        footprint=count * packed.nbytes,
    )


def int4_operands(weight: LowBit) -> tuple[np.ndarray, np.ndarray]:
    """What torch makes its layout of: codes [N, K/2] of which the first of a pair is the upper half of a byte, and
    [K/128, N, 2] of s and o in w = (code - 8) s + o."""
    import numpy as np

    assert weight.zero is not None
    codes = weight.codes.astype(np.uint8)
    offset = (8 - weight.zero) * weight.scale
    return codes[:, ::2] << 4 | codes[:, 1::2], np.stack([weight.scale.T, offset.T], -1).astype(np.float32)


def _copy(sets: Sets) -> Candidate:
    """What an elementwise kernel cannot beat: its first operand read and its largest result written, once."""
    import cupy
    import numpy as np

    source = "X"
    dtype = DTYPES[sets.kernel.operands[source]]
    to = cupy.empty(sets.problem.inputs[source].shape, dtype=dtype.storage)
    whole = sets.problem.dense[source]
    return Candidate(
        name="copy",
        run=lambda i: cupy.copyto(to, sets.array(i, source)),
        poison=lambda: poison(to),
        output=lambda: dtype.decode(cupy.asnumpy(to)),
        tolerance=0.0,
        nbytes=2 * to.nbytes,
        footprint=sets.footprint,
        capturable=True,
        expected=Reference(np.arange(len(whole)), whole),
    )


def tolerance(at_4096: float, sets: Sets) -> float:
    """Relative error that sums of K products may have: as said up to K = 4096, then growing with sqrt(K) as the
    rounding errors of random operands do; and what rounding the operands adds."""
    return at_4096 * max(1.0, sets.problem.shape[2] / 4096) ** 0.5 + sets.slack


def _made(
    sets: Sets, name: str, run: Callable, c: Any, allowed: float, result: str = "fp32", footprint: int = 0
) -> Candidate:
    import cupy

    return Candidate(
        name=name,
        run=run,
        poison=lambda: poison(c),
        output=lambda: DTYPES[result].decode(cupy.asnumpy(c)),
        tolerance=allowed,
        expected=sets.expected,
        footprint=footprint or sets.footprint,
        capturable=True,
    )


def poison(array: Any) -> None:
    """NaN in every float type, bit patterns of bf16 included; -1 as a whole number."""
    array.view("uint8").fill(0xFF)
