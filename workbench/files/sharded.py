"""Checkpoints in several safetensors files: an index (`*.safetensors.index.json`) or a folder without one.

The index maps tensor names to shard names. It comes from outside, so a shard name may not leave the index's
folder, and every promise it makes is checked against the headers of the shards before anything is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType

from torch import Tensor

from ..errors import Refused
from ..model.source import Source, TensorInfo
from .content import MAX_HEADER, at, first_bytes, parse_object, refusal, say, short
from .safetensors import SafetensorsFile

_PART = re.compile(r"(.*)-(\d{1,6})-of-(\d{1,6})\.safetensors")


class _Files(Source):
    """Tensor name -> the file that holds it. One map per file, opened at its first read."""

    def __init__(self, holders: Mapping[str, SafetensorsFile], origin: str):
        self._holders, self.origin = dict(holders), origin
        self._infos = {name: file.info(name) for name, file in self._holders.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files behind it, in order of first use."""
        return tuple(dict.fromkeys(file.path for file in self._holders.values()))

    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._infos)

    def read(self, name: str) -> Tensor:
        self.info(name)
        return self._holders[name].read(name)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        self.info(name)
        return self._holders[name].rows(name, start, stop)


class ShardedCheckpoint(_Files):
    """The shards that an index names, as one lazy source; tensors in the order of the index.

    Refused: an index that is not JSON or has no weight_map, a shard name that is not a plain file name,
    missing shards (all are named), a tensor that its shard does not hold. `unlisted` are tensors in the
    shards that the index does not name; they are not part of the source.
    """

    def __init__(self, index: str | os.PathLike[str]):
        self.path = Path(index)
        where = at(self.path)
        weight_map = _weight_map(self.path)
        shards = {shard: self.path.parent / shard for shard in dict.fromkeys(weight_map.values())}
        missing = [shard for shard, path in shards.items() if not path.exists()]
        if missing:
            raise Refused(
                f"{where} names {len(missing)} of {len(shards)} shards that are not beside it: "
                f"{', '.join(sorted(missing))}; download them into the same folder"
            )
        opened = {shard: SafetensorsFile(path) for shard, path in shards.items()}
        held = {shard: file.tensors() for shard, file in opened.items()}
        absent = [name for name, shard in weight_map.items() if name not in held[shard]]
        if absent:
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            raise Refused(
                f"{where} says that {short(absent[0])} is in {weight_map[absent[0]]}, which does not hold it"
                f"{more}; index and shards are of different versions, download both again"
            )
        super().__init__({name: opened[shard] for name, shard in weight_map.items()}, where)
        self.unlisted = tuple(
            name for shard, file in opened.items() for name in file if weight_map.get(name) != shard
        )

    def __reduce__(self) -> tuple[type[ShardedCheckpoint], tuple[Path]]:
        return type(self), (self.path,)


class SafetensorsFolder(_Files):
    """Every *.safetensors of a folder as one lazy source, file by file in order of name.

    Refused: a tensor that two files hold, a part of a numbered set (-00002-of-00003) that is missing.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(folder)
        paths = sorted(self.path.glob("*.safetensors"))
        if not paths:
            raise Refused(f"{at(self.path)} holds no *.safetensors; give a folder that does")
        _check_parts(self.path, [path.name for path in paths])
        holders: dict[str, SafetensorsFile] = {}
        for path in paths:
            file = SafetensorsFile(path)
            for name in file:
                if name in holders:
                    raise Refused(
                        f"{at(self.path)} holds {short(name)} twice, in {at(holders[name].path.name)} and "
                        f"{at(path.name)}; give one of the files, or add a *.safetensors.index.json"
                    )
                holders[name] = file
        super().__init__(holders, at(self.path))

    def __reduce__(self) -> tuple[type[SafetensorsFolder], tuple[Path]]:
        return type(self), (self.path,)


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor name -> shard name, every shard name plain and safe to print."""
    head, size = first_bytes(path)
    if (refused := refusal(head, path)) is not None:
        raise refused
    where = at(path)
    if size > MAX_HEADER:
        raise Refused(
            f"{where} has {size} bytes, too many for an index of shards; give *.safetensors.index.json"
        )
    remedy = "download the index again"
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise Refused(f"{where} cannot be read: {say(error)}; check the disk and the path") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{where} is not UTF-8 at byte {error.start}; {remedy}") from None
    found = parse_object(text, where, remedy).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise Refused(
            f"{where} is JSON without a weight_map, so no index of shards; give the folder or its index"
        )
    checked: set[str] = set()  # thousands of tensors, a few shards
    for name, shard in found.items():
        if not name.isprintable():
            raise Refused(f"{where} has a tensor name with control characters, {short(name)}; {remedy}")
        if not isinstance(shard, str) or (shard not in checked and not _is_plain(shard)):
            raise Refused(
                f"{where} puts {short(name)} into shard {short(shard)}, which is not a plain file name in "
                "its own folder; such an index is not followed, correct it or take another copy"
            )
        checked.add(shard)
    return found


def _is_plain(shard: str) -> bool:
    """One printable path part on every system: no folder, drive or stream, not the folder itself."""
    return (
        shard not in ("", ".", "..")
        and shard.isprintable()
        and len(shard) < 256
        and ":" not in shard
        and PurePosixPath(shard).name == shard
        and PureWindowsPath(shard).name == shard
    )


def _check_parts(folder: Path, names: list[str]) -> None:
    sets: dict[tuple[str, str], set[int]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            sets.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (stem, total), there in sets.items():
        lacking = sorted(set(range(1, int(total) + 1)) - there)
        # some writers count from 0
        if lacking and there != set(range(int(total))):
            words = ", ".join(f"{stem}-{part:0{len(total)}d}-of-{total}.safetensors" for part in lacking[:8])
            more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
            raise Refused(f"{at(folder)} lacks {at(words)}{more}; download the missing parts into it")
