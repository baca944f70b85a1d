"""What the CUDA kernels compute, checked on the CPU by running every thread of every block."""

from __future__ import annotations

import re

import numpy as np
import pytest

from workbench.speed import Kernel, kernels

# below, at and above a tile in each direction; one of each; a vector on either side
SHAPES = [(1, 1, 1), (33, 65, 70), (32, 32, 32), (31, 1, 97), (1, 40, 33), (5, 129, 31)]


@pytest.fixture(scope="module", params=list(kernels()))
def product(request, build, tmp_path_factory):
    return build(kernels()[request.param], tmp_path_factory.mktemp(request.param))


def error(product, shape, *, backward=False) -> float:
    """||c - r|| / ||r|| against float64; NaN if an element was not written or came from outside an operand."""
    M, N, K = shape
    random = np.random.default_rng(M * N * K)
    a, b = random.standard_normal((M, K), np.float32), random.standard_normal((K, N), np.float32)
    c, r = product(a, b, backward=backward), a.astype(float) @ b.astype(float)
    return float(np.linalg.norm(c - r) / np.linalg.norm(r))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_right_for_shapes_that_no_tile_divides(product, shape, backward):
    assert error(product, shape, backward=backward) < 1e-6


# what may be taken out: a barrier, the edge of K, the edge of C
NEEDED = r"__syncthreads\(\);| && k0 \+ [xy] < K|(?<=\()row < M && |(?<=\()row >= M \|\| "


def mutants() -> list[Kernel]:
    """Every kernel with one barrier or one bounds check taken out."""
    found = []
    for kernel in kernels().values():
        for match in re.finditer(NEEDED, kernel.source):
            text = kernel.source[: match.start()] + kernel.source[match.end() :]
            found.append(Kernel.parse(text, where=f"{kernel.name} without {match[0].strip()}"))
    return found


@pytest.mark.parametrize("mutant", mutants(), ids=lambda kernel: kernel.where)
def test_a_kernel_without_a_barrier_or_a_bounds_check_is_caught(mutant, build, tmp_path):
    product = build(mutant, tmp_path)

    def caught(backward: bool) -> bool:
        try:
            return not error(product, (33, 65, 70), backward=backward) < 1e-6
        except AssertionError:  # wrote beyond C
            return True

    assert caught(False) or caught(True)
