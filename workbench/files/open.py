"""`open_source`: whatever a person points at, as one lazy source, or one line that says why not.

A file is told by its content. In a folder an index wins, then model.safetensors, then any *.safetensors.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Refused, near
from ..model.source import Source
from .content import at, first_bytes, kind, refusal, say
from .safetensors import SafetensorsFile
from .sharded import SafetensorsFolder, ShardedCheckpoint
from .torch_pickle import SUFFIXES

_INDEX = ".safetensors.index.json"


class NotThere(Refused, FileNotFoundError):
    """The path does not exist. Caught by whoever goes on to look for an embedded name or a hub id."""


def open_source(path: str | os.PathLike[str]) -> Source:
    """The weights at `path`, a safetensors file, an index or a folder with either; reads headers only.

    NotThere where nothing is there; Refused for pickles, Git LFS pointers, GGUF, lying or truncated files.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path)
        if not path.exists():
            raise NotThere(_not_there(path))
    except (ValueError, OSError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(
            f"{at(path)} cannot be opened: {say(error)}; check the path and its permissions"
        ) from error
    return _open_file(path)


def _open_file(path: Path) -> Source:
    head, _ = first_bytes(path)
    if (refused := refusal(head, path)) is not None:
        raise refused
    return ShardedCheckpoint(path) if kind(head, path) == "json" else SafetensorsFile(path)


def _open_folder(folder: Path) -> Source:
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    indexes = [name for name in names if name.endswith(_INDEX)]
    if f"model{_INDEX}" in indexes:
        return ShardedCheckpoint(folder / f"model{_INDEX}")
    if len(indexes) == 1:
        return ShardedCheckpoint(folder / indexes[0])
    if indexes:
        raise Refused(
            f"{at(folder)} holds {len(indexes)} indexes: {_listed(indexes)}; give one of these files"
        )
    if "model.safetensors" in names:
        return SafetensorsFile(folder / "model.safetensors")
    if any(name.endswith(".safetensors") for name in names):
        return SafetensorsFolder(folder)
    pickles = [name for name in names if name.lower().endswith(SUFFIXES)]
    if pickles:
        raise Refused(
            f"{at(folder)} holds only pickles ({_listed(pickles)}), which can run code when opened; "
            "convert each: "
            "state = torch.load(path, weights_only=True), then safetensors.torch.save_file(state, "
            '"model.safetensors")'
        )
    raise Refused(
        f"no weights in {at(folder)}: it needs model.safetensors or an index of shards, files found: "
        f"{_listed(names) or 'none'}; give the folder that holds the checkpoint"
    )


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(at(name) for name in names[:most]) + (
        f", and {len(names) - most} more" * (len(names) > most)
    )


def _not_there(path: Path) -> str:
    """Names the first part of the path that is missing, and what its folder holds instead."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    names = [name for name in sorted(os.listdir(missing.parent)) if name.isprintable() and name[0] != "."]
    part = "" if missing == path else f", there is no {at(missing)}"
    return f"{at(path)} does not exist{part}{near(missing.name, names) or '; its folder is empty'}"
