"""Quality: scores by hand, the best k against a plain sort, interruption, memory."""

import tracemalloc

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cyborg.files import Ledger
from cyborg.manifest import Manifest
from cyborg.prepare.quality import (
    QUALITIES,
    OnnxScorer,
    confidence,
    face_size,
    frontality,
    keep_best,
    overall,
    pose,
    score_images,
    sharpness,
)

FRONT = np.array([[40, 50], [80, 50], [60, 50 + 0.58 * 40], [60, 90.0]])


def brightness(pixels, row):
    return float(pixels.mean())


def pictures(folder, values, sources=None):
    "A manifest of grey pictures, each of one value."
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:04d}.png" for i in range(len(values))]
    for name, value in zip(names, values, strict=True):
        Image.new("RGB", (8, 8), (int(value),) * 3).save(folder / name)
    rows = {"image": names, "label": "authentic", "source": sources or "s", "split": "train",
            "map": "", "subject": ""}  # fmt: skip
    return Manifest(pd.DataFrame(rows), folder)


# --- scores -----------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 20, 90, -135, 180])
@pytest.mark.parametrize("scale", [0.1, 3])
def test_pose_knows_no_tilt_and_no_size(degrees, scale):
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    aside = FRONT + [[0, 0], [0, 0], [6, -3], [0, 0]]
    assert frontality(FRONT) == pytest.approx(1)
    turned = aside @ rotation.T * scale + 500
    assert frontality(turned) == pytest.approx(frontality(aside))
    # 6 of 40 aside, 3 of 40 up
    assert frontality(aside) == pytest.approx((1 - 2 * 6 / 40) * (1 - 3 / 40 / 0.5))


def test_pose_of_faces_that_are_none():
    assert frontality(np.repeat(FRONT[:1], 4, axis=0)) == 0  # all in one point
    assert frontality(FRONT[[1, 0, 2, 3]]) == 0  # mirrored, so the mouth is above the eyes
    assert frontality(FRONT + [[0, 0], [0, 0], [30, 0], [0, 0]]) == 0  # the nose beside the face
    assert np.isnan(frontality(np.where(FRONT == 40, np.nan, FRONT)))


def test_a_mirrored_face_looks_as_straight_ahead():
    face = FRONT + [[0, 0], [3, 2], [7, 1], [-2, 0]]
    mirrored = (face * [-1, 1])[[1, 0, 2, 3]]
    assert frontality(mirrored) == pytest.approx(frontality(face))


def test_sharpness_falls_with_blur_and_does_not_see_brightness():
    rng = np.random.default_rng(0)
    noise = rng.integers(60, 180, (50, 50, 3), dtype=np.uint8)
    blurred = [sharpness(cv2.GaussianBlur(noise, None, s)) for s in (0.5, 1, 2, 4)]
    assert sharpness(noise) > blurred[0] and np.all(np.diff(blurred) < 0)
    assert sharpness(noise + 50) == pytest.approx(sharpness(noise), rel=1e-3)


def test_numbers_of_a_row_are_text_as_a_manifest_holds_them():
    row = {"face_side": "56", "face_score": "1.2"} | {
        f"{name}_{axis}": str(FRONT[i, j])
        for i, name in enumerate(("left_eye", "right_eye", "nose", "mouth"))
        for j, axis in enumerate("xy")
    }
    assert face_size(None, row) == 0.25 and confidence(None, row) == 1
    assert pose(None, row) == pytest.approx(1)
    with pytest.raises(ValueError, match="nose_x is '', expected a number"):
        pose(None, row | {"nose_x": ""})
    with pytest.raises(ValueError, match="face_side is 'missing', expected a number"):
        face_size(None, {})


def test_one_number_of_several():
    rng = np.random.default_rng(0)
    values, weights = rng.random(4), rng.random(4)
    names = list(QUALITIES)
    slow = np.exp(np.sum(weights * np.log(values)) / np.sum(weights))
    pairs = [dict(zip(names, numbers, strict=True)) for numbers in (values, weights)]
    assert overall(*pairs) == pytest.approx(slow)
    assert overall({"a": 0.0, "b": 1.0}) == 0
    for wrong in ({"a": 1.5, "b": 0.2}, {"a": np.nan}, {"a": -0.1, "b": 1}):
        with pytest.raises(ValueError, match="scores are"):
            overall(wrong)


# --- a network from a file ---------------------------------------------------------------------


def entry(number, content):
    "An entry of an ONNX file that holds bytes."
    return bytes([number << 3 | 2, len(content)]) + content


def tensor(name, sides):
    "A name, float32, and a shape."
    shape = b"".join(entry(1, bytes([1 << 3, side])) for side in sides)
    return entry(1, name) + entry(2, entry(1, bytes([1 << 3, 1]) + entry(2, shape)))


def network(path, sides, outputs, operator=b"ReduceMean"):
    "An ONNX file with one node."
    graph = entry(1, entry(1, b"x") + entry(2, b"y") + entry(4, operator))
    graph += entry(11, tensor(b"x", sides)) + entry(12, tensor(b"y", outputs))
    path.write_bytes(bytes([1 << 3, 8]) + entry(7, graph) + entry(8, bytes([16, 11])))
    return path


def test_pixels_reach_the_network_as_they_were_asked_for(tmp_path):
    path = network(tmp_path / "same.onnx", (1, 3, 2, 2), (1, 3, 2, 2), b"Identity")
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 1] = 10, 20, 30
    score = lambda output, **given: OnnxScorer(path, 2, output=output, **given)(picture)  # noqa: E731
    assert score(1, scale=1) == 10 and score(5, scale=1) == 20  # channel by channel
    assert score(1, scale=1, colours="BGR") == 30
    assert score(1, scale=0.5, mean=(4, 0, 0)) == 3
    assert score(1, scale=0.5, mean=(4, 0, 0), colours="BGR") == 13
    assert score(1) == pytest.approx(10 / 255)
    with pytest.raises(ValueError, match="same.onnx gives 12 numbers, say which"):
        score(None)
    last = network(tmp_path / "last.onnx", (1, 2, 2, 3), (1, 2, 2, 3), b"Identity")
    assert OnnxScorer(last, 2, output=4, scale=1, layout="NHWC")(picture) == 20


def test_networks_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no network file .*absent.onnx"):
        OnnxScorer(tmp_path / "absent.onnx", 8)
    (tmp_path / "torn.onnx").write_bytes(b"\x08\x08torn")
    with pytest.raises(ValueError, match="torn.onnx is no ONNX network"):
        OnnxScorer(tmp_path / "torn.onnx", 8)
    path = network(tmp_path / "mean.onnx", (1, 3, 8, 8), (1, 1, 1, 1))
    with pytest.raises(ValueError, match="colours is 'rgb'"):
        OnnxScorer(path, 8, colours="rgb")


def test_a_network_scores_a_manifest(tmp_path):
    path = network(tmp_path / "mean.onnx", (1, 3, 8, 8), (1, 1, 1, 1))
    manifest = pictures(tmp_path / "in", [10, 200, 90])
    ledger = score_images(manifest, tmp_path / "q.sqlite", {"net": OnnxScorer(path, 8)}, threads=2)
    assert [name for name, _ in ledger.largest()] == ["0001.png", "0002.png", "0000.png"]
    with pytest.raises(ValueError, match="scorers was .*'size': 8.* is .*'size': 4"):
        score_images(manifest, tmp_path / "q.sqlite", {"net": OnnxScorer(path, 4)})


# --- score, sort, keep ------------------------------------------------------------------------


def test_the_best_are_those_of_a_plain_sort(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 20, 60)  # many are equal
    sources = [f"s{i}" for i in rng.integers(0, 3, 60)]
    manifest = pictures(tmp_path / "in", values, sources)
    ledger = score_images(manifest, tmp_path / "q.sqlite", {"brightness": brightness})
    rows = manifest.table.assign(value=values).sort_values(
        ["value", "image"], ascending=[False, True]
    )
    best = keep_best(manifest, ledger, 25)
    assert best.manifest.table["image"].tolist() == rows["image"][:25].tolist()
    assert best.dropped == 35 and best.unscored.empty
    each = keep_best(manifest, ledger, 5, by="source").manifest.table
    assert each["image"].tolist() == rows[rows.groupby("source").cumcount() < 5]["image"].tolist()
    assert len(keep_best(manifest, ledger, 1000).manifest) == 60
    # of another manifest only its own images are taken
    part = Manifest(manifest.table[:10], manifest.root)
    assert set(keep_best(part, ledger, 5).manifest.table["image"]) <= set(part.table["image"])


def test_unreadable_images_are_listed_and_never_kept(tmp_path):
    manifest = pictures(tmp_path / "in", range(4))
    (tmp_path / "in/0002.png").write_bytes(b"torn")
    best = keep_best(manifest, score_images(manifest, tmp_path / "q", {"b": brightness}), 4)
    assert best.manifest.table["image"].tolist() == ["0003.png", "0001.png", "0000.png"]
    assert best.unscored["image"].tolist() == ["0002.png"]
    assert "0002.png: " in best.unscored["reason"][0]
    with pytest.raises(ValueError, match="none of 4 images has a score: face_side is 'missing'"):
        keep_best(manifest, score_images(manifest, tmp_path / "q2", {"size": face_size}), 4)


def test_bad_arguments_are_named(tmp_path):
    manifest = pictures(tmp_path / "in", range(4))
    with pytest.raises(ValueError, match="weights names 'sharpnes'.*did you mean 'sharpness'"):
        score_images(manifest, tmp_path / "q", weights={"sharpnes": 2})
    ledger = score_images(manifest, tmp_path / "q", {"b": brightness})
    with pytest.raises(
        ValueError, match="by is 'sourc', expected a column .*did you mean 'source'"
    ):
        keep_best(manifest, ledger, 1, by="sourc")
    with pytest.raises(ValueError, match="count is 0"):
        keep_best(manifest, ledger, 0)


def test_an_interrupted_run_goes_on(tmp_path):
    manifest = pictures(tmp_path / "in", range(200))
    seen = []

    def impatient(pixels, row):
        if len(seen) == 150:
            raise KeyboardInterrupt
        seen.append(row["image"])
        return brightness(pixels, row)

    scorers = {"b": impatient}
    with pytest.raises(KeyboardInterrupt):
        score_images(manifest, tmp_path / "q", scorers, threads=1)
    first = seen.copy()
    seen.clear()
    ledger = score_images(manifest, tmp_path / "q", scorers, threads=1)
    assert len(first) == 150 and len(seen) == 200 - 128  # two pieces of 64 were finished
    assert len(list(ledger.largest())) == 200


@pytest.mark.parametrize("scorer", [confidence, lambda pixels, row: float(row["face_score"])])
def test_scores_follow_the_rows_that_they_are_made_of(tmp_path, scorer):
    "Whether the scorer says which columns it reads or not."
    manifest = pictures(tmp_path / "in", [10, 10])
    best = []
    for values in (["0.9", "0.1"], ["0.1", "0.9"]):
        scored = Manifest(manifest.table.assign(face_score=values), manifest.root)
        ledger = score_images(scored, tmp_path / "q", {"own": scorer})
        best.append(keep_best(scored, ledger, 1).manifest.table["image"][0])
    assert best == ["0000.png", "0001.png"]


def test_columns_that_no_scorer_reads_leave_the_scores(tmp_path):
    manifest, seen = pictures(tmp_path / "in", [10, 20]), []

    def brightness_seen(pixels, row):
        seen.append(row["image"])
        return brightness(pixels, row)

    brightness_seen.columns = ("face_side",)
    for split in ("train", "test"):
        table = manifest.table.assign(split=split)
        score_images(Manifest(table, manifest.root), tmp_path / "q", {"b": brightness_seen})
    assert len(seen) == 2
    table = manifest.table.assign(face_side="7")
    score_images(Manifest(table, manifest.root), tmp_path / "q", {"b": brightness_seen})
    assert len(seen) == 4


@pytest.mark.parametrize("name", QUALITIES)
def test_scorers_read_no_column_but_those_they_tell(name):
    asked = set()

    class Row(dict):
        def __getitem__(self, column):
            asked.add(column)
            return "1"

    QUALITIES[name](np.zeros((8, 8, 3), np.uint8), Row())
    assert asked == set(QUALITIES[name].columns)


def test_memory_does_not_grow(tmp_path):
    "Ten times the images take no more memory, but for the manifest itself."
    small = pictures(tmp_path / "in", range(100))
    peaks = []
    for copies in (2, 20):
        table = pd.concat([small.table] * copies, ignore_index=True)
        table["image"] = [f"./{'./' * (i // 100)}{name}" for i, name in enumerate(table["image"])]
        manifest = Manifest(table, small.root)
        scorers = {"b": brightness}
        score_images(small, tmp_path / "warm", scorers, threads=1)
        tracemalloc.start()
        score_images(manifest, tmp_path / f"q{copies}", scorers, threads=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # the index of names is a part of the manifest: about 100 bytes an image
    assert peaks[1] - peaks[0] < 300 * 1800, peaks


def test_a_ledger_sorts_on_disk(tmp_path):
    ledger = Ledger(tmp_path / "q", {})
    rng = np.random.default_rng(0)
    values = rng.random(5000)
    records = {f"{i}": {} for i in range(5000)}
    ledger.add(records, dict(zip(records, values, strict=True)))
    order = [int(name) for name, _ in ledger.largest(50)]
    assert order == np.argsort(-values)[:50].tolist()
