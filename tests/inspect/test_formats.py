"""Number formats to look at: values as the card lists them, SQNR by definition, the rule that tails want exponents."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Formats, NumberLines, distributions, number_lines
from workbench.inspect.formats import SQNR_COLUMNS, kurtosis, scheme_of
from workbench.jobs import Cancelled, Job

# Card P5: the positive values of each minifloat.
POSITIVE = {
    "e2m0": [1, 2, 4],
    "e1m1": [1, 2, 3],
    "e3m0": [0.25, 0.5, 1, 2, 4, 8, 16],
    "e2m1": [0.5, 1, 1.5, 2, 3, 4, 6],
    "e1m2": [0.5, 1, 1.5, 2, 2.5, 3, 3.5],
}


def test_the_lines_have_every_value_of_the_card():
    table = number_lines([*POSITIVE, "int4"]).table
    for name, values in POSITIVE.items():
        found = sorted(v for v in table.loc[table["format"] == name, "value"] if v > 0)
        # E1Mx may be in units of the integers it equals
        np.testing.assert_allclose(np.array(found) / found[-1], np.array(values) / values[-1])
    assert table.groupby("format")["relative"].max().eq(1).all()
    e1m2, int4 = (table.loc[table["format"] == name, "relative"].to_numpy() for name in ("e1m2", "int4"))
    np.testing.assert_allclose(e1m2, int4, err_msg="E1M2 is the narrow INT4")


def test_grids_by_any_name_and_those_that_fit_a_sample(w):
    given = NumberLines({"mine": wb.grid.int_grid(bits=3, symmetric=True)})
    assert list(given.table["value"]) == [-3, -2, -1, 0, 1, 2, 3]
    a, b = (
        number_lines(["kmeans3"], sample).table["value"].to_numpy() for sample in (w, w.sign() * w.square())
    )
    assert len(a) == len(b) == 8
    assert not np.allclose(a, b), "a codebook is learned from the sample"


@pytest.mark.parametrize("log", [False, True])
def test_the_picture_of_the_lines(log):
    figure = number_lines(["int3", "e3m0"], log=log).figure()
    json.loads(figure.to_json())
    assert [trace.name for trace in figure.data] == ["int3", "e3m0"]
    assert list(figure.layout.yaxis.categoryarray) == ["e3m0", "int3"], "the first is on top"
    for trace in figure.data:
        assert (np.asarray(trace.x) > 0).all() == log
        assert max(trace.x) == 1


def test_the_noise_is_by_definition(w):
    row = Formats({"w": w}, ["e2m1"]).table.iloc[0]
    error = wb.RTN(format="e2m1", granularity="tensor", scale_dtype="float32").compress(w).dequantize() - w
    assert row["sqnr_db"] == pytest.approx(
        10 * math.log10(float(w.square().sum() / error.square().sum())), rel=1e-5
    )
    assert row["bits"] == 4
    assert list(Formats({"w": w}).table.columns) == list(SQNR_COLUMNS)


def test_heavier_tails_want_more_exponent_bits():
    """Card P5, "Rule": of 6 and of 8 bits, uniform data takes integers, normal data two exponent bits, Student's t with
    4 degrees of freedom three."""
    formats = ["int6", "e2m3", "e3m2", "int8", "e2m5", "e3m4", "e4m3"]
    best = Formats(distributions(), formats).best.pivot(index="data", columns="bits", values="format")
    assert best.loc["uniform"].tolist() == ["int6", "int8"]
    assert best.loc["normal"].tolist() == ["e2m3", "e2m5"]
    assert best.loc["Laplace"].tolist() == ["e2m3", "e2m5"]
    assert best.loc["Student t4"].tolist() == ["e3m2", "e3m4"]


def test_the_noise_of_normal_numbers_is_that_of_the_card():
    """Card P5, small claim: 32,768 normal samples under one scale; 0.7 dB for another draw of the largest."""
    table = Formats(distributions(), ["int4", "e2m1", "e3m0", "e2m3", "e3m4"]).table
    found = table[table["data"] == "normal"].set_index("format")["sqnr_db"]
    expected = {"int4": 13.87, "e2m1": 17.44, "e3m0": 14.18, "e2m3": 30.31, "e3m4": 37.53}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.7), name


def test_the_samples_are_what_they_are_called():
    found = distributions()
    assert {n: x.shape for n, x in found.items()} == dict.fromkeys(found, (1, 32768))
    for name, value, tolerance in (("uniform", 1.8, 0.05), ("normal", 3, 0.1), ("Laplace", 6, 0.5)):
        assert kurtosis(found[name]) == pytest.approx(value, abs=tolerance), name
    assert kurtosis(found["Student t4"]) > 8
    assert torch.equal(found["normal"], distributions()["normal"])


def test_the_best_format_of_each_width_of_each_layer(llama):
    found = Formats(llama, ["int4", "e2m1", "nf4", "int8"], layers="*.mlp.*")
    best = found.best
    assert len(best) == 6 * 2
    for row in best.itertuples():
        part = found.table[(found.table["data"] == row.data) & (found.table["bits"] == row.bits)]
        assert row.sqnr_db == part["sqnr_db"].max()
        plain = part.loc[part["format"] == f"int{row.bits}", "sqnr_db"].item()
        assert row.gain_db == pytest.approx(row.sqnr_db - plain)
    figure = found.figure()
    json.loads(figure.to_json())
    assert len(figure.layout.shapes) == 6, "int8 is alone in its width: nothing to frame"
    assert np.shape(figure.data[0].z) == (6, 4)
    everything = Formats(llama, ["int4"]).table["data"]
    assert len(everything) == 14
    assert "embed" not in " ".join(everything)


def test_short_names_and_what_is_refused(llama):
    assert scheme_of("int3").quantize(torch.randn(2, 8)).grid == wb.grid.int_grid(3, True)
    assert scheme_of("power5").bits == 5
    with pytest.raises(Refused, match="no such format"):
        number_lines(["e9m9"])
    for make in (number_lines, lambda formats: Formats(llama, formats)):
        with pytest.raises(Refused, match="no format was given"):
            make([])
    job = Job(lambda job: Formats(llama, job=job))
    job.cancel()
    with pytest.raises(Cancelled):
        job.run()
