"""How fast training and evaluation are, as ratios of medians measured side by side in one run.

    python benchmarks/speed.py                 everything but the last five, about 10 minutes
    python benchmarks/speed.py --parts steps   some of: steps,maps,epoch,evaluation,memory,imports,
                                               runs,tests,passes,ways,together (minutes each)
    python benchmarks/speed.py --parts runs --archs resnet50   whole runs, one network at a time

Both sides of a ratio take turns, so that what else the machine does hits both alike.
"""

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from accelerate import Accelerator
from fastcore.script import call_parse
from PIL import Image
from tqdm.auto import tqdm

from cyborg.cache import open_cache
from cyborg.data import Batch, ImageDataset, make_loader
from cyborg.demo import make_demo
from cyborg.epoch import run_epoch
from cyborg.evaluation import predict, predict_together
from cyborg.files import NOTEBOOKS
from cyborg.forward import Way, choose_precision, forwarder
from cyborg.manifest import Manifest
from cyborg.models import Network, make_network
from cyborg.predictions import FILES
from cyborg.runs import new_state
from cyborg.saliency import write_map
from cyborg.settings import RunConfig

CPU = torch.device("cpu")


def side_by_side(
    ours: Callable[[], None],
    theirs: Callable[[], None],
    rounds: int = 5,
) -> tuple[float, float]:  # medians, seconds
    "Both, in turn, after one round to warm up."
    times = {ours: [], theirs: []}
    for turn in range(rounds + 1):
        for work in (ours, theirs):
            start = time.perf_counter()
            work()
            if turn:
                times[work].append(time.perf_counter() - start)
    return statistics.median(times[ours]), statistics.median(times[theirs])


def random_batch(
    network: Network,
    n: int = 20,
) -> Batch:
    "Noise with random human maps."
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(n, 3, network.size, network.size, generator=generator),
        torch.arange(n) % 2,
        torch.rand(n, *network.map_size, generator=generator),
        torch.ones(n, dtype=torch.bool),
        torch.arange(n),
    )


def training_step(
    arch: str,
    size: int,
    alpha: float = 0.5,
) -> Callable[[], None]:
    "Our step, as `train` takes it: precision by `auto`, channels last."
    network = make_network(arch, weights="none", size=size)
    precision, _ = choose_precision(network, CPU)
    config = RunConfig("none.csv", arch=arch, alpha=alpha, size=size)
    state = new_state(network.to(memory_format=torch.channels_last), config)
    batch, accelerator = random_batch(network), Accelerator(cpu=True)
    return lambda: run_epoch(network, [batch], config, accelerator, precision, state.optimizer)


def literal_step(
    arch: str,
    size: int,
) -> Callable[[], None]:
    "The released step as described: fp32, a loop over images, DenseNet's features computed twice."
    network = make_network(arch, weights="none", size=size)
    optimizer = torch.optim.SGD(network.parameters(), 0.005, 0.9, weight_decay=1e-6)
    batch = random_batch(network)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        logits, features, *_ = network(batch.image)
        if arch.startswith("densenet"):
            features = network.backbone.forward_features(batch.image)
        maps = []
        for k in range(len(logits)):
            cam = (network.head_weight[logits[k].argmax()][:, None, None] * features[k]).sum(0)
            cam = cam - cam.min()
            maps.append(cam / cam.max())
        saliency = torch.nn.functional.mse_loss(torch.stack(maps), batch.human)
        classification = torch.nn.functional.cross_entropy(logits, batch.label)
        (0.5 * classification + 0.5 * saliency).backward()
        optimizer.step()

    return step


def steps() -> list[dict]:
    "Our CYBORG step against a literal one."
    rows = []
    for arch, size in (("resnet50", 224), ("densenet121", 224), ("resnet50", 112)):
        ours, literal = side_by_side(training_step(arch, size), literal_step(arch, size))
        rows.append(
            {
                "what": f"literal released step / our step, {arch} {size} px, batch 20",
                "ratio": literal / ours,
                "seconds": f"{literal:.2f} / {ours:.2f}",
            }
        )
    return rows


def maps() -> list[dict]:
    "What the saliency part costs: a CYBORG step against a cross-entropy step of the same kind."
    rows = []
    for arch in ("resnet50", "densenet121"):
        cyborg, plain = side_by_side(
            training_step(arch, 112), training_step(arch, 112, alpha=1.0), rounds=11
        )
        rows.append(
            {
                "what": f"CYBORG step / same step with alpha 1, {arch} 112 px",
                "ratio": cyborg / plain,
                "seconds": f"{cyborg:.3f} / {plain:.3f}",
            }
        )
        bare = bare_step(arch, 112)
        cyborg, plain = side_by_side(training_step(arch, 112), bare, rounds=11)
        rows.append(
            {
                "what": f"CYBORG step / bare timm cross-entropy step, {arch} 112 px",
                "ratio": cyborg / plain,
                "seconds": f"{cyborg:.3f} / {plain:.3f}",
            }
        )
    return rows


def bare_step(
    arch: str,
    size: int,
) -> Callable[[], None]:
    "Forward, cross-entropy, backward and step of the timm model alone; precision and layout ours."
    network = make_network(arch, weights="none", size=size)
    precision, _ = choose_precision(network, CPU)
    model = network.backbone.train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.005, 0.9, weight_decay=1e-6)
    batch = random_batch(network)
    image = batch.image.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            logits = model(image)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), batch.label).backward()
        optimizer.step()

    return step


def write_images(
    folder: Path,
    n: int,
    size: int,
) -> Manifest:
    "Noise images with maps, half of them of each class, all of the test split."
    generator = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(n)]
    for i, name in enumerate(names):
        Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(
            folder / name
        )
        if i < 10:
            write_map(folder / f"map{name}", generator.random((size, size)))
    labels = np.resize(["authentic", "synthetic"], n)
    table = pd.DataFrame({"image": names, "label": labels, "split": "test", "subject": ""})
    table = table.assign(source=labels, map=[f"map{i % 10}.png" for i in range(n)])
    return Manifest(table, folder, ("authentic", "synthetic"))


def epoch() -> list[dict]:
    "A training epoch with everything against forward and backward on tensors in memory."
    folder = Path(tempfile.mkdtemp())
    try:
        manifest = write_images(folder, 400, 112)
        network = make_network("resnet18", weights="none", size=112)
        config = RunConfig("none.csv", arch="resnet18", size=112, flip=0.5)
        cache = open_cache(manifest, 112, folder / "cache")
        grid = (network.size, network.map_size, network.mean, network.std)
        dataset = ImageDataset(manifest, *grid, flip=0.5, cache=cache)
        loader = make_loader(dataset, 20, shuffle=True)
        precision, _ = choose_precision(network, CPU)
        state = new_state(network.to(memory_format=torch.channels_last), config)
        accelerator, bare = Accelerator(cpu=True), bare_step("resnet18", 112)

        def ours() -> None:
            run_epoch(network, loader, config, accelerator, precision, state.optimizer)

        def theirs() -> None:
            for _ in range(len(loader)):
                bare()

        full, plain = side_by_side(ours, theirs, rounds=7)
    finally:
        shutil.rmtree(folder)
    what = "training epoch, loading and all / bare timm steps in memory, resnet18 112 px"
    return [{"what": what, "ratio": full / plain, "seconds": f"{full:.2f} / {plain:.2f}"}]


def evaluation() -> list[dict]:
    "Scores, agreement and mean maps against a bare forward."
    folder = Path(tempfile.mkdtemp())
    try:
        manifest = write_images(folder, 1024, 112)
        network = make_network("resnet18", weights="none", size=112)
        cache = folder / "cache"
        predict(network, manifest, folder / "run", cache=cache)  # fills the cache
        batch = random_batch(network, 64)
        image = batch.image.contiguous(memory_format=torch.channels_last)
        model = make_network("resnet18", weights="none", size=112).backbone.eval()
        model = model.to(memory_format=torch.channels_last)

        def ours() -> None:
            predict(network, manifest, folder / "run", cache=cache, overwrite=True)

        def theirs() -> None:
            with torch.inference_mode():
                for _ in range(len(manifest) // 64):
                    model(image)

        full, plain = side_by_side(ours, theirs, rounds=7)
    finally:
        shutil.rmtree(folder)
    what = (
        "evaluation with scores, agreement and maps / bare forward, resnet18 112 px, 1,024 images"
    )
    return [{"what": what, "ratio": full / plain, "seconds": f"{full:.2f} / {plain:.2f}"}]


MEMORY = """
import sys, psutil, pandas as pd
from pathlib import Path
from cyborg.evaluation import predict
from cyborg.manifest import Manifest
from cyborg.models import make_network
folder, n = Path(sys.argv[1]), int(sys.argv[2])
table = pd.read_parquet(folder / "table.parquet")
table = pd.concat([table] * (n // len(table)), ignore_index=True)
network = make_network("resnet18", weights="none", size=40)
manifest = Manifest(table, folder, ("authentic", "synthetic"))
predict(network, manifest, folder / f"run{n}", cache=folder / "cache")
status = open("/proc/self/status").read()  # ru_maxrss would count the parent before the fork
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def memory() -> list[dict]:
    "Peak resident memory of an evaluation of 2,000 and of 50,000 images (the same files again)."
    folder = Path(tempfile.mkdtemp())
    try:
        manifest = write_images(folder, 1000, 40)
        manifest.table.to_parquet(folder / "table.parquet")
        peaks = []
        for n in (2000, 50_000):
            command = [sys.executable, "-c", MEMORY, str(folder), str(n)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout.split()[-1]))
    finally:
        shutil.rmtree(folder)
    what = "peak memory of an evaluation, 50,000 images / 2,000 images (MiB for seconds)"
    small, large = peaks
    return [{"what": what, "ratio": large / small, "seconds": f"{large:.0f} / {small:.0f}"}]


def imports() -> list[dict]:
    "The first second: imports, refusals, a dry run, the way to the first batch; median of three."
    modules = "cyborg", "cyborg.manifest", "cyborg.explore.workbench", "cyborg.training"
    modules += "cyborg.evaluation", "cyborg.study.run"
    rows = [first_row(f"import {one}", partial(python, f"import {one}")) for one in modules]
    with tempfile.TemporaryDirectory() as place:
        runs, train = Path(place) / "runs", NOTEBOOKS / "train.ipynb"
        spoken = partial(spoken_after, {"CYBORG_RUNS": str(runs)})
        make_demo()
        refused = partial(spoken, "papermill", train, runs / "out.ipynb", "-p")
        dry = partial(spoken, "cyborg-study", NOTEBOOKS / "studies/quick.yaml", "--dry_run")
        rows.append(first_row("papermill, epochs is 'ten'", partial(refused, "epochs", "ten")))
        rows.append(
            first_row("papermill, arch is 'resnet51'", partial(refused, "arch", "resnet51"))
        )
        rows.append(first_row("cyborg-study quick.yaml --dry_run", dry))
        rows.append(first_row("papermill train.ipynb to its first batch", partial(to_batch, runs)))
    return rows


def first_row(what: str, seconds: Callable[[], float]) -> dict:
    times = [seconds() for _ in range(4)][1:]  # the first reads files that the others find read
    return {"what": what, "ratio": float("nan"), "seconds": f"{statistics.median(times):.2f}"}


def python(code: str) -> float:
    "Seconds of a process."
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def spoken_after(environment: dict[str, str], command: str, *words: str | Path) -> float:
    "Seconds until a command of this environment has said what it says."
    line = [Path(sys.executable).with_name(command), *map(str, words)]
    start = time.perf_counter()
    subprocess.run(line, env=os.environ | environment, capture_output=True)
    return time.perf_counter() - start


def to_batch(runs: Path) -> float:
    "Seconds from the command to the first batch of the first epoch: its end less its length."
    line = [Path(sys.executable).with_name("papermill"), NOTEBOOKS / "train.ipynb"]
    line += [runs / "out.ipynb", "-p", "epochs", "2", "-p", "overwrite", "True"]
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir()
    begun = time.time()
    child = subprocess.Popen(
        line,
        env=os.environ | {"CYBORG_RUNS": str(runs)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not (found := [*runs.glob("*/history.csv")]):
            if child.poll() is not None:
                raise SystemExit("the training ended before its first epoch did")
            time.sleep(0.02)
        ended = found[0].stat().st_mtime
        return ended - pd.read_csv(found[0])["seconds"].iloc[0] - begun
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


OURS = """
import json, sys, time
start = time.perf_counter()
from pathlib import Path
what, arch, folder, *rest = sys.argv[1:]
folder = Path(folder)
import cyborg.training
from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.models import make_network
from cyborg.settings import run_config
found = {"training": 0.0, "validation": 0.0}
real = cyborg.training.run_epoch
def timed(*args):
    begun = time.perf_counter()
    row = real(*args)
    found["training" if len(args) > 5 else "validation"] += time.perf_counter() - begun
    return row
cyborg.training.run_epoch = timed
if what == "train":
    own = {"arch": arch, "weights": "none", "size": 224, "flip": 0.0, "distance": "mse"}
    own |= {"manifest": str(folder / "table.csv"), "root": str(folder), "epochs": int(rest[0])}
    own |= {"runs": str(folder / "runs"), "name": arch}
    cyborg.training.train(run_config(own), overwrite=True)
else:
    begun = time.perf_counter()
    network = make_network(arch, weights="none", size=224)
    images = read_manifest(folder / "table.csv", folder).split("test")
    predict(network, images, folder / "ours", cache=False, overwrite=True)
    found = {"test": time.perf_counter() - begun}
print(json.dumps(found))
"""
COUNTS = {"train": 20, "val": 220, "test": 320}  # the paper's proportion of 1 to 11
PAPER = {"train": 50 * 1821, "val": 50 * 20_000, "test": 700_000}  # images of a run, scenario 1


def photographs(folder: Path) -> None:
    "JPEGs of 256 pixels, smooth with a little noise, and table.csv."
    rng, rows = np.random.default_rng(0), []
    for split, n in COUNTS.items():
        for i in range(n):
            name, soft = f"{split}{i}.jpg", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            soft = np.asarray(Image.fromarray(soft).resize((256, 256), Image.Resampling.BICUBIC))
            grain = rng.integers(-8, 9, soft.shape)
            pixels = (soft + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name, quality=90)
            write_map(folder / f"{split}{i}-map.png", rng.random((256, 256)))
            label = ("authentic", "synthetic")[i % 2]
            row = {"image": name, "label": label, "source": label, "split": split, "subject": ""}
            rows.append(row | {"map": f"{split}{i}-map.png"})
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)


def child(*command: str) -> dict[str, float]:  # seconds by part, and whole
    "A process of its own, with a cache of its own."
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"CYBORG_CACHE": cache}
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment
        )
        whole = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1]) | {"whole": whole}


LITERAL = str(Path(__file__).with_name("literal.py"))


def in_turn(
    sides: dict[str, tuple[str, ...]],  # name -> command
    rounds: int,
) -> dict[str, dict[str, float]]:  # name -> seconds by part, the least of each
    "Processes one after the other, in turn."
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, command in sides.items():
            found[name].append(child(*command))
    return {name: pd.DataFrame(rows).min().to_dict() for name, rows in found.items()}


def whole_row(what: str, literal: float, ours: float) -> dict:
    "A ratio of seconds."
    return {"what": what, "ratio": literal / ours, "seconds": f"{literal:.1f} / {ours:.1f}"}


def runs(archs: list[str], rounds: int = 2, epochs: int = 3) -> list[dict]:
    "Whole training runs as processes: the released loop as described, and ours."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder))
        for arch in archs:
            sides = {
                "literal": (LITERAL, "train", arch, folder, str(epochs)),
                "ours": ("-c", OURS, "train", arch, folder, str(epochs)),
            }
            literal, ours = in_turn(sides, rounds).values()
            rows.append(
                whole_row(f"training run, {arch}, process", literal["whole"], ours["whole"])
            )
            both = [one["training"] + one["validation"] for one in (literal, ours)]
            rows.append(whole_row(f"training run, {arch}, epochs alone", *both))
            for part, split in (("training", "train"), ("validation", "val")):
                rows.append(whole_row(f"  {part}, {arch}", literal[part], ours[part]))
                images = COUNTS[split] * epochs
                hours = [one[part] / images * PAPER[split] / 3600 for one in (literal, ours)]
                rows.append(whole_row(f"  paper's run, hours of {part}, {arch}", *hours))
    return rows


def tests(archs: list[str], rounds: int = 1) -> list[dict]:
    "The test of a run: the released loop at batch 1, with and without grad-cam, and ours."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder))
        for arch in archs:
            sides = {
                "literal": (LITERAL, "gradcam", arch, folder),
                "ours": ("-c", OURS, "test", arch, folder),
            }
            literal, ours = in_turn(sides, rounds).values()
            with_maps = literal["test"] + literal["gradcam"]
            rows.append(whole_row(f"test, {arch}", literal["test"], ours["test"]))
            rows.append(whole_row(f"test and grad-cam, {arch}", with_maps, ours["test"]))
            hours = [s / COUNTS["test"] * PAPER["test"] / 3600 for s in (with_maps, ours["test"])]
            rows.append(whole_row(f"  paper's run, hours of test and maps, {arch}", *hours))
    return rows


def ways(archs: list[str], rounds: int = 3) -> list[dict]:
    "`predict` as it chooses itself, and in single precision, from cached images, maps and all."
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_images(Path(folder), 320, 224)
        for arch in archs:
            network = make_network(arch, weights="none", size=224)
            how = {"cache": Path(folder) / "cache", "overwrite": True}
            run = partial(predict, network, manifest, Path(folder) / "run", **how)
            auto, single = side_by_side(run, partial(run, precision="fp32"), rounds)
            rows.append(whole_row(f"predict in fp32 / as it chooses, {arch} 224 px", single, auto))
    return rows


def passes(archs: list[str], n: int = 64, rounds: int = 3) -> list[dict]:
    "Forward passes alone: single precision in pieces, bf16 in pieces, compiled; the least of each."
    rows = []
    for arch in archs:
        network = make_network(arch, weights="none", size=224).eval()
        network = network.to(memory_format=torch.channels_last)
        images = torch.randn(n, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        ways = [Way(whole=True), Way(), Way("bf16", whole=True), Way("bf16"), Way("compiled")]
        words = lambda way: f"{way.precision}, {n if way.whole else 8} at a time"  # noqa: E731
        sides = {words(way): forwarder(network, way) for way in ways}
        found, unlike = {what: [] for what in sides}, {}
        with torch.inference_mode():
            exact = network(images).logits
            for turn in range(rounds + 1):
                for what, run in sides.items():
                    start = time.perf_counter()
                    logits = run(images).logits
                    found[what] += [time.perf_counter() - start] if turn else []
                    unlike[what] = (logits - exact).abs().max().item()
        first, *_ = [min(times) for times in found.values()]
        for what, times in found.items():
            row = whole_row(f"forward, {what}, {arch} 224 px", first, min(times))
            told = f"{n / min(times):.1f} images/s, logits apart by at most {unlike[what]:.2g}"
            rows.append(row | {"what": f"{row['what']}: {told}"})
    return rows


def together(archs: list[str]) -> list[dict]:
    "Ten seeds over large pictures at once, and one after the other; nothing is kept of pictures."
    rows, n = [], 96
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng, names = np.random.default_rng(0), [f"{i}.jpg" for i in range(n)]
        for one in names:
            soft = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            soft.resize((1024, 1024), Image.Resampling.BICUBIC).save(folder / one, quality=95)
        table = pd.DataFrame({"image": names, "split": "test", "subject": "", "map": ""})
        table["label"] = table["source"] = np.resize(["authentic", "synthetic"], n)
        manifest = Manifest(table, folder, ("authentic", "synthetic"))
        networks = [make_network("test_resnet", weights="none", size=96, seed=k) for k in range(10)]
        how = {"cache": False, "overwrite": True}

        def at_once() -> None:
            predict_together(networks, manifest, [folder / f"t{k}" for k in range(10)], **how)

        def one_by_one() -> None:
            for k, network in enumerate(networks):
                predict(network, manifest, folder / f"o{k}", **how)

        both = side_by_side(at_once, one_by_one, 3)
        same = all(
            (folder / f"t{k}" / file).read_bytes() == (folder / f"o{k}" / file).read_bytes()
            for k in range(10)
            for file in FILES
        )
        what = f"10 seeds tested at once / one after the other, equal to the bit: {same}"
        rows.append(whole_row(what, *both))
    return rows


PARTS = {f.__name__: f for f in (steps, maps, epoch, evaluation, memory, imports)}
WHOLE = {f.__name__: f for f in (runs, tests, passes, ways, together)}


@call_parse
def main(
    parts: str = ",".join(PARTS),  # which, comma-separated
    archs: str = "resnet50,densenet121",  # of runs, tests, passes and ways
):
    "Print a Markdown table."
    rows = []
    load = psutil.getloadavg()[0]
    for name in tqdm(parts.split(","), unit="part"):
        rows += WHOLE[name](archs.split(",")) if name in WHOLE else PARTS[name]()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,")
    print(
        f"torch {torch.__version__}, load before {load:.1f}, after {psutil.getloadavg()[0]:.1f}\n"
    )
    print("| what | ratio | seconds |\n|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['ratio']:.3f} | {row['seconds']} |")
