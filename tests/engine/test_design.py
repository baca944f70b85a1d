"""Designs become recipes in the order of the reference; what cannot be built is refused by name."""

from __future__ import annotations

import pytest

import workbench as wb
from workbench.engine import Recipe
from workbench.engine.design import FLOATS, FORMATS, Design, Designer
from workbench.errors import Refused
from workbench.grid.minifloat import MINIFLOATS


def test_the_space_is_every_split_of_three_to_eight_bits():
    assert set(FLOATS) == set(MINIFLOATS)
    assert len(FORMATS) == 6 + 27


def test_the_steps_are_in_the_order_of_the_reference():
    helpers = ("bias-correction", "gptq", "smoothquant", "equalize")
    recipe = Designer("channel", ("stem", "head")).recipe(Design("e2m1", "int6", helpers))
    assert [(step.method.name, step.layers) for step in recipe] == [
        (name, layers)
        for name in ("equalize", "smoothquant", "gptq", "activations", "bias-correction")
        for layers in ("*", "stem, head")
    ]
    weights, ends, inputs, end_inputs = recipe.steps[4:8]
    assert (weights.method.format, ends.method.format) == ("e2m1", "e3m4")
    assert (inputs.method.format, inputs.method.bits, end_inputs.method.bits) == ("int", 6, 8)
    assert inputs.method.granularity == "tensor"
    assert (inputs.method.range, inputs.method.percentile) == ("percentile", 99.999)
    assert weights.method.granularity == "channel"
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_options_reach_their_methods_and_inputs_may_stay_float():
    recipe = Designer(options={"rtn": {"scale_search": "mse"}}).recipe(Design("int4", None))
    fields = {"bits": 4, "granularity": "tensor", "symmetric": True, "scale_search": "mse"}
    assert recipe == Recipe([wb.RTN(**fields)])


@pytest.mark.parametrize(
    ("weight", "activation", "kind"),
    [
        ("int4", "int8", "int"), ("e2m1", "e3m0", "float"), ("int4", "e2m1", "mixed"), ("e2m1", "int8", "mixed"),
        ("int4", None, "int"), ("e2m1", None, "float"),
    ],
)  # fmt: skip
def test_the_kind_of_a_design(weight, activation, kind):
    design = Design(weight, activation)
    assert design.kind == kind
    assert design.label == f"{weight} / {activation or 'float'}"


def test_what_is_no_design_is_refused():
    for arguments, said in (
        (("int2", "int4"), "'int2' is no format of a design space"),
        (("nf4", None), "'nf4' is no format"),
        (("int4", "e9m9"), "'e9m9' is no format"),
        (("int4", "int4", ("equalise",)), "'equalise' is no helper; near: equalize"),
        (("int4", "int4", ("gptq", "adaround")), "gptq and adaround both round the weights"),
    ):
        with pytest.raises(Refused, match=said):
            Design(*arguments)
