"""Writing checkpoints: beside the target under a temporary name, forced to disk, renamed. Never half a file.

Free space is asked for before the first byte; whatever goes wrong afterwards removes what was written.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor

from ..errors import Refused
from ..model.source import DictSource, Source, TensorInfo
from .content import at, say, short
from .safetensors import DTYPES

_FORMAT_NAMES = {dtype: name for name, dtype in DTYPES.items()}
CHUNK = 1 << 26  # bytes per write


def save_safetensors(
    tensors: Source | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Writes one safetensors file and returns its size in bytes; an existing file is replaced at the end.

    A Source is read one tensor at a time; an iterable of pairs is gathered, as the header comes first in the
    file. `metadata` is text to text, beside `format: pt`, which transformers asks for. Refused: a dtype that
    the format lacks, sparse or meta tensors, a name twice, too little free space, any error of the disk.
    """
    path = Path(path)
    source = tensors if isinstance(tensors, Source) else DictSource(_gathered(tensors, at(path)))
    # the widest elements first: no hole is allowed, and this keeps every tensor aligned
    order = sorted(source.tensors().values(), key=lambda info: -info.dtype.itemsize)
    header = _header(source.tensors().values(), order, {"format": "pt", **(metadata or {})}, at(path))
    size = len(header) + sum(info.nbytes for info in order)
    if path.is_dir():
        raise Refused(f"{at(path)} is a folder; give the name of a file to save to")
    with _partial(path) as part:
        _check_space(path, size)
        with part.open("xb") as file:
            _write(file, header)
            for info in order:
                _write_tensor(file, _checked(source.read(info.name), info, at(path)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    return size


@contextmanager
def writing_folder(path: str | os.PathLike[str], needed: int = 0) -> Iterator[Path]:
    """A new folder beside `path` to write into, renamed to `path` at the end and removed on any error.

    `needed` is the forecast in bytes, checked against the free space first. Refused: `path` is a file or a
    folder with something in it, before any work; an error of the disk, after the partial folder is gone.
    """
    path = Path(path)
    with _partial(path) as part:
        check_target(path, needed)
        part.mkdir()
        yield part
        for folder, _, names in os.walk(part):
            for name in names:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
        os.rename(part, path)  # replaces an empty folder, never one with something in it
        _sync_folder(path.parent)


def check_target(path: str | os.PathLike[str], needed: int = 0) -> None:
    """Refused where `writing_folder` would refuse before its work; for whoever has hours of work before that."""
    path = Path(path)
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise Refused(f"{at(path)} exists and is not an empty folder; give another name or remove it")
    _check_space(path, needed)


@contextmanager
def _partial(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, gone at the end whatever happens; an OSError becomes a Refused."""
    path = Path(os.path.abspath(path))  # "." and "x/.." have no name to put a dot before
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # hours of work must not be lost to a missing folder
        yield part
    except Refused:
        raise
    except OSError as error:
        raise Refused(
            f"{at(path)} was not written: {say(error)}; what was there is unchanged, free space or save "
            "elsewhere"
        ) from error
    finally:
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)


def _check_space(path: Path, needed: int) -> None:
    place = Path(os.path.abspath(path)).parent
    while not place.exists():  # folders are made when the writing begins
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed > free:
        raise Refused(
            f"{at(path)} needs {needed} bytes and {at(place)} has {free} free; free space or save elsewhere"
        )


def _gathered(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], where: str) -> dict[str, Tensor]:
    if isinstance(tensors, Mapping):
        return dict(cast("Mapping[str, Tensor]", tensors))
    found: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if name in found:
            raise Refused(f"{where} cannot hold {short(name)} twice; give every tensor its own name")
        found[name] = tensor
    return found


def _header(
    infos: Iterable[TensorInfo], order: list[TensorInfo], metadata: Mapping[str, str], where: str
) -> bytes:
    """Length and JSON, padded with spaces to 8 bytes; entries in the source's order, data in `order`."""
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise Refused(f"{where} cannot hold metadata that is not text; turn its values into str")
    begin, offsets = 0, {}
    for info in order:
        offsets[info.name] = [begin, begin := begin + info.nbytes]
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    for info in infos:
        entries[info.name] = {
            "dtype": _dtype_name(info, where),
            "shape": _stored_shape(info),
            "data_offsets": offsets[info.name],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _dtype_name(info: TensorInfo, where: str) -> str:
    if not info.name.isprintable() or info.name == "__metadata__":
        raise Refused(f"{where} cannot hold a tensor called {short(info.name)}; rename it")
    if info.dtype not in _FORMAT_NAMES:
        raise Refused(
            f"{where} cannot hold {short(info.name)}: safetensors has no {info.dtype}; convert it, known: "
            f"{', '.join(_FORMAT_NAMES.values())}"
        )
    return _FORMAT_NAMES[info.dtype]


def _stored_shape(info: TensorInfo) -> list[int]:
    """The format counts F4 values, torch the bytes that hold two of them."""
    shape = list(info.shape)
    return [*shape[:-1], shape[-1] * 2] if _FORMAT_NAMES[info.dtype] == "F4" else shape


def _checked(tensor: Tensor, info: TensorInfo, where: str) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise Refused(
            f"{where} cannot hold {short(info.name)}: it is not dense data in memory; make it dense first"
        )
    if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
        raise Refused(
            f"{where}: {short(info.name)} was announced as {info.dtype} {list(info.shape)} and came as "
            f"{tensor.dtype} {list(tensor.shape)}; report this, the source is at fault"
        )
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _write_tensor(file: BinaryIO, tensor: Tensor) -> None:
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    for begin in range(0, len(data), CHUNK):
        _write(file, data[begin : begin + CHUNK])


def _write(file: BinaryIO, data: bytes | memoryview) -> None:
    file.write(data)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk, on file systems that can; the file is whole all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
