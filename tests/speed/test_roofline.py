"""Rooflines: bytes and operations of a kernel, limits of a machine, points of a table."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from workbench.speed import cuda, kernels, measure, roofline
from workbench.speed.ops import DTYPES, problem
from workbench.speed.roofline import Limits, Roof, cpu_limits, data_sheet, points, recorded_limits, work

LIMITS = Limits(
    "a machine",
    "measured",
    "2026-01-01",
    (Roof("copy", 1e10, "byte"), Roof("fp32", 1e11, "flop", 32), Roof("int8", 4e11, "flop", 8)),
)


def test_work_counts_every_operand_once():
    done = work(kernels()["fp32_tiled"], (100, 200, 300))
    assert done.flops == 2 * 100 * 200 * 300
    assert done.bytes == 4 * (100 * 300 + 300 * 200 + 100 * 200)
    assert work(kernels()["bf16_mma"], (64, 64, 64)).bytes == 64 * 64 * (2 + 2 + 4)


@pytest.mark.parametrize("name", list(kernels()))
def test_work_agrees_with_the_operands_that_are_made(name):
    kernel, shape = kernels()[name], (64, 128, 512)
    made = problem(kernel.op, kernel.operands, shape, packing=kernel.packing)
    results = sum(np.prod(size) * DTYPES[kernel.operands[n]].bits / 8 for n, size in made.outputs.items())
    whole = sum(array.nbytes for array in made.inputs.values()) + results
    assert work(kernel, shape).bytes == pytest.approx(whole, rel=0.02)
    assert work(kernel, shape).flops == made.flops


def test_few_bits_may_use_the_roof_of_more_bits_but_not_of_fewer():
    assert LIMITS.peak(32) == 1e11
    assert LIMITS.peak(8) == LIMITS.peak(4) == 4e11
    assert LIMITS.attainable(1.0) == 1e10
    assert LIMITS.attainable(1000.0) == 1e11


def test_points_have_the_bytes_of_the_table_and_name_their_roof():
    rows = [
        {"kernel": "cpu-x", "bits": 4, "shape": "1x1000x1000", "seconds": 1e-3, "gbps": 0.5},
        {"kernel": "cpu-y", "bits": 32, "shape": "1000x1000x1000", "seconds": 0.1, "gbps": float("nan")},
        {"kernel": "cpu-z", "bits": 32, "shape": "8x8x8", "seconds": float("nan"), "gbps": float("nan")},
        {"kernel": "fp32_tiled", "bits": 32, "shape": "64x64x64", "seconds": 1e-3, "gbps": float("nan")},
    ]
    made = points(pd.DataFrame(rows), LIMITS)
    assert list(made["kernel"]) == ["cpu-x", "cpu-y", "fp32_tiled"]
    first, second, third = made.to_dict("records")
    assert first["intensity"] == pytest.approx(
        2e6 / (0.5e6 + 8000)
    )  # half a megabyte of weights, x and y in fp32
    assert (first["bound"], second["bound"]) == ("memory", "arithmetic")
    assert second["of_roof"] == pytest.approx(2e9 / 0.1 / 1e11)
    assert third["intensity"] == pytest.approx(2 * 64**3 / (3 * 4 * 64 * 64))


def test_limits_of_this_machine_are_measured(monkeypatch):
    monkeypatch.setattr(roofline, "SIDE", 128)
    monkeypatch.setattr(roofline.cpu, "cache_bytes", lambda: 1 << 20)
    found = cpu_limits()
    assert found.where == "measured"
    assert "thread" in found.note
    names = [roof.name for roof in found.roofs]
    assert names[:4] == ["copy", "read", "fp32 product", "bf16 product"]
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.peak(32) < 1e15
    assert recorded_limits(found.to_json()).roofs == found.roofs
    assert recorded_limits(found.to_json()).where == "recorded"


def test_a_roof_is_the_best_round_and_counts_bytes_both_ways(monkeypatch):
    """A clock under which every call takes as long as it was told, so that the roofs are known."""
    ticks = iter([2.0, 1.0] * 10_000)
    monkeypatch.setattr(roofline, "SIDE", 16)
    monkeypatch.setattr(roofline.cpu, "cache_bytes", lambda: 4000)
    found = cpu_limits(clock=lambda run: next(ticks))
    copy = next(roof for roof in found.roofs if roof.name == "copy")
    product = next(roof for roof in found.roofs if roof.name == "fp32 product")
    assert copy.value == 8 * 3000  # 3000 floats read and written in one second
    assert product.value == 2 * 16**3


@pytest.mark.parametrize("takes_bf16", [True, False])
def test_limits_of_a_gpu_through_a_stand_in(monkeypatch, takes_bf16):
    fake = SimpleNamespace(
        ones=np.ones, empty=np.empty, matmul=np.matmul, random=np.random, float32=np.float32, float16=np.float32,
        copyto=np.copyto,
    )  # fmt: skip

    def gemm(a, b, c, dtype, result) -> None:
        assert (a.dtype, c.dtype) == {"bf16": ("uint16", "uint16"), "int8": ("int8", "int32")}[dtype]
        if dtype == "bf16" and not takes_bf16:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    monkeypatch.setattr(roofline, "gemm", gemm)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(roofline, "SIDE", 8)
    monkeypatch.setattr(roofline, "LEAST_FLOATS", 1000)
    monkeypatch.setattr(cuda, "event_clock", lambda run: (run(), 0.5)[1])
    found = roofline.gpu_limits(cuda.Device("Stand-in", "sm_90", "13.0", 1000))
    names = [
        "copy",
        "fp32 product",
        "fp16 product",
        *(["bf16 product"] if takes_bf16 else []),
        "int8 product",
    ]
    assert [roof.name for roof in found.roofs] == names
    assert [roof.bits for roof in found.roofs if roof.name == "int8 product"] == [8]
    assert found.peak(32) == 2 * 64**3 / 0.5
    assert found.bandwidth == 8 * 1000 / 0.5


def test_a_data_sheet_says_what_it_is_and_knows_no_other_gpu():
    found = data_sheet("NVIDIA H200")
    assert found.where == "data sheet"
    assert "not measured" in found.note
    assert found.bandwidth == 4.8e12
    assert data_sheet("NVIDIA H1000") is None


def test_the_vendors_rows_have_points_and_a_copy_has_none():
    rows = [
        {"kernel": name, "bits": 16, "shape": "64x64x64", "seconds": 1e-3, "gbps": float("nan")}
        for name in ("cublas-bf16", "copy")
    ]
    made = points(pd.DataFrame(rows), LIMITS)
    assert list(made["kernel"]) == ["cublas-bf16"]
    assert made["intensity"][0] == pytest.approx(2 * 64**3 / (64 * 64 * (2 + 2 + 4)))


def test_a_measured_table_stands_on_the_roofline():
    made = points(measure((1, 256, 256), "cpu-numba-reordered", rounds=1), LIMITS)
    assert len(made) == 1
    assert made["flops"][0] > 0
    assert made.attrs["columns"].keys() == set(made.columns)
