"""Annotations: strokes and formats against literal versions and other tools' bytes; trials under
concurrency, time-outs and kills; the gaze files of the real data where that is at hand."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from PIL import Image

from cyborg.data import ImageDataset
from cyborg.demo import make_demo
from cyborg.manifest import Manifest, read_manifest
from cyborg.marks import (
    MAX_POINTS,
    AnnotationError,
    checked_strokes,
    human_maps,
    label_studio_mask,
    label_studio_rle,
    rle_counts,
    rle_mask,
    row_mask,
    share_of,
    strokes_mask,
)
from cyborg.people.annotations import ExclusionRules, subject_summary, write_maps
from cyborg.people.exchange import (
    read_annotations,
    read_coco,
    read_label_studio,
    read_marks,
    read_reaction_times,
    write_annotations,
    write_coco,
    write_label_studio,
)
from cyborg.people.gaze import fixation_maps, read_fixation_files, read_fixations
from cyborg.people.store import AlreadyAnswered, AnnotationStore
from cyborg.people.tables import (
    StudySettings,
    agreements,
    as_table,
    consents,
    exclusions,
    layouts_table,
    make_pairs,
)
from cyborg.people.tables import trials as trials_table
from cyborg.saliency import human_map, read_map

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from annotate_leaks import sequence_leaks, sessions, walk  # noqa: E402

GAZE = Path(os.environ.get("CYBORG_HUMAN_MAPS") or ROOT.parent / "shared" / "data" / "human_maps")
needs_gaze = pytest.mark.skipif(
    not (GAZE / "osie" / "crops.csv").is_file(),
    reason=f"needs gaze files: CYBORG_HUMAN_MAPS is not set and {GAZE} holds no osie/crops.csv",
)
DAB = {"points": [[20.0, 20.0, 0.0], [40.0, 20.0, 0.5]], "radius": 4.0, "erase": False}
BOTH = {"left": [DAB], "right": [DAB]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo") / "set", n=60, size=64, workers=1)


@pytest.fixture
def study(tmp_path, demo):
    """A store with 8 pairs; call it with settings."""
    made = []

    def make(url=None, n=8, **settings):
        settings = StudySettings(**{"practice": 0, "attention_every": 0, **settings})
        checks = settings.length - settings.practice - settings.trials
        store = AnnotationStore(url or tmp_path / f"study{len(made)}.sqlite")
        store.begin_study(make_pairs(demo, n, settings.practice, checks), demo.root, settings)
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


# --- strokes and masks -----------------------------------------------------------------------


def literal_mask(strokes, side):
    """Each pixel asked for itself, stroke after stroke."""
    mask = np.zeros((side, side), bool)
    for stroke in strokes:
        points = np.array(stroke["points"])[:, :2]
        pieces = list(pairwise(points)) if len(points) > 1 else [(points[0], points[0])]
        for i in range(side):
            for j in range(side):
                centre = np.array([j + 0.5, i + 0.5])
                for a, b in pieces:
                    length = ((b - a) ** 2).sum()
                    share = np.clip((centre - a) @ (b - a) / length, 0, 1) if length else 0
                    if np.hypot(*(centre - a - share * (b - a))) <= stroke["radius"]:
                        mask[i, j] = not stroke["erase"]
    return mask


def test_mask_is_the_literal_one_eraser_and_order_included():
    rng = np.random.default_rng(0)
    strokes = [
        {
            "points": np.c_[rng.uniform(0, 20, (n, 2)), np.arange(n)].tolist(),
            "radius": radius,
            "erase": erase,
        }
        for n, radius, erase in ((4, 2.5, False), (1, 4.0, True), (3, 1.2, True), (2, 1.2, False))
    ]
    mask = strokes_mask(checked_strokes(strokes, 20, 20), 20, 20)
    np.testing.assert_array_equal(mask, literal_mask(strokes, 20))
    assert (mask != literal_mask(strokes[::-1], 20)).any()  # the order does matter here


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": []}, "shape"),
        ({"points": [[1, 2]]}, "shape"),
        ({"points": [[1, 2, float("nan")]]}, "NaN"),
        ({"points": [["<b>", 2, 3]]}, "no number"),
        ({"points": [[1, 2, -1]]}, "negative"),
        ({"points": [[64.1, 2, 0]]}, "leaves the picture"),
        ({"points": [[1, -0.1, 0]]}, "leaves the picture"),
        ({"points": [[1, 2, 0]] * (MAX_POINTS + 1)}, "points"),
        ({"radius": 0}, "radius"),
        ({"radius": 65}, "radius"),
        ({"radius": None}, "no number"),
        ({"erase": "yes"}, "erase"),
    ],
)
def test_bad_strokes(change, message):
    with pytest.raises(AnnotationError, match=message):
        checked_strokes([{**DAB, **change}], 64, 64)


@pytest.mark.parametrize("strokes", [None, {}, "x", [3], [[]], [{}], [DAB] * 501])
def test_what_is_no_list_of_strokes(strokes):
    with pytest.raises(AnnotationError):
        checked_strokes(strokes, 64, 64)


def test_unknown_keys_of_a_stroke_are_not_kept():
    assert checked_strokes([{**DAB, "evil": "x" * 100}], 64, 64) == [DAB]


# --- formats of other tools ------------------------------------------------------------------

BLOCKS = np.zeros((9, 70), bool)
BLOCKS[2:5, 3:60] = BLOCKS[7, 1] = BLOCKS[0, 69] = True
COCO_BYTES = "`01<2J" + "0" * 111 + "_2NcM"  # pycocotools 2.0.11
STUDIO_BYTES = [
    0,
    0,
    9,
    216,
    57,
    27,
    255,
    1,
    19,
    0,
    143,
    255,
    128,
    145,
    128,
    110,
    63,
    252,
    102,
    1,
    184,
    255,
    241,
    152,
    6,
    227,
    255,
    224,
    75,
    96,
    17,
    255,
    240,
    34,
    112,
    0,
]  # label-studio-converter 0.0.59


def test_coco_text_of_pycocotools():
    np.testing.assert_array_equal(rle_mask(COCO_BYTES, (9, 70)), BLOCKS)


def test_bytes_of_label_studio():
    np.testing.assert_array_equal(label_studio_mask(STUDIO_BYTES, (9, 70)), BLOCKS)


@pytest.mark.parametrize("share", [0, 0.03, 0.5, 0.97, 1])
def test_masks_survive_both_codes(share):
    mask = np.random.default_rng(1).random((33, 120)) < share
    np.testing.assert_array_equal(rle_mask(rle_counts(mask), mask.shape), mask)
    np.testing.assert_array_equal(label_studio_mask(label_studio_rle(mask), mask.shape), mask)


def test_polygons_and_categories_of_coco(tmp_path):
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[2, 2, 6, 2, 6, 5, 2, 5]]}
    other = {**square, "id": 2, "category_id": 2, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    content = {"images": [{"id": 1, "file_name": "a.png", "width": 9, "height": 8}]}
    content |= {"annotations": [square, other]}
    content |= {"categories": [{"id": 1, "name": "face"}, {"id": 2, "name": "dirt"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    [row] = read_coco(tmp_path / "coco.json", ["face"]).itertuples()
    mask = row_mask(row)
    assert mask[2:5, 2:6].all() and mask.sum() <= 20  # 12, and what lies on the rim
    assert row.kind == "import" and pd.isna(row.correct)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [], "annotations": [{}]}', "\xff"])
def test_what_is_no_coco_file(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(AnnotationError, match="x.json"):
        read_coco(tmp_path / "x.json")


def test_regions_of_one_label_studio_annotation_are_one_mask(tmp_path):
    halves = [BLOCKS & (np.arange(70) < 30), BLOCKS & (np.arange(70) >= 30)]
    regions = [
        {
            "type": "brushlabels",
            "original_width": 70,
            "original_height": 9,
            "value": {"format": "rle", "rle": label_studio_rle(half), "brushlabels": ["x"]},
        }
        for half in halves
    ]
    one = {"id": 5, "completed_by": {"email": "a@b.c"}, "lead_time": 7.5, "result": regions}
    dropped = {**one, "was_cancelled": True}
    task = {"data": {"image": "/data/upload/1/8f3ac1d2-a.png"}, "annotations": [one, dropped]}
    (tmp_path / "ls.json").write_text(json.dumps([task]))
    [row] = read_label_studio(tmp_path / "ls.json", ["x/a.png", "x/b.png"]).itertuples()
    np.testing.assert_array_equal(row_mask(row), BLOCKS)
    assert (row.image, row.subject, row.seconds) == ("x/a.png", "a@b.c", 7.5)
    with pytest.raises(AnnotationError, match="fits 2 images"):
        read_label_studio(tmp_path / "ls.json", ["x/a.png", "y/a.png"])


@pytest.mark.parametrize(
    ("row", "message"),
    [("8,1,0.5", "not in"), ("7,1,2", "row 0"), ("7,x,2", "row 0"), ("7,1,-1", "row 0")],
)
def test_bad_reaction_times(tmp_path, row, message):
    (tmp_path / "a.csv").write_text(f"image_id,overall_ann_time,annotation_time\n{row}\n")
    (tmp_path / "i.csv").write_text("img_id,img_path\n7,x.png\n")
    with pytest.raises(AnnotationError, match=message):
        read_reaction_times(tmp_path / "a.csv", tmp_path / "i.csv")


# --- handing out -----------------------------------------------------------------------------


def answer_all(store, worker, now=None):
    """Take part to the end; the trials that were answered."""
    subject, done = store.enter(worker), []
    while trial := store.next_trial(subject, now):
        store.answer(subject, trial.trial, "left", BOTH, 3.0, now)
        done.append(trial)
    return done


def test_every_pair_gets_its_answers_and_no_more(study):
    store = study(answers=4, trials=8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: answer_all(store, f"w{i}"), range(8)))
    trials = store.annotations().drop_duplicates("trial")
    assert Counter(trials["pair"].value_counts()) == {4: 8}
    cells = trials.groupby(["pair", "question"]).size().unstack(fill_value=0)
    assert (cells.min(axis=1) >= 1).all()
    assert abs((trials["question"] == "authentic").sum() - 16) <= 4


def test_question_alternates_and_sides_are_balanced_over_the_study(study):
    store = study(answers=8, trials=8, n=24)
    runs = [answer_all(store, f"w{i}") for i in range(24)]
    assert all(a.question != b.question for run in runs for a, b in pairwise(run))
    assert {run[0].question for run in runs} == {"authentic", "synthetic"}
    trials = store.annotations().drop_duplicates("trial")
    cells = trials.groupby(["pair", "question"])["left"].apply(lambda s: s.eq("authentic").sum())
    alone = 24 * 8 / 4  # variance of the number of cells' left ones, were each side thrown alone
    assert len(cells) == 48 and ((cells - 2) ** 2).sum() < 0.75 * alone


def test_what_came_before_tells_nothing_of_the_next_side(study):
    """150 subjects who know every earlier side; first trial, trials 1 to 10, last trials."""
    store = study(answers=75, trials=10, n=22, practice=2, attention_every=5)
    found = sequence_leaks(sessions(store, 150), level=0.99999)
    assert set(found["trials"]) == {"first", "1 to 10", "last 3", "all"}
    away = found[(found["low"] > 0.5) | (found["high"] < 0.5)]
    assert not len(away), away


def test_the_rules_find_the_walk_of_earlier_versions():
    found = sequence_leaks(walk(150, 12, np.random.default_rng(0)), level=0.99999)
    found = found.set_index(["rule", "trials"])
    assert found.loc[("less often right", "first"), "right"] == pytest.approx(0.75, abs=0.08)
    for rule in ("less often right", "less often right in practice", "learned on other subjects"):
        assert found.loc[(rule, "first"), "low"] > 0.5
    assert found.loc[("less often right", "all"), "low"] > 0.5


def test_intervals_of_subjects_hold_what_they_promise():
    rng, held = np.random.default_rng(1), []
    for _ in range(60):
        table = walk(12, 10, rng).assign(side=lambda t: rng.choice([-1, 1], len(t)))
        one = sequence_leaks(table, learn=False).set_index(["rule", "trials"])
        low, high = one.loc[("less often right", "1 to 10"), ["low", "high"]]
        held.append(low <= 0.5 <= high)
    assert np.mean(held) > 0.85  # 95 % of 60, less three standard errors


def test_a_store_of_the_walk_goes_on_with_coins(study):
    store = study(answers=20, trials=8, n=24)
    for i in range(3):
        subject, lean = store.enter(f"old{i}"), 0
        for _ in range(4):
            trial = store.next_trial(subject)
            right = -np.sign(lean) if abs(lean) >= 2 else (-1) ** i
            other = {"authentic": "synthetic", "synthetic": "authentic"}[trial.question]
            left = trial.question if right > 0 else other
            lean += right
            with store.writes() as connection:
                own = trials_table.c.trial == trial.trial
                connection.execute(sa.update(trials_table).where(own).values(left_label=left))
            store.answer(subject, trial.trial, "left", BOTH, 3.0)
    with store.engine.begin() as connection:
        layouts_table.drop(connection)  # which stores of that time lack
    again = AnnotationStore(str(store.engine.url))
    assert len(again.annotations()) == 24
    assert set(again.annotations()["layout"]) == {"unknown"}
    rest = [answer_all(again, f"old{i}") for i in range(3)]
    assert [len(run) for run in rest] == [4, 4, 4]
    again.close()


def test_a_lost_trial_is_handed_out_again(study):
    store = study(answers=1, trials=1, n=1, timeout=60)
    first, second = store.enter("first"), store.enter("second")
    lost = store.next_trial(first, now=0.0)
    assert store.next_trial(second, now=59.0) is None  # the pair waits for its answer
    third = store.enter("third")
    given = store.next_trial(third, now=61.0)
    assert given is not None and given.trial != lost.trial
    store.answer(third, given.trial, "left", BOTH, 3.0, now=70.0)
    # who comes back gets nothing more of that pair, but an answer on its way is not thrown away
    assert not store.answer(first, lost.trial, "left", BOTH, 3.0, now=80.0).again
    assert store.next_trial(first, now=81.0) is None


def test_who_returns_too_late_gets_another_pair(study):
    store = study(answers=1, trials=1, n=1, timeout=60)
    late = store.enter("late")
    lost = store.next_trial(late, now=0.0)
    other = store.enter("other")
    store.answer(other, store.next_trial(other, now=61.0).trial, "left", BOTH, 3.0, now=62.0)
    assert store.next_trial(late, now=100.0) is None
    assert store.enter("late").code == ""  # nothing was answered
    store.answer(late, lost.trial, "left", BOTH, 3.0, now=110.0)  # from a page still open
    assert store.next_trial(late, now=111.0) is None and store.enter("late").code


def test_who_returns_in_time_gets_the_same_trial(study):
    store = study(answers=1, trials=1, n=1, timeout=60)
    subject = store.enter("slow")
    trial = store.next_trial(subject, now=0.0)
    assert store.next_trial(subject, now=500.0) == trial  # nobody else has taken it
    assert store.next_trial(store.enter("other"), now=550.0) is None  # its lease is new


def test_two_processes_share_a_store(study, tmp_path, demo):
    store = study(answers=2, trials=8)
    code = (
        "import sys; from cyborg.people.store import AnnotationStore\n"
        "store = AnnotationStore(sys.argv[1])\n"
        "s = {'points': [[20, 20, 0]], 'radius': 4, 'erase': False}\n"
        "for worker in sys.argv[2:]:\n"
        "    subject = store.enter(worker)\n"
        "    while trial := store.next_trial(subject):\n"
        "        store.answer(subject, trial.trial, 'left', {'left': [s], 'right': [s]}, 3.0)\n"
    )
    path = str(tmp_path / "study0.sqlite")
    children = [
        subprocess.Popen([sys.executable, "-c", code, path, *names])
        for names in (("a", "b"), ("c", "d"))
    ]
    assert [child.wait(60) for child in children] == [0, 0]
    trials = store.annotations().drop_duplicates("trial")
    assert trials["pair"].value_counts().to_dict() == dict.fromkeys(set(trials["pair"]), 2)
    assert len(trials) == 16


def test_a_killed_process_loses_no_acknowledged_answer(study, tmp_path):
    store = study(answers=50, trials=8)
    code = (
        "import sys; from cyborg.people.store import AnnotationStore\n"
        "store = AnnotationStore(sys.argv[1])\n"
        "s = {'points': [[20, 20, 0]], 'radius': 4, 'erase': False}\n"
        "for worker in range(1000):\n"
        "    subject = store.enter(f'w{worker}')\n"
        "    while trial := store.next_trial(subject):\n"
        "        store.answer(subject, trial.trial, 'left', {'left': [s], 'right': [s]}, 3.0)\n"
        "        print(trial.trial, flush=True)\n"
    )
    path = str(tmp_path / "study0.sqlite")
    child = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    told = [child.stdout.readline().strip() for _ in range(15)]
    child.send_signal(signal.SIGKILL)
    told += child.stdout.read().split()
    child.wait(10)
    table = store.annotations()
    assert set(told) <= set(table["trial"])
    assert (table.groupby("trial").size() == 2).all()
    assert len(answer_all(store, "after")) == 8  # and it goes on


def test_one_answer_however_often_it_is_sent(study):
    store = study(answers=5, trials=8)
    subject = store.enter("A1")
    trial = store.next_trial(subject)
    with ThreadPoolExecutor(8) as pool:
        done = pool.map(lambda _: store.answer(subject, trial.trial, "left", BOTH, 3.0), range(16))
        assert sorted(one.again for one in done) == [False] + [True] * 15
    with pytest.raises(AlreadyAnswered):
        store.answer(subject, trial.trial, "left", {"left": [], "right": [DAB]}, 3.0)
    assert len(store.annotations()) == 2


STACKED = {"layout": "stacked", "left_at": "upper", "right_at": "lower"}
STACKED |= {"viewport_width": 360, "viewport_height": 740.0}


SCREEN = {"picture_width": 324, "device_pixel_ratio": 2.625, "input": "touch"}


def test_the_screen_is_stored_where_a_page_tells_it(study, tmp_path):
    "Answers of older pages, and stores made before, have none."
    store = study(trials=3)
    subject = store.enter("A1")
    for more in (SCREEN, SCREEN | {"input": "mouse pen", "device_pixel_ratio": 1}, {}):
        trial = store.next_trial(subject).trial
        store.answer(subject, trial, "left", BOTH, 3.0, layout=STACKED | more)
    table = store.annotations()
    told = list(dict.fromkeys(table["screen"]))
    assert told == ["324 px at 2.625, touch", "324 px at 1, mouse pen", ""]
    back = read_annotations(write_annotations(table, tmp_path / "t.parquet"))
    assert back["screen"].tolist() == table["screen"].tolist()
    coco = read_coco(write_coco(table, tmp_path / "c.json"))
    assert coco["screen"].tolist() == table["screen"].tolist()
    assert set(as_table(table.drop(columns="screen"))["screen"]) == {""}


def test_the_layout_is_stored_exported_and_read_again(study, tmp_path, demo):
    store = study(trials=3)
    subject = store.enter("A1")
    for layout in (STACKED, None):
        trial = store.next_trial(subject)
        store.answer(subject, trial.trial, "left", BOTH, 3.0, layout=layout)
    table = store.annotations()
    told, untold = (rows for _, rows in table.groupby("trial", sort=False))
    for row in told.itertuples():
        genuine = demo.table.set_index("image").loc[row.image, "label"]
        assert row.place == ("upper" if genuine == row.left else "lower")
    assert set(told["layout"]) == {"stacked"} and set(told["viewport"]) == {"360x740"}
    assert set(untold["layout"]) == {"unknown"} and set(untold["place"]) == {""}
    back = read_annotations(write_annotations(table, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(back, table)
    coco = read_coco(write_coco(table, tmp_path / "c.json"))
    assert coco[["layout", "place"]].values.tolist() == table[["layout", "place"]].values.tolist()
    before = as_table(table.drop(columns=["layout", "place", "viewport"]))
    assert set(before["layout"]) == {"unknown"}


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "beside"},
        {"layout": None},
        {"layout": ["stacked"]},
        {"left_at": "left"},
        {"left_at": "upper", "right_at": "upper"},
        {"left_at": ["upper"]},
        {"viewport_width": 0},
        {"viewport_width": float("nan")},
        {"viewport_width": True},
        {"viewport_height": "740"},
        {"viewport_height": 10**400},
        {"more": 1},
        {"input": "touch"},
        SCREEN | {"input": "foot"},
        SCREEN | {"input": None},
        SCREEN | {"picture_width": 0},
        SCREEN | {"device_pixel_ratio": "2"},
    ],
)
def test_bad_layouts(study, change):
    store = study()
    subject = store.enter("A1")
    trial = store.next_trial(subject).trial
    for layout in (STACKED | change, [], "stacked", 3, {}):
        with pytest.raises(AnnotationError, match="layout|viewport|wanted a number"):
            store.answer(subject, trial, "left", BOTH, 3.0, layout=layout)
    assert not len(store.annotations())


def test_the_file_alone_holds_everything_after_a_checkpoint_and_in_a_copy(study, tmp_path):
    store = study(trials=8)
    answer_all(store, "A1")

    def alone(path):
        "Trials in a copy of one file, without those beside it."
        (tmp_path / "alone").mkdir(exist_ok=True)
        target = tmp_path / "alone" / f"{path.name}.{time.monotonic_ns()}"
        target.write_bytes(path.read_bytes())
        with contextlib.closing(sqlite3.connect(target)) as connection:
            try:
                return connection.execute("SELECT count(*) FROM answers").fetchone()[0]
            except sqlite3.OperationalError:  # not even the tables
                return 0

    path = Path(store.engine.url.database)
    assert alone(path) < 8  # this is why
    assert alone(store.copy_to(tmp_path / "copy.sqlite")) == 8
    assert store.checkpoint() and alone(path) == 8
    answer_all(store, "B2")
    with store.reads() as connection:  # somebody reads meanwhile: no error, and nothing waits
        connection.execute(sa.select(layouts_table)).all()
        assert not store.checkpoint(0.05)
    store.close()
    assert alone(path) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"radius": 10**400},
        {"radius": True},
        {"radius": "8"},
        {"radius": [8]},
        {"points": [[1, 2, 10**400]]},
        {"points": [["1", "2", "3"]]},
        {"points": [[True, 2, 3]]},
        {"points": [[[1], 2, 3]]},
        {"points": [1, 2, 3]},
        {"points": 7},
        {"points": None},
        {"points": "abc"},
        {"points": {"x": 1}},
        {"erase": "\ud800"},
        {"erase": None},
    ],
)
def test_what_is_no_number_is_refused_and_not_made_one(change):
    with pytest.raises(AnnotationError):
        checked_strokes([{**DAB, **change}], 64, 64)


@pytest.mark.parametrize("marks", ["either", "both", "chosen"])
def test_marks_that_are_required(study, marks):
    store = study(trials=1, marks=marks)
    subject = store.enter("A1")
    trial = store.next_trial(subject).trial
    rubbed = {"left": [{**DAB, "erase": True}], "right": []}
    with pytest.raises(AnnotationError, match=f"mark {marks}"):
        store.answer(subject, trial, "left", rubbed, 3.0)
    dot, over = {**DAB, "radius": 1.0}, {**DAB, "radius": 9.0, "erase": True}
    with pytest.raises(AnnotationError, match=f"mark {marks}"):  # painted, and rubbed out again
        store.answer(subject, trial, "left", {"left": [dot, over], "right": [dot, over]}, 3.0)
    only_right = {"left": [], "right": [DAB]}
    if marks == "either":
        store.answer(subject, trial, "left", only_right, 3.0)
    else:
        with pytest.raises(AnnotationError, match=f"mark {marks}"):
            store.answer(subject, trial, "left", only_right, 3.0)


def test_the_smallest_dot_is_a_mark(study):
    store = study(trials=1)
    subject = store.enter("A1")
    dot = {"points": [[32.0, 32.0, 0.1]], "radius": 0.64, "erase": False}  # a hundredth of 64
    trial = store.next_trial(subject).trial
    assert not store.answer(subject, trial, "left", {"left": [dot], "right": []}, 3.0).again


def test_who_comes_when_all_is_answered_does_nothing_and_has_no_code(study):
    store = study(answers=1, trials=8, practice=1)
    early = store.enter("early")
    assert len(answer_all(store, "worker")) == 9 and store.enter("worker").code
    assert not store.has_room("late") and store.has_room("early")
    assert store.next_trial(early) is None and store.enter("early").code == ""  # no practice, too
    assert store.people().loc["early", "finished"] == ""


def fail_checks(store, worker):
    """Take part to the end, wrong wherever it can be told."""
    subject = store.enter(worker)
    while trial := store.next_trial(subject):
        wrong = "right" if trial.question == trial.left_label else "left"
        store.answer(subject, trial.trial, wrong, BOTH, 3.0)


def test_answers_of_who_fails_the_checks_are_given_by_somebody_else(study):
    store = study(answers=1, trials=8, attention_every=8)
    fail_checks(store, "asleep")
    assert store.people().loc["asleep", "not_counted"] == "attention checks"
    assert store.enter("asleep").code  # the subject is not told
    assert store.has_room()
    kinds = Counter(trial.kind for trial in answer_all(store, "awake"))
    assert kinds["pair"] == 8
    all_the_same = study(answers=1, trials=8, attention_every=8, attention=0.0)
    fail_checks(all_the_same, "asleep")
    assert not all_the_same.has_room()


def test_leaving_somebody_out_by_hand(study):
    store = study(answers=1, trials=8)
    answer_all(store, "odd")
    store.exclude("odd")
    assert store.has_room()
    table = store.annotations()
    off = ExclusionRules(0, 0, 0, 0, 0)
    assert subject_summary(table, off).loc["odd", "excluded"] == "by hand"
    store.exclude("odd", excluded=False)
    assert not store.has_room()
    assert subject_summary(store.annotations(), off).loc["odd", "excluded"] == ""
    with pytest.raises(AnnotationError, match="nobody has it"):
        store.exclude("nobody")


def test_every_text_that_was_agreed_to_is_kept(study):
    store = study()
    for text in ("first", "first", "second"):
        store.enter("A1", consent=text)
    store.enter("B2", consent="second")
    with store.reads() as connection:
        texts = dict(connection.execute(sa.select(consents.c.consent, consents.c.text)).all())
        agreed = connection.execute(sa.select(agreements.c.subject, agreements.c.consent)).all()
    assert sorted(texts.values()) == ["first", "second"]
    assert sorted((who, texts[what]) for who, what in agreed) == [
        (1, "first"),
        (1, "second"),
        (2, "second"),
    ]


def test_people_are_listed_without_an_answer_and_without_formulas(study):
    store = study()
    store.enter("A1", {"assignmentId": "=cmd|'/c calc'!A1", "STUDY_ID": "5f1"}, now=0.0)
    row = store.people().loc["A1"]
    assert (row["assignment"], row["study"], row["code"]) == ("", "5f1", "")
    assert row["entered"] == "1970-01-01T00:00:00Z" and row["entry"].startswith("{")


def test_a_store_of_before_goes_on(study):
    store = study(answers=1, trials=8)
    answer_all(store, "A1")
    with store.engine.begin() as connection:
        for table in (agreements, consents, exclusions):
            table.drop(connection)
    again = AnnotationStore(str(store.engine.url))
    assert len(again.annotations()) == 16 and not again.has_room()
    assert again.study == again.study
    again.close()


@pytest.mark.parametrize("worker", ["", "a b", "<b>", "a" * 65, None, 7, "../x", "ä", "x\n", "'--"])
def test_bad_worker_ids(study, worker):
    with pytest.raises(AnnotationError, match="worker id"):
        study().enter(worker)


@pytest.mark.parametrize("seconds", [None, "3", float("nan"), -1, True, 1e9])
def test_bad_seconds(study, seconds):
    store = study()
    subject = store.enter("A1")
    with pytest.raises(AnnotationError, match="seconds"):
        store.answer(subject, store.next_trial(subject).trial, "left", BOTH, seconds)


def test_a_full_disk_stores_nothing_and_says_so(study):
    store = study()
    subject = store.enter("A1")
    trial = store.next_trial(subject)
    with store.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    sa.event.listen(
        store.engine, "begin", lambda c: c.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    )
    long = {**DAB, "points": [[20 + i / 1000, 20, i] for i in range(9000)]}
    with pytest.raises(sa.exc.OperationalError, match="full"):
        store.answer(subject, trial.trial, "left", {"left": [long], "right": []}, 3.0)
    assert not len(store.annotations())
    assert store.next_trial(subject) == trial


def test_study_needs_two_classes_and_enough_images(demo):
    with pytest.raises(AnnotationError, match="need 43 pairs of images"):
        make_pairs(demo, 35)
    three = Manifest(demo.table.assign(label=list("abc") * 20), demo.root)
    with pytest.raises(AnnotationError, match="two classes"):
        make_pairs(three, 5)


def test_pairs_without_a_pair_column(demo):
    pairs = make_pairs(Manifest(demo.table.drop(columns="pair"), demo.root), 10)
    assert pd.concat([pairs["authentic"], pairs["synthetic"]]).is_unique
    label = demo.table.set_index("image")["label"]
    main = pairs[pairs["kind"] == "pair"]
    assert (label[main["synthetic"]] == "synthetic").all()


@pytest.mark.skipif("CYBORG_POSTGRES" not in os.environ, reason="CYBORG_POSTGRES names no database")
def test_postgresql(study):
    store = study(os.environ["CYBORG_POSTGRES"], answers=4, trials=8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: answer_all(store, f"w{i}"), range(6)))
    trials = store.annotations().drop_duplicates("trial")
    assert trials["pair"].value_counts().max() == 4
    assert len(trials) == 32


# --- the table, exclusion, maps --------------------------------------------------------------


def test_maps_are_section_4_3(demo):
    image = demo.table["image"][0]
    other = {**DAB, "points": [[30, 50, 0]]}
    rows = [
        {"image": image, "subject": who, "trial": who, "kind": "pair", "correct": right}
        | {"width": 64, "height": 64, "strokes": [stroke]}
        for who, right, stroke in (("a", True, DAB), ("b", True, other), ("c", False, DAB))
    ]
    table = as_table(rows)
    masks = np.stack([strokes_mask([s], 64, 64, (224, 224)) for s in (DAB, other)])
    [(_, human, used, _)] = human_maps(table)
    np.testing.assert_array_equal(human, human_map(masks, sigma=5.0))
    assert list(used["subject"]) == ["a", "b"]
    [(_, wrong, *_)] = human_maps(table, answers="incorrect")
    np.testing.assert_array_equal(wrong, human_map(masks[:1], sigma=5.0))
    [(_, _, used, _)] = human_maps(table, answers="all", annotators=2, seed=3)
    assert len(used) == 2


def test_annotators_are_those_who_marked_the_picture():
    common = {"image": "a.png", "kind": "pair", "correct": True, "width": 64, "height": 64}
    rows = [common | {"subject": str(i), "strokes": [DAB] if i % 2 else []} for i in range(8)]
    for seed in range(6):
        for wanted, used in ((1, 1), (3, 3), (6, 4), (None, 4), (0, 4)):
            [(_, _, group, masks)] = human_maps(as_table(rows), annotators=wanted, seed=seed)
            assert len(group) == len(masks) == used


@pytest.mark.parametrize(("width", "height"), [(64, 64), (178, 218), (300, 200)])
def test_one_picture_of_each_pair_painted_all_over_is_painted_all_over(width, height):
    """Covered is the share of what the page shows, the middle square."""
    square = min(width, height) / 2
    all_over = {"points": [[width / 2, height / 2, 0.0]], "radius": square * 1.42, "erase": False}
    common = {"kind": "pair", "correct": True, "width": width, "height": height, "seconds": 5.0}
    rows = [
        common
        | {"image": f"{i}{side}.png", "subject": "painter", "trial": str(i), "strokes": own}
        | {"covered": share_of(own, width, height)}
        for i in range(4)
        for side, own in (("a", [all_over]), ("b", []))
    ]
    summary = subject_summary(as_table(rows))
    assert summary.loc["painter", "covered"] == 1
    assert summary.loc["painter", "excluded"] == "painted all over"


@pytest.mark.filterwarnings("error")
def test_no_maps_give_a_column_of_text(demo):
    done = write_maps(as_table([]), demo, "none")
    assert set(done.table["map"]) == {""}


def test_other_tools_get_what_makes_maps_and_give_it_back(study, demo, tmp_path):
    store = study(answers=3, trials=4, practice=1, attention_every=4)
    for worker in ("a", "b"):
        subject = store.enter(worker)
        while trial := store.next_trial(subject):
            store.answer(subject, trial.trial, "left", {"left": [DAB], "right": []}, 3.0)
    table, images = store.annotations(), demo.table["image"].tolist()
    assert {"practice", "attention"} <= set(table["kind"])
    wanted = {image: (list(rows["subject"]), m) for image, _, rows, m in human_maps(table, 64)}
    writers = {"coco": write_coco, "studio": write_label_studio}
    for name, write in writers.items():
        back = read_marks([write(table, tmp_path / f"{name}.json")], images)
        assert set(back["kind"]) == {"pair"} and (back["image"].isin(images)).all()
        marked = table[(table["kind"] == "pair") & (table["strokes"].map(len) > 0)]
        assert len(back) == len(marked)
        assert back["correct"].sum() == marked["correct"].sum()
        got = {image: (list(rows["subject"]), m) for image, _, rows, m in human_maps(back, 64)}
        assert {i: who for i, (who, _) in got.items()} == {i: who for i, (who, _) in wanted.items()}
        assert all((got[image][1] == masks).all() for image, (_, masks) in wanted.items())
    tasks = json.loads((tmp_path / "studio.json").read_text())
    one = tasks[0]["annotations"][0]
    assert "completed_by" not in one  # Label Studio refuses annotators it does not know
    assert one["result"][0]["meta"]["subject"] in ("a", "b")


def test_marks_of_pictures_in_no_manifest_are_refused(demo, tmp_path):
    rows = [{"image": "elsewhere.png", "kind": "import", "width": 64, "height": 64}]
    path = write_coco(as_table([rows[0] | {"strokes": [DAB]}]), tmp_path / "c.json")
    with pytest.raises(AnnotationError, match="elsewhere.png fits 0 images"):
        read_marks([path], demo.table["image"].tolist())
    with pytest.raises(AnnotationError, match="there is no file"):
        read_marks(str(tmp_path / "missing.json"), [])


def test_exclusion_says_why_and_deletes_nothing():
    common = {"image": "a.png", "width": 64, "height": 64, "strokes": [DAB], "seconds": 5.0}
    full = [{**DAB, "radius": 64.0}]
    changes = {
        "good": {},
        "hasty": {"seconds": 0.5},
        "painter": {"strokes": full},
        "asleep": {"kind": "attention", "correct": False},
    }
    rows = [
        {**common, "kind": "pair", "correct": True, "subject": who, "trial": f"{who}{i}", **change}
        for who, change in changes.items()
        for i in range(3)
    ]
    table = as_table(rows)
    reasons = subject_summary(table)["excluded"].to_dict()
    assert reasons == {
        "good": "",
        "hasty": "haste",
        "painter": "painted all over",
        "asleep": "attention checks",
    }
    off = ExclusionRules(0, 0, 0, 0, 0)
    assert (subject_summary(table, off)["excluded"] == "").all()
    assert len(table) == 12


def test_what_was_painted_is_what_training_reads(study, demo):
    store = study(answers=3, trials=8)
    for worker in ("a", "b", "c"):
        answer_all(store, worker)
    table = store.annotations()
    rules = ExclusionRules(attention=0, seconds=0)
    written = write_maps(table, demo, "mine", rules)
    back = read_manifest(demo.root / "mine" / "manifest.csv", root=demo.root)
    named = back.table[back.table["map"] != ""]
    correct = table[table["correct"]]
    assert set(named["image"]) == set(correct["image"])
    assert back.digest == written.digest
    human = read_map(demo.root / named["map"].iloc[0])
    assert np.unravel_index(human.argmax(), human.shape)[0] == pytest.approx(69.5, abs=2)  # 20/64
    dataset = ImageDataset(
        Manifest(named, back.root, back.classes), 64, (8, 8), (0.5,) * 3, (0.5,) * 3
    )
    assert dataset.__getitems__([0]).human[0].max() > 0
    masks = list((demo.root / "mine" / "masks").rglob("*.png"))
    assert len(masks) == len(correct)
    assert set(np.unique(np.asarray(Image.open(masks[0])))) == {0, 255}


def test_parquet_keeps_everything(study, tmp_path):
    store = study(trials=3)
    answer_all(store, "a")
    table = store.annotations()
    back = read_annotations(write_annotations(table, tmp_path / "t.parquet"))
    pd.testing.assert_frame_equal(back, table)
    pd.DataFrame({"image": ["x"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(AnnotationError, match="lacks the columns"):
        read_annotations(tmp_path / "other.parquet")


def test_a_thousand_answers_become_maps_quickly():
    rng = np.random.default_rng(0)
    walk = np.clip(rng.normal(0, 6, (1000, 30, 2)).cumsum(1) + 112, 0, 224)
    strokes = [np.c_[one, np.arange(30)].tolist() for one in walk]
    rows = [
        {"image": f"{i % 100}.png", "subject": str(i), "kind": "pair", "correct": True}
        | {"width": 224, "height": 224, "strokes": [{**DAB, "points": s, "radius": 12.0}]}
        for i, s in enumerate(strokes)
    ]
    begun = time.perf_counter()
    assert len(list(human_maps(as_table(rows)))) == 100
    assert time.perf_counter() - begun < 20


# --- gaze of the real data -------------------------------------------------------------------


@needs_gaze
def test_osie_fixations():
    fixations = read_fixations(GAZE / "osie" / "crop_fixations.csv")
    assert len(fixations) == 5071
    crops = pd.read_csv(GAZE / "osie" / "crops.csv").set_index("crop")
    counted = fixations.groupby("image").size()
    assert counted.to_dict() == crops["n_fixations"].to_dict()
    maps = dict(fixation_maps(fixations, (256, 256), sigma=10.0))
    assert len(maps) == 108
    assert all(one.shape == (256, 256) and one.max() == 1 for one in maps.values())


@needs_gaze
def test_uniss_fixations():
    fixations = read_fixation_files(GAZE / "uniss_ffd" / "Fixations.zip")
    assert fixations.groupby(["subject", "image"]).ngroups <= 2398
    inside = fixations["x"].between(0, 561) & fixations["y"].between(0, 761)
    assert inside.sum() == pytest.approx(21_093, abs=5)
    names = pd.read_csv(GAZE / "uniss_ffd" / "images.csv", dtype=str)
    assert set(fixations["image"]) <= set(names["index"])
    [(_, human)] = fixation_maps(fixations.assign(image="all"), (762, 562), sigma=10.0)
    for x, y in ((229, 408), (342, 408), (284, 516)):  # eye corners, below the nose
        around = human[y - 15 : y + 16, x - 15 : x + 16]
        i, j = np.unravel_index(around.argmax(), around.shape)
        assert abs(i - 15) <= 3 and abs(j - 15) <= 3


# --- annotate.ipynb --------------------------------------------------------------------------


def test_files_of_other_tools_become_a_manifest(demo, tmp_path, monkeypatch):
    """annotate.ipynb without a hand on it: a COCO file and reaction times in, a manifest out."""
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path))
    first, second = demo.table["image"][:2]
    row = {"image": first, "kind": "import", "width": 64, "height": 64, "strokes": [DAB]}
    coco = write_coco(as_table([row]), tmp_path / "coco.json")
    (tmp_path / "annotations.csv").write_text(
        "image_id,overall_ann_time,annotation_time\n1,12.5,8\n"
    )
    (tmp_path / "images.csv").write_text(f"img_id,img_path\n1,{second}\n")
    given = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    given |= {"imports": str(coco), "times": str(tmp_path), "folder": "imported"}
    words = [word for name, value in given.items() for word in ("-p", name, value)]
    notebook = str(ROOT / "nbs" / "annotate.ipynb")
    command = "from cyborg.commands import papermill; papermill()"
    done = subprocess.run(
        [sys.executable, "-c", command, notebook, str(tmp_path / "out.ipynb"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    table = read_manifest(demo.root / "imported" / "manifest.csv", root=demo.root).table
    table = table.set_index("image")
    assert table.index[table["map"] != ""].tolist() == [first]
    assert table.loc[second, ["reaction", "marking"]].tolist() == ["4.5", "8.0"]
    assert read_map(demo.root / table.loc[first, "map"]).max() == 1
