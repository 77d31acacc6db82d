"""A real JupyterLab in a real Chromium, for tests/test_browser.py.

The book is copied (notebooks, library and figures, beside links to what is only read), so that nothing that runs there
writes into the repository; the server has a HOME and settings of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    # Every cell stays in the page, wherever it is scrolled to.
    "notebook-extension/tracker": {"windowingMode": "none"},
    # Nothing is asked of the network.
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
BADGE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"><rect width="117" height="20" fill="#777"/></svg>'
)
PATIENCE = 300_000  # milliseconds for a chapter to run, on a busy machine


def copy_book(folder: Path) -> None:
    """What a chapter needs to run, in a folder of its own."""
    unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("notebooks", "ssd_lib", "figures"):
        shutil.copytree(ROOT / name, folder / name, ignore=unwanted)
    for name in ("data", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Serve a folder on 127.0.0.1; yields the address. Raises RuntimeError with the log where the server does not start."""
    home = folder.parent / "home"
    for name, settings in SETTINGS.items():
        path = home / "config/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"HOME": "", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    environment = os.environ | {name: str(home / part) for name, part in own.items()}
    environment |= {"MPLCONFIGDIR": matplotlib.get_configdir(), "OMP_NUM_THREADS": "1", "SSD_DATA": str(ROOT / "data")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    log = home / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for(address: str, server: subprocess.Popen[Any], log: Path, seconds: float = 60) -> None:
    """Return as soon as the server answers. Raises RuntimeError with the end of its log where it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not answer at {address}:\n{log.read_text()[-3000:]}")


IN_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install -y chromium"),
]
"""The marks of every test that opens one."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium. Raises RuntimeError where none is installed."""
    if CHROMIUM is None:
        raise RuntimeError("no Chromium here: apt-get install -y chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Notebook:
    """A chapter open in JupyterLab. `errors` gathers what the page's console, scripts and requests complained about."""

    def __init__(self, browser: Browser, address: str, path: str, width: int = 1200, height: int = 1200):
        self.errors: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: self._console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.errors.append(f"script: {error}"))
        self.page.on("response", self._response)
        self.page.route(re.compile(r"^https?://(?!127\.0\.0\.1[:/])"), self._outside)
        self.page.goto(f"{address}/doc/tree/{path}")
        self.page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady", timeout=60_000)
        self.wait_until_idle()

    def _console(self, kind: str, text: str) -> None:
        if kind == "error":
            self.errors.append(f"console: {text}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.errors.append(f"request: {response.status} {response.url}")

    def _outside(self, route: Any) -> None:
        """The badge over every chapter is the only thing that may come from elsewhere; here it is a picture of our own."""
        if route.request.url.endswith("/colab-badge.svg"):
            route.fulfill(content_type="image/svg+xml", body=BADGE)
        else:
            self.errors.append(f"asked the network: {route.request.url}")
            route.abort()

    def wait_until_idle(self) -> None:
        """Until the kernel is connected and has nothing to do."""
        state = (
            "(kernel => kernel?.connectionStatus === 'connected' && kernel.status === 'idle')"
            "(jupyterapp.shell.currentWidget.sessionContext.session?.kernel)"
        )
        self.page.wait_for_function(state, timeout=PATIENCE)

    def run_all(self) -> None:
        """Run every cell, from the top; returns when the last has run."""
        self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        self.wait_until_idle()

    def failures(self) -> list[str]:
        """What cells raised, and how many were not run."""
        cells = self.page.evaluate(CELLS)
        raised = [output["evalue"] for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        waiting = sum(1 for cell in cells if cell["count"] is None)
        return raised + ([f"{waiting} cells were not run"] if waiting else [])

    def use_theme(self, name: str) -> None:
        """ "light" or "dark"."""
        self.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{THEMES[name]}'}})")
        light = "true" if name == "light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")
        self.page.wait_for_timeout(500)  # the theme's style sheet arrives behind the attribute

    def resize(self, width: int, height: int = 1200) -> None:
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_timeout(500)

    def close(self) -> None:
        """Close without saving; the kernel ends with the server."""
        self.page.close(run_before_unload=False)


class Explorer:
    """The explorer on a page, by the classes of its controls (ssd_lib.show.explorer)."""

    def __init__(self, book: Notebook):
        self.page = book.page
        self.box = book.page.locator(".ssd-explorer").first
        self.box.wait_for(timeout=PATIENCE)
        expect(self.part("token").first).to_be_visible(timeout=PATIENCE)

    def part(self, name: str) -> Locator:
        """A part of the explorer by its class, without the "ssd-"."""
        return self.box.locator(f".ssd-{name}")

    def press(self, name: str, key: str = "ArrowRight", times: int = 1) -> None:
        """Move a slider by keys."""
        handle = self.part(name).locator(".noUi-handle")
        handle.focus()
        for _ in range(times):
            handle.press(key)

    def value(self, name: str) -> str:
        """What a slider reads, or a text area holds."""
        field = self.part(name).locator("textarea")
        return field.input_value() if field.count() else self.part(name).locator(".widget-readout").inner_text()

    def tokens(self) -> list[str]:
        """The answer, token by token."""
        return self.part("token").all_inner_texts()

    def wait_for_other_tokens(self, before: list[str]) -> None:
        """Until the answer is not `before` any more, and stands."""
        self.page.wait_for_function(f"before => {TOKENS}.join() !== before.join()", arg=before)
        self.settle()

    def settle(self) -> None:
        """Until the answer to the controls stands."""
        self.page.wait_for_function("document.querySelector('.ssd-explorer:not(.ssd-busy)')", timeout=PATIENCE)

    def open_tab(self, title: str) -> None:
        self.box.locator(".lm-TabBar-tab", has_text=title).click()

    def overflow(self) -> list[str]:
        """What is wider than the explorer: classes of elements that stick out at its right, unless they scroll."""
        return self.box.evaluate(STICKING_OUT)


CELLS = """jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model).filter(model => model.type === 'code')
  .map(model => ({count: model.executionCount, outputs: model.sharedModel.getOutputs()}))"""
TOKENS = "[...document.querySelector('.ssd-explorer').querySelectorAll('.ssd-token')].map(token => token.innerText)"
STICKING_OUT = """box => {
  const edge = box.getBoundingClientRect().right + 1;
  const scrolls = e => e !== box && (['auto', 'scroll'].includes(getComputedStyle(e).overflowX) || (e.parentElement && scrolls(e.parentElement)));
  return [...box.querySelectorAll('*')].filter(e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > edge && !scrolls(e))
    .map(e => `${e.tagName} ${e.getAttribute('class')}`);
}"""
