"""nbs/prepare.ipynb with networks from files and a further column of maps, through papermill."""

import nbformat
import numpy as np
import papermill
import pytest
import torch
from test_crop import photographs
from test_notebooks import NOTEBOOKS
from test_quality import network

from cyborg.manifest import read_manifest
from cyborg.pictures import read_picture
from cyborg.prepare.quality import OnnxScorer
from cyborg.prepare.segmentation import PARSING_CLASSES, BiSeNet, FaceParser
from cyborg.saliency import read_map


def prepared(**parameters):
    papermill.execute_notebook(NOTEBOOKS / "prepare.ipynb", None, parameters, progress_bar=False)


@pytest.fixture
def photos(tmp_path):
    "Parameters for six photographs with maps of a teacher, 64 pixels a crop."
    manifest, boxes = photographs(tmp_path / "in")
    table = manifest.table.assign(teacher="maps/1.png")
    table.to_csv(tmp_path / "in.csv", index=False)
    boxes.to_csv(tmp_path / "boxes.csv", index=False)
    names = {"photographs": "in.csv", "root": "in", "out": "out", "boxes": "boxes.csv"}
    return {k: str(tmp_path / name) for k, name in names.items()} | {"size": 64, "least": 20.0}


def two_classes(path):
    "Weights with which BiSeNet finds skin here and a nose there, in noise."
    torch.manual_seed(0)
    state = BiSeNet().state_dict()
    scores = torch.zeros(19, 256, 1, 1)
    scores[PARSING_CLASSES.index("nose"), ::2] = scores[PARSING_CLASSES.index("skin"), 1::2] = 1
    torch.save(state | {"conv_out.conv_out.weight": scores}, path)
    return path


def test_networks_score_and_parse_and_a_teachers_maps_are_cropped(photos, tmp_path):
    net = network(tmp_path / "net.onnx", (1, 8, 8, 3), (1, 8, 8, 3), b"Identity")
    given = {"size": 8, "scale": 1.0, "colours": "BGR", "layout": "NHWC", "output": 7}
    weights = two_classes(tmp_path / "bisenet.pth")
    prepared(
        **photos,
        map_columns=["teacher"],
        keep=2,
        quality=str(net),
        quality_input=given,
        parsing=str(weights),
        parsing_classes={"nose": 2.0, "skin": 0.5},
    )
    done = read_manifest(tmp_path / "out" / "manifest.csv", root=tmp_path / "out")
    faces = read_manifest(tmp_path / "out" / "crops.csv", root=tmp_path / "out").table
    scorer = OnnxScorer(net, **given)
    faces["quality"] = [scorer(read_picture(done.root / name)) for name in faces["image"]]
    best = faces.sort_values("quality").groupby("source").tail(2)["image"]
    assert set(done.table["image"]) == set(best) and len(best) == 4
    image, row = read_picture(done.root / done.table["image"][0]), done.table.iloc[0]
    parsed = FaceParser(weights, {"nose": 2.0, "skin": 0.5})(image)
    np.testing.assert_allclose(read_map(done.root / row["segmentation"]), parsed, atol=1 / 255)
    with pytest.raises(ValueError, match="no part of a face"):  # without the table all is alike
        FaceParser(weights)(image)
    assert row["teacher"].startswith("maps_teacher/")
    assert read_map(done.root / row["teacher"]).shape == (64, 64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quality": "net.onnx"}, "quality is 'net.onnx', but keep is 0"),
        ({"parsing_classes": {"nose": 1}}, "parsing_classes is .*, but parsing names no network"),
        ({"cropped": True}, "cropped is True, which leaves maps to be made"),
    ],
)
def test_settings_without_their_stage_are_refused(given, message):
    "Cell by cell, up to the first that raises."
    cells = [c.source for c in nbformat.read(NOTEBOOKS / "prepare.ipynb", 4).cells]
    namespace = {}
    with pytest.raises(ValueError, match=message):
        for source in cells:
            if source.startswith(("from ", "before", "photographs:", "rule", "if quality")):
                exec(source, namespace)
            if source.startswith("photographs:"):
                namespace |= given


def test_faces_that_are_cropped_already_get_maps_where_they_are_needed(tmp_path):
    manifest, _ = photographs(tmp_path / "in")
    table = manifest.table.assign(split=["train", "test"] * (len(manifest) // 2))
    table.to_csv(tmp_path / "faces.csv", index=False)
    before = sorted(path.name for path in (tmp_path / "in").rglob("*"))
    prepared(
        photographs=str(tmp_path / "faces.csv"),
        root=str(tmp_path / "in"),
        out=str(tmp_path / "out"),
        cropped=True,
        parsing=str(two_classes(tmp_path / "bisenet.pth")),
        parsing_classes={"nose": 2.0, "skin": 0.5},
        map_splits=["train"],
    )
    done = read_manifest(tmp_path / "out" / "manifest.csv", root=tmp_path / "in")
    assert done.table["image"].tolist() == table["image"].tolist()
    given = done.table["segmentation"] != ""
    assert given.tolist() == (table["split"] == "train").tolist()
    image = read_picture(done.root / done.table["image"][0])
    assert read_map(done.root / done.table["segmentation"][0]).shape == image.shape[:2]
    made = {path.name for path in (tmp_path / "in").rglob("*")} - set(before)
    assert "crops" not in made and "segmentation" in made
