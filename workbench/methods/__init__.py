"""The methods of the literature, one file each: pure functions of one layer and its statistics."""

from .base import (
    KINDS,
    METHODS,
    NEEDS,
    Finish,
    Method,
    Parameter,
    Span,
    Statistics,
    Transform,
    Verdict,
    method,
    parameters_of,
    parse_method,
    storable,
)

__all__ = [
    "KINDS",
    "METHODS",
    "NEEDS",
    "Finish",
    "Method",
    "Parameter",
    "Span",
    "Statistics",
    "Transform",
    "Verdict",
    "method",
    "parameters_of",
    "parse_method",
    "storable",
]
