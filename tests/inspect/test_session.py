"""Session: everything that a person does at the bench, without a bench."""

from __future__ import annotations

import contextlib
import io
import json
import math
import threading

import pytest
import torch
from safetensors.torch import save_file

import workbench as wb
from workbench import inspect
from workbench.engine import Step
from workbench.errors import Refused
from workbench.inspect import MAP_MEASURES, Session
from workbench.jobs import Cancelled

DOWN = "model.layers.1.mlp.down_proj"
Q = "model.layers.0.self_attn.q_proj"
WEIGHT_NUMBERS = ("relative_error", "sqnr_db", "cosine", "max_error", "bits_per_weight", "sparsity", "bytes")


@pytest.fixture
def session(llama, data):
    return Session(llama, data, layer=DOWN)


def applied(session, method=None, selector="*"):
    session.method, session.selector = method or session.method, selector
    return session.apply().wait(60)


# The selected layer


def test_live_answers_in_order_of_price_with_growing_numbers(session):
    answers = list(session.live())
    known = [set(answer.numbers) for answer in answers]
    assert len(answers) == 3
    assert known[0] < known[1] < known[2]
    assert known[1] - known[0] == {"output_relative_error", "baseline_output_error"}
    assert answers[1].numbers["baseline_output_error"] is None  # said, so that no earlier method's stays
    assert {"kl", "top1_agreement", "perplexity", "base_perplexity"} <= known[2] - known[1]
    assert all((answer.layer, answer.method) == (DOWN, session.method) for answer in answers)


def test_live_gives_the_numbers_of_inspect_layer(session, llama):
    for method in (wb.RTN(bits=3), wb.Magnitude(n_m=(2, 4))):
        session.method = method
        numbers = next(session.live()).numbers
        row = inspect.layer(llama, DOWN, method).iloc[0]
        assert {name: numbers[name] for name in WEIGHT_NUMBERS} == {
            name: row[name] for name in WEIGHT_NUMBERS
        }


def test_live_measures_the_model_with_only_this_layer_changed(session, llama, data):
    numbers = list(session.live())[-1].numbers
    alone = wb.apply(llama, wb.Recipe([wb.Step(session.method, DOWN)]))
    row = inspect.model(alone, data).iloc[0]  # 1,024 tokens are what is evaluated live
    assert numbers["kl"] == pytest.approx(row["kl"])
    assert numbers["perplexity"] == pytest.approx(row["perplexity"])
    assert numbers["base_perplexity"] == pytest.approx(inspect.model(llama, data)["perplexity"][0])


def test_the_error_map_shows_the_compressed_weight_from_the_first_answer_on(session):
    answer = next(session.live())
    assert session.error_map.compressed is answer.compressed
    assert session.error_map.errors.numbers["relative_error"] == answer.numbers["relative_error"]
    kept = session.error_map
    session.layer = Q
    assert session.error_map is not kept
    assert session.error_map.name == Q


def test_a_layer_is_chosen_by_name_and_a_wrong_name_says_what_is_near(session, llama):
    session.layer = Q + ".weight"
    assert session.layer.name == Q
    session.layer = llama.layer(DOWN)
    assert session.layer.name == DOWN
    with pytest.raises(Refused, match=r"near: .*mlp.down_proj"):
        session.layer = "model.layers.1.mlp.down"
    assert session.layer.name == DOWN
    with pytest.raises(Refused, match="no layer"):
        Session(llama, layer="nothing")


def test_the_first_layer_on_the_bench_is_a_feed_forward_matrix_in_the_middle(llama):
    assert Session(llama).layer.role == "down"


def test_a_method_that_the_layer_does_not_fit_is_refused_with_the_way_out(session):
    session.method = wb.RTN(group_size=100, ragged=False)
    with pytest.raises(Refused, match=r"down_proj: group_size 100 does not divide in = 176.*take"):
        next(session.live())


# The map of the model


@pytest.mark.parametrize("measure", MAP_MEASURES)
def test_the_map_has_a_value_for_every_layer(session, llama, measure):
    grown = [dict(values) for values in session.map_values(measure)]
    assert [len(values) for values in grown] == list(range(1, len(llama.layers) + 1))
    values = grown[-1]
    w = llama.base_weight(DOWN)
    wanted = {
        "method": inspect.layer(llama, DOWN, session.method)["relative_error"][0],
        "variant": None,
        "bits": 32,
        "rms": w.square().mean().sqrt().item(),
        "parameters": w.numel(),
    }[measure]
    assert values[DOWN] == (wanted if wanted is None else pytest.approx(wanted))


def test_the_map_of_a_variant_has_its_errors_and_bits(session):
    variant = applied(session, wb.RTN(bits=2), "role:down")
    errors = inspect.layers(variant).set_index("name")
    *_, values = session.map_values("variant")
    assert values[DOWN] == errors.loc[DOWN, "relative_error"]
    assert values[Q] is None
    *_, bits = session.map_values("bits")
    assert (bits[DOWN], bits[Q]) == (errors.loc[DOWN, "bits_per_weight"], 32)


# Recipes, apply, history


def test_a_recipe_grows_from_the_active_variant(session):
    four, two, pruned = wb.RTN(bits=4), wb.RTN(bits=2), wb.Magnitude(sparsity=0.5)
    applied(session, four)
    session.method = two  # the same layers, the same kind: it takes the other's place
    assert session.recipe == wb.Recipe([two])
    session.selector = "role:down"
    assert session.recipe == wb.Recipe([four, Step(two, "role:down")])
    session.method, session.selector = pruned, "*"
    assert session.recipe == wb.Recipe([four, pruned])
    session.history.undo()
    assert session.recipe == wb.Recipe([pruned])


def test_apply_adds_a_measured_variant(session, llama, data):
    made = applied(session, wb.RTN(bits=3))
    assert session.job.state == "done"
    assert session.history.variant is made
    assert not made.partial
    assert (
        made.measures == inspect.model(wb.apply(llama, wb.Recipe([wb.RTN(bits=3)])), data).iloc[0].to_dict()
    )
    session.measure_base()
    assert session.history.nodes[0].variant.measures["kl"] == 0


def test_cancel_keeps_the_finished_layers_and_changes_nothing_else(session, monkeypatch):
    first = applied(session, wb.RTN(bits=8))
    before = {name: (cw, cw.codes.clone()) for name, cw in first.weights.items()}
    finished = cancelling_after(3, session, monkeypatch)
    made = applied(session, wb.RTN(bits=2))
    assert session.job.state == "cancelled"
    assert made.partial
    assert len(finished) == len(made.weights) == 3
    assert session.history.variants[1:] == [first, made]
    assert "(partial)" in made.label
    assert all(
        first.weights[name] is cw and torch.equal(cw.codes, codes) for name, (cw, codes) in before.items()
    )
    monkeypatch.undo()
    whole = applied(session, wb.RTN(bits=2))  # goes on where it was stopped
    assert not whole.partial
    assert len(whole.weights) == len(first.weights)
    assert all(whole.weights[name] is made.weights[name] for name in made.weights)


def test_a_cancel_before_the_first_layer_adds_nothing(session, monkeypatch):
    cancelling_after(1, session, monkeypatch, before=True)
    session.apply()
    session.job.cancel()
    session.job.wait(60)
    assert session.job.state == "cancelled"
    assert len(session.history) <= 2  # the layer that was being worked on may have been finished


def test_a_cancel_while_measuring_keeps_the_whole_variant_unmeasured(session, monkeypatch):
    measure = session.quality.measure

    def stopping(weights, step, vectors):
        session.job.cancel()
        return measure(weights, step, vectors)

    monkeypatch.setattr(session.quality, "measure", stopping)
    made = applied(session, wb.RTN(bits=4))
    assert (made.partial, made.measures, session.job.text) == (False, {}, "applied, not measured")
    assert session.history.variant is made


def test_one_apply_at_a_time(session, monkeypatch):
    go_on = threading.Event()
    compress = inspect.session.apply

    def waiting(*arguments, **keywords):
        go_on.wait(60)
        return compress(*arguments, **keywords)

    monkeypatch.setattr(inspect.session, "apply", waiting)
    job = session.apply()
    with pytest.raises(Refused, match="an apply is running: cancel it first"):
        session.apply()
    assert session.job is job
    go_on.set()
    job.wait(60)
    assert len(session.history) == 2
    session.apply().wait(60)


def test_apply_refuses_at_once_what_cannot_be_done(session):
    session.selector = "role:dwn"
    with pytest.raises(Refused, match=r"'role:dwn' matches no layer .*near: down"):
        session.apply()
    assert session.job is None
    assert len(session.history) == 1


def test_undo_redo_and_go_move_between_variants(session):
    first, second = applied(session, wb.RTN(bits=4)), applied(session, wb.RTN(bits=2))
    history = session.history
    history.undo()
    assert history.variant is first
    third = applied(session, wb.Magnitude())  # another branch
    assert third.recipe == wb.Recipe([wb.RTN(bits=4), wb.Magnitude()])
    history.go(2)
    assert history.variant is second
    history.undo()
    history.undo()
    assert history.variant.recipe == wb.Recipe()
    assert not history.can_undo
    history.redo()
    history.redo()
    assert history.variant is second
    with pytest.raises(IndexError):
        history.go(9)


# Out of the bench


def executed(code):
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue(), names


def test_the_code_gives_the_numbers_on_the_screen(llama):
    session = Session(llama, layer=DOWN)
    variant = applied(session, wb.RTN(bits=3, group_size=32), "role:down")
    numbers = next(session.live()).numbers
    printed, names = executed(session.code())
    assert names["errors"]["relative_error"][0] == numbers["relative_error"]
    assert names["measures"]["kl"][0] == variant.measures["kl"]
    assert names["measures"]["perplexity"][0] == variant.measures["perplexity"]
    assert f"{numbers['relative_error']:.4f}" in printed
    assert f"{variant.measures['kl']:.4f}" in printed


def test_the_code_of_the_base_has_no_variant(llama):
    printed, names = executed(Session(llama, method=wb.Magnitude(n_m=(2, 4))).code())
    assert "variant" not in names
    assert "magnitude 2:4" in printed


def test_the_code_of_an_embedded_model_says_its_name():
    assert "wb.load('tiny-llama')" in Session(wb.load("tiny-llama")).code()


def test_a_saved_session_comes_back(llama, tmp_path):
    session = Session(llama, layer=Q, method=wb.RTN(bits=5, symmetric=True))
    first = applied(session, wb.RTN(bits=4))
    second = applied(session, wb.Magnitude(sparsity=0.3), "role:down")
    session.method = wb.RTN(bits=5, symmetric=True)
    path = session.save(tmp_path / "session.json")
    assert [file.name for file in tmp_path.iterdir()] == ["session.json"]
    again = Session.resume(path)
    assert (again.layer.name, again.method) == (Q, session.method)
    assert [v.recipe for v in again.history.variants] == [wb.Recipe(), first.recipe, second.recipe]
    assert [v.measures for v in again.history.variants] == [v.measures for v in session.history.variants]
    assert again.code() == session.code()


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"model": 3}'])
def test_a_session_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "session.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(Refused, match=r"session\.json"):
        Session.resume(path)


# Models that cannot be run, and weights that cannot be used


@pytest.fixture
def weights_alone(llama_folder):
    return wb.load(llama_folder / "model.safetensors")


def test_weights_alone_can_be_worked_on_and_why_not_says_what_is_missing(weights_alone):
    session = Session(weights_alone, layer=DOWN)
    assert "config.json" in session.why_not
    [answer] = session.live()
    assert answer.numbers["relative_error"] > 0
    assert "kl" not in answer.numbers
    assert not session.runs_live
    session.measure_base()
    made = applied(session)
    assert made.measures == {}
    assert session.history.variant is made
    *_, values = session.map_values("method")
    assert all(value > 0 for value in values.values())


def test_a_session_on_one_file_gives_code_that_runs_and_comes_back(weights_alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # code is run from anywhere
    session = Session(weights_alone, layer=DOWN)
    applied(session)
    printed, names = executed(session.code())
    assert "relative_error" in printed
    assert "measures" not in names
    again = Session.resume(session.save())
    assert again.history.variant.recipe == session.history.variant.recipe


def test_a_network_in_memory_is_not_saved_as_something_else(tmp_path):
    session = Session(wb.load(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4))))
    assert "wb.load('Sequential')" not in session.code()
    compile(session.code(), "code", "exec")
    with pytest.raises(Refused, match="in memory"):
        session.save(tmp_path / "session.json")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def with_nan(tmp_path):
    torch.manual_seed(0)
    layers = {f"layers.{i}.mlp.down_proj.weight": torch.randn(16, 32) for i in range(3)}
    layers["layers.1.mlp.down_proj.weight"][3, 5] = math.nan
    save_file(layers, tmp_path / "nan.safetensors")
    return Session(wb.load(tmp_path / "nan.safetensors"), layer="layers.0.mlp.down_proj")


@pytest.mark.parametrize("measure", ["method", "rms"])
def test_a_layer_with_nan_has_no_colour_and_the_others_have_one(with_nan, measure):
    *_, values = with_nan.map_values(measure)
    assert [value is None for value in values.values()] == [False, True, False]


def test_a_layer_with_nan_is_refused_by_name_and_place(with_nan):
    with_nan.layer = "layers.1.mlp.down_proj"
    with pytest.raises(Refused, match=r"layers.1.mlp.down_proj .*NaN.*row 3, column 5"):
        next(with_nan.live())
    with_nan.layer = "layers.2.mlp.down_proj"
    assert next(with_nan.live()).numbers["relative_error"] > 0


def test_a_model_without_matrices_is_refused():
    with pytest.raises(Refused, match="no weight matrices"):
        Session(wb.load(torch.nn.LayerNorm(4)))


def test_the_state_that_is_saved_is_plain_json(session, tmp_path):
    state = json.loads(session.save(tmp_path / "s.json").read_text("utf-8"))
    assert state["layer"] == DOWN
    assert state["variants"] == []


def cancelling_after(count, session, monkeypatch, before=False):
    """Cancel the session's job while layer number `count` is being worked on; returns the names as they finish."""
    from workbench.engine import variant

    compress, finished = variant.compress, []

    def stopping(w, methods, statistics=None):
        if len(finished) + 1 == count:
            session.job.cancel()
        made = compress(w, methods, statistics)
        finished.append(made)
        return made

    monkeypatch.setattr("workbench.engine.variant.compress", stopping)
    return finished


def test_a_model_whose_norms_were_changed_too_lies_on_the_bench_as_it_is(llama, data):
    """Folded scales live in norms as well as in weights: without the norms it would be another network."""
    from workbench.engine.fold import fold

    folded = fold(wb.apply(llama, wb.Recipe([wb.SmoothQuant()]), calibration=data.inputs_only()))
    session = Session(folded.model, data)
    assert session.history.variant.vectors.keys() == folded.vectors.keys()
    found = wb.inspect.model(session.history.variant, session.quality)["kl"].item()
    assert abs(found) < 1e-5, "the float function of the base"


def test_the_code_keeps_the_label_of_a_recipe():
    session = Session(wb.load("tiny-mlp"))
    recipe = wb.Recipe(
        [wb.Step(wb.Magnitude(sparsity=0.5), "layers.1")], label="magnitude 50 % by alpha (3 groups)"
    )
    session.history.add(wb.apply(session.model, recipe))
    assert "label='magnitude 50 % by alpha (3 groups)'" in session.code()
    names: dict = {}
    exec(session.code().replace("print(", "str("), names)
    assert names["variant"].recipe.label == recipe.label


def test_the_code_of_overlays_that_came_with_the_model_runs():
    variant = wb.apply(wb.load("tiny-mlp"), wb.Recipe([wb.RTN(bits=3)]))
    session = Session(variant.model)
    session.selector = "layers.1"
    session.measure_spectra().wait()
    assert "in memory" in session.code()
    exec(session.code().replace("print(", "str("), {})


def test_a_mean_that_was_cancelled_is_taken_without_the_lines_before(monkeypatch):
    session = Session(wb.load("tiny-mlp"), data=wb.evaluation(wb.load("tiny-mlp")).first(50))
    found = session.measure_networks("tiny-mlp-b, tiny-mlp-c").wait()
    job = session.merge_networks()
    job.cancel()
    with pytest.raises(Cancelled):
        job.wait()
    assert session.measure_networks("tiny-mlp-b, tiny-mlp-c").wait() is found


def test_other_architectures_are_refused_before_anything_is_measured(monkeypatch):
    session = Session(wb.load("tiny-mlp"))
    monkeypatch.setattr(wb.TwoNetworks, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(Refused, match="tiny-mlp and tiny-resnet are different architectures"):
        session.measure_networks("tiny-mlp-b, tiny-resnet").wait()
    assert session.networks is None
