"""The tab of two networks, driven as a person would, without a page."""

from __future__ import annotations

import json
import threading
import time

import pytest

import workbench as wb
from workbench.widgets import Bench


@pytest.fixture(scope="module")
def images():
    return wb.evaluation(wb.load("tiny-mlp")).first(100)


@pytest.fixture
def bench(images):
    return opened(images)


@pytest.fixture(scope="module")
def compared(images):
    """With two others beside it."""
    bench = opened(images)
    bench.results.networks.others.value = "tiny-mlp-b\ntiny-mlp-c"
    pressed(bench.results.networks)
    return bench


def opened(images) -> Bench:
    bench = Bench(wb.load("tiny-mlp"), images)
    bench.results.tabs.value = "two networks"
    return bench


def pressed(view, seconds=120) -> None:
    """Press align and wait for the end: without a loop the jobs' own threads show it, one after the other."""
    view.run.click()
    while found := [t for t in threading.enumerate() if t.name in ("workbench-networks", "workbench-merge")]:
        found[0].join(seconds)
    assert view.job.job is None
    assert not view.run.disabled


def test_before_anything_is_compared_it_says_what_to_type_and_reads_no_weight(bench, monkeypatch):
    view = bench.results.networks
    assert view.children[-1] is view.about
    for words in ("barrier", "another training of tiny-mlp", "MB of memory"):
        assert words in view.about.value
    assert [button.description for button in view.near.children] == ["+ tiny-mlp-b", "+ tiny-mlp-c"]
    assert bench.session.networks is None
    assert view.line.spec == "{}"


def test_suggestions_fill_the_field_each_once(bench):
    view = bench.results.networks
    first, second = view.near.children
    for button in (second, first, second):
        button.click()
    assert view.others.value == "tiny-mlp-c, tiny-mlp-b"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("", "no other network is named"),
        ("tiny-vit", "different architectures"),
        ("tiny-mlp-d", "tiny-mlp-b"),
        ("/nowhere/at/all", "there is no file"),
    ],
)
def test_what_cannot_be_compared_is_said_and_the_view_goes_on(bench, other, why):
    view = bench.results.networks
    view.others.value = other
    pressed(view)
    assert why in view.said.value
    assert "role='alert'" in view.said.value
    assert view.children[-1] is view.about


def test_the_barrier_is_said_in_words_and_drawn(compared):
    view, pair = compared.results.networks, compared.session.networks.pair
    assert view.said.value == "<span></span>"
    assert f"{pair.barriers['naive']:.3g} → {pair.barriers['matched']:.3g} nats" in view.words.value
    assert f"{100 * pair.middle_accuracy['matched']:.1f} % right" in view.words.value
    assert "From tiny-mlp to tiny-mlp-b" in view.line.spec
    assert [row[0] for row in view.table.rows] == list(pair.table["name"])
    row = pair.table.iloc[1]
    assert view.table.rows[1][1] == f"{row['distance_before']:.4g}"
    assert view.table.rows[1][3] == f"{100 * row['reduction']:.1f} %"
    assert (
        len(view.table.heads) == sum(group["span"] for group in view.table.groups) == len(view.table.rows[0])
    )


def test_several_are_merged_after_the_line(compared):
    view, merged = compared.results.networks, compared.session.networks.merged
    assert view.others.value == "tiny-mlp-b, tiny-mlp-c", "lines become one line"
    assert view.children[-1] is view.several
    assert "mean of 3 networks" in view.mean_words.value
    assert f"{100 * merged.table['accuracy'].iloc[-1]:.1f} % right" in view.mean_words.value
    assert "Mean of 3 networks" in view.mean.spec
    assert view.mean_table.value.count("<tr>") == 6
    assert "wb.MergedNetworks([model, *others]" in compared.header.code


def test_a_row_and_the_map_choose_the_layer_that_is_shown(compared):
    view = compared.results.networks
    view.table._handle_custom_msg({"type": "pick", "data": "layers.0"}, [])
    assert compared.session.layer.name == compared.map.selected == view.table.selected == "layers.0"
    assert "Difference of layers.0" in view.difference.label
    assert "singular directions of layers.0" in view.directions.label
    compared.map.selected = "layers.1"
    assert view.table.selected == "layers.1"
    assert "Difference of layers.1" in view.difference.label


def test_nothing_is_drawn_while_another_tab_is_open(compared):
    view = compared.results.networks
    compared.map.selected = "layers.1"
    compared.results.tabs.value = "tried"
    compared.map.selected = "layers.2"
    assert "layers.1" in view.difference.label
    compared.results.tabs.value = "two networks"
    assert "layers.2" in view.difference.label


def test_all_pictures_follow_the_theme(compared):
    view = compared.results.networks
    plots = (view.line, view.difference, view.directions, view.mean)
    inks = []
    for dark in (True, False):
        compared.header.dark = dark
        inks.append([json.loads(plot.spec)["layout"]["font"]["color"] for plot in plots])
    dark, light = inks
    assert len(set(dark)) == len(set(light)) == 1
    assert dark != light


def test_a_failure_leaves_what_was_shown(compared):
    view = compared.results.networks
    before = view.words.value
    view.others.value = "tiny-resnet"
    pressed(view)
    assert "different architectures" in view.said.value
    assert view.words.value == before
    assert view.pair in view.children


def test_a_cancel_is_said_and_the_next_press_goes_on(bench, monkeypatch):
    view = bench.results.networks
    view.others.value = "tiny-mlp-b"
    whole = wb.TwoNetworks.measure

    def stopped(pair, job):
        while view.job.job is not job:  # the work is quicker than the view that shows its Cancel
            time.sleep(0.01)
        view.job.cancel.click()
        return whole(pair, job)

    with monkeypatch.context() as patch:
        patch.setattr(wb.TwoNetworks, "measure", stopped)
        pressed(view)
    assert "cancelled" in view.said.value
    assert view.children[-1] is view.about
    pressed(view)
    assert view.said.value == "<span></span>"
    assert view.pair in view.children


def test_a_network_of_another_family_is_told_so_before_anything_is_typed(images):
    from torch import nn

    strange = wb.load(nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.PReLU()), task="classification")
    bench = Bench(strange, images)
    bench.results.tabs.value = "two networks"
    view = bench.results.networks
    assert "cannot be compared" in view.about.value
    assert "permutations are known for" in view.about.value
    assert view.near.children == ()
