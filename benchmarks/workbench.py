"""How long the workbench takes in a browser: to the first picture, from tab to tab, each control.

    python benchmarks/workbench.py                            2,000 images, 40 runs
    python benchmarks/workbench.py --images 200 --runs 8      a quick look

Needs Chromium and playwright. A control is pressed as a hand presses it; its time is that until no
answer is awaited, everything is drawn and the pictures in the window are there. `first` is that of
the first press, which reads what later ones find read. Beside it a page of Voila with one picture
in it: what a page takes that shows nothing else. Targets: a first picture within 3 s, a tab within
300 ms, a control within 200 ms in the median and 400 ms at worst.

On two idle cores: a first picture after 0.4 s, of the bare page after 1.7 s; tabs 46 to 245 ms in
the median once they were open (the first time Runs took 1.8 s, People 3.9 s); controls of Maps 43
to 122 ms, of Images 47 to 390 (worst 564, errors only), of Runs 48 to 161. With eleven processes on
them the bare page takes 4.3 s, a first picture 2.0 s, and controls up to 580 ms in the median.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
from explorer import write_runs
from fastcore.script import call_parse

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
COUNT = """
    window.awaited = 0;
    const fetched = window.fetch;
    window.fetch = (...all) => {
        awaited += 1;
        return fetched(...all).finally(() => { awaited -= 1; });
    };
    window.settled = (begun) => new Promise((resolve) => {
        let quiet = 0;
        const inside = (image) => {
            const box = image.getBoundingClientRect();
            return box.width && box.bottom > 0 && box.top < innerHeight;
        };
        const look = () => {
            const there = [...document.images].every((i) => i.complete || !inside(i));
            const drawn = awaited === 0 && there;
            quiet = drawn ? quiet + 1 : 0;
            if (quiet > 2) resolve(performance.now() - begun); else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
    });
    window.pressed = (css, act, value) => {
        const element = document.querySelector(css), begun = performance.now();
        if (!element) throw new Error(`there is no ${css}`);
        if (act === "click") element.click();
        else { element.value = value; element.dispatchEvent(new Event(act, { bubbles: true })); }
        return settled(begun);
    };
"""
CONTROLS = {  # tab -> name -> (selector, what is done, values in turn)
    "maps": {
        "opacity": ('.wb-tab-maps input[max="1"][step="0.05"]', "input", [0.3, 0.7]),
        "people to models": ('.wb-tab-maps input[aria-label^="cross"]', "input", [0.2, 0.8, 1]),
        "alone": (".wb-tab-maps .wb-segments button:nth-child(3)", "click", [0]),
        "over the face": (".wb-tab-maps .wb-segments button:nth-child(1)", "click", [0]),
        "each run": (".wb-tab-maps .wb-controls > .wb-tick input", "click", [0]),
        "a scenario": (".wb-choice:nth-of-type(2) .wb-tick input", "click", [0]),
        "a seed": (".wb-choice:nth-of-type(3) .wb-tick input", "click", [0]),
        "a source": (".wb-choice:nth-of-type(4) .wb-tick input", "click", [0]),
        "a label": (".wb-choice:nth-of-type(5) .wb-tick input", "click", [0]),
    },
    "images": {
        "sort": (".wb-tab-images select", "change", ["score", "cc", "difference", "error"]),
        "maps of": (
            ".wb-tab-images .wb-field:nth-of-type(3) select",
            "change",
            ["human", "cyborg"],
        ),
        "opacity": ('.wb-tab-images input[type="range"]', "input", [0.3, 0.7]),
        "next image": ('.wb-detail [aria-label="next image"]', "click", [0]),
        "a score range": ('.wb-range input[aria-label="Score, lowest"]', "change", [0.2, 0.4, 0]),
        "errors only": (".wb-side > .wb-tick input", "click", [0]),
        "a source": (".wb-choice:nth-of-type(4) .wb-tick input", "click", [0]),
        "a scenario": (".wb-choice:nth-of-type(2) .wb-tick input", "click", [0]),
    },
    "runs": {
        "curve": (".wb-tab-runs select", "change", ["val_auc", "ROC", "accuracy", "val_loss"]),
        "choose a run": (".wb-tab-runs tbody input", "click", [0]),
        "sort": (".wb-tab-runs thead button", "click", [0]),
        "a network": (".wb-choice:nth-of-type(1) .wb-tick:nth-child(2) input", "click", [0]),
    },
}


@contextmanager
def served(
    command: list[str],
    url: str,
) -> Iterator[float]:  # seconds from the command to the first answer
    "A server in a process of its own."
    begun = time.perf_counter()
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while server.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            time.sleep(0.02)
        yield time.perf_counter() - begun
    finally:
        server.terminate()
        server.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def first_picture(browser, url: str, css: str) -> float:
    "Seconds from asking for a page until a picture is in it, in a browser that has seen none."
    page = browser.new_context().new_page()
    page.set_default_timeout(120_000)
    begun = time.perf_counter()
    page.goto(url, wait_until="commit")
    page.wait_for_selector(css)
    page.wait_for_function(
        "css => document.querySelector(css).getBoundingClientRect().width > 0", arg=css
    )
    found = time.perf_counter() - begun
    page.context.close()
    return found


def timed(page, css: str, act: str, values: list, repeats: int) -> np.ndarray:
    "Milliseconds of each press."
    rounds = [values[i % len(values)] for i in range(repeats)]
    return np.array([page.evaluate("all => pressed(...all)", [css, act, v]) for v in rounds])


def row_of(name: str, times: np.ndarray) -> dict:
    return {"what": name, "first": times[0], "median": np.median(times), "worst": times[1:].max()}


def controls(browser, url: str, repeats: int) -> pd.DataFrame:
    "Every tab and every control."
    page, rows = browser.new_page(viewport={"width": 1400, "height": 1000}), []
    page.set_default_timeout(120_000)
    page.add_init_script(COUNT)
    page.goto(url)
    page.wait_for_selector("[data-ready]")
    page.evaluate("settled(performance.now())")
    tabs = {
        name: f'[role="tab"]:nth-child({i})' for i, name in enumerate(("maps", "images", "runs"), 1)
    }
    tabs["people"] = '[role="tab"]:nth-child(6)'
    for round_ in range(repeats):
        for name, css in tabs.items():
            rows.append((f"tab {name}", round_, timed(page, css, "click", [0], 1)[0]))
    table = pd.DataFrame(rows, columns=["what", "round", "ms"])
    found = [row_of(name, own["ms"].to_numpy()) for name, own in table.groupby("what", sort=False)]
    for tab, actions in CONTROLS.items():
        timed(page, tabs[tab], "click", [0], 1)
        if tab == "images":
            timed(page, ".wb-tile", "click", [0], 1)  # the image that "next" starts from
        for name, action in actions.items():
            found.append(row_of(f"{tab}: {name}", timed(page, *action, repeats)))
    return pd.DataFrame(found).set_index("what").round(0).astype(int)


def bare_notebook(folder: Path) -> Path:
    "A notebook that shows one picture."
    picture = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    html = f'<img id="one" width="50" height="50" src="{picture}">'
    source = f"from IPython.display import HTML\nHTML({html!r})"
    cells = [nbformat.v4.new_code_cell(source)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "bare.ipynb")
    return folder / "bare.ipynb"


def starts(browser, runs: Path, repeats: int, scratch: Path) -> tuple[list[str], pd.DataFrame]:
    "The workbench and a bare page of Voila: from command to answer, from page to picture; ms."
    code = "import sys; from cyborg.explore.workbench import explore; "
    code += "explore(sys.argv[1], port=int(sys.argv[2]), no_browser=True)"
    ports = [free_port(), free_port()]
    ours = [sys.executable, "-c", code, str(runs), str(ports[0])]
    voila = [sys.executable, "-m", "voila", str(bare_notebook(scratch)), "--no-browser"]
    voila += [f"--port={ports[1]}", "--Voila.ip=127.0.0.1"]
    urls = [f"http://127.0.0.1:{port}/" for port in ports]
    pictures = [".wb-canvas", "#one"]
    icons = [urls[0], urls[1] + "voila/static/favicon.ico"]
    rows = []
    for name, command, url, icon, css in zip(
        ("workbench", "bare Voila"), (ours, voila), urls, icons, pictures, strict=True
    ):
        with served(command, icon) as begun:
            times = [first_picture(browser, url, css) for _ in range(repeats)]
        rows.append(
            {
                "page": name,
                "command": begun,
                "first": times[0],
                "median": np.median(times),
                "worst": max(times),
            }
        )
    return ours, (pd.DataFrame(rows).set_index("page") * 1000).round(0).astype(int)


@call_parse
def main(
    images: int = 2000,
    runs: int = 40,
    repeats: int = 8,  # of each press, an even number: what is ticked is taken away again
    folder: str = "explorer",  # where runs are written; taken away afterwards
    keep: bool = False,  # leave it, and use what an earlier call left
):
    "Make run folders, open the workbench, press everything, print milliseconds."
    from playwright.sync_api import sync_playwright

    repeats += repeats % 2
    place = Path(folder)
    there = place / "runs" if (place / "runs").is_dir() else write_runs(place, images, runs)
    chromium = os.environ.get("CYBORG_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        command, table = starts(browser, there, max(2, repeats // 2), Path(scratch))
        print(table.to_string())
        ratio = table["median"]["bare Voila"] / table["median"]["workbench"]
        print(f"first picture: a bare page of Voila takes {ratio:.1f} times as long\n", flush=True)
        command[-1] = str(free_port())
        url = f"http://127.0.0.1:{command[-1]}/"
        with served(command, url):
            print(controls(browser, url, repeats).to_string())
        browser.close()
    if not keep:
        shutil.rmtree(place)
