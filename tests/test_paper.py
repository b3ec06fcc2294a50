"""The paper's set as it is released, and its grid as one file."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_training import write_faces

from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.predictions import mean_agreement, read_mean_maps, read_predictions
from cyborg.prepare.importers import und_wacv_2023, write_imported
from cyborg.settings import RunConfig
from cyborg.study.file import StudyError, make_study, study_runs, without_missing
from cyborg.study.grid import check_study, plan
from cyborg.training import load_run, train

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = ROOT.parent / "shared" / "tools" / "released_layout.py"
PAPER = ROOT / "nbs/studies/paper.yaml"


def test_the_grid_is_the_paper_s():
    study = make_study(yaml.safe_load(PAPER.read_text()), PAPER.parent)
    table = plan(study)
    assert len(table) == 4 * 4 * 10 + 2 * 2 * 10
    by = table.groupby("scenario")["network"].nunique()
    assert by.to_dict() == dict.fromkeys(
        ["classical", "classical_large", "cyborg", "segmentation"], 4
    ) | dict.fromkeys(
        ["cnndetection", "cnndetection_cyborg", "self_attention", "self_attention_human"], 1
    )
    manifests = {run.scenario: Path(run.config.manifest).name for run in study_runs(study)}
    assert manifests["classical_large"] == "faces_large.csv"
    assert manifests["classical"] == manifests["cyborg"] == "faces.csv"
    assert len(study.frozen["faces"]) == 12


def test_the_controls_go_with_it():
    path = PAPER.with_name("paper_controls.yaml")
    assert len(plan(make_study(yaml.safe_load(path.read_text()), path.parent))) == 4 * 9 * 10


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A released folder of tiny pictures, brought in by the importer."""
    if not LAYOUT.is_file():
        pytest.skip("no copy of the released lists")
    folder = tmp_path_factory.mktemp("release")
    make = [sys.executable, str(LAYOUT), str(folder), "--share", "0.001", "--size", "32"]
    subprocess.run(make, check=True, capture_output=True)
    write_imported(und_wacv_2023(str(folder / "root")), folder / "faces.csv")
    return folder


def small_paper(release: Path, tmp_path: Path, **changes):
    """paper.yaml with other paths and a toy network in the place of the four."""
    content = yaml.safe_load(PAPER.read_text())
    for name, file in (("faces", "faces.csv"), ("large", "faces_large.csv")):
        content["data"][name] = {"manifest": str(release / file), "root": str(release / "root")}
    small = {"networks": ["test_resnet"], "weights": "none", "size": 64}
    scenarios = [{s: {}} if isinstance(s, str) else s for s in content["scenarios"]]
    scenarios = [{name: own | small} for s in scenarios for name, own in s.items()]
    toy = {
        "scenarios": scenarios,
        "networks": ["test_resnet"],
        "seeds": 1,
        "settings": {"epochs": 1},
    }
    return make_study(content | toy | changes, tmp_path, tmp_path / "runs")


def test_what_is_missing_is_left_out_and_named(release, tmp_path):
    study, absent = without_missing(small_paper(release, tmp_path))
    assert absent[0] == "scenario segmentation: the manifest of faces has no column 'segmentation'"
    assert len(absent) == 13  # and ten detectors, and the two fusions of them
    assert any(text.startswith("dfdc of faces: it is made of b4_dfdc") for text in absent)
    assert [*study.scenarios] == [
        *("classical", "classical_large", "cyborg", "cnndetection", "cnndetection_cyborg"),
        *("self_attention", "self_attention_human"),
    ]
    assert study.frozen["faces"] == {}
    check_study(study)


def test_without_the_large_set_only_its_scenario_goes(release, tmp_path):
    content = small_paper(release, tmp_path)
    content.data["large"]["manifest"] = str(tmp_path / "none.csv")
    study, absent = without_missing(content)
    assert f"scenario classical_large: there is no {tmp_path / 'none.csv'}" in absent
    assert [*study.data] == ["faces"]
    assert "cyborg" in study.scenarios


def test_without_any_image_the_study_says_which_file_is_missing(release, tmp_path):
    content = small_paper(release, tmp_path)
    content.data["faces"]["manifest"] = str(tmp_path / "none.csv")
    with pytest.raises(StudyError, match=r"nothing can be run: there is no .*none\.csv"):
        without_missing(content)


def test_unless_asked_for_nothing_is_left_out(release, tmp_path):
    study = small_paper(release, tmp_path, missing="refuse")
    assert without_missing(study) == (study, [])
    with pytest.raises(StudyError, match="column 'segmentation'"):
        check_study(study)


def test_a_run_on_the_set_knows_what_it_saw_and_classical_large_needs_no_maps(release, tmp_path):
    study, _ = without_missing(small_paper(release, tmp_path))
    runs = {run.scenario: run.config for run in study_runs(study)}
    folder = train(runs["classical_large"])
    record = pd.read_json(folder / "config.json", typ="series")
    assert "StyleGAN2" in record["provenance"]["training_sources"]
    warnings = record["provenance"]["warnings"]
    assert not [text for text in warnings if text.startswith(("no counterparts", "nothing seen"))]


def test_the_mean_human_map_of_training_is_the_reference_on_the_set(release, tmp_path):
    """Only training images have maps: each number is there, or its reason is."""
    study, _ = without_missing(small_paper(release, tmp_path))
    config = {run.scenario: run.config for run in study_runs(study)}["cyborg"]
    run, images = load_run(train(config)), read_manifest(config.manifest, config.root)
    test, n = images.split("test"), (images.split("train").table["map"] != "").sum()
    predict(run.network, test, run.folder)
    predictions, means = read_predictions(run.folder), read_mean_maps(run.folder)
    assert predictions["cc"].isna().all() and means.human is None
    assert means.reference.words == f"mean human map of {n:,} training images"
    table = mean_agreement(run.folder)
    assert table["cc"].notna().all() and table["reason"].eq("").all()
    assert [*table["label"][:3]] == ["", *sorted(test.classes)]
    assert {*table["source"]} == {"", *test.table["source"]}


def test_a_study_states_the_protocol_of_its_data(tmp_path):
    content = {
        "name": "s",
        "data": {"faces": {"manifest": "m.csv"}},
        **{"networks": ["test_resnet"], "scenarios": ["classical"], "seeds": 1},
        **{"seen": ["SG2"], "counterparts": {"SG2": "FFHQ", "ProGAN": ["CelebA-HQ", "FFHQ"]}},
    }
    config = study_runs(make_study(content, tmp_path))[0].config
    assert config.seen == "SG2"
    assert config.counterparts == "SG2=FFHQ,ProGAN=CelebA-HQ|FFHQ"
    of_data = content["data"]["faces"] | {"seen": "other"}
    config = study_runs(make_study(content | {"data": {"faces": of_data}}, tmp_path))[0].config
    assert config.seen == "other"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"seen": "a,b"}, "'a,b' has a ,"),
        ({"seen": 7}, "seen is 7"),
        ({"counterparts": ["a"]}, "expected authentic sources by generator"),
        ({"counterparts": {"a": "x=y"}}, "'x=y' has a ,"),
    ],
)
def test_what_says_nothing_of_sources_is_refused(tmp_path, said, words):
    content = {"name": "s", "networks": ["test_resnet"], "scenarios": ["classical"], "seeds": 1}
    data = {"data": {"faces": {"manifest": "m.csv"}}}
    with pytest.raises(StudyError, match=words):
        make_study(content | data | said, tmp_path)
    with pytest.raises(StudyError, match=words):
        make_study(content | {"data": {"faces": {"manifest": "m.csv"} | said}}, tmp_path)


def test_a_statement_may_be_made_of_a_finished_run(tmp_path):
    write_faces(tmp_path)
    path = tmp_path / "manifest.csv"
    settings = dict(manifest=str(path), root=str(tmp_path), runs=str(tmp_path), name="r", epochs=1)
    settings |= dict(arch="test_resnet", weights="none", size=64, batch_size=4, alpha=1.0)
    folder = train(RunConfig(**settings))
    before = (folder / "model.safetensors").read_bytes()
    table = read_manifest(path, tmp_path).table.query("split == 'test'")
    source = table["source"].iloc[-1]
    train(RunConfig(**settings, seen=source))
    record = pd.read_json(folder / "config.json", typ="series")
    assert source in record["provenance"]["training_sources"]
    assert record["settings"]["seen"] == source
    assert (folder / "model.safetensors").read_bytes() == before
