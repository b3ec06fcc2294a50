"""What is trained: frozen parts, low-rank additions, rates, and probes on kept features."""

import numpy as np
import pytest
import torch

from cyborg.demo import make_demo
from cyborg.epoch import build_network, make_datasets
from cyborg.evaluation import predict
from cyborg.manifest import read_manifest
from cyborg.models import NetworkError
from cyborg.predictions import read_maps, read_predictions
from cyborg.runs import new_state, read_history
from cyborg.settings import SettingsError, run_config
from cyborg.training import load_run, train
from cyborg.trial import check_step
from cyborg.tuning import KEPT_AT_ONCE, frozen_digest, keep_features, reads_kept


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("tuning") / "demo", n=80, size=64, workers=1)


@pytest.fixture
def given(demo, tmp_path):
    return {
        "manifest": str(demo.root / "manifest.csv"),
        "root": str(demo.root),
        "runs": str(tmp_path),
        "arch": "test_resnet",
        "weights": "none",
        "size": 64,
        "epochs": 2,
        "batch_size": 8,
        "lr": 0.05,
        "device": "cpu",
    }


def changed(given: dict, **settings) -> set[str]:
    "Names of the tensors that a run has changed."
    config = run_config(given | settings)
    before = build_network(config, 2).state_dict()
    after = load_run(train(config)).network.state_dict()
    assert before.keys() == after.keys()
    return {n.removeprefix("backbone.") for n in before if not torch.equal(before[n], after[n])}


def test_a_probe_moves_its_last_layer_and_no_statistics(given):
    for keep in (True, False):
        found = changed(given, train="head", keep_features=keep, name=f"keep{keep}")
        assert found == {"fc.weight", "fc.bias"}


def test_norms_move_with_their_statistics(given):
    found = changed(given, train="norm")
    network = build_network(run_config(given), 2).backbone
    norms = [n for n, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert found <= {f"{n}.{t}" for n in norms for t in tensors} | {"fc.weight", "fc.bias"}
    assert {f"{n}.running_mean" for n in norms} < found


def test_the_last_block_moves_and_none_before_it(given):
    found = changed(given, train="last:1")
    assert {f.split(".")[0] for f in found} == {"layer4", "fc"}


def test_low_rank_matrices_move_and_what_they_stand_beside_does_not(given):
    pytest.importorskip("peft", reason="pip install 'cyborg[lora]'")
    vit = {"arch": "test_vit", "size": 48, "alpha": 0.5}
    found = changed(given, train="lora", **vit)
    assert {f for f in found if "lora" not in f} == {"head.weight", "head.bias"}
    assert any("lora_A" in f for f in found) and any("lora_B" in f for f in found)


def test_head_and_rest_have_rates_of_their_own(given):
    config = run_config(given | {"lr_head": 0.5})
    network = build_network(config, 2)
    rest, head = new_state(network, config).optimizer.param_groups
    assert (rest["lr"], head["lr"]) == (0.05, 0.5)
    assert {id(p) for p in head["params"]} == {id(p) for p in network.last.parameters()}
    assert len(rest["params"]) + 2 == len(list(network.parameters()))


def test_a_frozen_network_costs_no_backward(given):
    config = run_config(given | {"train": "last:1"})
    network = build_network(config, 2).train()
    seen = []
    for name in ("layer3", "layer4"):
        part = network.backbone.get_submodule(name)
        part.register_full_backward_hook(lambda *_, name=name: seen.append(name))
    network(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert seen == ["layer4"]


@pytest.mark.parametrize("flip", [0.0, 0.5])
@pytest.mark.parametrize("arch", ["test_resnet", "test_convnext"])
def test_a_probe_on_kept_features_is_the_probe(given, arch, flip):
    "Weights, history, scores and maps are those of a run through the network, to half precision."
    made = {}
    for keep in (True, False):
        settings = {"train": "head", "flip": flip, "arch": arch, "name": f"k{keep}", "epochs": 3}
        settings |= {"keep_features": keep, "lr": 0.01, "which": "true"}
        config = run_config(given | settings)
        folder = train(config)
        run = load_run(folder)
        assert reads_kept(config, run.network) == keep
        manifest = read_manifest(config.manifest, config.root).split("test")
        predict(run.network, manifest, folder)
        table = read_predictions(folder)
        made[keep] = run, read_history(folder), table, read_maps(folder)
    for name in ("weight", "bias"):
        a, b = (getattr(made[keep][0].network.last, name) for keep in (True, False))
        torch.testing.assert_close(a, b, rtol=0, atol=0.01)  # the maps' scale multiplies rounding
    columns = ["train_loss", "train_saliency", "val_loss"]
    apart = (made[True][1][columns] - made[False][1][columns]).abs()
    assert apart.to_numpy().max() < 2e-2
    assert np.abs(made[True][2]["score"] - made[False][2]["score"]).max() < 5e-3
    assert (
        np.median(np.abs(made[True][3].astype(float) - made[False][3].astype(float))) < 4
    )  # of 255


def test_what_is_kept_is_not_computed_again_and_what_was_cut_short_is(given, demo):
    config = run_config(given | {"train": "head", "seed": 5})
    network = build_network(config, 2)
    dataset = make_datasets(read_manifest(config.manifest, config.root), network, config)["train"]
    folder = dataset.cache.folder / "features" / frozen_digest(network) / "upright"
    first = keep_features(network, dataset).__getitems__([0, 1]).image
    calls = []
    network.backbone.register_forward_hook(lambda *_: calls.append(1))
    network.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    again = keep_features(network, dataset).__getitems__([0, 1]).image
    assert torch.equal(first, again) and not calls
    lost = sorted(folder.glob("*.keys"))[0]
    n = len(lost.read_text().split())
    lost.unlink()  # as after a kill between the two files
    assert torch.equal(keep_features(network, dataset).__getitems__([0, 1]).image, first)
    assert len(calls) == -(-n // KEPT_AT_ONCE)
    other = build_network(run_config(given | {"train": "head", "seed": 6}), 2)
    assert frozen_digest(other) != frozen_digest(network)  # other random weights
    other.backbone.load_state_dict(network.backbone.state_dict())
    other.last.weight.data += 1
    assert frozen_digest(other) == frozen_digest(network)  # the last layer has no say


def test_features_of_test_images_are_kept_where_the_images_are_not(given, demo, tmp_path):
    config = run_config(given | {"train": "head", "seed": 7})
    network, calls = build_network(config, 2), []
    manifest = read_manifest(config.manifest, config.root).split("test")
    first = read_predictions(predict(network, manifest, tmp_path / "first", cache=False))
    network.backbone.conv1.register_forward_hook(lambda *_: calls.append(1))
    again = read_predictions(predict(network, manifest, tmp_path / "again", cache=False))
    assert not calls and again["score"].equals(first["score"])
    network.keeps = False
    predict(network, manifest, tmp_path / "through", cache=False)
    assert calls


@pytest.mark.parametrize("value", ["heads", "last", "last:0", "last:-1", ""])
def test_an_unknown_part_is_refused(value):
    with pytest.raises(SettingsError, match="expected all, head, norm, lora or last:N"):
        run_config({"manifest": "m.csv", "train": value})


def test_more_blocks_than_there_are_and_layers_that_take_no_part(given):
    with pytest.raises(NetworkError, match="test_resnet has .* blocks"):
        build_network(run_config(given | {"train": "last:99"}), 2)
    config = run_config(given | {"train": "head"})
    network = build_network(config, 2)
    network.idle = torch.nn.Linear(2, 2)
    with pytest.raises(SettingsError, match="2 of the tensors that it trains take no part"):
        check_step(network, config)
