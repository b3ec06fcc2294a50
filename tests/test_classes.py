"""More than two answers: training by generator, and the answer to "synthetic?" that it gives."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from scipy.special import softmax
from test_questions import run_notebook, with_accuracies
from test_study import write_finished
from test_training import settings, write_faces

from cyborg.evaluation import predict
from cyborg.explore.picture import explain_image
from cyborg.explore.scoring import _scoring_words, open_runs, score
from cyborg.manifest import read_manifest
from cyborg.measure.auc import auc_table
from cyborg.measure.robustness import Degraded, salience_measures
from cyborg.predictions import noted_classes, read_predictions
from cyborg.prepare.sources import teacher_maps
from cyborg.report.attribution import told_columns
from cyborg.report.export import export_run
from cyborg.report.tables import read_tables
from cyborg.settings import RunConfig, SettingsError, run_config
from cyborg.study.collect import collect
from cyborg.study.file import make_study, study_runs, write_study
from cyborg.study.grid import check_study
from cyborg.study.run import main
from cyborg.training import load_run, train
from cyborg.trial import check_run

TINY = {"arch": "test_resnet", "size": 64}
NAMES = ("camera", "gan", "lens", "morph")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    "36 images of two cameras and two generators, and of a third generator in the test alone."
    path = write_faces(tmp_path_factory.mktemp("faces"), 40)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    order = ("camera", "gan", "lens", "morph")
    table["source"] = [order[i % 4] for i in range(len(table))]
    new = (table["split"] == "test") & (table["source"] == "morph")
    table["source"] = table["source"].where(~new, "unheard")
    table["map"] = [f"map{i}.png" for i in range(len(table))]
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    "A run of two epochs that tells the sources apart, tested and validated."
    how = settings(sources, tmp_path_factory.mktemp("runs"), epochs=2, classes="source", **TINY)
    folder = train(run_config(how))
    network, images = load_run(folder).network, read_manifest(sources, sources.parent)
    predict(network, images.split("test"), folder)
    predict(network, images.split("val"), folder / "validation")
    return folder


def test_a_run_says_what_it_tells_apart(made):
    run, record = load_run(made), json.loads((made / "config.json").read_text())
    found = record["provenance"]["class_set"]
    assert found["column"] == "source" and tuple(found["names"]) == NAMES
    assert found["labels"] == ["authentic", "synthetic", "authentic", "synthetic"]
    assert run.classes == ("authentic", "synthetic") and run.network.class_set.names == NAMES
    assert len(run.network.head_weight) == 4
    assert run.history["val_auc"].between(0, 1).all()  # mean of four against the rest


def test_the_score_is_the_sum_over_synthetic_classes(made):
    found = read_predictions(made)
    each = softmax(found[[f"class_{k}" for k in range(4)]].to_numpy(float), axis=1)
    np.testing.assert_allclose(found["score"], each[:, 1] + each[:, 3], atol=1e-6)
    two = softmax(found[["logit_0", "logit_1"]].to_numpy(float), axis=1)
    np.testing.assert_allclose(two[:, 1], found["score"], atol=1e-6)
    assert found["called"].tolist() == [NAMES[k] for k in each.argmax(axis=1)]
    guess = np.where(found["score"] > 0.5, "synthetic", "authentic")
    assert found["predicted"].tolist() == guess.tolist()
    assert noted_classes(found).names == NAMES


def test_table_1_counts_the_generator_that_was_not_in_training(made, sources):
    found = auc_table(read_predictions(made), seen=NAMES).set_index("source")
    assert found.loc["unheard", "seen"] is np.False_ or not found.loc["unheard", "seen"]
    table = read_predictions(made)
    high = table.loc[table["source"] == "unheard", "score"].to_numpy()
    low = table.loc[table["label"] == "authentic", "score"].to_numpy()
    auc = np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low))
    assert found.loc["macro_unseen", "auc"] == pytest.approx(auc)


def test_a_row_of_the_network_is_a_class(made, sources):
    "Cross-entropy of the last epoch, from the predictions: labels stand in the order of names."
    table = read_predictions(made / "validation")
    logits = torch.tensor(table[[f"class_{k}" for k in range(4)]].to_numpy())
    labels = torch.tensor([NAMES.index(name) for name in table["source"]])
    by_hand = torch.nn.functional.cross_entropy(logits, labels).item()
    run = load_run(made)
    best = run.history["val_accuracy"].iloc[::-1].idxmax()
    assert run.history["val_classification"][best] == pytest.approx(by_hand, abs=1e-4)
    right = (logits.argmax(1) == labels).double().mean().item()
    assert run.history["val_accuracy"][best] == pytest.approx(right)


def test_another_column_is_another_run(made, sources):
    how = settings(sources, made.parent, epochs=2, **TINY)
    with pytest.raises(FileExistsError, match="classes: 'source', now ''"):
        train(run_config(how))


REFUSED = [
    ({"classes": "sorce"}, "classes is 'sorce': .*no column 'sorce' .did you mean 'source'"),
    ({"classes": "subject"}, "classes of column 'subject' have one training image"),
    ({"classes": "source", "maps": "label"}, "maps is 'label', masks of the two labels"),
    ({"classes": "source", "one_logit": True}, "one_logit is True"),
    ({"classes": "source", "quirks": "score"}, "quirks is 'score': score is of two classes"),
    ({"classes": "source", "guidance": "divisive"}, "guidance is 'divisive'"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_cannot_be_says_so_before_training(sources, tmp_path, given, words):
    with pytest.raises(SettingsError, match=words):
        check_run(run_config(settings(sources, tmp_path, **TINY, **given)))


def test_maps_of_the_true_class_are_for_training_alone(made, sources):
    network, images = load_run(made).network, read_manifest(sources, sources.parent)
    with pytest.raises(ValueError, match="may be of none of the network's classes by source"):
        predict(network, images.split("test"), made / "true", which="true")
    assert RunConfig(str(sources), classes="source", which="true").which_tested == "pred"


def test_columns_that_predictions_write_are_refused(made, sources):
    images = read_manifest(sources, sources.parent).split("test")
    table = images.table.assign(called="x")
    with pytest.raises(ValueError, match=r"columns \['called'\], which predictions write"):
        predict(load_run(made).network, type(images)(table, images.root), made / "taken")


def test_robustness_and_explanations_have_the_two_class_score(made, sources):
    network, images = load_run(made).network, read_manifest(sources, sources.parent).split("test")
    wanted = read_predictions(made)
    found = salience_measures(network, images).table
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-5)
    predict(Degraded(network, "jpeg", 0), images, made / "none")
    np.testing.assert_allclose(read_predictions(made / "none")["score"], wanted["score"], atol=1e-6)
    one = explain_image(network, sources.parent / wanted["image"][0])
    assert one.score == pytest.approx(wanted["score"][0], abs=1e-5)


def test_a_teacher_tells_the_labels_apart(made, sources):
    images = read_manifest(sources, sources.parent).split("train")
    with pytest.raises(ValueError, match="tells the values of column source apart, not the labels"):
        teacher_maps(load_run(made)).maps(images)


def test_scoring_names_the_classes(made, sources):
    files = [str(sources.parent / name) for name in read_predictions(made)["image"]]
    wanted, found = read_predictions(made), score(made, files).table
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
    assert found["called"].tolist() == wanted["called"].tolist()
    shares = found[[f"class {name}" for name in NAMES]].to_numpy(float)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    lines = list(_scoring_words(open_runs([made], "cpu"), found))
    assert "classes by source: camera (authentic), gan (synthetic)" in lines[1]


def test_the_card_names_the_classes_and_the_export_keeps_them(made, tmp_path):
    export_run(str(made), output=str(tmp_path / "out"), no_onnx=True)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "tells camera from gan from lens from morph (classes by source: camera (auth" in text
    assert "| unheard | no |" in text  # Table 1's form
    assert load_run(tmp_path / "out").network.class_set.names == NAMES


def test_a_column_of_the_labels_is_the_two_class_network(sources, tmp_path):
    "Two classes that are the labels: the same weights, the same scores, to the bit."
    how = settings(sources, tmp_path, epochs=1, **TINY)
    images = read_manifest(sources, sources.parent).split("test")
    found = []
    for name in ("", "label"):
        folder = train(run_config(how | {"classes": name, "name": f"run{name}"}))
        network = load_run(folder).network
        predict(network, images, folder)
        found.append((network.state_dict(), read_predictions(folder)))
    (plain, two), (named, same) = found
    assert all(torch.equal(plain[key], named[key]) for key in plain)
    columns = [*two.columns]
    pd.testing.assert_frame_equal(two, same[columns], check_exact=True)
    assert two.attrs["settings"].keys() == same.attrs["settings"].keys() - {"classes"}


# --- a study ------------------------------------------------------------------------------------

KINDS = {"column": "source", "names": ["camera", "known", "lens"]}
KINDS |= {"labels": ["authentic", "synthetic", "authentic"], "order": ["authentic", "synthetic"]}


@pytest.fixture
def content(sources):
    return {
        "name": "kinds",
        "data": {"faces": {"manifest": str(sources), "root": str(sources.parent)}},
        "networks": ["test_resnet"],
        "scenarios": {"classical": {}, "which": {"alpha": 0.5, "classes": "source"}},
        "seeds": 3,
        "settings": {"size": 64, "epochs": 2, "device": "cpu"},
    }


def told(run) -> None:
    "Make a finished run of one that tells its sources apart; maps on the left for the camera."
    note = {"settings": {"map_size": "2x2"}}
    write_finished(run, 0.5, 40, note | ({"class_set": KINDS} if run.config.classes else {}))
    path = run.config.folder / "predictions.parquet"
    table, note = pd.read_parquet(path), pq.read_schema(path).metadata
    if run.config.classes:
        table["class_0"], table["class_1"], table["class_2"] = (
            table["logit_0"],
            table["logit_1"],
            -9,
        )
        table["called"] = np.where(table["logit_1"] > table["logit_0"], "known", "camera")
        pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata(note), path)
    maps = np.zeros((len(table), 2, 2), np.uint8)
    maps[table["source"] == "camera", :, 0] = 255
    np.save(run.config.folder / "saliency.npy", maps)


def test_a_study_refuses_what_makes_no_classes(content, tmp_path):
    for given, words in (
        ({"classes": "subject"}, "scenario which: classes is 'subject': .* have one training"),
        ({"classes": "sauce"}, "scenario which: classes is 'sauce': .*did you mean 'source'"),
        ({"classes": "source", "one_logit": True}, "one_logit is True"),
    ):
        content["scenarios"]["which"] = {"alpha": 0.5} | given
        with pytest.raises(ValueError, match=words):
            check_study(make_study(content, runs=tmp_path))


def test_a_dry_run_counts_the_runs_and_names_the_classes(content, tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setenv("CYBORG_RUNS", str(tmp_path / "runs"))
    main(str(tmp_path / "s.yaml"), dry_run=True)
    printed = capsys.readouterr().out
    assert "6 runs in" in printed and not (tmp_path / "runs").exists()
    words = "which: 4 classes by source: camera (authentic), gan (synthetic), lens (authentic), "
    assert words + "morph (synthetic); in the test and in no class: unheard" in printed


def test_the_report_says_which_is_taken_for_which(content, tmp_path):
    study = make_study(content, runs=tmp_path)
    for run in study_runs(study):
        told(run)
        with_accuracies(run)
    write_study(study, study.folder / "study.yaml")
    assert collect(study).problems == []
    rows = pd.read_csv(study.folder / "classes.csv", keep_default_na=False).set_index("class")
    runs = [run.config.folder for run in study_runs(study) if run.config.classes]
    slow = []
    for folder in runs:
        table = read_predictions(folder)
        own = table.loc[table["source"] == "known", "score"].to_numpy()
        rest = table.loc[table["source"] == "camera", "score"].to_numpy()  # novel is in no class
        slow.append(np.mean([(a > b) + (a == b) / 2 for a in own for b in rest]))
    assert float(rows.loc["known", "auc"]) == pytest.approx(np.mean(slow))
    assert rows.loc["lens", "reason"] == "no test images"
    assert float(rows.loc["macro", "auc"]) == pytest.approx(np.mean(slow))  # of both the same
    cells = pd.read_csv(study.folder / "confusion.csv")
    assert cells.groupby("known")["n"].sum().to_dict() == {True: 3 * 80, False: 3 * 40}
    assert cells.loc[cells["true"] == "novel", "n"].sum() == 3 * 40

    page = run_notebook(study.folder, vector=False)["page"]
    shown = {section.key: section for section in page.sections if section.content is not None}
    names = ("confusion_0", "classes_0", "class_maps_0_faces_test_resnet", "confusion_0_new")
    assert all("?" in shown[name].text for name in names)
    [lines] = [lines for title, lines in page.headline if title == "Which source?"]
    assert len(lines) == 1 and lines[0].startswith("test_resnet, which: mean AUC of 3 classes")
    maps = shown[names[2]].content.data
    ends = [(z[0][0], z[0][-1]) for z in (np.asarray(t.z) for t in maps)]
    # two scenarios, camera and known; lens has no test images
    np.testing.assert_allclose(ends, [(1, 0), (0, 0)] * 2, atol=1e-6)


def test_a_study_of_two_labels_has_no_such_part(content, tmp_path):
    del content["scenarios"]["which"]
    study = make_study(content | {"seeds": 1}, runs=tmp_path)
    for run in study_runs(study):
        told(run)
        with_accuracies(run)
    write_study(study, study.folder / "study.yaml")
    collect(study)
    assert not (study.folder / "classes.csv").exists()
    assert told_columns(read_tables(study.folder)) == []
