"""How fast training and evaluation are, as ratios of medians measured side by side in one run.

    python benchmarks/speed.py                 everything, about 10 minutes on two CPU cores
    python benchmarks/speed.py --parts steps   some of: steps,maps,epoch,evaluation,memory,imports

Both sides of a ratio take turns, so that what else the machine does hits both alike.
"""

import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
from cyborg.epoch import choose_precision, run_epoch
from cyborg.evaluation import predict
from cyborg.manifest import Manifest
from cyborg.models import Network, make_network
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
    "Time to import, in a fresh process, median of five."
    rows = []
    for module in ("cyborg.manifest", "cyborg.saliency", "cyborg.training", "cyborg.evaluation"):
        times = []
        for _ in range(6):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            times.append(time.perf_counter() - start)
        seconds = f"{statistics.median(times[1:]):.2f}"
        rows.append({"what": f"import {module}", "ratio": float("nan"), "seconds": seconds})
    return rows


PARTS = {f.__name__: f for f in (steps, maps, epoch, evaluation, memory, imports)}


@call_parse
def main(
    parts: str = ",".join(PARTS),  # which, comma-separated
):
    "Print a Markdown table."
    rows = []
    load = psutil.getloadavg()[0]
    for name in tqdm(parts.split(","), unit="part"):
        rows += PARTS[name]()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,")
    print(
        f"torch {torch.__version__}, load before {load:.1f}, after {psutil.getloadavg()[0]:.1f}\n"
    )
    print("| what | ratio | seconds |\n|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['ratio']:.3f} | {row['seconds']} |")
