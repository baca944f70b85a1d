"""The numbers of the bench as HTML: three digits that matter, units, and the reference beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any


def number(value: float | None, digits: int = 3) -> str:
    """A number in three digits that matter; an en dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.{digits - 1}e}"
    short = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in short else short  # 1234, not 1.23e+03


def size(nbytes: float) -> str:
    """Bytes in the unit that suits: 9.8 kB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{number(nbytes / scale)} {unit}"
    return f"{nbytes:.0f} B"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def layer_numbers(values: Mapping[str, Any], why_not: str = "") -> str:
    """The table beside the map: the layer under the method, then the model if only this layer changes."""
    rows = [
        ("relative error", number(values.get("relative_error")), "‖w′ − w‖ / ‖w‖"),
        ("SQNR", f"{number(values.get('sqnr_db'))} dB", "10 log₁₀(Σw² / Σe²)"),
        ("max error", number(values.get("max_error")), "largest |w′ − w|"),
        (
            "output error",
            number(values.get("output_relative_error")),
            "‖x(w′ − w)ᵀ‖ / ‖xwᵀ‖ on calibration inputs",
        ),
        ("bits / weight", number(values.get("bits_per_weight"), 4), "with scales, zeros and mask"),
    ]
    plain, output = values.get("baseline_output_error"), values.get("output_relative_error")
    if plain and output is not None:
        rows.insert(
            4,
            (
                "vs plain",
                f"{100 * (output / plain - 1):+.0f} %",
                f"output error of the plain method: {number(plain)}",
            ),
        )
    if values.get("sparsity"):
        rows.append(("sparsity", percent(values["sparsity"]), "share of weights removed"))
    if values.get("bytes_before"):
        share = values["bytes"] / values["bytes_before"]
        rows.append(("size", f"{size(values['bytes'])}", f"{percent(share)} of what is stored"))
    html = _table(rows)
    if "kl" in values:
        score = "perplexity" if "perplexity" in values else "accuracy"
        shown = percent if score == "accuracy" else number
        base = values.get(f"base_{score}")
        html += "<div class='wb-part'>model, if only this layer changes</div>" + _table(
            [
                ("KL", f"{number(values['kl'])} nats", "from the unchanged model, mean per prediction"),
                ("top-1 same", percent(values["top1_agreement"]), "predictions that stay the same"),
                (
                    score,
                    f"{shown(values[score])} <small>base {shown(base)}</small>",
                    "on a part of the held-out data",
                ),
            ]
        )
    elif why_not:
        html += f"<div class='wb-part'>model measures: {escape(why_not)}</div>"
    return html


def _table(rows: list[tuple[str, str, str]]) -> str:
    return (
        "<table>"
        + "".join(
            f"<tr title='{escape(help)}'><th>{label}</th><td>{value}</td></tr>" for label, value, help in rows
        )
        + "</table>"
    )


def model_numbers(measures: Mapping[str, Any]) -> str:
    """One line for the header: what the active variant costs and does."""
    if not measures:
        return ""
    parts = [f"{number(measures['bits_per_weight'], 4)} bits/weight", size(measures["bytes"])]
    if "kl" in measures:
        parts += [f"KL {number(measures['kl'])} nats", f"top-1 same {percent(measures['top1_agreement'])}"]
    if "perplexity" in measures:
        parts.append(f"perplexity {number(measures['perplexity'], 4)}")
    if "accuracy" in measures:
        parts.append(f"accuracy {percent(measures['accuracy'])}")
    return " · ".join(parts)
