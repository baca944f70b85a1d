"""Kernels: each is one .cu file whose header comment says what it is and how it is launched.

The header is the lines `// key: value` at the top of the file; a line `//` followed by at least two spaces
goes on with the value above. The tile constants stay ordinary C++ (`constexpr int TILE = 32;`), so the file
compiles as it stands, and the launch follows when somebody edits them.
"""

from __future__ import annotations

import ast
import hashlib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import Refused, near

FOLDER = Path(__file__).with_name("kernels")
KEYS = (
    "name",
    "idea",
    "op",
    "bits",
    "shapes",
    "constants",
    "grid",
    "block",
    "shared",
    "architecture",
    "reference",
)
OPS = ("C[M,N] = A[M,K] B[K,N]",)
MOST_THREADS = 1024  # per block, on every architecture so far
MOST_BLOCKS = (2**31 - 1, 65535, 65535)

Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class Kernel:
    """One CUDA kernel: fp32 operands row-major, called as name(A, B, C, M, N, K)."""

    name: str  # of the file, the entry function and the row in every table
    source: str = field(repr=False)
    idea: str  # one sentence
    op: str
    bits: int  # of the operands
    shapes: str  # which M, N, K it takes, in words
    constants: Mapping[str, int]  # tile constants and their values in the source
    architecture: str  # the oldest that runs it: "sm_50"
    reference: str
    where: str  # its file, for messages
    grid: str = field(repr=False)  # formulas in M, N, K and the constants, x first
    block: str = field(repr=False)
    shared: str = field(repr=False)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def launch(self, M: int, N: int, K: int) -> tuple[Dim3, Dim3, int]:
        """(grid, block, dynamic shared memory in bytes) for C[M,N] = A[M,K] B[K,N]; grid and block as (x, y,
        z). Refused where the shape asks for more blocks or threads than CUDA can start."""
        if min(M, N, K) < 1:
            raise Refused(f"{self.name}: shape {M}x{N}x{K} is empty; M, N and K start at 1")
        names = {**self.constants, "M": M, "N": N, "K": K}
        grid, block = _dim3(self.grid, names), _dim3(self.block, names)
        if any(size > most for size, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise Refused(
                f"{self.name}: {M}x{N}x{K} needs a grid of {grid}, CUDA starts at most {MOST_BLOCKS}"
            )
        if min(grid + block) < 1 or block[0] * block[1] * block[2] > MOST_THREADS:
            raise Refused(f"{self.where}: a block of {block} is outside 1 to {MOST_THREADS} threads")
        return grid, block, _evaluate(self.shared, names)

    @classmethod
    def read(cls, path: str | Path) -> Kernel:
        """The kernel in a file. Refused (file and line) where its header is malformed."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise Refused(f"{path}: no such kernel file") from None
        except UnicodeDecodeError as error:
            raise Refused(f"{path}: not a text in UTF-8 (byte {error.start})") from None
        kernel = cls.parse(text, where=str(path))
        if kernel.name != path.stem:
            raise Refused(
                f"{path}:1: the header says name {kernel.name!r}, the file {path.stem!r}; make them equal"
            )
        return kernel

    @classmethod
    def parse(cls, text: str, *, where: str = "kernel.cu") -> Kernel:
        """The kernel in a text, such as the one in an editor. Refused as in `read`."""
        header = _header(text, where)
        values = {key: value for key, (_, value) in header.items()}

        def refuse(key: str, why: str) -> Refused:
            return Refused(f"{where}:{header[key][0]}: {key}: {why}")

        if values["op"] not in OPS:
            raise refuse("op", f"{values['op']!r} is not one the lab can feed; it feeds {' and '.join(OPS)}")
        if values["bits"] not in ("32", "16"):
            raise refuse("bits", f"{values['bits']!r} is not 32 or 16")
        if not re.fullmatch(r"sm_\d+[af]?", values["architecture"]):
            raise refuse("architecture", f"{values['architecture']!r} is not of the form sm_80")
        if not re.search(rf"__global__[^;{{(]*\b{re.escape(values['name'])}\s*\(", text):
            raise refuse("name", f"the source has no __global__ function {values['name']}(...)")

        constants = {}
        for name in re.findall(r"\w+", values["constants"]):
            match = re.search(rf"^constexpr int {name} = (\d+);", text, re.MULTILINE)
            if not match:
                raise refuse("constants", f"the source has no line `constexpr int {name} = ...;`")
            constants[name] = int(match[1])
        for key in ("grid", "block", "shared"):
            try:
                sizes = _split(values[key])
                if len(sizes) > (1 if key == "shared" else 3):
                    raise ValueError("too many sizes")
                for size in sizes:
                    _evaluate(size, {**constants, "M": 1, "N": 1, "K": 1})
            except (ValueError, SyntaxError, ZeroDivisionError) as error:
                reason = error.msg if isinstance(error, SyntaxError) else error
                raise refuse(key, f"{values[key]!r}: {reason}") from None
        read = {**values, "bits": int(values["bits"]), "constants": constants}
        return cls(**read, source=text, where=where)


def kernels(folder: str | Path = FOLDER) -> dict[str, Kernel]:
    """Every kernel of a folder by name, in order of name. A new .cu file there is a new kernel."""
    return {path.stem: Kernel.read(path) for path in sorted(Path(folder).glob("*.cu"))}


def _header(text: str, where: str) -> dict[str, tuple[int, str]]:
    """key -> (line number, value), every one of KEYS once."""
    header: dict[str, tuple[int, str]] = {}
    key = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("//"):
            break
        if match := re.match(r"// ?([a-z]+):\s*(.*)$", line):
            key, value = match[1], match[2].strip()
            if key not in KEYS:
                raise Refused(f"{where}:{number}: the header knows no {key!r}{near(key, KEYS)}")
            if key in header:
                raise Refused(f"{where}:{number}: {key} is said twice, first in line {header[key][0]}")
            header[key] = number, value
        elif key and line.startswith("//  "):
            header[key] = header[key][0], f"{header[key][1]} {line[2:].strip()}".strip()
        else:
            raise Refused(f"{where}:{number}: the header is made of lines `// key: value`; this is {line!r}")
    missing = [key for key in KEYS if not header.get(key, (0, ""))[1] and key != "constants"]
    if missing:
        line = header[missing[0]][0] if missing[0] in header else 1
        raise Refused(
            f"{where}:{line}: the header does not say {', '.join(missing)} (lines `// key: value` on top)"
        )
    header.setdefault("constants", (1, ""))
    return header


def _split(formula: str) -> list[str]:
    """ "ceil(N / BN), 1" -> its sizes; commas inside brackets do not occur in the formulas we take."""
    return [part.strip() for part in formula.split(",")]


def _dim3(formula: str, names: Mapping[str, int]) -> Dim3:
    sizes = [_evaluate(part, names) for part in _split(formula)]
    x, y, z = sizes + [1] * (3 - len(sizes))
    return x, y, z


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def _evaluate(formula: str, names: Mapping[str, int]) -> int:
    """A whole number from + - * //, ceil(a / b) and names. Not eval: a header comes from anybody's file."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)) if not isinstance(number, bool):
                return number
            case ast.Name(id=name):
                if name not in names:
                    raise ValueError(f"{name} is not a size or a constant{near(name, names)}")
                return names[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id="ceil"), args=[ast.BinOp(left=left, op=ast.Div(), right=right)]):
                return -(-value(left) // value(right))
        raise ValueError("formulas are made of + - * //, ceil(a / b), M, N, K and the constants")

    return value(ast.parse(formula, mode="eval").body)
