"""HQQ against its golden numbers, and what the fractional zero point must be good for."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import Refused
from workbench.jobs import heard
from workbench.methods import Statistics
from workbench.methods.quantize.hqq import HQQ
from workbench.methods.quantize.rtn import RTN

# Of the legacy solver of mobiusml/hqq, computed by hand: 2 bits, one group, scale 0.4, zero 0.5 at the start.
GOLDEN = torch.tensor([[0.10, -0.20, 0.05, 0.30, -0.15, 0.0, 0.20, 1.0]])
NAME = "mean |w' - w|"


def error(w: torch.Tensor, made) -> float:
    return float((made.dequantize() - w).abs().mean())


def heavy(*shape: int, seed: int = 0) -> torch.Tensor:
    """Student's t with four degrees of freedom: a normal number over the root of a chi-square over 4."""
    generator = torch.Generator().manual_seed(seed)
    normal, squares = torch.randn(shape, generator=generator), torch.randn(4, *shape, generator=generator)
    return 0.02 * normal / squares.square().mean(0).sqrt()


def test_the_reference_hands_back_the_zero_after_the_step_that_made_it_worse():
    made = HQQ(bits=2, group_size=8, scale_dtype="float32", keep_best=False).compress(GOLDEN)
    assert made.codes.tolist() == [[1, 0, 1, 1, 0, 0, 1, 3]]
    assert made.scale.item() == pytest.approx(0.4, abs=1e-6)
    assert made.zero.item() == pytest.approx(0.4775753, abs=1e-6)
    assert made.report.curves[NAME] == pytest.approx([0.075, 0.0769395, 0.0772425], abs=1e-6)
    assert error(GOLDEN, made) == pytest.approx(0.0772425, abs=1e-6)
    assert made.report.facts[f"{NAME} of rtn"] == pytest.approx(0.125, abs=1e-6)


def test_ours_keeps_the_best():
    made = HQQ(bits=2, group_size=8, scale_dtype="float32").compress(GOLDEN)
    assert (made.zero.item(), error(GOLDEN, made)) == pytest.approx((0.5, 0.075), abs=1e-6)


@pytest.mark.parametrize(("bits", "gain"), [(2, 0.99), (3, 0.96), (4, 0.96)])
def test_it_comes_closer_than_round_to_nearest_on_heavy_tails(bits, gain):
    # The cards measure 0.984, 0.930 and 0.937 of the error of round to nearest.
    w = heavy(512, 64)
    ours, reference = HQQ(bits=bits).compress(w), HQQ(bits=bits, keep_best=False).compress(w)
    assert error(w, ours) < gain * error(w, RTN(bits=bits).compress(w))
    assert error(w, ours) <= error(w, reference)
    assert error(w, ours) < ours.report.curves[NAME][0]
    assert not ours.report.warnings


def test_zeros_are_stored_in_half_precision_and_counted():
    made = HQQ().compress(heavy(16, 128))
    assert made.zero.dtype == made.scale.dtype == torch.float16
    assert made.bits_per_weight == 4.5
    assert HQQ(scale_dtype="float32").compress(heavy(16, 128)).zero.dtype == torch.float32


def test_groups_inside_input_channels_are_groups_of_the_transposed_matrix():
    w = heavy(64, 48)
    along, across = HQQ(granularity="input", group_size=32), HQQ(group_size=32)
    assert torch.allclose(along.compress(w).dequantize(), across.compress(w.T.contiguous()).dequantize().T)


def test_a_group_away_from_zero_keeps_its_range():
    w = torch.tensor([[1.0, 1.1, 1.2, 1.3]])
    assert error(w, HQQ(bits=3, group_size=4).compress(w)) < 0.02 < error(w, RTN(bits=2).compress(w))


def test_it_says_where_it_is_further_away_than_round_to_nearest():
    w = torch.arange(5, 16).float()[None]  # multiples of the step of the range from 0: RTN is exact
    report = HQQ(group_size=-1).compress(w).report
    assert report.facts[f"{NAME} of rtn"] == 0
    assert "further from the weights than rtn" in report.warnings[0]
    assert f"{report.facts[NAME]:.3g} against 0" in report.warnings[0]


def test_weights_that_a_mask_removes_do_not_count():
    w = heavy(8, 64)
    mask = torch.rand(w.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[3] = False
    made = HQQ(bits=3).compress(w * mask, Statistics(mask=mask))
    unaware = HQQ(bits=3).compress(w * mask).with_mask(mask)
    assert made.dequantize()[~mask].count_nonzero() == 0
    assert error(w * mask, made) < error(w * mask, unaware)


def test_a_searched_range_is_where_the_solver_starts():
    w = heavy(32, 64)
    searched = HQQ(bits=2, scale_search="mse").compress(w)
    assert torch.equal(searched.scale, RTN(bits=2, scale_search="mse").compress(w).scale)
    assert (searched.zero != searched.zero.round()).any()


def test_other_formats_are_refused_with_the_way_out():
    with pytest.raises(Refused, match="take format: int, or RTN, AdaRound or GPTQ for nf4"):
        HQQ(format="nf4")
    with pytest.raises(Refused, match="take symmetric: false"):
        HQQ(symmetric=True)


@pytest.mark.parametrize("group", [16, 64, -1])
def test_edges(group):
    w = heavy(7, 100)
    w[0], w[1], w[2, 5] = 0, 0.25, 50
    for each in (w, w.T, w[:, :3], 1e-6 * w, w + 3000, torch.zeros(1, 1)):
        made = HQQ(bits=3, group_size=group).compress(each)
        assert torch.isfinite(made.dequantize()).all()
        # A group's range, with the rounding of half precision, is the most that any weight can be off.
        wide = each.amax() - each.amin() + each.abs().amax() * 2e-3
        assert (made.dequantize() - each).abs().max() <= wide
    made = HQQ(bits=3, group_size=group).compress(w)
    assert made.dequantize()[0].count_nonzero() == 0
    assert torch.equal(made.dequantize()[1], torch.full((100,), 0.25))


def test_each_step_tells_how_far_it_is():
    heard_of = []
    with heard(lambda done, total, values: heard_of.append((done, total, values["loss"]))):
        made = HQQ(bits=2, steps=5).compress(heavy(16, 64))
    assert [done for done, _, _ in heard_of] == list(range(1, len(heard_of) + 1))
    assert [loss for _, _, loss in heard_of] == made.report.curves[NAME][: len(heard_of)]
    assert len(heard_of) <= 5
