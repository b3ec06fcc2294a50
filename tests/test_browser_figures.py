"""Figures in a page: what is drawn, at every width, and what is left of the figure before."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import BEYOND, DRAWN, chromium, needs_browser, open_page
from test_figures import FIGURES
from test_report import make_tables

from cyborg.figures import figure_script
from cyborg.overlays import map_grid, sample_grid
from cyborg.report.differences import difference_figure
from cyborg.report.limits import reliability_figure
from cyborg.report.page import Page, page_html
from cyborg.report.panels import agreement_figure, roc_panels
from cyborg.report.tables import main_table

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
HOST = """
document.body.innerHTML = '<div id="place"></div>';
window.clicked = [];
window.host = hosted(document.getElementById('place'), point => clicked.push(point.pointIndex));
"""
SHOWN = """([title, width]) => {
    const [plot, ...others] = document.querySelectorAll('.js-plotly-plot');
    return !others.length && plot?._fullLayout?.title?.text.replaceAll('<br>', ' ') === title
        && document.getElementById('place').clientWidth === width && plot.dataset.width == width;
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(browser):
    opened, errors = open_page(browser)
    opened.set_default_timeout(30_000)
    opened.goto("about:blank")
    opened.add_script_tag(type="module", content=figure_script() + HOST)
    opened.wait_for_function("window.host")
    yield opened
    assert not errors
    opened.close()


def show(page, figure, width=1184):
    "What is drawn of a figure in a window of some width (body margins: 16 pixels)."
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("figure => host.show(figure)", json.loads(figure.to_json()))
    title = figure.layout.title.text.replace("<br>", " ")
    page.wait_for_function(SHOWN, arg=[title, width - 16])
    (found,) = page.evaluate(DRAWN)
    return found


def many():
    "Figures with more panels, pictures and notes."
    tables, chance = make_tables(), np.random.default_rng(0)
    maps, images = chance.random((8, 7, 7)), np.zeros((8, 16, 16, 3), np.uint8)
    yield (
        "grid of 8",
        sample_grid(images, maps, maps, [f"source {i}<br>score 0.50" for i in range(8)]),
    )
    yield "runs", map_grid({name: {f"seed {i}": maps[i] for i in range(8)} for name in "ab"})
    yield "differences", difference_figure(tables, "classical")
    yield "agreement", agreement_figure(tables)
    yield "calibration", reliability_figure(tables)
    yield "panels", roc_panels(tables)


@pytest.mark.parametrize("width", [1400, 700, 390])
def test_no_text_lies_over_another_or_is_cut_at_any_width(page, width):
    for name, figure in {**FIGURES, **dict(many())}.items():
        found = show(page, figure, width)
        assert found["wrong"] == [], (name, width)
        pictures = any(trace.type in ("image", "heatmap") for trace in figure.data)
        assert found["width"] == found["room"] or pictures, name
        assert page.evaluate(BEYOND, "html") == [], (name, width)


def test_every_panel_of_a_narrow_page_has_its_names(page):
    found = show(page, FIGURES["losses"], 390)
    assert found["x"] == ["epoch"] * 6 and len(found["y"]) == 6
    wide = show(page, FIGURES["losses"], 1400)
    assert wide["x"] == ["epoch"] * 3 and wide["height"] < found["height"]


def test_another_figure_leaves_nothing_of_the_one_before(page):
    alone = show(page, FIGURES["roc"])
    picture = page.locator("#place").screenshot()
    names = ["losses", "auc", "grid", "training", "histogram"]
    for name in names:
        show(page, FIGURES[name])
    assert show(page, FIGURES["roc"]) == alone
    assert page.locator("#place").screenshot() == picture


def points(n, title):
    x = np.linspace(0, 1, n)
    figure = go.Figure(go.Scattergl(x=x, y=x**2, mode="markers"), layout_title_text=title)
    return figure.update_layout(xaxis_range=[-0.1, 1.1], yaxis_range=[-0.1, 1.1])


def test_points_of_a_canvas_are_gone_with_their_figure(page):
    show(page, points(2, "few"))
    picture = page.locator("#place").screenshot()
    for n in range(20):  # more often than a browser keeps canvases
        show(page, points(100 + n, f"many {n}"))
    assert show(page, points(2, "few"))["points"] == 2
    assert page.locator("#place").screenshot() == picture


def test_a_hidden_figure_is_drawn_when_it_is_seen(page):
    show(page, FIGURES["loss"])
    page.evaluate("document.getElementById('place').style.display = 'none'")
    page.evaluate("figure => host.show(figure)", json.loads(FIGURES["auc"].to_json()))
    page.wait_for_timeout(200)
    page.evaluate("document.getElementById('place').style.display = ''")
    page.wait_for_function(SHOWN, arg=["AUC by generator", 1168])
    assert page.evaluate(DRAWN)[0]["wrong"] == []


def test_a_report_fits_a_telephone(browser, tmp_path):
    tables = make_tables()
    report = Page(tables)
    report.add("table", "Table </script><b>", "", main_table)
    for name, figure in many():
        figure.update_layout(meta={**(figure.layout.meta or {}), "note": "</script>"})
        report.add(name.replace(" ", "_"), name, "", lambda _, figure=figure: figure)
    (tmp_path / "report.html").write_text(page_html(report), encoding="utf-8")
    page, errors = open_page(browser)
    page.set_default_timeout(60_000)
    for width in (390, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(f"file://{tmp_path}/report.html")
        count = "document.querySelectorAll('.js-plotly-plot[data-width]').length === 6"
        page.wait_for_function(count)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(BEYOND, "html") == []
        for figure in page.evaluate(DRAWN):
            assert figure["wrong"] == [] and figure["width"] >= 0.5 * figure["room"]
    assert not errors
    page.close()


def test_a_closed_part_opens_by_click_by_link_and_in_print(browser, tmp_path):
    report = Page(make_tables())
    report.part("Open")
    report.add("table", "Table", "", main_table)
    report.part("Closed", folded=True)
    name, figure = next(iter(many()))
    report.add("inside", name, "", lambda _: figure)
    (tmp_path / "report.html").write_text(page_html(report), encoding="utf-8")
    page, errors = open_page(browser)
    page.set_default_timeout(60_000)
    page.goto(f"file://{tmp_path}/report.html")
    button = page.locator("button", has_text="Closed")
    page.wait_for_selector("#inside .js-plotly-plot[data-width]", state="attached")
    assert not page.locator("#inside").is_visible()
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert page.locator("#inside").is_visible()
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    page.locator("nav a", has_text=name).click()
    assert page.locator("#inside").is_visible()
    button.click()
    page.emulate_media(media="print")
    assert page.locator("#inside").is_visible() and not page.locator("nav").is_visible()
    assert not errors
    page.close()
