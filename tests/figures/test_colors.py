"""The colours hold for eyes that do not tell red from green: simulated, not asserted by name.

Machado, Oliveira & Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
table 1, severity 1.0, applied to linear sRGB. Distances are CIE76 in CIELAB (D65): about 2 can just be told apart,
10 is seen at a glance.
"""

from itertools import combinations, pairwise

import numpy as np
import pytest

from workbench.figures import colors

EYES = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
# Linear sRGB to XYZ, IEC 61966-2-1.
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
every_eye = pytest.mark.parametrize("eye", EYES)


def lab(color: str, eye: str = "normal") -> np.ndarray:
    """CIELAB of a #rrggbb as that eye sees it."""
    values = np.array(colors.rgb(color)) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(EYES[eye] @ linear, 0, 1) / XYZ.sum(1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(a: str, b: str, eye: str) -> float:
    return float(np.linalg.norm(lab(a, eye) - lab(b, eye)))


def test_the_simulation_confuses_what_those_eyes_confuse():
    """Else the tests below would hold for anything: a red and a green of one lightness fall together."""
    red, green = "#c46060", "#6b8f4a"
    assert distance(red, green, "normal") > 50
    assert distance(red, green, "deuteranopia") < 20


def test_lab_of_known_colours():
    """White, black and the sRGB red: 53.24, 80.09, 67.20 (Lindbloom's calculator)."""
    np.testing.assert_allclose(lab("#ffffff"), [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(lab("#000000"), [0, 0, 0], atol=0.01)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.02)


@every_eye
@pytest.mark.parametrize("after", [colors.AFTER, colors.AFTER_DARK])
def test_before_after_and_edge_are_far_apart(eye, after):
    for a, b in combinations((colors.BEFORE, after, colors.EDGE), 2):
        assert distance(a, b, eye) > 30, (a, b)


@every_eye
def test_neighbouring_categories_are_far_apart(eye):
    for a, b in pairwise(colors.CATEGORIES[:4]):
        assert distance(a, b, eye) > 15, (a, b)


@every_eye
def test_the_sequential_scale_grows_lighter_in_even_steps(eye):
    steps = np.diff([lab(color, eye)[0] for color in colors.SEQUENTIAL])
    assert steps.min() > 5
    assert steps.max() < 2 * steps.min()


@every_eye
def test_the_interpolated_table_is_monotone_too(eye):
    lightness = [lab("#{:02x}{:02x}{:02x}".format(*color), eye)[0] for color in colors.table(size=64)]
    assert np.diff(lightness).min() > 0


def test_the_table_begins_and_ends_with_the_scale():
    for size in (2, 11, 256):
        table = colors.table(size=size)
        assert len(table) == size
        assert table[0] == colors.rgb(colors.SEQUENTIAL[0])
        assert table[-1] == colors.rgb(colors.SEQUENTIAL[-1])
    assert colors.table(size=11) == [colors.rgb(color) for color in colors.SEQUENTIAL]


def test_plotly_takes_the_scale():
    scale = colors.plotly_scale()
    assert [scale[0][0], scale[-1][0]] == [0, 1]
    assert [color for _, color in scale] == list(colors.SEQUENTIAL)
