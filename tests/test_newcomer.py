"""The first hour of somebody new: what README and the first guides say to type is typed.

`make train` and `make explore` themselves take minutes, so of those it is seen that make finds all
they need. Of the commands that train, the images are few and small and the epochs two. The library
user's page and the cluster user's commands are typed in test_wheel.py.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_training import write_faces

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sys.executable).parent
GUIDES = ROOT / "nbs" / "docs" / "pages" / "guides"
SMALL = "-r manifest faces/manifest.csv -r root faces -r arch resnet18 -r weights none "
SMALL += "-p size 40 -p epochs 2 -p batch_size 4 -r device cpu"


def commands_of(page: Path) -> list[str]:
    "What a page says to type, without what it says about it."
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.split("\n")]
    return [line for line in lines if line and not line.startswith("#")]


def typed(line: str, more: str, cwd: Path) -> str:  # standard output
    "Type a command of a page into a shell, with more words."
    environment = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"}
    environment |= {"CYBORG_RUNS": str(cwd / "runs")}
    done = subprocess.run(
        f"{line} {more}",
        shell=True,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    "A folder with the notebooks where a checkout has them, and a few faces."
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "nbs").symlink_to(ROOT / "nbs")
    for name in ("faces", "a_folder"):
        (folder / name).mkdir()
    write_faces(folder / "faces")
    Image.open(folder / "faces" / "1.png").save(folder / "photo.jpg")
    shutil.copy(folder / "faces" / "2.png", folder / "a_folder")
    return folder


def test_what_readme_says_to_type_can_be_made(tmp_path):
    lines = [line for line in commands_of(ROOT / "README.md") if line.startswith("make ")]
    assert {"make train", "make explore"} <= {*lines}
    for line in lines:
        words = [*line.split(), "-n", f"VENV={tmp_path}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_first_run(place):
    lines = commands_of(GUIDES / "first_run.md")
    [classical] = [line for line in lines if line.endswith("-p alpha 1.0")]
    said = typed(classical, f"{SMALL} -p name demo-classical", place)
    assert "classical: resnet18, 2 epochs" in said and "epoch   2 of 2: loss" in said
    [other] = [line for line in lines if line.endswith("-p arch resnet50")]
    typed(other, f"{SMALL} -p name demo-cyborg", place)
    [compare] = [line for line in lines if line.startswith("cyborg-compare")]
    table = typed(compare, "", place)
    assert table.split()[:2] == ["classical", "cyborg"]
    [page] = [line for line in lines if "--help-notebook" in line]
    assert "  arch: str (quick 'test_resnet', paper 'resnet50')" in typed(page, "", place)


def test_the_run_is_asked_about_pictures(place):
    lines = commands_of(GUIDES / "score.md")
    [score] = [line for line in lines if line.startswith("cyborg-score runs/demo")]
    typed(score, "", place)
    table = pd.read_csv(place / "scores.csv")
    assert [Path(file).name for file in table["file"]] == ["photo.jpg", "2.png"]
    assert (place / "sheet.jpg").is_file() and len([*(place / "maps").iterdir()]) == 2
