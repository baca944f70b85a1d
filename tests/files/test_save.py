"""Saving: whole or not at all, and never over something that was there."""

import errno
import shutil

import pytest
import safetensors
import torch

from workbench.errors import Refused
from workbench.files import SafetensorsFile, save_safetensors, writing_folder
from workbench.files import save as saving
from workbench.model.source import DictSource

FREE = shutil._ntuple_diskusage(total=10**9, used=10**9 - 100, free=100)


@pytest.fixture
def target(tmp_path):
    """An existing file that must survive what goes wrong."""
    path = tmp_path / "a.safetensors"
    save_safetensors({"old": torch.ones(2)}, path)
    return path


def unchanged(target) -> bool:
    return [path.name for path in target.parent.iterdir()] == [target.name] and list(
        SafetensorsFile(target)
    ) == ["old"]


def test_a_file_is_replaced_and_readers_of_the_old_one_keep_it(target):
    old = SafetensorsFile(target)
    old.read("old")
    size = save_safetensors({"new": torch.zeros(5)}, target)
    assert list(SafetensorsFile(target)) == ["new"]
    assert target.stat().st_size == size
    assert old.read("old").tolist() == [1.0, 1.0]


def test_order_metadata_and_alignment(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = [("flag", torch.ones(3, dtype=torch.bool)), ("wide", torch.ones(2, dtype=torch.float64))]
    save_safetensors(iter(tensors), path, {"recipe": "rtn é"})
    ours = SafetensorsFile(path)
    assert list(ours) == ["flag", "wide"]
    assert ours.metadata == {"format": "pt", "recipe": "rtn é"}
    once, again = ours.read("wide"), ours.read("wide")
    assert once.data_ptr() == again.data_ptr(), "aligned data is a view of the map, not a copy"
    with safetensors.safe_open(path, "pt") as theirs:
        assert theirs.metadata() == dict(ours.metadata)


def test_views_parameters_and_conjugates_are_saved_as_they_look(tmp_path):
    matrix = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "t": matrix.T,
        "column": matrix[:, 1],
        "parameter": torch.nn.Parameter(matrix),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "expanded": torch.ones(1).expand(3),
    }
    save_safetensors(tensors, tmp_path / "a.safetensors")
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    assert all(torch.equal(ours.read(name), tensor) for name, tensor in tensors.items())


def test_a_source_is_read_one_tensor_at_a_time(tmp_path):
    class Counting(DictSource):
        reads = 0

        def read(self, name):
            self.reads += 1
            return super().read(name)

    source = Counting({"a": torch.ones(2), "b": torch.ones(3)})
    save_safetensors(source, tmp_path / "a.safetensors")
    assert source.reads == 2
    assert list(SafetensorsFile(tmp_path / "a.safetensors")) == ["a", "b"]


def test_too_little_space_is_said_before_anything_is_written(target, monkeypatch, refused):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: FREE)
    monkeypatch.setattr(saving, "_write", lambda *_: pytest.fail("written"))
    refused(
        lambda: save_safetensors({"w": torch.ones(1000)}, target),
        str(target),
        "needs 4",
        "100 free",
        "free space",
    )
    assert unchanged(target)


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(target, monkeypatch, refused):
    written = []

    def full(file, data):
        written.append(file.write(data))
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "_write", full)
    tensors = {"a": torch.ones(1000), "b": torch.ones(1000)}
    refused(lambda: save_safetensors(tensors, target), str(target), "No space left on device", "unchanged")
    assert len(written) == 2
    assert unchanged(target)


def test_a_cancel_while_writing_leaves_nothing_behind(target, monkeypatch):
    def cancelled(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "_write", cancelled)
    with pytest.raises(KeyboardInterrupt):
        save_safetensors({"w": torch.ones(1)}, target)
    assert unchanged(target)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([("w", torch.ones(1)), ("w", torch.ones(1))], ["'w' twice"]),
        ({"w": torch.ones(1, dtype=torch.complex128)}, ["'w'", "no torch.complex128", "convert"]),
        ({"w": torch.eye(2).to_sparse()}, ["'w'", "not dense"]),
        ({"w": torch.ones(2, device="meta")}, ["'w'", "not dense"]),
        ({"a\nb": torch.ones(1)}, ["'a\\nb'", "rename"]),
        ({"__metadata__": torch.ones(1)}, ["__metadata__", "rename"]),
    ],
    ids=["twice", "complex128", "sparse", "meta", "line break", "metadata"],
)
def test_what_the_format_cannot_hold_is_refused(target, refused, tensors, words):
    refused(lambda: save_safetensors(tensors, target), str(target), *words)
    assert unchanged(target)


def test_metadata_must_be_text(target, refused):
    refused(lambda: save_safetensors({}, target, {"bits": 4}), str(target), "metadata", "str")  # pyright: ignore


def test_a_folder_is_no_file_to_save_to(tmp_path, refused):
    refused(lambda: save_safetensors({}, tmp_path), str(tmp_path), "is a folder", "name of a file")


def test_missing_parent_folders_are_made(tmp_path):
    save_safetensors({"w": torch.ones(1)}, tmp_path / "x" / "y" / "a.safetensors")
    assert SafetensorsFile(tmp_path / "x" / "y" / "a.safetensors").read("w").tolist() == [1.0]


def test_a_folder_appears_whole(tmp_path):
    out = tmp_path / "out"
    with writing_folder(out) as part:
        save_safetensors({"w": torch.ones(1)}, part / "model.safetensors")
        (part / "config.json").write_text("{}")
        assert not out.exists()
        assert part.parent == out.parent
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with writing_folder(tmp_path / "out") as part:
        (part / "a").touch()
    assert (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("kind", ["full folder", "file", "link"])
def test_what_is_there_is_refused_before_the_work(tmp_path, refused, kind):
    out = tmp_path / "out"
    if kind == "full folder":
        out.mkdir()
        (out / "mine").touch()
    elif kind == "file":
        out.touch()
    else:
        out.symlink_to(tmp_path)

    def write():
        with writing_folder(out):
            pytest.fail("the work began")

    refused(write, str(out), "not an empty folder", "another name")
    assert list(tmp_path.iterdir()) == [out]


def test_a_target_that_fills_during_the_work_is_kept(tmp_path, refused):
    out = tmp_path / "out"

    def write():
        with writing_folder(out) as part:
            (part / "a").touch()
            out.mkdir()
            (out / "mine").touch()

    refused(write, str(out), "not written")
    assert [path.name for path in out.iterdir()] == ["mine"]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x"), KeyboardInterrupt()]
)
def test_an_error_in_the_work_leaves_nothing_behind(tmp_path, error):
    def write():
        with writing_folder(tmp_path / "out") as part:
            (part / "half").write_text("half")
            raise error

    with pytest.raises((Refused, KeyError, KeyboardInterrupt)):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_forecast_that_does_not_fit_is_refused_before_the_work(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: FREE)

    def write():
        with writing_folder(tmp_path / "out", needed=101):
            pytest.fail("the work began")

    refused(write, "out", "needs 101 bytes", "100 free")
