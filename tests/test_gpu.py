"""The benchmark of a GPU, where there is none: short, and what it leaves out is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def measured(*words: str, folder: Path) -> tuple[dict, str]:
    "What the script wrote and printed."
    out = folder / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--quick", "--out", str(out)]
    places = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    places |= {"CYBORG_RUNS": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *words],
        env=os.environ | places,
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    return json.loads(out.read_text()), done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return measured(folder=tmp_path_factory.mktemp("gpu"))


def test_every_part_measures_something_on_a_cpu(found):
    told, printed = found
    assert told["left_out"] == ["CUDA graphs: they need a GPU"]
    assert told["machine"]["card"] == "none, a CPU"
    rows = {(row["what"], row["network"]): row for row in told["rows"]}
    parts = ["loader alone", "CYBORG training", "the same / bare timm c", "CYBORG step / the same"]
    parts += ["predict from", "loss after 20 steps, bf16", "largest difference of a weight"]
    parts += ["test", "mean AUC", "share of a CYBORG step", "CYBORG step / with optimiser fused"]
    parts += ["CYBORG step / with torch.compile", "CYBORG step / with images and weights not"]
    for part in parts:
        assert any(what.startswith(part) for what, _ in rows), part
    assert {network for _, network in rows} >= {"test_resnet", "test_vit"}
    assert all(row["value"] >= 0 for row in told["rows"])
    table = printed[printed.index("| what |") :]
    assert table.count("\n| ") == len(told["rows"])
    assert len(told["profile"]["test_resnet"]) == 10


def test_a_run_that_stopped_and_went_on_has_the_same_weights(found):
    apart = [
        r["value"] for r in found[0]["rows"] if r["what"].startswith("largest difference of a")
    ]
    assert apart == [0, 0]


def test_what_the_budget_does_not_hold_is_left_out_in_words(tmp_path):
    told, printed = measured("--parts", "demo,resume", "--budget", "1", folder=tmp_path)
    assert told["rows"] == []
    assert [text.split(":")[0] for text in told["left_out"]] == [
        "a whole run on the demo set",
        "resume",
    ]
    assert "Left out: resume: takes about 40 s" in printed
