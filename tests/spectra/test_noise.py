"""The exponent of pure noise: that of whole matrices and of pooled windows, by every rule."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.spectra import ESTIMATORS, farms, hill, singular_values
from workbench.spectra.noise import noise_alpha


@pytest.mark.parametrize("shape", [(256, 256), (704, 256), (128, 256), (60, 900)])
def test_it_is_what_other_gaussian_matrices_of_the_shape_have(shape):
    random = np.random.default_rng(7)
    found = [hill(singular_values(random.standard_normal(shape)) ** 2).alpha for _ in range(6)]
    assert noise_alpha(*shape) == pytest.approx(np.mean(found), rel=0.03)
    assert noise_alpha(*shape) == noise_alpha(*reversed(shape))


def test_of_windows_it_is_what_farms_finds_in_noise_of_any_shape():
    random = np.random.default_rng(7)
    for shape in ((300, 300), (200, 900)):
        found = farms(random.standard_normal(shape), rows=64)
        assert noise_alpha(64, 64, "median", 16) == pytest.approx(found.alpha, rel=0.02)


def test_large_matrices_are_drawn_smaller_at_the_same_aspect_ratio():
    assert noise_alpha(4096, 11008) == pytest.approx(noise_alpha(256, 688), rel=0.01)
    assert noise_alpha(50_000, 64) > noise_alpha(1000, 64)


def test_what_has_too_few_eigenvalues_has_none():
    for estimator in ESTIMATORS:
        assert np.isnan(noise_alpha(3, 900, estimator))
        assert noise_alpha(60, 60, estimator) > 1
    assert np.isnan(noise_alpha(0, 0))
