"""Networks: the one on the bench beside others of its architecture, which are named as `workbench.load` takes them.

The line is walked to the first of them; of two and more the mean is taken as well. Also here: which checkpoints that
lie near could be others, told from their headers alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.symmetry import COUNTERS, symmetry_of
from ..errors import Refused
from ..jobs import Job
from ..measure import Evaluation
from ..model import Model, Source, zoo
from .alignment import IMAGES, WINDOWS, TwoNetworks
from .merging import MergedNetworks

LOOKED_AT = 64  # folders beside the model's own whose headers are read, at most


@dataclass(frozen=True)
class Networks:
    """`names` as they were given, the pair of the bench's network and the first of them, and the mean of all where
    there are several; nothing is computed before `pair.measure` and `merged.compute`."""

    names: tuple[str, ...]
    pair: TwoNetworks
    merged: MergedNetworks | None

    @classmethod
    def opened(cls, model: Model, names: Sequence[str], data: Evaluation, job: Job | None = None) -> Networks:
        """Read the headers of the others. `data`: a part of it is what the loss is measured on."""
        others: list[Model] = []
        for done, name in enumerate(names):
            if job is not None:
                job.step(done, len(names), f"opening {name}")
            others.append(_opened(name, {model.name, *(other.name for other in others)}))
            if not _alike(model, others[-1]):
                raise Refused(
                    f"{model.name} and {others[-1].name} are different architectures: their tensors or shapes differ; "
                    "only trainings of one network can be matched"
                )
        some = few(data)
        merged = MergedNetworks([model, *others], data=some) if len(others) > 1 else None
        return cls(tuple(names), TwoNetworks(model, others[0], data=some), merged)

    def code(self, data: Evaluation) -> list[str]:
        """The lines of Python that make this again where `model` is the network on the bench."""
        others = ", ".join(f"wb.load({_address(name)!r})" for name in self.names)
        measured_on = "data = data.first({})  # of the data given to the bench"
        if data.code:
            measured_on = f"data = wb.evaluation(model, {data.code}).first({{}})"
        lines = [
            "",
            "# beside other trainings of the same network",
            f"others = [{others}]",
            measured_on.format(_count(data)),
            "pair = wb.TwoNetworks(model, others[0], data=data)",
            "print(pair.barriers)",
            "print(pair.table.to_string(index=False))",
        ]
        if self.merged is not None:
            lines.append("print(wb.MergedNetworks([model, *others], data=data).table.to_string(index=False))")
        return lines


def names_in(text: str) -> tuple[str, ...]:
    """Names and paths separated by commas or line ends, each once. Refused where there is none."""
    parts = (part.strip().strip("\"'") for part in re.split(r"[,\n]", text))
    names = tuple(dict.fromkeys(filter(None, parts)))
    if not names:
        raise Refused(
            "no other network is named: type the name or the folder of another training of this network"
        )
    return names


def few(data: Evaluation) -> Evaluation:
    """As much of it as the loss is measured on at every point of a line."""
    return data.first(_count(data))


def check_known(model: Model) -> None:
    """Refused, from headers alone, for an architecture whose permutations are not known, and for what cannot run."""
    _ = model.runner
    symmetry_of(model)


def siblings(model: Model) -> list[str]:
    """Names and folders, as `workbench.load` takes them, of checkpoints with the tensors of this model and their
    shapes: among the embedded models and in the folders beside its own. Only headers are read."""
    wanted, found = _shapes(model.source), []
    for name, folder in _near(model):
        source = _source(folder)
        if source is not None and _shapes(source) == wanted:
            found.append(name)
    return found


def _alike(one: Model, other: Model) -> bool:
    return _shapes(one.source) == _shapes(other.source)


def _opened(name: str, taken: set[str]) -> Model:
    """The network of that name or path, whose own name is none of those: run-b/final beside run-a/final."""
    from ..files.load import load

    found = load(name)
    if found.name not in taken or zoo.is_embedded(name):
        return found
    return load(name, name="/".join(Path(name).expanduser().absolute().parts[-2:]))


def _near(model: Model) -> Iterator[tuple[str, Path]]:
    embedded = {entry.folder.resolve(): entry.name for entry in zoo.MODELS if entry.here}
    own = None if model.folder is None else model.folder.resolve()
    yield from ((name, folder) for folder, name in embedded.items() if folder != own)
    if own is not None:
        beside = [folder for folder in sorted(own.parent.iterdir()) if (folder / "config.json").is_file()]
        for folder in beside[:LOOKED_AT]:
            if folder.resolve() != own and folder.resolve() not in embedded:
                yield str(folder), folder


def _source(folder: Path) -> Source | None:
    from ..files.open import open_source

    try:
        return open_source(folder)
    except (Refused, OSError):  # whatever lies there, it is no network to be offered
        return None


def _shapes(source: Source) -> dict[str, tuple[int, ...]]:
    return {name: tuple(info.shape) for name, info in source.tensors().items() if not COUNTERS.search(name)}


def _count(data: Evaluation) -> int:
    return WINDOWS if data.labels is None else IMAGES


def _address(name: str) -> str:
    """What opens the same network from anywhere."""
    path = Path(name).expanduser()
    return os.path.abspath(path) if not zoo.is_embedded(name) and path.exists() else name
