"""What a study asks beside which scenario is better: how many maps, how many people."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_study import tree, write_finished

from cyborg.demo import make_demo
from cyborg.manifest import read_manifest
from cyborg.measure.auc import auc_table
from cyborg.models import make_network
from cyborg.predictions import read_predictions
from cyborg.report.enough import enough_figure, enough_table
from cyborg.report.fairness import fairness_answers, fairness_figure, group_columns
from cyborg.report.headline import headline
from cyborg.report.pooling import pool_column, pooling_figure, pooling_table
from cyborg.report.protocols import (
    elsewhere_table,
    fold_data,
    folds_figure,
    folds_table,
    leaks_table,
)
from cyborg.report.tables import StudyTables, main_table, read_tables, settings_table
from cyborg.study import elsewhere
from cyborg.study.collect import collect
from cyborg.study.file import make_study, read_study, study_runs, write_study
from cyborg.study.grid import check_study
from cyborg.study.run import main
from cyborg.study.words import StudyError
from cyborg.training import train

CURVES = {"maps_share": [0, 0.2, 0.5, 1], "annotators": [1, "all"]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("data") / "demo", n=40, size=64)


@pytest.fixture
def asking(demo):
    return {
        "name": "asking",
        "data": {"demo": {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}},
        "networks": ["test_resnet"],
        "scenarios": ["classical", "cyborg"],
        "seeds": 2,
        "settings": {"size": 64, "epochs": 1, "device": "cpu", "batch_size": 8},
        "least_maps": 0.0,
        **CURVES,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps_share": [0.1, 2]}, "maps_share shares[1] is 2 (int), expected a share from 0 to 1"),
        ({"maps_share": []}, "maps_share shares is [] (list), expected a list of shares"),
        ({"maps_share": [0.1, 0.1]}, "maps_share shares: 0.1 stands twice"),
        ({"maps_share": {"share": [1]}}, "there is no key 'share' (did you mean 'shares'?)"),
        ({"maps_share": {"by": "queue"}}, "maps_share shares missing"),
        ({"maps_share": {"shares": [0.1], "scenarios": ["cybor"]}}, "(did you mean 'cyborg'?)"),
        ({"annotators": [0]}, "annotators people[0]: 0 is no number of people"),
        ({"annotators": ["al"]}, "'al' is no number of people, expected 1 or more, or all"),
        ({"maps_shares": [0.1]}, "there is no key 'maps_shares' (did you mean 'maps_share'?)"),
        ({"scenarios": ["classical"], "maps_share": [0.1]}, "no scenario learns from the human"),
        (
            {"annotators": {"people": [1], "scenarios": ["classical"]}},
            "annotators: classical does not learn from the human maps",
        ),
        (
            {"scenarios": ["cyborg", {"cyborg-maps0.1": {"alpha": 0.3}}], "maps_share": [0.1]},
            "scenario cyborg-maps0.1 is one that maps_share makes",
        ),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_by_name(content, changes, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content | changes))
    with pytest.raises(StudyError) as error:
        read_study(tmp_path / "bad.yaml", tmp_path)
    assert message in str(error.value)


def test_points_are_runs_and_those_that_are_there_are_not_made_again(asking, tmp_path):
    runs = study_runs(make_study(asking, runs=tmp_path))
    names = dict.fromkeys(run.scenario for run in runs)
    made = ["cyborg-maps0.2", "cyborg-maps0.5", "cyborg-people1"]
    assert list(names) == ["classical", "cyborg", *made]
    assert len(runs) == 5 * 2
    assert {run.config.alpha for run in runs if run.scenario in made} == {0.5}


def test_each_seed_keeps_maps_of_its_own_one_share_within_the_next(asking, demo, tmp_path):
    study = make_study(asking, runs=tmp_path)
    check_study(study)
    has = {}
    for run in study_runs(study):
        table = read_manifest(run.config.manifest, run.config.root).table
        assert table["image"].tolist() == demo.table["image"].tolist()
        rest = table["split"] != "train"
        assert table["map"][rest].tolist() == demo.table["map"][rest].tolist()
        has[run.scenario, run.seed] = {*table.loc[~rest & (table["map"] != ""), "image"]}
    whole = has["cyborg", 0]
    for seed in (0, 1):
        few, half = has["cyborg-maps0.2", seed], has["cyborg-maps0.5", seed]
        assert few < half < whole
        assert (len(few), len(half)) == (round(0.2 * len(whole)), round(0.5 * len(whole)))
        assert has["cyborg-people1", seed] == whole
    assert has["cyborg-maps0.5", 0] != has["cyborg-maps0.5", 1]
    before = tree(study.folder)
    check_study(study)
    assert [name for name, _ in tree(study.folder)] == [name for name, _ in before]


def test_a_dry_run_counts_the_points_and_writes_nothing(asking, tmp_path, monkeypatch, capsys):
    (tmp_path / "asking.yaml").write_text(yaml.safe_dump(asking))
    monkeypatch.setenv("CYBORG_RUNS", str(tmp_path / "runs"))
    main(str(tmp_path / "asking.yaml"), dry_run=True)
    told = capsys.readouterr().out
    assert "10 runs in" in told
    assert "6 of the runs are points of curves: cyborg-maps0.2, cyborg-maps0.5, " in told
    assert not (tmp_path / "runs").exists()


def test_maps_of_people_need_people(content, tmp_path):
    with pytest.raises(StudyError, match=r"annotators: there is no annotations.parquet in"):
        check_study(make_study(content | {"annotators": [1]}, runs=tmp_path))


def test_a_share_that_leaves_no_map_says_so(asking, tmp_path):
    with pytest.raises(StudyError, match=r"cyborg-maps0.01: alpha is 0.5, but no training image"):
        check_study(make_study(asking | {"maps_share": [0.01]}, runs=tmp_path))


def test_a_run_with_maps_of_one_person_trains(asking, tmp_path):
    study = make_study(asking, runs=tmp_path)
    check_study(study)
    run = next(run for run in study_runs(study) if run.scenario == "cyborg-people1")
    train(run.config)
    history = pd.read_csv(run.config.folder / "history.csv")
    assert len(history) == 1 and np.isfinite(history["train_saliency"]).all()


def test_the_report_keeps_points_apart_and_counts_their_gain(asking, demo, tmp_path):
    study = make_study(asking, runs=tmp_path)
    shifts = {"classical": 0.0, "cyborg-maps0.2": 0.5, "cyborg-maps0.5": 1.0, "cyborg": 1.0}
    for run in study_runs(study):
        write_finished(run, shifts.get(run.scenario, 0.8), note={"settings": {"map_size": "2x2"}})
    write_study(study, study.folder / "study.yaml")
    found = collect(study)
    aucs = found.measures.query("measure == 'auc' and source == 'macro_unseen'")
    aucs = aucs.groupby("scenario")["value"].mean()
    tables = read_tables(study.folder)
    assert main_table(tables).text.columns.tolist() == ["classical", "cyborg"]
    assert set(tables.intervals["scenario"]) == {"classical", "cyborg"}
    table = enough_table(tables)
    assert table["maps"].tolist() == ["0 %", "20 %", "50 %", "100 %"]
    gains = [f"{aucs[name] - aucs['classical']:.3f}" for name in shifts]
    assert table["gain"].str.replace("−", "-").tolist() == gains
    n = int((demo.table.query("split == 'train'")["map"] != "").sum())
    counts = [0, round(0.2 * n), round(0.5 * n), n]
    assert table["images with a map"].tolist() == [str(count) for count in counts]
    hours = table["hours"].astype(float)
    assert hours[0] == 0 and (hours.diff()[1:] > 0).all()
    people = enough_table(tables, "annotators")
    assert people["people"].tolist() == ["1", "all"]
    assert people["hours"].iloc[1] == table["hours"].iloc[-1]
    assert len([t for t in enough_figure(tables).data if t.meta == "curve"]) == 2
    titles = [title for title, _ in headline(tables)]
    assert titles == ["test_resnet", "How many maps are enough?", "How many people are enough?"]
    settings = settings_table(tables).set_index("setting")["value"]
    assert settings["maps_share: shares"] == "0.0, 0.2, 0.5, 1.0"


# --- groups and pools --------------------------------------------------------------------------


def graded(content, faces, tmp_path, **more):
    "Two scenarios on three seeds, whose test images have a column of groups and of people."
    study = make_study(content | {"seeds": 3} | more, runs=tmp_path)
    for run in study_runs(study):
        write_finished(run, 0.5 * (run.scenario == "cyborg"), 80, {"settings": {"map_size": "2x2"}})
        path = run.config.folder / "predictions.parquet"
        note = pq.read_schema(path).metadata
        table = pd.read_parquet(path)
        half = np.arange(len(table)) % 2 == 0
        table["skin"], table["person"] = np.where(half, "a", "b"), (table.index // 4).astype(str)
        if run.scenario == "classical":  # every authentic image of b is refused
            table.loc[~half & (table["label"] == "authentic"), "score"] = 1.0
        pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(note), path)
    write_study(study, study.folder / "study.yaml")
    return study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": []}, "groups is [] (list), expected a column, or a list of columns"),
        ({"groups": ["sex", "sex"]}, "groups: 'sex' stands twice"),
        ({"groups": ["a/b"]}, "groups[0]: 'a/b' holds a character that names may not hold"),
        ({"group": ["sex"]}, "there is no key 'group' (did you mean 'groups'?)"),
        ({"pool": {"column": "subject", "by": ["median"]}}, "'median' is no way to pool scores"),
        ({"pool": {"by": "mean"}}, "pool column missing"),
        ({"pool": {"colum": "subject"}}, "there is no key 'colum' (did you mean 'column'?)"),
    ],
)
def test_groups_and_pools_that_make_no_sense_are_refused(content, changes, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content | changes))
    with pytest.raises(StudyError) as error:
        read_study(tmp_path / "bad.yaml", tmp_path)
    assert message in str(error.value)


def test_a_column_that_no_manifest_has_is_refused_before_anything_runs(content, tmp_path):
    for key in ("groups", "pool"):
        with pytest.raises(StudyError, match=rf"{key}: .*no column 'subjct' .did you mean 'subj"):
            check_study(make_study(content | {key: "subjct"}, runs=tmp_path))


def test_a_planted_unfair_detector_is_found_and_a_fair_one_is_not(content, faces, tmp_path):
    study = graded(content, faces, tmp_path, groups=["skin"])
    assert collect(study).problems == []
    tables = read_tables(study.folder)
    gaps = pd.read_csv(study.folder / "gaps.csv").set_index(["scenario", "measure"])
    unfair, fair = gaps.loc["classical", "bpcer"], gaps.loc["cyborg", "bpcer"]
    assert (unfair["worst"], unfair["best"]) == ("b", "a")
    assert unfair["gap"] > 0.8 and unfair["low"] > 0.5 and unfair["p"] < 0.01
    assert fair["p"] > 0.01
    groups = pd.read_csv(study.folder / "groups.csv").set_index(["scenario", "group", "measure"])
    assert groups.loc[("classical", "b", "bpcer"), "estimate"] == 1.0
    assert groups.loc[("classical", "b", "bpcer"), "n_authentic"] == 40
    [(title, lines)] = fairness_answers(tables)
    assert title == "Is it as good in each group by skin?"
    assert "classical: BPCER of b is" in lines[0] and ", more than chance" in lines[0]
    assert len(fairness_figure(tables, "skin").data) == 4 * 2
    assert [t for t, _ in headline(tables)][-1] == title


def test_a_group_score_is_the_mean_of_its_images_and_is_reported_beside_them(
    content, faces, tmp_path
):
    study = graded(content, faces, tmp_path, pool={"column": "person", "by": ["mean", "max"]})
    assert collect(study).problems == []
    tables, pools = read_tables(study.folder), pd.read_csv(study.folder / "pools.csv")
    own = pools[pools["baseline"].isna() & (pools["measure"] == "macro_unseen")]
    own = own.set_index(["scenario", "by"])
    for by in ("mean", "max"):
        hand = []
        for run in study_runs(study):
            if run.scenario == "cyborg":
                table = pd.read_parquet(run.config.folder / "predictions.parquet")
                table = table[table["source"] != "known"]
                scores = table.groupby(["label", "person"], as_index=False)["score"].agg(by)
                real, fake = (
                    scores.loc[scores["label"] == label, "score"].to_numpy()
                    for label in ("authentic", "synthetic")
                )
                hand.append((fake[:, None] > real).mean() + 0.5 * (fake[:, None] == real).mean())
        assert own.loc[("cyborg", by), "estimate"] == pytest.approx(np.mean(hand))
        assert own.loc[("cyborg", by), "n_images"] == 40  # 20 people of each class
    images = tables.measures.query("measure == 'auc' and source == 'macro_unseen'")
    images = images.groupby("scenario")["value"].mean()["cyborg"]
    assert own.loc[("cyborg", "images"), "estimate"] == pytest.approx(images)
    table = pooling_table(tables).set_index(["scenario", "by"])
    assert table.loc[("cyborg", "mean"), "above classical"] != "–"
    assert len(pooling_figure(tables).data) == 2


# --- folds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("leave_one_generator", "there is no protocol 'leave_one_generator' (did you mean"),
        ({"leave_one_out": "sorce"}, "no column 'sorce' (did you mean 'source'?)"),
        ({"leave_one_out": "source", "splits": ["p"]}, "expected either leave_one_out or splits"),
        ({"folds": ["iris"]}, "protocol: expected either leave_one_out or splits"),
        ({"splits": ["p"], "folds": ["a"]}, "folds goes with leave_one_out, not with splits"),
        ({"leave_one_out": "source", "folds": ["irs"]}, "there is no fold 'irs' (did you mean"),
        ({"splits": ["pair"]}, "column 'pair' of demo has '0', expected train, val, test"),
        ({"leave_one_out": "subject"}, "has 0 values that are both in training and in the test"),
        ({"leave_one": "source"}, "there is no key 'leave_one' (did you mean 'leave_one_out'?)"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(asking, protocol, message, tmp_path):
    with pytest.raises(StudyError) as error:
        check_study(make_study(asking | {"protocol": protocol}, runs=tmp_path))
    assert message in str(error.value)


def test_folds_are_trained_without_what_they_are_tested_on(asking, demo, tmp_path, capsys):
    asking = asking | {"protocol": "leave_one_generator_out", "maps_share": None}
    study = make_study(asking | {"annotators": None}, runs=tmp_path)
    check_study(study)
    runs = study_runs(study)
    assert len(runs) == 2 * 2 * 3  # scenarios, seeds; the own split and two folds
    for run in runs:
        table = read_manifest(run.config.manifest, run.config.root).table
        sources = {split: {*own["source"]} for split, own in table.groupby("split")}
        if run.data == "demo":
            assert len(table) == len(demo)
            continue
        left = run.data.removeprefix("demo-without-")
        assert left in ("iris", "lips")
        assert sources["train"] == sources["val"] == {"iris", "lips", "studio", "street"} - {left}
        own = demo.table[(demo.table["split"] == "test") & (demo.table["source"] == left)]
        assert sources["test"] == {left, *own["counterpart"]}


def test_a_planted_difference_between_folds_is_in_the_table_and_the_mean(asking, tmp_path):
    asking = asking | {"maps_share": None, "annotators": None, "seeds": 3}
    asking["protocol"] = {"leave_one_out": "source", "of": "synthetic"}
    study = make_study(asking, runs=tmp_path)
    check_study(study)
    for run in study_runs(study):  # CYBORG is better in one fold alone
        better = run.scenario == "cyborg" and run.data == "demo-without-iris"
        write_finished(run, 2.0 * better, note={"settings": {"map_size": "2x2"}})
    write_study(study, study.folder / "study.yaml")
    found = collect(study)
    tables = read_tables(study.folder)
    assert set(tables.measures["data"]) == {"demo"}
    aucs = found.measures.query("measure == 'auc' and source == 'macro_unseen'")
    wide = aucs.pivot(index=["data", "seed"], columns="scenario", values="value")
    gains = (wide["cyborg"] - wide["classical"]).groupby("data").mean()
    table = folds_table(tables, "demo").set_index("fold")["cyborg − classical"]
    for fold in ("iris", "lips"):
        assert float(table[fold].split(" [")[0].replace("−", "-")) == pytest.approx(
            gains[f"demo-without-{fold}"], abs=5e-4
        )
    assert gains["demo-without-iris"] > gains["demo-without-lips"] + 0.1
    mean = pd.read_csv(study.folder / "fold_means.csv").query("baseline == 'classical'")
    folds = gains[["demo-without-iris", "demo-without-lips"]]
    assert mean["estimate"].item() == pytest.approx(folds.mean())
    assert (mean["n_folds"].item(), mean["n_runs"].item()) == (2, 6)
    assert np.isnan(mean["low"].item()) and mean["low_same"].item() < mean["estimate"].item()
    assert len([t for t in folds_figure(tables, "demo").data if t.meta == "folds"]) == 1
    leaks = leaks_table(tables, "demo")
    assert leaks["fold"].tolist() == ["iris", "lips"] and leaks["found"].str.len().gt(0).all()
    assert [title for title, _ in headline(tables)][-1] == (
        "Does it hold for what training left out?"
    )


# --- other sets ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("data") / "other", n=40, size=64, seed=1)


@pytest.fixture
def abroad(asking, other):
    place = {"manifest": str(other.root / "manifest.csv"), "root": str(other.root)}
    return asking | {"maps_share": None, "annotators": None, "tests": {"other": place}}


def test_finished_runs_are_tested_on_another_set_and_compared_there(
    abroad, other, tmp_path, monkeypatch
):
    study = make_study(abroad, runs=tmp_path)
    check_study(study)
    runs = study_runs(study)
    for run in runs:
        write_finished(run, note={"settings": {"map_size": "2x2"}})
    write_study(study, study.folder / "study.yaml")

    def untrained(folder):
        seed = int(folder.name[-1]) + 10 * ("cyborg" in folder.name)
        return SimpleNamespace(network=make_network("test_resnet", 2, 64, "none", seed))

    monkeypatch.setattr(elsewhere, "load_run", untrained)
    told = []
    paths = elsewhere.score_elsewhere(study, told.append)
    assert told == ["testing 4 runs on 20 images of other"] and all(p.is_file() for p in paths)
    elsewhere.score_elsewhere(study, told.append)
    assert len(told) == 1  # done once
    collect(study)
    hand = []
    for path in paths[-2:]:  # cyborg
        table = pd.read_parquet(path)
        assert sorted(table["image"]) == sorted(other.split("test").table["image"])
        aucs = auc_table(read_predictions(path)).set_index("source")["auc"]
        hand.append(aucs["macro"])
    table = pd.read_csv(study.folder / "elsewhere.csv")
    own = table[(table["measure"] == "macro") & table["baseline"].isna()]
    assert own.set_index("scenario").loc["cyborg", "estimate"] == pytest.approx(np.mean(hand))
    shown = elsewhere_table(read_tables(study.folder))
    assert shown["other"].iloc[1].startswith(f"{np.mean(hand):.3f}")
    assert "above classical on other" in shown


def test_a_test_set_that_was_trained_on_is_refused(abroad, demo, tmp_path):
    table = demo.table.copy()
    table["split"] = table["split"].map({"train": "test", "val": "val", "test": "train"})
    table.to_csv(tmp_path / "turned.csv", index=False)
    turned = {"manifest": str(tmp_path / "turned.csv"), "root": str(demo.root)}
    with pytest.raises(StudyError, match=r"tests turned, with the training images of demo: (.|\n)*"
            r"shared image: 16 images stand in two splits, byte for byte"):  # fmt: skip
        check_study(make_study(abroad | {"tests": {"turned": turned}}, runs=tmp_path))


def with_accuracies(run) -> None:
    "The history that figures of training are drawn from."
    names = ("train_accuracy", "val_accuracy", "val_auc")
    table = pd.DataFrame({"epoch": [1, 2]} | dict.fromkeys(names, [0.5, 0.6]))
    table.to_csv(run.config.folder / "history.csv", index=False)


def run_notebook(folder, **parameters) -> dict:
    "The names of report.ipynb after all its cells, run in this process."
    path = Path(__file__).parents[1] / "nbs" / "report.ipynb"
    names = {"display": lambda *_: None, "__name__": "report"}
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "report.ipynb", "exec"), names)
        if "parameters" in cell.metadata.get("tags", ()):
            names |= parameters | {"folder": str(folder)}
    return names


def test_the_report_has_a_part_for_each_question_and_its_headline_names_it(
    asking, other, tmp_path, monkeypatch
):
    asked = {"protocol": "leave_one_generator_out", "groups": ["cue"], "pool": "subject"}
    study = make_study(asking | asked, runs=tmp_path)
    check_study(study)
    for run in study_runs(study):
        write_finished(run, 0.5, 80, {"settings": {"map_size": "2x2"}})
        with_accuracies(run)
        path = run.config.folder / "predictions.parquet"
        table, note = pd.read_parquet(path), pq.read_schema(path).metadata
        table["cue"] = np.where(np.arange(len(table)) % 2, "yes", "no")
        table["subject"] = (np.arange(len(table)) // 4).astype(str)
        pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(note), path)
    write_study(study, study.folder / "study.yaml")
    assert collect(study).problems == []
    page = run_notebook(study.folder, vector=False)["page"]
    shown = {section.key for section in page.sections if section.content is not None}
    assert {"enough_maps_share", "enough_annotators", "hours", "groups_0", "gaps_0"} <= shown
    assert {"pool", "pool_table", "folds_demo", "folds_demo_table", "leaks_demo"} <= shown
    titles = [title for title, _ in page.headline]
    assert titles[1:] == [
        "How many maps are enough?",
        "How many people are enough?",
        "Is it as good in each group by cue?",
        "Does it hold by subject, too?",
        "Does it hold for what training left out?",
    ]
    asking_parts = ("enough", "hours", "groups", "pool", "folds")
    figures = [s for s in page.sections if isinstance(s.content, go.Figure)]
    figures = [s for s in figures if s.key.split("_")[0] in asking_parts]
    assert len(figures) == 6 and all("?" in section.text for section in figures)


def test_the_report_of_folds_alone_has_no_other_part(asking, tmp_path):
    alone = {"maps_share": None, "annotators": None, "protocol": "leave_one_generator_out"}
    study = make_study(asking | alone, runs=tmp_path)
    check_study(study)
    for run in study_runs(study):
        write_finished(run, note={"settings": {"map_size": "2x2"}})
        with_accuracies(run)
    write_study(study, study.folder / "study.yaml")
    collect(study)
    keys = {section.key for section in run_notebook(study.folder, vector=False)["page"].sections}
    assert "folds_demo" in keys and not {"hours", "pool", "groups_0", "sweep"} & keys


@pytest.mark.parametrize(
    ("name", "asked", "nothing"),
    [("groups", group_columns, []), ("folds", fold_data, []), ("pools", pool_column, "")],
)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"other\n1\n"])
def test_a_damaged_table_of_a_question_is_told_and_not_taken_for_no_question(
    tmp_path, name, asked, nothing, content
):
    tables = StudyTables(tmp_path, {}, *[pd.DataFrame()] * 7, [])
    assert asked(tables) == nothing and tables.problems == []
    (tmp_path / f"{name}.csv").write_bytes(content)
    assert asked(tables) == asked(tables) == nothing
    [told] = tables.problems
    assert told.startswith(f"{name}.csv: ")
