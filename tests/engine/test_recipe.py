"""Recipes: YAML there and back, and one clear line for everything that is none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workbench as wb
from workbench.engine import Recipe, Step
from workbench.errors import Refused

EXAMPLE = """\
# comments are welcome
steps:
  - {method: rtn, layers: "*", bits: 4, group_size: 64}
  - method: magnitude
    layers: [role:down, "*.up_proj"]
    n_m: [2, 4]
"""


def test_the_example_reads_as_python_would_write_it():
    made = Recipe.from_yaml(EXAMPLE)
    assert made == Recipe(
        [wb.RTN(bits=4, group_size=64), Step(wb.Magnitude(n_m="2:4"), "role:down, *.up_proj")]
    )
    assert len(made) == 2
    assert [step.layers for step in made] == ["*", "role:down, *.up_proj"]


methods = st.one_of(
    st.builds(
        wb.RTN,
        bits=st.integers(2, 8),
        group_size=st.integers(2, 65536) | st.just(-1),
        symmetric=st.booleans(),
        granularity=st.sampled_from(["group", "channel", "tensor"]),
    ),
    st.builds(wb.Magnitude, sparsity=st.floats(0, 1), scope=st.sampled_from(["layer", "row"])),
    st.builds(wb.Magnitude, n_m=st.sampled_from([None, (2, 4), (1, 64)])),
)
selectors = st.sampled_from(["*", "role:down", "a.*, b.[01]", "x: y # {z}", "'\"", "- a", "äöü", "yes", "1"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(Step, methods, selectors), max_size=4))
def test_yaml_and_code_give_an_equal_recipe_back(steps):
    made = Recipe(steps)
    assert Recipe.from_yaml(made.to_yaml()) == made
    names = {"Recipe": Recipe, "Step": Step, "RTN": wb.RTN, "Magnitude": wb.Magnitude}
    assert eval(repr(made), names) == made
    assert hash(made) == hash(Recipe(steps))


def test_a_file_is_written_whole_and_read_back(tmp_path):
    made = Recipe.from_yaml(EXAMPLE)
    made.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == made
    assert [file.name for file in tmp_path.iterdir()] == ["r.yaml"]


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"none\.yaml cannot be read"):
        Recipe.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match=r"binary\.yaml cannot be read"):
        Recipe.load(tmp_path / "binary.yaml")


def step(line):
    return f"steps:\n  - {{method: rtn}}\n  - {line}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (step("{method: rtm}"), "r.yaml, line 3: no method is called 'rtm'; near: rtn"),
        (step("{method: [rtn]}"), "r.yaml, line 3: no method is called ['rtn']; near: rtn"),
        (step("{method: 4}"), "r.yaml, line 3: no method is called 4; known: activations, "),
        (step("{bits: 4}"), "r.yaml, line 3: the step names no method; known: activations, "),
        (step("{method: rtn, bit: 4}"), "r.yaml, line 3: rtn has no parameter 'bit'; near: bits"),
        (step("method: rtn\n    bits: 9"), "r.yaml, line 4: rtn: bits = 9 is not possible: take 1 to 8"),
        (
            step("method: rtn\n    layers: '*'\n    bts: 4"),
            "r.yaml, line 5: rtn has no parameter 'bts'; near: bits",
        ),
        (step("method: rtn\n    bits: !!python/name:os.system x"), "r.yaml, line 4: "),
        (step("method: rtn\n    bits: 2024-13-99"), "r.yaml, line 4: "),
        (step("method: rtn\n    bits: &a [*a]"), "r.yaml, line 4: "),
        (step("method: rtn\n    ? [1, 2]\n    : 3"), "r.yaml, line 4: "),
        (
            step("{method: magnitude, n_m: [null, 4]}"),
            "r.yaml, line 3: magnitude: n_m = [None, 4] is not possible",
        ),
        (step("{method: rtn, layers: 3}"), "r.yaml, line 3: layers is a glob or a role in quotes, not 3"),
        (step("rtn"), "r.yaml, line 3: a step is a mapping such as {method: rtn, bits: 4}"),
        ("steps: 4", "r.yaml, line 1: 'steps' is a list"),
        ("\nstep: []", "r.yaml, line 2: unknown key 'step'; near: steps"),
        ("steps: []\nmore: 1", "r.yaml, line 2: unknown key 'more'"),
        ("? [a]\n: 1", "r.yaml, line 1: unknown key"),
        ("{}", "r.yaml, line 1: the key 'steps' is missing"),
        ("", "r.yaml: a recipe is a mapping with the key 'steps', a list of methods"),
        ("- {method: rtn}", "r.yaml: a recipe is a mapping"),
        ("steps:\n  - {method: rtn", "r.yaml, line 2: not YAML"),
        ("steps: \x00", "r.yaml: not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_with_line_and_near_names(text, message):
    with pytest.raises(Refused) as refusal:
        Recipe.from_yaml(text, "r.yaml")
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text("{}[]:,-*&!|>'\"? \nbitsmehodrn4", max_size=40).map("steps:\n - ".__add__),
    )
)
def test_any_text_is_a_recipe_or_refused(text):
    try:
        assert isinstance(Recipe.from_yaml(text), Recipe)
    except Refused:
        pass


def test_a_step_that_is_no_method_is_refused():
    with pytest.raises(Refused, match=r"a step of a recipe is a method such as RTN\(bits=4\), not 'rtn'"):
        Recipe(["rtn"])


def test_recipes_add_up_and_have_a_label():
    both = Recipe([wb.RTN()]) + Recipe([Step(wb.Magnitude(), "role:down")])
    assert both.label == "rtn 4 g64 + magnitude 50 % on role:down"
    assert Recipe().label == "base"
    assert Recipe([wb.RTN()]) != Recipe([wb.RTN(bits=3)])


def test_a_recipe_may_have_a_name_of_its_own_that_is_no_part_of_what_it_does():
    named = Recipe([wb.RTN(bits=4)], label="four  bits: all\nof them")
    assert named.label == "four bits: all of them"
    again = Recipe.from_yaml(named.to_yaml())
    assert again.label == named.label
    assert again == named == Recipe([wb.RTN(bits=4)])
    assert hash(again) == hash(Recipe([wb.RTN(bits=4)]))
    assert eval(repr(named), {"Recipe": Recipe, "RTN": wb.RTN}).label == named.label
    assert (named + Recipe([wb.Magnitude()])).label == "four bits: all of them + magnitude 50 %"
    assert "label" not in Recipe([wb.RTN(bits=4)]).to_yaml()
    with pytest.raises(Refused, match=r"r.yaml, line 1: 'label' is a short text"):
        Recipe.from_yaml("label: [a]\nsteps: []", "r.yaml")
    with pytest.raises(Refused, match="unknown key 'labl'; near: label"):
        Recipe.from_yaml("labl: a\nsteps: []")


def test_the_label_of_many_layers_and_steps_is_short():
    layers = ", ".join(f"model.layers.{i}.mlp.down_proj" for i in range(30))
    assert Recipe([Step(wb.RTN(), layers)]).label == "rtn 4 g64 on model.layers.0.mlp.down_proj and 29 more"
    many = Recipe([Step(wb.RTN(bits=bits), layers) for bits in (2, 3, 4, 5, 6, 8)])
    assert many.label.endswith(" + 4 more steps")
    assert len(many.label) < 150
    assert Recipe([Step(wb.RTN(), "role:q, role:k")]).label == "rtn 4 g64 on role:q, role:k"
