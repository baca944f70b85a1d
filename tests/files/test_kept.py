"""Kept layers: what is written comes back equal, whole or not at all."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.files.kept import Kept, load_compressed, save_compressed
from workbench.grid import Report
from workbench.methods import METHODS, Statistics

FORMATS = ["int", "e2m1", "e4m3", "nf4", "kmeans", "power", "mxfp4", "mxint8", "nvfp4", "binary", "ternary"]


def layer() -> tuple[torch.Tensor, Statistics]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(128, 64, generator=g)
    return torch.randn(16, 64, generator=g), Statistics(
        128,
        x.abs().mean(0),
        x.square().mean(0),
        x.abs().amax(0),
        x.T @ x / 128,
        x,
        x.mean(0),
        x.amin(0),
        x.amax(0),
    )


def same(a, b) -> None:
    assert torch.equal(a.dequantize(), b.dequantize())
    assert a.bits_per_weight == b.bits_per_weight
    assert a.grid == b.grid
    assert a.n_m == b.n_m
    assert a.inputs == b.inputs
    assert a.report == b.report
    assert (a.shift is None and b.shift is None) or torch.equal(a.shift, b.shift)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_comes_back_as_it_was(tmp_path, format):
    w, _ = layer()
    made = wb.RTN(format=format, group_size=32).compress(w)
    save_compressed(made, tmp_path / "w.safetensors")
    same(made, load_compressed(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    "methods",
    [
        [wb.AWQ(protect=0.05), wb.Activations(granularity="tensor"), wb.BiasCorrection()],
        [wb.SparseGPT(n_m=(2, 4))],
        [wb.GPTQ(static_groups=False, scale_search="none")],
        [wb.RTN(format="nf4", double_quant=True)],
    ],
)
def test_every_part_comes_back_as_it_was(tmp_path, methods):
    w, known = layer()
    made = wb.compress(w, methods, known).with_report(
        Report({"loss": [2.0, 1.0]}, {"axis": "inputs"}, ("careful",))
    )
    save_compressed(made, tmp_path / "w.safetensors")
    same(made, load_compressed(tmp_path / "w.safetensors"))
    assert not list(tmp_path.glob("*.part"))


def test_every_method_can_be_kept(tmp_path):
    w, known = layer()
    for name in METHODS:
        made = METHODS[name]().compress(w, known)
        save_compressed(made, tmp_path / f"{name}.safetensors")
        same(made, load_compressed(tmp_path / f"{name}.safetensors"))


def test_what_is_no_kept_layer_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not one")
    with pytest.raises(Refused, match=r"w.safetensors is not a compressed weight .*: delete it"):
        load_compressed(tmp_path / "w.safetensors")


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(Refused, match="is not empty and holds no run of ours: give a new or empty folder"):
        Kept(tmp_path, {"recipe": "a"}, [])
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_run_that_cannot_be_read_is_refused(tmp_path):
    Kept(tmp_path / "run", {"recipe": "a"}, [])
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(Refused, match=r"run.json cannot be read .*: take another folder, or delete this one"):
        Kept(tmp_path / "run", {"recipe": "a"}, [])


def test_a_full_disk_leaves_no_half_a_file(tmp_path, monkeypatch):
    def full(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.files.kept.save_file", full)
    with pytest.raises(
        Refused, match=r"could not be written .*: free some space, the finished layers are kept"
    ):
        save_compressed(wb.RTN().compress(layer()[0]), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []
