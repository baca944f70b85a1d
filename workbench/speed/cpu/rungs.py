"""The registry of what runs on the CPU. A new kernel is a C++ file in kernels/ and a line in `cpp_rungs`, or one
decorated function from operands to a Candidate in `torch_rungs` or `numba_rungs`."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..time import Candidate
from .cpp import source

BASELINE = "cpu-torch-fp32"
HOMES = ("torch_rungs", "numba_rungs", "cpp_rungs")  # in the order of the table


@dataclass(frozen=True)
class Rung:
    """One CPU kernel: `make` turns operands into a Candidate, `note` is what a reader of its row must know. `gain` is
    what was predicted of it; `cpp` the stem of its C++ file, `file` that of a Python one beside this."""

    name: str
    bits: int
    idea: str
    note: str
    make: Callable[[Any], Candidate]
    file: str = ""
    cpp: str = ""
    gain: str = ""

    @property
    def source(self) -> str:
        if self.cpp:
            return source(self.cpp).text
        return Path(__file__).with_name(self.file).read_text() if self.file else inspect.getsource(self.make)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the source."""
        if self.cpp:
            return source(self.cpp).hash
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]


REGISTERED: dict[str, Rung] = {}


def rungs() -> dict[str, Rung]:
    """Every CPU kernel by name, the baseline first."""
    _register()
    return dict(REGISTERED)


@functools.cache
def _register() -> None:
    for name in HOMES:
        importlib.import_module(f".{name}", __package__)


def rung(name: str, *, bits: int, idea: str, note: str = "", file: str = "", gain: str = ""):
    """Register the decorated maker of a candidate as a kernel."""

    def register(make: Callable[[Any], Candidate]) -> Callable[[Any], Candidate]:
        REGISTERED[name] = Rung(name, bits, idea, note, make, file, gain=gain)
        return make

    return register
