"""Histogram, spectrum, profile: their tables against direct computation, their figures readable by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.grid import Report
from workbench.inspect import CURVES, Histogram, Profile, Spectrum
from workbench.inspect.curves import SAMPLE


@pytest.fixture(params=[wb.RTN(bits=3, group_size=16), wb.Magnitude(sparsity=0.5)], ids=lambda m: m.label)
def compressed(request, w):
    return request.param.compress(w)


def test_the_shares_of_a_histogram_are_all_of_the_weights(w, compressed):
    table = Histogram(w, compressed).table
    assert list(table.columns) == ["bin", "before", "after"]
    assert table["before"].sum() == pytest.approx(1)
    assert table["after"].sum() == pytest.approx(1)
    width = table["bin"][1] - table["bin"][0]
    for row in table[table["before"] > 0].iloc[::7].itertuples():
        inside = ((w >= row.bin) & (w < row.bin + width)).float().mean().item()
        assert row.before == pytest.approx(inside, abs=2 / w.numel())  # a weight on an edge may go either way


def test_the_histogram_of_a_pruned_weight_has_its_zeros_in_one_bin(w):
    table = Histogram(w, wb.Magnitude(sparsity=0.5).compress(w)).table
    assert table["after"].max() == pytest.approx(0.5, abs=0.03)


def test_a_constant_weight_has_a_histogram():
    table = Histogram(torch.zeros(3, 4), wb.RTN().compress(torch.zeros(3, 4))).table
    assert (table["before"].sum(), table["after"].sum()) == (1, 1)


def test_the_histogram_of_a_large_matrix_is_made_from_rows_spread_over_it(large):
    assert large.numel() > 2 * SAMPLE
    compressed = wb.RTN(bits=2).compress(large)
    step = large.numel() // SAMPLE
    table = Histogram(large, compressed).table
    sampled, after = large[::step], compressed.dequantize()[::step]
    limit = max(sampled.abs().max().item(), after.abs().max().item())
    edges = np.linspace(-limit, limit, len(table) + 1)
    for column, values in (("before", sampled), ("after", after)):
        assert table[column].sum() == pytest.approx(1)
        np.testing.assert_allclose(
            table[column], np.histogram(values.numpy(), edges)[0] / values.numel(), atol=1e-5
        )


def test_a_spectrum_has_the_singular_values_and_what_is_under_the_edge(w, compressed):
    spectrum = Spectrum(w, compressed, "layers.0.down")
    table = spectrum.table
    np.testing.assert_allclose(table["before"], np.linalg.svd(w.double(), compute_uv=False), rtol=1e-4)
    after = np.linalg.svd(compressed.dequantize().double(), compute_uv=False)
    np.testing.assert_allclose(table["after"], after, rtol=1e-3, atol=1e-5)
    assert list(table["index"]) == list(range(1, 46))
    error = (compressed.dequantize() - w).double()
    edge = error.std(correction=0).item() * (45**0.5 + 70**0.5)
    assert spectrum.edge.edge == pytest.approx(edge, rel=1e-5)
    assert table["lost"].sum() == spectrum.edge.lost == (table["before"] < edge).sum()
    caption = spectrum.figure().layout.meta["caption"]
    assert f"{spectrum.edge.lost} of 45 directions" in caption
    assert "layers.0.down" in caption


def test_coarser_rounding_loses_more_directions(w):
    lost = [Spectrum(w, wb.RTN(bits=bits).compress(w)).edge.lost for bits in (8, 4, 3, 2)]
    assert lost == sorted(lost)
    assert lost[0] < lost[-1]


def test_a_profile_is_the_rms_error_of_strips_of_rows_and_of_columns(w, compressed):
    table = Profile(w, compressed).table
    squares = (compressed.dequantize() - w).double().square()
    rows, columns = (table[table["axis"] == axis] for axis in ("row", "column"))
    assert list(rows["index"]) == list(range(0, 45, 8))
    strips = [squares[start : start + 8].mean().sqrt().item() for start in range(0, 45, 8)]
    np.testing.assert_allclose(rows["rms_error"], strips, rtol=1e-4)
    assert list(columns["index"]) == list(range(70))
    np.testing.assert_allclose(columns["rms_error"], squares.mean(0).sqrt(), rtol=1e-4)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("kind", CURVES)
def test_a_figure_has_axis_titles_a_caption_and_its_data(w, kind, theme):
    made = wb.RTN(bits=3).compress(w).with_report(Report({"loss": [3.0, 2.0, 1.0], "size": [1.0, 1.0, 2.0]}))
    figure = CURVES[kind](w, made, "layers.0.down").figure(theme=theme)
    figure.to_json()
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text
    assert "layers.0.down" in figure.layout.meta["caption"]
    assert len(figure.data) >= 2
    for trace in figure.data:
        assert len(trace.x) == len(trace.y) > 1
        assert np.isfinite(np.asarray(trace.y, float)).any()
        assert trace.name
