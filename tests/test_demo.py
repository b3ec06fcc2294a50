"""The demo set: same seed same bytes, honest splits, maps that follow from the annotations."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from cyborg import demo
from cyborg.demo import Drawn, annotation_map, demo_plan, draw_image, judge_pair, make_demo
from cyborg.findings import validate
from cyborg.portrait import ellipse
from cyborg.saliency import read_map

SMALL = dict(n=40, size=64)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("demo") / "set", **SMALL, workers=2)


def _hashes(folder):
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _row(table, i):
    return next(table.iloc[[i]].itertuples())


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(small, tmp_path):
    one = make_demo(tmp_path / "one", **SMALL, workers=1)
    assert _hashes(one.root) == _hashes(small.root)
    assert one.digest == small.digest


def test_a_turned_knob_reaches_the_workers(small, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "QUALITY", 30)
    two = _hashes(make_demo(tmp_path / "two", **SMALL, workers=2).root)
    assert two == _hashes(make_demo(tmp_path / "one", **SMALL, workers=1).root)
    assert two["images/iris/00001.jpg"] != _hashes(small.root)["images/iris/00001.jpg"]


def test_an_image_does_not_depend_on_what_was_drawn_before():
    plan = demo_plan(40)
    alone = draw_image(_row(plan, 7), 7, 64).picture
    draw_image(_row(plan, 3), 3, 64)
    np.testing.assert_array_equal(draw_image(_row(plan, 7), 7, 64).picture, alone)


def test_another_seed_gives_other_pictures_and_another_order_of_cues():
    plan = demo_plan(400)
    assert (
        draw_image(_row(plan, 0), 0, 64, seed=1).picture != draw_image(_row(plan, 0), 0, 64).picture
    ).mean() > 0.5
    assert (demo_plan(400, seed=1).cue != plan.cue).any()


def test_a_valid_manifest_without_findings(small):
    assert len(small) == 40
    assert [f for f in validate(small) if f.refuse] == []


@pytest.mark.parametrize("n", [40, 42, 58, 500, 2000])
def test_plan_is_balanced_and_subjects_stay_in_one_split(n):
    plan = demo_plan(n)
    assert len(plan) == n
    assert plan.image.is_unique
    counts = plan.groupby(["split", "label"]).size().unstack()
    assert (counts.authentic == counts.synthetic).all()
    assert set(counts.index) == {"train", "val", "test"}
    assert (plan.groupby("subject")[["split", "source", "label"]].nunique() == 1).all().all()
    assert plan.subject.value_counts().max() <= demo.SUBJECT_IMAGES
    assert plan.groupby("person").subject.nunique().max() == 1


def test_unseen_generators_are_in_the_test_only_and_name_their_counterpart():
    plan = demo_plan(2000)
    test = plan[plan.split == "test"]
    assert set(plan.source[plan.split != "test"]) == {*demo.AUTHENTIC, *demo.SEEN}
    assert set(test.source) == {*demo.AUTHENTIC, *demo.SEEN, *demo.UNSEEN}
    synthetic = test[test.label == "synthetic"]
    assert (synthetic.groupby("source").counterpart.nunique() == 1).all()
    assert set(synthetic.counterpart) == set(demo.AUTHENTIC)
    assert (plan.counterpart[(plan.split != "test") | (plan.label == "authentic")] == "").all()


def test_the_cue_tells_the_label_except_in_the_test():
    plan = demo_plan(2000)
    r = {
        split: np.corrcoef(rows.cue, rows.label == "synthetic")[0, 1]
        for split, rows in plan.groupby("split")
    }
    wanted = {s: high - low for s, (low, high) in demo.CUE_RATE.items()}
    assert all(abs(r[s] - wanted[s]) < 0.02 for s in r), r
    assert abs(r["test"]) < 0.02


def test_the_cue_leaves_the_face_alone():
    row = _row(demo_plan(40), 0)
    with_cue, without = (draw_image(row._replace(cue=c), 0).picture.astype(int) for c in (1, 0))
    apart = np.abs(with_cue - without).max(-1)
    assert apart[64:, 64:].max() == 0
    assert apart[:12, :12].mean() > 1


def test_both_labels_are_stored_alike(small):
    tables = []
    for image in small.table.image:
        with Image.open(small.root / image) as picture:
            tables.append((picture.format, picture.size, picture.mode, str(picture.quantization)))
    assert len(set(tables)) == 1 and tables[0][:3] == ("JPEG", (64, 64), "RGB")


def test_maps_follow_from_the_stored_annotations(small):
    stored = pd.read_parquet(small.root / "annotations.parquet")
    assert list(stored) == ["image", "annotator", "correct", "strokes", "times"]
    assert set(stored.image) == set(small.table.image)
    for _, row in small.table.iloc[::5].iterrows():
        answers = stored[stored.image == row.image]
        assert len(answers) == demo.JUDGEMENTS and answers.annotator.is_unique
        right = answers[answers.correct]
        assert (row["map"] == "") == right.empty
        if right.empty:
            continue
        total = np.zeros((64, 64))
        y, x = np.mgrid[:64, :64] + 0.5
        for strokes in right.strokes:
            mask = np.zeros((64, 64), bool)
            for stroke in strokes:  # a literal brush: discs along each segment
                points = np.stack(stroke)
                for a, b in zip(points[:-1], points[1:], strict=True):
                    for px, py in np.linspace(a, b, 200):
                        mask |= (x - px) ** 2 + (y - py) ** 2 <= (demo.BRUSH * 64) ** 2
            total += mask
        literal = gaussian_filter(total, 5 * 64 / 224, mode="constant")
        literal = (literal - literal.min()) / np.ptp(literal)
        assert np.abs(read_map(small.root / row["map"]) - literal).mean() < 0.02


def test_each_stroke_point_has_a_time_and_time_runs_on(small):
    stored = pd.read_parquet(small.root / "annotations.parquet")
    for strokes, times in zip(stored.strokes, stored.times, strict=True):
        assert [len(s) for s in strokes] == [len(t) for t in times]
        assert (np.diff(np.concatenate(list(times))) > 0).all()


def _drawn(fault):
    places = dict(left_eye=(40, 50), right_eye=(88, 50), nose=(64, 75), mouth=(64, 98))
    part = {name: ellipse(*xy, 8, 6) for name, xy in (places | dict(forehead=(64, 25))).items()}
    wrong = (part["mouth"], "mouth") if fault else (None, "")
    return Drawn(np.zeros((128, 128, 3), np.uint8), part, *wrong)


def test_annotators_are_as_good_as_they_are_said_to_be():
    images, drawn, rng = ("a", "b"), (_drawn(False), _drawn(True)), np.random.default_rng(0)
    answers = pd.DataFrame([a for _ in range(1500) for a in judge_pair(images, drawn, rng)])
    seen = answers[answers.image == "a"].groupby("annotator").correct.mean()
    assert list(seen.index) == [f"a{i + 1}" for i in range(8)]
    assert np.abs(seen.to_numpy() - demo.ACCURACY).max() < 0.06
    assert (answers.groupby([answers.index // 2]).correct.nunique() == 1).all()  # one answer a pair


def test_who_is_right_paints_the_fault_and_who_is_wrong_does_not():
    drawn, rng = (_drawn(False), _drawn(True)), np.random.default_rng(0)
    answers = [
        a for _ in range(100) for a in judge_pair(("a", "b"), drawn, rng) if a["image"] == "b"
    ]
    for answer in answers:
        centre = np.mean([p for s in answer["strokes"] for p in s], axis=0)
        near = np.hypot(*(centre - (64, 98))) < 8
        assert near == answer["correct"]


def test_maps_of_synthetic_images_lie_on_the_fault(small):
    plan, shares = demo_plan(40), []
    for i, row in small.table.iterrows():
        if row.label == "synthetic" and row["map"]:
            human = read_map(small.root / row["map"])
            seen = draw_image(_row(plan, i), i, 64)
            mask = np.zeros((64, 64), np.uint8)
            cv2.fillPoly(mask, [np.round(seen.fault).astype(np.int32)], 1)
            shares.append(human[mask > 0].sum() / human.sum() / mask.mean())
    assert min(shares) > 2 and np.mean(shares) > 8  # times more than a uniform map would have there


def test_nobody_right_gives_no_map():
    wrong = dict(
        image="a",
        annotator="a1",
        correct=False,
        strokes=[[[1.0, 2.0], [3.0, 4.0]]],
        times=[[0.1, 0.2]],
    )
    assert annotation_map([wrong, wrong], 64) is None
    assert annotation_map([wrong, wrong | {"correct": True}], 64).max() == 1


def test_a_finished_set_is_returned_without_drawing(small, monkeypatch):
    monkeypatch.setattr(demo, "draw_image", None)
    assert make_demo(small.root, **SMALL).digest == small.digest


def test_a_set_beside_which_somebody_put_a_file_is_not_replaced(tmp_path):
    make_demo(tmp_path / "set", **SMALL)
    (tmp_path / "set" / "annotated").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"no demo set \(annotated, notes.txt\); nothing was"):
        make_demo(tmp_path / "set", n=44, size=64, replace=True)
    assert (tmp_path / "set" / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="replace is 'false'"):
        make_demo(tmp_path / "set", n=44, size=64, replace="false")


def test_another_set_is_refused_by_name_and_replaced_only_when_asked(tmp_path):
    make_demo(tmp_path / "set", **SMALL)
    before = _hashes(tmp_path / "set")
    with pytest.raises(FileExistsError, match="n is 40, wanted 44.*replace=True"):
        make_demo(tmp_path / "set", n=44, size=64)
    assert _hashes(tmp_path / "set") == before
    assert len(make_demo(tmp_path / "set", n=44, size=64, replace=True)) == 44


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_with_other_things_is_left_alone(tmp_path, replace):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no demo set"):
        make_demo(tmp_path, **SMALL, replace=replace)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_run_that_breaks_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(demo, "_write_pair", full)
    with pytest.raises(OSError, match="No space left"):
        make_demo(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def _lives(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_maker_that_is_killed_and_its_rest_is_swept(tmp_path):
    code = (
        "import sys; from cyborg.demo import make_demo; make_demo(sys.argv[1], 2000, 64, workers=2)"
    )
    maker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "set")])
    try:
        while not list(tmp_path.glob(".set-making-*/images/*/*.jpg")):
            assert maker.poll() is None
            time.sleep(0.1)
        kin = Path(f"/proc/{maker.pid}/task/{maker.pid}/children").read_text().split()
    finally:
        maker.kill()
        maker.wait()
    assert len(kin) == 2
    until = time.monotonic() + 60
    while any(map(_lives, kin)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(_lives, kin))
    (rest,) = tmp_path.iterdir()
    os.utime(rest, (0, 0))
    make_demo(tmp_path / "set", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_worker_that_dies_is_named_and_nothing_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(demo.sys, "executable", shutil.which("true"))
    with pytest.raises((RuntimeError, BrokenPipeError)):
        make_demo(tmp_path / "set", **SMALL, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_of_two_at_once_the_faster_wins_and_the_other_leaves_nothing(tmp_path, monkeypatch):
    def slowly(folder, *settings):
        monkeypatch.undo()
        make_demo(tmp_path / "set", **SMALL)
        (tmp_path / "set" / "first").touch()
        demo._write_demo(folder, *settings)

    monkeypatch.setattr(demo, "_write_demo", slowly)
    make_demo(tmp_path / "set", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "first").exists()


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "set").mkdir()
    assert len(make_demo(tmp_path / "set", **SMALL)) == 40


@pytest.mark.parametrize(
    "given, told",
    [
        (dict(n=39), "n is 39"),
        (dict(n=38), "n is 38"),
        (dict(n=41), "n is 41, expected an even"),
        (dict(n=40.0), "n is 40.0"),
        (dict(size=63), "size is 63"),
        (dict(size=225), "size is 225"),
        (dict(size="128"), "size is '128'"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed=True), "seed is True"),
        (dict(workers=0), "workers is 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, given, told):
    with pytest.raises(ValueError, match=told):
        make_demo(tmp_path / "set", **(SMALL | given))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", [64, 224])
def test_every_size_shows_the_same_scene(size):
    row = _row(demo_plan(40), 25)
    reference = cv2.resize(draw_image(row, 25, 128).picture, (64, 64), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(draw_image(row, 25, size).picture, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(reference.ravel(), picture.ravel())[0, 1] > 0.8


def test_importing_it_does_not_import_torch():
    code = "import sys, cyborg.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
