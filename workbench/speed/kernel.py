"""Kernels: each is one .cu file whose header comment says what it is and how it is launched.

The header is the lines `// key: value` at the top of the file; a line `//` followed by at least two spaces
goes on with the value above. The tile constants stay ordinary C++ (`constexpr int TILE = 32;`), so the file
compiles as it stands, and the launch follows when somebody edits them.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..errors import Refused
from .manifest import Dim3, Gain, TensorMap, dim3, evaluate, function_of, has_header, read_header
from .ops import DTYPES, OPS, PACKINGS

__all__ = [
    "ARCHITECTURES",
    "FOLDER",
    "MOST_SHARED",
    "Draft",
    "Gain",
    "Kernel",
    "TensorMap",
    "included",
    "kernels",
    "opened",
    "unreadable",
]

FOLDER = Path(__file__).with_name("kernels")
ARCHITECTURES = ("sm_80", "sm_89", "sm_90a")  # what kernels are compiled and tested for: A100, L4, H100/H200
MOST_THREADS = 1024  # per block, on every architecture so far
MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_SHARED = {"sm_80": 163 << 10, "sm_89": 99 << 10, "sm_90a": 227 << 10}  # dynamic bytes per block


@dataclass(frozen=True)
class Kernel:
    """One CUDA kernel, called as name(operands..., M, N, K)."""

    name: str  # of the file, the entry function and the row in every table
    source: str = field(repr=False)
    idea: str  # one sentence
    ladder: str  # "fp32"
    rung: int  # from 1
    gain: Gain | None  # None for the first rung of a ladder
    op: str
    operands: Mapping[str, str]  # name -> dtype, in the order of the arguments
    packing: str
    pitch: int  # bytes
    maps: tuple[TensorMap, ...]
    zeroed: tuple[str, ...]
    shapes: str  # which M, N, K it takes, in words
    constants: Mapping[str, int]  # tile constants and their values in the source
    tolerance: float
    registers: int  # the most per thread that its occupancy allows for
    requires: tuple[str, ...]  # SASS mnemonics
    architecture: str  # the oldest that runs it: "sm_80"; "sm_90a" is the only one that does
    reference: str
    where: str  # its file, for messages
    grid: str = field(repr=False)  # formulas in M, N, K and the constants, x first
    block: str = field(repr=False)
    shared: str = field(repr=False)

    @cached_property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the source, or with a header of ours that it includes."""
        return hashlib.sha256((self.source + included(self.source)).encode()).hexdigest()[:12]

    @property
    def bits(self) -> int:
        """Of one element of the operand that most of the work reads: B, the weights, or X."""
        inputs = [dtype for name, dtype in self.operands.items() if name not in OPS[self.op].outputs]
        return PACKINGS[self.packing].bits or DTYPES[inputs[min(1, len(inputs) - 1)]].bits

    @property
    def outputs(self) -> tuple[str, ...]:
        """The operands that it writes."""
        return tuple(name for name in self.operands if name in OPS[self.op].outputs)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those of ARCHITECTURES that it is for."""
        return tuple(arch for arch in ARCHITECTURES if self.runs_on(arch))

    def runs_on(self, arch: str) -> bool:
        """Whether machine code for `arch` ("sm_90", "sm_90a") can be made of it."""
        own, asked = (
            re.fullmatch(r"sm_(\d+)([af]?)", self.architecture),
            re.fullmatch(r"sm_(\d+)([af]?)", arch),
        )
        if not own or not asked:
            return False
        if own[2]:
            return own[1] == asked[1] and asked[2] == own[2]
        return int(asked[1]) >= int(own[1])

    def launch(self, M: int, N: int, K: int) -> tuple[Dim3, Dim3, int]:
        """(grid, block, dynamic shared memory in bytes); grid and block as (x, y, z). Refused where the shape
        asks for more blocks, threads or shared memory than CUDA can give."""
        if min(M, N, K) < 1:
            raise Refused(f"{self.name}: shape {M}x{N}x{K} is empty; M, N and K start at 1")
        names = {**self.constants, "M": M, "N": N, "K": K}
        grid, block = dim3(self.grid, names), dim3(self.block, names)
        if any(size > most for size, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise Refused(
                f"{self.name}: {M}x{N}x{K} needs a grid of {grid}, CUDA starts at most {MOST_BLOCKS}"
            )
        if min(grid + block) < 1 or block[0] * block[1] * block[2] > MOST_THREADS:
            raise Refused(f"{self.where}: a block of {block} is outside 1 to {MOST_THREADS} threads")
        shared, most = evaluate(self.shared, names), max(MOST_SHARED.values())
        if not 0 <= shared <= most:
            raise Refused(
                f"{self.where}: {shared} bytes of shared memory per block; no architecture has over {most}"
            )
        return grid, block, shared

    @classmethod
    def read(cls, path: str | Path) -> Kernel:
        """The kernel in a file. Refused (file and line) where its header is malformed."""
        path = Path(path)
        text = _text(path)
        kernel = cls.parse(text, where=str(path))
        if kernel.name != path.stem:
            raise Refused(
                f"{path}:1: the header says name {kernel.name!r}, the file {path.stem!r}; make them equal"
            )
        return kernel

    @classmethod
    def parse(cls, text: str, *, where: str = "kernel.cu") -> Kernel:
        """The kernel in a text, such as the one in an editor. Refused as in `read`."""
        return cls(**read_header(text, where), source=text, where=where)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Draft:
    """A source without a header: it can be compiled and looked at. What it computes, and how it is launched, is not
    known before a header says so."""

    name: str  # of its first __global__ function
    source: str = field(repr=False)
    where: str
    idea: str = ""
    ladder: str = ""
    rung: int = 0
    op: str = ""
    architecture: str = ARCHITECTURES[0]
    architectures: tuple[str, ...] = ARCHITECTURES

    def runs_on(self, arch: str) -> bool:
        return True

    @classmethod
    def parse(cls, text: str, *, where: str) -> Draft:
        """Refused where the source has no __global__ function."""
        if (name := function_of(text)) is None:
            raise Refused(
                f"{where}: no __global__ function in it; a kernel is 'extern \"C\" __global__ void name(...)'"
            )
        return cls(name, text, where)


def opened(kernel: str | Path) -> Kernel | Draft:
    """A kernel of one's own: the path of a file, or the source itself; with a header, or a draft without one. Refused
    as in `Kernel.read`."""
    if isinstance(kernel, str) and is_source(kernel):
        text, where = kernel, f"{function_of(kernel) or 'kernel'}.cu"
        return Kernel.parse(text, where=where) if has_header(text) else Draft.parse(text, where=where)
    text = _text(Path(kernel))
    return Kernel.read(kernel) if has_header(text) else Draft.parse(text, where=str(kernel))


def is_source(text: str) -> bool:
    """Whether it is a source, and not a name or a path."""
    return "\n" in text or "{" in text or "__global__" in text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path}: no such kernel file") from None
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not a text in UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None


def kernels(folder: str | Path = FOLDER) -> dict[str, Kernel]:
    """Every kernel of a folder by name, in order of name. A new .cu file there is a new kernel; one that cannot be
    read is left out, so that it does not stand in the way of the others: `unreadable` says why."""
    return {name: one for name, one in _files(folder) if isinstance(one, Kernel)}


def unreadable(folder: str | Path = FOLDER, wanted: str = "*") -> dict[str, Refused]:
    """The kernel files of a folder that `kernels` leaves out and whose names match one of the globs in `wanted`, with
    commas between, by that name; and what is wrong with each."""
    globs = [glob.strip() for glob in wanted.split(",")]
    return {
        name: one
        for name, one in _files(folder)
        if isinstance(one, Refused) and any(fnmatch.fnmatchcase(name, glob) for glob in globs)
    }


def _files(folder: str | Path) -> Iterator[tuple[str, Kernel | Refused]]:
    for path in sorted(Path(folder).glob("*.cu")):
        try:
            yield path.stem, Kernel.read(path)
        except Refused as error:
            yield path.stem, error


def included(text: str, seen: tuple[str, ...] = ()) -> str:
    """The text of our own headers that a source includes, and of those that they include."""
    found = ""
    for name in re.findall(r'^\s*#include "(\w+\.cuh)"', text, re.MULTILINE):
        path = FOLDER / name
        if name not in seen and path.is_file():
            seen = (*seen, name)
            header = path.read_text(encoding="utf-8")
            found += header + included(header, seen)
    return found
