"""The released training and test loops as they are described, in plain torch and torchvision.

    python benchmarks/literal.py train ARCH FOLDER EPOCHS    FOLDER holds table.csv and pictures
    python benchmarks/literal.py test ARCH FOLDER
    python benchmarks/literal.py gradcam ARCH FOLDER         the test, and the mean map by grad-cam

Nothing of cyborg is imported. All pictures are decoded into memory first; single precision; batches
of 20, a loop over the images of a batch for their maps; DenseNet's features computed a second time
in training; every epoch all validation images; the test one picture at a time. The last line of
what it prints is JSON: seconds by part. It runs on the CPU.
"""

import csv
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

SIDE, CELLS, BATCH = 224, (7, 7), 20
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def picture(path: Path) -> torch.Tensor:
    "A picture as the network takes it."
    image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
    return (pixels - MEAN) / STD


def human_map(path: Path) -> torch.Tensor:
    "A map on the network's cells, in [0, 1]."
    image = Image.open(path).convert("L").resize(CELLS[::-1], Image.Resampling.BILINEAR)
    cells = torch.from_numpy(np.asarray(image).copy()).float()
    return (cells - cells.min()) / (cells.max() - cells.min())


def in_memory(folder: Path, split: str) -> list[tuple]:
    "Image, class and map of every row."
    with (folder / "table.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    nothing = torch.zeros(CELLS)
    return [
        (
            picture(folder / row["image"]),
            int(row["label"] == "synthetic"),
            human_map(folder / row["map"]) if split == "train" else nothing,
        )
        for row in rows
    ]


def network(arch: str) -> torch.nn.Module:
    "Two classes, random weights."
    torch.manual_seed(0)
    return getattr(torchvision.models, arch)(weights=None, num_classes=2)


def last_layer(model: torch.nn.Module) -> torch.nn.Linear:
    "What follows the pooling."
    return model.fc if hasattr(model, "fc") else model.classifier


def saliency(model, features, logits) -> torch.Tensor:
    "Maps of the predicted classes, one image after the other."
    weight, maps = last_layer(model).weight, []
    for k in range(len(logits)):
        cam = (weight[logits[k].argmax()][:, None, None] * features[k]).sum(0)
        maps.append((cam - cam.min()) / (cam.max() - cam.min()))
    return torch.stack(maps)


def one_epoch(model, layer, loader, optimizer) -> float:  # right answers, share
    "A pass over a split, with steps where there is an optimiser."
    seen, right = [], 0
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    model.train(optimizer is not None)
    for images, labels, human in loader:
        seen.clear()
        with torch.set_grad_enabled(optimizer is not None):
            logits = model(images)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            if optimizer:
                dense = hasattr(model, "classifier")
                features = model.features(images) if dense else seen[-1]
                apart = torch.nn.functional.mse_loss(saliency(model, features, logits), human)
                optimizer.zero_grad()
                (0.5 * loss + 0.5 * apart).backward()
                optimizer.step()
        right += int((logits.argmax(1) == labels).sum())
    hook.remove()
    return right / len(loader.dataset)


def train(arch: str, folder: Path, epochs: int) -> dict[str, float]:
    "Train and validate; weights after every epoch."
    start = time.perf_counter()
    data = {split: in_memory(folder, split) for split in ("train", "val")}
    loaded, model = time.perf_counter(), network(arch)
    loaders = {s: torch.utils.data.DataLoader(d, BATCH, shuffle=True) for s, d in data.items()}
    optimizer = torch.optim.SGD(model.parameters(), 0.005, 0.9, weight_decay=1e-6)
    layer = model.layer4[-1].conv3 if hasattr(model, "layer4") else torch.nn.Identity()
    spent = {"training": 0.0, "validation": 0.0}
    for epoch in range(epochs):
        begun = time.perf_counter()
        one_epoch(model, layer, loaders["train"], optimizer)
        between = time.perf_counter()
        accuracy = one_epoch(model, layer, loaders["val"], None)
        spent["training"] += between - begun
        spent["validation"] += time.perf_counter() - between
        state = {"epoch": epoch, "state_dict": model.state_dict(), "accuracy": accuracy}
        torch.save(state, folder / "literal.pth")
    return {"loading": loaded - start} | spent


def test(arch: str, folder: Path) -> dict[str, float]:
    "Scores, one picture at a time."
    start, model = time.perf_counter(), network(arch).eval()
    with (folder / "table.csv").open() as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"]
    with torch.no_grad(), (folder / "literal.csv").open("w") as file:
        for name in names:
            score = model(picture(folder / name)[None]).sigmoid()[0, 1]
            file.write(f"{name},{score}\n")
    return {"test": time.perf_counter() - start}


def gradcam(arch: str, folder: Path) -> dict[str, float]:
    "The test, and the mean of the pictures' GradCAM."
    from pytorch_grad_cam import GradCAM

    found, start, model = test(arch, folder), time.perf_counter(), network(arch).eval()
    layer = model.layer4[-1] if hasattr(model, "layer4") else model.features
    if hasattr(model, "features"):  # its ReLU writes in place what the hook has
        for module in model.modules():
            if isinstance(module, torch.nn.ReLU):
                module.inplace = False
        layer = model.features.denseblock4
    with (folder / "table.csv").open() as file:
        names = [row["image"] for row in csv.DictReader(file) if row["split"] == "test"]
    with GradCAM(model, [layer]) as explainer:
        np.mean([explainer(picture(folder / name)[None], None)[0] for name in names], axis=0)
    return found | {"gradcam": time.perf_counter() - start}


if __name__ == "__main__":
    what, arch, folder, *rest = sys.argv[1:]
    work = {"train": train, "test": test, "gradcam": gradcam}[what]
    print(json.dumps(work(arch, Path(folder), *map(int, rest))))
