"""The campaign of kills, small: `benchmarks/campaign.py kill` does more."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "campaign.py"


def test_killed_trainings_and_evaluations_come_to_the_same_and_leave_nothing():
    command = [sys.executable, SCRIPT, "kill", "--kills", "5", "--what", "train", "predict"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = [line.split() for line in done.stdout.strip().splitlines()]
    assert [row[0] for row in rows] == ["train", "predict"]
    assert all(int(row[1]) >= 5 for row in rows)  # kills
