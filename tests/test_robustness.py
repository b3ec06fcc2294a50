"""Degradations and predictions under them against literal ones; measures of saliency by hand."""

import io
from itertools import combinations
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from cyborg.evaluation import predict
from cyborg.manifest import Manifest
from cyborg.measure import robustness
from cyborg.measure.robustness import (
    DEGRADATIONS,
    TRANSFORMS,
    Degraded,
    degrade,
    geometric_stability,
    guided_degradation,
    map_entropy,
    predict_degraded,
    reaction,
    robustness_area,
    robustness_table,
    run_robustness,
    run_stability,
    runs_stability,
    salience_measures,
    salient_change,
    salient_region,
    sampled,
)
from cyborg.models import Output
from cyborg.predictions import PredictionsError, read_maps, read_predictions
from cyborg.saliency import cc, write_map
from cyborg.settings import run_config
from cyborg.training import train

SIZE = 32


class Tiny(nn.Module):
    "The least that is a network to `predict`: one convolution, mean pooling, a linear layer."

    size, map_size = SIZE, (4, 4)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv, self.head = nn.Conv2d(3, 6, 8, stride=8), nn.Linear(6, 2)

    @property
    def head_weight(self):
        return self.head.weight

    def forward(self, images):
        features = self.conv(images).relu()
        return Output(self.head(features.mean((-2, -1))), features)


def some_pixels(seed, n=1):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (n, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    return (coarse + rng.integers(0, 56, (n, SIZE, SIZE, 3))).astype(np.uint8)


def make_manifest(root, n=24, splits=("test",)) -> Manifest:
    "Pictures of two cameras and two generators, every second one with a map."
    rows, pixels = [], some_pixels(0, n)
    for i in range(n):
        Image.fromarray(pixels[i]).save(root / f"{i}.png")
        label, source = ("authentic", "synthetic")[i % 2], ("ab", "gh")[i % 2][i % 4 // 2]
        name = f"map{i}.png" if i % 3 else ""
        if name:
            write_map(root / name, pixels[i, :, :, 0] / np.float32(255))
        rows.append([f"{i}.png", label, source, splits[i // 2 % len(splits)], name, ""])
    columns = ["image", "label", "source", "split", "map", "subject"]
    return Manifest(pd.DataFrame(rows, columns=columns), root)


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    (tmp_path / "images").mkdir()
    return make_manifest(tmp_path / "images")


# --- degradations -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_every_degradation_keeps_the_contract(name):
    [pixels] = some_pixels(1)
    before = pixels.copy()
    results = [degrade(pixels, name, severity) for severity in range(6)]
    assert (results[0] == pixels).all() and results[0] is not pixels
    assert (pixels == before).all()
    for severity, result in enumerate(results):
        assert (result.dtype, result.shape) == (np.uint8, pixels.shape)
        assert (result == degrade(pixels, name, severity)).all()
    error = [np.abs(result.astype(int) - pixels).mean() for result in results]
    assert 0 == error[0] < error[5] and error[1] < error[5]


def test_codecs_are_the_libraries_own():
    [pixels] = some_pixels(2)
    for name, suffix in (("jpeg_pil", "JPEG"), ("webp", "WEBP")):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, suffix, quality=50)
        assert (degrade(pixels, name, 4) == np.asarray(Image.open(file))).all()
    blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, 30])[1]
    back = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert (degrade(pixels, "jpeg_cv2", 5) == back).all()


def test_blur_stays_within_a_channel():
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[16, 16, 1] = 255
    soft = degrade(pixels, "blur", 2).astype(float)
    at = np.arange(-8, 9)
    bell = np.exp(-(at**2) / 2) / np.exp(-(at**2) / 2).sum()
    assert not soft[..., [0, 2]].any()
    np.testing.assert_allclose(soft[8:25, 8:25, 1], 255 * np.outer(bell, bell), atol=0.6)


def test_resize_uses_the_kernel_of_its_name():
    [pixels] = some_pixels(3)
    for kernel in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
        image, how = Image.fromarray(pixels), Image.Resampling[kernel]
        back = np.asarray(image.resize((16, 16), how).resize((SIZE, SIZE), how))
        assert (degrade(pixels, f"resize_{kernel.lower()}", 3) == back).all()


def test_noise_grows_in_place_and_crops_are_squares_of_the_image():
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    weak, strong = (degrade(grey, "noise", k).astype(float) - 128 for k in (2, 3))
    assert np.abs(strong - 2 * weak).max() <= 1.5  # one draw at 5 and 10 grey levels, rounded
    other = degrade(grey + np.uint8(1), "noise", 2).astype(float) - 129
    assert np.abs(other - weak).max() > 5  # another image, other noise
    places = np.zeros((SIZE, SIZE, 3), np.uint8)
    places[..., 0], places[..., 1] = np.mgrid[:SIZE, :SIZE] * 7
    corners = {tuple(degrade(places, "crop", 5, seed)[0, 0, :2] // 7) for seed in range(30)}
    assert len(corners) > 10  # drawn anew
    for top, left in corners:
        assert 0 <= top <= SIZE - 19 and 0 <= left <= SIZE - 19  # 0.6 of 32 is 19


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "jpg"}, "degradation is 'jpg'"),
        ({"severity": 6}, "severity is 6, expected 0 to 5"),
        ({"severity": -1}, "severity is -1"),
        ({"severity": 1.5}, "severity is 1.5"),
        ({"pixels": np.zeros((8, 8, 3))}, "pixels is float64"),
        ({"pixels": np.zeros((8, 9, 3), np.uint8)}, "expected uint8 \\(S, S, 3\\)"),
    ],
)
def test_bad_arguments(change, text):
    given = {"pixels": some_pixels(0)[0], "name": "blur", "severity": 1}
    with pytest.raises(ValueError, match=text):
        degrade(**given | change)


# --- predictions --------------------------------------------------------------------------------


def test_pixels_survive_the_normalisation(monkeypatch):
    "What is degraded is what was in the file, for every value of a byte."
    seen = []
    monkeypatch.setattr(robustness, "degrade", lambda pixels, **_: seen.append(pixels) or pixels)
    ramp = np.arange(256, dtype=np.uint8).repeat(12).reshape(SIZE, SIZE, 3)
    network = Tiny()
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (network.mean, network.std))
    images = robustness.normalised(ramp[None], mean, std)
    with torch.inference_mode():
        worse, plain = Degraded(network, "blur", 1)(images), network(images)
    assert (seen[0] == ramp).all()
    assert torch.equal(worse.logits, plain.logits)


def test_the_same_as_predicting_degraded_files(manifest, tmp_path):
    folder = predict_degraded(Tiny(), manifest, tmp_path / "r", ["noise", "crop"], batch_size=5)
    for name in ("noise-2", "crop-4"):
        kind, severity = name.split("-")
        root = tmp_path / name
        root.mkdir()
        for image in manifest.table["image"]:
            pixels = np.asarray(Image.open(manifest.root / image))
            Image.fromarray(degrade(pixels, kind, int(severity))).save(root / image)
        table = manifest.table.assign(map="")
        literal = read_predictions(predict(Tiny(), Manifest(table, root), tmp_path / f"p{name}"))
        found = read_predictions(folder / name)
        np.testing.assert_allclose(found["score"], literal["score"], atol=1e-6)
    assert read_predictions(folder / "noise-2")["cc"].notna().any()
    assert read_predictions(folder / "crop-4")["cc"].isna().all()  # a map would lie elsewhere
    clean = read_predictions(predict(Tiny(), manifest, tmp_path / "clean"))
    np.testing.assert_allclose(
        read_predictions(folder / "none-0")["score"], clean["score"], atol=1e-6
    )


def test_goes_on_where_it_was_stopped(manifest, tmp_path, monkeypatch):
    how = {"names": ["noise"], "batch_size": 4, "shard_size": 8}
    whole = predict_degraded(Tiny(), manifest, tmp_path / "whole", **how)
    calls = []

    def failing(pixels, name, severity, seed):
        calls.append(severity)
        if len(calls) == 2 * len(manifest) + 14:
            raise KeyboardInterrupt
        return degrade(pixels, name, severity, seed)

    with monkeypatch.context() as patched:
        patched.setattr(robustness, "degrade", failing)
        with pytest.raises(KeyboardInterrupt):
            predict_degraded(Tiny(), manifest, tmp_path / "cut", **how)
        assert set(robustness_table(tmp_path / "cut")["severity"]) == {0, 1, 2}
        assert (robustness_area(robustness_table(tmp_path / "cut"))["reason"] != "").all()
        calls.clear()
        calls += [None] * 1000  # counts on, fails no more
        predict_degraded(Tiny(), manifest, tmp_path / "cut", **how)
    assert calls.count(3) == len(manifest) - 8  # a shard of the third was kept
    for path in sorted(whole.iterdir()):
        a, b = read_predictions(path), read_predictions(tmp_path / "cut" / path.name)
        pd.testing.assert_frame_equal(a, b)


def test_other_settings_are_refused(manifest, tmp_path):
    predict_degraded(Tiny(), manifest, tmp_path / "r", ["blur"])
    for network, how in ((Tiny(1), {}), (Tiny(), {"sample": 3})):
        with pytest.raises(PredictionsError, match="belongs to another evaluation"):
            predict_degraded(network, manifest, tmp_path / "r", ["blur"], **how)
    labels = {tuple(Degraded(Tiny(), *how).degradation.tolist()) for how in
              [("blur", 1), ("blur", 2), ("noise", 1), ("noise", 1, 7), ("noise", 0)]}  # fmt: skip
    assert len(labels) == 5
    with pytest.raises(ValueError, match="names is 'blur'"):
        predict_degraded(Tiny(), manifest, tmp_path / "r", "blur")
    with pytest.raises(ValueError, match="sample is 0"):
        predict_degraded(Tiny(), manifest, tmp_path / "r", ["blur"], sample=0)


def test_a_sample_takes_as_many_of_each(manifest):
    found = sampled(manifest, 3, seed=5)
    assert (found.table.groupby(["source", "label"]).size() == 3).all()
    position = manifest.table["image"].tolist().index
    assert sorted(found.table["image"], key=position) == found.table["image"].tolist()
    assert found.table["image"].tolist() != sampled(manifest, 3, seed=6).table["image"].tolist()
    assert sampled(manifest, None) is manifest and len(sampled(manifest, 99)) == len(manifest)


def test_table_and_area(manifest, tmp_path):
    folder = predict_degraded(Tiny(), manifest, tmp_path / "r", ["blur", "webp"])
    table = robustness_table(folder, seen=["g"])
    assert table["degradation"].unique().tolist() == ["webp", "blur"]
    for row in table[table["source"] == "g"].itertuples():
        name = f"{row.degradation}-{row.severity}" if row.severity else "none-0"
        predictions = read_predictions(folder / name)
        used = predictions["source"].isin(["a", "b", "g"])
        own = predictions[used]
        assert row.auc == pytest.approx(roc_auc_score(own["label"] == "synthetic", own["score"]))
        levels = (np.nan, *DEGRADATIONS[row.degradation].levels)
        assert row.level == pytest.approx(levels[row.severity], nan_ok=True)
    area = robustness_area(table).set_index(["degradation", "source"])
    curve = table[(table["degradation"] == "blur") & (table["source"] == "h")]["auc"].to_numpy()
    literal = sum((a + b) / 2 / 5 for a, b in zip(curve[:-1], curve[1:], strict=True))
    assert area.loc[("blur", "h"), "area"] == pytest.approx(literal)
    with pytest.raises(FileNotFoundError, match="none-0"):
        robustness_table(tmp_path / "nothing")


def test_a_trained_run(tmp_path):
    (tmp_path / "images").mkdir()
    manifest = make_manifest(tmp_path / "images", 24, splits=("train", "val", "test"))
    manifest.table.to_csv(tmp_path / "images" / "manifest.csv", index=False)
    settings = {"arch": "resnet18", "weights": "none", "size": 64, "batch_size": 4, "epochs": 1}
    settings |= {"manifest": str(tmp_path / "images" / "manifest.csv"), "device": "cpu"}
    settings |= {"root": str(tmp_path / "images"), "runs": str(tmp_path), "name": "one"}
    run = train(run_config(settings))
    folder = run_robustness(run, manifest.split("test"), ["blur"], sample=2)
    assert folder == run / "robustness"
    assert len(robustness_table(folder)["severity"].unique()) == 6
    network = robustness.load_run(run).network
    found = salience_measures(network, manifest.split("test"), sample=1, share=0.1).table
    assert len(found) == 4 and found["entropy"].between(0, 1).all()
    with pytest.raises(FileNotFoundError, match="not a trained run"):
        run_robustness(tmp_path / "images", manifest.split("test"), ["blur"])


# --- measures of saliency -----------------------------------------------------------------------


def test_entropy_by_definition():
    maps = np.random.default_rng(0).random((5, 3, 4)) ** 4
    for own, found in zip(maps, map_entropy(maps), strict=True):
        p = own.ravel() / own.sum()
        assert found == pytest.approx(-sum(x * np.log2(x) for x in p) / np.log2(12))
    assert map_entropy(7.5 * maps) == pytest.approx(map_entropy(maps))
    assert np.isnan(map_entropy(np.zeros((2, 3, 3)))).all()
    for wrong in (-maps, np.full((2, 2), np.nan), np.ones(4), np.ones((3, 1, 1))):
        with pytest.raises(ValueError, match="maps has"):
            map_entropy(wrong)


def test_change_by_definition():
    rng = np.random.default_rng(1)
    known, other = rng.random((6, 3, 3)), rng.random((4, 3, 3)) ** 3
    found = salient_change(np.concatenate([known, np.zeros((2, 3, 3))]), other)
    a, b = map_entropy(known), map_entropy(other)
    assert found.entropy == pytest.approx(b.mean() - a.mean())
    assert found.se == pytest.approx(np.sqrt(a.var(ddof=1) / 6 + b.var(ddof=1) / 4))
    p, q = (maps.sum(0) / maps.sum() for maps in (known, other))
    assert found.mean_map == pytest.approx(1 - np.minimum(p, q).sum())
    assert found.flat == (2, 0)
    with pytest.raises(ValueError, match="1 and 4 maps are not flat"):
        salient_change(known[:1], other)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_move_pixels_and_cells_alike(name):
    maps = np.random.default_rng(2).random((3, 4, 4))
    pixels = np.kron(maps, np.ones((1, 8, 8)))[..., None].repeat(3, -1)
    moved = TRANSFORMS[name](pixels)[..., 0].reshape(3, 4, 8, 4, 8).mean(axis=(2, 4))
    assert moved == pytest.approx(TRANSFORMS[name](maps))
    assert geometric_stability(maps, moved, name) == pytest.approx([1] * 3)
    assert (geometric_stability(maps, maps, name) < 0.9).all()
    with pytest.raises(ValueError, match="transform is 'up'"):
        geometric_stability(maps, maps, "up")


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_run_stability_is_a_mean_over_pairs(runs):
    maps = np.random.default_rng(3).random((runs, 4, 3, 5))
    literal = np.mean([cc(a, b) for a, b in combinations(maps, 2)], axis=0)
    assert run_stability(maps) == pytest.approx(literal)
    maps[1, 2] = 0.5
    assert np.isnan(run_stability(maps)).tolist() == [False, False, True, False]
    with pytest.raises(ValueError, match="R >= 2"):
        run_stability(maps[:1])


def test_region_is_the_top_share():
    maps = np.random.default_rng(4).random((3, 4, 4))
    for share, lowest in ((0.2, False), (0.5, True), (1e-9, False)):
        region = salient_region(maps, 16, share, lowest)
        count = max(1, round(share * 256))
        assert region.sum(axis=(1, 2)).tolist() == [count] * 3
        large = robustness.resize_map(maps, (16, 16))
        for own, inside in zip(large, region, strict=True):
            border = (own[inside].max(), own[~inside].min()) if lowest else (
                own[~inside].max(), own[inside].min())  # fmt: skip
            assert border[0] <= border[1]
    assert salient_region(np.ones((1, 2, 2)), 4, 0.25)[0, 0].all()  # equals in reading order
    with pytest.raises(ValueError, match="share is 1"):
        salient_region(maps, 16, 1)


def test_guided_degradation_blurs_inside_only():
    pixels = some_pixels(5, 2)
    region = np.zeros((2, SIZE, SIZE), bool)
    region[0, 8:16, 8:16] = True
    found = guided_degradation(pixels, region, sigma=4)
    assert (found[1] == pixels[1]).all() and (found[~region] == pixels[~region]).all()
    assert found[region].std() < pixels[region].std() / 2


def test_reaction_by_definition():
    rng = np.random.default_rng(6)
    before, after = rng.random((2, 3, 4, 4))
    region = rng.random((3, 4, 4)) < 0.3
    found = reaction(before, after, region, np.full(3, 0.2), np.full(3, 0.9))
    for i in range(3):
        held = [maps[i][region[i]].sum() / maps[i].sum() for maps in (before, after)]
        assert found.left[i] == pytest.approx(held[0] - held[1], abs=1e-6)
        correlation = np.corrcoef(before[i].ravel(), after[i].ravel())[0, 1]
        assert found.kept[i] == pytest.approx(correlation)
    assert found.score == pytest.approx([0.7] * 3)
    flat = reaction(np.zeros((1, 4, 4)), after[:1], region[:1], np.ones(1), np.ones(1))
    assert np.isnan(flat.kept).all() and np.isnan(flat.left).all()


def test_measures_do_not_depend_on_the_batch(manifest):
    (manifest.root / "cut.png").write_bytes(b"no image")
    rows = pd.concat([manifest.table.iloc[:1].assign(image="cut.png"), manifest.table])
    broken = Manifest(rows, manifest.root)
    a = salience_measures(Tiny(), broken, batch_size=5)
    b = salience_measures(Tiny(), manifest, batch_size=64)
    pd.testing.assert_frame_equal(a.table, b.table, atol=1e-5)
    np.testing.assert_allclose(a.maps, b.maps, atol=1e-5)
    assert list(a.unreadable) == ["cut.png"] and not b.unreadable
    with pytest.raises(ValueError, match="none of the 1 images"):
        salience_measures(Tiny(), Manifest(rows.iloc[:1], manifest.root))
    networks = [Tiny(seed) for seed in range(3)]
    stable = runs_stability(networks, manifest, batch_size=7)["stability"].to_numpy()
    assert np.nanmin(stable) >= -0.5 and np.nanmax(stable) <= 1
    same = runs_stability([Tiny(), Tiny()], manifest)["stability"]
    assert same.dropna().to_numpy() == pytest.approx(1)


@pytest.mark.parametrize("which", ["pred", "true"])
def test_maps_are_of_the_class_that_the_run_was_trained_on(which, manifest, tmp_path, monkeypatch):
    "As those of the test predictions are, also where an image is taken for the other class."
    network = Tiny()
    predict(network, manifest, tmp_path, which=which)
    run = SimpleNamespace(network=network, config=SimpleNamespace(which_tested=which))
    monkeypatch.setattr(robustness, "load_run", lambda folder: run)
    monkeypatch.setattr(robustness, "run_robustness", lambda *_, **__: None)
    monkeypatch.setattr(robustness, "robustness_table", lambda *_: pd.DataFrame({"auc": [0.5]}))
    robustness.write_robustness(tmp_path, manifest, 1000)
    found = dict(zip(*map(np.load(tmp_path / "salience.npz").get, ("image", "maps")), strict=True))
    table, maps = read_predictions(tmp_path), read_maps(tmp_path)
    assert (table["predicted"] != table["label"]).any()
    for name, own in zip(table["image"], maps, strict=True):
        np.testing.assert_allclose(found[name], own / 255, atol=4e-3)
