"""The bench, driven as a person would, without a page: what is computed, what is shown, what is told."""

from __future__ import annotations

import asyncio
import io
import threading
from contextlib import redirect_stdout

import pytest

import workbench as wb
from workbench import inspect
from workbench.inspect import CURVES
from workbench.widgets import Bench

DOWN = "model.layers.1.mlp.down_proj"
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def bench(llama, data):
    """A bench of its own, for what makes variants."""
    return Bench(llama, data, layer=DOWN)


@pytest.fixture(scope="module")
def shared(llama, data):
    return Bench(llama, data, layer=DOWN)


@pytest.fixture
def base(shared):
    """A bench without variants, put back to where it opened."""
    shared.map_choice.value, shared.curve_choice.value = "method", "spectrum"
    shared.selector.value = "*"
    shared.map.selected = DOWN
    if shared.controls.method != wb.RTN():
        shared.controls.set(wb.RTN())
        shared._set_method(wb.RTN())
    assert len(shared.session.history) == 1
    return shared


@pytest.fixture(scope="module")
def embedded():
    """The bench of the start notebook; tests may look at it and move it, none relies on where it was left."""
    return Bench("tiny-llama")


def applied(bench, seconds=60):
    """Click Apply and wait until the bench has shown the end: without a loop the job's own thread does that."""
    bench.apply.click()
    for thread in threading.enumerate():
        if thread.name == "workbench-apply":
            thread.join(seconds)
    assert bench.job.job is None
    assert bench.session.job.state in ("done", "cancelled", "failed")
    return bench.session.history.variant


# The bench as it opens


def test_the_bench_of_an_embedded_model_opens_filled(embedded):
    session = embedded.session
    assert session.model.name == "tiny-llama"
    assert embedded.header.title == "tiny-llama"
    assert f"{len(session.model.layers)} layers" in embedded.header.detail
    assert embedded.map.selected == session.layer.name in embedded.layer_info.value
    assert set(embedded.map.values) == {layer.name for layer in session.model.layers}
    assert all(0 < value < 1 for value in embedded.map.values.values())
    for part in ("relative error", "SQNR", "output error", "KL", "perplexity"):
        assert part in embedded.numbers.value
    assert "wb-stale" not in embedded.numbers._dom_classes
    assert "layers, 1 skipped" in embedded.plan.value
    assert not embedded.apply.disabled
    assert embedded.header.chips[0]["label"] == "base"
    assert "KL 0 nats" in embedded.header.chips[0]["title"]
    assert embedded.map_view.error_map is session.error_map
    assert len(embedded.plot.spec) > 1000
    assert embedded.controls.error.value == ""


def test_the_bench_shows_what_is_under_the_slider(embedded):
    method = wb.RTN(bits=4)
    embedded.controls.fields["bits"].value = 4
    four, map_four = embedded.numbers.value, dict(embedded.map.values)
    embedded.controls.fields["bits"].value = 2
    assert embedded.session.method == method.with_(bits=2)
    row = inspect.layer(embedded.session.model, embedded.session.layer.name, method.with_(bits=2)).iloc[0]
    assert f"{row['relative_error']:.3g}" in embedded.numbers.value
    assert embedded.numbers.value != four
    assert all(embedded.map.values[name] > value for name, value in map_four.items())


def test_the_bench_of_a_classifier_says_accuracy():
    network = wb.load("tiny-resnet")
    test = wb.evaluation(network)
    few = wb.measure.Evaluation(test.inputs[:50], test.labels[:50], "50 images", 50)
    bench = Bench(network, few)
    assert "accuracy" in bench.numbers.value
    assert not bench.map.grid
    assert "accuracy" in bench.header.numbers


# The selected layer


def test_a_click_on_the_map_puts_another_layer_on_the_bench(base):
    before = base.numbers.value
    base.map.selected = Q
    assert base.session.layer.name == Q
    assert Q in base.layer_info.value
    assert base.map_view.name == Q
    assert (base.map_view.rows, base.map_view.columns) == base.session.layer.shape
    assert base.numbers.value != before
    assert Q in base.plot.label
    assert base.speed.shape == (16, *base.session.layer.shape)


def test_every_move_sends_the_map_again(base, sent):
    kept = sent(base.map_view)
    base.controls.fields["bits"].value = 2
    tiles = [head for head, _ in kept if head["type"] == "tile"]
    assert tiles
    assert tiles[-1]["exact"]
    assert base.map_view.error_map.compressed.grid.bits == 2


@pytest.mark.parametrize("kind", [kind for kind in CURVES if kind != "convergence"])
def test_every_curve_follows_the_layer_and_the_method(base, kind):
    base.curve_choice.value = kind
    first = base.plot.spec
    assert DOWN in base.plot.label
    base.controls.fields["bits"].value = 2
    assert base.plot.spec != first


def test_the_speed_of_the_layer_takes_the_place_of_the_curve(base):
    base.curve_choice.value = "speed"
    assert (base.plot.layout.display, base.speed.layout.display) == ("none", None)
    base.curve_choice.value = "histogram"
    assert (base.plot.layout.display, base.speed.layout.display) == (None, "none")


@pytest.mark.parametrize("measure", inspect.MAP_MEASURES)
def test_the_map_shows_any_measure(base, measure):
    base.map_choice.value = measure
    *_, wanted = base.session.map_values(measure)
    assert base.map.values == wanted
    assert base.map.caption == inspect.MAP_MEASURES[measure]


def test_a_method_that_the_layer_does_not_fit_is_said_beside_the_controls(base):
    base.controls.set(wb.RTN(group_size=100, ragged=False))
    base._set_method(base.controls.method)
    assert "group_size 100 does not divide in = 176" in base.controls.error.value
    assert "wb-stale" in base.numbers._dom_classes
    base.controls.fields["group_size"].value = 16
    assert base.controls.error.value == ""
    assert "wb-stale" not in base.numbers._dom_classes


# The model: plan, apply, history


def test_a_selector_that_matches_nothing_disables_apply_and_names_what_is_near(base):
    base.selector.value = "role:dwn"
    assert base.apply.disabled
    assert "matches no layer" in base.plan.value
    assert "near: down" in base.plan.value
    base.selector.value = "role:down"
    assert not base.apply.disabled
    assert base.plan.value.startswith("2 layers")
    assert base.session.selector == "role:down"
    assert {"*", "role:down", DOWN} <= set(base.selector.options)


def test_apply_adds_a_chip_a_mark_and_a_step_to_undo(bench):
    assert not bench.header.can_undo
    variant = applied(bench)
    assert [chip["label"] for chip in bench.header.chips] == ["base", "v1 rtn 4 g64"]
    assert (bench.header.active, bench.header.can_undo, bench.header.can_redo) == (1, True, False)
    assert f"KL {variant.measures['kl']:.3g} nats" in bench.header.numbers
    assert '"v1"' in bench.results.pareto.spec
    assert bench.job.layout.display == "none"
    bench._act("undo")
    assert (bench.header.active, bench.header.can_undo, bench.header.can_redo) == (0, False, True)
    assert len(bench.header.chips) == 2
    bench._act("redo")
    assert bench.header.active == 1


def test_a_script_drives_the_bench_through_its_session(bench):
    variant = bench.session.apply().wait(60)
    bench._show_history()
    assert bench.header.active == 1
    assert variant.label in bench.header.chips[1]["title"]


def test_going_to_a_variant_brings_its_method_back(bench):
    bench.controls.fields["bits"].value = 3
    applied(bench)
    bench.controls.choice.value = "magnitude"
    applied(bench)
    assert bench.session.history.variant.recipe == wb.Recipe([wb.RTN(bits=3), wb.Magnitude()])
    bench.header._handle_custom_msg({"type": "go", "value": 1}, [])
    assert bench.controls.method == bench.session.method == wb.RTN(bits=3)
    assert bench.header.active == 1


def test_a_click_in_the_pareto_plot_goes_to_that_variant(bench, monkeypatch):
    """Also past one that was cancelled, which has no measures and so no mark."""
    first = applied(bench)
    from workbench.engine import variant

    compress = variant.compress

    def stopping(*arguments):
        bench.session.job.cancel()
        return compress(*arguments)

    monkeypatch.setattr("workbench.engine.variant.compress", stopping)
    bench.controls.fields["bits"].value = 2
    assert applied(bench).partial
    monkeypatch.undo()
    bench.controls.fields["bits"].value = 3
    third = applied(bench)
    assert [v.partial for v in bench.session.history.variants] == [False, False, True, False]
    click_mark(bench, "v1")
    assert bench.session.history.variant is first
    click_mark(bench, "v3")
    assert bench.session.history.variant is third


def click_mark(bench, label):
    import plotly.io

    marks = plotly.io.from_json(bench.results.pareto.spec).data[1]
    data = marks.customdata[list(marks.text).index(label)]
    bench.results.pareto._handle_custom_msg({"type": "pick", "data": list(data)}, [])


def test_an_apply_that_fails_says_why_and_frees_the_button(bench, monkeypatch):
    def fail(*_arguments, **_keywords):
        raise wb.Refused("the <disk> is full")

    monkeypatch.setattr(inspect.session, "apply", fail)
    applied(bench)
    assert bench.session.job.state == "failed"
    assert "the &lt;disk&gt; is full" in bench.controls.error.value
    assert not bench.apply.disabled
    assert len(bench.header.chips) == 1
    assert bench.job.layout.display == "none"


# Out of the bench


def test_the_code_in_the_header_is_the_session_s_and_gives_the_numbers(llama):
    bench = Bench(llama, layer=DOWN)
    bench.controls.fields["bits"].value = 3
    variant = applied(bench)
    assert bench.header.code == bench.session.code()
    names: dict = {}
    with redirect_stdout(io.StringIO()):
        exec(bench.header.code, names)
    assert names["measures"]["kl"][0] == variant.measures["kl"]
    assert f"{names['errors']['relative_error'][0]:.3g}" in bench.numbers.value


def test_the_code_follows_the_controls(base):
    assert "bits=4" in base.header.code
    base.controls.fields["bits"].value = 2
    assert base.header.code == base.session.code()
    base.map.selected = Q
    assert base.header.code == base.session.code()


def test_a_dark_page_redraws_the_figures(bench):
    applied(bench)
    light = bench.plot.spec, bench.results.pareto.spec
    bench.header.dark = True
    assert bench.theme == "dark"
    dark = bench.plot.spec, bench.results.pareto.spec
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    bench.header.dark = False
    assert (bench.plot.spec, bench.results.pareto.spec) == light


def test_the_bench_goes_on_with_a_session(bench):
    applied(bench)
    again = Bench(bench.session)
    assert again.session is bench.session
    assert again.header.chips == bench.header.chips
    assert again.header.active == 1


def test_weights_alone_are_worked_on_and_the_bench_says_why_it_measures_nothing(llama_folder):
    bench = Bench(llama_folder / "model.safetensors", layer=DOWN)
    assert "relative error" in bench.numbers.value
    assert "model measures: " in bench.numbers.value
    assert "config.json" in bench.numbers.value
    assert "wb-stale" not in bench.numbers._dom_classes
    applied(bench)
    assert len(bench.header.chips) == 2


# In a notebook: a running loop


def test_on_a_loop_the_answers_arrive_by_themselves(llama, data):
    async def main():
        bench = Bench(llama, data, layer=DOWN)
        assert bench.numbers.value == ""  # nothing is computed in a callback: the frame is drawn first
        await soon(lambda: "KL" in bench.numbers.value and len(bench.map.values) == len(llama.layers))
        await soon(lambda: bench.header.numbers and bench.plan.value and len(bench.plot.spec) > 1000)
        bench.apply.click()
        assert bench.apply.disabled
        assert bench.job.layout.display is None
        await soon(lambda: len(bench.header.chips) == 2)
        assert not bench.apply.disabled
        assert bench.job.layout.display == "none"

    asyncio.run(asyncio.wait_for(main(), 240))


def test_four_quick_moves_cost_less_than_four_answers(llama, data):
    async def main():
        bench = Bench(llama, data, layer=DOWN)
        await soon(lambda: "KL" in bench.numbers.value and "wb-stale" not in bench.numbers._dom_classes)
        live, begun, finished, moved = bench.session.live, [], [], threading.Event()

        def held(hear):
            """No answer comes before the last move."""
            begun.append(threading.current_thread())
            answers = live(hear)
            first = next(answers)
            assert moved.wait(60)
            yield first
            yield from answers
            finished.append(first.method)

        bench.session.live = held
        for bits in (8, 6, 3, 2):
            bench.controls.fields["bits"].value = bits
            await asyncio.sleep(0.005)
        moved.set()
        await soon(lambda: wb.RTN(bits=2) in finished and "wb-stale" not in bench.numbers._dom_classes)
        assert finished == [wb.RTN(bits=2)]
        assert len(begun) <= 2
        assert threading.current_thread() not in begun, "nothing is computed in a callback"
        row = inspect.layer(llama, DOWN, wb.RTN(bits=2)).iloc[0]
        assert f"{row['relative_error']:.3g}" in bench.numbers.value

    asyncio.run(asyncio.wait_for(main(), 240))


async def soon(condition, seconds=120.0):
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not so after {seconds} s")


def ended(name, seconds=60):
    """Wait for the job of this name."""
    for thread in threading.enumerate():
        if thread.name == f"workbench-{name}":
            thread.join(seconds)


def test_spectra_are_measured_on_the_bench_and_give_a_recipe(bench):
    bench.results.tabs.value = "spectra"
    view = bench.results.spectra
    assert view in bench.results.children
    assert "Press measure" in view.plot.spec
    assert view.choosing.layout.display == "none"
    bench.selector.value = "role:q, role:down"
    view.measure.click()
    ended("spectra")
    assert not view.measure.disabled
    assert set(bench.session.spectra.table["role"]) == {"q", "down"}
    view.metric.value = "stable_rank"
    assert view.plot.label.startswith("stable_rank of 4 layers")
    view.metric.value = "alpha"
    bench.controls.set(wb.Equalize())
    bench._set_method(bench.controls.method)
    view.give.click()
    assert "neither a free sparsity nor bits" in view.said.value
    bench.controls.set(wb.Magnitude(sparsity=0.5))
    bench._set_method(bench.controls.method)
    view.give.click()
    ended("apply")
    steps = list(bench.session.history.variant.recipe)
    assert {step.method.name for step in steps} == {"magnitude"}
    assert bench.session.history.variant.weights.keys() == set(bench.session.spectra.table["name"])
