"""The brush in Chromium, with a kernel that is written down: no server is needed."""

import base64
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, needs_browser, open_page

import cyborg
from cyborg.people.brush import Brush

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
pytestmark = needs_browser
STATIC = Path(cyborg.__file__).parent / "static"
MODEL = """([state, code]) => import(code).then(module => {
    document.body.innerHTML = '<div id="brush" style="width:600px"></div>';
    const heard = {};
    window.model = {
        state, sent: [], get: name => state[name], set: (name, value) => { state[name] = value },
        save_changes() {}, send(message) { this.sent.push(message) },
        on: (event, act) => { heard[event] = act }, off() {},
        update(changes) {
            const differs = n => JSON.stringify(state[n]) !== JSON.stringify(changes[n]);
            const names = Object.keys(changes).filter(differs);
            Object.assign(state, changes);
            for (const name of names) heard[`change:${name}`]?.();
        },
    };
    module.default.render({model: window.model, el: document.getElementById('brush')});
})"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser):
    "A brush on a grey picture of 100 x 100 pixels."
    opened, errors = open_page(browser)
    opened.goto("about:blank")
    opened.add_style_tag(path=STATIC / "brush.css")
    brush = Brush(np.full((100, 100, 3), 128, np.uint8), key="first")
    names = ("pictures", "strokes", "radius", "painter", "problem")
    code = base64.b64encode((STATIC / "brush.js").read_bytes()).decode()
    state = {name: getattr(brush, name) for name in names}
    opened.evaluate(MODEL, [state, f"data:text/javascript;base64,{code}"])
    opened.wait_for_selector(".brush-stage")
    yield opened
    assert not errors
    opened.close()


def press(page, points, lift=True):
    "Paint with the mouse; points are shares of the picture's side."
    place = page.locator(".brush-stage").bounding_box()
    spots = [(place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in points]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot)
    if lift:
        page.mouse.up()


def next_picture(page):
    "What Python sends for another picture."
    page.evaluate("""() => { const [old] = model.state.pictures;
        model.update({pictures: [{...old, key: 'second'}], strokes: [[]], painter: ''}) }""")


def messages(page):
    "Key of each message, and where its strokes begin, in tenths of the picture."
    sent = page.evaluate("model.sent")
    assert all(message["kind"] == "painted" for message in sent)
    place = lambda stroke: round(stroke["points"][0][0] / 10)  # noqa: E731
    return [(m["key"], [place(stroke) for stroke in m["strokes"][0]]) for m in sent]


def test_strokes_carry_the_key_of_their_picture(page):
    press(page, [(0.2, 0.2), (0.4, 0.2)])
    press(page, [(0.5, 0.5), (0.6, 0.5)], lift=False)
    next_picture(page)  # comes while the pen is down
    page.mouse.up()
    press(page, [(0.8, 0.8)])
    assert messages(page) == [("first", [2]), ("first", [2, 5]), ("second", [8])]


def test_an_older_echo_takes_nothing_back_and_another_hand_is_shown(page):
    press(page, [(0.2, 0.2)])
    first = page.evaluate("model.sent[0]")
    press(page, [(0.5, 0.5)])
    echo = {"strokes": first["strokes"], "painter": first["board"]}
    page.evaluate("changes => model.update(changes)", echo)  # Python has not got the second yet
    press(page, [(0.8, 0.8)])
    page.evaluate("changes => model.update(changes)", echo | {"painter": ""})
    press(page, [(0.9, 0.9)])
    assert messages(page)[2:] == [("first", [2, 5, 8]), ("first", [2, 9])]


def test_painting_ends_where_the_store_does(page):
    dot = {"points": [[50, 50, 0]], "radius": 6, "erase": False}
    page.evaluate("s => model.update({strokes: [s], painter: 'x'})", [dot] * 499)
    press(page, [(0.2, 0.2)])
    assert len(messages(page)[0][1]) == 500
    assert "500 strokes, the most that can be stored" in page.inner_text(".brush-status")
    press(page, [(0.2, 0.2)])
    page.focus(".brush-stage")
    page.keyboard.press("Space")
    assert len(messages(page)) == 1 and "500 strokes" in page.inner_text(".brush-status")
    page.click("[data-tool=undoButton]")
    press(page, [(0.7, 0.7)])
    assert messages(page)[-1][1][-1] == 7


def test_points_end_where_the_store_does(page):
    line = {"points": [[50, 50, i / 100] for i in range(19_999)], "radius": 6, "erase": False}
    page.evaluate("s => model.update({strokes: [[s]], painter: 'x'})", line)
    press(page, [(0.2, 0.2), (0.4, 0.2), (0.6, 0.2)])
    assert len(page.evaluate("model.sent[0].strokes[0][1].points")) == 1
    assert "20000 points, the most" in page.inner_text(".brush-status")


def test_the_keyboard_brush_stays_in_view_when_zoomed(page):
    for _ in range(4):
        page.click("[data-tool=inButton]")
    page.focus(".brush-stage")
    for key in ["ArrowRight"] * 30 + ["ArrowDown"] * 30 + ["ArrowLeft"] * 60:
        page.keyboard.press(key)
        view, ring = (page.locator(f".brush-{n}").bounding_box() for n in ("view", "ring"))
        for side, length in (("x", "width"), ("y", "height")):
            middle = ring[side] + ring[length] / 2
            assert view[side] <= middle <= view[side] + view[length], key
