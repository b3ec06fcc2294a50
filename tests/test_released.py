"""The released step, written literally from its description, against ours; its files read."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from test_training import settings, write_faces
from torch import nn
from torchvision import models, transforms

from cyborg.data import Batch
from cyborg.epoch import make_datasets, run_epoch
from cyborg.evaluation import predict
from cyborg.findings import validate
from cyborg.manifest import Manifest, read_manifest, read_released, write_manifest
from cyborg.measure.auc import auc_table, image_scores
from cyborg.models import WeightsError, make_network
from cyborg.others.quirks import QUIRKS
from cyborg.others.released import (
    load_released,
    quirky_output,
    read_released_run,
    released_point,
    released_score,
    rename_released,
    set_dropout,
    unguarded_loss,
)
from cyborg.predictions import read_predictions
from cyborg.saliency import human_map, stroke_mask, write_map
from cyborg.settings import RunConfig, SettingsError, run_config
from cyborg.training import load_run, train

SIZES = {"resnet50": 40, "densenet121": 64, "inception_v3": 107, "xception": 40}
STEPS = 5


def released_network(arch: str) -> tuple[nn.Module, str, str]:
    "Network, path of its linear layer and of the layer whose output the hook takes."
    if arch == "resnet50":
        return models.resnet50(num_classes=2), "fc", "layer4.2.conv3"
    if arch == "densenet121":
        return models.densenet121(num_classes=2), "classifier", ""
    if arch == "inception_v3":
        network = models.inception_v3(num_classes=2, aux_logits=False, init_weights=False)
        return network, "fc", "Mixed_7c"
    return timm.create_model("legacy_xception", num_classes=2), "fc", "conv4"


def literal_steps(network, head, hooked, images, labels, human, alpha=0.5) -> list[float]:
    "The released training loop: image by image, second DenseNet pass, no guard, SGD."
    seen = {}
    if hooked:
        layer = network.get_submodule(hooked)
        layer.register_forward_hook(lambda m, i, o: seen.update(features=o))
    solver = torch.optim.SGD(network.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-6)
    network.train()
    losses = []
    for step in range(STEPS):
        outputs = network(images[step])
        predicted = outputs.max(dim=1)[1]
        features = seen["features"] if hooked else network.features(images[step])
        weights = network.get_submodule(head).weight
        maps = []
        for k in range(len(labels)):
            cells = features[k].reshape(features.shape[1], -1)
            cam = torch.matmul(weights[predicted[k]], cells).reshape(features.shape[2:])
            cam = cam - cam.min()
            maps.append(cam / cam.max())
        saliency = nn.MSELoss()(torch.stack(maps), human)
        loss = alpha * nn.CrossEntropyLoss()(outputs, labels) + (1 - alpha) * saliency
        solver.zero_grad()
        loss.backward()
        solver.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("arch", SIZES)
def test_five_steps_equal_the_literal_ones(arch):
    torch.manual_seed(0)
    # In double precision: what rounds differently in float32 grows a thousandfold in five steps.
    theirs, head, hooked = released_network(arch)
    theirs, ours = theirs.double(), make_network(arch, size=SIZES[arch], weights="none").double()
    ours.backbone.load_state_dict(theirs.state_dict())
    set_dropout(ours)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS, 2, 3, SIZES[arch], SIZES[arch], generator=generator).double()
    human = torch.rand(2, *ours.map_size, generator=generator).double()
    low = human.amin((1, 2), keepdim=True)
    human = (human - low) / (human.amax((1, 2), keepdim=True) - low)
    labels = torch.tensor([0, 1])

    torch.manual_seed(2)  # of the dropout
    literal = literal_steps(theirs, head, hooked, images, labels, human)

    torch.manual_seed(2)
    solver = torch.optim.SGD(ours.parameters(), 0.005, 0.9, weight_decay=1e-6)
    ours.train()
    losses = []
    for step in range(STEPS):
        output = quirky_output(ours, ours, images[step], tuple(QUIRKS))
        parts = unguarded_loss(output, ours.head_weight, labels, human, labels >= 0)
        solver.zero_grad()
        parts.total.backward()
        solver.step()
        losses.append(parts.total.item())
    assert losses == pytest.approx(literal, rel=1e-5)
    ours_state, counts = ours.backbone.state_dict(), set()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours_state[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
        if name.endswith("num_batches_tracked"):
            counts.add(tensor.item())
    assert counts == {2 * STEPS if arch == "densenet121" else STEPS}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in ours.modules())


@pytest.mark.parametrize("arch", ["resnet50", "densenet121", "inception_v3"])
def test_torchvision_names_are_timms(arch):
    theirs = released_network(arch)[0].state_dict()
    ours = make_network(arch, size=SIZES[arch], weights="none").backbone.state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_xception_names_and_auxiliary_heads_are_mapped(tmp_path):
    network = make_network("xception", size=64, weights="none", seed=3)
    state = network.backbone.state_dict()
    released = {
        f"model.{k}".replace("model.fc.", "model.last_linear."): v for k, v in state.items()
    }
    released["AuxLogits.fc.weight"] = torch.zeros(2, 768)
    assert set(rename_released(released)) == set(state)
    torch.save({"epoch": 1, "state_dict": released, "optimizer": {}}, tmp_path / "final_model.pth")
    again = load_released(tmp_path / "final_model.pth", "xception", 64)
    assert all(torch.equal(v, again.backbone.state_dict()[k]) for k, v in state.items())


def released_folder(folder: Path, alpha: float | None):
    "A run folder with weights and, where alpha is given, the command line, read."
    (folder / "Logs").mkdir(parents=True)
    (folder / "Logs" / "final_model.pth").touch()
    if alpha is not None:
        (folder / "Logs" / "params.json").write_text(json.dumps({"alpha": alpha}))
    return read_released_run(folder)


class Payload:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_a_checkpoint_that_would_run_code_is_not_opened(tmp_path, capsys):
    torch.save({"state_dict": {}, "extra": Payload()}, tmp_path / "final_model.pth")
    with pytest.raises(WeightsError, match="was not opened"):
        load_released(tmp_path / "final_model.pth", "resnet50", 64)
    assert "must not run" not in capsys.readouterr().out


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no final_model.pth and no current_model.pth"):
        read_released_run(tmp_path)


@pytest.mark.parametrize(
    "place, params, alpha, run",
    [
        ("cams_0.5/cams_0.51", 0.5, 0.5, 1),
        ("cams_0.25/cams_0.251", 0.25, 0.25, 1),
        ("cams_0.25/cams_0.251", None, 0.25, 1),  # the folder around it is enough
        ("copied/cams_0.251", 0.25, 0.25, 1),  # and so is params.json
        ("cams_0.75/cams_0.7510", 0.75, 0.75, 10),
        ("cams_1.0/cams_1.03", 1.0, 1.0, 3),
        ("copied/cams_13", 1.0, 1.0, 3),
        ("cams_0/cams_01", 0.0, 0.0, 1),
        ("copied/cams_0.251", None, None, None),  # run 51 of 0.2 or run 1 of 0.25
        ("densenet/densenet_human_cyborg_20_0.5_3", 0.5, 0.5, None),
    ],
)
def test_alpha_and_run_of_a_released_folder(tmp_path, place, params, alpha, run):
    assert released_folder(tmp_path / place, params)[1:3] == (alpha, run)


@pytest.mark.parametrize(
    "place, params, text",
    [
        ("cams_0.5/cams_0.51", 0.25, "params.json 0.25 and cams_0.5 0.5"),
        ("cams_0.5/cams_0.251", 0.5, "not named as run of alpha 0.5, cams_0.51"),
        ("cams_0.5/cams_0.5", None, "not named as run of alpha 0.5"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(tmp_path, place, params, text):
    with pytest.raises(ValueError, match=text):
        released_folder(tmp_path / place, params)


def test_the_hook_is_gone_after_an_error():
    network = make_network("resnet18", size=64, weights="none")
    with pytest.raises(RuntimeError, match="inside"), released_point(network.backbone):
        raise RuntimeError("inside")
    assert not any(m._forward_hooks for m in network.modules())


# Whole runs


def test_a_run_with_quirks_trains_and_says_so(tmp_path):
    faces = write_faces(tmp_path)  # 13 training images: 4, 4, 4 and 1
    tiny = {"arch": "test_resnet", "size": 64, "epochs": 1, "flip": 0.0}
    run = load_run(train(run_config(settings(faces, tmp_path, **tiny, quirks="hook,last_batch"))))
    assert run.network.backbone.bn1.num_batches_tracked == 4
    assert run.config.quirks == "hook,last_batch"


def test_the_last_image_trains_alone(tmp_path):
    from accelerate import Accelerator

    network = make_network("resnet18", size=64, weights="none")
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        torch.randn(5, 3, 64, 64, generator=generator),
        torch.arange(5) % 2,
        torch.rand(5, 2, 2, generator=generator),
        torch.ones(5) > 0,
        torch.arange(5),
    )
    for quirks, steps in (("", 1), ("last_batch", 2)):
        config = RunConfig("m.csv", batch_size=4, quirks=quirks)
        before = network.backbone.bn1.num_batches_tracked.item()
        optimizer = torch.optim.SGD(network.parameters(), 1e-9)
        row = run_epoch(network, [batch], config, Accelerator(cpu=True), "fp32", optimizer)
        assert network.backbone.bn1.num_batches_tracked.item() - before == steps
        assert row["train_loss"] > 0


def test_a_run_with_the_quirk_takes_the_maps_as_released(tmp_path):
    manifest = read_manifest(write_faces(tmp_path), tmp_path)
    network, steps = make_network("test_resnet", size=96, weights="none"), transforms.ToTensor()
    for quirks in ("", "map_resize", "released"):
        config = RunConfig("m.csv", arch="test_resnet", size=96, quirks=quirks)
        dataset = make_datasets(manifest, network, config)["train"]
        for row in np.flatnonzero(dataset.has_map):
            path = manifest.root / dataset.manifest.table["map"][row]
            grey = Image.open(path).convert("L").resize(network.map_size[::-1], Image.BILINEAR)
            same = np.array_equal(dataset.human[row], steps(grey)[0].numpy())
            assert same == (quirks != "")


def test_an_unknown_quirk_is_refused_early():
    with pytest.raises(SettingsError, match="quirks holds 'hok'.*did you mean 'hook'"):
        RunConfig("m.csv", quirks="hok")
    with pytest.raises(SettingsError, match="unguarded.*is the released loss"):
        RunConfig("m.csv", quirks="released", guidance="hint")


# --- the sample images of the released repository -----------------------------------------------

ROOT = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("CYBORG_FACES") or ROOT.parent / "shared" / "data" / "faces")
SAMPLES = REAL / "synthetic" / "cyborg_repo"


def released_world(folder: Path) -> list[Path]:
    "The ten samples and ten photographs in the released folders, lists and maps."
    fake = sorted(SAMPLES.glob("*.png"))
    real = sorted((REAL / "authentic" / "ffhq_lago").iterdir())[: len(fake)]
    lists = {"original.csv": [], "progan_aligned.csv": []}
    for i, pair in enumerate(zip(real, fake, strict=True)):
        for number, (word, image) in enumerate(zip(("Real", "Synthetic"), pair, strict=True)):
            where = "train/original_data" if i < 5 else "val" if i < 7 else "test"
            parts = f"{where}/{number}_{('real', 'fake')[number]}"
            parts += ("/ffhq_aligned", "/progan_aligned")[number] * (where == "test")
            name = f"{parts}/p1_{i}_real.png" if word == "Real" else f"{parts}/{image.name}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with Image.open(image) as picture:
                picture.resize((224, 224)).save(folder / name)
            split = "test" if where != "train/original_data" else "train"
            rows = lists["progan_aligned.csv" if where == "test" else "original.csv"]
            rows.append(f"{split},{word},/{name}\n")
            if split == "train":  # maps have the name of their image
                marks = stroke_mask([np.array([[60 + 9 * i, 90], [150, 120]])], (224, 224), 20)
                write_map(folder / "train" / "heatmaps" / Path(name).name, human_map(marks[None]))
    for name, rows in lists.items():
        (folder / name).write_text("".join(rows))
    return [folder / name for name in lists]


@pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"needs the ten sample images: there is no {SAMPLES}"
)
def test_the_ten_sample_images_go_through(tmp_path):
    root = tmp_path / "Data"
    training, testing = released_world(root)
    parts = [read_released(training, root, maps="train/heatmaps")]
    parts.append(read_released(testing, root, test="test"))
    table = pd.concat([part.table for part in parts], ignore_index=True)
    manifest = Manifest(table, root, parts[0].classes)
    assert manifest.table.groupby(["split", "label"]).size().to_dict() == {
        **{("train", "authentic"): 5, ("train", "synthetic"): 5},
        **{("val", "authentic"): 2, ("val", "synthetic"): 2},
        **{("test", "authentic"): 3, ("test", "synthetic"): 3},
    }
    assert (manifest.table["map"] != "").tolist() == (manifest.table["split"] == "train").tolist()
    assert not [found for found in validate(manifest) if found.refuse]
    write_manifest(manifest, tmp_path / "manifest.csv")
    own = {"root": str(root), "arch": "resnet18", "size": 64, "epochs": 1, "batch_size": 10}
    own |= {"quirks": "released", "precision": "fp32", "distance": "mse", "flip": 0.0}
    folder = train(run_config(settings(tmp_path / "manifest.csv", tmp_path / "runs", **own)))
    run = load_run(folder)
    assert np.isfinite(run.history["train_loss"]).all() and len(run.history) == 1
    assert run.history["val_saliency"].tolist() == [0.0]  # no image of validation has a map
    again = read_manifest(tmp_path / "manifest.csv", root)
    found = read_predictions(predict(run.network, again.split("test"), folder))
    assert found.attrs["settings"]["score"] == "released" and found.attrs["excluded"] == {}
    wanted = [1 / (1 + np.exp(-z)) for z in found["logit_1"].astype(float)]
    np.testing.assert_allclose(found["score"], wanted, rtol=1e-12)
    auc = auc_table(found, score="logit_1").set_index("source")["auc"]["progan_aligned"]
    pairs = [
        (own > other) + (own == other) / 2
        for own in found.loc[found["label"] == "synthetic", "logit_1"]
        for other in found.loc[found["label"] == "authentic", "logit_1"]
    ]
    assert auc == pytest.approx(np.mean(pairs))


def test_the_released_score_is_the_sigmoid_of_the_second_logit():
    logits = np.array([[3.0, 0.0], [-9.0, 2.0]])
    wanted = [0.5, 1 / (1 + np.exp(-2.0))]
    assert released_score(torch.from_numpy(logits)).tolist() == pytest.approx(wanted)
    assert image_scores(logits, "released").tolist() == pytest.approx(wanted)
