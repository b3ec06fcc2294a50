"""Training: repeatable, resumable after SIGKILL at any moment, nothing lost on a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from literal_training import literal_run, write_images
from PIL import Image

import cyborg
from cyborg import cache, epoch, trial
from cyborg import runs as runs_module
from cyborg.cache import CacheError
from cyborg.data import Batch
from cyborg.epoch import DivergedError, make_datasets, run_epoch
from cyborg.files import ManifestError, modules_of
from cyborg.forward import choose_precision
from cyborg.grids import TRAINING_MAPS
from cyborg.manifest import Manifest, read_manifest
from cyborg.models import NetworkError, make_network
from cyborg.runs import new_state
from cyborg.saliency import RunningMean, read_map, resize_map, unit_range, write_map
from cyborg.settings import PRESETS, SETTINGS, RunConfig, SettingsError, preset_config, run_config
from cyborg.training import load_run, train
from cyborg.trial import check_room, check_run, check_settings, check_step

COLUMNS = ["image", "label", "source", "split", "map", "subject"]


def write_faces(folder: Path, n: int = 23) -> Path:
    "Noise in which a brighter square says synthetic; every third training image has no map."
    rows = []
    for i in range(n):
        image = np.random.default_rng(i).integers(90, 110, (64, 64, 3), dtype=np.uint8)
        image[24:40, 8:24] += 60 * (i % 2)
        Image.fromarray(image).save(folder / f"{i}.png")
        human = np.zeros((64, 64), np.float32)
        human[16:48, : 8 + i] = 1
        write_map(folder / f"map{i}.png", human)
        split = "train" if i < n - 10 else "val" if i < n - 4 else "test"
        label = ("authentic", "synthetic")[i % 2]
        rows.append([f"{i}.png", label, "toy", split, "" if i % 3 == 2 else f"map{i}.png", str(i)])
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"))


def settings(faces: Path, runs: Path, **changes) -> dict:
    return {
        "manifest": str(faces),
        "root": str(faces.parent),
        "runs": str(runs),
        "name": "run",
        "arch": "resnet18",
        "weights": "none",
        "size": 40,
        "batch_size": 4,  # 13 training images: the last one joins the batch before
        "epochs": 3,
        "lr_step": 2,
        "flip": 0.5,
        "device": "cpu",
        "precision": "fp32",
        **changes,
    }


def history(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


def same_run(a: Path, b: Path) -> None:
    pd.testing.assert_frame_equal(history(a), history(b), check_exact=True)
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()
    ours, theirs = (
        torch.load(f / "last" / "checkpoint.pt", weights_only=True)["network"] for f in (a, b)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory):
    return train(run_config(settings(faces, tmp_path_factory.mktemp("undisturbed"))))


def test_run_folder_holds_what_it_promises(undisturbed):
    record = json.loads((undisturbed / "config.json").read_text())
    assert set(record["settings"]) == set(SETTINGS)
    assert record["provenance"]["images"] == {"train": 13, "val": 6, "test": 4}
    rows = pd.read_csv(undisturbed / "history.csv")
    assert rows["epoch"].tolist() == [1, 2, 3]
    assert rows["lr"].tolist() == pytest.approx([0.005, 0.005, 0.0005])
    total = 0.5 * rows["train_classification"] + 0.5 * rows["train_saliency"]
    assert rows["train_loss"].tolist() == pytest.approx(total.tolist())
    assert (rows["flat_human"] == 0).all()


def test_same_seed_same_run_whatever_the_number_of_workers(undisturbed, faces, tmp_path):
    same_run(undisturbed, train(run_config(settings(faces, tmp_path, workers=2))))


def test_another_seed_is_another_run(undisturbed, faces, tmp_path):
    other = train(run_config(settings(faces, tmp_path, seed=1, epochs=1)))
    assert history(other)["train_loss"][0] != history(undisturbed)["train_loss"][0]


KILLED_RUN = """
import json, os, signal, sys
from pathlib import Path
from safetensors import torch as tensors
from cyborg import epoch, runs, training
moment, count = sys.argv[2], int(sys.argv[3])

def dying(name):
    module = {"batch_loss": epoch, "save_file": tensors}.get(name, runs)
    original, calls = getattr(module, name), []
    def wrapper(*arguments, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(module, name, wrapper)

dying(moment)
training.train(training.run_config(json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("moment", "count"),
    [
        ("batch_loss", 7),  # in the midst of the second epoch's training
        ("save_file", 2),  # the epoch is computed, its best weights are not written
        ("save_state", 2),  # weights written, checkpoint not
    ],
)
def test_killed_run_goes_on_as_if_nothing_had_happened(undisturbed, faces, tmp_path, moment, count):
    asked = settings(faces, tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, json.dumps(asked), moment, str(count)],
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert not (tmp_path / "run" / "history.csv").exists() or len(history(tmp_path / "run")) < 3
    same_run(undisturbed, train(run_config(asked)))


def test_full_disk_keeps_the_checkpoint_before(faces, tmp_path, monkeypatch):
    original, calls = torch.save, []

    def full(content, path):
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left") as error:
        train(run_config(settings(faces, tmp_path)))
    assert error.value.errno == errno.ENOSPC
    kept = torch.load(tmp_path / "run" / "last" / "checkpoint.pt", weights_only=True)
    assert len(kept["history"]) == 1
    assert [p.name for p in (tmp_path / "run" / "last").iterdir()] == ["checkpoint.pt"]


def test_finished_run_is_returned_and_not_touched(undisturbed):
    record = json.loads((undisturbed / "config.json").read_text())
    before = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.name != ".lock"}
    start = time.monotonic()
    assert train(run_config(record["settings"])) == undisturbed
    assert time.monotonic() - start < 60
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_other_settings_in_the_same_folder_are_refused_by_name(undisturbed):
    asked = json.loads((undisturbed / "config.json").read_text())["settings"]
    with pytest.raises(FileExistsError, match=r"alpha: 0\.5, now 1\.0"):
        train(run_config(asked | {"alpha": 1}))
    with pytest.raises(FileExistsError, match="manifest's content"):
        manifest = Path(asked["manifest"])
        changed = manifest.with_name("changed.csv")
        changed.write_text(manifest.read_text().replace("toy", "toys"))
        train(run_config(asked | {"manifest": str(changed)}))


def test_overwrite_starts_anew(undisturbed, faces, tmp_path):
    train(run_config(settings(faces, tmp_path, seed=3, epochs=1)))
    same_run(undisturbed, train(run_config(settings(faces, tmp_path)), overwrite=True))


def test_folder_in_use_is_refused(faces, tmp_path):
    config = run_config(settings(faces, tmp_path))
    config.folder.mkdir()
    with (
        runs_module.FileLock(config.folder / ".lock"),
        pytest.raises(FileExistsError, match="another process"),
    ):
        train(config)


def test_a_loss_that_is_no_number_ends_the_run_in_words(faces, tmp_path, monkeypatch):
    config = run_config(settings(faces, tmp_path, arch="test_resnet", quirks="unguarded"))
    with pytest.raises(SettingsError, match="4 training images have no map"):
        train(config)
    monkeypatch.setattr(trial, "check_maps", lambda *_: None)
    with pytest.raises(DivergedError, match=r"train loss is nan .*quirk unguarded"):
        train(config)  # every third image has no map, which counts as a flat one
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_no_number_in_validation_ends_no_run_while_its_classification_is_one(tmp_path):
    faces = write_faces(tmp_path)
    table = pd.read_csv(faces)
    table.loc[table["split"] == "train", "map"] = [f"map{i}.png" for i in range(13)]
    table.to_csv(faces, index=False)
    own = {"arch": "test_resnet", "quirks": "unguarded", "epochs": 1}
    row = history(train(run_config(settings(faces, tmp_path, **own)))).iloc[0]
    assert np.isnan(row["val_saliency"]) and np.isfinite(row["val_classification"])


def test_code_that_goes_on_with_a_run_is_noted(faces, tmp_path, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    config = run_config(settings(faces, tmp_path, epochs=2))
    for code, callbacks in (("a", [stop]), ("b", []), ("c", [])):
        monkeypatch.setattr(runs_module, "code_digest", lambda code=code: code)
        with suppress(KeyboardInterrupt):
            train(config, callbacks)
    record = json.loads((config.folder / "config.json").read_text())
    assert runs_module.run_codes(record) == ["a", "b"]  # c found the run finished


def test_the_code_of_a_run_is_what_it_consists_of():
    names = {path.stem for path in modules_of("training", "evaluation", "measure.robustness")}
    assert {"training", "loss", "saliency", "evaluation", "robustness"} < names
    assert not names & {"tables", "widgets", "grid", "server"}


def test_classical_training_ignores_the_maps(faces, tmp_path):
    "Alpha 1 with human or with inverted maps is the same run, to the last digit."
    a = train(run_config(settings(faces, tmp_path, name="a", alpha=1.0, epochs=1)))
    b = train(run_config(settings(faces, tmp_path, name="b", alpha=1.0, epochs=1, maps="inverted")))
    assert load_run(a).history["train_loss"][0] == load_run(b).history["train_loss"][0]
    assert (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def test_paired_scenarios_start_from_the_same_weights_and_see_the_same_batches(faces, tmp_path):
    seen = {}

    def recording(original, name):
        def wrapper(output, weight, labels, *rest, **options):
            seen.setdefault(name, []).append((weight.detach().clone(), labels.clone()))
            return original(output, weight, labels, *rest, **options)

        return wrapper

    original = epoch.guided_loss
    for name, alpha in (("classical", 1.0), ("cyborg", 0.5)):
        epoch.guided_loss = recording(original, name)
        try:
            train(run_config(settings(faces, tmp_path, name=name, alpha=alpha, epochs=1)))
        finally:
            epoch.guided_loss = original
    assert torch.equal(seen["classical"][0][0], seen["cyborg"][0][0])
    for (_, a), (_, b) in zip(seen["classical"], seen["cyborg"], strict=True):
        assert torch.equal(a, b)
    assert [len(a) for _, a in seen["cyborg"]] == [2, 4, 4, 5, 4, 2]  # a trial; no batch of one


def test_one_forward_pass_a_step(faces, tmp_path):
    config = run_config(settings(faces, tmp_path))
    network = make_network("resnet18", size=40, weights="none")
    datasets = make_datasets(read_manifest(faces, faces.parent), network, config)
    calls = []
    network.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    batch = datasets["train"].__getitems__([0, 1, 2])
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    run_epoch(network, [batch, batch], config, Accelerator(cpu=True), "fp32", optimizer)
    assert len(calls) == 2
    assert network.backbone.bn1.num_batches_tracked == 2


def test_control_maps_take_the_human_maps_place(faces, tmp_path):
    network = make_network("resnet18", size=40, weights="none")
    manifest = read_manifest(faces, faces.parent)
    human, inverted = (
        make_datasets(manifest, network, run_config(settings(faces, tmp_path, maps=kind)))["train"]
        for kind in ("human", "inverted")
    )
    mapped = human.has_map
    assert mapped.tolist() == [i % 3 != 2 for i in range(13)]
    assert (inverted.has_map == mapped).all()
    expected = 1 - unit_range(human.human[mapped])
    np.testing.assert_allclose(inverted.human[mapped], expected, atol=1e-6)


# Settings, images of each training batch, and of each validation batch.
SHARED_BATCHES = {
    "uneven": ({}, [5, 3], [4, 1]),
    "lonely": ({}, [1, 4], [1, 1]),  # only one process has an image
    "dynamic": ({"weighting": "dynamic"}, [5, 1], [3]),
    "released": ({"quirks": "released", "alpha": 1.0}, [5, 4], [3]),
    "unguarded": ({"quirks": "unguarded"}, [3, 4], [2]),
    "gradient": ({"guidance": "rrr"}, [5], [3]),
    "normless": ({"arch": "test_efficientnet_gn", "detach_weight": True}, [5, 1], [3]),
}


def shared_steps(name: str) -> dict:
    "A training and a validation pass in double precision: the row of the epoch, and the weights."
    given, *sizes = SHARED_BATCHES[name]
    config = RunConfig("m.csv", **{"arch": "test_resnet", "lr": 1.0, "momentum": 0.0, **given})
    network = make_network(config.arch, 2, 40, "none").double().train()
    generator = torch.Generator().manual_seed(0)
    accelerator, found = Accelerator(cpu=True), {}
    optimizer = new_state(network, config).optimizer
    network, optimizer = accelerator.prepare(network, optimizer)
    for split, stepping in (("train", optimizer), ("val", None)):
        batches = []
        for n in sizes[split == "val"]:
            image = torch.randn(n, 3, 40, 40, generator=generator).double()
            human = torch.rand(n, 2, 2, generator=generator).double()
            mapped = torch.arange(n) != 1  # the second process has none
            mapped |= torch.tensor(config.quirks == "unguarded" and split == "train")
            batches.append(Batch(image, torch.arange(n) % 2, human, mapped, torch.arange(n)))
        found |= run_epoch(network, batches, config, accelerator, "fp32", stepping)
    weights = accelerator.unwrap_model(network).state_dict()
    return {"row": found, "weights": {k: v.double() for k, v in weights.items()}}


PROCESS = """
import json, os, sys, torch
from pathlib import Path
from test_training import SHARED_BATCHES, shared_steps
from cyborg.training import run_config, train
train(run_config(json.loads(sys.argv[1])))
told = {name: shared_steps(name) for name in SHARED_BATCHES}
torch.save(told, Path(sys.argv[2]) / f"{os.environ['RANK']}.pt")
"""


def in_two_processes(*words: str, folder: Path) -> None:
    "A script of one's own, started by `torchrun --nproc_per_node 2`."
    (folder / "script.py").write_text(PROCESS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    places = [str(Path(cyborg.__file__).parents[1]), str(Path(__file__).parent)]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(
        [*launch, str(folder / "script.py"), *words, str(folder)],
        env=os.environ | own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]


OF_TWO = {"arch": "test_resnet", "batch_size": 5, "epochs": 1}


@pytest.fixture(scope="module")
def pair(faces, tmp_path_factory):
    "What two processes come to: a folder with a run, and with what each says of the shared steps."
    folder = tmp_path_factory.mktemp("pair")
    in_two_processes(json.dumps(settings(faces, folder, **OF_TWO)), folder=folder)
    return folder


@pytest.mark.parametrize("name", SHARED_BATCHES)
def test_two_processes_make_the_steps_of_one(pair, name):
    alone = shared_steps(name)
    for rank in (0, 1):
        told = torch.load(pair / f"{rank}.pt", weights_only=True)[name]
        assert told["row"] == pytest.approx(alone["row"], rel=1e-6, nan_ok=True)
        torch.testing.assert_close(told["weights"], alone["weights"], rtol=1e-6, atol=1e-6)


def test_two_processes_train_the_run_of_one(pair, faces, tmp_path):
    "Each image counts once, in a last validation batch of one image, too."
    alone = train(run_config(settings(faces, tmp_path, **OF_TWO)))
    np.testing.assert_allclose(history(pair / "run"), history(alone), rtol=1e-3)
    ours, theirs = (load_run(f).network.state_dict() for f in (pair / "run", alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_precision_follows_the_network_and_the_machine(monkeypatch):
    resnet = make_network("resnet18", size=64, weights="none")
    mobile = make_network("mobilenetv2_100", size=64, weights="none")
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision(resnet, cpu)[0] == "bf16"
    assert choose_precision(mobile, cpu)[0] == "fp32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert choose_precision(resnet, cpu) == ("fp32", "this CPU has no bf16 instructions")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": "ten"}, r"epochs is 'ten' \(str\), expected int"),
        ({"epochs": True}, r"epochs is True \(bool\), expected int"),
        ({"epochs": 2.5}, r"epochs is 2.5 \(float\), expected int"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"batch_size": 1}, "batch norm needs two"),
        ({"lr": 0}, r"lr is 0.0, expected a finite number above 0"),
        ({"weight_decay": float("inf")}, "weight_decay is inf, expected a finite number"),
        ({"weight_decay": float("nan")}, "weight_decay is nan, expected a finite number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
        ({"momentum": 5.0}, "momentum is 5.0, expected from 0 to below 1"),
        ({"lr_gamma": -1.0}, "lr_gamma is -1.0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"name": "../elsewhere"}, "plain folder name"),
        ({"maps": "humans"}, "expected one of human, "),
        ({"precision": "fp16"}, "expected one of auto, fp32, bf16"),
        ({"archh": "resnet50"}, "no setting 'archh'.*did you mean 'arch'"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong, message):
    with pytest.raises(SettingsError, match=message):
        run_config({"manifest": "m.csv", **wrong})


def test_presets_hold_only_settings_and_paper_is_the_default():
    assert all(set(preset) <= set(SETTINGS) for preset in PRESETS.values())
    assert preset_config("paper", {"manifest": "m.csv"}) == RunConfig("m.csv")


def test_runs_of_other_kinds_have_other_folders():
    own = [{}, {"which": "true"}, {"map_kind": "gradcam"}, {"weighting": "time"}, {"alpha": 0.9}]
    own += [{"quirks": "hook,score"}, {"alpha": 1.0}, {"maps": "inverted"}, {"seed": 1}]
    names = [RunConfig("m.csv", **given).folder.name for given in own]
    names += [preset_config(name, {"manifest": "m.csv"}).folder.name for name in PRESETS]
    assert len(set(names)) == len(own) + len(PRESETS) - 1  # paper is the default
    assert "m-resnet50-classical-seed0-cnndetection" in names  # and no maps unless asked
    named = preset_config("cnndetection", {"manifest": "m.csv", "name": "mine"})
    assert named.folder.name == "mine"


def test_wrong_network_or_manifest_leaves_no_run_folder(faces, tmp_path):
    with pytest.raises(NetworkError):
        train(run_config(settings(faces, tmp_path, arch="resnet5O")))
    with pytest.raises(ManifestError):
        empty = faces.with_name("empty.csv")
        empty.write_text(",".join(COLUMNS) + "\n")
        train(run_config(settings(empty, tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_no_map_at_all_is_refused_before_training(faces, tmp_path):
    table = pd.read_csv(faces, dtype=str).assign(map="")
    table.to_csv(faces.with_name("unmapped.csv"), index=False)
    with pytest.raises(SettingsError, match="no training image has a map"):
        train(run_config(settings(faces.with_name("unmapped.csv"), tmp_path)))


def test_reading_a_folder_that_is_no_run_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json and no model.safetensors"):
        load_run(tmp_path)


LITERAL = {
    "shuffled maps, ties last": {"maps": "shuffled", "lr": 0.1, "seed": 3},
    "detached, ties first": {"detach_weight": True, "ties": "first", "alpha": 0.3, "seed": 1},
    "adam": {"optimizer": "adam", "lr": 0.002, "epochs": 2, "seed": 1},
    "batch norm": {"arch": "test_resnet", "epochs": 3, "lr": 0.002, "seed": 2},
}


@pytest.mark.parametrize("name", LITERAL)
def test_training_is_the_literal_loop(name, tmp_path):
    "Also when it is stopped after two epochs and goes on."
    own = {"arch": "test_efficientnet_gn", "size": 64, "epochs": 4, "lr": 0.02, "lr_gamma": 0.3}
    own |= {"weight_decay": 0.02, "lr_step": 3}
    given = settings(write_images(tmp_path), tmp_path, **own | LITERAL[name])
    config = run_config(given)
    literal = literal_run(tmp_path / "manifest.csv", vars(config))
    with suppress(InterruptedError):
        train(config, callbacks=[stop_after_two])
    run = load_run(train(config))
    ours = run.history.drop(columns=["seconds", "flat_model", "flat_human"])
    expected = pd.DataFrame(literal.history)[list(ours)]
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
    last = torch.load(run.folder / "last" / "checkpoint.pt", weights_only=True)["network"]
    close = {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(last, {f"backbone.{k}": v for k, v in literal.last.items()}, **close)
    saved = run.network.state_dict()
    torch.testing.assert_close(
        saved, {f"backbone.{k}": v for k, v in literal.best.items()}, **close
    )
    if "ties" in name:  # the best epoch is neither the last one nor the only one
        right = expected["val_accuracy"]
        assert (right == right.max()).sum() > 1
        kept = next(iter(literal.best))
        assert not torch.equal(literal.best[kept], literal.last[kept])


def stop_after_two(rows: pd.DataFrame) -> None:
    if len(rows) == 2:
        raise InterruptedError


# --- which class is the positive one ------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(faces):
    "The same images, labelled 1 where they are authentic and 0 where they are not."
    table = pd.read_csv(faces, dtype=str, keep_default_na=False)
    table["label"] = table["label"].map({"authentic": "1", "synthetic": "0"})
    table.to_csv(faces.with_name("digits.csv"), index=False)
    return faces.with_name("digits.csv")


def test_labels_that_say_nothing_are_asked_for_before_anything_is_made(digits, tmp_path):
    with pytest.raises(ManifestError, match="digits.csv: labels are '0' and '1'.* synthetic="):
        train(run_config(settings(digits, tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("stated", ["0", 0])  # papermill makes a number of `-p synthetic 0`
def test_a_stated_class_is_the_last_and_is_noted_and_printed(digits, tmp_path, capsys, stated):
    folder = train(run_config(settings(digits, tmp_path, synthetic=stated, epochs=1)))
    origin = json.loads((folder / "config.json").read_text())["provenance"]
    said = "synthetic (label '0'), by the setting synthetic"
    assert origin["classes"] == ["1", "0"] and origin["positive"] == said
    assert f"positive class: {said}\n" in capsys.readouterr().out
    turned = run_config(settings(digits, tmp_path, synthetic="1", epochs=1))
    with pytest.raises(FileExistsError, match="the manifest's content"):
        train(turned)


def test_the_order_of_known_words_is_noted_and_stating_it_makes_no_other_run(undisturbed, faces):
    record = json.loads((undisturbed / "config.json").read_text())
    said = "synthetic (label 'synthetic'), by the table of known words"
    assert record["provenance"]["positive"] == said
    before = (undisturbed / "config.json").stat().st_mtime_ns
    own = settings(faces, undisturbed.parent, name=undisturbed.name, synthetic="synthetic")
    assert train(run_config(own)) == undisturbed
    assert (undisturbed / "config.json").stat().st_mtime_ns == before


# Before the first epoch


def test_a_network_without_second_derivative_trains_by_the_kernel_that_has_one(monkeypatch):
    config = RunConfig("m.csv", arch="mobilevit_xxs", guidance="rrr", weights="none", size=64)
    network = make_network(config.arch, size=64, weights="none")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    check_step(network, config)
    for name, tensor in network.state_dict().items():  # the step was a copy's
        assert torch.equal(tensor, before[name])
    monkeypatch.setattr(trial, "differentiable_twice", nullcontext)
    message = "mobilevit_xxs cannot make a training step of 2 images with guidance rrr.*derivative"
    with pytest.raises(SettingsError, match=message):
        check_step(network, config)


def test_weights_that_are_no_numbers_are_told_before_the_first_step():
    network = make_network("test_resnet", size=64, weights="none")
    network.backbone.conv1[0].weight.data[0] = float("nan")
    with pytest.raises(SettingsError, match="weights is 'w.pth': the first loss is nan"):
        check_step(network, RunConfig("m.csv", arch="test_resnet", weights="w.pth"))


@pytest.mark.parametrize(
    ("changes", "labels", "maps", "message"),
    [
        ({}, "asas", "", "no training image has a map"),
        ({"quirks": "released"}, "asas", "010", "released.*1 training images have no map"),
        ({"maps": "shuffled"}, "asas", "0", "shuffled.*one image of train"),
        ({"maps": "other_class"}, "asas", "02", "other_class.*all maps of train are of 'a'"),
        ({"quirks": "score", "alpha": 1.0}, "asx", "012", "score is of two classes"),
        ({"guidance": "divisive"}, "asx", "012", "divisive.*two classes"),
        ({"weighting": "time"}, "asas", "0123", "needs a column seconds"),
        ({"alpha": 1.0}, "a", "", "has 1 training image, expected at least 2"),
    ],
)
def test_settings_that_the_images_rule_out_are_refused_by_name(changes, labels, maps, message):
    maps = "0" + "23" if maps == "010" else maps
    rows = [
        [f"{i}.png", label, label, "train", f"m{i}.png" if str(i) in maps else "", ""]
        for i, label in enumerate(labels)
    ]
    manifest = Manifest(
        pd.DataFrame(rows, columns=COLUMNS), ".", tuple(dict.fromkeys("as" + labels))
    )
    with pytest.raises(SettingsError, match=message):
        check_settings(RunConfig("m.csv", **changes), manifest)


def test_a_batch_larger_than_the_data_is_told():
    rows = [[f"{i}.png", "as"[i % 2], "toy", "train", "", ""] for i in range(4)]
    manifest = Manifest(pd.DataFrame(rows, columns=COLUMNS), ".", ("a", "s"))
    told = check_settings(RunConfig("m.csv", alpha=1.0), manifest)
    assert told == ["batch_size is 20, but an epoch has 4 images: it is one step"]


def test_a_disk_too_small_for_cache_and_run_is_told_before_the_folder_is_made(
    faces, tmp_path, monkeypatch
):
    class Usage(NamedTuple):
        free: int

    config = run_config(settings(faces, tmp_path, arch="test_resnet", size=44))
    monkeypatch.setattr(cache, "disk_usage", lambda _: Usage(6_000_000))
    message = r"0\.1 MB for decoded images in .*and [6-9]\.\d MB for the run in .*; 6 MB are free"
    with pytest.raises(CacheError, match=message):
        train(config)
    assert not config.folder.exists()
    monkeypatch.setattr(cache, "disk_usage", lambda _: Usage(20_000_000))
    manifest, network, _ = check_run(config)
    assert "for the run" in check_room(config, manifest, network)


# --- the mean training map ------------------------------------------------------------------------


@pytest.mark.parametrize("own", [{"maps": "inverted"}, {"alpha": 1.0}])
def test_a_run_keeps_the_mean_human_map_whatever_it_was_trained_on(own, faces, tmp_path):
    config = run_config(settings(faces, tmp_path, epochs=1, **own))
    folder = train(config)
    found = RunningMean.load(folder / TRAINING_MAPS)
    rows = [i for i in range(13) if i % 3 != 2]  # every third training image has no map
    for k, label in enumerate(("authentic", "synthetic")):
        maps = [read_map(faces.parent / f"map{i}.png") for i in rows if i % 2 == k]
        maps = [resize_map(map, (2, 2)) for map in maps]
        assert found.count(f"toy|{label}") == len(maps)
        assert np.allclose(found.mean(f"toy|{label}"), np.mean(maps, axis=0), atol=1e-6)
    (folder / TRAINING_MAPS).unlink()  # as runs of earlier versions are
    before = (folder / "model.safetensors").stat().st_mtime_ns
    train(config)
    assert (folder / TRAINING_MAPS).is_file()
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    (folder / TRAINING_MAPS).write_bytes(b"of another run")
    train(config, overwrite=True)
    assert sum(map(found.count, found.keys)) == 9
    assert RunningMean.load(folder / TRAINING_MAPS).keys == found.keys


def test_training_takes_a_fresh_stamp_of_its_images_and_looks_itself_without_one(
    tmp_path, monkeypatch
):
    from cyborg import findings
    from cyborg import manifest as manifest_module

    write_faces(tmp_path)
    given = {"manifest": str(tmp_path / "manifest.csv"), "root": str(tmp_path), "size": 64}
    config, calls = preset_config("quick", given | {"arch": "test_resnet"}), []
    images = manifest_module.read_manifest(config.manifest, config.root)
    for _ in range(2):  # the first makes a folder beside the images
        findings.validate_once(images, tmp_path / "checked")
    audit = findings.audit
    monkeypatch.setattr(findings, "audit", lambda *a, **k: calls.append(1) or audit(*a, **k))
    looked = check_run(config).warnings
    assert calls == [1]
    monkeypatch.setenv(findings.CHECKED, str(tmp_path / "checked"))
    assert check_run(config).warnings == looked and calls == [1]
    (tmp_path / "new.png").touch()
    assert check_run(config).warnings == looked and calls == [1, 1]
