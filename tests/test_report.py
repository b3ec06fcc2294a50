"""The report: right numbers in the right cells, what is missing is said, the page stands alone."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import yaml

from cyborg import report
from cyborg.manifest import Manifest
from cyborg.report import (
    Page,
    ReportError,
    StudyTables,
    accuracy_figure,
    agreement_figure,
    annotator_table,
    difference_figure,
    difference_table,
    frozen_by_generator,
    frozen_figure,
    frozen_roc_by_generator,
    frozen_table,
    grid_table,
    main_table,
    mean_map_figure,
    measure_table,
    page_html,
    provenance,
    read_tables,
    reliability_figure,
    roc_by_generator,
    roc_panels,
    run_tables,
    systems_table,
    write_page,
)
from cyborg.saliency import RunningMean
from cyborg.scorers import FROZEN, fuse_into, write_scores

KEYS = ["data", "network", "scenario", "seed"]
AUCS = {"classical": (0.6, 0.62, 0.64), "cyborg": (0.7, 0.74, 0.78)}


def make_tables(folder=Path(), network="resnet50") -> StudyTables:
    "Two scenarios of three seeds, their AUCs known; another network has no CYBORG run."
    runs = [("faces", network, scenario, seed) for scenario in AUCS for seed in range(3)]
    runs += [("faces", "xception", "classical", seed) for seed in range(3)]
    measures, rocs, histories, bins = [], [], [], []
    for run in runs:
        own, auc = dict(zip(KEYS, run, strict=True)), AUCS[run[2]][run[3]]
        rows = [("auc", name, auc, seen) for name, seen in (("new", False), ("old", True))]
        rows += [("auc", name, auc, None) for name in ("macro_unseen", "macro_seen", "pooled")]
        rows += [("n_images", "", 60.0, None), ("cc", "", auc - 0.5, None), ("ece", "", auc, None)]
        rows += [("temperature", "", 2.0, None)]
        names = ("measure", "source", "value", "seen")
        measures += [own | dict(zip(names, row, strict=True)) for row in rows]
        for source, rate in product(("new", "old", "pooled"), (0.0, 0.5, 1.0)):
            seen = {"new": False, "old": True}.get(source)
            point = dict(source=source, seen=seen, rate=rate, tpr=rate**0.5, fpr=rate**2)
            rocs.append(own | point | {"tpr": point["tpr"] if rate != 0.5 else auc})
        columns = ("train_accuracy", "val_accuracy", "val_auc")
        histories += [own | {"epoch": e} | dict.fromkeys(columns, 0.5 + 0.1 * e) for e in (1, 2)]
        for scaled, p in product((False, True), (0.2, 0.8)):
            row = dict(split="test", scaled=scaled, n=30, predicted=p, observed=p)
            bins.append(own | row)
    table = pd.DataFrame(runs, columns=KEYS)
    table["name"] = [f"{network}-{scenario}-{seed}" for _, network, scenario, seed in runs]
    table = table.assign(state="finished", commit="abc1234def", cells="2x2", differs="")
    wanted = pd.DataFrame([("faces", "xception", "cyborg", 0)], columns=KEYS)
    wanted = wanted.assign(name="x", state="failed", commit="", cells="", differs="")
    intervals = pd.DataFrame([dict(data="faces", network=network, scenario="cyborg")])
    intervals = intervals.assign(baseline="classical", measure="macro_unseen", estimate=0.12)
    baselines = pd.DataFrame([dict(data="faces", cells="2x2", reference="mean_map", source="")])
    study = {"name": "trial", "networks": [network, "xception"], "scenarios": dict.fromkeys(AUCS)}
    return StudyTables(
        folder,
        study,
        pd.concat([table, wanted], ignore_index=True),
        pd.DataFrame(measures).assign(reason="", differs="").astype({"seen": "boolean"}),
        pd.DataFrame(histories),
        pd.DataFrame(rocs),
        pd.DataFrame(bins),
        intervals.assign(low=0.02, high=0.2),
        baselines.assign(metric="cc", value=0.4, n_images=60),
        ["xception-cyborg-0: no space left on device"],
    )


@pytest.fixture(scope="module")
def tables():
    return make_tables()


def test_table_1_has_mean_sd_the_best_in_bold_and_says_what_is_missing(tables):
    table = main_table(tables)
    row = table.text.loc[("resnet50", "new")]
    assert row.tolist() == ["0.620 ± 0.020", "0.740 ± 0.040"]
    assert table.bold.loc[("resnet50", "new")].tolist() == [False, True]
    assert table.text.loc[("xception", "new")].tolist() == ["0.620 ± 0.020", "no data"]
    assert not table.bold.loc["xception"].to_numpy().any()  # best of one is no feat
    order = [name for network, name in table.text.index if network == "resnet50"]
    assert order == [
        "new",
        "old (seen)",
        "mean of unseen",
        "mean of seen",
        "pooled (as in the paper)",
    ]


def test_low_is_best_where_it_is_and_a_temperature_is_neither(tables):
    table = measure_table(tables)
    assert table.bold.loc[("resnet50", "ECE")].tolist() == [True, False]
    assert table.bold.loc[("resnet50", "agreement with human maps, CC")].tolist() == [False, True]
    assert table.bold.loc[("resnet50", "temperature")].tolist() == [False, False]


def test_ties_are_all_best(tables):
    rows = tables.measures.copy()
    rows.loc[(rows["measure"] == "ece"), "value"] = 0.1
    table = measure_table(tables._replace(measures=rows))
    assert table.bold.loc[("resnet50", "ECE")].tolist() == [True, True]


def test_differences_are_those_of_pairs(tables):
    pairs = difference_table(tables, "classical").set_index("network").loc["resnet50"]
    assert pairs["difference"] == pytest.approx(0.12)
    assert pairs["p_sign_flip"] == pytest.approx(0.25)  # 2 / 2^3
    figure = difference_figure(tables, "classical")
    means = [trace for trace in figure.data if trace.meta == "mean"]
    assert [trace.x[0] for trace in means] == [pytest.approx(0.12)]
    seeds = next(trace for trace in figure.data if trace.meta == "seeds")
    assert sorted(seeds.x) == pytest.approx([0.1, 0.12, 0.14])
    lines = [tuple(trace.x) for trace in figure.data if trace.meta == "interval"]
    assert (0.02, 0.2) in lines and len(lines) == 2
    low, high = figure.layout.xaxis.range
    assert low < 0 and high > 0.2  # zero and the intervals are in sight


def test_an_unknown_scenario_or_source_is_named(tables):
    with pytest.raises(ValueError, match="did you mean 'classical'"):
        difference_table(tables, "clasical")
    with pytest.raises(ReportError, match="source is 'nwe', which has no values; there are new"):
        difference_table(tables, "classical", "nwe")
    with pytest.raises(ReportError, match="expected one of new, old, pooled"):
        roc_panels(tables, "all")
    with pytest.raises(ValueError, match="given is 'x'"):
        roc_panels(tables, given="x")


def test_the_band_is_the_standard_deviation_over_runs(tables):
    figure = roc_by_generator(tables, "resnet50", given="fpr")
    assert [note.text for note in figure.layout.annotations] == ["new", "old (seen)"]
    cyborg = [t for t in figure.data if t.legendgroup == "cyborg" and t.xaxis == "x"]
    band, line = cyborg
    assert line.y[1] == pytest.approx(0.74)
    ends = sorted(y for x, y in zip(band.x, band.y, strict=True) if x == 0.5)
    assert ends == pytest.approx([0.70, 0.78])


def test_figures_have_a_panel_a_network(tables):
    for figure in (roc_panels(tables), agreement_figure(tables), reliability_figure(tables)):
        texts = " ".join(note.text for note in figure.layout.annotations)
        assert "resnet50" in texts and "xception" in texts
    means = [t.y[0] for t in agreement_figure(tables).data if t.meta == "mean"]
    assert means == pytest.approx([0.12, 0.24, 0.12])
    names = {t.name for t in accuracy_figure(tables, "xception").data if t.name}
    assert names == {"classical (3 runs)"}


def test_mean_maps_are_those_of_the_runs(tmp_path):
    tables = make_tables(tmp_path)
    for run in tables.runs[tables.runs["state"] == "finished"].itertuples():
        means = RunningMean()
        means.update(np.full((2, 2, 2), 0.1 * (run.seed + 1)), np.array(["s|a"] * 2, object))
        (tmp_path / run.name).mkdir()
        means.save(tmp_path / run.name / "mean_maps.npz")
    figure = mean_map_figure(tables, "resnet50")
    heats = {t.name: np.mean(t.z) for t in figure.data if isinstance(t, go.Heatmap)}
    assert heats["cyborg seed 1"] == pytest.approx(0.2)
    assert len(heats) == 6  # and no human map, which is said
    assert sum(note.text == "no map" for note in figure.layout.annotations) == 2
    with pytest.raises(ReportError, match="no run of densenet"):
        mean_map_figure(tables, "densenet")


def test_every_figure_says_runs_images_and_commit(tables):
    text = "9 runs (3 seeds), 60 test images each, commit abc1234"
    assert provenance(tables) == text
    page = Page(tables)
    figure = page.add("roc", "ROC", roc_panels(tables))
    assert figure.layout.title.subtitle.text.endswith(f"<i>{text}</i>")
    mixed = tables._replace(runs=tables.runs.assign(differs="code_digest"))
    assert "10 runs differ" in provenance(mixed)


def test_the_grid_tells_what_failed(tables):
    text = grid_table(tables).text
    assert text.loc[("xception", "cyborg"), "finished"] == "0 of 1"
    assert text.loc[("xception", "cyborg"), "failed"] == "1"
    assert text.loc[("resnet50", "cyborg"), "finished"] == "3 of 3"


def test_a_part_that_cannot_be_made_says_why(tables):
    page = Page(tables)
    text = page.add(
        "robust",
        "Robustness",
        lambda: report.robustness_figure(tables, "resnet50", run_tables(tables, "robustness.csv")),
    )
    assert text.startswith("Not shown: no run was asked for robustness")
    assert "Not shown" in page_html(page)
    with pytest.raises(TypeError):  # a bug is no missing table
        page.add("bug", "Bug", lambda: len(3))


def test_the_page_stands_alone_and_escapes_names(tmp_path):
    tables = make_tables(tmp_path, "<b>net</b>")
    page = Page(tables)
    page.add("table", "Table <1>", main_table(tables))
    page.add("pairs", "Pairs", difference_table(tables, "classical"))
    page.add("roc", "ROC", lambda: roc_panels(tables))
    assert write_page(page, tmp_path / "report", ()) == []
    text = (tmp_path / "report" / "report.html").read_text()
    body = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "Table &lt;1&gt;" in body and "<b>net</b>" not in body
    assert "no space left on device" in body
    assert not re.search(r"(src|href)=.http", body)
    csv = pd.read_csv(tmp_path / "report/tables/pairs.csv")
    assert csv["difference"].tolist()[0] == pytest.approx(0.12)
    tex = (tmp_path / "report/tables/table.tex").read_text()
    assert r"\bfseries 0.740 $\pm$ 0.040" in tex and r"\toprule" in tex


def test_without_a_browser_the_page_is_written_and_says_so(tables, tmp_path, monkeypatch):
    page = Page(tables)
    page.add("roc", "ROC", roc_panels(tables))
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    (text,) = write_page(page, tmp_path)
    assert "pip install 'cyborg[figures]'" in text
    assert (tmp_path / "report.html").is_file()


def test_a_folder_that_is_none_or_not_collected_is_refused(tmp_path):
    with pytest.raises(ReportError, match="has no study.yaml"):
        read_tables(tmp_path / "quik")
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/study.yaml").write_text(yaml.safe_dump({"name": "quick"}))
    with pytest.raises(ReportError, match="studies beside it: .*quick"):
        read_tables(tmp_path / "quik")
    with pytest.raises(ReportError, match="lacks measures.parquet.*only_collect"):
        read_tables(tmp_path / "quick")


# --- frozen systems, and single annotators ------------------------------------------------------


def collected(folder: Path) -> Path:
    "A study folder with the tables of `make_tables`."
    made = make_tables(folder)
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(made.study))
    for name in ("measures", "histories", "rocs", "reliability", "intervals"):
        getattr(made, name).to_parquet(folder / f"{name}.parquet")
    for name in ("runs", "baselines"):
        getattr(made, name).to_csv(folder / f"{name}.csv", index=False)
    pd.DataFrame({"problem": made.problems}).to_csv(folder / "problems.csv", index=False)
    return folder


def frozen_images(n=40) -> Manifest:
    "Test images of two cameras' generators, without files."
    sources = np.repeat(["camera", "new", "old"], n)
    table = pd.DataFrame({"source": sources, "split": "test", "map": "", "subject": ""})
    table["label"] = np.where(table["source"] == "camera", "authentic", "synthetic")
    table["image"] = [f"{i}.png" for i in range(len(table))]
    return Manifest(table, Path(), ("authentic", "synthetic"))


def add_frozen(study: Path, data: str, shifts: dict, manifest=None) -> Path:
    "Systems whose synthetic images score higher by a shift."
    manifest, home = manifest or frozen_images(), study / FROZEN / data
    rng, synthetic = np.random.default_rng(0), frozen_images().table["label"] == "synthetic"
    for name, shift in shifts.items():
        logits = rng.normal(size=len(synthetic)) + shift * synthetic
        note = {"name": name, "seen": ["old"] * (name == "left"), "manifest": manifest.digest}
        note |= {"scorer": {"kind": "onnx", "file": "ab" * 32}}
        seen = note["seen"]
        write_scores(manifest, logits[: len(manifest)], home / name, note, seen=seen)
    return home


@pytest.fixture(scope="module")
def with_frozen(tmp_path_factory):
    study = collected(tmp_path_factory.mktemp("study") / "trial")
    home = add_frozen(study, "faces", {"left": -0.5, "right": 0.0, "lone": 2.0})
    fuse_into(frozen_images(), ["left", "right"], home / "pair")
    add_frozen(study, "videos", {"left": 3.0})
    return read_tables(study)


def literal_auc(folder: Path, source: str) -> float:
    rows = pd.read_parquet(folder / "predictions.parquet")
    low = rows.loc[rows["source"] == "camera", "score"]
    own = rows.loc[rows["source"] == source, "score"]
    return float(np.mean([[(a > b) + (a == b) / 2 for b in low] for a in own]))


def test_frozen_systems_stand_beside_the_networks(with_frozen):
    home = with_frozen.folder / FROZEN / "faces"
    table = systems_table(with_frozen).text
    for name in ("left", "right", "lone", "pair"):
        auc = literal_auc(home / name, "new")
        assert table.loc[f"{name}, frozen", "new"] == f"{auc:.3f}"
    assert table.loc["left, frozen", "old"].endswith(" †")  # it was trained on it
    assert not table.loc["right, frozen", "old"].endswith("†")
    assert table.loc["resnet50, cyborg", "new"] == "0.740 ± 0.040"
    first = main_table(with_frozen).text
    assert set(first.index.get_level_values("network")) == {"resnet50", "xception", "lone", "pair"}
    assert first.loc[("lone", "new")].tolist()[:2] == ["–", "–"]
    assert first.loc[("resnet50", "new"), "frozen"] == "–"
    assert first.loc[("xception", "new")].tolist() == ["0.620 ± 0.020", "no data", "–"]
    assert ("pair", "old (seen)") in first.index  # a member saw it
    assert ("lone", "old") in first.index
    assert main_table(with_frozen, others=False).text.columns.tolist() == ["classical", "cyborg"]
    assert provenance(with_frozen).endswith("; 5 frozen systems")


def test_frozen_figures_show_members_and_fusion(with_frozen):
    figure = frozen_figure(with_frozen)
    names = [t.name.split(":")[0] for t in figure.data if t.meta == "system"]
    assert names == ["left", "right", "pair", "lone"]
    assert [note.text for note in figure.layout.annotations] == [
        "pair (2 members)",
        "single systems",
    ]
    widths = {t.name.split(":")[0]: t.line.width for t in figure.data if t.meta == "system"}
    assert widths["pair"] > widths["left"]
    lone = next(t for t in figure.data if (t.name or "").startswith("lone"))
    rows = pd.read_parquet(with_frozen.folder / FROZEN / "faces" / "lone" / "predictions.parquet")
    low = np.sort(rows.loc[rows["label"] == "authentic", "score"])[::-1]
    at = np.isclose(lone.x, 0.5).argmax()  # at half of the false alarms
    true = (rows.loc[rows["label"] == "synthetic", "score"] >= low[len(low) // 2 - 1]).mean()
    assert lone.y[at] == pytest.approx(true, abs=0.02)
    own = frozen_figure(with_frozen, "videos")
    assert "videos" in own.layout.title.text
    with pytest.raises(ReportError, match="no frozen system on 'face'.*did you mean 'faces'"):
        frozen_figure(with_frozen, "face")
    dots = [t for t in frozen_by_generator(with_frozen).data if t.meta == "system"]
    assert len(dots) == 4 and dots[0].error_x.array[0] > 0
    panels = frozen_roc_by_generator(with_frozen)
    assert [note.text for note in panels.layout.annotations] == ["new", "old"]
    assert len(frozen_table(with_frozen)) == 5


def test_what_was_never_trained_says_so(with_frozen, tables):
    with pytest.raises(ReportError, match="lone is a frozen system: it was not trained here"):
        accuracy_figure(with_frozen, "lone")
    with pytest.raises(ReportError, match="no frozen system: the study folder has none"):
        frozen_figure(tables)
    assert "lone" not in grid_table(with_frozen).text.index.get_level_values("network")
    assert len(roc_panels(with_frozen).layout.annotations) == 2  # a panel a trained network


def test_other_test_images_are_told(tmp_path):
    study = collected(tmp_path / "trial")
    add_frozen(study, "faces", {"lone": 1.0})
    run = study / read_tables(study).runs["name"][0]
    part = frozen_images()
    part = Manifest(part.table.iloc[:-1], part.root, part.classes)
    for manifest, told in ((frozen_images(), 0), (part, 1)):
        note = {"name": "run", "manifest": manifest.digest}
        write_scores(manifest, np.zeros(len(manifest)), run, note)
        problems = [text for text in read_tables(study).problems if "other test images" in text]
        assert len(problems) == told
    assert "faces/lone" in problems[0]


def test_people_are_beside_the_networks(tables, tmp_path):
    rows = tables.runs[tables.runs["state"] == "finished"][KEYS]
    rows = rows.merge(pd.DataFrame({"metric": ["cc", "kl"], "ceiling": [0.7, 0.4]}), "cross")
    rows = rows.assign(model=0.1 * rows["seed"], mean_map=0.3, n_images=9, n_annotators=20)
    study = collected(tmp_path / "trial")
    assert read_tables(study).annotators is None
    rows.assign(reason="").to_csv(study / "annotators.csv", index=False)
    found = read_tables(study)
    text = annotator_table(found).text
    assert text.loc[("resnet50", "CC")].tolist() == ["0.700", "0.300"] + ["0.100 ± 0.100"] * 2
    assert text.loc[("xception", "KL")].tolist()[-1] == "no data"
    figure = agreement_figure(found, target="annotator")
    assert "9 images, 20 maps" in figure.layout.title.subtitle.text
    assert [round(t.y[0], 6) for t in figure.data if t.meta == "mean"] == [0.1] * 3
    lacking = pd.DataFrame([{"data": "faces", "reason": "no marks"}], columns=[*rows, "reason"])
    lacking.to_csv(study / "annotators.csv", index=False)
    with pytest.raises(ReportError, match="faces: no marks"):
        agreement_figure(read_tables(study), target="annotator")
    with pytest.raises(ValueError, match="target is 'people', expected one of map, annotator"):
        agreement_figure(found, target="people")
