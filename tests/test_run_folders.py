"""Run folders: only what a run wrote is removed; each prefix of writing or removing is safe."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

from cyborg import runs as runs_module
from cyborg.evaluation import predict
from cyborg.files import DamagedError
from cyborg.manifest import read_manifest
from cyborg.measure.measures import measured
from cyborg.predictions import FILES, PredictionsError, read_maps, read_mean_maps, read_predictions
from cyborg.prepare.mentor import MentorConfig
from cyborg.runs import (
    State,
    best_epoch,
    is_complete,
    join_run,
    load_state,
    read_history,
    run_folder,
    run_sessions,
    save_epoch,
)
from cyborg.settings import RunConfig, SettingsError
from cyborg.training import load_run, train

ACCURACIES = {0.5: (0.6, 0.9, 0.7, 0.9), 1.0: (0.9, 0.6, 0.7, 0.8)}  # best: the last, the first


def recorded(alpha: float = 0.5, precision: str = "fp32", **changes) -> dict:
    "What config.json says of a run that begins."
    config = RunConfig("m.csv", name="run", size=32, epochs=4, alpha=alpha, **changes)
    session = {"first_epoch": 1, "last_epoch": None, "precision": precision, "device": "cpu"}
    session |= {"code_digest": "c0de", "versions": {"torch": "2"}}
    provenance = {"manifest_digest": "d", "code_digest": "c0de", "classes": ["a", "b"]}
    resolved = {"precision": precision, "device": "cpu"}
    record = {"settings": dataclasses.asdict(config), "resolved": resolved}
    return record | {"provenance": provenance, "sessions": [session]}


def go_on(folder: Path, record: dict, overwrite: bool = False) -> Path:
    "What `train` does, with two weights that an epoch and alpha change."
    config = RunConfig(**record["settings"])
    accelerator = Accelerator(cpu=True)
    record = json.loads(json.dumps(record))
    with run_folder(folder, record, accelerator, overwrite):
        if is_complete(folder, config.epochs):
            return folder
        network = nn.Linear(2, 1, bias=False)
        nn.init.zeros_(network.weight)
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
        state = State(network, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2), [])
        load_state(state, folder)
        best = best_epoch(state.history) + 1 if state.history else 0
        join_run(state, folder, record, config.epochs, best, accelerator)
        while state.epoch < config.epochs:
            with torch.no_grad():
                network.weight += config.alpha + state.epoch
            accuracy = ACCURACIES[config.alpha][state.epoch]
            state.next_epoch({"epoch": state.epoch + 1, "val_accuracy": accuracy, "seconds": 0.1})
            save_epoch(state, config, folder)
    return folder


def contents(folder: Path) -> dict:
    "What a run came to: weights, history, settings; bytes of all else that is not ours to hide."
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files = {name: path for name, path in files.items() if not name.endswith(".lock")}
    state = torch.load(files.pop("last/checkpoint.pt"), weights_only=True)
    record = json.loads(files.pop("config.json").read_text())
    return {name: path.read_bytes() for name, path in files.items()} | {
        "settings": record["settings"],
        "epochs": [(s["first_epoch"], s["last_epoch"]) for s in record["sessions"]][-1][1],
        "history": state["history"],
        "weights": state["network"]["weight"].tolist(),
    }


class Dead(BaseException):
    "The process is gone: whatever it still tries fails, too."


@pytest.fixture
def dying(monkeypatch):
    "Dies instead of the k-th removal or renaming, and of all that follow; None: lives again."
    done = {"left": None}

    def wrapped(original):
        def call(*arguments, **options):
            if done["left"] is not None:
                done["left"] -= 1
                if done["left"] < 0:
                    raise Dead
            return original(*arguments, **options)

        return call

    for name in ("unlink", "replace", "rmdir"):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    return lambda k: done.update(left=k)


def attempts(dying, act):
    "Numbers of operations after which `act` died; the last one, at which it did not, ends it."
    for k in itertools.count():
        dying(k)
        try:
            act(k)
        except Dead:
            dying(None)
            yield k
        else:
            dying(None)
            assert k > 3
            return


@pytest.fixture
def alone(tmp_path):
    "Both runs as they come out when nobody disturbs them."
    return {
        alpha: contents(go_on(tmp_path / f"alone{alpha}", recorded(alpha))) for alpha in ACCURACIES
    }


def without_parts(folder: Path) -> Path:
    "As the next process finds it: temporary files of a dead one are swept."
    for path in folder.rglob(".*.part*"):
        path.unlink()
    return folder


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_a_run_killed_between_any_two_files_comes_to_the_same(tmp_path, dying, alone, alpha):
    act = lambda k: go_on(tmp_path / str(k), recorded(alpha))  # noqa: E731
    for k in attempts(dying, act):
        folder = without_parts(tmp_path / str(k))
        assert contents(go_on(folder, recorded(alpha))) == alone[alpha], k


def finished(folder: Path) -> Path:
    "A run of alpha 0.5 with all that other stages write into its folder."
    go_on(folder, recorded())
    names = [place + name for place in ("", "validation/", "robustness/clean/") for name in FILES]
    names += ["predictions.parts/rows-0-9.npy", "predictions.parts/settings.json", "salience.npz"]
    for name in (*names, "outcome.json", "measured.npz", "robustness.csv", "run.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    return folder


def test_overwriting_killed_at_any_moment_leaves_what_is_refused_or_right(tmp_path, dying, alone):
    whole = finished(tmp_path / "finished")
    log = {"run.log": b"old"}

    def act(k):
        shutil.copytree(whole, tmp_path / str(k))
        go_on(tmp_path / str(k), recorded(1.0), overwrite=True)

    for k in attempts(dying, act):
        without_parts(tmp_path / str(k))
        for alpha, overwrite in ((1.0, False), (0.5, False), (1.0, True)):
            folder = shutil.copytree(tmp_path / str(k), tmp_path / f"{k}-{alpha}-{overwrite}")
            try:
                go_on(folder, recorded(alpha), overwrite)
            except FileExistsError as error:
                assert not overwrite and "nothing was changed" in str(error)
                continue
            found = contents(folder)
            kept = {"settings", "epochs", "history", "weights", "history.csv", "model.safetensors"}
            assert {name: found[name] for name in kept} == {n: alone[alpha][n] for n in kept}, k
            if alpha == 1.0:  # nothing of the old run is beside the new one
                assert found == alone[alpha] | log


def test_overwriting_removes_what_a_run_wrote_and_keeps_the_log(tmp_path):
    folder = finished(tmp_path / "run")
    (folder / ".DS_Store").touch()
    go_on(folder, recorded(1.0), overwrite=True)
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    new = {"config.json", "history.csv", "model.safetensors", "last/checkpoint.pt"}
    assert names - {".lock"} == new | {"run.log", ".DS_Store"}


@pytest.mark.parametrize(
    "strange", ["notes.txt", "validation/my.csv", "last/old.pt", "sub/thesis.tex", "data.csv"]
)
def test_a_folder_with_a_strangers_file_is_refused_by_name(tmp_path, strange):
    folder = finished(tmp_path / "run")
    (folder / strange).parent.mkdir(exist_ok=True)
    (folder / strange).write_text("mine")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match=rf"1 files that no run writes \({strange}\)"):
        go_on(folder, recorded(1.0), overwrite=True)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["config.json", "history.csv", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, name):
    folder = go_on(tmp_path / "run", recorded())
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FileExistsError, match=f"run holds {name}, which is a folder"):
        go_on(folder, recorded())


@pytest.mark.parametrize("place", ["run", "runs/run"])
def test_a_file_or_a_dead_link_in_the_place_of_the_folder_is_named(tmp_path, place):
    (tmp_path / place.split("/")[0]).write_text("mine")
    with pytest.raises(FileExistsError, match="is a file, or a link that leads nowhere"):
        go_on(tmp_path / place, recorded(), overwrite=True)
    assert (tmp_path / place.split("/")[0]).read_text() == "mine"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="link is a file, or a link that leads nowhere"):
        go_on(tmp_path / "link", recorded())


def test_a_linked_folder_is_not_emptied(tmp_path):
    folder, other = finished(tmp_path / "run"), finished(tmp_path / "other")
    shutil.rmtree(folder / "validation")
    (folder / "validation").symlink_to(other / "validation")
    with pytest.raises(FileExistsError, match=r"no run writes \(validation\)"):
        go_on(folder, recorded(1.0), overwrite=True)
    assert (other / "validation" / FILES[0]).exists()


@pytest.mark.parametrize("config", [None, "{}", '{"settings": {"model_type": "vit"}}', "{"])
def test_a_folder_that_nothing_says_is_a_run_is_not_emptied(tmp_path, config):
    for name in ("history.csv", "model.safetensors"):
        (tmp_path / name).write_text("mine")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileExistsError, match="says that it is a run; nothing was removed"):
        go_on(tmp_path, recorded(), overwrite=True)
    with pytest.raises((FileExistsError, DamagedError), match="nothing was changed"):
        go_on(tmp_path, recorded())
    assert (tmp_path / "history.csv").read_text() == "mine"


def test_a_checkpoint_says_whose_it_is(tmp_path):
    folder = go_on(tmp_path / "run", recorded())
    whole = contents(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileExistsError, match=r"alpha: 0\.5, now 1\.0.*checkpoint\.pt says"):
        go_on(folder, recorded(1.0))
    with pytest.raises(FileExistsError, match="seed: 0, now 1"):
        go_on(folder, recorded(seed=1))
    assert contents(go_on(folder, recorded())) == whole  # its own goes on, and is told again
    (folder / "config.json").write_text(json.dumps(recorded(1.0)))
    with pytest.raises(FileExistsError, match=r"alpha: 0\.5, now 1\.0.*checkpoint\.pt says"):
        go_on(folder, recorded(1.0))


def as_before(folder: Path) -> Path:
    "A run as it was written before checkpoints said whose they are."
    path = folder / "last" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    del content["record"]
    torch.save(content, path)
    record = json.loads((folder / "config.json").read_text())
    del record["sessions"]
    (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")
    return folder


def test_an_old_checkpoint_goes_on_with_its_config_and_is_nobodys_without(tmp_path):
    folder = as_before(go_on(tmp_path / "run", recorded()))
    before = (folder / "config.json").read_bytes()
    go_on(folder, recorded())
    assert (folder / "config.json").read_bytes() == before
    (folder / "config.json").unlink()
    with pytest.raises(FileExistsError, match="no config.json that says whose it is"):
        go_on(folder, recorded())
    assert not (folder / "config.json").exists()
    go_on(folder, recorded(), overwrite=True)  # the checkpoint says that it is a run


def test_history_follows_from_the_checkpoint(tmp_path):
    folder = go_on(tmp_path / "run", recorded())
    whole = contents(folder)
    for damage in (b"", b"epoch,val_accuracy,seconds\n1,0.6,0.1\n2,0."):
        (folder / "history.csv").write_bytes(damage)
        assert contents(go_on(folder, recorded())) == whole
    (folder / "history.csv").unlink()
    assert contents(go_on(folder, recorded())) == whole


def test_weights_of_an_epoch_that_never_was_are_not_taken(tmp_path, dying):
    "Killed before the checkpoint of a best epoch, gone on with where that epoch comes out worse."
    folder, record = tmp_path / "run", recorded()

    class Stop(Exception):
        pass

    original, saved = runs_module.save_state, []

    def stopping(state, where):
        saved.append(1)
        if len(saved) == 2:
            dying(0)
            raise Dead
        original(state, where)

    runs_module.save_state = stopping
    try:
        with pytest.raises(Dead):
            go_on(folder, record)
    finally:
        runs_module.save_state = original
        dying(None)
    assert (folder / "last" / "model-epoch2.safetensors").exists()
    first = (folder / "model.safetensors").read_bytes()
    elsewhere = {0.5: (0.6, 0.5, 0.5, 0.5)}
    before = ACCURACIES.copy()
    ACCURACIES.update(elsewhere)
    try:
        go_on(folder, record)
    finally:
        ACCURACIES.update(before)
    assert (folder / "model.safetensors").read_bytes() == first
    assert [path.name for path in (folder / "last").iterdir()] == ["checkpoint.pt"]


def test_each_session_that_computed_an_epoch_is_recorded(tmp_path, monkeypatch):
    folder, original = tmp_path / "run", runs_module.settle

    def killed_after(epochs):
        def settle(state, *rest):
            original(state, *rest)
            if state.epoch == epochs:
                raise Dead

        monkeypatch.setattr(runs_module, "settle", settle)
        return pytest.raises(Dead)

    with killed_after(0):
        go_on(folder, recorded(precision="bf16"))  # begun elsewhere, and no epoch came of it
    with killed_after(1):
        go_on(folder, recorded())
    with killed_after(3):
        go_on(folder, recorded(precision="bf16"))
    monkeypatch.setattr(runs_module, "settle", original)
    go_on(folder, recorded())
    go_on(folder, recorded(precision="bf16"))  # has nothing to do
    record = json.loads((folder / "config.json").read_text())
    told = [(s["first_epoch"], s["last_epoch"], s["precision"]) for s in run_sessions(record)]
    assert told == [(1, 1, "fp32"), (2, 3, "bf16"), (4, 4, "fp32")]
    assert record["resolved"]["precision"] == "fp32"


def test_a_finished_run_needs_its_checkpoint_no_more_and_a_begun_one_does(tmp_path):
    folder = go_on(tmp_path / "run", recorded())
    shutil.rmtree(folder / "last")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert go_on(folder, recorded()) == folder
    rows = (folder / "history.csv").read_text().splitlines(keepends=True)
    (folder / "history.csv").write_text("".join(rows[:3]))
    with pytest.raises(FileExistsError, match=r"no last/checkpoint\.pt to go on from"):
        go_on(folder, recorded())
    (folder / "history.csv").write_text("".join(rows))
    assert before == {p: p.read_bytes() for p in before}


@pytest.mark.parametrize("value", ["false", "True", 0, None])
def test_text_is_no_answer_to_whether_a_run_goes(tmp_path, value):
    config = RunConfig("absent.csv", runs=str(tmp_path))
    with pytest.raises(ValueError, match="overwrite is .*, expected True or False"):
        train(config, overwrite=value)
    with pytest.raises(ValueError, match="overwrite is .*, expected True or False"):
        predict(None, None, tmp_path, overwrite=value)


@pytest.mark.parametrize("name", ["..", ".", " ", "a/b", "/a", "a\\b", "NUL", ".git", "\u200b"])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    for config in (RunConfig, MentorConfig):
        with pytest.raises(SettingsError, match=r"name is .*; expected a plain folder name"):
            config("m.csv", name=name)


def test_a_run_is_not_named_as_a_folder_beside_the_runs():
    with pytest.raises(SettingsError, match="a folder beside the runs, of the autoencoders"):
        RunConfig("m.csv", name="Autoencoders")


# --- damaged files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A small run of one epoch, tested, and its settings."
    data, rows = tmp_path_factory.mktemp("data"), []
    rng = np.random.default_rng(0)
    for k in range(20):
        pixels = (rng.random((32, 32, 3)) * 255).astype("uint8")
        Image.fromarray(pixels).save(data / f"{k}.png")
        split = "train" if k < 8 else "val" if k < 12 else "test"
        rows.append([f"{k}.png", ("authentic", "synthetic")[k % 2], "ab"[k % 2], split, "", ""])
    columns = ["image", "label", "source", "split", "map", "subject"]
    pd.DataFrame(rows, columns=columns).to_csv(data / "manifest.csv", index=False)
    own = {"arch": "test_resnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 4}
    own |= {"alpha": 1.0, "device": "cpu", "precision": "fp32", "name": "run"}
    config = RunConfig(str(data / "manifest.csv"), root=str(data), runs=str(data / "runs"), **own)
    folder = train(config)
    test = read_manifest(config.manifest, data).split("test")
    predict(load_run(folder).network, test, folder)
    return folder, config


READERS = {
    "train": lambda folder, config: train(config),
    "load_run": lambda folder, config: load_run(folder),
    "read_history": lambda folder, config: read_history(folder),
    "measured": lambda folder, config: measured(folder),
    "read_predictions": lambda folder, config: read_predictions(folder),
    "read_maps": lambda folder, config: read_maps(folder),
    "read_mean_maps": lambda folder, config: read_mean_maps(folder),
    "predict": lambda folder, config: predict(
        load_run(folder).network, read_manifest(config.manifest, config.root).split("test"), folder
    ),
}
READ = {
    "config.json": ("train", "load_run", "measured"),
    "last/checkpoint.pt": ("train",),
    "model.safetensors": ("train", "load_run"),
    "history.csv": ("read_history", "load_run"),
    "predictions.parquet": ("read_predictions", "measured", "read_maps", "predict"),
    "mean_maps.npz": ("read_mean_maps",),
    "saliency.npy": ("read_maps",),
}
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) * 2 // 3],
    "one byte short": lambda content: content[:-2],
    "zeros": lambda content: bytes(len(content)),
    "another kind": lambda content: b"\x89PNG\r\n\x1a\n" + content[:50],
}


@pytest.mark.parametrize("name", READ)
def test_each_reader_of_a_damaged_file_names_it_and_changes_nothing(trained, tmp_path, name):
    folder, config = trained
    runs = shutil.copytree(folder.parent, tmp_path / "runs")
    config = dataclasses.replace(config, runs=str(runs))
    path, content = runs / "run" / name, (folder / name).read_bytes()
    for kind, damage in DAMAGES.items():
        path.write_bytes(damage(content))
        before = {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}
        for reader in READ[name]:
            with pytest.raises((DamagedError, PredictionsError)) as error:
                READERS[reader](runs / "run", config)
            told = str(error.value)
            assert str(path) in told, (kind, reader, told)
            assert "overwrite=True" in told or "put a copy back" in told or "anew" in told
        assert before == {p: p.read_bytes() for p in runs.rglob("*") if p.is_file()}, kind


def test_a_flipped_bit_in_a_checkpoint_is_seen(trained, tmp_path):
    folder, config = trained
    runs = shutil.copytree(folder.parent, tmp_path / "runs")
    path = runs / "run" / "last" / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"checkpoint\.pt is damaged"):
        train(dataclasses.replace(config, runs=str(runs)))


def test_a_checkpoint_that_would_run_code_is_not_opened(trained, tmp_path):
    folder, config = trained
    runs = shutil.copytree(folder.parent, tmp_path / "runs")
    torch.save({"network": Path("x")}, runs / "run" / "last" / "checkpoint.pt")
    with pytest.raises(DamagedError, match=r"checkpoint\.pt.*could run code") as error:
        train(dataclasses.replace(config, runs=str(runs)))
    assert "weights_only" not in str(error.value)


def test_settings_and_weights_that_do_not_belong_together_are_told(trained, tmp_path):
    folder, _ = trained
    run = shutil.copytree(folder, tmp_path / "run")
    record = json.loads((run / "config.json").read_text())
    record["settings"]["arch"] = "resnet18"
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(DamagedError, match=r"model\.safetensors does not fit"):
        load_run(run)
    record["settings"]["archh"] = "resnet18"
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(SettingsError, match=r"config\.json: there is no setting 'archh'"):
        load_run(run)
    del record["provenance"]["classes"]
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(DamagedError, match=r"config\.json says nothing of classes"):
        load_run(run)
