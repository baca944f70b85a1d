"""JobView: progress, time left and Cancel of a Job. It only listens."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets as ipw

from ..jobs import Job, peak


class JobView(ipw.VBox):
    """Shows the job given to `watch`; hidden while there is none."""

    def __init__(self) -> None:
        self.bar = ipw.FloatProgress(value=0, min=0, max=1, layout={"width": "100%"})
        self.text = ipw.HTML()
        self.cancel = ipw.Button(description="Cancel", tooltip="stop after the layer that is being worked on")
        self.cancel.on_click(lambda _button: self._cancel())
        self.job: Job | None = None
        super().__init__([self.bar, ipw.HBox([self.text, self.cancel])])
        self.add_class("wb-job")
        self.cancel.add_class("wb-cancel")
        self.layout.display = "none"

    def watch(self, job: Job, ended: Callable[[Job], None]) -> None:
        """Show this job until it ends, then call `ended(job)` on the kernel's loop."""
        self.job, self._ended = job, ended
        self.layout.display = None
        self.cancel.disabled = False
        job.listen(self._changed)
        if job.ended:  # before anybody listened
            self._changed(job)

    def _cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()
            self.cancel.disabled = True
            self.text.value = "stopping after this layer"

    def _changed(self, job: Job) -> None:
        if job is not self.job:
            return
        self.bar.value = job.done / job.total if job.total else 0
        if not job.cancelling:
            left = job.seconds_left
            text = escape(job.text)
            said = [text, f"{left:.0f} s left"] if left is not None and left >= 1 else [text]
            self.text.value = " · ".join([*said, f"peak {peak() / 1e9:.1f} GB"])
        if job.state in ("done", "cancelled", "failed"):
            self.layout.display = "none"
            self.job = None
            self._ended(job)
