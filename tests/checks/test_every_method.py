"""What every registered method passes, without a test of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import workbench as wb
from workbench.grid import CompressedWeight
from workbench.methods import (
    KINDS,
    METHODS,
    NEEDS,
    Method,
    Statistics,
    Verdict,
    method,
    parameters_of,
    parse_method,
)

# Out is no multiple of 8, in is none of 64: chunks, strips and groups are all ragged somewhere.
SHAPES = [(48, 128), (21, 100), (1, 7), (5, 1)]


def variations(name: str) -> list[dict[str, Any]]:
    """The defaults, and each parameter at its ends and choices by itself."""
    parameters = {parameter.name: parameter for parameter in parameters_of(METHODS[name])}
    # What learns does so for a few steps, except where the number of steps is looked at.
    steps = parameters.get("steps")
    short = {} if steps is None else {"steps": (steps.stops or (int(steps.low or 1),))[0]}
    sets: list[dict[str, Any]] = [{}]
    for parameter in parameters.values():
        values = parameter.choices or ((False, True) if parameter.type == "bool" else parameter.stops)
        if parameter is steps:
            values = values[:2]  # that they stop where told is seen with few
        if not values and parameter.type in ("int", "float"):
            values = tuple(v for v in (parameter.low, parameter.high) if v is not None)
        for value in values:
            if value != parameter.default:
                # Where a parameter matters only beside another one's value, that one comes along.
                possible = {
                    key: [each for each in allowed if each in (parameters[key].choices or allowed)]
                    for key, allowed in parameter.where.items()
                }
                if all(possible.values()):  # else it never matters in this method
                    needed = {key: allowed[0] for key, allowed in possible.items()}
                    sets.append({**short, **needed, parameter.name: value})
    return sets


CASES = [(name, parameters) for name in METHODS for parameters in variations(name)]
every_case = pytest.mark.parametrize(("name", "parameters"), CASES, ids=lambda x: str(x) if x else "defaults")
every_method = pytest.mark.parametrize("name", METHODS.names())


def layer(shape: tuple[int, int]) -> tuple[torch.Tensor, Statistics]:
    """A weight, and statistics of 256 inputs of which some channels are ten times louder."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(shape, generator=generator) * 0.05
    x = torch.randn(256, shape[1], generator=generator)
    x[:, ::5] *= 10
    x_float = x + 0.1 * torch.randn(x.shape, generator=generator)  # what the unchanged network would hand on
    return w, Statistics(
        tokens=256, mean=x.mean(0), mean_abs=x.abs().mean(0), mean_square=x.square().mean(0), max_abs=x.abs().amax(0),
        low=x.amin(0), high=x.amax(0), hessian=x.T @ x / 256, cross=x_float.T @ x / 256, sample=x[:32],
    )  # fmt: skip


def compressed(made: Method, shape: tuple[int, int]) -> tuple[torch.Tensor, CompressedWeight]:
    w, statistics = layer(shape)
    return w, made.compress(w, statistics)


@every_case
def test_it_makes_a_compressed_weight_of_every_shape(name, parameters):
    for shape in SHAPES:
        w, weight = compressed(method(name, **parameters), shape)
        values = weight.dequantize()
        assert values.shape == w.shape == weight.shape
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert not any(t.requires_grad for t in vars(weight).values() if isinstance(t, torch.Tensor))
        assert weight.codes.shape == shape
        assert 0 < weight.bits_per_weight
        assert weight.nbytes >= weight.bits_per_weight * w.numel() / 8 - 1e-6
        if weight.mask is not None:
            assert weight.mask.dtype == torch.bool
            assert values[~weight.mask].count_nonzero() == 0


@every_case
def test_it_is_deterministic_and_leaves_its_inputs_alone(name, parameters):
    made = method(name, **parameters)
    w, statistics = layer((21, 100))
    before, hessian = w.clone(), statistics.hessian.clone()
    first, second = made.compress(w, statistics), made.compress(w, statistics)
    assert torch.equal(w, before)
    assert torch.equal(statistics.hessian, hessian)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.dequantize(), first.dequantize())
    assert torch.equal(first.dequantize(), second.dequantize())


@every_case
def test_it_comes_closer_than_zeros_or_says_how_much_it_removed(name, parameters):
    made = method(name, **parameters)
    w, statistics = layer((48, 128))
    weight = made.compress(w, statistics)
    change = weight.dequantize() - w
    error = float(change.norm() / w.norm())
    # What compensates moves weights further away, for the sake of the output.
    judged = statistics.output_error(w, change) if "hessian" in made.needed else error
    assert judged is not None
    assert judged < 1 or weight.sparsity == 1
    if METHODS[name].kind == "prune":
        assert weight.sparsity > 0 or error < 1e-3  # stored in half precision


@every_case
def test_some_rows_are_compressed_as_well(name, parameters):
    """The live preview: a method works on a sample of the rows."""
    made = method(name, **parameters)
    w, statistics = layer((48, 128))
    part = made.compress(w[::6].contiguous(), statistics)
    assert part.shape == (8, 128)
    assert torch.isfinite(part.dequantize()).all()


@every_case
def test_its_code_and_its_recipe_give_it_back(name, parameters):
    made = method(name, **parameters)
    assert eval(repr(made), {type(made).__name__: type(made)}) == made
    assert parse_method(repr(made)) == made
    recipe = wb.Recipe([wb.Step(made, "role:down")])
    assert wb.Recipe.from_yaml(recipe.to_yaml()) == recipe


@every_case
def test_it_judges_any_shape(name, parameters):
    made = method(name, **parameters)
    for shape in ((1, 1), (7, 3), (64, 64), (14336, 4096), (3, 65537)):
        verdict = made.judge(shape)
        assert isinstance(verdict, Verdict)
        assert "\n" not in verdict.skip + verdict.note
    assert made.label


@every_method
def test_it_is_documented(name):
    kind = METHODS[name]
    assert kind.name == name
    assert kind.kind in KINDS
    assert kind.summary
    assert kind.source
    assert kind.__doc__
    assert kind.needs <= set(NEEDS)
    assert len(kind.summary) < 120


@every_method
def test_its_parameters_have_help_and_bounds(name):
    for parameter in parameters_of(METHODS[name]):
        assert parameter.help, f"{name}: {parameter.name} has no description"
        assert parameter.type in ("int", "float", "bool", "choice")
        assert parameter.bounds, f"{name}: {parameter.name} has no bounds"
        known = set(METHODS[name].model_fields)
        assert set(parameter.where) <= known
        for stop in parameter.stops:
            assert getattr(method(name, **{parameter.name: stop}), parameter.name) == stop


def test_the_registry_is_not_empty():
    assert {"rtn", "magnitude"} <= set(METHODS)
