"""The integer network: equal to its simulation in every bit, without a float, each operation against plain numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import workbench as wb
from workbench.engine.integer import (
    COMPARED_COLUMNS,
    QUALITY_COLUMNS,
    RANGE_COLUMNS,
    compare,
    load_variant,
    save_variant,
    simulated,
)
from workbench.engine.integer.build import built
from workbench.engine.integer.learn import baked, calibrated, learned, smooth_scales
from workbench.engine.integer.llama import Llama
from workbench.engine.integer.variant import mobilequant
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.measure import Evaluation, Quality, evaluation
from workbench.methods.quantize.mobilequant import MobileQuant
from workbench.methods.ranges import Range


class NoFloats(TorchDispatchMode):
    """Fails on the first operation that reads or makes a floating tensor."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves([args, kwargs, made]):
            if isinstance(each, torch.Tensor):
                assert not each.is_floating_point(), f"{func} has a tensor of {each.dtype}"
            assert not isinstance(each, float), f"{func} has the number {each}"
        self.calls += 1
        return made


def ids(count: int, seed: int = 0, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 257, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny():
    """(network, calibration windows, held-out windows) of tiny-llama."""
    model = wb.load("tiny-llama")
    windows = list(evaluation(model, tokens=1024, part="calibration").inputs.split(1))
    return Llama.read(model), windows, evaluation(model, tokens=512).inputs


@pytest.fixture(scope="module", params=[4, 2, 1], ids=["heads 4:4", "heads 4:2", "heads 4:1"])
def small(request, make_llama, tmp_path_factory):
    """A random Llama with and without grouped queries."""
    changes = {"num_key_value_heads": request.param, "rms_norm_eps": 0.05}  # an epsilon that would be missed
    folder = make_llama(tmp_path_factory.mktemp("llama"), seed=3, **changes)
    return Llama.read(wb.load(folder))


@pytest.fixture
def model(llama_folder):
    return wb.load(llama_folder)


def start_of(net: Llama, windows, method: MobileQuant):
    return calibrated(net, windows, method, smooth_scales(net, windows, method), "smoothquant")


# The network as a whole


@pytest.mark.parametrize("bits", [8, 4])
def test_tiny_llama_is_bit_exact_and_near_fake_quantization(tiny, bits):
    net, windows, held_out = tiny
    method = MobileQuant(bits=bits)
    start = start_of(net, windows, method)
    found = compare(built(net, start, method), net, start, method, held_out[:1])
    assert found.exact
    assert found.simulation["codes"].sum() > 10**7
    assert list(found.simulation) == list(COMPARED_COLUMNS)
    assert found.simulation["point"].to_list() == [*net.points, "logits"]
    # Given the same codes, an operation in float makes the same code of 8 bits but at ties, and never misses by two.
    narrow = found.step[found.step["bits"] == 8]
    assert narrow["differ"].sum() / narrow["codes"].sum() < 1e-3
    assert narrow["largest"].max() == 1
    assert found.fake["share"].max() > found.step["share"].max()  # what differs is handed on
    assert found.kl < 0.02
    assert "all 1" in str(found)


@pytest.mark.parametrize(
    ("bits", "act_bits", "granularity"), [(8, 8, "channel"), (4, 8, "tensor"), (4, 16, "channel")]
)
def test_random_llamas_are_bit_exact_after_learning(small, bits, act_bits, granularity):
    # Large steps: learned ranges clip, and are nothing like those of the calibration.
    method = MobileQuant(
        bits=bits,
        act_bits=act_bits,
        granularity=granularity,
        steps=6,
        lr_range=0.05,
        lr_clip=0.1,
        lr_scale=0.05,
    )
    windows = list(ids(3).split(1))
    made = learned(small, windows, method, start_of(small, windows, method))
    network = built(small, made, method)
    found = compare(network, small, made, method, ids(2, seed=1, length=64))
    assert found.exact
    assert len(network.blocks) == 2
    narrow = found.step[found.step["bits"] == 8]
    assert len(narrow) == (0 if act_bits == 16 else 2 * 11 + 1)
    assert narrow["largest"].max() <= 1 or act_bits == 16
    assert narrow["differ"].sum() <= 0.01 * narrow["codes"].sum()


def test_a_wrong_constant_is_found_where_it_is(small):
    method = MobileQuant()
    windows = list(ids(2).split(1))
    start = start_of(small, windows, method)
    network = built(small, start, method)
    up = network.blocks[1].up
    shifted = replace(up, constant=up.constant + 2**9)
    wrong = replace(network, blocks=(network.blocks[0], replace(network.blocks[1], up=shifted)))
    again: dict[str, np.ndarray] = {}
    simulated(network, windows[0], again.__setitem__)
    differ = []
    wrong(windows[0], lambda p, codes: differ.append(p) if (codes.numpy() != again[p]).any() else None)
    assert differ[0] == "1.up"
    assert set(differ) <= {"1.up", "1.hidden", "1.down", "1.out", "norm"}
    # The simulation takes zero points off first and needs no such constant.
    found = compare(wrong, small, start, method, windows[0])
    assert not found.exact
    assert "differ from the simulation, first at 1.up" in str(found)


def test_there_is_no_float_between_tokens_and_logits(small):
    network = built(small, start_of(small, [ids(1)], MobileQuant()), MobileQuant())
    tokens = ids(2, seed=5)
    dtypes = {}
    with NoFloats() as watched:
        logits = network(tokens, lambda point, codes: dtypes.setdefault(point, codes.dtype))
    assert watched.calls > 100
    assert logits.dtype == torch.int32
    for point, dtype in dtypes.items():
        assert dtype == (torch.int8 if network.points[point].bits == 8 else torch.int16), point
    with pytest.raises(AssertionError, match="float"), NoFloats():
        logits * network.unit


def test_the_transforms_leave_the_float_function_as_it_is(small):
    generator = torch.Generator().manual_seed(0)
    scales = smooth_scales(small, [ids(1)], MobileQuant())
    assert (
        any(p.endswith("rot") for p in scales) == any(p.endswith("attn") for p in scales) == small.multi_head
    )
    scales = {p: torch.rand(s.shape, generator=generator) * 3 + 0.2 for p, s in scales.items()}
    double = replace(small, tensors={n: t.double() for n, t in small.tensors.items()})

    def logits(tensors):
        return double.logits(tensors, double.hidden(tensors, ids(2), lambda _, x: x), lambda _, x: x)

    before, after = logits(double.tensors), logits(baked(double, scales))
    assert (after - before).abs().max() < 1e-6 * before.abs().max()  # scales are float32


def test_the_float_pass_is_that_of_the_model(model):
    net = Llama.read(model)
    made = net.logits(net.tensors, net.hidden(net.tensors, ids(2), lambda _, x: x), lambda _, x: x)
    torch.testing.assert_close(made, model.runner.logits(ids(2)), rtol=1e-4, atol=1e-4)


# Learning, and what comes back


def test_learning_gains_and_its_start_stays(small):
    method = MobileQuant(bits=4, steps=40, lr_scale=1e-2, lr_clip=3e-2)
    windows = list(ids(2).split(1))
    start = start_of(small, windows, method)
    before = {p: r.ends for p, r in start.ranges.items()}
    made = learned(small, windows, method, start)
    assert {p: r.ends for p, r in start.ranges.items()} == before
    assert made.report.facts["loss after"] < 0.9 * made.report.facts["loss before"]
    moved = {p for p, r in made.ranges.items() if r.ends != before[p]}
    assert moved >= {"0.norm1", "1.q", "1.hidden", "1.act"}
    # 16 bits and the codes of the embedding are left as they were measured.
    assert not any(p.endswith(("mid", "out", "down", "scores", "probs", "embed")) for p in moved)


def test_the_variant_has_its_tables(model):
    data = Evaluation(ids(4, seed=9), None, "random tokens", 2)
    made = wb.mobilequant(model, [ids(2), ids(1, seed=2)], MobileQuant(bits=4, steps=5))
    assert len(made.losses) == 5
    assert set(made.facts) == {"loss before", "loss after"}
    quality = made.quality(data)
    assert list(quality) == list(QUALITY_COLUMNS)
    rows = quality.set_index("network")
    assert list(rows.index) == ["float", "minmax", "smoothquant", "learned", "integer"]
    assert rows.at["float", "kl"] == 0
    assert rows.at["learned", "kl"] > 0
    # The integers are what was learned and no other network.
    assert rows.at["integer", "kl"] == pytest.approx(rows.at["learned", "kl"], rel=0.3)
    ranges = made.ranges()
    assert list(ranges) == list(RANGE_COLUMNS)
    assert (ranges["low"] <= 0).all()
    assert (ranges["high"] > 0).all()
    assert made.compare(data.inputs).exact
    with pytest.raises(Refused, match="these predictions are of tiny-llama"):
        made.quality(Quality(wb.load("tiny-llama"), data))
    again = wb.mobilequant(model, [ids(2), ids(1, seed=2)], MobileQuant(bits=4, steps=5))
    assert torch.equal(made.network(data.inputs), again.network(data.inputs))


def test_a_variant_is_kept_in_a_file(model, make_llama, tmp_path):
    made = mobilequant(model, ids(2), MobileQuant(bits=4, steps=4, lr_clip=0.1))
    path = tmp_path / "made.safetensors"
    assert save_variant(made, path) == path.stat().st_size
    again = load_variant(path, model)
    assert torch.equal(again.network(ids(3)), made.network(ids(3)))
    assert (again.losses, again.facts, again.seconds) == (made.losses, made.facts, made.seconds)
    assert again.method == made.method
    assert again.ranges().equals(made.ranges())
    data = Evaluation(ids(2, seed=9), None, "random tokens", 2)
    assert again.quality(data).equals(made.quality(data))
    with pytest.raises(Refused, match="was learned from other weights"):
        load_variant(path, wb.load(make_llama(tmp_path / "other", seed=8)))
    for wrong in (tmp_path / "missing", tmp_path / "other" / "model.safetensors"):
        with pytest.raises(Refused, match="is no variant of mobilequant"):
            load_variant(wrong, model)


def test_a_job_hears_of_every_step_and_cancels_between_two(model):
    def work(job: Job):
        return mobilequant(model, ids(2), MobileQuant(steps=20), job=job)

    heard: list[tuple[int, int]] = []
    job = Job(work)
    job.beat, beat = lambda text, values: heard.append((job.done, text)) or beat(text, values), job.beat
    made = job.run()
    assert [n for n, text in heard if text.startswith("learning")] == list(range(1, 21))
    assert job.curves["loss"] == list(made.losses)
    stopped = Job(work)

    def stop(text, values):
        if text.startswith("learning: 3 "):
            stopped.cancel()
        Job.beat(stopped, text, values)

    stopped.beat = stop
    with pytest.raises(Cancelled):
        stopped.run()
    assert stopped.done == 3


# What is refused


def test_what_is_no_llama_is_refused(model, make_llama, tmp_path):
    with pytest.raises(Refused, match="tiny-vit is no language model"):
        mobilequant(wb.load("tiny-vit"))
    with pytest.raises(Refused, match=r"biases \(model.layers.0.self_attn.q_proj.bias\)"):
        mobilequant(wb.load(make_llama(tmp_path, attention_bias=True)), ids(1))
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=4, group_size=16)]))
    with pytest.raises(Refused, match=r"has changed weights: .* take model.base"):
        mobilequant(variant.model, ids(1))
    with pytest.raises(Refused, match="is not learned end to end"):
        mobilequant(model, ids(1), wb.RTN(bits=4))


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (ids(1, length=65), "65 tokens are more than the context of 64"),
        (ids(1) + 1000, "token ids go from 0 to 256"),
        (ids(1) - 300, "token ids go from 0 to 256"),
        (ids(1).float(), r"integers \[windows, tokens\], not torch.float32"),
        (ids(1)[0], r"not torch.int64 of \[24\]"),
        ([], "the calibration data is empty"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(model, tokens, reason):
    with pytest.raises(Refused, match=reason):
        mobilequant(model, tokens, MobileQuant(steps=0))
    if len(tokens):
        made = mobilequant(model, ids(1), MobileQuant(steps=0))
        with pytest.raises(Refused, match=reason):
            made.network(tokens)


def test_scales_that_no_multiplier_holds_are_refused(small):
    start = start_of(small, [ids(1)], MobileQuant())
    fine = {**start.ranges, "0.q": Range(1e-12, 128.0, 8)}
    with pytest.raises(Refused, match=r"0.q: its scale is .* times finer than what it is made from"):
        built(small, replace(start, ranges=fine), MobileQuant())
    negative = {**start.ranges, "0.q": Range(-1.0, 128.0, 8)}
    with pytest.raises(Refused, match=r"0\.q: its range has the scale -1"):
        built(small, replace(start, ranges=negative), MobileQuant())
    narrow = {**start.ranges, "0.mid": Range(1e-12, 2.0**15, 16)}
    with pytest.raises(Refused, match=r"0\.norm2: the range of 0.mid is too narrow|0.mid: its scale"):
        built(small, replace(start, ranges=narrow), MobileQuant())
