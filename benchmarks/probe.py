"""A linear probe on kept features beside the same probe through the network.

    python benchmarks/probe.py                 efficientnet_lite0, 224 px, 1,000 images, 50 epochs
    python benchmarks/probe.py --study_of      10 seeds x 8 scenarios x 2 networks, on two processes

The pictures are drawn by `make_demo`, small, and enlarged to the input side. The slow side runs
`slow` epochs and is told for all of them.
"""

import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from fastcore.script import call_parse
from sklearn.metrics import roc_auc_score

from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.manifest import Manifest, read_manifest
from cyborg.predictions import read_predictions
from cyborg.runs import read_history
from cyborg.settings import RunConfig, run_config
from cyborg.training import load_run, train

SCENARIOS = {
    "classical": {"alpha": 1.0},
    "cyborg": {},
    "shuffled": {"maps": "shuffled"},
    "inverted": {"maps": "inverted"},
    "mean": {"maps": "mean"},
    "noise": {"maps": "noise"},
    "centre": {"maps": "centre"},
    "energy": {"guidance": "energy"},
}


def settings(demo: Manifest, runs: str, epochs: int, arch: str, **changes) -> RunConfig:
    "A probe of ImageNet features where pip has them."
    lite = arch == "tf_efficientnet_lite0"
    weights, size = ("package", 224) if lite else ("none", 128)
    given = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root), "runs": runs}
    given |= {"arch": arch, "weights": weights, "size": size, "train": "head", "epochs": epochs}
    given |= {"distance": "l2", "lr": 0.01, "device": "cpu", "precision": "fp32"}
    return run_config(given | changes)


def auc_of_run(config: RunConfig) -> float:
    "Train, predict the test split, and take the area under the ROC curve."
    torch.set_num_threads(1)
    folder = train(config)
    manifest = read_manifest(config.manifest, config.root).split("test")
    predict(load_run(folder).network, manifest, folder)
    table = read_predictions(folder)
    return float(roc_auc_score(table["label"] != "authentic", table["score"]))


def seconds_of(config: RunConfig) -> tuple[float, float]:  # seconds, AUC
    start = time.perf_counter()
    auc = auc_of_run(config)
    return time.perf_counter() - start, auc


def speed(demo: Manifest, runs: str, arch: str, epochs: int, slow: int) -> None:
    "Both sides, the kept one twice: with its one pass over the images, and without."
    torch.set_num_threads(1)
    fast = settings(demo, runs, epochs, arch, name="fast")
    first, auc = seconds_of(fast)
    again, _ = seconds_of(settings(demo, runs, epochs, arch, name="again"))
    through = settings(demo, runs, slow, arch, name="slow", keep_features=False)
    train(through)
    each = float(np.median(read_history(through.folder)["seconds"]))
    print(f"through the network: {each:.1f} s an epoch, {each * epochs:,.0f} s for {epochs}")
    kept = read_history(fast.folder)["seconds"].sum()
    print(f"kept features: epochs {kept:.1f} s, ratio {each * epochs / kept:.0f}")
    print(f"whole run with the pass over the images {first:.1f} s, without it {again:.1f} s")
    print(f"AUC {auc:.4f}")
    if slow == epochs:
        _, other = seconds_of(through)
        print(f"AUC through the network {other:.4f}, apart {abs(auc - other):.1e}")


def study(demo: Manifest, runs: str, arch: str, epochs: int) -> None:
    "Ten seeds of eight scenarios of two networks."
    networks = (arch, "test_convnext")
    first = [settings(demo, runs, 1, name, name=f"first-{name}") for name in networks]
    configs = [
        settings(demo, runs, epochs, network, seed=seed, name=f"{network}-{word}-{seed}", **changes)
        for network in networks
        for word, changes in SCENARIOS.items()
        for seed in range(10)
    ]
    start = time.perf_counter()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(auc_of_run, first))
        kept = time.perf_counter() - start
        list(pool.map(auc_of_run, configs))
    total = time.perf_counter() - start
    print(f"{len(configs)} runs in {total / 60:.1f} min, of which {kept / 60:.1f} for the features")


@call_parse
def main(
    arch: str = "tf_efficientnet_lite0",  # network
    images: int = 1000,  # of training; as many and a half for validation and test
    epochs: int = 50,
    slow: int = 2,  # epochs of the run through the network
    study_of: bool = False,  # the study in place of the comparison
):
    "Measure a probe."
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CYBORG_CACHE"] = str(Path(folder) / "cache")
        demo = make_demo(Path(folder) / "demo", n=5 * images // 2, size=64, workers=2)
        if study_of:
            study(demo, folder, arch, epochs)
        else:
            speed(demo, folder, arch, epochs, slow)
