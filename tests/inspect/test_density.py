"""Density, spectrum and error spectrum: of a weight alone, in the precision it has, and beside white noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.grid import uncompressed
from workbench.inspect import (
    CURVES,
    Convergence,
    Density,
    ErrorSpectrum,
    Histogram,
    NoiseEdges,
    Profile,
    Spectrum,
)
from workbench.inspect.noise import step_variance
from workbench.spectra import fit_tail, kept_directions, predicted_spike, singular_values


@pytest.fixture(scope="module")
def heavy() -> np.ndarray:
    """[200, 100] in float64 with a heavy tail."""
    return np.random.default_rng(3).standard_t(3, (200, 100)) * 0.02


@pytest.mark.parametrize("kind", [Histogram, Spectrum, Density])
@pytest.mark.parametrize("as_given", [np.asarray, torch.from_numpy, lambda w: torch.from_numpy(w).bfloat16()])
def test_a_curve_of_a_weight_alone(kind, as_given, heavy):
    curve = kind(as_given(heavy), name="down")
    assert "after" not in curve.table
    figure = curve.figure()
    assert "compressed" not in [trace.name for trace in figure.data]
    assert "noise edge" not in [trace.name for trace in figure.data]
    assert "down" in figure.layout.meta["caption"]
    with pytest.raises(Refused, match="the weight alone"):
        _ = curve.compressed


@pytest.mark.parametrize("kind", [ErrorSpectrum, Profile, Convergence])
def test_what_compares_says_that_it_needs_a_copy(kind, heavy):
    with pytest.raises(Refused, match=rf"{kind.__name__} compares .* RTN\(bits=4\)\.compress\(w\)"):
        kind(heavy)


def test_alpha_of_float64_is_that_of_float64(heavy):
    alpha = fit_tail(singular_values(heavy) ** 2).alpha
    for arguments in ((heavy,), (torch.from_numpy(heavy), heavy + 1e-3)):
        assert Density(*arguments).tails[0].alpha == pytest.approx(alpha, abs=1e-10)
    assert Density(heavy.astype(np.float32)).tails[0].alpha != pytest.approx(alpha, abs=1e-10)


def test_another_matrix_is_taken_as_the_copy(heavy):
    copy = heavy + 0.001 * np.random.default_rng(0).standard_normal(heavy.shape)
    np.testing.assert_allclose(Spectrum(heavy, copy).table["after"], singular_values(copy), rtol=1e-12)
    assert ErrorSpectrum(heavy, heavy).edge.error_variance == 0


@pytest.mark.parametrize("kind", CURVES.values())
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((np.arange(6).reshape(2, 3),), "of floats, got .*int64"),
        ((np.ones((4, 2, 3, 3)),), r"w\.flatten\(1\)"),
        (([[1.0]],), "not list"),
        ((np.ones((3, 4)), np.ones((4, 3))), r"\[3, 4\] and its copy \[4, 3\]"),
        ((np.ones((3, 4)), uncompressed(torch.ones(4, 3))), r"\[3, 4\] and its copy \[4, 3\]"),
    ],
)
def test_what_is_no_matrix_or_no_copy_of_it_is_refused(kind, given, words):
    with pytest.raises(Refused, match=words):
        kind(*given)


def test_weights_that_are_small_are_told_from_a_matrix_that_is(heavy):
    assert "the weights are small" in Density(heavy * 1e-4).why
    assert Density(heavy[:, :20]).why.startswith("20 of 20 eigenvalues lie above")


def test_what_rounding_leaves_of_directions_is_what_white_noise_leaves():
    """The law for a single direction is far above both where singular values are close."""
    weight = wb.load("tiny-llama").base_weight("model.layers.2.mlp.down_proj")
    spectrum = ErrorSpectrum(weight, wb.RTN(bits=2).compress(weight))
    table, e = spectrum.table, spectrum.edge
    assert (table["inputs"] - table["inputs_white"]).abs().mean() < 0.06
    law = np.array([predicted_spike(s, e.error_variance, e.shape).right for s in e.before[:32]])
    assert (law - table["inputs_white"])[-8:].mean() > 0.2
    assert table["inputs_isolated"].isna().all()  # none stands apart from its neighbours by the noise edge
    assert "isolated direction" not in [trace.name for trace in spectrum.figure().data]


def test_white_noise_is_white_noise_of_the_errors_variance(heavy):
    rng = np.random.default_rng(5)
    noise = 0.02 * rng.standard_normal(heavy.shape)
    spectrum = ErrorSpectrum(heavy, heavy + noise)
    mean = np.mean(
        [kept_directions(heavy, heavy + 0.02 * rng.standard_normal(heavy.shape))[0] for _ in range(8)], axis=0
    )
    np.testing.assert_allclose(spectrum.white[0], mean, atol=0.15)
    np.testing.assert_array_equal(spectrum.white[0], ErrorSpectrum(heavy, heavy + noise).white[0])  # seeded


def test_the_law_of_a_single_direction_is_given_where_it_is_one():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, 2)))[0] for size in (200, 300))
    w = (u * [12.0, 6.0]) @ v.T
    spectrum = ErrorSpectrum(w, w + 0.05 * rng.standard_normal(w.shape))
    table = spectrum.table
    assert table["outputs_isolated"].notna().tolist() == [True, True]
    np.testing.assert_allclose(table["outputs"], table["outputs_isolated"], atol=0.02)
    np.testing.assert_allclose(table["outputs_white"], table["outputs_isolated"], atol=0.02)


@pytest.mark.parametrize("granularity", ["channel", "group"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_step_predicts_the_variance_of_rounding(bits, granularity):
    w = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)) / 50
    compressed = wb.RTN(bits=bits, granularity=granularity).compress(w)
    error = (compressed.dequantize() - w).double()
    predicted = step_variance(w, compressed)
    assert predicted == pytest.approx(float(error.var()), rel=0.05 if bits == 2 else 0.01)
    assert compressed.scales is not None
    steps = compressed.blocks.expand(compressed.scales).double()
    assert predicted == pytest.approx(float((steps.square() / 12).mean()), rel=1e-3)


def test_predicted_and_measured_variance_are_told():
    w = torch.randn(60, 80, generator=torch.Generator().manual_seed(0)) / 50
    compressed = wb.RTN(bits=4).compress(w)
    spectrum = ErrorSpectrum(w, compressed)
    told = spectrum.table.attrs
    assert told["predicted_variance"] == step_variance(w, compressed)
    assert told["error_variance"] == pytest.approx(told["predicted_variance"], rel=0.05)
    said = spectrum.figure().layout.annotations[0].text
    assert said == (
        f"variance of the error: {told['predicted_variance']:.3g} predicted from the step, "
        f"{told['error_variance']:.3g} measured"
    )


@pytest.mark.parametrize(
    ("scheme", "tolerance"),
    [
        ("nf4", 0.2),
        ("e2m1", 0.2),
        ("mxfp4", 0.15),
        ("mxfp8", 0.05),
        ("power", 0.1),
        ("binary", 0.05),
        ("ternary", 0.05),
    ],
)
def test_cells_of_other_grids_predict_it_too(scheme, tolerance):
    w = torch.randn(128, 512, generator=torch.Generator().manual_seed(1)) / 50
    compressed = wb.RTN(format=scheme).compress(w)
    measured = float((compressed.dequantize() - w).double().square().mean())
    assert step_variance(w, compressed) == pytest.approx(measured, rel=tolerance)


def test_scales_of_inputs_order_and_mask_are_followed():
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(64, 128, generator=generator) / 50
    s = torch.rand(128, generator=generator) + 0.5
    scaled = wb.RTN(bits=4).compress(w * s).with_input_scale(s)
    masked = scaled.with_mask(torch.rand(64, 128, generator=generator) < 0.7)
    for compressed in (scaled, masked):
        measured = float((compressed.dequantize() - w).double().square().mean())
        assert step_variance(w, compressed) == pytest.approx(measured, rel=0.03)
    assert np.isnan(step_variance(w, wb.Magnitude(sparsity=0.5).compress(w)))  # no step


def test_noise_edges_have_the_edge_that_the_step_predicts(llama):
    found = NoiseEdges(llama, wb.RTN(bits=4, group_size=32), "role:down")
    table = found.table
    assert set(table["method"]) == {"rtn 4 g32"}
    np.testing.assert_allclose(table["predicted_edge"], table["edge"], rtol=0.02)
    np.testing.assert_allclose(table["predicted_variance"], table["error_variance"], rtol=0.04)
    assert {"predicted_edge", "error_variance"} <= set(table.attrs["columns"])
    pruned = NoiseEdges(llama, [wb.Magnitude(sparsity=0.5)], "role:down").table
    assert pruned["predicted_edge"].isna().all()


def test_arrays_of_any_layout_are_read_and_an_empty_one_is_refused():
    w = np.random.default_rng(0).standard_normal((60, 80))
    plain = Spectrum(w).table.to_numpy(float)
    for other in (w[::-1], w.astype(">f8"), np.broadcast_to(w, w.shape)):
        np.testing.assert_allclose(Spectrum(other).table.to_numpy(float), plain, rtol=1e-9)
    with pytest.raises(Refused, match=r"got \[0, 4\]"):
        Spectrum(np.zeros((0, 4)))
