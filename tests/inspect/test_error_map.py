"""ErrorMap: every tile against the same cells worked out the slow way."""

from __future__ import annotations

import base64
import random
import struct
import zlib

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.grid import uncompressed
from workbench.inspect import ErrorMap, Window
from workbench.inspect.error_map import CELLS_MOST, EXACT_MOST, PREVIEW_FROM, VIEWS

METHODS = [
    wb.RTN(bits=3, group_size=16),  # the last group of a row of 70 is ragged
    wb.RTN(bits=4, granularity="tensor", symmetric=True),
    wb.Magnitude(sparsity=0.4),
]
HALF = 2.0**-11  # of a value: the rounding of a float16


def elements(view, w, compressed):
    """What a view shows of each weight, by its definition."""
    v = compressed.dequantize()
    if view in ("weight", "compressed"):
        return (w if view == "weight" else v).abs().numpy()
    error = (v - w).abs().numpy()
    if view == "error":
        return error
    size = w.abs().numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.minimum(np.where(error == 0, 0, error / size), 1e4)


def pooled(values, side, reduction):
    """The largest or the mean of each cell of side x side, those at the edges with fewer."""
    rows, columns = (-(-n // side) for n in values.shape)
    room = np.full((rows * side, columns * side), np.nan)
    room[: values.shape[0], : values.shape[1]] = values
    cells = room.reshape(rows, side, columns, side)
    return (np.nanmax if reduction == "max" else np.nanmean)(cells, axis=(1, 3))


def shown(tile):
    return tile.values.astype(np.float64) * tile.unit


def hold(tile, wanted, rtol=HALF):
    """Equal to float16's precision at the tile's unit."""
    assert tile.values.dtype == np.float16
    np.testing.assert_allclose(shown(tile), wanted, rtol=rtol, atol=tile.unit * 2.0**-24)


@pytest.fixture(params=METHODS, ids=lambda m: m.label)
def compressed(request, w):
    return request.param.compress(w)


@pytest.mark.parametrize("view", VIEWS)
def test_a_tile_that_fits_holds_the_exact_elements(w, compressed, view):
    tile = ErrorMap(w, compressed).tile(view, Window(3, 5, 40, 69))
    assert (tile.cell, tile.exact, tile.window) == (1, True, Window(3, 5, 40, 69))
    hold(tile, elements(view, w, compressed)[3:40, 5:69])


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("most", [1500, 300, 60, 1])
def test_a_tile_that_does_not_is_pooled_with_ragged_edges(w, compressed, view, reduction, most):
    tile = ErrorMap(w, compressed).tile(view, Window(0, 0, 45, 70), reduction, most)
    assert tile.cell > 1
    hold(tile, pooled(elements(view, w, compressed), tile.cell, reduction), rtol=2 * HALF)


def test_cells_are_the_smallest_that_fit(w):
    """Of any window and any number of cells: windows that are thin or begin in the middle of a cell too."""
    chance, shown = random.Random(0), ErrorMap(w)
    for _ in range(500):
        top, left = chance.randrange(45), chance.randrange(70)
        window = Window(top, left, chance.randrange(top, 45) + 1, chance.randrange(left, 70) + 1)
        most = chance.choice([1, 2, 3, 7, 20, 100, 400, 1000])
        tile = shown.tile("weight", window, most=most)
        assert tile.values.size <= most
        assert tile.window.top <= window.top < window.bottom <= tile.window.bottom
        assert tile.window.left <= window.left < window.right <= tile.window.right
        finer = window.rounded(tile.cell // 2, (45, 70)) if tile.cell > 1 else None
        if finer is not None:
            sides = finer.bottom - finer.top, finer.right - finer.left
            assert np.prod([-(-side // (tile.cell // 2)) for side in sides]) > most


def test_a_window_is_clipped_to_the_matrix_and_widened_to_whole_cells(w):
    shown = ErrorMap(w)
    assert shown.tile("weight", Window(-10, -10, 10**6, 10**6)).window == Window(0, 0, 45, 70)
    assert shown.tile("weight", Window(44, 69, 44, 69)).window == Window(44, 69, 45, 70)
    assert shown.tile("weight", Window(99, 99, 120, 120)).window == Window(44, 69, 45, 70)
    assert Window(5, 9, 13, 17).rounded(4, (45, 70)) == Window(4, 8, 16, 20)
    assert Window(40, 60, 45, 70).rounded(8, (45, 70)) == Window(40, 56, 45, 70)
    assert Window(3, 3, 4, 4).within((2, 2)).numel == 1


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize("view", ["weight", "compressed", "error"])
def test_a_large_matrix_is_shown_from_its_stored_cells(large, compressed_large, view, reduction):
    assert large.numel() > EXACT_MOST
    shown, values = ErrorMap(large, compressed_large), elements(view, large, compressed_large)
    tile = shown.tile(view, Window(0, 0, 3000, 2100), reduction, most=50_000)
    assert tile.cell == 16
    hold(tile, pooled(values, 16, reduction), rtol=2 * HALF)
    tile = shown.tile(view, Window(100, 31, 2999, 2100), reduction, most=100_000)
    assert (tile.cell, tile.window) == (8, Window(96, 24, 3000, 2100))
    hold(tile, pooled(values[96:, 24:], 8, reduction), rtol=2 * HALF)


def test_a_large_matrix_shows_the_relative_error_of_its_cells(large, compressed_large):
    """From stored cells it is the cell's error over the cell's size: single weights near zero drown the picture."""
    tile = ErrorMap(large, compressed_large).tile("relative", Window(0, 0, 3000, 2100), "mean", most=50_000)
    error, size = (pooled(elements(v, large, compressed_large), 16, "mean") for v in ("error", "weight"))
    hold(tile, error / size, rtol=2 * HALF)


@pytest.fixture(scope="module")
def compressed_large(large):
    return wb.RTN(bits=4, group_size=64).compress(large)


def test_the_outlier_of_a_large_matrix_is_seen_in_the_whole_view(large):
    tile = ErrorMap(large).whole("weight")
    assert np.unravel_index(tile.values.argmax(), tile.values.shape) == (1234 // tile.cell, 567 // tile.cell)


def test_no_window_of_a_large_layer_is_more_than_a_megabyte():
    """4096 x 4096; that no tile of any shape has more than `most` cells is shown above, and 240,000 are 480 kB."""
    assert CELLS_MOST * 2 <= 1_000_000
    w = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(3))
    shown = ErrorMap(w, wb.RTN(bits=4).compress(w))
    for window in (
        Window(0, 0, 4096, 4096),
        Window(1, 1, 490, 490),
        Window(7, 0, 4096, 67),  # thin, from the middle of a cell
        Window(0, 3, 241, 4096),
        Window(1000, 1000, 3001, 3001),
        Window(4095, 4095, 4096, 4096),
    ):
        for view in VIEWS:
            assert shown.tile(view, window).values.nbytes <= 2 * CELLS_MOST


def test_relative_errors_of_zeros():
    """A zero that stays one has no error, one that does not is wholly wrong; neither is NaN."""
    w = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    other = uncompressed(torch.tensor([[0.0, 0.5, 1.0, 3.0]]))
    np.testing.assert_allclose(shown(ErrorMap(w, other).whole("relative")), [[0, 1e4, 0, 0.5]], rtol=HALF)
    assert (shown(ErrorMap(w).whole("relative")) == 0).all()
    zeros = torch.zeros(3000, 2100)
    zeros[:8] = 1
    tile = ErrorMap(zeros, uncompressed(torch.ones(3000, 2100))).whole("relative")
    assert tile.cell == 8
    np.testing.assert_allclose(shown(tile)[:2, 0], [0, 1e4], rtol=HALF)


def test_weights_near_the_end_of_float32_are_shown_too():
    """Rows that training has let die hold numbers like 1e-42."""
    w = torch.full((4, 4), 1e-42)
    tile = ErrorMap(w).whole("weight")
    assert np.isfinite(tile.values).all()
    hold(tile, w.abs().numpy(), rtol=0.01)


def test_the_unit_is_a_power_of_two_that_uses_float16s_range(w):
    for scale in (1e-6, 1.0, 1e6):
        tile = ErrorMap(w * scale).whole("weight")
        assert np.log2(tile.unit) == round(np.log2(tile.unit))
        assert 2.0**13 <= tile.values.max() <= 2.0**14


def test_at_tells_one_weight_with_its_code_and_scale(w):
    method = wb.RTN(bits=4, group_size=16)
    compressed = method.compress(w)
    at = ErrorMap(w, compressed).at(44, 65)
    assert (at["row"], at["column"]) == (44, 65)
    assert at["w"] == w[44, 65].item()
    assert at["compressed"] == compressed.dequantize()[44, 65].item()
    assert at["error"] == pytest.approx(at["compressed"] - at["w"])
    assert at["scale"] == compressed.scale[44, 4].item()
    assert at["zero"] == compressed.zero[44, 4].item()
    assert (at["code"] - at["zero"]) * at["scale"] == pytest.approx(at["compressed"])
    assert at["kept"] is True


def test_at_of_a_pruned_weight_says_that_it_is_gone(w):
    pruned = wb.Magnitude(sparsity=0.5).compress(w)
    row, column = (~pruned.mask).nonzero()[7].tolist()
    at = ErrorMap(w, pruned).at(row, column)
    assert (at["kept"], at["compressed"], at["code"], at["scale"], at["zero"]) == (False, 0, None, None, None)


def test_a_small_matrix_needs_no_preview(w):
    assert list(ErrorMap(w).previewed(wb.RTN(), None, "error", "max")) == []


def test_the_preview_of_a_large_one_is_of_every_16th_row(large, compressed_large):
    assert large.numel() >= PREVIEW_FROM
    method = wb.RTN(bits=2, group_size=64)
    [tile] = ErrorMap(large).previewed(method, None, "error", "max")
    assert (tile.exact, tile.window) == (False, Window(0, 0, 3000, 2100))
    sample = large[::16].contiguous()
    hold(tile, pooled(elements("error", sample, method.compress(sample)), tile.cell, "max"), rtol=2 * HALF)


def test_change_shows_another_compressed_form(w):
    shown, two = ErrorMap(w), wb.RTN(bits=2).compress(w)
    assert shown.largest("error") == 0
    before = shown.whole("compressed")
    shown.change(two)
    assert shown.largest("error") == pytest.approx((two.dequantize() - w).abs().max().item())
    hold(shown.whole("compressed"), elements("compressed", w, two))
    assert not np.array_equal(before.values, shown.whole("compressed").values)


def test_change_forgets_the_cells_of_the_form_before(large, compressed_large):
    shown = ErrorMap(large, compressed_large)
    shown.tile("compressed", Window(0, 0, 3000, 2100), most=50_000)
    pruned = wb.Magnitude(sparsity=0.9).compress(large)
    shown.change(pruned)
    tile = shown.tile("compressed", Window(0, 0, 3000, 2100), "mean", most=50_000)
    hold(tile, pooled(elements("compressed", large, pruned), 16, "mean"), rtol=2 * HALF)


def test_other_shapes_are_refused(w):
    shown = ErrorMap(w, name="layers.0.down")
    with pytest.raises(Refused, match=r"layers.0.down is \[45, 70\], its compressed form \[70, 45\]"):
        shown.change(wb.RTN().compress(w.T.contiguous()))
    for wrong in (torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(0, 5)):
        with pytest.raises(Refused, match="an error map is of a matrix"):
            ErrorMap(wrong)


def test_colour_limits(w):
    shown = ErrorMap(w, wb.RTN(bits=2).compress(w))
    assert shown.largest("weight") == w.abs().max()
    assert shown.natural_limit("weight") == w.abs().max()
    assert shown.natural_limit("error") == pytest.approx(w.abs().max().item() / 3)
    assert shown.natural_limit("relative") == shown.largest("relative") == 1
    assert ErrorMap(torch.zeros(3, 3)).natural_limit("error") > 0  # an empty range has no colours


def test_the_table_holds_the_numbers_of_the_comparison(w, compressed):
    row = ErrorMap(w, compressed, "a layer").table.iloc[0]
    change = compressed.dequantize().double() - w.double()
    assert row["name"] == "a layer"
    assert row["relative_error"] == pytest.approx((change.norm() / w.double().norm()).item(), rel=1e-5)
    assert row["sqnr_db"] == pytest.approx(-20 * np.log10(row["relative_error"]), rel=1e-5)
    assert row["max_error"] == pytest.approx(change.abs().max().item(), rel=1e-5)
    assert row["bits_per_weight"] == compressed.bits_per_weight
    assert row["bytes"] == compressed.nbytes
    names = {"name", "bits_per_weight", "relative_error", "sqnr_db", "cosine", "max_error", "bytes"}
    assert set(row.index) == names


@pytest.mark.parametrize("view", VIEWS)
def test_the_figure_is_a_picture_under_axes_with_units_and_a_colour_bar(w, view):
    figure = ErrorMap(w, wb.RTN(bits=3).compress(w), "layers.0.down").figure(view=view)
    figure.to_json()
    bar = figure.data[0].marker
    assert bar.showscale
    assert bar.colorbar.title.text == VIEWS[view]
    assert bar.cmin == 0 < bar.cmax
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == (
        "column (input)",
        "row (output)",
    )
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # row 0 on top, as in a printed matrix
    assert "layers.0.down" in figure.layout.title.text
    assert "SQNR" in figure.layout.title.text
    [image] = figure.layout.images
    assert (image.sizex, image.sizey) == (70, 45)
    columns, rows, indices = decoded(image.source)
    assert (columns, rows) == (70, 45)
    if view == "weight":  # the largest weight has the last colour
        assert indices.max() >= 254  # float16 may round it down
        assert np.unravel_index(indices.argmax(), indices.shape) == np.unravel_index(
            int(w.abs().argmax()), w.shape
        )


def test_the_figure_of_a_window_says_its_cells(large, compressed_large):
    figure = ErrorMap(large, compressed_large, "big").figure(window=Window(8, 16, 2008, 1016), theme="dark")
    [image] = figure.layout.images
    assert (image.x, image.y, image.sizex, image.sizey) == (16, 8, 1000, 2000)
    assert "4 x 4 cell" in figure.layout.title.text
    columns, rows, _ = decoded(image.source)
    assert (columns, rows) == (250, 500)


def decoded(source):
    """(columns, rows, palette indices [rows, columns]) of a PNG data address, its checksums checked."""
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        (length,), kind = struct.unpack(">I", content[place : place + 4]), content[place + 4 : place + 8]
        body = content[place + 8 : place + 8 + length]
        assert (
            zlib.crc32(kind + body)
            == struct.unpack(">I", content[place + 8 + length : place + 12 + length])[0]
        )
        chunks[kind] = body
        place += 12 + length
    columns, rows, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour, len(chunks[b"PLTE"])) == (8, 3, 768)
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert (lines[:, 0] == 0).all()
    return columns, rows, lines[:, 1:]
