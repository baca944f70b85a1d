"""Outliers: ratios against a direct computation, scales shared as they are when applied, pictures with their data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.engine import collect
from workbench.errors import Refused
from workbench.figures.outliers import _short, _thinned, channels_figure, outliers_figure
from workbench.inspect import Channels, Outliers, outliers
from workbench.inspect.outliers import CHANNEL_COLUMNS, OUTLIER_COLUMNS, ratios
from workbench.jobs import Cancelled, Job

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def batches(llama, data):
    return data.inputs_only()


@pytest.fixture(scope="module")
def smoothed(llama, batches):
    return outliers(llama, wb.SmoothQuant(), calibration=batches)


def test_the_ratio_is_that_of_the_loudest_channel_to_the_median(llama, batches):
    found = outliers(llama, calibration=batches)
    known = collect(llama, [llama.layer(UP)], {"max_abs"}, batches)[UP].max_abs.numpy()
    row = found.table.set_index("name").loc[UP]
    assert row["ratio"] == pytest.approx(known.max() / np.median(known), rel=1e-5)
    assert row["loudest"] == known.argmax()
    w = np.maximum(
        *(llama.weight(f"model.layers.1.mlp.{n}").abs().amax(0).numpy() for n in ("up_proj", "gate_proj"))
    )
    assert row["weight_ratio"] == pytest.approx(w.max() / np.median(w), rel=1e-5)
    assert len(found.table) == 14, "neither embedding nor head"
    assert "ratio_after" not in found.table
    assert list(found.layer(UP).table.columns) == ["channel", "max_abs", "ratio", "weight_max"]


def test_loud_channels_are_counted_and_named():
    x = torch.ones(64)
    x[[3, 40]] = torch.tensor([50.0, 7.0])
    x[9] = 5.9
    row = Channels.of(torch.ones(2, 64), x).summary
    assert (row["loud"], row["loudest"], row["channels"], row["ratio"]) == (2, 3, "3, 40", 50)


def test_silent_channels_have_no_say_in_the_median():
    np.testing.assert_allclose(ratios(np.array([0.0, 0, 0, 2, 2, 8])), [0, 0, 0, 1, 1, 4])
    assert np.isnan(ratios(np.zeros(3))).all()
    row = Channels.of(torch.ones(2, 3), torch.zeros(3)).summary
    assert row["loud"] == 0
    assert np.isnan(row["ratio"])


def test_smoothquant_at_one_half_makes_both_sides_equal(smoothed):
    """The card's property: max |x / s| = max |w s| in every channel, over all layers that read the input."""
    for name in (UP, DOWN, "model.layers.0.self_attn.k_proj"):
        table = smoothed.layer(name).table
        # S in half precision.
        np.testing.assert_allclose(table["max_abs_after"], table["weight_max_after"], rtol=2e-3)
        np.testing.assert_allclose(
            table["max_abs_after"] * table["weight_max_after"],
            table["max_abs"] * table["weight_max"],
            rtol=1e-5,
        )


def test_the_scales_are_those_that_applying_the_method_finds(llama, batches, smoothed):
    variant = wb.apply(llama, wb.Recipe([wb.SmoothQuant()]), calibration=batches, prefix="original")
    for name, made in variant.weights.items():
        table = smoothed.layer(name).table
        s = table["max_abs"] / table["max_abs_after"]
        np.testing.assert_allclose(s, made.input_scale.float(), rtol=2e-3)


def test_a_variant_shows_its_own_inputs_folded_or_not(llama, batches, smoothed):
    from workbench.engine.fold import fold

    variant = wb.apply(llama, wb.Recipe([wb.SmoothQuant()]), calibration=batches, prefix="original")
    folded = fold(variant)
    # Two query heads share a value head here, and their scales differ: those of o stay. All others are folded.
    assert {n.split(".")[-1] for n, made in folded.weights.items() if made.input_scale is not None} == {
        "o_proj"
    }
    own, after = (outliers(each, calibration=batches).table for each in (variant, folded))
    for column in ("ratio", "ratio_after", "weight_ratio_after"):
        np.testing.assert_allclose(own[column], smoothed.table[column], rtol=2e-2, err_msg=column)
    for column in ("ratio", "ratio_after"):
        np.testing.assert_allclose(after[column], smoothed.table[column], rtol=2e-2, err_msg=column)
    # The rows of up were divided for down's sake, so its columns are others; those of down are not.
    down = own["role"] == "down"
    np.testing.assert_allclose(after["weight_ratio_after"][down], own["weight_ratio_after"][down], rtol=1e-3)


def test_awq_lowers_the_ratio_of_a_loud_channel():
    model = wb.engine.with_outliers(wb.load("tiny-llama"), [7])
    few = wb.evaluation(model, tokens=1024, part="calibration").inputs_only()
    row = outliers(
        model, wb.AWQ(grid_points=10), layers="*.1.mlp.gate_proj,*.1.mlp.up_proj", calibration=few
    ).table.iloc[0]
    assert row["loudest"] == 7
    assert row["ratio"] > 20
    assert row["ratio_after"] < row["ratio"] / 3


def test_the_table_explains_its_columns(smoothed):
    assert list(smoothed.table.columns) == list(OUTLIER_COLUMNS)
    assert smoothed.table.attrs["columns"] == OUTLIER_COLUMNS
    assert smoothed.layer(UP).table.attrs["columns"] == CHANNEL_COLUMNS
    json.dumps(smoothed.table.to_dict("records"), allow_nan=False)
    assert smoothed.loudest.name == smoothed.table.loc[smoothed.table["ratio"].idxmax(), "name"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("order", ["loudness", "channel"])
def test_the_picture_of_a_layer_has_both_sides_before_and_after(smoothed, order, theme):
    figure = smoothed.layer(UP, order).figure(theme)
    json.loads(figure.to_json())
    assert [(t.name[:5], t.yaxis) for t in figure.data] == [
        ("befor", "y"),
        ("after", "y"),
        ("befor", "y2"),
        ("after", "y2"),
    ]
    assert (figure.layout.yaxis.type, figure.layout.yaxis2.type) == ("log", "log")
    assert (figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text) == ("max |x|", "max |w|")
    table = smoothed.layer(UP).table
    for trace, column in zip(
        figure.data, ("max_abs", "max_abs_after", "weight_max", "weight_max_after"), strict=True
    ):
        np.testing.assert_allclose(trace.y, table[column].to_numpy()[np.asarray(trace.customdata)])
    if order == "loudness":
        assert list(figure.data[0].y) == sorted(figure.data[0].y, reverse=True)
    assert figure.data[0].marker.color != figure.data[1].marker.color
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol


def test_thinning_keeps_the_outlier_and_knows_its_channel():
    values = np.ones(5000)
    values[4321] = 9
    for log in (False, True):
        _, peaks, channels = _thinned(values, np.arange(5000), log)
        assert len(peaks) <= 400
        assert channels[peaks.argmax()] == 4321
    figure = channels_figure((values, values), None, "w", by_loudness=False)
    assert max(figure.data[0].y) == 9


def test_the_picture_of_all_layers(smoothed):
    figure = smoothed.figure()
    json.loads(figure.to_json())
    before, after = (t for t in figure.data if t.mode == "markers")
    np.testing.assert_allclose(before.x, smoothed.table["ratio"])
    np.testing.assert_allclose(after.x, smoothed.table["ratio_after"])
    assert after.name == "after smoothquant 0.5"
    assert list(before.y[:1]) == [smoothed.table["name"][0].removeprefix("model.layers.")]
    low, high = figure.layout.xaxis.range
    assert low < 0 <= np.log10(max(before.x)) < high
    alone = outliers_figure(smoothed.table[["name", "ratio"]])
    assert not alone.layout.showlegend
    assert _short(["a.b.c", "a.d"]) == ["b.c", "d"]
    assert _short(["a.b"]) == ["a.b"]


def test_what_has_no_scales_is_refused(llama, batches, smoothed):
    variant = wb.apply(llama, wb.Recipe([wb.RTN()]))
    for make, words in (
        (lambda: outliers(llama, wb.RTN(), calibration=batches), "finds no scales.*smoothquant or awq"),
        (lambda: outliers(llama, wb.Equalize(), calibration=batches), "apply it and give the variant"),
        (lambda: outliers(variant, wb.AWQ(), calibration=batches), "has its own scales"),
        (lambda: outliers(llama, layers="role:embed", calibration=batches), "nothing enters"),
        (lambda: outliers(llama, calibration=[]), "empty"),
        (lambda: smoothed.layer("model.layers.1.mlp.up"), "up_proj"),
        (lambda: Channels.of(torch.ones(2, 3), torch.ones(4)), "do not fit"),
    ):
        with pytest.raises(Refused, match=words):
            make()
    job = Job(lambda job: Outliers(llama, calibration=batches, job=job))
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
