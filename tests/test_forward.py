"""How a network is run where no gradient is needed: what it changes, what it may not change."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from cyborg import forward
from cyborg.data import Batch
from cyborg.epoch import run_epoch
from cyborg.evaluation import predict, predict_together
from cyborg.forward import FEW, Way, choose_way, forwarder, runnable
from cyborg.manifest import Manifest
from cyborg.models import Output, make_network
from cyborg.predictions import FILES, PARTS, read_maps, read_predictions
from cyborg.settings import RunConfig

CPU = torch.device("cpu")


def network(seed: int = 0, arch: str = "test_resnet", size: int = 64, family: str = ""):
    return make_network(arch, weights="none", size=size, seed=seed, family=family).eval()


def noise(n: int, size: int = 64) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    "More than FEW images of 8 pixels, two of them damaged."
    root, rng = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    names = [f"{i}.png" for i in range(FEW + 4)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name)
    for name in (names[3], names[100]):
        (root / name).write_bytes(b"none")
    table = pd.DataFrame({"image": names, "split": "test", "subject": "", "map": ""})
    table["label"] = np.resize(["authentic", "synthetic"], len(names))
    return Manifest(table.assign(source=table["label"]), root)


@pytest.fixture
def pieces_of_eight(monkeypatch):
    "Eight images of 64 pixels go together."
    monkeypatch.setattr(forward, "PIECE", 8 * 64**2)


@pytest.fixture
def bf16(monkeypatch):
    "A machine on which bf16 pays."
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(forward, "AUTO_BF16", True)


class Mean(torch.nn.Module):
    "Says of an image what its mean is, and counts."

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, images):
        self.sizes.append(len(images))
        value = images.mean((1, 2, 3))
        return Output(torch.stack([-value, value], 1), images[:, :1], images[:, 0])


@pytest.mark.parametrize(("n", "sizes"), [(20, [8, 8, 4]), (8, [8]), (3, [3])])
def test_each_image_goes_through_once_and_in_order(pieces_of_eight, n, sizes):
    mean, images = Mean(), noise(n)
    forwarder(mean, Way("bf16", whole=True))(images)
    found = forwarder(mean, Way("bf16"))(images)
    assert mean.sizes == [n, *sizes]
    torch.testing.assert_close(found.logits[:, 1], images.mean((1, 2, 3)), rtol=0, atol=1e-6)
    assert torch.equal(found.features, images[:, :1]) and torch.equal(found.attention, images[:, 0])


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "densenet121"])
def test_a_piece_at_a_time_is_the_whole_in_single_precision(arch):
    "A piece is 15 images of 160 pixels, 8 of 224 and one of a picture that is larger than all."
    one = network(arch=arch, size=160)
    with torch.inference_mode():
        for whole in (noise(17, 160), noise(2, 160)):
            found, exact = forwarder(one, Way())(whole), one(whole)
            torch.testing.assert_close(found.logits, exact.logits, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(found.features, exact.features, rtol=1e-5, atol=1e-5)
    sizes = [
        forward.piece(torch.zeros(1, 3, *side)) for side in ((160, 160), (224, 224), (900, 600))
    ]
    assert sizes == [15, 8, 1]


def test_the_last_layer_is_not_rounded_in_evaluation_and_is_in_training():
    one, images = network(), noise(6)
    with torch.inference_mode():
        found = forwarder(one, Way("bf16"))(images)
        head = one.backbone.forward_head(found.features.float())
    assert found.features.dtype == torch.bfloat16 and found.logits.dtype == torch.float32
    assert torch.equal(found.logits, head)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert one.train()(images).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["", "transformer"])
def test_a_transformer_keeps_its_last_layer_too(family):
    one = network(arch="test_vit", size=160, family=family)
    with torch.inference_mode():
        exact, found = (forwarder(one, way)(noise(3, 160)) for way in (Way(), Way("bf16")))
    there = [[None if t is None else t.shape for t in output] for output in (exact, found)]
    assert there[0] == there[1] and found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, exact.logits, rtol=0, atol=0.05)
    assert not torch.equal(found.logits, found.logits.bfloat16().float())


def test_validation_in_pieces_is_the_validation_by_hand(pieces_of_eight):
    one, n = network(), 21
    human = torch.rand(n, *one.map_size, generator=torch.Generator().manual_seed(2))
    batch = Batch(noise(n), torch.arange(n) % 2, human, torch.ones(n).bool(), torch.arange(n))
    config, accelerator = RunConfig("none.csv", arch="test_resnet"), Accelerator(cpu=True)
    sizes, first = [], next(m for m in one.modules() if isinstance(m, torch.nn.Conv2d))
    with first.register_forward_hook(lambda _, __, output: sizes.append(len(output))):
        row = run_epoch(one, [batch], config, accelerator, "bf16")
    assert sizes == [8, 8, 5]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        features = torch.cat([one(piece).features for piece in batch.image.split(8)]).float()
    logits = one.backbone.forward_head(features)
    expected = torch.nn.functional.cross_entropy(logits, batch.label).item()
    assert row["val_classification"] == pytest.approx(expected, rel=1e-6)
    single = run_epoch(one, [batch], config, accelerator, "fp32")
    assert single["val_classification"] != row["val_classification"]
    assert single["val_classification"] == pytest.approx(expected, rel=2e-2)
    whole = run_epoch(one, [batch], dataclasses.replace(config, quirks="hook"), accelerator, "bf16")
    assert whole["val_classification"] == pytest.approx(expected, rel=1e-3)


def test_auto_is_single_precision_until_bf16_moves_no_auc():
    deep = make_network("resnet18", weights="none", size=64)
    assert choose_way(deep, CPU, "auto", 10**6).precision == "fp32"


def test_auto_follows_the_number_of_images_and_the_network(bf16):
    deep = make_network("resnet18", weights="none", size=64)
    assert choose_way(deep, CPU, "auto", FEW - 1).precision == "fp32"
    assert choose_way(deep, CPU, "auto", FEW).precision == "bf16"
    assert choose_way(deep, CPU, "fp32", 10**6) == Way(whole=True)
    assert choose_way(deep, torch.device("cuda"), "bf16") == Way("bf16")


def test_asking_changes_no_module_s_mode(bf16):
    "A frozen batch norm in a network that trains, and a network in evaluation mode in a wrapper."
    deep = make_network("resnet18", weights="none", size=64).eval()
    for training in (deep.backbone.layer1, deep):
        training.train()
        deep.backbone.bn1.eval()
        before = [module.training for module in deep.modules()]
        assert choose_way(deep, CPU)[0] == "bf16"
        assert before == [module.training for module in deep.modules()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": "fp32"}, "fp32"),
        ({"precision": "auto", "quirks": "hook"}, "fp32"),
        ({"precision": "auto"}, "bf16"),
        (None, "bf16"),
    ],
)
def test_predictions_of_a_run_are_made_as_its_settings_say(
    manifest, tmp_path, bf16, settings, expected
):
    if settings is not None:
        (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    deep = make_network("resnet18", weights="none", size=64)
    found = read_predictions(predict(deep, manifest, tmp_path / "validation"))
    assert found.attrs["settings"]["precision"] == expected
    single = read_predictions(predict(deep, manifest, tmp_path / "single", precision="fp32"))
    logits = ["logit_0", "logit_1"]
    assert (expected == "fp32") == found[logits].equals(single[logits])
    assert np.allclose(found[logits], single[logits], atol=0.02)


def test_single_precision_is_the_network_and_nothing_else(manifest, tmp_path):
    "Batches of 64 in channels_last, as ever."
    one = network()
    found = read_predictions(predict(one, manifest, tmp_path / "run", precision="fp32"))
    from cyborg.cache import open_cache
    from cyborg.data import ImageDataset

    how = (one.size, one.map_size, one.mean, one.std)
    data = ImageDataset(manifest, *how, cache=open_cache(manifest, 64), on_error="exclude")
    one = one.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        logits = [
            one(
                data.__getitems__(range(start, min(start + 64, len(data)))).image.to(
                    memory_format=torch.channels_last
                )
            ).logits
            for start in range(0, len(data), 64)
        ]
    assert np.array_equal(found[["logit_0", "logit_1"]].to_numpy(), torch.cat(logits).numpy())


def test_what_was_begun_goes_on_as_it_was(manifest, tmp_path, bf16):
    "Predictions from before, in single precision, stay what they are where nobody asks otherwise."
    deep = make_network("resnet18", weights="none", size=64)
    path = predict(deep, manifest, tmp_path / "run", precision="fp32")
    before = path.stat().st_mtime_ns
    assert predict(deep, manifest, tmp_path / "run").stat().st_mtime_ns == before
    again = read_predictions(predict(deep, manifest, tmp_path / "run", overwrite=True))
    assert again.attrs["settings"]["precision"] == "bf16"


# --- several networks -------------------------------------------------------------------------


def contents(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("cache", [False, True])
def test_together_is_alone_to_the_bit_and_decodes_once(manifest, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("CYBORG_CACHE", str(tmp_path / "cache"))
    from cyborg import cache as module

    decoded, real = [], module.decode_square

    def counted(path, *size):
        decoded.append(str(path))
        return real(path, *size)

    monkeypatch.setattr(module, "decode_square", counted)
    networks = [network(seed) for seed in range(3)]
    how = {"shard_size": 100, "batch_size": 16, "cache": cache}
    predict_together(networks, manifest, [tmp_path / f"all-{k}" for k in range(3)], **how)
    assert len(decoded) == len(manifest)
    for k, one in enumerate(networks):
        predict(one, manifest, tmp_path / f"one-{k}", **how)
        assert contents(tmp_path / f"all-{k}") == contents(tmp_path / f"one-{k}")
    scores = [read_predictions(tmp_path / f"all-{k}")["score"] for k in range(3)]
    assert not scores[0].equals(scores[1]) and not scores[1].equals(scores[2])


def test_together_goes_on_after_a_kill_wherever_each_was(manifest, tmp_path, monkeypatch):
    from cyborg import evaluation

    networks, folders = [network(seed) for seed in range(3)], [tmp_path / c for c in "abc"]
    how = {"shard_size": 60, "batch_size": 20, "cache": False}
    calls, real = [], evaluation.write_shard

    def dies(parts, *rest):
        calls.append(parts)
        if len(calls) == 5:  # a has two shards, b and c one
            raise KeyboardInterrupt
        real(parts, *rest)

    monkeypatch.setattr(evaluation, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        predict_together(networks, manifest, folders, **how)
    monkeypatch.undo()
    left = [len([*(folder / PARTS).glob("rows-*.parquet")]) for folder in folders]
    assert left == [2, 1, 1]
    predict_together(networks, manifest, folders, **how)
    for one, folder in zip(networks, folders, strict=True):
        fresh = tmp_path / f"fresh-{folder.name}"
        predict(one, manifest, fresh, **how)
        assert contents(folder) == contents(fresh) and not (folder / PARTS).exists()


def test_together_leaves_alone_what_is_finished(manifest, tmp_path):
    one, other = network(), network(1)
    path = predict(one, manifest, tmp_path / "a")
    before = path.stat().st_mtime_ns
    predict_together([one, other], manifest, [tmp_path / "a", tmp_path / "b"])
    assert path.stat().st_mtime_ns == before
    assert len(read_maps(tmp_path / "b")) == len(manifest) - 2


# --- compiled ---------------------------------------------------------------------------------

compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")


@compiler
def test_a_compiled_network_says_the_same_and_shares_its_program_not_its_weights(monkeypatch):
    torch._dynamo.reset()
    first, second = network(0), network(1)
    way = Way("compiled")
    monkeypatch.setattr(forward, "PIECE", 4 * 64**2)
    assert runnable(first, way) == way
    images, compiled_once = noise(6), torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for one in (first, second):
        run = forwarder(one, way)
        with torch.inference_mode():
            exact, found = one(images), run(images)
        assert found.logits.shape == (6, 2) and found.logits.dtype == torch.float32
        torch.testing.assert_close(found.logits, exact.logits, rtol=0, atol=0.02)
        torch.testing.assert_close(found.features.float(), exact.features, rtol=0.1, atol=0.05)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_once


def without_compiler(monkeypatch):
    monkeypatch.setattr(forward, "shutil", types.SimpleNamespace(which=lambda _: None))


def broken_compiler(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("InductorError: a kernel does not compile\nand forty lines more")

    monkeypatch.setattr(forward, "compiled", fails)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (without_compiler, r"there is no C\+\+ compiler"),
        (broken_compiler, "a kernel does not compile$"),
    ],
)
def test_what_cannot_be_compiled_falls_back_with_one_line(
    manifest, tmp_path, monkeypatch, fault, words
):
    fault(monkeypatch)
    with pytest.warns(UserWarning, match=f"not compiled, bf16 in its place: .*{words}"):
        path = predict(network(), manifest, tmp_path / "run", precision="compiled")
    told = read_predictions(path).attrs
    assert told["settings"]["precision"] == "bf16"
    half = read_predictions(predict(network(), manifest, tmp_path / "half", precision="bf16"))
    assert half["score"].equals(read_predictions(path)["score"])


def test_an_unsupported_network_is_not_compiled():
    with pytest.warns(UserWarning, match="RolloutNetwork is more than feature maps"):
        way = runnable(network(arch="test_vit", size=160, family="transformer"), Way("compiled"))
    assert way.precision == "bf16"
