"""What `benchmarks/golden.py compare` sees and what it leaves out."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from golden import compare

CONFIG = {"settings": {"lr": 0.05}, "provenance": {"commit": "a1", "versions": {"torch": "2"}}}
TEXTS = {
    "runs/measures.csv": "scenario,auc,seconds\ncyborg,0.8125,3.2\nclassical,0.75,3.4\n",
    "runs/config.json": json.dumps(CONFIG),
    "runs/report.html": "<p>2 runs, commit a1b2c3d-dirty</p>\n",
}


@pytest.fixture
def folders(tmp_path):
    "Two that say the same."
    places = [tmp_path / "before", tmp_path / "after"]
    for place in places:
        (place / "golden" / "runs").mkdir(parents=True)
        for name, text in TEXTS.items():
            (place / "golden" / name).write_text(text)
    return places


def change(folder, name, old, new):
    path = folder / "golden" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_times_versions_and_the_commit_may_differ(folders, capsys):
    change(folders[1], "runs/measures.csv", "3.2", "9.9")
    change(folders[1], "runs/config.json", '"a1"', '"b2"')
    change(folders[1], "runs/config.json", '"torch": "2"', '"torch": "3"')
    change(folders[1], "runs/report.html", "commit a1b2c3d-dirty", "commits b2b2b2b, c3c3c3c")
    assert compare(*folders) == 0
    # 3 lines of the table, 6 of the settings that are left, 1 of the page
    assert capsys.readouterr().out == "equal: 3 files and 10 rows compared\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("runs/measures.csv", "0.8125", "0.8126", "line 2\n  - cyborg,0.8125\n  + cyborg,0.8126"),
        ("runs/config.json", "0.05", "0.06", 'line 3\n  -   "lr": 0.05\n  +   "lr": 0.06'),
        ("runs/report.html", "2 runs", "3 runs", "line 1\n  - <p>2 runs, commit</p>"),
        (
            "runs/measures.csv",
            "classical,0.75,3.4\n",
            "",
            "line 3\n  - classical,0.75\n  + (no line)",
        ),
    ],
)
def test_anything_else_is_told_with_its_line(folders, capsys, name, old, new, told):
    change(folders[1], name, old, new)
    assert compare(*folders) == 1
    found = capsys.readouterr().out
    assert found.startswith(f"{name}: {told}")
    assert found.endswith("1 files differ: 3 files and 10 rows compared\n")


def test_a_file_that_one_side_lacks_is_told(folders, capsys):
    (folders[1] / "golden" / "runs" / "report.html").unlink()
    assert compare(*folders) == 1
    assert f"runs/report.html: only in {folders[0]}" in capsys.readouterr().out
