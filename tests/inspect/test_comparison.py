"""Comparison: one weight under several methods, one colour scale, the numbers of each as it has them alone."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Comparison
from workbench.methods import Statistics


@pytest.fixture(scope="module")
def layer():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(256, 96, generator=g) @ torch.randn(96, 96, generator=g) / 10
    known = Statistics(256, x.abs().mean(0), x.square().mean(0), x.abs().amax(0), x.T @ x / 256, x)
    return torch.randn(40, 96, generator=g), known


METHODS = [wb.Magnitude(n_m=(2, 4)), wb.Wanda(n_m=(2, 4)), wb.SparseGPT(n_m=(2, 4)), [wb.AWQ(), wb.GPTQ()]]


def test_the_table_has_the_numbers_of_each_method(layer):
    w, known = layer
    table = Comparison(w, METHODS, known).table
    assert list(table["method"]) == [
        "magnitude 2:4",
        "wanda 2:4",
        "sparsegpt 2:4",
        "awq 4 g64 + gptq 4 g64 act",
    ]
    for row, methods in zip(table.to_dict("records"), METHODS, strict=True):
        made = wb.compress(w, methods if isinstance(methods, list) else [methods], known)
        change = made.dequantize() - w
        assert row["relative_error"] == pytest.approx((change.norm() / w.norm()).item(), rel=1e-4)
        assert row["output_relative_error"] == pytest.approx(known.output_error(w, change), rel=1e-4)
        assert row["bits_per_weight"] == made.bits_per_weight
    # At 2:4 SparseGPT has the largest error of the weight and the smallest of the output.
    pruned = table.iloc[:3]
    assert pruned["relative_error"].idxmax() == 2
    assert pruned["output_relative_error"].idxmin() == 2
    assert set(table.columns) == set(table.attrs["columns"])


def test_all_maps_share_the_limit_of_the_largest_error(layer):
    w, known = layer
    found = Comparison(w, METHODS, known)
    errors = [(shown.compressed.dequantize() - w).abs().max().item() for shown in found.maps]
    assert found.limit == pytest.approx(max(errors))
    figure = found.figure()
    assert len(figure.layout.images) == 4
    assert {trace.marker.cmax for trace in figure.data} == {found.limit}
    assert [trace.marker.showscale for trace in figure.data] == [False, False, False, True]
    assert "sparsegpt 2:4" in figure.layout.annotations[2].text
    assert "output error" in figure.layout.annotations[0].text


def test_without_statistics_the_errors_of_the_weight_are_shown(layer):
    found = Comparison(layer[0], [wb.RTN(bits=3), wb.RTN(bits=4)])
    assert found.table["output_relative_error"].isna().all()
    assert "output" not in found.figure().layout.annotations[0].text


@pytest.mark.parametrize("count", [0, 1, 5])
def test_two_to_four(layer, count):
    with pytest.raises(Refused, match=f"a comparison is of 2 to 4 methods, not of {count}"):
        Comparison(layer[0], [wb.RTN()] * count)
