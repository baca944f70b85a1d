"""Spectra of all layers to look at; density and error spectrum of one weight; the bias that FARMS removes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.figures.layers import words
from workbench.inspect import AspectRatio, Density, ErrorSpectrum, NoiseEdges, Spectra
from workbench.spectra import fit_tail, singular_values
from workbench.spectra.noise import noise_alpha


@pytest.fixture(scope="module")
def heavy():
    """[90, 130] with a heavy tail."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(90, 130, generator=generator) / 10
    return w + torch.outer(torch.randn(90, generator=generator), torch.randn(130, generator=generator)) / 5


@pytest.fixture(scope="module")
def compressed(heavy):
    return wb.RTN(bits=3, group_size=32).compress(heavy)


def test_a_density_has_the_tail_of_the_weight(heavy, compressed):
    density = Density(heavy, compressed, "down")
    fit = fit_tail(singular_values(heavy) ** 2)
    assert density.tails[0].alpha == pytest.approx(fit.alpha, rel=1e-9)
    table = density.table
    assert len(table) == 90
    assert table["D"].min() == pytest.approx(fit.D, abs=1e-12)
    assert table["eigenvalue"].is_monotonic_increasing
    names = [trace.name for trace in density.figure().data]
    assert any(name.startswith(f"α {fit.alpha:.2f}") for name in names)
    assert "noise edge" in names
    assert "bulk (median)" in names
    assert len(density.scan().data) == 4


def test_a_small_matrix_has_a_density_and_says_why_it_has_no_tail(w):
    density = Density(w, wb.RTN(bits=4).compress(w), "small")
    assert density.tails == (None, None)
    assert density.why.startswith("45 of 45 eigenvalues")
    figure = density.figure()
    assert figure.layout.annotations[0].text.startswith("no tail: 45 of 45")
    with pytest.raises(Refused, match="45 of 45"):
        density.scan()


def test_the_curve_of_a_density_integrates_to_one(heavy, compressed):
    from workbench.figures.spectra import log_density

    eigenvalues = singular_values(heavy)[::-1] ** 2
    middles, density = log_density(eigenvalues)
    edges = np.geomspace(eigenvalues.min() * 0.999, eigenvalues.max() * 1.001, len(middles) + 1)
    assert (density * np.diff(edges)).sum() == pytest.approx(1)


def test_an_error_spectrum_says_what_is_left_of_directions(heavy, compressed):
    spectrum = ErrorSpectrum(heavy, compressed, "down")
    table = spectrum.table
    assert table["strength"].is_monotonic_decreasing
    assert table["outputs"].between(0, 1 + 1e-9).all()
    assert table["outputs"][0] > 0.99  # the planted direction
    assert table["outputs_white"][0] == pytest.approx(table["outputs"][0], abs=0.02)
    assert len(spectrum.figure().data) == 9  # the planted direction stands apart: its law is drawn too
    error = compressed.dequantize() - heavy
    np.testing.assert_allclose(spectrum.edge.error, singular_values(error), rtol=1e-6)


def test_an_exact_copy_has_no_error_spectrum(heavy):
    from workbench.grid import uncompressed

    spectrum = ErrorSpectrum(heavy, uncompressed(heavy))
    assert spectrum.edge.error_variance == 0
    assert "no error" in str(spectrum.figure().to_dict())


def test_spectra_of_a_model(llama):
    found = Spectra(llama, "role:q, role:down", extra=("mp",))
    assert {"alpha", "bulk_max", "reason"} <= set(found.table)
    figure = found.figure(metric="stable_rank")
    assert figure.layout.title.text.startswith(f"<b>Stable rank of {llama.name}")
    assert figure.layout.yaxis.title.text == "stable rank, directions"
    shown = {row[0] for trace in figure.data if trace.customdata is not None for row in trace.customdata}
    assert shown == set(found.table["name"])
    with pytest.raises(Refused, match="no numbers in 'stable_ranks'; near: stable_rank"):
        found.figure(metric="stable_ranks")
    with pytest.raises(Refused, match="not of int"):
        Spectra(3)


def test_before_and_after_are_joined_marks():
    model = wb.load("tiny-llama")
    found = Spectra(wb.apply(model, wb.Recipe(wb.RTN(bits=3))), "model.layers.1.*")
    filled = [
        t for t in found.figure().data if t.mode == "markers" and not str(t.marker.symbol).endswith("-open")
    ]
    after = [t for t in found.figure().data if t.mode == "markers" and str(t.marker.symbol).endswith("-open")]
    assert len(filled) == len(after) == 7
    assert found.allocation(wb.Magnitude(sparsity=0.5)).data[0].y.sum() > 0


def test_exponents_of_a_rule_stand_beside_noise_of_the_same_shape(llama):
    found = Spectra(llama, "role:q, role:down", extra=("peak", "farms"), rows=32, windows=2)
    names = lambda metric: {t.name for t in found.figure(metric=metric).data}  # noqa: E731
    for metric in ("alpha_hill", "alpha_peak", "alpha_farms"):
        assert "noise" in names(metric)
        assert not found.figure(metric=metric).layout.shapes
    assert "noise" not in names("alpha") | names("stable_rank")
    row = found.table.iloc[0]
    stroke = next(t for t in found.figure(metric="alpha_hill").data if t.name == "noise")
    assert noise_alpha(int(row["N"]), int(row["M"])) in set(stroke.y)
    windows = next(t for t in found.figure(metric="alpha_farms").data if t.name == "noise")
    assert windows.y[0] == pytest.approx(noise_alpha(32, 32, "median", 16))


def test_what_is_lost_is_a_share_that_layers_of_all_shapes_have_in_common(llama):
    variant = wb.apply(llama, wb.Recipe(wb.RTN(bits=2, group_size=32)))
    table = Spectra(variant, "role:q, role:k, role:down").table
    assert (table["lost_share"] == table["lost"] / table["M"]).all()
    assert table["lost_share"].between(0, 1).all()
    assert "of the weights" not in words("lost_share")[1]


def test_methods_side_by_side_on_the_same_layers(llama):
    found = NoiseEdges(llama, [wb.RTN(bits=2, group_size=32), wb.RTN(bits=4, group_size=32)], "role:down")
    table = found.table.pivot(index="name", columns="method", values=["edge", "right_overlap", "lost"])
    low, high = "rtn 2 g32", "rtn 4 g32"
    assert (table["edge"][low] > 2 * table["edge"][high]).all()
    assert (table["right_overlap"][low] < table["right_overlap"][high]).all()
    assert (table["lost"][low] >= table["lost"][high]).all()
    assert {trace.name for trace in found.figure().data} == {low, high}
    with pytest.raises(Refused, match="no method was given"):
        NoiseEdges(llama, [])


def test_the_aspect_ratio_names_the_windows_that_fit():
    assert set(AspectRatio(columns=50, ratios=(1, 2), rows=64, repeats=1).table["series"]) == {
        "whole matrix", "FARMS, windows 50 × 50",
    }  # fmt: skip


def test_the_aspect_ratio_bias():
    bias = AspectRatio(columns=64, ratios=(1, 4), rows=32, repeats=2)
    table = bias.table.pivot(index="aspect_ratio", columns="series", values="alpha")
    whole, windows = table["whole matrix"], table.drop(columns="whole matrix").iloc[:, 0]
    assert whole[4] - whole[1] > 1
    assert abs(windows[4] - windows[1]) < 0.1
    assert bias.figure().layout.xaxis.title.text == "rows / columns"
    with pytest.raises(Refused, match="start at 1"):
        AspectRatio(repeats=0)


def test_what_cannot_be_asked_is_refused_with_what_can():
    found = wb.Spectra("tiny-mlp", "layers.1")
    assert found.name == "tiny-mlp"
    with pytest.raises(Refused, match=r"no numbers in 'warning'"):
        found.figure(metric="warning")
    with pytest.raises(Refused, match=r"no parameter 'estimater'.*estimator"):
        wb.Spectra("tiny-mlp", estimater="peak")
    with pytest.raises(Refused, match=r"no numbers in 'edges'.*edge"):
        wb.NoiseEdges(found.subject, wb.RTN(bits=3), "layers.1").figure(metric="edges")
