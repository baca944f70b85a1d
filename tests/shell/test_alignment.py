"""`workbench align`: the document of two networks and of three, what it writes, and one line for what it refuses."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import cli


@pytest.fixture
def align(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, ["align", *words])


FEW = ("--images", "100", "--points", "3", "--orders", "1")


def test_two_networks_are_one_document(align, tmp_path):
    said = align("tiny-mlp", "tiny-mlp-b", *FEW, "--out", "middle", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["networks"] == ["tiny-mlp", "tiny-mlp-b"]
    assert found["barrier"]["matched"] < 0.3 * found["barrier"]["naive"]
    assert found["distance"]["matched"] < found["distance"]["naive"]
    assert found["objective"]["matched"] > found["objective"]["naive"]
    assert [(row["line"], row["t"]) for row in found["line"]] == [
        (name, t) for name in ("naive", "matched") for t in (0, 0.5, 1)
    ]
    assert {"loss", "accuracy", "barrier"} < set(found["line"][0])
    assert {row["name"] for row in found["layers"]} == {"layers.0", "layers.1", "layers.2", "head"}
    assert [row["size"] for row in found["groups"]] == [512] * 3
    middle = wb.load(tmp_path / "middle")
    accuracy = wb.Quality(middle, wb.evaluation(middle).first(100)).measure()["accuracy"]
    assert accuracy == pytest.approx(found["line"][4]["accuracy"])


def test_a_person_reads_three_tables(align):
    said = align("tiny-mlp", "tiny-mlp-c", *FEW)
    assert said.exit_code == 0, said.stderr
    for words in (
        "From tiny-mlp to tiny-mlp-c",
        "highest barrier in nats: naive",
        "Layers",
        "Groups of units",
    ):
        assert words in said.stdout


def test_three_networks_are_merged(align):
    said = align("tiny-mlp", "tiny-mlp-b", "tiny-mlp", "--images", "100", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    rows = {row["network"]: row for row in found["merged"]}
    assert rows["merged"]["loss"] < rows["plain mean"]["loss"]
    assert found["spread"]["matched"] < found["spread"]["naive"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("tiny-mlp",), "two networks or more"),
        (("tiny-mlp", "tiny-mlp-d"), "near: tiny-mlp"),
        (("tiny-mlp", "tiny-vit"), "different architectures"),
        (("tiny-mlp", "tiny-mlp-b", "--points", "2"), "take 3 or more"),
        (("tiny-mlp", "tiny-mlp-b", "--orders", "0"), "take 1 or more"),
        (("tiny-mlp", "tiny-mlp-b", "--images", "0"), "give 1 or more"),
        (("tiny-mlp", "tiny-mlp-b", "--text", "t.txt"), "--text is for language models"),
    ],
)
def test_what_will_not_do_is_one_line(align, words, reason):
    said = align(*words)
    assert said.exit_code == 1
    assert reason in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_a_folder_that_is_not_empty_is_refused_before_the_work(align, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept").write_text("x")
    said = align("tiny-mlp", "tiny-mlp-b", "--out", "full")
    assert said.exit_code == 1
    assert "not an empty folder" in said.stderr
