"""Error pyramids against plain numpy over cells, for every shape, granularity, mask and grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import Blocks, CompressedWeight, encode, fit, int_grid, uncompressed
from workbench.measure import error_cells, weight_cells, weight_errors


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(w, bits=3, blocks=None, symmetric=False, convention="narrow", dtype=torch.float16):
    blocks = blocks or Blocks.of((w.shape[0], w.shape[1]), "group", 32)
    scale, zero = fit(w, blocks, bits, symmetric=symmetric, convention=convention, scale_dtype=dtype)
    grid = int_grid(bits, symmetric, convention)
    return CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)


def cells_of(x, side, reduce):
    """The definition: `reduce` of each cell of side x side, smaller at the edges."""
    rows, columns = (math.ceil(n / side) for n in x.shape)
    return np.array(
        [
            [reduce(x[i * side : (i + 1) * side, j * side : (j + 1) * side]) for j in range(columns)]
            for i in range(rows)
        ]
    ).reshape(rows, columns)


def check(cells, x):
    """Cells of the matrix x [out, in], float64."""
    size = np.abs(x)
    assert cells.peak.dtype == cells.total.dtype == np.float32
    np.testing.assert_allclose(cells.peak, cells_of(size, 8, np.max), rtol=1e-6)
    np.testing.assert_allclose(cells.total, cells_of(size, 8, np.sum), rtol=1e-5)
    np.testing.assert_allclose(cells.columns, (x**2).sum(0), rtol=1e-5, atol=1e-30)
    strips = [(x[start : start + 8] ** 2).sum() for start in range(0, len(x), 8)]
    np.testing.assert_allclose(cells.strips, strips, rtol=1e-5, atol=1e-30)
    assert cells.squares == pytest.approx((x**2).sum(), rel=1e-5)
    assert cells.largest == pytest.approx(size.max(), rel=1e-6)
    for level in (3, 4, 5, 6, 9):
        np.testing.assert_allclose(cells.at(level, "max"), cells_of(size, 2**level, np.max), rtol=1e-6)
        np.testing.assert_allclose(cells.at(level, "mean"), cells_of(size, 2**level, np.mean), rtol=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cells_of_the_error_are_what_numpy_gives(data):
    shape = data.draw(st.integers(1, 70)), data.draw(st.integers(2, 90))
    w = noise(shape, data.draw(st.integers(0, 999))) * 10.0 ** data.draw(st.integers(-3, 2))
    blocks = data.draw(
        st.sampled_from(
            [
                Blocks.of(shape, "tensor"),
                Blocks.of(shape, "channel"),
                Blocks.of(shape, "group", 7),
                Blocks.of(shape, "group", 32),
                Blocks(shape, 5, 3),
                Blocks(shape, 4, 1),
                Blocks(shape, shape[0], 6),
            ]
        )
    )
    symmetric = data.draw(st.booleans())
    convention = data.draw(st.sampled_from(["narrow", "half_step", "signed"]))
    dtype = data.draw(st.sampled_from([torch.float16, torch.float32]))
    compressed = quantized(w, data.draw(st.integers(2, 8)), blocks, symmetric, convention, dtype)
    if data.draw(st.booleans()):
        compressed = compressed.with_mask(w > 0)
    values = compressed.dequantize().double().numpy()
    found = error_cells(w, compressed)
    check(found.error, values - w.double().numpy())
    check(found.weight, w.double().numpy())
    assert found.compressed_squares == pytest.approx((values**2).sum(), rel=1e-5)


@pytest.mark.parametrize("out", [1, 8, 255, 256, 257, 1033])
def test_chunks_of_rows_meet_without_a_seam(out):
    # More than one chunk of 256 rows on any number of cores; the error of row i is i + 1.
    w = torch.zeros(out, 24)
    other = uncompressed(torch.arange(1.0, out + 1)[:, None].expand(out, 24).contiguous())
    cells = error_cells(w, other).error
    expected = np.minimum(8 * np.arange(1, math.ceil(out / 8) + 1), out)
    np.testing.assert_array_equal(cells.peak, np.repeat(expected[:, None], 3, 1))
    assert cells.columns[23] == pytest.approx(sum(i * i for i in range(1, out + 1)))


def test_weights_in_half_precision_and_transposed_are_read_as_they_are():
    w = noise((20, 33))
    for stored in (w.half(), w.bfloat16(), w.T.contiguous().T, w.double()):
        check(weight_cells(stored), stored.double().numpy())
        found = error_cells(stored, quantized(w))
        check(found.error, quantized(w).dequantize().double().numpy() - stored.double().numpy())


def test_known_cells_of_the_weight_are_taken_and_not_computed_again():
    w = noise((9, 9))
    known = weight_cells(w)
    assert error_cells(w, quantized(w), known).weight is known


def test_the_pruned_part_of_an_uncompressed_weight_is_its_error():
    w = noise((16, 16))
    mask = torch.ones(16, 16, dtype=torch.bool)
    mask[:8] = False
    found = error_cells(w, uncompressed(w).with_mask(mask))
    assert found.error.strips[0] == pytest.approx(w[:8].square().sum().item(), rel=1e-6)
    assert found.error.strips[1] == 0
    assert found.numbers["sqnr_db"] == pytest.approx(
        10 * math.log10(w.square().sum().item() / w[:8].square().sum().item()), rel=1e-5
    )


def direct(w, values):
    """The definitions, float64."""
    w, values = w.double(), values.double()
    e = values - w
    return {
        "relative_error": (e.norm() / w.norm()).item(),
        "sqnr_db": 10 * math.log10((w.square().sum() / e.square().sum()).item()),
        "cosine": torch.nn.functional.cosine_similarity(w.flatten(), values.flatten(), dim=0).item(),
        "max_error": e.abs().max().item(),
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(64, 96), (13, 50)])
def test_numbers_are_the_definitions(bits, shape):
    w = noise(shape)
    for compressed in (quantized(w, bits), quantized(w, bits).with_mask(w.abs() > 0.3)):
        found = weight_errors(w, compressed)
        assert found == pytest.approx(direct(w, compressed.dequantize()), rel=1e-5)


def test_no_error_and_no_weight_have_their_own_numbers():
    w = noise((8, 8))
    exact = weight_errors(w, uncompressed(w))
    assert exact == {
        "relative_error": 0.0,
        "sqnr_db": math.inf,
        "cosine": pytest.approx(1.0),
        "max_error": 0.0,
    }
    nothing = weight_errors(torch.zeros(8, 8), quantized(torch.zeros(8, 8)))
    assert math.isnan(nothing["relative_error"])
    assert math.isnan(nothing["sqnr_db"])
    assert math.isnan(nothing["cosine"])
    assert nothing["max_error"] == 0
    gone = weight_errors(w, uncompressed(w).with_mask(torch.zeros(8, 8, dtype=torch.bool)))
    assert gone["relative_error"] == pytest.approx(1)
    assert math.isnan(gone["cosine"])
