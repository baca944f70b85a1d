"""`workbench sensitivity`: its document, the recipe it writes, and one line for what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import cli
from workbench.errors import Refused
from workbench.shell.sensitivity import methods_of


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture
def sensitivity(shell, llama_folder, text_file):
    """On 512 tokens of a random Llama; Said of the command with these further words."""
    return lambda *words: shell("sensitivity", llama_folder, "--text", text_file, "--tokens", 512, *words)


def test_layers_recipe_and_measures_are_one_document(sensitivity, tmp_path):
    out = tmp_path / "mixed.yaml"
    words = ("--bits", "2,4", "--layers", "*.0.*", "--budget", "4", "--out", out, "--json")
    said = sensitivity(*words)
    assert said.exit_code == 0, said.stderr
    document = json.loads(said.stdout)
    rows, recipe = document["layers"], document["recipe"]
    assert len(rows) == 7 * 2
    assert {row["method"] for row in rows} == {"rtn 2 g64", "rtn 4 g64"}
    assert all(row["kl"] > 0 and row["bits_per_weight"] > 2 for row in rows)
    assert recipe["bits_per_weight"] <= 4
    chosen = {(name, method) for name, method in recipe["assignment"].items()}
    found = sum(row["kl"] for row in rows if (row["name"], row["method"]) in chosen)
    assert recipe["predicted_kl"] == pytest.approx(found)
    assert recipe["kl"] == pytest.approx(found, rel=0.5)  # layers interact, but not that much
    assert wb.Recipe.load(out) == wb.Recipe.from_yaml(recipe["yaml"])
    assert {step.method.bits for step in wb.Recipe.load(out)} == {2, 4}


def test_without_a_budget_there_is_no_recipe_and_the_table_is_sorted(sensitivity):
    said = sensitivity("--method", "RTN(bits=3, group_size=32)", "--layers", "role:down")
    assert said.exit_code == 0, said.stderr
    lines = [line for line in said.stdout.splitlines() if "down_proj" in line]
    assert len(lines) == 2
    assert all("rtn 3 g32" in line for line in lines)
    assert "Recipe" not in said.stdout
    assert "KL divergence" in said.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--out", "r.yaml"), "--out writes the recipe of a budget: give --budget"),
        (("--bits", "2,x"), "--bits '2,x' is not a list of widths"),
        (("--bits", "9"), "bits = 9 is not possible"),
        (("--method", "rnt"), "near: rtn"),
        (("--method", "RTN(4)"), "is not a method, such as RTN"),
        (("--layers", "role:dwn"), "near: down"),
        (("--layers", "role:q", "--bits", "4", "--budget", "1"), "below the smallest possible here, 4.3"),
    ],
)
def test_what_is_refused_is_one_line(sensitivity, words, reason):
    said = sensitivity(*words)
    assert (said.exit_code, said.stdout) == (1, "")
    (line,) = said.stderr.splitlines()
    assert reason in line


def test_methods_of_the_command_line():
    assert methods_of(["rtn"], None) == [wb.RTN(bits=b) for b in (2, 3, 4, 8)]
    assert methods_of(["RTN(bits=3, group_size=32)"], None) == [wb.RTN(bits=3, group_size=32)]
    widths = [wb.RTN(bits=b, group_size=32) for b in (2, 5)]
    assert methods_of(["RTN(bits=3, group_size=32)"], "2,5") == widths
    assert methods_of(["magnitude", "rtn"], "2,2") == [wb.Magnitude(), wb.RTN(bits=2)]
    with pytest.raises(Refused):
        methods_of(["nothing"], None)
