"""What a holder of the paper's set waits for, at its size, stage by stage: time, memory, disk.

    python benchmarks/paper_scale.py import --root ROOT   the manifests
    python benchmarks/paper_scale.py dry       a study of 160 runs, nothing run
    python benchmarks/paper_scale.py check     its files, as a start checks them
    python benchmarks/paper_scale.py stamp     as each run does then
    python benchmarks/paper_scale.py audit     its images; killed, it goes on
    python benchmarks/paper_scale.py predict --images 70000
    python benchmarks/paper_scale.py table     what was measured so far

ROOT is laid out like the released set (cyborg-import und-wacv-2023), of any size; pictures of 8
pixels measure everything but decoding. Each stage is a process of its own; its figures are added
to FOLDER/figures.json with the load of the machine. `benchmarks/collecting.py` measures collecting.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from fastcore.script import call_parse

START = """
import resource, sys, time
from pathlib import Path
folder, root, images = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def study():
    from cyborg.study import read_study
    return read_study(folder / "scale.yaml", folder / "runs")
def manifest():
    from cyborg.manifest import read_manifest
    return read_manifest(folder / "faces.csv", root)
"""
STAGES = {
    "import": """
from cyborg.commands import import_command
sys.argv = ["cyborg-import", "und-wacv-2023", root, "-o", str(folder / "faces.csv")]
import_command()
""",
    "dry": """
from cyborg.study import _announced
_announced(study(), 0, 1, dry=True, trusted=False)
""",
    "check": """
from cyborg.manifest import validate_once
validate_once(manifest(), folder / "runs" / "scale" / "checked")
""",
    "stamp": """
from cyborg.manifest import read_checked
found = manifest()
start = time.perf_counter()
assert read_checked(found, folder / "runs" / "scale" / "checked") is not None, "no fresh stamp"
print(f"the stamp alone: {time.perf_counter() - start:.1f} s")
""",
    "audit": """
from cyborg.study import audit_data
audit_data(study())
""",
    "predict": """
from cyborg.evaluation import predict
from cyborg.manifest import Manifest
from cyborg.training import build_network, preset_config
found = manifest().split("test")
found = Manifest(found.table.sample(min(images, len(found)), random_state=0), root, found.classes)
given = {"arch": "test_resnet", "size": 64, "weights": "none", "manifest": "m.csv"}
network = build_network(preset_config("quick", given), 2)
predict(network, found, folder / "predicted", cache=False, overwrite=True)
files = {p.name: p.stat().st_size for p in (folder / "predicted").iterdir() if p.is_file()}
print({name: f"{size / len(found):.0f} bytes an image" for name, size in files.items()})
""",
}


def grown(folder: Path) -> int:  # bytes
    "Size of all files below."
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())


@call_parse
def main(
    name: str,  # of the stage, or table
    folder: str = "scale",  # where it is written
    root: str = "",  # of the images
    images: int = 70_000,  # that are predicted
):
    "Measure one stage, or print what was measured."
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    file = place / "figures.json"
    figures = json.loads(file.read_text()) if file.is_file() else {}
    if name == "table":
        for stage, row in figures.items():
            print(f"| {stage} | " + " | ".join(str(value) for value in row.values()) + " |")
        return
    root = root or figures.get("root", {}).get("root", "")
    entry = {"root": str(root)}
    content = {"name": "scale", "preset": "quick", "networks": ["test_resnet"], "seeds": 40}
    content["scenarios"] = ["classical", "classical_large", "cyborg", "inverted"]
    content["settings"] = {"size": 64, "epochs": 1, "device": "cpu"}
    content["data"] = {
        data: {"manifest": str(place / f"{data}.csv"), "root": str(Path(root).resolve())}
        for data in ("faces", "faces_large")
    }
    content["scenarios"][1] = {"classical_large": {"alpha": 1.0, "data": "faces_large"}}
    (place / "scale.yaml").write_text(yaml.safe_dump(content))
    if name == "predict":
        shutil.rmtree(place / "predicted", ignore_errors=True)
    before, start, loads = grown(place), time.perf_counter(), [os.getloadavg()[0]]
    call = [sys.executable, "-c", START + STAGES[name], str(place), str(root), str(images)]
    process = subprocess.Popen(call)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"stage {name} ended with {os.waitstatus_to_exitcode(status)}")
    loads.append(os.getloadavg()[0])
    row = {
        "seconds": round(seconds, 1),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak GB": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "written MB": round((grown(place) - before) / 1e6, 1),
        "load": f"{min(loads):.0f} to {max(loads):.0f} on {os.cpu_count()} cores",
    }
    print({name: row}, flush=True)
    file.write_text(json.dumps(figures | {"root": entry, name: row}, indent=1))
