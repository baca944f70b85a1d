"""C++ kernels for the CPU: each is one .cpp file whose header comment says what it is, as those for CUDA do.

The header is the lines `// key: value` at the top; a line `//` followed by at least two spaces goes on with the value
above. `bits` may be several: the file is then a kernel for each.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import Refused, near
from .. import cxx
from . import machine

FOLDER = Path(__file__).parents[1] / "kernels"
NUMBER = r"\d+(?:\.\d+)?"
KEYS = ("name", "idea", "op", "bits", "packing", "tolerance", "gain", "reference")
# -ffp-contract: a * b + c may be one instruction; no sum is reordered. The warnings are about passing vectors to
# functions that are inlined anyway.
ALWAYS = ("-O3", "-ffp-contract=fast", "-Wno-psabi", "-pthread")


@dataclass(frozen=True)
class Source:
    """One C++ file: a kernel, or one for each width in `bits`."""

    name: str
    idea: str
    op: str
    bits: tuple[int, ...]
    packing: str
    tolerance: float
    gain: str
    reference: str
    text: str = field(repr=False)
    where: str

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the source or with a header of ours that it includes."""
        told = [self.text, *(text for _, text in sorted(_headers(self.text).items()))]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]

    def gain_at(self, bits: int) -> str:
        """What was predicted of one width, as `ladder.read_gain` reads it: of "5x at 4 bits, 9x at 2 bits over a: why"
        at 2 bits "9x over a: why"; a prediction that names no widths is that of all, one that leaves it out is none."""
        found = re.findall(rf"({NUMBER}(?: to {NUMBER})?x) at (\d+) bits?", self.gain)
        if not found:
            return self.gain
        said = {int(width): times for times, width in found}
        over = self.gain[self.gain.index(" over ") :]
        return f"{said[bits]}{over}" if bits in said else f"none: nothing was written down for {bits} bits"

    @classmethod
    def read(cls, path: Path) -> Source:
        """The kernel in a file. Refused (file and line) where its header is malformed."""
        try:
            return cls.parse(path.read_text(encoding="utf-8"), where=str(path))
        except FileNotFoundError:
            raise Refused(f"{path}: no such kernel file") from None

    @classmethod
    def parse(cls, text: str, *, where: str = "cpu_kernel.cpp") -> Source:
        """The kernel in a text, such as the one in an editor. Refused as in `read`."""
        said = _header(text, where)
        try:
            bits = tuple(int(part) for part in said["bits"].split(","))
            tolerance = float(said["tolerance"])
        except ValueError as error:
            raise Refused(f"{where}: the header's bits or tolerance is no number: {error}") from None
        return cls(**{**said, "bits": bits, "tolerance": tolerance}, text=text, where=where)

    def library(self, isa: str) -> ctypes.CDLL:
        """The compiled kernel for a path of `machine.FLAGS`; errors as in `cxx.build`."""
        return _library(self.text, Path(self.where).name, isa)


@functools.cache
def source(stem: str) -> Source:
    """The kernel in kernels/cpu_STEM.cpp."""
    return Source.read(FOLDER / f"cpu_{stem}.cpp")


@functools.cache
def _library(text: str, name: str, isa: str) -> ctypes.CDLL:
    flags = [*ALWAYS, *machine.FLAGS[isa]]
    return ctypes.CDLL(str(cxx.build(text, name=name, flags=flags, include=[FOLDER])))


def _headers(text: str) -> dict[str, str]:
    """Name -> text of our headers that `text` includes, and that those include."""
    found: dict[str, str] = {}
    for name in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
        path = FOLDER / name if (FOLDER / name).exists() else FOLDER / "cpu" / name
        if path.exists() and path.name not in found:
            found[path.name] = path.read_text(encoding="utf-8")
            found |= _headers(found[path.name])
    return found


def _header(text: str, where: str) -> dict[str, str]:
    """key -> value, every one of KEYS once."""
    said: dict[str, str] = {}
    key = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("//"):
            break
        if match := re.match(r"// ?([a-z]+):\s*(.*)$", line):
            key = match[1]
            if key not in KEYS:
                raise Refused(f"{where}:{number}: the header knows no {key!r}{near(key, KEYS)}")
            if key in said:
                raise Refused(f"{where}:{number}: {key} is said twice")
            said[key] = match[2].strip()
        elif key and line.startswith("//  "):
            said[key] = f"{said[key]} {line[2:].strip()}"
        else:
            raise Refused(f"{where}:{number}: the header is made of lines `// key: value`; this is {line!r}")
    if missing := [key for key in KEYS if not said.get(key)]:
        raise Refused(
            f"{where}:1: the header does not say {', '.join(missing)} (lines `// key: value` on top)"
        )
    return said
