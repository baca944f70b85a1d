"""Spectra at the bench: density and error spectrum of the layer, all layers by depth, and pruning by alpha."""

from __future__ import annotations

import re

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


def curve(page, name: str, *words: str) -> None:
    """Choose the curve, and wait until the plot has all these words."""
    page.locator(".wb-bench .wb-middle .wb-curves button", has_text=re.compile(f"^{name}$")).click()
    page.wait_for_function(
        """words => {
            const text = document.querySelector('.wb-bench .wb-middle .wb-plot')?.textContent;
            return words.every(word => text?.includes(word));
        }""",
        arg=words,
        timeout=60_000,
    )


def test_the_density_and_the_error_of_the_layer(bench):
    page = bench.page
    curve(page, "density", "eigenvalue", "α")
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
    for more in ("MP bulk", "FARMS"):
        page.locator(".wb-bench .wb-tools button", has_text=re.compile(f"^{more}$")).click()
    page.locator(".wb-bench .wb-tools button", has_text=re.compile("^measure$")).click()
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent.includes('open marks')",
        timeout=240_000,
    )
    page.locator(".wb-bench .wb-choosing").scroll_into_view_if_needed()
    bench.screenshot("spectra-layers")
    rows = page.locator(".wb-bench .wb-tried .wb-rows tbody tr")
    rows.nth(4).click()
    page.wait_for_function(
        "() => document.querySelector('.wb-bench .wb-tried .wb-rows tr[aria-selected=true]')?.rowIndex === 6"
    )
    rows.nth(4).scroll_into_view_if_needed()
    bench.screenshot("spectra-table")
    metric = page.locator(".wb-bench .wb-choosing select").first
    assert {"alpha_farms", "num_spikes"} <= set(metric.locator("option").all_text_contents())
    before = page.locator(".wb-bench .wb-tried .wb-plot").first.text_content()
    metric.select_option(label="right_overlap")
    page.wait_for_function(
        "before => document.querySelector('.wb-bench .wb-tried .wb-plot')?.textContent !== before", arg=before
    )
    metric.select_option(label="alpha")
    choose(page, "magnitude")
    settled(page)
    wait_for_error(page, 0.1, 0.9)
    page.locator(".wb-bench .wb-choosing button", has_text="apply by alpha").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.wb-bench .wb-chip').length === 3", timeout=120_000
    )
    bench.screenshot("spectra-by-alpha")
    assert bench.outputs_errors() == []
