"""The training loop written out in plain torch, NumPy and Pillow, against which `train` is held.

Nothing of cyborg is imported here: what section 6.1 and the settings promise is written down a
second time, slowly. Images have the side of the network's input, so that nothing is resized.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image

CLASSES = ("authentic", "synthetic")
FIRST = {"train": 13, "val": 6, "test": 2}  # images


class Literal(NamedTuple):
    "What a run comes to."

    history: list[dict]  # a row an epoch
    best: dict[str, torch.Tensor]  # weights of the best epoch
    last: dict[str, torch.Tensor]


def write_images(folder: Path, side: int = 64) -> Path:
    "Noise with a bright spot that says the class; maps of 2 x 2 blocks, which three images lack."
    rows, rng = [], np.random.default_rng(5)
    for split, count in FIRST.items():
        for i in range(count):
            name, label = f"{split}{i}", i % 2
            image = rng.integers(60, 140, (side, side, 3), dtype=np.uint8)
            image[20:36, 4 + 3 * i : 16 + 3 * i] += np.uint8(15 + 75 * label)
            Image.fromarray(image).save(folder / f"{name}.png")
            blocks = rng.integers(0, 256, (2, 2), dtype=np.uint8)
            Image.fromarray(np.kron(blocks, np.ones((32, 32), np.uint8))).save(
                folder / f"{name}-map.png"
            )
            human = "" if i % 5 == 4 else f"{name}-map.png"
            rows.append([f"{name}.png", CLASSES[label], f"toy{label}", split, human, name])
    with (folder / "manifest.csv").open("w", newline="") as file:
        columns = ["image", "label", "source", "split", "map", "subject"]
        csv.writer(file).writerows([columns, *rows])
    return folder / "manifest.csv"


def draw(seed: int, epoch: int, use: int) -> np.random.Generator:
    "Random numbers of one use in one epoch: 0 the order, 1 the flips."
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, use])))


def read_split(manifest: Path, split: str, mean, std) -> tuple:
    "Normalised images (n, 3, S, S), labels, maps (n, 2, 2) scaled to [0, 1], and who has one."
    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    images, maps = [], []
    for row in rows:
        pixels = np.asarray(Image.open(manifest.parent / row["image"]), np.float32) / 255
        images.append(((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1))
        human = np.zeros((2, 2), np.float32)
        if row["map"]:
            grey = np.asarray(Image.open(manifest.parent / row["map"]), np.float64) / 255
            human = np.array([[grey[:32, :32], grey[:32, 32:]], [grey[32:, :32], grey[32:, 32:]]])
            human = human.mean((2, 3))
        maps.append(human)
    labels = [CLASSES.index(row["label"]) for row in rows]
    return np.stack(images), np.array(labels), np.stack(maps), [bool(row["map"]) for row in rows]


def shuffled(maps: np.ndarray, has: list[bool], seed: int) -> np.ndarray:
    "Each mapped image gets the map of another: a random circle, moved on by a random number."
    rng, rows = np.random.default_rng(seed), np.flatnonzero(has)
    circle = rng.permutation(len(rows))
    shift, moved = rng.integers(1, len(rows)), maps.copy()
    for place, image in enumerate(circle):
        moved[rows[image]] = maps[rows[circle[(place - shift) % len(rows)]]]
    return moved


def scaled(cells: torch.Tensor) -> torch.Tensor:
    "One map by its own minimum and maximum; nothing is flat here."
    return (cells - cells.min()) / (cells.max() - cells.min())


def batch_parts(network, images, labels, maps, has, detach: bool) -> tuple:
    "Cross-entropy and squared distance of the predicted class's map, means over the images."
    features = network.forward_features(images)  # (B, N, 2, 2)
    head = network.get_classifier()
    logits = features.mean((2, 3)) @ head.weight.T + head.bias
    cross, apart = 0.0, 0.0
    for k in range(len(labels)):
        cross = cross - torch.log_softmax(logits[k], 0)[labels[k]]
        if has[k]:
            weight = head.weight[logits[k].argmax()]
            weight = weight.detach() if detach else weight
            cam = (weight[:, None, None] * features[k]).sum(0)
            apart = apart + ((scaled(cam) - scaled(maps[k])) ** 2).mean()
    return cross / len(labels), apart / len(labels), logits


def step(parameters, slots, gradients, lr: float, settings: dict) -> None:
    "Momentum and decay as in the text books; or Adam (Kingma and Ba 2015) with decay."
    for parameter, slot, gradient in zip(parameters, slots, gradients, strict=True):
        gradient = gradient + settings["weight_decay"] * parameter
        slot["t"] = slot.get("t", 0) + 1
        if settings["optimizer"] == "adam":
            slot["m"] = 0.9 * slot.get("m", 0.0) + 0.1 * gradient
            slot["v"] = 0.999 * slot.get("v", 0.0) + 0.001 * gradient**2
            size = (slot["v"] / (1 - 0.999 ** slot["t"])).sqrt() + 1e-8
            change = slot["m"] / (1 - 0.9 ** slot["t"]) / size
        else:
            slot["m"] = settings["momentum"] * slot.get("m", 0.0) + gradient
            change = slot["m"]
        parameter.data -= lr * change


def one_pass(network, data, batches, settings: dict, mirrored, take_step=None) -> dict:
    "Sums over the images of one pass, divided by their number at the end."
    images, labels, maps, has = data
    sums, scores = np.zeros(4), np.zeros(len(labels))
    for rows in batches:
        pixels = [images[i][:, :, ::-1] if mirrored[i] else images[i] for i in rows]
        human = [maps[i][:, ::-1] if mirrored[i] else maps[i] for i in rows]
        pixels, human = (torch.tensor(np.stack(a), dtype=torch.float32) for a in (pixels, human))
        own = labels[rows].tolist()
        with torch.set_grad_enabled(take_step is not None):
            cross, apart, logits = batch_parts(
                network, pixels, own, human, [has[i] for i in rows], settings["detach_weight"]
            )
            loss = settings["alpha"] * cross + (1 - settings["alpha"]) * apart
        if take_step:
            take_step(loss)
        right = (logits.argmax(1) == torch.tensor(own)).sum()
        row = torch.stack([loss, cross, torch.as_tensor(apart), right / len(rows)])
        sums += len(rows) * row.detach().double().numpy()
        scores[rows] = logits.detach().softmax(1)[:, 1].numpy()
    names = ("loss", "classification", "saliency", "accuracy")
    pairs = [np.sign(a - b) for a in scores[labels == 1] for b in scores[labels == 0]]
    return dict(zip(names, sums / len(labels), strict=True)) | {"auc": np.mean(pairs) / 2 + 0.5}


def literal_run(manifest: Path, settings: dict) -> Literal:
    "Train as the settings say."
    seed, size = settings["seed"], settings["batch_size"]
    torch.manual_seed(seed)
    network = timm.create_model(settings["arch"], num_classes=2)
    norm = [network.pretrained_cfg[name] for name in ("mean", "std")]
    data = {split: read_split(manifest, split, *norm) for split in ("train", "val")}
    if settings["maps"] == "shuffled":
        for split, (images, labels, maps, has) in data.items():
            data[split] = images, labels, shuffled(maps, has, seed), has
    parameters, history, states = list(network.parameters()), [], []
    slots = [{} for _ in parameters]
    for epoch in range(1, settings["epochs"] + 1):
        lr = settings["lr"] * settings["lr_gamma"] ** ((epoch - 1) // settings["lr_step"])

        def take_step(loss: torch.Tensor, lr: float = lr) -> None:
            step(parameters, slots, torch.autograd.grad(loss, parameters), lr, settings)

        n, row = FIRST["train"], {"epoch": epoch, "lr": lr}
        order = draw(seed, epoch, 0).permutation(n)
        starts = list(range(0, n, size))
        if n % size == 1:  # never a batch of one
            starts.pop()
        ends = [*starts[1:], n]
        batches = [order[a:b] for a, b in zip(starts, ends, strict=True)]
        network.train()
        mirrored = draw(seed, epoch, 1).random(n) < settings["flip"]
        found = one_pass(network, data["train"], batches, settings, mirrored, take_step)
        row |= {f"train_{k}": v for k, v in found.items() if k != "auc"}
        network.eval()
        rest = [np.arange(FIRST["val"])[a : a + size] for a in range(0, FIRST["val"], size)]
        found = one_pass(network, data["val"], rest, settings, np.zeros(FIRST["val"], bool))
        history.append(row | {f"val_{k}": v for k, v in found.items()})
        states.append({k: v.clone() for k, v in network.state_dict().items()})
    best = max(row["val_accuracy"] for row in history)
    tied = [k for k, row in enumerate(history) if row["val_accuracy"] == best]
    return Literal(history, states[tied[-1 if settings["ties"] == "last" else 0]], states[-1])
