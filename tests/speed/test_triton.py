"""Triton and gemlite as baselines: listed where they are here, said where they are not, right on Triton's interpreter,
and machine code for two generations of GPUs without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.speed import baselines, by_gemlite, by_triton, cuda, kernels, ops
from workbench.speed.cpu.operands import quantized
from workbench.speed.kernel import MOST_SHARED

SCRIPT = Path(__file__).with_name("interpreted.py")
NO_TRITON = "Triton is not installed: pip install triton"


def operands(name: str, shape: tuple[int, int, int] = (2, 16, 128)) -> cuda.Sets:
    kernel = kernels()[name]
    problem = ops.problem(kernel.op, kernel.operands, shape, packing=kernel.packing)
    return cuda.Sets(kernel, problem, cuda._expected(kernel, problem), 1)


@pytest.fixture
def nothing(monkeypatch) -> None:
    """Neither package is installed."""
    monkeypatch.setattr(by_triton.importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing")
def test_what_is_not_installed_is_one_candidate_that_says_so():
    made = dict(baselines.baselines(operands("w4_mma")))
    assert list(made) == ["cublas-fp16", "triton-fp16", "gemlite-int4"]
    with pytest.raises(Refused, match=r"^triton is not installed: pip install triton$"):
        made["triton-fp16"]()
    with pytest.raises(Refused, match=r"^gemlite is not installed: pip install gemlite$"):
        made["gemlite-int4"]()


def test_a_torch_without_a_gpu_is_said(monkeypatch):
    monkeypatch.setattr(by_triton.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match=r"^triton launches through torch, and torch \S+ sees no GPU: install"):
        dict(by_triton.baselines(operands("bf16_mma")))["triton-bf16"]()


@pytest.mark.parametrize(
    ("name", "triton", "gemlite"),
    [
        ("bf16_mma", ["triton-bf16"], []),
        ("sparse_mma", ["triton-bf16"], []),
        ("fp16_gemv", ["triton-fp16", "triton-int4"], ["gemlite-int4", "gemlite-int8"]),
        ("fp32_tiled", [], []),
        ("int8_mma", [], []),
        ("w8a8_mma", [], []),
        ("rational_columns", [], []),
    ],
)
def test_each_family_meets_what_computes_the_same(monkeypatch, name, triton, gemlite):
    for module in (by_triton, by_gemlite):
        monkeypatch.setattr(module, "missing", lambda package, install: "")
    sets = SimpleNamespace(kernel=kernels()[name])
    assert [label for label, _ in by_triton.baselines(sets)] == triton
    assert [label for label, _ in by_gemlite.baselines(sets)] == gemlite


def test_halves_are_the_codes_of_a_group():
    weight = quantized(np.random.default_rng(0).standard_normal((3, 256), np.float32), "int4")
    packed = by_triton.halves(weight)
    assert packed.shape == (3, 128)
    assert packed.dtype == np.uint8
    for byte, first in ((0, 0), (63, 63), (64, 128), (127, 191)):
        np.testing.assert_array_equal(packed[:, byte] & 15, weight.codes[:, first])
        np.testing.assert_array_equal(packed[:, byte] >> 4, weight.codes[:, first + 64])


def interpreted(which: str, *names: str) -> dict[str, dict[str, float | str]]:
    """Kernel -> candidate of `which` on its operands -> relative error, or why there is none."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), which, *names],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_interpreter_gives_the_product():
    pytest.importorskip("triton", reason=NO_TRITON)
    found = interpreted("triton", "fp16_gemv", "w4_mma")
    # the shape of the first has a K that no tile divides, and that is no whole number of groups
    assert found["fp16_gemv"]["triton-int4"] == "triton-int4 takes K a multiple of 128; this is 250"
    assert isinstance(found["fp16_gemv"]["triton-fp16"], float)
    assert found["fp16_gemv"]["triton-fp16"] < 5e-4  # the result in half precision
    assert found["w4_mma"]["triton-fp16"] < 5e-4
    assert found["w4_mma"]["triton-int4"] < 6e-4  # and the weight of each code in half precision


@pytest.mark.slow
def test_gemlites_layers_are_asked_for_the_same_product():
    pytest.importorskip("triton", reason=NO_TRITON)
    if not by_triton.importlib.util.find_spec("gemlite"):
        pytest.skip("gemlite is not installed: pip install gemlite")
    found = interpreted("gemlite", "fp16_gemv", "w4_mma")
    assert found["fp16_gemv"]["gemlite-int4"] == "gemlite-int4 takes K a multiple of 128; this is 250"
    assert found["w4_mma"]["gemlite-int4"] < 2e-3
    assert found["w4_mma"]["gemlite-int8"] < 5e-3


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("name", "dtype"), [("dense", "fp16"), ("dense", "bf16"), ("weight_only", "fp16")])
def test_machine_code_without_a_gpu(name, dtype, capability):
    triton = pytest.importorskip("triton", reason=NO_TRITON)
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from workbench.speed import triton_kernels

    half = f"*{dtype}"
    pointers, told, tiles = {
        "dense": (
            {"a": half, "b": half, "c": "*fp32"},
            {"WHOLE": True, "ROWS_OF_TILES": triton_kernels.BAND},
            triton_kernels.DENSE,
        ),
        "weight_only": (
            {"x": half, "codes": "*u8", "scale": "*fp16", "zero": "*fp32", "y": half},
            {"HALF": by_triton.HALF},
            triton_kernels.WEIGHT_ONLY,
        ),
    }[name]
    for tile in (tiles[0], tiles[-1]):  # of few rows, and of many
        constants = {**tile.kwargs, **told}
        signature = pointers | dict.fromkeys(("M", "N", "K"), "i32") | dict.fromkeys(constants, "constexpr")
        aligned = {(place,): [["tt.divisibility", 16]] for place in range(len(pointers) + 3)}
        source = ASTSource(getattr(triton_kernels, name), signature, constexprs=constants, attrs=aligned)
        made = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
        )
        assert made.asm["cubin"][:4] == b"\x7fELF"
        assert f".target sm_{capability}" in made.asm["ptx"]
        wide = capability == 90 and tile.kwargs["TILE_M"] >= 64
        assert ("wgmma.mma_async" if wide else "mma.sync") in made.asm["ptx"]
        assert made.metadata.shared <= MOST_SHARED["sm_80" if capability == 80 else "sm_90a"]
