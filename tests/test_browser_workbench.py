"""The workbench in a browser: every tab, what is chosen, the address, the keys, four widths."""

import json
import re
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest
import uvicorn
from browser import BEYOND, chromium, free_port, jupyterlab, needs_browser, open_page, run_all

from cyborg.explore.desk import Desk
from cyborg.explore.workbench import application

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from explorer import write_runs

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
READY = "[data-ready]:visible"
CARD = '.wb-card:has(b:text-is("{}"))'
HALVES = {"left half": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "Four scenarios of two seeds, tested on 60 images of which every second has a human map."
    work = tmp_path_factory.mktemp("workbench")
    found = write_runs(work, images=60, runs=8, networks=1)
    (work / "data" / "regions.json").write_text(json.dumps(HALVES))
    return found


@pytest.fixture(scope="module")
def address(runs):
    port = free_port()
    config = uvicorn.Config(application(Desk(runs)), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def context():
    with chromium() as browser:
        yield browser.new_context()  # one for all, so that scripts are read once


@pytest.fixture
def visit(context, address):
    "Opens a view of the workbench; in the end nothing may have been complained about."
    pages, errors = [], []

    def opened(view="#maps", width=1400, ready=READY):
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": 1000})
        page.set_default_timeout(20_000)
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        pages.append(page)
        page.goto(address + view)
        page.wait_for_selector(ready)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not errors


def shown(page):
    return int(page.get_attribute(".wb-tab-images", "data-shown"))


def wait_shown(page, n):
    page.wait_for_selector(f'.wb-tab-images[data-shown="{n}"]')


def test_maps_are_side_by_side_under_one_scale_and_read_together(visit):
    page = visit("#maps")
    titles = page.locator(".wb-board").first.locator("figcaption b").all_inner_texts()
    assert titles == ["people", "classical", "cyborg", "mean", "shuffled"]
    assert page.locator(".wb-map canvas:visible").first.bounding_box()["width"] >= 256
    assert page.locator(".wb-bar >> nth=0").get_attribute("aria-label").endswith("from 0 to 1")
    box = page.locator(CARD.format("cyborg")).locator(".wb-map").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    values = page.locator(".wb-value").all_inner_texts()
    assert len(values) == 9 and all(re.fullmatch(r"[+−]?\d\.\d\d", value) for value in values)
    assert page.locator(".wb-cross:visible").count() == 9


def test_a_slider_crosses_over_from_people_to_models(visit):
    page = visit("#maps?over=plain")
    page.locator(CARD.format("people")).locator(".wb-open").focus()
    page.keyboard.press("ArrowRight")  # the place one step right of the middle, in all maps
    people = page.locator(CARD.format("people")).locator(".wb-value").inner_text()
    page.locator('input[aria-label^="cross over"]').fill("0")
    assert "blend=0" in page.url
    page.locator(CARD.format("people")).locator(".wb-open").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(CARD.format("cyborg")).locator(".wb-value").inner_text() == people


def test_a_map_opens_large_and_closes_by_key(visit):
    page = visit("#maps")
    page.locator(CARD.format("cyborg")).locator(".wb-open").click()
    large = page.locator("dialog.wb-large canvas")
    large.wait_for()
    assert large.bounding_box()["width"] > 700
    page.keyboard.press("n")
    assert page.locator("dialog.wb-large b").inner_text() == "mean"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.wb-large", state="detached")


def test_regions_say_in_a_sentence_what_moved(visit):
    page = visit("#maps")
    page.wait_for_selector(".wb-sentences p")
    words = page.locator(".wb-sentences p").first.inner_text()
    assert re.match(r"cyborg moves \d+% of its saliency from .+ to .+, against classical", words)
    page.wait_for_selector(".wb-tab-maps .js-plotly-plot .barlayer")


def test_what_is_chosen_is_in_chips_and_in_the_address_and_back_goes_back(visit):
    page = visit("#maps")
    page.locator('.wb-tick:has-text("cyborg") input').check()
    page.wait_for_function("!document.body.innerText.includes('shuffled − people')")
    page.locator('.wb-tick:has-text("progan") input').first.check()
    page.wait_for_selector('.wb-chip:has-text("progan")')
    assert page.url.endswith("#maps?scenario=cyborg&source=progan")
    page.go_back()
    page.wait_for_selector('.wb-chip:has-text("progan")', state="detached")
    page.click('.wb-chip:has-text("cyborg")')
    page.wait_for_selector(CARD.format("shuffled"))
    assert page.url.endswith("#maps")


def lasso(page):
    "Around the points of the right half."
    plot = page.locator(".wb-scatter .js-plotly-plot .nsewdrag").bounding_box()
    x, y, w, h = (plot[k] for k in ("x", "y", "width", "height"))
    page.mouse.move(x + w * 0.5, y)
    page.mouse.down()
    for to in ((0.99, 0.01), (0.99, 0.99), (0.5, 0.99), (0.5, 0.1)):
        page.mouse.move(x + w * to[0], y + h * to[1], steps=4)
    page.mouse.up()


def test_the_grid_the_lasso_and_the_address_agree(visit):
    page = visit("#images")
    assert shown(page) == 60
    page.wait_for_selector(".wb-scatter .js-plotly-plot .main-svg")
    page.select_option('select:has(option:text-matches("wrong, .* right"))', index=1)
    page.wait_for_selector('.wb-chip:has-text("wrong")')
    fewer = int(re.search(r"\((\d+)\)", page.locator("option:checked").all_inner_texts()[1])[1])
    wait_shown(page, fewer)
    same = visit(f"#{page.url.partition('#')[2]}")  # sent to a colleague
    wait_shown(same, fewer)
    page.bring_to_front()  # a page that is not seen draws nothing
    page.click(".wb-chip")
    wait_shown(page, 60)
    for _ in range(5):  # one that begins while the points are drawn anew catches nothing
        lasso(page)
        with suppress(Exception):
            page.wait_for_selector('.wb-chip:has-text("lasso")', timeout=5_000)
            break
    page.wait_for_selector('.wb-chip:has-text("lasso")')
    page.wait_for_selector('.wb-tab-images:not([data-shown="60"])')
    assert shown(page) > 0
    assert 0 < shown(page) < 60


def test_images_are_put_in_the_order_in_which_a_map_is_worth_most(visit):
    page = visit("#images?sort=uncertain")
    lines = page.locator(".wb-annotate pre")
    lines.filter(has_text="-p criterion uncertain").filter(has_text="cyborg again").wait_for()
    page.select_option(".wb-tab-images select >> nth=0", "error")
    page.wait_for_selector(".wb-annotate", state="hidden")


def test_one_image_by_number_by_name_and_by_key(visit):
    page = visit("#images?sort=image&up=1", 1920)
    page.wait_for_function("document.querySelectorAll('.wb-tile').length > 24")  # fills the window
    page.keyboard.press("/")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.wait_for_selector('.wb-detail h2:text-is("images/00002.jpg")')
    page.locator(".wb-detail h2").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('.wb-detail h2:text-is("images/00003.jpg")')
    assert page.locator(".wb-detail .wb-mark").count() == 10  # annotators
    page.keyboard.press("o")
    assert "over=plain" in page.url
    page.keyboard.press("Escape")
    page.wait_for_selector(".wb-detail", state="hidden")
    page.fill('input[type="search"]', "00017.jpg")
    page.keyboard.press("Enter")
    page.wait_for_selector('.wb-detail h2:text-is("images/00017.jpg")')


def test_runs_are_a_table_with_sparks_and_move_by_themselves(visit, runs):
    page = visit("#runs")
    rows = page.locator(".wb-tab-runs tbody tr")
    assert rows.count() == 8 and page.locator(".wb-spark polyline").count() == 16
    page.wait_for_function("!document.body.innerText.includes('measuring')")
    assert page.locator(".wb-interval circle").count() == 8
    page.click('.wb-tab-runs th button:text-is("AUC")')
    aucs = [float(text) for text in page.locator(".wb-auc b").all_inner_texts()]
    assert aucs == sorted(aucs, reverse=True)
    page.wait_for_selector(".wb-tab-runs .js-plotly-plot .scatterlayer .trace")
    name = "resnet50-cyborg-0"
    (runs / name / "predictions.parquet").rename(runs / name / "held.parquet")
    try:
        page = visit("#runs")
        row = page.locator(f'tr:has-text("{name}")')
        assert "50 of 50" in row.inner_text()
        history = (runs / name / "history.csv").read_text()
        (runs / name / "history.csv").write_text(history + history.splitlines()[-1] + "\n")
        page.wait_for_selector(f'tr:has-text("{name}"):has-text("51 of 50")')
    finally:
        (runs / name / "held.parquet").rename(runs / name / "predictions.parquet")
        (runs / name / "history.csv").write_text(history)


@pytest.mark.parametrize("width", [390, 1000, 1920])
def test_nothing_lies_beyond_the_window(visit, width):
    page = visit("#maps", width)
    for tab in page.locator("[role=tab]").all():
        tab.click()
        page.wait_for_selector(READY)
        assert page.evaluate(BEYOND, ".none") == [], tab.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:
        page.click("text=Choose")
        page.wait_for_selector('.wb-side:visible >> text="Scenarios"')


def test_everything_has_a_name_and_is_reached_by_keys(visit):
    page = visit("#images")
    nameless = """[...document.querySelectorAll('button, input, select, [role=img]')]
        .filter(e => e.offsetParent !== null && !e.textContent.trim() && !e.ariaLabel
            && !e.labels?.length && !e.closest('.modebar')).map(e => e.outerHTML.slice(0, 120))"""
    assert page.evaluate(nameless) == []
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('[role=tab][aria-selected=true]:text-is("Runs")')
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector('[role=tab][aria-selected=true]:text-is("Maps")')


def test_charts_follow_dark_colours_and_the_side_offers_what_a_tab_asks_for(visit):
    page = visit("#runs")
    page.wait_for_selector(".wb-tab-runs .js-plotly-plot .xtick text")
    text = ".wb-tab-runs .js-plotly-plot .xtick text"
    assert page.locator(".wb-side h3").all_inner_texts()[-1].upper().startswith("SEEDS")
    page.click('button[aria-label^="colours: auto"]')
    light = "css => +getComputedStyle(document.querySelector(css)).fill.match(/\\d+/)[0] > 150"
    page.wait_for_function(light, arg=text)


def test_what_is_not_there_is_said(visit):
    page = visit("#maps?scenario=nobody", ready=".wb-notice:visible")
    assert "no finished run fits the choice" in page.locator(".wb-notice").inner_text()


def test_people_are_counted_and_compared(visit):
    page = visit("#people")
    numbers = page.locator(".wb-number b").all_inner_texts()
    assert numbers[:3] == ["10", "300", "30 of 60"]
    row = page.locator('.wb-tab-people tr:has(th:text-is("W0"))').inner_text().split()
    assert row[:3] == ["W0", "30", "100"]  # marked 30 images, and was right


def test_what_needs_a_study_or_a_network_says_so(visit, runs):
    page = visit("#study")
    assert "is no study folder" in page.locator(".wb-tab-study").inner_text()
    page = visit("#picture")
    picture = next((runs.parent / "data" / "images").glob("*.jpg"))
    page.set_input_files('input[type="file"]', picture)
    page.wait_for_selector('.wb-notice:has-text("no run of this choice has weights")')


def test_what_is_seen_can_be_taken_along(visit, tmp_path):
    page = visit("#maps")
    page.wait_for_selector(".wb-tab-maps .js-plotly-plot .barlayer")
    found = {}
    for kind in ("SVG", "PNG", "CSV"):
        page.click(".wb-export summary")
        with page.expect_download() as download:
            page.click(f'.wb-export button:text-is("{kind}")')
        download.value.save_as(tmp_path / kind)
        found[kind] = (tmp_path / kind).read_bytes()
    assert b"<svg" in found["SVG"] and b"where models differ from people" in found["SVG"].lower()
    assert found["SVG"].count(b"data:image/png") >= 9 and b"left half" in found["SVG"]
    assert found["PNG"][:4] == b"\x89PNG"
    assert found["CSV"].splitlines()[0] == b"scenario,seed,region,share"
    page.click(".wb-export summary")
    page.click('.wb-export button:text-is("Python")')
    assert "map_grid" in page.locator(".wb-code pre").inner_text()


def test_the_workbench_in_a_cell_of_jupyterlab(context, runs, tmp_path):
    book = nbformat.read(Path(__file__).parents[1] / "nbs" / "workbench.ipynb", 4)
    for cell in book.cells:
        cell.source = cell.source.replace('folder: str = ""', f"folder: str = {str(runs)!r}")
    (tmp_path / "work").mkdir()
    nbformat.write(book, tmp_path / "work" / "workbench.ipynb")
    with jupyterlab(tmp_path / "work", tmp_path / "lab") as address:
        page, errors = open_page(context)
        page.goto(address("workbench.ipynb"))
        run_all(page, ".wb-cell .wb-map canvas")
        page.locator('.wb-cell [role=tab]:text-is("Images")').click()
        page.locator(".wb-cell .wb-tab-images[data-shown='60'] .wb-tile").first.wait_for()
        page.wait_for_function("""() => {
            const image = document.querySelector('.wb-tile img');
            image?.scrollIntoView({block: 'center'});  // those that are not seen are not asked for
            return image?.naturalWidth;
        }""")
        page.close()
    assert not errors
