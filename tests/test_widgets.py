"""The brush and the annotator: what is painted is stored for its own picture, or it is said."""

import re
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

import cyborg
from cyborg.demo import make_demo
from cyborg.marks import MAX_POINTS, MAX_STROKES
from cyborg.people.brush import Annotator, Brush, show_picture


def dab(x=20.0):
    "One stroke."
    return {"points": [[x, 20.0, 0.0], [x + 10, 20.0, 0.5]], "radius": 4.0, "erase": False}


def sent(widget, strokes, key=None, board="b"):
    "What the browser sends when the pen is lifted."
    message = {"kind": "painted", "key": widget.key if key is None else key, "board": board}
    widget._handle_custom_msg(message | {"strokes": [strokes], "seconds": 1.0}, [])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("widgets"), n=40, size=64, workers=1)


@pytest.fixture
def annotator(demo, tmp_path):
    made = Annotator(demo, tmp_path / "marks.sqlite", "ann", size=64)
    yield made
    made.store.close()


def saved(annotator):
    "Where the strokes of each image begin."
    found = {name: annotator.store.saved_marks(name, "ann") for name in annotator.images[:3]}
    return [[stroke["points"][0][0] for stroke in own] for own in found.values()]


def test_a_stroke_belongs_to_the_picture_it_was_painted_on(annotator):
    first = annotator.image
    sent(annotator.brush, [dab()])
    annotator.place.value = 2  # the browser still shows the first picture
    sent(annotator.brush, [dab(), dab(30.0)], key=first)
    assert saved(annotator) == [[20, 30], [], []]
    assert annotator.brush.strokes == [[]] and "stored for image 1" in annotator.status.value
    sent(annotator.brush, [dab(40.0)])
    assert saved(annotator) == [[20, 30], [40], []]
    annotator.place.value = 1
    assert len(annotator.brush.strokes[0]) == 2
    assert saved(annotator) == [[20, 30], [40], []]  # looking changes nothing


def test_marks_of_an_unknown_picture_are_not_stored_and_it_is_said(annotator):
    sent(annotator.brush, [dab()], key="<b>elsewhere.png")
    assert "NOT stored: marks of &#x27;&lt;b&gt;elsewhere.png" in annotator.status.value
    assert saved(annotator) == [[], [], []]


def full(*_, **__):
    raise sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full"))


@pytest.mark.parametrize("error", [full, lambda *_: (_ for _ in ()).throw(OSError("is full"))])
def test_marks_that_could_not_be_stored_are_said(annotator, monkeypatch, error):
    sent(annotator.brush, [dab()])
    assert ">stored<" in annotator.status.value
    with monkeypatch.context() as broken:
        broken.setattr(annotator.store, "save_marks", error)
        sent(annotator.brush, [dab(), dab(30.0)])
        assert "NOT stored: " in annotator.status.value and "is full" in annotator.status.value
        sent(annotator.brush, [dab()], key=annotator.images[1])
        assert "NOT stored, of image 2: " in annotator.status.value
    assert saved(annotator) == [[20], [], []]
    sent(annotator.brush, [dab(), dab(30.0), dab(40.0)])  # with room again, all of it
    assert saved(annotator) == [[20, 30, 40], [], []] and ">stored<" in annotator.status.value


def test_strokes_that_cannot_be_stored_leave_what_was_there(annotator):
    sent(annotator.brush, [dab()])
    sent(annotator.brush, [dab()] * (MAX_STROKES + 1))
    assert f"NOT stored: strokes: wanted a list of at most {MAX_STROKES}" in annotator.status.value
    assert annotator.brush.strokes == [[dab()]] and saved(annotator)[0] == [20]
    sent(annotator.brush, [dab(30.0)])
    assert annotator.brush.problem == "" and saved(annotator)[0] == [30]


def test_a_picture_that_is_gone_is_said_and_the_one_before_stays(annotator, demo):
    sent(annotator.brush, [dab()])
    gone = demo.root / annotator.images[2]
    gone.rename(gone.with_suffix(".away"))
    try:
        annotator.place.value = 3
    finally:
        gone.with_suffix(".away").rename(gone)
    assert "image 3 is NOT shown" in annotator.status.value
    assert annotator.image == annotator.images[0] == annotator.brush.key
    sent(annotator.brush, [dab(), dab(30.0)])
    assert saved(annotator) == [[20, 30], [], []]


def test_the_board_that_painted_is_known_until_python_paints():
    brush = Brush(np.zeros((64, 64, 3), np.uint8))
    sent(brush, [dab()], board="own")
    assert brush.painter == "own"  # it keeps what it has, which may be newer
    brush.strokes = [[dab(30.0)]]
    assert brush.painter == ""
    sent(brush, [dab()], board="own")
    show_picture(brush, np.ones((64, 64, 3), np.uint8))
    assert brush.painter == "" and brush.strokes == [[]]


def test_the_browser_stops_where_the_store_does():
    text = (Path(cyborg.__file__).parent / "static" / "brush.js").read_text()
    found = re.search(r"MOST = \{ strokes: (\d+), points: (\d+) \}", text)
    assert tuple(map(int, found.groups())) == (MAX_STROKES, MAX_POINTS)
