"""Every notebook runs as `nbdev_test` runs it, each in a process of its own."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "nbs"
# These need runs to look at, or minutes: they have tests of their own.
ELSEWHERE = {"train", "report", "workbench", "explore_maps", "explore_runs"}
PATHS = [p.relative_to(NOTEBOOKS).with_suffix("") for p in NOTEBOOKS.rglob("*.ipynb")]
NAMES = sorted(p.as_posix() for p in PATHS if p.name not in ELSEWHERE)


def run_notebook(path: Path) -> subprocess.CompletedProcess:
    """Run nbdev_test on one notebook, from its project's folder."""
    nbdev_test = str(Path(sysconfig.get_path("scripts")) / "nbdev_test")
    command = [sys.executable, nbdev_test, "--path", str(path), "--n_workers", "0"]
    project = NOTEBOOKS.parent if path.is_relative_to(NOTEBOOKS) else path.parents[1]
    return subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=900, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_notebook(name):
    done = run_notebook(NOTEBOOKS / f"{name}.ipynb")
    assert done.returncode == 0, done.stderr[-6000:]
    # nbdev_test also succeeds when it finds no notebook at all.
    assert "Success." in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_failing_notebook_is_noticed(tmp_path):
    """The runner above is itself worth a test: a wrong assert must reach pytest."""
    import nbformat

    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text((NOTEBOOKS.parent / "settings.ini").read_text())
    cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", "assert x == 2, 'planted'")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "nbs" / "wrong.ipynb")
    done = run_notebook(tmp_path / "nbs" / "wrong.ipynb")
    assert done.returncode != 0
    assert "planted" in done.stderr
