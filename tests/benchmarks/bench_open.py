"""Opening and listing a sparse 10 GB sharded checkpoint, against `safetensors.safe_open` on the same shards.

Run: python tests/benchmarks/bench_open.py [GIGABYTES] [MATRICES_PER_LAYER]. Prints the median and the spread
of interleaved runs of one process, and the ratio. Both list name, shape and dtype of every tensor; only ours
checks the index against the shards.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors

from workbench.files import open_source

ROUNDS, SHARDS, LAYERS = 15, 5, 48


def checkpoint(folder: Path, gigabytes: float, matrices: int) -> Path:
    """Shards of zeros that take no space on the disk, with an index; every matrix [rows, 4096] in BF16."""
    rows = max(1, int(gigabytes * 1e9 / (LAYERS * matrices * 4096 * 2)))
    weight_map = {}
    for shard in range(SHARDS):
        file, header, end = f"model-{shard + 1:05d}-of-{SHARDS:05d}.safetensors", {}, 0
        for name in (
            f"layers.{layer}.{i}.weight" for layer in range(shard, LAYERS, SHARDS) for i in range(matrices)
        ):
            begin, end = end, end + rows * 4096 * 2
            header[name] = {"dtype": "BF16", "shape": [rows, 4096], "data_offsets": [begin, end]}
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def ours(folder: Path) -> int:
    return sum(info.nbytes for info in open_source(folder).tensors().values())


def theirs(folder: Path) -> int:
    count = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():
                part = file.get_slice(name)
                count += len(part.get_shape()) + len(part.get_dtype())
    return count


def seconds(act: Callable[[Path], int], folder: Path) -> float:
    start = time.perf_counter()
    act(folder)
    return time.perf_counter() - start


def main(gigabytes: float = 10, matrices: float = 7) -> None:
    matrices = int(matrices)
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name), gigabytes, matrices)
        pairs = [(seconds(ours, folder), seconds(theirs, folder)) for _ in range(ROUNDS + 1)][1:]
    ratios = sorted(mine / other for mine, other in pairs)
    for who, times in zip(("workbench", "safe_open"), zip(*pairs, strict=True), strict=True):
        low, middle, high = (1e3 * f(times) for f in (min, statistics.median, max))
        print(f"{who}: {middle:.2f} ms (from {low:.2f} to {high:.2f})")
    print(f"{gigabytes:g} GB, {LAYERS * matrices} tensors, {SHARDS} shards; below 1 the workbench is faster:")
    print(f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main(*(float(word) for word in sys.argv[1:]))
