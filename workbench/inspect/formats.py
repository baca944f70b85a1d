"""Number formats to look at: their values on lines, and the SQNR of each on data or on the layers of a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, Grid, Scheme
from ..jobs import Job
from ..measure import WEIGHT_COLUMNS, weight_errors
from ..model import Model
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHOWN = ("int4", "e1m2", "e2m1", "e3m0", "nf4", "power4")  # the formats of 4 bits that differ in their values
SQNR_COLUMNS = {
    "data": "what was rounded: a distribution, or a layer",
    "format": "number format",
    "bits": "bits of a code",
    "bits_per_weight": WEIGHT_COLUMNS["bits_per_weight"],
    "sqnr_db": WEIGHT_COLUMNS["sqnr_db"],
    "kurtosis": "of the data: 3 is normal, more has heavier tails",
}


def scheme_of(name: str, granularity: Literal["tensor", "channel"] = "tensor") -> Scheme:
    """The scheme of a format by its short name: int4, power4 and kmeans4 name their width, the others have one.
    Integers are symmetric."""
    match = re.fullmatch(r"(int|power|kmeans)([1-8])", name)
    fields = {"format": match[1], "bits": int(match[2])} if match else {"format": name}
    return Scheme(**fields, granularity=granularity, symmetric=True, scale_dtype="float32")


class NumberLines(Viewable):
    """The values of formats as ticks on lines. Formats by short name, or grids by any name; learned ones (kmeans) and
    searched ones (power) are those of the sample w [out, in], by default normal numbers."""

    def __init__(
        self, formats: Iterable[str] | Mapping[str, Grid] = SHOWN, w: Tensor | None = None, log: bool = False
    ):
        sample = distributions()["normal"] if w is None else w.float()
        if not isinstance(formats, Mapping):
            formats = {name: scheme_of(name).quantize(sample).grid for name in formats}
        if not formats:
            raise Refused("no format was given: such as int4, e2m1, nf4")
        self.grids, self.log = dict(formats), log

    @cached_property
    def table(self) -> pd.DataFrame:
        """format, bits, value (in units of the scale), relative (to the largest magnitude): a row for each value."""
        rows = []
        for name, grid in self.grids.items():
            values = grid.values.double()
            for value in values.tolist():
                rows.append((name, grid.code_bits, value, value / float(values.abs().max())))
        return pd.DataFrame(rows, columns=["format", "bits", "value", "relative"])

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.number_lines import number_line_figure

        lines = {name: grid.values.double().numpy() for name, grid in self.grids.items()}
        return number_line_figure(lines, log=self.log, theme=theme)


def number_lines(
    formats: Iterable[str] | Mapping[str, Grid] = SHOWN, w: Tensor | None = None, log: bool = False
) -> NumberLines:
    """All values of these formats on lines, each over its largest; on a log axis with `log`."""
    return NumberLines(formats, w, log)


class Formats(Viewable):
    """The SQNR of formats on data [out, in] by name, or on the layers of a model. One scale for each matrix, or each of
    its rows (granularity channel); formats with blocks of their own keep them."""

    def __init__(
        self,
        subject: Mapping[str, Tensor] | Model,
        formats: Iterable[str] = SHOWN,
        *,
        layers: str = "*",
        granularity: Literal["tensor", "channel"] = "tensor",
        job: Job | None = None,
    ):
        self.schemes = {name: scheme_of(name, granularity) for name in formats}
        if not self.schemes:
            raise Refused("no format was given: such as int4, e2m1, nf4")
        if isinstance(subject, Model):
            chosen = [
                la.name for la in subject.select(layers) if layers != "*" or la.role not in ("embed", "head")
            ]
            found = ((name, subject.weight(name)) for name in chosen)
            total = len(chosen)
        else:
            found, total = iter(subject.items()), len(subject)
        self._rows: list[dict[str, Any]] = []
        for done, (name, w) in enumerate(found):
            if job is not None:
                job.step(done, total, name)
            self._rows += [self._row(name, w.float(), each) for each in self.schemes]
        self.table = pd.DataFrame(self._rows, columns=list(SQNR_COLUMNS))
        self.table.attrs["columns"] = SQNR_COLUMNS

    def _row(self, name: str, w: Tensor, form: str) -> dict[str, Any]:
        made: CompressedWeight = self.schemes[form].quantize(w)
        return {
            "data": name,
            "format": form,
            "bits": made.grid.code_bits,
            "bits_per_weight": made.bits_per_weight,
            "sqnr_db": weight_errors(w, made)["sqnr_db"],
            "kurtosis": kurtosis(w),
        }

    @property
    def best(self) -> pd.DataFrame:
        """The best format of each width for each set of data, with what it gains over the integer of that width."""
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        ints = {(r["data"], r["bits"]): r["sqnr_db"] for r in self._rows if r["format"] == f"int{r['bits']}"}
        for row in self._rows:
            key = row["data"], row["bits"]
            if key not in rows or row["sqnr_db"] > rows[key]["sqnr_db"]:
                gain = row["sqnr_db"] - ints.get(key, float("nan"))
                names = ("data", "bits", "format", "sqnr_db")
                rows[key] = {**{n: row[n] for n in names}, "gain_db": gain, "kurtosis": row["kurtosis"]}
        return pd.DataFrame(rows.values())

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.number_lines import sqnr_figure

        return sqnr_figure(self.table, theme=theme)


def kurtosis(w: Tensor) -> float:
    """E[(w - mean)^4] / var^2: 1.8 uniform, 3 normal, 6 Laplace."""
    x = w.double() - w.double().mean()
    return float((x**4).mean() / x.square().mean().clamp(min=1e-300) ** 2)


def distributions(count: int = 32768, seed: int = 0) -> dict[str, Tensor]:
    """Samples [1, count] with ever heavier tails: uniform, normal, Laplace, Student's t (4 degrees of freedom)."""
    random = torch.Generator().manual_seed(seed)

    def normal(rows: int = 1) -> Tensor:
        return torch.randn(rows, count, generator=random)

    uniform = torch.rand(1, count, generator=random) * 2 - 1
    # Laplace: the difference of two exponential variables. t4: normal / sqrt(chi^2_4 / 4), of 4 squared normals.
    exponential = -torch.rand(2, count, generator=random).clamp(min=1e-12).log()
    heavy = normal() / (normal(4).square().sum(0, keepdim=True) / 4).sqrt()
    return {
        "uniform": uniform,
        "normal": normal(),
        "Laplace": exponential[:1] - exponential[1:],
        "Student t4": heavy,
    }
