"""The view of a model's spectra: what it measures, shows, and says of another variant."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Session, Spectra
from workbench.jobs import Cancelled, Job
from workbench.widgets.spectra import SpectraView


@pytest.mark.parametrize("selector", ["role:q", "nothing.like.this"])
def test_a_job_that_ends_before_the_first_layer_leaves_a_view_that_can_go_on(selector):
    session = Session(wb.load("tiny-llama"))
    found = session.spectra = Spectra(session.model, selector, begin=False)
    view = SpectraView(session, lambda *_: None)
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


@pytest.fixture
def measured():
    """A view whose FARMS columns are known, of the unchanged model; and what the bench has heard from it."""
    session, heard = Session(wb.load("tiny-mlp")), []
    view = SpectraView(session, lambda action, value: heard.append((action, value)))
    view.more["farms"].value = True
    job = session.measure_spectra(extra=[name for name, button in view.more.items() if button.value])
    job.wait()
    view._measured(job)
    return session, view, heard


def test_the_whole_table_is_there_and_a_row_puts_its_layer_on_the_bench(measured):
    session, view, heard = measured
    heads = [head["text"] for head in view.table.heads]
    assert {"name", "alpha", "D", "stable_rank", "alpha_farms"} <= set(heads)
    assert all(head["title"] for head in view.table.heads)
    assert [row[0] for row in view.table.rows] == [
        layer.name for layer in session.model.layers if layer.role != "embed"
    ]
    place, table = heads.index("alpha"), session.spectra.table
    shown = [f"{value:.4g}" if value == value else "–" for value in table["alpha"]]
    assert [row[place] for row in view.table.rows] == shown
    view.table._handle_custom_msg({"type": "pick", "data": view.table.rows[1][0]}, [])
    assert heard[-1] == ("look", view.table.rows[1][0])
    session.layer = view.table.rows[1][0]
    view.look()
    assert view.table.selected == view.table.rows[1][0]


def test_columns_that_were_asked_for_can_be_pictured(measured):
    _session, view, _heard = measured
    assert "alpha_farms" in view.metric.options
    assert "num_spikes" not in view.metric.options
    view.metric.value = "alpha_farms"
    assert "FARMS" in view.plot.spec or "alpha_farms" in view.plot.spec


def test_spectra_of_another_variant_are_said_to_be_so(measured):
    session, view, _heard = measured
    assert "measure again" not in view.said.value
    assert "wb.Spectra(model, extra=('farms',))" in session.code()
    session.history.add(wb.apply(session.model, wb.Recipe([wb.RTN(bits=4)])))
    view.changed()
    assert "measured of the unchanged model" in view.said.value
    assert "wb.Spectra" not in session.code()


def test_layers_that_all_fail_are_told_with_their_reason():
    with torch.no_grad():
        network = torch.nn.Sequential(torch.nn.Linear(60, 60), torch.nn.Linear(60, 60))
        for layer in network:
            layer.weight.fill_(float("nan"))
    session, heard = Session(wb.load(network, task="classification")), []
    view = SpectraView(session, lambda action, value: heard.append(action))
    job = session.measure_spectra()
    job.wait()
    view._measured(job)
    assert "NaN" in view.plot.spec
    assert len(view.table.rows) == 2
    assert heard == ["code"]
