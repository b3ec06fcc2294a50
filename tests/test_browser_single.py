"""One picture at a time in Chromium, how the study page fits screens, the administrator's page."""

import json
import re
import time
import urllib.request

import pytest
import test_browser_annotate
from browser import needs_browser
from test_browser_annotate import ADMIN, Server, begin, paint, painted, stored

pytestmark = needs_browser
pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
chromium, page = test_browser_annotate.chromium, test_browser_annotate.page  # fixtures
PHONES = [(360, 740), (390, 844)]


def options(**given):
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    given = {"pairs": 12, "answers": 3, "trials": 4, "practice": 1, "attention_every": 4}
    given |= {"task": "single", "confidence": 3, "reasons": "required"}
    running = Server(tmp_path_factory.mktemp("single"), *options(**given))
    yield running
    running.kill()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    given = {"pairs": 12, "answers": 3, "trials": 4, "practice": 1, "attention_every": 0}
    given |= {"confidence": 3, "reasons": "optional"}
    running = Server(tmp_path_factory.mktemp("pairs"), *options(**given))
    yield running
    running.kill()


def judge(page, choice="synthetic", sure=2, why="the ear"):
    paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
    page.check(f"#choose-{choice}")
    page.check(f"#sure-{sure}")
    page.fill("#reason", why)


def go_on(page):
    before = page.locator(".brush-stage img").first.evaluate("image => image.src")
    page.click("#next")
    page.wait_for_function(
        "before => document.querySelector('#continue, #code') || "
        "(document.querySelector('.brush-stage img') || {src: before}).src !== before",
        arg=before,
    )
    if page.locator("#continue").count():
        page.click("#continue")
        page.wait_for_selector("#question, #code")


def test_one_picture_is_judged_marked_rated_and_explained(page, single):
    page.goto(f"{single.url}/?workerId=ALONE")
    page.wait_for_selector("text=one at a time")
    begin(page, single, "ALONE")
    assert page.locator("#question").inner_text().endswith("Is this picture real or synthetic?")
    assert page.locator(".brush-stage").count() == 1
    hint = page.locator("#hint")
    assert hint.inner_text() == (
        "Choose, mark on the picture what told you, say how sure you are and write what told you."
    )
    picture = page.locator(".brush-view").bounding_box()
    for kind, word in (("authentic", "Real"), ("synthetic", "Synthetic")):
        label = page.locator(f"label:has(#choose-{kind})")
        assert label.inner_text().strip() == word
        assert 0 <= label.bounding_box()["y"] - picture["y"] - picture["height"] < 20
    assert page.locator(".sure label").all_inner_texts() == [" a guess", " fairly sure", " certain"]
    judge(page, sure=3, why="  ")
    assert page.locator("#next").is_disabled() and hint.inner_text() == "Now write what told you."
    page.fill("#reason", "the left ear melts")
    assert page.locator("#next").is_enabled() and hint.inner_text() == ""
    shown = painted(page, 0)
    page.reload()  # all of it is still there
    page.wait_for_selector("#question")
    assert (painted(page, 0) == shown).all() and page.locator("#sure-3").is_checked()
    assert page.locator("#reason").input_value() == "the left ear melts"
    assert page.locator("#choose-synthetic").is_checked()
    page.click("#next")
    page.wait_for_selector(".answered")
    [row] = stored(single).query("subject == 'ALONE'").itertuples()
    assert (row.choice, row.confidence, row.reason) == ("synthetic", 3, "the left ear melts")
    assert (row.kind, row.layout, row.place) == ("practice", "single", "alone")
    assert row.correct == (row.left == "synthetic")
    said = page.locator(".feedback").inner_text()
    assert said == ("Right." if row.correct else "No, it is not synthetic.")
    word = {"authentic": "real", "synthetic": "synthetic"}[row.left]
    assert page.locator(".answered figcaption").inner_text() == f"This picture is {word}"
    page.click("#continue")
    page.wait_for_selector("#question")
    for _ in range(5):
        judge(page)
        go_on(page)
    assert re.fullmatch("[0-9A-F]{10}", page.locator("#code").inner_text())
    kinds = stored(single).query("subject == 'ALONE'")["kind"].value_counts().to_dict()
    assert kinds == {"picture": 4, "practice": 1, "attention": 1}
    assert not page.errors


@pytest.mark.parametrize("study", ["single", "pairs"])
def test_a_trial_fits_a_laptop_and_scrolls_once_at_most_on_a_phone(
    chromium,
    request,
    study,
    tmp_path,
):
    """1280 x 800 with pictures, answers and Next in view; on phones two screens hold all of it."""
    server = request.getfixturevalue(study)
    for width, height in [(1280, 800), *PHONES]:
        phone = width < 1000
        context = chromium.new_context(
            viewport={"width": width, "height": height}, has_touch=phone, is_mobile=phone
        )
        page = context.new_page()
        begin(page, server, f"FIT{width}")
        page.screenshot(path=tmp_path / f"{study}-{width}.png", full_page=True)
        tall = page.evaluate("document.documentElement.scrollHeight")
        assert tall <= (2 * height if phone else height), (width, tall)
        before = page.locator(".brush-view").first.bounding_box()
        paint(page, 0, [(0.3, 0.4), (0.6, 0.45)])
        assert page.locator(".brush-view").first.bounding_box() == before  # nothing moves
        assert page.locator("#count").inner_text() == f"1 of {dict(pairs=5, single=6)[study]}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        context.close()


def ask(server, path, body=None, token=""):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data)
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def answer_by_hand(server, worker, trials):
    "Some answers of a subject of the study of pairs, without a browser."
    agreed = ask(server, "/api/texts")["consent_hash"]
    token = ask(server, "/api/enter", {"worker": worker, "consent": agreed})["token"]
    mark = {"points": [[100, 100, 0.5]], "radius": 30, "erase": False}
    for _ in range(trials):
        trial = ask(server, "/api/trial", token=token)
        body = {"trial": trial["trial"], "choice": "left", "seconds": 8, "confidence": 2}
        body |= {"strokes": {"left": [mark], "right": [mark]}, "reason": "the ear"}
        ask(server, "/api/answer", body, token)


def test_the_administrators_page_moves_by_itself(page, pairs, tmp_path):
    page.goto(f"{pairs.url}/admin")
    page.fill("#token", ADMIN)
    page.click("button")
    page.wait_for_selector("#files")
    shown = page.locator("#files p").all_inner_texts()
    assert any("maps.zip" in one and "Empty: nothing was answered yet." in one for one in shown)
    assert page.locator("button:has-text('maps.zip')").is_disabled()
    assert page.locator("button:has-text('study.sqlite')").is_enabled()
    assert "No mean map yet" in page.locator("#main").inner_text()
    answer_by_hand(pairs, "HAND", 5)  # one of them practice
    page.wait_for_selector("#now .tile:has-text('answers') strong:has-text('4')", timeout=20_000)
    assert "HAND" in page.locator("#main").inner_text()
    words = page.locator("#now").inner_text()
    assert "8.0 s" in words and "of 36 wanted" in words and "came, 0 finished" in words
    page.click("[aria-label='Leave out HAND']")
    page.wait_for_selector("text=Empty: left out: by hand.")
    page.click("[aria-label='Take back HAND']")
    page.wait_for_selector("[aria-label='Leave out HAND']")
    time.sleep(0.2)
    if page.locator(".mean").count():  # where one of its four was right
        src = page.locator(".mean img").get_attribute("src")
        assert src.startswith("data:image/")
    page.screenshot(path=tmp_path / "admin.png", full_page=True)
    assert not page.errors
