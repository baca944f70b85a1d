"""A short training of small recurrent networks from weights of different rank: was it rich or lazy?

The recurrent weight begins with some rank, always rescaled to the norm that it has at full rank, and a few hundred
steps of SGD follow. What moved is measured on a probe batch: the weight itself, the hidden activity at the decision
(RA), and the tangent kernel of that weight (KA). After Liu et al. 2024 ("How connectivity structure shapes rich and
lazy learning in neural circuits"), smaller: 100 ReLU units without biases or leak. All ranks and seeds are trained side
by side as one batch of networks.

Two tasks: `images`, the embedded Fashion-MNIST images read two rows of pixels at a time, and `two-choice`, the paper's
kind: which of two noisy inputs was larger on average?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Refused, near
from ..jobs import Job
from ..model import zoo
from ..spectra.regime import kernel, kernel_alignment, low_rank, ranks, sign_agreement

if TYPE_CHECKING:
    import pandas as pd

GAIN = (
    1.25  # of the recurrent weight: its entries have the deviation GAIN / sqrt(units), as in the paper's code
)
PROBE = (
    32  # inputs that kernels are made of: the tangent kernel costs a backward pass for each input and output
)
BATCH = 32
NOISE = 0.5  # deviation of the two-choice inputs; their means differ by up to 1

REGIME_COLUMNS = {
    "rank": "rank that the recurrent weight began with",
    "seed": "of weights and batches",
    "stable_rank": "sum s^2 / s_1^2 of the initial weight",
    "participation_ratio": "(sum s^2)^2 / sum s^4 of the initial weight",
    "entropy_rank": "exp of the entropy of s / sum s of the initial weight",
    "change": "||W after - W before|| / ||W before||, of the recurrent weight",
    "ra": "representation alignment: of the kernels of hidden activity before and after, 1 unchanged",
    "ka": "tangent kernel alignment before and after, 1 unchanged; kernel distance is 1 - KA",
    "ka_centred": "the same after the kernels' means are taken away",
    "signs": "share of activations that are on, or off, in both",
    "loss": "cross-entropy after training, nats, on the data that was trained on",
    "accuracy": "share right after training, on the same data",
}


@dataclass(frozen=True, eq=False)
class Sequences:
    """A task: inputs [n, steps, channels], labels [n]; what it is, in words."""

    inputs: Tensor
    labels: Tensor
    classes: int
    what: str


@dataclass(frozen=True, eq=False)
class Regime:
    """Results: one row a network (REGIME_COLUMNS), and for each rank the tangent kernels [probe, probe] (trace over
    outputs) of its first seed, before and after, and the singular values that its weight began with."""

    table: pd.DataFrame
    kernels: dict[int, tuple[np.ndarray, np.ndarray]]
    spectra: dict[int, np.ndarray]
    losses: dict[int, np.ndarray]
    what: str


def image_sequences(count: int = 512) -> Sequences:
    """The first embedded calibration images as 14 steps of 56 pixels, two rows at a time."""
    from ..files.open import open_source

    source = open_source(zoo.data_folder() / "fashion-mnist" / "calibration.safetensors")
    images, labels = source.read("images")[:count], source.read("labels")[:count].long()
    inputs = ((images.float() / 255 - 0.286) / 0.353).reshape(len(images), 14, 56)
    return Sequences(inputs, labels, 10, f"{len(images)} images of Fashion-MNIST, two rows of pixels a step")


def two_choice(count: int = 512, steps: int = 8, seed: int = 0) -> Sequences:
    """Two noisy inputs; the label says which one has the larger mean."""
    random = torch.Generator().manual_seed(seed)
    coherence = torch.rand(count, generator=random) * 2 - 1
    means = torch.stack([coherence, -coherence], 1) / 2
    inputs = means[:, None] + NOISE * torch.randn(count, steps, 2, generator=random)
    return Sequences(inputs, (coherence > 0).long(), 2, f"two-choice task, {count} trials of {steps} steps")


TASKS = {"images": image_sequences, "two-choice": two_choice}


def train_regimes(
    task: str | Sequences = "images",
    *,
    ranks: Sequence[int] = (1, 3, 10, 30, 100),
    seeds: int = 4,
    units: int = 100,
    steps: int = 300,
    rate: float = 0.01,
    job: Job | None = None,
) -> Regime:
    """Train one network for each rank and seed, `steps` steps of SGD with momentum 0.9 and gradients of norm 1 at most,
    and compare before and after.

    Raises Refused for a rank beyond `units`, a rate that is not above 0, an unknown task, and where a training
    diverged."""
    import pandas as pd

    data = _data(task)
    if not ranks or seeds < 1 or steps < 1 or any(not 1 <= rank <= units for rank in ranks):
        raise Refused(
            f"ranks {list(ranks)} of {units} units, {seeds} seeds, {steps} steps: ranks lie in 1 to {units}"
        )
    if not 0 < rate < float("inf"):
        raise Refused(f"a rate of {rate} trains nothing: take one above 0, such as 0.01")
    cases = [(rank, seed) for rank in ranks for seed in range(seeds)]
    begun = [_initial(rank, seed, units, data) for rank, seed in cases]
    start = [torch.stack(each) for each in zip(*begun, strict=True)]
    trained, losses = _trained(start, data, [seed for _, seed in cases], steps, rate, job)
    rows, kernels, spectra = [], {}, {}
    for place, (rank, seed) in enumerate(cases):
        if job is not None:
            job.step(steps + place, steps + len(cases), f"kernels of rank {rank}, seed {seed}")
        before, after = ([each[place] for each in nets] for nets in (start, trained))
        row, pair = _compared(before, after, data)
        rows.append({"rank": rank, "seed": seed, **row})
        kernels.setdefault(rank, pair)
        spectra.setdefault(rank, np.linalg.svd(before[0].double().numpy(), compute_uv=False))
    frame = pd.DataFrame(rows, columns=list(REGIME_COLUMNS))
    frame.attrs["columns"] = REGIME_COLUMNS
    curves = {
        rank: losses[:, [i for i, case in enumerate(cases) if case[0] == rank]].mean(1) for rank in ranks
    }
    return Regime(frame, kernels, spectra, curves, data.what)


def _data(task: str | Sequences) -> Sequences:
    if isinstance(task, Sequences):
        return task
    if task not in TASKS:
        raise Refused(f"no task is called {task!r}{near(task, TASKS)}")
    return TASKS[task]()


def _initial(rank: int, seed: int, units: int, data: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """(recurrent [units, units], input [units, channels], output [classes, units]); one seed has the same full weight
    at every rank, so that ranks are compared and not draws."""
    random = np.random.default_rng(seed)
    full = random.standard_normal((units, units)) * GAIN / np.sqrt(units)
    channels = data.inputs.shape[2]
    into = random.standard_normal((units, channels)) / np.sqrt(channels)
    out = random.standard_normal((data.classes, units)) / np.sqrt(units)
    return tuple(torch.from_numpy(w).float() for w in (low_rank(full, rank), into, out))  # type: ignore[return-value]


def _activity(w: Tensor, into: Tensor, x: Tensor) -> Tensor:
    """Hidden activity at the last step [..., batch, units] of networks [..., units, units] for x [..., batch, steps,
    channels]."""
    driven = (x.flatten(-3, -2) @ into.mT).unflatten(-2, x.shape[-3:-1])
    h = torch.zeros(())
    for step, drive in enumerate(driven.unbind(-2)):
        h = F.relu(drive + h @ w.mT if step else drive)
    return h


def _trained(
    start: list[Tensor], data: Sequences, seeds: list[int], steps: int, rate: float, job: Job | None
) -> tuple[list[Tensor], np.ndarray]:
    """(weights after the training, loss [steps, networks]); each network has its own batches."""
    nets = [each.clone().requires_grad_() for each in start]
    moving = torch.optim.SGD(nets, lr=rate, momentum=0.9)
    random = [torch.Generator().manual_seed(seed) for seed in seeds]
    curve = np.zeros((steps, len(seeds)))
    for step in range(steps):
        if job is not None:
            job.step(step, steps + len(seeds), f"training, step {step}")
        chosen = torch.stack([torch.randint(len(data.labels), (BATCH,), generator=each) for each in random])
        h = _activity(nets[0], nets[1], data.inputs[chosen])
        logits = h @ nets[2].transpose(-1, -2)
        each = F.cross_entropy(logits.transpose(1, 2), data.labels[chosen], reduction="none").mean(1)
        curve[step] = each.detach().numpy()
        if not torch.isfinite(each).all():
            raise Refused(f"the training diverged at step {step}: take a smaller rate than {rate}")
        moving.zero_grad()
        each.sum().backward()  # a sum: the networks do not share anything
        # One exploding step of one network would end the run of all.
        for net in nets:
            norm = net.grad.flatten(1).norm(dim=1).clamp_min(1.0)  # type: ignore[union-attr]
            net.grad /= norm[:, None, None]  # type: ignore[operator]
        moving.step()
    return [each.detach() for each in nets], curve


def _compared(
    before: list[Tensor], after: list[Tensor], data: Sequences
) -> tuple[dict[str, float], tuple[np.ndarray, np.ndarray]]:
    """(the row of one network, its tangent kernels before and after, summed over outputs)."""
    probe = data.inputs[:PROBE]
    h0, h1 = (_activity(net[0], net[1], probe).double().numpy() for net in (before, after))
    j0, j1 = (_tangents(net, probe) for net in (before, after))
    k0, k1 = kernel(j0), kernel(j1)
    logits = _activity(after[0], after[1], data.inputs) @ after[2].T
    of = ranks(before[0].double().numpy())
    row = {
        **{name: of[name] for name in ("stable_rank", "participation_ratio", "entropy_rank")},
        "change": float((after[0] - before[0]).norm() / before[0].norm()),
        "ra": kernel_alignment(kernel(h0), kernel(h1)),
        "ka": kernel_alignment(k0, k1),
        "ka_centred": kernel_alignment(k0, k1, centred=True),
        "signs": sign_agreement(h0, h1),
        "loss": float(F.cross_entropy(logits, data.labels)),
        "accuracy": float((logits.argmax(1) == data.labels).float().mean()),
    }
    return row, (_traced(k0, len(probe)), _traced(k1, len(probe)))


def _tangents(net: list[Tensor], probe: Tensor) -> np.ndarray:
    """J [inputs * outputs, units * units]: derivatives of every output by the recurrent weight, float64."""

    def outputs(w: Tensor) -> Tensor:
        return (_activity(w, net[1], probe) @ net[2].T).flatten()

    return torch.func.jacrev(outputs, chunk_size=64)(net[0]).flatten(1).double().numpy()


def _traced(k: np.ndarray, inputs: int) -> np.ndarray:
    """A kernel [inputs * outputs, the same] as [inputs, inputs]: the trace over outputs."""
    outputs = len(k) // inputs
    return np.einsum("iojo->ij", k.reshape(inputs, outputs, inputs, outputs))
