"""One safetensors file: every dtype round, every lie refused in one line."""

import os
import pickle

import pytest
import safetensors
import safetensors.torch
import torch

from workbench.files.safetensors import DTYPES, SafetensorsFile
from workbench.files.save import save_safetensors
from workbench.model.source import DictSource


def entry(dtype: object = "F32", shape=(2, 3), offsets=(0, 24)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def values(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Seeded bytes seen as `dtype`, so that every code of a small float occurs; 0 and 1 for bool."""
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (7,), (0, 4), (4, 0), (2, 3, 1, 4)], ids=str)
def test_what_is_saved_is_read_bit_for_bit_by_us_and_by_the_library(tmp_path, name, shape):
    tensor = values(DTYPES[name], shape)
    save_safetensors({"w": tensor, "ragged": torch.ones(3, dtype=torch.uint8)}, tmp_path / "a.safetensors")
    assert same(SafetensorsFile(tmp_path / "a.safetensors").read("w"), tensor)
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as theirs:
        assert same(theirs.get_tensor("w"), tensor)


def test_what_the_library_saves_we_read(tmp_path):
    tensors = {
        dtype: values(DTYPES[dtype], (3, 5)) for dtype in ("F64", "BF16", "F8_E4M3", "F8_E5M2", "I64", "BOOL")
    }
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    assert all(same(ours.read(name), tensor) for name, tensor in tensors.items())
    assert ours.metadata == {"format": "pt"}


def test_a_scalar_is_read_and_has_no_rows(tmp_path, refused):
    save_safetensors({"scale": torch.tensor(2.5)}, tmp_path / "a.safetensors")
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    assert ours.read("scale") == torch.tensor(2.5)
    assert ours.info("scale").shape == ()
    refused(lambda: ours.rows("scale", 0, 1), "'scale'", "a.safetensors", "use read")


@pytest.mark.parametrize("pad", range(9))
def test_odd_offsets_are_read_whatever_the_length_of_the_header(write_raw, pad):
    matrix, codes = torch.randn(4, 3, dtype=torch.float64), torch.arange(5, dtype=torch.uint8)
    header = {"codes": entry("U8", (5,), (0, 5)), "matrix": entry("F64", (4, 3), (5, 101))}
    data = codes.numpy().tobytes() + matrix.numpy().tobytes()
    ours = SafetensorsFile(write_raw(f"{str(header).replace(chr(39), chr(34))}{' ' * pad}".encode(), data))
    assert same(ours.read("matrix"), matrix)
    assert same(ours.rows("matrix", 1, 3), matrix[1:3])
    assert ours.read("matrix").data_ptr() % 8 == 0


@pytest.mark.parametrize("window", [(0, 7), (2, 5), (6, 99), (-3, -1), (5, 2), (7, 7)], ids=str)
def test_rows_follow_the_rules_of_slices(tmp_path, window):
    matrix = torch.randn(7, 4, dtype=torch.bfloat16)
    save_safetensors({"w": matrix}, tmp_path / "a.safetensors")
    expected = DictSource({"w": matrix}).rows("w", *window)
    assert same(SafetensorsFile(tmp_path / "a.safetensors").rows("w", *window), expected)


def test_reading_copies_nothing_and_writing_never_reaches_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_safetensors({"w": torch.ones(64, 64)}, path)
    before = path.read_bytes()
    ours = SafetensorsFile(path)
    whole, part = ours.read("w"), ours.rows("w", 3, 5)
    assert part.data_ptr() == whole[3].data_ptr()
    whole.zero_()
    del ours, whole, part
    assert path.read_bytes() == before


def test_a_file_that_cannot_be_mapped_is_read(tmp_path, monkeypatch):
    save_safetensors({"w": torch.arange(12.0).reshape(3, 4)}, tmp_path / "a.safetensors")

    def no_map(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("workbench.files.safetensors.mmap.mmap", no_map)
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    assert torch.equal(ours.rows("w", 1, 3), torch.arange(12.0).reshape(3, 4)[1:])


def test_a_source_travels_to_another_process(tmp_path):
    save_safetensors({"w": torch.arange(3)}, tmp_path / "a.safetensors")
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    ours.read("w")
    assert pickle.loads(pickle.dumps(ours)).read("w").tolist() == [0, 1, 2]


def test_an_invalid_bool_is_read_as_true(write_raw):
    ours = SafetensorsFile(write_raw({"mask": entry("BOOL", (3,), (0, 3))}, b"\x00\x01\x02"))
    assert ours.read("mask").tolist() == [False, True, True]


def test_an_unknown_name_lists_near_ones(tmp_path, refused):
    save_safetensors({"layers.0.q_proj.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    ours = SafetensorsFile(tmp_path / "a.safetensors")
    refused(lambda: ours.read("layers.0.q_prj.weight"), "a.safetensors", "near: layers.0.q_proj.weight")


# what is wrong -> (header, data, words of the refusal)
LIES = {
    "offsets beyond the end": ({"w": entry()}, b"\0" * 20, ["truncated", "24 bytes", "20 are there"]),
    "data left over": ({"w": entry()}, b"\0" * 25, ["describes 24 bytes", "25 are there"]),
    "shape against offsets": ({"w": entry(shape=(2, 4))}, b"\0" * 24, ["'w'", "[2, 4] needs 32 bytes"]),
    "unknown dtype": ({"w": entry("F31")}, b"\0" * 24, ["'w'", "unknown dtype 'F31'", "known: BOOL"]),
    "dtype a list": ({"w": entry(["F32"])}, b"\0" * 24, ["unknown dtype"]),
    "negative shape": ({"w": entry(shape=(-2, -3))}, b"\0" * 24, ["shape [-2, -3]"]),
    "float shape": ({"w": entry(shape=(2.0, 3))}, b"\0" * 24, ["shape [2.0, 3]"]),
    "bool shape": ({"w": entry(shape=(True, 6))}, b"\0" * 24, ["shape [True, 6]"]),
    "begin after end": ({"w": entry(offsets=(24, 0))}, b"\0" * 24, ["data_offsets [24, 0]"]),
    "three offsets": ({"w": entry(offsets=(0, 24, 24))}, b"\0" * 24, ["data_offsets [0, 24, 24]"]),
    "no offsets": ({"w": {"dtype": "F32", "shape": [1]}}, b"\0" * 4, ["'w'", "data_offsets"]),
    "entry a number": ({"w": 3}, b"", ["'w'"]),
    "overlap": (
        {"a": entry(), "b": entry(offsets=(20, 44))},
        b"\0" * 44,
        ["'b' overlaps 'a' at byte 20"],
    ),
    "hole": ({"a": entry(), "b": entry(offsets=(28, 52))}, b"\0" * 52, ["hole of 4 bytes", "'b'"]),
    "a name twice": (
        b'{"w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}, "w": {}}',
        b"",
        ["'w' twice"],
    ),
    "a field twice": (b'{"w": {"dtype": "U8", "dtype": "I8", "shape": [0]}}', b"", ["'dtype' twice"]),
    "not JSON": (b'{"w": ', b"", ["not JSON", "line 1, column 7"]),
    "not UTF-8": (b'{"\xff": 1}', b"", ["not UTF-8 at byte 2"]),
    "deep": (b'{"w":' + b"[" * 100_000, b"", ["JSON"]),
    "a huge number": (b'{"w":' + b"9" * 5_000 + b"}", b"", ["JSON"]),
    "more than any memory": ({"w": entry("U8", (2**62, 4, 0), (0, 0))}, b"", ["larger than any memory"]),
    "64 axes of exabytes": ({"w": entry("U8", [2**62] * 64, (0, 1))}, b"\0", ["needs ", "...", "give 1"]),
    "65 axes": ({"w": entry("U8", [1] * 65, (0, 1))}, b"\0", ["at most 64"]),
    "a name with a line break": ({"a\nb": entry()}, b"\0" * 24, ["control characters", "'a\\nb'"]),
    "a megabyte of name": ({"n" * 1_000_000: entry("F31")}, b"", ["nnn", "..."]),
    "metadata not text": ({"__metadata__": {"a": 1}}, b"", ["__metadata__", "text"]),
    "metadata a list": ({"__metadata__": [1]}, b"", ["__metadata__"]),
    "odd F4": ({"w": entry("F4", (2, 3), (0, 3))}, b"\0" * 3, ["F4 needs an even last axis"]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_refused_in_one_line(write_raw, refused, lie):
    header, data, words = LIES[lie]
    path = write_raw(header, data)
    refused(lambda: SafetensorsFile(path), "x.safetensors", ";", *words)


def test_a_header_longer_than_the_file_is_refused(write_raw, refused):
    path = write_raw({}, length=5000)
    refused(lambda: SafetensorsFile(path), "truncated", "5000 bytes is promised, 2 follow", "again")


def test_a_header_of_exabytes_is_refused_before_it_is_read(write_raw, refused):
    path = write_raw(b"[", length=2**63)
    refused(lambda: SafetensorsFile(path), "not safetensors", str(2**63))


@pytest.mark.parametrize("count", range(1, 8))
def test_fewer_bytes_than_a_header_length_are_refused(tmp_path, refused, count):
    (tmp_path / "x.safetensors").write_bytes(b"\x10" * count)
    refused(lambda: SafetensorsFile(tmp_path / "x.safetensors"), "truncated", f"{count} bytes", "again")


def test_an_empty_file_is_refused(tmp_path, refused):
    (tmp_path / "x.safetensors").touch()
    refused(lambda: SafetensorsFile(tmp_path / "x.safetensors"), "x.safetensors is empty", "again")


def test_a_file_cut_off_after_opening_is_refused_and_does_not_end_the_process(tmp_path, refused):
    path = tmp_path / "a.safetensors"
    save_safetensors({"w": torch.ones(4096, 8)}, path)
    unread, mapped = SafetensorsFile(path), SafetensorsFile(path)
    mapped.rows("w", 0, 1)
    os.truncate(path, 5000)
    refused(lambda: mapped.read("w"), "a.safetensors", "shorter", "open it again")
    refused(lambda: unread.read("w"), "a.safetensors", "has 5000 now", "open it again")


def test_a_file_that_went_away_after_opening_is_refused(tmp_path, refused):
    path = tmp_path / "a.safetensors"
    save_safetensors({"w": torch.ones(4)}, path)
    ours = SafetensorsFile(path)
    path.unlink()
    refused(lambda: ours.read("w"), "a.safetensors", "No such file")


def test_a_header_that_begins_like_a_pickle_is_no_pickle(write_raw):
    name = "w" * (640 - len('{"": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}'))
    path = write_raw({name: entry("U8", (0,), (0, 0))})
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(SafetensorsFile(path)) == [name]
