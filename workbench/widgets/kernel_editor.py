"""KernelEditor: a source and its machine code side by side. It shows what it is given and tells what was typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..figures.speed import kind_colors
from ..speed.build import Build
from ..speed.sass import KINDS

EMPTY = {
    "compiling": "compiling ...",
    "error": "no machine code: the source does not compile",
}


class KernelEditor(anywidget.AnyWidget):
    """`source` is what stands in the editor, `compiled` the source that everything else shown is of. `reset()` hears
    the button "Reset to shipped source"."""

    _esm = Path(__file__).with_name("kernel_editor.js")
    _css = Path(__file__).with_name("kernel_editor.css")
    name = traitlets.Unicode("").tag(sync=True)
    idea = traitlets.Unicode("").tag(sync=True)
    source = traitlets.Unicode("").tag(sync=True)
    compiled = traitlets.Unicode("").tag(sync=True)
    edited = traitlets.Bool(False).tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    messages = traitlets.List([]).tag(sync=True)  # {line, column, severity, text}
    sass = traitlets.List([]).tag(sync=True)  # [address, text, line, kind, wrapper, live]
    empty = traitlets.Unicode("").tag(sync=True)  # what stands in the place of machine code
    colors = traitlets.Dict(kind_colors(KINDS)).tag(sync=True)
    status = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode("").tag(sync=True)  # "compiling", "ok", "error" or "none"
    dark = traitlets.Bool(False).tag(sync=True)  # told by the browser

    def __init__(self, reset: Callable[[], None], **keywords: Any):
        super().__init__(**keywords)
        self._reset = reset
        self.on_msg(self._heard)

    def _heard(self, _widget: Any, content: dict, _buffers: Any) -> None:
        if content.get("type") == "reset":
            self._reset()

    def look(self, line: int) -> None:
        """Bring a line into view, with the machine code that it became."""
        self.send({"type": "look", "line": line})

    def work(self) -> None:
        """Say that the source is being compiled; what is shown stays, in grey."""
        with self.hold_sync():
            self.state, self.status = "compiling", "compiling ..."
            if not self.sass:
                self.empty = EMPTY["compiling"]

    def show(self, built: Build) -> None:
        """What compiling `built.source` has said, in one message."""
        with self.hold_sync():
            self.compiled = built.source
            self.messages = [vars(message) for message in built.messages]
            self.state = "error" if built.error else "ok" if built.compiled else "none"
            self.empty = EMPTY["error"] if built.error else built.note
            self.sass = [
                [one.address, one.text, one.line, one.kind, one.wrapper, one.live]
                for one in (built.listing.instructions if built.listing else ())
            ]
            self.status = _status(built)


def _status(built: Build) -> str:
    if built.error:
        wrong = sum(message.severity == "error" for message in built.messages)
        placed = any(message.line for message in built.messages)
        return f"{wrong} error{'' if wrong == 1 else 's'} for {built.arch}" if placed else built.error
    if built.compiled is None:
        return built.note
    done = f"compiled for {built.arch} by {built.compiled.compiler} in {built.compiled.compile_ms:.0f} ms"
    if built.listing:
        done += f", {len(built.listing.instructions)} instructions"
    note = built.note.partition("\n")[0].rstrip(":")  # what follows is a header to copy
    return "; ".join(filter(None, [done, note]))
