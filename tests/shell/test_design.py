"""`workbench design`: its rows, its front, and one line for what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from workbench import cli
from workbench.engine.design import FORMATS
from workbench.shell.design import formats_of


@pytest.fixture
def design(monkeypatch, tmp_path, llama_folder, text_file):
    """On 256 tokens of a random Llama, with these further words."""
    monkeypatch.chdir(tmp_path)
    words = ["design", str(llama_folder), "--text", str(text_file), "--tokens", "256"]
    return lambda *more: CliRunner().invoke(cli.app, [*words, *more])


def test_every_combination_is_a_row_and_the_front_is_told(design):
    said = design("--formats", "int4,int8", "--helpers", "", "--helpers", "smoothquant", "--json")
    assert said.exit_code == 0, said.stderr
    rows = json.loads(said.stdout)["designs"]
    assert {(row["weight"], row["helpers"]) for row in rows} == {
        (weight, helpers) for weight in ("int4", "int8") for helpers in ("", "smoothquant")
    }
    assert all(row["kl"] > 0 and row["luts_per_mac"] > 0 for row in rows)
    for row in rows:
        beaten = any(
            other["luts_per_mac"] <= row["luts_per_mac"] and other["kl"] < row["kl"] for other in rows
        )
        assert row["front"] == (not beaten)


def test_inputs_may_stay_float_and_then_bits_are_the_cost(design):
    said = design("--formats", "e2m1", "--activations", "none")
    assert said.exit_code == 0, said.stderr
    assert "float" in said.stdout
    assert "(bits_per_weight)" in " ".join(said.stdout.split())


def test_globs_choose_formats_in_their_order():
    assert formats_of("*") == list(FORMATS)
    assert formats_of("e2m1, int?") == ["int3", "int4", "int5", "int6", "int7", "int8", "e2m1"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--formats", "int44"), "'int44' is no format of a design space; near: int4"),
        (("--activations", "e9m9"), "is no format"),
        (("--granularity", "group"), "take tensor or channel"),
        (("--helpers", "gptq+adaround"), "both round the weights"),
        (("--helpers", "gptqq"), "is no helper; near: gptq"),
    ],
)
def test_what_will_not_do_is_one_line(design, words, reason):
    said = design(*words)
    assert said.exit_code == 1
    assert reason in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
