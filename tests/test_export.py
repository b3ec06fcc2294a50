"""An exported run is read back by us, by onnxruntime and by who reads its card."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from cyborg.cam import model_saliency
from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.report import export
from cyborg.report.export import ExportError, export_run
from cyborg.saliency import write_map
from cyborg.settings import RunConfig
from cyborg.training import load_run, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run of one epoch on 32 pictures of noise of two cameras and two generators, tested."
    folder, rng, rows = tmp_path_factory.mktemp("faces"), np.random.default_rng(0), []
    for i in range(32):
        source = ("camera", "gan", "lens", "diffusion")[i % 4]
        row = {"image": f"{i}.png", "source": source, "subject": str(i), "map": f"{i}.map.png"}
        row["label"] = "synthetic" if i % 2 else "authentic"
        row["split"] = "train" if i < 8 and i % 4 < 2 else "val" if i < 12 else "test"
        row["counterpart"] = {"gan": "camera", "diffusion": "lens"}.get(source, "")
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / row["image"])
        write_map(folder / row["map"], rng.random((40, 40), dtype=np.float32))
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    settings = {"arch": "resnet18", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    settings |= {"device": "cpu", "precision": "fp32", "runs": str(folder / "runs")}
    place = train(RunConfig(str(folder / "faces.csv"), str(folder), **settings))
    images = read_manifest(folder / "faces.csv", folder)
    predict(load_run(place).network, images.split("test"), place)
    return place


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return export_run(str(run), output=str(tmp_path_factory.mktemp("out") / "detector"))


def test_it_is_read_back_with_the_same_weights(run, exported):
    ours, theirs = load_run(run), load_run(exported)
    state = theirs.network.state_dict()
    for name, tensor in ours.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert theirs.classes == ours.classes and theirs.history.equals(ours.history)
    assert theirs.config.alpha == ours.config.alpha and theirs.config.arch == "resnet18"


def test_it_does_not_say_where_it_was_made(run, exported):
    for path in exported.iterdir():
        if path.suffix in (".md", ".json", ".csv"):
            text = path.read_text()
            assert str(run.parent.parent) not in text and "/tmp" not in text, path.name
    record = json.loads((exported / "config.json").read_text())
    assert "machine" not in record["provenance"]
    assert all("machine" not in session for session in record["sessions"])


def test_onnx_gives_logits_and_the_map_of_the_predicted_class(run, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert [node.name for node in session.get_inputs()] == ["images"]
    network = load_run(run).network
    pixels = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), np.uint8)
    images = np.float32(pixels.transpose(0, 3, 1, 2) / 255)
    logits, maps = session.run(None, {"images": images})
    mean, std = (np.float32(v)[:, None, None] for v in (network.mean, network.std))
    with torch.inference_mode():
        output = network(torch.from_numpy((images - mean) / std))
        wanted = model_saliency(network, output).numpy()
    assert np.abs(logits - output.logits.numpy()).max() < 1e-4
    assert np.abs(maps - wanted).max() < 1e-4 and maps.max() == pytest.approx(1)


def test_a_graph_that_says_something_else_is_refused(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")

    class Other(export.WithMap):
        def forward(self, images):
            logits, maps = super().forward(images)
            return logits, (maps if torch.compiler.is_exporting() else maps * 0.9)

    monkeypatch.setattr(export, "WithMap", Other)
    with pytest.raises(ExportError, match="differs by 0.1 from the network"):
        export.write_onnx(load_run(run).network, tmp_path / "model.onnx")


def test_the_card_has_the_numbers_and_the_front_matter(run, exported):
    text = (exported / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "cyborg" and "cyborg" in front["tags"]
    [result] = front["model-index"][0]["results"]
    [metric] = result["metrics"]
    predictions = pd.read_parquet(run / "predictions.parquet")
    pair = predictions[predictions["source"].isin(["diffusion", "lens"])]
    high = pair.loc[pair["label"] == "synthetic", "score"].to_numpy()
    low = pair.loc[pair["label"] == "authentic", "score"].to_numpy()
    auc = np.mean((high[:, None] > low) + 0.5 * (high[:, None] == low))  # diffusion was not seen
    assert metric["name"] == "AUC, macro_unseen" and metric["value"] == pytest.approx(auc, abs=1e-4)
    assert f"| diffusion | no | {len(high)} / {len(low)} | {auc:.4f} |" in body
    assert "| gan | yes |" in body and "sources seen in training: camera, gan" in body.lower()
    assert "| alpha | 0.5 |" in body and "model.onnx" in body and "## Limits" in body
    assert Image.open(exported / "mean_maps.png").size == (448, 224)


def test_a_run_without_test_or_onnx_says_so(run, tmp_path, monkeypatch, capsys):
    bare = tmp_path / run.name
    bare.mkdir()
    for name in ("config.json", "history.csv", "model.safetensors"):
        shutil.copy(run / name, bare)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    made = export_run(str(bare), output=str(tmp_path / "out"))
    text = (made / "README.md").read_text()
    assert "pip install 'cyborg[export]'" in text and "pip install" in capsys.readouterr().out
    assert "None: the run holds no predictions" in text and "It was not tested" in text
    assert sorted(p.name for p in made.iterdir()) == [
        "README.md",
        "config.json",
        "history.csv",
        "model.safetensors",
    ]


def test_a_folder_that_is_taken_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="is there already; nothing was changed"):
        export_run(str(run), output=str(tmp_path), no_onnx=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_name_of_the_hub_is_looked_up_in_its_cache_and_a_wrong_one_refused(
    exported, tmp_path, monkeypatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--lab--detector" / "snapshots" / ("0" * 40)
    shutil.copytree(exported, snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.chdir(tmp_path)
    assert load_run("lab/detector").folder.name == "0" * 40
    with pytest.raises(FileNotFoundError, match="no folder 'lab/other' here, and it could not"):
        load_run("lab/other")
