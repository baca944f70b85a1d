"""SpeedView: the kernels of the speed room for one shape, their source, and what was measured or compiled."""

from __future__ import annotations

from html import escape

import ipywidgets as ipw

from .. import speed
from ..errors import Refused
from ..jobs import Latest
from .numbers import number


class SpeedView(ipw.VBox):
    """The product C[M, N] = A[M, K] B[K, N] of a layer's shape by the kernels that are there; Measure runs them."""

    def __init__(self, shape: tuple[int, int, int] = (16, 1024, 1024)):
        self.shape = shape
        self.sources = {name: kernel.source for name, kernel in speed.kernels().items()}
        self.ideas = {name: kernel.idea for name, kernel in speed.kernels().items()}
        self.run = ipw.Button(description="Measure", tooltip="compile, check against float64, time")
        self.choice = ipw.Dropdown(
            options=list(self.sources), description="source", layout={"width": "220px"}
        )
        self.note = ipw.HTML()
        self.result = ipw.HTML()
        self.source = ipw.HTML()
        self._work = Latest(self._measure, self._show, self._failed, "speed")
        self.run.on_click(lambda _button: self._start())
        self.choice.observe(lambda _change: self._show_source(), "value")
        super().__init__([ipw.HBox([self.run, self.choice, self.note]), self.result, self.source])
        self.add_class("wb-speed")
        self.look(shape)
        self._show_source()

    def look(self, shape: tuple[int, int, int]) -> None:
        """Another shape M x N x K; what was measured of the last one is taken down."""
        self.shape = shape
        self.note.value = "fp32, {} x {} x {} (batch x out x in)".format(*shape)
        self.result.value = ""

    def _start(self) -> None:
        self.run.disabled = True
        self.note.value = "compiling and measuring ..."
        self._work.request(self.shape)

    def _measure(self, shape: tuple[int, int, int]):
        return shape, speed.measure(shape, rounds=5, budget_s=6.0)

    def _show(self, answer) -> None:
        shape, frame = answer
        self.run.disabled = False
        if shape != self.shape:
            return
        self.look(shape)
        head = "".join(
            f"<th{side}>{name}</th>"
            for name, side in zip(_HEADS, ["", *[_RIGHT] * (len(_HEADS) - 1)], strict=True)
        )
        rows = "".join(map(_row, speed.to_records(frame)))
        self.result.value = f"<table class='wb-speed-table'><tr>{head}</tr>{rows}</table>"

    def _failed(self, error: Exception) -> None:
        self.run.disabled = False
        self.note.value = f"<span class='wb-error' role='alert'>{escape(str(error))}</span>"
        if not isinstance(error, Refused):
            raise error

    def _show_source(self) -> None:
        name = self.choice.value
        if name:
            self.source.value = f"<pre title='{escape(self.ideas[name])}'>{escape(self.sources[name])}</pre>"


_HEADS = ("kernel", "time", "× baseline", "registers", "shared", "spills")
_RIGHT = " class='wb-right-aligned'"


def _row(record: dict) -> str:
    """One kernel: its numbers, and below them where they come from."""
    figures = (
        _time(record["seconds"]),
        number(record["ratio"]),
        _whole(record["registers"]),
        _whole(record["shared_bytes"], " B"),
        _whole(record["spills"], " B"),
    )
    cells = "".join(f"<td{_RIGHT}>{figure}</td>" for figure in figures)
    where = " · ".join(filter(None, (str(record["device"] or ""), str(record["note"] or ""))))
    return (
        f"<tr><td><b>{escape(str(record['kernel']))}</b></td>{cells}</tr>"
        f"<tr><td class='wb-note' colspan='{len(_HEADS)}'>{escape(where)}</td></tr>"
    )


def _whole(value: int | None, unit: str = "") -> str:
    return "–" if value is None else f"{value}{unit}"


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{number(1e3 * seconds)} ms"
