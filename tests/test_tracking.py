"""Trackers are told of a run for real: TensorBoard's events, MLflow in a SQLite file."""

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from cyborg import tracking
from cyborg.data import ImageDataset
from cyborg.manifest import read_manifest
from cyborg.models import make_network
from cyborg.overlays import overlay
from cyborg.saliency import write_map
from cyborg.settings import RunConfig, SettingsError
from cyborg.tracking import maps_picture
from cyborg.training import train

COLUMNS = ["train_loss", "val_loss", "val_accuracy", "val_auc", "lr"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "Fourteen pictures of noise, each with a map."
    folder, rng, rows = tmp_path_factory.mktemp("faces"), np.random.default_rng(0), []
    for i in range(14):
        label = ("authentic", "synthetic")[i % 2]
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{i}.png")
        write_map(folder / f"{i}.map.png", rng.random((40, 40), dtype=np.float32))
        row = {"image": f"{i}.png", "label": label, "source": label[:4], "map": f"{i}.map.png"}
        rows.append(
            row | {"split": "train" if i < 8 else "val" if i < 12 else "test", "subject": str(i)}
        )
    pd.DataFrame(rows).to_csv(folder / "faces.csv", index=False)
    return folder / "faces.csv"


def run(faces, runs, tracker, epochs=2, **more):
    config = {"arch": "resnet18", "weights": "none", "size": 40, "batch_size": 4, "epochs": epochs}
    config |= {"device": "cpu", "precision": "fp32", "name": "run", "runs": str(runs)}
    return RunConfig(str(faces), str(faces.parent), tracker=tracker, **config, **more)


class Stop(Exception):
    "A run that is stopped after its first epoch."


def stop(history):
    raise Stop


def test_an_unknown_tracker_and_one_that_is_not_installed(monkeypatch, faces, tmp_path):
    with pytest.raises(SettingsError, match="did you mean 'mlflow'"):
        run(faces, tmp_path, "mlflo")
    with pytest.raises(SettingsError, match="name is 'Tracking', which is a folder beside"):
        RunConfig("m.csv", name="Tracking")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'cyborg\[wandb\]'"):
        train(run(faces, tmp_path, "wandb"))
    assert not (tmp_path / "run").exists()


def test_tensorboard_has_each_epoch_and_a_picture_and_the_weights_are_the_same(faces, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stop):
        train(run(faces, tmp_path, "tensorboard"), [stop])
    folder = train(run(faces, tmp_path, "tensorboard"))  # goes on
    history = pd.read_csv(folder / "history.csv")
    found = EventAccumulator(str(tmp_path / "tracking" / "run")).Reload()
    for column in COLUMNS:
        told = {event.step: event.value for event in found.Scalars(column)}
        assert [told[1], told[2]] == pytest.approx(history[column].tolist(), rel=1e-6), column
    assert {event.step for event in found.Images("maps")} == {1, 2}
    alone = train(run(faces, tmp_path / "alone", "none"))
    assert not (alone.parent / "tracking").exists()
    one, other = ((f / "model.safetensors").read_bytes() for f in (folder, alone))
    assert one == other


def test_mlflow_goes_on_in_the_run_it_has(monkeypatch, faces, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    train(run(faces, tmp_path / "before", "mlflow", epochs=1))  # another store of this process
    with pytest.raises(Stop):
        train(run(faces, tmp_path, "mlflow"), [stop])
    folder = train(run(faces, tmp_path, "mlflow"))
    store = f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    [experiment] = client.search_experiments(filter_string="name = 'cyborg'")
    [kept] = client.search_runs([experiment.experiment_id])
    assert kept.data.params["alpha"] == "0.5" and kept.info.run_name == "run"
    history = pd.read_csv(folder / "history.csv")
    for column in COLUMNS:
        told = {m.step: m.value for m in client.get_metric_history(kept.info.run_id, column)}
        assert [told[1], told[2]] == pytest.approx(history[column].tolist(), rel=1e-6), column
    pictures = [file.path for file in client.list_artifacts(kept.info.run_id, "maps")]
    assert pictures == ["maps/epoch_0001.png", "maps/epoch_0002.png"]
    assert not (tmp_path / "mlruns").exists()


def test_a_tracker_that_fails_later_is_said_once_and_training_goes_on(
    monkeypatch, faces, tmp_path, capsys
):
    class Down(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "down", False, None

        def __init__(self):
            pass

        def start(self):
            pass

        def store_init_configuration(self, values):
            assert values["alpha"] == 0.5 and "synthetic" not in values  # empty ones are left out

        def log(self, values, step):
            raise ConnectionError("no route to host")

        finish = log

    monkeypatch.setitem(tracking.TRACKERS, "wandb", lambda config, place: Down())
    monkeypatch.setattr(tracking, "find_spec", lambda name: name)
    folder = train(run(faces, tmp_path, "wandb"))
    assert len(pd.read_csv(folder / "history.csv")) == 2
    assert capsys.readouterr().out.count("no route to host; training goes on") == 1


def test_the_picture_shows_image_human_map_and_model_map(faces):
    manifest = read_manifest(faces, faces.parent).split("val")
    network = make_network("resnet18", weights="none", size=40).train()
    dataset = ImageDataset(manifest, 40, network.map_size, mean=network.mean, std=network.std)
    picture = maps_picture(network, dataset, torch.device("cpu"))
    assert picture.shape == (4 * 40, 3 * 40, 3) and network.training
    first = np.asarray(Image.open(faces.parent / manifest.table["image"][0]))
    assert np.abs(picture[:40, :40].astype(int) - first).max() <= 1
    human = overlay(picture[:40, :40], dataset.__getitems__([0]).human[0].numpy())
    assert (picture[:40, 40:80] == human).all()


def test_only_the_main_process_tells(faces, tmp_path):
    class Second:
        is_main_process = False

    with tracking.tracking(run(faces, tmp_path, "mlflow"), {}, None, Second()) as told:
        assert told == []
    with tracking.tracking(run(faces, tmp_path, "none"), {}, None, Accelerator(cpu=True)) as told:
        assert told == []
