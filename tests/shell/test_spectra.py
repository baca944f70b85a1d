"""`workbench spectra`: what it refuses before anything is measured, its options, and the recipe it writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import workbench as wb
from workbench import cli

ALLOCATE = ("--allocate", "Wanda(sparsity=0.5)")


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(cli.app, ["spectra", *(str(word) for word in words)])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((*ALLOCATE, "--metric", "alpah"), "--metric 'alpah' is none of alpha, alpha_hill, alpha_peak, alpha_farms; n"),
        ((*ALLOCATE, "--by", "layr"), "by 'layr' is neither block nor layer; near: layer"),
        ((*ALLOCATE, "--heads"), "for whole layers: leave --heads out"),
        ((*ALLOCATE, "--out", "nowhere/r.yaml"), "--out nowhere/r.yaml: the recipe cannot be written: No such file"),
        ((*ALLOCATE, "--out", "."), "--out .: the recipe cannot be written: it is a folder"),
        ((*ALLOCATE, "--eps", "2"), "eps is 2; take 0 (all alike)"),
        (("--allocate", "RTN(format='nf4')"), "neither a free sparsity nor bits"),
        (("--out", "r.yaml"), "--out writes the recipe of --allocate"),
        (("--extra", "frams"), "--extra 'frams' is none of"),
        (("--stride", "0"), "stride 0 start at 1"),
        (("--seed", "-1"), "seed -1"),
    ],
)  # fmt: skip
def test_what_can_be_known_is_refused_before_anything_is_opened(shell, words, reason, monkeypatch):
    monkeypatch.setattr("workbench.files.load.load", lambda *_: pytest.fail("the model was opened"))
    said = shell("tiny-llama", *words)
    assert said.exit_code == 1, said.output
    assert reason in said.stderr
    assert "extra=" not in said.stderr  # no Python at a prompt
    assert len(said.stderr.strip().splitlines()) == 1


def test_the_recipe_keeps_its_mean_and_says_who_was_left_alone(shell, tmp_path):
    said = shell("tiny-llama", *ALLOCATE, "--out", "r.yaml", "--json")
    assert said.exit_code == 0, said.stderr
    document = json.loads(said.stdout)
    assert "an embedding" in document["recipe"]["left_alone"]["model.embed_tokens"]
    model, recipe = wb.load("tiny-llama"), wb.Recipe.load(tmp_path / "r.yaml")
    work = wb.plan(model, recipe).work
    shares = [entry.methods[0].sparsity for entry in work]
    assert np.average(shares, weights=[e.layer.parameters for e in work]) == pytest.approx(0.5, abs=1e-5)
    assert recipe.label == "wanda 50 % by alpha (5 groups)"
    table = shell("tiny-llama", *ALLOCATE).stdout
    assert "mean over their weights 0.5" in table
    assert "model.embed_tokens: an embedding" in table


def test_eps_and_the_metric_are_those_of_the_recipe(shell):
    words = ("--layers", "role:q", *ALLOCATE, "--by", "layer", "--json")
    wide, narrow, peak = (
        json.loads(shell("tiny-llama", *words, *more).stdout)
        for more in (("--eps", "0.5"), ("--eps", "0.05"), ("--metric", "alpha_peak"))
    )
    spread = lambda said: np.ptp(list(said["recipe"]["assignment"].values()))  # noqa: E731
    assert spread(wide) > 0.3 > 0.06 > spread(narrow) > 0
    assert peak["layers"][0]["alpha_peak"] > 1
    assert peak["recipe"]["metric"] == "alpha_peak"


def test_stride_and_seed_reach_the_columns(shell, llama_folder):
    words = (llama_folder, "--layers", "role:q", "--extra", "farms,randomize", "--rows", "16", "--json")
    first = lambda *more: json.loads(shell(*words, *more).stdout)["layers"][0]  # noqa: E731
    plain, strided, seeded = first(), first("--stride", "48"), first("--seed", "3")
    assert strided["alpha_farms"] != plain["alpha_farms"]
    assert strided["max_rand_eval"] == plain["max_rand_eval"] != seeded["max_rand_eval"]
    w = wb.load(llama_folder).base_weight(plain["name"])
    assert strided["alpha_farms"] == pytest.approx(wb.spectra.farms(w, rows=16, stride=48).alpha)


def test_a_recipe_that_needs_inputs_says_on_what_it_was_calibrated(shell, tmp_path):
    path = tmp_path / "r.yaml"
    wb.Recipe([wb.Step(wb.Wanda(sparsity=0.5), "role:q")]).save(path)
    said = shell("tiny-llama", "--layers", "model.layers.0.*q_proj", "--recipe", path)
    assert "each layer is compressed alone, on statistics of the unchanged model" in said.stderr
    wb.Recipe([wb.Step(wb.RTN(bits=4), "role:q")]).save(path)
    assert "alone" not in shell("tiny-llama", "--layers", "model.layers.0.*q_proj", "--recipe", path).stderr
    assert "unchanged" in " ".join(shell("--help").stdout.split())
