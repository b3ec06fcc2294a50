"""Where the reader is while a training draws: Run All ends at the foot of the notebook."""

import nbformat
import pytest
from browser import chromium, jupyterlab, needs_browser, open_page, run_all

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
TRAINING = """import time
from pathlib import Path
import pandas as pd
from cyborg.figures import training_curves
from cyborg.widgets import followed_figure
redraw = followed_figure(training_curves(pd.DataFrame(), 3))
parts = "loss", "classification", "saliency", "accuracy"
row = {f"{split}_{part}": 0.5 for split in ("train", "val") for part in parts}
for epoch in range(400):
    redraw(training_curves(pd.DataFrame([row | {"epoch": 1, "val_auc": 0.5}]), 3))
    time.sleep(0.5)
    if Path("stop").exists():
        break"""
IN_SIGHT = """() => {
    const copy = document.querySelector('.cyborg-follow'), box = copy?.getBoundingClientRect();
    return Boolean(copy?.querySelector('.main-svg')) && box.top > 0 && box.bottom <= innerHeight
        && box.right <= innerWidth && box.width > 300
        && getComputedStyle(copy).visibility === 'visible';
}"""
# In one step: the figure is drawn anew all the time, and what was found a moment ago is gone.
SCROLLED_AND_HIDDEN = """() => {
    document.querySelector('.jp-OutputArea .js-plotly-plot')?.scrollIntoView({block: 'center'});
    return getComputedStyle(document.querySelector('.cyborg-follow')).visibility === 'hidden';
}"""


def test_a_figure_that_is_drawn_above_is_seen_below(tmp_path, monkeypatch):
    # As users have it: cells out of sight are not drawn.
    monkeypatch.setattr("browser.LAB_SETTINGS", {})
    code, text = nbformat.v4.new_code_cell, "# text\n\n" + "a line\n\n" * 40
    texts = [nbformat.v4.new_markdown_cell(text) for _ in range(4)]
    cells = [texts[0], code(TRAINING), *texts[1:], code("1 + 1")]
    about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folder = tmp_path / "served"
    folder.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=about), folder / "long.ipynb")
    with jupyterlab(folder, tmp_path / "lab") as address, chromium() as browser:
        page, _ = open_page(browser)
        page.goto(address("long.ipynb"))
        run_all(page, ".cyborg-follow")
        page.wait_for_function(IN_SIGHT, timeout=60_000)
        page.screenshot(path=tmp_path / "below.png")
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 900")
        page.wait_for_function(SCROLLED_AND_HIDDEN, timeout=60_000)  # there is no need of a copy
        (folder / "stop").touch()
        page.wait_for_selector(".cyborg-follow", state="detached", timeout=60_000)
