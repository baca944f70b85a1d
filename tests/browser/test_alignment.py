"""Two networks at the bench: what is suggested and refused, the barrier, a layer in both, the mean of three."""

from __future__ import annotations

import re

import pytest

import workbench as wb

from .test_bench import wait_for_bench
from .test_methods import tab

NETWORK = "import workbench as wb\nbench = wb.Bench('tiny-mlp')\nbench"
VIEW = ".wb-bench .wb-beside"


@pytest.fixture(scope="module")
def bench(new_lab):
    with new_lab() as lab:
        lab.write("networks.ipynb", NETWORK)
        lab.open("networks.ipynb")
        lab.run_all()
        assert lab.outputs_errors() == []
        wait_for_bench(lab.page)
        tab(lab.page, "two networks")
        yield lab


def ask(page, text: str) -> None:
    page.locator(f"{VIEW} textarea").fill(text)
    page.locator(f"{VIEW} button", has_text="align").click()


def drawn(page, words: str, seconds: float = 240) -> None:
    page.wait_for_function(
        """words => [...document.querySelectorAll('.wb-bench .wb-beside .wb-plot')]
            .some(plot => plot.textContent.includes(words))""",
        arg=words,
        timeout=1000 * seconds,
    )


def cut(page) -> list[str]:
    """What is wider than its place, or sticks out of the bench."""
    return page.evaluate(
        """() => {
            const bench = document.querySelector('.wb-bench').getBoundingClientRect();
            const parts = document.querySelectorAll(
                '.wb-bench .wb-beside :is(button, textarea, th, td, p, .wb-plot)');
            return [...parts].filter(e => e.offsetParent && getComputedStyle(e).textOverflow !== 'ellipsis')
                .filter(e => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > bench.right + 0.5)
                .map(e => e.className + ': ' + e.textContent.slice(0, 60));
        }"""
    )


def test_an_empty_view_says_what_it_is_and_what_to_type(bench):
    page = bench.page
    page.locator(f"{VIEW} button", has_text="+ tiny-mlp-b").wait_for()
    names = page.locator(f"{VIEW} .wb-near button").all_text_contents()
    assert names == ["+ tiny-mlp-b", "+ tiny-mlp-c"]
    said = page.locator(VIEW).text_content()
    assert "barrier" in said
    assert "MB of memory" in said
    assert cut(page) == []
    page.locator(VIEW).scroll_into_view_if_needed()
    bench.screenshot("alignment-empty")


def test_what_cannot_be_compared_is_said_in_place(bench):
    page = bench.page
    page.locator(f"{VIEW} button", has_text="align").click()
    page.locator(f"{VIEW} .wb-error", has_text="no other network is named").wait_for()
    for other, why in (
        ("tiny-vit", "different architectures"),
        ("tiny-mlp-x", "tiny-mlp-b"),
        ("/nowhere/else", "there is no file"),
    ):
        ask(page, other)
        page.locator(f"{VIEW} .wb-error", has_text=why).wait_for()
    bench.screenshot("alignment-refused")
    assert bench.outputs_errors() == []


def test_a_suggestion_is_aligned_and_its_layers_are_chosen(bench):
    page = bench.page
    page.locator(f"{VIEW} textarea").fill("")
    page.locator(f"{VIEW} button", has_text="+ tiny-mlp-b").click()
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-beside textarea').value === 'tiny-mlp-b'"
    )
    page.locator(f"{VIEW} button", has_text="align").click()
    drawn(page, "From tiny-mlp to tiny-mlp-b")
    said = page.locator(f"{VIEW} .wb-beside-said").first.text_content()
    assert "barrier 1.59 → 0.08" in said
    rows = page.locator(f"{VIEW} .wb-rows tbody tr")
    assert rows.count() == 4
    chosen = page.locator(f"{VIEW} .wb-rows tr[aria-selected=true] th").text_content()
    assert chosen in page.locator(".wb-bench .wb-layer-info").text_content()
    drawn(page, f"Difference of {chosen}")
    drawn(page, f"Singular directions of {chosen}")
    page.locator(f"{VIEW} .wb-rows tr[data-name='layers.0']").click()
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-layer-info').textContent.includes('layers.0')"
    )
    drawn(page, "Difference of layers.0")
    page.keyboard.press("ArrowDown")
    drawn(page, "Singular directions of layers.1")
    page.locator(".wb-bench [data-layer='layers.2']").first.click()  # on the model map
    drawn(page, "Difference of layers.2")
    assert page.locator(f"{VIEW} .wb-rows tr[aria-selected=true] th").text_content() == "layers.2"


@pytest.mark.parametrize(
    ("width", "theme"), [(1280, "Light"), (1280, "Dark"), (900, "Light"), (1680, "Dark")]
)
def test_it_holds_at_every_width_and_in_both_themes(bench, width, theme):
    page = bench.page
    page.set_viewport_size({"width": width, "height": 1500})
    bench.theme(f"JupyterLab {theme}")
    page.wait_for_timeout(2500)
    page.locator(VIEW).evaluate("view => view.scrollIntoView()")
    bench.screenshot(f"alignment-{width}-{theme.lower()}")
    assert cut(page) == []
    page.set_viewport_size({"width": 1280, "height": 720})
    bench.theme("JupyterLab Light")


def test_three_are_merged_beside_the_line_and_the_code_says_so(bench):
    page = bench.page
    ask(page, "tiny-mlp-b\ntiny-mlp-c")
    drawn(page, "Mean of 3 networks")
    assert page.locator(f"{VIEW} textarea").input_value() == "tiny-mlp-b, tiny-mlp-c"
    assert page.locator(f"{VIEW} table.wb-speed-table tr").count() == 6
    said = page.locator(f"{VIEW} .wb-beside-said").last.text_content()
    assert "mean of 3 networks" in said
    page.set_viewport_size({"width": 1280, "height": 1700})
    page.locator(VIEW).evaluate("view => view.scrollIntoView()")
    page.wait_for_timeout(1000)
    assert cut(page) == []
    bench.screenshot("alignment-merged")
    page.set_viewport_size({"width": 1280, "height": 720})
    page.locator(".wb-bench .wb-code").click()
    page.wait_for_function("() => document.querySelector('.wb-bench .wb-code').textContent === 'Copied'")
    code = page.evaluate("navigator.clipboard.readText()")
    assert "wb.MergedNetworks([model, *others]" in code
    assert bench.outputs_errors() == []


def test_a_language_model_beside_itself_in_another_order_and_a_cancel(lab, notebook_folder):
    """The copy answers as the original, and matching finds all of its units."""
    from workbench.engine.alignment import with_tensors
    from workbench.engine.symmetry import symmetry_of, tensors_of
    from workbench.files.export import export

    model = wb.load("tiny-llama")
    symmetry = symmetry_of(model)
    tensors = symmetry.apply(tensors_of(model), symmetry.random(1))
    mixed = with_tensors(model, tensors, "mixed", estimate=False)
    export(mixed, notebook_folder / "mixed")
    lab.write("language.ipynb", "import workbench as wb\nwb.Bench('tiny-llama')")
    page = lab.open("language.ipynb")
    lab.run_all()
    wait_for_bench(page)
    tab(page, "two networks")
    ask(page, str(notebook_folder / "mixed"))
    page.locator(f"{VIEW} .wb-job", has_text="sweep").wait_for()
    lab.screenshot("alignment-running")
    page.locator(f"{VIEW} .wb-cancel").click()
    page.locator(VIEW, has_text="cancelled").wait_for()
    page.locator(f"{VIEW} button", has_text="align").click()
    drawn(page, "From tiny-llama to mixed")
    said = page.locator(f"{VIEW} .wb-beside-said").first.text_content()
    assert re.search(r"barrier [1-9][\d.]+ → (0|[\d.]+e-\d+) nats", said)
    page.set_viewport_size({"width": 1280, "height": 1500})
    page.wait_for_timeout(1000)
    page.locator(VIEW).evaluate("view => view.scrollIntoView()")
    assert cut(page) == []
    lab.screenshot("alignment-language")
    page.locator(".wb-bench [data-layer='model.embed_tokens']").click()
    drawn(page, "is an embedding")
    assert lab.outputs_errors() == []
