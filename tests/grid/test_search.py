"""The scale search: golden numbers, optimality, and that the compiled loops do what the general search does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.grid import Scheme, searched
from workbench.grid.formats import rule_of
from workbench.grid.search import percentiles, search

W = torch.randn(24, 192, generator=torch.Generator().manual_seed(0)) * 0.05
H = torch.rand(192, generator=torch.Generator().manual_seed(1)) ** 4 * 30 + 0.01
H = H / H.mean()


def loss(scheme: Scheme, w: torch.Tensor, h: torch.Tensor | None) -> float:
    error = scheme.quantize(w, h).dequantize() - w
    return float(((torch.ones_like(w[0]) if h is None else h) * error.square()).sum())


def narrow(bits: int, **more) -> Scheme:
    return Scheme(bits=bits, symmetric=True, granularity="channel", scale_dtype="float32", **more)


def test_golden_range_of_gptqs_search():
    w = torch.tensor(
        [
            [
                0.31,
                -0.22,
                0.18,
                -0.09,
                0.27,
                -0.33,
                0.12,
                -0.25,
                0.05,
                0.21,
                -0.16,
                0.29,
                -0.11,
                0.24,
                -0.19,
                0.60,
            ]
        ]
    )
    made = narrow(3, scale_search="mse").quantize(w)
    assert made.scale.item() == pytest.approx(0.86 * 0.6 / 3, rel=1e-6)
    assert float((made.dequantize() - w).abs().pow(2.4).sum()) == pytest.approx(0.01605746, abs=1e-6)
    plain = narrow(3).quantize(w)
    assert float((plain.dequantize() - w).abs().pow(2.4).sum()) == pytest.approx(0.02066997, abs=1e-6)
    outlier = torch.tensor([[0.1, -0.2, 0.3, -0.1, 0.2, -0.3, 0.15, 2.0]])
    assert narrow(3, scale_search="mse").fit(outlier).scale.item() == pytest.approx(2 / 3, rel=1e-6)


@pytest.mark.parametrize(("bits", "clip", "mse"), [(2, 1.24, 0.1923), (3, 1.97, 0.04760), (4, 2.49, 0.01320)])
def test_on_a_gaussian_it_finds_the_known_optimum(bits, clip, mse):
    w = torch.randn(1, 65536, generator=torch.Generator().manual_seed(0))
    found = narrow(bits, scale_search="activation").quantize(w, torch.ones(65536))
    assert found.scale.item() * (2 ** (bits - 1) - 1) == pytest.approx(clip, abs=0.2)
    assert float((found.dequantize() - w).square().mean()) == pytest.approx(mse, rel=0.03)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_other_range_is_clearly_better(bits, symmetric):
    """Every pair of 41 low and 41 high ends, for each group, against 58 ranges of which three are refitted."""
    scheme = Scheme(
        bits=bits, symmetric=symmetric, scale_search="activation", group_size=64, scale_dtype="float32"
    )
    rule, blocks = rule_of(scheme, W, scheme.blocks(W.shape), H), scheme.blocks(W.shape)
    measured, best = rule.measured(W, blocks), torch.full(blocks.counts, torch.inf)
    steps = np.linspace(0.4, 1, 41)
    for a in steps:
        for b in [a] if symmetric else steps:
            scale, zero = rule.scale(measured, a, b)
            offset = None if zero is None else blocks.expand(zero)
            codes = rule.grid.encode(W / blocks.expand(scale), offset)
            values = (rule.grid.decode(codes) - (0 if offset is None else offset)) * blocks.expand(scale)
            best = torch.minimum(best, blocks.reduce(H * (values - W).square(), "sum"))
    assert loss(scheme, W, H) < 1.025 * float(best.sum())


@pytest.mark.parametrize("fields", [{}, {"symmetric": True}, {"format": "nf4"}, {"format": "e2m1"}], ids=str)
@pytest.mark.parametrize("how", ["activation", "mse"])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_compiled_search_finds_what_the_general_one_finds(bits, how, fields):
    scheme = Scheme(bits=bits, scale_search=how, group_size=48, **fields)
    h = H if how == "activation" else None
    blocks = scheme.blocks(W.shape)
    rule = rule_of(scheme, W, blocks, h)
    assert searched.serves(W, blocks, rule)
    _, fast, fast_zero = searched.search(W, blocks, rule, h)
    slow, slow_zero = search(W, blocks, rule, how, h=h)

    def lost(scale, zero):
        offset = None if zero is None else blocks.expand(zero.float())
        codes = rule.grid.encode(W / blocks.expand(scale), offset)
        steps = rule.grid.decode(codes) - (0 if offset is None else offset)
        error = (steps * blocks.expand(scale) - W).abs()
        return float((error.pow(2.4) if h is None else h * error.square()).sum())

    assert lost(fast, fast_zero) == pytest.approx(lost(slow, slow_zero), rel=2e-3)
    assert (fast == slow).float().mean() > 0.95  # ties and the last bit of a sum decide the rest


@pytest.mark.parametrize("format", ["int", "nf4", "power", "mxfp4", "nvfp4", "ternary", "e3m2"])
@pytest.mark.parametrize("granularity", ["group", "input", "block", "channel"])
def test_it_never_loses_to_the_plain_scale_in_its_own_measure(format, granularity):
    scheme = Scheme(format=format, bits=3, granularity=granularity, group_size=16, scale_search="activation")
    assert loss(scheme, W, H) <= loss(scheme.plain(), W, H) * (1 + 1e-6)


def test_loud_inputs_decide():
    """Under a weight of 1000 on half the inputs, the others may lose."""
    h = torch.ones(192)
    h[::2] = 1000
    error = (Scheme(bits=3, scale_search="activation").quantize(W, h).dequantize() - W).square().mean(0)
    even = (
        (Scheme(bits=3, scale_search="activation").quantize(W, torch.ones(192)).dequantize() - W)
        .square()
        .mean(0)
    )
    assert error[::2].sum() < 0.9 * even[::2].sum()
    assert error[1::2].sum() > even[1::2].sum()


def test_the_number_of_threads_changes_nothing():
    scheme = Scheme(bits=3, scale_search="activation")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = scheme.quantize(W, H)
        torch.set_num_threads(2)
        two = scheme.quantize(W, H)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one.codes, two.codes)
    assert torch.equal(one.scale, two.scale)


@pytest.mark.parametrize("percentile", [50.0, 90.0, 99.9, 100.0])
def test_percentiles_are_numpys(percentile):
    blocks = Scheme(group_size=80).blocks(W.shape)  # ragged: 80, 80, 32
    found = percentiles(W, blocks, percentile)
    for column, part in enumerate(W.abs().split(80, dim=1)):
        expected = np.percentile(part.numpy(), percentile, axis=1)
        np.testing.assert_allclose(found[:, column].numpy(), expected, rtol=1e-6)
    made = Scheme(
        bits=4, symmetric=True, scale_search="percentile", percentile=percentile, scale_dtype="float32"
    )
    limit = percentiles(W, made.blocks(W.shape), percentile)
    torch.testing.assert_close(made.fit(W).scale, limit / 7)


@pytest.mark.parametrize(
    ("h", "reason"),
    [
        (None, "none were given"),
        (torch.ones(5), r"\[5\] were given for 192 inputs"),
        (-torch.ones(192), "negative or not finite"),
        (torch.full((192,), torch.nan), "negative or not finite"),
    ],
)
def test_weights_of_inputs_that_will_not_do_are_refused(h, reason):
    with pytest.raises(Refused, match=f"{reason}.*give calibration, or take scale_search: mse"):
        Scheme(scale_search="activation").fit(W, h)


def test_silent_inputs_and_zeros_are_no_trouble():
    scheme = Scheme(bits=4, scale_search="activation")
    assert torch.isfinite(scheme.quantize(W, torch.zeros(192)).dequantize()).all()
    assert not scheme.quantize(torch.zeros(3, 192), H).dequantize().any()
