"""The small views: job, model map, header."""

from __future__ import annotations

import threading

import pytest
from torch import nn

import workbench as wb
from workbench.jobs import Job
from workbench.widgets import JobView, ModelMap
from workbench.widgets.header import Header
from workbench.widgets.model_map import layout


def test_the_job_view_follows_a_job_and_hides_at_its_end():
    view, go_on, ended = JobView(), threading.Event(), []

    def work(job):
        job.step(1, 4, "layer one")
        go_on.wait(10)
        return "made"

    job = Job(work).start()
    assert view.layout.display == "none"
    view.watch(job, ended.append)
    assert view.layout.display is None
    view._changed(job)
    assert view.bar.value == pytest.approx(0.25)
    assert "layer one" in view.text.value
    go_on.set()
    job.wait(10)
    wait_until(lambda: ended)
    assert ended == [job]
    assert view.layout.display == "none"


def test_cancel_asks_the_job_to_stop():
    view, ended, begun = JobView(), [], threading.Event()

    def work(job):
        while True:
            begun.set()
            job.step(0, 10)

    job = Job(work).start()
    view.watch(job, ended.append)
    begun.wait(10)
    view.cancel.click()
    wait_until(lambda: ended)
    assert job.state == "cancelled"
    assert view.cancel.disabled
    view.cancel.click()  # nothing is running: nothing happens


def test_a_job_that_ended_before_anyone_looked_is_seen_to_have_ended():
    view, ended, job = JobView(), [], Job(lambda job: "quick")
    job.start().wait(10)
    view.watch(job, ended.append)
    assert ended == [job]
    assert view.layout.display == "none"


def test_a_transformer_is_a_grid_of_blocks_and_roles(llama):
    cells, columns = layout(llama)
    assert columns == ["q", "k", "v", "o", "g", "u", "d"]
    assert [cell["name"] for cell in cells] == [layer.name for layer in llama.layers]
    places = [(cell["row"], cell["column"]) for cell in cells if cell["row"] >= 0]
    assert sorted(places) == [(row, column) for row in range(2) for column in range(7)]
    assert [cell["label"] for cell in cells if cell["row"] < 0] == ["embed"]
    down = next(cell for cell in cells if cell["name"] == "model.layers.1.mlp.down_proj")
    assert (down["row"], down["column"], down["size"]) == (1, 6, 64 * 176)


def test_a_network_without_such_blocks_is_a_list_of_bars():
    network = wb.load(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)))
    cells, columns = layout(network)
    assert columns == []
    assert [cell["row"] for cell in cells] == [0, 1, 2]
    assert not ModelMap(network, cells[0]["name"]).grid


def test_the_tiny_resnet_is_drawn_with_every_layer():
    network = wb.load("tiny-resnet")
    cells, _ = layout(network)
    assert [cell["name"] for cell in cells] == [layer.name for layer in network.layers]
    assert len({(cell["row"], cell["column"]) for cell in cells if cell["row"] >= 0}) == len(
        [cell for cell in cells if cell["row"] >= 0]
    )


def test_the_header_hands_clicks_on():
    heard = []
    header = Header(lambda action, value: heard.append((action, value)))
    header._handle_custom_msg({"type": "go", "value": 2}, [])
    header._handle_custom_msg({"type": "undo"}, [])
    assert heard == [("go", 2), ("undo", None)]


def wait_until(condition, seconds=10.0):
    stop = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        stop.wait(0.005)
    raise AssertionError(f"not so after {seconds} s")
