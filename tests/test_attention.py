"""Attention maps: the published network written out, a training epoch by hand, and in runs."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_training import history, same_run, settings, write_faces
from torch.nn import functional as F

from cyborg.cam import min_max
from cyborg.data import balanced_order, on_device
from cyborg.epoch import build_network, make_datasets
from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.models import WeightsError, make_network
from cyborg.others.attention import add_attention, attention_place, read_attention
from cyborg.predictions import read_maps
from cyborg.settings import PRESETS, SettingsError, run_config
from cyborg.training import load_run, train

# --- the published network ---------------------------------------------------------------------


class Published:
    "Xception with its attention map by the released names, made or applied: `state` decides."

    def __init__(self, state=None):
        self.state, self.made = state, {}
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, name, shape, values=torch.randn):
        if self.state is not None:
            return self.state[name]
        self.made[name] = 0.1 * values(shape, generator=self.generator)
        return self.made[name]

    def convolution(self, x, name, c_in, c_out, side, stride=1, padding=0, groups=1):
        weight = self.tensor(f"{name}.weight", (c_out, c_in // groups, side, side))
        return F.conv2d(x, weight, None, stride, padding, 1, groups)

    def separable(self, x, name, c_in, c_out):
        x = self.convolution(x, f"{name}.c", c_in, c_in, 3, 1, 1, c_in)
        return self.convolution(x, f"{name}.pointwise", c_in, c_out, 1)

    def norm(self, x, name, c):
        scale, shift = self.tensor(f"{name}.weight", (c,)), self.tensor(f"{name}.bias", (c,))
        mean = self.tensor(f"{name}.running_mean", (c,))
        variance = self.tensor(f"{name}.running_var", (c,), torch.rand)
        if self.state is None:
            self.made[f"{name}.num_batches_tracked"] = torch.tensor(1)
        return F.batch_norm(x, mean, variance, scale, shift)

    def block(self, x, name, c_in, c_out, reps, stride=1, relu_first=True, grow_first=True):
        widths = [c_in] + ([c_out] * reps if grow_first else [*[c_in] * (reps - 1), c_out])
        y, place = x, 0
        for i in range(reps):
            if i or relu_first:
                y, place = y.relu(), place + 1
            y = self.separable(y, f"{name}.rep.{place}", widths[i], widths[i + 1])
            y, place = self.norm(y, f"{name}.rep.{place + 1}", widths[i + 1]), place + 2
        if stride > 1:
            y = F.max_pool2d(y, 3, stride, 1)
        if (c_in, stride) != (c_out, 1):
            x = self.convolution(x, f"{name}.skip", c_in, c_out, 1, stride)
            x = self.norm(x, f"{name}.skip_bn", c_out)
        return x + y

    def __call__(self, x, kind, templates=None):
        x = self.norm(self.convolution(x, "conv1", 3, 32, 3, 2), "bn1", 32).relu()
        x = self.norm(self.convolution(x, "conv2", 32, 64, 3), "bn2", 64).relu()
        x = self.block(x, "block1", 64, 128, 2, 2, relu_first=False)
        x = self.block(x, "block2", 128, 256, 2, 2)
        x = self.block(x, "block3", 256, 728, 2, 2)
        for i in range(4, 8):
            x = self.block(x, f"block{i}", 728, 728, 3)
        if kind == "regression":
            mask = self.separable(x, "map.c", 728, 1).sigmoid()
        else:
            v = self.block(x, "map.c", 728, 364, 2, 2, grow_first=False).relu().mean((2, 3))
            weight, bias = self.tensor("map.l.weight", (10, 364)), self.tensor("map.l.bias", (10,))
            mask = ((v @ weight.T + bias) @ templates.reshape(10, -1)).reshape(-1, 1, 19, 19)
        x = x * mask
        for i in range(8, 12):
            x = self.block(x, f"block{i}", 728, 728, 3)
        x = self.block(x, "block12", 728, 1024, 2, 2, grow_first=False)
        x = self.norm(self.separable(x, "conv3", 1024, 1536), "bn3", 1536).relu()
        x = self.norm(self.separable(x, "conv4", 1536, 2048), "bn4", 2048).relu()
        weight = self.tensor("last_linear.weight", (2, 2048))
        return x.mean((2, 3)) @ weight.T + self.tensor("last_linear.bias", (2,)), mask[:, 0]


def write_templates(folder):
    rng, found = np.random.default_rng(0), []
    for i in range(10):
        pixels = rng.integers(0, 256, (21, 20), dtype=np.uint8)  # cut to 19 x 19
        Image.fromarray(pixels).save(folder / f"template{i}.png")
        found.append(pixels[:19, :19] / np.float32(255))
    return torch.from_numpy(np.stack(found))


@pytest.mark.parametrize("kind", ["regression", "appearance"])
def test_a_published_file_gives_what_its_network_written_out_gives(tmp_path, kind):
    templates, maker = write_templates(tmp_path), Published()
    images = torch.randn(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maker(images, kind, templates)
        path = tmp_path / "000100.tar"
        torch.save({"net": maker.made, "optim": {}}, path)
        network = read_attention(path, tmp_path if kind == "appearance" else "")
        logits, mask = Published(maker.made)(images, kind, templates)
        output = network(images)
    torch.testing.assert_close(output.attention, mask, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    wrong = dict(maker.made)
    wrong["map.q"] = wrong.pop("block1.skip.weight")
    torch.save({"net": wrong}, path)
    with pytest.raises(WeightsError, match=r"1 missing: backbone\.block1\.skip\.weight"):
        read_attention(path, tmp_path)


def test_templates_are_asked_for_and_found_missing(tmp_path):
    path = tmp_path / "000100.tar"
    torch.save({"net": {"map.l.weight": torch.zeros(10, 364)}}, path)
    with pytest.raises(ValueError, match="give the folder they lie in"):
        read_attention(path)
    with pytest.raises(FileNotFoundError, match=r"template0\.png"):
        read_attention(path, tmp_path)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "inception_v3", "regnety_002"])
def test_other_networks_take_a_map_too(arch):
    network = make_network(arch, size=128, weights="none")
    place = attention_place(network)
    add_attention(network, "regression")
    with torch.inference_mode():
        output = network(torch.randn(2, 3, 128, 128))
    assert output.attention.shape == (2, *place.cells)
    assert max(place.cells) > max(output.features.shape[-2:])


# --- in a run ----------------------------------------------------------------------------------

SMALL = {
    "arch": "test_resnet",
    "attention": "regression",
    "guidance": "attention",
    "maps": "label",
    "optimizer": "adam",
    "weight_decay": 5e-4,
    "balanced": True,
    "epochs": 1,
    "flip": 0.0,
}


def images_of(faces):
    return read_manifest(faces, root=faces.parent)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


def test_a_run_is_the_published_training_written_out(faces, tmp_path):
    config = run_config(settings(faces, tmp_path, **SMALL))
    folder = train(config)
    network = make_network("test_resnet", 2, 40, "none", config.seed)
    add_attention(network, "regression", seed=config.seed)
    manifest = images_of(faces)
    data = make_datasets(manifest, network, config)["train"]
    labels = np.array(data.manifest.labels)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, 1, 0])))
    order = balanced_order(labels, rng)
    # As published: the sum of both losses, weight decay 1e-3. Ours is half of both; eps, which
    # keeps a gradient of 0 from dividing by 0, is doubled here so that it is half in ours, too.
    own = {"lr": config.lr, "weight_decay": 1e-3, "eps": 2e-8}
    optimizer = torch.optim.Adam(network.parameters(), **own)
    network.train()
    for start in range(0, len(order), 4):
        rows = order[start : start + 4]
        assert sorted(labels[rows]) == [0] * (len(rows) // 2) + [1] * (len(rows) // 2)
        batch = data.__getitems__([(1, row) for row in rows])
        output = network(on_device(batch.image, data.mean, data.std, torch.device("cpu")))
        masks = torch.stack([torch.full((3, 3), float(label)) for label in batch.label])
        loss = F.cross_entropy(output.logits, batch.label) + F.l1_loss(output.attention, masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = load_run(folder).network.state_dict()
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["regression", "appearance"])
def test_the_attention_map_takes_the_cams_place(faces, tmp_path, kind):
    changes = SMALL | {"attention": kind, "maps": "human"}
    folder = train(run_config(settings(faces, tmp_path, **changes)))
    run = load_run(folder)
    predict(run.network, images_of(faces).split("test"), folder)
    assert read_maps(folder).shape == (4, 3, 3)
    assert set(json.loads((folder / "config.json").read_text())["settings"]) >= {"attention"}
    history = pd.read_csv(folder / "history.csv")
    assert history["train_saliency"].between(0.01, 5).all()


def test_images_without_a_human_map_have_a_mask_all_the_same(faces, tmp_path):
    config = run_config(settings(faces, tmp_path, **SMALL))
    network = add_attention(make_network("test_resnet", 2, 40, "none"), "regression")
    data = make_datasets(images_of(faces), network, config)["train"]
    assert (
        data.has_map.all() and (data.human == np.array(data.manifest.labels)[:, None, None]).all()
    )
    human = run_config(settings(faces, tmp_path, **SMALL | {"maps": "human"}))
    assert not make_datasets(images_of(faces), network, human)["train"].has_map.all()


@pytest.mark.parametrize(
    "changes",
    [
        {**SMALL, "attention": "appearance", "epochs": 3},
        {"optimizer": "adam", "schedule": "plateau", "blur_jpeg": 0.5, "epochs": 3},
    ],
)
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_happened(faces, tmp_path, changes):
    changes = {"arch": "test_resnet", **changes}
    whole = train(run_config(settings(faces, tmp_path / "whole", **changes)))
    parts = run_config(settings(faces, tmp_path / "parts", **changes))

    def stop(so_far):
        if len(so_far) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(parts, [stop])
    same_run(whole, train(parts))


def test_the_plateau_schedule_ends_a_run_and_a_second_start_does_not_go_on(faces, tmp_path):
    changes = {"optimizer": "adam", "schedule": "plateau", "lr": 1.1e-6, "epochs": 50}
    config = run_config(settings(faces, tmp_path, arch="test_resnet", **changes))
    folder = train(config)
    rows = history(folder)
    best = np.maximum.accumulate(rows["val_accuracy"].to_numpy())
    assert len(rows) < 50 and (best[-6:-1] == best[-6]).all()  # five epochs without a gain
    assert rows["lr"].eq(1.1e-6).all()
    train(config)
    assert len(history(folder)) == len(rows)


def test_blur_and_jpeg_in_a_run(faces, tmp_path):
    "Training images are drawn anew each epoch, validation images all get the middle of the ranges."
    config = run_config(settings(faces, tmp_path, blur_jpeg=1.0, flip=0.0))
    network, manifest = make_network("test_resnet", 2, 40, "none"), images_of(faces)
    changed = make_datasets(manifest, network, config)
    plain = make_datasets(manifest, network, run_config(settings(faces, tmp_path, flip=0.0)))
    keys = [(1, 0), (1, 1)]
    for split in ("train", "val"):
        ours, theirs = (data[split].__getitems__(keys) for data in (changed, plain))
        assert not torch.equal(ours.image, theirs.image)
    assert torch.equal(ours.image, changed["val"].__getitems__([(2, 0), (2, 1)]).image)
    again = changed["train"].__getitems__([(2, 0), (2, 1)])
    assert not torch.equal(again.image, changed["train"].__getitems__([(1, 0), (1, 1)]).image)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"attention": "regression"}, "goes with guidance attention"),
        ({"guidance": "attention"}, "neither without the other"),
        ({"maps": "label"}, "which no CAM can follow"),
        ({"optimizer": "adm"}, "optimizer is 'adm'"),
        ({"blur_jpeg": 2.0}, "blur_jpeg is 2.0"),
        ({"attention": "regression", "guidance": "attention", "map_kind": "cam"}, "map_kind"),
        ({"map_kind": "attention"}, "map_kind"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        run_config({"manifest": "m.csv", **wrong})


def test_too_few_human_maps_for_an_appearance_model(faces, tmp_path):
    table = pd.read_csv(faces, keep_default_na=False).assign(map="")
    table.to_csv(faces.parent / "no_maps.csv", index=False)
    changes = SMALL | {"attention": "appearance"}
    config = settings(faces.parent / "no_maps.csv", tmp_path, **changes)
    with pytest.raises(SettingsError, match="needs 2 maps that are not flat, got 0"):
        train(run_config(config))


ROLLOUT = {"arch": "test_vit", "attention": "rollout", "size": 48, "epochs": 1, "flip": 0.0}


def test_rollout_of_a_vision_transformer_is_trained_by_the_cyborg_loss(faces, tmp_path):
    config = run_config(settings(faces, tmp_path, **ROLLOUT))
    folder = train(config)
    network = build_network(config, 2)
    data = make_datasets(images_of(faces), network, config)["train"]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([config.seed, 1, 0])))
    order = rng.permutation(len(data))
    optimizer = torch.optim.SGD(network.parameters(), config.lr, 0.9, weight_decay=1e-6)
    network.train()
    for rows in (order[:4], order[4:8], order[8:]):
        batch = data.__getitems__([(1, row) for row in rows])
        output = network(on_device(batch.image, data.mean, data.std, torch.device("cpu")))
        apart = (min_max(output.attention) - min_max(batch.human)).square().mean((1, 2))
        loss = F.cross_entropy(output.logits, batch.label) / 2
        loss = loss + (apart * batch.has_map).sum() / len(rows) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    run = load_run(folder)
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(run.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
    predict(run.network, images_of(faces).split("test"), folder)
    assert read_maps(folder).shape == (4, 3, 3)


def test_classical_training_of_a_vision_transformer(faces, tmp_path):
    folder = train(run_config(settings(faces, tmp_path, alpha=1.0, **ROLLOUT)))
    rows = history(folder)
    assert (rows["train_loss"] == rows["train_classification"]).all()


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"guidance": "hint"}, "or at one of a class"),
        ({"guidance": "rrr"}, "another map than attention rollout"),
        ({"which": "true"}, "which is 'true'"),
        ({"maps": "label"}, "which no CAM can follow"),
        ({"quirks": "released"}, "the released code has no attention"),
    ],
)
def test_what_a_vision_transformer_lacks_is_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        run_config({"manifest": "m.csv", "arch": "test_vit", "attention": "rollout", **wrong})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_settings_that_go_together(preset):
    run_config({"manifest": "m.csv", **PRESETS[preset]})
