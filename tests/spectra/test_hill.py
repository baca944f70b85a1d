"""Hill estimators and FARMS: golden numbers, and both procedures written out as plain loops."""

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.spectra import Reading, farms, hill, singular_values, spectrum_row

TEN = np.array([0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.1, 3.4, 8.9, 20])
POWERS = np.array([1.0, 2, 4, 8, 16, 32])


def plain_fit(eigenvalues: np.ndarray, estimator: str) -> tuple[float, float]:
    """alpha and D as the published procedure finds them, one candidate after another, in float64."""
    values = np.sort(eigenvalues)
    n = len(values)

    def at(i: int) -> tuple[float, float]:
        tail = values[i:]
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        ideal = 1 - (tail / tail[0]) ** (1 - alpha)
        return alpha, np.abs(ideal - np.arange(len(tail)) / len(tail)).max()

    if estimator == "median":
        return at(n // 2)
    counts, edges = np.histogram(np.log10(values), bins=100)
    peak = 10 ** edges[counts.argmax()]
    fits = [at(i) for i in range(n - 1) if np.log10(0.95 * peak) <= values[i] <= 1.5 * peak]
    return min(fits, key=lambda fit: fit[1])


def plain_farms(w: np.ndarray, rows: int, ratio: float, windows: int, estimator: str) -> float:
    """Alpha of FARMS for a matrix that the windows fit into."""
    rows = min(rows, *w.shape)
    columns = int(rows * ratio)
    down, along = (
        max(1, (size - part) // (windows - 1)) for size, part in zip(w.shape, (rows, columns), strict=True)
    )
    pooled = []
    for i in range(min(windows, (w.shape[0] - rows) // down + 1)):
        for j in range(min(windows, (w.shape[1] - columns) // along + 1)):
            window = torch.from_numpy(w[i * down : i * down + rows, j * along : j * along + columns])
            pooled.append(torch.linalg.svdvals(window).numpy() ** 2)
    return plain_fit(np.concatenate(pooled), estimator)[0]


def test_golden_hill():
    fit = hill(TEN)
    assert (fit.alpha, fit.xmin, fit.D) == pytest.approx((1.8199357, 1.3, 0.1934679), abs=1e-7)
    assert hill(POWERS).alpha == pytest.approx(2.4426950, abs=1e-7)
    assert hill(POWERS).D == pytest.approx(0.2987872, abs=1e-7)


def test_the_papers_formula_counts_the_threshold_out():
    assert hill(POWERS, published=False).alpha == pytest.approx(1.9617967, abs=1e-7)  # k = 2


@pytest.mark.parametrize("estimator", ["median", "peak"])
def test_the_estimators_are_the_published_procedure(estimator):
    for seed in range(4):
        eigenvalues = singular_values(np.random.default_rng(seed).standard_normal((80, 200))) ** 2
        assert hill(eigenvalues, estimator).alpha == pytest.approx(
            plain_fit(eigenvalues, estimator)[0], rel=1e-9
        )
        assert hill(eigenvalues, estimator).D == pytest.approx(plain_fit(eigenvalues, estimator)[1], rel=1e-9)


def test_zeros_have_no_logarithm_and_are_left_out():
    assert hill(np.r_[0.0, 0.0, TEN]) == hill(TEN)


@pytest.mark.parametrize("estimator", ["median", "peak", "search"])
def test_what_is_zero_but_for_rounding_has_no_say(estimator):
    """Rank 80 of 200: the median eigenvalue of the matrix is rounding, and its tail that of rounding."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 80)) @ rng.standard_normal((80, 240))
    eigenvalues = np.sort(singular_values(w) ** 2)
    assert 0 < eigenvalues[100] < 1e-20
    assert hill(eigenvalues, estimator).alpha == hill(eigenvalues[-80:], estimator).alpha
    strong = [w[i : i + 90, j : j + 90] for i in (0, 110) for j in (0, 150)]
    pooled = np.concatenate([np.sort(singular_values(window))[-80:] ** 2 for window in strong])
    assert farms(w, rows=90, windows=2).alpha == pytest.approx(hill(pooled).alpha, rel=1e-9)


def test_hill_refuses():
    with pytest.raises(Refused, match="threshold -1"):
        hill(TEN, threshold=-1)
    with pytest.raises(Refused, match="4 of 4 eigenvalues"):
        hill(TEN[:4])
    with pytest.raises(Refused, match="'mean' is none of median, peak, search"):
        hill(TEN, "mean")


@pytest.mark.parametrize(
    ("shape", "rows", "ratio", "windows"),
    [((128, 192), 64, 1.0, 5), ((200, 150), 60, 2.0, 4), ((90, 90), 100, 1.0, 10), ((150, 80), 40, 0.5, 3)],
)
@pytest.mark.parametrize("estimator", ["median", "peak"])
def test_farms_is_the_published_procedure_in_float64(shape, rows, ratio, windows, estimator):
    w = np.random.default_rng(1).standard_normal(shape) * 0.1
    w += np.outer(*(np.random.default_rng(2).standard_normal(size) * 0.1 for size in shape))
    found = farms(w, rows=rows, ratio=ratio, windows=windows, estimator=estimator)
    assert found.alpha == pytest.approx(plain_farms(w, rows, ratio, windows, estimator), abs=1e-5)


def test_golden_windows():
    w = np.random.default_rng(0).standard_normal((128, 128))
    square, wide = farms(w, rows=64), farms(w, rows=64, ratio=2)
    assert (square.windows, square.shape, square.starts[1]) == (100, (64, 64), (0, 7))
    assert (wide.windows, wide.shape, wide.starts[1]) == (10, (64, 128), (7, 0))
    assert len(square.eigenvalues) == 6400
    strided = farms(w, rows=64, stride=32)
    assert strided.starts == tuple((i, j) for i in (0, 32, 64) for j in (0, 32, 64))


def test_a_window_that_does_not_fit_is_shrunk_and_keeps_its_ratio():
    w = np.random.default_rng(0).standard_normal((300, 150))
    found = farms(w, rows=100, ratio=2, windows=2)
    assert (found.shape, found.ratio) == ((75, 150), 2.0)


def test_alpha_of_noise_depends_on_the_shape_and_that_of_farms_does_not():
    """The aspect-ratio bias (Hu et al. 2025, figure 1): the same noise, other shapes."""
    whole, windows = [], []
    for rows in (128, 256, 1024):
        w = np.random.default_rng(rows).standard_normal((rows, 128)) / np.sqrt(rows)
        whole.append(hill(singular_values(w) ** 2).alpha)
        windows.append(farms(w, rows=64, windows=5).alpha)
    assert max(whole) - min(whole) > 2
    assert max(windows) - min(windows) < 0.1


def test_a_convolution_has_the_mean_over_its_windows():
    w = np.random.default_rng(0).standard_normal((96, 32, 3, 3))
    found = farms(w)
    pools = [
        np.concatenate(
            [
                np.linalg.svd(w[i : i + 32, :, a, b], compute_uv=False) ** 2 / 2
                for a in range(3)
                for b in range(3)
            ]
        )
        for i in (0, 32, 64)
    ]
    assert found.alpha == pytest.approx(np.mean([plain_fit(pool, "median")[0] for pool in pools]), rel=1e-9)
    assert (found.windows, found.shape) == (3, (32, 32))


def test_a_convolution_of_one_place_is_one_too():
    w = np.random.default_rng(0).standard_normal((120, 60, 1, 1))
    found = farms(w)
    pools = [np.linalg.svd(w[i : i + 60, :, 0, 0], compute_uv=False) ** 2 for i in (0, 60)]
    assert found.alpha == pytest.approx(np.mean([plain_fit(pool, "median")[0] for pool in pools]), rel=1e-9)


def test_windows_with_fewer_than_fifty_eigenvalues_have_no_alpha_unless_it_is_asked_for():
    w = np.random.default_rng(0).standard_normal((7, 120))
    with pytest.raises(Refused, match=r"7 of 7 eigenvalues .* needs 50"):
        farms(w, windows=1)
    assert farms(w, windows=1, least=7).alpha > 1
    with pytest.raises(Refused, match="9 of 9 eigenvalues"):  # depthwise: a window of each channel
        farms(np.random.default_rng(0).standard_normal((64, 1, 3, 3)))
    with pytest.raises(Refused, match=r"\[0, 5\] has no windows"):
        farms(np.zeros((0, 5)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_windows_of_a_matrix_of_low_rank_do_not_multiply_its_directions(dtype):
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((200, 5)) @ rng.standard_normal((5, 100))).astype(dtype)
    with pytest.raises(Refused, match=r"no more than 5 directions.*needs 50.*low rank"):
        farms(w)
    row = spectrum_row(w, Reading(extra=("farms",)))
    assert np.isnan(row["alpha_farms"])
    assert (
        farms(rng.standard_normal((200, 100)).astype(dtype), rows=10).alpha > 1
    )  # small windows of full rank


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("rows 0", {"rows": 0}),
        ("ratio 0", {"ratio": 0.0}),
        ("stride 0", {"stride": 0}),
        ("'best'", {"estimator": "best"}),
    ],
)
def test_farms_refuses(words, arguments):
    with pytest.raises(Refused, match=words):
        farms(np.eye(60), **arguments)
