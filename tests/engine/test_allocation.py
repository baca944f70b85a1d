"""Recipes from alpha: what gets a share, that the mean is the one asked for, what is refused, what it is called."""

from __future__ import annotations

import numpy as np
import pytest

import workbench as wb
from workbench.engine.allocation import allocate, allocated, check_allocation, left_alone
from workbench.engine.spectra import spectra
from workbench.errors import Refused
from workbench.spectra import Reading

METHODS = [wb.Wanda(sparsity=0.5), wb.Magnitude(sparsity=0.3), wb.RTN(bits=4), wb.SparseGPT(sparsity=0.6)]


@pytest.fixture(scope="module")
def model():
    return wb.load("tiny-llama")


@pytest.fixture(scope="module")
def table(model):
    return spectra(model)


def changed(model, recipe, name):
    """(mean of a parameter, weighted by the weights that the plan works on; the layers it works on)."""
    work = wb.plan(model, recipe).work
    values = [getattr(entry.methods[0], name) for entry in work]
    return np.average(values, weights=[e.layer.parameters for e in work]), [e.layer for e in work]


@pytest.mark.parametrize("by", ["block", "layer"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_mean_over_what_the_plan_changes_is_the_one_asked_for(model, table, method, by):
    name = "bits" if isinstance(method, wb.RTN) else "sparsity"
    recipe = allocate(table, method, by=by)
    mean, layers = changed(model, recipe, name)
    wanted = getattr(method, name)
    if name == "bits":  # whole bits: just under what was asked for
        assert wanted - 0.1 < mean <= wanted + 1e-9
    else:
        assert mean == pytest.approx(wanted, abs=1e-5)
    assert {layer.role for layer in layers} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert len(layers) == 35


def test_the_mean_is_kept_on_a_model_with_a_head_too():
    model = wb.load("tiny-resnet")
    mean, _ = changed(model, wb.Spectra(model).allocate(wb.Wanda(sparsity=0.5)), "sparsity")
    assert mean == pytest.approx(0.5, abs=1e-5)


def test_an_embedding_gets_a_share_where_it_is_asked_for_or_stands_alone(model, table):
    name, prune = "model.embed_tokens", wb.Magnitude(sparsity=0.5)
    assert left_alone(table, prune) == {name: "embed: left alone, as '*' of a recipe leaves it"}
    assert name not in allocated(table, prune)
    assert name in allocated(table, prune, spare=False)
    assert allocated(table[table["role"] == "embed"], prune) == {name: 0.5}
    assert name not in wb.Spectra(model, "role:embed,role:q").left_alone(prune)  # named, as in a plan
    assert name in wb.Spectra(model, "role:embed,role:q").left_alone(prune, spare=True)
    # What the plan would skip gets nothing in any case.
    assert name not in allocated(table, wb.Wanda(sparsity=0.5), spare=False)
    with pytest.raises(Refused, match="no layer is left to change: an embedding reads no inputs"):
        allocated(table[table["role"] == "embed"], wb.Wanda(sparsity=0.5))


def test_the_figure_says_who_was_left_alone(model):
    found = wb.Spectra(model, "role:embed,role:q")
    figure = found.allocation(wb.Wanda(sparsity=0.5), by="layer", metric="alpha_hill")
    assert "model.embed_tokens" in figure.layout.title.text
    alphas = found.table.set_index("name")["alpha_hill"]
    shown = {row[0]: y for row, y in zip(figure.data[1].customdata, figure.data[1].y, strict=True)}
    assert shown == {name: alphas[name] for name in shown}
    assert len(shown) == 5


def test_eps_is_checked_for_bits_as_for_shares(table):
    for method in (wb.RTN(bits=4), wb.Wanda(sparsity=0.5)):
        for eps in (2, 1, -0.1, float("nan")):
            with pytest.raises(Refused, match="eps is"):
                allocate(table, method, eps=eps)
    assert set(allocated(table, wb.RTN(bits=4), eps=0).values()) == {4.0}


def test_what_can_be_known_is_refused_without_a_table():
    with pytest.raises(Refused, match="neither block nor layer; near: layer"):
        check_allocation(wb.RTN(bits=4), by="layr")
    with pytest.raises(Refused, match="nf4 g64 has neither"):
        check_allocation(wb.RTN(format="nf4"))
    with pytest.raises(Refused, match="eps is 1"):
        check_allocation(wb.RTN(bits=4), eps=1)


def test_bits_are_those_that_the_method_has(table):
    assert set(allocated(table, wb.MobileQuant(bits=4)).values()) <= {4.0, 8.0}
    one = allocated(
        table, wb.RTN(bits=1), by="layer"
    )  # its own width, though it is under those that are tried
    assert set(one.values()) == {1.0}


def test_a_metric_that_needs_extra_columns_says_which(table):
    with pytest.raises(Refused, match=r'no numbers in \'alpha_peak\'; measure with extra=\("peak",\)'):
        allocate(table, wb.RTN(bits=4), metric="alpha_peak")
    with pytest.raises(Refused, match="no numbers in 'role'"):
        allocate(table, wb.RTN(bits=4), metric="role")


def test_the_metric_of_alphapruning_makes_a_recipe_of_its_own(model):
    found = spectra(model, "role:q", Reading(extra=("peak",)))
    peak, fitted = (allocated(found, wb.Magnitude(), metric=m) for m in ("alpha_peak", "alpha"))
    assert peak != fitted
    order = found.sort_values("alpha_peak")["name"]
    assert list(order) == sorted(peak, key=peak.__getitem__)


def test_the_recipe_has_a_short_name_that_survives_yaml(model, table):
    recipe = allocate(table, wb.Magnitude(sparsity=0.5))
    assert recipe.label == "magnitude 50 % by alpha (5 groups)"
    again = wb.Recipe.from_yaml(recipe.to_yaml())
    assert (again, again.label) == (recipe, recipe.label)
    assert wb.apply(model, recipe).label == recipe.label
    assert (
        allocate(table, wb.RTN(bits=4), eps=0, metric="alpha_hill").label
        == "rtn 4 g64 by alpha_hill (1 group)"
    )
