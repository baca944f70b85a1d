"""Quality of a changed model: perplexity, accuracy, KL and agreement against computing them directly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

import workbench as wb
from workbench.errors import Refused
from workbench.measure import Evaluation, Quality, evaluation, quality


def coarse(model, bits=2):
    """Every layer but the embedding at two bits: far from the original."""
    return wb.apply(model, wb.Recipe([wb.RTN(bits=bits, group_size=-1)])).weights


def logits(model, data, weights):
    changed = {model.layer(name): compressed.dequantize() for name, compressed in weights.items()}
    found = model.runner.logits(data.inputs, changed).double()
    return found if data.labels is not None else found[:, :-1].flatten(0, 1)


def test_the_unchanged_model_has_kl_0_and_agreement_1(model, classifier, text, images):
    for subject, data in ((model, text), (classifier, images)):
        for weights in (None, {}):
            found = Quality(subject, data).measure(weights)
            assert (found["kl"], found["top1_agreement"]) == (0.0, 1.0)


def test_weights_that_are_the_same_have_kl_0_too(model, text):
    same = {layer.name: wb.grid.uncompressed(model.base_weight(layer.name)) for layer in model.layers}
    found = Quality(model, text).measure(same)
    assert found["kl"] == pytest.approx(0, abs=1e-7)
    assert found["top1_agreement"] == 1


def test_perplexity_is_the_exponential_of_the_mean_cross_entropy(model, text):
    for weights in ({}, coarse(model)):
        targets = text.inputs[:, 1:].flatten()
        expected = F.cross_entropy(logits(model, text, weights), targets).exp().item()
        found = Quality(model, text).measure(weights)
        assert found["perplexity"] == pytest.approx(expected, rel=1e-5)
        assert "accuracy" not in found


def test_accuracy_is_the_share_that_is_right(classifier, images):
    for weights in ({}, coarse(classifier)):
        right = (logits(classifier, images, weights).argmax(1) == images.labels).double().mean().item()
        found = Quality(classifier, images).measure(weights)
        assert found["accuracy"] == pytest.approx(right)
        assert "perplexity" not in found


def test_kl_and_agreement_are_those_of_the_predictions(model, classifier, text, images):
    for subject, data in ((model, text), (classifier, images)):
        weights = coarse(subject)
        before, after = logits(subject, data, {}), logits(subject, data, weights)
        kl = F.kl_div(
            after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean"
        ).item()
        agreement = (before.argmax(1) == after.argmax(1)).double().mean().item()
        found = Quality(subject, data).measure(weights)
        assert found["kl"] == pytest.approx(kl, rel=1e-4)
        assert found["top1_agreement"] == pytest.approx(agreement)
        assert kl > 1e-3
        assert agreement < 1


def test_fewer_bits_are_further_away(model, text):
    kept = Quality(model, text)
    kl = [kept.measure(coarse(model, bits))["kl"] for bits in (8, 4, 2)]
    assert kl == sorted(kl)
    assert kl[0] < kl[2] / 100


def test_the_reference_is_run_once_and_kept_or_made_again_with_the_same_numbers(model, text, monkeypatch):
    runs = []
    original = model.runner.logits

    def counted(inputs, weights=None):
        runs.append(bool(weights))
        return original(inputs, weights)

    monkeypatch.setattr(model.runner, "logits", counted)
    weights = coarse(model)
    kept = Quality(model, text)
    first, second = kept.measure(weights), kept.measure(weights)
    assert runs.count(False) == 4  # four batches, once
    monkeypatch.setattr(quality, "KEEP", 0)
    again = Quality(model, text)
    assert again.measure(weights) == again.measure(weights) == first == second
    assert runs.count(False) == 4 + 8
    assert again._kept == []


def test_overlays_of_the_model_do_not_move_the_reference(model, text):
    over = model.with_overlays(coarse(model))
    assert Quality(over, text).measure() == Quality(model, text).measure()


def test_each_batch_is_told_and_may_stop(model, text):
    steps = []
    Quality(model, text).measure({}, lambda done, total: steps.append((done, total)))
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]

    def stop(done, total):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Quality(model, text).measure({}, stop)


def test_a_perplexity_beyond_floating_point_is_a_number():
    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = torch.nn.Embedding(3, 3)

        def forward(self, ids):
            return self.embed_tokens(ids) * 0 + torch.tensor([0.0, -1e5, -1e5])

    data = Evaluation(torch.ones(1, 4, dtype=torch.long), None, "ones", 1)
    found = Quality(wb.load(Sure(), task="language"), data).measure()
    assert math.isfinite(found["perplexity"])
    assert found["perplexity"] > 1e300


def test_an_evaluation_knows_how_many_predictions_it_scores(text, images):
    assert len(text) == 7 * 8
    assert len(images) == 50
    inputs, targets = next(text.batches())
    assert inputs.shape == (2, 9)
    assert torch.equal(targets, inputs[:, 1:].flatten())
    assert [len(part) for part in text.inputs_only()] == [2, 2, 2, 1]


# Texts. The tokenizer of these models takes a word for a token; their context is 512.


@pytest.fixture
def write(tmp_path):
    def written(count):
        path = tmp_path / f"{count}.txt"
        path.write_text(" ".join(str(i % 17) for i in range(count)))
        return path

    return written


@pytest.mark.parametrize(
    ("count", "tokens", "shape"),
    [
        (1030, 4096, (2, 512)),
        (1030, 1024, (2, 512)),
        (1030, 100, (1, 100)),
        (40_000, 600, (1, 512)),
        (512, 512, (1, 512)),
    ],
)
def test_a_text_is_cut_into_windows_of_one_context(model, write, count, tokens, shape):
    data = evaluation(model, write(count), tokens)
    assert data.inputs.shape == shape
    assert data.inputs.flatten().tolist() == [i % 17 for i in range(math.prod(shape))]
    assert data.what == f"{math.prod(shape):,} tokens of {count}.txt"


def test_a_text_shorter_than_one_context_is_refused_with_the_way_out(model, write):
    with pytest.raises(
        Refused, match=r"300.txt has 300 tokens, less than one context of 512: .*--tokens 300"
    ):
        evaluation(model, write(300))
    assert evaluation(model, write(300), 300).inputs.shape == (1, 300)


def test_a_text_of_long_words_is_read_to_its_end_where_the_beginning_is_too_short(model, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text((" " * 99 + "3") * 600)
    assert evaluation(model, path, 512).inputs.shape == (1, 512)


def test_a_missing_binary_or_empty_text_is_refused(model, tmp_path, write):
    with pytest.raises(Refused, match=r"none.txt cannot be read"):
        evaluation(model, tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match=r"b.txt cannot be read"):
        evaluation(model, tmp_path / "b.txt")
    with pytest.raises(Refused, match=r"0.txt has 0 tokens"):
        evaluation(model, write(0))
    with pytest.raises(Refused, match="--tokens 1 is not possible"):
        evaluation(model, write(600), 1)


def test_the_first_of_the_data_is_data():
    tokens = Evaluation(torch.arange(12).reshape(4, 3), None, "12 tokens", batch=2, code="x")
    assert (len(tokens), len(tokens.first(2)), tokens.first(2).what) == (
        8,
        4,
        "the first 2 windows of 12 tokens",
    )
    images = Evaluation(torch.zeros(4, 1), torch.arange(4), "4 images", batch=2, code="x")
    assert images.first(3).labels.tolist() == [0, 1, 2]
    assert images.first(3).code == "", "no call makes these again"
    assert images.first(4) is images


def test_a_network_that_does_not_take_the_embedded_images_asks_for_data_of_its_own():
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(20, 3)

        def forward(self, x):
            return self.layer(x)

    model = wb.load(Own(), task="classification")
    with pytest.raises(
        Refused, match=r"does not take the embedded images .*wb\.Evaluation\(inputs, labels\)"
    ):
        evaluation(model)
    data = Evaluation(torch.randn(30, 20, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    assert 0 <= Quality(model, data).measure()["accuracy"] <= 1


@pytest.mark.parametrize(
    ("inputs", "labels", "batch", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(3), 2, r"one class each, labels \[4\], not \[3\]"),
        (torch.zeros(4, 2), torch.zeros(4, 10), 2, r"not \[4, 10\]"),
        ([[1.0]], None, 2, "one row an example, not list"),
        (torch.arange(100), None, 2, "windows of tokens"),
        (torch.zeros(4, 1, dtype=torch.long), None, 2, "2 or more"),
        (torch.randn(4, 3), None, 2, "a classifier needs labels"),
        (torch.zeros(4, 2), torch.zeros(4), 2, "whole numbers from 0 on"),
        (torch.zeros(4, 2), torch.tensor([0, 1, -1, 2]), 2, "whole numbers from 0 on"),
        (torch.zeros(0, 2), None, 2, "nothing to measure on"),
        (torch.zeros(4, 2), None, 0, "batches of 0"),
    ],
)
def test_data_that_cannot_be_measured_on_is_refused(inputs, labels, batch, words):
    with pytest.raises(Refused, match=words):
        Evaluation(inputs, labels, batch=batch)


def test_a_class_beyond_the_outputs_is_refused():
    model = wb.load(torch.nn.Sequential(torch.nn.Linear(4, 3)), task="classification")
    data = Evaluation(torch.zeros(2, 4), torch.tensor([0, 3]))
    with pytest.raises(Refused, match="label 3 is beyond the 3 outputs"):
        Quality(model, data).measure()
