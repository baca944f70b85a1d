"""A weight of few bits, whatever method made it: codes, scales and zeros of runs of inputs, and what they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LONGEST = 128  # inputs that share a scale in a kernel: 8-bit tables and sums of 16 bits are sized for that


@dataclass(frozen=True)
class Runs:
    """Inputs 0..K cut into runs that share a scale: `starts` [runs + 1], `group` [runs] whose scale each has."""

    starts: tuple[int, ...]
    group: tuple[int, ...]

    @classmethod
    def of(cls, K: int, group_size: int) -> Runs:
        """Groups of `group_size` inputs (the last may be shorter), each in equal runs of at most 128."""
        starts, group = [0], []
        for number, first in enumerate(range(0, K, group_size)):
            size = min(group_size, K - first)
            pieces = -(-size // LONGEST)
            step = -(-size // pieces)
            for begin in range(0, size, step):
                starts.append(first + min(begin + step, size))
                group.append(number)
        return cls(tuple(starts), tuple(group))

    def __len__(self) -> int:
        return len(self.group)

    def padded(self, block: int) -> int:
        """Inputs that each run has room for when it is made of whole blocks."""
        longest = max(b - a for a, b in zip(self.starts, self.starts[1:], strict=False))
        return -(-longest // block) * block


@dataclass(frozen=True)
class LowBit:
    """W[N,K] = scale * (value - zero), where value is the code, or values[code] for a codebook.

    codes uint8 [N,K] in 0..2^bits - 1; scale float32 [N, groups]; zero float32 [N, groups] or None for 0; groups of
    `group_size` inputs; values float32 [2^bits] or None.
    """

    bits: int
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    group_size: int
    values: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        N, K = self.codes.shape
        return N, K

    @property
    def runs(self) -> Runs:
        return Runs.of(self.codes.shape[1], self.group_size)

    def dequantize(self) -> np.ndarray:
        """The weights that it stands for, float32 [N,K]."""
        import numpy as np

        K = self.codes.shape[1]
        w = self.codes.astype(np.float32) if self.values is None else self.values[self.codes]
        if self.zero is not None:
            w -= np.repeat(self.zero, self.group_size, axis=1)[:, :K]
        w *= np.repeat(self.scale, self.group_size, axis=1)[:, :K]
        return w

    def in_runs(self, *, rows: int, block: int) -> np.ndarray:
        """Codes [tiles, rows, runs, padded], filled with 0 to whole tiles of `rows` rows and runs of whole blocks."""
        import numpy as np

        N, runs = self.codes.shape[0], self.runs
        out = np.zeros((-(-N // rows) * rows, len(runs), runs.padded(block)), np.uint8)
        for r, (a, b) in enumerate(zip(runs.starts, runs.starts[1:], strict=False)):
            out[:N, r, : b - a] = self.codes[:, a:b]
        return out.reshape(-1, rows, len(runs), runs.padded(block))

    def per_run(self, values: np.ndarray, *, rows: int) -> np.ndarray:
        """Scales or zeros [N, groups] as [tiles, runs, rows], filled with 0."""
        import numpy as np

        N, runs = self.codes.shape[0], self.runs
        out = np.zeros((-(-N // rows) * rows, len(runs)), values.dtype)
        out[:N] = values[:, list(runs.group)]
        return np.ascontiguousarray(out.reshape(-1, rows, len(runs)).transpose(0, 2, 1))
