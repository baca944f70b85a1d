"""What a change does to the model: perplexity or accuracy, KL divergence and top-1 agreement with the unchanged one.

KL and agreement come first: at 4 bits the perplexity of a small model moves by less than a per cent where its
most likely next token changes in one of twenty places.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight
from ..jobs import require
from ..model import Model, zoo

TOKENS = 4096  # evaluated unless said otherwise
KEEP = 512 * 2**20  # bytes of the unchanged model's log-probabilities that may be kept between evaluations
MODEL_COLUMNS = {
    "perplexity": "exp of the mean negative log likelihood of the next token (language models)",
    "accuracy": "share of images classified right (classifiers)",
    "kl": "mean KL divergence from the unchanged model's prediction to this one's, nats a token or image",
    "top1_agreement": "share of places where the most likely token or class is the unchanged model's",
    "bits_per_weight": "bits with scales, zeros and masks, over all layers except an unchanged embedding or head",
    "bytes": "stored size of all layers",
}


@dataclass(frozen=True)
class Evaluation:
    """Inputs and targets in batches: token windows [n, context] with the next token as target (`labels` is None), or
    inputs of a classifier [n, ...] with their classes [n].

    `what` names the data in a few words, for captions. Refused where inputs and labels do not belong together.
    """

    inputs: Tensor
    labels: Tensor | None = None
    what: str = "the data given"
    batch: int = 250
    code: str = ""  # what makes it again, as arguments of `evaluation` after the model; empty where unknown

    def __post_init__(self) -> None:
        sides = {"inputs": self.inputs} | ({} if self.labels is None else {"labels": self.labels})
        for name, side in sides.items():
            if not isinstance(side, Tensor) or not side.ndim:
                raise Refused(
                    f"{name} of an evaluation are a tensor with one row an example, not {_kind(side)}"
                )
        if not len(self.inputs) or self.batch < 1:
            raise Refused(f"{len(self.inputs)} examples in batches of {self.batch} are nothing to measure on")
        count = len(self.inputs)
        if self.labels is None:
            if self.inputs.ndim != 2 or self.inputs.shape[1] < 2 or self.inputs.is_floating_point():
                raise Refused(
                    f"without labels the inputs are windows of tokens, whole numbers [n, 2 or more], not "
                    f"{_kind(self.inputs)} of {self.inputs.dtype}; a classifier needs labels"
                )
            return
        if self.labels.shape != self.inputs.shape[:1]:
            raise Refused(
                f"{count} inputs need one class each, labels [{count}], not {list(self.labels.shape)}"
            )
        if self.labels.is_floating_point() or int(self.labels.min()) < 0:
            raise Refused("labels are classes, whole numbers from 0 on: the number of the right output")

    def __len__(self) -> int:
        """Predictions that are scored."""
        return len(self.inputs) if self.labels is not None else self.inputs[:, 1:].numel()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, targets): targets [n] for images, [n * (context - 1)] for tokens."""
        for start in range(0, len(self.inputs), self.batch):
            inputs = self.inputs[start : start + self.batch]
            if self.labels is not None:
                yield inputs, self.labels[start : start + self.batch]
            else:
                yield inputs, inputs[:, 1:].flatten()

    def scored(self, logits: Tensor) -> Tensor:
        """Of the outputs of one batch those that have a target [predictions, vocabulary or classes]. Refused where a
        class lies beyond the outputs."""
        if self.labels is None:
            return logits[:, :-1].flatten(0, 1)
        largest, classes = int(self.labels.max()), logits.shape[1]
        if largest >= classes:
            raise Refused(
                f"label {largest} is beyond the {classes} outputs of the network: classes begin at 0"
            )
        return logits

    def first(self, count: int) -> Evaluation:
        """The first `count` images, or windows of tokens, of it."""
        if count >= len(self.inputs):
            return self
        unit, labels = ("windows", None) if self.labels is None else ("examples", self.labels[:count])
        if labels is not None and self.inputs.ndim > 2:
            unit = "images"
        what = f"the first {count:,} {unit} of {self.what}"
        return replace(self, inputs=self.inputs[:count], labels=labels, what=what, code="")

    def inputs_only(self) -> list[Tensor]:
        return [inputs for inputs, _ in self.batches()]


def evaluation(
    model: Model, text: str | os.PathLike | None = None, tokens: int = TOKENS, part: str = "test"
) -> Evaluation:
    """The data to judge a model by.

    For a language model the first `tokens` tokens of the file `text`, in windows of one context each; the
    embedded held-out text where none is given. For a classifier the embedded images of that part ("test" or
    "calibration"). Raises Refused where the text is missing or shorter than one context, and where a classifier does
    not take the images.
    """
    runner = model.runner
    if runner.task == "classification":
        return _taken(model, _images(part))
    if text is None:
        path = zoo.data_folder() / "tiny-llama" / ("evaluation.txt" if part == "test" else "calibration.txt")
    else:
        path = Path(text)
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"the text {path} cannot be read: {error}") from None
    if tokens < 2:
        raise Refused(f"--tokens {tokens} is not possible: two tokens are the least that can be predicted")
    # Four bytes a token are usual and eight are rare: a long file is not tokenized to its end.
    ids = runner.tokenize(content[: 16 * tokens + 4096])
    if len(ids) < tokens and len(content) > 16 * tokens + 4096:
        ids = runner.tokenize(content)
    context = min(runner.context or 512, tokens)
    if len(ids) < context:
        fewer = f", or fewer tokens (--tokens {len(ids)})" if len(ids) >= 2 else ""
        raise Refused(
            f"the text {path} has {len(ids)} tokens, less than one context of {context}: give a longer text{fewer}"
        )
    windows = min(len(ids), tokens) // context
    inputs = torch.tensor(ids[: windows * context]).view(windows, context)
    what = f"{windows * context:,} tokens of {path.name}"
    code = (
        f"text={os.path.abspath(path)!r}, tokens={tokens}"
        if text is not None
        else f"tokens={tokens}, part={part!r}"
    )
    return Evaluation(inputs, None, what, max(1, 2048 // context), code)


def _images(part: str) -> Evaluation:
    from ..files.open import open_source

    source = open_source(zoo.data_folder() / "fashion-mnist" / f"{part}.safetensors")
    images, labels = source.read("images"), source.read("labels").long()
    return Evaluation(
        images, labels, f"{len(images):,} {part} images of Fashion-MNIST", 250, f"part={part!r}"
    )


def _taken(model: Model, images: Evaluation) -> Evaluation:
    """The images, if the network takes them: one of the user's own may have been trained on something else."""
    if model.runner.prepare is None:  # not one of the embedded networks, which know how their images come
        try:
            model.runner.logits(images.inputs[:2])
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise Refused(
                f"{model.name} does not take the embedded images ({str(error).splitlines()[0]}): give data of its own, "
                "wb.Evaluation(inputs, labels)"
            ) from error
    return images


def _kind(value: object) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class Quality:
    """Measures changes of one model on one evaluation; the unchanged model's predictions are made once and kept
    where they fit into `KEEP`, and made again batch by batch where they do not."""

    def __init__(self, model: Model, data: Evaluation):
        self.model, self.data = model.base, data
        self._kept: list[Tensor] = []
        self.unchanged: dict[str, float] | None = None  # the base's own row, once anything was measured

    def measure(
        self,
        weights: Mapping[str, CompressedWeight] | None = None,
        step: Callable[[int, int], None] = lambda done, total: None,
        vectors: Mapping[str, Tensor] | None = None,
    ) -> dict[str, float]:
        """perplexity or accuracy, kl, top1_agreement of the model under these weights (and other tensors by name), with
        units as in MODEL_COLUMNS. `step(done, total)` is called before each batch and may raise to stop."""
        size = 4 * sum(layer.parameters for layer in self.model.layers)  # float32
        extra = 4 * sum(compressed.numel for compressed in (weights or {}).values())
        need = extra if self.model.runner.built else extra + size
        require(need, f"running {self.model.name}", "its layers can be compared without running it")
        changed = self.model.with_overlays(weights or {}, vectors).running
        run = self.model.runner.logits
        return self.judge((lambda _, inputs: run(inputs, changed)) if changed else None, step)

    def judge(
        self,
        run: Callable[[int, Tensor], Tensor] | None,
        step: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, float]:
        """The same of whatever answers `run(index of the batch, inputs)` with logits; None is the unchanged model."""
        sums: dict[str, float] = {"nll": 0.0, "kl": 0.0, "agree": 0, "right": 0, "count": 0}
        before: dict[str, float] = {"nll": 0.0, "right": 0}
        total = -(-len(self.data.inputs) // self.data.batch)
        for index, (inputs, targets) in enumerate(self.data.batches()):
            step(index, total)
            reference = self._reference(index, inputs)
            found = self._log_probabilities(run(index, inputs)) if run is not None else reference
            best = found.argmax(1)
            usual = best if found is reference else reference.argmax(1)
            for of, log_p, top in ((sums, found, best), (before, reference, usual)):
                of["nll"] -= float(log_p.gather(1, targets[:, None]).double().sum())
                of["right"] += int((top == targets).sum())
            sums["agree"] += int((best == usual).sum())
            if run is not None:
                sums["kl"] += float((reference.exp() * (reference - found)).double().sum())
            sums["count"] += len(targets)
        count = sums["count"]
        self.unchanged = {**self._score(before, count), "kl": 0.0, "top1_agreement": 1.0}
        # In this order: max(0.0, nan) is 0.0, and predictions that are NaN have no KL of zero.
        kl = max(sums["kl"] / count, 0.0)
        return {**self._score(sums, count), "kl": kl, "top1_agreement": sums["agree"] / count}

    def _score(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        if self.data.labels is not None:
            return {"accuracy": sums["right"] / count}
        return {"perplexity": math.exp(min(sums["nll"] / count, 700.0))}

    def _reference(self, index: int, inputs: Tensor) -> Tensor:
        if index < len(self._kept):
            return self._kept[index]
        made = self._log_probabilities(self.model.runner.logits(inputs))
        # All or nothing: a part of the batches kept would only blur the memory forecast.
        batches = -(-len(self.data.inputs) // self.data.batch)
        if made.nbytes * batches <= KEEP and index == len(self._kept):
            self._kept.append(made)
        return made

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """[predictions, vocabulary or classes], float32."""
        return torch.log_softmax(self.data.scored(logits), 1)
