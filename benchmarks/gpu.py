"""What a GPU makes of training and test, in one table: at most eight minutes on one GPU.

    python benchmarks/gpu.py                  the paper's four networks and a vision transformer
    python benchmarks/gpu.py --quick          toy networks, in under two minutes on a CPU core
    python benchmarks/gpu.py --parts loader,speed --networks resnet50

Weights are random and images are made here, so nothing is fetched. Both sides of a ratio take
turns. Results are written to the JSON file as they come: what was measured before a kill is there.
What the budget does not hold is left out in words. The environment variable CUDA_VISIBLE_DEVICES
names the GPU; empty, there is none.
"""

import copy
import dataclasses
import itertools
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
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from accelerate import Accelerator
from fastcore.script import call_parse, store_true
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from cyborg.data import Batch, make_loader, on_device
from cyborg.demo import make_demo
from cyborg.epoch import make_datasets, run_epoch
from cyborg.evaluation import auc_table, predict
from cyborg.files import usable_cores
from cyborg.forward import choose_precision
from cyborg.manifest import Manifest
from cyborg.models import PAPER_NETWORKS, Network, make_network
from cyborg.predictions import read_predictions
from cyborg.runs import new_state
from cyborg.saliency import write_map
from cyborg.settings import RunConfig, preset_config
from cyborg.training import load_run, train

VIT = "vit_small_patch16_224"


@dataclasses.dataclass
class Sizes:
    "How much is measured."

    networks: tuple[str, ...] = (*PAPER_NETWORKS, VIT)
    switched: tuple[str, ...] = ("resnet50", VIT)  # whose layout, optimiser and compiler are tried
    batches: tuple[int, ...] = (20, 64)  # images a step: the paper's and what fills a GPU better
    size: int = 0  # input side; 0: each network's own
    files: int = 512  # images that are decoded
    images: int = 2048  # rows, the files again and again
    rounds: int = 3  # turns of which the median is taken
    steps: int = 20  # of a turn
    demo: tuple[int, int, int] = (400, 160, 4)  # images, their side, epochs


QUICK = Sizes(
    ("test_resnet", "test_vit"), ("test_resnet",), (4,), 160, 8, 16, 1, 2, (40, 64, 2)
)  # fmt: skip


class Report:
    "Rows as they come, on the disk after each, and the time that is left."

    def __init__(self, path: Path, budget: float):
        self.path, self.end = path, time.monotonic() + budget
        self.content = {"machine": machine(), "rows": [], "left_out": [], "profile": {}}

    def write(self) -> None:
        "The JSON file, whole at any moment."
        waiting = self.path.with_name(f".{self.path.name}.part")
        waiting.write_text(json.dumps(self.content, indent=1) + "\n")
        waiting.replace(self.path)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        network: str = "",
        goal: str = "",  # for example >= 0.95
    ) -> None:
        "A row, said and written at once."
        row = {"what": what, "network": network, "value": value, "unit": unit, "goal": goal}
        self.content["rows"].append(row | {"met": met(value, goal)})
        print(f"  {network:24} {what}: {value:.4g} {unit} {goal}", flush=True)
        self.write()

    def leave_out(self, what: str, why: str) -> None:
        "What was not measured, and why."
        self.content["left_out"].append(f"{what}: {why}")
        print(f"  left out: {what}: {why}", flush=True)
        self.write()

    @contextmanager
    def part(self, what: str, needs: float = 0.0) -> Iterator[bool]:
        "Whether there is time for a part; a fault in it ends the part and is said."
        left = self.end - time.monotonic()
        if left < needs:
            self.leave_out(what, f"takes about {needs:.0f} s, {max(left, 0):.0f} s are left")
            yield False
            return
        try:
            yield True
        except Exception as error:  # the GPU may be here only once: the other parts go on
            self.leave_out(what, " ".join(f"{type(error).__name__}: {error}".split())[:300])
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def table(self) -> str:
        "All rows as Markdown."
        lines = [", ".join(f"{k} {v}" for k, v in self.content["machine"].items()), ""]
        lines += ["| what | network | value | goal | met |", "|---|---|---|---|---|"]
        for row in self.content["rows"]:
            value = f"{row['value']:.4g} {row['unit']}".strip()
            cells = (row["what"], row["network"], value, row["goal"], row["met"])
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"Left out: {text}" for text in self.content["left_out"])]
        return "\n".join(lines)


def met(value: float, goal: str) -> str:
    "Whether a goal such as `>= 0.95` is met; empty where there is none."
    if not goal:
        return ""
    sign, number = goal.split()
    return "yes" if (value >= float(number) if sign == ">=" else value <= float(number)) else "no"


def machine() -> dict[str, Any]:
    "Card, driver, versions and cores."
    found = {"card": "none, a CPU", "driver": "none"}
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        found = {"card": f"{torch.cuda.get_device_name()} ({memory:.0f} GiB)", "driver": "unknown"}
        if shutil.which("nvidia-smi"):
            asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            told = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout
            found["driver"] = told.split("\n")[0].strip() or "unknown"
    found |= {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
    found |= {"cudnn": torch.backends.cudnn.version() or "none", "timm": timm.__version__}
    return found | {"python": platform.python_version(), "cores": usable_cores()}


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    "Until the GPU has done all that it was given."
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(*works: Callable[[], None], rounds: int) -> list[float]:
    "Medians of works that take turns, after a turn to warm up."
    times = [[] for _ in works]
    for turn in range(rounds + 1):
        for work, kept in zip(works, times, strict=True):
            wait()
            start = time.perf_counter()
            work()
            wait()
            if turn:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in times]


def write_images(folder: Path, sizes: Sizes) -> Manifest:
    "Noise with human maps; the files are named again and again until there are enough rows."
    side, rng = sizes.size or 224, np.random.default_rng(0)
    folder.mkdir()
    base = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)

    def write(i: int) -> None:
        pixels = np.roll(base, i, axis=(0, 2)) ^ np.uint8(i % 251)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=0)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, range(sizes.files)))
    for i in range(8):
        write_map(folder / f"map{i}.png", rng.random((side, side)))
    rows = np.arange(sizes.images) % sizes.files
    labels = np.where(rows % 2, "synthetic", "authentic")
    table = pd.DataFrame({"image": [f"{i}.png" for i in rows], "label": labels})
    table = table.assign(map=[f"map{i % 8}.png" for i in rows], source=labels, subject="")
    split = table.assign(split="train")
    few = [table.iloc[: sizes.files // 2].assign(split=name) for name in ("val", "test")]
    table = pd.concat([split, *few], ignore_index=True)
    return Manifest(table, folder, ("authentic", "synthetic"))


@dataclasses.dataclass
class Place:
    "What the parts share."

    sizes: Sizes
    folder: Path
    manifest: Manifest
    report: Report

    def config(self, arch: str, **changes: Any) -> RunConfig:
        "Settings of the paper for random weights."
        given = {"arch": arch, "weights": "none", "size": self.sizes.size, **changes}
        return RunConfig("none.csv", **given)

    def network(self, arch: str) -> Network:
        "With random weights, on the device, in the layout that training takes."
        network = make_network(arch, weights="none", size=self.sizes.size)
        return network.to(DEVICE, memory_format=torch.channels_last)

    def batches(self, network: Network, n: int, count: int) -> list[Batch]:
        "Noise that lies on the device, one batch named again and again."
        own = torch.Generator().manual_seed(0)
        image = torch.randn(n, 3, network.size, network.size, generator=own)
        batch = Batch(
            image.contiguous(memory_format=torch.channels_last),
            torch.arange(n) % 2,
            torch.rand(n, *network.map_size, generator=own),
            torch.ones(n, dtype=torch.bool),
            torch.arange(n),
        )
        return [Batch(*(t.to(DEVICE) for t in batch))] * count


def precision_of(network: Network) -> str:
    "What `auto` makes of it here."
    return choose_precision(network, DEVICE)[0]


def our_steps(network: Network, config: RunConfig, batches: Any) -> Callable[[], None]:
    "A pass of training over batches, as `train` makes it."
    accelerator, precision = Accelerator(cpu=DEVICE.type == "cpu"), precision_of(network)
    optimizer = new_state(network, config).optimizer
    return lambda: run_epoch(network, batches, config, accelerator, precision, optimizer)


def bare_steps(
    network: Network,
    batch: Batch,
    count: int,
    **options: Any,  # of the optimiser
) -> Callable[[], None]:
    "Forward, cross-entropy, backward and step of timm's model alone; precision and layout ours."
    model, precision = network.backbone, precision_of(network)
    optimizer = torch.optim.SGD(model.parameters(), 0.005, 0.9, weight_decay=1e-6, **options)

    def work() -> None:
        model.train()
        for _ in range(count):
            with torch.autocast(DEVICE.type, torch.bfloat16, precision == "bf16"):
                logits = model(batch.image)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(logits.float(), batch.label).backward()
            optimizer.step()

    return work


def bare_forwards(network: Network, batch: Batch, count: int, precision: str) -> Callable:
    "Forward passes of timm's model alone."

    def work() -> None:
        network.backbone.eval()
        with torch.inference_mode():
            for _ in range(count):
                with torch.autocast(DEVICE.type, torch.bfloat16, precision == "bf16"):
                    network.backbone(batch.image)

    return work


def loader(place: Place, networks: tuple[str, ...]) -> None:
    "Batches out of the cache and onto the device, with nothing that computes."
    network, sizes = place.network(networks[0]), place.sizes
    for n, workers in itertools.product(sizes.batches, (0, 2)):
        config = place.config(networks[0], batch_size=n, workers=workers)
        batches = training_batches(place, network, config)

        def work(batches: Any = batches) -> None:
            for batch in batches:
                if DEVICE.type != "cpu":  # there, normalising would be the GPU's work
                    on_device(batch.image, network.mean, network.std, DEVICE)

        with place.report.part(f"loader, batch {n}, {workers} workers", 20):
            (took,) = seconds(work, rounds=place.sizes.rounds)
            what = f"loader alone, {network.size} px, batch {n}, {workers} workers"
            place.report.add(what, sizes.images / took, "images/s", goal=">= 3000")


def training_batches(place: Place, network: Network, config: RunConfig) -> Any:
    "The loader that a training of these settings has."
    dataset = make_datasets(place.manifest, network, config)["train"]
    return make_loader(dataset, config.batch_size, True, config.seed, config.workers)


def speed(place: Place, networks: tuple[str, ...]) -> None:
    "Training and test from the cache against timm on tensors that lie on the GPU; memory."
    for arch in networks:
        with place.report.part(f"speed of {arch}", 30) as fits:
            if fits:
                for n in place.sizes.batches:
                    speed_of_training(place, arch, n)
                speed_of_steps(place, arch, place.sizes.batches[0])
                speed_of_test(place, arch)


def speed_of_training(place: Place, arch: str, n: int) -> None:
    "Images a second, loading included, and peak memory."
    network, report, images = place.network(arch), place.report, place.sizes.images
    config = place.config(arch, batch_size=n, flip=0.5)
    ours = our_steps(network, config, training_batches(place, network, config))
    [batch] = place.batches(network, n, 1)
    bare = bare_steps(copy.deepcopy(network), batch, -(-images // n))
    mine, theirs = seconds(ours, bare, rounds=place.sizes.rounds)
    shown = f"{network.size} px, batch {n}, {precision_of(network)}"
    report.add(f"CYBORG training from the cache, {shown}", images / mine, "images/s", arch)
    what = f"the same / bare timm cross-entropy steps on tensors in place, batch {n}"
    report.add(what, theirs / mine, "", arch, ">= 0.95")
    if DEVICE.type == "cuda":
        for name, work in (("CYBORG training", ours), ("bare timm steps", bare)):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**30
            what = f"peak memory beyond weights and momentum, {name}, batch {n}"
            report.add(what, peak, "GiB", arch)


def speed_of_steps(place: Place, arch: str, n: int) -> None:
    "What the maps cost: steps on tensors in place, with and without the saliency part."
    network, count = place.network(arch), place.sizes.steps
    batches, other = place.batches(network, n, count), copy.deepcopy(network)
    works = [our_steps(copy.deepcopy(network), place.config(arch), batches)]
    works += [our_steps(network, place.config(arch, alpha=1.0), batches)]
    works += [bare_steps(other, batches[0], count)]
    cyborg, plain, bare = seconds(*works, rounds=max(place.sizes.rounds, 1))
    what = f"CYBORG step / the same with alpha 1, batch {n}"
    place.report.add(what, cyborg / plain, "", arch, "<= 1.02")
    what = f"CYBORG step / bare timm cross-entropy step, batch {n}"
    place.report.add(what, cyborg / bare, "", arch, "<= 1.02")
    if DEVICE.type == "cuda":
        place.report.add(
            "times a step waits for the GPU", waits_of(works[0], count), "", arch, "<= 0.5"
        )


def waits_of(work: Callable[[], None], steps: int) -> float:
    "Times a step makes the CPU wait for the GPU; what waits once a pass counts a little."
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in told) / steps


def speed_of_test(place: Place, arch: str) -> None:
    "Scores, maps and agreement of every image against bare forward passes."
    network, report, n = place.network(arch), place.report, place.sizes.batches[-1]
    test = place.manifest.split("train")  # the largest
    for precision in ("fp32", "bf16") if DEVICE.type == "cuda" else ("fp32",):
        how = {"batch_size": n, "workers": 2, "precision": precision, "overwrite": True}

        def ours(how: dict = how) -> None:
            predict(network, test, place.folder / "scored", **how)

        [batch] = place.batches(network, n, 1)
        bare = bare_forwards(copy.deepcopy(network), batch, -(-len(test) // n), precision)
        mine, theirs = seconds(ours, bare, rounds=place.sizes.rounds)
        what = f"predict from the cache, batch {n}, {precision}"
        report.add(what, len(test) / mine, "images/s", arch)
        what = f"the same / bare timm forwards on tensors in place, {precision}"
        report.add(what, theirs / mine, "", arch, ">= 0.95")


def numbers(place: Place, networks: tuple[str, ...]) -> None:
    "The loss of each of 20 steps in bf16 and in fp32, from the same weights and batches."
    for arch in networks:
        with place.report.part(f"losses of {arch} in bf16 and fp32", 15) as fits:
            if not fits:
                continue
            network, losses = place.network(arch), {}
            own = torch.Generator().manual_seed(1)
            batches = place.batches(network, 8, 20)
            noise = [torch.randn(batches[0].image.shape, generator=own) for _ in batches]
            for precision in ("fp32", "bf16"):
                trained = copy.deepcopy(network)
                optimizer = new_state(trained, place.config(arch)).optimizer
                how = Accelerator(cpu=DEVICE.type == "cpu"), precision, optimizer
                losses[precision] = [
                    run_epoch(trained, [b._replace(image=x)], place.config(arch), *how)[
                        "train_loss"
                    ]
                    for b, x in zip(batches, noise, strict=True)
                ]
            apart = np.abs(np.subtract(*losses.values()))
            place.report.add("loss after 20 steps, fp32", losses["fp32"][-1], "", arch)
            place.report.add("loss after 20 steps, bf16", losses["bf16"][-1], "", arch)
            place.report.add("largest difference of the 20 losses", apart.max(), "", arch)


def switches(place: Place, networks: tuple[str, ...]) -> None:
    "Layout, optimiser, compiler and CUDA graphs: a CYBORG step with each, against our own."
    cuda = DEVICE.type == "cuda"
    for arch in [n for n in place.sizes.switched if n in networks]:
        switch(place, arch, "images and weights not channels_last", lambda net: net, layout=False)
        switch(place, arch, "cudnn.benchmark", lambda net: net, benchmark=True)
        switch(place, arch, "optimiser fused", lambda net: net, fused=True)
        switch(place, arch, "optimiser a loop", lambda net: net, foreach=False)
    kinds = {"torch.compile": {}, "torch.compile and CUDA graphs": {"mode": "reduce-overhead"}}
    if not cuda:  # what is tried here is the script
        place.report.leave_out("CUDA graphs", "they need a GPU")
        kinds = {"torch.compile (eager backend, no GPU)": {"backend": "eager"}}
    for what, options in kinds.items():
        for arch in [n for n in place.sizes.switched if n in networks]:
            compiled = lambda net, how=options: torch.compile(net, **how)  # noqa: E731
            switch(place, arch, what, compiled, needs=90 if cuda else 0)


def switch(
    place: Place,
    arch: str,
    what: str,
    change: Callable[[Network], nn.Module],
    needs: float = 15.0,
    layout: bool = True,  # channels_last
    benchmark: bool = False,  # let cuDNN try what is fastest
    **options: Any,  # of the optimiser
) -> None:
    "Time of a step as it is / with a change; above 1 the change pays."
    n, count = place.sizes.batches[-1], place.sizes.steps
    with place.report.part(f"{what}, {arch}", needs) as fits:
        if not fits:
            return
        network, config = place.network(arch), place.config(arch)
        batches = place.batches(network, n, count)
        ours = our_steps(copy.deepcopy(network), config, batches)
        if not layout:
            network = network.to(memory_format=torch.contiguous_format)
        optimizer = torch.optim.SGD(network.parameters(), 0.005, 0.9, weight_decay=1e-6, **options)
        accelerator, precision = Accelerator(cpu=DEVICE.type == "cpu"), precision_of(network)
        changed = change(network)
        start = time.perf_counter()

        def other() -> None:
            torch.backends.cudnn.benchmark = benchmark
            run_epoch(changed, batches, config, accelerator, precision, optimizer)
            torch.backends.cudnn.benchmark = False

        other()
        first = time.perf_counter() - start
        plain, with_it = seconds(ours, other, rounds=place.sizes.rounds)
        place.report.add(f"CYBORG step / with {what}, batch {n}", plain / with_it, "", arch)
        if "compile" in what:
            place.report.add(f"seconds of the first {count} steps with {what}", first, "s", arch)


def resume(place: Place, networks: tuple[str, ...]) -> None:
    "A run that is stopped after its first epoch and goes on, against one that is not."
    with place.report.part("resume", 40) as fits, settled():
        if not fits:
            return
        n, side, _ = place.sizes.demo
        demo = make_demo(place.folder / f"demo-{n}", n=n, size=side)
        found = {}
        for name, stops in (("straight", ()), ("again", ()), ("resumed", (1,))):
            config = demo_config(place, demo, f"resume-{name}", epochs=2)
            for epoch in stops:
                with suppress(KeyboardInterrupt):
                    train(config, [stop_after(epoch)])
            found[name] = load_file(train(config) / "model.safetensors")
        for name in ("again", "resumed"):
            apart = max(
                (found[name][k].double() - v.double()).abs().max().item()
                for k, v in found["straight"].items()
            )
            what = {"again": "run again", "resumed": "stopped after an epoch and resumed"}[name]
            told = f"largest difference of a weight, a run against the same {what}"
            place.report.add(told, apart, "", goal="<= 0")


@contextmanager
def settled() -> Iterator[None]:
    "Only algorithms that give the same bits every time, where there are such."
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def stop_after(epoch: int) -> Callable[[pd.DataFrame], None]:
    "A callback that ends a training as a key does."

    def call(history: pd.DataFrame) -> None:
        if len(history) == epoch:
            raise KeyboardInterrupt

    return call


def demo_config(place: Place, demo: Manifest, name: str, **changes: Any) -> RunConfig:
    "The demo's preset in a folder of this measurement."
    given = {"manifest": str(demo.root / "manifest.csv"), "root": str(demo.root), "name": name}
    given |= {
        "runs": str(place.folder / "runs"),
        "device": "auto" if DEVICE.type == "cuda" else "cpu",
    }
    return preset_config("quick", given | {"size": 160 if place.sizes.size == 0 else 64} | changes)


def demo(place: Place, networks: tuple[str, ...]) -> None:
    "A whole short run on the demo set: drawn, trained, tested."
    with place.report.part("a whole run on the demo set", 40) as fits:
        if not fits:
            return
        n, side, epochs = place.sizes.demo
        start = time.perf_counter()
        images = make_demo(place.folder / f"demo-{n}", n=n, size=side)
        told = time.perf_counter() - start
        place.report.add(f"{n} demo faces drawn, or there already", told, "s")
        start = time.perf_counter()
        run = load_run(train(demo_config(place, images, "whole", epochs=epochs)))
        place.report.add(
            f"{epochs} epochs trained", time.perf_counter() - start, "s", run.config.arch
        )
        start = time.perf_counter()
        predict(run.network.to(DEVICE), images.split("test"), run.folder)
        place.report.add("test", time.perf_counter() - start, "s", run.config.arch)
        aucs = auc_table(read_predictions(run.folder))["auc"]
        place.report.add("mean AUC by generator", float(aucs.mean()), "", run.config.arch)


def profile(place: Place, networks: tuple[str, ...]) -> None:
    "Where the time of a CYBORG step goes, by kernel."
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU]
    kinds += [ProfilerActivity.CUDA] if DEVICE.type == "cuda" else []
    by = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    for arch in [name for name in place.sizes.switched if name in networks]:
        with place.report.part(f"profile of {arch}", 25) as fits:
            if not fits:
                continue
            network, n = place.network(arch), place.sizes.batches[-1]
            work = our_steps(network, place.config(arch), place.batches(network, n, 3))
            work()
            with torch.profiler.profile(activities=kinds) as seen:
                work()
                wait()
            events = sorted(seen.key_averages(), key=lambda e: getattr(e, by), reverse=True)
            whole = sum(getattr(e, by) for e in events) or 1
            top = [
                {"kernel": e.key, "share": getattr(e, by) / whole, "calls": e.count} for e in events
            ]
            place.report.content["profile"][arch] = top[:10]
            for row in top[:10]:
                name = row["kernel"].replace("|", "/")[:60]
                what = f"share of a CYBORG step, batch {n}: {name}, {row['calls'] // 3} calls"
                place.report.add(what, 100 * row["share"], "%", arch)


PARTS = {f.__name__: f for f in (loader, speed, numbers, demo, resume, profile, switches)}


def stopped(*_: Any) -> None:
    "A polite kill still prints the table."
    raise SystemExit("stopped")


@call_parse
def main(
    quick: store_true = False,  # toy networks and few images, for a CPU
    parts: str = ",".join(PARTS),  # which, comma-separated
    networks: str = "",  # which, comma-separated; empty: all
    budget: float = 480,  # seconds; what does not fit any more is left out in words
    out: str = "gpu.json",  # file that the results are written to
):
    "Print a Markdown table and write a JSON file."
    signal.signal(signal.SIGTERM, stopped)
    sizes = QUICK if quick else Sizes()
    report = Report(Path(out), budget)
    chosen = tuple(networks.split(",")) if networks else sizes.networks
    folder = Path(tempfile.mkdtemp(prefix="cyborg-gpu-"))
    os.environ["CYBORG_CACHE"] = str(folder / "cache")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS has bits to choose
    try:
        place = Place(sizes, folder, write_images(folder / "images", sizes), report)
        for name in parts.split(","):
            print(f"{name}: {PARTS[name].__doc__}", file=sys.stderr, flush=True)
            with report.part(name):
                PARTS[name](place, chosen)
    finally:
        report.write()
        shutil.rmtree(folder, ignore_errors=True)
        print(f"\n{report.table()}")
