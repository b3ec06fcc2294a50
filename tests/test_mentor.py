"""MENTOR: decoder and loss against literal versions, a kill in the middle, the encoder handed on,
validation images without maps, maps for others, and what is refused."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cyborg.data import ImageDataset
from cyborg.demo import make_demo
from cyborg.manifest import Manifest, write_manifest
from cyborg.models import NetworkError, WeightsError, make_network
from cyborg.prepare import mentor
from cyborg.prepare.mentor import (
    MapAutoencoder,
    MentorConfig,
    annotated_split,
    encoded,
    encoder_weights,
    load_autoencoder,
    map_datasets,
    map_loss,
    mean_map_loss,
    train_autoencoder,
)
from cyborg.prepare.sources import autoencoder_maps, map_manifest
from cyborg.saliency import cc, read_map, resize_map, unit_range, write_map
from cyborg.settings import SettingsError, preset_config
from cyborg.training import load_run, train


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("mentor") / "demo", n=64, size=64)


@pytest.fixture(scope="module")
def config(demo, tmp_path_factory):
    where = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root)}
    where |= {"runs": str(tmp_path_factory.mktemp("runs")), "device": "cpu", "weights": "none"}
    return MentorConfig(**where, arch="test_resnet", size=64, epochs=2, batch_size=8, lr=1e-3)


@pytest.fixture(scope="module")
def folder(config):
    return train_autoencoder(config)


def test_the_decoder_is_a_unet():
    """Written out for one network: up, join, convolve twice, the smallest maps first."""
    model = MapAutoencoder(make_network("test_resnet", 2, 64, "none"), seed=3).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen, net = {}, model.encoder
    for name in ("act1", "layer1", "layer2", "layer3", "layer4"):
        getattr(net, name).register_forward_hook(lambda m, i, o, name=name: seen.update({name: o}))
    with torch.inference_mode():
        drawn = model(images)
        x = seen["layer4"]
        for up, name in zip(model.decoder, ("layer3", "layer2", "layer1", "act1"), strict=True):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = torch.cat([x, seen[name]], 1)
            conv1, norm1, _, conv2, norm2, _ = up.layers
            for conv, norm in ((conv1, norm1), (conv2, norm2)):
                x = nn.functional.conv2d(x, conv.weight, padding=1)
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                x = (x - norm.running_mean[:, None, None]) * scale[:, None, None]
                x = (x + norm.bias[:, None, None]).clamp(min=0)
        logits = nn.functional.conv2d(x, model.head.weight, model.head.bias, padding=1)[:, 0]
    np.testing.assert_allclose(drawn, 1 / (1 + np.exp(-logits.numpy())), atol=1e-5)
    assert [up.layers[0].out_channels for up in model.decoder] == [256, 128, 64, 32]


@pytest.mark.parametrize("arch", ["inception_v3", "xception"])
def test_the_papers_networks_hand_out_what_they_pool(arch):
    network = make_network(arch, 2, 112, "none")
    images = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features, skips = encoded(network.backbone, images)
        assert torch.equal(features, network(images).features)
    sides = [x.shape[-1] for x in (features, *skips)]
    assert len(skips) == 4 and sides == sorted(set(sides)) and 50 <= sides[-1] <= 56


def test_all_of_the_encoder_is_trained_and_handed_on(tmp_path):
    """Everything but the last layer; a network of three classes takes the file."""
    model = MapAutoencoder(make_network("densenet121", 2, 64, "none"))
    model(torch.randn(1, 3, 64, 64)).sum().backward()
    idle = {name for name, p in model.encoder.named_parameters() if p.grad is None}
    handed = encoder_weights(model)
    assert idle == {"classifier.weight", "classifier.bias"}
    save_file(handed, tmp_path / "encoder.safetensors")
    network = make_network("densenet121", 3, 64, str(tmp_path / "encoder.safetensors"), seed=9)
    state = network.backbone.state_dict()
    assert set(state) - set(handed) == idle
    assert all(torch.equal(state[name], weight) for name, weight in handed.items())


def test_the_decoders_weights_come_from_the_seed():
    states = [MapAutoencoder(make_network("test_resnet", 2, 64, "none"), s) for s in (1, 1, 2)]
    first, again, other = (model.head.weight for model in states)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_loss_is_that_of_the_released_code():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(3, 4, 4, generator=generator)
    human = torch.rand(3, 4, 4, generator=generator) * 0.7 + 0.1
    total = 0.0
    for one, map in zip(drawn, human, strict=True):
        map = map - map.min()
        map = map / map.max()
        total += sum((a - b) ** 2 for a, b in zip(one.flatten(), map.flatten(), strict=True))
    np.testing.assert_allclose(map_loss(drawn, human), total / 48, rtol=1e-5)


def test_history_says_what_was_reached(folder, config, demo):
    """Loss and correlation of the last epoch, and the mean map's, image by image."""
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    model = load_autoencoder(folder)
    data = map_datasets(demo, model, config)
    best = history.loc[history["val_loss"][::-1].idxmin()]
    losses, agreements = [], []
    for i in range(len(data["val"])):
        one = data["val"][i]
        with torch.inference_mode():
            drawn = model(one.image[None])[0].numpy()
        human = unit_range(one.human.numpy())
        losses.append(((drawn - human) ** 2).mean())
        agreements.append(cc(drawn, human))
    np.testing.assert_allclose(best["val_loss"], np.mean(losses), rtol=0.02)  # bf16 or fp32
    np.testing.assert_allclose(best["val_cc"], np.mean(agreements), atol=0.02)
    mean = np.mean([unit_range(map) for map in data["train"].human], axis=0)
    expected = np.mean([((unit_range(map) - mean) ** 2).mean() for map in data["val"].human])
    np.testing.assert_allclose(mean_map_loss(data), expected, rtol=1e-5)
    np.testing.assert_allclose(history["mean_map_loss"], expected, rtol=1e-5)
    whole, part = load_file(folder / "autoencoder.safetensors"), encoder_weights(model)
    assert all(torch.equal(whole[f"encoder.{name}"], weight) for name, weight in part.items())


class Killed(BaseException):
    pass


def test_a_killed_run_ends_the_same(folder, config, monkeypatch):
    """Killed in the second epoch; what is there then is not called finished, and goes on."""
    again = dataclasses.replace(config, name="killed")
    passes, real = [], mentor.run_maps

    def dies(*args):
        passes.append(1)
        if len(passes) > 2:
            raise Killed
        return real(*args)

    monkeypatch.setattr(mentor, "run_maps", dies)
    with pytest.raises(Killed):
        train_autoencoder(again)
    assert len(pd.read_csv(again.folder / "history.csv")) == 1
    monkeypatch.setattr(mentor, "run_maps", lambda *args: passes.append(2) or real(*args))
    train_autoencoder(again)
    assert passes.count(2) == 2  # the second epoch only
    columns = [name for name in pd.read_csv(folder / "history.csv") if name != "seconds"]
    one, two = (pd.read_csv(f / "history.csv")[columns] for f in (folder, again.folder))
    assert one.equals(two)
    for name in ("encoder", "autoencoder"):
        one, two = (load_file(f / f"{name}.safetensors") for f in (folder, again.folder))
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_validation_images_without_maps(demo):
    """As in the paper: a share of the annotated training images is held out, whole subjects."""
    table = demo.table.assign(map=demo.table["map"].where(demo.table["split"] == "train", ""))
    held = annotated_split(Manifest(table, demo.root), 0.25).table
    assert set(held["image"]) == set(table["image"][table["map"] != ""])
    by = held.groupby("split")["subject"].apply(set)
    assert not by["train"] & by["val"] and 3 <= (held["split"] == "val").sum() <= 10
    kept = annotated_split(demo).table
    assert set(kept["split"]) == {"train", "val"} and (kept["map"] != "").all()
    with pytest.raises(SettingsError, match="holdout 0.001 of .* leaves none"):
        annotated_split(Manifest(table, demo.root), 0.001)


def test_flat_maps_teach_nothing(demo, config, tmp_path):
    shutil.copytree(demo.root, tmp_path / "own")
    own = Manifest(demo.table, tmp_path / "own", demo.classes)
    model = MapAutoencoder(make_network("test_resnet", 2, 64, "none"))
    names = own.table["map"][own.table["split"] == "train"].tolist()
    write_map(own.root / names[0], np.zeros((64, 64)))
    with pytest.warns(UserWarning, match="maps flat, taken as no map"):
        data = map_datasets(own, model, config)
    assert names[0] not in data["train"].manifest.table["map"].tolist()
    assert data["train"].has_map.all() and len(data["train"]) >= 20
    (own.root / names[1]).unlink()
    with pytest.raises(ValueError, match="No such file"):
        map_datasets(own, model, config)


def test_the_second_round(folder, config, demo):
    """The classifier starts from the encoder's very weights, and another network refuses them."""
    given = {k: getattr(config, k) for k in ("manifest", "root", "runs", "size", "device")}
    given |= {"weights": str(folder / "encoder.safetensors"), "epochs": 1, "name": "second"}
    run = load_run(train(preset_config("quick", {**given, "alpha": 1.0, "lr": 1e-30})))
    learned = load_file(folder / "encoder.safetensors")
    state = run.network.backbone.state_dict()
    same = [name for name in learned if torch.equal(state[name], learned[name])]
    assert {name for name in learned if name.endswith("weight")} <= set(same)
    with pytest.raises(WeightsError, match="does not fit this network"):
        make_network("resnet18", 2, 64, given["weights"])


def test_maps_for_images_without(folder, demo, tmp_path):
    """Labels are not looked at; what is written is what the decoder draws."""
    shutil.copytree(demo.root, tmp_path / "own")
    lying = demo.table.assign(label="authentic", map="")[demo.table["split"] == "train"]
    done = map_manifest(
        Manifest(lying, tmp_path / "own", demo.classes), autoencoder_maps(folder), "m"
    )
    assert set(done.manifest.table["map_source"]) == {f"autoencoder {folder.name}"}
    model, [image, *_] = load_autoencoder(folder), lying["image"]
    rows = Manifest(lying[lying["image"] == image], demo.root, demo.classes)
    data = ImageDataset(rows, model.size, model.map_size, model.mean, model.std)
    with torch.inference_mode():
        drawn = model(data[0].image[None])[0].numpy()
    written = read_map(tmp_path / "own" / done.manifest.table["map"].iloc[0])
    np.testing.assert_allclose(written, unit_range(resize_map(drawn, (224, 224))), atol=3 / 255)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"holdout": 1.0}, "holdout is 1.0, expected"),
        ({"precision": "fp16"}, "precision is 'fp16', expected one of"),
        ({"size": "64"}, "size is '64', expected int"),
    ],
)
def test_settings_are_checked(config, wrong, told):
    with pytest.raises(SettingsError, match=told):
        dataclasses.replace(config, **wrong)


def test_what_is_refused(config, folder, demo, tmp_path):
    with pytest.raises(FileExistsError, match="seed: 0, now 1"):
        train_autoencoder(dataclasses.replace(config, seed=1, name=folder.name))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        train_autoencoder(dataclasses.replace(config, manifest=str(tmp_path / "nowhere.csv")))
    bare = write_manifest(Manifest(demo.table.assign(map=""), demo.root), tmp_path / "bare.csv")
    with pytest.raises(SettingsError, match="no training image has a map to learn from"):
        train_autoencoder(dataclasses.replace(config, manifest=str(bare)))
    with pytest.raises(FileNotFoundError, match="no config.json and no autoencoder.safetensors"):
        autoencoder_maps(tmp_path)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text(json.dumps({"settings": {}}))
    with pytest.raises(FileNotFoundError, match="it has no autoencoder.safetensors"):
        load_autoencoder(half)
    with pytest.raises(NetworkError, match="Linear does not hand out the maps"):
        encoded(nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))
