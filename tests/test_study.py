"""The study: bad files refused by name, killed workers lose nothing, unlike runs not pooled."""

import copy
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import papermill
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from scipy.special import expit

from cyborg.data import make_loader
from cyborg.demo import demo_plan
from cyborg.epoch import make_datasets
from cyborg.evaluation import predict
from cyborg.files import ManifestError
from cyborg.manifest import METRICS, read_manifest
from cyborg.measure import measures
from cyborg.measure.audit import read_audit
from cyborg.measure.honesty import LIES
from cyborg.models import WeightsError, make_network
from cyborg.others import scorers
from cyborg.predictions import read_predictions
from cyborg.saliency import RunningMean
from cyborg.settings import preset_config
from cyborg.study import grid
from cyborg.study import run as run_module
from cyborg.study.collect import audit_data, collect, summary
from cyborg.study.file import StudyError, make_study, read_study, study_runs
from cyborg.study.further import baseline_of
from cyborg.study.grid import check_study, estimate, plan
from cyborg.study.run import NOTEBOOK, local_cluster, run_study, schedule
from cyborg.study.runner import LOG, REPORT, Outcome, run_state
from cyborg.training import load_run, train

# Stands in for train.ipynb: a step a tenth of a second, its history the checkpoint it goes on from,
# its scores made from all steps. From which step each attempt went on stands in trace.txt.
TOY = """
import json, os, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq
folder = Path(runs) / name
folder.mkdir(parents=True, exist_ok=True)
print("at work", flush=True)
history = folder / "history.csv"
done = pd.read_csv(history)["value"].tolist() if history.exists() else []
(folder / "trace.txt").open("a").write(f"from {len(done)}\\n")
(folder / "trim.txt").write_text(os.environ.get("MALLOC_TRIM_THRESHOLD_", "as it was"))
for epoch in range(len(done), epochs):
    if arch == "resnet18" and seed == 1 and epoch == 2 and (Path(runs) / "fail").exists():
        raise OSError(28, "No space left on device")
    time.sleep(0.1)
    done.append(float(np.random.default_rng([seed, epoch]).random()))
    temporary = folder / "history.part"
    pd.DataFrame({"epoch": range(1, len(done) + 1), "value": done}).to_csv(temporary, index=False)
    temporary.replace(history)
settings = {k: v for k, v in dict(globals()).items() if k in SETTINGS}
provenance = {"manifest_digest": DIGEST, "code_digest": "c0de", "versions": {"torch": "2"}}
provenance["training_sources"] = ["camera", "known"]
record = {"settings": settings, "provenance": provenance, "resolved": {"precision": "fp32"}}
(folder / "config.json").write_text(json.dumps(record))
rows = {"label": ["authentic"] * 20 + ["synthetic"] * 40, "split": "test", "counterpart": ""}
rows["source"] = ["camera"] * 20 + ["known"] * 20 + ["novel"] * 20
table = pd.DataFrame(rows)
table["image"] = [f"{i}.png" for i in range(60)]
noise = np.random.default_rng([seed, int(100 * sum(done))]).normal(size=60)
logits = noise + (table["label"] == "synthetic") * (1.5 - alpha)
table["logit_0"], table["logit_1"] = -logits / 2, logits / 2
table["score"] = 1 / (1 + np.exp(-logits))
table["predicted"] = "synthetic"
for metric in ("cc", "sim", "kl", "iou", "pointing"):
    table[metric] = 1 - alpha
note = {"classes": ["authentic", "synthetic"], "settings": {"map_size": "2x2"}}
note = {b"cyborg": json.dumps(note).encode()}
table = pa.Table.from_pandas(table).replace_schema_metadata(note)
pq.write_table(table, folder / "predictions.parquet")
"""


def write_toy(path: Path, digest: str) -> Path:
    from cyborg.settings import SETTINGS

    names = [*SETTINGS, "preset"]
    parameters = nbformat.v4.new_code_cell("\n".join(f"{name} = None" for name in names))
    parameters.metadata["tags"] = ["parameters"]
    constants = f"SETTINGS, DIGEST = {list(SETTINGS)}, {digest!r}"
    cells = [parameters, nbformat.v4.new_code_cell(constants), nbformat.v4.new_code_cell(TOY)]
    book = nbformat.v4.new_notebook(cells=cells)
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "p"}
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def toy(faces, tmp_path_factory):
    digest = read_manifest(faces / "manifest.csv").digest
    return write_toy(tmp_path_factory.mktemp("toy") / "toy.ipynb", digest)


# --- bad study files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "there is no key 'seed' (did you mean 'seeds'?)"),
        ({"seeds": 0}, "seeds is 0 (int), expected a number above 0 or a list"),
        ({"seeds": [0, "1"]}, "seeds[1] is '1' (str), expected a whole number"),
        ({"seeds": [0, 0]}, "two runs are named faces-test_resnet-classical-seed0"),
        ({"seeds": True}, "seeds is True (bool)"),
        ({"networks": []}, "networks is [] (list), expected a list of names"),
        ({"networks": "resnet18"}, "networks is 'resnet18' (str), expected a list"),
        ({"networks": ["resnet18", "resnet18"]}, "two runs are named faces-resnet18-classical"),
        ({"scenarios": ["cyborgg"]}, "there is no scenario 'cyborgg' (did you mean 'cyborg'?)"),
        ({"scenarios": ["cyborg", "cyborg"]}, "scenarios: 'cyborg' stands twice"),
        ({"scenarios": {"mine": {"alfa": 1}}}, "'alfa' (did you mean 'alpha'?)"),
        ({"scenarios": {"mine": {"maps": "invert"}}}, "did you mean 'inverted'?"),
        ({"scenarios": {"mine": {"seed": 1}}}, "scenarios mine: seed is decided by seeds"),
        ({"scenarios": ["classical_large"]}, "data 'large', which data lacks"),
        ({"settings": {"epoch": 3}}, "there is no setting 'epoch' (did you mean 'epochs'?)"),
        ({"settings": {"epochs": "3"}}, "epochs is '3' (str), expected int"),
        ({"settings": {"alpha": 0.3}}, "settings has alpha, which scenario classical decides"),
        ({"preset": "papr"}, "there is no preset 'papr' (did you mean 'paper'?)"),
        ({"name": "../x"}, "name: '../x' makes no folder"),
        ({"name": 3}, "name is 3 (int), expected a plain folder name"),
        ({"data": {"faces": {"manifest": "m.csv", "rot": "."}}}, "did you mean 'root'?"),
        ({"settings": {"synthetic": "fake"}}, "settings: synthetic is decided by data"),
        ({"data": {"f": {"manifest": "m.csv", "synthetic": True}}}, "f: synthetic is True (bool)"),
        ({"data": ["m.csv"]}, "data is ['m.csv'] (list), expected manifests by name"),
        ({"least_maps": 2}, "least_maps is 2 (int), expected a share from 0 to 1"),
        ({"scenarios": {"mine": {"preset": "papr"}}}, "no preset 'papr' (did you mean 'paper'?)"),
        (
            {"scenarios": {"mine": {"networks": []}}},
            "scenarios mine: networks is [] (list), expected a list of names",
        ),
        ({"frozen": {"face": {}}}, "no data of frozen: 'face' (did you mean 'faces'?)"),
        ({"frozen": {"faces": {"a": {"fusion": ["b"]}}}}, "there is no member of a: 'b'"),
    ],
)
def test_a_bad_file_is_refused_by_name(content, changes, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    with pytest.raises(StudyError) as error:
        read_study(path, tmp_path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == [path]  # nothing was made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is no YAML"),
        ("name: a\nname: b\n", 'duplicate key "name" with value "b" (original value: "a"), line 2'),
        ("", "a study is None (NoneType), expected keys and values"),
        ("name: a\n", "networks missing; scenarios missing; seeds missing"),
    ],
)
def test_a_bad_text_is_refused(text, message, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(StudyError, match=re.escape(message)):
        read_study(tmp_path / "bad.yaml")


BAD_BYTES = {
    "latin-1": ("# für\n".encode("latin-1"), "near line 5; save it as UTF-8"),
    "nul": (b"x: \0\n", "near line 5"),
    "tab": (b"settings:\n\tlr: 1\n", "is no YAML"),
    "date": (b"settings: {lr: 2024-13-45}\n", "value that YAML cannot read"),
    "digits": (b"settings: {lr: " + b"9" * 5000 + b"}\n", "value that YAML cannot read"),
    "bits": (b"settings: {lr: 0x" + b"f" * 5000 + b"}\n", "a number of 20,000 bits"),
    "python": (b"settings: !!python/object/apply:os.getcwd []\n", "is no YAML"),
    "empty int": (b"settings: {lr: !!int ''}\n", "value that YAML cannot read"),
    "within itself": (b"settings: &s {lr: *s}\n", "within itself"),
    "deep": (b"settings: " + b"[" * 5000, "is nested too deep"),
    "laughs": (
        b"a: &a [1,1,1,1,1,1,1,1,1]\n"
        + b"".join(
            b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in b"bcdefgh"
        ),
        "more than 100,000 values",
    ),
    "key twice": (
        b"settings: {lr: 0.1, size: 64, lr: 0.2}\n",
        'duplicate key "lr" with value "0.2" (original value: "0.1"), line 5',
    ),
    "key of keys": (b"settings: {[a]: 1}\n", "a name in settings is ('a',), expected text"),
    "no value": (b"settings: {lr: }\n", "settings: 'lr' has no value"),
    "norway": (
        b"data: {true: m.csv}\n",
        "a name in data is True (bool), expected a name",
    ),
    "number": (b"frozen: {demo: {007: {kind: onnx}}}\n", "a name in frozen demo is 7 (int)"),
    "seeds": (b"seeds: 1000000000000\n", 'duplicate key "seeds"'),
    "home": (
        b"data: {a: ~no such user/m.csv}\n",
        "data a: manifest: '~no such user/m.csv' is no path",
    ),
    "trust": (
        b"frozen: {demo: {a: {kind: torchscript, path: x, trusted: true}}}\n",
        "frozen demo: a: trusted stands in the file that wants to be trusted",
    ),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bytes_that_make_no_study_are_refused_with_path_and_place(case, tmp_path):
    content, message = BAD_BYTES[case]
    path = tmp_path / "s.yaml"
    path.write_bytes(b"name: a\nnetworks: [test_resnet]\nscenarios: [cyborg]\nseeds: 1\n" + content)
    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_study_file_may_have_a_mark_of_its_encoding(encoding, content, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content), encoding=encoding)
    assert read_study(tmp_path / "s.yaml") == make_study(content, tmp_path)


def test_a_folder_in_the_place_of_a_study_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=f"{tmp_path} cannot be read: Is a directory"):
        read_study(tmp_path)


def test_any_value_at_any_place_makes_a_study_or_is_refused(content, tmp_path):
    """Each node replaced by each kind of value: the faults that nobody has listed."""
    content["scenarios"] = [{"cyborg": {"lr": 0.1, "networks": ["test_resnet"]}}, "classical"]
    content["scenarios"] += [{"large": {"data": {"faces": "large"}, "map_column": "m"}}]
    content["data"] |= {"large": str(tmp_path / "m.csv")}
    content |= {"least_maps": 0.5, "robustness": 3, "honesty": 3, "preset": "quick"}
    content |= {
        "maps_share": {"shares": [0.1], "by": "m", "scenarios": ["cyborg"]},
        "groups": ["g"],
    }
    content |= {"annotators": [1, "all"], "pool": {"column": "subject", "by": ["mean", "top-2"]}}
    content |= {"protocol": {"leave_one_out": "source", "of": "all", "folds": ["toy"]}}
    content |= {"sweep": {"alpha": [0.1, 0.9], "lr": "log(1e-4, 1e-1)", "trials": 3, "seeds": 1}}
    system = {"kind": "onnx", "path": "x.onnx", "size": 8, "label": 1, "seen": ["gan"]}
    content["frozen"] = {"faces": {"a": system, "b": {"fusion": ["a"]}}}
    values = [
        None,
        True,
        0,
        -1,
        2.5,
        float("nan"),
        10**30,
        "",
        "x",
        "\0",
        "~nobody at all/x",
        "a/../b",
    ]
    values += [[], [1], [[]], [None], {}, {"a": 1}, {1: 2}, {"a": {"a": []}}, b"x", {"x": None}]

    def places(node, path=()):
        yield path
        inner = enumerate(node) if isinstance(node, list) else getattr(node, "items", tuple)()
        for key, value in inner:
            yield from places(value, (*path, key))

    study_runs(make_study(content, tmp_path))
    for path in list(places(content))[1:]:
        for value in values:
            for as_key in (False, True):
                whole = copy.deepcopy(content)
                parent = reduce(lambda node, key: node[key], path[:-1], whole)
                if not as_key:
                    parent[path[-1]] = value
                elif isinstance(parent, dict) and not isinstance(value, list | dict):
                    parent[value] = parent.pop(path[-1])
                with suppress(StudyError):
                    study_runs(make_study(whole, tmp_path))


def test_numbers_with_exponents_are_numbers(content, tmp_path):
    text = yaml.safe_dump(content).replace("epochs: 8", "weight_decay: 1e-5")
    (tmp_path / "s.yaml").write_text(text)
    assert study_runs(read_study(tmp_path / "s.yaml"))[0].config.weight_decay == 1e-5


def test_a_missing_file_names_those_that_are_there(content, tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(StudyError, match=r"no study file .*t\.yaml; there are .*s\.yaml"):
        read_study(tmp_path / "t.yaml")


def test_paths_start_from_the_file(content, faces, tmp_path):
    relative = os.path.relpath(faces / "manifest.csv", tmp_path)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content | {"data": {"faces": relative}}))
    config = study_runs(read_study(tmp_path / "s.yaml"))[0].config
    assert config.manifest == str((faces / "manifest.csv").resolve())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["resnet5O"]}, "which timm .* does not know; nearest: resnet50"),
        ({"networks": ["levit_128s"]}, "no class activation map"),
        ({"networks": ["resnet18.a1_in1K"]}, "nearest: resnet18.a1_in1k"),
        (
            {"frozen": {"faces": {"wang": {"kind": "cnndetection", "path": "wang.pth"}}}},
            "frozen system wang: there is no weights file .*wang.pth",
        ),
        (
            {"frozen": {"faces": {"wang": {"kind": "cnn", "path": "wang.pth"}}}},
            "frozen system wang: kind is 'cnn'",
        ),
        ({"settings": {"weights": "w.safetensors"}}, "weights is '.*w.safetensors', expected"),
        ({"data": {"faces": "absent.csv"}}, "absent.csv"),
        (
            {"scenarios": [{"segmentation": {"map_column": "segmentatio"}}]},
            "did you mean 'segmentation'",
        ),
    ],
)
def test_what_other_files_must_say_is_checked_first(content, changes, message, tmp_path):
    with pytest.raises((ValueError, OSError), match=message):
        check_study(make_study(content | changes, tmp_path, tmp_path / "runs"))
    assert not list((tmp_path / "runs").rglob("config.json"))


def test_maps_that_half_of_the_images_lack(content, faces, tmp_path):
    half = content | {"data": {"half": {"manifest": str(faces / "half.csv"), "root": str(faces)}}}
    with pytest.raises(StudyError, match=r"cyborg: 6 of 13 training images have no map .*90%"):
        check_study(make_study(half, runs=tmp_path))
    warnings = check_study(make_study(half | {"least_maps": 0.5}, runs=tmp_path))
    assert any("6 of 13 training images have no map" in text for text in warnings)
    check_study(make_study(half | {"scenarios": ["classical"]}, runs=tmp_path))


# --- the grid ---------------------------------------------------------------------------------


def test_other_images_and_other_maps(content, faces, tmp_path):
    content["data"]["large"] = {"manifest": str(faces / "half.csv"), "root": str(faces)}
    content["scenarios"] = ["classical", "classical_large", "segmentation"]
    study = make_study(content, runs=tmp_path)
    check_study(study)
    runs = {run.scenario: run.config for run in study_runs(study)}
    assert {run.data for run in study_runs(study)} == {"faces"}
    assert runs["classical_large"].manifest == str((faces / "half.csv").resolve())
    assert runs["classical_large"].alpha == 1
    given, own = pd.read_csv(faces / "manifest.csv"), pd.read_csv(runs["segmentation"].manifest)
    wanted = given["segmentation"].where(given["split"] != "test", given["map"])
    assert own["map"].tolist() == wanted.tolist() != given["segmentation"].tolist()
    assert Path(runs["segmentation"].root) == faces.resolve()
    assert runs["segmentation"].maps == "human"


def relabelled(faces, path, words):
    table = pd.read_csv(faces / "manifest.csv", dtype=str, keep_default_na=False)
    table.assign(label=table["label"].map(words)).to_csv(path, index=False)
    return {"manifest": str(path), "root": str(faces)}


def test_data_say_which_label_is_synthetic_and_all_scenarios_follow(content, faces, tmp_path):
    place = relabelled(faces, tmp_path / "m.csv", {"authentic": "1", "synthetic": "0"})
    content |= {"data": {"faces": place}, "scenarios": ["classical", "segmentation"]}
    with pytest.raises(ManifestError, match=r"m.csv: labels are '0' and '1'.*synthetic="):
        check_study(make_study(content, runs=tmp_path))
    study = make_study(content | {"data": {"faces": place | {"synthetic": 0}}}, runs=tmp_path)
    check_study(study)
    for config in (run.config for run in study_runs(study)):
        manifest = read_manifest(config.manifest, config.root, synthetic=config.synthetic)
        assert (config.synthetic, manifest.classes) == ("0", ("1", "0"))
    written = next(c.config for c in study_runs(study) if c.scenario == "segmentation").manifest
    assert read_manifest(written, faces).classes == ("1", "0")  # it says so itself


def test_a_study_of_three_classes_is_refused_before_it_runs(content, faces, tmp_path):
    place = relabelled(faces, tmp_path / "m.csv", {"authentic": "real", "synthetic": "gan"})
    table = pd.read_csv(tmp_path / "m.csv", dtype=str, keep_default_na=False)
    table.loc[::5, "label"] = "mask"
    table.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(
        StudyError, match=r"measures two classes, .*m.csv has .'gan', 'mask', 'real"
    ):
        check_study(make_study(content | {"data": {"faces": place}}, runs=tmp_path))


def test_a_study_may_grow_but_not_change(content, tmp_path):
    study = make_study(content, runs=tmp_path)
    study.folder.mkdir()
    (study.folder / "study.yaml").write_text(yaml.safe_dump(content | {"preset": "quick"}))
    check_study(
        make_study(
            content | {"seeds": 3, "scenarios": ["classical", "cyborg", "box"]}, runs=tmp_path
        )
    )
    for changes, message in (
        ({"settings": content["settings"] | {"epochs": 9}}, "settings .*'epochs': 8.* now .*9"),
        ({"scenarios": ["classical", {"cyborg": {"alpha": 0.3}}]}, "cyborg: alpha 0.5, now 0.3"),
        ({"networks": ["resnet18"]}, "networks without test_resnet"),
    ):
        with pytest.raises(StudyError, match=message):
            check_study(make_study(content | changes, runs=tmp_path))


def test_scenarios_are_paired_by_seed(content, tmp_path):
    "Same first weights, same batches, epoch after epoch; another seed has others."
    content["scenarios"] = ["classical", "cyborg", "shuffled"]
    seen = {}
    for run in study_runs(make_study(content, runs=tmp_path)):
        manifest = read_manifest(run.config.manifest, run.config.root)
        network = make_network(run.network, 2, 64, "none", run.config.seed)
        train = make_datasets(manifest, network, run.config)["train"]
        loader = make_loader(train, 4, True, run.config.seed)
        order = []
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            order += [batch.index.tolist() for batch in loader]
        weights = torch.cat([p.detach().flatten() for p in network.parameters()])
        seen[run.scenario, run.seed] = weights, order
    weights, order = seen["classical", 0]
    for scenario in ("cyborg", "shuffled"):
        assert torch.equal(seen[scenario, 0][0], weights)
        assert seen[scenario, 0][1] == order
    assert not torch.equal(seen["classical", 1][0], weights)
    assert seen["classical", 1][1] != order


def test_each_run_has_its_own_seed_and_the_baseline_is_classical(content, tmp_path):
    both = {"scenarios": ["cyborg", "classical"], "seeds": [3, 8]}
    study = make_study(content | both, runs=tmp_path)
    assert [run.config.seed for run in study_runs(study)] == [3, 8, 3, 8]
    assert baseline_of(study) == "classical"
    study = make_study(content | {"scenarios": ["shuffled", "cyborg"]}, runs=tmp_path)
    assert baseline_of(study) == "shuffled"  # the first, where none is classical


def test_the_spread_of_a_summary_is_that_of_a_sample():
    keys = {"data": "d", "network": "n", "scenario": "s", "measure": "cc", "source": ""}
    table = pd.DataFrame([{**keys, "seed": i, "value": v} for i, v in enumerate((1, 2, 4))])
    assert summary(table, ["cc"])["cc"].tolist() == ["2.333 ± 1.528 (3)"]


def test_the_estimate_grows_with_the_images(content, tmp_path):
    seconds = estimate(make_study(content, runs=tmp_path))
    assert len(seconds) == 4
    assert (seconds > 0).all()


# --- running ----------------------------------------------------------------------------------


def start_dask(*words) -> subprocess.Popen:
    command = [sys.executable, "-m", "distributed.cli." + words[0], *map(str, words[1:])]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture
def scheduler(tmp_path):
    "A scheduler on loopback and two workers, as on three machines; the second ends with its task."
    file = tmp_path / "scheduler.json"
    place = ["--scheduler-file", file, "--no-dashboard"]
    local = ["--nthreads", 1, "--no-nanny", "--local-directory", tmp_path]
    started = [start_dask("dask_scheduler", "--host", "127.0.0.1", "--port", 0, *place)]
    started += [start_dask("dask_worker", *place, *local, "--name", n) for n in ("a", "b")]
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    yield json.loads(file.read_text())["address"], started
    for process in started:
        process.kill()
        process.wait()


def kill_when(process: subprocess.Popen, ready) -> None:
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ready()
    process.kill()


def busy_below(process: subprocess.Popen) -> list[Path]:
    "Folders of the runs that the children of a worker are at work on."
    if process.poll() is not None:
        return []
    children = psutil.Process(process.pid).children()
    return [
        Path(child.cwd())
        for child in children
        if "cyborg.study.runner" in " ".join(child.cmdline())
    ]


def test_a_killed_worker_loses_nothing(content, toy, scheduler, tmp_path):
    from threading import Thread

    address, (_, _, victim) = scheduler
    content["settings"]["epochs"], content["seeds"] = 12, 1
    study = make_study(content | {"name": "disturbed"}, runs=tmp_path)
    killed = []

    def in_mid_run():
        for folder in busy_below(victim):
            if run_state(folder).epoch >= 3:
                killed.append(folder)
        return bool(killed)

    thread = Thread(target=kill_when, args=(victim, in_mid_run))
    thread.start()
    lines = []
    table = run_study(study, address, threads=1, notebook=toy, every=1, tell=lines.append)
    thread.join()
    assert set(table["state"]) == {"finished"}
    starts = {f.name: (f / "trace.txt").read_text().split("\n")[:-1] for f in table["folder"]}
    assert starts.pop(killed[0].name)[0] == "from 0"
    resumed = (killed[0] / "trace.txt").read_text().split("\n")[1]
    assert int(resumed.removeprefix("from ")) >= 3  # from its checkpoint
    assert all(begun == ["from 0"] for begun in starts.values())  # the others ran once
    assert any("of 2 runs finished, 2 running, 0 failed" in line for line in lines)
    assert lines[-1].startswith("2 of 2 runs finished, 0 running")

    quiet = make_study(content | {"name": "quiet"}, runs=tmp_path)
    run_study(quiet, address, threads=1, notebook=toy, tell=lines.append)
    disturbed, undisturbed = collect(study).measures, collect(quiet).measures
    pd.testing.assert_frame_equal(disturbed, undisturbed)


def test_a_failure_stops_no_other_run_and_starting_again_does_only_that(content, toy, tmp_path):
    content["networks"] = ["test_resnet", "resnet18"]
    content["scenarios"] = ["classical"]
    content["settings"]["epochs"] = 4
    study, lines = make_study(content, runs=tmp_path), []
    study.folder.mkdir()
    (study.folder / "fail").touch()
    table = run_study(study, workers=2, notebook=toy, tell=lines.append)
    assert table["state"].value_counts().to_dict() == {"finished": 3, "failed": 1}
    failed = table[table["state"] == "failed"].iloc[0]
    assert failed["error"] == "OSError: [Errno 28] No space left on device"
    assert failed["epoch"] == 2
    assert "at work" in (failed["folder"] / LOG).read_text()
    cells = nbformat.read(failed["folder"] / REPORT, 4).cells
    assert any(o.output_type == "error" for c in cells if c.cell_type == "code" for o in c.outputs)
    assert f"failed: {failed['folder'].name}: OSError" in lines[-1]
    assert len(collect(study).measures["seed"].unique()) == 2
    # Dask's workers have a setting of malloc that nearly halves the speed of a training.
    assert {(f / "trim.txt").read_text() for f in table["folder"]} == {"as it was"}

    (study.folder / "fail").unlink()
    before = {f: (f / REPORT).stat().st_mtime_ns for f in table["folder"]}
    again = run_study(study, workers=2, notebook=toy, tell=lines.append)
    assert set(again["state"]) == {"finished"}
    assert (failed["folder"] / "trace.txt").read_text() == "from 0\nfrom 2\n"
    for folder, written in before.items():
        assert ((folder / REPORT).stat().st_mtime_ns == written) == (folder != failed["folder"])
    written = {f: (f / REPORT).stat().st_mtime_ns for f in table["folder"]}
    run_study(study, workers=2, notebook=toy, tell=lines.append)
    assert lines[-1].startswith("4 of 4 runs finished")
    assert {f: (f / REPORT).stat().st_mtime_ns for f in table["folder"]} == written

    # In one finished study: what must not be pooled silently.
    config = failed["folder"] / "config.json"
    record = json.loads(config.read_text())
    other = json.loads(config.read_text())
    other["provenance"]["code_digest"] = "0ther"
    config.write_text(json.dumps(other))
    with pytest.raises(
        StudyError, match=r"1 of 4 runs differ .*resnet18-classical-seed1: code_digest"
    ):
        collect(study)
    marked = collect(study, mixed=True).measures
    assert set(marked.loc[marked["differs"] != "", "network"]) == {"resnet18"}
    assert set(marked["differs"]) == {"", "code_digest"}
    record["provenance"]["resumed_by"] = ["0ther"]  # two versions of the code in one run
    config.write_text(json.dumps(record))
    with pytest.raises(StudyError, match=r"1 of 4 runs differ .*seed1: code_digest"):
        collect(study)
    del record["provenance"]["resumed_by"]
    grown = make_study(content | {"seeds": 3}, runs=tmp_path)
    (told,) = (text for text in check_study(grown) if "code" in text)
    assert told.startswith("4 of 6 runs were made by another version of the code")
    assert not [text for text in check_study(study) if "code" in text]  # nothing left to run
    other["provenance"] = record["provenance"]
    other["settings"]["lr"] = 0.7
    config.write_text(json.dumps(other))
    with pytest.raises(StudyError, match="lr: 0.7, now 0.05"):
        collect(study)
    with pytest.raises(StudyError, match=r"holds a run with other settings \(lr: 0.7, now 0.05\)"):
        check_study(study)
    config.write_text(json.dumps(record))
    result = failed["folder"] / "predictions.parquet"
    result.write_bytes(result.read_bytes()[:-100])  # cut short
    collected = collect(study)
    damaged = [text for text in collected.problems if "predictions.parquet" in text]
    assert len(damaged) == 1
    assert "is cut short or no Parquet file" in damaged[0]
    assert len(collected.measures.groupby(["network", "seed"])) == 3
    assert (study.folder / "measures.csv").is_file()


# --- collecting, from run folders that were written by hand ------------------------------------


def write_finished(run, shift=0.0, n=40, note=None) -> None:
    "A run folder as a finished run leaves it: a camera, a generator seen and one not seen."
    folder = run.config.folder
    (folder / "validation").mkdir(parents=True)
    provenance = {"manifest_digest": "d", "code_digest": "c0de", "versions": {}, "commit": "abc"}
    provenance["training_sources"] = ["camera", "known"]
    record = {"settings": asdict(run.config), "provenance": provenance}
    record["resolved"] = {"precision": "fp32"}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "outcome.json").write_text(json.dumps(Outcome(True, "", 1.0, "h")._asdict()))
    pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.4]}).to_csv(folder / "history.csv", index=False)
    means, maps = RunningMean(), np.zeros((3, 2, 2))
    maps[..., int(run.config.alpha == 1)] = 1  # the left, where people looked; classical: the right
    means.update(maps, ["camera|authentic", "known|synthetic", "novel|synthetic"])
    means.save(folder / "mean_maps.npz")
    for split, where in (("test", folder), ("val", folder / "validation")):
        rng = np.random.default_rng([run.seed, round(100 * run.config.alpha), split == "val"])
        table = pd.DataFrame({"source": np.repeat(["camera", "known", "novel"], n)})
        synthetic = table["source"] != "camera"
        table["image"] = [f"{split}{i}.png" for i in range(len(table))]
        table["label"] = np.where(synthetic, "synthetic", "authentic")
        z = rng.normal(size=len(table)) + (1 + shift) * synthetic
        table = table.assign(split=split, logit_0=-z / 2, logit_1=z / 2, score=expit(z))
        table["predicted"] = np.where(z > 0, "synthetic", "authentic")
        table[list(METRICS)] = rng.random((len(table), len(METRICS)))
        text = {"classes": ["authentic", "synthetic"]} | (note or {})
        table = pa.Table.from_pandas(table)
        table = table.replace_schema_metadata({b"cyborg": json.dumps(text).encode()})
        pq.write_table(table, where / "predictions.parquet")


def test_what_is_collected(content, tmp_path):
    "All tables, in memory and on disk; a study that is half finished."
    content["networks"], content["seeds"] = ["test_resnet", "resnet18"], 3
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    for run in runs[:-2]:  # resnet18 lacks two seeds of cyborg
        write_finished(
            run, 0.5 * (run.scenario == "cyborg"), note={"settings": {"map_size": "2x2"}}
        )
    found = collect(study)
    assert found.problems == []
    for name in ("measures", "histories", "rocs", "reliability", "intervals"):
        table = pd.read_parquet(study.folder / f"{name}.parquet")
        pd.testing.assert_frame_equal(table, getattr(found, name), check_dtype=False)
        keys = (
            ["data", "network"] if name == "intervals" else ["data", "network", "scenario", "seed"]
        )
        assert list(table)[: len(keys)] == keys
    assert list(found.measures)[-1] == "differs"
    assert len(found.histories) == 2 * len(runs[:-2])
    assert set(found.rocs["source"]) == {"known", "novel", "pooled", "pooled_seen", "pooled_unseen"}
    per_run = found.measures.groupby(["network", "scenario", "seed"]).size()
    assert len(per_run) == 10
    assert per_run.nunique() == 1
    aucs = found.measures.query("measure == 'auc' and source == 'novel'")
    aucs = aucs.set_index(["network", "scenario", "seed"])["value"]
    for network, seeds in (("test_resnet", [0, 1, 2]), ("resnet18", [0])):
        rows = found.intervals.query(
            f"network == '{network}' and baseline == 'classical' and measure == 'macro_unseen'"
        )
        gains = [aucs[network, "cyborg", s] - aucs[network, "classical", s] for s in seeds]
        assert rows["estimate"].item() == pytest.approx(np.mean(gains))
        assert rows["n_runs"].item() == len(seeds)
    table = pd.read_csv(study.folder / "runs.csv")
    assert table["collected"].sum() == 10
    assert table["state"].value_counts().to_dict() == {"finished": 10, "waiting": 2}
    assert set(table.loc[table["collected"], "commit"]) == {"abc"}
    baseline = pd.read_csv(study.folder / "baselines.csv", keep_default_na=False)
    assert set(baseline["cells"]) == {"2x2"}
    assert set(baseline["metric"]) == set(METRICS)
    cells = summary(found.measures).loc[("faces", "resnet18", "classical")]
    assert cells["auc macro_unseen"].endswith("(3)")
    assert len(cells) == 4
    assert "" in set(baseline["source"])
    assert len(pd.read_csv(study.folder / "problems.csv")) == 0
    for name, source in (("", ""), ("_authentic", ""), ("_synthetic", ""), ("", "novel")):
        wanted = (found.measures["measure"] == f"cc_training{name}") & (
            found.measures["source"] == source
        )
        rows = found.measures[wanted]
        assert len(rows) == 10 and rows["reason"].eq("").all()
        assert np.allclose(rows["value"], np.where(rows["scenario"] == "cyborg", 1, -1))
    counts = found.measures.query("measure == 'n_training_maps' and source == ''")["value"]
    assert set(counts) == {13}
    kept = RunningMean.load(measures.training_maps_file(study.folder, "faces", "2x2"))
    assert sum(map(kept.count, kept.keys)) == 13


def test_one_reference_for_all_also_for_runs_on_other_maps_or_on_none(content, tmp_path):
    """Segmentation maps and images without maps have a mean of their own, or none."""
    scenarios = ["classical", {"segmentation": {"map_column": "segmentation"}}]
    study = make_study(content | {"scenarios": scenarios, "seeds": 1}, runs=tmp_path)
    for run in study_runs(study):
        write_finished(run, note={"settings": {"map_size": "2x2"}})
        other = RunningMean()
        other.update(np.eye(2)[None], ["toy|authentic"])
        other.save(run.config.folder / "training_maps.npz")
    rows = collect(study).measures.query("measure == 'n_training_maps' and source == ''")
    assert rows["value"].tolist() == [13, 13]


def test_training_maps_that_are_gone_are_a_problem_and_not_a_zero(content, tmp_path):
    study = make_study(content | {"seeds": 1}, runs=tmp_path)
    for run in study_runs(study):
        write_finished(run, note={"settings": {"map_size": "2x2"}})
    table = read_manifest(content["data"]["faces"]["manifest"]).table
    table = table.assign(map="gone_" + table["map"])
    table.to_csv(tmp_path / "gone.csv", index=False)
    study.data["faces"]["manifest"] = str(tmp_path / "gone.csv")
    found = collect(study)
    assert any(
        "13 of 13 human maps cannot be read, first gone_map0.png" in p for p in found.problems
    )
    assert not found.measures["measure"].str.contains("training").any()


def test_collecting_again_measures_only_what_is_new(content, tmp_path, monkeypatch):
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    for run in runs[:3]:
        write_finished(run)
    first = collect(study)
    measured = []
    spy = lambda folder: measured.append(folder.name) or measures.measured_now(folder)  # noqa: E731
    monkeypatch.setattr(measures, "measured_now", measures.measured, raising=False)
    monkeypatch.setattr(measures, "measured", spy)
    again = collect(study)
    assert measured == []
    for name in ("measures", "rocs", "reliability", "intervals"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    write_finished(runs[3])
    assert len(collect(study).histories) == 8
    assert measured == [runs[3].config.name]
    result = runs[0].config.folder / "predictions.parquet"
    pq.write_table(pq.read_table(result), result)  # written anew
    kept = study.folder / "collected" / f"{runs[1].config.name}.npz"
    kept.write_bytes(kept.read_bytes()[:100])  # cut short
    collect(study)
    assert measured[1:] == [runs[0].config.name, runs[1].config.name]


def test_runs_on_other_images_are_not_compared(content, tmp_path):
    content["seeds"] = 3
    study = make_study(content, runs=tmp_path)
    for run in study_runs(study):
        write_finished(run, n=30 if (run.scenario, run.seed) == ("cyborg", 2) else 40)
    found = collect(study).intervals.query("baseline == 'classical' and measure == 'macro'").iloc[0]
    assert found["n_runs"] == 2
    assert "1 runs were tested on other images" in found["reason"]


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_collected(content, tmp_path):
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    for run in runs:
        write_finished(run, note={"settings": {"map_size": "2x2"}})
    result = runs[0].config.folder / "predictions.parquet"
    result.write_bytes(result.read_bytes()[:-100])
    pq.write_table(
        pq.read_table(result.with_name("validation") / result.name).slice(0, 0),
        runs[1].config.folder / "predictions.parquet",
    )
    (runs[2].config.folder / "history.csv").write_text("")
    found = collect(study)
    assert [text.split(":")[0] for text in found.problems] == [r.config.name for r in runs[:3]]
    assert set(zip(found.measures["scenario"], found.measures["seed"], strict=True)) == {
        ("cyborg", 1)
    }
    moved = make_study(
        content | {"data": {"faces": {"manifest": str(tmp_path / "gone.csv")}}}, runs=tmp_path
    )
    assert "data faces: no baseline" in collect(moved, mixed=True).problems[-1]


def test_a_run_ends_with_its_maker(toy, tmp_path):
    "Killed with SIGKILL, it leaves neither a child nor a kernel that would go on writing."
    settings = {"runs": str(tmp_path), "name": "run", "epochs": 600, "arch": "a", "seed": 0}
    arguments = (str(tmp_path / "run"), str(toy), settings)
    code = f"from cyborg.study.runner import execute; execute(*{arguments!r})"
    maker = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while run_state(tmp_path / "run").epoch < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    below = psutil.Process(maker.pid).children(recursive=True)
    assert len(below) >= 2
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    gone, alive = psutil.wait_procs(below, timeout=10)
    assert not alive


def test_a_task_that_kills_its_workers_is_a_failure_and_not_a_wait(monkeypatch):
    "Dask gives it up after some deaths, or the local workers do not come back; either way it ends."
    monkeypatch.setattr("cyborg.study.run.LOST", 3.0)
    with local_cluster(workers=1, gpus=False) as pool:
        try:
            ended = schedule(pool, {"a": (9,)}, os._exit, lambda left: None, 5)
        except StudyError as error:
            assert "have died" in str(error)
        else:
            assert type(ended["a"]).__name__ == "KilledWorker"


def test_a_scheduler_that_cannot_be_reached(content, toy, tmp_path, monkeypatch):
    monkeypatch.setattr("cyborg.study.run.TIMEOUT", "1s")
    study = make_study(content, runs=tmp_path)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with pytest.raises(StudyError, match="cannot be reached"):
            run_study(study, address, notebook=toy)
    assert set(plan(study)["state"]) == {"waiting"}


def test_one_study_is_run_by_one_process(content, toy, tmp_path):
    from cyborg.study.run import _claimed

    study = make_study(content, runs=tmp_path)
    with _claimed(study), pytest.raises(StudyError, match="another process is running this study"):
        run_study(study, workers=1, notebook=toy)


def test_slurm_jobs_hold_one_run_each():
    jobqueue = pytest.importorskip("dask_jobqueue")
    import dask

    from cyborg.study.run import slurm_cluster

    with dask.config.set({"jobqueue.slurm.cores": 8, "jobqueue.slurm.memory": "8GB"}):
        cluster = jobqueue.SLURMCluster(worker_extra_args=["--nthreads", "1"])
        script = cluster.job_script()
        cluster.close()
    assert script.rstrip().endswith("--nthreads 1")
    assert slurm_cluster


def test_the_dashboard_is_told_where_there_is_one(monkeypatch):
    pool, told = SimpleNamespace(client=SimpleNamespace(dashboard_link="http://here/status")), []
    for package in (None, "bokeh"):
        monkeypatch.setattr(run_module, "find_spec", lambda name, found=package: found)
        run_module._tell_dashboard(pool, told.append)
    assert told == ["dashboard: http://here/status"]


# --- a real training, through the command -----------------------------------------------------


def frozen_pair(content, tmp_path) -> dict:
    "Two trained runs and their fusion as frozen systems."
    (place,) = content["data"].values()
    common = {**place, **content["settings"], "arch": "test_resnet", "runs": str(tmp_path / "own")}
    frozen = {}
    for seed in (0, 1):
        settings = common | {"epochs": 1, "batch_size": 4, "name": f"run{seed}", "seed": seed}
        path = train(preset_config("quick", settings))
        frozen[f"run{seed}"] = {"kind": "run", "path": os.path.relpath(path, tmp_path)}
    return {"faces": frozen | {"both": {"fusion": ["run0", "run1"]}}}


def test_the_command_trains_for_real(content, faces, tmp_path):
    content["settings"] |= {"epochs": 1, "batch_size": 4}
    content["frozen"] = frozen_pair(content, tmp_path)
    content |= {"seeds": 1, "scenarios": ["cyborg"]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
    environment = os.environ | {"CYBORG_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    script = tmp_path / "command.py"  # what pip makes of an entry point
    script.write_text(
        "from cyborg.commands import study_command as main\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    call = [sys.executable, str(script), str(tmp_path / "s.yaml")]
    dry = subprocess.run([*call, "--dry_run"], env=environment, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert "1 runs in" in dry.stdout
    assert not (tmp_path / "runs" / "s").exists()
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 runs finished" in done.stdout
    study = read_study(tmp_path / "s.yaml", tmp_path / "runs")
    collected = collect(study)
    assert set(METRICS) < set(collected.measures["measure"])
    assert len(collected.histories) == 1
    (run,) = study_runs(study)
    assert not (run.config.folder / "robustness.csv").exists()
    trained = (run.config.folder / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content | {"robustness": 1, "honesty": 1}))
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (run.config.folder / "model.safetensors").stat().st_mtime_ns == trained
    check_what_a_report_needs(study, call, environment)
    wrong = subprocess.run(
        [*call[:2], "absent.yaml"], env=environment, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith("cyborg-study: there is no study file absent.yaml")


def test_runs_that_are_tested_together_say_what_they_say_alone(
    content, faces, tmp_path, monkeypatch
):
    content["settings"] |= {"epochs": 1, "batch_size": 4}
    content |= {"scenarios": ["classical"], "preset": "quick", "together": True}
    study, tasks = make_study(content, runs=tmp_path), []

    def spied(pool, given, *rest):
        tasks.append([*given])
        return schedule(pool, given, *rest)

    monkeypatch.setattr(run_module, "schedule", spied)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = run_study(study, workers=2, tell=print)
    assert table["state"].tolist() == ["finished"] * 2
    names = [run.config.name for run in study_runs(study)]
    assert tasks == [names, ["test-0"], names]
    for run in study_runs(study):
        folder, images = run.config.folder, read_manifest(faces / "manifest.csv", faces)
        alone = predict(load_run(folder).network, images.split("test"), tmp_path / run.config.name)
        assert alone.read_bytes() == (folder / "predictions.parquet").read_bytes()
        report = (folder / REPORT).stat().st_mtime
        begun = report - run_state(folder).seconds
        assert (folder / "model.safetensors").stat().st_mtime < begun
        assert (folder / "predictions.parquet").stat().st_mtime < begun
    assert (
        len({(r.config.folder / "predictions.parquet").read_bytes() for r in study_runs(study)})
        == 2
    )


def test_only_runs_that_look_at_the_same_are_tested_together(content, tmp_path, monkeypatch):
    content["scenarios"] = ["classical", {"other": {"which": "true"}}]
    content["seeds"] = 18
    runs = study_runs(make_study(content, runs=tmp_path))
    side = lambda folder, *_: {"settings": {"size": 96 if "seed17" in folder.name else 64}}  # noqa: E731
    monkeypatch.setattr(run_module, "run_record", side)
    groups = run_module._groups(runs)
    assert sorted(len(group) for group in groups) == [16, 16]  # 17 of 64 px each, one is left over
    assert all(len({"other" in folder for folder in group}) == 1 for group in groups)
    assert not any("seed17" in folder for group in groups for folder in group)


def check_what_a_report_needs(study, call, environment):
    "Degraded images, the audit, tables collected anew, and the report of all that."
    (run,) = study_runs(study)
    degraded = pd.read_csv(run.config.folder / "robustness.csv")
    assert {"jpeg_pil", "crop"} < set(degraded["degradation"]) and degraded["severity"].max() == 5
    assert (run.config.folder / "salience.csv").is_file()
    lies = pd.read_csv(run.config.folder / "honesty.csv")
    assert lies.groupby("lie").size().to_dict() == dict.fromkeys(LIES, 4)
    (name,) = study.data
    own = study.folder / "frozen" / name
    tested = [read_predictions(own / system) for system in ("run0", "run1", "both")]
    odds = [table["logit_1"] - table["logit_0"] for table in tested]
    np.testing.assert_allclose(odds[2], (odds[0] + odds[1]) / 2, rtol=1e-5)
    assert len(read_audit(study.folder / "audit" / name).shortcuts)
    (study.folder / "measures.parquet").unlink()
    only = [*call, "--only_collect", "--no_audit"]
    done = subprocess.run(only, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "running" not in done.stdout, done.stderr
    given = {"folder": str(study.folder), "vector": False}
    notebook, out = NOTEBOOK.with_name("report.ipynb"), study.folder / "report.ipynb"
    papermill.execute_notebook(notebook, out, given, progress_bar=False)
    text = (study.folder / "report" / "report.html").read_text()
    for title in ("Table 1: AUC", "both", "Robustness:", "Five measures", f"Audit: {name}"):
        assert title in text
    left_out = re.findall(r'<li id="[^"]*">([^<]*)</li>', text)
    lacking = "source is &#39;macro_unseen&#39;, which has no values; there are toy, pooled, "
    lacking += "macro, macro_seen, worst"  # no new generator
    alone = "no run of &#39;classical&#39;, expected one of cyborg"  # so nothing to compare with
    expected = (lacking, alone, "no marks of single annotators", "no run has a value of it")
    assert all(any(f": {words}" in line for words in expected) for line in left_out), left_out
    assert {words for words in expected[:2] for line in left_out if words in line} == {
        lacking,
        alone,
    }
    assert "No difference to " in text and "Is the map honest?" in text


# --- trust ------------------------------------------------------------------------------------


def test_a_dry_run_opens_no_file_that_runs_code_and_trust_comes_from_outside(
    content, tmp_path, monkeypatch
):
    opened = []
    monkeypatch.setattr(torch.jit, "load", lambda path, **how: opened.append(path) or net)
    net = torch.nn.Flatten()
    (tmp_path / "x.pt").write_bytes(b"a program")
    (tmp_path / "x.onnx").write_bytes(b"no network")
    content["scenarios"] = ["classical"]
    script = {"kind": "torchscript", "path": "x.pt", "size": 8}
    if "label" in inspect.signature(scorers.torchscript_scorer).parameters:
        script["label"] = 1
    content["frozen"] = {"faces": {"a": script}}
    study = make_study(content, tmp_path, tmp_path / "runs")
    [told] = [text for text in check_study(study, dry=True) if "frozen system a" in text]
    assert "x.pt" in told and "--trust" in told and not opened
    with pytest.raises(StudyError, match=r"x\.pt was not opened: .*cyborg-study --trust"):
        check_study(study)
    assert not opened
    check_study(study, trusted=True)
    monkeypatch.setenv("CYBORG_TRUST", "1")
    check_study(study)
    assert len(opened) == 2
    content["frozen"]["faces"]["a"] = script | {"kind": "onnx", "path": "x.onnx"}
    study = make_study(content, tmp_path, tmp_path / "runs")
    assert any("x.onnx" in text for text in check_study(study, dry=True))
    with pytest.raises(StudyError, match=r"frozen system a: .*x\.onnx"):
        check_study(study)


def test_damaged_weights_show_before_a_run_starts(content, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04 half")
    content["settings"] |= {"weights": "w.pth"}
    with pytest.raises(WeightsError, match=r"w\.pth: not a readable weights file"):
        check_study(make_study(content, tmp_path, tmp_path / "runs"))


@pytest.mark.parametrize(
    ("field", "values"), [("precision", ("fp32", "bf16")), ("device", ("cpu", "cuda:0"))]
)
def test_a_run_gone_on_with_otherwise_is_not_pooled_unless_asked(content, tmp_path, field, values):
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    first = {"precision": "fp32", "device": "cpu", "code_digest": "c0de", "versions": {}}
    for run in runs:
        write_finished(run)
        path = run.config.folder / "config.json"
        sessions = [first, first | {field: values[run in runs[1:]]}]  # of most runs: mixed
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sessions": sessions}))
    told = rf"{runs[1].config.name}: {field} {values[0]} then "
    with pytest.raises(StudyError, match=told):
        collect(study)
    marked = collect(study, mixed=True).measures
    assert all(field in text for text in marked["differs"])


@pytest.mark.parametrize(("quirks", "refused"), [("", True), ("hook", False)])
def test_runs_scored_in_another_precision_are_not_pooled_unless_asked(
    content, tmp_path, quirks, refused
):
    "Quirks of the released code are scored in single precision, whatever the others are."
    name, *_ = content["scenarios"] = ["classical", {"odd": {"alpha": 1.0, "quirks": quirks}}]
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    odd = [run for run in runs if run.scenario == "odd"]
    assert 0 < 2 * len(odd) <= len(runs)
    for run in runs:
        kind = "fp32" if run in odd and (quirks or run is odd[0]) else "bf16"
        write_finished(run, note={"settings": {"map_size": "2x2", "precision": kind}})
    if not refused:
        assert collect(study).problems == []
        return
    with pytest.raises(StudyError, match=rf"1 of .*{odd[0].config.name}: scored fp32"):
        collect(study)
    marked = collect(study, mixed=True).measures.query("differs != ''")
    assert {*marked["scenario"]} == {"odd"} and {*marked["differs"]} == {"scored fp32"}


def test_gpus_of_one_kind_are_one_device(content, tmp_path):
    study = make_study(content, runs=tmp_path)
    for i, run in enumerate(study_runs(study)):
        write_finished(run, note={"settings": {"map_size": "2x2"}})
        path = run.config.folder / "config.json"
        session = {"precision": "fp32", "device": f"cuda:{i}", "code_digest": "c", "versions": {}}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"sessions": [session]}))
    assert collect(study).problems == []


def test_a_run_whose_files_are_damaged_is_told_and_the_rest_is_collected(content, tmp_path):
    study = make_study(content, runs=tmp_path)
    runs = study_runs(study)
    for run in runs:
        write_finished(run, note={"settings": {"map_size": "2x2"}})
    path = runs[0].config.folder / "config.json"
    path.write_bytes(path.read_bytes()[:50])
    found = collect(study)
    assert len(found.problems) == 1 and str(path) in found.problems[0]
    assert "collected" in pd.read_csv(study.folder / "runs.csv")
    outcome = runs[1].config.folder / "outcome.json"
    outcome.write_text('{"finished": tr')
    state = run_state(runs[1].config.folder)
    assert state.state == "failed" and str(outcome) in state.error  # so it is tried again


def test_only_true_pools_what_differs(content, tmp_path):
    with pytest.raises(ValueError, match="mixed is 'false'"):
        collect(make_study(content, runs=tmp_path), mixed="false")


@pytest.mark.parametrize("name", ["..", ".git", "NUL", "a.", ""])
def test_a_study_is_not_named_as_another_folder(content, tmp_path, name):
    with pytest.raises(StudyError, match="name"):
        make_study(content | {"name": name}, runs=tmp_path)
    with pytest.raises(StudyError):
        make_study(content | {"scenarios": [{"x": {"map_column": "../../x"}}]}, runs=tmp_path)


# --- at the size of the paper's set ------------------------------------------------------------


def tree(folder: Path) -> list[tuple[str, int]]:
    "Every file and folder below, with its time stamp."
    return sorted((str(p), p.stat().st_mtime_ns) for p in [folder, *folder.rglob("*")])


def test_a_dry_run_writes_nothing_and_draws_no_demo(tmp_path, monkeypatch, capsys):
    for name in ("data", "runs"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"CYBORG_{name.upper()}", str(tmp_path / name))
    monkeypatch.delenv("CYBORG_CACHE", raising=False)
    content = {"name": "s", "networks": ["test_resnet"], "scenarios": ["classical", "cyborg"]}
    before = tree(tmp_path)
    study = make_study(content | {"seeds": 3, "settings": {"size": 64, "device": "cpu"}})
    run_module._announced(study, 1, 1, dry=True, trusted=False)
    assert tree(tmp_path) == before
    told = capsys.readouterr().out
    n = demo_plan(2000)["split"].value_counts()
    counts = f"(train {n['train']:,}, val {n['val']:,}, test {n['test']:,})"
    assert f"2,000 images {counts}, to be drawn first" in told
    kept = n["train"] + n["val"]
    assert f"0 of {kept:,} images that are kept decoded at 64 px are cached" in told
    assert f"{kept * 3 * 64**2 / 1e6:.1f} MB for decoded images" in told


def test_a_dry_run_with_maps_of_another_column_writes_nothing(content, faces, tmp_path, capsys):
    content |= {"scenarios": ["classical", "segmentation"], "seeds": 1}
    study = make_study(content, runs=tmp_path / "runs")
    before = tree(faces), tree(tmp_path)
    run_module._announced(study, 1, 1, dry=True, trusted=False)
    assert (tree(faces), tree(tmp_path)) == before
    dry = grid.checked_study(study, False, dry=True).manifests
    real = grid.checked_study(study, False, dry=False).manifests
    assert {p: m.digest for p, m in dry.items()} == {p: m.digest for p, m in real.items()}


def test_files_are_checked_once_for_all_runs_of_a_study(content, tmp_path, monkeypatch):
    from cyborg import findings

    calls = []
    audit = findings.audit
    monkeypatch.setattr(findings, "audit", lambda *a, **k: calls.append(1) or audit(*a, **k))
    study = make_study(content | {"seeds": 5}, runs=tmp_path)
    first = check_study(study)
    assert len(calls) == 1 and check_study(study) == first and len(calls) == 1
    check_study(study, dry=True)
    assert len(calls) == 1
    environment = run_module._task(
        study_runs(study)[0], study, NOTEBOOK, run_module.Cluster(None, 1, (), {})
    )[3]
    monkeypatch.setenv(findings.CHECKED, environment[findings.CHECKED])
    config = study_runs(study)[0].config
    assert findings.validate_run(read_manifest(config.manifest, config.root)) is not None
    assert len(calls) == 1


def test_a_study_that_the_disk_cannot_hold_is_refused_before_it_runs(
    content, toy, tmp_path, monkeypatch
):
    from cyborg import cache

    study = make_study(content, runs=tmp_path)
    checked = grid.checked_study(study, False, dry=True)
    monkeypatch.setattr("cyborg.cache.disk_usage", lambda _: type("Usage", (), {"free": 10**6}))
    with pytest.raises(cache.CacheError, match="no room on the disk: .* for 4 runs in .*1 MB are"):
        run_study(study, notebook=toy)
    assert not (tmp_path / "s" / "study.yaml").exists()
    few, many = (grid._run_needs(study, study_runs(study)[:n], checked, slots=1) for n in (1, 4))
    weights = checked.sizes[study_runs(study)[0].config.name].weights
    assert many - few > 3 * 3 * weights  # best, last and its momentum, of three more runs


def test_images_of_two_manifests_are_counted_once(content, faces, tmp_path):
    place = next(iter(content["data"].values()))
    half = {"manifest": str(faces / "half.csv"), "root": str(faces)}
    content |= {"data": {"faces": place, "half": half}, "scenarios": ["classical"], "seeds": 2}
    study = make_study(content, runs=tmp_path)
    (squares,) = grid._squares(study_runs(study), grid.checked_study(study, False, dry=True))
    table = read_manifest(place["manifest"]).table
    assert squares.images == (table["split"] != "test").sum()


def test_an_audit_that_was_killed_goes_on_where_it_was(content, tmp_path, monkeypatch):
    from cyborg.measure import audit

    study = make_study(content, runs=tmp_path)
    monkeypatch.setattr(audit, "_PART", 5)
    read, seen = audit._record, []

    def killed(path, size):
        seen.append(path)
        if len(seen) > 12:
            raise KeyboardInterrupt
        return read(path, size)

    monkeypatch.setattr(audit, "_record", killed)
    with pytest.raises(KeyboardInterrupt):
        audit_data(study, lambda _: None)
    again = []
    monkeypatch.setattr(audit, "_record", lambda path, size: again.append(path) or read(path, size))
    (folder,) = audit_data(study, lambda _: None)
    n = len(read_manifest(next(iter(content["data"].values()))["manifest"]))
    assert len(again) == n - 10  # two parts of five were kept
    assert not (folder / "read").exists() and len(read_audit(folder).distances)
