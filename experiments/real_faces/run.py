"""Train and test the real-face experiment, one papermill run of nbs/train.ipynb after another.

    python experiments/real_faces/run.py --data FOLDER --runs FOLDER

FOLDER is what prepare.py wrote. Started again, it goes on: a run that has its predictions is done.
See README.md beside this file.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from fastcore.script import call_parse
from tqdm.auto import tqdm

from cyborg.files import atomic_path, data_root, runs_root, usable_cores
from cyborg.manifest import read_manifest
from cyborg.saliency import CONTROL_KINDS

NOTEBOOK = Path(__file__).resolve().parents[2] / "nbs" / "train.ipynb"
SCENARIOS = {  # name -> the parameters that make it
    "classical": {"alpha": 1.0, "maps": "human"},
    "cyborg": {"alpha": 0.5, "maps": "human"},
    **{kind: {"alpha": 0.5, "maps": kind} for kind in CONTROL_KINDS},
}
WEIGHTS = {"tf_efficientnet_lite0": "package"}  # others start from random weights
SETS = ("composites", "ffhq140k")
KEYS = ["set", "arch", "scenario"]


class FaceRun(NamedTuple):
    """One training: which manifest, network, scenario and seed."""

    set: str  # name of a manifest in the data folder, without .csv
    arch: str  # timm name
    scenario: str  # a key of SCENARIOS
    seed: int

    @property
    def name(self) -> str:
        "Name of the run folder; `parse_name` reads it back."
        return "--".join([self.set, self.arch, self.scenario, f"s{self.seed}"])


def parse_name(
    name: str,  # of a run folder
) -> FaceRun | None:  # None: not a run of this experiment
    "The run a folder is named after."
    fields = name.split("--")
    if len(fields) != 4 or not fields[3].removeprefix("s").isdecimal():
        return None
    return FaceRun(*fields[:3], int(fields[3].removeprefix("s")))


def parameters(
    run: FaceRun,
    data: Path,  # what prepare.py wrote
    runs: Path,  # parent of the run folders
    options: dict,  # epochs, size, precision ...: the same for all runs
) -> dict:  # name -> value, as nbs/train.ipynb takes them
    "Parameters of one run: the one place that knows the notebook's parameter names."
    return {
        "manifest": str(data / f"{run.set}.csv"),
        "root": str(data),
        "runs": str(runs),
        "name": run.name,
        "arch": run.arch,
        "weights": WEIGHTS.get(run.arch, "none"),
        "seed": run.seed,
        **options,
        **SCENARIOS[run.scenario],
    }


def command(
    settings: dict,  # of `parameters`
    output: Path,  # the executed notebook
) -> list[str]:
    "The papermill call; numbers go through -p, which keeps their type, text through -r."
    words = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(output)]
    for name, value in settings.items():
        words += ["-r" if isinstance(value, str) else "-p", name, str(value)]
    return [*words, "--no-progress-bar"]


def finished(
    folder: Path,  # of one run
) -> bool:
    "Whether a run has its predictions, the last file it writes."
    return (folder / "predictions.parquet").is_file()


def read_record(
    folder: Path,  # of one run
) -> dict:  # settings and provenance; empty where it has no config.json
    "What a run folder tells about its making."
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def differences(
    folder: Path,  # of a run that was started before
    settings: dict,  # wanted now
    digest: str,  # of the manifest as it is now
) -> list[str]:  # "epochs is 3, wanted 12"
    "In what an earlier run differs from the one wanted now; where files lie does not matter."
    record = read_record(folder)
    if not record:
        return []
    found = record["settings"]
    places = ("manifest", "root", "runs", "name")
    told = [
        f"{name} is {found.get(name)!r}, wanted {value!r}"
        for name, value in settings.items()
        if name not in places and found.get(name) != value
    ]
    if record["provenance"]["manifest_digest"] != digest:
        told.append("the manifest has changed")
    return told


def execute(
    run: FaceRun,
    settings: dict,
    runs: Path,  # parent of the run folders
    data: Path,  # what prepare.py wrote
    threads: int,  # for this run's numerical libraries
) -> float:  # seconds
    "Run one training in a process of its own; its words go to logs/NAME.log."
    start = time.monotonic()
    log, output = runs / "logs" / f"{run.name}.log", runs / "executed" / f"{run.name}.ipynb"
    for path in (log, output):
        path.parent.mkdir(parents=True, exist_ok=True)
    package = str(NOTEBOOK.parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "CYBORG_DATA": str(data),  # the manifest's root, and where the image cache goes
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": path,
    }
    with log.open("w") as words:
        done = subprocess.run(
            command(settings, output),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if done.returncode or not finished(runs / run.name):
        last = "\n".join(log.read_text().splitlines()[-5:])
        raise RuntimeError(f"{run.name} ended with {done.returncode}, see {log}:\n{last}")
    return time.monotonic() - start


def execute_all(
    todo: Sequence[FaceRun],
    settings: dict[FaceRun, dict],
    runs: Path,
    data: Path,
    jobs: int,  # runs at a time
) -> list[str]:  # what went wrong, one text a failed run
    "Run them all, a few at a time; one that fails does not stop the others."
    threads = max(1, usable_cores() // jobs)
    failures = []
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(todo), unit="run", smoothing=0) as bar:
        waiting = {
            pool.submit(execute, run, settings[run], runs, data, threads): run for run in todo
        }
        try:
            for job in as_completed(waiting):
                try:
                    bar.write(f"{waiting[job].name}: {job.result() / 60:.1f} min")
                except RuntimeError as error:
                    failures.append(str(error))
                    bar.write(str(error))
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return failures


# --- results, from run folders only ----------------------------------------------------------


def run_measures(
    predictions: pd.DataFrame,  # of `cyborg.predictions.read_predictions`
) -> pd.DataFrame:  # measure, value
    "AUC by source, its means over unseen and seen generators, and agreement with the maps (CC)."
    from cyborg.evaluation import auc_table

    test = predictions[predictions.split == "test"]
    exposure = test[test.exposure != ""].groupby("source").exposure.first()
    auc = auc_table(test, seen=tuple(exposure.index[exposure == "seen"]))
    auc = auc[auc.source.isin(exposure.index)].set_index("source").auc
    rows = [
        ("macro AUC unseen", auc[exposure.index[exposure == "unseen"]].mean(skipna=False)),
        ("macro AUC seen", auc[exposure.index[exposure == "seen"]].mean(skipna=False)),
        *(
            (f"agreement CC {label}", agreement)
            for label, agreement in test.groupby("label").cc.mean().items()
        ),
        *((f"AUC {source}", value) for source, value in auc.sort_index().items()),
    ]
    return pd.DataFrame(rows, columns=["measure", "value"])


def collect(
    runs: Path,  # parent of the run folders
) -> pd.DataFrame:  # set, arch, scenario, seed, code, measure, value
    "The measures of every finished run in a folder; `code` tells versions of this package apart."
    from cyborg.predictions import read_predictions

    tables = []
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        run = parse_name(folder.name)
        if run is None or not finished(folder):
            continue
        measures = run_measures(read_predictions(folder))
        code = read_record(folder).get("provenance", {}).get("code_digest", "unknown")[:8]
        tables.append(measures.assign(**run._asdict(), code=code))
    columns = [*KEYS, "seed", "code", "measure", "value"]
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)
    )


def mean_and_sd(
    values: pd.Series,  # one a seed
) -> str:  # "0.712 ± 0.010 (3)", the number of runs in brackets
    "Mean and standard deviation over runs; no deviation of a single one."
    values = values.dropna()
    if values.empty:
        return ""
    sd = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{sd} ({len(values)})"


def gains(
    results: pd.DataFrame,  # of `collect`
) -> pd.DataFrame:  # as `results`, value: difference to the classical run of the same seed
    "What each scenario adds to classical, run by run."
    index = ["set", "arch", "seed", "measure"]
    base = results[results.scenario == "classical"].set_index(index).value
    other = results[results.scenario != "classical"]
    other = other.join(base.rename("base"), on=index).dropna(subset="base")
    return other.assign(value=other.value - other.base).drop(columns="base")


def markdown(
    table: pd.DataFrame,  # of texts
) -> str:
    "A table in Markdown, its index as first column."
    head = [table.index.name or "", *map(str, table.columns)]
    lines = [
        head,
        ["---"] * len(head),
        *([str(k), *row] for k, row in zip(table.index, table.to_numpy(), strict=True)),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(
    results: pd.DataFrame,  # of `collect`
) -> str:  # Markdown
    "Mean and deviation over seeds of every measure, a table a set; then the paired gains."
    codes = results[[*KEYS, "seed", "code"]].drop_duplicates().code.value_counts()
    told = ", ".join(f"{code} ({count} runs)" for code, count in codes.items())
    parts = [f"Beware: made by several versions of the code, {told}.\n"] if len(codes) > 1 else []
    for title, rows in (
        ("mean ± sd over seeds (number of runs)", results),
        ("difference to classical of the same seed, mean ± sd (number of pairs)", gains(results)),
    ):
        for name, group in rows.groupby("set"):
            group = group.assign(column=group.arch + ", " + group.scenario)
            order = list(dict.fromkeys(group.measure))
            cells = (
                group.groupby(["measure", "column"]).value.agg(mean_and_sd).unstack(fill_value="")
            )
            parts.append(f"### {name}: {title}\n\n{markdown(cells.loc[order])}\n")
    return "\n".join(parts)


def write_results(
    runs: Path,  # parent of the run folders
) -> str:  # the Markdown text
    "Write results.csv (a row a run and measure) and results.md beside the run folders."
    results = collect(runs)
    text = report(results)
    with atomic_path(runs / "results.csv") as temporary:
        results.to_csv(temporary, index=False)
    with atomic_path(runs / "results.md") as temporary:
        temporary.write_text(text)
    return text


# --- command line ----------------------------------------------------------------------------


def known(
    what: str,  # argument the names came from
    names: str,  # comma-separated
    choices: Iterable[str],
) -> list[str]:
    "Names out of a fixed choice; another one is refused."
    names = [name.strip() for name in names.split(",") if name.strip()]
    choices = list(choices)
    if not names or set(names) - set(choices):
        raise ValueError(f"{what} is {names}, expected some of {choices}")
    return names


def assignments(
    text: str,  # "lr_step=5,distance=l2"
) -> dict:
    "Settings given as text; numbers and truth values become such."
    values = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"also is {text!r}, expected NAME=VALUE, not {part!r}")
        try:
            values[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            values[name.strip()] = value.strip()
    return values


def plan(
    runs: Path,
    data: Path,
    grid: list[FaceRun],
    options: dict,  # of `parameters`
) -> dict[FaceRun, dict]:  # every run of the grid with its parameters
    "Parameters of all runs; refuses a folder made with others, before anything is run."
    settings = {run: parameters(run, data, runs, options) for run in grid}
    digests = {
        name: read_manifest(data / f"{name}.csv", root=data).digest
        for name in dict.fromkeys(run.set for run in grid)
    }
    other = {
        run.name: differences(runs / run.name, settings[run], digests[run.set]) for run in grid
    }
    other = [f"{name}: {', '.join(texts)}" for name, texts in other.items() if texts]
    if other:
        raise ValueError(
            f"{len(other)} runs in {runs} were made with other settings (take another --runs, or "
            f"delete them): {'; '.join(other[:5])}"
        )
    return settings


@call_parse
def main(
    data: Path = None,  # what prepare.py wrote (default: real_faces in the data root)
    runs: Path = None,  # parent of the run folders (default: real_faces in the runs root)
    sets: str = ",".join(SETS),  # manifests in `data`, comma-separated
    archs: str = "tf_efficientnet_lite0,resnet50",  # timm networks, comma-separated
    scenarios: str = "classical,cyborg",  # or controls: shuffled, inverted, mean, ...
    seeds: int = 3,  # seeds 0 to seeds - 1, the same for every scenario
    epochs: int = 12,  # of each run
    lr: float = 0.005,  # initial learning rate, the paper's
    lr_step: int = 5,  # epochs between steps of the learning rate (x 0.1): two within 12
    size: int = 128,  # network input, pixels; the images have 128
    output_stride: int = 32,  # pixels a map cell: 4 x 4 cells at 128, as deep as in the paper
    distance: str = "mse",  # between the maps: mse as released, l2 as printed, ...
    precision: str = "auto",  # auto, fp32 or bf16
    also: str = "",  # further parameters of train.ipynb: NAME=VALUE, comma-separated
    jobs: int = 1,  # runs at a time
    only_results: bool = False,  # train nothing, write the tables of what is there
) -> None:
    "Run the grid set x network x seed x scenario, then write results.csv and results.md."
    data = Path(data).resolve() if data else data_root() / "real_faces"
    runs = Path(runs).resolve() if runs else runs_root() / "real_faces"
    failures = []
    if not only_results:
        manifests = [path.stem for path in sorted(data.glob("*.csv"))]
        if not manifests:
            raise FileNotFoundError(f"no manifest in {data}: run prepare.py first, or give --data")
        names = known("sets", sets, manifests)
        grid = [
            FaceRun(set_, arch, scenario, seed)
            for set_, arch, seed, scenario in product(
                names,
                [arch.strip() for arch in archs.split(",")],
                range(seeds),
                known("scenarios", scenarios, SCENARIOS),
            )
        ]
        options = {  # with all that the notebook's presets would decide otherwise
            "epochs": epochs,
            "lr": lr,
            "lr_step": lr_step,
            "size": size,
            "output_stride": output_stride,
            "distance": distance,
            "precision": precision,
        }
        options |= assignments(also)
        settings = plan(runs, data, grid, options)
        todo = [run for run in grid if not finished(runs / run.name)]
        print(f"{len(grid)} runs, {len(grid) - len(todo)} of them finished, in {runs}")
        failures = execute_all(todo, settings, runs, data, jobs)
    print(write_results(runs))
    if failures:
        raise SystemExit(f"{len(failures)} runs failed; start again to repeat them")
