"""Files to open: honest ones, lying ones, and sparse ones of any size."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workbench.errors import Refused


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header; `length` overrides the true header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def sparse_file(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file of zeros in BF16 that takes no space on the disk."""
    header, begin = {}, 0
    for name, shape in shapes.items():
        end = begin + 2 * shape[0] * shape[1]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    raw_file(path, header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + begin)
    return path


def sparse_checkpoint(folder: Path, shards: int = 5, layers: int = 48) -> Path:
    """A sharded checkpoint of 10 GB by its headers, 7 matrices a layer; returns the folder."""
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        shapes = {
            f"model.layers.{layer}.{part}.weight": [4096, 3656]
            for layer in range(shard, layers, shards)
            for part in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        }
        sparse_file(folder / name, shapes)
        weight_map |= dict.fromkeys(shapes, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.fixture
def write_raw(tmp_path) -> Callable[..., Path]:
    """write_raw(header, data=b"", length=None, name="x.safetensors") -> path of the file."""

    def write(
        header: object, data: bytes = b"", length: int | None = None, name: str = "x.safetensors"
    ) -> Path:
        return raw_file(tmp_path / name, header, data, length)

    return write


@pytest.fixture(scope="session")
def ten_gigabytes(tmp_path_factory) -> Path:
    return sparse_checkpoint(tmp_path_factory.mktemp("big"))


@pytest.fixture
def refused() -> Callable[..., str]:
    """refused(act, *words): act() is refused in one line that says all the words; returns the line."""

    def check(act: Callable[[], object], *words: str) -> str:
        with pytest.raises(Refused) as caught:
            act()
        message = str(caught.value)
        assert message.isprintable(), message
        assert len(message) < 800, message
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in: {message}"
        return message

    return check
