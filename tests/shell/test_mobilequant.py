"""`workbench mobilequant`: its document, its tables, and one line for what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from workbench import cli


@pytest.fixture
def mobilequant(monkeypatch, tmp_path, llama_folder, text_file):
    """Said of the command on a random Llama, or on another model, with these further words."""
    monkeypatch.chdir(tmp_path)

    def run(*words, model=llama_folder, texts=("--text", text_file, "--calibration", text_file)):
        said = ("mobilequant", model, *texts, "--tokens", 128, *words)
        return CliRunner().invoke(cli.app, [str(word) for word in said])

    return run


def test_quality_learning_and_points_are_one_document(mobilequant):
    said = mobilequant("--bits", 4, "--steps", 3, "--json")
    assert said.exit_code == 0, said.stderr
    document = json.loads(said.stdout)
    assert set(document) == {"model", "networks", "learning", "exact", "kl_to_fake_quantization", "points"}
    assert document["exact"] is True
    assert "bits=4" in document["model"]["method"]
    assert [row["network"] for row in document["networks"]] == [
        "float",
        "minmax",
        "smoothquant",
        "learned",
        "integer",
    ]
    assert all(row["perplexity"] > 1 and 0 <= row["top1_agreement"] <= 1 for row in document["networks"])
    assert len(document["learning"]["losses"]) == 3
    assert document["learning"]["loss after"] <= document["learning"]["loss before"]
    points = document["points"]
    assert len(points) == 2 + 2 * 18
    assert not any(point["differ"] for point in points)
    assert all(point["low"] <= 0 < point["high"] for point in points)
    assert {point["bits"] for point in points} == {8, 12, 16}


def test_a_person_reads_whether_the_integers_are_exact(mobilequant):
    said = mobilequant("--steps", 0)
    assert said.exit_code == 0, said.stderr
    assert "codes and logits are those of the simulation in float64" in said.stdout
    assert "128 tokens of text.txt" in said.stdout
    assert "1.hidden" in said.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--bits", "5"), "bits = 5 is not possible: take 4, 8"),
        (("--act-bits", "4"), "act_bits = 4 is not possible: take 8, 16"),
        (("--steps", "-1"), "steps = -1 is not possible"),
        (("--calibration", "nothing.txt"), "--calibration nothing.txt cannot be read"),
    ],
)
def test_what_is_refused_is_one_line(mobilequant, words, reason):
    said = mobilequant(*words)
    assert (said.exit_code, said.stdout) == (1, "")
    (line,) = said.stderr.splitlines()
    assert reason in line


def test_what_is_no_llama_is_refused(mobilequant):
    said = mobilequant(model="tiny-vit", texts=())
    assert (said.exit_code, said.stdout) == (1, "")
    assert "tiny-vit is no language model: the integer pass is written for the Llama family" in said.stderr
