"""The network on the bench beside others: how they are named, which lie near, what a job leaves, and the code."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stdout

import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.errors import Refused
from workbench.inspect import Session
from workbench.inspect.networks import check_known, few, names_in, siblings
from workbench.jobs import Cancelled
from workbench.model import zoo


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trainings under one name each, a stranger, and a folder that is no checkpoint."""
    folder = tmp_path_factory.mktemp("runs")
    for run, origin in (("run-a", "tiny-mlp"), ("run-b", "tiny-mlp-b"), ("stranger", "tiny-vit")):
        target = folder / run
        target.mkdir()
        for file in ("config.json", "model.safetensors"):
            (target / file).write_bytes((zoo.embedded(origin).folder / file).read_bytes())
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{}")
    (folder / "broken" / "model.safetensors").write_bytes(b"short")
    return folder


@pytest.fixture
def session():
    model = wb.load("tiny-mlp")
    return Session(model, wb.evaluation(model).first(100))


def test_names_are_separated_by_commas_and_lines():
    assert names_in(" tiny-mlp-b, 'runs/b c'\n\n tiny-mlp-c ,tiny-mlp-b") == (
        "tiny-mlp-b",
        "runs/b c",
        "tiny-mlp-c",
    )
    for nothing in ("", " ,\n "):
        with pytest.raises(Refused, match="no other network is named"):
            names_in(nothing)


def test_what_lies_near_has_the_same_tensors(runs):
    assert siblings(wb.load("tiny-mlp")) == ["tiny-mlp-b", "tiny-mlp-c"]
    assert siblings(wb.load("tiny-resnet")) == ["tiny-resnet-b"]
    assert siblings(wb.load("tiny-vit")) == []
    found = siblings(wb.load(runs / "run-a"))
    assert found == ["tiny-mlp", "tiny-mlp-b", "tiny-mlp-c", str(runs / "run-b")]


def test_no_weight_is_read_to_find_them(runs, monkeypatch):
    model = wb.load(runs / "run-a")

    def refuse(*_):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("workbench.files.safetensors.SafetensorsFile.read", refuse)
    assert len(siblings(model)) == 4


def test_a_network_that_cannot_be_compared_is_known_by_its_headers():
    check_known(wb.load("tiny-llama"))
    with pytest.raises(Refused, match="permutations are known for"):
        check_known(
            wb.load(torch.nn.Sequential(torch.nn.Conv1d(3, 4, 2), torch.nn.PReLU()), task="classification")
        )
    with pytest.raises(Refused, match="pass task="):
        check_known(wb.load(torch.nn.Linear(3, 4)))


def test_a_session_measures_the_line_and_then_the_mean(session):
    with pytest.raises(Refused, match="nothing to merge"):
        session.merge_networks()
    found = session.measure_networks("tiny-mlp-b, tiny-mlp-c").wait(120)
    assert session.networks is found
    assert found.pair.barriers["matched"] < 0.3 * found.pair.barriers["naive"]
    assert not found.merged.computed
    session.merge_networks().wait(120)
    table = found.merged.table.set_index("network")
    assert table.loc["merged", "loss"] < table.loc["plain mean", "loss"]


def test_a_cancelled_job_is_taken_up_again_and_a_failed_one_is_not(session):
    job = session.measure_networks("tiny-mlp-b")
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait(60)
    assert session.networks is None
    begun = session._begun
    assert session.measure_networks("tiny-mlp-b").wait(120) is (begun or session.networks)
    kept = session.networks
    with pytest.raises(Refused, match="different architectures"):
        session.measure_networks("tiny-vit").wait(60)
    assert session.networks is kept
    assert session._begun is None


def test_trainings_that_share_their_name_are_told_apart(runs, tmp_path):
    for run in ("run-a", "run-b"):
        shutil.copytree(runs / run, tmp_path / run / "final")
    model = wb.load(tmp_path / "run-a" / "final")
    session = Session(model, wb.evaluation(model).first(50))
    pair = session.measure_networks(str(tmp_path / "run-b" / "final")).wait(120).pair
    assert (pair.a.name, pair.b.name) == ("final", "run-b/final")


def test_weights_that_are_not_finite_are_refused_by_name(session, runs, tmp_path):
    tensors = load_file(runs / "run-b" / "model.safetensors")
    tensors["layers.1.weight"][3, 4] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((runs / "run-b" / "config.json").read_bytes())
    with pytest.raises(Refused, match=r"layers\.1\.weight of .* NaN or Inf"):
        session.measure_networks(str(tmp_path)).wait(60)


def test_the_code_gives_the_same_numbers(runs):
    session = Session(wb.load("tiny-mlp"))
    assert "others" not in session.code()
    found = session.measure_networks(f"{runs / 'run-b'}").wait(120)
    code, said = session.code(), io.StringIO()
    assert f"wb.load({str(runs / 'run-b')!r})" in code
    assert "MergedNetworks" not in code
    names: dict = {}
    with redirect_stdout(said):
        exec(code, names)
    assert names["pair"].barriers == pytest.approx(found.pair.barriers)
    assert names["data"].what == few(session.data).what
    assert str(found.pair.barriers) in said.getvalue()
