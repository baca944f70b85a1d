"""Arguments and options that several verbs share. Their names are a contract with other people's scripts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..errors import Refused

MODEL = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="an embedded name, a directory, a .safetensors file or index, or a hub id",
        show_default=False,
    ),
]
RECIPE = Annotated[Path | None, typer.Option(metavar="R.yaml", help="the recipe to apply")]
THE_RECIPE = Annotated[
    Path, typer.Option("--recipe", metavar="R.yaml", help="the recipe to apply", show_default=False)
]
CALIBRATION = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="text for the statistics that methods need; default: the embedded one"),
]
KEEP = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="save each finished layer here; the same call after a kill goes on from there"
    ),
]
PREFIX = Annotated[
    str,
    typer.Option(
        help="what blocks are calibrated on: outputs of the compressed blocks before them, or the original"
    ),
]
LAYERS = Annotated[
    str, typer.Option(metavar="GLOB", help="which: a glob, a role (role:down), or several with commas")
]
TEXT = Annotated[
    Path | None, typer.Option(metavar="FILE", help="to measure on; default: the embedded held-out text")
]
JSON = Annotated[bool, typer.Option("--json", help="one JSON document on stdout, nothing else")]


def writable(path: Path, what: str) -> None:
    """Refused where `what` cannot be written to this file: minutes of work should not end in that."""
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder; name a file in it")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise Refused(f"{what} cannot be written: {error.strerror}") from None
