"""The methods at the bench: GPTQ with its calibration, methods side by side, sensitivity, a loss curve."""

from __future__ import annotations

import re

import pytest

from .test_bench import number, wait_for_bench, wait_for_error


@pytest.fixture(scope="module")
def bench(new_lab):
    with new_lab() as lab:
        lab.open("00_start.ipynb")
        lab.run_all()
        assert lab.outputs_errors() == []
        wait_for_bench(lab.page)
        yield lab


def choose(page, method: str) -> None:
    """And wait until the kernel has heard of it: the page may hold the message back behind an earlier one, while a
    click on another widget goes ahead. The numbers turn grey then, if only for a moment that polling would miss."""
    chosen = page.locator(".wb-bench .wb-method select")
    if chosen.evaluate("select => select.selectedOptions[0].label") == method:
        return
    settled(page)
    page.locator(".wb-bench .wb-numbers").evaluate(
        """numbers => {
            window.turnedGrey = false;
            new MutationObserver((changes, watcher) => {
                const grey = text => text?.includes("wb-stale");
                window.turnedGrey = grey(numbers.className) || changes.some(change => grey(change.oldValue));
                if (window.turnedGrey) watcher.disconnect();
            }).observe(numbers, { attributeFilter: ["class"], attributeOldValue: true });
        }"""
    )
    chosen.select_option(label=method)
    page.wait_for_function("() => window.turnedGrey", timeout=120_000)


def tab(page, name: str) -> None:
    page.locator(".wb-bench .wb-tried .wb-curves button", has_text=re.compile(f"^{name}$")).click()


def bits_of(page) -> float:
    text = page.locator(".wb-bench .wb-model-numbers").text_content()
    return float(re.search(r"([\d.]+) bits/weight", text).group(1))


def settled(page) -> None:
    page.wait_for_function(
        "() => !document.querySelector('.wb-bench .wb-numbers').classList.contains('wb-stale')",
        timeout=120_000,
    )


def test_gptq_is_calibrated_and_compared_with_rounding_to_nearest(bench):
    page = bench.page
    plain = number(page, "output error")
    choose(page, "gptq")
    page.wait_for_function(
        """() => [...document.querySelectorAll('.wb-bench .wb-numbers th')]
            .some(th => th.textContent === 'vs plain')""",
        timeout=120_000,
    )
    settled(page)
    assert number(page, "output error") < 0.95 * plain
    assert number(page, "vs plain") < -5  # per cent
    bench.screenshot("methods-gptq")


def test_its_convergence_is_a_curve(bench):
    page = bench.page
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text="convergence").click()
    page.wait_for_function(
        """() => document.querySelector('.wb-bench .wb-middle .wb-plot [aria-label], .wb-bench .wb-middle .wb-plot')
              ?.getAttribute('aria-label')?.includes('output error^2') ||
            document.querySelector('.wb-bench .wb-middle .wb-plot')?.textContent.includes('condition')""",
        timeout=60_000,
    )
    bench.screenshot("methods-convergence")
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text=re.compile("^spectrum$")).click()


def test_methods_side_by_side_on_one_scale(bench):
    page = bench.page
    page.locator(".wb-bench .wb-pin").click()  # gptq
    for method in ("rtn", "awq"):
        choose(page, method)
        settled(page)
        page.locator(".wb-bench .wb-pin").click()
    page.wait_for_function(
        """() => document.querySelectorAll('.wb-bench .wb-compare canvas').length >= 3
            && [...document.querySelectorAll('.wb-bench .wb-compare .wb-map')]
                .filter(m => m.dataset.drawn > 0).length >= 3""",
        timeout=120_000,
    )
    captions = page.locator(".wb-bench .wb-compare b").all_text_contents()
    assert [text.split()[0] for text in captions if text][:3] == ["gptq", "rtn", "awq"]
    scales = page.locator(".wb-bench .wb-compare .wb-map-high").all_text_contents()
    assert len({text for text in scales if text}) == 1
    assert all(
        "output error" in text
        for text in page.locator(".wb-bench .wb-compare .widget-html-content").all_text_contents()
    )
    page.locator(".wb-bench .wb-compare").scroll_into_view_if_needed()
    bench.screenshot("methods-compare")


def test_how_loud_the_inputs_are_is_a_view_too(bench):
    page = bench.page
    choose(page, "smoothquant")
    settled(page)
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text="inputs").click()
    page.wait_for_function(
        """() => {
            const text = document.querySelector('.wb-bench .wb-middle .wb-plot')?.textContent ?? '';
            return text.includes('max |x|') && text.includes('after');
        }""",
        timeout=60_000,
    )
    assert "vs plain" not in page.locator(".wb-bench .wb-numbers").text_content()  # it rounds nothing
    page.locator(".wb-bench .wb-middle .wb-plot", has_text="max |w|").scroll_into_view_if_needed()
    whole = page.evaluate(
        """() => {
            const plot = document.querySelector('.wb-bench .wb-middle .wb-plot');
            const last = plot.querySelector('.x2title').getBoundingClientRect();
            return last.bottom <= plot.getBoundingClientRect().bottom;
        }"""
    )
    assert whole
    bench.screenshot("methods-inputs")
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text=re.compile("^spectrum$")).click()


def test_pruners_beside_the_quantizers_show_both_errors(bench):
    page = bench.page
    choose(page, "sparsegpt")
    page.locator(".wb-bench .wb-field-n_m select").select_option(label="2:4")
    page.wait_for_function(
        """() => document.querySelector('.wb-bench .wb-numbers').textContent.includes('sparsity')""",
        timeout=60_000,
    )
    settled(page)
    weight, output = number(page, "relative error"), number(page, "output error")
    assert weight > output
    bench.screenshot("methods-sparsegpt")
    choose(page, "rtn")
    wait_for_error(page, 0.05, 0.15)


def test_sensitivity_is_measured_and_buys_a_recipe(bench):
    page = bench.page
    tab(page, "sensitivity")
    page.locator(".wb-bench .wb-tools button", has_text=re.compile("^measure$")).click()
    page.wait_for_function(
        """() => document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent.includes('KL, nats')
            && document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent.includes('rtn 2')""",
        timeout=240_000,
    )
    page.locator(".wb-bench .wb-tools").scroll_into_view_if_needed()
    bench.screenshot("methods-sensitivity")
    chips = page.locator(".wb-bench .wb-chip").count()
    page.locator(".wb-bench .wb-tools button", has_text="apply bits").click()
    page.wait_for_function(
        "n => document.querySelectorAll('.wb-bench .wb-chip').length === n + 1", arg=chips, timeout=120_000
    )
    assert 3.5 < bits_of(page) <= 4.0


def test_selected_bars_get_the_method_that_is_chosen_for_them(bench):
    page = bench.page
    said = page.locator(".wb-bench .wb-tools")
    page.locator(".wb-bench .wb-tools select").select_option(label="rtn 8 g64")
    said.get_by_text("give to selected").click()
    said.get_by_text("no layer is selected").wait_for()
    plot = page.locator(".wb-bench .wb-tried .wb-plot .nsewdrag").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 3)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 60, steps=8)
    page.mouse.up()
    said.get_by_text(re.compile(r"^\d+ layers selected")).wait_for()
    said.get_by_text("give to selected").click()
    text = said.get_by_text(re.compile(r"bits per weight, sum of KL")).text_content()
    assert float(text.split()[0]) > 4.0  # beyond the budget: a person may
    bench.screenshot("methods-selected")
    tab(page, "tried")
