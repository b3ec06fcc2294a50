"""The report: right numbers in the right cells, what is missing is said, the page stands alone."""

import html
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import yaml

from cyborg.files import Finding
from cyborg.manifest import Manifest
from cyborg.measure.audit import StudyAudit, write_audit
from cyborg.measure.statistics import auc_interval
from cyborg.others.frozen import FROZEN, fuse_into, write_scores
from cyborg.report import differences, frozen, limits
from cyborg.report import page as page_module
from cyborg.report import tables as tables_module
from cyborg.report.differences import answers, difference_figure, difference_table
from cyborg.report.examples import made_up_tables
from cyborg.report.frozen import (
    frozen_by_generator,
    frozen_figure,
    frozen_roc_by_generator,
    frozen_table,
)
from cyborg.report.limits import (
    findings_table,
    reliability_figure,
    robustness_figure,
    run_tables,
    salience_table,
)
from cyborg.report.page import Page, page_html, write_page
from cyborg.report.panels import (
    accuracy_figure,
    agreement_figure,
    annotator_table,
    generator_figure,
    mean_map_figure,
    roc_by_generator,
    roc_panels,
    training_agreement_table,
)
from cyborg.report.tables import (
    ReportError,
    StudyTables,
    basis,
    grid_table,
    main_table,
    measure_table,
    read_tables,
    settings_table,
    systems_table,
)
from cyborg.saliency import RunningMean

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
    table, wanted = table.assign(collected=True), wanted.assign(collected=False)
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
        intervals.assign(low=0.02, high=0.2, n_runs=3, reason="exact, 2,000 replicates"),
        baselines.assign(metric="cc", value=0.4, n_images=60),
        ["xception-cyborg-0: no space left on device"],
    )


@pytest.fixture(scope="module")
def tables():
    return make_tables()


def note_of(figure: go.Figure) -> str:
    return figure.layout.title.subtitle.text


def changed(tables: StudyTables, value: float, **where) -> StudyTables:
    "The same tables, a measure of some runs changed."
    rows = tables.measures.copy()
    rows.loc[(rows[list(where)] == pd.Series(where)).all(axis=1), "value"] = value
    return tables._replace(measures=rows)


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
    name = "temperature, median over runs"
    assert table.bold.loc[("resnet50", name)].tolist() == [False, False]


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
    assert len(heats) == 6 and "no test image has a human map" in note_of(figure)
    assert "trained before the mean training map was kept" in note_of(figure)
    assert not any(note.text == "no map" for note in figure.layout.annotations)
    people = RunningMean()
    people.update(np.full((1765, 2, 2), 0.4), ["1|a"] * 1765)
    (tmp_path / "collected").mkdir()
    people.save(tmp_path / "collected/training_maps-faces-2x2.npz")
    figure = mean_map_figure(tables, "resnet50")
    heats = {t.name: np.mean(t.z) for t in figure.data if isinstance(t, go.Heatmap)}
    assert len(heats) == 8 and heats["classical human, training"] == pytest.approx(0.4)
    assert "mean human map of 1,765 training images" in note_of(figure)
    with pytest.raises(ReportError, match="no run of densenet"):
        mean_map_figure(tables, "densenet")


def test_every_figure_says_runs_images_and_commit(tables):
    text = "9 runs (3 seeds), 60 test images each, commit abc1234"
    assert basis(tables) == text
    page = Page(tables)
    figure = page.add("roc", "ROC", "", roc_panels)
    assert figure.layout.title.subtitle.text.endswith(f"<i>{text}</i>")
    assert note_of(figure).count("9 runs") == 1  # once
    mixed = tables._replace(runs=tables.runs.assign(differs="code_digest"))
    assert "9 runs differ" in basis(mixed)


def test_the_grid_tells_what_failed(tables):
    text = grid_table(tables).text
    assert text.loc[("xception", "cyborg"), "finished"] == "0 of 1"
    assert text.loc[("xception", "cyborg"), "failed"] == "1"
    assert text.loc[("resnet50", "cyborg"), "finished"] == "3 of 3"


def test_a_part_that_cannot_be_made_says_why(tables):
    page = Page(tables)
    text = page.add("robust", "Robustness", "", robustness_figure, "resnet50")
    assert text.startswith("Not shown: no run was asked for robustness")
    assert (
        page.answer(lambda tables: answers(tables, "classicall"))
        ._repr_html_()
        .count("did you mean")
    )
    text = page_html(page)
    assert "<h2>Not in this report</h2>" in text and '<section id="robust"' not in text
    assert re.search(r'<li id="robust">Robustness: no run was asked for robustness', text)
    with pytest.raises(TypeError):  # a bug is no missing table
        page.add("bug", "Bug", "", lambda tables: len(3))


def test_the_page_stands_alone_and_escapes_names(tmp_path):
    tables = make_tables(tmp_path, "<b>net</b>")
    page = Page(tables)
    page.add("table", "Table <1>", "", main_table)
    page.add("pairs", "Pairs", "", difference_table, "classical")
    page.add("roc", "ROC", "", roc_panels)
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


def test_no_name_of_a_source_or_scenario_is_a_script(tables):
    bad = "<script>alert('x')</script>"
    rows = tables.measures.replace({"scenario": {"cyborg": bad}, "source": {"new": bad}})
    study = tables.study | {"name": bad, "scenarios": {"classical": None, bad: None}}
    runs = tables.runs.replace({"scenario": {"cyborg": bad}}).assign(positive=bad)
    page = Page(tables._replace(measures=rows, study=study, runs=runs, problems=[bad]))
    page.add("table", bad, bad, main_table)
    page.add("pairs", "Pairs", "", differences.generator_tests, "classical")
    page.add("auc", "AUC", "", generator_figure, "resnet50")
    page.add("none", "Not there", "", main_table, bad)
    text = page_html(page)
    assert text.count("<script") == 2 and text.count("<script>") == 0  # a figure, and what draws it
    assert text.count("&lt;script&gt;alert") >= 10


def test_without_a_browser_the_page_is_written_and_says_so(tables, tmp_path, monkeypatch):
    page = Page(tables)
    page.add("roc", "ROC", "", roc_panels)
    monkeypatch.setattr("cyborg.figures.find_spec", lambda name: None)
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
    assert basis(with_frozen).endswith("; 5 frozen systems")


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
    assert "4 frozen systems, 120 test images each" in note_of(frozen_by_generator(with_frozen))
    rows = pd.read_parquet(with_frozen.folder / FROZEN / "faces" / "lone" / "predictions.parquet")
    exact = auc_interval(rows["score"], rows["label"] == "synthetic")
    names = [t.name for t in figure.data if t.meta == "system"]
    assert names[-1] == f"lone: {exact.auc:.3f} [{exact.low:.3f}, {exact.high:.3f}]"
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
    assert "20 maps of people" in figure.layout.title.subtitle.text
    assert "9 runs (3 seeds), 9 test images with a map each" in figure.layout.title.subtitle.text
    assert [round(t.y[0], 6) for t in figure.data if t.meta == "mean"] == [0.1] * 3
    lacking = pd.DataFrame([{"data": "faces", "reason": "no marks"}], columns=[*rows, "reason"])
    lacking.to_csv(study / "annotators.csv", index=False)
    with pytest.raises(ReportError, match="faces: no marks"):
        agreement_figure(read_tables(study), target="annotator")
    with pytest.raises(ValueError, match="target is 'people', expected one of map, annotator"):
        agreement_figure(found, target="people")


# --- notes that say what is drawn, and tables that say what is compared -------------------------


def test_a_note_counts_the_runs_of_its_figure(tables):
    assert "3 runs (3 seeds), 60 test images each" in note_of(roc_by_generator(tables, "xception"))
    assert "6 runs (3 seeds), 60 test" in note_of(generator_figure(tables, "resnet50"))
    assert "6 runs (3 seeds), 60 test" in note_of(difference_figure(tables, "classical"))
    assert "9 runs (3 seeds), 60 test images each" in note_of(reliability_figure(tables))
    assert "3 runs (3 seeds), unknown number of validation images each" in note_of(
        accuracy_figure(tables, "xception")
    )
    mixed = tables.runs.assign(differs=["lr: 0.1, now 0.2", *[""] * 9])
    mixed["commit"] = ["abc1234def"] * 6 + ["fff1234"] * 3 + [""]
    mixed = tables._replace(runs=mixed)
    assert "differ" in note_of(roc_by_generator(mixed, "resnet50"))
    assert note_of(roc_by_generator(mixed, "xception")).endswith("commit fff1234</i>")


def test_robustness_states_its_own_images_and_levels(tmp_path):
    tables = make_tables(tmp_path)
    table = pd.DataFrame({"degradation": "blur", "severity": [0, 1, 2], "level": [None, 0.5, 1.5]})
    table = table.assign(unit="sigma, pixels", source="macro", auc=[0.9, 0.8, 0.7])
    table = table.assign(n_synthetic=40, n_authentic=10)
    for name in ("resnet50-cyborg-0", "xception-classical-1"):
        (tmp_path / name).mkdir()
        table.to_csv(tmp_path / name / "robustness.csv", index=False)
    figure = robustness_figure(tables, "resnet50")
    wanted = "1 run (1 seed), 40 synthetic and 10 authentic test images each (60 in Table 1)"
    assert wanted in note_of(figure)
    assert figure.layout.xaxis.ticktext == ("none", "0.5", "1.5")
    assert figure.layout.xaxis.title.text == "sigma, pixels"
    (line,) = [trace for trace in figure.data if trace.name == "cyborg"]
    assert list(line.customdata) == ["none", "0.5", "1.5"] and "sigma, pixels" in line.hovertemplate
    part = run_tables(tables, "robustness.csv", network="xception")
    assert part["network"].unique() == ["xception"]
    with pytest.raises(ReportError, match="robustness.csv of a run has no column level"):
        robustness_figure(tables, "xception", robustness=part.drop(columns="level"))


def test_errors_at_a_threshold_are_not_ranked_and_come_with_their_bpcer(tables):
    rows = tables.measures[tables.measures["measure"] == "ece"]
    parts = [tables.measures]
    for limit in ("0.01", "0.05", "0.1"):
        parts += [
            rows.assign(measure=f"apcer_at_bpcer_{limit}", source="max"),
            rows.assign(measure=f"apcer_at_bpcer_{limit}", source="new", seen=False),
            rows.assign(measure=f"bpcer_at_bpcer_{limit}", source="pooled"),
        ]
    whole = tables._replace(measures=pd.concat(parts, ignore_index=True))
    table = measure_table(whole)
    for percent in (1, 5, 10):
        name = f"at the threshold for BPCER {percent} % on validation"
        for side in ("worst APCER", "test BPCER"):
            assert table.text.loc[("resnet50", f"{side} {name}"), "cyborg"] == "0.740 ± 0.040"
            assert not table.bold.loc[("resnet50", f"{side} {name}")].any()
    single = main_table(whole, "apcer_at_bpcer_0.05")
    assert single.text.loc[("resnet50", "new"), "classical"] == "0.620 ± 0.020"
    assert not single.bold.to_numpy().any()


def test_a_measure_without_a_value_says_so(tables):
    rows = tables.measures[tables.measures["measure"] == "ece"]
    rows = rows.assign(measure="tpr_at_fpr_0.001", source="macro_unseen", value=np.nan)
    whole = tables._replace(measures=pd.concat([tables.measures, rows], ignore_index=True))
    name = "TPR at FPR 0.1 %, mean of unseen"
    assert measure_table(whole).text.loc[("resnet50", name)].tolist() == ["no data"] * 2
    empty = changed(tables, np.nan, measure="auc", source="new")
    assert main_table(empty).text.loc[("resnet50", "new")].tolist() == ["no data"] * 2


def test_temperatures_have_a_median_and_their_ends_are_counted(tables):
    rows = tables.measures.copy()
    own = (rows["measure"] == "temperature") & (rows["scenario"] == "cyborg")
    rows.loc[own & (rows["seed"] == 2), ["value", "reason"]] = [100, "at the end of the range"]
    text = measure_table(tables._replace(measures=rows)).text.loc["resnet50"]
    assert text.loc["temperature, median over runs"].tolist() == ["2.000"] * 2
    ends = text.loc["runs whose temperature was not fitted or ends its range"]
    assert ends.tolist() == ["0 of 3", "1 of 3"]


def test_the_thin_line_is_explained_only_where_it_is_and_by_what_it_holds(tables):
    whom = "Thin: 95 % interval for other seeds and other subjects"
    assert whom in note_of(difference_figure(tables, "classical"))
    assert "Bootstrap: exact, 2,000 replicates" in note_of(difference_figure(tables, "classical"))
    one = tables._replace(intervals=tables.intervals.assign(n_runs=1, reason="one run"))
    text = note_of(difference_figure(one, "classical"))
    assert "Thin: 95 % interval for other subjects only" in text and "other seeds" not in text
    assert differences.tests_table(one, "classical")["note"][0].endswith("bootstrap: one run")
    for baseline, source in (("cyborg", "macro_unseen"), ("classical", "pooled")):
        figure = difference_figure(tables, baseline, source)
        assert "Thin" not in note_of(figure) and "No bootstrap interval for" in note_of(figure)
        assert sum(trace.meta == "interval" for trace in figure.data) == 1
        assert differences.tests_table(tables, baseline, source)["note"][0].endswith(
            "no bootstrap interval"
        )
    lone = tables.measures[tables.measures["seed"] == 0]
    figure = difference_figure(tables._replace(measures=lone), "cyborg")
    assert "thick" not in note_of(figure) and "2 runs (1 seed)" in note_of(figure)


def test_what_is_compared_over_other_generators_or_images_is_marked(tables):
    assert "differ" not in differences.tests_table(tables, "classical")["note"][0]
    rows = tables.measures.copy()
    rows.loc[(rows["scenario"] == "cyborg") & (rows["source"] == "new"), "seen"] = True
    other = tables._replace(measures=rows)
    note = "unseen differ: new only for classical"
    assert note in differences.tests_table(other, "classical")["note"][0]
    assert note in note_of(difference_figure(other, "classical"))
    names = main_table(other).text.loc["resnet50"].index.tolist()
    assert names[:2] == ["new (seen by cyborg)", "old (seen)"]
    assert "mean of unseen, others for each scenario" in names
    assert main_table(other).text.loc["xception"].index.tolist()[:2] == ["new", "old (seen)"]
    images = changed(tables, 61.0, measure="n_images", scenario="cyborg", seed=1)
    assert "tested on other images" in differences.tests_table(images, "classical")["note"][0]
    assert "tested on other images" in note_of(difference_figure(images, "classical"))
    assert "60 or 61 test images each" in note_of(difference_figure(images, "classical"))


def test_every_generator_is_tested_and_holm_counts_them(tables):
    runs = {"seed": range(12), "scenario": ["classical", "cyborg", "noise"], "source": list("abc")}
    rows = pd.DataFrame(list(product(*runs.values())), columns=list(runs))
    gain = rows["scenario"].map({"classical": 0.0, "cyborg": 0.1, "noise": -0.1})
    rows = rows.assign(data="faces", network="resnet50", measure="auc", seen=rows["source"] == "c")
    own = tables._replace(measures=rows.assign(value=0.6 + gain + 0.001 * rows["seed"], reason=""))
    table = differences.generator_tests(own, "classical")
    assert table["generator"].tolist() == ["a", "b", "c (seen)"] * 2
    assert table["difference"].tolist() == pytest.approx([0.1] * 3 + [-0.1] * 3)
    assert table["p sign-flip"].tolist() == pytest.approx([2 / 2**12] * 6)
    assert table["p Holm"].tolist() == pytest.approx([3 * 2 / 2**12] * 6)  # three, not six
    with pytest.raises(ReportError, match="did you mean 'classical'"):
        differences.generator_tests(own, "clasical")


def test_single_runs_have_the_interval_of_their_scores(tables):
    rng, positive = np.random.default_rng(0), np.arange(50) >= 30
    found = auc_interval(rng.normal(size=50) + positive, positive)
    rows = tables.measures[tables.measures["measure"] == "ece"].assign(source="pooled")
    names = {"auc": found.auc, "auc_se": found.se, "n_synthetic": 20, "n_authentic": 30}
    parts = [rows.assign(measure=name, value=value) for name, value in names.items()]
    table = frozen.delong_table(tables._replace(measures=pd.concat(parts, ignore_index=True)))
    assert len(table) == 9 and list(table)[:3] == ["network", "scenario", "seed"]
    assert list(table)[3:] == [
        f"{n}, pooled (as in the paper)" for n in ("AUC", "low 95 %", "high 95 %")
    ]
    assert table.iloc[0, 3:].tolist() == pytest.approx([found.auc, found.low, found.high])
    perfect = {"auc": 1.0, "auc_se": 0.0, "n_synthetic": 20, "n_authentic": 30}
    parts = [rows.assign(measure=name, value=value) for name, value in perfect.items()]
    own = tables._replace(measures=pd.concat(parts, ignore_index=True))
    assert frozen.delong_table(own).iloc[0, 4] == pytest.approx(0.025 ** (1 / 20))


def with_training(tables: StudyTables) -> StudyTables:
    "Agreement of mean maps with those of training: 0.9 of CYBORG, 0.5 of others, by class half."
    rows = tables.measures[tables.measures["measure"] == "cc"]
    value = np.where(rows["scenario"] == "cyborg", 0.9, 0.5) + 0.01 * rows["seed"]
    own = [rows.assign(measure="cc_training", value=value)]
    own += [rows.assign(measure="cc_training_synthetic", value=value / 2)]
    own += [rows.assign(measure="n_training_maps", value=1765.0)]
    return tables._replace(measures=pd.concat([tables.measures, *own], ignore_index=True))


def test_mean_maps_are_held_against_those_of_training_classical_runs_beside(tables):
    figure = agreement_figure(with_training(tables), target="training")
    means = [t.y[0] for t in figure.data if t.meta == "mean"]
    assert means == pytest.approx([0.51, 0.91, 0.51])
    runs = [list(t.y) for t in figure.data if t.meta == "runs"]
    assert runs[1] == pytest.approx([0.9, 0.91, 0.92])  # a dot a seed
    assert "60 test images each, 1,765 training images with a map each" in note_of(figure)
    table = training_agreement_table(with_training(tables)).text
    assert table.loc[("resnet50", "all", "CC")].tolist() == ["0.510 ± 0.010", "0.910 ± 0.010"]
    assert table.loc[("resnet50", "synthetic", "CC"), "cyborg"] == "0.455 ± 0.005"


def test_agreement_that_cannot_be_shown_gives_the_reason(tables):
    with pytest.raises(ReportError, match="collected before this was measured"):
        agreement_figure(tables, target="training")
    lost = tables._replace(problems=["data faces: no mean training map, a.png is gone"])
    with pytest.raises(ReportError, match=r"a\.png is gone"):
        training_agreement_table(lost)
    rows = with_training(tables).measures
    empty = rows["measure"].isin(["cc", "cc_training"])
    rows.loc[empty, "value"] = np.nan
    rows.loc[empty, "reason"] = "no image has a map"
    none = tables._replace(measures=rows)
    with pytest.raises(ReportError, match="no image has a map; the mean maps of training"):
        agreement_figure(none)
    with pytest.raises(ReportError, match="no image has a map$"):
        agreement_figure(none, target="training")


# --- damage, and runs that were left out ---------------------------------------------------------


def test_a_damaged_file_is_named_and_the_report_goes_on(tmp_path):
    tables, page = make_tables(tmp_path), None
    maps = dict(image=np.array(["a", "b"]), maps=np.arange(8).reshape(2, 2, 2) / 8)
    for run in tables.runs[tables.runs["collected"]].itertuples():
        means = RunningMean()
        means.update(np.full((2, 2, 2), 0.1), np.array(["s|a"] * 2, object))
        (tmp_path / run.name).mkdir()
        means.save(tmp_path / run.name / "mean_maps.npz")
        np.savez(tmp_path / run.name / "salience.npz", **maps)
        pd.DataFrame([{"source": None, "measure": "entropy", "value": 1.0}]).to_csv(
            tmp_path / run.name / "salience.csv", index=False
        )
    page, folder = Page(tables), tmp_path / "resnet50-cyborg-1"
    whole = (folder / "mean_maps.npz").read_bytes()
    for name, cut in (("cut", whole[: len(whole) // 2]), ("empty", b"")):
        (folder / "mean_maps.npz").write_bytes(cut)
        figure = page.add(f"maps_{name}", "Maps", "", mean_map_figure, "resnet50")
        assert "5 runs (3 seeds), 2 test images each" in note_of(figure)
        assert "Left out: resnet50-cyborg-1/mean_maps.npz cannot be used" in note_of(figure)
    assert not isinstance(page.add("s", "S", "", salience_table), str)
    whole = (folder / "salience.npz").read_bytes()
    (folder / "salience.npz").write_bytes(whole[: len(whole) // 2])
    text = page.add("salience", "Salience", "", salience_table)
    assert "Not shown: resnet50-cyborg-1/salience.npz cannot be used" in text
    np.savez(folder / "salience.npz", **maps | {"image": np.array(["a", "c"])})
    text = page.add("unlike", "Salience", "", salience_table)
    assert "resnet50-cyborg-1/salience.npz" in text and "not measured on the same images" in text
    (folder / "robustness.csv").write_text("")
    text = page.add("robust", "Robustness", "", robustness_figure, "resnet50")
    assert "Not shown: resnet50-cyborg-1/robustness.csv cannot be used" in text
    assert run_tables(tables, "robustness.csv", network="xception").empty
    assert page_html(page).count("cannot be used") >= 4


def test_damaged_tables_of_the_study_are_named(tmp_path):
    study = collected(tmp_path / "trial")
    (study / "annotators.csv").write_text("")
    assert any("annotators.csv cannot be used" in text for text in read_tables(study).problems)
    whole = (study / "rocs.parquet").read_bytes()
    (study / "rocs.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReportError, match="trial/rocs.parquet cannot be used"):
        read_tables(study)


def test_runs_that_were_left_out_are_not_drawn(tmp_path):
    tables = make_tables(tmp_path)
    out = tables.runs["name"] == "resnet50-cyborg-2"
    runs = tables.runs.assign(collected=tables.runs["collected"] & ~out)
    tables = tables._replace(runs=runs)
    for run in runs[runs["state"] == "finished"].itertuples():
        means = RunningMean()
        means.update(np.full((2, 2, 2), 0.1), np.array(["s|a"] * 2, object))
        (tmp_path / run.name).mkdir()
        means.save(tmp_path / run.name / "mean_maps.npz")
        pd.DataFrame({"degradation": ["blur"]}).to_csv(
            tmp_path / run.name / "robustness.csv", index=False
        )
        images = ["a", "z" if out[run.Index] else "b"]
        maps = np.arange(8).reshape(2, 2, 2) / 8
        np.savez(tmp_path / run.name / "salience.npz", image=np.array(images), maps=maps)
    names = {t.name for t in mean_map_figure(tables, "resnet50").data if isinstance(t, go.Heatmap)}
    assert "cyborg seed 1" in names and "cyborg seed 2" not in names
    assert len(run_tables(tables, "robustness.csv")) == 8
    assert limits._stabilities(tables)["n"].tolist() == [3, 2, 3]
    text = grid_table(tables).text
    assert text.loc[("resnet50", "cyborg"), "finished, but not read"] == "1"


def test_findings_of_the_audit_are_listed(tmp_path):
    tables = make_tables(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no audit"):
        findings_table(tables)
    text = "equal bytes: 2 files are in two splits: a.png, b.png"
    found = Finding("equal bytes", False, 2, ("a.png",), text)
    frame = pd.DataFrame({"seen": [True], "reason": ["none"]})
    audit = StudyAudit(frame, frame, frame, frame, [found])
    write_audit(audit, tmp_path / "audit" / "faces")
    assert findings_table(tables).to_numpy().tolist() == [["faces", 2, text]]
    write_audit(audit._replace(findings=[]), tmp_path / "audit" / "faces")
    assert findings_table(tables)["finding"].tolist() == ["nothing was found"]


def test_long_notes_wrap_so_that_no_column_is_out_of_sight(tables):
    page = Page(tables)
    page.add("tests", "Tests", "", differences.tests_table, "classical")
    assert 'class="dataframe plain"' in page_html(page)
    assert re.search(r"\.plain td \{white-space: normal", page_html(page))


# --- names that mean something to LaTeX or HTML -------------------------------------------------

ODD = [
    "stylegan2_ada",
    "50%_psi",
    "R&D #1",
    "$x$",
    "a~b^c",
    r"C:\new{x}",
    "[0] first",
    "x\n\ny",
    "<b>",
]
BARE = re.compile(r"(?<!\\)[_%#$~^]|\\(?!textbackslash|textascii|textless|textgreater|[&%$#_{}])")


def cells_of_tex(folder, table: pd.DataFrame | tables_module.TextTable) -> list[list[str]]:
    "The cells of a table as LaTeX has it, between its rules."
    page_module._write_table(page_module.Section("odd", "T_1", "", table), folder)
    tex = (folder / "odd.tex").read_text(encoding="utf-8")
    lines = [line.removesuffix(r"\\") for line in tex.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def test_no_name_is_an_order_to_latex_in_plain_tables(tmp_path):
    cells = cells_of_tex(tmp_path, pd.DataFrame({"a_b": ODD, "50%": 0.5, r"n\{}": 3}))
    assert cells[0] == [r"a\_b", r"50\%", r"n\textbackslash{}\{\}"]
    assert [row[1:] for row in cells[1:]] == [["0.5000", "3"]] * len(ODD)
    first = [row[0] for row in cells[1:]]
    assert first[:3] == [r"stylegan2\_ada", r"50\%\_psi", r"R\&D \#1"] and first[7] == "x y"
    assert not [cell for row in cells for cell in row if BARE.search(cell) or cell[0] in "[<"]


def test_nor_in_rows_columns_and_their_names(tmp_path):
    index = pd.MultiIndex.from_product([["net_1", "net_2"], ODD], names=["net_work", "gen#"])
    text = pd.DataFrame("0.5 ± 0.1", index, pd.Index(ODD, name="sce_nario"))
    cells = cells_of_tex(tmp_path, tables_module.TextTable(text, text == ""))
    words = [re.sub(r"\\multirow\[c\]\{\d+\}\{\*\}", "", cell) for row in cells for cell in row]
    words = [word.replace(r"$\pm$", "+") for word in words if word]
    assert not [word for word in words if BARE.search(word) or word[0] == "["]
    assert {r"net\_work", r"gen\#", r"sce\_nario", "0.5 + 0.1"} <= set(words)
    assert r"{net\_1}" in words and words.count(r"50\%\_psi") == 3


def test_names_of_rows_are_text_in_html(tmp_path):
    text = pd.DataFrame("0.5", pd.Index(ODD, name="<i>row</i>"), pd.Index(ODD, name="<i>col</i>"))
    page = tables_module.TextTable(text, text == "").styled().to_html()
    assert "<i>" not in page and "<b>" not in page and page.count("&lt;b&gt;") == 2


def test_the_page_says_which_class_is_positive(tmp_path):
    tables = make_tables(tmp_path)
    assert "positive class: not noted" in page_html(Page(tables))
    said = "synthetic (label '<ai>'), by the setting synthetic"
    noted = tables._replace(runs=tables.runs.assign(positive=said))
    assert f"positive class: {said}<" in html.unescape(page_html(Page(noted)))
    assert "<ai>" not in page_html(Page(noted))
    several = noted.runs.assign(data=["faces"] * 9 + ["pets"], positive=["a"] * 9 + ["b"])
    told = tables_module.positive_classes(tables._replace(runs=several))
    assert told == "positive class: a in faces; b in pets"


def with_aucs(tables, classical, cyborg):
    "Tables of one network in which macro AUCs over unseen generators are as given, seed by seed."
    rows = tables.measures
    rows = rows[(rows["network"] == "resnet50") & rows["scenario"].isin(["classical", "cyborg"])]
    rows = rows[rows["seed"] < len(cyborg)].copy()
    at = (rows["measure"] == "auc") & (rows["source"] == "macro_unseen")
    for name, values in (("classical", classical), ("cyborg", cyborg)):
        rows.loc[at & (rows["scenario"] == name), "value"] = values
    return tables._replace(measures=rows, intervals=tables.intervals.iloc[:0])


# Differences 0.05, 0.06, 0.07: mean 0.06, sd 0.01, and Student's 4.303 * 0.01 / sqrt(3) = 0.0248.
@pytest.mark.parametrize(
    "gains, words",
    [
        ((0.05, 0.06, 0.07), "0.060 [0.035, 0.085] macro AUC over unseen generators: higher"),
        ((-0.05, -0.06, -0.07), "−0.060 [−0.085, −0.035] macro AUC over unseen generators: lower"),
        ((-0.01, 0.0, 0.01), "0.000 [−0.025, 0.025] macro AUC over unseen generators: not shown"),
        ((0.05, 0.07), "0.060 macro AUC over unseen generators: no interval can be estimated (2"),
        (
            (0.05,),
            "0.050 macro AUC over unseen generators: no interval can be estimated (1 pair",
        ),
    ],
)
def test_the_headline_says_what_the_interval_allows(gains, words):
    classical = [0.7] * len(gains)
    tables = with_aucs(made_up_tables(), classical, [0.7 + gain for gain in gains])
    [(network, [line])] = answers(tables)
    assert line.startswith("cyborg − classical: " + words), line


def test_the_headline_takes_the_interval_for_other_seeds_and_images():
    "The two-level bootstrap of the study's folder, where there is one of three runs or more."
    tables = made_up_tables()
    lines = dict(answers(tables))
    assert len(lines) == 2 and all(len(own) == 1 for own in lines.values())
    for [line] in lines.values():
        assert "[0.070, 0.130]" in line and "for other seeds and images" in line
    two = tables._replace(intervals=tables.intervals.assign(n_runs=2))
    assert all("for other seeds)" in line for [line] in dict(answers(two)).values())
    other = dict(answers(tables, control="none of them"))
    assert all(len(own) == 2 for own in other.values())  # each scenario, where that is none


def test_an_interval_over_two_seeds_is_not_shown():
    tables = with_aucs(made_up_tables(), [0.7, 0.7], [0.75, 0.77])
    pairs = difference_table(tables, "classical")
    assert pairs["low"].isna().all() and pairs["n"].tolist() == [2]
    assert pairs["reason"].item().startswith("2 pairs: interval over seeds not estimable")
    figure = difference_figure(tables, "classical")
    assert not [trace for trace in figure.data if trace.meta == "interval"]
    assert "Student" not in figure.layout.title.text


def test_a_measure_without_any_value_is_no_table_of_blanks():
    tables = made_up_tables()
    rows = tables.measures.assign(value=np.nan, reason="8 images are too few")
    with pytest.raises(ReportError, match="no run has a value of it: 8 images are too few"):
        main_table(tables._replace(measures=rows))


def test_what_was_run_is_a_table_of_the_study_file():
    study = {"networks": ["a", "b"], "seeds": [0, 1], "settings": {"epochs": 3}}
    study |= {"scenarios": {"cyborg": {"alpha": 0.5}, "plain": None}}
    study |= {"data": {"faces": {"manifest": "/my/faces.csv"}}}
    table = settings_table(made_up_tables()._replace(study=study)).set_index("setting")["value"]
    assert table["networks"] == "a, b" and table["every run: epochs"] == "3"
    assert table["data faces"] == "faces.csv" and table["scenario cyborg"] == "alpha 0.5"
