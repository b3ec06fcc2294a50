"""What `pip install cyborg` brings to somebody who has no checkout.

The wheel is installed without its requirements into an environment of its own, which finds those
where this Python has them.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pandas as pd
import pytest
from PIL import Image
from test_training import write_faces

from cyborg.files import code_of

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "nbs" / "docs" / "pages" / "guides"
STUDY = """name: tiny
data: {faces: faces/manifest.csv}
networks: [resnet18]
scenarios: [classical, cyborg]
seeds: 1
least_maps: 0.5
settings: {weights: none, size: 40, epochs: 2, batch_size: 4, device: cpu}
"""


def outside() -> dict[str, str]:
    "Variables of the environment, without this checkout on any path."
    gone = ("PYTHONPATH", "CYBORG_DATA", "CYBORG_RUNS", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    # What packages install beside their modules is not found by a path: the explorer's page.
    return kept | {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}


def run(*words, cwd: Path, input: str = "") -> subprocess.CompletedProcess:
    "A command as a user types it."
    return subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=outside(),
        capture_output=True,
        text=True,
        timeout=600,
        **({"input": input} if input else {"stdin": subprocess.DEVNULL}),
        check=False,
    )


def start(*words, cwd: Path) -> subprocess.Popen:
    "A command that goes on until it is ended, in a session of its own."
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [*map(str, words)]
    return subprocess.Popen(command, cwd=cwd, env=outside(), start_new_session=True, **quiet)


def end(child: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):  # some do not go when they are told to
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(5)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "Built from a copy, since a build leaves folders behind."
    copy = tmp_path_factory.mktemp("build") / "project"
    leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_notebooks")
    for name in ("cyborg", "nbs"):
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in ("setup.py", "settings.ini", "README.md", "MANIFEST.in"):
        shutil.copy2(ROOT / name, copy / name)
    words = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = run(sys.executable, "-m", *words, cwd=copy)
    assert done.returncode == 0, done.stderr[-4000:]
    [path] = (copy / "dist").glob("cyborg-*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel, tmp_path_factory) -> Path:
    "The folder of commands of an environment that holds the wheel."
    folder = tmp_path_factory.mktemp("environment")
    made = run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert made.returncode == 0, made.stderr
    python = folder / "bin" / "python"
    words = ["pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    done = run(sys.executable, "-m", *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    [place] = (folder / "lib").glob("python*/site-packages")
    # A path in a .pth file is looked through last, and .pth files in it are not read: the checkout
    # that is installed there stays out of sight.
    (place / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    "Where somebody works, with images of their own."
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "faces").mkdir()
    write_faces(folder / "faces")
    (folder / "tiny.yaml").write_text(STUDY)
    return folder


def test_wheel_holds_what_is_used_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("cyborg/_notebooks/")}
    here = [*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs" / "studies").glob("*.yaml")]
    wanted = {f"cyborg/_notebooks/{p.relative_to(ROOT / 'nbs').as_posix()}" for p in here}
    assert names == wanted and len(wanted) >= 14


def test_package_is_the_wheels(commands, place):
    code = "import cyborg, sys; print(cyborg.__file__); print(cyborg.files.NOTEBOOKS)"
    done = run(commands / "python", "-c", code.replace("sys", "cyborg.files"), cwd=place)
    assert done.returncode == 0, done.stderr
    package, notebooks = map(Path, done.stdout.split())
    assert package.is_relative_to(commands.parent)
    assert notebooks == package.parent / "_notebooks"


def typed(page: str, start: str) -> list[str]:
    "A command of a guide, as it stands there, in words."
    lines = (PAGES / page).read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(start)]
    return shlex.split(line, comments=True)


@pytest.fixture(scope="module")
def studied(commands, place) -> Path:
    "Somebody at a cluster: a scheduler, a worker, a study, as the guide says."
    port, started = str(free_port()), []
    ours = {"8786": port, "tcp://localhost:8786": f"tcp://127.0.0.1:{port}", "2": "1"}
    ours |= {"mine.yaml": "tiny.yaml"}
    dask = [commands / "python", "-m", "dask"]
    try:
        for line, more in (("dask scheduler", "--no-dashboard"), ("dask worker", "--no-dashboard")):
            words = [ours.get(word, word) for word in typed("study.md", line)[1:-1]]
            started.append(start(*dask, *words, more, cwd=place))
        given = typed("study.md", "cyborg-study mine.yaml --scheduler tcp")[1:]
        words = [ours.get(word, word) for word in given]
        done = run(commands / "cyborg-study", *words, "--no_audit", cwd=place)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    finally:
        for child in reversed(started):
            end(child)
    return place


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_folder(studied: Path) -> Path:
    "The run with human maps."
    found = (studied / "runs" / "tiny").rglob("history.csv")
    [folder] = [path.parent for path in found if "cyborg" in path.parent.name]
    return folder


def test_two_epoch_study(commands, studied):
    measures = pd.read_csv(studied / "runs" / "tiny" / "measures.csv")
    assert set(measures["scenario"]) == {"classical", "cyborg"}
    histories = (studied / "runs" / "tiny").rglob("history.csv")
    assert [len(pd.read_csv(path)) for path in histories] == [2, 2]
    words = [run_folder(studied), "faces/1.png", "faces/2.png", "-o", "scores.csv"]
    scored = run(commands / "cyborg-score", *words, cwd=studied)
    assert scored.returncode == 0, scored.stderr[-3000:]
    assert len(pd.read_csv(studied / "scores.csv")) == 2


def test_report_of_the_study(commands, studied):
    words = ["-p", "folder", "runs/tiny", "-p", "vector", "False"]
    done = run(commands / "cyborg", "report", "report.ipynb", *words, cwd=studied)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "executed notebook:  report.ipynb"
    assert (studied / "runs" / "tiny" / "report" / "report.html").is_file()


def test_explorer_is_served(commands, studied):
    port = free_port()
    words = ["explore", "runs", "--no_browser", f"--port={port}"]
    child = start(commands / "cyborg", *words, cwd=studied)
    try:
        page, late = "", time.monotonic() + 60
        while not page and time.monotonic() < late:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/") as answer:
                page = answer.read().decode()
            time.sleep(0.5)
    finally:
        end(child)
    assert "cyborg workbench" in page


PAGE = (PAGES / "python.md").read_text(encoding="utf-8")
PIECES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def named(studied) -> Path:
    "Where what the page of Python speaks of has its names: a run, a study, a photograph."
    (studied / "runs" / "demo-cyborg").symlink_to(run_folder(studied))
    (studied / "runs" / "quick").symlink_to(studied / "runs" / "tiny")
    Image.open(studied / "faces" / "1.png").save(studied / "photo.jpg")
    return studied


def test_page_of_python_has_four_short_pieces():
    assert len(PIECES) == 4
    for piece in PIECES:
        assert len([line for line in piece.splitlines() if line.strip()]) <= 10


def test_pieces_of_the_page_run_each_alone(commands, named):
    code = "import sys, json\nfor piece in json.load(sys.stdin): exec(piece, {})"
    pieces = [piece.rstrip() for piece in PIECES]
    lines = [piece.splitlines() for piece in pieces]
    shown = ["\n".join([*p[:-1], f"print({p[-1].partition('  # ')[0]})"]) for p in lines[1:3]]
    told = [pieces[0] + "\nprint(float(loss.total))", *shown, pieces[3]]
    done = run(commands / "python", "-c", code, cwd=named, input=json.dumps(told))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Image" in done.stdout and "macro" not in done.stderr
    assert "classical" in done.stdout and "measures" in done.stdout


def test_docstrings_of_the_wheel_are_in_its_files(commands, place):
    """An editor reads them there, and nothing has to be made when a module is imported."""
    code = "import cyborg.loss, pathlib; print(cyborg.loss.__file__); help(cyborg.loss.cyborg_loss)"
    done = run(commands / "python", "-c", code, cwd=place)
    path, _, page = done.stdout.partition("\n")
    assert "(B,) bool, which images have one" in page
    text = Path(path).read_text(encoding="utf-8")
    assert "    has_map : torch.Tensor\n        (B,) bool, which images have one" in text


def test_the_code_of_a_run_is_that_of_the_checkout(commands, place):
    "Docstrings that a wheel adds make no other code: runs of both are pooled."
    line = "from cyborg.files import code_of; print(code_of('training'))"
    found = run(commands / "python", "-c", line, cwd=place)
    assert found.stdout.strip() == code_of("training")


def test_a_study_that_comes_with_it_is_found_by_name(commands, place):
    where = run(commands / "cyborg-notebook", "quick", cwd=place)
    assert Path(where.stdout.strip()).name == "quick.yaml"
    assert Path(where.stdout.strip()).is_file()
    wrong = run(commands / "cyborg-study", "quickk", "--dry_run", cwd=place)
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("named 'quickk' (did you mean 'quick'?)\n")


@pytest.mark.parametrize("direct", [True, False])
def test_notebook_is_found_and_takes_parameters(commands, place, direct):
    notebook = run(commands / "cyborg-notebook", "train", cwd=place).stdout.strip()
    first = [commands / "cyborg", "train"] if direct else [commands / "papermill", notebook]
    out = f"out-{direct}.ipynb"
    done = run(*first, out, "-p", "arch", "resnet18", "--prepare-only", cwd=place)
    assert done.returncode == 0, done.stderr
    assert 'arch = \\"resnet18\\"' in (place / out).read_text()


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("cyborg-import", "usage: cyborg-import KIND"),
        ("cyborg-annotate", "usage: cyborg-annotate"),
        ("cyborg-notebook", "human_study"),
        ("cyborg-compare", "run folders"),
    ],
)
def test_commands_start(commands, place, command, wanted):
    done = run(commands / command, "--help", cwd=place)
    assert done.returncode == 0, done.stderr
    assert wanted in done.stdout


def test_what_is_shipped_is_named_when_it_is_mistyped(commands, place):
    done = run(commands / "cyborg-notebook", "trian", cwd=place)
    assert done.returncode == 2
    assert done.stderr.endswith("is named 'trian' (did you mean 'train'?)\n")
