"""How long the explorers take: to the first picture, and for each control.

    python benchmarks/explorer.py                            2,000 images, 40 runs
    python benchmarks/explorer.py --images 200 --runs 8      a quick look

Run folders are made as a training and an evaluation leave them, without weights: every image is a
file of its own, half of them have human maps and the marks of ten annotators. A control is set as a
browser sets it; its time is that until the page's new content lies ready to be sent, `kB` is how
much that is. Each control is set `--repeats` times, each time to another value. `cpu` is the worst
time of the processor alone, which a busy machine does not lengthen. Targets: a first picture within
3 s, a control within 300 ms.
"""

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import cycle, product
from pathlib import Path
from types import SimpleNamespace

import cv2
import ipywidgets as widgets
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from fastcore.script import call_parse
from scipy.ndimage import gaussian_filter

from cyborg.demo import make_demo
from cyborg.evaluation import Scored, prediction_rows, saliency_means
from cyborg.explore.curves import RunExplorer
from cyborg.explore.maps import MapExplorer
from cyborg.explore.tiles import VIEWS
from cyborg.manifest import Manifest, write_manifest
from cyborg.people.exchange import write_annotations
from cyborg.people.tables import as_table
from cyborg.pictures import read_picture
from cyborg.saliency import read_map, resize_map, write_map
from cyborg.settings import preset_config

SOURCES = ["real", "progan", "starganv2", "stylegan", "stylegan2", "stylegan3", "diffusion"]
SCENARIOS = {"classical": {"alpha": 1.0}, "cyborg": {}, "mean_map": {"maps": "mean"}}
SCENARIOS["shuffled"] = {"maps": "shuffled"}


def write_faces(
    folder: Path,
    n: int,  # images
    side: int = 300,  # pixels of a file
) -> Manifest:
    "Faces of the demo set, each moved, grained and recompressed, so that no two files are alike."
    demo, rng = make_demo(folder / "drawn", n=40, size=224), np.random.default_rng(0)
    drawn = [read_picture(demo.root / name)[..., ::-1] for name in demo.table["image"]]
    for name in ("images", "maps"):
        (folder / name).mkdir(parents=True)
    rows = []
    for i in range(n):
        grain = rng.normal(0, 6, (side, side, 1))
        picture = cv2.resize(drawn[i % len(drawn)], (side, side), interpolation=cv2.INTER_CUBIC)
        picture = np.roll(picture, rng.integers(-9, 9, 2), (0, 1)) + grain
        cv2.imwrite(str(folder / f"images/{i:05d}.jpg"), picture.clip(0, 255).astype(np.uint8))
        if has_map := i % 2:
            spot = np.zeros((28, 28), np.float32)
            spot[tuple(rng.integers(5, 23, 2))] = 1
            spot = gaussian_filter(spot, 3)
            write_map(folder / f"maps/{i:05d}.png", resize_map(spot / spot.max(), (224, 224)))
        source = SOURCES[0] if i % 2 == 0 else SOURCES[1 + i // 2 % (len(SOURCES) - 1)]
        label = "authentic" if source == "real" else "synthetic"
        rows.append((f"images/{i:05d}.jpg", label, source, f"maps/{i:05d}.png" if has_map else ""))
    table = pd.DataFrame(rows, columns=["image", "label", "source", "map"])
    table = table.assign(split="test", subject="")
    manifest = Manifest(table, folder, ("authentic", "synthetic"))
    write_manifest(manifest, folder / "manifest.csv")
    shutil.rmtree(folder / "drawn")
    return manifest


def write_marks(
    manifest: Manifest,
    annotators: int = 10,  # of each image that has a map; the paper has 10.75
) -> None:
    "Strokes of many annotators beside the manifest."
    rng, rows = np.random.default_rng(1), []
    for image in manifest.table.loc[manifest.table["map"] != "", "image"]:
        for who in range(annotators):
            walk = np.cumsum(rng.normal(0, 4, (20, 2)), axis=0) + rng.uniform(60, 240, 2)
            points = np.column_stack([walk.clip(0, 300), np.linspace(0, 2, 20)]).round(2).tolist()
            stroke = {"points": points, "radius": 15.0, "erase": False}
            row = {"image": image, "subject": f"W{who}", "kind": "pair", "strokes": [stroke]}
            rows.append(row | {"width": 300.0, "height": 300.0, "correct": True})
    write_annotations(as_table(rows), manifest.root / "annotations.parquet")


def write_run(
    manifest: Manifest,
    human: np.ndarray,  # (n, h, w) in [0, 1], zero where there is none
    runs: Path,
    config: dict,  # settings of the run
    seed: int,
    size: int = 7,  # cells a side of the maps
) -> None:
    "A run folder with everything an explorer reads."
    rng, n = np.random.default_rng(seed), len(manifest)
    where = {"manifest": str(manifest.root / "manifest.csv"), "root": str(manifest.root)}
    settings = asdict(preset_config("quick", where | {"runs": str(runs), "epochs": 50} | config))
    synthetic = (manifest.table["label"] == "synthetic").to_numpy()
    logit = rng.normal(size=n) + rng.uniform(0.4, 2) * (2 * synthetic - 1)
    maps = gaussian_filter(rng.random((n, size, size)), (0, 1, 1))
    maps = 0.6 * (maps - maps.min()) / np.ptp(maps) + 0.4 * human
    has_map = (manifest.table["map"] != "").to_numpy()
    scored = Scored(np.stack([-logit, logit], 1), maps.astype(np.float32), human, has_map)
    folder = runs / config["name"]
    folder.mkdir(parents=True)
    rows = pa.Table.from_pandas(
        prediction_rows(manifest.table, scored, manifest.classes), preserve_index=False
    )
    note = {"classes": manifest.classes, "settings": {"map_size": f"{size}x{size}"}, "rows": n}
    rows = rows.replace_schema_metadata({"cyborg": json.dumps(note)})
    pq.write_table(rows, folder / "predictions.parquet")
    saliency_means(manifest.table, scored).save(folder / "mean_maps.npz")
    np.save(folder / "saliency.npy", np.rint(maps * 255).astype(np.uint8))
    provenance = {"training_sources": ["progan"], "classes": manifest.classes}
    record = {"settings": settings, "provenance": provenance}
    (folder / "config.json").write_text(json.dumps(record))
    epoch = np.arange(1, 51)
    history = {"epoch": epoch, "lr": 0.005, "seconds": 1.0}
    for name in ("loss", "classification", "saliency", "accuracy", "auc"):
        for split in ("train", "val"):
            history[f"{split}_{name}"] = np.exp(-epoch / 20) + rng.normal(0, 0.01, 50)
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)


def write_runs(
    folder: Path,
    images: int,
    runs: int,
    networks: int = 2,
) -> Path:  # folder of the run folders
    "All of it."
    manifest = write_faces(folder / "data", images)
    write_marks(manifest)
    human = np.zeros((images, 7, 7), np.float32)
    for i, name in enumerate(manifest.table["map"]):
        if name:
            human[i] = resize_map(read_map(manifest.root / name), (7, 7))
    names = ("resnet50", "densenet121", "inception_v3", "xception")[:networks]
    grid = product(range(runs), SCENARIOS, names)
    for i, (seed, scenario, arch) in zip(range(runs), grid, strict=False):
        config = {"arch": arch, "seed": seed, "name": f"{arch}-{scenario}-{seed}"}
        write_run(manifest, human, folder / "runs", config | SCENARIOS[scenario], i)
    return folder / "runs"


def content(widget: widgets.Widget) -> int:
    "Bytes of the HTML that a page shows."
    html = widget.value if isinstance(widget, widgets.HTML) else ""
    return len(html) + sum(content(child) for child in getattr(widget, "children", ()))


def timed(
    action: Callable[[], object],
) -> tuple[float, float]:  # milliseconds: on the wall, of the processor
    "How long an action takes, garbage of earlier ones not counted."
    gc.collect()
    begun, used = time.perf_counter(), time.process_time()
    action()
    return 1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - used)


def setting(
    control: widgets.Widget,
    values: list,
) -> Callable[[], None]:
    "An action that sets a control to the next of some values."
    upcoming = cycle(values)
    return lambda: setattr(control, "value", next(upcoming))


def map_controls(
    explorer: MapExplorer,
) -> dict[str, Callable]:
    "What a hand does to a map explorer."
    explorer.scenario.value = ""  # several: the runs of all are offered
    names, rng = list(explorer.runs.options), np.random.default_rng(2)
    sorts, networks = list(explorer.sort.options), [v for _, v in explorer.network.options]

    def click() -> None:
        trace = explorer.scatter.data[rng.integers(len(explorer.scatter.data))]
        point = int(rng.integers(len(trace.x)))
        trace._click_callbacks[0](trace, SimpleNamespace(point_inds=[point]), None)

    return {
        "scroll": setting(explorer.page, rng.permutation(explorer.page.max)[:99].tolist()),
        "scatter click": click,
        "call by number": setting(explorer.number, list(range(1, 99))),
        "opacity": setting(explorer.opacity, [0.3, 0.6, 0.9]),
        "view": setting(explorer.view, [*VIEWS]),
        "sort": setting(explorer.sort, sorts),
        "filter errors": setting(explorer.errors, [True, False]),
        "label": setting(explorer.label, ["synthetic", "authentic", ""]),
        "source": setting(explorer.source, [*SOURCES[1:], ""]),
        "score range": setting(explorer.scores, [(0.0, 0.5), (0.4, 0.9), (0.0, 1.0)]),
        "one run": setting(explorer.runs, [(name,) for name in names]),
        "four runs": setting(explorer.runs, [tuple(names[i : i + 4]) for i in range(4)]),
        "all runs": setting(explorer.runs, [tuple(names), tuple(names[1:])]),
        "scenario": setting(explorer.scenario, ["classical", "cyborg", ""]),
        "network": setting(explorer.network, networks[::-1]),
    }


def run_controls(
    explorer: RunExplorer,
) -> dict[str, Callable]:
    "What a hand does to a run explorer."
    names = list(explorer.runs.options)
    return {
        "show": setting(explorer.what, list(explorer.what.options)[::-1]),
        "two runs": setting(explorer.runs, [tuple(names[i : i + 2]) for i in range(9)]),
        "all runs": setting(explorer.runs, [tuple(names), tuple(names[1:])]),
        "show, all runs": setting(explorer.what, list(explorer.what.options)[::-1]),
        "read again": explorer.reread,
    }


def report(
    page: widgets.Widget,
    controls: dict[str, Callable],
    repeats: int,
) -> list[dict]:  # a row a control
    "Times of all controls, printed and returned."
    rows, kept = [], page.state if hasattr(page, "state") else None
    for name, action in controls.items():
        for control in ("errors", "source", "label", "scenario", "runs") if kept else ():
            getattr(page, control).value = getattr(kept, control)
        times, used = np.transpose([timed(action) for _ in range(repeats)])
        row = {"control": name, "median": np.median(times), "worst": times.max()}
        rows.append(row | {"first": times[0], "cpu": used.max(), "kB": content(page) / 1000})
    table = pd.DataFrame(rows).set_index("control").round(0).astype(int)
    print(table.to_string(), flush=True)
    return rows


@call_parse
def main(
    images: int = 2000,
    runs: int = 40,
    networks: int = 2,  # the runs are spread over: 1 to 4
    repeats: int = 12,  # of each control
    folder: str = "explorer",  # where it is written; taken away afterwards
    keep: bool = False,  # leave it, and use what an earlier call left
):
    "Make run folders, set every control, print milliseconds."
    place = Path(folder).resolve()
    if not (place / "runs").is_dir():
        write_runs(place, images, runs, networks)
    process = psutil.Process()
    print(f"{images:,} images, {runs} runs; load {os.getloadavg()[0]:.1f}", flush=True)
    try:
        for make, controls in ((MapExplorer, map_controls), (RunExplorer, run_controls)):
            made = []
            first = timed(lambda make=make, made=made: made.append(make(place / "runs")))
            print(f"\n{make.__name__}: first picture after {first[0]:.0f} ms, cpu {first[1]:.0f}")
            if reading := getattr(made[0], "reading", None):
                print(f"all results read {timed(reading.join)[0]:.0f} ms later")
            before = process.memory_info().rss
            report(made[0], controls(made[0]), repeats)
            grown = (process.memory_info().rss - before) / 2**20
            print(f"memory grew by {grown:.0f} MiB")
        print(f"load {os.getloadavg()[0]:.1f}")
    finally:
        if not keep:
            shutil.rmtree(place)
