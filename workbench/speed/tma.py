"""Descriptors of matrices for the tensor memory accelerator (TMA) of sm_90: what one bulk load needs to know."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

from ..errors import Refused
from .manifest import TensorMap
from .ops import DTYPES

if TYPE_CHECKING:
    import numpy as np

# CUtensorMapDataType; NumPy holds bf16 as uint16, the TMA only copies
_MAP_TYPES = {"uint8": 0, "int8": 0, "fp16": 6, "fp32": 7, "bf16": 9}


def tensor_map(pointer: int, dtype: str, shape: tuple[int, ...], pitch: int, box: TensorMap) -> np.ndarray:
    """The TMA descriptor of a matrix [rows, columns] in device memory whose rows lie `pitch` bytes apart: 128 bytes
    that the driver fills, passed by value. The box is swizzled where its rows are 128 bytes long."""
    import numpy as np

    room = np.zeros(192, np.uint8)
    begin = -room.ctypes.data % 64  # the driver wants it aligned
    described = room[begin : begin + 128]
    rows, columns = shape
    width = box.columns * DTYPES[dtype].bits // 8
    u64, u32 = ctypes.c_uint64, ctypes.c_uint32
    status = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(described.ctypes.data),
        _MAP_TYPES[dtype],
        2,  # axes, the fastest first
        ctypes.c_void_p(pointer),
        (u64 * 2)(columns, rows),
        (u64 * 1)(pitch),
        (u32 * 2)(box.columns, box.rows),
        (u32 * 2)(1, 1),
        0,  # not interleaved
        3 if width == 128 else 0,  # swizzle of 128 bytes, or none
        2,  # to the second-level cache in 128 bytes
        0,  # zeros beyond the edge
    )
    if status:
        raise Refused(
            f"{box.operand} {rows}x{columns}: the driver makes no TMA descriptor of it (error {status})"
        )
    return described.view([("opaque", "<u8", 16)])


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
