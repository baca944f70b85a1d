"""The kernel lab in the browser: an error on its line, machine code beside the source, a lost barrier found."""

from __future__ import annotations

import time

import pytest

from workbench.speed import kernels, nvrtc
from workbench.speed.sass import NoDisassembler, find_nvdisasm

from .test_bench import wait_for_none

LAB = ".wb-kernel-lab"
STATE = ".wb-kernel-status[data-state={}]"
TEXT = ".wb-source textarea"


@pytest.fixture(scope="module")
def lab(new_lab):
    """One page for all tests here; each leaves the shipped source."""
    try:
        nvrtc.find_nvrtc()
        find_nvdisasm()
    except (nvrtc.NoCompiler, NoDisassembler) as error:
        pytest.skip(str(error))
    with new_lab() as lab:
        lab.write("kernel.ipynb", "import workbench as wb\nwb.KernelLab('fp32_tiled')")
        lab.open("kernel.ipynb")
        lab.run_all()
        assert lab.outputs_errors() == []
        lab.page.set_viewport_size({"width": 1280, "height": 900})
        compiled(lab.page)
        yield lab


def compiled(page) -> None:
    page.locator(STATE.format("ok")).wait_for()
    page.locator(".wb-sass .wb-row[data-line]").first.wait_for()


def edit(page, before: str, after: str) -> None:
    """Select the first place of `before` in the editor and type `after` over it."""
    page.locator(TEXT).evaluate(
        """(area, before) => {
            const at = area.value.indexOf(before);
            if (at < 0) throw new Error(`not in the source: ${before}`);
            area.focus();
            area.setSelectionRange(at, at + before.length);
        }""",
        before,
    )
    page.keyboard.press("Delete") if not after else page.keyboard.insert_text(after)


def reset(page) -> None:
    page.locator(".wb-kernel-reset").click()
    page.wait_for_function("() => document.querySelector('.wb-kernel-reset').disabled")
    compiled(page)


def tab(page, name: str) -> None:
    page.locator(f"{LAB} .wb-lab-tabs button", has_text=name).click()


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(kernels()["fp32_tiled"].source.split("\n"), 1) if text in line)


def into_view(page) -> None:
    page.locator(LAB).evaluate("lab => lab.scrollIntoView()")


def test_an_error_stands_on_its_line_and_goes_with_it(lab):
    page, line = lab.page, line_of("sum +=")
    into_view(page)
    edit(page, "sum +=", "summ +=")
    page.locator(STATE.format("error")).wait_for()
    number = page.locator(".wb-lines .wb-line").nth(line - 1)
    assert "wb-error" in number.get_attribute("class")
    message = page.locator(".wb-inline .wb-error").first.text_content()
    assert "summ" in message
    box, pane = (
        page.locator(".wb-inline .wb-error").first.bounding_box(),
        page.locator(".wb-source").bounding_box(),
    )
    assert pane["x"] < box["x"] < box["x"] + box["width"] <= pane["x"] + pane["width"]
    assert box["width"] > 60
    assert message in page.locator(".wb-kernel-messages li").first.text_content()
    page.locator(".wb-kernel-messages button").first.click()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    lab.screenshot("kernel-lab-error")
    edit(page, "summ +=", "sum +=")
    compiled(page)
    assert page.locator(".wb-lines .wb-error").count() == 0
    assert page.locator(".wb-kernel-reset").is_disabled()


def test_typing_stays_in_the_editor(lab):
    page = lab.page
    page.locator(TEXT).evaluate(
        "area => { area.focus(); area.setSelectionRange(area.value.length, area.value.length); }"
    )
    page.keyboard.type("// dd a x", delay=5)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("int dd;", delay=5)
    assert page.locator(TEXT).input_value().endswith("// dd a x\n    int dd;")
    assert len(lab.cells()) == 1  # dd is JupyterLab's own command for deleting a cell
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    assert "wb-sass" in page.evaluate("document.activeElement.className")
    reset(page)


def test_hover_lights_up_the_other_side(lab):
    page, line = lab.page, line_of("sum +=")
    into_view(page)
    row = page.locator(f".wb-sass .wb-row[data-line='{line}']").first
    row.scroll_into_view_if_needed()
    row.hover()
    page.wait_for_function("n => document.querySelector('.wb-kernel').dataset.line === String(n)", arg=line)
    assert "wb-on" in page.locator(".wb-lines .wb-line").nth(line - 1).get_attribute("class")
    text = page.locator(TEXT).bounding_box()
    barrier = line_of("__syncthreads()")
    page.mouse.move(text["x"] + 60, text["y"] + 16 * barrier - 8)
    page.wait_for_function(
        "n => document.querySelector('.wb-kernel').dataset.line === String(n)", arg=barrier
    )
    lit = page.locator(".wb-sass .wb-on code").all_text_contents()
    assert lit
    assert any(code.startswith("BAR.SYNC") for code in lit)
    lab.screenshot("kernel-lab-hover")
    # and by keyboard: arrows walk the instructions, the source follows
    page.locator(".wb-sass").focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    selected = page.locator(".wb-sass [aria-selected=true]")
    assert selected.count() == 1
    assert page.locator(".wb-kernel").get_attribute("data-line") == selected.get_attribute("data-line")


def test_a_lost_barrier_is_found_by_the_schedules(lab):
    page = lab.page
    tab(page, "schedules")
    into_view(page)
    page.locator(f"{LAB} td", has_text="passed").nth(4).wait_for()
    edit(page, "__syncthreads();  // both tiles are whole before anyone reads them", "")
    page.locator(f"{LAB} td", has_text="failed").nth(4).wait_for()
    assert "NaN" in page.locator(f"{LAB} .wb-lab-table").first.text_content()
    lab.screenshot("kernel-lab-schedules")
    reset(page)
    page.locator(f"{LAB} td", has_text="passed").nth(4).wait_for()
    page.locator(f"{LAB} button", has_text="Leave out each").click()
    page.locator(f"{LAB}", has_text="2 of 2 synchronisations are needed").wait_for()


def test_a_write_out_of_bounds_names_block_and_thread(lab):
    page = lab.page
    tab(page, "schedules")
    edit(page, "if (row < M && column < N) C[", "C[")
    page.locator(f"{LAB} td", has_text="thread (").first.wait_for()
    lab.screenshot("kernel-lab-bounds")
    reset(page)


@pytest.mark.parametrize("name", ["instructions", "occupancy", "roofline", "ladder"])
def test_every_figure_is_drawn(lab, name):
    page = lab.page
    tab(page, name)
    page.wait_for_function("() => document.querySelector('.wb-kernel-lab .wb-plot')?.dataset.drawn > 0")
    if name == "roofline":
        page.locator(f"{LAB} .wb-lab-body select").select_option(label="NVIDIA H200 (data sheet)")
    page.wait_for_timeout(1500)
    into_view(page)
    page.locator(f"{LAB} .wb-plot").evaluate("plot => plot.scrollIntoView({ block: 'end' })")
    page.wait_for_timeout(300)
    lab.screenshot(f"kernel-lab-{name}")
    assert page.locator(f"{LAB} .wb-plot").get_attribute("aria-label")


def test_another_rung_of_another_ladder_with_thousands_of_instructions(lab):
    page = lab.page
    tab(page, "instructions")
    page.locator(f"{LAB} select").first.select_option(label="tensor 4: bf16_mma_stages")
    page.locator(".wb-kernel-name", has_text="bf16_mma_stages").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.wb-sass .wb-row[data-line]').length > 1000")
    page.locator(STATE.format("ok")).wait_for()
    into_view(page)
    rows = page.locator(".wb-sass .wb-row[data-line] code", has_text="HMMA")
    rows.first.scroll_into_view_if_needed()
    began = time.monotonic()
    rows.first.hover()
    page.wait_for_function("() => document.querySelectorAll('.wb-sass .wb-on').length > 8")
    seconds = time.monotonic() - began
    print(f"\nhover to highlight among thousands of instructions: {1000 * seconds:.0f} ms")
    assert seconds < 3
    lab.screenshot("kernel-lab-tensor")
    page.locator(f"{LAB} select").first.select_option(label="fp32 3: fp32_tiled")
    page.locator(".wb-kernel-name", has_text="fp32_tiled").wait_for()
    compiled(page)


def test_times_are_a_job_and_come_back_as_a_table(lab):
    page = lab.page
    field = page.locator(f"{LAB} input[type=text]").first
    field.fill("64x64x64")
    field.press("Enter")
    tab(page, "times")
    page.locator(f"{LAB} .wb-lab-body select").select_option(label="the CPU's kernels")
    page.locator(f"{LAB} button", has_text="Measure").click()
    page.locator(f"{LAB} .wb-lab-table td", has_text="cpu-register-tiled").wait_for(timeout=120_000)
    into_view(page)
    page.locator(f"{LAB} .wb-lab-table").evaluate("table => table.scrollIntoView({ block: 'center' })")
    lab.screenshot("kernel-lab-times")
    tab(page, "ladder")
    page.locator(f"{LAB} .wb-lab-body select").select_option(label="cpu")
    page.wait_for_function(
        "() => document.querySelector('.wb-kernel-lab .wb-plot').textContent.includes('measured here')"
    )
    lab.screenshot("kernel-lab-cpu-ladder")
    field.fill("1024x1024x1024")
    field.press("Enter")
    compiled(page)


def test_the_code_that_is_copied_makes_it_again(lab):
    page = lab.page
    into_view(page)
    edit(page, "constexpr int TILE = 32;", "constexpr int TILE = 16;")
    page.wait_for_function("() => !document.querySelector('.wb-kernel-reset').disabled")
    compiled(page)
    until, code = time.monotonic() + 60, ""
    while "TILE = 16" not in code and time.monotonic() < until:  # the code is a message of its own
        page.locator(".wb-kernel-code").click()
        page.wait_for_function("() => document.querySelector('.wb-kernel-code').textContent === 'Copied'")
        code = page.evaluate("navigator.clipboard.readText()")
    made: dict = {}
    exec(code, made)
    assert made["lab"].source == page.locator(TEXT).input_value()
    assert made["lab"].kernel.constants["TILE"] == 16
    reset(page)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_nothing_is_cut_off_at_1280_pixels(lab, theme):
    page = lab.page
    tab(page, "instructions")
    lab.theme(f"JupyterLab {theme}")
    page.wait_for_timeout(1500)
    into_view(page)
    lab.screenshot(f"kernel-lab-1280-{theme.lower()}")
    wait_for_none(
        page,
        """() => {
            const lab = document.querySelector('.wb-kernel-lab'), right = lab.getBoundingClientRect().right + 0.5;
            return [...lab.querySelectorAll('button, select, .wb-resource, .widget-label, th')]
                .filter(e => e.offsetParent && !e.closest('.modebar'))
                .filter(e => e.getBoundingClientRect().right > right || e.scrollWidth > e.clientWidth + 1)
                .filter(e => getComputedStyle(e).display !== 'inline')
                .map(e => `${e.className}: ${e.textContent}`);
        }""",
    )
    lab.theme("JupyterLab Light")


def test_the_bench_opens_it_at_the_layers_shape(new_lab):
    with new_lab() as lab:
        lab.write("bench_speed.ipynb", "import workbench as wb\nwb.Bench('tiny-llama')")
        page = lab.open("bench_speed.ipynb")
        lab.run_all()
        page.locator(".wb-bench .wb-curves button", has_text="speed").first.click()
        page.locator(".wb-bench .wb-speed", has_text="CUDA kernel for this grid: w4_mma_16").wait_for()
        page.locator(".wb-bench .wb-speed button", has_text="Kernel lab").click()
        page.locator(f".wb-bench {STATE.format('ok')}").wait_for()
        shape = page.locator(f".wb-bench {LAB} input[type=text]").first.input_value()
        assert shape.startswith("16x")
        assert "w4_mma_16" in page.locator(f".wb-bench {LAB} select").first.evaluate(
            "s => s.selectedOptions[0].text"
        )
        page.wait_for_function(
            "() => document.querySelector('.wb-bench .wb-source').scrollTop > 100"
        )  # at the code
        page.locator(f".wb-bench {LAB}").evaluate("lab => lab.scrollIntoView()")
        page.wait_for_timeout(800)
        lab.screenshot("kernel-lab-in-bench")


SPEED = ".wb-bench .wb-speed"
ROW = f"{SPEED} .wb-speed-table tr"


@pytest.fixture(scope="module")
def bench(new_lab):
    """A bench with the speed tab open; nothing was compiled before."""
    with new_lab() as lab:
        lab.write("bench_layer.ipynb", "import workbench as wb\nwb.Bench('tiny-llama')")
        lab.open("bench_layer.ipynb")
        lab.run_all()
        lab.page.locator(".wb-bench .wb-curves button", has_text="speed").first.click()
        yield lab


@pytest.mark.parametrize("width", [1000, 1280, 1400])
def test_no_button_of_the_speed_tab_is_cut_off(bench, width):
    page = bench.page
    page.set_viewport_size({"width": width, "height": 900})
    page.locator(SPEED).evaluate("view => view.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(800)
    bench.screenshot(f"speed-tab-{width}")
    wait_for_none(
        page,
        """() => {
            const view = document.querySelector('.wb-bench .wb-speed');
            const right = view.getBoundingClientRect().right + 0.5;
            return [...view.querySelectorAll('button, input, select, .widget-label')].filter(e => e.offsetParent)
                .filter(e => e.getBoundingClientRect().right > right || e.scrollWidth > e.clientWidth + 1)
                .map(e => `${e.className}: ${e.textContent}`);
        }""",
    )


@pytest.mark.slow
def test_a_compressed_layer_is_run_and_what_is_known_appears_at_once(bench):
    page = bench.page
    page.set_viewport_size({"width": 1280, "height": 900})
    batch = page.locator(f"{SPEED} .wb-speed-batch input")
    batch.fill("8")
    batch.press("Enter")
    page.locator(SPEED, has_text="batch 8").wait_for()
    page.locator(f"{SPEED} button", has_text="Run layer").click()
    page.locator(f"{SPEED} .wb-job", has_text="cpu-w4-").wait_for()  # what is compiled has a name
    page.locator(ROW, has_text="cpu-w4-lut").first.wait_for()
    page.locator(f"{SPEED} button:not([disabled])", has_text="Run layer").wait_for()
    heads = page.locator(f"{SPEED} .wb-speed-table th").all_text_contents()
    assert heads[-2:] == ["kernel error", "weight error"]
    cells = page.locator(ROW, has_text="cpu-w4-lut").first.locator("td").all_text_contents()
    assert cells[1] == "C++, planes"
    assert float(cells[-2]) < 0.02 < float(cells[-1])
    bench.screenshot("speed-tab-layer")
    wait_for_none(  # both errors are in sight
        page,
        """() => {
            const view = document.querySelector('.wb-bench .wb-speed'), right = view.getBoundingClientRect().right;
            return [...view.querySelectorAll('table, td, th, div')].filter(e => e.offsetParent)
                .filter(e => e.getBoundingClientRect().right > right + 1)
                .map(e => `${e.tagName} ${e.className} ${e.getBoundingClientRect().right - right}: ${e.textContent}`);
        }""",
    )


@pytest.mark.slow
def test_a_cancel_keeps_the_rows_that_are_known(bench):
    page = bench.page
    page.locator(f"{SPEED} button", has_text="CUDA kernels").click()
    page.locator(ROW, has_text="registers").first.wait_for()
    bench.screenshot("speed-tab-running")
    page.locator(f"{SPEED} button", has_text="Cancel").click()
    page.locator(SPEED, has_text="cancelled; what was known by then is below").wait_for()
    assert page.locator(ROW, has_text="registers").count() > 0
    bench.screenshot("speed-tab-cancelled")
