"""What bf16 and compilation do to scores, maps and AUC, and how fast they are.

    python benchmarks/forwards.py --folder runs/forwards                  on the demo set
    python benchmarks/forwards.py --folder runs/forwards --faces FOLDER   on real faces, too

FOLDER holds faces.csv (path, label, source). Short runs are trained where there are none (minutes
each), and the test images scored in each way. One row a run and way: images a second without the
time to compile, that time, the largest difference from single precision of score, logit and map
cell, and of the AUC of any generator. Below it, the AUC of each generator in each way.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse

from cyborg.demo import make_demo
from cyborg.evaluation import auc_table, predict
from cyborg.forward import PRECISIONS
from cyborg.manifest import Manifest, read_manifest, write_manifest
from cyborg.predictions import read_maps, read_predictions
from cyborg.settings import run_config
from cyborg.training import Run, load_run, train

WAYS = tuple(name for name in PRECISIONS if name != "auto")


def faces_manifest(
    faces: Path,  # folder with faces.csv
    folder: Path,  # where the manifest goes
) -> Path:
    "Real faces, six tenths of each source for training, one for validation, three for the test."
    table = pd.read_csv(faces / "faces.csv", dtype=str, keep_default_na=False)
    table = table[~table["source"].str.contains("cyborg")].reset_index(drop=True)
    place = table.groupby("source").cumcount() % 10
    table["split"] = np.select([place < 6, place < 7], ["train", "val"], "test")
    table = table.rename(columns={"path": "image"})[["image", "label", "source", "split"]]
    path = folder / "faces.csv"
    write_manifest(Manifest(table.assign(map="", subject=""), faces.resolve()), path)
    return path


def trained(
    name: str,
    manifest: Path,
    root: Path,
    folder: Path,  # of the runs
    **settings,
) -> Run:
    "A run that is trained, now or before."
    settings |= {"manifest": str(manifest), "root": str(root), "runs": str(folder), "name": name}
    return load_run(train(run_config(settings)))


def scored(
    run: Run,
    manifest: Manifest,  # its test images
    way: str,
    folder: Path,
) -> tuple[pd.DataFrame, np.ndarray, float]:  # predictions, maps, seconds
    "The test images in one way."
    start = time.perf_counter()
    predict(run.network, manifest, folder, precision=way, overwrite=True)
    seconds = time.perf_counter() - start
    return read_predictions(folder), read_maps(folder) / 255, seconds


def compared(
    name: str,
    run: Run,
    manifest: Manifest,
    ways: list[str],
    seen: list[str],
) -> tuple[list[dict], pd.DataFrame]:  # rows, and AUC by generator and way
    "One run in every way."
    rows, aucs = [], {}
    logits = [f"logit_{c}" for c in range(len(run.classes))]
    with tempfile.TemporaryDirectory() as folder:
        scored(run, manifest, "fp32", Path(folder) / "warm")  # decodes
        first = None
        for way in ways:
            own = Path(folder) / way
            if way == "compiled":
                torch._dynamo.reset()
                with_compiling = scored(run, manifest, way, own)[2]
            table, maps, seconds = scored(run, manifest, way, own)
            table, maps = table.sort_values("image"), maps[np.argsort(table["image"].to_numpy())]
            first = (table, maps) if first is None else first
            aucs[way] = auc_table(table, seen).set_index("source")["auc"]
            apart = (table[logits].to_numpy() - first[0][logits].to_numpy()) if len(rows) else 0
            compiling = with_compiling - seconds if way == "compiled" else 0.0
            rows.append(
                {
                    "run": name,
                    "way": table.attrs["way"]["precision"],
                    "images/s": f"{len(table) / seconds:.1f}",
                    "compiling, s": f"{compiling:.0f}",
                    "score": f"{np.abs(table['score'] - first[0]['score']).max():.4f}",
                    "logit": f"{np.abs(apart).max():.4f}",
                    "map cell": f"{np.abs(maps - first[1]).max():.4f}",
                    "AUC": f"{(aucs[way] - aucs[ways[0]]).abs().max():.4f}",
                }
            )
    return rows, pd.DataFrame(aucs)


def markdown(rows: list[dict]) -> str:
    "A table."
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


@call_parse
def main(
    folder: str = "runs/forwards",  # of the runs
    faces: str = "",  # folder with faces.csv; empty: the demo set alone
    archs: str = "resnet50,densenet121",
    size: int = 112,  # input side, pixels
    epochs: int = 4,
    ways: str = ",".join(WAYS),  # the first is what others are held against
):
    "Train, score in every way, print two Markdown tables."
    place, chosen = Path(folder), ways.split(",")
    place.mkdir(parents=True, exist_ok=True)
    demo = make_demo()
    sets = {"demo": (demo.root / "manifest.csv", demo.root)}
    if faces:
        sets["faces"] = (faces_manifest(Path(faces), place), Path(faces))
    rows, tables = [], {}
    for data, (path, root) in sets.items():
        images = read_manifest(path, root)
        for arch in archs.split(","):
            name = f"{data}-{arch}"
            own = {"arch": arch, "size": size, "epochs": epochs, "weights": "none"}
            own |= {"alpha": 0.5 if data == "demo" else 1.0, "lr": 0.01, "flip": 0.5, "seed": 1}
            run = trained(name, path, root, place, **own)
            found, tables[name] = compared(
                name, run, images.split("test"), chosen, list(images.seen)
            )
            rows += found
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size} px\n")
    print("largest difference from the first way\n\n" + markdown(rows) + "\n")
    every = pd.concat(tables, names=["run", "source"]).reset_index()
    cells = every.map(lambda v: f"{v:.4f}" if isinstance(v, float) else v)
    print("AUC by generator\n\n" + markdown(cells.to_dict("records")))
