"""nbs/train.ipynb as people run it: through papermill, on a small manifest."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from test_training import write_faces

from cyborg.predictions import read_predictions
from cyborg.settings import SETTINGS, allowed, default_of
from cyborg.training import load_run

NOTEBOOK = Path(__file__).parents[1] / "nbs" / "train.ipynb"
PAPERMILL = Path(sysconfig.get_path("scripts")) / "papermill"


def papermill(*words, cwd: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [PAPERMILL, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Parameters of a run that takes seconds."
    folder = tmp_path_factory.mktemp("faces")
    manifest = write_faces(folder)
    # Of the test images the synthetic ones are a generator that training has not seen.
    table = pd.read_csv(manifest, dtype=str, keep_default_na=False)
    unseen = (table["split"] == "test") & (table["label"] == "synthetic")
    table.loc[unseen, "source"] = "novel"
    table.to_csv(manifest, index=False)
    words = ["-r", "manifest", manifest, "-r", "root", folder, "-r", "arch", "resnet18"]
    words += ["-r", "weights", "none", "-p", "size", 40, "-p", "epochs", 2, "-p", "batch_size", 4]
    return [*words, "-r", "device", "cpu"]


def outputs(path: Path) -> list[dict]:
    notebook = nbformat.read(path, as_version=4)
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


@pytest.fixture(scope="module")
def executed(small, tmp_path_factory):
    "A finished run: the executed notebook and the run folder."
    folder, source = tmp_path_factory.mktemp("runs"), NOTEBOOK.read_bytes()
    words = [*small, "-r", "runs", folder, "-r", "name", "run", "--stdout-file", "-"]
    done = papermill(NOTEBOOK, folder / "report.ipynb", *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert NOTEBOOK.read_bytes() == source
    return folder, done


def test_run_folder_is_complete(executed):
    folder, _ = executed
    names = {p.name for p in (folder / "run").iterdir()}
    assert names >= {
        "config.json",
        "history.csv",
        "model.safetensors",
        "last",
        "predictions.parquet",
        "mean_maps.npz",
        "excluded.csv",
    }
    assert len(read_predictions(folder / "run")) == 4
    assert len(load_run(folder / "run").history) == 2


def test_command_prints_runs_beside_each_other(executed):
    folder, _ = executed
    command = Path(sysconfig.get_path("scripts")) / "cyborg-compare"
    done = subprocess.run([command, "run", "run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *_, last = done.stdout.splitlines()
    assert first.split() == ["run", "run"]  # two of one scenario are told apart by their folders
    assert last.startswith("agreement with human maps (CC)")
    wrong = subprocess.run([command, "absent"], cwd=folder, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("cyborg-compare: ")
    assert wrong.stderr.endswith("absent is no run folder: it has no config.json\n")


def test_progress_with_time_left_is_seen_at_the_terminal(executed):
    _, done = executed
    assert "epoch   1 of 2: loss" in done.stdout
    assert done.stdout.count(" left") >= 2


def test_curves_are_redrawn_in_place_and_every_figure_is_there(executed):
    folder, _ = executed
    figures = [
        o["data"]["application/vnd.plotly.v1+json"]
        for o in outputs(folder / "report.ipynb")
        if "application/vnd.plotly.v1+json" in o.get("data", {})
    ]
    assert len(figures) == 5  # curves (once, not once an epoch), ROC, samples, means, agreement
    assert all(len(trace["x"]) for trace in figures[0]["data"])


LINES = [
    r"classical: resnet18, 1 epochs; run folder {run}",
    r"train: 13 images, 9 human maps, 1 sources",
    r"val: 6 images, 4 human maps, 1 sources",
    r"test: 4 images, 3 human maps, 2 sources",
    r"positive class: synthetic .*",
    r"(warning: .*\n)*precision .*",
    r".* for the run in {run}; .* are free",
    r"epoch   1 of 1: loss .*, 0 s left",
    r"novel +\d\.\d\d\d",
    r"mean over unseen +\d\.\d\d\d",
    r"mean over seen +none",
    r"agreement with human maps \(CC\) +-?\d\.\d\d\d",
]


@pytest.mark.parametrize(
    "command", [[PAPERMILL, NOTEBOOK], [PAPERMILL.with_name("cyborg"), "train"]]
)
def test_as_typed_with_no_output_path(small, tmp_path, command):
    """What is seen at the terminal: here a pipe, so nothing may be written over."""
    source = NOTEBOOK.read_bytes()
    environment = {**os.environ, "CYBORG_RUNS": str(tmp_path / "runs")}
    words = [*small, "-p", "alpha", "1.0", "-p", "epochs", 1]
    done = subprocess.run(
        [*map(str, command), *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (report,) = (tmp_path / "runs" / "executed").glob("train-*.ipynb")
    assert not [o for o in outputs(report) if o["output_type"] == "error"]
    (run,) = (p.parent for p in (tmp_path / "runs").rglob("config.json"))
    assert run.name.endswith("-resnet18-classical-seed0")
    assert NOTEBOOK.read_bytes() == source
    assert "\r" not in done.stdout + done.stderr
    assert done.stderr == f"papermill: no output path given, writing to {report}\n"
    for line in LINES:
        wanted = line.replace("{run}", re.escape(str(run)))
        assert re.search(f"(?m)^{wanted}$", done.stdout), line
    assert done.stdout.endswith(f"\nrun folder:  {run}\nexecuted notebook:  {report}\n")


def test_a_finished_run_says_so_and_shows_its_results(small, executed, tmp_path):
    folder, first = executed
    words = [*small, "-r", "runs", folder, "-r", "name", "run"]
    done = papermill(NOTEBOOK, tmp_path / "again.ipynb", *words, cwd=folder)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"\n{folder}/run is finished; -p overwrite True trains it anew\n" in done.stdout
    assert "epoch   " not in done.stdout
    lines = first.stdout.splitlines()
    results = [line for line in lines if re.search(r"(unseen|\(CC\)) +", line)]
    assert len(results) == 2 and all(line in done.stdout for line in results)


def test_another_run_in_a_folder_is_refused_with_advice_that_can_be_typed(
    small, executed, tmp_path
):
    folder, _ = executed
    words = [*small, "-r", "runs", folder, "-r", "name", "run", "-p", "lr", 0.1]
    done = papermill(NOTEBOOK, tmp_path / "other.ipynb", *words, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"papermill: {folder}/run holds a run with other settings")
    assert "(-p name X)" in done.stderr and "(-p overwrite True)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "other.ipynb").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "archh", "resnet50"], "unknown parameter 'archh' (did you mean 'arch'?)"),
        (["-p", "epochs", "ten"], "epochs is 'ten' (str), expected a whole number"),
        (["-p", "preset", "papers"], "preset is 'papers', expected one of paper, quick"),
        (["-r", "arch", "resnet5O"], "timm"),
        (["-r", "manifest", "absent.csv"], "absent.csv"),
    ],
)
def test_wrong_parameters_are_refused_in_a_line(small, tmp_path, words, message):
    words = [*small, "-r", "runs", tmp_path / "runs", *words]
    done = papermill(NOTEBOOK, tmp_path / "out.ipynb", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.startswith("papermill: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_what_only_the_images_tell_is_refused_in_a_line_too(small, tmp_path):
    words = [*small, "-r", "runs", tmp_path / "runs"]
    done = papermill(NOTEBOOK, tmp_path / "out.ipynb", *words, "-p", "size", 8, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("papermill: size is 8, too small for resnet18")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out.ipynb").exists() and not (tmp_path / "runs").exists()


def test_help_page_types_and_explains_every_parameter(tmp_path):
    done = papermill("--help-notebook", NOTEBOOK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    blocks = re.split(r"\n(?=  \w)", done.stdout)
    page = {block.split(":")[0].strip(): " ".join(block.split()) for block in blocks[1:]}
    assert page.keys() == {*SETTINGS, "preset", "overwrite", "robustness", "honesty"}
    wanted = "epochs: int (quick 14, paper 50) at least 1 passes over the training images"
    assert page["epochs"] == wanted
    for name in SETTINGS:
        assert allowed(name) in page[name]
        if "(default" not in page[name]:
            taken = [f"{preset} {default_of(name, preset)!r}" for preset in ("quick", "paper")]
            assert f"({', '.join(taken)})" in page[name]
        assert len(page[name].partition(") ")[2]) > 10, name


def test_parameter_cell_mirrors_the_settings():
    "A default in the notebook is the one of `RunConfig`, or None where the preset decides."
    import dataclasses

    from cyborg.settings import PRESETS, RunConfig

    (cell,) = (
        c
        for c in json.loads(NOTEBOOK.read_text())["cells"]
        if "parameters" in c["metadata"].get("tags", [])
    )
    values = {}
    exec("".join(cell["source"]), values)
    values = {k: v for k, v in values.items() if not k.startswith("__")}
    assert set(values) == {*SETTINGS, "preset", "overwrite", "robustness", "honesty"}
    decided = set().union(*PRESETS.values())
    for field in dataclasses.fields(RunConfig):
        default = None if field.name in decided else field.default
        if field.name != "manifest":
            assert values[field.name] == default, field.name


def test_python_m_papermill_is_untouched(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--version"], capture_output=True, text=True
    )
    assert done.returncode == 0
