"""Sensitivity: each layer alone, as a variant of it alone is measured; assignments that brute force cannot beat."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.engine import (
    SENSITIVITY_COLUMNS,
    Recipe,
    Step,
    assign,
    assigned,
    frontier,
    predicted,
    recipe_from,
    sensitivity,
)
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.measure import Evaluation, Quality
from workbench.methods import METHODS, Method

LINEAR = ["layers.0.up_proj", "layers.0.down_proj", "layers.1.up_proj", "layers.1.down_proj"]
WIDTHS = [wb.RTN(bits=bits, group_size=32) for bits in (2, 3, 4, 8)]


@pytest.fixture
def model(module):
    """The toy, lively: predictions that are not certain, and layers that matter to them."""
    with torch.no_grad():
        module.embed_tokens.weight *= 0.3
        for block in module.layers:
            block["up_proj"].weight *= 4
            block["down_proj"].weight *= 4
    return wb.load(module, name="toy", task="language")


@pytest.fixture
def data():
    """Two batches of four windows of eight tokens."""
    ids = torch.randint(0, 20, (8, 8), generator=torch.Generator().manual_seed(3))
    return Evaluation(ids, None, "64 tokens", batch=4)


@pytest.fixture
def table(model, data):
    return sensitivity(model, WIDTHS, data)


# The table.


def test_a_row_is_the_variant_that_changes_this_layer_alone(model, data, table):
    quality = Quality(model, data)
    assert list(table["name"]) == [name for name in LINEAR for _ in WIDTHS]
    for row in table.itertuples():
        method = WIDTHS[[w.label for w in WIDTHS].index(row.method)]
        variant = wb.apply(model, Recipe([Step(method, row.name)]))
        measures = quality.measure(variant.weights)
        assert row.kl == pytest.approx(measures["kl"], rel=1e-3)
        assert row.kl > 1e-5
        assert row.perplexity == pytest.approx(measures["perplexity"], rel=1e-5)
        assert row.top1_agreement == measures["top1_agreement"]
        made = variant.weights[row.name]
        assert (row.bits_per_weight, row.bytes) == (made.bits_per_weight, made.nbytes)


def test_the_columns_are_described_and_the_errors_fall_with_bits(table):
    assert list(table.columns) == [name for name in SENSITIVITY_COLUMNS if name != "accuracy"]
    assert list(table.attrs["columns"]) == list(table.columns)
    assert table.attrs["data"] == "64 tokens"
    for _, rows in table.groupby("name"):
        for column in ("kl", "relative_error", "output_relative_error"):
            assert list(rows[column]) == sorted(rows[column], reverse=True), column
        assert list(rows["bits_per_weight"]) == sorted(rows["bits_per_weight"])


def test_the_output_error_is_that_of_the_unchanged_models_inputs(model, data, table):
    expected = wb.inspect.layers(wb.apply(model, Recipe([WIDTHS[1]])), data)
    found = table[table["method"] == WIDTHS[1].label]
    # a sample of 56 rows stands for all 64
    np.testing.assert_allclose(found["output_relative_error"], expected["output_relative_error"], rtol=0.15)


def test_layers_outside_blocks_and_a_selector(model, data):
    table = sensitivity(model, wb.RTN(bits=2), data, layers="role:embed, *.1.*")
    assert list(table["name"]) == ["embed_tokens", *LINEAR[2:]]
    quality = Quality(model, data)
    made = wb.apply(model, Recipe([Step(wb.RTN(bits=2), "role:embed")])).weights
    assert table["kl"][0] == pytest.approx(quality.measure(made)["kl"], rel=1e-3)
    assert np.isnan(table["output_relative_error"][0]), "an embedding has no input rows"
    assert table["block"].isna().tolist() == [True, False, False]


def test_steps_and_recipes_are_alternatives_too(model, data):
    both = Recipe([wb.Magnitude(sparsity=0.5), wb.RTN(bits=8)])
    table = sensitivity(model, [wb.RTN(bits=8), Step(wb.RTN(bits=3), "role:down"), both], data)
    counts = table.groupby("method", sort=False).size().to_dict()
    assert counts == {"rtn 8 g64": 4, both.label: 4, "rtn 3 g64": 2}
    pruned = table[table["method"] == both.label].set_index("name")["kl"]
    plain = table[table["method"] == "rtn 8 g64"].set_index("name")["kl"]
    assert (pruned > plain).all()
    recipe = recipe_from(table, {LINEAR[0]: both.label})
    assert recipe == Recipe([Step(step.method, LINEAR[0]) for step in both])


def test_methods_of_one_short_name_are_told_apart(model, data):
    table = sensitivity(model, [wb.RTN(bits=3), wb.RTN(bits=3, scale_dtype="float32")], data)
    assert len(set(table["method"])) == 2
    assert all("RTN(" in name for name in table["method"])


def test_a_calibrated_method_is_given_what_the_unchanged_model_hands_on(model, data, calibrated):
    ids = [torch.arange(16).reshape(2, 8)]
    table = sensitivity(model, [calibrated()], data, calibration=ids)
    assert len(table) == len(calibrated.calls) == 4
    known = wb.engine.collect(model, list(model.layers), ["mean_square"], ids)
    for name, found in zip(LINEAR, calibrated.calls, strict=True):
        torch.testing.assert_close(found, known[name].mean_square)
    with pytest.raises(Refused, match="calibrated needs mean_square: give calibration"):
        sensitivity(model, [calibrated()], data)


@pytest.fixture
def blockwise():
    """A quantizer that is given whole blocks, and notes which layers they had."""

    class Blockwise(Method):
        name = "blockwise"
        kind = "quantize"
        works_on = property(lambda self: "block")

        def compress(self, w, statistics=None):
            return WIDTHS[1].compress(w)

        def rebuild(self, span):
            spans.append(list(span.weights))
            return super().rebuild(span)

    spans = []
    Blockwise.spans = spans
    yield Blockwise
    METHODS._known.pop("blockwise", None)


def test_a_method_for_blocks_is_given_a_block_with_one_layer(model, data, blockwise, table):
    found = sensitivity(model, [blockwise()], data, calibration=[torch.arange(16).reshape(2, 8)])
    assert blockwise.spans == [[name] for name in LINEAR]
    plain = table[table["method"] == WIDTHS[1].label]
    np.testing.assert_allclose(found["kl"], plain["kl"], rtol=1e-3)
    with pytest.raises(Refused, match="needs inputs of whole blocks: give calibration"):
        sensitivity(model, [blockwise()], data)


def test_equalization_of_one_layer_is_refused(model, data):
    with pytest.raises(Refused, match="equalize works on pairs of layers"):
        sensitivity(model, Recipe([METHODS["equalize"](), wb.RTN()]), data)


def test_the_unchanged_predictions_are_made_once(model, data, monkeypatch):
    quality, whole = Quality(model, data), []
    quality.measure()
    logits = model.runner.logits
    monkeypatch.setattr(model.runner, "logits", lambda *a, **k: whole.append(1) or logits(*a, **k))
    sensitivity(model, WIDTHS, quality)
    # one for the probe of the chain, one for the inputs of the layers
    assert len(whole) <= 2


def test_a_job_hears_of_every_row_and_cancels(model, data):
    heard = []

    class Listening(Job):
        def step(self, done, total, text=""):
            heard.append((done, total, text))
            if done == 5:
                self.cancel()
            super().step(done, total, text)

    job = Listening(lambda job: sensitivity(model, WIDTHS, data, job=job))
    with pytest.raises(Cancelled):
        job.run()
    assert job.state == "cancelled"
    assert max(done for done, _, _ in heard) == 5
    assert {total for done, total, _ in heard if done} == {16}
    done = Job(lambda job: sensitivity(model, WIDTHS, data, job=job))
    assert len(done.run()) == 16
    assert (done.state, done.done, done.total) == ("done", 16, 16)


def test_what_cannot_be_measured_is_refused(model, module, data):
    with pytest.raises(Refused, match="no method was given"):
        sensitivity(model, [], data)
    with pytest.raises(Refused, match="no method was given"):
        sensitivity(model, [Recipe()], data)
    with pytest.raises(Refused, match="matches no layer"):
        sensitivity(model, wb.RTN(), data, layers="nothing")
    with pytest.raises(Refused, match="for none of the layers"):
        sensitivity(model, Step(wb.RTN(), "role:down"), data, layers="role:up")
    other = wb.load(module, name="other", task="language")
    with pytest.raises(Refused, match="these predictions are of other"):
        sensitivity(model, wb.RTN(), Quality(other, data))


# Assignments.


def curves(sizes, kls, weights=None) -> pd.DataFrame:
    """A table of layers 'a', 'b', ... with alternatives of these bits per weight and KL."""
    rows = []
    for i, (size, kl) in enumerate(zip(sizes, kls, strict=True)):
        for j, (bits, value) in enumerate(zip(size, kl, strict=True)):
            count = 64 if weights is None else weights[i]
            row = {"name": "abcdef"[i], "method": f"m{j}", "parameters": count, "bits_per_weight": bits}
            rows.append(
                row | {"kl": value, "bytes": bits * count / 8, "recipe": Recipe(wb.RTN(bits=j + 1)).to_yaml()}
            )
    return pd.DataFrame(rows)


def brute_force(table, budget):
    """(least KL, its bits) over all assignments within the budget of bits in all."""
    layers = [list(rows.itertuples()) for _, rows in table.groupby("name", sort=False)]
    fitting = []
    for rows in itertools.product(*layers):
        bits = sum(round(row.bits_per_weight * row.parameters) for row in rows)
        if bits <= budget:
            fitting.append((sum(row.kl for row in rows), bits))
    return min(fitting)


layer = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 40)), min_size=1, max_size=4, unique_by=lambda p: p[0]
)


@settings(max_examples=150, deadline=None)
@given(layers=st.lists(layer, min_size=1, max_size=5), share=st.floats(0, 1))
def test_no_assignment_beats_the_one_that_is_found(layers, share):
    """Sizes with a common divisor: nothing is rounded, so brute force and dynamic programming agree exactly, in bits
    too (whole KLs, so that equal sums are equal)."""
    sizes, kls = ([[p[k] for p in points] for points in layers] for k in (0, 1))
    table = curves(sizes, [[float(v) for v in kl] for kl in kls])
    smallest, largest = (64 * sum(f(size) for size in sizes) for f in (min, max))
    budget = smallest + share * (largest - smallest)
    choice = assigned(table, budget / (64 * len(sizes)))
    found = predicted(table, choice)
    kl, bits = brute_force(table, budget * (1 + 1e-9))
    assert found["kl"] == kl
    assert found["bits_per_weight"] * 64 * len(sizes) == pytest.approx(bits, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 1))
def test_sizes_without_a_divisor_waste_at_most_half_a_per_cent_of_the_budget(seed, share):
    random = np.random.default_rng(seed)
    weights = [int(w) for w in random.integers(10_000, 99_999, 5)]
    table = curves([[2.013, 3.171, 4.511]] * 5, np.sort(random.random((5, 3)), axis=1)[:, ::-1], weights)
    smallest, largest = 2.013 * sum(weights), 4.511 * sum(weights)
    budget = smallest + share * (largest - smallest)
    found = predicted(table, assigned(table, budget / sum(weights)))
    assert found["bits_per_weight"] * sum(weights) <= budget * (1 + 1e-9) + 5  # the table's bits are whole
    assert brute_force(table, budget * (1 + 1e-9))[0] <= found["kl"] + 1e-12
    assert (
        found["kl"] <= brute_force(table, 0.995 * budget)[0] + 1e-12 if 0.995 * budget >= smallest else True
    )


def test_of_equal_sums_the_one_with_fewer_bits_is_taken():
    table = curves([[2, 4, 8], [2, 4, 8]], [[1.0, 1.0, 1.0], [3.0, 2.0, 2.0]])
    assert assigned(table, 8) == {"a": "m0", "b": "m1"}


def test_a_budget_that_is_just_enough_is_enough():
    table = curves([[2, 4], [2, 4]], [[1.0, 0.5], [3.0, 2.0]])
    assert assigned(table, 2.0) == {"a": "m0", "b": "m0"}
    assert assigned(table, 3.0) == {"a": "m0", "b": "m1"}
    assert assigned(table, 100.0) == {"a": "m1", "b": "m1"}


def test_the_layers_of_a_method_share_a_step(model, data, table):
    recipe = assign(table, 3.6)
    labels = [step.method for step in recipe]
    assert len(labels) == len(set(labels))
    assert sorted(name for step in recipe for name in step.layers.split(", ")) == sorted(LINEAR)
    variant = wb.apply(model, recipe)
    assert {name: variant.method_label(name) for name in LINEAR} == assigned(table, 3.6)
    stored = predicted(table, assigned(table, 3.6))
    assert sum(c.nbytes for c in variant.weights.values()) == stored["bytes"]
    assert stored["bits_per_weight"] <= 3.6
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_a_larger_budget_never_costs_more(table):
    bits, kl = frontier(table)
    assert (np.diff(bits) > 0).all()
    assert (np.diff(kl) < 0).all()
    for budget, least in list(zip(bits, kl, strict=True))[:: max(1, len(bits) // 10)]:
        assert predicted(table, assigned(table, budget))["kl"] == pytest.approx(least)


def test_hand_made_choices_become_a_recipe(table):
    by_name = recipe_from(table, {LINEAR[3]: WIDTHS[3].label, LINEAR[0]: WIDTHS[0], LINEAR[1]: WIDTHS[3]})
    assert by_name == Recipe([Step(WIDTHS[0], LINEAR[0]), Step(WIDTHS[3], f"{LINEAR[1]}, {LINEAR[3]}")])
    for choices, said in (
        ({}, "no layer was given"),
        ({"layers.0.up": WIDTHS[0]}, "no layer 'layers.0.up'; near"),
        ({LINEAR[0]: "rtn 5"}, "no method 'rtn 5'"),
        ({LINEAR[0]: wb.RTN(bits=5)}, "no method 'RTN"),
    ):
        with pytest.raises(Refused, match=said):
            recipe_from(table, choices)
    with pytest.raises(Refused, match="was not tried on"):
        recipe_from(table.iloc[1:], {LINEAR[0]: WIDTHS[0]})


def test_budgets_and_tables_that_will_not_do_are_refused(table):
    smallest = table["bits_per_weight"].min()
    for budget in (1.0, smallest - 0.001, -1, float("nan")):
        with pytest.raises(Refused, match=f"smallest possible here, {smallest:.4g}"):
            assign(table, budget)
    with pytest.raises(Refused, match="empty"):
        assign(table.iloc[:0], 4)
    with pytest.raises(Refused, match="all are NaN"):
        assign(table.assign(kl=float("nan")), 4)
    holes = table.assign(kl=table["kl"].where(table["name"] != LINEAR[2]))
    with pytest.raises(Refused, match=f"{LINEAR[2]} has no KL"):
        assign(holes, 4)
    with pytest.raises(Refused, match="no table of sensitivities: it has no column kl"):
        assign(table.drop(columns="kl"), 4)


def test_a_row_without_a_kl_is_not_chosen(table):
    broken = table.copy()
    broken.loc[broken["method"] == WIDTHS[3].label, "kl"] = float("nan")
    assert WIDTHS[3].label not in assigned(broken, 9).values()
