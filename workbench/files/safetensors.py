"""One safetensors file: 8 bytes of header length, a JSON header, then the raw little-endian data.

The header is parsed and checked here, before anything is allocated from what it says, so that a truncated or
lying file is refused in one line. The data is mapped at the first read; tensors are views of the map.
Format: https://huggingface.co/docs/safetensors (0.8). Opening costs one read of the header.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import Refused
from ..model.source import Source, TensorInfo
from .content import MAX_HEADER, at, first_bytes, parse_object, refusal, say, short

# the format's name -> torch's name; torch packs two F4 values in a byte and counts bytes
_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F4": "float4_e2m1fn_x2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}
DTYPES: dict[str, torch.dtype] = {k: getattr(torch, v) for k, v in _NAMES.items() if hasattr(torch, v)}

_FIELDS = {"dtype", "shape", "data_offsets"}
_AGAIN = "download or copy it again"
_REWRITE = "write the file again with safetensors.torch.save_file"


class _Place(NamedTuple):
    """Where a tensor's bytes lie: [begin, end) from the start of the data."""

    begin: int
    end: int


class SafetensorsFile(Source):
    """A .safetensors file as a lazy source. Refused where the header does not describe the file exactly.

    Tensors share memory with a private map of the file: writing to one never reaches the file, yet later
    reads of the same source would see it, so copy before changing. `metadata` is the header's
    `__metadata__`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.origin = at(self.path)
        header, self._start, self._size = _header(self.path)
        self.metadata: Mapping[str, str] = MappingProxyType(_metadata(header, self.origin))
        self._infos: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        for name, entry in header.items():
            self._infos[name], self._places[name] = _entry(name, entry, self.origin)
        _check_layout(self._places, self._size - self._start, self.origin)
        self._map: mmap.mmap | None = None

    def __reduce__(self) -> tuple[type[SafetensorsFile], tuple[Path]]:
        return type(self), (self.path,)  # a map does not travel to another process; the path does

    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._infos)

    def read(self, name: str) -> Tensor:
        info = self.info(name)
        place = self._places[name]
        return self._tensor(place.begin, place.end, info.dtype, info.shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows [start, stop) along the first axis, by slice rules; touches only their pages."""
        info = self.info(name)
        if not info.shape:
            raise Refused(f"{short(name)} in {self.origin} is a scalar and has no rows; use read")
        start, stop, _ = slice(start, stop).indices(info.shape[0])
        count, row = max(0, stop - start), math.prod(info.shape[1:]) * info.dtype.itemsize
        begin = self._places[name].begin + start * row
        return self._tensor(begin, begin + count * row, info.dtype, (count, *info.shape[1:]))

    def _tensor(self, begin: int, end: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        raw = self._bytes(self._start + begin, end - begin)
        if raw.data_ptr() % dtype.itemsize:
            raw = raw.clone()  # an odd header length: torch's kernels load whole elements
        if dtype == torch.bool:
            # A byte of 2 is no valid bool in torch, and the file may hold one.
            return raw.ne(0).reshape(shape)
        return raw.view(dtype).reshape(shape)

    def _bytes(self, offset: int, count: int) -> Tensor:
        """uint8 [count] from the map; from a plain read where the file cannot be mapped."""
        if sys.byteorder != "little":
            raise Refused(
                f"{self.origin} is little-endian and this machine is not; convert the weights elsewhere"
            )
        if self._map is None:
            try:
                self._map = self._open_map()
            except (
                OSError
            ):  # a file larger than memory under strict overcommit, or a file system without maps
                return self._plain_read(offset, count)
        if self._map.size() < self._size:  # touching a page that is gone would end the process (SIGBUS)
            raise Refused(f"{self.origin} has become shorter since it was opened; open it again")
        return torch.frombuffer(self._map, dtype=torch.uint8, count=count, offset=offset)

    def _open_map(self) -> mmap.mmap:
        # Copy on write, although nothing should write: torch has no read-only tensors, so an in-place
        # operation on a read-only map would be a segmentation fault, and on a shared one would change the
        # checkpoint.
        with self.path.open("rb") as file:
            self._check_unchanged(os.fstat(file.fileno()).st_size)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _plain_read(self, offset: int, count: int) -> Tensor:
        try:
            with self.path.open("rb") as file:
                self._check_unchanged(os.fstat(file.fileno()).st_size)
                raw = torch.empty(count, dtype=torch.uint8)
                file.seek(offset)
                got = file.readinto(raw.numpy().data)
        except OSError as error:
            raise Refused(
                f"{self.origin} cannot be read: {say(error)}; check the disk and the path"
            ) from error
        if got != count:
            raise Refused(f"{self.origin} ended {count - got} bytes early; open it again")
        return raw

    def _check_unchanged(self, size: int) -> None:
        if size != self._size:
            raise Refused(
                f"{self.origin} had {self._size} bytes when opened and has {size} now; open it again"
            )


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data starts and the file's size, both in bytes from the beginning."""
    head, size = first_bytes(path)
    if (refused := refusal(head, path)) is not None:
        raise refused
    where, length = at(path), int.from_bytes(head[:8], "little")
    if size < 8:
        raise Refused(f"{where} is truncated: {size} bytes do not hold the 8 of a header length; {_AGAIN}")
    if length > MAX_HEADER:
        raise Refused(
            f"{where} is not safetensors: its first 8 bytes promise a header of {length} bytes, more than "
            f"{MAX_HEADER}; give a .safetensors file, its index or its folder"
        )
    if 8 + length > size:
        raise Refused(
            f"{where} is truncated: a header of {length} bytes is promised, {size - 8} follow; {_AGAIN}"
        )
    try:
        with path.open("rb") as file:
            file.seek(8)
            raw = file.read(length)
        text = raw.decode("utf-8")
    except OSError as error:
        raise Refused(f"{where} cannot be read: {say(error)}; check the disk and the path") from error
    except UnicodeDecodeError as error:
        raise Refused(f"the header of {where} is not UTF-8 at byte {error.start}; {_AGAIN}") from None
    return parse_object(text, f"the header of {where}", _AGAIN), 8 + length, size


def _metadata(header: dict[str, Any], where: str) -> dict[str, str]:
    """Takes `__metadata__` out of the header."""
    found = header.pop("__metadata__", None) or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Refused(f"__metadata__ of {where} is not a map from text to text; {_REWRITE}")
    return found


def _entry(name: str, entry: Any, where: str) -> tuple[TensorInfo, _Place]:
    """One entry of the header, checked against itself; `_check_layout` asks whether all fit the file."""
    if not name.isprintable():
        raise Refused(f"{where} has a tensor name with control characters, {short(name)}; {_REWRITE}")
    if not isinstance(entry, dict) or not _FIELDS <= entry.keys():
        raise _lie(where, name, "no dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise _lie(where, name, f"unknown dtype {short(code)}", remedy=f"known: {', '.join(DTYPES)}")
    if not _naturals(shape) or len(shape) > 64:
        raise _lie(where, name, f"shape {short(shape)} is not a list of at most 64 sizes >= 0")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _lie(where, name, f"data_offsets {short(offsets)} are not [begin, end] with begin <= end")
    if code == "F4":
        if not shape or shape[-1] % 2:
            raise _lie(where, name, f"F4 needs an even last axis, not shape {short(shape)}", remedy=_REWRITE)
        shape = [*shape[:-1], shape[-1] // 2]
    needed = math.prod(shape) * dtype.itemsize
    # torch multiplies the other axes of an empty tensor, too
    if needed == 0 and math.prod(size for size in shape if size) * dtype.itemsize >= 2**63:
        raise _lie(where, name, f"shape {short(shape)} is larger than any memory")
    begin, end = offsets
    if end - begin != needed:
        raise _lie(
            where,
            name,
            f"{code} {short(entry['shape'])} needs {short(needed)} bytes, data_offsets give {end - begin}",
        )
    return TensorInfo(name, tuple(shape), dtype, where), _Place(begin, end)


def _lie(where: str, name: str, words: str, remedy: str = _AGAIN) -> Refused:
    return Refused(f"the header of {where} lies about {short(name)}: {words}; {remedy}")


def _naturals(sizes: Any) -> bool:
    return isinstance(sizes, list) and all(type(size) is int and 0 <= size < 2**63 for size in sizes)


def _check_layout(places: Mapping[str, _Place], available: int, where: str) -> None:
    """The tensors fill the data from 0 to `available` bytes, without holes and overlaps."""
    reached, before = 0, ""
    what = f"the header of {where} lies"
    for name, place in sorted(places.items(), key=itemgetter(1)):
        if place.begin < reached:
            raise Refused(f"{what}: {short(name)} overlaps {short(before)} at byte {place.begin}; {_AGAIN}")
        if place.begin > reached:
            raise Refused(f"{what}: a hole of {place.begin - reached} bytes before {short(name)}; {_REWRITE}")
        reached, before = place.end, name
    if reached > available:
        raise Refused(
            f"{where} is truncated: {reached} bytes of data are promised, {available} are there; {_AGAIN}"
        )
    if reached < available:
        raise Refused(
            f"the header of {where} lies: it describes {reached} bytes of data, {available} are there; "
            f"{_AGAIN}"
        )
