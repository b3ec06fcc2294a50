"""Every notebook runs as `nbdev_test` runs it, each in a process of its own."""

import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "nbs"
# These need runs to look at, or minutes: they have tests of their own.
ELSEWHERE = {"train", "report", "workbench", "explore_maps", "explore_runs"}
PATHS = [p.relative_to(NOTEBOOKS).with_suffix("") for p in NOTEBOOKS.rglob("*.ipynb")]
NAMES = sorted(p.as_posix() for p in PATHS if p.name not in ELSEWHERE)
# What takes seconds to load and is others' is loaded once: each notebook runs in a fork of that.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["nbdev.test", "pandas", "plotly.io", "scipy.stats", "sklearn", "torch", "timm", "accelerate"]
)


class Done(NamedTuple):
    "How a process ended."

    exit_code: int
    told: str  # what it printed, errors, too


def nbdev_test(path: Path, project: Path, log: Path) -> None:
    "The command, in the process that this is called in."
    from nbdev.test import nbdev_test as command

    for stream in 1, 2:
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(project)
    command(path=str(path), n_workers=0)


def run_notebook(path: Path, log: Path) -> Done:
    """Run nbdev_test on one notebook, from its project's folder."""
    project = NOTEBOOKS.parent if path.is_relative_to(NOTEBOOKS) else path.parents[1]
    process = FORKS.Process(target=nbdev_test, args=(path, project, log))
    process.start()
    process.join(900)
    process.kill()
    process.join()
    return Done(process.exitcode, log.read_text(errors="replace"))


@pytest.mark.parametrize("name", NAMES)
def test_notebook(name, tmp_path):
    done = run_notebook(NOTEBOOKS / f"{name}.ipynb", tmp_path / "log")
    assert done.exit_code == 0, done.told[-6000:]
    # nbdev_test also succeeds when it finds no notebook at all.
    assert "Success." in done.told, done.told[-4000:]


def test_a_failing_notebook_is_noticed(tmp_path):
    """The runner above is itself worth a test: a wrong assert must reach pytest."""
    import nbformat

    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text((NOTEBOOKS.parent / "settings.ini").read_text())
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "assert x == 2, 'planted'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "nbs" / "wrong.ipynb")
    done = run_notebook(tmp_path / "nbs" / "wrong.ipynb", tmp_path / "log")
    assert done.exit_code == 1
    assert "planted" in done.told
