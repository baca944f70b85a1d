"""The header of a .cu file, read: lines `// key: value` to the values of a Kernel, and the formulas in it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import Refused, near
from .ops import DTYPES, OPS, PACKINGS

NEEDED = (
    "name",  # of the file and of its __global__ function
    "idea",  # one sentence
    "ladder",  # "fp32 3": the ladder it stands on, and its place counted from 1
    "gain",  # "3 to 6x over fp32_naive: why", or "none: why" for the first rung
    "op",  # one of ops.OPS
    "operands",  # "A bf16, B bf16, C fp32": the arguments in order, before M, N, K
    "shapes",  # which M, N, K it takes, in words
    "grid",  # formulas in M, N, K and the constants, x first
    "block",
    "shared",  # dynamic shared memory in bytes, a formula too
    "tolerance",  # largest ||c - r|| / ||r|| against float64 of the rounded operands
    "registers",  # per thread, at most
    "architecture",  # the oldest that runs it; with a letter ("sm_90a") the only one
    "reference",
)
MAY = (
    "constants",  # names of `constexpr int` lines that the formulas use
    "packing",  # how the weights are laid out: one of ops.PACKINGS; none
    "pitch",  # bytes that the rows of the inputs begin at multiples of; 0: rows without gaps
    "maps",  # "A BM BK, B BN BK": operands handed over as TMA descriptors with boxes [rows, columns]
    "requires",  # SASS mnemonics that the machine code must hold: "HMMA, LDGSTS"; none
    "zeroed",  # results that begin as zeros, because the kernel adds to them; the others begin as NaN
)
KEYS = NEEDED + MAY

# What a header may say, to be copied where one is missing: any product in fp32, a thread for each element of C
EXAMPLE = {
    "name": "{name}",
    "idea": "one thread computes one element of C",
    "ladder": "mine 1",
    "gain": "none: the first rung",
    "op": "C[M,N] = A[M,K] B[K,N]",
    "operands": "A fp32, B fp32, C fp32",
    "shapes": "any M, N, K",
    "grid": "ceil(N / 16), ceil(M / 16)",
    "block": "16, 16",
    "shared": "0",
    "tolerance": "1e-5",
    "registers": "255",
    "architecture": "sm_80",
    "reference": "mine",
}
_FUNCTION = re.compile(r"__global__[^;{]*?\b(\w+)\s*\(")

Dim3 = tuple[int, int, int]


@dataclass(frozen=True)
class Gain:
    """What a rung was predicted to win, in times the speed of an earlier one, before anybody measured it."""

    low: float
    high: float
    over: str  # name of a kernel
    why: str


@dataclass(frozen=True)
class TensorMap:
    """An operand that the kernel takes as a TMA descriptor: the box [rows, columns] that one load brings."""

    operand: str
    rows: int
    columns: int


def has_header(text: str) -> bool:
    """Whether a line of the comment on top says one of KEYS."""
    for line in text.splitlines():
        if not line.startswith("//"):
            return False
        if (match := re.match(r"// ?([a-z]+):", line)) and match[1] in KEYS:
            return True
    return False


def function_of(text: str) -> str | None:
    """The first __global__ function of a source."""
    # __launch_bounds__(...) stands between the word and the name
    match = _FUNCTION.search(re.sub(r"__launch_bounds__\s*\([^)]*\)", "", text))
    return match[1] if match else None


def example(text: str, keys: Sequence[str] = NEEDED) -> str:
    """Lines of a header that say `keys`, for the function of a source; to be copied and changed."""
    name = function_of(text) or "my_kernel"
    return "\n".join(f"// {key}: {EXAMPLE[key].format(name=name)}" for key in keys)


def read_header(text: str, where: str) -> dict[str, object]:
    """The fields of a Kernel that the header on top of `text` says. Refused (file and line) where it is malformed."""
    header = _header(text, where)
    values = {key: value for key, (_, value) in header.items()}
    read: dict[str, object] = {key: values[key] for key in ("name", "idea", "shapes", "reference")}
    for key, parse in _PARSERS.items():  # in this order: formulas and maps use the constants
        try:
            read |= parse(values[key], text, read)
        except (ValueError, SyntaxError, ZeroDivisionError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise Refused(f"{where}:{header[key][0]}: {key}: {reason}") from None
    return read


def _header(text: str, where: str) -> dict[str, tuple[int, str]]:
    """key -> (line number, value), every one of KEYS once; those of MAY have a value if nothing is said."""
    if not has_header(text):
        raise Refused(
            f"{where}:1: no header says how it is launched: to run it, put lines such as these on top:\n"
            + example(text)
        )
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
    missing = [key for key in KEYS if not header.get(key, (0, ""))[1] and (key in NEEDED or key in header)]
    missing = [key for key in missing if key != "constants"]
    if missing:
        line = header[missing[0]][0] if missing[0] in header else 1
        raise Refused(
            f"{where}:{line}: the header does not say {', '.join(missing)} (lines `// key: value` on top), such as:\n"
            + example(text, missing)
        )
    return {key: (1, value) for key, value in _DEFAULTS.items()} | header


def _name(value: str, text: str, read: Mapping) -> dict:
    function = rf"__global__[^;{{]*\b{re.escape(value)}\s*\("
    if not re.search(function, text):
        raise ValueError(f"the source has no __global__ function {value}(...)")
    if not re.search(rf'extern\s+"C"\s+{function}', text):
        raise ValueError(f'{value}(...) is not extern "C", so the compiler would give it another name')
    return {"name": value}


def _ladder(value: str, text: str, read: Mapping) -> dict:
    if not (match := re.fullmatch(r"([a-z0-9-]+) (\d+)", value)):
        raise ValueError(f"{value!r} is not a ladder and a place on it, such as 'fp32 3'")
    return {"ladder": match[1], "rung": int(match[2])}


def _gain(value: str, text: str, read: Mapping) -> dict:
    if value.startswith("none"):
        return {"gain": None}
    number = r"(\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number}(?: to {number})?x over (\w+):\s*(.+)", value)
    if not match:
        raise ValueError(f"{value!r} is not of the form '3 to 6x over fp32_naive: why' or 'none: why'")
    low = float(match[1])
    return {"gain": Gain(low, float(match[2] or low), match[3], match[4])}


def _op(value: str, text: str, read: Mapping) -> dict:
    if value not in OPS:
        raise ValueError(f"{value!r} is not one the lab can feed; it feeds {' and '.join(OPS)}")
    return {"op": value}


def _operands(value: str, text: str, read: Mapping) -> dict:
    op, operands = OPS[read["op"]], {}
    for part in value.split(","):
        name, _, dtype = part.strip().partition(" ")
        if name not in op.operands:
            raise ValueError(f"{name!r} is no operand of {read['op']}{near(name, op.operands)}")
        if dtype not in DTYPES:
            raise ValueError(f"{name} {dtype!r}: no such type{near(dtype, DTYPES)}")
        operands[name] = dtype
    if missing := [name for name in op.shapes(1, 1, 1) if name in op.operands and name not in operands]:
        raise ValueError(f"{', '.join(missing)} of {read['op']} is not among them")
    return {"operands": operands}


def _packing(value: str, text: str, read: Mapping) -> dict:
    if value not in PACKINGS:
        raise ValueError(f"{value!r} is not a known packing{near(value, PACKINGS)}")
    return {"packing": value}


def _pitch(value: str, text: str, read: Mapping) -> dict:
    if value not in ("0", "16", "32", "64", "128"):
        raise ValueError(f"{value!r} is not 0 or a power of two from 16 to 128 (bytes)")
    return {"pitch": int(value)}


def _constants(value: str, text: str, read: Mapping) -> dict:
    constants = {}
    for name in re.findall(r"\w+", value):
        match = re.search(rf"^constexpr int {name} = (\d+);", text, re.MULTILINE)
        if not match:
            raise ValueError(f"the source has no line `constexpr int {name} = ...;`")
        constants[name] = int(match[1])
    return {"constants": constants}


def _formula(key: str, most: int) -> Callable[[str, str, Mapping], dict]:
    def parse(value: str, text: str, read: Mapping) -> dict:
        try:
            sizes = _split(value)
            if len(sizes) > most:
                raise ValueError("too many sizes")
            for size in sizes:
                evaluate(size, {**read["constants"], "M": 1, "N": 1, "K": 1})
        except (ValueError, SyntaxError, ZeroDivisionError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else error
            raise ValueError(f"{value!r}: {reason}") from None
        return {key: value}

    return parse


def _maps(value: str, text: str, read: Mapping) -> dict:
    maps = []
    for part in value.split(",") if value else ():
        words = part.split()
        if len(words) != 3 or words[0] not in read["operands"]:
            raise ValueError(f"{part.strip()!r} is not an operand and its box, such as 'A BM BK'")
        rows, columns = (evaluate(word, read["constants"]) for word in words[1:])
        if not (1 <= rows <= 256 and 1 <= columns <= 256):
            raise ValueError(f"{part.strip()!r}: a TMA box has 1 to 256 rows and columns")
        maps.append(TensorMap(words[0], rows, columns))
    return {"maps": tuple(maps)}


def _zeroed(value: str, text: str, read: Mapping) -> dict:
    names = tuple(re.findall(r"\w+", value))
    results = [name for name in read["operands"] if name in OPS[read["op"]].outputs]
    if bad := [name for name in names if name not in results]:
        raise ValueError(f"{bad[0]!r} is no result of this kernel{near(bad[0], results)}")
    return {"zeroed": names}


def _tolerance(value: str, text: str, read: Mapping) -> dict:
    tolerance = float(value)
    if not 0 <= tolerance < 1:
        raise ValueError(f"{value} is not a relative error from 0 to 1")
    return {"tolerance": tolerance}


def _registers(value: str, text: str, read: Mapping) -> dict:
    if not 1 <= int(value) <= 255:
        raise ValueError(f"{value} is not 1 to 255, what a thread can have")
    return {"registers": int(value)}


def _requires(value: str, text: str, read: Mapping) -> dict:
    words = tuple(re.findall(r"[^\s,]+", value)) if value != "none" else ()
    if bad := [word for word in words if not re.fullmatch(r"[A-Z0-9_.]+", word)]:
        raise ValueError(f"{bad[0]!r} is not an instruction of the machine such as HMMA")
    return {"requires": words}


def _architecture(value: str, text: str, read: Mapping) -> dict:
    if not re.fullmatch(r"sm_\d+[af]?", value):
        raise ValueError(f"{value!r} is not of the form sm_80")
    return {"architecture": value}


_PARSERS: dict[str, Callable[[str, str, Mapping], dict]] = {
    "ladder": _ladder,
    "gain": _gain,
    "op": _op,
    "operands": _operands,
    "packing": _packing,
    "pitch": _pitch,
    "architecture": _architecture,
    "tolerance": _tolerance,
    "registers": _registers,
    "requires": _requires,
    "name": _name,
    "constants": _constants,
    "grid": _formula("grid", 3),
    "block": _formula("block", 3),
    "shared": _formula("shared", 1),
    "maps": _maps,
    "zeroed": _zeroed,
}
_DEFAULTS = {"constants": "", "packing": "none", "pitch": "0", "maps": "", "requires": "none", "zeroed": ""}


def _split(formula: str) -> list[str]:
    """ "ceil(N / BN), 1" -> its sizes; commas inside brackets do not occur in the formulas we take."""
    return [part.strip() for part in formula.split(",")]


def dim3(formula: str, names: Mapping[str, int]) -> Dim3:
    sizes = [evaluate(part, names) for part in _split(formula)]
    x, y, z = sizes + [1] * (3 - len(sizes))
    return x, y, z


_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def evaluate(formula: str, names: Mapping[str, int]) -> int:
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
