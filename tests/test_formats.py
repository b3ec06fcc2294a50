"""Marks of other tools: every file as the program that wrote it means it; nothing left out without
a word, nothing put on another picture, no damaged number without its file and annotation."""

import csv
import io
import json
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cyborg import saliency
from cyborg.marks import AnnotationError, label_studio_rle, rle_counts, rle_mask, row_mask
from cyborg.people.exchange import (
    read_annotations,
    read_coco,
    read_label_studio,
    read_marks,
    read_reaction_times,
    write_coco,
    write_label_studio,
)
from cyborg.people.store import AnnotationStore
from cyborg.people.tables import as_table

BLOCK = np.zeros((30, 40), dtype=bool)
BLOCK[5:10, 20:35] = True
SQUARE = [[20.0, 5, 35, 5, 35, 10, 20, 10]]
PICTURE = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}


def coco(tmp_path, *segmentations, images=(PICTURE,), **more):
    """A COCO file of annotations 1, 2, ... on image 1."""
    common = {"image_id": 1, "category_id": 1} | more
    annotations = [
        common | {"id": n, "segmentation": one} for n, one in enumerate(segmentations, 1)
    ]
    content = {"images": list(images), "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "face"}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path / "coco.json"


def region(kind="polygonlabels", to_name="image", **value):
    common = {"type": kind, "to_name": to_name, "original_width": 40, "original_height": 30}
    return common | {"value": value}


CORNERS = [[50, 50 / 3], [87.5, 50 / 3], [87.5, 100 / 3], [50, 100 / 3]]  # SQUARE, per cent
POLYGON = region(points=CORNERS, closed=True)
BRUSH = region("brushlabels", format="rle", rle=label_studio_rle(BLOCK))


def studio(tmp_path, *regions, data=None, **more):
    """An export of Label Studio: task 3 with annotation 5."""
    one = {"id": 5, "completed_by": 1, "result": list(regions)} | more
    task = {"id": 3, "data": data or {"image": "/d/a.png"}, "annotations": [one]}
    (tmp_path / "studio.json").write_text(json.dumps([task]))
    return tmp_path / "studio.json"


def masks_of(table):
    return [row_mask(row) for row in table.itertuples()]


# --- one polygon rule --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_a_polygon_is_the_same_mask_as_region_coco_and_label_studio(tmp_path, seed):
    corners = np.random.default_rng(seed).integers(0, 61, (7, 2)) / 2 + [5, 0]  # centres, too
    region_ = saliency.region_map({"r": corners}, ["r"], sigma=0, shape=(30, 40)) > 0
    [by_coco] = masks_of(read_coco(coco(tmp_path, [corners.ravel().tolist()])))
    points = (corners / [40, 30] * 100).tolist()
    [by_studio] = masks_of(read_label_studio(studio(tmp_path, region(points=points)), ["a.png"]))
    np.testing.assert_array_equal(by_coco, region_)
    np.testing.assert_array_equal(by_studio, region_)


def test_corners_of_coco_beyond_the_image_are_told_and_not_cut_off(tmp_path):
    turned = PICTURE | {"width": 30, "height": 40}
    with pytest.raises(AnnotationError, match=r"beyond its image of \(40, 30\).*turned by 90"):
        read_coco(coco(tmp_path, SQUARE, images=(turned,)))
    far = [[20, 5, 60, 5, 60, 10, 20, 10]]
    with pytest.warns(
        UserWarning, match=r"1 annotations read, left out 1 .annotation 2 has corner"
    ):
        [row] = read_coco(coco(tmp_path, SQUARE, far)).itertuples()
    assert row_mask(row).sum() == 15 * 5
    [slip] = read_coco(coco(tmp_path, [[-2, 5, 43, 5, 43, 10, -2, 10]])).itertuples()
    assert row_mask(slip).sum() == 40 * 5


def test_a_polygon_of_coco_covers_pixels_by_their_centres(tmp_path):
    [mask] = masks_of(read_coco(coco(tmp_path, SQUARE)))
    np.testing.assert_array_equal(mask, BLOCK)
    star = [[0.0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 2, 2, 8, 2, 8, 8, 2, 8, 2, 2]]
    [mask] = masks_of(read_coco(coco(tmp_path, star)))
    assert mask.sum() == 100 - 36  # a hole drawn in one line, even-odd
    [mask] = masks_of(read_coco(coco(tmp_path, SQUARE + [[0, 0, 2, 0, 2, 2, 0, 2]])))
    assert mask.sum() == 75 + 4  # parts are joined


@pytest.mark.parametrize("far", [1e300, np.inf])
def test_a_region_far_outside_is_refused(far):
    with pytest.raises(ValueError, match="far|finite|away|expected"):
        saliency.region_map({"r": np.array([[0, 0], [far, 1], [1, 5]])}, ["r"], shape=(9, 9))


# --- COCO --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "size", "mask"),
    [((40, 30), [40, 30], BLOCK.T), ((30, 40), [30, 40], BLOCK)],
)
def test_runs_of_another_size_than_their_image_are_refused(tmp_path, image, size, mask):
    images = [PICTURE | {"width": image[0], "height": image[1]}]
    path = coco(tmp_path, {"size": size, "counts": rle_counts(mask)}, images=images)
    with pytest.raises(AnnotationError, match=r"annotation 1: its runs .* turned by 90"):
        read_coco(path)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 1e300, 1, 9, 9]],
        [[1, 1, float("nan"), 1, 9, 9]],
        [[1, 1, "x", 1, 9, 9]],
        [[1, 2, 3, 4, 5]],
        "abc",
        {"size": [30, 40], "counts": [2**63 - 1, 2**63 - 1, 1202]},  # 1200 in 64 bits
        {"size": [30, 40], "counts": [10**30]},
        {"size": [30, 40], "counts": [1199]},
        {"size": [30, 40], "counts": "o" * 90},
        {"size": [30, 40]},
        {"size": [-30, -40], "counts": [1200]},
        {"size": [10**6, 10**6], "counts": [10**12]},
    ],
)
def test_damaged_numbers_of_coco_are_refused_with_file_and_annotation(tmp_path, segmentation):
    path = coco(tmp_path, segmentation)
    tracemalloc.start()
    with pytest.raises(AnnotationError, match=r"coco.json.*(annotation 1|NaN)"):
        read_coco(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ({"segmentation": [], "bbox": [1, 1, 3, 3]}, "is a box without a segmentation"),
        ({"segmentation": SQUARE, "image_id": 9}, "has image_id 9"),
        ({"segmentation": [[1, 2, 3, 4]]}, "fewer than three points"),
        ({"segmentation": [[90, 90, 95, 90, 95, 95]]}, "has corners beyond its image"),
        ({"segmentation": [[5, 5, 10, 5, 10, 5]]}, "covers no pixel"),
        ({"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]}, "coordinates from 0 to 1"),
    ],
)
def test_what_is_left_out_of_a_coco_file_is_counted_and_told(tmp_path, left, why):
    path = coco(tmp_path, SQUARE)
    content = json.loads(path.read_text())
    other = {"id": 7, "image_id": 1, "category_id": 1} | left
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], other]}))
    with pytest.warns(UserWarning, match=rf"1 annotations read, left out 1 \(annotation 7 .*{why}"):
        table = read_coco(path)
    assert [row["count"] for row in table.attrs["imported"][:2]] == [1, 1]
    np.testing.assert_array_equal(masks_of(table), [BLOCK])
    path.write_text(json.dumps(content | {"annotations": [other]}))
    with pytest.raises(AnnotationError, match=f"no annotations could be read.*{why}"):
        read_coco(path)


def test_ambiguous_images_and_categories_of_coco_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="two images have the id 1"):
        read_coco(coco(tmp_path, SQUARE, images=[PICTURE, PICTURE | {"file_name": "b.png"}]))
    turned = PICTURE | {"id": 2, "width": 30, "height": 40}
    with pytest.raises(AnnotationError, match="'a.png' has two sizes"):
        read_coco(coco(tmp_path, SQUARE, images=[PICTURE, turned]))
    with pytest.raises(AnnotationError, match="no category 'fase' .did you mean 'face'"):
        read_coco(coco(tmp_path, SQUARE), ["fase"])


def test_attributes_of_other_tools_make_no_kind_of_ours(tmp_path):
    [row] = read_coco(coco(tmp_path, SQUARE, attributes={"kind": "eye", "correct": 3})).itertuples()
    assert row.kind == "import" and pd.isna(row.correct)  # else no map would be made of it


# --- Label Studio ------------------------------------------------------------------------------


def test_a_mask_lies_on_the_picture_that_its_region_names(tmp_path):
    both = {"image": "/d/a.png", "image2": "/d/b.png"}
    second = BRUSH | {"to_name": "image2"}
    table = read_label_studio(studio(tmp_path, second, data=both), ["a.png", "b.png"])
    assert table["image"].tolist() == ["b.png"]
    table = read_label_studio(studio(tmp_path, second, BRUSH, data=both), ["a.png", "b.png"])
    assert table["image"].tolist() == ["b.png", "a.png"]
    strange = BRUSH | {"to_name": "right"}
    path = studio(tmp_path, strange, data=both)
    with pytest.raises(AnnotationError, match="task 3.* 'right' could lie on any of"):
        read_label_studio(path, ["a.png", "b.png"])
    keyed = read_marks([path], ["a.png", "b.png"], keys={"right": "image2"})
    assert keyed["image"].tolist() == ["b.png"]
    pages = studio(tmp_path, BRUSH | {"item_index": 1}, data={"pages": ["/d/a.png", "/d/b.png"]})
    assert read_label_studio(pages, ["a.png", "b.png"])["image"].tolist() == ["b.png"]


def test_the_key_of_a_picture_is_anything(tmp_path):
    data = {"url": "/data/upload/1/8f3ac1d2-a.png", "text": "a word"}
    table = read_label_studio(studio(tmp_path, BRUSH | {"to_name": "img"}, data=data), ["a.png"])
    assert table["image"].tolist() == ["a.png"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"points": CORNERS}, BLOCK),
        ({"x": 50, "y": 50 / 3, "width": 37.5, "height": 50 / 3}, BLOCK),
        # 12 x 15 pixels at 20, 15, turned clockwise about that corner: to its lower left
        ({"x": 50, "y": 50, "width": 30, "height": 50, "rotation": 90}, (15, 27, 5, 20)),
        ({"format": "rle", "rle": label_studio_rle(BLOCK)}, BLOCK),
    ],
)
def test_shapes_of_label_studio_become_masks(tmp_path, value, wanted):
    if isinstance(wanted, tuple):
        top, bottom, left, right = wanted
        wanted = np.zeros((30, 40), dtype=bool)
        wanted[top:bottom, left:right] = True
    [mask] = masks_of(read_label_studio(studio(tmp_path, region("x", **value)), ["a.png"]))
    np.testing.assert_array_equal(mask, wanted)


def test_an_ellipse_of_label_studio_is_turned_clockwise(tmp_path):
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 30}
    [mask] = masks_of(read_label_studio(studio(tmp_path, region("ellipse", **value)), ["a.png"]))
    assert mask.sum() == pytest.approx(np.pi * 10 * 3, rel=0.05)
    y, x = np.nonzero(mask)
    long_axis = np.linalg.eigh(np.cov(x, y))[1][:, 1]
    assert long_axis[1] / long_axis[0] == pytest.approx(np.tan(np.deg2rad(30)), abs=0.05)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (region("keypointlabels", x=5, y=5, width=1), "a place without an area"),
        (region("polygonlabels", points=CORNERS, closed=False), "a line without an area"),
        (POLYGON | {"image_rotation": 90}, "turned by 90 degrees"),
        (region("bitmask", imageDataURL="data:image/png;base64,"), "which is not read"),
    ],
)
def test_regions_that_are_not_read_are_told(tmp_path, other, why):
    with pytest.warns(UserWarning, match=f"1 regions read, left out 1 .annotation 5 of.*{why}"):
        table = read_label_studio(studio(tmp_path, BRUSH, other), ["a.png"])
    np.testing.assert_array_equal(masks_of(table), [BLOCK])
    with pytest.raises(AnnotationError, match=f"no regions could be read.*{why}"):
        read_label_studio(studio(tmp_path, other), ["a.png"])


def test_cancelled_drafts_and_predictions_are_told(tmp_path):
    path = studio(tmp_path, BRUSH)
    [task] = json.loads(path.read_text())
    [one] = task["annotations"]
    task |= {"annotations": [one, one | {"id": 6, "was_cancelled": True}]}
    path.write_text(json.dumps([task | {"predictions": [one], "drafts": [one]}]))
    with pytest.warns(UserWarning, match=r"(?s)predictions.*drafts.*annotation 6 .*cancelled"):
        table = read_label_studio(path, ["a.png"])
    assert len(table) == 1


def test_every_form_of_export_is_read_alike(tmp_path):
    whole = studio(tmp_path, BRUSH | {"from_name": "tag"}, lead_time=3.5)
    [task] = json.loads(whole.read_text())
    [one] = task["annotations"]
    forms = {
        "old": [{k: v for k, v in task.items() if k != "annotations"} | {"completions": [one]}]
    }
    value = BRUSH["value"] | {"original_width": 40, "original_height": 30}
    flat = {"image": "/d/a.png", "id": 3, "annotator": 1, "annotation_id": 5, "lead_time": 3.5}
    forms |= {"min": [flat | {"tag": [value]}], "storage": one | {"task": task}, "one": task}
    for name, content in forms.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*flat, "tag"])
    writer.writeheader()
    writer.writerow(flat | {"tag": json.dumps([value])})
    (tmp_path / "table.csv").write_text(text.getvalue())
    wanted = read_marks([whole], ["a.png"])
    for name in ("old.json", "min.json", "storage.json", "one.json", "table.csv"):
        table = read_marks([tmp_path / name], ["a.png"])
        pd.testing.assert_frame_equal(table, wanted, obj=name)


@pytest.mark.parametrize(
    "damaged",
    [
        region("x", x=1e300, y=1, width=2, height=3),
        region("x", x="a", y=1, width=2, height=3),
        region("x", points=[[1, 2], [3, 1e300], [0, 1]]),
        region("x", format="rle", rle=10**9),
        region("x", format="rle", rle=label_studio_rle(BLOCK)[:-2]),
        BRUSH | {"original_width": 30, "original_height": 30},
        BRUSH | {"original_width": None},
        BRUSH | {"original_width": 10**6, "original_height": 10**6},
    ],
)
def test_damaged_regions_are_refused_with_file_and_annotation(tmp_path, damaged):
    with pytest.raises(AnnotationError, match=r"studio.json, task 3: annotation 5: "):
        read_label_studio(studio(tmp_path, damaged), ["a.png"])


# --- addresses ---------------------------------------------------------------------------------

ADDRESSES = [
    ("/data/local-files/?d=faces/my%20face.png", "faces/my face.png"),
    ("/data/local-files/?d=faces%2Fmy+face.png", "faces/my face.png"),
    ("/data/local-files/?d=faces/a+b #1.png", "faces/a+b #1.png"),  # not encoded, as some write
    ("/data/local-files/?d=C%3A%5Cset%5Cfaces%5Ca.png", "faces/a.png"),
    ("/data/upload/1/8f3ac1d2-d%C3%A9j%C3%A0.png", "déjà.png"),
    ("/data/upload/1/8f3ac1d2-de\u0301ja\u0300.png", "x/déjà.png"),  # accents apart, as on a Mac
    ("/data/upload/12/8f3ac1d2-my_face_1.png", "faces/my face (1).png"),  # Django's names
    ("https://b.s3.amazonaws.com/faces/a.png?X-Amz-Expires=60&X-Amz-Signature=0a", "faces/a.png"),
    ("s3://bucket/faces/a%20b.png", "faces/a%20b.png"),
    ("gs://bucket/faces/a b.png", "faces/a b.png"),
    ("/tasks/3/resolve/?fileuri=czM6Ly9idWNrZXQvZmFjZXMvYS5wbmc=", "faces/a.png"),
    ("D:\\study\\faces\\a.png", "faces/a.png"),
    ("images/8f3ac1d2-a.png", "faces/a.png"),
    ("../faces/a.png", "faces/a.png"),
]


@pytest.mark.parametrize(("address", "image"), ADDRESSES)
def test_addresses_lead_to_their_pictures(tmp_path, address, image):
    images = [image, "other/b.png"]
    table = read_label_studio(studio(tmp_path, BRUSH, data={"image": address}), images)
    assert table["image"].tolist() == [image]
    path = coco(tmp_path, SQUARE, images=[PICTURE | {"file_name": address}])
    assert read_marks([path], images)["image"].tolist() == [image]


def test_names_that_fit_two_pictures_are_refused_with_both(tmp_path):
    path = studio(tmp_path, BRUSH, data={"image": "/data/upload/1/8f3ac1d2-a.png"})
    with pytest.raises(AnnotationError, match="fits 2 images of the manifest: a.png and x/a.png"):
        read_label_studio(path, ["a.png", "x/a.png"])
    images = [
        PICTURE | {"file_name": "train/a.png"},
        PICTURE | {"id": 2, "file_name": "test/a.png"},
    ]
    path = coco(tmp_path, SQUARE, images=images)
    content = json.loads(path.read_text())
    second = content["annotations"][0] | {"id": 2, "image_id": 2}
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], second]}))
    with pytest.raises(AnnotationError, match="'train/a.png' and 'test/a.png' both fit"):
        read_marks([path], ["faces/a.png"])


def test_the_end_of_an_address_counts_for_more_than_its_name(tmp_path):
    path = studio(tmp_path, BRUSH, data={"image": "/data/x/a.png"})
    assert read_label_studio(path, ["x/a.png", "y/a.png"])["image"].tolist() == ["x/a.png"]
    with pytest.raises(AnnotationError, match="fits 2 images of the manifest: a.png and x/a.png"):
        read_label_studio(path, ["x/a.png", "a.png"])


def test_marks_on_other_pictures_are_left_out_with_a_word(tmp_path):
    images = [PICTURE, PICTURE | {"id": 2, "file_name": "b.png"}]
    path = coco(tmp_path, SQUARE, images=images)
    content = json.loads(path.read_text())
    second = content["annotations"][0] | {"id": 2, "image_id": 2}
    path.write_text(json.dumps(content | {"annotations": [*content["annotations"], second]}))
    with pytest.warns(UserWarning, match="1 rows read, left out 1 .b.png fits 0 images"):
        assert read_marks([path], ["a.png"])["image"].tolist() == ["a.png"]


NAMES = ["faces/a+b #1.png", "x/my face.png", "100%25.png", "déjà?.png", "a&b=c.png", "p;q,r.png"]


@pytest.mark.parametrize(
    "prefix", ["/data/local-files/?d=", "https://x.org/set/", "s3://bucket/set/"]
)
def test_what_is_written_for_label_studio_and_coco_reads_back_equal(tmp_path, prefix):
    rng = np.random.default_rng(0)
    masks = rng.random((len(NAMES), 30, 40)) < 0.4
    rows = [
        {"image": name, "kind": "import", "width": 40, "height": 30, "rle": rle_counts(mask)}
        for name, mask in zip(NAMES, masks, strict=True)
    ]
    table = as_table(rows)
    written = write_label_studio(table, tmp_path / "l.json", prefix=prefix)
    for back in (written, write_coco(table, tmp_path / "c.json")):
        came = read_marks([back], [*NAMES, "faces/a b #1.png", "100%.png"])
        assert came["image"].tolist() == NAMES
        np.testing.assert_array_equal(masks_of(came), masks)


@pytest.mark.parametrize(
    ("side", "fails"), [((30, 40), True), ((40, 30), False), ((80, 60), False)]
)
def test_sizes_are_held_against_the_pictures(tmp_path, side, fails):
    Image.new("RGB", side).save(tmp_path / "a.png")
    path = studio(tmp_path, BRUSH)
    if fails:
        with pytest.raises(
            AnnotationError, match="a.png are of 40 x 30 pixels, the picture has 30"
        ):
            read_marks([path], ["a.png"], tmp_path)
        return
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(read_marks([path], ["a.png"], tmp_path)) == 1
    assert [str(one.message) for one in told if "scaled" in str(one.message)] == (
        [] if side == (40, 30) else [str(told[-1].message)]
    )


# --- tables and stores -------------------------------------------------------------------------

STROKE = {"points": [[2.0, 2.0, 0.0], [6.0, 2.0, 0.4]], "radius": 1.0, "erase": False}
FOUR = {"image": ["a.png"], "strokes": [json.dumps([STROKE])], "width": [8], "height": [8]}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_the_four_columns_that_are_asked_for_are_enough(tmp_path, suffix):
    path, table = tmp_path / f"t.{suffix}", pd.DataFrame(FOUR)
    table.to_parquet(path) if suffix == "parquet" else table.to_csv(path, index=False)
    [row] = read_annotations(path).itertuples()
    assert row.kind == "import" and row.strokes == [STROKE] and row_mask(row).sum() > 0


@pytest.mark.parametrize(
    "change",
    [
        {"width": ["x"]}, {"width": [np.nan]}, {"width": [4]}, {"height": [10**9]},
        {"strokes": ["[{"]}, {"strokes": [5.0]}, {"strokes": ["[5]"]}, {"rle": ["[1, 2]"]},
        {"image": [5]}, {"image": [None]}, {"kind": ["eye"]}, {"correct": ["maybe"]},
        {"seconds": ["x"]}, {"number": ["x"]}, {"number": [np.inf]},
    ],
)  # fmt: skip
def test_damaged_rows_of_an_annotation_table_are_refused(tmp_path, change):
    pd.DataFrame(FOUR | change).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(AnnotationError, match=r"t.parquet(, row 0|: column|: kind)"):
        read_annotations(tmp_path / "t.parquet")


BYTES = {
    "empty": b"", "binary": bytes(range(256)) * 9, "cut": b'[{"id', "deep": b"[" * 100_000,
    "digits": b"[" + b"9" * 5000 + b"]", "latin": '["é"]'.encode("latin-1"), "null": b"null",
    "utf16": "a,b\n1,2\n".encode("utf-16"), "list": b"[]", "other": b"a,b\n1,2\n",
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_files_that_are_something_else_are_refused_by_name(tmp_path, name):
    for suffix in (".json", ".csv", ".tsv", ".parquet"):
        (tmp_path / f"x{suffix}").write_bytes(BYTES[name])
        with pytest.raises(AnnotationError, match=f"x{suffix}"):
            read_marks([tmp_path / f"x{suffix}"], ["a.png"])
    for read in (read_annotations, lambda path: read_reaction_times(path, path)):
        with pytest.raises(AnnotationError, match="x.csv"):
            read(tmp_path / "x.csv")


def test_a_damaged_store_is_refused_by_name(tmp_path):
    AnnotationStore(tmp_path / "good.sqlite").close()
    whole = (tmp_path / "good.sqlite").read_bytes()
    for data in (whole[:100], whole[: len(whole) // 2], b"SELECT" * 300):
        (tmp_path / "bad.sqlite").write_bytes(data)
        with pytest.raises(AnnotationError, match="bad.sqlite is no store of annotations, or is"):
            AnnotationStore(tmp_path / "bad.sqlite")


def test_compressed_runs_of_coco_are_refused_where_they_are_cut():
    with pytest.raises(AnnotationError, match="middle of a run"):
        rle_mask("11110P", (3, 2))
