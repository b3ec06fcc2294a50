"""The explorers in JupyterLab and as a page: buttons pressed, points clicked, pictures seen."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from browser import BEYOND, DRAWN, chromium, jupyterlab, needs_browser, open_page, run_all, voila
from test_explore import grow, made, runs  # noqa: F401
from test_notebooks import NOTEBOOKS

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
AVERAGES = 'figure:has-text("cyborg, one run") img'
OTHER = 'figure img[alt^="classical, one run"]'
POINT = """gd => { const [x, y] = [gd._fullLayout.xaxis, gd._fullLayout.yaxis], t = gd.data[0];
    const i = t.y.findIndex(v => v === v && v !== null), box = gd.getBoundingClientRect();
    return [box.x + x._offset + x.d2p(t.x[i]), box.y + y._offset + y.d2p(t.y[i])]; }"""


def press_everything(page):
    "What a visitor does; asserts that each press changes what it should."
    page.wait_for_selector(AVERAGES)
    choice = page.locator('.widget-dropdown:has(label:text-is("scenario")) select')
    choice.select_option("several, to compare")
    page.wait_for_selector(OTHER)
    pictures = "[...document.querySelectorAll('figure img')]"
    page.wait_for_function(f"{pictures}.every(i => i.complete && i.naturalWidth)")
    assert page.evaluate(f"{pictures}.every(i => i.alt.length > 0)")
    before = page.get_attribute(OTHER, "src")
    page.click('button:has-text("raw")')
    changed = "([css, old]) => { const i = document.querySelector(css); return i && i.src !== old }"
    page.wait_for_function(changed, arg=[OTHER, before])
    page.wait_for_function("document.querySelector('.js-plotly-plot')?.data?.length > 0")
    plot = page.locator(".js-plotly-plot").first
    plot.evaluate("plot => plot.scrollIntoView({block: 'center'})")
    drawn = page.locator("figure").count()
    page.mouse.click(*plot.evaluate(POINT))
    page.wait_for_function("n => document.querySelectorAll('figure').length === n + 5", arg=drawn)
    assert page.locator('figure:has-text("annotator")').count() >= 7  # each image, and the clicked
    last = "[...document.querySelectorAll('figcaption')].at(-1).innerText"
    told = page.evaluate(last)
    page.locator('.widget-slider:has(label:text-is("page")) .noUi-handle').press("ArrowRight")
    page.wait_for_function(f"old => {last} !== old", arg=told)
    call_by_number(page)
    page.click("button:has-text('export figures')")
    page.wait_for_selector("p[role=status]:has-text('figures are in')")


def call_by_number(page):
    "Without a mouse: another image in large, by its number in the list."
    large = "figure img[style*='192px']"
    before = page.get_attribute(large, "src")
    page.focus('.widget-text:has(label:text-is("open No.")) input')
    page.keyboard.press("Control+a")
    page.keyboard.type("8")
    page.keyboard.press("Tab")
    changed = "([css, old]) => document.querySelector(css)?.src !== old"
    page.wait_for_function(changed, arg=[large, before])
    seventh = page.locator("figcaption:has-text('No. 8:')").inner_text().split("\n")[1]
    assert seventh in page.locator("figure:has(img[style*='192px'])").first.inner_text()


DROP = """async ([zone, url, name]) => {
    const data = new DataTransfer(), blob = await (await fetch(url)).blob();
    data.items.add(new File([blob], name, {type: 'image/png'}));
    for (const type of ['dragover', 'drop'])
        zone.dispatchEvent(new DragEvent(type, {dataTransfer: data, bubbles: true})); }"""


def drop_picture(page, name):
    "Drop the first picture of the page onto the place for pictures of one's own."
    url = page.locator("figure img").first.get_attribute("src")
    page.wait_for_selector(".drop-zone")
    zone = page.locator(".drop-zone").element_handle()
    page.evaluate(f"a => ({DROP})(a)", [zone, url, name])


def explain_a_picture(page):
    "Drop, choose, and switch the crop off; what was done is said."
    drop_picture(page, "<b>own</b>.png")
    page.wait_for_selector("text=as the network sees it")
    page.wait_for_selector("p[role=status]:has-text('taken as it is')")
    assert page.locator("text=Nearest training images").count() == 1
    page.set_input_files(
        "input[type=file]", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    page.wait_for_selector("p[role=alert]:has-text('x.png')")
    assert page.locator("text=as the network sees it").count() == 1  # what was shown stays
    page.locator(".drop-zone").evaluate("zone => zone.scrollIntoView()")


def keep_picture(page, name):
    "A screenshot to look at, where CYBORG_PICTURES says."
    if folder := os.environ.get("CYBORG_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


GRID = """import numpy as np
from cyborg.overlays import sample_grid
pictures, maps = np.zeros((8, 16, 16, 3), np.uint8), np.ones((8, 4, 4))
sample_grid(pictures, maps, maps, [f"source {i}" for i in range(8)], title="Eight columns")"""


def test_maps_are_explored_in_jupyterlab(made, tmp_path):  # noqa: F811
    book = nbformat.read(NOTEBOOKS / "explore_maps.ipynb", 4)
    book.cells.append(nbformat.v4.new_code_cell(GRID))
    for cell in book.cells:
        cell.source = cell.source.replace('folder: str = ""', f"folder: str = {str(made.runs)!r}")
    nbformat.write(book, tmp_path / "explore_maps.ipynb")
    with jupyterlab(tmp_path, tmp_path / "lab") as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(address("explore_maps.ipynb"))
        run_all(page, AVERAGES)
        press_everything(page)
        explain_a_picture(page)
        keep_picture(page, "lab")
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
        scatter, grid = page.evaluate(DRAWN)
        assert scatter["width"] == scatter["room"] and scatter["x"] and scatter["y"]
        assert grid["title"] == "Eight columns" and grid["width"] <= grid["room"] < 1400
    assert not errors


def own_errors(errors):
    "Without those of fonts from elsewhere and of JupyterLab's extensions, which Voilà loads too."
    others = ("font-awesome", "err_", "runtime-012")
    return [text for text in errors if not any(word in text.lower() for word in others)]


def test_maps_are_explored_as_a_page(made, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    notebook, where = NOTEBOOKS / "explore_maps.ipynb", {"CYBORG_RUNS": str(made.runs)}
    with voila(notebook, tmp_path, **where) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(address)
        press_everything(page)
        explain_a_picture(page)
        keep_picture(page, "voila")
    assert not own_errors(errors)


def test_both_pages_lead_to_each_other(runs, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    (tmp_path / "pages").mkdir()
    for name in ("explore_maps.ipynb", "explore_runs.ipynb"):  # as `make explore` does
        shutil.copy(NOTEBOOKS / name, tmp_path / "pages")
    shutil.copytree(runs, runs / "second")
    where = {"CYBORG_RUNS": str(runs)}
    with voila(tmp_path / "pages", tmp_path, **where) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(f"{address}/voila/render/explore_maps.ipynb")
        page.wait_for_selector(AVERAGES)
        study = page.locator('.widget-dropdown:has(label:text-is("study")) select').first
        study.select_option("second/")
        page.wait_for_selector(AVERAGES)
        page.click("a:has-text('explore runs')")
        page.wait_for_selector("text=Bold: differs between the runs.")
        page.click("a:has-text('explore maps')")
        page.wait_for_selector(AVERAGES)
    left = "status of 403"  # Voilà refuses its own message that a page was left
    assert not [text for text in own_errors(errors) if left not in text]


def settled(page, title):
    "What is drawn of the only figure, once it has this title and the width that there is."
    ready = """title => { const plot = document.querySelector('.js-plotly-plot');
        return plot?._fullLayout?.title?.text?.replaceAll('<br>', ' ').startsWith(title) &&
            plot._fullLayout.width === plot.parentElement.clientWidth }"""
    page.wait_for_function(ready, arg=title)
    page.wait_for_timeout(300)
    (found,) = page.evaluate(DRAWN)
    return found


VIEWS = {"loss": "Loss", "accuracy": "Accuracy", "AUC by generator": "AUC by", "ROC": "ROC: all"}
VIEWS |= {"ROC by generator": "ROC by generator", "training": "Training"}


def test_every_view_of_runs_is_drawn_whole_at_every_width(runs, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    grow(runs / "classical", 3)
    notebook, where = NOTEBOOKS / "explore_runs.ipynb", {"CYBORG_RUNS": str(runs)}
    with voila(notebook, tmp_path, **where) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.set_default_timeout(60_000)
        page.goto(address)
        for width in (1400, 700, 390):
            page.set_viewport_size({"width": width, "height": 1000})
            found = settled(page, "Training")  # the last view, fitted to the new width
            assert width - 60 < found["width"] <= width
            for what, title in VIEWS.items():
                page.locator(f".widget-toggle-buttons button:text-is('{what}')").click()
                found = settled(page, title)
                assert found["wrong"] == [], (what, width)
                assert found["x"] and (found["y"] or what == "AUC by generator")
                assert page.evaluate(BEYOND, ".jp-Notebook, #rendered_cells, body") == []
        page.locator("select[multiple]").first.select_option([])
        page.wait_for_selector("text=no run is chosen")
    assert not own_errors(errors)


def test_several_scenarios_leave_no_point_behind(made, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    notebook, where = NOTEBOOKS / "explore_maps.ipynb", {"CYBORG_RUNS": str(made.runs)}
    with voila(notebook, tmp_path, **where) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.set_default_timeout(60_000)
        page.goto(address)
        one = settled(page, "cyborg, seed 0")
        assert one["x"] == ["score"] and one["y"] == ["agreement (CC)"] and one["traces"] == 2
        plot = page.locator(".figure-host").first
        picture = plot.screenshot()
        choice = page.locator('.widget-dropdown:has(label:text-is("scenario")) select')
        for _ in range(2):
            choice.select_option("several, to compare")
            both = settled(page, "each scenario by itself")
            assert both["traces"] == 4 and both["points"] == 2 * one["points"]
            choice.select_option("cyborg")
            assert settled(page, "cyborg, seed 0") == one
            page.mouse.move(5, 5)
            assert plot.screenshot() == picture
        page.set_viewport_size({"width": 390, "height": 1000})
        assert settled(page, "cyborg, seed 0")["width"] < 390
        assert page.evaluate(BEYOND, ".jp-Notebook, #rendered_cells, body") == []
    assert not own_errors(errors)


POINTS = """n => { const plot = document.querySelector('.js-plotly-plot');
    return plot?.data?.length && Math.max(...plot.data.map(t => t.x.length)) === n }"""


def test_runs_are_followed_as_a_page(runs, tmp_path):  # noqa: F811
    pytest.importorskip("voila", reason="needs voila: pip install 'cyborg[page]'")
    kept = tmp_path / "kept.parquet"
    for name in ("classical", "cyborg"):
        grow(runs / name, 2)
    (runs / "classical/predictions.parquet").replace(kept)
    notebook, where = NOTEBOOKS / "explore_runs.ipynb", {"CYBORG_RUNS": str(runs)}
    with voila(notebook, tmp_path, **where) as address, chromium() as browser:
        page, errors = open_page(browser)
        page.goto(address)
        page.wait_for_function(POINTS, arg=2)
        page.click("button:has-text('follow')")
        for epochs in (3, 6):
            grow(runs / "classical", epochs)
            page.wait_for_function(POINTS, arg=epochs)
        keep_picture(page, "runs-training")
        page.click("button:has-text('ROC') >> nth=1")
        kept.replace(runs / "classical/predictions.parquet")
        page.wait_for_selector("text=all runs have ended")
        page.wait_for_function(POINTS, arg=221)  # rates of a measured ROC
        page.wait_for_selector("button.mod-active:has-text('follow')", state="detached")
        keep_picture(page, "runs")
    assert not own_errors(errors)
