"""The hub: one line on any failure, quickly, and the cache offline. Nothing here uses a network."""

import threading
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from workbench.files import hub

SHA = "0" * 40
RESPONSE: Any = SimpleNamespace(headers={}, request=None, status_code=0)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What snapshot_download is called with; it answers with a folder, or raises asked["raises"]."""
    calls = {"raises": None}

    def snapshot_download(repo_id, **options):
        calls.update(options, repo_id=repo_id)
        if calls["raises"] is not None:
            raise calls["raises"]
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def answers(monkeypatch, act):
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, repo_id, timeout: act())


def fail(error):
    def act():
        raise error

    return act


def test_only_weights_config_and_tokenizer_are_fetched(monkeypatch, asked, tmp_path):
    answers(monkeypatch, lambda: None)
    assert hub.fetch("owner/name") == tmp_path
    assert asked["allow_patterns"] == list(hub.PATTERNS)
    assert not asked["local_files_only"]
    assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in hub.PATTERNS)


def test_the_cache_serves_where_the_hub_does_not_answer(monkeypatch, asked, tmp_path):
    answers(monkeypatch, fail(ConnectionError("no route to host")))
    assert hub.fetch("owner/name") == tmp_path
    assert asked["local_files_only"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionError("[Errno -2] Name or\nservice not known"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE=1"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "no public model of that id"),
        (errors.GatedRepoError("403", response=RESPONSE), "gated"),
        (errors.HfHubHTTPError("500 Server\nError", response=RESPONSE), "the hub answered: 500"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_failure_is_one_line_with_the_way_out(monkeypatch, asked, refused, error, words):
    answers(monkeypatch, fail(error))
    asked["raises"] = errors.LocalEntryNotFoundError("not cached")
    refused(lambda: hub.fetch("owner/name"), "'owner/name'", words, "give the directory")


def test_a_gate_met_while_downloading_is_one_line(monkeypatch, asked, refused):
    answers(monkeypatch, lambda: None)
    asked["raises"] = errors.GatedRepoError("403", response=RESPONSE)
    refused(lambda: hub.fetch("owner/name"), "'owner/name'", "gated", "hf auth login", "give the directory")


def test_a_hub_that_never_answers_is_given_up(monkeypatch, asked, refused):
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    given_up, answered = threading.Event(), []
    answers(monkeypatch, lambda: answered.append(given_up.wait(60)))
    asked["raises"] = errors.LocalEntryNotFoundError("not cached")
    refused(lambda: hub.fetch("tiny-lama/x"), "'tiny-lama/x'", "did not answer", "give the directory")
    assert answered == [], "it waited for the answer"
    given_up.set()


@pytest.mark.parametrize(
    "repo_id", ["", "a/b/c", "../x", "a b", "a/b\n", "a--b/c", "x" * 200, "/abs", "a/.."]
)
def test_what_is_no_id_is_refused_without_asking(monkeypatch, asked, refused, repo_id):
    answers(monkeypatch, lambda: pytest.fail("asked"))
    refused(lambda: hub.fetch(repo_id), "hub id of the form owner/name")


def test_the_real_client_finds_its_cache_offline(monkeypatch, tmp_path, refused):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(SHA)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    answers(monkeypatch, fail(errors.OfflineModeIsEnabled("offline")))
    assert hub.fetch("owner/name") == snapshot
    refused(lambda: hub.fetch("owner/nam"), "'owner/nam'", "HF_HUB_OFFLINE=1")
