"""Checkpoints in several files: the index is checked against the shards, and never leaves its folder."""

import json
import pickle
import subprocess
import sys

import pytest
import torch

from workbench.files.save import save_safetensors
from workbench.files.sharded import SafetensorsFolder, ShardedCheckpoint

INDEX = "model.safetensors.index.json"


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return folder / INDEX


@pytest.fixture
def sharded(tmp_path):
    """Two shards, three tensors, one of them not in the index."""
    save_safetensors({"b": torch.ones(2), "a": torch.arange(6.0).reshape(3, 2)}, tmp_path / "one.safetensors")
    save_safetensors({"c": torch.zeros(3), "spare": torch.ones(1)}, tmp_path / "two.safetensors")
    return write_index(tmp_path, {"c": "two.safetensors", "a": "one.safetensors", "b": "one.safetensors"})


def test_tensors_come_in_the_order_of_the_index_from_their_shards(sharded):
    source = ShardedCheckpoint(sharded)
    assert list(source) == ["c", "a", "b"]
    assert source.unlisted == ("spare",)
    assert source.info("c").where.endswith("two.safetensors")
    assert source.rows("a", 1, 3).tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert [path.name for path in source.files] == ["two.safetensors", "one.safetensors"]
    assert torch.equal(pickle.loads(pickle.dumps(source)).read("b"), torch.ones(2))


def test_a_tensor_outside_the_index_is_refused(sharded, refused):
    refused(lambda: ShardedCheckpoint(sharded).read("spare"), INDEX, "no tensor 'spare'")


@pytest.mark.parametrize(
    "shard",
    [
        *(
            "../one.safetensors",
            "/etc/passwd",
            "sub/one.safetensors",
            "..",
            ".",
            "",
            "C:\\one",
            "a\\b",
            "C:one",
        ),
        *("a\0b", "a\nb", "x" * 300, 3, None, ["one.safetensors"]),
    ],
    ids=repr,
)
def test_a_shard_name_that_leaves_the_folder_is_refused(sharded, refused, shard):
    write_index(sharded.parent, {"a": shard})
    refused(lambda: ShardedCheckpoint(sharded), INDEX, "'a'", "not a plain file name", "correct it")


def test_all_missing_shards_are_named(sharded, refused):
    write_index(sharded.parent, {"a": "one.safetensors", "x": "three.safetensors", "y": "four.safetensors"})
    refused(
        lambda: ShardedCheckpoint(sharded), INDEX, "2 of 3", "four.safetensors, three.safetensors", "download"
    )


def test_a_tensor_that_its_shard_does_not_hold_is_named(sharded, refused):
    write_index(sharded.parent, {"a": "two.safetensors", "zz": "two.safetensors", "c": "two.safetensors"})
    refused(lambda: ShardedCheckpoint(sharded), INDEX, "'a' is in two.safetensors", "1 more", "again")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{\n  "weight_map": {\n    "a" "b"\n', ["not JSON", "line 3, column 9"]),
        ('{"weight_map": {"a": "x", "a": "y"}}', ["'a' twice"]),
        ("[1]", ["not an object"]),
        ('{"weight_map": {}}', ["without a weight_map"]),
        ('{"weight_map": 3}', ["without a weight_map"]),
        ('{"model_type": "llama"}', ["without a weight_map", "give the folder"]),
        ('{"weight_map": {"a\\nb": "x"}}', ["control characters"]),
        ("version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer", "git lfs pull"]),
        ("", ["empty"]),
    ],
)
def test_a_broken_index_is_refused_with_its_place(tmp_path, refused, text, words):
    (tmp_path / INDEX).write_text(text)
    refused(lambda: ShardedCheckpoint(tmp_path / INDEX), INDEX, *words)


def test_a_shard_that_is_a_git_lfs_pointer_is_named(sharded, refused):
    (sharded.parent / "two.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    refused(lambda: ShardedCheckpoint(sharded), "two.safetensors", "git lfs pull")


def test_a_folder_without_index_is_merged_and_duplicates_are_refused(tmp_path, refused):
    save_safetensors({"b": torch.ones(2)}, tmp_path / "1.safetensors")
    save_safetensors({"a": torch.zeros(2)}, tmp_path / "2.safetensors")
    assert list(SafetensorsFolder(tmp_path)) == ["b", "a"]
    save_safetensors({"b": torch.ones(2)}, tmp_path / "3.safetensors")
    refused(lambda: SafetensorsFolder(tmp_path), "'b' twice", "1.safetensors and 3.safetensors", "give one")


@pytest.mark.parametrize("first", [0, 1])
def test_a_missing_part_of_a_numbered_set_is_named(tmp_path, refused, first):
    names = [f"m-{part:05d}-of-00003.safetensors" for part in range(first, first + 3)]
    for name in names:
        save_safetensors({name: torch.ones(1)}, tmp_path / name)
    assert len(SafetensorsFolder(tmp_path)) == 3
    (tmp_path / "m-00002-of-00003.safetensors").unlink()
    refused(lambda: SafetensorsFolder(tmp_path), "lacks", "m-00002-of-00003.safetensors", "download")


def test_a_folder_without_weights_is_refused(tmp_path, refused):
    refused(lambda: SafetensorsFolder(tmp_path), "no *.safetensors", "give a folder")


MEASURE = """
import sys, time, tracemalloc
from workbench.files import open_source

def resident():
    try:
        fields = dict(line.split(":") for line in open("/proc/self/status"))
        return int(fields["VmHWM"].split()[0]) * 1024, int(fields["VmRSS"].split()[0]) * 1024
    except OSError:
        return 0, 0

before = resident()[1]
start = time.process_time()  # of the processor: how busy the machine is does not count
source = open_source(sys.argv[1])
total = sum(info.nbytes for info in source.tensors().values())
seconds = time.process_time() - start
added = max(0, resident()[0] - before)
tracemalloc.start()
open_source(sys.argv[1])
print(total, seconds, added, tracemalloc.get_traced_memory()[1])
"""


def test_ten_gigabytes_open_and_list_within_a_second_and_150_megabytes(ten_gigabytes):
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(ten_gigabytes)], capture_output=True, text=True, check=True
    )
    total, seconds, added, traced = map(float, done.stdout.split())
    assert total > 10e9
    assert seconds < 1
    assert added < 150e6
    assert traced < 150e6


def test_rows_of_a_large_checkpoint_touch_only_their_pages(ten_gigabytes):
    source = ShardedCheckpoint(ten_gigabytes / INDEX)
    name = next(iter(source))
    assert source.rows(name, 4000, 4096).shape == (96, 3656)
    assert not source.rows(name, 4000, 4096).any()
