"""How many bad inputs are told in our words: damages at random on every reader of files.

    python benchmarks/campaign_bad.py        300 damages, a minute
    python benchmarks/campaign_bad.py 5000   more

A damage is read (it may have left the file whole), told (an error of this package that names the
file), or wrong.
"""

import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from bad_input import READERS, campaign


def main(n: int = 300, seed: int = 0) -> int:
    "Print the figures, and every damage that was not told in our words."
    warnings.simplefilter("ignore")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), n, seed)
    counts = found["verdict"].value_counts()
    print(f"{n} bad inputs of {len(READERS)} readers in {time.monotonic() - start:.0f} s:", end=" ")
    print(", ".join(f"{counts.get(word, 0)} {word}" for word in ("told", "read", "wrong")))
    wrong = found[found["verdict"] == "wrong"]
    for row in wrong.itertuples():
        print(f"  {row.reader}, number {row.number}: {row.text}")
    return int(bool(len(wrong)))


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
