"""Weight matching: golden numbers of a hand-made network, and what must hold for any symmetry.

Golden numbers are computed by hand from the definition (<A, pi(B)> over all tensors of a 2-3-1 network).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra.alignment import (
    Group,
    Symmetry,
    alignment_score,
    distance,
    match,
    merge,
    scores,
    singular_alignment,
)

MLP = Symmetry({"h": Group(3)}, {"w1": (("h",), (2,)), "b1": (("h",),), "w2": ((1,), ("h",))})
A = {
    "w1": np.array([[1.0, 0], [0, 2], [3, 1]]),
    "b1": np.array([0.1, 0.2, 0.3]),
    "w2": np.array([[1.0, -1, 0.5]]),
}
B = MLP.apply(A, {"h": np.array([2, 0, 1])})

# A decoder's attention: key-value heads with two query heads each, four dimensions inside, six hidden units.
DECODER = Symmetry(
    {"stream": Group(8), "kv": Group(3), "head": Group(2, "kv"), "vo": Group(4, "kv"), "hidden": Group(6)},
    {
        "embed": ((10,), ("stream",)),
        "norm": (("stream",),),
        "q": (("kv", "head", 4), ("stream",)),
        "k": (("kv", 4), ("stream",)),
        "v": (("kv", "vo"), ("stream",)),
        "o": (("stream",), ("kv", "head", "vo")),
        "up": (("hidden",), ("stream",)),
        "down": (("stream",), ("hidden",)),
        "running": (("hidden",),),
    },
    follow=frozenset({"running"}),
)


def drawn(symmetry: Symmetry, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(symmetry.shape(name)) for name in symmetry.axes}


def decoder(t: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """What the decoder answers to x [tokens, 10]: softmax attention over tokens, then a tanh feed-forward."""
    stream = x @ t["embed"]
    y = stream * t["norm"]
    q = (y @ t["q"].T).reshape(-1, 3, 2, 4)
    k, v = ((y @ t[name].T).reshape(-1, 3, 4) for name in "kv")
    weights = np.einsum("tgrd,sgd->grts", q, k) / 8
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    stream = stream + np.einsum("grts,sgd->tgrd", weights, v).reshape(len(x), -1) @ t["o"].T
    stream = stream + np.tanh(stream @ t["up"].T + t["running"]) @ t["down"].T
    return stream @ t["embed"].T


def test_a_reordered_network_is_recovered_with_the_golden_assignment():
    found = match(A, B, MLP)
    assert found.permutations["h"].tolist() == [1, 2, 0]
    assert found.objective[0] == pytest.approx(4.11)
    assert found.objective[-1] == pytest.approx(17.39)
    assert found.sweeps <= 2, "one hidden layer is done after one assignment"
    assert distance(A, MLP.apply(B, found.permutations), MLP) == 0
    assert distance(A, B, MLP) > 4


def test_the_score_matrix_is_the_golden_one():
    s = sum(
        a.reshape(3, -1) @ b.reshape(3, -1).T
        for a, b in ((A["w1"], B["w1"]), (A["b1"], B["b1"]), (A["w2"].T, B["w2"].T))
    )
    np.testing.assert_allclose(s, [[3.53, 2.01, -0.98], [1.56, -0.98, 5.04], [10.34, 3.53, 1.56]])


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_permuting_keeps_the_function_and_the_singular_values(seed):
    t = {
        name: 0.3 * value for name, value in drawn(DECODER, seed).items()
    }  # a softmax that decides nothing alone
    other = DECODER.apply(t, DECODER.random(seed))
    x = np.random.default_rng(seed).standard_normal((5, 10))
    before, after = decoder(t, x), decoder(other, x)
    assert np.linalg.norm(after - before) <= 1e-14 * np.linalg.norm(before)
    for name in ("q", "v", "o", "up"):
        one, two = (np.linalg.svd(each[name], compute_uv=False) for each in (t, other))
        np.testing.assert_allclose(one, two, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_a_permuted_copy_is_recovered_exactly_heads_and_all(seed):
    t = drawn(DECODER, seed)
    found = match(t, DECODER.apply(t, DECODER.random(seed + 1)), DECODER, orders=1)
    again = DECODER.apply(DECODER.apply(t, DECODER.random(seed + 1)), found.permutations)
    assert distance(t, again, DECODER) == 0
    np.testing.assert_array_equal(again["running"], t["running"])


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_objective_never_falls_and_is_what_it_says(seed):
    a, b = drawn(DECODER, seed), drawn(DECODER, seed + 1)
    found = match(a, b, DECODER, orders=2, seed=seed)
    assert (np.diff(found.objective) >= 0).all()
    assert found.objective[-1] > found.objective[0]
    moved = DECODER.apply(b, found.permutations)
    voting = [name for name in DECODER.axes if name != "running"]
    assert found.objective[-1] == pytest.approx(sum(np.vdot(a[n], moved[n]) for n in voting))
    assert found.objective[-1] == max(found.tried)
    # ||A - B||^2 = ||A||^2 + ||B||^2 - 2 <A, B>: more of the objective is less distance.
    assert distance(a, moved, DECODER) < distance(a, b, DECODER)


def test_what_only_follows_has_no_say():
    a, b = drawn(DECODER, 0), drawn(DECODER, 1)
    loud = {**b, "running": b["running"] * 1e6}
    one, two = (match(a, each, DECODER, orders=1) for each in (b, loud))
    assert one.objective == two.objective


def test_one_hidden_layer_is_solved_to_its_optimum():
    from itertools import permutations

    a, b = drawn(MLP, 0), drawn(MLP, 1)
    every = [
        sum(np.vdot(a[n], MLP.apply(b, {"h": np.array(p)})[n]) for n in a) for p in permutations(range(3))
    ]
    assert match(a, b, MLP).objective[-1] == pytest.approx(max(every))


def test_a_group_on_both_axes_of_one_tensor_never_makes_it_worse():
    ring = Symmetry({"h": Group(7)}, {"w": (("h",), ("h",)), "in": (("h",), (3,))})
    for seed in range(5):
        a, b = drawn(ring, seed), drawn(ring, seed + 9)
        found = match(a, b, ring)
        value = sum(np.vdot(a[n], ring.apply(b, found.permutations)[n]) for n in a)
        assert value == pytest.approx(found.objective[-1])
        assert (np.diff(found.objective) >= 0).all()


def test_permuted_copies_merge_into_the_network_itself():
    t = drawn(DECODER, 3)
    copies = [DECODER.apply(t, DECODER.random(k)) for k in range(3)]
    found = merge(copies, DECODER)
    assert found.spread[0] > 1
    assert found.spread[-1] < 1e-20
    assert (np.diff(found.spread) <= 0).all()
    for copy, own in zip(copies, found.permutations, strict=True):
        np.testing.assert_allclose(DECODER.apply(copy, own)["q"], found.mean["q"], atol=1e-12)


def test_merging_brings_different_networks_nearer_to_their_mean():
    found = merge([drawn(DECODER, k) for k in range(4)], DECODER)
    assert found.spread[-1] < 0.9 * found.spread[0]
    assert (np.diff(found.spread) <= 0).all()


def test_the_singular_vectors_of_the_golden_network():
    before, after = singular_alignment(A["w1"], B["w1"]), singular_alignment(A["w1"], A["w1"])
    assert before.squared_distance == pytest.approx(20.0)
    assert np.sum((A["w1"] - B["w1"]) ** 2) == pytest.approx(20.0)
    assert after.squared_distance == pytest.approx(0.0, abs=1e-12)
    assert alignment_score(after) == pytest.approx(1.0)


def test_the_golden_score_before_and_after_matching():
    assert alignment_score(singular_alignment(A["w1"], B["w1"])) == pytest.approx(0.0975610, abs=1e-7)
    matched = MLP.apply(B, match(A, B, MLP).permutations)
    pairs = [singular_alignment(A[name], matched[name]) for name in ("w1", "w2")]
    assert alignment_score(pairs) == pytest.approx(1.0)


@given(st.integers(0, 10**6), st.sampled_from([(5, 5), (3, 8), (9, 2)]))
@settings(max_examples=20, deadline=None)
def test_the_identity_of_distances_holds_for_any_two_weights(seed, shape):
    a, b = np.random.default_rng(seed).standard_normal((2, *shape))
    found = singular_alignment(a, b)
    assert found.squared_distance == pytest.approx(float(np.sum((a - b) ** 2)))
    assert alignment_score(found) <= 1 + 1e-12


def test_only_leading_directions_count_under_gamma():
    s = np.array([4.0, 3, 1, 0.5])
    u, v = (np.linalg.qr(np.random.default_rng(k).standard_normal((4, 4)))[0] for k in (0, 1))
    turned = v.copy()
    turned[:, 2:] = -turned[:, 2:]  # the two small directions point the other way
    found = singular_alignment(u * s @ v.T, u * s @ turned.T)
    assert alignment_score(found, 0.5) == pytest.approx(1.0)
    assert alignment_score(found, 0.0) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(scores({"w": found}, [0.0, 0.2, 0.5]), [0, 1 / 3, 1], atol=1e-9)


def test_directions_that_a_weight_has_not_have_no_say():
    """Rank 4 of 6: the other two are whatever the SVD of this machine made of rounding errors."""
    s = np.array([4.0, 3, 1, 0.5])
    u, v = (np.linalg.qr(np.random.default_rng(k).standard_normal((6, 4)))[0] for k in (0, 1))
    turned = v * [1, 1, -1, -1]
    found = singular_alignment(u * s @ v.T, u * s @ turned.T)
    assert found.leading(0.0) == (pytest.approx(0, abs=1e-12), 4)
    assert alignment_score(singular_alignment(u * s @ v.T, u * s @ v.T)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: match(A, {**B, "w1": B["w1"][:2]}, MLP), r"w1 is \[2, 2\], not \[3, 2\]"),
        (lambda: match(A, {k: v for k, v in B.items() if k != "b1"}, MLP), "b1 is not in it"),
        (lambda: match(A, {**B, "w9": B["w1"]}, MLP), "w9 is in no group"),
        (lambda: match(A, {**B, "b1": B["b1"] * np.nan}, MLP), "3 values of b1 are NaN"),
        (lambda: match(A, B, MLP, orders=0), "take 1 or more"),
        (lambda: merge([A], MLP), "two or more"),
        (lambda: Symmetry({}, {"w": (("h",),)}), "no group of this symmetry"),
        (lambda: Symmetry({"p": Group(2), "c": Group(2, "p")}, {"w": (("c",),)}), "must name first"),
        (lambda: singular_alignment(A["w1"], A["w2"]), "no directions in common"),
        (lambda: singular_alignment(np.full((3, 2), np.inf), A["w1"]), "NaN or Inf"),
        (lambda: alignment_score([], 2.0), "gamma 2.0"),
    ],
)
def test_what_cannot_be_matched_is_refused(act, reason):
    with pytest.raises(Refused, match=reason):
        act()
