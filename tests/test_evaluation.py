"""Predictions under bad input, kills and every batch size; AUC against counting pairs."""

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from oracles import error_rates
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from cyborg import evaluation
from cyborg import predictions as predictions_module
from cyborg.cache import ImageError, decode_image
from cyborg.evaluation import Scored, predict, prediction_rows
from cyborg.files import ManifestError
from cyborg.findings import audit
from cyborg.forward import evaluation_mode
from cyborg.grids import TRAINING_MAPS
from cyborg.manifest import COLUMNS, METRICS, SUMMARIES, Manifest
from cyborg.measure.auc import agreement_table, auc_table, class_table, compared
from cyborg.models import Output, make_network
from cyborg.predictions import (
    FILES,
    PARTS,
    PredictionsError,
    mean_agreement,
    read_mean_maps,
    read_predictions,
    weights_digest,
)
from cyborg.saliency import RunningMean, agreement, read_map, resize_map, write_map

SIZE = 32


class Tiny(nn.Module):
    "The least that is a network to `predict`: one convolution, mean pooling, a linear layer."

    size, map_size = SIZE, (4, 4)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.5, 0.5)

    def __init__(self, n_classes=2, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.norm = nn.Conv2d(3, 6, 8, stride=8), nn.BatchNorm2d(6)
            self.head = nn.Linear(6, n_classes)
        self.calls = 0

    @property
    def head_weight(self):
        return self.head.weight

    def forward(self, images):
        self.calls += 1
        features = self.norm(self.conv(images)).relu()
        return Output(self.head(features.mean((-2, -1))), features)


SOURCES = ("ffhq", "celeba", "progan", "stylegan")


def make_manifest(root: Path, n: int = 41, maps: bool = True) -> Manifest:
    "n images of noise of four sources, two thirds of them with a map of noise"
    rng, rows = np.random.default_rng(1), []
    for i in range(n):
        source = SOURCES[i % 4]
        row = {"image": f"{i}.png", "source": source, "split": "test", "subject": "", "map": ""}
        row["label"] = "authentic" if i % 4 < 2 else "synthetic"
        row["counterpart"] = {"progan": "celeba", "stylegan": "ffhq"}.get(source, "")
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / row["image"])
        if maps and i % 3:
            row["map"] = f"map_{i}.png"
            write_map(root / row["map"], rng.random((SIZE, SIZE), dtype=np.float32))
        rows.append(row)
    return Manifest(pd.DataFrame(rows), root)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    root = tmp_path / "images"
    root.mkdir()
    return make_manifest(root)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# --- predictions ------------------------------------------------------------------------------


def test_against_a_literal_loop(manifest, tmp_path):
    "Logits, score, class, agreement and both means of one image after the other."
    network = Tiny().train()
    predictions = read_predictions(predict(network, manifest, tmp_path / "run", batch_size=7))
    network.eval()
    assert predictions["image"].tolist() == manifest.table["image"].tolist()
    model_maps, human_maps = {}, {}
    mean, std = (np.array(values, np.float32) for values in (network.mean, network.std))
    for row, said in zip(manifest.table.itertuples(), predictions.to_dict("records"), strict=True):
        pixels = (decode_image(manifest.root / row.image, SIZE) / np.float32(255) - mean) / std
        with torch.no_grad():
            output = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        logits = output.logits[0].double().numpy()
        assert np.allclose([said["logit_0"], said["logit_1"]], logits, atol=1e-5)
        assert said["score"] == pytest.approx(1 / (1 + np.exp(logits[0] - logits[1])), abs=1e-5)
        winner = int(logits[1] > logits[0])
        assert said["predicted"] == ("authentic", "synthetic")[winner]
        cam = (output.features[0] * network.head.weight[winner][:, None, None]).sum(0)
        cam = cam.detach().numpy()
        cam = (cam - cam.min()) / (cam.max() - cam.min())
        model_maps.setdefault(f"{row.source}|{row.label}", []).append(cam)
        if not row.map:
            assert all(np.isnan(said[metric]) for metric in METRICS)
            continue
        human = resize_map(read_map(manifest.root / row.map), (4, 4))
        human_maps.setdefault(f"human|{row.source}|{row.label}", []).append(human)
        expected = agreement(cam[None], human[None])
        assert [said[m] for m in METRICS] == pytest.approx([expected[m][0] for m in METRICS], 1e-3)
    means = RunningMean.load(tmp_path / "run/mean_maps.npz")
    assert set(means.keys) == {*model_maps, *human_maps}
    for key, maps in {**model_maps, **human_maps}.items():
        assert means.count(key) == len(maps)
        assert np.allclose(means.mean(key), np.mean(maps, axis=0), atol=1e-4)


@pytest.mark.parametrize(
    "how", [{"batch_size": 1}, {"batch_size": 20}, {"workers": 3, "batch_size": 2}]
)
def test_batch_size_and_workers_do_not_matter(manifest, tmp_path, how):
    network = make_network("resnet18", weights="none", size=64).train()
    manifest = Manifest(manifest.table[:13], manifest.root)
    one = read_predictions(predict(network, manifest, tmp_path / "one", batch_size=5))
    two = read_predictions(predict(network, manifest, tmp_path / "two", shard_size=8, **how))
    assert one["image"].tolist() == two["image"].tolist() == manifest.table["image"].tolist()
    assert one["score"].std() > 0
    numbers = ["logit_0", "logit_1", "score", "cc", "sim", "kl"]
    assert np.allclose(one[numbers], two[numbers], atol=1e-4, equal_nan=True)


def test_one_forward_a_batch_and_nothing_left_behind(manifest, tmp_path):
    network = Tiny().train()
    network.norm.eval()  # frozen, as in fine-tuning
    weight = network.conv.weight
    before = weights_digest(network), weight.data_ptr(), weight.stride(), torch.get_rng_state()
    predict(network, manifest, tmp_path / "run", batch_size=8, workers=2)
    assert network.calls == 6  # 41 images
    assert (network.training, network.conv.training, network.norm.training) == (True, True, False)
    after = weights_digest(network), weight.data_ptr(), weight.stride(), torch.get_rng_state()
    assert before[:3] == after[:3] and torch.equal(before[3], after[3])
    assert weight is network.conv.weight and not weight.is_inference()
    network(torch.zeros(2, 3, SIZE, SIZE)).logits.sum().backward()  # still trainable
    assert contents(tmp_path / "run").keys() == set(FILES)


def test_mode_is_restored_after_an_error():
    network = Tiny().train()
    with pytest.raises(KeyboardInterrupt), evaluation_mode(network):
        assert not network.norm.training
        raise KeyboardInterrupt
    assert network.norm.training


def test_bf16_is_near_fp32_and_labels_matter_for_true(manifest, tmp_path):
    network = Tiny()
    single = read_predictions(predict(network, manifest, tmp_path / "a"))
    half = read_predictions(predict(network, manifest, tmp_path / "b", precision="bf16"))
    assert not np.array_equal(single["score"], half["score"])
    assert np.allclose(single["score"], half["score"], atol=0.02)
    true = read_predictions(predict(network, manifest, tmp_path / "c", which="true"))
    right = single["predicted"] == single["label"]
    kept = single["map"] != ""
    assert np.allclose(single["cc"][right & kept], true["cc"][right & kept], atol=1e-5)
    assert not np.allclose(single["cc"][~right & kept], true["cc"][~right & kept], atol=1e-2)


def test_extra_columns_and_strange_names_survive(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    manifest = make_manifest(root, 8)
    table = manifest.table.assign(camera=list("abcdefgh"), source='a "b", ü', subject="s1")
    manifest = Manifest(table, root)
    predictions = read_predictions(predict(Tiny(), manifest, tmp_path / "run"))
    assert list(predictions.columns)[: table.shape[1]] == list(manifest.table.columns)
    assert predictions[manifest.table.columns].equals(manifest.table)
    means = RunningMean.load(tmp_path / "run/mean_maps.npz")
    assert means.count('a "b", ü|authentic') == 4


@pytest.mark.parametrize("cache", [False, "folder"])
def test_cache_is_where_it_was_asked_for(manifest, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "data"))
    folder = tmp_path / "kept" if cache else False
    predict(Tiny(), manifest, tmp_path / "run", cache=folder, shard_size=10, workers=1)
    assert not (tmp_path / "data").exists()
    assert sorted(contents(tmp_path / "run")) == sorted(FILES)
    assert (tmp_path / "kept").exists() == bool(cache)


def test_mean_maps_of_the_whole_set(manifest, tmp_path):
    "Each image counts once, also where a source is called human."
    table = manifest.table.assign(source=manifest.table["source"].replace("ffhq", "human"))
    folder = predict(Tiny(), Manifest(table, manifest.root), tmp_path / "run").parent
    overall = read_mean_maps(folder)
    assert (overall.n_model, overall.n_human) == (41, (table["map"] != "").sum())
    maps = [resize_map(read_map(manifest.root / name), (4, 4)) for name in table["map"] if name]
    assert np.allclose(overall.human, np.mean(maps, axis=0), atol=1e-5)
    bare = Manifest(table.assign(map=""), manifest.root)
    overall = read_mean_maps(predict(Tiny(), bare, tmp_path / "bare").parent)
    assert overall.human is None and overall.n_human == 0


def planted(folder: Path, n: int = 3) -> RunningMean:
    "Training maps of n authentic images, all at the left, and of one synthetic image at the right."
    left, right = np.zeros((2, 4, 4))
    left[:, 0], right[:, 3] = 1, 1
    means, keys = RunningMean(), ["phone|authentic"] * n + ["old gan|synthetic"]
    means.update(np.stack([left] * n + [right]), keys)
    means.save(folder / TRAINING_MAPS)
    return means


def test_without_maps_of_test_images_those_of_training_are_the_reference(manifest, tmp_path):
    bare = Manifest(manifest.table.assign(map=""), manifest.root)
    folder = predict(Tiny(), bare, tmp_path / "bare").parent
    assert read_mean_maps(folder).reference.map is None
    assert "before the mean training map was kept" in read_mean_maps(folder).reference.words
    planted(folder)
    whole = read_mean_maps(folder).reference
    assert whole.words == "mean human map of 4 training images"
    assert whole.map[0].tolist() == [0.75, 0, 0, 0.25]  # each image counts once
    gan = read_mean_maps(folder, source="progan").reference  # which no training source is called
    assert gan.words == "mean human map of 1 training images" and gan.map[0].tolist() == [
        0,
        0,
        0,
        1,
    ]
    with_maps = predict(Tiny(), manifest, tmp_path / "run").parent
    planted(with_maps)
    found = read_mean_maps(with_maps)
    assert found.reference.words == f"mean human map of {found.n_human} test images"
    assert found.n_training == 4  # both are there


def test_mean_maps_agree_with_those_of_training_by_class_and_source(tmp_path):
    means, maps = RunningMean(), np.zeros((2, 4, 4))
    maps[0, :, 0], maps[1, :, 3] = 1, 1
    means.update(maps[[0, 1, 0]], ["cam|authentic", "a|synthetic", "b|synthetic"])
    means.update(maps[:1], ["human|cam|authentic"])  # of a test image: no class of its own
    means.save(tmp_path / "mean_maps.npz")
    table = mean_agreement(tmp_path, planted(tmp_path)).set_index(["source", "label"])
    assert [*table.index] == [
        *(("", ""), ("", "authentic"), ("", "synthetic")),
        *(("a", ""), ("b", ""), ("cam", "")),
    ]
    assert table["cc"]["cam", ""] == pytest.approx(1)
    assert table["cc"]["a", ""] == pytest.approx(1)
    assert table["cc"]["b", ""] == pytest.approx(-1 / 3)
    assert table["cc"]["", "synthetic"] == pytest.approx(3**-0.5)
    assert table["n_training"].tolist() == [4, 3, 1, 1, 1, 3]
    assert table["n_images"].tolist() == [3, 1, 2, 1, 1, 1]
    assert table["reason"].eq("").all()


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, "trained before"),
        ([], "no training image has a human map"),
        (["cam|authentic"], "no training image of synthetic has a human map"),
        (["gan|synthetic"], "same everywhere"),
    ],
)
def test_where_there_is_no_agreement_of_means_there_is_a_reason(kept, words, tmp_path):
    means, training = RunningMean(), RunningMean()
    means.update(np.full((1, 2, 2), 0.5), ["a|synthetic"])
    means.save(tmp_path / "mean_maps.npz")
    if kept is not None:
        training.update(np.eye(2)[None].repeat(len(kept), 0), kept)
        training.save(tmp_path / TRAINING_MAPS)
    table = mean_agreement(tmp_path)
    assert table["cc"].isna().all() and table["reason"].str.contains(words).all()


# --- memory -----------------------------------------------------------------------------------


def test_memory_is_that_of_a_shard(tmp_path, monkeypatch):
    "Never more than a shard of rows, in scoring or merging, however long the manifest is."
    root = tmp_path / "images"
    root.mkdir()
    table = pd.concat([make_manifest(root, 8).table] * 30)
    opened, alive = [], []

    class Counted(evaluation.ImageDataset):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(len(self))

    def read_table(path):
        alive.append(pq.ParquetFile(path).metadata.num_rows)
        return pq.ParquetFile(path).read()

    monkeypatch.setattr(evaluation, "ImageDataset", Counted)
    monkeypatch.setattr(predictions_module.pq, "read_table", read_table)
    path = predict(Tiny(), Manifest(table, root), tmp_path / "run", batch_size=4, shard_size=32)
    assert opened == alive == [32] * 7 + [16]
    file = pq.ParquetFile(path).metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == opened


# --- images that cannot be read ---------------------------------------------------------------


def test_unreadable_images_are_counted_and_listed(manifest, tmp_path, capsys):
    "0 bytes, cut short, missing, and a whole shard in the middle; a bad map costs only its map."
    root = manifest.root
    (root / "3.png").write_bytes(b"")
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:900])
    (root / "9.png").unlink()
    for i in range(20, 25):
        (root / f"{i}.png").write_bytes(b"no image")
    (root / "map_1.png").write_bytes(b"no map")
    with pytest.warns(UserWarning, match=r"8 of 41 images could not be read.*stylegan\|synth"):
        path = predict(Tiny(), manifest, tmp_path / "run", batch_size=2, shard_size=5)
    assert "41/41" in capsys.readouterr().err  # the bar arrives
    lost = [3, 7, 9, *range(20, 25)]
    predictions = read_predictions(path)
    assert predictions["image"].tolist() == [f"{i}.png" for i in range(41) if i not in lost]
    assert np.isnan(predictions["cc"][1]) and not np.isnan(predictions["cc"][2])
    excluded = pd.read_csv(tmp_path / "run/excluded.csv")
    images = excluded[excluded["kind"] == "image"]
    assert images["path"].tolist() == [f"{i}.png" for i in lost]
    assert images["source"].tolist() == [SOURCES[i % 4] for i in lost]
    assert "0 bytes" in images["reason"].iloc[0]
    assert excluded.loc[excluded["kind"] == "map", "path"].tolist() == ["map_1.png"]
    assert sum(predictions.attrs["excluded"].values()) == 8
    assert predictions.attrs["rows"] == 41


def test_wrong_root_is_refused_at_once(manifest, tmp_path):
    wrong = Manifest(manifest.table, tmp_path / "nowhere")
    network = Tiny()
    with pytest.raises(ImageError, match="nowhere"):
        predict(network, wrong, tmp_path / "run", shard_size=10)
    assert network.calls == 0


def test_unread_source_has_a_row(manifest, tmp_path):
    for i in range(2, 41, 4):
        (manifest.root / f"{i}.png").unlink()
    with pytest.warns(UserWarning, match=r"10 of progan\|synthetic"):
        path = predict(Tiny(), manifest, tmp_path / "run")
    table = auc_table(read_predictions(path)).set_index("source")
    assert np.isnan(table.loc["progan", "auc"]) and not np.isnan(table.loc["stylegan", "auc"])
    assert table.loc["progan", "reason"] == "no synthetic images"
    assert table.loc["macro", "reason"] == "mean of 1 of 2 sources"
    assert table.loc["macro", "auc"] == table.loc["stylegan", "auc"]


# --- kill and resume --------------------------------------------------------------------------

CHILD = """
    import os, signal, sys, warnings
    from pathlib import Path
    sys.path[:0] = [{tests!r}]
    import torch
    torch.set_num_threads(1)
    import test_evaluation as t
    from cyborg import evaluation
    warnings.simplefilter("ignore")
    events = 0

    def counted(function):
        "function with an event before and an event after it; the moment-th event kills"
        def event(*args, **kwargs):
            tick()
            result = function(*args, **kwargs)
            tick()
            return result
        return event

    def tick():
        global events
        events += 1
        if events == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def predicted(folder, at):
        "number of events of a whole run; -SIGKILL where it was killed"
        global moment
        pid, moment = os.fork(), at
        if pid:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.replace, os.fsync = counted(os.replace), counted(os.fsync)
        evaluation.score_batch = counted(evaluation.score_batch)
        manifest = t.Manifest(t.pd.read_parquet({table!r}), {root!r})
        t.predict(t.Tiny(), manifest, folder, batch_size=4, shard_size=8, cache={cache!r})
        os._exit(events)

    base = Path({base!r})
    total = predicted(base / "whole", 0)
    folders = [base / f"killed-{{back}}" for back in (1, 3, 5)]
    for folder, back in zip(folders, (1, 3, 5)):  # while the three files are put in place
        assert predicted(folder, total - back) == -signal.SIGKILL
        assert predicted(folder, 0) > 0
    often, killed = base / "often", 0
    while predicted(often, 2 + 9 * killed) < 0:  # each run goes on with what the last one left
        killed += 1
    for folder in [*folders, often]:
        print(folder.name, t.contents(folder) == t.contents(base / "whole"))
    print("kills", killed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_killed_at_any_moment_and_resumed_equals_undisturbed(manifest, tmp_path):
    (manifest.root / "11.png").write_bytes(b"no image")
    manifest = Manifest(manifest.table[:20], manifest.root)
    manifest.table.to_parquet(tmp_path / "table.parquet")
    cache = str(tmp_path / "cache")
    evaluation.open_cache(manifest, SIZE, cache)  # else its own writes would be most of the events
    base, tests = tmp_path / "runs", str(Path(__file__).parent)
    table, root = str(tmp_path / "table.parquet"), str(manifest.root)
    given = {"tests": tests, "table": table, "root": root, "cache": cache, "base": str(base)}
    script = textwrap.dedent(CHILD).format(**given)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = dict(line.split() for line in done.stdout.splitlines())
    assert int(lines.pop("kills")) >= 4
    assert list(lines.values()) == ["True"] * 4, done.stdout


def test_scored_shards_are_kept(manifest, tmp_path, monkeypatch):
    network = Tiny()
    whole = tmp_path / "whole"
    predict(network, manifest, whole, batch_size=5, shard_size=10)
    assert network.calls == 9

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    original, written = predictions_module.pq.write_table, []

    def fills_up(table, path):
        written.append(path)
        original(table, path) if len(written) < 3 else full()

    monkeypatch.setattr(predictions_module.pq, "write_table", fills_up)
    with pytest.raises(OSError, match="No space left"):
        predict(network, manifest, tmp_path / "run", batch_size=5, shard_size=10)
    parts = tmp_path / "run" / PARTS
    assert len(list(parts.glob("rows-*.parquet"))) == 2 and not list(parts.glob(".*"))
    monkeypatch.setattr(predictions_module.pq, "write_table", original)
    network.calls = 0
    predict(network, manifest, tmp_path / "run", batch_size=5, shard_size=10)
    assert network.calls == 5  # 21 images of 41 were left
    assert contents(tmp_path / "run") == contents(whole)
    network.calls = 0
    predict(network, manifest, tmp_path / "run", batch_size=9, shard_size=3)
    assert network.calls == 0


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused_by_name(manifest, tmp_path, finished, monkeypatch):
    folder = tmp_path / "run"
    if not finished:
        monkeypatch.setattr(evaluation, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(Tiny(), manifest, folder)
        monkeypatch.undo()
        with pytest.raises(FileNotFoundError, match="is not finished"):
            read_predictions(folder)
    else:
        predict(Tiny(), manifest, folder)
    before = contents(folder if finished else folder / PARTS)
    renamed = manifest.table.assign(source=manifest.table["source"].replace("progan", "ProGAN"))
    changed = {
        "weights is": (Tiny(seed=1), manifest, {}),
        "manifest is": (Tiny(), Manifest(renamed, manifest.root), {}),
        "which is 'difference' and was 'pred'": (Tiny(), manifest, {"which": "difference"}),
        "precision is 'bf16' and was 'fp32'": (Tiny(), manifest, {"precision": "bf16"}),
    }
    for text, (network, table, how) in changed.items():
        with pytest.raises(PredictionsError, match=text) as error:
            predict(network, table, folder, **how)
        assert str(error.value).count(" and was ") == 1  # nothing else differs
    assert before == contents(folder if finished else folder / PARTS)
    predict(Tiny(seed=1), manifest, folder, overwrite=True)
    fresh = predict(Tiny(seed=1), manifest, tmp_path / "fresh").parent
    assert contents(tmp_path / "run") == contents(fresh)


def test_missing_companion_is_made_again(manifest, tmp_path):
    folder = predict(Tiny(), manifest, tmp_path / "run").parent
    before = contents(folder)
    (folder / "mean_maps.npz").unlink()
    predict(Tiny(), manifest, folder)
    assert contents(folder) == before


def test_overwriting_killed_at_any_moment_takes_no_shards_of_others(
    manifest, tmp_path, monkeypatch
):
    "After each removal or renaming: the next start is refused, or comes to the same."
    fresh = contents(predict(Tiny(seed=1), manifest, tmp_path / "fresh").parent)
    old = predict(Tiny(), manifest, tmp_path / "old", shard_size=20).parent
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(Tiny(), manifest, tmp_path / "begun", shard_size=20)
    shutil.copytree(tmp_path / "begun" / PARTS, old / PARTS)  # finished, and shards of it
    outcomes = []
    for k in itertools.count():
        folder, left = shutil.copytree(old, tmp_path / str(k)), [k]

        def dying(original, left=left):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patched:
            for name in ("unlink", "replace", "rmdir"):
                patched.setattr(os, name, dying(getattr(os, name)))
            try:
                predict(Tiny(seed=1), manifest, folder, overwrite=True)
            except KeyboardInterrupt:
                pass
            else:
                break
        for path in folder.rglob(".*.part*"):  # of this process, which lives
            path.unlink()
        try:
            predict(Tiny(seed=1), manifest, folder)
        except PredictionsError as error:
            assert "belongs to another evaluation" in str(error)
            predict(Tiny(seed=1), manifest, folder, overwrite=True)
            outcomes.append("refused")
        else:
            outcomes.append("right")
        assert contents(folder) == fresh, k
    assert {"refused", "right"} == set(outcomes)


def test_shards_of_which_nothing_says_whose_they_are_are_not_taken(manifest, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(Tiny(), manifest, tmp_path / "run")
    (tmp_path / "run" / PARTS / "settings.json").unlink()
    predict(Tiny(seed=1), manifest, tmp_path / "run")
    assert contents(tmp_path / "run") == contents(
        predict(Tiny(seed=1), manifest, tmp_path / "fresh").parent
    )


@pytest.mark.parametrize("suffix", ["parquet", "npy", "npz"])
def test_a_damaged_shard_is_scored_again(manifest, tmp_path, monkeypatch, suffix):
    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict(Tiny(), manifest, tmp_path / "run", shard_size=20)
    path = sorted((tmp_path / "run" / PARTS).glob(f"rows-*.{suffix}"))[1]
    path.write_bytes(path.read_bytes()[:30])
    network = Tiny()
    predict(network, manifest, tmp_path / "run", batch_size=20, shard_size=20)
    assert network.calls == 2  # 21 images of 41
    whole = predict(Tiny(), manifest, tmp_path / "whole", batch_size=20, shard_size=20).parent
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_strangers_file_of_our_name_is_kept(manifest, tmp_path, overwrite):
    (own := tmp_path / "own").mkdir()
    (own / "excluded.csv").write_text("subject,reason\nann,ill\n")
    with pytest.raises(PredictionsError, match="holds excluded.csv, and no predictions.parquet"):
        predict(Tiny(), manifest, own, overwrite=overwrite)
    pd.DataFrame({"score": [0.5]}).to_parquet(own / "predictions.parquet")
    with pytest.raises(PredictionsError, match="was not written by predict"):
        predict(Tiny(), manifest, own, overwrite=overwrite)
    assert (own / "excluded.csv").read_text() == "subject,reason\nann,ill\n"
    assert sorted(p.name for p in own.iterdir()) == ["excluded.csv", "predictions.parquet"]


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected a whole number of at least 1"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"batch_size": True}, "batch_size is True"),
        ({"shard_size": 0}, "shard_size is 0"),
        ({"workers": -1}, "workers is -1, expected a whole number of at least 0"),
        ({"which": "predicted"}, "which is 'predicted', expected one of pred, true, difference"),
        ({"precision": "fp16"}, "precision is 'fp16', expected one of auto, fp32, bf16, compiled"),
    ],
)
def test_bad_arguments(manifest, tmp_path, how, text):
    with pytest.raises(ValueError, match=text):
        predict(Tiny(), manifest, tmp_path / "run", **how)
    assert not (tmp_path / "run").exists()


def test_manifests_that_do_not_fit(manifest, tmp_path):
    table, root = manifest.table, manifest.root
    with pytest.raises(ValueError, match="2 classes .*, network has 3"):
        predict(Tiny(n_classes=3), manifest, tmp_path / "run")
    with pytest.raises(ValueError, match="no rows"):
        predict(Tiny(), Manifest(table[:0], root), tmp_path / "run")
    with pytest.raises(ValueError, match="'macro_seen' is the name of a row"):
        predict(Tiny(), Manifest(table.assign(source="macro_seen"), root), tmp_path / "run")
    with pytest.raises(PredictionsError, match=r"columns \['cc', 'score'\]"):
        predict(Tiny(), Manifest(table.assign(cc="", score="1"), root), tmp_path / "run")
    with pytest.raises(ManifestError, match="sythetic"):
        typo = table.assign(label=table["label"].replace("synthetic", "sythetic"))
        predict(Tiny(), Manifest(typo, root), tmp_path / "run")
    with pytest.raises(ManifestError, match=r"\.\."):
        outside = table.assign(image="../" + table["image"])
        predict(Tiny(), Manifest(outside, root), tmp_path / "run")


def test_network_that_gives_nan_is_named_with_its_image(manifest, tmp_path):
    network = Tiny()
    with torch.no_grad():
        network.head.bias[0] = torch.nan
    with pytest.raises(PredictionsError, match="not finite for 41 of 41 images, first '0.png'"):
        predict(network, manifest, tmp_path / "run")


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -9])
def test_file_cut_short(manifest, tmp_path, kept):
    path = predict(Tiny(), manifest, tmp_path / "run")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(PredictionsError, match="cut short.*overwrite=True"):
        read_predictions(tmp_path / "run")
    with pytest.raises(PredictionsError, match="cut short"):
        predict(Tiny(), manifest, tmp_path / "run")
    predict(Tiny(), manifest, tmp_path / "run", overwrite=True)
    assert len(read_predictions(path)) == 41


def test_damage_inside_and_files_of_others(manifest, tmp_path):
    path = predict(Tiny(), manifest, tmp_path / "run")
    with pytest.raises(PredictionsError, match=r"columns \['scores'\]"):
        read_predictions(path, ["image", "scores"])
    assert list(read_predictions(path, ["score", "image"])) == ["score", "image"]
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(data)
    with pytest.raises(PredictionsError, match="damaged"):
        read_predictions(path)
    pd.DataFrame({"score": [0.5]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(PredictionsError, match="was not written by predict"):
        read_predictions(tmp_path / "other.parquet")
    with pytest.raises(FileNotFoundError, match="predictions.parquet does not exist$"):
        read_predictions(tmp_path)


# --- tables -----------------------------------------------------------------------------------


def pairwise_auc(synthetic, authentic) -> float:
    "Share of pairs in the right order, ties counting half; O(n^2), by the definition"
    wins = sum((s > a) + (s == a) / 2 for s, a in product(synthetic, authentic))
    return wins / (len(synthetic) * len(authentic))


def random_predictions(seed: int, levels: int) -> pd.DataFrame:
    "Scores on few levels, so that there are ties; sources of unlike size"
    rng = np.random.default_rng(seed)
    source = rng.choice(["ffhq", "celeba", "progan", "stargan", "sg3"], 120)
    score = rng.integers(0, levels, 120) / levels
    own = {"progan": "celeba", "stargan": "celeba|ffhq", "sg3": ""}
    return pd.DataFrame(
        {
            "source": source,
            "label": np.where(np.isin(source, ["ffhq", "celeba"]), "authentic", "synthetic"),
            "split": "test",
            "counterpart": [own.get(name, "") for name in source],
            "score": score,
        }
    )


@pytest.mark.parametrize(("seed", "levels"), [(0, 3), (1, 10), (2, 1000), (3, 1)])
def test_auc_equals_counting_pairs(seed, levels):
    predictions = random_predictions(seed, levels)
    scores = {name: rows["score"].tolist() for name, rows in predictions.groupby("source")}
    real = {"progan": ["celeba"], "stargan": ["celeba", "ffhq"], "sg3": ["celeba", "ffhq"]}
    expected = {
        name: pairwise_auc(scores[name], sum((scores[camera] for camera in cameras), []))
        for name, cameras in real.items()
    }
    table = auc_table(predictions, seen=["sg3"]).set_index("source")
    for name, auc in expected.items():
        assert table.loc[name, "auc"] == pytest.approx(auc, abs=1e-12)
        assert table.loc[name, "counterpart"] == "|".join(real[name])
        assert table.loc[name, "n_synthetic"] == len(scores[name])
        assert table.loc[name, "n_authentic"] == sum(len(scores[camera]) for camera in real[name])
    fake, true = (sum((scores[n] for n in names), []) for names in (real, ("ffhq", "celeba")))
    assert table.loc["pooled", "auc"] == pytest.approx(pairwise_auc(fake, true), abs=1e-12)
    assert table.loc["macro", "auc"] == pytest.approx(np.mean(list(expected.values())))
    assert table.loc["macro_seen", "auc"] == pytest.approx(expected["sg3"])
    unseen = (expected["progan"] + expected["stargan"]) / 2
    assert table.loc["macro_unseen", "auc"] == pytest.approx(unseen)
    assert table["seen"].tolist()[:3] == [False, True, False]
    assert (table["reason"] == "").all() and table["seen"].isna().sum() == 4
    for side in compared(predictions, seen=["sg3"]):
        fpr, tpr = side.corners.fpr, side.corners.tpr
        area = np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2)
        assert area == pytest.approx(table.loc[side.source, "auc"])


def test_a_source_of_both_labels_is_split_by_label():
    "A data set that ships authentic and synthetic images under one name."
    predictions = pd.DataFrame(
        {
            "source": ["kit"] * 4 + ["other"],
            "label": ["authentic", "authentic", "synthetic", "synthetic", "authentic"],
            "score": [0.1, 0.6, 0.5, 0.9, 0.95],
        }
    )
    table = auc_table(predictions, counterparts={"kit": "kit"}).set_index("source")
    assert table.loc["kit", "auc"] == 0.75
    assert table.loc["kit", ["n_synthetic", "n_authentic"]].tolist() == [2, 2]
    assert table.loc["pooled", "auc"] == 0.5


def test_score_saturates_no_auc():
    "Logit differences of 20 and 30 are both 1.0 in single precision, and would tie."
    logits = np.float32([[0, 20], [0, 30]])
    low, high = evaluation.class_scores(logits)[:, 1]
    assert low < high
    assert np.float32(low) == np.float32(high)


def test_counterparts_that_do_not_exist():
    predictions = random_predictions(0, 10)
    column = predictions.replace({"counterpart": {"celeba": "celebA"}})
    with pytest.raises(ValueError, match=r"'celebA' of source 'progan'.*did you mean 'celeba'"):
        auc_table(column)
    with pytest.raises(ValueError, match="'progan' of source 'sg3' is no authentic source"):
        auc_table(predictions, counterparts={"sg3": ["progan"]})
    with pytest.raises(ValueError, match=r"names 'prgan', no synthetic source \(did you mean"):
        auc_table(predictions, counterparts={"prgan": "ffhq"})
    fixed = auc_table(column, counterparts={"progan": ["celeba"], "stargan": "celeba | ffhq"})
    assert fixed.equals(auc_table(predictions))


def test_nothing_to_compare_with():
    predictions = random_predictions(0, 10)
    fake = predictions[predictions["label"] == "synthetic"]
    table = auc_table(fake)
    assert table["auc"].isna().all() and len(table) == 7
    assert table["reason"].tolist() == (
        ["no authentic images"] * 4
        + ["mean of 0 of 3 sources", "no such source", "mean of 0 of 3 sources"]
    )
    table = auc_table(predictions[predictions["label"] == "authentic"])
    assert table["source"].tolist() == list(SUMMARIES)
    assert table["auc"].isna().all() and table["reason"][0] == "no synthetic images"
    assert [side.corners for side in compared(fake)] == [None] * 4


def test_predictions_that_cannot_be_tabled():
    predictions = random_predictions(0, 10)
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
        auc_table(predictions.assign(split=["train", "test"] * 60))
    with pytest.raises(ValueError, match="score is not finite in 120 of 120 rows"):
        auc_table(predictions.assign(score=np.nan))
    with pytest.raises(ValueError, match="score is 'logit_1', which is no column"):
        auc_table(predictions, score="logit_1")
    with pytest.raises(ValueError, match="seen is 'progan', expected a sequence"):
        auc_table(predictions, seen="progan")
    with pytest.raises(ValueError, match="label 'authentic' is none of the classes"):
        auc_table(predictions, classes=("live", "spoof"))
    with pytest.raises(ValueError, match="expected two; for more there is class_table"):
        auc_table(predictions, classes=("authentic", "spoof", "synthetic"))


def test_classes_of_other_names_follow_the_logits(manifest, tmp_path):
    "The positive class is the last of the manifest, not the last of the alphabet."
    table = manifest.table.replace({"label": {"authentic": "true", "synthetic": "fake"}})
    manifest = Manifest(table, manifest.root, ("true", "fake"))
    predictions = read_predictions(predict(Tiny(), manifest, tmp_path))
    own = predictions[predictions["source"].isin(["progan", "celeba"])]
    expected = roc_auc_score(own["label"] == "fake", own["logit_1"] - own["logit_0"])
    assert auc_table(predictions).set_index("source").loc["progan", "auc"] == expected


def test_agreement_by_source(manifest, tmp_path):
    predictions = read_predictions(predict(Tiny(), manifest, tmp_path))
    table = agreement_table(predictions).set_index("source")
    rows = predictions[(predictions["source"] == "ffhq") & (predictions["map"] != "")]
    assert table.loc["ffhq", "n"] == len(rows) < table.loc["ffhq", "n_images"]
    for metric in METRICS:
        assert table.loc["ffhq", metric] == pytest.approx(rows[metric].mean())
    table = agreement_table(predictions.assign(**dict.fromkeys(METRICS, np.nan)))
    assert table["reason"].eq("no image has a human map").all()


@pytest.mark.parametrize("words", [("nature", "ai"), ("genuine", "fake"), ("bona fide", "attack")])
def test_cameras_are_no_generators_whatever_the_alphabet_says(words):
    table = pd.DataFrame({"label": np.repeat(words, 4), "source": ["cam"] * 4 + ["gan"] * 4})
    table["score"] = np.linspace(0, 1, 8)
    found = auc_table(table).set_index("source")["auc"]
    assert found["gan"] == 1 and "cam" not in found
    rates = error_rates(table.assign(score=[0.9, 0, 0, 0, 1, 1, 1, 1]), 0.5).set_index("source")
    assert rates.loc["gan", ["apcer", "bpcer"]].tolist() == [0, 0.25]


def test_labels_that_say_nothing_are_asked_for_unless_the_file_notes_the_order():
    table = pd.DataFrame({"label": ["0", "1"] * 4, "source": ["cam", "gan"] * 4, "score": 0.5})
    with pytest.raises(ValueError, match="labels are '0' and '1'.* synthetic="):
        auc_table(table)
    assert auc_table(table, classes=("0", "1"))["source"][0] == "gan"
    table.attrs["classes"] = ["1", "0"]
    assert auc_table(table)["source"][0] == "cam"


def test_three_classes(manifest, tmp_path):
    names = ("live", "print", "mask")
    table = manifest.table.assign(label=[names[i % 3] for i in range(41)])
    manifest = Manifest(table, manifest.root, names)
    predictions = read_predictions(predict(Tiny(n_classes=3), manifest, tmp_path))
    table = class_table(predictions).set_index("class")
    logits = predictions[["logit_0", "logit_1", "logit_2"]].to_numpy(float)
    odds = np.exp(logits)
    share = odds / odds.sum(1, keepdims=True)
    assert np.allclose(predictions["score"], share[:, 2])
    truth = pd.Categorical(predictions["label"], names).codes
    expected = roc_auc_score(truth, share, multi_class="ovr", average=None)
    assert np.allclose(table["auc"], [*expected, np.mean(expected)])
    assert np.allclose(table["accuracy"]["macro"], (logits.argmax(1) == truth).mean())
    some = class_table(predictions[predictions["label"] != "mask"]).set_index("class")
    assert np.isnan(some.loc["mask", "auc"]) and some.loc["mask", "reason"]
    assert some.loc["macro", "reason"] == "mean of 2 of 3 classes"


def test_metadata_tells_what_was_evaluated(manifest, tmp_path):
    path = predict(Tiny(), manifest, tmp_path)
    note = json.loads(pq.read_schema(path).metadata[b"cyborg"])
    assert note["settings"]["manifest"] == manifest.digest
    assert note["settings"]["weights"] == weights_digest(Tiny())
    assert note["classes"] == ["authentic", "synthetic"] and note["rows"] == 41
    assert note["versions"]["torch"] == torch.__version__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pd.read_parquet(path)["image"].tolist() == manifest.table["image"].tolist()


# --- the released score -------------------------------------------------------------------------


def literal_released(row) -> float:
    return 1 / (1 + np.exp(-float(row.logit_1)))


def test_the_released_score_is_the_sigmoid_of_the_second_logit(manifest, tmp_path):
    plain = read_predictions(predict(Tiny(), manifest, tmp_path / "a"))
    released = read_predictions(predict(Tiny(), manifest, tmp_path / "b", score="released"))
    wanted = [literal_released(row) for row in plain.itertuples()]
    np.testing.assert_allclose(released["score"], wanted, rtol=1e-12)
    others = [name for name in plain if name != "score"]
    pd.testing.assert_frame_equal(plain[others], released[others])  # nothing else changes
    assert "score" not in plain.attrs["settings"] and released.attrs["settings"]["score"]
    with pytest.raises(PredictionsError, match="score is None and was 'released'"):
        predict(Tiny(), manifest, tmp_path / "b")
    with pytest.raises(ValueError, match="score is 'sigmoid', expected one of softmax, released"):
        predict(Tiny(), manifest, tmp_path / "c", score="sigmoid")


def test_a_runs_quirks_choose_the_score(manifest, tmp_path):
    for quirks, wanted in (("", None), ("hook", None), ("score", "released"), ("released",) * 2):
        run = tmp_path / f"run-{quirks}"
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"settings": {"quirks": quirks}}))
        for folder in (run, run / "validation", run / "robustness" / "none-0"):
            found = read_predictions(predict(Tiny(), manifest, folder))
            assert found.attrs["settings"].get("score") == wanted
    forced = predict(Tiny(), manifest, tmp_path / "run-score" / "x", score="softmax")
    assert "score" not in read_predictions(forced).attrs["settings"]


def test_what_the_score_does_equals_counting_pairs():
    rng = np.random.default_rng(3)
    sources, labels = ["a"] * 30 + ["g"] * 20, ["authentic"] * 30 + ["s"] * 20
    table = pd.DataFrame({"source": sources, "label": labels})
    z = np.round(rng.normal(size=(50, 2)) * 4) / 4  # exact in binary; ties, too
    table = table.assign(logit_0=z[:, 0], logit_1=z[:, 1])
    table.attrs["classes"] = ("authentic", "s")
    logits = z.astype(np.float32)
    for score, by in (("released", z[:, 1]), ("softmax", z[:, 1] - z[:, 0])):
        found = auc_table(table.assign(score=evaluation.image_scores(logits, score)))
        assert found["auc"][0] == pytest.approx(pairwise_auc(by[30:], by[:30]))


def test_every_column_and_row_that_is_added_is_refused_in_a_manifest():
    "Whatever predictions and tables add to what a manifest says."
    rest = ("test", "", "")
    table = pd.DataFrame(
        [
            ["a.png", "authentic", "cam", *rest],
            ["b.png", "synthetic", "gan", *rest],
        ],
        columns=COLUMNS,
    )
    maps = np.random.default_rng(0).random((2, 2, 2))
    scored = Scored(np.array([[1.0, 0], [0, 1]]), maps, maps, np.array([True, True]))
    rows = prediction_rows(table, scored, ("authentic", "synthetic"))
    added = [name for name in rows if name not in table]
    assert len(added) == 9
    sources = sorted(set(auc_table(rows)["source"]) - {"gan"})
    changes = [{name: "1"} for name in added] + [{"source": name} for name in sources]
    for change in changes:
        found = audit(Manifest(table.assign(**change), "."), hashes=False)
        (word,) = change.values() if "source" in change else change
        assert any(f.refuse and f.check.startswith("reserved") and word in f.text for f in found)
