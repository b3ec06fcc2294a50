"""How far a network can be led to lie, against literal versions and what must not change."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cyborg.classes import ClassSet
from cyborg.guidance import hoax
from cyborg.manifest import read_manifest
from cyborg.measure import honesty
from cyborg.measure.auc import class_scores
from cyborg.measure.honesty import (
    KINDS,
    LIES,
    RIDGE,
    STRENGTH,
    TABLE,
    common_shift,
    feature_sums,
    inside,
    kinds_of_map,
    score_auc,
    seen_by,
    shifted,
    trained_to_fool,
    write_honesty,
)
from cyborg.models import make_network
from cyborg.runs import RUN_FILES
from cyborg.settings import run_config
from cyborg.training import train


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_shift_is_the_ridge_regression_of_centred_cells():
    features, weight, target = draw(0, 6, 5, 3, 4), draw(1, 3, 5), hoax((3, 4)).double()
    rows, wanted = [], []
    for image in features:
        for cell in range(12):
            y, x = divmod(cell, 4)
            rows.append([(image[n] - image[n].mean())[y, x].item() for n in range(5)])
            wanted.append((target - target.mean())[y, x].item())
    rows, wanted = np.array(rows), np.array(wanted)
    ridge = np.sqrt(RIDGE * np.square(rows).sum(0).mean()) * np.eye(5)
    augmented = np.concatenate([rows, ridge]), np.concatenate([wanted, np.zeros(5)])
    literal = np.linalg.lstsq(*augmented, rcond=None)[0]
    strongest = max(np.square(rows @ w.numpy()).sum() for w in weight)
    literal *= STRENGTH * np.sqrt(strongest / np.square(rows @ literal).sum())
    ours = common_shift(feature_sums(features.split(4), target), weight)
    np.testing.assert_allclose(ours, literal, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_what_all_classes_share_moves_maps_and_no_probability(classes):
    features, weight, shift = draw(2, 8, 5, 3, 4), draw(3, classes, 5), 9 * draw(4, 5)
    logits = features.mean((2, 3)) @ weight.T
    before = kinds_of_map(features, weight, logits)
    after = kinds_of_map(features, weight + shift, logits)
    shared = features.mean((2, 3)) @ (weight + shift).T
    torch.testing.assert_close(shared.softmax(1), logits.softmax(1), rtol=0, atol=1e-12)
    for kind in KINDS:
        apart = (after[kind] - before[kind]).abs().amax()
        assert apart < 1e-9 if "diff" in kind else apart > 0.3
    one = weight.clone()
    one[0] += shift  # the planted fault: not every class
    assert (features.mean((2, 3)) @ one.T).softmax(1).sub(logits.softmax(1)).abs().max() > 0.1
    apart = kinds_of_map(features, one, logits)["difference"] - before["difference"]
    assert apart.abs().max() > 0.1


def small():
    "A network, and images whose class is where they are bright."
    torch.manual_seed(0)
    network = make_network("test_resnet", size=96, weights="none")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (16, 96, 96, 3)).astype(np.uint8)
    labels = np.arange(16) % 2
    pixels[labels == 1, 32:64, 32:64] += 150
    return network, pixels, labels


def test_a_shifted_network_says_the_same_of_every_image():
    network, pixels, _ = small()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    lie, honest = shifted(network, pixels, hoax(network.map_size)), seen_by(network, pixels)
    lying = seen_by(lie.network, pixels, honest.logits)
    np.testing.assert_allclose(class_scores(lying.logits), class_scores(honest.logits), atol=1e-5)
    np.testing.assert_allclose(lying.maps["difference"], honest.maps["difference"], atol=1e-3)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert lie.moved > 0


def test_training_leads_the_map_and_keeps_the_decisions(monkeypatch):
    network, pixels, labels = small()
    target = hoax(network.map_size)
    honest = seen_by(network, pixels)
    labels = honest.logits.argmax(1) if len(set(honest.logits.argmax(1))) == 2 else labels
    given = (network, pixels, pixels, labels, target)
    lie = trained_to_fool(*given, steps=20)
    lying = seen_by(lie.network, pixels, honest.logits)
    share = lambda seen: np.nanmean(inside(seen.maps["cam"], target.numpy()))  # noqa: E731
    assert share(lying) > share(honest) + 0.1
    floor = score_auc(honest.logits, labels) - honesty.LOSS
    assert score_auc(lying.logits, labels) >= floor
    monkeypatch.setattr(honesty, "LOSS", -2.0)  # no state is good enough: nothing is changed
    assert trained_to_fool(*given, steps=10).moved == 0


def test_auc_of_several_classes_is_the_mean_of_each_against_the_rest():
    logits, labels = draw(5, 30, 3).numpy(), np.arange(30) % 3
    scores = class_scores(logits)
    each = [roc_auc_score(labels == k, scores[:, k]) for k in range(3)]
    assert score_auc(logits, labels) == pytest.approx(np.mean(each))


def test_a_run_is_measured_once(faces, tmp_path):
    given = {"arch": "test_resnet", "weights": "none", "size": 64, "epochs": 1, "batch_size": 8}
    given |= {"manifest": str(faces / "manifest.csv"), "root": str(faces), "device": "cpu"}
    run = train(run_config(given | {"runs": str(tmp_path), "name": "one"}))
    manifest = read_manifest(faces / "manifest.csv", faces)
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            write_honesty(run, manifest, wrong)
    table = write_honesty(run, manifest, 2, steps=3, cache=tmp_path / "cache")
    assert [*table] == TABLE and [*table["lie"]] == list(np.repeat(LIES, 4))
    shift = table[table["lie"] == "shift"].set_index("map")
    assert shift["score_change"].max() < 1e-4
    assert shift.loc["difference", "cc"] == pytest.approx(1, abs=1e-3)
    with np.load(run / "honesty.npz") as means:
        assert {*means} == {"target", "honest", *LIES} and means["honest"].shape[0] == 4
    assert {"honesty.csv", "honesty.npz"} <= set(RUN_FILES)
    stamp = (run / "honesty.csv").stat().st_mtime_ns
    again = write_honesty(run, manifest, 2)
    assert (run / "honesty.csv").stat().st_mtime_ns == stamp
    pd.testing.assert_frame_equal(again, table)


def test_one_logit_leaves_no_room_for_a_shift():
    network = make_network("test_resnet", size=64, weights="none", one_logit=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    part = (pixels, np.arange(6) % 2)
    found = honesty.honesty(network, part, part, part, steps=1)
    assert [*found.table["lie"].unique()] == [*LIES[1:]]
    assert shifted(SimpleNamespace(one_logit=True), pixels, hoax((2, 2))) is None


def test_of_several_classes_the_labels_decide():
    "Four sources, two labels: what is added to every class leaves the sums of either."
    network = make_network("test_resnet", 4, size=96, weights="none")
    network.class_set = ClassSet(
        "source", ("a", "b", "c", "d"), ("real", "real", "fake", "fake"), ("real", "fake")
    )
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 96, 96, 3)).astype(np.uint8)
    honest, lie = seen_by(network, pixels), shifted(network, pixels, hoax(network.map_size))
    lying = seen_by(lie.network, pixels, honest.logits)
    assert honest.of_labels.shape == (8, 2) and honest.logits.shape == (8, 4)
    scores = class_scores(honest.logits)
    np.testing.assert_allclose(
        class_scores(honest.of_labels)[:, 1], scores[:, 2:].sum(1), rtol=1e-5
    )
    np.testing.assert_allclose(
        class_scores(lying.of_labels), class_scores(honest.of_labels), atol=1e-5
    )
    part = (pixels, np.arange(8) % 2)
    assert np.isfinite(honesty.honesty(network, part, part, part, 1).table["auc_after"]).all()
