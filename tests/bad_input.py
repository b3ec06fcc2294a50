"""A table of what reads files, and a table of damages: whatever a file holds, it is read or named.

`READERS` maps each public reader of files to how a good file is made, which file of it is
damaged, and how it is read. `DAMAGES` makes bad content of good content. `verdict` tries one on
the other. `test_bad_input.py` tries all; `benchmarks/campaign_bad.py` tries more, at random.
"""

import dataclasses
import io
import json
import traceback
import zipfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import cyborg

# --- damages ----------------------------------------------------------------------------------

NOISE = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
PICTURE = io.BytesIO()
Image.new("RGB", (4, 4)).save(PICTURE, "PNG")
ARCHIVE = io.BytesIO()
with zipfile.ZipFile(ARCHIVE, "w") as archive:
    archive.writestr("a.txt", "no weights")


def _as(data: bytes, encoding: str) -> bytes:
    "Text in another encoding; what is no text stays."
    try:
        return data.decode("utf-8").encode(encoding)
    except UnicodeDecodeError:
        return data


def _huge(data: bytes) -> bytes:
    "A number of 5,000 digits in the place of the first digit, or a long field before all."
    digit = next((i for i, byte in enumerate(data) if chr(byte).isdigit()), None)
    return data[:digit] + b"9" * 5000 + data[digit:] if digit else b"x" * 200_000 + data


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "a quarter": lambda data: data[: len(data) // 4],
    "half": lambda data: data[: len(data) // 2],
    "all but 9 bytes": lambda data: data[:-9],
    "noise": lambda data: NOISE,
    "noise within": lambda data: data[: len(data) // 2] + NOISE[:64] + data[len(data) // 2 + 64 :],
    "mark": lambda data: b"\xef\xbb\xbf" + data,
    "utf-16": lambda data: _as(data, "utf-16"),
    "latin-1": lambda data: data.replace(b"a", b"\xe9", 3),
    "zeros": lambda data: data[: len(data) // 3] + b"\0\0" + data[len(data) // 3 :],
    "huge": _huge,
    "blank": lambda data: b" \n\n",
    "a picture": lambda data: PICTURE.getvalue(),
    "an archive": lambda data: ARCHIVE.getvalue(),
    "a page": lambda data: b"<!DOCTYPE html><html><title>Quota exceeded</title></html>\n",
    "a list": lambda data: b"[1, 2, 3]\n",
    "an object": lambda data: b'{"a": {"b": null}}\n',
    "a table": lambda data: b"a,b\n1,2\n3\n",
    "a long list": lambda data: b"[" * 100_000,
}


# --- readers ----------------------------------------------------------------------------------


class Reader(NamedTuple):
    "How something that reads files is tried."

    make: Callable[[Path], Path]  # writes good files into a folder; the path that is handed over
    read: Callable[[Path], Any]  # reads it
    damaged: str = ""  # name of the file that is damaged, below the path; empty: the path itself
    optional: bool = False  # the file may be missing
    slow: bool = False  # a network is made, a process started: a few damages will do


class Told(NamedTuple):
    "What came of one reading."

    verdict: str  # read, told, or wrong
    text: str  # of the error
    value: Any = None  # that was read


def _ours(error: BaseException) -> bool:
    "Whether an error was raised by a line of this package."
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(last).is_relative_to(Path(cyborg.__file__).parent)


def verdict(reader: Reader, path: Path) -> Told:
    "Read a file; an error must be raised by our code and name the file or its folder and name."
    at = path / reader.damaged
    try:
        return Told("read", "", reader.read(path))
    except RecursionError as error:
        return Told("wrong", repr(error)[:200])
    except (Exception, SystemExit) as error:
        text = f"{type(error).__name__}: {error}"
        named = str(at) in text or (str(path) in text and at.name in text)
        told = isinstance(error, ValueError | OSError) and _ours(error) and named
        return Told("told" if told else "wrong", text[:400])


def _write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _csv(name: str, text: str) -> Callable[[Path], Path]:
    return lambda folder: _write(folder / name, text)


def _parquet(name: str, text: str, **columns: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        table.assign(**columns).to_parquet(folder / name)
        return folder / name

    return make


MANIFEST = "image,label,source,split,map,subject\n" + "".join(
    f"a{i}.png,{'authentic' if i % 2 else 'synthetic'},{'cam' if i % 2 else 'gan'},{split},,\n"
    for i, split in enumerate(["train"] * 8 + ["val"] * 4 + ["test"] * 6)
)
ANSWERS = "subject,pair,right,seconds\nann,p1,true,2.5\nann,p2,false,3.0\nbob,p1,true,1.5\n"
RATINGS = "path,generator,subject,likert\na.png,gan,ann,3\nb.png,gan,bob,7\n"
FIXATIONS = "image,subject,x,y,duration\na.png,ann,10,20,150\na.png,bob,30,5,90\n"
BOXES = "image,x0,y0,x1,y1,score\na.png,1,2,30,40,0.9\nb.png,3,4,50,60,0.8\n"
MARKS = "image,strokes,width,height,subject\na.png,[],20,20,ann\n"
COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
    "annotations": [{"id": 1, "image_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}],
}
STUDIO = [
    {
        "data": {"image": "/data/a.png"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "rectanglelabels",
                        "to_name": "image",
                        "from_name": "r",
                        "original_width": 20,
                        "original_height": 20,
                        "value": {"x": 5, "y": 5, "width": 50, "height": 50},
                    }
                ]
            }
        ],
    }
]
STUDY = {"name": "s", "networks": ["test_resnet"], "scenarios": ["cyborg"], "seeds": 2}
STUDY |= {"settings": {"epochs": 3, "lr": 0.01}}


def _zip_of(name: str, inner: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w") as file:
            file.writestr(inner, text)
        return folder / name

    return make


def _picture(folder: Path) -> Path:
    values = (np.arange(400).reshape(20, 20) % 251).astype(np.uint8)
    Image.fromarray(values).save(folder / "p.png")
    return folder / "p.png"


def _weights(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        state = {f"l{i}.weight": torch.ones(3, 4) for i in range(4)}
        path = folder / name
        save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
        return path

    return make


def _network():
    from cyborg.models import make_network

    return make_network("test_resnet", size=64, weights="none")


def _run(folder: Path) -> Path:
    "A run folder as `train` leaves it, without a training."
    from cyborg.settings import run_config

    folder = folder / "run"
    folder.mkdir(exist_ok=True)
    config = run_config({"manifest": "m.csv", "arch": "test_resnet", "size": 64, "weights": "none"})
    record = {
        "settings": dataclasses.asdict(config),
        "resolved": {"precision": "fp32", "reason": "as asked", "device": "cpu"},
        "provenance": {
            "manifest_digest": "0" * 64,
            "classes": ["authentic", "synthetic"],
            "positive": "synthetic",
            "training_sources": ["cam", "gan"],
            "code_digest": "0",
        },
    }
    _write(folder / "config.json", json.dumps(record))
    save_file(_network().state_dict(), folder / "model.safetensors")
    rows = [{"epoch": e, "train_loss": 0.5, "val_accuracy": 0.5, "val_auc": 0.5} for e in (1, 2)]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    return folder


def _scored(folder: Path) -> Path:
    "A folder of predictions, with maps."
    from cyborg.manifest import Manifest
    from cyborg.others.frozen import write_scores
    from cyborg.saliency import RunningMean

    table = pd.read_csv(io.StringIO(MANIFEST), dtype=str, keep_default_na=False)
    manifest = Manifest(table, folder).split("test")
    rng = np.random.default_rng(0)
    path = write_scores(manifest, rng.normal(size=len(manifest)), folder / "scored", {"a": 1})
    np.save(path.parent / "saliency.npy", np.zeros((len(manifest), 4, 4), np.uint8))
    means = RunningMean()
    means.update(np.full((1, 4, 4), 0.5), ["gan|synthetic"])
    means.save(path.parent / "mean_maps.npz")
    means.save(path.parent / "training_maps.npz")
    return path.parent


def _autoencoder(folder: Path) -> Path:
    from cyborg.prepare.mentor import MapAutoencoder

    folder = folder / "autoencoder"
    settings = {"arch": "test_resnet", "size": 64, "seed": 0}
    _write(folder / "config.json", json.dumps({"settings": settings}))
    save_file(MapAutoencoder(_network()).state_dict(), folder / "autoencoder.safetensors")
    return folder


def _audit(folder: Path) -> Path:
    from cyborg.files import Finding
    from cyborg.measure.audit import StudyAudit, write_audit

    shortcuts = pd.DataFrame({"trait": ["size"], "seen": [True], "auc": [0.5], "reason": [""]})
    tables = [pd.DataFrame({"image": ["a.png"], "bits": [3]}) for _ in range(3)]
    finding = Finding("c", False, 1, ("a",), "text")
    return write_audit(StudyAudit(shortcuts, *tables, [finding]), folder / "audit")


def _references(folder: Path) -> Path:
    from cyborg.prepare.img2pose import REFERENCE_FILES

    for name, shape in (("mean", (6,)), ("std", (6,)), ("points", (68, 3))):
        np.save(folder / REFERENCE_FILES[name], np.ones(shape))
    return folder


def _templates(folder: Path) -> Path:
    for i in range(10):
        Image.new("RGB", (4, 4), (i, i, i)).save(folder / f"template{i}.png")
    return folder


def _onnx(folder: Path) -> Path:
    from test_scorers import onnx_file

    return onnx_file(folder / "x.onnx", (1, 3, 8, 8), (1, 3, 1, 1), b"ReduceMean")


def _script(folder: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Flatten()), folder / "x.pt")
    return folder / "x.pt"


def _scorer(kind: str) -> Callable[[Path], Any]:
    def read(path: Path) -> str:
        from cyborg.others.frozen import make_scorer

        entry = {"kind": kind, "path": str(path), "size": 8, "label": 0}
        return str(make_scorer(entry, trusted=True).settings)

    return read


def _released_run(folder: Path) -> Path:
    _write(folder / "cams_0.5" / "cams_0.51" / "Logs" / "final_model.pth", b"")
    _write(folder / "cams_0.5" / "cams_0.51" / "Logs" / "params.json", '{"alpha": 0.5}')
    return folder / "cams_0.5" / "cams_0.51"


def _reaction_times(folder: Path) -> Path:
    _write(
        folder / "times.csv", "image_id,overall_ann_time,annotation_time\n1,9.5,2.5\n2,8.0,3.0\n"
    )
    _write(folder / "images.csv", "img_id,img_path\n1,a.png\n2,b.png\n")
    return folder


def _state(folder: Path) -> Path:
    from cyborg.runs import new_state, save_state
    from cyborg.settings import run_config

    path = _run(folder)
    config = run_config(json.loads((path / "config.json").read_text())["settings"])
    save_state(new_state(_network(), config), path)
    return path


def _load_state(path: Path) -> int:
    from cyborg.runs import load_state, new_state
    from cyborg.settings import run_config

    state = new_state(_network(), run_config({"manifest": "m.csv", "arch": "test_resnet"}))
    load_state(state, path)
    return state.epoch


def _call(name: str, *arguments: Any) -> Callable[[Path], Any]:
    "Call a function of the package, imported when it is needed."
    module, _, function = name.rpartition(".")

    def read(path: Path) -> Any:
        return getattr(import_module(f"cyborg.{module}"), function)(path, *arguments)

    return read


VISER = [
    {
        "irisImageLink": f"{i}.png",
        "label": ("Live", "Spoof")[i % 2],
        "attackType": ("Live", "Print")[i % 2],
        "saliencyMaps": {"Gaze": f"Gaze/{i}.png"},
    }
    for i in range(20)
]


def _bench(folder: Path) -> Path:
    found: dict = {"FF-real": {}, "FF-DF": {}}
    for kind in found:
        for split in ("train", "test"):
            name = f"{kind}/{split}.png"
            found[kind][split] = {split: {"label": kind, "frames": [name]}}
            _write(folder / name, b"x")
    return _write(folder / "list.json", json.dumps({"FF-DF": found}))


def _ai_face(folder: Path) -> Path:
    for name in ("AttGAN/1.png", "FFHQ/2.png"):
        _write(folder / name, b"x")
    return _write(folder / "test.csv", "Image Path,Target\nAttGAN/1.png,1\nFFHQ/2.png,0\n")


READERS: dict[str, Reader] = {
    "prepare.importers.viser": Reader(
        lambda folder: _write(folder / "v.json", json.dumps(VISER)),
        lambda path: import_module("cyborg.prepare.importers").viser(str(path), kind="Gaze"),
    ),
    "prepare.importers.deepfakebench": Reader(
        _bench,
        lambda path: import_module("cyborg.prepare.importers").deepfakebench(
            str(path), root=str(path.parent)
        ),
    ),
    "prepare.importers.ai_face": Reader(
        _ai_face,
        lambda path: import_module("cyborg.prepare.importers").ai_face(
            str(path), root=str(path.parent)
        ),
    ),
    "explore.scoring.find_pictures": Reader(
        _csv("m.csv", MANIFEST),
        lambda path: import_module("cyborg.explore.scoring").find_pictures([path]),
    ),
    "manifest.read_table": Reader(_csv("m.csv", MANIFEST), _call("manifest.read_table")),
    "manifest.read_manifest": Reader(_csv("m.csv", MANIFEST), _call("manifest.read_manifest")),
    "manifest.read_manifest parquet": Reader(
        _parquet("m.parquet", MANIFEST), _call("manifest.read_manifest")
    ),
    "manifest.read_released": Reader(
        _csv("l.csv", "train,Real,/a/p1_1_real.png\ntrain,Synthetic,/a/p1_2_fake.png\n"),
        lambda path: _call("manifest.read_released", path.parent)(path),
    ),
    "pictures.read_picture": Reader(_picture, _call("pictures.read_picture")),
    "saliency.read_map": Reader(_picture, _call("saliency.read_map")),
    "saliency.RunningMean.load": Reader(
        lambda folder: _scored(folder) / "mean_maps.npz",
        lambda path: import_module("cyborg.saliency").RunningMean.load(path).keys,
    ),
    "models.read_torch": Reader(_weights("w.pth"), _call("models.read_torch")),
    "models.read_state_dict": Reader(_weights("w.pth"), _call("models.read_state_dict")),
    "models.read_state_dict safetensors": Reader(
        _weights("w.safetensors"), _call("models.read_state_dict")
    ),
    "others.attention.read_templates": Reader(
        _templates, _call("others.attention.read_templates", (4, 4)), "template3.png"
    ),
    "measure.audit.read_audit": Reader(_audit, _call("measure.audit.read_audit"), "shortcuts.csv"),
    "measure.audit.read_audit findings": Reader(
        _audit, _call("measure.audit.read_audit"), "findings.json"
    ),
    "predictions.read_predictions": Reader(
        _scored, _call("predictions.read_predictions"), "predictions.parquet"
    ),
    "predictions.read_maps": Reader(_scored, _call("predictions.read_maps"), "saliency.npy"),
    "predictions.read_mean_maps": Reader(
        _scored, _call("predictions.read_mean_maps"), "mean_maps.npz"
    ),
    "predictions.read_training_maps": Reader(
        _scored, _call("predictions.read_training_maps"), "training_maps.npz"
    ),
    "people.exchange.read_annotations": Reader(
        _csv("a.csv", MARKS), _call("people.exchange.read_annotations")
    ),
    "people.exchange.read_coco": Reader(
        _csv("c.json", json.dumps(COCO)), _call("people.exchange.read_coco")
    ),
    "people.exchange.read_label_studio": Reader(
        _csv("s.json", json.dumps(STUDIO)), _call("people.exchange.read_label_studio", ["a.png"])
    ),
    "people.exchange.read_reaction_times": Reader(
        _reaction_times,
        lambda path: _call("people.exchange.read_reaction_times", path / "images.csv")(
            path / "times.csv"
        ),
        "times.csv",
    ),
    "people.exchange.read_reaction_times images": Reader(
        _reaction_times,
        lambda path: _call("people.exchange.read_reaction_times", path / "images.csv")(
            path / "times.csv"
        ),
        "images.csv",
    ),
    "people.exchange.read_marks": Reader(
        _csv("c.json", json.dumps(COCO)),
        lambda path: _call("people.exchange.read_marks", ["a.png"])([path]),
    ),
    "people.formats.read_export": Reader(
        _csv("c.json", json.dumps(COCO)), _call("people.formats.read_export", dict)
    ),
    "people.gaze.read_fixations": Reader(
        _csv("g.csv", FIXATIONS), _call("people.gaze.read_fixations")
    ),
    "people.gaze.read_fixation_files": Reader(
        _zip_of("g.zip", "ann_a_1.csv", "x,y,duration\n10,20,150\n30,5,90\n"),
        _call("people.gaze.read_fixation_files"),
    ),
    "people.answers.read_answers": Reader(
        _csv("a.csv", ANSWERS), _call("people.answers.read_answers")
    ),
    "people.answers.read_human_study": Reader(
        _csv("a.csv", ANSWERS), _call("people.answers.read_human_study")
    ),
    "people.analysis.read_ratings": Reader(
        _csv("r.csv", RATINGS), _call("people.analysis.read_ratings")
    ),
    "prepare.crop.read_boxes": Reader(_csv("b.csv", BOXES), _call("prepare.crop.read_boxes")),
    "prepare.img2pose.read_references": Reader(
        _references, _call("prepare.img2pose.read_references"), "WIDER_train_pose_mean_v1.npy"
    ),
    "prepare.mentor.load_autoencoder": Reader(
        _autoencoder, _call("prepare.mentor.load_autoencoder"), "config.json"
    ),
    "prepare.mentor.load_autoencoder weights": Reader(
        _autoencoder,
        _call("prepare.mentor.load_autoencoder"),
        "autoencoder.safetensors",
        slow=True,
    ),
    "others.released.read_released_run": Reader(
        _released_run,
        _call("others.released.read_released_run"),
        "Logs/params.json",
        optional=True,
    ),
    "others.frozen.make_scorer onnx": Reader(_onnx, _scorer("onnx"), slow=True),
    "others.frozen.make_scorer torchscript": Reader(_script, _scorer("torchscript")),
    "study.file.read_study": Reader(
        _csv("s.yaml", yaml.safe_dump(STUDY)), _call("study.file.read_study")
    ),
    "training.load_run": Reader(_run, _call("training.load_run"), "config.json"),
    "training.load_run weights": Reader(
        _run, _call("training.load_run"), "model.safetensors", slow=True
    ),
    "training.load_run history": Reader(_run, _call("training.load_run"), "history.csv", slow=True),
    "runs.load_state": Reader(_state, _load_state, "last/checkpoint.pt", slow=True, optional=True),
}


# --- at random --------------------------------------------------------------------------------


def _random_damage(data: bytes, rng: np.random.Generator) -> bytes:
    "A listed damage, or bytes cut out, changed, doubled or put in."
    if rng.random() < 0.3:
        return list(DAMAGES.values())[rng.integers(len(DAMAGES))](data)
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(changed) + 1))
        to = min(len(changed), at + int(rng.geometric(0.1)))
        letters = bytes(rng.choice(list(b'0123456789,.-"\n{}[]:ax'), to - at))
        piece = (b"", changed[at:to] * 2, letters, letters, rng.bytes(to - at))[rng.integers(5)]
        changed[at:to] = piece
    return bytes(changed)


def campaign(
    folder: Path,  # for the files
    n: int,  # damages
    seed: int = 0,
    names: Sequence[str] = tuple(READERS),  # of readers, tried in turn
) -> pd.DataFrame:  # reader, verdict, text, number
    "Try damages at random; the same seed makes the same ones."
    rows = []
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        name = names[number % len(names)]
        place = folder / str(number)
        place.mkdir(parents=True)
        path = READERS[name].make(place)
        file = path / READERS[name].damaged
        file.write_bytes(_random_damage(file.read_bytes(), rng))
        told = verdict(READERS[name], path)
        rows.append({"reader": name, "verdict": told.verdict, "text": told.text, "number": number})
    return pd.DataFrame(rows)
