"""A run in several processes: the run of one, whoever dies, with any number of them.

Networks are of test size, and batch norm is left out where losses and weights are compared to
1e-5: the rule for it (over the images of all processes) has its tests, step by step in double
precision, in test_training.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file
from test_training import faces, history, settings  # noqa: F401  (a fixture)

from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.runs import run_sessions
from cyborg.settings import SettingsError, run_config
from cyborg.study.run import local_cluster, schedule
from cyborg.study.runner import execute, execute_on_worker, thread_variables
from cyborg.training import load_run, train

ROOT = Path(__file__).parents[1]
NORMLESS = {"arch": "test_efficientnet_gn", "batch_size": 5, "epochs": 2, "lr": 0.01}


def same(a: Path, b: Path) -> None:
    "Losses and weights to 1e-5."
    np.testing.assert_allclose(history(a), history(b), rtol=1e-5, atol=1e-5)
    ours, theirs = (load_file(f / "model.safetensors") for f in (a, b))
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0, atol=1e-5, err_msg=name)


def in_processes(faces: Path, runs: Path, n: int, **changes):  # noqa: F811
    return run_config(settings(faces, runs, **{**NORMLESS, "processes": n, **changes}))


@pytest.fixture
def others():
    "Processes below this one that have nothing to do with a test."
    return {*psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def alone(faces, tmp_path_factory):  # noqa: F811
    "One process trains."
    return train(in_processes(faces, tmp_path_factory.mktemp("alone"), 1))


def worker(rank: int) -> psutil.Process:
    "A process that trains for this one."
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                return process
    raise AssertionError(f"no process of rank {rank}")


def test_two_processes_train_the_run_of_one_and_say_so(faces, alone, tmp_path, capfd, others):  # noqa: F811
    "Each image counts once: six validation images make an uneven last batch of one."
    seen = []
    folder = train(in_processes(faces, tmp_path, 2), [lambda rows: seen.append(len(rows))])
    same(folder, alone)
    assert seen == [1, 2]
    told = capfd.readouterr().out
    assert told.count("epoch   2 of 2") == 1  # one of them speaks
    [session] = run_sessions(load_run(folder).record)
    assert (session["processes"], session["batch_norm"]) == (2, "over the images of all processes")
    [session] = run_sessions(load_run(alone).record)
    assert session["processes"] == 1 and "batch_norm" not in session
    assert {*psutil.Process().children(recursive=True)} <= others
    test = read_manifest(faces, faces.parent).split("test")
    rows = pd.read_parquet(predict(load_run(folder).network, test, folder))
    assert rows["image"].tolist() == test.table["image"].tolist()


def test_a_killed_process_ends_the_run_in_words_and_another_number_goes_on(
    faces,  # noqa: F811
    alone,
    tmp_path,
    others,
):
    def kill(rows: pd.DataFrame) -> None:
        worker(1).send_signal(signal.SIGKILL)

    config = in_processes(faces, tmp_path, 2, epochs=60)
    start = time.monotonic()
    with pytest.raises(ChildProcessError, match="process 2 of 2 was ended by SIGKILL.*go on from"):
        train(config, [kill])
    assert time.monotonic() - start < 60
    assert {*psutil.Process().children(recursive=True)} <= others
    (config.folder / ".lock").unlink()
    done = len(history(config.folder))
    assert 1 <= done < 60


def test_another_number_of_processes_goes_on_with_a_run(faces, alone, tmp_path, capfd):  # noqa: F811
    class Stop(Exception):
        pass

    def stop(rows: pd.DataFrame) -> None:
        if len(rows) == 1:
            raise Stop

    with pytest.raises(Stop):
        train(in_processes(faces, tmp_path, 1), [stop])
    folder = train(in_processes(faces, tmp_path, 2))
    same(folder, alone)
    sessions = run_sessions(load_run(folder).record)
    assert [s["processes"] for s in sessions] == [1, 2]
    assert [(s["first_epoch"], s["last_epoch"]) for s in sessions] == [(1, 1), (2, 2)]
    assert "processes up to epoch 1: 1, from now on: 2" in capfd.readouterr().out


def test_what_a_process_refuses_is_raised_here(faces, alone):  # noqa: F811
    with pytest.raises(FileExistsError, match="batch_size: 5, now 4"):
        train(in_processes(faces, alone.parent, 2, batch_size=4))
    with pytest.raises(SettingsError, match="processes is 0, expected at least 1"):
        in_processes(faces, alone.parent, 0)


MAKER = (
    "import json, sys; from cyborg.training import train; from cyborg.settings import run_config\n"
)
MAKER += "train(run_config(json.loads(sys.argv[1])))"


def test_no_process_outlives_the_one_that_asked_for_it(faces, tmp_path):  # noqa: F811
    given = settings(faces, tmp_path, **NORMLESS | {"processes": 2, "epochs": 600})
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, json.dumps(given)],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    path, deadline = tmp_path / "run" / "history.csv", time.monotonic() + 90
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    below = psutil.Process(maker.pid).children(recursive=True)
    assert len(below) == 3  # the launcher and two that train
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert not psutil.wait_procs(below, timeout=20)[1]


BOOK = """
from cyborg.settings import run_config
from cyborg.training import load_run, train
import pandas as pd
folder = train(run_config(given), [lambda rows: print("seen", len(rows))])
pd.DataFrame({"cores": [[s["processes"] for s in load_run(folder).record["sessions"]]]}).to_parquet(
    folder / "predictions.parquet"
)
"""


def test_a_run_of_a_study_trains_in_several_processes(faces, alone, tmp_path, others):  # noqa: F811
    "In a kernel below a runner: what they print is in the log, curves follow, none is left."
    parameters = nbformat.v4.new_code_cell("given = None")
    parameters.metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(BOOK)])
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "p"}
    nbformat.write(book, tmp_path / "book.ipynb")
    given = settings(faces, tmp_path, **NORMLESS, processes=2)
    place = {"PYTHONPATH": str(ROOT)} | thread_variables(2)
    outcome = execute(tmp_path / "run", tmp_path / "book.ipynb", {"given": given}, place)
    assert outcome.finished, outcome.error
    same(tmp_path / "run", alone)
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.index("epoch   1 of 2") < log.index("seen 1") < log.index("epoch   2 of 2")
    assert pd.read_parquet(tmp_path / "run" / "predictions.parquet")["cores"][0].tolist() == [2]
    assert {*psutil.Process().children(recursive=True)} <= others


SHOW = "import os; from pathlib import Path; folder = Path(runs) / name\n"
SHOW += "(folder / 'predictions.parquet').touch()\n"
SHOW += "(folder / 'seen').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"


@pytest.mark.parametrize(
    ("gpus", "workers", "each", "expected"),
    [
        ("3,4,5,6,7", 0, 2, ["3,4", "5,6"]),  # two GPUs a run, one stays idle
        ("3", 2, 1, ["3", "3"]),  # two runs on one GPU
    ],
)
def test_a_study_deals_out_gpus(gpus, workers, each, expected, tmp_path, monkeypatch):
    "Names of GPUs that are not there: what each run would see of them."
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    code = [nbformat.v4.new_code_cell(text) for text in ("runs = name = None", SHOW)]
    code[0].metadata["tags"] = ["parameters"]
    book = nbformat.v4.new_notebook(cells=code)
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "p"}
    nbformat.write(book, tmp_path / "book.ipynb")
    with local_cluster(workers, 1, each=each) as pool:
        assert sorted(pool.devices) == expected
        tasks = {}
        for name in ("a", "b"):
            parameters = {"runs": str(tmp_path), "name": name}
            given = (str(tmp_path / name), str(tmp_path / "book.ipynb"), parameters, {})
            tasks[name] = (*given, pool.threads, pool.devices)
        ended = schedule(pool, tasks, execute_on_worker, lambda left: None)
    assert all(outcome.finished for outcome in ended.values())
    assert sorted((tmp_path / name / "seen").read_text() for name in "ab") == expected
