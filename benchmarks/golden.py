"""The regression test of a move: what the whole workbench makes of a small set, as text files.

    python benchmarks/golden.py make BEFORE           from the code as it was
    python benchmarks/golden.py make AFTER            from the code as it is now
    python benchmarks/golden.py compare BEFORE AFTER  what differs; exit status 1 where there is any

`make` draws faces of 64 pixels and takes them through `cyborg-study` (the quick study and every
scenario of the systems, cut down), the report and the explorers. Each table, setting, figure, mean
map, weight and page that comes out lies in FOLDER/golden as text. One thread and single precision
make it the same to the last digit on the same machine with the same libraries, and there alone:
make both sides there. What may differ (times, versions, the commit) `compare` leaves out.
"""

import base64
import configparser
import csv
import hashlib
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
import yaml
from fastcore.script import Param, call_parse
from PIL import Image
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # whichever one is installed

# All that is imported from what may move, to be renamed in one go.
from cyborg.demo import make_demo
from cyborg.explore.curves import RunExplorer
from cyborg.explore.maps import MapExplorer
from cyborg.explore.picture import ImageExplorer
from cyborg.manifest import Manifest, write_manifest
from cyborg.prepare.mentor import MentorConfig, train_autoencoder
from cyborg.prepare.segmentation import landmark_map
from cyborg.prepare.sources import map_manifest, teacher_maps

ROOT = Path(__file__).resolve().parents[1]  # this checkout
IMAGES, PIXELS = 160, 64  # of the set
# Cells of a map are 3 x 3 at 96 pixels; learning fast, so that two epochs leave traces.
SMALL = {"epochs": 2, "size": 96, "batch_size": 16, "device": "cpu", "precision": "fp32"}
DEMO = {"manifest": "../../data/demo/manifest.csv", "root": "../../data/demo"}
TEACHERS = [f"demo-test_resnet-{name}-seed0" for name in ("classical", "cyborg")]


# --- made -------------------------------------------------------------------------------------


def cut_down(
    name: str,  # of a study in nbs/studies
    **changes: Any,  # of its keys
) -> dict[str, Any]:  # the content of a study file
    "A study with all its scenarios, small."
    content = yaml.safe_load((ROOT / "nbs" / "studies" / f"{name}.yaml").read_text())
    kept = lambda own: {k: v for k, v in own.items() if k not in SMALL}  # noqa: E731
    small = [
        {name: kept(own) for name, own in one.items()} if isinstance(one, dict) else one
        for one in content["scenarios"]
    ]
    return content | {"scenarios": small, "settings": SMALL} | changes


def command(name: str) -> list[str]:
    "A command of this checkout, as its settings.ini has it: the installed one may be another's."
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "settings.ini")
    scripts = settings["DEFAULT"]["console_scripts"].split()
    module, function = dict(one.split("=") for one in scripts)[name].split(":")
    code = f"import sys; from {module} import {function}; sys.argv[0] = {name!r}; {function}()"
    return [sys.executable, "-c", code]


def called(
    folder: Path,
    name: str,  # of a command
    *arguments: str | Path | int,
) -> None:
    "Run a command on this checkout; what it says goes to FOLDER/commands.log."
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CYBORG_RUNS": str(folder / "runs")}
    own |= {"CYBORG_DATA": str(folder / "data"), "CYBORG_CACHE": str(folder / "cache")}
    order = [*command(name), *map(str, arguments)]
    with (folder / "commands.log").open("a") as log:
        done = subprocess.run(order, stdout=log, stderr=log, env={**os.environ, **own})
    if done.returncode:
        raise SystemExit(f"{name} {arguments[0]} failed, see {folder / 'commands.log'}")


def run_study(
    folder: Path,
    content: dict[str, Any],  # of its file
    workers: int,  # runs at a time
) -> None:
    "A study and its report."
    name = content["name"]
    file = folder / "nbs" / "studies" / f"{name}.yaml"  # its paths start there
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    called(folder, "cyborg-study", file, "--workers", workers, "--threads", 1)
    report, study = ROOT / "nbs" / "report.ipynb", folder / "runs" / name
    given = ["-p", "folder", study, "-p", "vector", "False", "--no-progress-bar"]
    called(folder, "papermill", report, folder / f"{name}.ipynb", *given)


def write_standing_face(path: Path) -> None:
    "Regions of a face where nearly all faces of the demo set have theirs, as a map."
    points = [(0.36, 0.45), (0.64, 0.45), (0.5, 0.62), (0.5, 0.78)]
    regions = landmark_map(PIXELS * np.array(points), PIXELS)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(255 * regions).astype(np.uint8)).save(path)


def own_copy(
    root: Path,
    name: str,  # of a map below it; empty: there is none
    own: str,  # name of the copy
) -> str:  # own, or empty
    "A map where no change of names can reach it."
    if name:
        shutil.copy(root / name, root / own)
    return own if name else ""


def prepare(
    demo: Manifest,
    runs: Path,  # run folders of the quick study
) -> dict[str, Any]:  # changes of the study of all systems
    "The maps, the encoder and the trained networks that the study of all systems asks for."
    teacher, root = runs / TEACHERS[1], demo.root
    write_standing_face(root / "systems" / "face.png")
    answers = pd.read_parquet(root / "annotations.parquet")
    seconds = answers["times"].map(lambda strokes: max((float(s[-1]) for s in strokes), default=0))
    seconds = demo.table["image"].map(seconds.groupby(answers["image"]).mean())
    table = demo.table.assign(segmentation="systems/face.png", seconds=seconds.to_numpy())
    sources = {"teacher": teacher_maps(teacher, size=PIXELS)}
    sources["rise"] = teacher_maps(teacher, "rise", size=PIXELS, masks=16, cells=5)
    for column, source in sources.items():
        drawn = map_manifest(demo, source, f"systems/{column}", "train", column).manifest
        found = zip(table["image"], drawn.table[column], strict=True)
        names = ((f"systems/{column}-{Path(image).stem}.png", map) for image, map in found)
        table[column] = [own_copy(root, map, own) for own, map in names]
    write_manifest(Manifest(table, root, demo.classes), root / "systems.csv")
    own = {"manifest": str(root / "manifest.csv"), "root": str(root), "weights": "none"}
    own |= {"runs": str(root / "systems"), "name": "mentor", "arch": "test_resnet"}
    train_autoencoder(MentorConfig(**own, **SMALL))
    entries = ({"kind": "run", "path": str(runs / name)} for name in TEACHERS)
    systems = dict(zip(("teacher1", "teacher2"), entries, strict=True))
    return {"frozen": {"demo": systems | {"ensemble": {"fusion": [*systems]}}}}


# --- looked at --------------------------------------------------------------------------------


def below(widget: Any) -> Iterator[Any]:
    "A widget and all within it, in order."
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


def shown(explorer: Any) -> list[dict[str, Any]]:
    "What a page shows: texts, pictures, figures, and where its controls stand."
    found = []
    for widget in below(explorer):
        part = {name: getattr(widget, name, None) for name in ("description", "value", "options")}
        if hasattr(widget, "figure") and widget is not explorer:
            part["figure"] = json.loads(widget.figure.to_json())
        if any(part.values()):
            found.append(part)
    return found


def seen(
    explorer: Any,
    *steps: dict[str, Any],  # description of a control -> what it is set to
) -> list[list[dict[str, Any]]]:
    "What a page shows at first and after each step, controls named as people see them."
    controls = {getattr(w, "description", ""): w for w in below(explorer)}
    states = [shown(explorer)]
    for step in steps:
        for name, value in step.items():
            controls[name].value = value
        states.append(shown(explorer))
    return states


def explored(
    study: Path,  # its folder
    image: Path,  # a picture to be explained
) -> dict[str, Any]:  # by the name of the file
    "The explorers, each control used."
    maps, runs, pictures = (kind(study) for kind in (MapExplorer, RunExplorer, ImageExplorer))
    maps_steps = [{"maps": "raw"}, {"maps": "contours", "open No.": 3}, {"scenario": ""}]
    maps_steps += [{"errors only": True, "sort": "agreement, low first"}]
    control = {getattr(w, "description", ""): w for w in below(runs)}
    names, figures = control["runs"].options, control["show"].options
    found = {"maps": seen(maps, *maps_steps)}
    found["runs"] = seen(runs, *({"runs": names, "show": figure} for figure in figures))
    seen(pictures, {"crop the face": False})
    pictures.show(image)
    return found | {"image": shown(pictures)}


# --- as text ----------------------------------------------------------------------------------

LEFT_OUT = ("collected", "checked", "predictions.parts", "last")  # caches and checkpoints
LEFT_OUT += ("explored.npz", "features.npz", "measured.npz")


def plain(value: Any) -> Any:  # of JSON
    "Arrays of figures as numbers, pictures as their hash."
    if isinstance(value, dict) and {"bdata", "dtype"} <= value.keys():
        return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"]).tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, str):
        value = re.sub(r"data:image/[\w+;,=/]+", lambda found: f"data:{digest(found[0])}", value)
        return value.replace("><", ">\n<").split("\n") if "<" in value else value
    return value


def digest(content: bytes | str) -> str:  # 16 hexadecimal digits
    "Hash of a text or of bytes."
    content = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def json_text(value: Any) -> str:
    "JSON, a line a value."
    return (
        json.dumps(plain(value), indent=1, ensure_ascii=False, sort_keys=True, default=str) + "\n"
    )


def arrays_text(arrays: dict[str, np.ndarray]) -> str:
    "A line an array: its name, shape, type, sum and hash."
    lines = []
    for name, array in arrays.items():
        total = f" {array.astype(float).sum():.6g}" if array.dtype.kind in "biuf" else ""
        lines.append(f"{name} {array.shape} {array.dtype}{total} {digest(array.tobytes())}")
    return "\n".join([*lines, ""])


def without_layouts(
    value: Any,  # of JSON
    layouts: list[dict[str, Any]],  # of the figures in it, added here in order
) -> Any:
    "What the figures in a value draw, without how they are laid out."
    if isinstance(value, dict) and {"data", "layout"} <= value.keys():
        layouts.append(value["layout"])
        value = {"data": value["data"]}
    if isinstance(value, dict):
        return {k: without_layouts(v, layouts) for k, v in value.items()}
    if isinstance(value, list):
        return [without_layouts(one, layouts) for one in value]
    return value


def figure_texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    "JSON with figures in it, and their layouts apart: another margin hides no other number."
    layouts = []
    yield f"{name}.json", json_text(without_layouts(value, layouts))
    yield f"{name}.layouts.json", json_text(layouts)


FIGURE = r'id="figure-([\w-]+)"></div>\s*<script type="application/json">(.*?)</script>'


def page_texts(name: str, text: str) -> Iterator[tuple[str, str]]:
    "A report: its page without programs, and its figures."
    for key, content in re.findall(FIGURE, text):
        yield from figure_texts(f"{name}.figures/{key}", json.loads(content))
    text = html.unescape(re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S))
    text = re.sub(r"\bT_[0-9a-f]{5}", "T", text)  # names of tables are drawn at random
    yield name, re.sub(r">\s*<", ">\n<", text)


def shown_by(notebook: dict[str, Any]) -> list[Any]:
    "What the cells of an executed notebook show, what they print apart; paths are cut off there."
    found = []
    for outputs in (cell.get("outputs", ()) for cell in notebook["cells"]):
        for data in (output["data"] for output in outputs if "data" in output):
            kind = max(data, key=lambda kind: ("plotly" in kind, kind == "text/html"))
            if "plotly" in kind:
                found.append(data[kind])
                continue
            found.append(re.sub(r"(?<![<\w])/\w[^<>\"\n]*", "PATH", "".join(data[kind])))
    return found


def texts_of(path: Path, name: str) -> Iterator[tuple[str, str]]:  # names and texts
    "A file as text; nothing where its kind is not known."
    kind = path.suffix
    if kind in (".csv", ".tex", ".digest"):
        yield name, path.read_text()
    elif kind == ".yaml":
        yield f"{name}.json", json_text(yaml.safe_load(path.read_text()))
    elif kind == ".json":
        yield name, json_text(json.loads(path.read_text()))
    elif kind == ".parquet":
        yield f"{name}.csv", pd.read_parquet(path).to_csv(index=False)
        note = (pq.read_schema(path).metadata or {}).get(b"cyborg", b"{}")
        yield f"{name}.json", json_text(json.loads(note))
    elif kind == ".npz":
        with np.load(path) as file:
            yield f"{name}.txt", arrays_text({n: file[n] for n in file.files if n != "stamp"})
    elif kind == ".npy":
        yield f"{name}.txt", arrays_text({"array": np.load(path)})
    elif kind == ".safetensors":
        yield f"{name}.txt", arrays_text(load_file(path))
    elif kind == ".html":
        yield from page_texts(name, path.read_text())
    elif kind == ".ipynb":
        yield from figure_texts(name, shown_by(json.loads(path.read_text())))


def write_golden(folder: Path, views: dict[str, Any]) -> int:  # files
    "All that is in the folder as text, without its own name."
    texts, pictures = {}, []
    for path in sorted(p for part in ("data", "runs") for p in (folder / part).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or any(part in LEFT_OUT or part[0] == "." for part in Path(name).parts):
            continue
        if path.suffix in (".jpg", ".png"):
            pictures.append(f"{name} {digest(path.read_bytes())}\n")
        texts |= dict(texts_of(path, name))
    texts["data/pictures.txt"] = "".join(pictures)
    for name, view in views.items():
        texts |= dict(figure_texts(f"explorer/{name}", view))
    for name, text in texts.items():
        path = folder / "golden" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(str(folder), "FOLDER").replace(str(ROOT), "CHECKOUT"))
    return len(texts)


def make(folder: Path, workers: int) -> None:
    "Everything, from the first picture to the last text."
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: a golden folder is made in one go")
    start, told = time.monotonic(), lambda what: print(f"{time.monotonic() - start:4.0f} s  {what}")
    torch.set_num_threads(1)
    os.environ["CYBORG_CACHE"] = str(folder / "cache")
    demo = make_demo(folder / "data" / "demo", IMAGES, PIXELS)
    one = {"data": {"demo": DEMO}, "networks": ["test_resnet"], "seeds": 2, "robustness": 1}
    run_study(folder, cut_down("quick", **one), workers)
    told("the quick study")
    run_study(folder, cut_down("systems", **prepare(demo, folder / "runs" / "quick")), workers)
    told("the study of all systems")
    views = explored(folder / "runs" / "quick", demo.root / demo.table["image"].iloc[-1])
    told(f"{write_golden(folder, views)} files in {folder / 'golden'}")


# --- compared ---------------------------------------------------------------------------------

# Names of columns and keys whose values must differ from one time or code to another.
DIFFERING = {"seconds", "host", "machine", "commit", "code_digest", "versions"}


def without(value: Any) -> Any:  # of JSON
    "A value without the keys that must differ."
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in DIFFERING}
    return [without(one) for one in value] if isinstance(value, list) else value


def rows_of(path: Path) -> list[str]:
    "The lines of a file that have to be the same."
    text = re.sub(r"\bcommits? [\w.-]+(, [\w.-]+)*", "commit", path.read_text())
    if path.suffix == ".json":
        text = json.dumps(without(json.loads(text)), indent=1, ensure_ascii=False)
    if path.suffix == ".csv":
        head, *rows = list(csv.reader(io.StringIO(text))) or [[]]
        keep = [i for i, name in enumerate(head) if name not in DIFFERING]
        return [",".join(row[i] for i in keep if i < len(row)) for row in (head, *rows)]
    return text.splitlines()


def difference(one: Sequence[str], other: Sequence[str]) -> str:  # empty where there is none
    "The first line that differs, from a little before the first letter that does."
    for number, pair in enumerate(zip_longest(one, other, fillvalue="(no line)"), 1):
        if pair[0] != pair[1]:
            same = len(os.path.commonprefix(pair))
            a, b = (line[max(0, same - 60) : same + 60] for line in pair)
            return f"line {number}\n  - {a}\n  + {b}"
    return ""


def compare(before: Path, after: Path) -> int:  # exit status
    "Print what differs between two golden folders."
    names = [
        {p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()}
        for f in (before / "golden", after / "golden")
    ]
    if not all(names):
        raise SystemExit(f"{before if not names[0] else after} holds no golden folder")
    told = [f"{name}: only in {before}" for name in names[0] - names[1]]
    told += [f"{name}: only in {after}" for name in names[1] - names[0]]
    files, rows = sorted(names[0] & names[1]), 0
    for name in files:
        one, other = (rows_of(folder / "golden" / name) for folder in (before, after))
        rows += len(one)
        if found := difference(one, other):
            told.append(f"{name}: {found}")
    print(*sorted(told), sep="\n", end="\n" * bool(told))
    verdict = f"{len(told)} files differ" if told else "equal"
    print(f"{verdict}: {len(files)} files and {rows:,} rows compared")
    return int(bool(told))


@call_parse
def main(
    what: Param("make or compare", str, choices=("make", "compare")),
    folders: Param("one to make, or two to compare", str, nargs="+"),
    workers: Param("runs at a time", int) = 2,
):
    "Make a golden folder, or compare two."
    places = [Path(folder).resolve() for folder in folders]
    if len(places) != {"make": 1, "compare": 2}[what]:
        raise SystemExit("expected make FOLDER, or compare BEFORE AFTER")
    if what == "make":
        make(*places, workers)
    else:
        raise SystemExit(compare(*places))
