"""The study page and the brush in Chromium: what a hand paints is what Python stores, nothing a
browser receives tells the answer, and no error reaches the console."""

import base64
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, FLAGS, free_port, jupyterlab, needs_browser, run_all
from PIL import Image
from test_notebooks import NOTEBOOKS

from cyborg.demo import make_demo
from cyborg.manifest import Manifest, read_manifest, write_manifest
from cyborg.marks import strokes_mask
from cyborg.people.annotations import ExclusionRules, write_maps
from cyborg.people.store import AnnotationStore
from cyborg.people.tables import consents
from cyborg.settings import preset_config
from cyborg.training import load_run, train

sync_playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install playwright"
).sync_playwright
pytestmark = needs_browser
COMMAND = "from cyborg.commands import annotate_command; annotate_command()"
SIDE = 256
ADMIN = "secret of the tests"


class Server:
    """cyborg-annotate in a process of its own, which can be killed and started again."""

    def __init__(self, folder, *options):
        self.port, self.store = free_port(), folder / "study.sqlite"
        make_demo(folder / "demo", n=60, size=64, workers=1)
        self.arguments = ["--manifest", str(folder / "demo" / "manifest.csv"), "--split", ""]
        self.arguments += ["--root", str(folder / "demo"), "--store", str(self.store)]
        self.arguments += ["--side", str(SIDE), "--admin", ADMIN, *options]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [sys.executable, "-c", COMMAND, *self.arguments, "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(900):
            assert self.process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"{self.url}/api/texts", timeout=2).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the server did not answer within 90 s")

    def kill(self):
        self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    options = {"pairs": 12, "answers": 3, "trials": 8, "practice": 1, "attention_every": 8}
    running = Server(folder, *[word for k, v in options.items() for word in (f"--{k}", str(v))])
    yield running
    running.kill()


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    opened = chromium.new_context(viewport={"width": 1200, "height": 950}).new_page()
    opened.errors, opened.seen = [], []
    opened.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on("response", lambda response: opened.seen.append(response))
    yield opened
    opened.context.close()


def begin(page, server, worker):
    page.goto(f"{server.url}/?workerId={worker}&assignmentId=3X&hitId=H")
    page.check("#agree")
    page.click("#start")
    page.click("#begin")
    page.wait_for_selector("#question")


def box(page, number):
    return page.locator(".brush-stage").nth(number).bounding_box()


def paint(page, number, points):
    """Draw with the mouse; points are shares of the picture's side."""
    place = box(page, number)
    spots = [(place["x"] + x * place["width"], place["y"] + y * place["height"]) for x, y in points]
    page.mouse.move(*spots[0])
    page.mouse.down()
    for spot in spots[1:]:
        page.mouse.move(*spot, steps=4)
    page.mouse.up()


def painted(page, number):
    """What the canvas shows, as a mask of one value a pixel of the picture."""
    canvas = page.locator(".brush-stage canvas").nth(number)
    url = canvas.evaluate("canvas => canvas.toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    alpha = np.asarray(picture)[..., 3]
    step = len(alpha) // SIDE
    return alpha.reshape(SIDE, step, SIDE, step).mean((1, 3)) > 127


def stored(server):
    """The annotation table, read beside the running server."""
    store = AnnotationStore(server.store)
    table = store.annotations()
    store.close()
    return table


def answer(page, side):
    page.check(f"#choose-{side}")
    page.click("#next")


NEXT = """before => document.querySelector('#continue, #code') ||
    (document.querySelector('.brush-stage img') || {src: before}).src !== before"""


def answer_and_go_on(page, side):
    """Answer, wait for what comes next, and pass practice feedback and breaks."""
    before = page.locator(".brush-stage img").first.evaluate("image => image.src")
    answer(page, side)
    page.wait_for_function(NEXT, arg=before)
    if page.locator("#continue").count():
        page.click("#continue")
        page.wait_for_selector("#question, #code")


def test_what_is_painted_is_what_is_stored(page, server):
    begin(page, server, "PAINTER")
    assert page.locator("#next").is_disabled()
    paint(page, 0, [(0.2, 0.3), (0.7, 0.3), (0.7, 0.6)])
    paint(page, 0, [(0.5, 0.8)])
    page.click("[data-tool=undoButton]")
    page.keyboard.press("e")
    paint(page, 0, [(0.45, 0.2), (0.45, 0.4)])
    page.keyboard.press("e")
    paint(page, 1, [(0.5, 0.5), (0.6, 0.5)])
    shown = [painted(page, 0), painted(page, 1)]
    answer(page, "left")
    page.wait_for_selector("#continue")  # practice tells whether it was right

    table = stored(server)
    rows = table[table["subject"] == "PAINTER"]
    left = rows[rows["strokes"].map(len) == 2].iloc[0]
    right = rows[rows["strokes"].map(len) == 1].iloc[0]
    assert [stroke["erase"] for stroke in left.strokes] == [False, True]
    for row, seen in zip((left, right), shown, strict=True):
        mask = strokes_mask(row.strokes, row.width, row.height, (SIDE, SIDE))
        assert (mask & seen).sum() / (mask | seen).sum() > 0.97  # all but pixels on the rim
    x, y, seconds = np.array(left.strokes[0]["points"]).T
    np.testing.assert_allclose((x[0], y[0]), (0.2 * 64, 0.3 * 64), atol=0.5)
    np.testing.assert_allclose((x[-1], y[-1]), (0.7 * 64, 0.6 * 64), atol=0.5)
    assert (np.diff(seconds) >= 0).all() and seconds[0] > 0
    assert left.strokes[1]["points"][0][2] > seconds[-1]
    assert not page.errors


def test_a_session_of_ten_trials(page, server, tmp_path):
    begin(page, server, "SESSION")
    questions = []
    for _ in range(10):
        questions.append(page.locator("#question strong").inner_text())
        for number in (0, 1):
            paint(page, number, [(0.3, 0.4), (0.6, 0.45)])
        if len(questions) == 5:
            page.screenshot(path=os.environ.get("CYBORG_SCREENSHOT") or tmp_path / "page.png")
        answer_and_go_on(page, "right")
    code = page.locator("#code").inner_text()
    assert re.fullmatch("[0-9A-F]{10}", code)
    assert all(a != b for a, b in pairwise(questions))  # the question alternates
    table = stored(server)
    trials = table[table["subject"] == "SESSION"].drop_duplicates("trial")
    assert trials["kind"].value_counts().to_dict() == {"pair": 8, "attention": 1, "practice": 1}
    check_nothing_tells(page, table)
    page.reload()
    page.wait_for_selector("#code")
    assert page.locator("#code").inner_text() == code
    assert not page.errors


def test_what_is_painted_trains_the_next_network(page, server, tmp_path):
    begin(page, server, "PAINTER")
    for _ in range(4):
        for number in (0, 1):
            paint(page, number, [(0.3, 0.4), (0.6, 0.45)])
        answer_and_go_on(page, "left")
    folder = server.store.parent / "demo"
    demo = read_manifest(folder / "manifest.csv", root=folder)
    everyone = ExclusionRules(0, 0, 0, 0, 0)
    painted = write_maps(stored(server), demo, "painted", everyone, answers="all")
    with_map = painted.table["map"] != ""
    table = painted.table.assign(split=np.where(with_map, "train", painted.table["split"]))
    manifest = folder / "painted" / "train.csv"
    write_manifest(Manifest(table, folder, painted.classes), manifest)
    given = {"manifest": str(manifest), "root": str(folder), "runs": str(tmp_path), "name": "run"}
    history = load_run(train(preset_config("quick", given | {"size": 64, "epochs": 1}), [])).history
    assert with_map.sum() >= 4
    assert history["train_saliency"].iloc[0] > 0 and history["flat_human"].iloc[0] == 0


def check_nothing_tells(page, table):
    """Pictures came under random names, with the same headers and length; no text tells."""
    pictures = [r for r in page.seen if "/picture/" in r.url and r.status == 200]
    assert len(pictures) >= 20
    heads = [{k: v for k, v in r.all_headers().items() if k != "date"} for r in pictures]
    assert all(head == heads[0] for head in heads)
    names = [r.url.rsplit("/", 1)[1] for r in pictures]
    assert all(re.fullmatch(r"[\w-]{22}", name) for name in names)
    told = [r.json() for r in page.seen if r.url.endswith("/api/trial")]
    words = {str(image) for image in table["image"]} | {"attention", "kind", "pair-"}
    assert not [word for word in words if any(word in str(one) for one in told)]
    assert len({tuple(one) for one in told if not one["done"]}) == 1  # the same fields for all


def test_reload_keeps_what_was_painted_and_a_double_click_is_one_answer(page, server):
    begin(page, server, "RELOADER")
    paint(page, 1, [(0.3, 0.4), (0.6, 0.45)])
    page.check("#choose-left")
    before = painted(page, 1)
    first = page.locator(".brush-stage img").first.get_attribute("src")
    page.reload()
    page.wait_for_selector("#question")
    assert page.locator(".brush-stage img").first.get_attribute("src") == first
    assert page.locator("#choose-left").is_checked()
    assert (painted(page, 1) == before).all()
    page.dblclick("#next")
    page.wait_for_selector("#continue")
    table = stored(server)
    assert table[table["subject"] == "RELOADER"]["trial"].nunique() == 1
    assert not page.errors


def test_a_mark_that_was_erased_again_is_none(page, server):
    begin(page, server, "ERASER")
    page.check("#choose-left")
    paint(page, 0, [(0.5, 0.5)])
    assert page.locator("#next").is_enabled()
    page.keyboard.press("e")
    paint(page, 0, [(0.3, 0.5), (0.7, 0.5)])
    assert not painted(page, 0).any()
    assert page.locator("#next").is_disabled()
    page.keyboard.press("e")
    paint(page, 1, [(0.2, 0.2)])
    assert page.locator("#next").is_enabled()
    assert not page.errors


@pytest.mark.parametrize("status", [400, 413])
def test_a_refused_answer_stays_and_says_why(page, server, status):
    begin(page, server, f"REFUSED{status}")
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    before = painted(page, 0)
    body = {400: '{"error": "too many strokes"}', 413: "<html>a proxy's own page</html>"}[status]
    page.route("**/api/answer", lambda route: route.fulfill(status=status, body=body))
    answer(page, "left")
    page.wait_for_selector("#notice:has-text('Not stored')")
    time.sleep(0.5)
    said = page.locator("#notice").inner_text()
    assert ("too many strokes" if status == 400 else "says 413") in said
    assert (painted(page, 0) == before).all()
    page.reload()  # the draft is still there, too
    page.wait_for_selector("#question")
    assert (painted(page, 0) == before).all()
    page.unroute("**/api/answer")
    page.click("#next")
    page.wait_for_selector("#continue")
    assert stored(server)["subject"].eq(f"REFUSED{status}").sum() == 2


def test_an_answer_from_another_tab_is_told_and_the_page_goes_on(page, server):
    begin(page, server, "TABS")
    other = page.context.new_page()
    other.goto(page.url)
    for own, side in ((other, "right"), (page, "left")):
        own.wait_for_selector("#question")
        paint(own, 0, [(0.3, 0.4), (0.6, 0.45)])
        answer(own, side)
        own.wait_for_selector("#continue")
    assert "was not stored" in page.locator("#main").inner_text()
    page.click("#continue")
    page.wait_for_selector("#question")
    assert stored(server)["subject"].eq("TABS").sum() == 2


def test_consent_to_another_text_is_asked_for_again(page, server):
    begin(page, server, "AGREED")
    page.reload()
    page.wait_for_selector("#question")  # to this one it has agreed
    words = server.arguments
    server.kill()
    try:
        server.arguments = [*words, "--consent", "We film you and sell the film."]
        server.start()
        page.reload()
        page.wait_for_selector("#agree")
        assert "sell the film" in page.locator("#main").inner_text()
        assert page.locator("#question").count() == 0
        assert "sell the film" not in str(texts_agreed_to(server))
        page.check("#agree")
        page.click("#start")
        page.click("#begin")
        page.wait_for_selector("#question")
        assert "sell the film" in str(texts_agreed_to(server))
    finally:
        server.kill()
        server.arguments = words
        server.start()


def texts_agreed_to(server):
    store = AnnotationStore(server.store)
    with store.reads() as connection:
        found = connection.execute(consents.select()).all()
    store.close()
    return found


def test_a_full_study_says_so_and_shows_no_code(page, server):
    full = '{"error": "full"}'
    page.route("**/api/enter", lambda route: route.fulfill(status=410, body=full))
    page.goto(f"{server.url}/?workerId=LATE")
    page.check("#agree")
    page.click("#start")
    page.wait_for_selector("#full")
    assert page.locator("#code, #question, button").count() == 0


def test_a_killed_server_loses_nothing(page, server):
    begin(page, server, "PATIENT")
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    server.kill()
    answer(page, "left")
    page.wait_for_function(
        "() => document.getElementById('notice').textContent.includes('No connection')"
    )
    server.start()
    page.wait_for_selector("#continue", timeout=60_000)
    table = stored(server)
    assert table[table["subject"] == "PATIENT"]["trial"].nunique() == 1
    assert all("ERR_CONNECTION" in error for error in page.errors)  # and nothing else


@pytest.mark.parametrize(
    ("width", "height", "layout", "places"),
    [
        (360, 740, "stacked", ["upper", "lower"]),
        (768, 1024, "side by side", ["left", "right"]),
        (1280, 800, "side by side", ["left", "right"]),
    ],
)
def test_the_answer_stands_at_its_picture_and_the_layout_is_stored(
    chromium, server, width, height, layout, places
):
    size = {"width": width, "height": height}
    context = chromium.new_context(viewport=size, has_touch=width < 1000, is_mobile=width < 1000)
    page = context.new_page()
    begin(page, server, f"WIDE{width}")
    answers, pictures = page.locator(".choice"), page.locator(".brush-view")
    for number, place in enumerate(places):
        assert f"The {place} one is" in answers.nth(number).inner_text()
        alt = page.locator(".brush-stage img").nth(number).get_attribute("alt")
        assert alt == f"{place} picture"
        mine, label = pictures.nth(number).bounding_box(), answers.nth(number).bounding_box()
        assert 0 <= label["y"] - mine["y"] - mine["height"] < 20  # right below it
        assert label["x"] >= mine["x"] - 1 and label["width"] <= mine["width"] + 1
        assert 190 <= mine["width"] <= width and abs(mine["width"] - mine["height"]) < 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
    for tool in page.locator(".brush-tools button").all():
        assert min(tool.bounding_box()["height"], tool.bounding_box()["width"]) >= 26
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    answer(page, "right")  # the second one, wherever it stands
    page.wait_for_selector("#continue")
    rows = stored(server).query(f"subject == 'WIDE{width}'")
    assert set(rows["layout"]) == {layout} and set(rows["choice"]) == {"right"}
    marked = rows["strokes"].map(len) > 0
    assert rows.loc[marked, "place"].tolist() == [places[0]]  # what was painted on stood there
    assert rows.loc[~marked, "place"].tolist() == [places[1]]
    assert set(rows["viewport"]) == {f"{width}x{height}"}
    (screen,) = set(rows["screen"])
    assert re.fullmatch(r"\d+ px at 1, mouse", screen)
    assert 190 <= int(screen.split()[0]) <= width
    context.close()


def test_words_follow_a_screen_that_is_turned(page, server):
    begin(page, server, "TURNED")
    assert "The left one" in page.locator(".choice").first.inner_text()
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_selector(".choice:has-text('The upper one')")
    paint(page, 1, [(0.3, 0.4), (0.6, 0.45)])
    page.set_viewport_size({"width": 1200, "height": 900})
    page.wait_for_selector(".choice:has-text('The left one')")
    assert painted(page, 1).any() and not painted(page, 0).any()
    assert not page.errors


def test_a_fault_of_the_server_is_told_once_and_the_marks_are_kept(page, server):
    begin(page, server, "FAULT")
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    before, asked = painted(page, 0), []

    def fail(route):
        asked.append(route.request.url)
        body = '{"error": "the server made a mistake"}'
        route.fulfill(status=500, body=body, content_type="application/json")

    page.route("**/api/*", fail)
    answer(page, "left")
    page.wait_for_selector("#notice:has-text('made a mistake')")
    time.sleep(2)
    assert len(asked) == 1 and "No connection" not in page.locator("#notice").inner_text()
    assert (painted(page, 0) == before).all() and page.locator("#next").is_enabled()
    page.reload()  # at the entry, too: once, and with a button to ask again
    page.wait_for_selector("#again")
    time.sleep(2)
    assert len(asked) == 2
    page.unroute("**/api/*")
    page.click("#again")
    page.wait_for_selector("#question")
    assert (painted(page, 0) == before).all()
    page.click("#next")
    page.wait_for_selector("#continue")
    assert stored(server)["subject"].eq("FAULT").sum() == 2


@pytest.mark.parametrize(("status", "words"), [(429, "is busy"), (503, "cannot store")])
def test_a_server_that_says_later_is_asked_later(page, server, status, words):
    begin(page, server, f"LATER{status}")
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    asked, kind = [], "application/json"

    def later(route):
        asked.append(time.monotonic())
        if len(asked) > 1:
            route.continue_()
            return
        head = {"Retry-After": "2"}
        route.fulfill(status=status, body='{"error": "x"}', content_type=kind, headers=head)

    page.route("**/api/answer", later)
    answer(page, "left")
    page.wait_for_selector(f"#notice:has-text('{words}')")
    page.wait_for_selector("#continue")
    assert len(asked) == 2 and asked[1] - asked[0] >= 1.9
    assert page.locator("#notice").inner_text() == ""


def test_keyboard_zoom_and_touch(page, server):
    begin(page, server, "KEYS")
    stage = page.locator(".brush-stage").first
    stage.focus()
    for key in (" ", "ArrowRight", "ArrowRight", " ", "ArrowDown"):
        page.keyboard.press(key)
    first = painted(page, 0)
    assert first[128, 128] and first.sum() > 300 and not painted(page, 1).any()
    page.keyboard.press("z")
    assert not painted(page, 0).any()
    page.keyboard.press("y")
    assert (painted(page, 0) == first).all()
    small = box(page, 0)["width"]
    page.click("[data-tool=inButton]")
    assert box(page, 0)["width"] == pytest.approx(1.5 * small, rel=0.02)
    page.click("[data-tool=clearButton]")
    assert not painted(page, 0).any()
    page.click("[data-tool=undoButton]")
    assert (painted(page, 0) == first).all()
    page.click("[data-tool=outButton]")
    touch = """([x, y]) => { const s = document.querySelectorAll('.brush-stage')[1];
        const b = s.getBoundingClientRect();
        const at = (type, dx) => s.dispatchEvent(new PointerEvent(type, {bubbles: true,
            pointerId: 7, pointerType: 'touch', button: 0,
            clientX: b.x + (x + dx) * b.width, clientY: b.y + y * b.height}));
        s.setPointerCapture = () => {};
        at('pointerdown', 0); at('pointermove', 0.2); at('pointerup', 0.2); }"""
    page.evaluate(touch, [0.3, 0.5])
    second = painted(page, 1)
    assert second[128, 100] and not second[40, 100]
    assert not page.errors


POINTERS = """(events) => { const s = document.querySelectorAll('.brush-stage')[0];
    s.setPointerCapture = () => {};
    for (const [type, kind, id, x, y, wide] of events) {
        const b = s.parentElement.getBoundingClientRect();
        s.dispatchEvent(new PointerEvent(type, {bubbles: true, pointerId: id, pointerType: kind,
            button: 0, width: wide || 20, height: wide || 20,
            clientX: b.x + x * b.width, clientY: b.y + y * b.height}));
    } }"""


def test_two_fingers_zoom_and_a_hand_beside_the_pen_does_not_paint(page, server):
    begin(page, server, "FINGERS")
    small = box(page, 0)["width"]
    two = [["pointerdown", "touch", 1, 0.4, 0.5], ["pointerdown", "touch", 2, 0.6, 0.5]]
    two += [["pointermove", "touch", 2, 0.8, 0.5]]  # twice as far apart
    two += [["pointerup", "touch", 1, 0.4, 0.5], ["pointerup", "touch", 2, 0.8, 0.5]]
    page.evaluate(POINTERS, two)
    assert box(page, 0)["width"] == pytest.approx(2 * small, rel=0.02)
    assert not painted(page, 0).any()
    page.click("[data-tool=outButton]")
    page.click("[data-tool=outButton]")
    assert box(page, 0)["width"] == pytest.approx(small, rel=0.02)
    palm = [["pointerdown", "touch", 3, 0.5, 0.5, 90], ["pointermove", "touch", 3, 0.7, 0.5, 90]]
    page.evaluate(POINTERS, [*palm, ["pointerup", "touch", 3, 0.7, 0.5, 90]])
    assert not painted(page, 0).any()
    pen = [["pointerdown", "pen", 4, 0.3, 0.3], ["pointermove", "pen", 4, 0.4, 0.3]]
    page.evaluate(POINTERS, [*pen, ["pointerup", "pen", 4, 0.4, 0.3]])
    drawn = painted(page, 0)
    assert drawn.any()
    finger = [["pointerdown", "touch", 5, 0.5, 0.8], ["pointerup", "touch", 5, 0.5, 0.8]]
    page.evaluate(POINTERS, finger)
    assert (painted(page, 0) == drawn).all() and not page.errors


def test_practice_shows_the_pair_again_with_the_answer(page, server):
    begin(page, server, "LEARNER")
    shown = [image.get_attribute("src") for image in page.locator(".brush-stage img").all()]
    paint(page, 0, [(0.5, 0.5), (0.6, 0.5)])
    paint(page, 1, [(0.5, 0.5), (0.6, 0.5)])
    answer(page, "left")
    page.wait_for_selector(".answered")
    again = page.locator(".answered img")
    assert [image.get_attribute("src") for image in again.all()] == shown
    page.wait_for_function(
        "[...document.images].every(image => image.complete && image.naturalWidth)"
    )
    told = page.locator(".feedback").inner_text()
    with sqlite3.connect(server.store) as db:
        [(correct,)] = db.execute(
            "select correct from answers join trials using (trial) join subjects using (subject) "
            "where worker = 'LEARNER'"
        ).fetchall()
    assert told == ("Right." if correct else "No, it was the other one.")
    captions = page.locator(".answered figcaption").all_inner_texts()
    assert [": your choice" in words for words in captions] == [True, False]
    asked = page.locator(".answered figure.asked figcaption").all_inner_texts()
    assert len(asked) == 1 and (": your choice" in asked[0]) == bool(correct)
    page.click("#continue")
    page.wait_for_selector("#question")
    assert not page.errors


def test_administration(page, server):
    begin(page, server, "VISITOR")
    for _ in range(4):  # two of them practice
        paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
        answer_and_go_on(page, "left")
    page.goto(f"{server.url}/admin")
    page.fill("#token", "wrong")
    page.click("button")
    page.wait_for_selector("#notice:has-text('token')")
    assert "Subjects" not in page.locator("#main").inner_text()
    page.fill("#token", ADMIN)
    page.click("button")
    page.wait_for_selector("text=Subjects")
    assert "VISITOR" in page.locator("#main").inner_text()
    if os.environ.get("CYBORG_SCREENSHOT"):
        page.screenshot(path=Path(os.environ["CYBORG_SCREENSHOT"]).with_suffix(".admin.png"))
    page.click("[aria-label='Leave out VISITOR']")
    page.wait_for_selector("[aria-label='Take back VISITOR']")
    page.click("[aria-label='Take back VISITOR']")
    page.wait_for_selector("[aria-label='Leave out VISITOR']")
    with page.expect_download() as saved:
        page.click("text=annotations.parquet")
    assert Path(saved.value.path()).stat().st_size > 1000
    with page.expect_download() as saved:
        page.click("text=study.sqlite")
    assert AnnotationStore(saved.value.path()).annotations()["subject"].eq("VISITOR").any()


def test_a_link_without_a_worker_id_or_with_markup(page, server):
    page.goto(f"{server.url}/")
    page.wait_for_selector("text=lacks a worker id")
    page.goto(f"{server.url}/?workerId=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    page.check("#agree")
    page.click("#start")
    page.wait_for_selector("#notice:has-text('worker id')")
    page.goto(f"{server.url}/?workerId=A1&assignmentId=ASSIGNMENT_ID_NOT_AVAILABLE")
    page.wait_for_selector("text=This is a preview")
    page.wait_for_selector("#preview:has-text('arrow keys move the brush')")  # the instructions
    assert page.locator("input, button").count() == 0
    assert "A1" not in set(stored(server)["subject"])


def finish_by_hand(server, worker):
    """All trials of a subject without a browser."""

    def ask(path, body=None, token=""):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(server.url + path, data)
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    agreed = ask("/api/texts")["consent_hash"]
    token = ask("/api/enter", {"worker": worker, "consent": agreed})["token"]
    mark = {"points": [[30, 30, 0.5]], "radius": 8, "erase": False}
    while not (trial := ask("/api/trial", token=token))["done"]:
        body = {"trial": trial["trial"], "choice": "left", "seconds": 3}
        ask("/api/answer", body | {"strokes": {"left": [mark], "right": []}}, token)
    return trial["code"]


def test_a_finished_assignment_is_submitted_to_mechanical_turk(page, server):
    code, sent = finish_by_hand(server, "TURKER"), []

    def take(route):
        sent.append((route.request.method, route.request.url, route.request.post_data))
        route.fulfill(body="thank you", content_type="text/html")

    page.context.route("https://*.mturk.com/**", take)
    place = "turkSubmitTo=https%3A%2F%2Fworkersandbox.mturk.com"
    page.goto(f"{server.url}/?workerId=TURKER&assignmentId=3X&hitId=H&{place}")
    page.check("#agree")
    page.click("#start")
    page.click("#begin")
    page.wait_for_selector("text=thank you")
    [(method, url, data)] = sent
    assert (method, url) == ("POST", "https://workersandbox.mturk.com/mturk/externalSubmit")
    assert data == f"assignmentId=3X&code={code}"
    page.goto(f"{server.url}/?workerId=TURKER&assignmentId=3X&turkSubmitTo=https%3A%2F%2Fevil.org")
    page.wait_for_selector("#code")
    assert page.locator("form").count() == 0 and len(sent) == 1
    assert not page.errors


# --- JupyterLab ------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """JupyterLab on a copy of annotate.ipynb, with settings and data of its own."""
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "data"))
    (tmp_path / "work").mkdir()
    shutil.copy(NOTEBOOKS / "annotate.ipynb", tmp_path / "work")
    with jupyterlab(tmp_path / "work", tmp_path / "lab") as address:
        yield address("annotate.ipynb"), tmp_path / "data"


def test_the_brush_in_jupyterlab(page, lab):
    url, data = lab
    make_demo(data / "demo-small", n=200)
    page.goto(url)
    run_all(page, ".brush-stage img")
    time.sleep(3)  # outputs below still move the page
    page.locator(".brush-stage").first.evaluate("s => s.scrollIntoView({block: 'center'})")
    paint(page, 0, [(0.3, 0.4), (0.7, 0.4)])
    paint(page, 0, [(0.5, 0.6)])
    page.click("[data-tool=undoButton]")
    store = AnnotationStore(data / "annotations" / "marks.sqlite")
    for _ in range(50):
        table = store.annotations()
        if len(table) and len(table["strokes"][0]) == 1:
            break
        time.sleep(0.2)
    store.close()
    [row] = table.itertuples()
    [stroke] = row.strokes
    np.testing.assert_allclose(stroke["points"][0][:2], (0.3 * 160, 0.4 * 160), atol=1)
    np.testing.assert_allclose(stroke["points"][-1][:2], (0.7 * 160, 0.4 * 160), atol=1)
    page.wait_for_selector(".widget-html:has-text('stored')")
    assert not page.errors
