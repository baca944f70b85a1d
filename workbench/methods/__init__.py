"""The methods of the literature, one file each: pure functions of one layer and its statistics."""

from .base import METHODS, NEEDS, Method, Parameter, Statistics, Verdict, method, parameters_of, parse_method

__all__ = [
    "METHODS",
    "NEEDS",
    "Method",
    "Parameter",
    "Statistics",
    "Verdict",
    "method",
    "parameters_of",
    "parse_method",
]
