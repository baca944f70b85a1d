"""Numbers as people read them."""

import math

import pytest

from workbench.widgets.numbers import layer_numbers, model_numbers, number, percent, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (1, "1"),
        (0.09114, "0.0911"),
        (0.001, "0.001"),
        (0.00099949, "9.99e-04"),
        (-0.00002, "-2.00e-05"),
        (20.8149, "20.8"),
        (999.4, "999"),
        (999.6, "1000"),
        (1234.5, "1234"),
        (99999, "99999"),
        (123456, "1.23e+05"),
        (-12.345, "-12.3"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_number_with_more_digits():
    assert number(4.3128, 4) == "4.313"
    assert number(52.8549, 4) == "52.85"
    assert number(16.0, 4) == "16"


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (9800, "9.8 kB"),
        (2_467_840, "2.47 MB"),
        (14.5e9, "14.5 GB"),
        (2e13, "20000 GB"),
    ],
)
def test_size(nbytes, text):
    assert size(nbytes) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.5, "50.0 %"), (0.98765, "98.8 %"), (1, "100.0 %"), (None, "–")]
)
def test_percent(share, text):
    assert percent(share) == text


WEIGHT = {
    "relative_error": 0.0911,
    "sqnr_db": 20.81,
    "max_error": 0.0217,
    "bits_per_weight": 4.3125,
    "bytes": 97_152,
    "bytes_before": 360_448,
    "sparsity": 0.0,
}


def test_the_numbers_of_a_layer():
    html = layer_numbers(WEIGHT)
    for part in ("0.0911", "20.8 dB", "0.0217", "4.312", "97.2 kB", "27.0 % of what is stored", "–"):
        assert part in html, part
    assert "sparsity" not in html
    assert "KL" not in html
    assert "sparsity" in layer_numbers({**WEIGHT, "sparsity": 0.5})


def test_nothing_known_yet_is_a_table_of_dashes():
    html = layer_numbers({})
    assert html.count("<td>–") == 5
    assert html.count("<tr") == html.count("</tr>") == 5


def test_the_effect_on_the_model_stands_beside_its_base():
    effect = {"kl": 0.01234, "top1_agreement": 0.9512, "perplexity": 53.21, "base_perplexity": 52.85}
    html = layer_numbers({**WEIGHT, **effect})
    for part in ("0.0123 nats", "95.1 %", "53.2 <small>base 52.9</small>"):
        assert part in html, part
    html = layer_numbers(
        {**WEIGHT, "kl": 0.0, "top1_agreement": 1.0, "accuracy": 0.912, "base_accuracy": 0.92}
    )
    assert "91.2 % <small>base 92.0 %</small>" in html


def test_why_there_is_no_effect_is_said_as_text():
    html = layer_numbers(WEIGHT, "<a> & b")
    assert "model measures: &lt;a&gt; &amp; b" in html


def test_the_header_line_of_a_variant():
    assert model_numbers({}) == ""
    line = model_numbers(
        {"bits_per_weight": 4.25, "bytes": 2.5e6, "kl": 0.03, "top1_agreement": 0.9, "perplexity": 55.123}
    )
    assert line == "4.25 bits/weight · 2.5 MB · KL 0.03 nats · top-1 same 90.0 % · perplexity 55.12"
    assert model_numbers({"bits_per_weight": 8, "bytes": 100, "accuracy": 0.5}).endswith("accuracy 50.0 %")
