"""MethodControls: whatever is registered as a method can be set with the mouse."""

import pytest
from pydantic import field_validator

import workbench as wb
from workbench.methods import METHODS, parameters_of
from workbench.widgets import MethodControls


@pytest.fixture
def heard():
    return []


@pytest.fixture
def controls(heard):
    return MethodControls(wb.RTN(), heard.append)


def shown(controls):
    return [name for name, field in controls.fields.items() if field.layout.display != "none"]


@pytest.mark.parametrize("name", METHODS.names())
def test_every_field_of_every_method_has_a_control(name, heard):
    controls = MethodControls(METHODS[name](), heard.append)
    parameters = [
        p for p in parameters_of(METHODS[name]) if len(p.choices) != 1
    ]  # with one there is nothing to choose
    assert list(controls.fields) == [parameter.name for parameter in parameters]
    for parameter in parameters:
        control = controls.fields[parameter.name]
        assert control in controls.children
        assert control.value == parameter.default
        assert control.description == parameter.name.replace("_", " ")
        assert parameter.help in control.tooltip
    assert heard == []


@pytest.mark.parametrize("name", METHODS.names())
def test_moving_any_control_tells_the_validated_method(name):
    for parameter in parameters_of(METHODS[name]):
        if len(parameter.choices) == 1:
            continue  # nothing to choose, so no control
        heard = []
        controls = MethodControls(METHODS[name](), heard.append)
        other = elsewhere(controls.fields[parameter.name], parameter)
        controls.fields[parameter.name].value = other
        assert heard == [METHODS[name](**{parameter.name: other})], parameter.name
        assert controls.method == heard[-1]
        assert controls.error.value == ""


def elsewhere(control, parameter):
    """Another value that the control can be moved to."""
    if parameter.type == "bool":
        return not control.value
    if hasattr(control, "options"):
        return next(value for _, value in control.options if value != control.value)
    return control.min if control.value != control.min else control.max


def test_sliders_have_the_bounds_of_the_field(controls):
    bits = controls.fields["bits"]
    assert (bits.min, bits.max, bits.value) == (1, 8, 4)
    assert [value for _, value in controls.fields["group_size"].options] == [16, 32, 64, 128, 256, -1]


def test_a_field_that_does_not_matter_is_hidden(controls):
    assert "convention" not in shown(controls)
    controls.fields["symmetric"].value = True
    assert "convention" in shown(controls)
    controls.fields["granularity"].value = "channel"
    assert "group_size" not in shown(controls)
    controls.fields["granularity"].value = "group"
    assert "group_size" in shown(controls)


def test_more_shows_what_is_seldom_changed(controls):
    assert controls.more in controls.children
    assert not {"ragged", "scale_dtype"} & set(shown(controls))
    controls.more.value = True
    assert {"ragged", "scale_dtype"} <= set(shown(controls))
    controls.fields["granularity"].value = "tensor"  # a last group matters only where there are groups
    assert "ragged" not in shown(controls)
    assert "scale_dtype" in shown(controls)
    controls.more.value = False
    assert "scale_dtype" not in shown(controls)


def test_a_method_without_seldom_fields_has_no_more(heard):
    controls = MethodControls(wb.Magnitude(), heard.append)
    assert controls.more not in controls.children


class Stubborn(wb.RTN):
    """RTN that is not to be had with 3 bits, as a validator of several fields might have it."""

    @field_validator("bits")
    @classmethod
    def _not_three(cls, value: int) -> int:
        if value == 3:
            raise ValueError("<three> bits are not to be had")
        return value


def test_an_impossible_value_is_said_in_one_line_and_the_last_good_method_stays(heard):
    controls = MethodControls(Stubborn(), heard.append)
    controls.fields["bits"].value = 3
    assert heard == []
    assert controls.method == Stubborn(bits=4)
    assert "bits = 3 is not possible: &lt;three&gt; bits are not to be had" in controls.error.value
    assert "\n" not in controls.error.value
    controls.fields["bits"].value = 2
    assert heard == [Stubborn(bits=2)]
    assert controls.error.value == ""


def test_another_method_brings_its_controls_and_the_first_is_remembered(controls, heard):
    controls.fields["bits"].value = 2
    controls.choice.value = "magnitude"
    assert heard[-1] == wb.Magnitude()
    assert "sparsity" in controls.fields
    assert "bits" not in controls.fields
    controls.fields["sparsity"].value = 0.75
    controls.choice.value = "rtn"
    assert heard[-1] == controls.method == wb.RTN(bits=2)
    assert controls.fields["bits"].value == 2
    controls.choice.value = "magnitude"
    assert heard[-1] == wb.Magnitude(sparsity=0.75)
    assert controls.choice.tooltip == wb.Magnitude.summary


def test_n_of_m_takes_the_place_of_the_share(heard):
    controls = MethodControls(wb.Magnitude(), heard.append)
    assert {"sparsity", "scope"} <= set(shown(controls))
    controls.fields["n_m"].value = (2, 4)
    assert shown(controls) == ["n_m"]
    assert heard == [wb.Magnitude(n_m=(2, 4))]


def test_set_shows_a_method_without_telling(controls, heard):
    method = wb.RTN(
        bits=3, group_size=100, symmetric=True, convention="signed"
    )  # 100 is no stop of the slider
    controls.set(method)
    assert heard == []
    assert controls.method == method
    assert {name: field.value for name, field in controls.fields.items()} == method.model_dump()
    controls.set(wb.Magnitude(n_m=(3, 8)))  # nor is 3:8 a choice
    assert heard == []
    assert (controls.choice.value, controls.fields["n_m"].value) == ("magnitude", (3, 8))
    assert controls.choice.tooltip == wb.Magnitude.summary
    controls.fields["n_m"].value = None
    assert len(heard) == 1
