"""Method: a frozen pydantic model whose fields are its parameters, and one function from weight to compressed weight.

A method is one file in `quantize/`, `prune/` or `tune/`. Defining the class registers it; from its fields come
validation, the controls in the bench, its entry in a recipe, its row in the method table, and `repr`, which is
Python that makes an equal value.
"""

from __future__ import annotations

import ast
import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from ..errors import Refused, near
from ..grid import CompressedWeight, Report, Running, uncompressed
from ..registry import Registry

METHODS = Registry("method", "workbench.methods")
Need = Literal["mean", "mean_abs", "mean_square", "max_abs", "low", "high", "hessian", "cross", "sample"]
NEEDS: tuple[str, ...] = get_args(Need)
Kind = Literal["transform", "prune", "quantize", "activation", "correct"]
KINDS: tuple[str, ...] = get_args(Kind)  # the order in which they work on one layer


@dataclass
class Statistics:
    """What is known of a layer beside its weight: what calibration collected of its input x [tokens, in], streamed;
    None where nobody asked for it.

    mean, mean_abs, mean_square, max_abs, low, high [in]: mean x, mean |x|, mean x^2, max |x|, least and largest x of
    each input channel. hessian [in, in]: X^T X / tokens (without the factor 2 of some papers). cross [in, in]:
    X~^T X / tokens, X~ what the unchanged network would hand on in place of X. sample [n, in]: rows
    spread over the calibration text. mask [out, in]: weights that a pruner has removed before (True = kept).
    """

    tokens: int = 0
    mean_abs: Tensor | None = None
    mean_square: Tensor | None = None
    max_abs: Tensor | None = None
    hessian: Tensor | None = None
    sample: Tensor | None = None
    mean: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    cross: Tensor | None = None
    mask: Tensor | None = None

    def scaled(self, s: Tensor) -> Statistics:
        """Those of the input divided by s [in] > 0: what a layer sees whose weight was multiplied by s."""
        power = {"mean_square": s * s, "hessian": s[:, None] * s, "cross": s[:, None] * s}
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("tokens", "mask")}
        changed = {k: None if v is None else v / power.get(k, s) for k, v in known.items()}
        return replace(self, **changed)

    def output_error(self, w: Tensor, change: Tensor) -> float | None:
        """||x change^T|| / ||x w^T|| over the calibration inputs: exactly from the Hessian, else from the sample; None
        where neither was collected."""
        if self.hessian is not None:
            energy = [float(((d @ self.hessian) * d).sum().double().clamp(min=0)) for d in (change, w)]
        elif self.sample is not None:
            energy = [float((self.sample @ d.T).square().sum()) for d in (change, w)]
        else:
            return None
        return (energy[0] / energy[1]) ** 0.5 if energy[1] > 0 else None


@dataclass
class Span:
    """A stretch of the network that a method rebuilds as a whole: one block, or all of them.

    `weights` [out, in] by layer name, as earlier steps left them; `statistics` by layer name. `inputs` holds one opaque
    thing a batch, which enters the compressed network there; `targets` what the unchanged network answers for the same
    batch. `run(input, weights)` is the stretch with these weights in place (tensors, or `Running` where inputs are
    quantized), differentiable in them.
    """

    weights: Mapping[str, Tensor]
    statistics: Mapping[str, Statistics]
    inputs: Sequence[Any]
    targets: Sequence[Tensor]
    run: Callable[[Any, Mapping[str, Tensor | Running]], Tensor]


@dataclass(frozen=True)
class Verdict:
    """What a method says of a layer before any work: `skip` is the reason to leave it out, `note` worth knowing."""

    skip: str = ""
    note: str = ""


def _checked(compress: Callable[..., CompressedWeight]) -> Callable[..., CompressedWeight]:
    """`compress` for whatever a notebook hands over: a NumPy array is taken too, and what is no matrix is refused."""

    @functools.wraps(compress)
    def of_matrix(self: Method, w: Any, statistics: Statistics | None = None) -> CompressedWeight:
        if isinstance(w, np.ndarray) and w.dtype.kind == "f":
            w = torch.from_numpy(np.require(w, np.float32, ["C", "W"]))
        if not isinstance(w, Tensor) or w.ndim != 2 or not w.is_floating_point() or not w.numel():
            shape, dtype = getattr(w, "shape", None), getattr(w, "dtype", "")
            what = f"{list(shape)} {dtype}" if shape is not None else type(w).__name__
            raise Refused(
                f"{type(self).__name__}: expected a weight [out, in] of floats, got {what}; a convolution is "
                "w.flatten(1), a row is w[None]"
            )
        return compress(self, w, statistics)

    return of_matrix


class Method(BaseModel):
    """Base of all methods. A subclass sets `name`, `kind`, `summary`, `source`, `needs`, its fields, `compress`.

    A method that depends on others of its block overrides `rebuild` too, and says in `works_on` when it is called.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str] = ""
    kind: ClassVar[Kind]
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""  # paper or reference implementation
    needs: ClassVar[frozenset[str]] = frozenset()  # of NEEDS: only these are collected
    updates: ClassVar[bool] = False  # whether a pruner also changes the weights that it keeps
    whole_model: ClassVar[bool] = (
        False  # works on pairs of layers before all others (engine.fold), not layer by layer
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        super().__pydantic_init_subclass__(**keywords)
        if "compress" in cls.__dict__:
            cls.compress = _checked(cls.__dict__["compress"])
        if cls.__dict__.get("name"):  # a subclass without a name of its own does not take its parent's place
            METHODS.add(cls.name, cls)

    def __init__(self, **parameters: Any):
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise Refused(_explain(type(self), error)) from None

    @abstractmethod
    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32, and the statistics named in `needed`, to the compressed weight."""

    @property
    def needed(self) -> frozenset[str]:
        """The statistics that these parameters need; `needs` where they do not matter."""
        return self.needs

    @property
    def rounds(self) -> bool:
        """Whether the result lies on a grid: every quantizer, and a pruner that rounds while it prunes."""
        return self.kind == "quantize"

    @property
    def works_on(self) -> Literal["layer", "block"]:
        """Whether the walk calls `compress` for each layer or `rebuild` for each block."""
        return "layer"

    def rebuild(self, span: Span) -> Mapping[str, CompressedWeight]:
        """All layers of `span.weights` at once, by name; only where `works_on` is block."""
        return {name: self.compress(w, span.statistics.get(name)) for name, w in span.weights.items()}

    @property
    def baseline(self) -> Method | None:
        """The plain method that this one has to beat on a layer (same bits, same groups); None for those themselves."""
        return None

    def given(self, statistics: Statistics | None) -> Statistics:
        """The statistics, or Refused where one that is needed is missing."""
        missing = [name for name in sorted(self.needed) if getattr(statistics, name, None) is None]
        if missing:
            raise Refused(f"{self.label} needs {', '.join(missing)} of the inputs: give calibration")
        return Statistics() if statistics is None else statistics

    def judge(self, shape: tuple[int, int]) -> Verdict:
        """What to say of a layer of this shape [out, in] before the work starts."""
        return Verdict()

    def with_(self, **changes: Any) -> Method:
        """The same method with other parameters, validated anew."""
        return type(self)(**{**self.model_dump(), **changes})

    def parameters(self) -> dict[str, Any]:
        """The parameters worth writing down, in the order of the class: numbers that matter under the others'
        values always, so that a recipe says what it does; the rest where they differ from their defaults."""
        fields = {parameter.name: parameter for parameter in parameters_of(type(self))}

        def told(name: str, value: Any) -> bool:
            field = fields[name]
            matters = all(getattr(self, other) in values for other, values in field.where.items())
            return value != field.default or (matters and field.type in ("int", "float"))

        return {name: value for name, value in self if told(name, value)}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters().items())})"

    __str__ = __repr__

    @property
    def label(self) -> str:
        """A short name for chips and legends: rtn 4 g64."""
        return self.name


class Transform(Method):
    """A method that rescales input channels: w * s for an input x / s, which leaves the float function as it is.

    Layers that read the same input share s, so that it can be folded into the norm or linear before them; the walk
    calls `scales` for all of them together, and the methods after it see w * s and x / s.
    """

    @abstractmethod
    def scales(self, weights: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """s [in] > 0 for the weights [out_i, in] that read one input."""

    def search(self, weights: Sequence[Tensor], statistics: Statistics) -> tuple[Tensor, Report]:
        """The scales, and what was learned in finding them."""
        return self.scales(weights, statistics), Report()

    def compress_scaled(self, w: Tensor, statistics: Statistics) -> CompressedWeight:
        """What becomes of w * s where no other method rounds it: nothing, unless the method rounds by itself."""
        return uncompressed(w)

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        known = self.given(statistics)
        s, report = self.search([w], known)
        s = storable(s)
        return self.compress_scaled(w * s, known.scaled(s)).with_input_scale(s).with_report(report)


class Finish(Method):
    """A method that adds to what others made of a layer: how its input is quantized, what its output gains."""

    @abstractmethod
    def finish(self, w: Tensor, made: CompressedWeight, statistics: Statistics) -> CompressedWeight:
        """`made` of w [out, in] with this method's part added."""

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        return self.finish(w, uncompressed(w), self.given(statistics))


def storable(s: Tensor) -> Tensor:
    """Scales [in] as they will be stored: half precision where every one is a normal number there."""
    limits = torch.finfo(torch.float16)
    fits = s.max() <= limits.max and s.min() >= limits.tiny
    return s.half().float() if fits else s.float()


def method(name: str, **parameters: Any) -> Method:
    """The registered method of that name with these parameters. Refused, with near names, where there is none."""
    return METHODS[name](**parameters)


def parse_method(code: str) -> Method:
    """A method back from its `repr`, without running code. Refused where it is not one."""
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not all(k.arg for k in call.keywords):
            raise ValueError("parameters are given by name")
        parameters = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        called = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        raise Refused(f"{code!r} is not a method, such as RTN(bits=4)") from None
    classes = {METHODS[name].__name__: METHODS[name] for name in METHODS}
    if called not in classes:
        raise Refused(f"no method is called {called!r}{near(called, classes)}")
    return classes[called](**parameters)


@dataclass(frozen=True)
class Parameter:
    """One field of a method, as controls, tables and messages need it."""

    name: str
    type: str  # int, float, bool, choice
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = field(default=())
    # For a control: the values worth a stop on a slider; any other within the bounds is valid too.
    stops: tuple[Any, ...] = field(default=())
    more: bool = False  # seldom needed: a control puts it out of sight
    # Which other field must have which values for this one to matter: {"granularity": ("group",)}
    where: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def bounds(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        if self.low is None and self.high is None:
            return "true, false" if self.type == "bool" else ""
        if self.high is None:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.low is None else f"{self.low:g} to {self.high:g}"


def parameters_of(method: type[BaseModel]) -> list[Parameter]:
    """The parameters of a method class (or of the part that several share), read from its fields."""
    found = []
    for name, info in method.model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        bounds: dict[str, Any] = {}
        for constraint in info.metadata:
            for key, side in (("ge", "low"), ("gt", "low"), ("le", "high"), ("lt", "high")):
                if getattr(constraint, key, None) is not None:
                    bounds[side] = getattr(constraint, key)
        # A JSON schema has lists where values are tuples.
        choices = tuple(tuple(c) if isinstance(c, list) else c for c in extra.get("choices", ()))  # type: ignore[union-attr]
        kind = _type_of(info.annotation)
        if get_origin(info.annotation) is Literal:
            choices = get_args(info.annotation)
        found.append(
            Parameter(
                name,
                "choice" if choices else kind,
                info.default,
                info.description or "",
                **bounds,
                choices=choices,
                stops=tuple(extra.get("stops", ())),  # type: ignore[arg-type]
                more=bool(extra.get("more", False)),
                where={k: tuple(v) for k, v in extra.get("where", {}).items()},  # type: ignore[union-attr]
            )
        )
    return found


def _type_of(annotation: Any) -> str:
    return {bool: "bool", int: "int", float: "float"}.get(annotation, "choice")


def _explain(method: type[Method], error: ValidationError) -> str:
    """One line for the first thing wrong: what, the value, the bounds."""
    first = error.errors()[0]
    where = str(first["loc"][0]) if first["loc"] else ""
    known = {parameter.name: parameter for parameter in parameters_of(method)}
    if first["type"] == "extra_forbidden":
        return f"{method.name} has no parameter {where!r}{near(where, known)}"
    if where not in known:
        return f"{method.name}: {first['msg'].removeprefix('Value error, ')}"
    bounds = known[where].bounds
    message = first["msg"].removeprefix("Value error, ")
    # A validator of the method's own says more than the bounds.
    detail = f"take {bounds}" if bounds and first["type"] != "value_error" else message
    return f"{method.name}: {where} = {first['input']!r} is not possible: {detail}"
