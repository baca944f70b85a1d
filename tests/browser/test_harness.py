"""The harness itself: a slider moves, a notebook runs once at its first opening, other machines are out of reach."""

from __future__ import annotations

import pytest

SLIDER = """
import ipywidgets as w
slider = w.IntSlider(value=4, min=2, max=8, description="bits")
label = w.Label("bits are 4")
slider.observe(lambda change: setattr(label, "value", f"bits are {change['new']}"), "value")
w.VBox([slider, label])
"""


def says(page, text: str) -> None:
    """Wait for the label below the slider to say `text`."""
    page.locator(".widget-label", has_text=text).wait_for()


def test_keys_on_a_slider_reach_the_kernel_and_come_back(lab):
    page = lab.open(lab.write("slider.ipynb", SLIDER))
    assert [cell["outputs"] for cell in lab.cells()] == [[]], "nothing runs that was not asked for"
    lab.run_all()
    assert lab.outputs_errors() == []
    says(page, "bits are 4")
    lab.press(".noUi-handle", "ArrowRight", times=3)
    says(page, "bits are 7")
    lab.screenshot("harness-slider")


def test_an_error_in_a_cell_is_seen(lab):
    lab.open(lab.write("error.ipynb", "1 / 0"))
    lab.run_all()
    assert lab.outputs_errors() == ["ZeroDivisionError: division by zero"]


def test_a_notebook_that_asks_for_it_runs_once_when_opened(lab):
    lab.write(
        "first.ipynb", SLIDER, "runs = globals().get('runs', 0) + 1\nprint('runs', runs)", run_on_open=True
    )
    page = lab.open("first.ipynb", run_on_open=True)
    says(page, "bits are 4")
    lab.press(".noUi-handle", "ArrowRight")
    says(page, "bits are 5")

    # The kernel has run: a reload shows its state and runs nothing.
    page.reload()
    lab.wait_idle("first.ipynb")
    says(page, "bits are 5")
    page.wait_for_timeout(1500)
    assert [cell["execution_count"] for cell in lab.cells()] == [1, 2]
    assert lab.cells()[1]["outputs"][0]["text"] == "runs 1\n"
    lab.screenshot("harness-run-on-open")


def test_a_notebook_that_does_not_ask_is_left_alone(lab):
    page = lab.open(lab.write("quiet.ipynb", "print('ran')"))
    page.wait_for_timeout(1500)
    assert [cell["execution_count"] for cell in lab.cells()] == [None]


def test_a_request_to_another_machine_fails_the_test(lab):
    page = lab.open(lab.write("foreign.ipynb", "1"))
    page.evaluate("fetch('http://elsewhere.invalid/x.js').catch(() => null)")
    page.evaluate("new Promise(end => { new WebSocket('ws://elsewhere.invalid/').onclose = end })")
    assert lab.foreign == ["http://elsewhere.invalid/x.js", "ws://elsewhere.invalid/"]
    lab.foreign.append("so that close() has something to say")
    with pytest.raises(AssertionError, match="elsewhere"):
        lab.close()
    lab.foreign.clear()


def test_voila_shows_the_same_notebook(voila, lab):
    tab = voila(lab.write("slider.ipynb", SLIDER))
    says(tab.page, "bits are 4")
    tab.page.locator(".noUi-handle").first.focus()
    tab.page.keyboard.press("ArrowRight")
    says(tab.page, "bits are 5")
    tab.screenshot("harness-voila")


def test_a_fresh_kernel_runs_code_apart_from_the_page(fresh_kernel):
    assert fresh_kernel("print(6 * 7)") == "42\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        fresh_kernel("1 / 0")


def test_the_printed_address_leads_to_the_notebook_and_nothing_pops_up(lab):
    lab.page.goto(lab.address)
    lab.wait_idle("blank.ipynb")
    lab.page.wait_for_url("**/lab/tree/blank.ipynb")
    lab.page.wait_for_timeout(3000)  # JupyterLab asks about news and updates after a while
    assert lab.page.locator(".Toastify__toast").count() == 0
