"""What every method gets from its fields: validation in one clear line, repr, parameters, registration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

import workbench as wb
from workbench.errors import Refused
from workbench.grid import uncompressed
from workbench.methods import METHODS, Method, method, parameters_of, parse_method


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"bits": 9}, "rtn: bits = 9 is not possible: take 1 to 8"),
        ({"bits": 0}, "rtn: bits = 0 is not possible: take 1 to 8"),
        ({"bits": "many"}, "rtn: bits = 'many' is not possible: take 1 to 8"),
        ({"bits": None}, "rtn: bits = None is not possible: take 1 to 8"),
        ({"bits": 4.5}, "rtn: bits = 4.5 is not possible: take 1 to 8"),
        ({"group_size": 0}, "rtn: group_size = 0 is not possible: take -1 (the whole row) or at least 2"),
        ({"group_size": -2}, "rtn: group_size = -2 is not possible: take -1 to 65536"),
        (
            {"granularity": "rows"},
            "rtn: granularity = 'rows' is not possible: take group, channel, tensor, input, block",
        ),
        ({"symmetric": "maybe"}, "rtn: symmetric = 'maybe' is not possible: take true, false"),
    ],
)
def test_a_value_out_of_range_is_refused_with_name_value_and_bounds(parameters, expected):
    with pytest.raises(Refused) as refusal:
        wb.RTN(**parameters)
    assert str(refusal.value) == expected


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_is_between_0_and_1(sparsity):
    with pytest.raises(Refused, match=r"magnitude: sparsity = .* take 0 to 1"):
        wb.Magnitude(sparsity=sparsity)


def test_an_unknown_parameter_names_near_ones():
    with pytest.raises(Refused, match=r"rtn has no parameter 'group'; near: group_size"):
        wb.RTN(group=64)


def test_an_unknown_method_names_near_ones():
    with pytest.raises(Refused, match=r"no method is called 'rtm'; near: rtn"):
        method("rtm")
    with pytest.raises(Refused, match=r"no method is called 'Magnitud'; near: Magnitude"):
        parse_method("Magnitud(sparsity=0.5)")


def test_a_method_is_a_value():
    assert wb.RTN(bits=3) == wb.RTN().with_(bits=3) == method("rtn", bits=3)
    assert hash(wb.RTN(bits=3)) == hash(wb.RTN(bits=3))
    assert wb.RTN(bits=3) != wb.RTN(bits=4)
    with pytest.raises(ValueError, match="frozen"):
        wb.RTN().bits = 3
    with pytest.raises(Refused, match="bits = 12"):
        wb.RTN().with_(bits=12)


def test_repr_is_short_and_is_the_value():
    code = repr(wb.RTN(bits=3, symmetric=True, granularity="channel"))
    assert code == "RTN(bits=3, granularity='channel', symmetric=True)"
    assert eval(code, {"RTN": wb.RTN}) == wb.RTN(bits=3, symmetric=True, granularity="channel")
    # Numbers that matter are always said, so that code and recipes tell what they do.
    assert repr(wb.RTN()) == "RTN(bits=4, group_size=64)"
    assert repr(wb.Magnitude()) == "Magnitude(sparsity=0.5)"
    assert repr(wb.Magnitude(n_m="2:4")) == "Magnitude(n_m=(2, 4))"


@pytest.mark.parametrize("prefix", ["", "wb.", "workbench."])
def test_a_method_is_read_back_from_its_code(prefix):
    for made in (
        wb.RTN(bits=2, group_size=-1),
        wb.Magnitude(n_m=(2, 4)),
        wb.Magnitude(sparsity=0.25, scope="row"),
    ):
        assert parse_method(f" {prefix}{made!r}\n") == made


@pytest.mark.parametrize(
    "code",
    [
        "",
        "RTN",
        "RTN(4)",
        "RTN(bits=f())",
        "RTN(**{'bits': 3})",
        "RTN(bits=3",
        "x = RTN()",
        "f()(bits=3)",
        "a[0]()",
    ],
)
def test_what_is_no_method_is_refused_and_not_run(code):
    with pytest.raises(Refused, match="is not a method, such as"):
        parse_method(code)


@settings(max_examples=200)
@given(st.one_of(st.text(), st.text("RTN()bits=[]{}:,'*. \n#3", max_size=25).map("RTN(".__add__)))
def test_any_text_is_a_method_or_refused(code):
    try:
        assert isinstance(parse_method(code), Method)
    except Refused:
        pass


def test_parameters_know_their_bounds_help_and_stops():
    known = {parameter.name: parameter for parameter in parameters_of(wb.RTN)}
    bits, granularity, group_size, symmetric = (
        known[n] for n in ("bits", "granularity", "group_size", "symmetric")
    )
    assert (bits.type, bits.default, bits.low, bits.high) == ("int", 4, 1, 8)
    assert bits.bounds == "1 to 8"
    assert bits.help == "bits of a code"
    assert (granularity.type, granularity.choices) == (
        "choice",
        ("group", "channel", "tensor", "input", "block"),
    )
    assert group_size.stops == (16, 32, 64, 128, 256, -1)
    assert set(group_size.where["granularity"]) == {"group", "input", "block"}
    assert (symmetric.type, symmetric.bounds) == ("bool", "true, false")
    sparsity = parameters_of(wb.Magnitude)[0]
    assert (sparsity.type, sparsity.low, sparsity.high, sparsity.where) == ("float", 0, 1, {"n_m": (None,)})
    assert parameters_of(wb.Magnitude)[2].choices == (None, (2, 4), (4, 8), (1, 4))


def test_bounds_on_one_side_are_said_in_words():
    class OneSided(Method):
        kind = "quantize"
        steps: int = Field(10, ge=1, description="steps")
        damp: float = Field(0.0, le=1, description="damping")

        def compress(self, w, statistics=None):
            return uncompressed(w)

    assert [p.bounds for p in parameters_of(OneSided)] == ["at least 1", "at most 1"]
    with pytest.raises(Refused, match="steps = 0 is not possible: take at least 1"):
        OneSided(steps=0)


def test_a_subclass_without_a_name_does_not_take_its_parents_place():
    class Mine(wb.RTN):
        pass

    assert METHODS["rtn"] is wb.RTN
    assert Mine().compress is not None


def test_public_names_are_the_registered_classes():
    for name in METHODS:
        assert getattr(wb, METHODS[name].__name__) is METHODS[name]
    with pytest.raises(AttributeError, match="no attribute 'RTM'"):
        wb.RTM  # noqa: B018


@pytest.mark.parametrize(
    "w", [torch.ones(10), np.ones((2, 3, 4)), np.ones((3, 4), np.int64), [[1.0]], torch.zeros(0, 4)]
)
def test_what_is_no_weight_is_refused_by_every_method(w):
    for made in (wb.RTN(bits=3), wb.Magnitude(sparsity=0.5)):
        with pytest.raises(Refused, match=r"expected a weight \[out, in\] of floats, got"):
            made.compress(w)


def test_an_array_is_taken_as_the_tensor_that_it_holds():
    w = np.random.default_rng(0).standard_normal((8, 64))
    found, expected = (wb.RTN(bits=3).compress(each) for each in (w, torch.from_numpy(w).float()))
    assert torch.equal(found.dequantize(), expected.dequantize())
