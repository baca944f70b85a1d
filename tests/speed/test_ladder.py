"""Ladders: every prediction names a rung that stands before it, and is held against what was measured."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.errors import Refused
from workbench.speed import cpu, kernels
from workbench.speed.ladder import COLUMNS, ladder_table, ladders, read_gain
from workbench.speed.roofline import packed_bytes

RECORD = [
    {"kernel": name, "seconds": seconds, "ratio": ratio, "ratio_q25": 0.9 * ratio, "ratio_q75": 1.1 * ratio,
     "where": "recorded", "baseline": "cublas"}
    for name, seconds, ratio in (("fp32_naive", 8.0, 0.02), ("fp32_coalesced", 2.0, 0.08))
]  # fmt: skip


def test_rungs_stand_in_order_and_once():
    for name, rungs in ladders().items():
        assert len(rungs) == len(set(rungs)), name
    assert ladders()["fp32"][:3] == ["fp32_naive", "fp32_coalesced", "fp32_tiled"]


@pytest.mark.parametrize("ladder", list(ladders()))
def test_a_prediction_is_over_a_kernel_that_exists(ladder):
    table = ladder_table(pd.DataFrame(columns=["kernel"]), ladder)
    known = {name for rungs in ladders().values() for name in rungs} | set(kernels())
    predicted = table.loc[table["over"] != ""]
    assert set(predicted["over"]) <= known
    assert (predicted["predicted_low"] <= predicted["predicted_high"]).all()
    assert table["percent"].isna().all()
    assert set(table["where"]) == {"not in this table"}


def test_measured_gains_stand_beside_the_predicted():
    table = ladder_table(pd.DataFrame(RECORD), "fp32")
    assert list(table.columns) == list(COLUMNS)
    second = table.iloc[1]
    assert second["gain"] == 4.0
    assert second["percent"] == pytest.approx(8)
    assert second["predicted_low"] > 1
    assert pd.isna(table.iloc[2]["gain"])
    assert table.iloc[1]["baseline"] == "cublas"


def test_the_words_of_a_cpu_kernel_are_a_prediction_or_none():
    gain = read_gain("10 to 20x over naive: whole cache lines", "cpu-reordered")
    assert (gain.low, gain.high, gain.over, gain.why) == (10, 20, "cpu-naive", "whole cache lines")
    assert read_gain("4x over reordered; within 10 %", "cpu-numba-tiled").over == "cpu-numba-reordered"
    assert read_gain("none, this is where the ladder stands", "cpu-naive") is None


@pytest.mark.parametrize("ladder", [name for name in ladders() if name.startswith(("cpu-w", "cpu-nf"))])
def test_few_bits_on_the_cpu_are_predicted_no_more_than_their_bytes_allow(ladder):
    table = ladder_table(pd.DataFrame(columns=["kernel"]), ladder).set_index("kernel")
    ours = table[[not name.startswith("cpu-torch") for name in table.index]]
    assert set(ours["over"]) == {cpu.BASELINE}
    sets = cpu.operand_sets(1, 256, 1024, most=1)
    for name, row in ours.iterrows():
        allowed = sets.b.nbytes / cpu.rungs()[name].make(sets).nbytes
        assert 1 < row["predicted_low"] < row["predicted_high"] < allowed, name


def test_a_prediction_of_one_width_is_picked_out():
    assert cpu.source("dot").gain_at(8).startswith("2.5 to 3.8x over torch-fp32: ")
    assert cpu.source("dot").gain_at(5) == "none: nothing was written down for 5 bits"
    assert cpu.source("naive").gain_at(32) == cpu.source("naive").gain


def test_predictions_at_batch_1_multiply_to_no_more_than_the_bytes_allow():
    known, dense = kernels(), 2.0
    for name in ladders()["weight-only"]:
        best, one = 1.0, known[name]
        if "_mma" in name:
            continue  # predicted for larger batches
        while one.gain:
            best, one = best * one.gain.high, known[one.gain.over]
        assert one.name == "fp16_gemv"
        if name != "fp16_gemv":
            assert best <= dense / packed_bytes(known[name]), name


def test_an_unknown_ladder_names_those_near():
    with pytest.raises(Refused, match="fp32"):
        ladder_table(pd.DataFrame(RECORD), "fp23")
