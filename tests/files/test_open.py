"""Whatever a person points at: opened by content, or refused in one line with the way out."""

import json
import os
import pickle
import zipfile

import pytest
import torch

from workbench.files.open import NotThere, open_source
from workbench.files.safetensors import SafetensorsFile
from workbench.files.save import save_safetensors
from workbench.files.sharded import SafetensorsFolder, ShardedCheckpoint


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.safetensors"
    save_safetensors({"w": torch.ones(2, 2)}, path)
    return path


def test_content_decides_and_not_the_suffix(weights):
    renamed = weights.rename(weights.with_name("weights.bin"))
    assert isinstance(open_source(renamed), SafetensorsFile)


def test_a_folder_prefers_the_index_then_model_safetensors_then_any(weights):
    folder = weights.parent
    assert isinstance(open_source(folder), SafetensorsFile)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "model.safetensors"}}))
    assert isinstance(open_source(folder), ShardedCheckpoint)
    assert isinstance(open_source(str(index)), ShardedCheckpoint)
    index.unlink()
    weights.rename(folder / "other.safetensors")
    assert isinstance(open_source(folder), SafetensorsFolder)


def test_several_indexes_are_refused_by_name(tmp_path, refused):
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    refused(lambda: open_source(tmp_path), "2 indexes", "a.safetensors.index.json", "give one")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl", "safetensors"])
@pytest.mark.parametrize("protocol", ["torch", "torch, legacy", 2, 3, 4, 5])
def test_a_pickle_is_refused_and_never_runs(tmp_path, monkeypatch, refused, suffix, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights.{suffix}"
    if isinstance(protocol, str):
        torch.save({"w": Bomb()}, path, _use_new_zipfile_serialization=protocol == "torch")
    else:
        path.write_bytes(pickle.dumps({"w": Bomb()}, protocol))
    refused(
        lambda: open_source(path),
        path.name,
        "pickle",
        f"state = torch.load({str(path)!r}, weights_only=True)",
        'safetensors.torch.save_file(state, "model.safetensors")',
    )
    assert not (tmp_path / "exploded").exists()


def test_a_text_pickle_is_told_by_its_suffix(tmp_path, refused):
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps([1.0], 0))
    refused(lambda: open_source(tmp_path / "weights.pkl"), "weights.pkl", "pickle", "weights_only=True")


def test_any_zip_is_refused_without_being_read(tmp_path, refused):
    with zipfile.ZipFile(tmp_path / "x.safetensors", "w") as archive:
        archive.writestr("data.pkl", b"")
    refused(lambda: open_source(tmp_path / "x.safetensors"), "x.safetensors", "pickle")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            ["Git LFS", "run git lfs pull"],
        ),
        (b"GGUF\x03\0\0\0" + bytes(40), ["GGUF", "not read yet", "safetensors of the same model"]),
        (b"\x93NUMPY\x01\0", ["numpy array", "safetensors.numpy.save_file"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5", "safetensors"]),
        (b"<!DOCTYPE html><html>", ["web page", "download"]),
        (b"", ["empty (0 bytes)", "again"]),
        (b'{"model_type": "llama"}', ["JSON without a weight_map", "give the folder"]),
        (b"something else altogether", ["not safetensors", "give a .safetensors file"]),
    ],
    ids=lambda value: repr(value[:8]) if isinstance(value, bytes) else "",
)
def test_other_files_are_refused_by_what_they_are(tmp_path, refused, content, words):
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(lambda: open_source(tmp_path / "model.safetensors"), "model.safetensors", *words)


def test_a_folder_of_pickles_is_refused_by_name(tmp_path, refused):
    for name in ("pytorch_model-1.bin", "pytorch_model-2.bin", "config.json"):
        (tmp_path / name).write_bytes(b"x")
    refused(
        lambda: open_source(tmp_path), str(tmp_path), "pytorch_model-1.bin, pytorch_model-2.bin", "convert"
    )


def test_a_folder_without_weights_says_what_it_holds(tmp_path, refused):
    refused(
        lambda: open_source(tmp_path), f"no weights in {tmp_path}", "files found: none", "give the folder"
    )
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "line\nbreak").touch()
    refused(lambda: open_source(tmp_path), "files found: config.json, 'line\\nbreak'")


def test_a_missing_path_names_near_ones(weights, refused):
    message = refused(
        lambda: open_source(weights.with_name("modle.safetensors")),
        "does not exist",
        "near: model.safetensors",
    )
    assert "modle.safetensors" in message
    with pytest.raises(FileNotFoundError):
        open_source(weights.parent / "nothing")


def test_a_missing_folder_on_the_way_is_named(tmp_path, refused):
    (tmp_path / "models").mkdir()
    refused(
        lambda: open_source(tmp_path / "model" / "a" / "b"),
        f"there is no {tmp_path / 'model'}",
        "near: models",
    )


@pytest.mark.parametrize("path", ["no\0where", "x" * 5000, "no/such/path", ""])
def test_odd_paths_are_refused(path, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(lambda: open_source(path))


def test_a_pipe_is_refused_and_does_not_wait(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: open_source(tmp_path / "pipe"), "pipe", "not a regular file", "give")


def test_a_missing_path_is_told_apart_from_a_bad_one():
    with pytest.raises(NotThere):
        open_source("tiny-lama")
