"""The explorers in JupyterLab and as a page: buttons pressed, points clicked, pictures seen."""

import os
from pathlib import Path

import nbformat
import pytest
from browser import chromium, jupyterlab, needs_browser, open_page, run_all, voila
from test_explore import made  # noqa: F401
from test_notebooks import NOTEBOOKS

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
AVERAGES = 'figure:has-text("mean of 2 runs") img'
POINT = """gd => { const [x, y] = [gd._fullLayout.xaxis, gd._fullLayout.yaxis], t = gd.data[0];
    const i = t.y.findIndex(v => v === v && v !== null), box = gd.getBoundingClientRect();
    return [box.x + x._offset + x.d2p(t.x[i]), box.y + y._offset + y.d2p(t.y[i])]; }"""


def press_everything(page):
    "What a visitor does; asserts that each press changes what it should."
    page.wait_for_selector(AVERAGES)
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken) == 0
    assert page.evaluate("[...document.images].every(i => i.alt.length > 0)")
    before = page.get_attribute(AVERAGES, "src")
    page.click('button:has-text("raw")')
    changed = "([css, old]) => { const i = document.querySelector(css); return i && i.src !== old }"
    found = 'figure img[alt^="mean of 2 runs"]'
    page.wait_for_function(changed, arg=[found, before])
    page.wait_for_function("document.querySelector('.js-plotly-plot')?.data?.length > 0")
    plot = page.locator(".js-plotly-plot").first
    plot.scroll_into_view_if_needed()
    page.mouse.click(*plot.evaluate(POINT))
    page.wait_for_function("document.querySelectorAll('figure').length > 5 + 6 * 4")
    last = "[...document.querySelectorAll('figcaption')].at(-1).innerText"
    told = page.evaluate(last)
    page.locator(".noUi-handle").nth(1).press("ArrowRight")  # the page, by keyboard
    page.wait_for_function(f"old => {last} !== old", arg=told)


def keep_picture(page, name):
    "A screenshot to look at, where CYBORG_PICTURES says."
    if folder := os.environ.get("CYBORG_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_maps_are_explored_in_jupyterlab(made, tmp_path):  # noqa: F811
    book = nbformat.read(NOTEBOOKS / "explore_maps.ipynb", 4)
    for cell in book.cells:
        cell.source = cell.source.replace('folder: str = ""', f"folder: str = {str(made.runs)!r}")
    nbformat.write(book, tmp_path / "explore_maps.ipynb")
    with jupyterlab(tmp_path, tmp_path / "lab") as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(address("explore_maps.ipynb"))
        run_all(page, AVERAGES)
        press_everything(page)
        keep_picture(page, "lab")
    assert not errors


def test_maps_are_explored_as_a_page(made, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    notebook, runs = NOTEBOOKS / "explore_maps.ipynb", str(made.runs)
    with voila(notebook, tmp_path, CYBORG_RUNS=runs) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(address)
        press_everything(page)
        keep_picture(page, "voila")
    assert not [
        text for text in errors if "font-awesome" not in text.lower() and "ERR_" not in text
    ]
