"""What collecting a study costs: time and memory for run folders made up here, collected for real.

    python benchmarks/collecting.py                           the paper: 160 runs of 700,000 images
    python benchmarks/collecting.py --runs 16 --rows 7000     a quick look

Each run has its own scores and agreement with human maps; names and sources of the images are the
same, as they are in a study. Collecting is a process of its own, so that its memory is that of
nothing else; it is done twice, the second time with everything measured already.
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from fastcore.script import call_parse
from scipy.special import expit

from cyborg.manifest import METRICS
from cyborg.study.file import StudyRun, read_study, study_runs
from cyborg.study.runner import Outcome, write_outcome

# Section 5 of the paper: camera set or generator, its counterpart, images in hundred thousands.
CELEBA, FFHQ = "celeba-hq", "ffhq"
TEST = [(CELEBA, "", 0.3), (FFHQ, "", 0.7), ("progan", CELEBA, 1), ("starganv2", CELEBA, 1)]
TEST += [(f"stylegan{version}", FFHQ, 1) for version in ("", "2", "2-ada", "3")]
VALIDATION = [("frgc", "", 0.5), ("srefi", "frgc", 0.25), ("stylegan2", "frgc", 0.25)]
COLLECT = """
import sys, time
start = time.perf_counter()
from cyborg.study import collect, read_study
imported = time.perf_counter()
found = collect(read_study(*sys.argv[1:]))
print(*found.problems, sep="\\n", file=sys.stderr)
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
peak = int(status["VmHWM"].split()[0]) / 2**20
print(len(found.measures), len(found.rocs), len(found.intervals), found.intervals["reason"].iloc[0],
      f"{time.perf_counter() - imported:.1f}", f"{imported - start:.1f}", f"{peak:.2f}", sep="|")
"""


def images_of(
    sources: list[tuple[str, str, float]],  # name, counterpart, share
    rows: int,  # about so many in all
    split: str,
) -> pd.DataFrame:  # a manifest's rows
    "Images of one split."
    share = rows / sum(part for *_, part in sources)
    counts = [round(part * share) for *_, part in sources]
    table = pd.DataFrame({"source": np.repeat([name for name, *_ in sources], counts)})
    table["counterpart"] = np.repeat([counterpart for _, counterpart, _ in sources], counts)
    table["label"] = np.where(table["counterpart"] == "", "authentic", "synthetic")
    table["image"] = [f"{split}/{name}/{i:07d}.png" for i, name in enumerate(table["source"])]
    return table.assign(split=split, map="", subject="")


def write_predictions(
    table: pa.Table,  # a manifest's rows
    synthetic: np.ndarray,  # (n,) bool
    folder: Path,
    rng: np.random.Generator,
) -> None:
    "What a run says of them."
    logit = (rng.normal(size=len(synthetic)) + rng.uniform(0.4, 1) * synthetic).astype(np.float32)
    columns = {"logit_0": -logit, "logit_1": logit, "score": expit(2.0 * logit)}
    columns["predicted"] = pa.array(np.array(["authentic", "synthetic"])[(logit > 0).astype(int)])
    columns |= {metric: rng.random(len(synthetic)) for metric in METRICS}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    note = {"classes": ["authentic", "synthetic"], "settings": {"map_size": "7x7"}}
    folder.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"cyborg": json.dumps(note)})
    pq.write_table(table, folder / "predictions.parquet")


def write_run(
    run: StudyRun,
    tables: dict[str, pa.Table],  # by folder in the run folder
    seed: int,
) -> None:
    "A run folder as far as collecting reads it."
    folder, rng = run.config.folder, np.random.default_rng(seed)
    for name, table in tables.items():
        synthetic = table["label"].to_numpy(zero_copy_only=False) == "synthetic"
        write_predictions(table, synthetic, folder / name, rng)
    sources = [name for name, *_ in VALIDATION]
    provenance = {"manifest_digest": "", "code_digest": "", "versions": {}, "commit": ""}
    provenance["training_sources"] = sources
    record = {"settings": asdict(run.config), "provenance": provenance}
    record["resolved"] = {"precision": "fp32"}
    (folder / "config.json").write_text(json.dumps(record))
    history = pd.DataFrame({"epoch": np.arange(1, run.config.epochs + 1)})
    history["train_loss"] = rng.random(len(history))
    history.to_csv(folder / "history.csv", index=False)
    write_outcome(folder, Outcome(True, "", 0.0, ""))


def write_study(
    folder: Path,
    runs: int,  # 16 a seed, at least
    rows: int,  # of the test split
) -> Path:  # the study file
    "A study of 4 networks and 4 scenarios whose runs have all finished."
    frames = {".": images_of(TEST, rows, "test")}
    frames["validation"] = images_of(VALIDATION, max(1000, rows // 35), "val")
    folder.mkdir(parents=True)
    training = frames["validation"].assign(split="train")  # only its sources are asked for
    pd.concat([training, frames["."]]).to_csv(folder / "manifest.csv", index=False)
    content = {
        "name": "scale",
        "preset": "paper",
        "data": {"faces": {"manifest": "manifest.csv", "root": "."}},
        "networks": ["densenet121", "resnet50", "inception_v3", "xception"],
        "scenarios": ["classical", "cyborg", "shuffled", "mean_map"],
        "seeds": max(1, runs // 16),
    }
    (folder / "scale.yaml").write_text(yaml.safe_dump(content))
    tables = {name: pa.Table.from_pandas(f, preserve_index=False) for name, f in frames.items()}
    study = read_study(folder / "scale.yaml", folder)
    for i, run in enumerate(study_runs(study)):
        write_run(run, tables, i)
    return folder / "scale.yaml"


@call_parse
def main(
    runs: int = 160,  # rounded down to a multiple of 16
    rows: int = 700_000,  # test images of each run
    folder: str = "collecting",  # where it is written, 64 bytes a row; taken away afterwards
    keep: bool = False,  # leave the run folders there
):
    "Make run folders, collect them twice, print time and peak memory."
    place, start = Path(folder).resolve(), time.perf_counter()
    file = write_study(place, runs, rows)
    size = sum(p.stat().st_size for p in place.rglob("predictions.parquet")) / 2**30
    print(f"made {size:.1f} GiB in {time.perf_counter() - start:.0f} s", flush=True)
    try:
        for what in ("everything new", "nothing new"):
            call = [sys.executable, "-c", COLLECT, str(file), str(place)]
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            measures, rocs, intervals, form, seconds, imports, peak = done.stdout.strip().split("|")
            print(
                f"{what}: {seconds} s (and {imports} s of imports), {peak} GiB at most; "
                f"{measures} measures, {rocs} points of curves, {intervals} intervals ({form})",
                flush=True,
            )
    finally:
        if not keep:
            shutil.rmtree(place)
