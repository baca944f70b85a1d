"""Apply: deterministic, composing, cancelled between layers, resumed without doing anything twice."""

from __future__ import annotations

import threading

import pytest
import torch

import workbench as wb
from workbench.engine import Recipe, Step, Variant, compress
from workbench.errors import Refused
from workbench.jobs import Job

LINEAR = ["layers.0.up_proj", "layers.0.down_proj", "layers.1.up_proj", "layers.1.down_proj"]
IDS = torch.arange(16).reshape(2, 8)


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name].dequantize(), b[name].dequantize()) for name in a)


def test_every_planned_layer_is_changed_as_its_method_would_alone(model):
    variant = wb.apply(model, Recipe([wb.RTN(bits=3), Step(wb.RTN(bits=8), "role:down")]))
    assert list(variant.weights) == LINEAR
    for name in LINEAR:
        method = wb.RTN(bits=8 if "down" in name else 3)
        assert torch.equal(variant.weights[name].codes, method.compress(model.weight(name)).codes)
        assert variant.methods[name] == (method,)
    assert variant.label == "rtn 3 g64 + rtn 8 g64 on role:down"
    assert variant.method_label(LINEAR[1]) == "rtn 8 g64"
    assert variant.method_label("embed_tokens") == ""
    assert not variant.partial


def test_applying_twice_gives_the_same(model):
    recipe = Recipe([wb.Magnitude(), wb.RTN(bits=2)])
    assert same(wb.apply(model, recipe).weights, wb.apply(model, recipe).weights)


def test_the_base_stays_as_it_is(model, module):
    before = {name: parameter.clone() for name, parameter in module.named_parameters()}
    variant = wb.apply(model, Recipe([Step(wb.RTN(bits=2), "*, role:embed")]))
    assert all(torch.equal(before[name], parameter) for name, parameter in module.named_parameters())
    assert model.overlays == {}
    assert not torch.equal(variant.model.weight(LINEAR[0]), model.weight(LINEAR[0]))
    assert torch.equal(variant.base.weight(LINEAR[0]), model.weight(LINEAR[0]))


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"symmetric": True, "convention": "signed"}])
def test_a_quantizer_and_a_pruner_compose_in_both_orders(model, options):
    w, rtn, magnitude = model.weight(LINEAR[0]), wb.RTN(bits=3, **options), wb.Magnitude(n_m=(2, 4))
    for methods in ((rtn, magnitude), (magnitude, rtn)):
        made = compress(w, methods)
        assert made.sparsity == 0.5
        assert made.n_m == (2, 4)
        assert made.dequantize()[~made.mask].count_nonzero() == 0
        assert made.codes.dtype in (torch.uint8, torch.int8)
    pruned_first = compress(w, (magnitude, rtn))
    assert torch.equal(pruned_first.mask, magnitude.compress(w).mask)
    assert torch.equal(pruned_first.codes, rtn.compress(magnitude.compress(w).dequantize()).codes)
    quantized_first = compress(w, (rtn, magnitude))
    assert torch.equal(quantized_first.codes, rtn.compress(w).codes)
    assert torch.equal(quantized_first.mask, magnitude.compress(rtn.compress(w).dequantize()).mask)


def test_no_method_at_all_is_refused():
    with pytest.raises(Refused, match="no method was given"):
        compress(torch.ones(2, 2), [])


def test_an_empty_recipe_changes_nothing(model):
    assert wb.apply(model, Recipe()).weights == {}


def test_a_job_hears_of_every_layer(model):
    heard = []

    class Listening(Job):
        def step(self, done, total, text=""):
            heard.append((done, total, text))
            super().step(done, total, text)

    job = Listening(lambda job: wb.apply(model, Recipe([wb.RTN()]), job=job))
    variant = job.run()
    assert heard == [(i, 4, name) for i, name in enumerate(LINEAR)]
    assert (job.done, job.total, job.state) == (4, 4, "done")
    assert len(variant.weights) == 4


def cancelled_after(model, recipe, layers, **options):
    """The job and its variant, cancelled when `layers` layers were finished."""

    class Stopping(Job):
        def step(self, done, total, text=""):
            if done == layers and text in LINEAR:
                self.cancel()
            super().step(done, total, text)

    job = Stopping(lambda job: wb.apply(model, recipe, job=job, **options))
    return job, job.run()


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_cancel_keeps_exactly_the_finished_layers(model, layers):
    recipe = Recipe([wb.RTN(bits=3)])
    earlier = wb.apply(model, Recipe([wb.RTN(bits=8)]))
    before = {name: weight.dequantize() for name, weight in earlier.weights.items()}
    job, variant = cancelled_after(model, recipe, layers)
    assert job.state == "cancelled"
    assert variant.partial
    assert variant.label == "rtn 3 g64 (partial)"
    assert list(variant.weights) == list(variant.methods) == LINEAR[:layers]
    assert all(
        torch.equal(variant.weights[n].codes, wb.RTN(bits=3).compress(model.weight(n)).codes)
        for n in variant.weights
    )
    assert all(torch.equal(earlier.weights[name].dequantize(), w) for name, w in before.items())
    assert torch.equal(variant.model.weight(LINEAR[3]), model.weight(LINEAR[3]))


def test_resume_goes_on_without_doing_finished_layers_again(model):
    recipe = Recipe([wb.Magnitude(), wb.RTN(bits=3)])
    _, partial = cancelled_after(model, recipe, 2)
    heard = []

    class Listening(Job):
        def step(self, done, total, text=""):
            heard.append(text)
            super().step(done, total, text)

    resumed = Listening(lambda job: wb.apply(model, recipe, job=job, resume=partial)).run()
    assert heard == LINEAR[2:]
    assert all(resumed.weights[name] is partial.weights[name] for name in LINEAR[:2])
    assert not resumed.partial
    assert same(dict(resumed.weights), dict(wb.apply(model, recipe).weights))
    assert list(partial.weights) == LINEAR[:2]


def test_another_recipe_takes_from_a_variant_only_what_is_the_same(model):
    before = wb.apply(model, Recipe([wb.RTN()]))
    after = wb.apply(model, Recipe([wb.RTN(), Step(wb.RTN(bits=8), LINEAR[2])]), resume=before)
    assert [after.weights[name] is before.weights[name] for name in LINEAR] == [True, True, False, True]


def test_cancel_answers_within_a_layer_while_the_job_runs_elsewhere(model):
    reached, go_on = threading.Event(), threading.Event()

    class Waiting(Job):
        def step(self, done, total, text=""):
            if done == 1:
                reached.set()
                go_on.wait(60)
            super().step(done, total, text)

    job = Waiting(lambda job: wb.apply(model, Recipe([wb.RTN()]), job=job)).start()
    assert reached.wait(60)
    job.cancel()
    go_on.set()
    assert list(job.wait(60).weights) == LINEAR[:1]
    assert job.state == "cancelled"


def test_calibration_reaches_the_method_that_needs_it(model, calibrated):
    wb.apply(model, Recipe([Step(calibrated(), "role:up"), Step(wb.RTN(), "role:down")]), calibration=[IDS])
    assert [len(statistic) for statistic in calibrated.calls] == [32, 32]
    x = model.runner.module.embed_tokens(IDS).reshape(-1, 32)
    torch.testing.assert_close(calibrated.calls[0], x.square().mean(0))


def test_without_calibration_it_is_refused_before_the_work(model, calibrated):
    with pytest.raises(Refused, match="calibrated needs mean_square of the inputs: give calibration"):
        wb.apply(model, Recipe([calibrated()]))
    with pytest.raises(Refused, match="an embedding reads no inputs that calibrated could be calibrated on"):
        wb.apply(model, Recipe([Step(calibrated(), "role:embed")]), calibration=[IDS])


def test_cancel_during_calibration_leaves_an_empty_partial_variant(model, calibrated):
    class Stopping(Job):
        def step(self, done, total, text=""):
            if text.endswith("calibrating, 2 of 3 batches"):
                self.cancel()
            super().step(done, total, text)

    variant = Stopping(
        lambda job: wb.apply(model, Recipe([calibrated()]), calibration=[IDS] * 3, job=job)
    ).run()
    assert variant.partial
    assert variant.weights == {}
    assert calibrated.calls == []


def test_resume_calibrates_only_what_is_left(model, calibrated):
    recipe = Recipe([calibrated()])
    _, partial = cancelled_after(model, recipe, 4 - 1, calibration=[IDS])
    # No layer is left that needs an input but the last.
    whole = wb.apply(model, recipe, calibration=[IDS], resume=partial)
    assert len(calibrated.calls) == 4
    again = wb.apply(model, recipe, calibration=[IDS], resume=whole)
    assert same(dict(again.weights), dict(whole.weights))
    assert len(calibrated.calls) == 4


def test_resume_takes_nothing_that_would_come_out_differently(model):
    """Other data, another prefix, fewer layers before it: what was calibrated there is made again."""
    method = wb.RTN(bits=2, group_size=16, scale_search="activation")
    recipe, last = Recipe([method]), LINEAR[-1]
    whole = wb.apply(model, recipe, calibration=[IDS])
    alone, others = Recipe([Step(method, last)]), IDS.flip(0, 1) % 13
    for changed, options in (
        (alone, {"calibration": [IDS]}),
        (recipe, {"calibration": [others]}),
        (recipe, {"calibration": [IDS], "prefix": "original"}),
    ):
        fresh = wb.apply(model, changed, **options)
        assert same(dict(wb.apply(model, changed, resume=whole, **options).weights), dict(fresh.weights))
    assert not torch.equal(
        wb.apply(model, alone, calibration=[IDS]).weights[last].codes, whole.weights[last].codes
    )


def test_a_change_on_top_of_a_variant_sees_its_weights(model):
    first = wb.apply(model, Recipe([Step(wb.Magnitude(), LINEAR[0])]))
    second = wb.apply(first.model, Recipe([Step(wb.RTN(bits=3), LINEAR[2])]))
    assert set(second.weights) == {LINEAR[0], LINEAR[2]}
    assert second.base.overlays == {}


def test_the_base_is_a_variant_without_weights(model):
    base = Variant(model, Recipe())
    assert base.label == "base"
    assert torch.equal(base.model.weight(LINEAR[0]), model.weight(LINEAR[0]))
