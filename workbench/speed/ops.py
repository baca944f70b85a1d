"""What kernels compute: operands to feed them, and the float64 result that they are held against.

An op is a formula over M, N and K. `problem` makes seeded operands in the types that a kernel asks for and
the reference of the *rounded* operands, so that the error is the kernel's and not the rounding's. NumPy has
no bf16: its bit patterns travel as uint16. `PACKINGS` holds the layouts other than row-major: each makes one
operand together with what belongs to it (scales, zeros, metadata) and the dense values it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..errors import Refused
from .pack import LowBit
from .pack import cuda as pack

Array = np.ndarray
Shape = tuple[int, int, int]  # M, N, K

RATIONAL_P, RATIONAL_Q = (
    6,
    4,
)  # coefficients of numerator and denominator in the Kolmogorov-Arnold Transformer


INT8_MOST = 127  # symmetric codes of 8 bits; -128 is left out
LAYER = "Y[M,N] = X[M,K] W[N,K]^T"
SCALED_LAYER = "Y[M,N] = SX[M] SW[N] (X[M,K] W[N,K]^T)"


@dataclass(frozen=True)
class Dtype:
    """A type of elements: its bits, how NumPy holds it, and the way there and back."""

    bits: int
    storage: type
    encode: Callable[[Array], Array]  # floats -> storage, rounded to nearest, ties to even
    decode: Callable[[Array], Array]  # storage -> float64


def bf16_encode(x: Array) -> Array:
    """float32 -> bit patterns of bf16 as uint16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(np.asarray(x, np.float32)), np.uint16(0x7FC0), rounded)


def bf16_decode(bits: Array) -> Array:
    """Bit patterns of bf16 -> float64."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _plain(storage: type, bits: int) -> Dtype:
    return Dtype(bits, storage, lambda x: np.asarray(x).astype(storage), lambda x: x.astype(np.float64))


DTYPES: dict[str, Dtype] = {
    "fp32": _plain(np.float32, 32),
    "fp16": _plain(np.float16, 16),
    "bf16": Dtype(16, np.uint16, bf16_encode, bf16_decode),
    "int32": _plain(np.int32, 32),
    "int8": _plain(np.int8, 8),
    "uint8": _plain(np.uint8, 8),  # packed codes
    "uint32": _plain(np.uint32, 32),
}


@dataclass(frozen=True)
class Packing:
    """A layout of one matrix other than row-major. `make(random, rows, columns)` gives the operands by name
    and the dense float64 matrix [rows, columns] that they stand for; `bits` of one element as stored (0: what
    its type says)."""

    bits: int = 0
    make: Callable[[np.random.Generator, int, int], tuple[dict[str, Array], Array]] | None = None


PACKINGS: dict[str, Packing] = {"none": Packing()}
PACKINGS |= {
    f"{name}-{group}": Packing(layout.bits, pack.maker(name, group))
    for name, layout in pack.LAYOUTS.items()
    for group in pack.GROUPS
}


def _sparse(random: np.random.Generator, rows: int, columns: int) -> tuple[dict[str, Array], Array]:
    """A 2:4 sparse in bf16, and E, the places of what is kept."""
    a = bf16_encode(pack.random_sparse(random, rows, columns))
    kept, places = pack.pack_sparse(a)
    return {"A": kept, "E": places}, bf16_decode(a)


PACKINGS["2:4"] = Packing(9, _sparse)  # half of 16 bits, and half of two for the place


@dataclass(frozen=True)
class Problem:
    """One op at one shape: the inputs in a kernel's types, the shapes of its results, what they should be."""

    shape: Shape
    inputs: Mapping[str, Array] = field(repr=False)  # name -> array in storage type, row-major without gaps
    outputs: Mapping[str, tuple[int, ...]]  # name -> shape
    dense: Mapping[str, Array] = field(repr=False)  # name -> float64 values of the inputs, unpacked
    op: Op = field(repr=False)

    def expected(self, rows: Array | None = None) -> dict[str, Array]:
        """Result name -> float64 array; of a product only `rows` of it, where they are given."""
        return self.op.reference(self.dense, rows)

    def distance(self, values: Array, rows: Array | None = None) -> float:
        """||r - values|| / ||values||: how far the result of these operands, r (`rows` of it), is from another."""
        (result,) = self.expected(rows).values()
        return float(np.linalg.norm(result - values) / (np.linalg.norm(values) or 1.0))

    @property
    def flops(self) -> int:
        """Additions and multiplications of the formula."""
        return self.op.flops(*self.shape)

    def bytes(self, operands: Mapping[str, str]) -> int:
        """What has to come from memory and go there at least once, with results in the types of `operands`."""
        results = (
            int(np.prod(shape)) * DTYPES[operands[name]].bits // 8 for name, shape in self.outputs.items()
        )
        return sum(array.nbytes for array in self.inputs.values()) + sum(results)


@dataclass(frozen=True)
class Op:
    """A formula: the operands it may have, which are results, how inputs are drawn, the float64 result."""

    formula: str
    operands: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: Callable[[int, int, int], dict[str, tuple[int, ...]]]  # of the plain operands
    reference: Callable[[Mapping[str, Array], Array | None], dict[str, Array]]
    flops: Callable[[int, int, int], int]
    packed: str = ""  # the operand that a packing makes
    scales: tuple[
        str, ...
    ] = ()  # operands drawn as scales of codes of 8 bits are: positive, of values around 1
    family: str = ""  # ops of one family are compared with one another; "": none but itself


def problem(
    op: str, operands: Mapping[str, str], shape: Shape, *, packing: str = "none", seed: int = 0
) -> Problem:
    """The op at a shape, with random inputs: normal, or whole numbers over the range of an integer type. Never
    zeros: a chip computes faster, and a wrong kernel is right, on zeros."""
    spec, random = OPS[op], np.random.default_rng((seed, *shape))
    shapes = spec.shapes(*shape)
    inputs: dict[str, Array] = {}
    dense: dict[str, Array] = {}
    if make := PACKINGS[packing].make:
        rows, columns = shapes[spec.packed]
        made, dense[spec.packed] = make(random, rows, columns)
        inputs |= {name: array for name, array in made.items() if name in operands}
    for name in operands:
        if name in spec.outputs or name in inputs:
            continue
        dtype = DTYPES[operands[name]]
        if name in spec.scales:
            inputs[name] = dtype.encode(random.uniform(0.5, 1.5, shapes[name]) / INT8_MOST)
        else:
            inputs[name] = _draw(random, shapes[name], dtype)
        dense[name] = dtype.decode(inputs[name])
    inputs = {name: inputs[name] for name in operands if name in inputs}
    outputs = {name: shapes[name] for name in operands if name in spec.outputs}
    return Problem(shape, inputs, outputs, dense, spec)


def layer(operands: Mapping[str, str], packing: str, weight: LowBit, x: Array) -> Problem:
    """Y = X W^T of a weight such as `pack.low_bit` makes of a compressed layer, and inputs x [M, K]. Refused where the
    packing cannot hold the weight (`pack.cuda.fitted` and `pack.cuda.regrouped` make group sizes meet) or their type
    the inputs."""
    arrays = {"X": _encoded(operands, "X", x), **pack.pack(weight, packing)}
    dense = {"X": DTYPES[operands["X"]].decode(arrays["X"]), "W": pack.dense(weight)}
    return _given(LAYER, operands, arrays, dense)


def plain_layer(operands: Mapping[str, str], w: Array, x: Array) -> Problem:
    """Y = X W^T of w [N, K] and inputs x [M, K], both rounded to the kernel's types. Refused where those cannot hold
    them."""
    arrays = {name: _encoded(operands, name, values) for name, values in (("X", x), ("W", w))}
    dense = {name: DTYPES[operands[name]].decode(array) for name, array in arrays.items()}
    return _given(LAYER, operands, arrays, dense)


def scaled_layer(operands: Mapping[str, str], weight: LowBit, x: Array) -> Problem:
    """Y = SX SW (X W^T) in whole numbers, of a weight as in `layer`, and inputs x [M, K], each token rounded to codes
    from -127 to 127. Refused where the weight has no int8 with one scale an output channel (`pack.cuda.int8`)."""
    codes, scale = pack.int8(weight)
    token = np.abs(x).max(axis=1).astype(np.float32) / INT8_MOST
    token = np.where(token > 0, token, np.float32(1))  # a token of zeros has any scale
    arrays = {"X": np.rint(x / token[:, None]).astype(np.int8), "W": codes, "SX": token, "SW": scale}
    return _given(SCALED_LAYER, operands, arrays, {name: a.astype(np.float64) for name, a in arrays.items()})


def _encoded(operands: Mapping[str, str], name: str, values: Array) -> Array:
    """An operand in its type. Refused where that is too small for it."""
    with np.errstate(over="ignore"):
        stored = DTYPES[operands[name]].encode(values)
    if not np.isfinite(DTYPES[operands[name]].decode(stored)).all():
        raise Refused(
            f"an element of {name} is not finite in {operands[name]}: {np.abs(values).max():.3g} is too large"
        )
    return stored


def _given(
    op: str, operands: Mapping[str, str], arrays: Mapping[str, Array], dense: Mapping[str, Array]
) -> Problem:
    """The problem of these arrays; M, N and K from X [M, K] and W [N, K]."""
    spec, (M, K) = OPS[op], dense["X"].shape
    shape = M, len(dense["W"]), K
    inputs = {name: arrays[name] for name in operands if name in arrays}
    return Problem(shape, inputs, {name: spec.shapes(*shape)[name] for name in spec.outputs}, dense, spec)


def _draw(random: np.random.Generator, shape: tuple[int, ...], dtype: Dtype) -> Array:
    if np.issubdtype(dtype.storage, np.integer) and dtype is not DTYPES["bf16"]:
        most = min(2 ** (dtype.bits - 1) - 1, 2**20)
        return random.integers(-most, most + 1, shape).astype(dtype.storage)
    return dtype.encode(random.standard_normal(shape, np.float32))


def pitched(array: Array, pitch: int, fill: int = 0xFF) -> Array:
    """A matrix whose rows begin at multiples of `pitch` bytes; the bytes between hold `fill` (0xFF: NaN in every
    float type), which no kernel may let into its result. `pitch` 0, or another number of axes: as it was."""
    if not pitch or array.ndim != 2:
        return array
    width = array.shape[1] * array.itemsize
    rows = np.full((array.shape[0], -(-width // pitch) * pitch), fill, np.uint8)
    rows[:, :width] = np.ascontiguousarray(array).view(np.uint8).reshape(array.shape[0], width)
    return rows.view(array.dtype)


def _product(left: str, right: str, result: str, *, transposed: bool) -> Callable:
    def reference(dense: Mapping[str, Array], rows: Array | None) -> dict[str, Array]:
        b = dense[right].T if transposed else dense[right]
        return {result: (dense[left] if rows is None else dense[left][rows]) @ b}

    return reference


def _scaled(dense: Mapping[str, Array], rows: Array | None) -> dict[str, Array]:
    """The whole-number product, each row by the scale of its token, each column by that of its output channel."""
    x, token = (dense[name] if rows is None else dense[name][rows] for name in ("X", "SX"))
    return {"Y": token[:, None] * (x @ dense["W"].T) * dense["SW"]}


def _rational_parts(
    dense: Mapping[str, Array], terms: bool
) -> tuple[Array, Array, Array, Array, list[Array]]:
    """The group of each column [N], P [M, N], the denominator D [M, N], its slope dD/dx and its dD/dq_i.

    D = 1 + |q_0 x + ... + q_3 x^4| as Yang and Wang 2024 write it (equation 11), or with `terms`
    D = 1 + |q_0 x| + ... + |q_3 x^4| as their published kernels, and so their trained models, have it."""
    x, p, q = dense["X"], dense["P"], dense["Q"]
    group = np.arange(x.shape[1]) * len(p) // x.shape[1]
    numerator = np.sum([p[group, i] * x**i for i in range(RATIONAL_P)], axis=0)
    x_of, q_of = (np.abs(x), np.abs(q)) if terms else (x, q)
    inner = np.sum([q_of[group, i] * x_of ** (i + 1) for i in range(RATIONAL_Q)], axis=0)
    slope = np.sum([(i + 1) * q_of[group, i] * x_of**i for i in range(RATIONAL_Q)], axis=0)
    signs = [np.sign(q[group, i]) if terms else np.sign(inner) for i in range(RATIONAL_Q)]
    by_q = [signs[i] * x_of ** (i + 1) for i in range(RATIONAL_Q)]
    return group, numerator, 1 + np.abs(inner), slope * np.sign(x if terms else inner), by_q


def _rational(dense: Mapping[str, Array], rows: Array | None, *, terms: bool = False) -> dict[str, Array]:
    _, numerator, denominator, _, _ = _rational_parts(dense, terms)
    y = numerator / denominator
    return {"Y": y if rows is None else y[rows]}


def _rational_backward(
    dense: Mapping[str, Array], rows: Array | None, *, terms: bool = False
) -> dict[str, Array]:
    """Gradients with respect to x (all, or some rows) and, summed over all rows, to the coefficients."""
    group, numerator, denominator, slope, by_q = _rational_parts(dense, terms)
    x, p, g = dense["X"], dense["P"], dense["G"]
    rise = np.sum([i * p[group, i] * x ** (i - 1) for i in range(1, RATIONAL_P)], axis=0)
    dx = g * (rise / denominator - numerator * slope / denominator**2)

    def sums(values: Array) -> Array:  # [M, N] -> [groups]
        return np.bincount(group, weights=values.sum(0), minlength=len(p))

    dp = [sums(g * x**i / denominator) for i in range(RATIONAL_P)]
    dq = [sums(-g * numerator * by_q[i] / denominator**2) for i in range(RATIONAL_Q)]
    return {"DX": dx if rows is None else dx[rows], "DP": np.stack(dp, 1), "DQ": np.stack(dq, 1)}


def _rational_shapes(M: int, N: int, K: int) -> dict[str, tuple[int, ...]]:
    wide, p, q = (M, N), (K, RATIONAL_P), (K, RATIONAL_Q)
    return {"X": wide, "Y": wide, "G": wide, "DX": wide, "P": p, "DP": p, "Q": q, "DQ": q}


_ALL = (
    Op(
        "C[M,N] = A[M,K] B[K,N]",
        operands=("A", "B", "C"),
        outputs=("C",),
        shapes=lambda M, N, K: {"A": (M, K), "B": (K, N), "C": (M, N)},
        reference=_product("A", "B", "C", transposed=False),
        flops=lambda M, N, K: 2 * M * N * K,
    ),
    Op(  # both with K last, as tensor cores want them; E: the places of a 2:4 sparse A
        "C[M,N] = A[M,K] B[N,K]^T",
        operands=("A", "E", "B", "C"),
        outputs=("C",),
        shapes=lambda M, N, K: {"A": (M, K), "B": (N, K), "C": (M, N)},
        reference=_product("A", "B", "C", transposed=True),
        flops=lambda M, N, K: 2 * M * N * K,
        packed="A",
    ),
    Op(  # a layer: W as torch keeps it, packed; S scales, Z zeros, T a table of values, E places kept
        LAYER,
        operands=("X", "W", "S", "Z", "T", "E", "Y"),
        outputs=("Y",),
        shapes=lambda M, N, K: {"X": (M, K), "W": (N, K), "Y": (M, N)},
        reference=_product("X", "W", "Y", transposed=True),
        flops=lambda M, N, K: 2 * M * N * K,
        packed="W",
    ),
    Op(  # elementwise; K groups of neighbouring columns share coefficients
        "Y[M,N] = P(X[M,N]) / (1 + |Q(X[M,N])|)",
        operands=("X", "P", "Q", "Y"),
        outputs=("Y",),
        shapes=_rational_shapes,
        reference=_rational,
        flops=lambda M, N, K: 21 * M * N,
        family="rational",
    ),
    Op(  # its gradient for G = dL/dY; K groups
        "DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + |Q(X)|)",
        operands=("G", "X", "P", "Q", "DX", "DP", "DQ"),
        outputs=("DX", "DP", "DQ"),
        shapes=_rational_shapes,
        reference=_rational_backward,
        flops=lambda M, N, K: 64 * M * N,
        family="rational gradient",
    ),
    Op(  # the same with the absolute value of every term of Q
        "Y[M,N] = P(X[M,N]) / (1 + sum |q X[M,N]^i|)",
        operands=("X", "P", "Q", "Y"),
        outputs=("Y",),
        shapes=_rational_shapes,
        reference=partial(_rational, terms=True),
        flops=lambda M, N, K: 21 * M * N,
        family="rational",
    ),
    Op(
        "DX[M,N], DP[K,6], DQ[K,4] = gradient of P(X) / (1 + sum |q X^i|)",
        operands=("G", "X", "P", "Q", "DX", "DP", "DQ"),
        outputs=("DX", "DP", "DQ"),
        shapes=_rational_shapes,
        reference=partial(_rational_backward, terms=True),
        flops=lambda M, N, K: 64 * M * N,
        family="rational gradient",
    ),
    Op(  # a layer in whole numbers (W8A8): a scale for each token and for each output channel
        SCALED_LAYER,
        operands=("X", "W", "SX", "SW", "Y"),
        outputs=("Y",),
        shapes=lambda M, N, K: {"X": (M, K), "W": (N, K), "SX": (M,), "SW": (N,), "Y": (M, N)},
        reference=_scaled,
        flops=lambda M, N, K: 2 * M * N * K,
        scales=("SX", "SW"),
    ),
)
OPS: dict[str, Op] = {op.formula: op for op in _ALL}
