"""What a file is, told by its first bytes and never by its name alone, and the refusals that follow from it.

The order of the tests is the surprising part: a safetensors header of 640 bytes begins with the two bytes
of a pickle (0x80 0x02), and one of 123 bytes begins with the brace of JSON, so safetensors is recognised
first, by the brace that follows its 8-byte length.
"""

from __future__ import annotations

import json
import os
import reprlib
import stat
from pathlib import Path
from typing import Any, Literal

from ..errors import Refused
from . import torch_pickle

Kind = Literal["safetensors", "json", "pickle", "lfs", "other", "unknown"]

HEAD = 64  # bytes that tell every kind apart
MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors library, a thousand times a real header

# first bytes -> what it is and the way out, for files that people give instead of a checkpoint
_OTHERS = {
    b"GGUF": "is a GGUF file, which is not read yet; take the safetensors of the same model",
    b"\x93NUMPY": "is a numpy array, not a checkpoint; load it and save it with safetensors.numpy.save_file",
    b"\x89HDF": "is HDF5 (Keras), which is not read; save the weights as safetensors",
    b"<!doctype html": "is a web page, not a checkpoint; the download link asked for a login or moved",
    b"<html": "is a web page, not a checkpoint; the download link asked for a login or moved",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100  # characters
_LFS = b"version https://git-lfs"


def at(path: str | os.PathLike[str]) -> str:
    """The path for a message: cut where it is endless, quoted where it would break the line."""
    text = os.fspath(path)
    text = text if len(text) < 400 else f"{text[:100]}...{text[-200:]}"
    return text if text.isprintable() else ascii(text)


def short(value: object) -> str:
    """A value out of a file, quoted and cut: a lying header may name a megabyte or nest a thousand lists."""
    return _SHORT.repr(value)


def say(error: BaseException) -> str:
    """An exception's own words on one line."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(words.split())[:300] or type(error).__name__


def first_bytes(path: Path) -> tuple[bytes, int]:
    """The first HEAD bytes and the size in bytes. Refused where it is not a regular file that can be read."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise Refused(
                f"{at(path)} is not a regular file; give a .safetensors file, its index or its folder"
            )
        with path.open("rb") as file:
            return file.read(HEAD), status.st_size
    except OSError as error:
        raise Refused(
            f"{at(path)} cannot be read: {say(error)}; check the path and its permissions"
        ) from error


def kind(head: bytes, path: Path) -> Kind:
    """What the file with these first bytes is; the suffix decides only what no byte tells."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return "safetensors"
    if head.startswith(_LFS):
        return "lfs"
    if torch_pickle.is_pickle(head):
        return "pickle"
    if head.lower().startswith(tuple(magic.lower() for magic in _OTHERS)):
        return "other"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        return "json"
    return "pickle" if path.suffix.lower() in torch_pickle.SUFFIXES and head else "unknown"


def refusal(head: bytes, path: Path) -> Refused | None:
    """Why a file that is no checkpoint of ours is not opened; None where it may be one."""
    what = kind(head, path)
    if not head:
        return Refused(f"{at(path)} is empty (0 bytes); download or copy it again")
    if what == "lfs":
        return Refused(
            f"{at(path)} is a Git LFS pointer, not the weights; run git lfs pull in its repository"
        )
    if what == "pickle":
        return torch_pickle.refusal(at(path))
    if what == "other":
        words = next(words for magic, words in _OTHERS.items() if head.lower().startswith(magic.lower()))
        return Refused(f"{at(path)} {words}")
    return None


def parse_object(text: str, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in `text`, no name twice. A refusal names it by `what` and ends in `remedy`."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        known: dict[str, Any] = {}
        for name, value in pairs:
            if name in known:
                raise Refused(f"{what} says {short(name)} twice; {remedy}")
            known[name] = value
        return known

    try:
        found = json.loads(text, object_pairs_hook=no_duplicates)
    except Refused:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refused(f"{what} is not JSON: {error.msg} at {place}; {remedy}") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
        raise Refused(f"{what} is not readable JSON: {say(error)}; {remedy}") from None
    if not isinstance(found, dict):
        raise Refused(f"{what} is JSON but not an object; {remedy}")
    return found
