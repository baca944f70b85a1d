"""Compressed layers on the kernels: what every grid becomes, what belongs to the input, and which error is whose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.grid import CompressedWeight, Scheme
from workbench.grid.compressed import Patch, uncompressed
from workbench.grid.grids import IntGrid
from workbench.grid.inputs import InputQuantizer
from workbench.speed import COLUMNS, Kernel, NoCompiler, kernels, layer, layer_cuda, run_layer
from workbench.speed.layer_cuda import LayerOperands, emulated_error, suited
from workbench.speed.pack import low_bit

W = torch.from_numpy(np.random.default_rng(11).standard_normal((45, 200), np.float32))
TAKEN = [
    *(Scheme(bits=bits, group_size=64) for bits in range(1, 9)),
    *(Scheme(bits=bits, symmetric=True) for bits in (2, 3, 4, 8)),
    Scheme(bits=4, symmetric=True, convention="signed"),
    Scheme(bits=4, granularity="channel"),
    Scheme(bits=4, granularity="tensor"),
    Scheme(bits=5, granularity="block", group_size=32),
    Scheme(bits=4, group_size=48),
    *(
        Scheme(format=name)
        for name in ("nf4", "nf3", "e2m1", "mxfp4", "nvfp4", "binary", "ternary", "mxint8")
    ),
    Scheme(format="nf4", double_quant=True),
    Scheme(format="kmeans", bits=3),
]


def made(**more) -> CompressedWeight:
    return replace(Scheme(bits=4, group_size=64).quantize(W), **more)


NO_NUMBER = torch.ones(2, 200).index_fill(1, torch.tensor([3]), float("nan"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"batch": 0}, "batch=0: a product has 1 or more rows of inputs; take batch=1"),
        ({"batch": -1}, "batch=-1"),
        ({"rounds": 0}, "0 rounds"),
        ({"x": torch.zeros(2, 200)}, "x is all zeros"),
        ({"x": torch.zeros(0, 200)}, "batch 1 or more"),
        ({"x": NO_NUMBER}, "2 of 400 elements of x are NaN or infinite; give finite inputs"),
        ({"x": torch.full((1, 200), float("inf"))}, "200 of 200 elements"),
    ],
)
def test_inputs_that_make_no_sense_are_refused_before_the_work(more, says, monkeypatch):
    monkeypatch.setattr(layer, "_codes", lambda _: pytest.fail("the work began"))
    with pytest.raises(Refused, match=says):
        run_layer(made(), **more)


def test_a_plain_tensor_is_no_compressed_layer():
    with pytest.raises(Refused, match=r"a compressed weight, and this is a Tensor; .*RTN\(bits=4\)"):
        run_layer(W)


def same(compressed: CompressedWeight, *, order: bool = False) -> None:
    """The kernels' weight stands for the same numbers as the bench's."""
    ours = low_bit(compressed).dequantize()
    theirs = compressed.dequantize().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())


@pytest.mark.parametrize("scheme", TAKEN, ids=lambda s: f"{s.format}-{s.bits}-{s.granularity}")
def test_a_weight_stands_for_the_same_numbers(scheme):
    same(scheme.quantize(W))


def test_equal_steps_become_whole_numbers_with_a_zero_point():
    """Signs are codes 0 and 1 with the zero between them, so that kernels for integers run them."""
    weight = low_bit(Scheme(format="binary").quantize(W))
    assert weight.values is None
    assert weight.zero is not None
    assert set(weight.zero.ravel()) == {0.5}


@pytest.mark.parametrize("scheme", [Scheme(bits=3), Scheme(bits=4, symmetric=True), Scheme(format="ternary")])
def test_removed_weights_are_the_code_of_zero(scheme):
    mask = torch.from_numpy(np.random.default_rng(1).random((45, 200)) < 0.5)
    pruned = scheme.quantize(W).with_mask(mask)
    same(pruned)
    assert (low_bit(pruned).dequantize()[~mask.numpy()] == 0).all()


@pytest.mark.parametrize(
    ("compressed", "why"),
    [
        (uncompressed(W), "no scale"),
        (Scheme(format="e4m3").quantize(W), "a table of 256 values with unequal steps"),
        (Scheme(granularity="input").quantize(W), "a scale for every 1 inputs"),
        (made(patch=Patch(torch.tensor([3]), W[:, 3:4])), "kept in float are a second product"),
        (Scheme(format="binary").quantize(W).with_mask(W > 0), "none stands for 0"),
        (
            Scheme(format="kmeans", bits=2).quantize(W).with_mask(W > 0),
            "no code of this codebook stands for 0",
        ),
    ],
)
def test_what_no_kernel_takes_is_refused_with_the_reason(compressed, why):
    with pytest.raises(Refused, match=why):
        low_bit(compressed)


@pytest.fixture(scope="module")
def frame():
    return run_layer(made(), batch=3, kernel="cpu-*", rounds=1, budget_s=1, original=W)


@pytest.mark.usefixtures("cpp")
def test_a_layer_is_run_by_every_kernel(frame):
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame.kernel) == [
        "cpu-torch-fp32",
        "cpu-torch-bf16",
        "cpu-w4-dequant",
        "cpu-w4-dot",
        "cpu-w4-lut",
    ]
    assert set(frame["where"]) == {"measured"}
    assert set(frame["shape"]) == {"3x45x200"}
    assert list(frame.bits) == [32, 16, 4, 4, 4]


@pytest.mark.usefixtures("cpp")
def test_the_kernels_error_and_the_weights_are_kept_apart(frame):
    by = frame.set_index("kernel")
    # 4 bits in groups of 64 lose about a tenth; no kernel adds to that
    assert by.weight_error.nunique() == 1
    assert 0.05 < by.weight_error["cpu-w4-dot"] < 0.2
    assert by.relative_error["cpu-w4-dequant"] < 1e-6
    assert 1e-3 < by.relative_error["cpu-w4-dot"] < 1.2e-2
    assert 1e-3 < by.relative_error["cpu-w4-lut"] < 1.2e-2


@pytest.mark.usefixtures("cpp")
def test_what_belongs_to_the_input_is_done_to_it_and_said():
    """A wrong order, a forgotten division or quantizer would be errors of order 1, which the check refuses."""
    compressed = made(
        order=torch.from_numpy(np.random.default_rng(2).permutation(200)),
        input_scale=torch.linspace(0.5, 3, 200),
        inputs=InputQuantizer(IntGrid(bits=6, signed=True)),
        shift=torch.ones(45),
    )
    frame = run_layer(compressed, batch=2, kernel="cpu-w4-*", rounds=1, budget_s=1)
    assert set(frame["where"]) == {"measured"}
    assert (frame.relative_error < 1.2e-2).all()
    assert frame.weight_error.isna().all()  # the original was not given
    for said in ("divided by the input scale", "order of the codes", "quantized before (a6 token)", "shift"):
        assert frame.note.str.contains(said, regex=False).all(), said


@pytest.mark.usefixtures("cpp")
def test_a_layer_that_few_kernels_take_has_rows_that_say_why():
    nf4 = Scheme(format="nf4").quantize(W)
    frame = run_layer(nf4, kernel="cpu-*", rounds=1, budget_s=1).set_index("kernel")
    assert frame["where"]["cpu-w4-dot"] == "measured"
    assert frame["where"]["cpu-w4-lut"] == "skipped"
    assert "needs equal steps" in frame.note["cpu-w4-lut"]
    none = run_layer(uncompressed(W), kernel="cpu-w*", rounds=1, budget_s=1)
    assert set(none["where"]) == {"skipped"}
    assert none.note.str.contains("no scale").all()


def test_wrong_shapes_and_names_are_refused():
    with pytest.raises(Refused, match=r"x of shape \(2, 5\) for a weight of 45 x 200"):
        run_layer(made(), x=torch.zeros(2, 5))
    with pytest.raises(Refused, match="original of shape"):
        run_layer(made(), original=W.T)
    with pytest.raises(
        Refused, match="no kernel for a compressed layer matches 'cpu-w3-dot'; near: cpu-w4-dot"
    ):
        run_layer(made(), kernel="cpu-w3-dot")


def offered(compressed: CompressedWeight) -> set[str]:
    """The CUDA kernels that have a row for this weight."""
    try:
        weight = low_bit(compressed)
    except Refused:
        weight = None
    return set(suited(weight, whole=compressed.inputs is not None))


def test_cuda_kernels_are_those_for_the_kind_of_weight():
    four = {name for name in kernels() if name.startswith("w4_")}
    assert offered(made()) == {"fp16_gemv", *four}
    assert offered(Scheme(format="nf4").quantize(W)) == {"fp16_gemv", "nf4_registers", "nf4_shared"}
    assert offered(Scheme(bits=3).quantize(W)) == {"fp16_gemv", "w3_split_k"}
    assert offered(Scheme(format="binary").quantize(W)) == {"fp16_gemv", "w2_split_k"}
    assert offered(Scheme(bits=6).quantize(W)) == {"fp16_gemv", "w8_gemv", "w8a8_mma"}
    assert offered(uncompressed(W)) == {"fp16_gemv"}
    tokens = InputQuantizer(IntGrid(bits=8, signed=True))
    assert offered(made(inputs=tokens)) == {"fp16_gemv", "w8a8_mma", *four}


@pytest.mark.usefixtures("no_gpu", "compiler")
def test_without_a_gpu_a_layer_is_compiled_and_its_row_says_so():
    frame = run_layer(made(), kernel="w4_[nv]*")
    assert list(frame.kernel) == ["w4_naive", "w4_vector"]
    assert set(frame["where"]) == {"compiled only"}
    assert (frame.registers > 0).all()
    assert frame.note.str.startswith("no CUDA device here: compiled for sm_90").all()
    assert frame.relative_error.isna().all()
    assert frame.attrs["runs"] == {}
    # compiled for the groups of this weight, not for the 128 of the file
    assert frame.source_hash[0] != kernels()["w4_naive"].hash
    assert run_layer(made(), kernel="fp16_gemv").source_hash[0] == kernels()["fp16_gemv"].hash


ON_EMULATOR = [
    (made(), "w4_*"),
    (made(order=torch.arange(199, -1, -1), input_scale=torch.linspace(0.5, 3, 200)), "w4_naive"),
    (Scheme(format="nf4").quantize(W), "nf4_*"),
    (Scheme(bits=2, group_size=32).quantize(W), "w2_*"),
    (Scheme(bits=4, granularity="channel").quantize(W), "w4_vector"),
    (uncompressed(W), "fp16_gemv"),
    (Scheme(bits=8, granularity="channel", symmetric=True).quantize(W), "w8*"),
]


@pytest.mark.usefixtures("no_gpu", "compiler", "cpp")
@pytest.mark.parametrize(("compressed", "kernel"), ON_EMULATOR)
def test_the_emulator_tells_the_kernels_error_from_the_weights(compressed, kernel):
    frame = run_layer(compressed, batch=3, kernel=kernel, emulate=True, original=W)
    assert set(frame["where"]) == {"compiled only"}
    assert frame.seconds.isna().all()
    assert frame.note.str.contains("emulated with 2 of 3 tokens and 45 of 45 output channels").all()
    whole = frame.kernel == "w8a8_mma"  # which also rounds the inputs to 8 bits
    assert frame.relative_error[~whole].between(1e-5, 1e-3).all()
    assert frame.relative_error[whole].between(1e-3, 2e-2).all()
    bits = compressed.grid.code_bits
    assert frame.weight_error.nunique() == 1
    if bits <= 4:
        assert (frame.weight_error > 50 * frame.relative_error[~whole].max()).all()


@pytest.mark.usefixtures("no_gpu", "compiler", "cpp")
def test_tokens_already_on_the_grid_lose_nothing_more_in_whole_numbers():
    compressed = replace(
        Scheme(bits=8, granularity="channel", symmetric=True).quantize(W),
        inputs=InputQuantizer(IntGrid(bits=8, signed=True)),
    )
    frame = run_layer(compressed, batch=2, kernel="w8a8_mma", emulate=True)
    assert frame.relative_error[0] < 5e-3
    assert "inputs quantized before" in frame.note[0]


@pytest.mark.usefixtures("no_gpu", "cpp")
def test_a_kernel_that_fails_on_the_emulator_has_no_error_and_says_why():
    kernel = kernels()["w4_vector"]
    broken = Kernel.parse(kernel.source.replace("if (row >= N) return;", ""), where=kernel.where)
    x = np.random.default_rng(0).standard_normal((2, 200), np.float32)
    layer = LayerOperands(low_bit(made()), x, made().dequantize().numpy(), x, whole=False)
    error, said = emulated_error(layer.kernel(broken), layer)
    assert error is None
    assert "out of bounds" in said
    error, said = emulated_error(layer.kernel(kernel), layer)
    assert error == pytest.approx(2e-4, rel=0.9)
    assert "the arithmetic alone makes" in said


@pytest.mark.usefixtures("no_gpu", "compiler")
def test_a_layer_that_a_cuda_kernel_does_not_take_is_a_row_that_says_why():
    odd = run_layer(Scheme(bits=4, group_size=40).quantize(W), kernel="w4_naive", emulate=True)
    assert list(odd["where"]) == ["skipped"]
    assert "a scale for every 40 inputs" in odd.note[0]
    grouped = run_layer(Scheme(bits=8, group_size=64).quantize(W), kernel="w8a8_mma", emulate=True)
    assert "not emulated: a scale for every 64 inputs" in grouped.note[0]


@pytest.mark.usefixtures("no_gpu", "compiler")
def test_without_a_cpp_compiler_a_layer_is_compiled_but_not_emulated(monkeypatch):
    def none(*arguments, **named) -> None:
        raise NoCompiler('no C++ compiler here: pip install "workbench[cpp]" brings one')

    monkeypatch.setattr(layer_cuda.emulator, "run", none)
    frame = run_layer(made(), kernel="w4_naive", emulate=True)
    assert frame["where"][0] == "compiled only"
    assert "not emulated: no C++ compiler here" in frame.note[0]
    assert frame.relative_error.isna().all()


# Which kernel to look at


@pytest.mark.parametrize(
    ("scheme", "batch", "name", "packing"),
    [
        (Scheme(bits=4, group_size=64), 1, "w4_split_k", "w4-lanes-64"),
        (Scheme(bits=4, group_size=32), 8, "w4_mma", "w4-fragments-32"),
        (Scheme(bits=4, group_size=128), 16, "w4_mma_16", "w4-fragments-128"),
        (Scheme(bits=3, group_size=64), 16, "w3_split_k", "w3-lanes-64"),
        (Scheme(bits=8, group_size=64), 1, "w8_gemv", "w8-64"),
        (Scheme(format="nf4", group_size=64), 1, "nf4_registers", "nf4-lanes-64"),
    ],
)
def test_the_kernel_for_a_grid_and_a_batch(scheme, batch, name, packing):
    kernel, why = layer.kernel_for(scheme.quantize(W), batch)
    assert (kernel.name, kernel.packing, why) == (name, packing, "")
    assert f"constexpr int GROUP = {scheme.group_size};" in kernel.source


@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        (Scheme(format="e4m3"), "no kernel reads this grid: a table of 256 values"),
        (
            Scheme(bits=4, group_size=40),
            "no CUDA kernel reads these groups, the CPU's do: a scale for every 40",
        ),
    ],
)
def test_where_no_kernel_reads_a_grid_it_is_said_and_what_would(scheme, says):
    kernel, why = layer.kernel_for(scheme.quantize(W))
    assert kernel.name == "fp16_gemv"
    assert why.startswith(says)
    assert "what would fit: whole numbers of 1 to 8 bits" in why
    assert "one scale for 32, 64 or 128 inputs" in why


def test_quantized_inputs_and_a_scale_for_each_row_are_a_product_of_whole_numbers():
    of_inputs = InputQuantizer(IntGrid(bits=8, signed=True))
    compressed = replace(Scheme(bits=8, granularity="channel").quantize(W), inputs=of_inputs)
    assert layer.kernel_for(compressed, 16)[0].name == "w8a8_mma"


@pytest.mark.usefixtures("cpp", "no_gpu")
def test_rows_of_a_layer_are_given_as_they_become_known_with_their_packing():
    given, told = [], []
    frame = run_layer(
        made(), 2, "cpu-*", rounds=2, budget_s=1, found=given.append, progress=lambda *one: told.append(one)
    )
    assert [rows[0]["rounds"] for rows in given] == [1, 2]
    packings = dict(zip(frame["kernel"], frame["packing"], strict=True))
    assert packings["cpu-w4-dot"] == "steps"
    assert packings["cpu-w4-lut"] == "planes"
    assert packings["cpu-torch-fp32"] == "none"
    assert any("checking cpu-w4-lut" in what for *_, what in told)
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)


def test_several_globs_may_be_given():
    on_cpu, on_gpu = layer._select("cpu-w4-*,w4_mma*", made(), low_bit(made()))
    assert list(on_cpu) == ["cpu-w4-dequant", "cpu-w4-dot", "cpu-w4-lut"]
    assert [one.name for one in on_gpu] == ["w4_mma", "w4_mma_16"]
