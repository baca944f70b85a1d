"""TwoNetworks and MergedNetworks on the embedded siblings: the barrier falls, the tables and pictures agree with it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import MergedNetworks, TwoNetworks
from workbench.inspect.alignment import NETWORK_COLUMNS, memory, pooled
from workbench.inspect.merging import distinct
from workbench.jobs import Cancelled, Job


@pytest.fixture(scope="module")
def networks():
    return [wb.load(name) for name in ("tiny-mlp", "tiny-mlp-b", "tiny-mlp-c")]


@pytest.fixture(scope="module")
def images(networks):
    return wb.evaluation(networks[0]).first(500)


@pytest.fixture(scope="module")
def pair(networks, images):
    return TwoNetworks(networks[0], networks[1], data=images, points=5, orders=1).compute()


def test_two_seeds_have_a_barrier_and_matching_takes_nearly_all_of_it(pair):
    """Measured: 1.58 nats before, 0.08 after, on 500 images; the middle is right on 36 % and 89 % of them."""
    assert pair.barriers["naive"] > 1.2
    assert pair.barriers["matched"] < 0.15
    middle = {name: frame["accuracy"][2] for name, frame in pair.lines.items()}
    assert middle["naive"] < 0.6
    assert middle["matched"] > 0.87
    ends = pair.lines["naive"]["accuracy"][[0, 4]].to_numpy()
    np.testing.assert_array_equal(ends, pair.lines["matched"]["accuracy"][[0, 4]])


def test_the_matched_network_answers_as_the_second_and_the_middle_as_the_line(pair, networks, images):
    x = images.inputs[:50]
    torch.testing.assert_close(
        pair.matched.runner.logits(x), networks[1].runner.logits(x), rtol=1e-3, atol=1e-3
    )
    accuracy = wb.Quality(pair.middle, images).measure()["accuracy"]
    assert accuracy == pytest.approx(pair.lines["matched"]["accuracy"][2])


def test_leading_directions_align_more_than_all_and_more_than_distance_falls(pair):
    """Ito et al.: matching turns the leading singular vectors; the distance falls only moderately."""
    table = pair.table.set_index("name")
    assert list(pair.table.columns) == list(NETWORK_COLUMNS)
    for name in ("layers.0", "layers.1", "layers.2"):
        row = table.loc[name]
        assert row["leading_after"] > 0.4 > 0.1 > row["leading_before"]
        assert row["leading_after"] > 3 * row["r_after"]
        assert 0.2 < row["reduction"] < 0.6
    scores = pair.directions().table
    assert scores["after"].iloc[-1] > scores["after"].iloc[0]
    assert scores["before"].abs().max() < 0.1


def test_the_table_holds_the_distances_of_the_weights(pair, networks):
    a, b = (each.weight("layers.1").numpy() for each in networks[:2])
    row = pair.table.set_index("name").loc["layers.1"]
    assert row["distance_before"] == pytest.approx(np.linalg.norm(a - b), rel=1e-5)
    after = np.linalg.norm(a - pair.matched.weight("layers.1").numpy())
    assert row["distance_after"] == pytest.approx(after, rel=1e-5)
    layer = pair.layer("layers.1")
    assert np.sqrt((layer.table["after"] ** 2).sum()) == pytest.approx(after, rel=1e-5)


def test_units_are_more_like_their_partners(pair):
    units = pair.units("layers.0 units")
    assert sorted(units.table["partner"]) == list(range(512))
    assert units.table["cosine_after"].mean() > 0.4 > 0.1 > units.table["cosine_before"].mean()
    a, b = pair.aligned.a["layers.0.weight"], pair.aligned.b["layers.0.weight"]
    bias = [t["layers.0.bias"] for t in (pair.aligned.a, pair.aligned.b)]
    out = [t["layers.1.weight"] for t in (pair.aligned.a, pair.aligned.b)]
    one, two = (np.r_[w[3], c[3], o[:, 3]] for w, c, o in zip((a, b), bias, out, strict=True))
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    assert units.table["cosine_before"][3] == pytest.approx(cosine)


def test_three_seeds_merge_into_one_network(networks, images):
    """Measured: the plain mean is right on 10 %, the mean after matching on 89 to 90 %."""
    merged = MergedNetworks(networks, data=images, rounds=2)
    table = merged.table.set_index("network")
    assert list(table.index) == ["tiny-mlp", "tiny-mlp-b", "tiny-mlp-c", "plain mean", "merged"]
    assert table.loc["plain mean", "accuracy"] < 0.5
    assert table.loc["merged", "accuracy"] > 0.87
    assert table.loc["merged", "loss"] < 0.6 < 1.5 < table.loc["plain mean", "loss"]
    assert merged.spread[-1] < 0.5 * merged.spread[0]
    assert len(merged.figure().data) == 2
    assert merged.merged.layer("head").shape == (10, 512)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_have_titles_units_and_captions(pair, theme):
    figures = [
        pair.figure(theme),
        pair.layer("layers.0").figure(theme),
        pair.units("layers.1 units").figure(theme),
        pair.directions("layers.1").figure(theme),
        pair.directions().figure(theme),
    ]
    for figure in figures:
        layout = json.loads(figure.to_json())["layout"]
        assert layout["title"]["text"].startswith("<b>")
        assert layout["meta"]["caption"].endswith(".")
        assert layout["xaxis"]["title"]["text"]
        assert layout["yaxis"]["title"]["text"]
        assert len(figure.to_json()) < 500_000


def test_a_cell_shows_the_barrier(pair):
    assert pair._repr_mimebundle_()


def test_a_matrix_is_pooled_to_cells_that_keep_its_energy():
    w = np.random.default_rng(0).standard_normal((300, 40))
    cells = pooled(w)
    assert cells.shape == (128, 40)
    heights = np.diff(np.linspace(0, 300, 129).astype(int))
    assert np.sum(heights[:, None] * cells**2) == pytest.approx(np.sum(w**2))
    np.testing.assert_allclose(pooled(w[:50]), np.abs(w[:50]))


def test_progress_is_told_and_a_cancel_keeps_the_matching(networks, images):
    class Watched(Job):
        def step(self, done, total, text=""):
            seen.append((done, total, text))
            if "naive: t" in text:
                self.cancel()
            super().step(done, total, text)

    pair, seen = TwoNetworks(networks[0], networks[2], data=images.first(50), points=3, orders=1), []
    with pytest.raises(Cancelled):
        Watched(pair.compute, "align").run()
    assert any("matching, sweep" in text for _, _, text in seen)
    assert {total for _, total, _ in seen} == {7}
    assert pair._aligned is not None
    assert not pair._lines
    assert pair.barriers["matched"] < pair.barriers["naive"], "asked again, it goes on"


def test_measure_fills_the_table_on_the_way_and_goes_on_after_a_cancel(networks, images):
    class Watched(Job):
        def step(self, done, total, text=""):
            seen.append((done, total, text))
            if stop and text == "singular directions of layers.1":
                self.cancel()
            super().step(done, total, text)

    pair, seen, stop = TwoNetworks(*networks[:2], data=images.first(50), points=3, orders=1), [], True
    with pytest.raises(Cancelled):
        Watched(pair.measure, "align").run()
    assert set(pair._directions) == {"head", "layers.0"}
    stop, again = False, len(seen)
    Watched(pair.measure, "align").run()
    assert {total for _, total, _ in seen} == {7 + 4}
    assert not any("t =" in text for _, _, text in seen[again:]), "the lines were known"
    assert seen[-1] == (11, 11, "done")
    assert "table" in pair.__dict__
    middle = pair.lines["naive"].iloc[1]
    assert middle["t"] == 0.5
    assert pair.middle_accuracy["naive"] == middle["accuracy"]


def test_memory_that_will_not_do_is_refused_before_anything_is_read(networks, images, monkeypatch):
    monkeypatch.setattr("workbench.jobs.memory.available", lambda: memory(networks[0]) - 1)
    pair = TwoNetworks(*networks[:2], data=images)
    with pytest.raises(Refused, match="tiny-mlp and tiny-mlp-b takes about"):
        pair.measure()
    assert pair._aligned is None
    # Three forms of two networks in float64 do not fit into less, and the overlaps are [n, n] twice.
    overlaps = 2 * 8 * (3 * 512**2 + 10**2)
    assert memory(networks[0]) == 36 * networks[0].parameters + overlaps


def test_names_that_occur_twice_are_told_apart(networks, images):
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    twice = MergedNetworks([networks[0], networks[1], networks[0]], data=images.first(50), rounds=1)
    assert not twice.computed
    assert list(twice.table["network"]) == ["tiny-mlp", "tiny-mlp-b", "tiny-mlp (2)", "plain mean", "merged"]
    assert twice.computed


def test_networks_that_are_more_than_their_names_say_are_found_out():
    """Units weighted by their place: the tensors are an MLP's, and no permutation keeps the function."""

    class Placed(torch.nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.fc1, self.fc2 = torch.nn.Linear(784, 24), torch.nn.Linear(24, 10)

        def forward(self, x):
            return self.fc2(torch.tanh(self.fc1(x.flatten(1) / 255)) * torch.linspace(0, 3, 24))

    nets = [wb.load(Placed(k), name=f"placed-{k}", task="classification") for k in range(3)]
    data = wb.evaluation(wb.load("tiny-mlp")).first(100)
    data = dataclasses.replace(data, inputs=data.inputs.float())
    with pytest.raises(Refused, match="placed-1 permuted answers otherwise"):
        TwoNetworks(*nets[:2], data=data, points=3).compute()
    with pytest.raises(Refused, match=r"placed-\d permuted answers otherwise"):
        MergedNetworks(nets, data=data).compute()


def test_what_is_not_there_is_refused(pair, networks):
    with pytest.raises(Refused, match="near: layers"):
        pair.layer("layers.7")
    with pytest.raises(Refused, match=r"no units 'layers'"):
        pair.units("layers")
    with pytest.raises(Refused, match=r"layers\.9"):
        pair.directions("layers.9")
    with pytest.raises(Refused, match="two or more"):
        MergedNetworks(networks[:1])
    with pytest.raises(Refused, match="different architectures"):
        TwoNetworks(networks[0], wb.load("tiny-vit")).compute()


def test_networks_are_taken_by_name_and_what_is_none_is_refused():
    pair = wb.TwoNetworks("tiny-mlp", "tiny-mlp-b", points=3)
    assert (pair.a.name, pair.b.name) == ("tiny-mlp", "tiny-mlp-b")
    assert wb.load(pair.a) is pair.a
    assert [m.name for m in wb.MergedNetworks(["tiny-mlp", "tiny-mlp-b"]).models] == [
        "tiny-mlp",
        "tiny-mlp-b",
    ]
    variant = wb.apply(pair.a, wb.Recipe([wb.RTN(bits=4)]))
    with pytest.raises(Refused, match="not Variant"):
        wb.TwoNetworks(pair.a, variant)
    with pytest.raises(Refused, match="'tiny-mlp' is one network: give a list"):
        wb.MergedNetworks("tiny-mlp")
