"""What every test runs under: data and run folders of its own, no hub, its share of the cores."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Set before anything imports torch or numpy, and in os.environ so that kernels and commands that a
# test starts inherit it.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = str(max(1, (os.cpu_count() or 1) // WORKERS))
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = THREADS

# No test may write into the checkout, and none may need a network.
SCRATCH = Path(tempfile.mkdtemp(prefix="cyborg-test-"))
os.environ["CYBORG_DATA"] = str(SCRATCH / "data")
os.environ["CYBORG_RUNS"] = str(SCRATCH / "runs")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # a debugger's warning in each kernel's output


def pytest_collection_modifyitems(items):
    "A browser that shares two busy cores with other tests gets a second chance, with fresh pages."
    for item in items:
        if any("browser" in mark.kwargs.get("reason", "") for mark in item.iter_markers("skipif")):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=5))


def pytest_unconfigure(config):
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    "A manifest of 23 images, all with maps, and a second one in which half of them lack it."
    import numpy as np  # not before the environment is set
    import pandas as pd
    from test_training import write_faces

    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    table = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
    table["map"] = [f"map{i}.png" for i in range(len(table))]
    table["segmentation"] = table["map"].to_numpy()[::-1]
    table.to_csv(folder / "manifest.csv", index=False)
    table["map"] = table["map"].where(np.arange(len(table)) % 2 == 0, "")
    table.to_csv(folder / "half.csv", index=False)
    return folder


@pytest.fixture
def content(faces):
    return {
        "name": "s",
        "data": {"faces": {"manifest": str(faces / "manifest.csv"), "root": str(faces)}},
        "networks": ["test_resnet"],
        "scenarios": ["classical", "cyborg"],
        "seeds": 2,
        "settings": {"size": 64, "epochs": 8, "device": "cpu"},
    }
