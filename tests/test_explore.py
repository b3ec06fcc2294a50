"""The explorers: what a control says is what is shown, and what is gone is said."""

import shutil
import time
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from test_notebooks import NOTEBOOKS

from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.explore import (
    PAGE,
    ExploreError,
    ImageExplorer,
    MapExplorer,
    RunExplorer,
    average_maps,
    chosen_rows,
    difference_picture,
    explain_image,
    find_runs,
    image_html,
    joined_predictions,
    map_picture,
    nearest_images,
    settings_table,
)
from cyborg.training import load_run, preset_config, train


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
    assert explorer.state.runs == ("classical, seed 0", "cyborg, seed 0")
    explorer.runs.value = ("cyborg, seed 0",)
    explorer.source.value = explorer.table["source"].iloc[0]
    shown = explorer.table.iloc[explorer.order]
    assert set(shown["source"]) == {explorer.source.value}
    assert explorer.count.value.startswith(f"{len(shown)} of ")
    points = sum(len(trace.x) for trace in explorer.scatter.data)
    assert points == len(shown)
    assert explorer.images.value.count("<figure") == 3 * min(PAGE, len(shown))


def test_a_click_on_a_point_shows_its_image(made):
    explorer = MapExplorer(made.runs)
    trace = explorer.scatter.data[0]
    (handler,) = trace._click_callbacks
    handler(trace, SimpleNamespace(point_inds=[2]), None)
    row = int(trace.customdata[2])
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
    assert page.figure.layout.annotations[0].text == "nothing to show yet"


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
        (b"x", 200_000_000, "pic.png has 200 MB, expected at most 20"),
    ],
)
def test_an_upload_that_is_no_image_is_told(made, content, size, message):
    page = ImageExplorer(made.runs)
    page.show(made.demo.root / made.demo.table["image"].iloc[0])
    before = page.result.value
    when = pd.Timestamp(0).to_pydatetime()
    upload = {"name": "pic.png", "type": "image/png", "size": size, "content": content}
    page.upload.value = (upload | {"last_modified": when},)
    assert message in page.message.value and page.result.value == before


def test_settings_that_differ_come_first(made):
    table = settings_table(find_runs(made.runs))
    assert set(table.index[:2]) == {"alpha", "name"}


def test_controls_answer_within_a_moment(made):
    """No bound on the time: what is asserted is that nothing is decoded or read twice."""
    explorer = MapExplorer(made.runs)
    explorer.opacity.value = 0.3
    from cyborg.explore import _face

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
