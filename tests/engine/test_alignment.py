"""Two networks: the function survives every permutation of every family, the line and the mean are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import workbench as wb
from workbench.engine import alignment
from workbench.engine.alignment import Blend, align, line, mean, merge, same_function, with_tensors
from workbench.engine.symmetry import described, joined, symmetry_of, tensors_of
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.measure import Evaluation
from workbench.model import DictSource, Model
from workbench.spectra.alignment import distance, match


class MLP(nn.Module):
    def __init__(self, seed: int, width: int = 24, inputs: int = 12):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Linear(inputs, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def points(count: int = 200) -> Evaluation:
    """Three classes of points by which of three directions they lie along most."""
    x = torch.randn(count, 12, generator=torch.Generator().manual_seed(5))
    return Evaluation(x, x[:, :3].argmax(1), f"{count} points", 100)


def trained(seed: int) -> Model:
    """A few steps, so that its units mean something."""
    module, data = MLP(seed), points(400)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(60):
        nn.functional.cross_entropy(module(data.inputs), data.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return wb.load(module, name=f"mlp-{seed}", task="classification")


@pytest.fixture(scope="module")
def pair():
    return trained(0), trained(1)


def outputs(model: Model, tensors: dict[str, np.ndarray], inputs: torch.Tensor) -> torch.Tensor:
    """What the network answers in float64 with these tensors."""
    bench = Blend(model)
    bench.module.double()
    bench._state = bench.module.state_dict()
    bench.put(tensors, estimate=False)
    with torch.no_grad():
        answer = bench.module(inputs)
    return answer if isinstance(answer, torch.Tensor) else answer.logits


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-vit", "tiny-mlp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_permutation_of_an_image_network_keeps_its_function(name, seed):
    model = wb.load(name)
    symmetry, tensors = symmetry_of(model), tensors_of(model)
    inputs = model.runner.prepare(wb.evaluation(model).first(8).inputs).double()
    moved = symmetry.apply(tensors, symmetry.random(seed))
    assert distance(tensors, moved, symmetry) > 1
    before, after = (outputs(model, t, inputs) for t in (tensors, moved))
    assert (before - after).norm() <= 1e-14 * before.norm()


def test_every_permutation_of_a_decoder_keeps_its_function(make_llama, tmp_path, monkeypatch):
    """Grouped queries, biases, an untied head. transformers' norm is float32 inside: here it is float64."""
    from transformers.models.llama import modeling_llama

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    model = wb.load(make_llama(tmp_path / "m", tie_word_embeddings=False, attention_bias=True))
    symmetry, tensors = symmetry_of(model), tensors_of(model)
    assert {g.size for g in symmetry.groups.values()} == {64, 2, 16, 176}
    ids = torch.arange(30)[None]
    before = outputs(model, tensors, ids)
    for seed in range(3):
        moved = symmetry.apply(tensors, symmetry.random(seed))
        assert (before - outputs(model, moved, ids)).norm() <= 1e-14 * before.norm()


def test_rotary_positions_forbid_what_a_head_without_them_may(make_llama, tmp_path):
    """Dimensions of q and k inside a head, permuted alike: no change in a ViT, another function in a Llama."""
    model = wb.load(make_llama(tmp_path / "m"))
    symmetry, tensors = symmetry_of(model), tensors_of(model)
    assert not any("q, k" in name for name in symmetry.groups)
    order = np.r_[1, 0, 2:16]
    wrong = dict(tensors)
    for part in ("q_proj", "k_proj"):
        name = f"model.layers.0.self_attn.{part}.weight"
        wrong[name] = tensors[name].reshape(-1, 16, 64)[:, order].reshape(tensors[name].shape)
    ids = torch.arange(30)[None]
    before = outputs(model, tensors, ids)
    assert (before - outputs(model, wrong, ids)).norm() > 1e-3 * before.norm()
    assert any("q, k" in name for name in symmetry_of(wb.load("tiny-vit")).groups)


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-vit", "tiny-llama"])
def test_a_permuted_copy_is_found_again_exactly(name):
    model = wb.load(name)
    symmetry, tensors = symmetry_of(model), tensors_of(model)
    moved = symmetry.apply(tensors, symmetry.random(7))
    found = match(tensors, moved, symmetry, orders=1)
    assert distance(tensors, symmetry.apply(moved, found.permutations), symmetry) == 0
    for layer in (model.layers[2], model.layers[-1]):
        sides = [layer.to_matrix(joined(t)[layer.tensor]).numpy() for t in (tensors, moved)]
        one, two = (np.linalg.svd(side, compute_uv=False) for side in sides)
        np.testing.assert_allclose(one, two, rtol=1e-10, atol=1e-12)


def test_batch_norms_follow_their_channels():
    model = wb.load("tiny-resnet")
    symmetry = symmetry_of(model)
    assert symmetry.axes["layer2.0.bn1.running_var"] == symmetry.axes["layer2.0.bn1.weight"]
    assert symmetry.axes["layer2.0.downsample.0.weight"][0] == symmetry.axes["layer2.1.conv2.weight"][0]
    assert symmetry.axes["layer1.2.bn2.bias"] == symmetry.axes["conv1.weight"][:1], "one stream"
    assert "layer1.0.bn1.running_mean" in symmetry.follow
    assert "layer1.0.bn1.num_batches_tracked" not in symmetry.axes


def test_matching_brings_two_trainings_nearer_and_the_second_answers_as_before(pair):
    found = align(*pair)
    before, after = found.distances
    assert after < 0.9 * before
    assert (np.diff(found.matching.objective) >= 0).all()
    x = points().inputs
    moved = with_tensors(pair[1], found.matched, "moved", estimate=False)
    torch.testing.assert_close(moved.runner.logits(x), pair[1].runner.logits(x), rtol=1e-4, atol=1e-5)
    assert moved.layer("layers.0").shape == (24, 12)


def test_the_line_has_the_losses_of_the_networks_at_its_ends(pair):
    found, data = align(*pair), points()
    naive = line(pair[0], found.a, found.b, data, points=5)
    matched = line(pair[0], found.a, found.matched, data, points=5)
    for frame, place, model in ((naive, 0, pair[0]), (naive, 4, pair[1]), (matched, 4, pair[1])):
        loss = nn.functional.cross_entropy(model.runner.logits(data.inputs), data.labels)
        assert frame["loss"][place] == pytest.approx(float(loss), abs=1e-5)
    assert naive["barrier"].iloc[[0, -1]].abs().max() < 1e-12
    t, straight = 0.25, 0.75 * naive["loss"][0] + 0.25 * naive["loss"][4]
    assert naive["t"][1] == t
    assert naive["barrier"][1] == pytest.approx(naive["loss"][1] - straight)
    middle = with_tensors(pair[0], {n: (found.a[n] + found.matched[n]) / 2 for n in found.a}, "middle")
    assert Blend(middle).loss(data)[0] == pytest.approx(matched["loss"][2], abs=1e-6)


def test_a_line_leaves_the_network_as_it_was(pair):
    x = points().inputs
    before = pair[0].runner.logits(x)
    found = align(*pair)
    line(pair[0], found.a, found.b, points(), points=3)
    assert torch.equal(pair[0].runner.logits(x), before)


def test_batch_norms_are_taken_anew_in_the_middle_and_kept_at_the_ends():
    model = wb.load("tiny-resnet")
    tensors, data = tensors_of(model), wb.evaluation(model).first(100)
    kept, anew = Blend(model), Blend(model)
    kept.put(tensors, estimate=False)
    anew.put(tensors)
    statistics = [bench.module.bn1.running_mean.clone() for bench in (kept, anew)]
    torch.testing.assert_close(
        statistics[0].double(), torch.from_numpy(tensors["bn1.running_mean"]), rtol=1e-4, atol=1e-4
    )
    assert not torch.equal(*statistics)
    assert anew.module.bn1.momentum == 0.1
    assert not anew.module.training
    # Half of the weights' scale in every convolution changes nothing once the statistics fit again.
    halved = {n: t / 2 if "conv" in n or "downsample.0" in n else t for n, t in tensors.items()}
    broken, mended = Blend(model), Blend(model)
    broken.put(halved, estimate=False)
    mended.put(halved)
    assert mended.loss(data)[0] < 1.1 * anew.loss(data)[0]
    assert broken.loss(data)[0] > 2 * mended.loss(data)[0]


def test_merging_is_nearer_than_the_plain_mean_and_three_copies_are_one():
    model = trained(0)
    symmetry, tensors = symmetry_of(model), tensors_of(model)
    copies = [model]
    for seed in (1, 2):
        moved = symmetry.apply(tensors, symmetry.random(seed))
        copies.append(with_tensors(model, moved, f"copy {seed}", estimate=False))
    merged, how = merge(copies)
    data = points()
    losses = [Blend(each).loss(data)[0] for each in (model, merged, mean(copies))]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] > 1.5 * losses[0]
    assert how.spread[-1] < 1e-6 * how.spread[0]


def test_overlays_count(pair):
    """A model is matched as it is now: one that was rounded is another network."""
    rounded = wb.apply(pair[0], wb.Recipe([wb.RTN(bits=2, group_size=-1)])).model
    before, after = align(pair[0], rounded, orders=1).distances
    assert 0 < after <= before
    np.testing.assert_allclose(tensors_of(rounded)["layers.0.weight"], rounded.weight("layers.0"), rtol=1e-6)


def test_groups_are_described():
    rows = {row["group"]: row for row in described(symmetry_of(wb.load("tiny-llama")))}
    heads = rows["model.layers.0 key-value heads"]
    assert (heads["size"], heads["log10_orders"]) == (2, pytest.approx(np.log10(2)))
    assert rows["model.layers.0 v, o in the head"]["inside"] == "model.layers.0 key-value heads"
    assert rows["stream"]["tensors"] == 1 + 5 * 9 + 1, (
        "embedding, nine a block (norms, q, k, v, o, gate, up, down), norm"
    )


def test_a_job_sees_progress_and_stops_the_work(pair):
    job, seen = Job(lambda job: merge([*pair, trained(2)], job=job), "merge"), []
    job.listen(lambda job: seen.append(job.text))
    assert isinstance(job.run()[0], Model)
    assert any("network" in text for text in seen)

    def stopped(job):
        job.cancel()
        return align(*pair, job=job)

    with pytest.raises(Cancelled):
        Job(stopped, "align").run()


# What is refused.


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5)

    def forward(self, x):
        return self.lstm(x)[0]


def test_two_architectures_or_widths_are_refused_by_their_first_difference(pair):
    with pytest.raises(Refused, match="different architectures"):
        align(wb.load("tiny-resnet"), wb.load("tiny-vit"))
    wider = wb.load(MLP(3, width=30), name="wider", task="classification")
    with pytest.raises(Refused, match=r"layers\.0\.weight is \[24, 12\] and \[30, 12\]"):
        align(pair[0], wider)


def test_an_unknown_family_is_refused_with_what_is_known():
    with pytest.raises(Refused, match=r"permutations are known for MLPs, ResNets"):
        symmetry_of(wb.load(Strange(), name="strange"))
    odd = MLP(0)
    odd.register_parameter("extra", nn.Parameter(torch.ones(3)))
    with pytest.raises(Refused, match="nothing is known of extra"):
        symmetry_of(wb.load(odd, name="odd"))


def test_nan_and_too_few_models_are_refused(pair):
    broken = MLP(0)
    broken.layers[1].bias.data[3] = float("nan")
    with pytest.raises(Refused, match=r"layers\.1\.bias of broken holds NaN"):
        align(pair[0], wb.load(broken, name="broken", task="classification"))
    with pytest.raises(Refused, match="two or more"):
        merge([pair[0]])
    with pytest.raises(Refused, match="2 points has no inside"):
        line(pair[0], {}, {}, points(), points=2)


def test_a_network_that_does_more_than_its_names_say_is_found_out():
    """Units are weighted by their place: no permutation keeps that, though the tensors look like an MLP's."""

    class Placed(MLP):
        def forward(self, x):
            for layer in self.layers:
                x = torch.tanh(layer(x)) * torch.linspace(0, 3, 24)
            return self.head(x)

    a, b = (wb.load(Placed(k), name=f"placed-{k}", task="classification") for k in (0, 1))
    found = align(a, b)
    losses = [line(a, found.a, t, points(), points=3)["loss"][2] for t in (found.b, found.matched)]
    with pytest.raises(Refused, match="placed-1 permuted answers otherwise"):
        same_function(*losses, b.name)


def test_a_decoder_without_its_configuration_is_refused(llama_folder):
    model = wb.load(llama_folder)
    bare = Model("bare", DictSource({n: model.source.read(n) for n in model.source}), model.layers)
    with pytest.raises(Refused, match="num_attention_heads"):
        symmetry_of(bare)


def test_the_number_of_points_is_that_of_the_papers_plots():
    assert alignment.POINTS == 11
