"""The PNG of an error map, read back byte by byte."""

import struct
import zlib

import numpy as np

from workbench.figures import error_map_figure
from workbench.figures.colors import rgb, table
from workbench.figures.picture import png


def test_the_picture_has_the_colours_of_its_cells():
    cells = np.array([[0, 0.5, 1.0], [2.0, np.nan, -1.0]])
    picture = png(cells, 1.0)
    columns, rows = struct.unpack(">II", picture[16:24])
    assert (columns, rows) == (3, 2)
    palette = picture[picture.index(b"PLTE") + 4 :][:768]
    assert tuple(palette[:3]) == rgb("#00224e")
    assert bytes(channel for color in table() for channel in color) == palette
    (length,) = struct.unpack(">I", picture[picture.index(b"IDAT") - 4 :][:4])
    lines = zlib.decompress(picture[picture.index(b"IDAT") + 4 :][:length])
    # Beyond the limit the last colour; what is no number, and what is below zero, the first.
    assert list(lines) == [0, 0, 127, 255, 0, 255, 0, 0]


def test_a_limit_of_zero_is_a_dark_picture():
    assert png(np.zeros((4, 4)), 0.0).startswith(b"\x89PNG")


def test_the_figure_lies_on_the_window_of_the_matrix():
    figure = error_map_figure(
        np.ones((5, 9)),
        (10, 20, 50, 92),
        "|w' - w|",
        2.0,
        title="layers.0.q",
        subtitle="SQNR 20 dB",
        theme="dark",
    )
    assert list(figure.layout.xaxis.range) == [20, 92]
    assert list(figure.layout.yaxis.range) == [50, 10]
    assert figure.layout.meta["caption"] == "|w' - w| of layers.0.q: SQNR 20 dB"
    assert len(figure.data[0].marker.colorscale) == 11
