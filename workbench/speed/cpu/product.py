"""A packed weight and the compiled kernel that multiplies with it."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ...errors import Refused
from ..pack import LowBit, pack_planes, pack_steps
from . import machine
from .cpp import Source

if TYPE_CHECKING:
    import numpy as np

# packing -> rows of a tile, inputs of a block, and bytes that the prepared activations take per input
LAYOUTS = {"steps": (16, 32, 4), "planes": (32, 16, 4)}
LINE = 64  # bytes of a cache line: a vector that begins elsewhere costs two


class _Weight(ctypes.Structure):
    """struct Weight of kernels/cpu/lowbit.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scale", "zero", "values", "starts")),
        *((name, ctypes.c_int32) for name in ("N", "runs", "padded", "bits", "wide")),
        ("even", ctypes.c_float),
    )


class _Inputs(ctypes.Structure):
    """struct Inputs of kernels/cpu/lowbit.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "scale", "sum")),
        ("each", ctypes.c_int32),
    )


class Packed:
    """A LowBit weight in the bytes that a kernel reads; `copy()` is the same in memory of its own."""

    def __init__(self, weight: LowBit, packing: str):
        import numpy as np

        self.weight, self.packing = weight, packing
        self.rows, self.block, _ = LAYOUTS[packing]
        codes = weight.in_runs(rows=self.rows, block=self.block)
        self.tiles, _, self.runs, self.padded = codes.shape
        pack = pack_steps if packing == "steps" else pack_planes
        self.codes = _aligned(pack(codes, weight.bits))
        zero, self.even = weight.zero, 0.0
        if zero is not None and (zero == zero.flat[0]).all():
            zero, self.even = None, float(zero.flat[0])  # one number for all of them is not stored
        # half precision, unless that would lose digits; what is filled in is 0 in both
        self.wide = not all(_halves(part) for part in (weight.scale, zero) if part is not None)
        dtype = np.float32 if self.wide else np.float16
        self.scale = _aligned(weight.per_run(weight.scale.astype(dtype), rows=self.rows))
        self.zero = None if zero is None else _aligned(weight.per_run(zero.astype(dtype), rows=self.rows))
        self.starts = np.array(weight.runs.starts, np.int32)
        self.values = None
        if weight.values is not None:
            self.values = np.zeros(16, np.float32)
            self.values[: len(weight.values)] = weight.values
        self._describe()

    def _describe(self) -> None:
        def address(array: np.ndarray | None) -> int | None:
            return None if array is None else array.ctypes.data

        arrays = (self.codes, self.scale, self.zero, self.values, self.starts)
        numbers = self.weight.shape[0], self.runs, self.padded, self.weight.bits, int(self.wide)
        self.struct = _Weight(*map(address, arrays), *numbers, self.even)

    @property
    def nbytes(self) -> int:
        """Bytes that one product has to read of it."""
        return sum(part.nbytes for part in (self.codes, self.scale, self.zero) if part is not None)

    def copy(self) -> Packed:
        made = object.__new__(Packed)
        made.__dict__ |= self.__dict__
        made.codes, made.scale = _aligned(self.codes), _aligned(self.scale)
        made.zero = None if self.zero is None else _aligned(self.zero)
        made._describe()
        return made


class Product:
    """Y[M,N] = X[M,K] W[N,K]^T by one compiled kernel: memory for the activations, and the two calls.

    per_token: one scale for each row of X instead of one for each run of it (only the integer kernel has the choice).
    isa: a path of `machine.FLAGS`; the widest that this CPU runs if left out.
    """

    def __init__(self, source: Source, packed: Packed, M: int, *, per_token: bool = False, isa: str = ""):
        import numpy as np

        isa = isa or machine.isa()
        if packed.weight.bits not in source.bits:
            raise Refused(
                f"{source.name} has no code for {packed.weight.bits} bits; "
                f"it has for {', '.join(map(str, source.bits))}"
            )
        if packed.weight.values is not None and source.packing != "steps":
            raise Refused(f"{source.name} needs equal steps between the values of codes; a codebook has none")
        self.packed, self.M, self.isa = packed, M, isa
        self._library = source.library(isa)
        each = LAYOUTS[packed.packing][2]
        self._data = _aligned(np.zeros(M * packed.runs * packed.padded * each, np.uint8))
        self._scale = np.zeros(M * packed.runs, np.float32)
        self._sum = np.zeros(M * packed.runs, np.float32)
        parts = (self._data, self._scale, self._sum)
        self._inputs = _Inputs(*(part.ctypes.data for part in parts), int(not per_token))

    def __call__(self, x: np.ndarray, y: np.ndarray, packed: Packed | None = None) -> None:
        """x [M,K] and y [M,N], float32, contiguous; `packed`: another copy of the weight."""
        self.prepare(x)
        self.rows(y, 0, self.packed.tiles, packed)

    def prepare(self, x: np.ndarray) -> None:
        """Read x [M,K], float32: quantize it, or make tables of it."""
        struct, (N, K) = self.packed.struct, self.packed.weight.shape
        assert x.shape == (self.M, K), (x.shape, N)
        pointer = ctypes.c_void_p(x.ctypes.data)
        self._library.prepare(ctypes.byref(struct), ctypes.byref(self._inputs), pointer, self.M, K)

    def rows(self, y: np.ndarray, first: int, last: int, packed: Packed | None = None) -> None:
        """The outputs of tiles [first, last) into y [M,N]. Other threads may do other tiles at the same time."""
        struct = (packed or self.packed).struct
        pointer = ctypes.c_void_p(y.ctypes.data)
        wrong = self._library.rows(
            ctypes.byref(struct), ctypes.byref(self._inputs), pointer, self.M, first, last
        )
        assert not wrong, "a width that the source's header promises"

    def threaded(
        self,
        x: np.ndarray,
        y: np.ndarray,
        pool: ThreadPoolExecutor,
        threads: int,
        packed: Packed | None = None,
    ) -> None:
        """As a call, with the rows of W shared out among `threads` threads of the pool."""
        self.prepare(x)
        cuts = [self.packed.tiles * t // threads for t in range(threads + 1)]
        others = [pool.submit(self.rows, y, cuts[t], cuts[t + 1], packed) for t in range(1, threads)]
        self.rows(y, 0, cuts[1], packed)
        for other in others:
            other.result()


def _halves(values: np.ndarray) -> bool:
    """Whether half precision holds every value exactly."""
    import numpy as np

    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())


def _aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a cache line."""
    import numpy as np

    room = np.empty(array.nbytes + LINE, np.uint8)
    begin = -room.ctypes.data % LINE
    made = room[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made
