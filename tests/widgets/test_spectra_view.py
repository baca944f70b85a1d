"""The view of a model's spectra where nothing was measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Spectra
from workbench.jobs import Cancelled, Job
from workbench.widgets.spectra import SpectraView


@pytest.mark.parametrize("selector", ["role:q", "nothing.like.this"])
def test_a_job_that_ends_before_the_first_layer_leaves_a_view_that_can_go_on(selector):
    found = Spectra(wb.load("tiny-llama"), selector, begin=False)
    view = SpectraView(SimpleNamespace(spectra=found), lambda *_: None)  # type: ignore[arg-type]
    job = Job(found.measure, "spectra")
    if selector == "role:q":
        job.cancel()
    view.measure.disabled = True
    with pytest.raises((Cancelled, Refused)):
        job.run()
    assert not found.rows
    view._measured(job)
    assert not view.measure.disabled
    assert "Press measure" in view.plot.spec
    assert view.choosing.layout.display == "none"
    assert ("nothing.like.this" in view.said.value) == isinstance(job.error, Refused)
