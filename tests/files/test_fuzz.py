"""Mutated files open and read, or are refused in one line; nothing else, and nothing large is allocated."""

import json
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.files.open import open_source
from workbench.files.sharded import ShardedCheckpoint

MOST = 2_000_000  # bytes; the files are under 2 kB

WORDS = st.text('ab/.:\\\n\0"{\u2028é', max_size=5)
sizes = st.one_of(
    st.integers(-3, 40), st.sampled_from([2**31, 2**63 - 1, 2**63, 2**200, 1.5, None, "4", True])
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F8_E4M3", "BOOL", "F4", "C64", "F31", 7, None, []]),
        "shape": st.one_of(st.lists(sizes, max_size=4), sizes),
        "data_offsets": st.one_of(st.lists(sizes, min_size=2, max_size=2), st.lists(sizes, max_size=3)),
    },
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=6,
)
headers = st.dictionaries(
    st.one_of(WORDS, st.just("__metadata__")), st.one_of(entries, json_values), max_size=4
)
GOOD = json.dumps(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    }
).encode()
fuzz = settings(
    max_examples=100,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.function_scoped_fixture],
)


def opens_or_is_refused(path, content: bytes) -> bool:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        opened = _opens(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    return opened


def _opens(path) -> bool:
    try:
        source = open_source(path)
        for name, info in source.tensors().items():
            tensor = source.read(name)
            assert tuple(tensor.shape) == info.shape
            assert tensor.dtype == info.dtype
            assert tensor.nbytes == info.nbytes <= path.stat().st_size
        return True
    except Refused as error:
        message = str(error)
    assert message.isprintable()
    assert len(message) < 800
    return False


@fuzz
@given(header=headers, data=st.binary(max_size=64))
def test_invented_headers(tmp_path, header, data):
    text = json.dumps(header).encode()
    opens_or_is_refused(tmp_path / "x.safetensors", len(text).to_bytes(8, "little") + text + data)


@fuzz
@given(
    place=st.integers(0, len(GOOD) + 7),
    removed=st.integers(0, 6),
    added=st.one_of(
        st.binary(max_size=6), st.sampled_from([b"9" * 20, b"-", b"[", b"]", b"}", b'"', b"1e9"])
    ),
    fix_length=st.booleans(),
    cut=st.integers(0, 20),
)
def test_mutated_headers(tmp_path, place, removed, added, fix_length, cut):
    content = len(GOOD).to_bytes(8, "little") + GOOD
    content = content[:place] + added + content[place + removed :]
    if fix_length:
        content = (len(content) - 8).to_bytes(8, "little") + content[8:]
    content += bytes(32)
    opens_or_is_refused(tmp_path / "x.safetensors", content[: len(content) - cut])


@fuzz
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path, content):
    opens_or_is_refused(tmp_path / "x.safetensors", content)


@fuzz
@given(index=st.dictionaries(st.sampled_from(["weight_map", "metadata"]), json_values), extra=WORDS)
def test_invented_indexes(tmp_path, index, extra):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index) + extra, encoding="utf-8")
    with pytest.raises(Refused) as caught:  # no shard is there, so none of them can open
        ShardedCheckpoint(path)
    assert str(caught.value).isprintable()


def test_the_file_that_is_mutated_opens_unmutated(tmp_path):
    content = len(GOOD).to_bytes(8, "little") + GOOD + bytes(32)
    assert opens_or_is_refused(tmp_path / "x.safetensors", content)
    assert torch.equal(open_source(tmp_path / "x.safetensors").read("a"), torch.zeros(2, 3))
