"""Masks: exact counts, one rule for ties (that of a stable sort), N:M runs with ragged ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.methods.prune.masks import keep_layer, keep_n_m, keep_rows


@st.composite
def saliencies(draw):
    """[out, in] with many ties (small integers) or none (Gaussian)."""
    out, inputs = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if draw(st.booleans()):
        return torch.randint(0, draw(st.integers(1, 5)), (out, inputs), generator=generator).float()
    return torch.randn(out, inputs, generator=generator).abs()


def by_stable_sort(row, removed):
    """The definition: the first `removed` of a stable sort go."""
    mask = torch.ones(len(row), dtype=torch.bool)
    mask[row.sort(stable=True).indices[:removed]] = False
    return mask


# Decimal fractions, because floor(0.29 * 100) is 28 in floating point and 29 by the rule.
sparsities = st.one_of(st.integers(0, 100).map(lambda n: n / 100), st.floats(0, 1))


@settings(deadline=None, max_examples=150)
@given(saliencies(), sparsities)
def test_rows_lose_the_first_of_a_stable_sort(saliency, sparsity):
    removed = math.floor(sparsity * saliency.shape[1] + 1e-9)
    expected = torch.stack([by_stable_sort(row, removed) for row in saliency])
    assert torch.equal(keep_rows(saliency, sparsity), expected)


@settings(deadline=None, max_examples=150)
@given(saliencies(), sparsities)
def test_a_layer_loses_the_first_of_a_stable_sort_of_all(saliency, sparsity):
    removed = math.floor(sparsity * saliency.numel() + 1e-9)
    expected = by_stable_sort(saliency.flatten(), removed).reshape(saliency.shape)
    assert torch.equal(keep_layer(saliency, sparsity), expected)


@settings(deadline=None, max_examples=150)
@given(saliencies(), st.integers(1, 9), st.integers(0, 8))
def test_n_m_keeps_the_last_of_a_stable_sort_of_every_run(saliency, kept, more):
    of = kept + more
    mask = keep_n_m(saliency, kept, of)
    assert mask.shape == saliency.shape
    for row, keep in zip(saliency, mask, strict=True):
        for start in range(0, len(row), of):
            run = row[start : start + of]
            # The ragged last run keeps `kept` too, or all it has.
            assert torch.equal(keep[start : start + of], by_stable_sort(run, max(0, len(run) - kept)))


def test_the_count_is_the_decimal_one():
    assert (~keep_rows(torch.rand(1, 100), 0.29)).sum() == 29
    assert (~keep_layer(torch.rand(10, 10), 0.57)).sum() == 57
    assert (~keep_rows(torch.rand(1, 7), 0.5)).sum() == 3


def test_equal_weights_go_in_the_order_of_the_flattened_matrix():
    assert keep_layer(torch.ones(2, 3), 0.5).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("keep", [keep_layer, keep_rows])
def test_nothing_and_everything_can_be_removed(keep):
    saliency = torch.rand(4, 6)
    assert keep(saliency, 0).all()
    assert not keep(saliency, 1).any()


def test_the_saliencies_stay_as_they_are():
    saliency = torch.rand(3, 7)
    before = saliency.clone()
    for mask in (keep_layer(saliency, 0.5), keep_rows(saliency, 0.5), keep_n_m(saliency, 2, 4)):
        assert not mask.all()
    assert torch.equal(saliency, before)


def test_a_common_recipe_that_prunes_too_many_is_not_ours():
    # threshold = sorted[int(n * s)], prune <= threshold: three of these four, and an index error at s = 1.
    assert keep_layer(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 0.5).tolist() == [[False, False, True, True]]
