"""What kills do to what is under way: processes are killed at random moments, and started again.

    python benchmarks/campaign.py kill                              # 200 kills of trainings
    python benchmarks/campaign.py kill --kills 50 --what train predict study

A training (a tiny network, a few images) is killed with SIGKILL after a random time and started
again until it ends, then the next one begins, until the kills are used up. After each kill every
file that has its final name must be whole. At the end of each run its weights, history and
predictions must be those, to the last bit, of a run that nobody disturbed, and no temporary file
may be left. An epoch under way may be computed again, and nothing more. `predict` is killed the
same way between and within its shards, and a study as a whole: its process, with the workers and
kernels below it. Exit status 1 where any of this does not hold.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import safe_open

from cyborg import training
from cyborg.evaluation import predict
from cyborg.files import read_json
from cyborg.manifest import read_manifest
from cyborg.predictions import read_maps, read_mean_maps, read_predictions
from cyborg.runs import read_checkpoint, read_history
from cyborg.settings import RunConfig
from cyborg.training import load_run, train

COLUMNS = ["image", "label", "source", "split", "map", "subject"]
FIGURES = ("kills", "runs", "repeated", "most repeated", "torn", "left over", "different")


def write_images(folder: Path, n: int = 28) -> RunConfig:
    "Noise of 64 pixels, eight images to train on, and the settings of a run on it."
    rows, rng = [], np.random.default_rng(0)
    for k in range(n):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        split = "train" if k < 8 else "val" if k < 12 else "test"
        rows.append([f"{k}.png", ("authentic", "synthetic")[k % 2], "ab"[k % 2], split, "", ""])
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "manifest.csv", index=False)
    own = {"arch": "test_resnet", "weights": "none", "size": 64, "batch_size": 4, "alpha": 1.0}
    own |= {"epochs": 6, "device": "cpu", "precision": "fp32", "flip": 0.5, "lr": 0.05}
    own |= {"root": str(folder), "runs": str(folder / "runs")}
    return RunConfig(str(folder / "manifest.csv"), **own)


def forked(work: Callable[[], None], log: Path) -> int:  # its process
    "Do something in a process of its own, which need not import torch anew."
    if process := os.fork():
        return process
    status = 1
    try:
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        work()
        status = 0
    except BaseException:  # the end of this process, whatever it was
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(process: int, seconds: float) -> int | None:  # exit status; None: it was killed
    "Wait for a process, and kill it when the time is up."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return None if status == -signal.SIGKILL else status


# --- what is looked at ------------------------------------------------------------------------


def torn(folder: Path) -> list[str]:  # names of files
    "Files with their final name that cannot be read."
    readers = {
        "config.json": lambda path: read_json(path, ""),
        "settings.json": lambda path: read_json(path, ""),
        "outcome.json": lambda path: read_json(path, ""),
        "history.csv": lambda path: read_history(path.parent),
        "checkpoint.pt": lambda path: read_checkpoint(path.parent.parent),
        "predictions.parquet": lambda path: read_predictions(path),
        "mean_maps.npz": lambda path: read_mean_maps(path.parent),
        "*.npy": lambda path: np.load(path),
        "*.safetensors": lambda path: safe_open(path, "pt"),
    }
    found = []
    for pattern, read in readers.items():
        for path in folder.rglob(pattern):
            under_way = path.parent.name == "predictions.parts" and path.name in _MERGED
            if path.name.startswith(".") or under_way:
                continue  # not in its place yet
            try:
                read(path)
            except (ValueError, OSError, EOFError) as error:
                found.append(f"{path.name}: {error}")
    return found


_MERGED = ("saliency.npy", "mean_maps.npz", "excluded.csv", "predictions.parquet")


def left_over(folder: Path) -> list[str]:
    "Files of writers that were killed, and shards of a finished evaluation."
    parts = [p.name for p in folder.rglob(".*.part*")]
    return parts + [p.name for p in folder.rglob("*.parts")] + _waiting(folder)


def _waiting(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*-epoch*.safetensors")]


def same(a: Path, b: Path) -> bool:
    "Whether two runs came to the same, to the last bit."
    if (a / "model.safetensors").read_bytes() != (b / "model.safetensors").read_bytes():
        return False
    tables = [read_history(folder).drop(columns="seconds") for folder in (a, b)]
    if (a / "predictions.parquet").exists() != (b / "predictions.parquet").exists():
        return False
    if (a / "predictions.parquet").exists():
        tables += [read_predictions(folder) for folder in (a, b)]
        if not np.array_equal(read_maps(a), read_maps(b)):
            return False
        means = [read_mean_maps(folder).model for folder in (a, b)]
        if not np.array_equal(*means):
            return False
    return all(x.equals(y) for x, y in zip(tables[::2], tables[1::2], strict=True))


# --- what is killed ---------------------------------------------------------------------------


def train_traced(config: RunConfig, trace: Path) -> None:
    "Train, and note each epoch that is begun."
    original = training.set_seed

    def traced(seed: int, epoch: int) -> None:
        with trace.open("a") as file:
            file.write(f"{os.getpid()} {epoch}\n")
        original(seed, epoch)

    training.set_seed = traced
    train(config)


def repeats(trace: Path) -> list[int]:  # by start, from the second on
    "How many epochs that had been begun before each start began anew."
    begun = {}
    for line in trace.read_text().splitlines() if trace.exists() else ():
        process, epoch = map(int, line.split())
        begun.setdefault(process, []).append(epoch)
    found, furthest = [], 0
    for epochs in begun.values():
        found.append(max(0, furthest - epochs[0] + 1))
        furthest = max(furthest, *epochs)
    return found[1:]


class Campaign:
    "Kills of one kind of work until they are used up, and what came of it."

    def __init__(self, what: str, folder: Path, kills: int, seed: int):
        self.what, self.folder, self.kills = what, folder, kills
        self.rng, self.figures = np.random.default_rng(seed), Counter(dict.fromkeys(FIGURES, 0))
        self.log, self.told = folder / f"{what}.log", []

    def note(self, figure: str, faults: list[str]) -> None:
        self.figures[figure] += len(faults)
        self.told += [f"{self.what}: {figure}: {fault}" for fault in faults]

    def go(
        self,
        work: Callable[[Path], None],  # that begins or goes on in a folder
        begin: Callable[[str], Path],  # a folder that was not worked in yet, by name
        start: Callable | None = None,  # starts `work` in a process; None: `forked`
        alike: Callable = same,  # whether two folders came to the same
    ) -> None:
        reference, began = begin(f"{self.what}-undisturbed"), time.monotonic()
        start = start or (lambda folder: forked(lambda: work(folder), self.log))
        if ended(start(reference), 3600) != 0:
            raise SystemExit(f"it fails without a kill: {self.log.read_text()[-2000:]}")
        longest = time.monotonic() - began
        while self.figures["kills"] < self.kills:
            self.figures["runs"] += 1
            folder, status, tries = begin(f"{self.what}-{self.figures['runs']}"), None, 0
            while status is None:
                left = self.figures["kills"] < self.kills and tries < 30
                status = ended(start(folder), self.rng.uniform(0, longest) if left else 3600)
                tries += 1
                if status is None:
                    self.figures["kills"] += 1
                    self.note("torn", torn(folder))
            if status:
                raise SystemExit(f"exit status {status}: {self.log.read_text()[-2000:]}")
            self.note("left over", left_over(folder))
            self.note("different", [] if alike(reference, folder) else [folder.name])
            again = repeats(folder.with_suffix(".trace"))
            self.figures["repeated"] += sum(again)
            self.figures["most repeated"] = max([self.figures["most repeated"], *again])
            shutil.rmtree(folder)


def kill_trainings(campaign: Campaign, config: RunConfig) -> None:
    runs = Path(config.runs)
    campaign.go(
        lambda folder: train_traced(
            replace(config, name=folder.name), folder.with_suffix(".trace")
        ),
        lambda name: runs / name,
    )


def kill_predictions(campaign: Campaign, config: RunConfig) -> None:
    runs, test = Path(config.runs), read_manifest(config.manifest, root=config.root).split("test")
    if ended(forked(lambda: train(replace(config, name="tested", epochs=1)), campaign.log), 600):
        raise SystemExit(campaign.log.read_text()[-2000:])

    def work(folder: Path) -> None:
        for _ in range(3):  # overwritten twice, so that kills fall into removals, too
            again = (folder / "predictions.parquet").exists()
            predict(load_run(folder).network, test, folder, 2, shard_size=2, overwrite=again)

    campaign.go(work, lambda name: shutil.copytree(runs / "tested", runs / name))


STUDY = """
import sys
from cyborg.study import read_study, run_study
if (run_study(read_study(sys.argv[1], sys.argv[2]), workers=2)["state"] != "finished").any():
    raise SystemExit(1)
"""


def kill_studies(campaign: Campaign, config: RunConfig) -> None:
    "The process of a study, whose runs end with it."
    file, runs = campaign.folder / "study.yaml", Path(config.runs)
    names = ("size", "batch_size", "device", "precision", "flip", "lr")
    settings = {name: getattr(config, name) for name in names}
    content = {"name": "s", "networks": ["test_resnet"], "scenarios": ["classical"], "seeds": 2}
    content |= {"data": {"noise": {"manifest": config.manifest, "root": config.root}}}
    file.write_text(json.dumps(content | {"settings": settings | {"epochs": 40}}))

    def start(folder: Path) -> int:
        with campaign.log.open("ab") as log:
            command = [sys.executable, "-c", STUDY, str(file), str(folder)]
            return subprocess.Popen(command, stdout=log, stderr=log).pid

    def same_runs(a: Path, b: Path) -> bool:
        names = [path.parent.name for path in a.glob("s/*/config.json")]
        return bool(names) and all(same(a / "s" / name, b / "s" / name) for name in names)

    campaign.go(lambda folder: None, lambda name: runs / name, start, same_runs)


KINDS = {"train": kill_trainings, "predict": kill_predictions, "study": kill_studies}


def kill(options: argparse.Namespace) -> int:  # exit status
    "Kill and start again, and print the figures."
    with tempfile.TemporaryDirectory() as name:
        os.environ["CYBORG_DATA"] = name  # of the cache
        rows, told = {}, []
        for what in options.what:
            folder = Path(name, what)
            folder.mkdir()
            campaign = Campaign(what, folder, options.kills, options.seed)
            began = time.monotonic()
            KINDS[what](campaign, write_images(folder))
            campaign.note("left over", left_over(Path(name, ".cache")))
            rows[what] = {**campaign.figures, "seconds": round(time.monotonic() - began)}
            told += campaign.told
    print(pd.DataFrame(rows).T.to_string())
    print(*told, sep="\n")
    wrong = [row[f] for row in rows.values() for f in ("torn", "left over", "different")]
    return int(any(wrong) or any(row["most repeated"] > 1 for row in rows.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("kill", help=kill.__doc__)
    one.add_argument("--kills", type=int, default=200, help="of each kind of work")
    one.add_argument("--what", nargs="+", choices=tuple(KINDS), default=["train"])
    one.add_argument("--seed", type=int, default=0, help="of the moments")
    one.set_defaults(work=kill)
    options = parser.parse_args()
    raise SystemExit(options.work(options))


if __name__ == "__main__":
    main()
