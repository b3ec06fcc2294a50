"""Executed copies of notebooks, made anew only where a notebook or what it imports has changed."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from itertools import chain
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

from layout import EXECUTED, ROOT

# Imported once and forked: a notebook alone would wait three seconds for each of them.
PRELOAD = [
    "torch",
    "torchvision",
    "timm",
    "pandas",
    "plotly.express",
    "sklearn.metrics",
    "execnb.shell",
]


class Executed(NamedTuple):
    "What became of a notebook."

    path: Path  # of the source
    copy: Path  # of the executed copy, if it could be made
    seconds: float  # 0 where the copy was there
    error: str  # empty: none


def environment() -> dict[str, str]:
    "Data and runs of the pages' own, no hub, no second thread, and figures as plotly's own JSON."
    folders = {"CYBORG_DATA": str(EXECUTED / "data"), "CYBORG_RUNS": str(EXECUTED / "runs")}
    quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return folders | quiet | {"PLOTLY_RENDERER": "plotly_mimetype", "PYTHONPATH": str(ROOT)}


def code_of(path: Path) -> str:
    "Code cells of a notebook, or the text of a module."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    return "\n".join("".join(cell["source"]) for cell in cells)


def imported(path: Path) -> set[Path]:
    "Modules of the package that a file names in its imports."
    found = set()
    for node in ast.walk(ast.parse(code_of(path))):
        if isinstance(node, ast.ImportFrom):
            base = ROOT / "cyborg" if not node.level else path.parents[node.level - 1]
            parts = (node.module or "").split(".")
            parts = parts[1:] if not node.level and parts[0] == "cyborg" else parts
            if node.level or (node.module or "").split(".")[0] == "cyborg":
                inside = base.joinpath(*parts)
                found |= {inside.with_suffix(".py"), *(inside / f"{a.name}.py" for a in node.names)}
    return {one for one in found if one.is_file()}


def stamp(
    path: Path,  # of a notebook
    *more: str,  # what else decides what it shows
) -> str:
    "A hash of a notebook and of all that it imports, directly or not."
    known, new = set(), {path}
    while new:
        known |= new
        new = set().union(*(imported(one) for one in new)) - known
    told = hashlib.sha256("\0".join(more).encode())
    for one in sorted(known):
        told.update(one.read_bytes())
    return told.hexdigest()


def copy_of(path: Path) -> Path:
    "Where the executed copy of a notebook lies."
    return EXECUTED / path.relative_to(ROOT / "nbs")


def is_made(path: Path, *more: str) -> bool:
    "Whether the executed copy is that of today's notebook and modules."
    told = copy_of(path).with_suffix(".stamp")
    return copy_of(path).is_file() and told.is_file() and told.read_text() == stamp(path, *more)


def _execute(path: Path) -> Executed:
    "Run a notebook of the library as its test does, in this process, and write the copy."
    os.environ.update(environment())
    from execnb.nbio import write_nb
    from execnb.shell import CaptureShell
    from nbdev.process import NBProcessor

    def left_out(cell) -> bool:
        told = getattr(cell, "directives_", None) or {}
        return "nbdev_export" in cell.source or told.get("eval:", [""])[0].lower() == "false"

    start, error, shell = time.monotonic(), "", CaptureShell(path)
    os.chdir(path.parent)
    notebook = NBProcessor(path, rm_directives=False, process=True).nb
    try:
        shell.run_all(notebook, exc_stop=True, preproc=left_out)
        copy_of(path).parent.mkdir(parents=True, exist_ok=True)
        write_nb(notebook, copy_of(path))
        copy_of(path).with_suffix(".stamp").write_text(stamp(path))
    except BaseException as caught:  # a notebook may raise anything; the others go on
        error = f"{type(caught).__name__}: {caught}"
    return Executed(path, copy_of(path), time.monotonic() - start, error)


def execute_library(
    paths: Iterable[Path],
    jobs: int,  # processes at a time
) -> Iterable[Executed]:
    "Executed copies of library notebooks, each run in a process of its own, as they are finished."
    new = []
    for path in paths:
        if is_made(path):
            yield Executed(path, copy_of(path), 0.0, "")
        else:
            new.append(path)
    os.environ.update(environment())
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with context.Pool(min(jobs, len(new)) or 1, maxtasksperchild=1) as pool:
        yield from pool.imap_unordered(_execute, new, chunksize=1)


def execute_with_papermill(
    path: Path,  # of a notebook to use
    parameters: dict,
    before: str = "",  # what else its outputs come from
) -> Executed:
    "The executed copy of a notebook to use, run in a kernel as a user's is."
    given = json.dumps(parameters, sort_keys=True)
    told = given + before
    if is_made(path, told):
        return Executed(path, copy_of(path), 0.0, "")
    start, copy = time.monotonic(), copy_of(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "papermill", str(path), str(copy), "--cwd", str(path.parent)]
    command += ["--no-progress-bar", "--log-level", "ERROR", "-y", given]
    error = _run(command)
    if not error:
        copy.with_suffix(".stamp").write_text(stamp(path, told))
    return Executed(path, copy, time.monotonic() - start, error)


def _run(command: list[str]) -> str:
    "Run a command in the pages' environment; the end of its complaint, empty if there is none."
    done = subprocess.run(
        command, env=os.environ | environment(), capture_output=True, text=True, check=False
    )
    return (done.stderr[-3000:] or "it failed") if done.returncode else ""


def execute_used(jobs: int) -> Iterable[Executed]:
    "Executed copies of the notebooks to use; what makes something to show comes first."
    house, study = ROOT / "nbs", Path(__file__).parent / "study.yaml"
    first = {"train": {}, "prepare": {}, "annotate": {}, "human_study": {}, "autoencoder": {}}
    then = {"study": {"file": str(study), "workers": jobs}}
    last = {"report": {"folder": str(EXECUTED / "runs" / "pages"), "vector": False}}
    last |= {"workbench": {}, "explore_maps": {}, "explore_runs": {}}
    before = stamp(house / "study.ipynb", study.read_text(), stamp(house / "train.ipynb"))
    told = EXECUTED / "runs" / "stamp"  # runs of other code are not shown beside those of this
    if not told.is_file() or told.read_text() != before:
        shutil.rmtree(told.parent, ignore_errors=True)
        told.parent.mkdir(parents=True)
        told.write_text(before)
    for stage in (first, then, last):
        with ThreadPool(jobs) as pool:
            pairs = [(house / f"{name}.ipynb", parameters) for name, parameters in stage.items()]
            yield from pool.imap_unordered(
                lambda pair: execute_with_papermill(*pair, before), pairs
            )


def execute_all(
    jobs: int,  # processes at a time
    only: Collection[str] = (),  # names of the library notebooks to run; empty: run everything
) -> Iterable[Executed]:
    "Executed copies of notebooks, with a line about each that had to be run."
    library = sorted((ROOT / "nbs" / "lib").rglob("*.ipynb"))
    chosen = [path for path in library if not only or path.stem in only]
    used = [] if only else execute_used(jobs)
    for one in chain(execute_library(chosen, jobs), used):
        if one.seconds:
            state = "FAILED" if one.error else "done"
            print(f"{one.seconds:6.1f} s  {one.path.relative_to(ROOT)} {state}", flush=True)
        yield one
