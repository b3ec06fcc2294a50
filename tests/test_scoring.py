"""Scores of pictures that nobody labelled: the same as in a test, whatever was killed or broken."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax

from cyborg.commands import score_command
from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.explore import scoring
from cyborg.explore.scoring import (
    ScoringError,
    contact_sheet,
    find_pictures,
    open_run,
    score,
    score_files,
)
from cyborg.measure.errors import fitted_temperature
from cyborg.predictions import read_predictions
from cyborg.prepare.crop import FaceBox
from cyborg.settings import RunConfig
from cyborg.training import load_run, train


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs of one epoch on a demo set, the first tested and validated."""
    work = tmp_path_factory.mktemp("scoring")
    demo = make_demo(work / "demo", n=60, size=64)
    settings = dict(manifest=str(demo.root / "manifest.csv"), root=str(demo.root), runs=str(work))
    settings |= dict(arch="test_resnet", weights="none", size=64, epochs=1, batch_size=16)
    runs = [train(RunConfig(**settings, name=f"run{seed}", seed=seed)) for seed in (0, 1)]
    network = load_run(runs[0]).network
    predict(network, demo.split("test"), runs[0])
    predict(network, demo.split("val"), runs[0] / "validation")
    return demo, runs


def pictures_of(demo) -> list[str]:
    return [str(demo.root / name) for name in demo.split("test").table["image"]]


def test_scores_are_those_of_the_test(made):
    demo, runs = made
    wanted = read_predictions(runs[0])
    found = score(runs[0], pictures_of(demo)).table
    np.testing.assert_allclose(found["score"], wanted["score"], atol=1e-6)
    assert found["predicted"].tolist() == wanted["predicted"].tolist()


def test_calibrated_scores_are_softmax_at_the_temperature_of_validation(made):
    demo, runs = made
    validation, test = read_predictions(runs[0] / "validation"), read_predictions(runs[0])
    logits = validation[["logit_0", "logit_1"]].to_numpy(float)
    by = fitted_temperature(logits, (validation["label"] == "synthetic").to_numpy()).temperature
    wanted = softmax(test[["logit_0", "logit_1"]].to_numpy(float) / by, axis=1)[:, 1]
    found = score(runs[0], pictures_of(demo)).table["calibrated"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_run_without_validation_has_no_calibrated_score(made):
    demo, runs = made
    assert open_run(runs[1]).temperature is None
    assert score(runs, pictures_of(demo)[:2]).table["calibrated"].isna().all()


def test_several_runs_have_a_score_each_and_their_mean(made):
    demo, runs = made
    found = score(runs, pictures_of(demo)[:4]).table
    np.testing.assert_allclose(found["score"], found[["score run0", "score run1"]].mean(axis=1))
    assert (found["score run0"] != found["score run1"]).all()
    alone = score(runs[1], pictures_of(demo)[:4]).table["score"]
    np.testing.assert_allclose(found["score run1"], alone, atol=1e-6)


def test_pictures_are_no_batch_of_each_other(made):
    demo, runs = made
    files = pictures_of(demo)[:5]
    alone = [score(runs[0], file).table["score"][0] for file in files]
    np.testing.assert_allclose(score(runs[0], files).table["score"], alone, atol=1e-6)


def test_a_list_needs_no_label_and_its_columns_are_handed_on(made, tmp_path):
    demo, runs = made
    names = demo.split("test").table["image"][:3].tolist()
    pd.DataFrame({"image": names, "phone": ["a", "b", ""]}).to_csv(tmp_path / "l.csv", index=False)
    found = score(runs[0], tmp_path / "l.csv", root=demo.root).table
    assert found["phone"].tolist() == ["a", "b", ""]
    assert found["score"].notna().all()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["a.png"]}, "lacks the column 'image'"),
        ({"image": ["a"], "score": ["1"]}, "score"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_by_name(tmp_path, columns, words):
    pd.DataFrame(columns).to_csv(tmp_path / "list.csv", index=False)
    with pytest.raises(ScoringError, match=words) as caught:
        find_pictures([tmp_path / "list.csv"])
    assert "list.csv" in str(caught.value)


def test_what_cannot_be_read_says_why_and_stops_nothing(made, tmp_path):
    demo, runs = made
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(Path(pictures_of(demo)[0]).read_bytes()[:300])
    (tmp_path / "whole.png").write_bytes(Path(pictures_of(demo)[1]).read_bytes())
    found = score(runs[0], tmp_path).table.set_index("file")
    reasons = {Path(name).name: reason for name, reason in found["reason"].items()}
    assert reasons["whole.png"] == ""
    assert "not an image" in reasons["text.png"]
    assert reasons["cut.jpg"]
    assert found["score"].notna().sum() == 1


def counted(monkeypatch, stop_after: int = 10**9) -> list[int]:
    """How many pictures each batch had; KeyboardInterrupt after some batches."""
    sizes, forward = [], scoring._forward

    def watch(run, pixels):
        if len(sizes) >= stop_after:
            raise KeyboardInterrupt
        sizes.append(len(pixels))
        return forward(run, pixels)

    monkeypatch.setattr(scoring, "_forward", watch)
    return sizes


def test_a_killed_command_goes_on_with_the_same_result(made, tmp_path, monkeypatch):
    demo, runs = made
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    monkeypatch.setattr(scoring.answers, "__defaults__", (None, 4))
    files, out, maps = pictures_of(demo)[:12], tmp_path / "s.csv", tmp_path / "maps"
    with monkeypatch.context() as once:
        counted(once, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            score_files([runs[0]], files, out, maps)
    assert not out.exists()
    with monkeypatch.context() as again:
        sizes = counted(again)
        score_files([runs[0]], files, out, maps)
    assert sum(sizes) == 4  # eight were finished
    found = pd.read_csv(out, keep_default_na=False)
    np.testing.assert_allclose(found["score"], score(runs[0], files).table["score"], atol=1e-6)
    assert len(list(maps.iterdir())) == 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps", "s.csv"]


def test_a_picture_that_changed_or_lost_its_map_is_scored_again(made, tmp_path, monkeypatch):
    demo, runs = made
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the ledger stays
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(Path(pictures_of(demo)[i]).read_bytes())
    out, maps = tmp_path / "s.csv", tmp_path / "m"
    files = sorted(tmp_path.glob("*.png"))
    score_files([runs[0]], files, out, maps)
    monkeypatch.undo()
    (tmp_path / "1.png").write_bytes(Path(pictures_of(demo)[5]).read_bytes())
    (maps / "2_2.png").unlink()
    sizes = counted(monkeypatch)
    out.unlink()
    score_files([runs[0]], files, out, maps)
    assert sum(sizes) == 2


def test_results_of_other_weights_are_not_gone_on_with(made, tmp_path, monkeypatch):
    demo, runs = made
    files, out = pictures_of(demo)[:2], tmp_path / "s.csv"
    counted(monkeypatch, stop_after=0)
    with pytest.raises(KeyboardInterrupt):
        score_files([runs[0]], files, out)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="holds results of other settings"):
        score_files([runs[1]], files, out)


def test_a_table_that_is_there_is_not_replaced(made, tmp_path):
    demo, runs = made
    out = tmp_path / "s.csv"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="is there"):
        score_files([runs[0]], pictures_of(demo)[:1], out)
    assert out.read_text() == "mine"


def test_crops_are_made_on_demand_and_said_where_there_is_no_face(made, tmp_path):
    demo, runs = made
    pixels = np.zeros((200, 300, 3), np.uint8)
    face = np.asarray(Image.open(pictures_of(demo)[0]).convert("RGB"))
    pixels[60:124, 100:164] = face
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, :50]).save(tmp_path / "b.png")

    def faces(picture, _):
        return [FaceBox(np.array([100.0, 60, 164, 124]))] if picture.shape[1] > 200 else []

    found = score(runs[0], tmp_path, faces=faces)
    assert found.table["reason"].tolist() == ["", "not cropped: no face found"]
    whole = score(runs[0], tmp_path / "a.png")
    assert abs(found.pixels[0].mean() - whole.pixels[0].mean()) > 5
    assert found.pixels[0].shape == (64, 64, 3)


def test_runs_of_other_classes_have_no_mean(made, tmp_path, monkeypatch):
    demo, runs = made
    first, second = open_run(runs[0]), open_run(runs[1])
    with pytest.raises(ScoringError, match="their scores have no mean"):
        score([first, second._replace(classes=("cat", "dog"))], pictures_of(demo)[:1])
    with pytest.raises(ScoringError, match="two runs are called 'run0'"):
        score([first, first], pictures_of(demo)[:1])


def test_a_score_that_is_no_number_is_said(made, monkeypatch):
    demo, runs = made
    run = open_run(runs[0])
    with torch.no_grad():
        next(run.network.parameters()).fill_(float("nan"))
    found = score([run], pictures_of(demo)[:1]).table
    assert found["reason"].tolist() == ["a logit is not finite"]


def test_the_sheet_shows_what_could_be_read(made, tmp_path):
    demo, runs = made
    (tmp_path / "text.png").write_text("no picture")
    sheet = contact_sheet(score(runs[0], [tmp_path / "text.png", *pictures_of(demo)[:7]]))
    assert sheet.size == (6 * 174, 2 * 202)
    with pytest.raises(ScoringError, match="no picture could be read"):
        contact_sheet(score(runs[0], tmp_path))


def run_command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["cyborg-score", *map(str, words)])
    score_command()


def test_the_command(made, tmp_path, monkeypatch, capsys):
    demo, runs = made
    out, sheet = tmp_path / "out.csv", tmp_path / "sheet.jpg"
    files = pictures_of(demo)[:3]
    run_command(monkeypatch, *runs, *files, "-o", out, "--sheet", sheet, "--maps", tmp_path / "m")
    said = capsys.readouterr().out
    assert "probability of synthetic, the mean over 2 run(s)" in said
    assert "run1: it has no predictions on validation images" in said
    assert list(pd.read_csv(out)) == [
        *("file", "score", "predicted", "calibrated", "score run0", "score run1", "reason")
    ]
    assert Image.open(sheet).size == (3 * 174, 202)
    assert len(list((tmp_path / "m").iterdir())) == 3


def test_faults_are_one_line_and_no_traceback(made, tmp_path, monkeypatch):
    demo, runs = made
    with pytest.raises(SystemExit, match="^cyborg-score: none of .* is a run folder, with config"):
        run_command(monkeypatch, pictures_of(demo)[0])
    with pytest.raises(SystemExit, match="^cyborg-score: none of .* is a picture"):
        run_command(monkeypatch, runs[0])
    with pytest.raises(SystemExit, match="^cyborg-score: there is no .*none.png"):
        run_command(monkeypatch, runs[0], tmp_path / "none.png")


def test_groups_of_a_list_with_labels(made, tmp_path, monkeypatch, capsys):
    "AUC by group as counted pair by pair; the threshold is that of the run's validation images."
    demo, runs = made
    table = demo.split("test").table[["image", "label"]].reset_index(drop=True)
    table["camera"] = np.where(np.arange(len(table)) % 3 > 0, "phone", "slr")
    table.loc[0, "label"] = ""  # takes no part
    table.to_csv(tmp_path / "list.csv", index=False)
    words = tmp_path / "list.csv", "--root", demo.root, "-o", tmp_path / "out.csv"
    monkeypatch.setattr(scoring, "LIMIT", 0.5)  # so few validation images allow for no less
    run_command(monkeypatch, runs[0], *words, "--groups", "camera")
    said = capsys.readouterr().out
    scored = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    found = pd.read_csv(tmp_path / "out-groups.csv").set_index(["group", "measure"])
    validation = read_predictions(runs[0] / "validation").query("label == 'authentic'")["score"]
    allowed = int(0.5 * len(validation))
    threshold = np.sort(validation)[::-1][allowed]  # refused is what lies above
    for camera in ("phone", "slr"):
        own = scored[scored["camera"] == camera]
        one, other = (own.loc[own["label"] == k, "score"].to_numpy(float) for k in demo.classes)
        pairs = (other[:, None] > one).mean() + (other[:, None] == one).mean() / 2
        assert found.loc[(camera, "auc"), "estimate"] == pytest.approx(pairs)
        assert found.loc[(camera, "auc"), "n_authentic"] == len(one)
        refused, passed = (one > threshold).mean(), (other <= threshold).mean()
        assert found.loc[(camera, "bpcer"), "estimate"] == pytest.approx(refused)
        assert found.loc[(camera, "apcer"), "estimate"] == pytest.approx(passed)
    assert "phone" in said and "out-groups.csv" in said
    monkeypatch.undo()
    run_command(monkeypatch, runs[1], *words, "--groups", "camera", "--overwrite")
    assert "no errors at a threshold of run1: it has no predictions" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="groups need the columns sex in the list"):
        run_command(monkeypatch, runs[0], *words, "--overwrite", "--groups", "sex")
