"""What every test runs under: data and run folders of its own, no hub, its share of the cores."""

import os
import shutil
import tempfile
from pathlib import Path

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


def pytest_unconfigure(config):
    shutil.rmtree(SCRATCH, ignore_errors=True)
