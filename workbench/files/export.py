"""Export: a changed model as a checkpoint that loads wherever the original does.

The weights are written in the dtypes of the original, each changed one at the values that its codes stand for
("fake quantized"): what was measured on the bench is what an engine runs. Norms and biases are the original's, unless
a transform or a bias correction has changed them; the configuration and the tokenizer always.
One tensor is in memory at a time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import Refused, near
from ..model import Layer, Model, Source, TensorInfo
from .content import at
from .save import check_target, save_safetensors, writing_folder

if TYPE_CHECKING:
    import os

    from ..engine import Recipe, Variant

FORMATS = {"safetensors": "float weights in the stored dtypes, changed ones at the values of their codes"}
# What belongs to a checkpoint beside its weights. Its card does not: the export writes its own.
COMPANIONS = (
    "config.json",
    "generation_config.json",
    "*processor_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "LICENSE*",
    "NOTICE*",
)


def export(
    subject: Variant | Model,
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    *,
    format: str = "safetensors",
    step: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> dict[str, Any]:
    """Write a variant, or a model with overlays, to the new folder; {"folder", "format", "bytes", "notes"} of it.

    `notes` are sentences on what a float checkpoint cannot hold of it, and on where scales went; the card has them too.
    `recipe` is what the card says was done; a variant knows its own. `step(done, total, tensor)` is called before
    each tensor and may raise to stop. Refused, and nothing left behind: a folder that is not empty, an unknown
    format, too little space, a checkpoint that is packed already, a correction without a bias to go into, a value that
    the stored dtype cannot hold.
    """
    model = subject if isinstance(subject, Model) else subject.model
    if recipe is None and not isinstance(subject, Model):
        recipe = subject.recipe
    check_export(model, folder, format)
    with writing_folder(folder, _forecast(model)) as part:
        source = _Changed(model, step)
        metadata = {"recipe": recipe.to_yaml()} if recipe else {}
        save_safetensors(source, part / "model.safetensors", metadata)
        _copy_companions(model, part)
        if recipe is not None:
            recipe.save(part / "recipe.yaml")
        label = (lambda name: "") if isinstance(subject, Model) else subject.method_label
        notes = [*_left_behind(model), *(() if isinstance(subject, Model) else subject.notes)]
        (part / "README.md").write_text(_card(model, recipe, label, notes), "utf-8")
        size = sum(file.stat().st_size for file in part.iterdir())
    return {"folder": str(folder), "format": format, "bytes": size, "notes": notes}


def check_export(
    model: Model,
    folder: str | os.PathLike[str],
    format: str = "safetensors",
    shifted: Iterable[str] = (),
) -> None:
    """Refused, before any work, for what `export` would refuse at its end. `shifted` are the layers whose output a
    recipe is going to correct."""
    if format not in FORMATS:
        raise Refused(f"no export format is called {format!r}{near(format, FORMATS)}")
    if "quantization_config" in model.config:
        raise Refused(
            f"{model.name} is packed already (quantization_config in config.json): export the float model that "
            "it was made from"
        )
    corrected = {*shifted, *(name for name, made in model.overlays.items() if made.shift is not None)}
    bare = [layer.name for layer in model.layers if layer.name in corrected and not _bias(model, layer.name)]
    if bare:
        more = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        raise Refused(
            f"{bare[0]}{more}: the bias correction needs a bias, and the checkpoint has none there: leave "
            "bias-correction out of the recipe for such layers"
        )
    check_target(folder, _forecast(model))


def _bias(model: Model, layer: str) -> str:
    """The tensor that is added to a layer's output; empty where the checkpoint has none."""
    name = model.layer(layer).tensor.removesuffix("weight") + "bias"
    return name if name in model.source.tensors() else ""


class _Changed(Source):
    """The base's tensors with the overlays in place of theirs, made when they are read."""

    def __init__(self, model: Model, step: Callable[[int, int, str], None]):
        self._model, self._step, self._done = model, step, 0
        self._layers: dict[str, Layer] = {model.layer(n).tensor: model.layer(n) for n in model.overlays}
        self._shifts = {
            _bias(model, n): made.shift for n, made in model.overlays.items() if made.shift is not None
        }
        self.origin = model.source.origin

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._model.source.tensors()

    def read(self, name: str) -> Tensor:
        self._step(self._done, len(self), name)
        self._done += 1
        layer = self._layers.get(name)
        if layer is None:
            stored = self._model.source.read(name)
            vector, shift = self._model.vectors.get(name), self._shifts.get(name)
            if vector is None and shift is None:
                return stored
            value = stored.float() if vector is None else vector.float()
            return _as(value if shift is None else value + shift, stored.dtype, name)
        # A tied weight is one tensor in the checkpoint, so the other names follow by themselves.
        return _as(layer.to_tensor(self._model.weight(layer.name)), layer.dtype, name)


def _as(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """In the dtype of the original. Refused where that cannot hold it: scales that were folded can grow a norm."""
    stored = value.to(dtype)
    if not torch.isfinite(stored.float()).all():
        largest, what = float(value.abs().max()), str(dtype).removeprefix("torch.")
        raise Refused(
            f"{name} has values up to {largest:.3g}, which {what}, the checkpoint's dtype, cannot hold: export the "
            "variant before its scales are folded, or take a transform with a smaller alpha"
        )
    return stored


def _companions(model: Model) -> Iterator[Path]:
    if model.folder is None:
        return
    for pattern in COMPANIONS:
        yield from (file for file in model.folder.glob(pattern) if file.is_file())


def _copy_companions(model: Model, part: Path) -> None:
    """The files of the original's folder; of a module in memory its configuration and tokenizer."""
    for file in _companions(model):
        try:
            shutil.copyfile(file, part / file.name)
        except PermissionError as error:
            raise Refused(f"{at(file)} cannot be read: {error.strerror}; check its permissions") from error
    if model.folder is None and model.config:
        (part / "config.json").write_text(json.dumps(model.config, indent=1, default=str) + "\n", "utf-8")
    if model.folder is None and model.task == "language":
        try:
            model.runner.tokenizer.save_pretrained(part)
        except (Refused, AttributeError):
            pass  # it came without one, or with one of its own kind


def _forecast(model: Model) -> int:
    weights = sum(info.nbytes for info in model.source.tensors().values())
    return weights + sum(file.stat().st_size for file in _companions(model)) + 2**20


def _left_behind(model: Model) -> list[str]:
    """What of the compressed model a float checkpoint cannot hold, a sentence for each kind."""
    notes, made = [], list(model.overlays.values())
    quantizers = [each.inputs for each in made if each.inputs is not None]
    if quantizers:
        kinds = ", ".join(dict.fromkeys(quantizer.label for quantizer in quantizers))
        notes.append(
            f"The inputs of {len(quantizers)} layers were quantized too ({kinds}). Input quantizers are not part of a "
            "float checkpoint: this one runs with float inputs, and answers better than what was measured."
        )
    scaled = sum(each.input_scale is not None for each in made)
    if scaled:
        notes.append(
            f"{scaled} layers divide their input by a scale (AWQ, SmoothQuant). It is divided out of the stored "
            "weights: nothing is left to do at run time and the answers are the same, but their values are not on the "
            "grid of the codes. workbench.engine.fold moves such scales into the norm or layer before, where it can."
        )
    return notes


def _card(model: Model, recipe: Recipe | None, label: Callable[[str], str], notes: Sequence[str]) -> str:
    """README.md of the export: what was done to which layer, and what it would take packed."""
    changed = model.overlays
    lines = [f"# {model.name}: {recipe.label if recipe else 'exported'}", ""]
    if not changed:
        return "\n".join([*lines, f"The weights of {model.name}, unchanged.", ""])
    bits = sum(sum(cw.storage_bits().values()) for cw in changed.values())
    count = sum(model.layer(name).parameters for name in changed)
    lines += [
        f"{len(changed)} of {len(model.layers)} layers of {model.name} were changed.",
        "Their weights are stored in the dtypes of the original at the values that their codes stand for, so this",
        "checkpoint loads wherever the original does, is as large, and answers as the compressed model would,",
        "up to the rounding of the stored dtype.",
        f"Packed, the changed layers would take {bits / count:.3f} bits per weight, with scales, zeros and masks.",
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
    ]
    if recipe is not None:
        lines += ["The recipe (recipe.yaml):", "", "```yaml", recipe.to_yaml().rstrip(), "```", ""]
    lines += ["| layer | method | bits per weight |", "|---|---|---|"]
    lines += [f"| {name} | {label(name)} | {cw.bits_per_weight:.3f} |" for name, cw in changed.items()]
    return "\n".join([*lines, "", f"The licence is that of {model.name}.", ""])
