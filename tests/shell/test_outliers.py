"""`workbench outliers`: its rows before and after, and one line for what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import cli


@pytest.fixture
def outliers(monkeypatch, tmp_path, llama_folder, text_file):
    """Of a random Llama, with these further words."""
    monkeypatch.chdir(tmp_path)
    words = ["outliers", str(llama_folder), "--calibration", str(text_file)]
    return lambda *more: CliRunner().invoke(cli.app, [*words, *more])


def test_rows_are_those_of_the_inspector(outliers):
    said = outliers("--method", "SmoothQuant(alpha=0.9)", "--layers", "role:down", "--json")
    assert said.exit_code == 0, said.stderr
    rows = json.loads(said.stdout)["layers"]
    assert [row["role"] for row in rows] == ["down", "down"]
    for row in rows:
        assert row["ratio"] > row["ratio_after"] >= 1
        assert row["weight_ratio_after"] > row["weight_ratio"]


def test_without_a_method_there_is_one_side_and_a_recipe_is_a_side_too(outliers, tmp_path):
    said = outliers("--layers", "role:q")
    assert said.exit_code == 0, said.stderr
    assert "ratio_after" not in said.stdout
    wb.Recipe([wb.SmoothQuant()]).save(tmp_path / "r.yaml")
    said = outliers("--layers", "role:q", "--recipe", "r.yaml", "--json")
    assert said.exit_code == 0, said.stderr
    assert all(row["ratio_after"] < row["ratio"] for row in json.loads(said.stdout)["layers"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--method", "rtn"), "finds no scales of input channels: take smoothquant or awq"),
        (("--method", "awk"), "near: awq"),
        (("--method", "awq", "--recipe", "r.yaml"), "give one of them"),
        (("--layers", "nothing"), "nothing"),
    ],
)
def test_what_will_not_do_is_one_line(outliers, words, reason):
    said = outliers(*words)
    assert said.exit_code == 1
    assert reason in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
