"""`workbench emulate`: a right kernel, one without its barrier, and what is refused."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from workbench.shell.emulate import emulate
from workbench.shell.report import verb
from workbench.speed import NoCompiler, cxx, fuzz, kernels

APP = typer.Typer()
APP.command()(verb(emulate))


@pytest.fixture(autouse=True)
def compiler() -> None:
    try:
        cxx.find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


def said(*words: str) -> str:
    result = CliRunner().invoke(APP, words)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_right_kernel_passes_and_json_has_every_row():
    text = said("fp32_tile?", "--shape", "33x65x70")
    assert "5 of 5" in text
    assert "none" in text
    rows = json.loads(said("fp32_tiled", "--shape", "33x65x70", "--json"))["schedules"]
    assert [row["schedule"] for row in rows] == list(fuzz.CHECKS)
    assert all(row["passed"] for row in rows)
    assert set(fuzz.SCHEDULE_COLUMNS) < set(rows[0])


def test_a_file_without_a_barrier_names_the_two_threads(tmp_path):
    source = kernels()["fp32_tiled"].source
    file = tmp_path / "fp32_tiled.cu"
    file.write_text(source.replace("__syncthreads();", "", 1), encoding="utf-8")
    text = said(str(file), "--shape", "33x65x70")
    assert "0 of 5" in text
    assert "fp32_tiled, races: block (0, 0, 0), thread (1, 0, 0): race: writes a_tile[0][1]" in text
    assert "which thread (0, 0, 0) read" in text


def test_each_synchronisation_is_a_row():
    rows = json.loads(said("fp32_tiled", "--shape", "33x65x70", "--leave-out", "--json"))["synchronisations"]
    assert [row["caught"] for row in rows] == [True, True]
    assert "line 36: race: block" in said("fp32_tiled", "--shape", "33x65x70", "--leave-out")


def test_what_is_not_there_is_refused_in_one_line(tmp_path):
    reasons = {"fp32_tilde": "no CUDA kernel matches 'fp32_tilde'; near: fp32_tiled"}
    reasons[str(tmp_path / "x.cu")] = "no such kernel file"
    for words, reason in reasons.items():
        result = CliRunner().invoke(APP, [words])
        assert result.exit_code == 1
        assert reason in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("passed", "message", "said"),
    [
        (True, "", "none"),
        (None, "the compiler cannot watch", "not looked for"),
        (False, "race: block (0, 0, 0), thread (1, 0, 0): writes", "yes"),
        (False, "C[0, 0] is 2.0 instead of 1.0", "not told: it fails"),
    ],
)
def test_only_a_race_is_called_one(passed, message, said):
    assert fuzz.raced({"passed": passed, "message": message}) == said
