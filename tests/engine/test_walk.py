"""The walk: what each layer is calibrated on, stage by stage, and that nothing is lost on the way."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.engine import Recipe, Step
from workbench.engine.walk import Walk
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.methods import METHODS, Method

IDS = (torch.arange(128) ** 2 % 97 % 20).reshape(16, 8)  # 128 rows: more than the 96 inputs of a layer


@pytest.fixture
def hearing():
    """A quantizer that keeps the statistics it was given, by the weight's shape and order."""

    class Hearing(Method):
        name = "hearing"
        kind = "quantize"
        needs = frozenset({"mean", "mean_square", "hessian", "sample", "low", "high"})

        def compress(self, w, statistics=None):
            seen.append(statistics)
            return wb.RTN(bits=2, group_size=16).compress(w)

    seen = []
    Hearing.seen = seen
    yield Hearing
    METHODS._known.pop("hearing", None)


def inputs(model, layer: str, weights=None) -> torch.Tensor:
    rows = []
    with model.runner.inputs_of([model.layer(layer)], lambda _layer, x: rows.append(x)):
        model.runner.logits(IDS, weights)
    return torch.cat(rows)


@pytest.mark.parametrize("prefix", ["compressed", "original"])
def test_each_layer_hears_what_the_layers_before_it_hand_on(model, hearing, prefix):
    variant = wb.apply(model, Recipe([hearing()]), calibration=[IDS], prefix=prefix)
    names = list(variant.methods)
    assert names == ["layers.0.up_proj", "layers.0.down_proj", "layers.1.up_proj", "layers.1.down_proj"]
    for index, name in enumerate(names):
        done = {model.layer(n): variant.weights[n].dequantize() for n in names[:index]}
        x = inputs(model, name, done if prefix == "compressed" else {})
        known = hearing.seen[index]
        assert known.tokens == 128
        torch.testing.assert_close(known.hessian, x.T @ x / 128, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(known.mean, x.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(known.low, x.amin(0))
        torch.testing.assert_close(known.high, x.amax(0))


def test_batches_make_no_difference(model):
    recipe = Recipe([wb.GPTQ(bits=3, group_size=16)])
    whole = wb.apply(model, recipe, calibration=[IDS])
    parts = wb.apply(model, recipe, calibration=list(IDS.split(3)))
    for name in whole.methods:
        torch.testing.assert_close(
            whole.weights[name].dequantize(), parts.weights[name].dequantize(), atol=0.05, rtol=0
        )


def test_layers_that_read_one_input_share_its_statistics_and_scales():
    model = wb.load("tiny-llama")
    batches = wb.evaluation(model, part="calibration", tokens=1024).inputs_only()
    variant = wb.apply(model, Recipe([Step(wb.AWQ(clip=False), "*.layers.0.*")]), calibration=batches)
    scales = {name.rpartition(".")[2]: made.input_scale for name, made in variant.weights.items()}
    assert torch.equal(scales["q_proj"], scales["k_proj"])
    assert torch.equal(scales["q_proj"], scales["v_proj"])
    assert torch.equal(scales["gate_proj"], scales["up_proj"])
    assert not torch.equal(scales["gate_proj"], scales["q_proj"])


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet"])
def test_other_networks_walk_too(name):
    model = wb.load(name)
    batches = [wb.evaluation(model, part="calibration").inputs[:64]]
    variant = wb.apply(model, Recipe([wb.GPTQ(bits=4, group_size=16)]), calibration=batches)
    spared = {layer.name for layer in model.layers if layer.role in ("embed", "head")}
    assert set(variant.methods) == set(model.table["name"]) - spared
    assert variant.notes == ()
    plain = wb.apply(model, Recipe([wb.RTN(bits=4, group_size=16)]))
    data = wb.evaluation(model)
    assert wb.inspect.model(variant, data).kl[0] < wb.inspect.model(plain, data).kl[0]


def test_one_block_in_memory_gives_the_same_weights():
    model = wb.load("tiny-llama")
    batches = wb.evaluation(model, part="calibration", tokens=1024).inputs_only()
    work = {entry.layer.name: entry.methods for entry in wb.plan(model, Recipe([wb.GPTQ(bits=3)])).work}
    framed = dict(Walk(wb.load("tiny-llama"), work, batches, frame=True).run())
    whole = dict(Walk(model, work, batches).run())
    assert list(framed) == list(whole)
    assert all(torch.equal(framed[name].codes, whole[name].codes) for name in whole)


def test_matrices_of_blocks_that_were_passed_do_not_stay():
    """A float32 matrix for each layer of a large model would be more than memory."""
    model = wb.load("tiny-llama")
    batches = wb.evaluation(model, part="calibration", tokens=512).inputs_only()
    method = wb.RTN(scale_search="activation")
    work = {entry.layer.name: entry.methods for entry in wb.plan(model, Recipe([method])).work}
    walk = Walk(model, work, batches)
    for name, _made in walk.run():
        held = {layer.block for layer in walk.running}
        assert held == {model.layer(name).block}
    assert not walk.running


def test_a_killed_run_goes_on_from_the_layers_it_kept(model, tmp_path):
    recipe = Recipe([wb.GPTQ(bits=3, group_size=16)])
    expected = wb.apply(model, recipe, calibration=[IDS])

    class Killed(Job):
        def step(self, done, total, text=""):
            if done == 2:
                raise KeyboardInterrupt  # no clean-up of ours runs
            super().step(done, total, text)

    with pytest.raises(KeyboardInterrupt):
        Killed(lambda job: wb.apply(model, recipe, calibration=[IDS], keep=tmp_path / "run", job=job)).run()
    kept = sorted(file.name for file in (tmp_path / "run").glob("*.safetensors"))
    assert kept == ["layers.0.down_proj.safetensors", "layers.0.up_proj.safetensors"]
    heard = []

    class Heard(Job):
        def step(self, done, total, text=""):
            heard.append(text)
            super().step(done, total, text)

    again = Heard(
        lambda job: wb.apply(model, recipe, calibration=[IDS], keep=tmp_path / "run", job=job)
    ).run()
    assert not any(text.startswith("layers.0.") and text.endswith("proj") for text in heard)
    assert all(torch.equal(again.weights[n].codes, expected.weights[n].codes) for n in expected.weights)
    with pytest.raises(Refused, match=r"keeps the layers of another run \(recipe differ\)"):
        wb.apply(model, Recipe([wb.GPTQ(bits=2)]), calibration=[IDS], keep=tmp_path / "run")
    with pytest.raises(Refused, match=r"keeps the layers of another run \(calibration differ\)"):
        wb.apply(model, recipe, calibration=[IDS.flip(0)], keep=tmp_path / "run")


def test_cancel_keeps_the_finished_layers(model):
    class Stopping(Job):
        def step(self, done, total, text=""):
            if done == 3:
                self.cancel()
            super().step(done, total, text)

    job = Stopping(lambda job: wb.apply(model, Recipe([wb.GPTQ(group_size=16)]), calibration=[IDS], job=job))
    variant = job.run()
    assert variant.partial
    assert len(variant.methods) == 3
    assert job.state == "cancelled"


def test_a_long_optimisation_is_cancelled_between_its_steps(model):
    steps = []

    class Stopping(Job):
        def beat(self, text, values):
            steps.append(values)
            if len(steps) == 3:
                self.cancel()
            super().beat(text, values)

    recipe = Recipe([wb.AdaRound(bits=3, group_size=16, reconstruct="layer")])
    variant = Stopping(lambda job: wb.apply(model, recipe, calibration=[IDS], job=job)).run()
    assert variant.partial
    assert variant.weights == {}
    assert len(steps) == 3
    assert "loss" in steps[0]


def test_too_little_calibration_for_a_hessian_says_how_much_it_needs(model):
    with pytest.raises(
        Refused, match=r"layers.0.up_proj: the calibration data has 8 rows, too few .*at least 32 "
    ):
        wb.apply(model, Recipe([wb.GPTQ()]), calibration=[IDS[:1]])


def test_activations_that_are_not_finite_name_the_layer(module):
    module.embed_tokens.weight.data[3] = float("inf")
    model = wb.load(module, name="toy", task="language")
    with pytest.raises(Refused, match=r"the input of layers.0.up_proj has NaN or infinite values"):
        wb.apply(model, Recipe([wb.GPTQ()]), calibration=[IDS])


def test_experts_that_saw_no_token_stay_as_they_were_and_are_named():
    class Mixture(torch.nn.Module):
        """Every token goes to the first expert."""

        def __init__(self):
            super().__init__()
            self.experts = torch.nn.ModuleList(
                torch.nn.ModuleDict({"w1": torch.nn.Linear(8, 8)}) for _ in range(3)
            )

        def forward(self, x):
            return self.experts[0]["w1"](x)

    model = wb.load(Mixture(), task="classification")
    variant = wb.apply(model, Recipe([wb.GPTQ(group_size=8)]), calibration=[torch.randn(64, 8)])
    assert list(variant.methods) == ["experts.0.w1"]
    assert variant.notes == tuple(
        f"experts.{i}.w1: no calibration input reached it, it stays as it was" for i in (1, 2)
    )


def test_every_layer_is_compared_with_rounding_to_nearest_and_losers_are_named(model):
    variant = wb.apply(model, Recipe([wb.GPTQ(bits=3, group_size=16)]), calibration=[IDS])
    for made in variant.weights.values():
        facts = made.report.facts
        assert facts["output error"] > 0
        loses = facts["output error"] > facts["output error of rtn"]
        assert loses == any("worse than rtn 3 g16" in warning for warning in made.report.warnings)


def test_a_method_without_data_walks_nothing(model):
    variant = wb.apply(model, Recipe([wb.RTN(bits=3)]))
    assert not model.runner.built
    assert variant.warnings == {}


def test_a_cancelled_calibration_is_no_error(model):
    class Stopping(Job):
        def step(self, done, total, text=""):
            if "calibrating" in text:
                raise Cancelled(self.name)
            super().step(done, total, text)

    assert (
        Stopping(lambda job: wb.apply(model, Recipe([wb.GPTQ()]), calibration=[IDS], job=job)).run().partial
    )


BLOCK = {"reconstruct": "block", "steps": 3}


@pytest.fixture(scope="module")
def llama():
    model = wb.load("tiny-llama")
    return model, wb.evaluation(model, part="calibration", tokens=1024).inputs_only()


def test_each_layer_of_a_block_that_is_rebuilt_gets_its_own_method(llama):
    model, batches = llama
    recipe = Recipe(
        [
            Step(wb.AdaRound(bits=4, **BLOCK), "*.layers.0.*"),
            Step(wb.AdaRound(bits=8, **BLOCK), "*.layers.0.mlp.down_proj"),
            Step(wb.FlexRound(bits=3, **BLOCK), "*.layers.0.self_attn.*"),
        ]
    )
    made = wb.apply(model, recipe, calibration=batches)
    for name, weight in made.weights.items():
        expected = 8 if "down" in name else 3 if "attn" in name else 4
        assert weight.grid.code_bits == expected, name
    assert len(made.weights) == 7


def test_what_comes_before_a_rebuilt_block_is_done_and_what_comes_after_too(llama):
    model, batches = llama
    steps = [wb.SmoothQuant(), wb.Wanda(sparsity=0.5), wb.FlexRound(bits=8, **BLOCK), wb.Activations()]
    made = wb.apply(model, Recipe([Step(m, "*.layers.0.*") for m in steps]), calibration=batches)
    for name, weight in made.weights.items():
        assert weight.input_scale is not None, name
        assert weight.inputs is not None, name
        assert weight.sparsity == pytest.approx(0.5, abs=0.01), name
        kept = weight.dequantize()[weight.mask]
        torch.testing.assert_close(kept, model.weight(name)[weight.mask], atol=0.02, rtol=0.2)
    scales = [made.weights[f"model.layers.0.self_attn.{n}_proj"].input_scale for n in "qkv"]
    assert torch.equal(scales[0], scales[1])
    assert torch.equal(scales[0], scales[2])


def test_a_run_killed_inside_a_group_that_shares_scales_gives_the_same_weights(llama, tmp_path):
    model, batches = llama
    recipe = Recipe([Step(wb.AWQ(bits=3, grid_points=4), "*.layers.0.*")])
    whole = wb.apply(model, recipe, calibration=batches, keep=tmp_path / "kept")
    for file in (tmp_path / "kept").glob("*.safetensors"):
        if "q_proj" not in file.name:
            file.unlink()
    again = wb.apply(model, recipe, calibration=batches, keep=tmp_path / "kept")
    for name in whole.weights:
        assert torch.equal(again.weights[name].codes, whole.weights[name].codes), name
        assert torch.equal(again.weights[name].dequantize(), whole.weights[name].dequantize()), name


def test_layers_outside_the_blocks_can_match_the_original_too():
    model = wb.load("tiny-resnet")
    images = [wb.evaluation(model, part="calibration").inputs_only()[0][:16]]
    recipe = Recipe(
        [Step(wb.GPTQ(bits=4, match="original"), f"{model.layers[0].name}, {model.layers[-1].name}")]
    )
    assert len(wb.apply(model, recipe, calibration=images).weights) == 2


@pytest.mark.parametrize(
    "method", [wb.FlexRound(**BLOCK), wb.AdaRound(**BLOCK), wb.MobileQuant(steps=3)], ids=str
)
def test_a_network_that_is_no_chain_is_rebuilt_as_one(method):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    made = wb.apply(
        wb.load(network, task="classification"), Recipe([method]), calibration=[torch.randn(64, 16)]
    )
    assert len(made.weights) == 2


def test_kept_layers_of_another_base_are_told_apart(llama, tmp_path):
    """Two bases that differ in the bits of one layer alone."""
    model, batches = llama
    later = Recipe([Step(wb.RTN(scale_search="activation"), "*.layers.0.self_attn.o_proj")])
    bases = [
        wb.apply(model, Recipe([Step(wb.RTN(bits=bits), "*.layers.0.self_attn.q_proj")])).model
        for bits in (2, 8)
    ]
    wb.apply(bases[0], later, calibration=batches, keep=tmp_path / "kept")
    with pytest.raises(Refused, match=r"another run \(changed differ"):
        wb.apply(bases[1], later, calibration=batches, keep=tmp_path / "kept")
