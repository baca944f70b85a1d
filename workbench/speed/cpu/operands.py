"""What the CPU kernels multiply: random operands in copies that exceed the cache, and their weights in few bits."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..pack import LowBit, low_bit
from ..time import MOST_COPIES, Reference, copies_for, reference
from .machine import cache_bytes
from .product import Packed

if TYPE_CHECKING:
    import numpy as np

FEW = 256  # results; the norm of more is never far from that of their terms
GROUP = 128  # inputs that share a scale in what the table shows


class Operands:
    """A [M,K] and B [K,N], fp32, row-major. `low_bit` is W = B^T on a grid.

    `copies(nbytes)` says how many copies of a weight of that size a kernel rotates through, so that a product in a row
    of products finds its weight in memory and not in the cache, as a layer of a model does. Item i is the i-th pair.
    most: copies of one operand; a weight so small that these do not fill three caches lies there in part.
    """

    def __init__(self, a: np.ndarray, b: np.ndarray, *, most: int = MOST_COPIES):
        self.a, self.b, self.most = a, b, most
        self._low: dict[str, tuple[LowBit, Reference, float]] = {}
        self._packed: dict[tuple[str, str], list[Packed]] = {}

    def copies(self, nbytes: int) -> int:
        """Enough for three times the last cache, but not more than `most`."""
        return copies_for(nbytes, cache_bytes(), self.most)

    @cached_property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The fp32 operands, each pair in memory of its own."""
        more = self.copies(self.a.nbytes + self.b.nbytes) - 1
        return [(self.a, self.b)] + [(self.a.copy(), self.b.copy()) for _ in range(more)]

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pairs[i]

    def __len__(self) -> int:
        return len(self.pairs)

    @cached_property
    def expected(self) -> Reference:
        """The float64 product."""
        import numpy as np

        return reference(self.a, self.b, xp=np)

    def low_bit(self, name: str) -> tuple[LowBit, Reference, float]:
        """W = B^T as `name` says ("int4", "nf4", "binary", "int8-channel"), the float64 product with what it stands
        for, and that product's relative distance from the one with W: the weight's share of the error."""
        import numpy as np

        if name not in self._low:
            weight = quantized(np.ascontiguousarray(self.b.T), name)
            with_it = reference(self.a, weight.dequantize().T, xp=np)
            lost = float(
                np.linalg.norm(with_it.values - self.expected.values) / np.linalg.norm(self.expected.values)
            )
            self._low[name] = weight, with_it, lost
        return self._low[name]

    def packed(self, name: str, packing: str) -> list[Packed]:
        """`low_bit` packed for a kernel, in `copies` of them."""
        if (name, packing) not in self._packed:
            one = Packed(self.low_bit(name)[0], packing)
            more = self.copies(one.nbytes) - 1
            self._packed[name, packing] = [one] + [one.copy() for _ in range(more)]
        return self._packed[name, packing]


def quantized(w: np.ndarray, name: str) -> LowBit:
    """w [N,K] rounded to the nearest: "int2" to "int8" with a zero point, "nf4", "binary", in groups of 128 with
    scales in half precision; "int8-channel": symmetric, one scale for each row."""
    import torch

    from ...grid import Scheme

    if name == "int8-channel":
        scheme = Scheme(bits=8, granularity="channel", symmetric=True)
    elif name.startswith("int"):
        scheme = Scheme(bits=int(name[3:]), group_size=GROUP)
    else:
        scheme = Scheme(format=name, group_size=GROUP)
    return low_bit(scheme.quantize(torch.from_numpy(w)))


def operand_sets(M: int, N: int, K: int, *, most: int = MOST_COPIES, seed: int = 0) -> Operands:
    """Random operands A [M,K], B [K,N] for the CPU kernels, normal."""
    import numpy as np

    random = np.random.default_rng(seed)
    a = random.standard_normal((M, K), dtype=np.float32)
    b = random.standard_normal((K, N), dtype=np.float32)
    return Operands(a, b, most=most)


def allowed(tolerance: float, a: np.ndarray, w: np.ndarray, expected: Reference) -> float:
    """The relative error that rounded operands may make in A[M,K] W[N,K]^T. Each term is rounded for itself, so where
    few terms nearly cancel, the error is small beside them and large beside their sum: `tolerance` is then of
    sqrt(sum a^2 w^2), what the terms would add up to if they did not, and twice it, since few roundings do not
    average. Of more than `FEW` results the norm is that of the terms anyway."""
    import numpy as np

    if expected.values.size > FEW:
        return tolerance
    terms = np.sqrt((np.square(a[expected.rows], dtype="float64") @ np.square(w, dtype="float64").T).sum())
    norm = np.linalg.norm(expected.values)
    return 2 * tolerance * max(1.0, float(terms / norm)) if norm else tolerance


def fp32_tolerance(sets: Operands) -> float:
    """Relative error that fp32 sums of K products may have: 5e-6 up to K = 4096, then growing with sqrt(K) as
    the rounding errors of random operands do. TF32 (3e-4) does not pass."""
    K = sets.a.shape[1]
    return allowed(5e-6 * max(1.0, K / 4096) ** 0.5, sets.a, sets.b.T, sets.expected)
