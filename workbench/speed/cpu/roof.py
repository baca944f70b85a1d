"""What bounds a product on this machine: the bandwidth of reading memory, and the cost of a call that does nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from ..compiling import CompileError, NoCompiler
from ..time import Candidate
from . import machine
from .cpp import source

READ, EMPTY = "read bandwidth", "empty call"
UNIT = 64  # floats


def roofs() -> list[Candidate]:
    """[reading a buffer of three caches, a call of an empty function], to be timed among the kernels. Without a C++
    compiler torch's sum reads, and the empty function is Python's."""
    import numpy as np

    floats = 3 * machine.cache_bytes() // 4 // UNIT * UNIT
    buffer = np.ones(floats, np.float32)
    try:
        library = source("stream").library(machine.paths()[-1])  # the machine's, on every path
    except (NoCompiler, CompileError):
        return [_candidate(READ, _torch_sum(buffer), buffer.nbytes), _candidate(EMPTY, lambda i: None, 0)]
    library.total.restype = ctypes.c_float
    pointer, count = ctypes.c_void_p(buffer.ctypes.data), ctypes.c_long(floats)
    return [
        # the buffer is held by the default argument as long as somebody may run it
        _candidate(READ, lambda i, held=buffer: library.total(pointer, count), buffer.nbytes),
        _candidate(EMPTY, lambda i: library.nothing(), 0),
    ]


def _torch_sum(buffer) -> Callable[[int], object]:
    import torch

    tensor = torch.from_numpy(buffer)
    return lambda i: tensor.sum()


def _candidate(name: str, run: Callable[[int], object], nbytes: int) -> Candidate:
    return Candidate(name, run, lambda: None, lambda: None, 0.0, nbytes=nbytes)
