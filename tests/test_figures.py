"""Values in the traces of the figures, bad input, and the sizes of what is embedded."""

import base64
import io
import json
from unittest.mock import Mock

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from cyborg.figures import (
    LABEL_COLOURS,
    SCENARIO_STYLES,
    SOURCE_COLOURS,
    accuracy_curves,
    agreement_histogram,
    auc_by_source,
    live_figure,
    loss_curves,
    roc_by_source,
    scenario_style,
    thinned_roc,
    training_curves,
)
from cyborg.measure.auc import auc_table
from cyborg.overlays import (
    colour_table,
    manifest_samples,
    map_grid,
    mean_map_pair,
    overlay,
    sample_grid,
    sample_rows,
    sample_titles,
)

CHANCE = np.random.default_rng


def make_history(epochs=4, shift=0.0):
    e = np.arange(1, epochs + 1)
    columns = {"epoch": e, "val_auc": 0.5 + 0.1 * e / epochs + shift}
    for split, step in (("train", 0.0), ("val", 0.1)):
        columns[f"{split}_classification"] = 0.7 / e + step
        columns[f"{split}_saliency"] = 0.1 / e + step
        columns[f"{split}_loss"] = 0.4 / e + step
        columns[f"{split}_accuracy"] = 1 - 0.4 / e - step + shift
    return pd.DataFrame(columns)


def make_predictions(n=200, seed=0):
    chance = CHANCE(seed)
    sources = {"gan": 0.8, "diffusion": 0.3, "camera": 0.0, "phone": -0.5}
    parts = []
    for source, shift in sources.items():
        synthetic = source in ("gan", "diffusion")
        table = pd.DataFrame({"score": chance.normal(shift, 1, n), "cc": chance.uniform(-1, 1, n)})
        table["source"] = source
        table["label"] = "synthetic" if synthetic else "authentic"
        table["counterpart"] = {"gan": "camera", "diffusion": "camera|phone"}.get(source, "")
        parts.append(table)
    return pd.concat(parts)  # the index repeats on purpose


def make_aucs(unseen=0.6, seen=0.9):
    names = ["new", "old", "pooled", "macro", "macro_seen", "macro_unseen"]
    values = [unseen, seen, (unseen + seen) / 2, (unseen + seen) / 2, seen, unseen]
    return pd.DataFrame(
        {"source": names, "seen": [False, True, None, None, None, None], "auc": values}
    )


def every_figure():
    history, aucs, predictions = make_history(), make_aucs(), make_predictions()
    images = np.zeros((2, 16, 16, 3), np.uint8)
    maps = np.linspace(0, 1, 18).reshape(2, 3, 3)
    table = pd.DataFrame({"source": ["a", "b"], "label": ["authentic", "synthetic"]})
    scenarios = {"classical": [history, make_history(shift=0.01)], "cyborg": history}
    yield "loss", loss_curves(history)
    yield "losses", loss_curves(scenarios)
    yield "accuracy", accuracy_curves(history)
    yield "accuracies", accuracy_curves(scenarios)
    yield "training", training_curves(history, epochs=9)
    yield "roc", roc_by_source(predictions, seen=["gan"])
    yield "grid", sample_grid(images, maps, maps, ["one", "two"])
    yield "samples", manifest_samples(images, table)
    yield "pair", mean_map_pair(maps[0], maps[1])
    yield "maps", map_grid({"cyborg": {"gan": maps[0]}, "classical": {"cam": maps[1]}})
    yield "histogram", agreement_histogram(predictions)
    yield "auc", auc_by_source({"classical": aucs, "cyborg": [aucs, aucs]})


FIGURES = dict(every_figure())


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_title_labels_hover_text_and_a_legible_font(name):
    figure = FIGURES[name]
    layout = figure.layout
    assert layout.title.text and layout.title.subtitle.text
    assert layout.template.layout.font.size >= 12
    assert layout.template.layout.paper_bgcolor == "white"
    drawn = [t for t in figure.data if t.type == "scatter" and t.hoverinfo != "skip"]
    assert all(trace.hovertemplate for trace in drawn)
    assert all(trace.hovertemplate for trace in figure.data if trace.type in ("image", "heatmap"))
    if drawn:
        assert all(
            axis.title.text for axis in figure.select_xaxes() if axis.showticklabels is not False
        )
        assert layout.yaxis.title.text or layout.yaxis.ticktext
    for note in layout.annotations:
        assert note.font.size is None or note.font.size >= 12
    go.Figure(json.loads(figure.to_json()))  # survives a round trip, so every value is valid


@pytest.mark.parametrize("name", ["losses", "accuracies", "auc"])
def test_a_scenario_has_one_colour_in_every_figure(name):
    colours = {}
    for trace in FIGURES[name].data:
        scenario = (trace.name or "").split(" (")[0]
        colour = trace.line.color if "lines" in trace.mode else trace.marker.color
        if scenario in SCENARIO_STYLES:
            colours.setdefault(scenario, set()).add(colour)
    assert colours == {k: {SCENARIO_STYLES[k].colour} for k in ("classical", "cyborg")}


def test_scenario_styles_are_the_papers_and_all_different():
    colours = {name: style.colour for name, style in SCENARIO_STYLES.items()}
    assert len({style.symbol for style in SCENARIO_STYLES.values()}) == len(SCENARIO_STYLES)
    red, green, blue = (
        bytes.fromhex(colours[name][1:]) for name in ("cyborg", "classical_large", "classical")
    )
    assert max(red) == red[0] and max(green) == green[1] and max(blue) == blue[2]
    controls = set(SCENARIO_STYLES) - {"classical", "classical_large", "cyborg"}
    for name in controls:
        assert len(set(bytes.fromhex(colours[name][1:]))) == 1, f"{name} is not grey"
        assert SCENARIO_STYLES[name].dash != "solid"
    assert not set(colours.values()) & ({*SOURCE_COLOURS} | {*LABEL_COLOURS.values()})


def test_an_unknown_scenario_keeps_its_style_for_ever():
    # Literal values: the built-in hash of a string would differ from process to process.
    assert scenario_style("droid") == ("#CC6677", "dashdot", "bowtie")
    assert scenario_style("mentor") == ("#661100", "dot", "hourglass")
    assert scenario_style("droid").colour not in {one.colour for one in SCENARIO_STYLES.values()}


# ------------------------------------------------------------------ curves


def test_loss_curves_hold_each_column_once():
    history = make_history()
    figure = loss_curves(history)
    assert [t.meta for t in figure.data] == [
        f"{split}_{part}"
        for split in ("train", "val")
        for part in ("loss", "classification", "saliency")
    ]
    for trace in figure.data:
        np.testing.assert_array_equal(trace.y, history[trace.meta])
        np.testing.assert_array_equal(trace.x, [1, 2, 3, 4])
        assert trace.line.dash == ("dot" if trace.meta.startswith("train") else "solid")


def test_band_is_the_sample_standard_deviation_over_runs():
    runs = [make_history(shift=s) for s in (0.0, 0.02, 0.10)]
    traces = [t for t in accuracy_curves({"cyborg": runs}).data if "val_auc" in t.meta]
    band, line = traces
    values = np.stack([run["val_auc"] for run in runs])
    mean, sd = values.mean(0), values.std(0, ddof=1)
    np.testing.assert_allclose(line.y, mean)
    np.testing.assert_allclose(band.y, [*(mean + sd), *(mean - sd)[::-1]])
    assert list(band.x) == [1, 2, 3, 4, 4, 3, 2, 1]
    assert "standard deviation" in accuracy_curves({"cyborg": runs}).layout.title.subtitle.text


def test_one_run_has_no_band_and_says_so():
    figure = accuracy_curves({"cyborg": make_history()})
    assert [t.meta for t in figure.data] == ["train_accuracy", "val_accuracy", "val_auc"]
    assert figure.layout.title.subtitle.text == "One run each"


def test_runs_of_different_length_are_averaged_over_those_that_reached_the_epoch():
    line = accuracy_curves([make_history(4), make_history(2).assign(val_auc=0.9)]).data[-1]
    np.testing.assert_allclose(line.y, [(0.525 + 0.9) / 2, (0.55 + 0.9) / 2, 0.575, 0.6])
    np.testing.assert_array_equal(np.array(line.customdata)[:, 1], [2, 2, 1, 1])


def test_accuracy_axis_is_fixed_and_holds_the_band():
    assert accuracy_curves(make_history()).layout.yaxis.range == (0.495, 1.005)
    assert accuracy_curves(make_history(shift=-0.4)).layout.yaxis.range == (-0.01, 1.01)
    low, high = make_history().assign(val_auc=0.5), make_history().assign(val_auc=0.6)
    assert accuracy_curves([low, high]).layout.yaxis.range == (-0.01, 1.01)  # 0.55 - 0.07


def test_an_epoch_twice_in_a_run_is_refused():
    twice = pd.concat([make_history(), make_history()])
    with pytest.raises(ValueError, match=r"history\['cyborg'\] has an epoch twice"):
        accuracy_curves({"cyborg": twice})


@pytest.mark.parametrize("function", [loss_curves, accuracy_curves, training_curves])
def test_curves_name_what_is_wrong(function):
    with pytest.raises(ValueError, match="history has no rows"):
        function(make_history()[:0])
    with pytest.raises(ValueError, match=r"history lacks the columns \['epoch'\], it has \["):
        function(make_history().drop(columns="epoch"))


def test_scenarios_name_what_is_wrong():
    with pytest.raises(ValueError, match="history is empty, expected at least one scenario"):
        loss_curves({})
    with pytest.raises(
        ValueError, match=r"history\['cyborg'\] is empty, expected at least one run"
    ):
        loss_curves({"cyborg": []})
    with pytest.raises(ValueError, match=r"history\['cyborg'\] lacks the columns \['val_loss'\]"):
        loss_curves({"cyborg": [make_history().drop(columns="val_loss")]})
    with pytest.raises(
        TypeError, match=r"history\['cyborg'\] is a dict, expected a pandas DataFrame"
    ):
        loss_curves({"cyborg": [{"epoch": 1}]})


def test_live_curves_keep_their_axes_and_show_the_history_so_far():
    history = make_history()
    for epochs in (0, 1, 4):
        figure = training_curves(history[:epochs], epochs=4)
        for trace in figure.data:
            np.testing.assert_array_equal(trace.y, history[trace.meta][:epochs])
            np.testing.assert_array_equal(trace.x, range(1, epochs + 1))
        assert figure.layout.xaxis.range == figure.layout.xaxis2.range == (-0.5, 4.5)
        assert figure.layout.yaxis2.range == (-0.01, 1.01)
    with pytest.raises(ValueError, match=r"history lacks the columns \['val_auc'\]"):
        training_curves(history.drop(columns="val_auc"))


def test_a_live_figure_changes_its_type_between_two_pictures(monkeypatch):
    # JupyterLab's plotly does nothing when an output of the same type comes again.
    shown, handle = [], Mock()
    handle.update.side_effect = lambda content, raw: shown.append(content)
    monkeypatch.setattr(
        "cyborg.figures.display", lambda content, **_: shown.append(content) or handle
    )
    figures = [training_curves(make_history(epochs)) for epochs in (1, 2)]
    live_figure(figures[0])(figures[1])
    first, between, last = shown
    assert set(first) == set(last) == {"application/vnd.plotly.v1+json"} != set(between)
    for figure, content in zip(figures, (first, last), strict=True):
        (content,) = content.values()
        assert go.Figure(json.loads(json.dumps(content))) == figure


# --------------------------------------------------------------------- ROC


def test_roc_of_four_scores_by_hand():
    predictions = pd.DataFrame(
        {
            "source": ["gan", "camera", "gan", "camera"],
            "label": ["synthetic", "authentic", "synthetic", "authentic"],
            "score": [0.9, 0.8, 0.7, 0.1],
        }
    )
    figure = roc_by_source(predictions)
    curve, chance = figure.data
    assert list(zip(curve.x, curve.y, strict=True)) == [
        (0, 0),
        (0, 0.5),
        (0.5, 0.5),
        (0.5, 1),
        (1, 1),
    ]
    assert curve.name == "gan: 0.750"
    assert (list(chance.x), list(chance.y)) == ([0, 1], [0, 1])
    assert figure.layout.xaxis.range == figure.layout.yaxis.range == (-0.01, 1.01)
    assert "all authentic images" in figure.layout.title.subtitle.text


def test_roc_takes_only_the_counterparts():
    predictions = make_predictions()
    score = predictions.groupby("source")["score"].apply(np.array)
    expected = {
        "gan": (score["gan"], score["camera"]),
        "diffusion": (score["diffusion"], np.append(score["camera"], score["phone"])),
    }
    figure = roc_by_source(predictions, seen=["gan"])
    names = [trace.name for trace in figure.data]
    for source, (high, low) in expected.items():
        auc = np.mean(high[:, None] > low)  # the share of pairs in the right order
        assert f"{source}: {auc:.3f}" in names
    assert [t.meta for t in figure.data] == ["diffusion", "gan", "chance"]  # unseen first
    assert [t.line.dash for t in figure.data[:2]] == ["solid", "dash"]
    assert "against camera, phone (400)" in figure.data[0].hovertemplate


def test_roc_of_ties_and_of_a_perfect_separation():
    tied = thinned_roc(np.array([True, False, True, False]), np.full(4, 0.5))
    assert tied[:, :2].tolist() == [[0, 0], [1, 1]]
    perfect = thinned_roc(np.array([True, True, False]), np.array([3.0, 2.0, 1.0]))
    np.testing.assert_array_equal(perfect[[0, -1], :2], [[0, 0], [1, 1]])
    coarse = thinned_roc(np.array([True, True, False, False]), np.arange(4.0), points=1)
    np.testing.assert_array_equal(coarse[[0, -1], :2], [[0, 0], [1, 1]])
    assert [0, 1] in perfect[:, :2].tolist()


def test_thinning_keeps_exact_corners_and_little_else():
    chance, n = CHANCE(0), 100_000
    positive = chance.random(n) < 0.5
    score = chance.normal(positive, 1)
    thin, full = thinned_roc(positive, score, 400), thinned_roc(positive, score, n * 10)
    assert len(thin) <= 402
    corners = {tuple(row) for row in full[:, :2].round(12)}
    assert all(tuple(row) in corners for row in thin[:, :2].round(12))
    assert np.abs(np.interp(full[:, 0], thin[:, 0], thin[:, 1]) - full[:, 1]).max() < 2 / 400
    assert abs(np.trapezoid(thin[:, 1], thin[:, 0]) - roc_auc_score(positive, score)) < 1e-3


def test_a_hundred_thousand_rows_make_a_small_figure():
    figure = roc_by_source(make_predictions(n=25_000))
    assert len(figure.to_json()) < 60_000
    assert len(agreement_histogram(make_predictions(n=25_000)).to_json()) < 20_000


def test_roc_names_what_is_wrong():
    predictions = make_predictions(5)
    with pytest.raises(ValueError, match=r"predictions lacks the columns \['score'\]"):
        roc_by_source(predictions.drop(columns="score"))
    with pytest.raises(ValueError, match="predictions has no rows"):
        roc_by_source(predictions[:0])
    with pytest.raises(ValueError, match="1 scores that are not finite"):
        roc_by_source(predictions.assign(score=[np.nan, *range(19)]))
    with pytest.raises(ValueError, match="'webcam' of source 'diffusion' is no authentic source"):
        roc_by_source(predictions.assign(counterpart="webcam"))
    with pytest.raises(ValueError, match="predictions has no synthetic rows"):
        roc_by_source(predictions[predictions["label"] == "authentic"])


def test_roc_agrees_with_the_table_of_the_evaluation():
    predictions = make_predictions()
    for table in (predictions, predictions.drop(columns="counterpart")):
        rows = auc_table(table, seen=["gan"]).set_index("source")
        for trace in roc_by_source(table, seen=["gan"]).data[:-1]:
            assert trace.name == f"{trace.meta}: {rows.loc[trace.meta, 'auc']:.3f}"
    figure = auc_by_source({"cyborg": auc_table(predictions, seen=["gan"])})
    assert figure.layout.yaxis.ticktext[1::2][:2] == ("diffusion", "gan")


def test_roc_of_a_generator_without_authentic_images_says_so():
    synthetic = make_predictions().query("label == 'synthetic'").assign(counterpart="")
    figure = roc_by_source(synthetic)
    assert [t.name for t in figure.data[:2]] == ["diffusion: no images", "gan: no images"]
    assert all(len(t.x) == 0 for t in figure.data[:2])


# ---------------------------------------------------------------- overlays


def decode(trace):
    kind, data = trace.source.split(",", 1)
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_overlay_of_a_zero_map_is_the_picture_at_the_stated_share():
    image = CHANCE(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    black = colour_table("magma")[0].astype(float)
    for opacity in (0, 0.25, 0.5, 1):
        expected = np.rint((1 - opacity) * image + opacity * black)
        np.testing.assert_array_equal(overlay(image, np.zeros((3, 3)), opacity), expected)


def test_overlay_puts_the_maximum_where_the_map_has_it():
    image = np.zeros((70, 70, 3), np.uint8)
    map = np.zeros((7, 7))
    map[1, 5] = 1  # row, column: a swap of the two would show
    light = overlay(image, map, opacity=1).astype(int).sum(-1)
    row, col = np.unravel_index(light.argmax(), light.shape)
    assert 10 <= row < 20 and 50 <= col < 60


def test_overlay_of_a_picture_that_is_not_square():
    map = np.zeros((2, 4))
    map[:, 3] = 1
    light = overlay(np.zeros((10, 40, 3), np.uint8), map, opacity=1).astype(int).sum(-1)
    assert light.shape == (10, 40) and (light[:, 38:] > 600).all() and (light[:, :20] < 60).all()


def test_overlay_is_smooth_and_within_the_colour_table():
    image = np.zeros((64, 64, 3), np.uint8)
    map = np.kron([[1, 0], [0, 1]], np.ones((2, 2)))  # cubic interpolation overshoots here
    painted = overlay(image, map, opacity=1)
    table = {tuple(colour) for colour in colour_table()}
    assert {tuple(pixel) for pixel in painted.reshape(-1, 3)} <= table
    steps = np.abs(np.diff(painted.astype(int).sum(-1), axis=1))
    assert steps.max() < 150  # without interpolation one step is about 600


def test_overlay_reduces_a_large_map_by_averaging():
    checks = np.indices((64, 64)).sum(0) % 2  # its mean is 0.5 everywhere
    painted = overlay(np.zeros((8, 8, 3), np.uint8), checks, opacity=1)
    assert np.abs(painted.astype(int) - colour_table()[128]).max() <= 2


def test_colour_tables_are_perceptual():
    for name in ("magma", "viridis"):
        table = colour_table(name)
        assert table.shape == (256, 3) and table.dtype == np.uint8
        luminance = table @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance) > -0.75).all()  # rises throughout, but for rounding
    with pytest.raises(ValueError, match="colours is 'jet', expected a perceptual map: magma"):
        colour_table("jet")


def test_overlay_names_what_is_wrong():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"image is float64 \(4, 4, 3\), expected uint8 \(S, S, 3\)"
    ):
        overlay(image / 255, np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"map has shape \(1, 2, 2\), expected \(h, w\)"):
        overlay(image, np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="map has values from nan to nan, expected 0 to 1"):
        overlay(image, np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="map has values from -1.0 to 0.0, expected 0 to 1"):
        overlay(image, np.array([[-1, 0]]))
    with pytest.raises(ValueError, match="opacity is 1.5, expected 0 to 1"):
        overlay(image, np.zeros((2, 2)), 1.5)


# ------------------------------------------------------------------- grids


@pytest.mark.parametrize("missing", [0, np.nan])
def test_sample_grid_places_each_overlay_below_its_image(missing):
    images = np.stack([np.full((32, 32, 3), level, np.uint8) for level in (40, 120, 200)])
    human, model = np.full((3, 4, 4), 1e-6), np.ones((3, 7, 7))
    human[1] = missing
    figure = sample_grid(images, human, model, ["a", "b", "c"], columns=2, opacity=0.5)
    cells = {(int(t.y0 // 0.1) / 10, int(t.x0)): t for t in figure.data if t.type == "image"}
    assert sorted(cells) == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3.4, 0), (4.4, 0), (5.4, 0)]
    bright, dark = colour_table()[255] / 2, colour_table()[0] / 2
    for place, expected in {
        (0, 1): [120] * 3,
        (1, 0): 20 + dark,
        (2, 1): 60 + bright,
        (5.4, 0): 100 + bright,
    }.items():
        assert np.abs(decode(cells[place])[16, 16] - np.array(expected)).max() <= 3, place
    captions = {(a.text, a.x > 1) for a in figure.layout.annotations}
    assert captions == {("a", False), ("b", True), ("c", False), ("no human map", True)}
    assert figure.layout.yaxis.ticktext == ("image", "human map", "model saliency") * 2
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # rows run downwards


def test_sample_grid_gives_each_named_model_a_row():
    images, maps = np.zeros((2, 8, 8, 3), np.uint8), np.ones((2, 2, 2))
    figure = sample_grid(images, maps, {"first": maps, "second": [None, maps[0]]}, ["a", "b"])
    assert list(figure.layout.yaxis.ticktext) == ["image", "human map", "first", "second"]
    assert "no second" in [note.text for note in figure.layout.annotations]


def test_sample_grid_leaves_out_a_row_without_maps():
    figure = sample_grid(np.zeros((1, 8, 8, 3), np.uint8), None, np.zeros((1, 2, 2)), ["a"])
    assert figure.layout.yaxis.ticktext == ("image", "model saliency")
    assert [t.y0 // 1 for t in figure.data if t.type == "image"] == [0, 1]


def test_embedded_images_are_compact():
    noise = CHANCE(0).integers(0, 256, (8, 224, 224, 3), dtype=np.uint8)  # the worst to compress
    smooth = np.stack([np.tile(np.arange(224, dtype=np.uint8)[:, None, None], (1, 224, 3))] * 8)
    maps = np.zeros((8, 7, 7))
    assert len(sample_grid(noise, maps, maps, [""] * 8).to_json()) < 1_700_000
    assert len(sample_grid(smooth, maps, maps, [""] * 8).to_json()) < 200_000
    table = pd.DataFrame({"source": ["a"] * 8, "label": "authentic"})
    assert len(manifest_samples(smooth, table).to_json()) < 80_000
    assert decode(manifest_samples(smooth, table).data[0]).shape == (192, 192, 3)
    assert len(mean_map_pair(np.zeros((224, 224)), np.zeros((7, 7))).to_json()) < 60_000


def test_manifest_samples_has_a_row_a_source():
    images = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (10, 60, 110, 160)])
    table = pd.DataFrame(
        {
            "source": ["gan", "camera", "gan", "camera"],
            "label": ["synthetic", "authentic", "synthetic", "authentic"],
            "image": ["1.png", "2.png", "3.png", "4.png"],
        },
        index=[7, 7, 7, 7],
    )
    figure = manifest_samples(images, table)
    cells = {(t.y0 // 1, t.x0 // 1): (int(decode(t)[4, 4, 0]), t.name) for t in figure.data}
    assert cells == {
        (0, 0): (60, "camera (authentic)<br>2.png"),
        (0, 1): (160, "camera (authentic)<br>4.png"),
        (1, 0): (10, "gan (synthetic)<br>1.png"),
        (1, 1): (110, "gan (synthetic)<br>3.png"),
    }


def test_sample_rows_of_a_source_do_not_depend_on_the_others():
    table = pd.DataFrame({"source": ["b"] * 50})
    more = pd.concat([table, pd.DataFrame({"source": ["a"] * 50})])
    rows = sample_rows(table, 5)
    assert rows.dtype == np.int64 and len(set(rows)) == 5
    np.testing.assert_array_equal(sample_rows(more, 5)[5:], rows)
    assert (sample_rows(more, 5)[:5] >= 50).all()
    assert list(sample_rows(table, 5, seed=1)) != list(rows)


def test_sample_titles_are_short():
    rows = pd.DataFrame({"source": ["gan", "a generator of a very long name"], "score": [0.126, 1]})
    assert sample_titles(rows) == ["gan<br>score 0.13", "a generator of a ve…<br>score 1.00"]


def test_grids_name_what_is_wrong():
    images, maps = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 4, 4))
    with pytest.raises(ValueError, match=r"images is float32 .*, expected uint8 \(n, S, S, 3\)"):
        sample_grid(images.astype(np.float32), maps, maps, ["", ""])
    with pytest.raises(ValueError, match="human map: 1 given, expected 2 like images"):
        sample_grid(images, maps[:1], maps, ["", ""])
    with pytest.raises(ValueError, match="titles has 1 entries, expected 2 like images"):
        sample_grid(images, maps, maps, [""])
    with pytest.raises(ValueError, match="images has no images"):
        sample_grid(images[:0], maps[:0], maps[:0], [])
    with pytest.raises(ValueError, match="table has 1 rows, expected 2 like images"):
        manifest_samples(images, pd.DataFrame({"source": ["a"], "label": ["b"]}))
    with pytest.raises(ValueError, match=r"rows lacks the columns \['score'\]"):
        sample_titles(pd.DataFrame({"source": ["a"]}))


def test_mean_maps_share_one_range_that_is_not_stretched():
    figure = mean_map_pair(np.full((7, 7), 0.2), np.full((14, 14), 0.4), n_model=3, smooth=False)
    model, human = figure.data
    assert model.z.shape == (7, 7) and human.z.shape == (14, 14)
    assert np.allclose(model.z, 0.2) and np.allclose(human.z, 0.4)
    assert model.coloraxis == human.coloraxis == "coloraxis"
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert human.x0 > 1 > model.x0  # the model's at the left
    texts = [note.text for note in figure.layout.annotations]
    assert texts == ["model saliency<br>7 × 7 cells, n = 3", "human map<br>14 × 14 cells"]
    with pytest.raises(ValueError, match="human map has values from 0.0 to 2.0, expected 0 to 1"):
        mean_map_pair(np.zeros((2, 2)), np.diag([2.0, 2.0]))


def test_map_grid_keeps_rows_columns_and_gaps():
    level = lambda value: np.full((3, 3), value)  # noqa: E731
    figure = map_grid(
        {"human": {"gan": level(0.1)}, "cyborg": {"gan": level(0.2), "camera": level(0.3)}}
    )
    cells = {(t.y0 // 1, t.x0 // 1): round(float(t.z.mean()), 3) for t in figure.data}
    assert cells == {(0, 0): 0.1, (1, 0): 0.2, (1, 1): 0.3}
    assert figure.layout.yaxis.ticktext == ("human", "cyborg")
    texts = {(note.text, note.x // 1, note.y // 1) for note in figure.layout.annotations}
    assert texts == {("gan", 0, 0), ("camera", 1, 0), ("no map", 1, 0)}
    with pytest.raises(ValueError, match=r"maps\['cyborg'\]\['gan'\] has shape \(3,\)"):
        map_grid({"cyborg": {"gan": np.zeros(3)}})
    with pytest.raises(ValueError, match="maps is empty"):
        map_grid({"cyborg": {}})


# --------------------------------------------------------------- agreement


def test_histogram_is_a_share_by_group_and_counts_what_is_missing():
    table = pd.DataFrame({"label": ["authentic"] * 4 + ["synthetic"], "cc": [-1, 0.1, 0.2, 1, 0.7]})
    table.loc[5] = ["synthetic", np.nan]
    figure = agreement_histogram(table, bins=2)
    authentic, synthetic = figure.data
    assert list(authentic.x) == [-1, -1, 0, 1]
    assert list(authentic.y) == [0, 25, 75, 0]  # the edge value 1 belongs to the last bin
    assert list(synthetic.y) == [0, 0, 100, 0]
    assert authentic.name == "authentic (n = 4, median 0.15)"
    assert authentic.line.color == LABEL_COLOURS["authentic"]
    assert [shape.x0 for shape in figure.layout.shapes] == pytest.approx([0.15, 0.7])
    assert figure.layout.title.subtitle.text.startswith("5 of 6 images have a human map")
    assert figure.layout.xaxis.range == (-1, 1)


def test_histogram_by_scenario_has_the_scenarios_colours():
    table = make_predictions()
    figure = agreement_histogram({"cyborg": table, "classical": [table, table]})
    assert [t.line.color for t in figure.data] == [
        SCENARIO_STYLES["cyborg"].colour,
        SCENARIO_STYLES["classical"].colour,
    ]
    assert "n = 1,600" in figure.data[1].name
    np.testing.assert_allclose(figure.data[0].y, figure.data[1].y)


def test_histogram_of_a_long_tail_says_what_it_cuts():
    values = np.append(np.linspace(0, 1, 199), 50.0)
    figure = agreement_histogram(pd.DataFrame({"label": "a", "kl": values}), "kl", bins=10)
    assert figure.layout.xaxis.range[1] < 1.01
    assert "2 values beyond the axis are in the outermost bins" in figure.layout.title.subtitle.text
    assert sum(figure.data[0].y) == pytest.approx(100)


def test_histogram_of_hits_and_misses():
    table = pd.DataFrame({"label": "a", "pointing": [1.0, 1.0, 1.0, 0.0]})
    figure = agreement_histogram(table, "pointing")
    assert list(figure.data[0].y) == [0, 25, 75, 0]
    assert figure.data[0].name == "a (n = 4, mean 0.75)"
    assert [shape.x0 for shape in figure.layout.shapes] == [0.75]  # a median would say 1


def test_histogram_names_what_is_wrong():
    table = make_predictions(3)
    with pytest.raises(ValueError, match=r"predictions lacks the columns \['sim'\]"):
        agreement_histogram(table, "sim")
    with pytest.raises(ValueError, match="predictions has no rows"):
        agreement_histogram(table[:0])


@pytest.mark.parametrize("metric", ["cc", "kl", "pointing"])
def test_a_test_set_without_human_maps_is_drawn_as_such(metric):
    table = make_predictions(3).assign(**{metric: np.nan})
    figure = agreement_histogram(table, metric)
    assert not figure.data and figure.layout.title.subtitle.text.startswith("0 of 12 images")
    pair = mean_map_pair(np.zeros((2, 2)), None, 12, 0)
    texts = {note.text for note in pair.layout.annotations}
    assert texts == {"model saliency<br>2 × 2 cells, n = 12", "human map<br>", "no map"}
    assert len(pair.data) == 1
    assert "no test image has a human map" in pair.layout.title.subtitle.text


def test_maps_of_training_take_the_place_of_those_that_test_images_lack():
    beside = dict(training_mean=np.eye(2), n_training=1765)
    pair = mean_map_pair(np.zeros((2, 2)), None, 12, 0, **beside)
    texts = {note.text for note in pair.layout.annotations}
    names = {
        "model saliency<br>2 × 2 cells, n = 12",
        "human map, training<br>2 × 2 cells, n = 1,765",
    }
    assert texts == names  # and no empty panel
    assert pair.layout.title.subtitle.text.endswith(
        "no test image has a human map; beside it the mean human map of 1,765 training images"
    )
    both = mean_map_pair(np.zeros((2, 2)), np.full((2, 2), 0.4), 12, 5, **beside)
    highest = [float(np.max(t.z)) for t in both.data if t.type == "heatmap"]
    assert highest == pytest.approx([0, 0.4, 1])
    assert "no test image" not in both.layout.title.subtitle.text
    neither = mean_map_pair(np.zeros((2, 2)), None, 12, 0, lacking="no training image has one")
    assert neither.layout.title.subtitle.text.endswith("and no training image has one")


# -------------------------------------------------------------- comparison


def test_auc_dots_stand_at_their_names():
    runs = [make_aucs(0.5, 0.8), make_aucs(0.7, 0.9)]
    figure = auc_by_source({"classical": make_aucs(), "cyborg": runs})
    ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert list(ticks) == [
        *("<b>unseen generators</b>", "new", "<b>seen generators</b>", "old", "<b>summary</b>"),
        *("mean of unseen", "mean of seen", "mean of all", "pooled"),
    ]
    classical, cyborg = figure.data
    where = {round(y): x for x, y in zip(cyborg.x, cyborg.y, strict=True)}
    assert where[ticks["new"]] == pytest.approx(0.6)
    assert where[ticks["old"]] == pytest.approx(0.85)
    assert where[ticks["pooled"]] == pytest.approx(0.725)
    assert cyborg.error_x.array[0] == pytest.approx(0.1 * 2**0.5)
    assert classical.error_x.array is None
    assert classical.y[0] < ticks["new"] < cyborg.y[0]  # side by side, not on top of each other
    assert figure.layout.xaxis.range[0] <= 0.45 and figure.layout.xaxis.range[1] == 1.01


def test_an_auc_far_below_chance_stays_on_the_axis():
    figure = auc_by_source({"classical": make_aucs(unseen=0.02)})
    assert figure.layout.xaxis.range[0] == 0


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_summaries_are_neither_seen_nor_unseen(missing):
    aucs = make_aucs()
    aucs["seen"] = [False, True] + [missing] * 4
    figure = auc_by_source({"cyborg": aucs})
    assert figure.layout.yaxis.ticktext == (
        *("<b>unseen generators</b>", "new", "<b>seen generators</b>", "old", "<b>summary</b>"),
        *("mean of unseen", "mean of seen", "mean of all", "pooled"),
    )


def test_comparison_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"tables\['cyborg'\] lacks the columns \['auc'\]"):
        auc_by_source({"cyborg": make_aucs().drop(columns="auc")})
    with pytest.raises(ValueError, match="tables has no AUC that is a number"):
        auc_by_source({"cyborg": make_aucs().assign(auc=np.nan)})


# --- names that plotly would read as orders -------------------------------------------------------

ODD = "<b>gan</b> 50%{x}"
TOLD = "&lt;b&gt;gan&lt;/b&gt; 50&#37;{x}"


def texts_of(content) -> list[str]:
    "All texts of a figure that plotly draws; `meta` is for programs."
    if isinstance(content, dict):
        return [t for key, part in content.items() if key != "meta" for t in texts_of(part)]
    if isinstance(content, (list, tuple, np.ndarray)):
        return [text for part in content for text in texts_of(part)]
    return [content] if isinstance(content, str) else []


def odd_figures():
    rows = pd.DataFrame(
        {"label": ["authentic", "synthetic"] * 4, "source": ["<i>cam</i>", ODD] * 4}
    )
    rows = rows.assign(score=np.linspace(0, 1, 8), cc=0.5, split="test", image="<u>a</u>.png")
    pictures = np.zeros((8, 8, 8, 3), np.uint8)
    aucs = pd.DataFrame({"source": [ODD, "pooled"], "seen": [False, None], "auc": [0.7, 0.8]})
    return {
        "roc": roc_by_source(rows, seen=[]),
        "samples": manifest_samples(pictures, rows),
        "grid": sample_grid(pictures, None, np.zeros((8, 2, 2)), sample_titles(rows)),
        "maps": map_grid({"cyborg": {ODD: np.zeros((2, 2))}, ODD: {"x": np.zeros((2, 2))}}),
        "histogram": agreement_histogram(rows, by="source"),
        "aucs": auc_by_source({"cyborg": [aucs, aucs]}),
    }


@pytest.mark.parametrize("kind", ["roc", "samples", "grid", "maps", "histogram", "aucs"])
def test_names_of_sources_are_shown_letter_by_letter(kind):
    texts = texts_of(odd_figures()[kind].to_dict())
    assert not [t for t in texts if "<b>gan" in t or "%{x} " in t or "<i>cam" in t or "<u>a" in t]
    assert [text for text in texts if TOLD in text or TOLD[:12] in text]
