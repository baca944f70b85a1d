"""One module serves the slider's thread and the job's: they must not see each other's weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch

import workbench as wb


def test_two_threads_with_different_weights_get_what_one_would_and_leave_the_base_alone():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    model = wb.load(network, task="classification")
    layer, x = model.layer("0"), torch.randn(32, 64)
    weights = [{layer: model.base_weight("0") * factor} for factor in (0.5, -2.0)]
    wanted = [model.runner.logits(x, changed) for changed in weights]
    base = model.runner.logits(x)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: (i % 2, model.runner.logits(x, weights[i % 2])), range(400)))
    assert all(torch.equal(logits, wanted[index]) for index, logits in found)
    assert torch.equal(model.runner.logits(x), base)
    assert isinstance(dict(model.runner.module.named_parameters())["0.weight"], torch.nn.Parameter)


def test_hooks_hear_only_their_own_thread_s_runs():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 4))
    model = wb.load(network, task="classification")
    heard: list[float] = []

    def listen() -> None:
        with model.runner.inputs_of([model.layer("0")], lambda _layer, x: heard.append(float(x[0, 0]))):
            for _ in range(100):
                model.runner.logits(torch.ones(2, 16))

    def disturb() -> None:
        for _ in range(100):
            model.runner.logits(torch.zeros(2, 16))

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(listen), pool.submit(disturb)]:
            done.result()
    assert heard == [1.0] * 100
