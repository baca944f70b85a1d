"""The low-bit CPU kernels against float64: every path of this machine, every width, shapes that no tile divides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.speed import NoCompiler, cpu, cxx
from workbench.speed.cpu import machine
from workbench.speed.pack import LowBit
from workbench.speed.time import check

KERNELS = [(stem, bits) for stem in ("dequant", "dot", "lut") for bits in cpu.source(stem).bits]
SHAPES = [(1, 1, 1), (1, 16, 128), (2, 33, 129), (3, 50, 300), (9, 17, 96)]  # M, N, K
ERRORS = {"dequant": 2e-6, "dot": 1.5e-2, "lut": 1.5e-2}


def random_weight(bits: int, N: int, K: int, group: int, seed: int) -> LowBit:
    random = np.random.default_rng(seed)
    groups = -(-K // group)
    return LowBit(
        bits,
        random.integers(0, 2**bits, (N, K), dtype=np.uint8),
        random.uniform(0.5, 1, (N, groups)).astype(np.float16).astype(np.float32),
        random.integers(0, 2**bits, (N, groups)).astype(np.float32),
        group,
    )


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    try:
        cxx.find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(params=machine.FLAGS)
def isa(request) -> str:
    if request.param not in machine.paths():
        pytest.skip(f"this CPU does not run {request.param}")
    return request.param


def product(stem: str, isa: str, weight: LowBit, x: np.ndarray, **more) -> np.ndarray:
    """Y by the kernel, into a poisoned output."""
    of = cpu.source(stem)
    packed = cpu.Packed(weight, of.packing)
    y = np.full((x.shape[0], weight.shape[0]), np.nan, np.float32)
    cpu.Product(of, packed, x.shape[0], isa=isa, **more)(x, y)
    return y


def exact(weight: LowBit, x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) @ weight.dequantize().astype(np.float64).T


def inputs(M: int, K: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((M, K), np.float32)


@pytest.mark.parametrize(("stem", "bits"), KERNELS)
def test_a_kernel_is_right_on_every_path_and_shape(stem, bits, isa):
    for M, N, K in SHAPES:
        for group in (32, 100, 128):
            weight, x = random_weight(bits, N, K, group, seed=M), inputs(M, K)
            y, r = product(stem, isa, weight, x), exact(weight, x)
            # a product of few terms may cancel, so the measure is what the terms amount to; a weight of 0 counts
            # as a step, since what is looked up for it is not 0
            terms = (weight.dequantize() ** 2).mean() + (weight.scale**2).mean()
            size = np.sqrt((x**2).sum() * terms * N)
            assert np.linalg.norm(y - r) <= ERRORS[stem] * size, (M, N, K, group)


def whole(M: int, K: int, group: int) -> np.ndarray:
    """Whole inputs that 8 bits hold exactly: in each group one of 127 and three of 0 beside it, the others small."""
    x = np.random.default_rng(3).integers(-30, 31, (M, K)).astype(np.float32)
    for first in range(0, K, group):
        x[:, first : first + 4] = [127, 0, 0, 0]
    return x


@pytest.mark.parametrize(("stem", "bits"), [case for case in KERNELS if case[0] != "dequant"])
def test_whole_numbers_come_out_exactly(stem, bits, isa):
    """Nothing is rounded where activations and table entries fit 8 bits, so neither sums nor signs can be off by one;
    the largest codes and the smallest sums of 16 bits are among them."""
    K, group = 384, 128
    x = whole(5, K, group)
    for codes in (np.zeros, np.ones, None):
        weight = random_weight(bits, 40, K, group, seed=1)
        if codes:
            weight = LowBit(
                bits, (codes((40, K)) * (2**bits - 1)).astype(np.uint8), weight.scale, weight.zero, group
            )
        weight.scale[:] = 1
        assert (product(stem, isa, weight, x) == exact(weight, x)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_activations_do_not_overflow(bits, isa):
    K = 256
    weight = LowBit(bits, np.full((16, K), 2**bits - 1, np.uint8), np.ones((16, 2), np.float32), None, 128)
    for sign in (1, -1):
        x = np.full((4, K), sign * 127, np.float32)
        assert (product("dot", isa, weight, x) == exact(weight, x)).all()


def test_the_paths_agree():
    """The integer kernel adds the same whole numbers everywhere, and scales them in the same order."""
    weight, x = random_weight(4, 70, 500, 128, seed=0), inputs(3, 500)
    first, *others = [product("dot", isa, weight, x) for isa in machine.paths()]
    for other in others:
        assert np.abs(other - first).max() <= 1e-5 * np.abs(first).max()


@pytest.mark.parametrize("stem", ["dequant", "dot"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_a_codebook_is_looked_up(stem, bits, isa):
    values = np.sort(np.random.default_rng(5).uniform(-1, 1, 2**bits)).astype(np.float32)
    plain = random_weight(bits, 40, 300, 64, seed=2)
    weight = LowBit(bits, plain.codes, plain.scale, None, 64, values)
    x = inputs(3, 300)
    r = exact(weight, x)
    assert np.linalg.norm(product(stem, isa, weight, x) - r) <= 2 * ERRORS[stem] * np.linalg.norm(r)


def test_tables_of_codebooks_are_refused_where_planes_are_looked_up():
    plain = random_weight(2, 4, 16, 16, seed=0)
    weight = LowBit(2, plain.codes, plain.scale, None, 16, np.float32([-1, 0, 0.1, 1]))
    with pytest.raises(Refused, match="lut needs equal steps"):
        product("lut", "portable", weight, inputs(1, 16))


def test_a_width_that_a_kernel_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(Refused, match="lut has no code for 5 bits; it has for 1, 2, 3, 4"):
        product("lut", "portable", random_weight(5, 4, 16, 16, seed=0), inputs(1, 16))


@pytest.mark.parametrize("stem", ERRORS)
def test_scales_that_half_precision_would_round_stay_floats(stem, isa):
    plain = random_weight(4, 40, 256, 128, seed=0)
    scale = plain.scale * np.float32(1e-9)
    weight = LowBit(4, plain.codes, scale, plain.zero, 128)
    assert cpu.Packed(weight, "steps").wide
    x = inputs(2, 256)
    r = exact(weight, x)
    assert np.linalg.norm(product(stem, isa, weight, x) - r) <= ERRORS[stem] * np.linalg.norm(r)


def test_half_precision_is_read_as_numpy_reads_it(isa):
    """Every scale that half precision has, subnormal and negative ones included."""
    bits = np.arange(0x7C00, dtype=np.uint16)
    scale = np.concatenate([bits, bits | 0x8000]).view(np.float16).astype(np.float32)[:, None]
    weight = LowBit(8, np.ones((len(scale), 4), np.uint8), scale, None, 4)
    assert not cpu.Packed(weight, "steps").wide
    y = product("dequant", isa, weight, np.float32([[1, 0, 0, 0]]))
    assert (y[0] == scale[:, 0]).all()


@pytest.mark.parametrize("stem", ERRORS)
def test_inputs_of_zero_give_zero(stem, isa):
    weight = random_weight(4, 20, 200, 64, seed=0)
    assert (product(stem, isa, weight, np.zeros((2, 200), np.float32)) == 0).all()


def test_a_scale_for_each_token_is_coarser_than_one_for_each_run(isa):
    weight, x = random_weight(8, 64, 1024, 128, seed=0), inputs(2, 1024)
    x[:, 0] = 30  # an outlier spoils the scale of its row, or only that of its run
    r = exact(weight, x)
    fine, coarse = (np.linalg.norm(product("dot", isa, weight, x, per_token=t) - r) for t in (False, True))
    assert 2 * fine < coarse < 0.1 * np.linalg.norm(r)


def test_threads_share_the_rows_out():
    from concurrent.futures import ThreadPoolExecutor

    weight, x = random_weight(4, 100, 256, 128, seed=0), inputs(2, 256)
    of = cpu.source("dot")
    made = cpu.Product(of, cpu.Packed(weight, of.packing), 2)
    one, three = np.full((2, 100), np.nan, np.float32), np.full((2, 100), np.nan, np.float32)
    made(x, one)
    with ThreadPoolExecutor(2) as pool:
        made.threaded(x, three, pool, 3)
    assert (one == three).all()


def test_rows_beyond_the_last_are_not_written(isa):
    weight, x = random_weight(4, 17, 64, 64, seed=0), inputs(1, 64)
    for stem in ERRORS:
        of = cpu.source(stem)
        room = np.full((1, 64), -7, np.float32)
        cpu.Product(of, cpu.Packed(weight, of.packing), 1, isa=isa)(x, room)
        assert (room[0, 17:] == -7).all()
        assert (room[0, :17] != -7).all()


@pytest.mark.parametrize("name", ["naive", "reordered", "register_tiled", "threaded"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (8, 48, 256), (33, 97, 300), (200, 130, 513)])
def test_the_fp32_ladder_is_right(name, shape, isa, monkeypatch):
    monkeypatch.setenv(machine.ISA, isa)
    sets = cpu.operand_sets(*shape, most=1)
    made = cpu.rungs()[f"cpu-{name.replace('_', '-')}"].make(sets)
    made.poison()
    made.run(0)
    r = sets.a.astype(np.float64) @ sets.b.astype(np.float64)
    assert np.linalg.norm(made.output() - r) <= 2e-6 * np.linalg.norm(np.abs(sets.a) @ np.abs(sets.b))


def test_a_path_is_chosen_by_name_and_a_wrong_one_refused(monkeypatch):
    monkeypatch.setenv(machine.ISA, "portable")
    assert cpu.isa() == "portable"
    monkeypatch.setenv(machine.ISA, "avx")
    with pytest.raises(Refused, match=r"WORKBENCH_ISA: there is no path 'avx'; near: avx"):
        cpu.isa()
    monkeypatch.setattr(machine, "paths", lambda: ("portable",))
    monkeypatch.setenv(machine.ISA, "avx512")
    with pytest.raises(Refused, match=r"does not run avx512; it runs portable"):
        cpu.isa()


def test_a_path_needs_all_of_its_instructions(monkeypatch):
    def only(*names: str):
        monkeypatch.setattr(machine, "_features", lambda: dict.fromkeys(names, True))
        return machine.paths.__wrapped__()

    assert only() == ("portable",)
    assert only("avx2", "f16c") == ("portable",)
    assert only("avx2", "f16c", "fma", "avx512f") == ("portable", "avx2")
    assert only("avx2", "fma", *machine.NEEDS["avx512"])[-1] == "avx512"


def test_a_source_says_what_it_is_and_a_wrong_header_is_refused_with_its_line():
    text = cpu.source("dot").text
    assert cpu.Source.parse(text).bits == tuple(range(1, 9))
    with pytest.raises(Refused, match=r"k\.cpp:2: the header knows no 'ideal'; near: idea"):
        cpu.Source.parse(text.replace("// idea:", "// ideal:"), where="k.cpp")
    with pytest.raises(Refused, match=r"k\.cpp:1: the header does not say gain"):
        cpu.Source.parse(text.replace("// gain:", "//  gain:"), where="k.cpp")
    with pytest.raises(Refused, match=r"k\.cpp: the header's bits"):
        cpu.Source.parse(text.replace("bits: 1,", "bits: one,"), where="k.cpp")


def test_the_hash_changes_with_a_header(monkeypatch):
    of = cpu.source("dot")
    before = of.hash
    monkeypatch.setattr("workbench.speed.cpu.cpp._headers", lambda text: {"lowbit.h": "other"})
    assert of.hash != before


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 1, 130), (2, 1, 5)])
def test_products_of_few_terms_pass_where_the_terms_nearly_cancel(shape):
    tight = 0
    for seed in range(30):
        sets = cpu.operand_sets(*shape, most=1, seed=seed)
        for name in ("cpu-naive", "cpu-torch-bf16", "cpu-w1-lut", "cpu-w2-dot", "cpu-nf4-dot"):
            candidate = cpu.rungs()[name].make(sets)
            error = check(candidate, candidate.expected or sets.expected)
            tight += error > 2e-2
    assert tight  # so a tolerance that knows nothing of the terms would have refused some


def test_a_wrong_product_of_few_terms_is_still_refused():
    sets = cpu.operand_sets(1, 4, 2, most=1)
    naive = cpu.rungs()["cpu-naive"].make(sets)
    wrong = replace(naive, output=lambda: naive.output() + np.float32(1e-3))
    with pytest.raises(Refused, match="wrong"):
        check(wrong, sets.expected)
    many = cpu.operand_sets(3, 100, 2, most=1)
    assert cpu.allowed(1e-2, many.a, many.b.T, many.expected) == 1e-2
