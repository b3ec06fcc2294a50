"""The order in which images are offered to annotators, and training again with what they marked."""

import math

import numpy as np
import pandas as pd
import papermill
import pytest
from test_notebooks import NOTEBOOKS

from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.manifest import Manifest, read_manifest, write_manifest
from cyborg.people.brush import Annotator
from cyborg.people.queue import (
    annotation_queue,
    mean_human_map,
    queued,
    train_again,
)
from cyborg.people.store import AnnotationStore
from cyborg.predictions import read_maps, read_predictions
from cyborg.runs import run_record
from cyborg.settings import preset_config
from cyborg.training import load_run, train

DAB = {"points": [[30.0, 30.0, 0.0], [40.0, 30.0, 0.4]], "radius": 4.0, "erase": False}


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    "A demo set of which some training images have maps, and two runs on it."
    folder = tmp_path_factory.mktemp("queue")
    demo = make_demo(folder / "demo", n=40, size=64, workers=1)
    table, train_rows = demo.table, demo.table["split"] == "train"
    few = table["map"].where(~train_rows | (table.index % 4 == 0), "")
    manifest = Manifest(table.assign(map=few), demo.root, demo.classes)
    path = write_manifest(manifest, folder / "some.csv")
    runs = []
    for seed in (0, 1):
        given = {"manifest": str(path), "root": str(demo.root), "runs": str(folder / "runs")}
        given |= {"size": 64, "epochs": 1, "seed": seed, "device": "cpu", "name": f"run{seed}"}
        runs.append(train(preset_config("quick", given)))
        predict(load_run(runs[-1]).network, manifest.split("test"), runs[-1])
    return manifest, runs


def slow_values(runs, manifest):
    "The three criteria, image by image, from what the runs wrote."
    tables = [read_predictions(run / "pool") for run in runs]
    maps = [np.asarray(read_maps(run / "pool"), float) for run in runs]
    side, rows = maps[0].shape[1], {}
    blocks = mean_human_map(manifest).reshape(side, 56 // side, side, 56 // side)
    mean = blocks.mean((1, 3))  # averages over areas
    for i, image in enumerate(tables[0]["image"]):
        p = []
        for table in tables:
            e = [math.exp(table[f"logit_{c}"][i]) for c in (0, 1)]
            p.append([v / sum(e) for v in e])
        entropy = lambda q: -sum(v * math.log(v) for v in q if v > 0)  # noqa: E731
        middle = [sum(q[c] for q in p) / len(p) for c in (0, 1)]
        apart = (entropy(middle) - sum(map(entropy, p)) / len(p)) / math.log(2)
        unsure = sum(1 - abs(q[0] - q[1]) for q in p) / len(p)
        r = [np.corrcoef(own[i].ravel(), mean.ravel())[0, 1] for own in maps]
        rows[image] = {"uncertain": unsure, "disagree": apart, "far": 1 - float(np.mean(r))}
    return pd.DataFrame(rows).T


@pytest.mark.parametrize("criterion", ["uncertain", "disagree", "far"])
def test_the_queue_follows_its_criterion_and_maps_come_last(some, criterion):
    manifest, runs = some
    queue = annotation_queue(manifest, runs, criterion)
    train_rows = manifest.split("train").table
    assert sorted(queue["image"]) == sorted(train_rows["image"])
    assert queue["mapped"].is_monotonic_increasing and 0 < queue["mapped"].sum() < len(queue)
    have = set(train_rows["image"][train_rows["map"] != ""])
    assert set(queue["image"][queue["mapped"]]) == have
    for _, part in queue.groupby("mapped"):
        assert part[criterion].is_monotonic_decreasing
    slow = slow_values(runs, manifest).loc[queue["image"]]
    np.testing.assert_allclose(queue[criterion], slow[criterion], atol=1e-5)


def test_random_order_needs_no_run_and_what_is_unknown_is_told(some):
    manifest, runs = some
    one, same, other = (annotation_queue(manifest, criterion="random", seed=s) for s in (0, 0, 1))
    assert one["image"].tolist() == same["image"].tolist() != other["image"].tolist()
    for criterion, given, words in (
        ("uncertain", [], "it needs a run"),
        ("disagree", runs[:1], "two runs or more"),
        ("newest", runs, "expected one of random, uncertain"),
    ):
        with pytest.raises(ValueError, match=words):
            annotation_queue(manifest, given, criterion)
    bare = Manifest(manifest.table.assign(map=""), manifest.root, manifest.classes)
    with pytest.raises(ValueError, match="images with human maps"):
        annotation_queue(bare, runs[:1], "far")


def test_new_maps_do_not_make_the_networks_look_again(some):
    manifest, runs = some
    annotation_queue(manifest, runs[:1], "uncertain")
    made = (runs[0] / "pool" / "predictions.parquet").stat().st_mtime_ns
    first = manifest.split("train").table["image"].iloc[1]
    queue = annotation_queue(manifest, runs[:1], "uncertain", mapped={first})
    assert queue["mapped"][queue["image"] == first].all()
    assert (runs[0] / "pool" / "predictions.parquet").stat().st_mtime_ns == made


def test_planted_scores_have_a_known_order():
    faces = pd.DataFrame({"image": ["a", "b", "c", "d"]})
    planted = pd.DataFrame({"uncertain": [0.2, 0.9, 0.4, 0.9]})
    assert queued(faces, planted, "uncertain", ["b"])["image"].tolist() == ["d", "c", "a", "b"]


def test_the_annotator_offers_the_images_in_this_order(some, tmp_path):
    manifest, runs = some
    queue = annotation_queue(manifest, runs, "disagree")["image"].tolist()
    store = AnnotationStore(tmp_path / "marks.sqlite")
    store.save_marks(queue[0], "me", [DAB], manifest.root)
    annotator = Annotator(manifest, store, "me", "train", order=queue[:3])
    assert annotator.images[:3] == queue[:3] and annotator.image == queue[1]
    rest = [name for name in manifest.split("train").table["image"] if name not in queue[:3]]
    assert annotator.images[3:] == rest
    store.close()


def test_training_again_takes_the_runs_settings_and_the_new_maps(some, tmp_path, capsys):
    manifest, runs = some
    train_rows = manifest.split("train").table
    [new, old] = [
        train_rows[(train_rows["map"] == "") == empty]["image"].iloc[0] for empty in (1, 0)
    ]
    test = manifest.split("test").table.query("map != ''").iloc[0]
    store = AnnotationStore(tmp_path / "marks.sqlite")
    for image in (new, old, test["image"]):
        store.save_marks(image, "me", [DAB], manifest.root)
    store.close()
    train_again(str(runs[0]), str(tmp_path / "marks.sqlite"), "marked")
    told = capsys.readouterr().out
    again = runs[0].parent / "run0-again"
    n = int((manifest.table["map"] != "").sum())
    assert f"{n + 1} images have a map, {n} had one" in told
    assert "run0-again" in told and "agreement with human maps" in told
    before, after = (run_record(folder)["settings"] for folder in (runs[0], again))
    differ = {name for name in before if before[name] != after[name]}
    assert differ == {"manifest", "name"}
    written = read_manifest(after["manifest"], manifest.root).table.set_index("image")["map"]
    assert written[new].startswith("marked/") and written[old].startswith("marked/")
    assert written[test["image"]] == test["map"]  # what is tested with stays
    assert (again / "predictions.parquet").is_file()


def test_the_notebook_offers_images_in_this_order(some, tmp_path, monkeypatch):
    manifest, runs = some
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path))
    given = {"manifest": run_record(runs[0])["settings"]["manifest"], "root": str(manifest.root)}
    given |= {"runs": ",".join(map(str, runs)), "criterion": "disagree", "folder": "by-hand"}
    store = AnnotationStore(tmp_path / "annotations" / "marks.sqlite")
    first = annotation_queue(manifest, runs, "disagree")["image"].iloc[0]
    store.save_marks(first, "other", [DAB], manifest.root)
    store.close()
    notebook = papermill.execute_notebook(
        str(NOTEBOOKS / "annotate.ipynb"), None, given, progress_bar=False
    )
    texts = [
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]
    wanted = annotation_queue(manifest, runs, "disagree", mapped={first})["image"].iloc[0]
    [table] = [text for text in texts if "disagree" in text and "mapped" in text]
    assert wanted in table and first not in table  # it has a map since
    assert any(f"cyborg again {runs[0]}" in text for text in texts)
