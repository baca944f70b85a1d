"""The error map's times of a 14336 x 4096 layer at int4, from the slider's event in the browser to the pixels.

    python tests/benchmarks/bench_bench.py

Starts JupyterLab and a headless Chromium on this machine, puts one large random layer on the bench, moves the bits
slider, zooms, and prints median and largest of the times to the preview, to the exact whole map and to a zoomed
window, with the bytes of the tile that was drawn. Nothing is asserted: the machine's other work is in the numbers.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CELL = """
import torch
import workbench as wb
torch.manual_seed(0)
layer = torch.nn.Linear(4096, 14336, bias=False)
bench = wb.Bench(torch.nn.Sequential(layer), method=wb.RTN(bits=4, group_size=128))
bench
"""
# Notes when the handle hears a key, and when the map has drawn after it.
CLOCK = """() => {
    window.times = [];
    const map = document.querySelector('.wb-bench .wb-map');
    let began = 0;
    const start = () => { began = performance.now(); window.times.push({}); };
    document.querySelector('.wb-field-bits .noUi-handle').addEventListener('keydown', start, true);
    map.querySelector('canvas').addEventListener('wheel', start, true);
    map.addEventListener('workbench-drawn', (event) => {
        const last = window.times.at(-1);
        if (!last) return;
        const kind = event.detail.exact ? 'exact' : 'preview';
        last[kind] ??= performance.now() - began;
        last[kind + '_bytes'] = Number(map.dataset.bytes);
    });
}"""


def harness():
    """The browser tests' own fixtures, as a module."""
    path = ROOT / "tests" / "browser" / "conftest.py"
    spec = importlib.util.spec_from_file_location("browser_harness", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    from playwright.sync_api import sync_playwright

    tools = harness()
    folder = Path(tempfile.mkdtemp())
    blank = tools.write_notebook(folder / "big.ipynb", CELL)
    port = tools.free_port()
    start = "import sys; from workbench.widgets.lab import open_lab; "
    start += "sys.exit(open_lab(sys.argv[1], browser=False, port=int(sys.argv[2]), extra_args=sys.argv[3:]))"
    options = ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    command = [sys.executable, "-c", start, str(blank), str(port), *options]
    with (
        tools.serving(command, port, "/api/status", Path(tempfile.mkdtemp())) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=tools._browser_path(playwright), args=tools.BROWSER_FLAGS
        )
        lab = tools.Lab(browser, address, folder)
        page = lab.open("big.ipynb")
        lab.run_all()
        assert not lab.outputs_errors(), lab.outputs_errors()
        page.wait_for_function(
            "() => document.querySelector('.wb-bench .wb-map')?.dataset.exact === 'true'"
            " && /dB/.test(document.querySelector('.wb-bench .wb-numbers').textContent)"
        )
        page.wait_for_timeout(3000)
        page.evaluate(CLOCK)
        handle = page.locator(".wb-field-bits .noUi-handle").first
        handle.focus()
        for index in range(14):
            page.keyboard.press("ArrowLeft" if index % 2 else "ArrowRight")
            page.wait_for_function("() => window.times.at(-1).exact")
            page.wait_for_timeout(700)
        report("slider, whole map", page.evaluate("window.times.slice(2)"))
        page.evaluate("window.times = []")
        box = page.locator(".wb-bench .wb-map canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(16):
            page.mouse.wheel(0, -100)
            page.wait_for_function("() => window.times.at(-1)?.exact")
            page.wait_for_timeout(250)
        report("zoom, window in view", page.evaluate("window.times.slice(4)"))
        lab.close()
        browser.close()


def report(title: str, times: list[dict]) -> None:
    for kind in ("preview", "exact"):
        values = [entry[kind] for entry in times if kind in entry]
        if values:
            size = max(entry[f"{kind}_bytes"] for entry in times if kind in entry)
            print(
                f"{title:22s} {kind:8s} median {statistics.median(values):6.0f} ms   largest {max(values):6.0f} ms"
                f"   of {len(values)}   at most {size / 1e3:.0f} kB"
            )


if __name__ == "__main__":
    main()
