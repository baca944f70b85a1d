"""How a KernelLab is opened, and the Python that opens it again."""

from __future__ import annotations

import os
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Refused
from ..speed import Kernel, kernels
from ..speed.kernel import Draft, is_source, opened
from ..speed.manifest import has_header

if TYPE_CHECKING:
    from .kernel_lab import KernelLab


def given(kernel: object) -> Kernel | Draft | None:
    """The kernel that was given; None where it is the name of a shipped one. Refused: it is nothing of that."""
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, str) and not (
        is_source(kernel) or kernel.endswith(".cu") or "/" in kernel or os.sep in kernel
    ):
        return None
    if isinstance(kernel, str | Path):
        return opened(kernel)
    raise Refused(
        f"KernelLab takes a kernel's name, the path of a .cu file, a source or a Kernel; not a {type(kernel).__name__}"
    )


def code(lab: KernelLab, path: str | None, own: str | None) -> str:
    """The Python that makes a lab again, edits included. own: the source that it was opened with, if that is not a
    shipped kernel's; path: the file where it lies."""
    shape, known = "x".join(map(str, lab.shape)), kernels().get(lab.name)
    named, before, lines = repr(lab.name), known.source if known else "", ["import workbench as wb"]
    if path is not None and own is not None:
        named, before = repr(path), own
    elif known is None:  # a source that lies nowhere
        text = "\n".join(f"    {line!r}" for line in lab.source.splitlines(keepends=True))
        lines.append(f"source = (\n{text}\n)")
        named, before = "source", lab.source
    lines.append(f"lab = wb.KernelLab({named}, {shape!r}, {lab.arch!r})")
    if before != lab.source:
        lines.append(f"lab.edit({', '.join(map(repr, _changes(before, lab.source)))})")
    runs = ", lab.fuzz()" if has_header(lab.source) else ""
    return "\n".join([*lines, f"lab.build().resources{runs}"])


def _changes(before: str, after: str) -> list[tuple]:
    """What `KernelLab.edit` takes to get from one text to the other."""
    old, new = before.split("\n"), after.split("\n")
    found = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(i + 1, j, *new[k:m]) for tag, i, j, k, m in found if tag != "equal"]
