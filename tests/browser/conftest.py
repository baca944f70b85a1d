"""JupyterLab and Voila in a real Chromium. One server and one browser serve all tests; each test has its own page.

    def test_it(lab):
        page = lab.open("00_start.ipynb")      # a copy; the kernel is idle, nothing has run
        lab.run_all()
        assert lab.outputs_errors() == []
        page.locator(...)                      # playwright's own page

Every request to another machine is aborted and fails the test at its end: that is the promise to work offline, as
a test. Without a browser the tests are skipped with one line, or fail where CI=true.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "tests" / "artifacts"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
MAC_BROWSERS = tuple(
    f"/Applications/{name}.app/Contents/MacOS/{name}"
    for name in ("Chromium", "Google Chrome", "Microsoft Edge")
)
BROWSER_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --force-device-scale-factor=1 "
    "--force-color-profile=srgb"
).split()
LOOPBACK = r"(127\.0\.0\.1|localhost|\[::1\])[:/]"
FOREIGN = re.compile(rf"^(https?|wss?)://(?!{LOOPBACK})")
# Voila's page template asks a CDN for icons; drawing and events do without them.
VOILA_ICONS = re.compile(r"font-?awesome")
SETTINGS = {
    # Cells out of sight stay in the DOM, where a test can look at them.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.when == "call":
        item.stash[FAILED] = report.failed
    return report


FAILED = pytest.StashKey[bool]()


# Servers


@contextlib.contextmanager
def serving(command: list[str], port: int, health: str, home: Path) -> Iterator[str]:
    """Run a server in a throw-away home, yield its address once `health` answers 200, end it by its own pid."""
    home.mkdir(parents=True, exist_ok=True)
    folders = "HOME JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR"
    folders += " JUPYTERLAB_SETTINGS_DIR JUPYTERLAB_WORKSPACES_DIR"
    environment = os.environ | {name: str(home / name.lower()) for name in folders.split()}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for name in folders.split():
        Path(environment[name]).mkdir(exist_ok=True)
    for name, values in SETTINGS.items():
        file = home / "jupyterlab_settings_dir" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    log = home / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=home)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 180
        while not _answers(address + health):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"no server at {address}: {' '.join(command)}\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody who asks for any: kernels, which take five each,
    could otherwise have it before the server does. Another run of these tests begins its search elsewhere."""
    first = 10_000 + os.getpid() % 20_000
    for port in range(first, first + 1000):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port from {first} to {first + 999}")


def write_notebook(path: Path, *cells: str, run_on_open: bool = False) -> Path:
    """A notebook of code cells for this environment's kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    return _write(path, notebook, run_on_open)


def _write(path: Path, notebook: Any, run_on_open: bool) -> Path:
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["workbench"] = {"run_on_open": run_on_open}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    return path


# Pages


class Tab:
    """One page of the browser, with its own context; remembers every request to another machine."""

    def __init__(self, browser, tolerated: re.Pattern[str] | None = None):
        self.foreign: list[str] = []
        self.console: list[str] = []
        self.tolerated = tolerated
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 720},
            service_workers="block",  # their requests would pass by the route below
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.route(FOREIGN, self._refuse)
        self.context.route_web_socket(FOREIGN, self._refuse_socket)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.console.append(f"pageerror: {error}"))

    def _refuse(self, route) -> None:
        if not (self.tolerated and self.tolerated.search(route.request.url)):
            self.foreign.append(route.request.url)
        route.abort()

    def _refuse_socket(self, socket) -> None:
        self.foreign.append(socket.url)
        socket.close()

    def screenshot(self, name: str) -> Path:
        """A picture for people, tests/artifacts/NAME.png."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTIFACTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def close(self) -> None:
        self.context.close()
        assert not self.foreign, f"the page asked other machines for {sorted(set(self.foreign))}"


class Lab(Tab):
    """A page with JupyterLab; `folder` is what the server serves, a copy of notebooks/ without outputs."""

    _count = itertools.count()

    def __init__(self, browser, address: str, folder: Path):
        super().__init__(browser)
        self.address, self.folder = address, folder
        self.workspace = f"page{next(self._count)}"  # no tab of another test comes back

    def write(self, name: str, *cells: str, run_on_open: bool = False) -> str:
        """Make a notebook of code cells to open; returns its name."""
        return write_notebook(self.folder / name, *cells, run_on_open=run_on_open).name

    def open(self, name: str, *, run_on_open: bool = False):
        """Show a notebook and wait for its idle kernel; with `run_on_open` as `make lab` does, until it has run."""
        path = self.folder / name
        notebook = nbformat.read(path, as_version=4)
        if run_on_open != notebook.metadata.get("workbench", {}).get("run_on_open", False):
            _write(path, notebook, run_on_open)
        self.page.goto(f"{self.address}/lab/workspaces/{self.workspace}/tree/{name}")
        self.wait_idle(name)
        if run_on_open:
            self.wait_run()
        return self.page

    def wait_idle(self, name: str | None = None, timeout: float = 90) -> None:
        """Until the current notebook is loaded and its kernel has nothing to do."""
        self.page.wait_for_function(
            """name => {
                const panel = window.jupyterapp?.shell.currentWidget;
                return panel?.context?.isReady && (!name || panel.context.path === name)
                    && panel.sessionContext?.session?.kernel?.status === "idle";
            }""",
            arg=name,
            timeout=1000 * timeout,
        )

    def wait_run(self, timeout: float = 240) -> None:
        """Until every code cell has been executed (or one has failed), and the notebook is saved."""
        self.page.wait_for_function(
            """() => {
                const panel = window.jupyterapp.shell.currentWidget;
                const cells = panel.content.model.sharedModel.cells
                    .map(cell => cell.toJSON()).filter(cell => cell.cell_type === "code" && cell.source);
                const failed = cells.some(cell => cell.outputs.some(output => output.output_type === "error"));
                const idle = panel.sessionContext.session?.kernel?.status === "idle";
                return idle && (failed || cells.every(cell => cell.execution_count) && !panel.context.model.dirty);
            }""",
            timeout=1000 * timeout,
        )

    def run_all(self, timeout: float = 240) -> None:
        """Run All Cells; returns when the last has ended. Ask outputs_errors() how it went."""
        self.command("notebook:run-all-cells", timeout=timeout)
        self.wait_idle(timeout=timeout)

    def command(self, id: str, args: dict[str, Any] | None = None, timeout: float = 60) -> None:
        """Execute a command of JupyterLab (what its menus do) and wait for its end."""
        self.page.evaluate(
            """([id, args]) => {
                window.commandEnd = null;
                window.jupyterapp.commands.execute(id, args).then(
                    () => { window.commandEnd = "done"; }, error => { window.commandEnd = String(error); });
            }""",
            [id, args or {}],
        )
        self.page.wait_for_function("() => window.commandEnd", timeout=1000 * timeout)
        end = self.page.evaluate("window.commandEnd")
        assert end == "done", f"{id}: {end}"

    def cells(self) -> list[dict[str, Any]]:
        """The current notebook's cells with their outputs, as nbformat has them."""
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells.map(cell => cell.toJSON())"
        )

    def outputs_errors(self) -> list[str]:
        """Every error in the outputs, from the notebook's model: a traceback may be drawn in many ways."""
        outputs = [output for cell in self.cells() for output in cell.get("outputs", [])]
        return [f"{out['ename']}: {out['evalue']}" for out in outputs if out["output_type"] == "error"]

    def save(self) -> None:
        self.command("docmanager:save")

    def reload(self) -> None:
        """Save and load the page again: outputs come back from the file, widgets from the kernel."""
        self.save()
        name = self.page.evaluate("window.jupyterapp.shell.currentWidget.context.path")
        self.page.reload()
        self.wait_idle(name)

    def close(self) -> None:
        if not self.page.is_closed():
            # Kernels outlive pages; with torch in each of them the machine would soon be full.
            self.page.evaluate(
                """() => Promise.all([...(window.jupyterapp?.shell.widgets("main") ?? [])]
                    .map(widget => widget.sessionContext?.shutdown()))"""
            )
        super().close()

    def theme(self, name: str) -> None:
        """ "JupyterLab Light" or "JupyterLab Dark"."""
        self.command("apputils:change-theme", {"theme": name})

    def press(self, handle: str, key: str, times: int = 1) -> None:
        """Focus what the selector finds first (a slider: ".noUi-handle") and press a key on it."""
        self.page.locator(handle).first.focus()
        for _ in range(times):
            self.page.keyboard.press(key)


# Fixtures


def _browser_path(playwright) -> str | None:
    """A Chromium of the system, $BROWSER_PATH before all, or the one that `playwright install` has brought."""
    found = [os.environ.get("BROWSER_PATH"), *map(shutil.which, BROWSERS), *MAC_BROWSERS]
    found.append(playwright.chromium.executable_path)
    return next((path for path in found if path and Path(path).is_file()), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, started once."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: make test brings it"
    )
    with sync_api.sync_playwright() as playwright:
        path = _browser_path(playwright)
        if path is None:
            line = "no Chromium or Chrome found (apt install chromium, or set BROWSER_PATH): browser tests not run"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(line)
        chromium = playwright.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def notebook_folder(tmp_path_factory) -> Path:
    """A copy of notebooks/ without outputs, with all else that lies in it."""
    folder = tmp_path_factory.mktemp("served") / "notebooks"
    ignored = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
    shutil.copytree(ROOT / "notebooks", folder, ignore=ignored)
    for path in folder.rglob("*.ipynb"):
        _write(path, nbformat.read(path, as_version=4), run_on_open=False)
    return folder


@pytest.fixture(scope="session")
def lab_server(browser, notebook_folder, tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab that was started as `workbench lab` starts it."""
    port = free_port()
    blank = write_notebook(notebook_folder / "blank.ipynb")
    start = "import sys; from workbench.widgets.lab import open_lab; "
    start += "sys.exit(open_lab(sys.argv[1], browser=False, port=int(sys.argv[2]), extra_args=sys.argv[3:]))"
    more = ["--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1", "--LabApp.expose_app_in_browser=True"]
    command = [sys.executable, "-c", start, str(blank), str(port), *more]
    with serving(command, port, "/api/status", tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.fixture(scope="session")
def new_lab(browser, lab_server, notebook_folder) -> Callable[[], contextlib.AbstractContextManager[Lab]]:
    """`with new_lab() as lab:` for a page that several tests share, in a fixture of theirs with a wider scope."""

    @contextlib.contextmanager
    def make() -> Iterator[Lab]:
        lab = Lab(browser, lab_server, notebook_folder)
        with contextlib.closing(lab):
            yield lab

    return make


@pytest.fixture
def lab(new_lab, request) -> Iterator[Lab]:
    """A page of JupyterLab for one test; where the test fails its picture is kept."""
    with new_lab() as lab:
        yield lab
        if request.node.stash.get(FAILED, False):
            lab.screenshot(f"{request.node.name}-failed")
            print(
                f"last lines of the browser's console, picture in {ARTIFACTS}:", *lab.console[-20:], sep="\n"
            )


@pytest.fixture
def voila(browser, notebook_folder, tmp_path_factory) -> Iterator[Callable[[str], Tab]]:
    """voila("NAME.ipynb") serves the notebook with Voila and gives the tab whose page shows it."""
    with contextlib.ExitStack() as stack:

        def serve(name: str) -> Tab:
            port = free_port()
            command = [
                sys.executable,
                "-m",
                "voila",
                str(notebook_folder / name),
                f"--port={port}",
                "--no-browser",
            ]
            command += ["--Voila.ip=127.0.0.1", "--show_tracebacks=True"]
            home = tmp_path_factory.mktemp("voila")
            address = stack.enter_context(serving(command, port, "/voila/static/voila.js", home))
            tab = stack.enter_context(contextlib.closing(Tab(browser, tolerated=VOILA_ICONS)))
            tab.page.goto(address, timeout=240_000)  # the page is complete when the notebook has run
            return tab

        yield serve
