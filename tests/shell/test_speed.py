"""`workbench speed`: a table that fits the terminal and says what it leaves out; everything where it is asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from workbench.shell import report
from workbench.shell.report import verb
from workbench.shell.speed import MEANT, SHORT, SPARE, SPARE_OF_LAYER, narrow, speed, whole
from workbench.speed.table import COLUMNS, new_row

ANSI = re.compile(r"\x1b\[[\d;]*m")
SHAPE = (1, 4096, 14336)


def row(kernel: str, device: str = "AMD EPYC 9654", note: str = "one thread", **known) -> dict:
    made = dict.fromkeys(COLUMNS) | new_row(SHAPE, kernel, device, 4, "0123456789ab", note)
    return made | known


def timed(kernel: str, baseline: str, **known) -> dict:
    numbers = {
        "seconds": 0.00031234,
        "seconds_hot": 0.00029876,
        "ratio": 8.4567,
        "gflops": 107.43,
        "gbps": 26.123,
        "of_bandwidth": 0.9712,
        "relative_error": 0.006149,
        "weight_error": 0.09958,
        "rounds": 7,
        "packing": "planes",
    }
    told = {"baseline": baseline, "where": "measured", "verdict": "faster"}
    return row(kernel, **numbers | told | known)


CPU = [
    timed("cpu-w4-lut", "cpu-torch-fp32", note="tables of activations; one thread"),
    timed("cpu-w4-dequant", "cpu-torch-fp32", ratio=1.0012, verdict="equal"),
]
GPU = [
    timed("nf4_registers", "cublas-fp16", device="NVIDIA H200", registers=128, shared_bytes=98304, spills=0),
    timed("w4_split_k", "cublas-fp16", device="NVIDIA H200", registers=40, shared_bytes=2048, spills=1032),
]
OTHERS = [
    row("bf16_wgmma_persistent", "none (sm_90a)", "no GPU here: compiled for sm_90a, 168 registers, no time")
    | {"where": "compiled only", "registers": 168, "shared_bytes": 196672, "spills": 0},
    row("rational_backward_atomic", "none (sm_90)", "no GPU here: compiled for sm_90, 31 registers, no time; sm_80: 32")
    | {"where": "compiled only", "registers": 31, "shared_bytes": 0, "spills": 0},
    row("triton-fp16", "NVIDIA H200", "triton is not installed: pip install triton"),
]  # fmt: skip


def printed(tables: list[report.Table], width: int, monkeypatch, capsys) -> list[str]:
    """The lines on a terminal of that width."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    report._print_tables(tables)
    return [ANSI.sub("", line).rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_line_is_wider_than_the_terminal_and_no_row_folds(width, monkeypatch, capsys):
    lines = printed(narrow([*CPU, *GPU, *OTHERS], width), width, monkeypatch, capsys)
    assert max(map(len, lines)) <= width
    for name, ratio, error in (("cpu-w4-lut", "8.46", "0.0061"), ("w4_split_k", "8.46", "0.0061")):
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert "0.312" in line
        assert ratio in line
        assert error in line
    (other,) = (line for line in lines if line.split()[:1] == ["bf16_wgmma_persistent"])
    assert other.split()[1:] == ["sm_90a", "4", "168", "192", "0"]


def test_what_does_not_fit_is_named_and_the_least_important_goes_first():
    everything = narrow(GPU)[0].columns
    assert everything == ["kernel", *SHORT]
    before = everything
    for width in range(120, 40, -5):
        (table,) = narrow(GPU, width)
        gone = [name for name in everything if name not in table.columns]
        assert set(gone) == set(SPARE[: len(gone)])
        assert set(table.columns) <= set(before)
        assert {"kernel", "time_ms", "ratio", "error"} <= set(table.columns)
        if gone:
            assert f"not in {width} characters: {', '.join(gone)} (--wide has every column)" in table.caption
        before = table.columns


def test_each_baseline_has_a_table_and_what_all_rows_say_stands_once():
    cpu, gpu, others = narrow([*CPU, *GPU, *OTHERS])
    assert cpu.title == "1x4096x14336 on AMD EPYC 9654; ratio to cpu-torch-fp32"
    assert gpu.title == "1x4096x14336 on NVIDIA H200; ratio to cublas-fp16"
    assert "all: one thread\ncpu-w4-lut: tables of activations" in cpu.caption
    assert "registers" not in cpu.caption
    assert others.title == "1x4096x14336, not timed: no GPU here"
    assert others.caption == "triton-fp16: triton is not installed: pip install triton"
    assert set(MEANT) <= set(SHORT)
    assert set(SPARE) <= set(SHORT)


def test_wide_has_every_column_that_says_something():
    table = whole([*CPU, *OTHERS])
    assert set(table.columns) == {
        name for name in COLUMNS if any(one[name] not in (None, "") for one in [*CPU, *OTHERS])
    }
    assert {"seconds", "rounds", "source_hash", "note"} <= set(table.columns)
    assert "seconds_q25" not in table.columns  # nobody has it here
    assert table.caption.splitlines()[0] == f"device: {COLUMNS['device']}"


def test_the_verb_prints_both_and_json_has_all():
    app = typer.Typer()
    app.command()(verb(speed))

    def said(*more: str) -> str:
        words = ["--kernel", "cpu-torch-fp32", "--shape", "8x8x8", "--rounds", "1", *more]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert "8x8x8 on " in said()
    assert "ratio to cpu-torch-fp32" in said()
    assert "source_hash" not in said()
    assert "seconds_q25" in said("--wide")
    assert set(json.loads(said("--json"))["kernels"][0]) == set(COLUMNS)


# A compressed layer


LAYER = "tiny-llama:model.layers.2.mlp.down_proj"


@pytest.fixture
def ask():
    app = typer.Typer()
    app.command()(verb(speed))
    return lambda *words: CliRunner().invoke(app, words)


def test_a_layer_is_compressed_packed_and_its_errors_are_kept_apart(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = (
        "--layer",
        LAYER,
        "--method",
        "RTN(bits=4, group_size=64)",
        "--batch",
        "8",
        "--kernel",
        "cpu-torch-*",
    )
    result = ask(*words, "--rounds", "1", "--json", "--record", "run.json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert json.loads(Path("run.json").read_text("utf-8"))["layer"] == document["layer"]
    assert document["layer"] == {
        "model": "tiny-llama",
        "name": "model.layers.2.mlp.down_proj",
        "method": "RTN(bits=4, group_size=64)",
        "batch": 8,
    }
    rows = {row["kernel"]: row for row in document["kernels"]}
    assert rows["cpu-torch-fp32"]["shape"] == "8x256x704"
    assert (
        rows["cpu-torch-fp32"]["relative_error"] < 1e-5 < 0.05 < rows["cpu-torch-fp32"]["weight_error"] < 0.2
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--layer", "tiny-llama", "--method", "rtn"), "is not MODEL:NAME, such as tiny-llama:model.layers"),
        (("--layer", LAYER), "--layer needs --method"),
        (("--layer", LAYER, "--method", "rtn", "--shape", "1x2x3"), "--layer has a shape of its own"),
        (("--method", "rtn"), "--method is of a layer: add --layer MODEL:NAME"),
        (("--batch", "8"), "--batch is of a layer"),
        (
            ("--layer", "tiny-llama:downproj", "--method", "rtn"),
            "has no layer 'downproj'; near: model.layers",
        ),
        (("--layer", LAYER, "--method", "RTN(bits=99)"), "bits = 99"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_work(ask, words, says, monkeypatch):
    monkeypatch.setattr("workbench.speed.run_layer", lambda *_, **__: pytest.fail("it was run"))
    result = ask(*words)
    assert result.exit_code == 1
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_of_a_layer_the_weights_error_stays_and_the_emulators_is_told():
    known = {"packing": "steps"}
    layer = [one | known for one in CPU]
    note = (
        "no GPU here: compiled for sm_90, 63 registers, no time; sm_80: 64 registers; "
        "emulated with 2 of 8 tokens and 256 of 256 output channels: relative_error is of these"
    )
    emulated = row("w4_mma", "none (sm_90)", note)
    emulated |= {"where": "compiled only", "registers": 63, "relative_error": 2.8e-4, "weight_error": 0.094}
    timed, others = narrow([*layer, emulated], 80, SPARE_OF_LAYER)
    assert {"weight_error", "packing", "error"} <= set(timed.columns)
    assert "packing" not in narrow(layer, 80)[0].columns
    assert {"error", "weight_error"} <= set(others.columns)
    assert others.caption == "w4_mma: emulated with 2 of 8 tokens and 256 of 256 output channels"
