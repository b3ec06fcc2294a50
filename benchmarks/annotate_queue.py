"""What a map is worth, by the order in which images are annotated.

    python benchmarks/annotate_queue.py OUT            # seventeen minutes on a shared core
    python benchmarks/annotate_queue.py OUT --seeds 1  # a look

On the demo set, whose annotators are simulated, the last layer of an ImageNet network is trained
with the maps of a few training images (all of which have labels), then asked which images to
annotate next, and trained anew from the same first weights: a curve for each criterion of
`cyborg.people.queue`, and one for random order. All begin with the same images, drawn by the seed,
since `far` needs some maps. `disagree` asks the runs of all seeds. What is measured is of test
images: the mean AUC over generators that were not trained on, and the correlation of model and
human maps. The features of all images are computed once; a run takes seconds.

OUT holds the demo set, a folder a run, and results.csv; started again it goes on where it stopped.
"""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import Param, call_parse

from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.manifest import Manifest, write_manifest
from cyborg.measure.compare import run_results
from cyborg.people.queue import CRITERIA, annotation_queue
from cyborg.settings import preset_config
from cyborg.training import load_run, train

PROBE = {"arch": "tf_efficientnet_lite0", "weights": "package", "train": "head", "size": 128}
PROBE |= {"epochs": 30, "lr": 0.05, "lr_step": 21, "device": "cpu", "precision": "fp32"}
FIRST, STEPS = 20, (40, 80, 160)  # images with a map: at first, and after each step


def with_maps(demo: Manifest, images: set[str]) -> Manifest:
    "The demo set with the maps of these training images alone; those of the test stay."
    table = demo.table
    keep = (table["split"] == "test") | table["image"].isin(images)
    return Manifest(table.assign(map=table["map"].where(keep, "")), demo.root, demo.classes)


def trained(out: Path, demo: Manifest, name: str, images: set[str], seed: int) -> Path:
    "A run with the maps of these images, tested; at once where it is there."
    folder, path = out / "runs" / name, out / "manifests" / f"{name}.csv"
    if not (folder / "predictions.parquet").is_file():
        manifest = with_maps(demo, images)
        write_manifest(manifest, path)
        given = {"manifest": str(path), "root": str(demo.root), "runs": str(out / "runs")}
        given |= {"name": name, "seed": seed} | ({} if images else {"alpha": 1.0})
        train(preset_config("quick", PROBE | given))
        predict(load_run(folder).network, demo.split("test"), folder)
    return folder


def measured(folder: Path) -> dict:
    "What a run reached."
    found = run_results(folder)
    names = {"auc": "mean over unseen", "agreement": "agreement with human maps (CC)"}
    return {key: float(found[name]) for key, name in names.items()}


def chosen(
    demo: Manifest,
    runs: list[Path],  # whose networks are asked
    have: set[str],
    criterion: str,
    n: int,  # images with a map afterwards
    seed: int,
) -> set[str]:
    "The images that have a map after the next step."
    queue = annotation_queue(with_maps(demo, have), runs, criterion, "train", have, seed)
    queue = queue[queue["image"].isin(mappable(demo))]
    return have | set(queue["image"][~queue["mapped"]][: n - len(have)])


def mappable(demo: Manifest) -> set[str]:
    "Training images of which the annotators leave a map."
    table = demo.table
    return set(table["image"][(table["split"] == "train") & (table["map"] != "")])


def curves(out: Path, demo: Manifest, seeds: int) -> pd.DataFrame:
    "All runs, step by step, and what each reached."
    every, rows = sorted(mappable(demo)), []

    def note(criterion: str, seed: int, images: set[str], folder: Path) -> None:
        row = {"criterion": criterion, "seed": seed, "images": len(images), "run": folder.name}
        rows.append(row | measured(folder))
        pd.DataFrame(rows).to_csv(out / "results.csv", index=False)
        print(f"{time.strftime('%H:%M:%S')} {rows[-1]}", flush=True)

    first = {}
    for seed in range(seeds):
        drawn = np.random.default_rng(seed).permutation(every)[:FIRST]
        first[seed] = set(drawn.tolist())
        for name, images in (("none", set()), ("first", first[seed]), ("all", set(every))):
            note(name, seed, images, trained(out, demo, f"{name}-{seed}", images, seed))
    have = {(criterion, seed): first[seed] for criterion in CRITERIA for seed in range(seeds)}
    runs = {key: out / "runs" / f"first-{key[1]}" for key in have}
    for n, criterion in itertools.product(STEPS, CRITERIA):
        committee = [runs[criterion, seed] for seed in range(seeds)]
        for seed in range(seeds):
            key, own = (criterion, seed), {"disagree": committee, "random": []}
            asked = own.get(criterion, [committee[seed]])
            have[key] = chosen(demo, asked, have[key], criterion, n, seed)
        for seed in range(seeds):
            images = have[criterion, seed]
            folder = trained(out, demo, f"{criterion}-{n}-{seed}", images, seed)
            runs[criterion, seed] = folder
            note(criterion, seed, images, folder)
    return pd.DataFrame(rows)


def as_markdown(results: pd.DataFrame) -> str:
    "Mean and standard deviation over seeds, and in how many of them random order is beaten."
    lines = [
        "| images with a map | order | AUC, unseen | agreement (CC) | above random, AUC and CC |"
    ]
    lines.append("|---:|---|---:|---:|---:|")
    both = ["auc", "agreement"]
    random = results[results["criterion"] == "random"].set_index(["images", "seed"])[both]
    for (n, criterion), own in results.groupby(["images", "criterion"], sort=False):
        cells = [f"{own[name].mean():.3f} ± {own[name].std(ddof=1):.3f}" for name in both]
        other = random.reindex([(n, seed) for seed in own["seed"]])
        won = (own[both].to_numpy() > other.to_numpy()).sum(axis=0)
        known = criterion in CRITERIA[1:] and other.notna().all(axis=None)
        above = f"{won[0]} and {won[1]} of {len(own)}" if known else ""
        lines.append(f"| {n} | {criterion} | {cells[0]} | {cells[1]} | {above} |")
    return "\n".join(lines)


@call_parse
def main(
    out: Param("folder for the demo set, the runs and results.csv", str),
    seeds: Param("first weights, orders and first images", int) = 5,
    images: Param("of the demo set; two fifths are for training", int) = 800,
):
    "Measure the curves and print them."
    torch.set_num_threads(1)
    out = Path(out)
    os.environ["CYBORG_CACHE"] = str(out / "cache")
    (out / "manifests").mkdir(parents=True, exist_ok=True)
    demo = make_demo(out / "demo", n=images, workers=1)
    begun = time.perf_counter()
    results = curves(out, demo, seeds)
    order = ["images", "criterion", "seed"]
    print(as_markdown(results.sort_values(order)))
    print(f"{len(results)} runs, {(time.perf_counter() - begun) / 60:.0f} min")
