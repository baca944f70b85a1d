"""Round to nearest against Brevitas: the same weights, the same model.

Brevitas (AMD) trains with quantized weights; its `ShiftedUint8WeightGroupQuantFloat` is asymmetric min-max with a
float scale and an integer zero point for each group, which is what `RTN(scale_dtype="float32")` promises. Two things
differ by design, and both are looked at here. Brevitas rounds w / scale + zero where RTN rounds w / scale, so an
exact tie goes to the other neighbour where the zero point is odd. And it widens a range to 0 from above alone.

Skipped where Brevitas is missing: pip install -e ".[conformity]" -c constraints.txt
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import workbench as wb
from workbench.measure.quality import evaluation

pytest.importorskip("brevitas", reason="Brevitas is not installed: pip install -e '.[conformity]'")

FORMATS = [(4, 64), (4, 128), (3, 64)]
TOKENS = 1024


@pytest.fixture(scope="module")
def model():
    return wb.load("tiny-llama")


def theirs(w: Tensor, bits: int, group: int) -> Tensor:
    """w [out, in] as Brevitas' linear layer uses it."""
    from brevitas.nn import QuantLinear
    from brevitas.quant.shifted_scaled_int import ShiftedUint8WeightGroupQuantFloat

    layer = QuantLinear(
        w.shape[1],
        w.shape[0],
        bias=False,
        weight_quant=ShiftedUint8WeightGroupQuantFloat,
        weight_bit_width=bits,
        weight_group_size=group,
    )
    with torch.no_grad():
        layer.weight.copy_(w)
        return layer.quant_weight().value


def ours(w: Tensor, bits: int, group: int) -> Tensor:
    return wb.RTN(bits=bits, group_size=group, scale_dtype="float32").compress(w).dequantize()


def relative_error(w: Tensor, changed: Tensor) -> float:
    return float((changed - w).norm() / w.norm())


@pytest.mark.parametrize(("bits", "group"), FORMATS)
def test_every_layer_has_the_same_relative_error(model, bits, group):
    layers = [layer.name for layer in model.layers if layer.role not in ("embed", "head")]
    assert len(layers) == 35
    for name in layers:
        w = model.base_weight(name).float()
        mine, brevitas = ours(w, bits, group), theirs(w, bits, group)
        assert 0.05 < relative_error(w, mine) < 0.3
        assert relative_error(w, mine) == pytest.approx(relative_error(w, brevitas), rel=1e-5), name
        differ = mine != brevitas
        assert differ.float().mean() < 1e-3, name
        # Where they differ both are equally far: a tie.
        torch.testing.assert_close(
            (mine - w).abs()[differ], (brevitas - w).abs()[differ], rtol=1e-3, atol=1e-6
        )


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "group"), FORMATS)
def test_the_model_has_the_same_kl(model, bits, group):
    """Also the library's KL against one computed here, from two networks of transformers."""
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=bits, group_size=group, scale_dtype="float32")]))
    data = evaluation(model, tokens=TOKENS)
    measured = wb.inspect.model(variant, data)["kl"].iloc[0]
    original = model.runner.module
    changed = copy.deepcopy(original)
    parameters = dict(changed.named_parameters())
    for name in variant.weights:
        w = model.base_weight(name).float()
        # A tie falls the way that RTN lets it fall: of a thousand weights less than one, and KL hears it.
        brevitas, mine = theirs(w, bits, group), ours(w, bits, group)
        tie = ((mine - w).abs() - (brevitas - w).abs()).abs() < 1e-6
        parameters[f"{name}.weight"].data = torch.where(tie, mine, brevitas)
    with torch.no_grad():
        before, after = (
            each(data.inputs).logits[:, :-1].double().log_softmax(-1) for each in (original, changed)
        )
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    assert kl > 1e-3
    assert measured == pytest.approx(kl, rel=1e-4)


def test_a_range_is_widened_to_zero_and_by_brevitas_from_above_alone():
    w = torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    torch.testing.assert_close(ours(w, 4, 64), theirs(w, 4, 64), rtol=0, atol=1e-6)
    # All below zero: Brevitas' scale is of max - min, yet its code for 0 is kept, and it clips what lies below.
    assert relative_error(-w, ours(-w, 4, 64)) < 0.05 < relative_error(-w, theirs(-w, 4, 64))
