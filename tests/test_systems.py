"""Detectors of others that are trained here learn what tells their training generators."""

import pandas as pd
import pytest
from test_training import settings, write_faces

from cyborg.settings import preset_config
from cyborg.training import train

SMALL = {"arch": "test_resnet", "weights": "none", "size": 64, "device": "cpu"}
SMALL |= {"batch_size": 8, "epochs": 6, "lr": 0.003, "flip": 0.0}
SYSTEMS = {
    "cnndetection": ("cnndetection", {}),
    "self_attention": ("self_attention", {}),
    "appearance_model": ("self_attention", {"attention": "appearance"}),
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "80 images to train on and 40 for validation, all with maps."
    path = write_faces(tmp_path_factory.mktemp("faces"), 124)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["split"] = ["train"] * 80 + ["val"] * 40 + ["test"] * 4
    table["map"] = [f"map{i % 40}.png" for i in range(len(table))]
    table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_learns(faces, tmp_path, system):
    preset, own = SYSTEMS[system]
    paths = {name: settings(faces, tmp_path)[name] for name in ("manifest", "root", "runs", "name")}
    folder = train(preset_config(preset, paths | SMALL | own))
    assert pd.read_csv(folder / "history.csv")["val_auc"].iloc[-1] > 0.9
