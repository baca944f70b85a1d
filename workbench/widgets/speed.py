"""SpeedView: the kernels for a layer's shape, what was measured or compiled of them, and the way to the kernel lab."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as ipw

from ..inspect.kernel_lab import KernelLab
from ..jobs import Job
from ..speed import to_records
from ..speed.apart import measure_apart
from .job_view import JobView
from .numbers import number


class SpeedView(ipw.VBox):
    """The product C[M, N] = A[M, K] B[K, N] of a layer's shape by the kernels that are there; Measure runs them in
    another process. `drawer` is where the kernel lab opens: put it where there is room for it."""

    def __init__(self, shape: tuple[int, int, int] = (16, 1024, 1024)):
        self.shape = shape
        self.run = ipw.Button(description="Measure", tooltip="compile, check against float64, time")
        self.open_lab = ipw.Button(
            description="Kernel lab", tooltip="edit a kernel, see its machine code, run it"
        )
        self.note = ipw.HTML()
        self.result = ipw.HTML()
        self.job = JobView()
        self.drawer = ipw.VBox()
        self.drawer.layout.display = "none"
        self.run.on_click(lambda _button: self._start())
        self.open_lab.on_click(lambda _button: self._toggle())
        self.bar = ipw.HBox([self.run, self.open_lab, self.note])
        super().__init__([self.bar, self.result])
        self.add_class("wb-speed")
        self.look(shape)

    def look(self, shape: tuple[int, int, int]) -> None:
        """Another shape M x N x K; what was measured of the last one is taken down."""
        self.shape = shape
        self.note.value = "fp32, {} x {} x {} (batch x out x in)".format(*shape)
        self.result.value = ""

    def _start(self) -> None:
        if self.job.job is not None:
            return
        self.run.disabled = True
        self.children = [
            self.bar,
            self.job,
            self.result,
        ]  # a bench has another job; only what runs is on the page
        shape = self.shape
        job = Job(lambda job: measure_apart(shape, "*", 5, budget_s=6.0, progress=job.step), "measure")
        self.job.watch(job.start(), lambda job: self._ended(job, shape))

    def _ended(self, job: Job, shape: tuple[int, int, int]) -> None:
        self.run.disabled = False
        self.children = [self.bar, self.result]
        if job.state == "done" and shape == self.shape:
            self._show(job.result)
        elif job.state == "failed":
            self.note.value = f"<span class='wb-error' role='alert'>{escape(str(job.error))}</span>"

    def _show(self, frame: Any) -> None:
        head = "".join(
            f"<th{side}>{name}</th>"
            for name, side in zip(_HEADS, ["", *[_RIGHT] * (len(_HEADS) - 1)], strict=True)
        )
        rows = "".join(map(_row, to_records(frame)))
        self.result.value = f"<table class='wb-speed-table'><tr>{head}</tr>{rows}</table>"

    def _toggle(self) -> None:
        """Open the kernel lab at the layer's shape, or close it."""
        if self.drawer.children:
            for child in self.drawer.children:
                child.close()
            self.drawer.children, self.drawer.layout.display = [], "none"
            return
        from .kernel_lab import KernelLabView  # only who opens it waits for it

        self.drawer.children = [KernelLabView(KernelLab(shape=self.shape))]
        self.drawer.layout.display = None


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
