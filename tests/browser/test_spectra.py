"""Spectra at the bench: density and error spectrum of the layer, all layers by depth, and pruning by alpha."""

from __future__ import annotations

import pytest

from .test_bench import wait_for_bench, wait_for_error
from .test_methods import choose, settled, tab


@pytest.fixture(scope="module")
def bench(new_lab):
    with new_lab() as lab:
        lab.open("00_start.ipynb")
        lab.run_all()
        assert lab.outputs_errors() == []
        wait_for_bench(lab.page)
        yield lab


def curve(page, name: str, words: str) -> None:
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text=name).click()
    page.wait_for_function(
        "words => document.querySelector('.wb-bench .wb-middle .wb-plot')?.textContent.includes(words)",
        arg=words,
        timeout=60_000,
    )


def test_the_density_and_the_error_of_the_layer(bench):
    page = bench.page
    curve(page, "density", "eigenvalue")
    assert "α" in page.locator(".wb-bench .wb-middle .wb-plot").text_content()
    bench.screenshot("spectra-density")
    curve(page, "error spectrum", "share left")
    bench.screenshot("spectra-error")
    buttons = page.locator(".wb-bench .wb-middle .wb-curves button")
    boxes = [buttons.nth(i).bounding_box() for i in range(buttons.count())]
    frame = page.locator(".wb-bench .wb-middle").bounding_box()
    assert all(box["x"] + box["width"] <= frame["x"] + frame["width"] + 1 for box in boxes)


def test_all_layers_before_and_after_and_a_recipe_from_alpha(bench):
    page = bench.page
    page.locator(".wb-bench .wb-apply", has_text="Apply").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.wb-bench .wb-chip').length === 2", timeout=120_000
    )
    tab(page, "spectra")
    page.locator(".wb-bench .wb-tools button", has_text="measure").click()
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent.includes('open marks')",
        timeout=240_000,
    )
    page.locator(".wb-bench .wb-tools").scroll_into_view_if_needed()
    bench.screenshot("spectra-layers")
    page.locator(".wb-bench .wb-tools select").first.select_option(label="right_overlap")
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent.includes('right_overlap')"
    )
    page.locator(".wb-bench .wb-tools select").first.select_option(label="alpha")
    choose(page, "magnitude")
    settled(page)
    wait_for_error(page, 0.1, 0.9)
    page.locator(".wb-bench .wb-tools button", has_text="apply by alpha").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.wb-bench .wb-chip').length === 3", timeout=120_000
    )
    bench.screenshot("spectra-by-alpha")
    assert bench.outputs_errors() == []
