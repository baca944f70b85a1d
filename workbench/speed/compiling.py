"""What both compilers, of CUDA and of C++, share: how they complain, and where their results are kept."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import Refused


class NoCompiler(Refused):
    """There is no compiler for it on this machine. The message says how to get one."""


@dataclass(frozen=True)
class Message:
    """One line of the compiler's complaint. `line` and `column` count from 1 in the source that was given;
    None where the compiler names no place in it."""

    line: int | None
    column: int | None
    severity: str
    text: str


class CompileError(Refused):
    """The source does not compile. `messages` holds errors and warnings in the compiler's order, `log` its
    words."""

    def __init__(self, text: str, messages: tuple[Message, ...] = (), log: str = ""):
        super().__init__(text)
        self.messages, self.log = messages, log


def cache_folder(kind: str) -> Path:
    """Where what was compiled is kept ("cxx", "nvrtc"), made if needed: $WORKBENCH_CACHE, else the user's cache folder;
    a folder of this user's in the temporary one where neither can be written."""
    if named := os.environ.get("WORKBENCH_CACHE"):
        home = Path(named).expanduser()
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches" / "workbench"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workbench"
    folder = home / kind
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary(kind)


@functools.cache
def _temporary(kind: str) -> Path:
    # made anew for each process: a folder of a fixed name there might be somebody else's
    return Path(tempfile.mkdtemp(prefix=f"workbench-{kind}-"))
