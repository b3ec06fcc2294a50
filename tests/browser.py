"""A browser and the servers it looks at, for the tests that press real buttons."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CYBORG_CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
needs_browser = pytest.mark.skipif(
    CHROMIUM is None,
    reason="needs a browser: apt-get install chromium, or CYBORG_CHROMIUM=/path/to/chrome",
)
LAB_SETTINGS = {  # no pop-up, and every cell in the page
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


def open_page(browser):
    "A page, and the list that its console errors go to."
    page, errors = browser.new_page(), []
    page.set_viewport_size({"width": 1400, "height": 1000})
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.set_default_timeout(180_000)
    return page, errors


# Of each figure: size, the room it has, its texts, and those that lie over each other or outside.
DRAWN = """() => [...document.querySelectorAll('.js-plotly-plot')].map(plot => {
    const place = plot.getBoundingClientRect(), layout = plot._fullLayout || {};
    const texts = [...plot.querySelectorAll('svg text')].map(e => ({text: e.textContent.trim(),
        kind: e.getAttribute('class') || '', box: e.getBoundingClientRect()}));
    const seen = texts.filter(one => one.text && one.box.width);
    const outside = ({box}) => box.x < place.x - 1 || box.y < place.y - 1
        || box.right > place.x + layout.width + 1 || box.bottom > place.y + layout.height + 1;
    const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.x, b.x) > 2
        && Math.min(a.bottom, b.bottom) - Math.max(a.y, b.y) > 2.5;
    const pairs = seen.flatMap((a, i) => seen.slice(i + 1).filter(b => over(a.box, b.box))
        .map(b => [a.text, b.text]));
    const named = kind => seen.filter(one => kind.test(one.kind)).map(one => one.text);
    return {title: layout.title?.text, width: layout.width, height: layout.height,
        room: plot.parentElement.clientWidth, traces: plot._fullData?.length,
        points: (plot._fullData || []).reduce((n, trace) => n + trace.x?.length || 0, 0),
        x: named(/^x\\d*title$/), y: named(/^y\\d*title$/),
        wrong: [...pairs, ...seen.filter(outside).map(one => [one.text, 'outside'])]};
})"""
# What reaches beyond the right edge of the window, unless a box inside the page scrolls to it.
BEYOND = """outer => {
    const scrolls = e => e.scrollWidth > e.clientWidth && !e.matches(outer)
        && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX);
    const beyond = e => e.getBoundingClientRect().right > innerWidth + 1;
    const walk = e => !e.getBoundingClientRect().height ? [] : beyond(e) ? [e]
        : scrolls(e) || e.matches('svg') ? [] : [...e.children].flatMap(walk);
    return walk(document.body).map(e => `${e.tagName} ${e.className}`);
}"""


@contextlib.contextmanager
def serving(command, url, environment, seconds=180):
    "A server in a process of its own, ended with the block."
    done = subprocess.DEVNULL
    environment = os.environ | {k: str(v) for k, v in environment.items()}
    server = subprocess.Popen(command, env=environment, stdout=done, stderr=done)
    try:
        for _ in range(2 * seconds):
            assert server.poll() is None, "the server ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=2).close()
                break
            time.sleep(0.5)
        else:
            raise AssertionError(f"{url} did not answer within {seconds} s")
        yield
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(15)
        server.kill()


@contextlib.contextmanager
def jupyterlab(folder: Path, work: Path):
    "JupyterLab serving a folder, with settings of its own; gives the address of a notebook."
    names = "CONFIG_DIR", "RUNTIME_DIR"
    places = {f"JUPYTER_{name}": work / name for name in names}
    places |= {f"JUPYTERLAB_{name}_DIR": work / name for name in ("SETTINGS", "WORKSPACES")}
    for place in places.values():
        place.mkdir(parents=True)
    for name, value in LAB_SETTINGS.items():
        path = work / "SETTINGS" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    port = free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"]
    command += ["--ip=127.0.0.1", f"--port={port}", "--port-retries=0"]
    command += ["--IdentityProvider.token=test", "--LabApp.news_url="]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += [f"--ServerApp.root_dir={folder}"]
    with serving(command, f"http://127.0.0.1:{port}/api?token=test", places):
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token=test&reset"


def run_all(page, ready: str) -> None:
    "Run All Cells; again where it was missed, as happens while a kernel starts."
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    for _ in range(3):
        time.sleep(3)
        if page.locator(".jp-Dialog").count():  # which kernel?
            page.click('.jp-Dialog button:has-text("Select")')
            time.sleep(3)
        page.click("text=Run")
        page.click("text=Run All Cells")
        with contextlib.suppress(Exception):
            page.wait_for_selector(ready, timeout=60_000)
            return
    raise AssertionError(f"the notebook did not show {ready}")


@contextlib.contextmanager
def voila(notebook: Path, work: Path, **environment):
    "A notebook as a page."
    port, url = free_port(), "http://127.0.0.1"
    command = [sys.executable, "-m", "voila", str(notebook), "--no-browser"]
    command += ["--Voila.ip=127.0.0.1", f"--port={port}"]
    places = {"JUPYTER_RUNTIME_DIR": work / "voila", **environment}
    (work / "voila").mkdir()
    with serving(command, f"{url}:{port}/voila/static/favicon.ico", places):
        yield f"{url}:{port}"
