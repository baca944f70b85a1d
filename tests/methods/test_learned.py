"""What learning methods share: the two objectives, the optimiser, and that the best state is kept."""

from __future__ import annotations

import pytest
import torch

from workbench.grid import CompressedWeight
from workbench.jobs import Cancelled, heard
from workbench.methods import Span, Statistics
from workbench.methods.learned import Adam, moved
from workbench.methods.objective import ALONE, BlockError, LayerError
from workbench.methods.quantize.adaround import AdaRound
from workbench.methods.quantize.flexround import FlexRound
from workbench.methods.quantize.nupes import NUPES
from workbench.methods.quantize.rtn import RTN

METHODS = (AdaRound, FlexRound, NUPES)
each_method = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.name)


def correlated(seed: int = 0, out: int = 16, inputs: int = 32) -> tuple[torch.Tensor, Statistics]:
    """A weight and 256 inputs whose channels go together, as those of a network do."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
    x = torch.randn(256, inputs, generator=generator) @ mix
    w = torch.randn(out, inputs, generator=generator) * 0.1
    return w, Statistics(256, mean_square=x.square().mean(0), hessian=x.T @ x / 256, sample=x)


def span(seed: int = 0, batches: int = 3) -> Span:
    """Two layers with a ReLU between them, on inputs that differ a little from those of the targets."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "first": torch.randn(24, 16, generator=generator),
        "second": torch.randn(8, 24, generator=generator),
    }
    before = [torch.randn(40, 16, generator=generator) for _ in range(batches)]

    def run(x, w):
        return torch.relu(x @ w["first"].T) @ w["second"].T

    inputs = [x + 0.05 * torch.randn(x.shape, generator=generator) for x in before]
    sample = torch.cat(inputs)
    hidden = torch.relu(sample @ weights["first"].T)
    known = {
        name: Statistics(len(x), mean_square=x.square().mean(0), sample=x)
        for name, x in (("first", sample), ("second", hidden))
    }
    return Span(weights, known, inputs, [run(x, weights) for x in before], run)


def loss_of(part: Span, made: dict[str, CompressedWeight]) -> float:
    return BlockError(part).total({name: each.dequantize() for name, each in made.items()})


def test_adam_is_adam():
    start, generator = torch.linspace(-1, 1, 7), torch.Generator().manual_seed(0)
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    adam, torchs = Adam([(ours, 1.0)]), torch.optim.Adam([theirs], lr=0.05)
    for _ in range(20):
        slope = torch.randn(7, generator=generator)
        ours.grad, theirs.grad = slope.clone(), slope.clone()
        adam.step(0.05)
        torchs.step()
    torch.testing.assert_close(ours, theirs)


def test_the_layers_loss_is_the_output_error_on_the_inputs_that_made_the_hessian():
    w, known = correlated()
    changed = (w + 0.01 * torch.randn(w.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    loss = LayerError(w, known.hessian).loss({ALONE: changed})
    direct = (known.sample @ (changed - w).T).square().sum() / (known.sample @ w.T).square().sum()
    torch.testing.assert_close(loss, direct)
    slopes = [torch.autograd.grad(each, changed)[0] for each in (loss, direct)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_a_layer_without_output_has_no_error():
    zeros = torch.zeros(2, 3)
    assert LayerError(zeros, torch.eye(3)).total({ALONE: zeros}) == 0


def test_a_blocks_loss_sees_every_batch_once_a_round_and_averages_to_the_whole():
    part = span()
    objective = BlockError(part)
    values = {name: w * 1.1 for name, w in part.weights.items()}
    steps = [float(objective.loss(values, step)) for step in range(6)]
    assert sum(steps[:3]) / 3 == pytest.approx(objective.total(values), rel=1e-6)
    assert sorted(steps[:3]) == pytest.approx(sorted(steps[3:]))
    energy = sum(float(y.square().sum()) for y in part.targets)
    direct = sum(
        float((part.run(x, values) - y).square().sum())
        for x, y in zip(part.inputs, part.targets, strict=True)
    )
    assert objective.total(values) == pytest.approx(direct / energy, rel=1e-5)


@each_method
@pytest.mark.parametrize("steps", [1, 30])
def test_nothing_ends_worse_than_it_began(kind, steps):
    for seed in range(3):
        w, known = correlated(seed)
        for rate in (0.001, 1.0):  # a rate of 1 throws everything about
            made = kind(bits=3, steps=steps, rate=rate).compress(w, known)
            start = kind(bits=3).quantize(w, known.mean_square)
            errors = [known.output_error(w, each.dequantize() - w) for each in (made, start)]
            assert errors[0] <= errors[1]
            facts = made.report.facts
            assert facts["loss at the end"] == pytest.approx(errors[0] ** 2, rel=1e-4)
            assert facts["loss at the start"] == pytest.approx(errors[1] ** 2, rel=1e-4)


@each_method
def test_the_loss_is_told_step_by_step_under_no_grad_too(kind):
    w, known = correlated()
    heard_of = []
    with torch.no_grad(), heard(lambda done, total, values: heard_of.append((done, total, values["loss"]))):
        made = kind(bits=3, steps=40).compress(w, known)
    assert [each[:2] for each in heard_of] == [(step, 40) for step in range(1, 41)]
    assert [loss for *_, loss in heard_of] == made.report.curves["loss"]


@each_method
def test_a_listener_can_stop_it(kind):
    def stop(done, total, values):
        if done == 3:
            raise Cancelled

    w, known = correlated()
    with pytest.raises(Cancelled), heard(stop):
        kind().compress(w, known)


@each_method
def test_a_block_is_rebuilt_as_a_whole(kind):
    part, method = span(), kind(bits=3, reconstruct="block", steps=150)
    assert method.works_on == "block"
    assert "hessian" not in method.needed
    made = method.rebuild(part)
    start = {
        name: kind(bits=3).quantize(w, part.statistics[name].mean_square) for name, w in part.weights.items()
    }
    assert loss_of(part, made) < 0.8 * loss_of(part, start)
    assert loss_of(part, made) == pytest.approx(made["first"].report.facts["loss at the end"], rel=1e-4)
    again = method.rebuild(part)
    assert all(torch.equal(made[name].codes, again[name].codes) for name in made)


@each_method
def test_without_a_hessian_the_sample_serves(kind):
    w, known = correlated()
    sample = Statistics(256, mean_square=known.mean_square, sample=known.sample)
    made = kind(bits=3, reconstruct="block", steps=60).compress(w, sample)
    direct = kind(bits=3, steps=60).compress(w, known)
    assert known.output_error(w, made.dequantize() - w) == pytest.approx(
        known.output_error(w, direct.dequantize() - w), rel=0.1
    )


@each_method
def test_the_size_of_weights_and_inputs_does_not_matter(kind):
    w, known = correlated()
    larger = Statistics(256, mean_square=known.mean_square * 2.0**20, hessian=known.hessian * 2.0**20)
    methods = kind(bits=3, steps=50, scale_dtype="float32")
    assert torch.equal(methods.compress(w, known).codes, methods.compress(w * 0.25, larger).codes)


@each_method
def test_removed_weights_stay_removed_and_the_others_make_up_for_them(kind):
    w, known = correlated()
    mask = torch.rand(w.shape, generator=torch.Generator().manual_seed(3)) < 0.6
    known.mask = mask
    made = kind(bits=3, steps=150).compress(w * mask, known)
    assert made.mask is not None
    assert made.dequantize()[~mask].count_nonzero() == 0
    start = kind(bits=3).quantize(w * mask, known.mean_square)
    errors = [known.output_error(w * mask, each.dequantize() - w * mask) for each in (made, start)]
    assert errors[0] < 0.95 * errors[1]


@each_method
def test_edges(kind):
    for out, inputs in ((1, 1), (3, 2), (5, 70)):
        w, known = correlated(0, out, inputs)
        w[0] = 0
        known.hessian[0], known.hessian[:, 0], known.mean_square[0] = 0, 0, 0  # a dead input
        for each in (w, w.T.contiguous().T):
            made = kind(bits=2, steps=20, group_size=32).compress(each, known)
            assert torch.isfinite(made.dequantize()).all()
            assert made.dequantize()[0].abs().max() < 1e-6


@each_method
def test_what_is_on_the_grid_has_nothing_to_learn(kind):
    w, known = correlated()
    exact = (
        kind(bits=3, scale_search="none", exponent=0.5)
        if kind is NUPES
        else kind(bits=3, scale_search="none")
    )
    on_grid = exact.quantize(w).dequantize()
    made = exact.compress(on_grid, known)
    assert torch.allclose(made.dequantize(), on_grid, atol=1e-6)


def test_a_diverging_loss_ends_with_a_warning_and_the_best_so_far():
    w, known = correlated()
    made = FlexRound(bits=3, rate=1.0, steps=400).compress(w * 1e18, known)
    assert torch.isfinite(made.dequantize()).all()


def test_moves_are_counted_in_points_of_the_grid():
    w = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    before = RTN(bits=2, group_size=4).compress(w)
    report = moved(before, RTN(bits=2, group_size=4).fit(w).compressed(torch.tensor([[0, 3, 2, 3]]).byte()))
    assert report.facts == {"changed codes, %": 25.0, "farthest move": 2}
    masked = before.with_mask(torch.tensor([[True, True, False, False]]))
    assert moved(before, masked).facts["changed codes, %"] == 0
