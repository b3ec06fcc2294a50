"""Frozen detectors: the published files' keys and shapes, EfficientNet-B4 against a literal version
that is written in those keys, files that do not fit, and scores that are read like a run's."""

import json
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, softmax
from torch import nn
from torch.nn import functional as F

from cyborg.demo import make_demo
from cyborg.files import content_hash
from cyborg.manifest import METRICS, Manifest
from cyborg.measure.auc import auc_table
from cyborg.measure.measures import VALIDATION, measured
from cyborg.models import WeightsError
from cyborg.others.frozen import (
    FROZEN,
    check_entry,
    ensemble_table,
    fuse_into,
    fused,
    make_scorer,
    read_frozen,
    score_frozen,
    score_into,
    score_manifest,
)
from cyborg.others.scorers import (
    DEEPFAKE_DETECTORS,
    DeepfakeDetector,
    Preprocessing,
    Scorer,
    deepfake_scorer,
    huggingface_scorer,
    log_odds,
    network_input,
    onnx_scorer,
    run_scorer,
    torchscript_scorer,
)
from cyborg.predictions import PARTS, PredictionsError, predicted_with, read_predictions

# --- one number an image -----------------------------------------------------------------------


def test_the_sigmoid_of_log_odds_is_the_probability_of_the_class():
    logits = np.random.default_rng(0).normal(0, 3, (20, 5))
    for label in range(5):
        wanted = softmax(logits, axis=1)[:, label]
        np.testing.assert_allclose(expit(log_odds(logits, label)), wanted)
        again = log_odds(softmax(logits, axis=1), label, "probabilities")
        np.testing.assert_allclose(again, log_odds(logits, label), atol=1e-5)
    one = logits[:, :1]
    np.testing.assert_array_equal(log_odds(one), one[:, 0])
    np.testing.assert_array_equal(log_odds(one, 0), -one[:, 0])
    halves = np.concatenate([-one / 2, one / 2], axis=1)
    np.testing.assert_allclose(log_odds(halves), log_odds(one))
    np.testing.assert_allclose(log_odds(expit(one), 0, "probabilities"), -one[:, 0], atol=1e-5)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]), gives="probabilities")).all()
    with pytest.raises(ValueError, match="label is 2, expected 0 to 1"):
        log_odds(one, 2)


def test_every_pixel_reaches_its_place():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
    how = Preprocessing(7, 4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "BGR")
    found = network_input(pixels, how)
    for b, c, i, j in np.ndindex(2, 3, 4, 4):  # of 7 pixels the 4 from the second on
        wanted = (pixels[b, i + 1, j + 1, 2 - c] / 255 - how.mean[c]) / how.std[c]
        assert found[b, c, i, j] == pytest.approx(wanted, abs=1e-6)
    channels_last = network_input(pixels, how._replace(layout="NHWC"))
    np.testing.assert_array_equal(channels_last.transpose(0, 3, 1, 2), found)
    for wrong in ({"colours": "rgb"}, {"layout": "NC"}, {"crop": 8}):
        with pytest.raises(ValueError, match="expected"):
            network_input(pixels, how._replace(**wrong))


# --- files of any origin -----------------------------------------------------------------------


def entry(number, content):
    "An entry of an ONNX file that holds bytes."
    return bytes([number << 3 | 2, len(content)]) + content


def onnx_file(path, sides, outputs, operator=b"Identity"):
    "An ONNX file with one node."

    def tensor(name, sides):
        shape = b"".join(entry(1, bytes([1 << 3, side])) for side in sides)
        return entry(1, name) + entry(2, entry(1, bytes([1 << 3, 1]) + entry(2, shape)))

    graph = entry(1, entry(1, b"x") + entry(2, b"y") + entry(4, operator))
    graph += entry(11, tensor(b"x", sides)) + entry(12, tensor(b"y", outputs))
    path.write_bytes(bytes([1 << 3, 8]) + entry(7, graph) + entry(8, bytes([16, 11])))
    return path


def test_an_onnx_network_gives_all_its_logits(tmp_path):
    path = onnx_file(tmp_path / "same.onnx", (1, 3, 1, 1), (1, 3, 1, 1))
    pixels = np.array([[[[10, 20, 30]]], [[[90, 0, 5]]]], dtype=np.uint8)
    plain = Preprocessing(1, mean=(0, 0, 0), std=(1 / 255,) * 3)
    wanted = log_odds(pixels.reshape(2, 3), 2)
    np.testing.assert_allclose(onnx_scorer(path, plain, 2)(pixels), wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="label is 3, expected 0 to 2"):
        onnx_scorer(path, plain, 3)(pixels)
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(ValueError, match="torn.onnx is no ONNX network"):
        onnx_scorer(tmp_path / "torn.onnx", plain, 1)


def test_torchscript_is_not_opened_unless_trusted(tmp_path):
    how, path = Preprocessing(4), tmp_path / "net.pt"
    path.write_bytes(b"not a program")
    with pytest.raises(ValueError, match="runs code .*trusted=True"):
        torchscript_scorer(path, how, 1)
    with pytest.raises(WeightsError, match="net.pt is no TorchScript file"):
        torchscript_scorer(path, how, 1, trusted=True)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        torchscript_scorer(tmp_path / "absent.pt", how, 1, trusted=True)


def small_vit(transformers, folder, *names):
    "A vision transformer of 16 x 16 pixels in a folder, its classes named."
    torch.manual_seed(0)
    classes = dict(enumerate(names))
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=16, patch_size=8, id2label=classes, label2id={n: i for i, n in classes.items()},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    how = Preprocessing(16, mean=(0.5,) * 3, std=(0.5,) * 3)  # the processor's own

    @torch.inference_mode()
    def logits(pixels):
        return model(torch.from_numpy(network_input(pixels, how))).logits.numpy()

    return logits


def test_a_hugging_face_classifier_from_a_folder(tmp_path):
    logits = small_vit(pytest.importorskip("transformers"), tmp_path, "human", "artificial")
    scorer = huggingface_scorer(tmp_path, "artificial")
    assert scorer.size == 16 and "model.safetensors" in scorer.settings["files"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    wanted = logits(pixels)[:, 1] - logits(pixels)[:, 0]
    np.testing.assert_allclose(scorer(pixels), wanted, atol=1e-4)
    flipped = huggingface_scorer(tmp_path, "human")
    np.testing.assert_allclose(flipped(pixels), -scorer(pixels), atol=1e-5)
    with pytest.raises(ValueError, match=r"did you mean 'artificial'.*'human'"):
        huggingface_scorer(tmp_path, "artificail")


def test_a_hugging_face_detector_of_one_logit_is_not_turned_round(tmp_path):
    logits = small_vit(pytest.importorskip("transformers"), tmp_path, "fake")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    scores = huggingface_scorer(tmp_path, "fake")(pixels)
    np.testing.assert_allclose(scores, logits(pixels)[:, 0], atol=1e-4)


def test_a_hugging_face_folder_that_is_not_whole_is_refused(tmp_path):
    small_vit(pytest.importorskip("transformers"), tmp_path, "human", "artificial")
    weights = tmp_path / "model.safetensors"
    whole = load_file(weights)
    headless = {name: t for name, t in whole.items() if "classifier" not in name}
    save_file(headless, weights, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 2 tensors, first classifier\.bias"):
        huggingface_scorer(tmp_path, "artificial")
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="could not be read .*only safetensors"):
        huggingface_scorer(tmp_path, "artificial")
    weights.unlink()
    torch.save(whole, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="could not be read .*only safetensors"):
        huggingface_scorer(tmp_path, "artificial")


class Hub:
    "Stands for transformers: a detector of one logit, the mean grey, named fake."

    def __init__(self, error=None, missing=()):
        self.asked, self.error, self.missing = [], error, missing

    def classifier(self, **how):
        self.asked.append(how)
        if self.error:
            raise self.error
        network = nn.Module()
        network.forward = lambda pixel_values: SimpleNamespace(logits=pixel_values)
        network.config = SimpleNamespace(id2label={0: "fake"})
        return network, {"missing_keys": set(self.missing)}

    def processor(self, **how):
        self.asked.append(how)

        class Inputs(dict):
            def to(self, device):
                return self

        def inputs(images, return_tensors):
            return Inputs(pixel_values=torch.tensor([[i.mean() / 255] for i in images]))

        inputs.to_dict = lambda: {"size": {"height": 4, "width": 4}}
        return inputs


@pytest.fixture
def hub(monkeypatch):
    def install(**how):
        stand_in, module = Hub(**how), ModuleType("transformers")
        module.__spec__ = ModuleSpec("transformers", None)
        module.AutoModelForImageClassification = SimpleNamespace(
            from_pretrained=stand_in.classifier
        )
        module.AutoImageProcessor = SimpleNamespace(from_pretrained=stand_in.processor)
        monkeypatch.setitem(sys.modules, "transformers", module)
        return stand_in

    return install


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_the_hub_is_asked_for_one_commit_and_nothing_that_runs(hub):
    asked = hub().asked
    entry = {"kind": "huggingface", "path": "owner/name", "revision": COMMIT, "label": "fake"}
    scorer = make_scorer(entry, "/studies")
    for how in asked:
        assert how["pretrained_model_name_or_path"] == "owner/name"
        assert how["revision"] == COMMIT and how["trust_remote_code"] is False
    assert len(asked) == 2 and asked[0]["use_safetensors"] is True
    assert scorer.settings["repository"] == "owner/name"
    assert scorer.settings["revision"] == COMMIT and json.dumps(scorer.settings)
    dark, bright = scorer(np.stack([np.full((4, 4, 3), v, np.uint8) for v in (0, 255)]))
    assert (dark, bright) == (0, 1)  # the one logit as it is: high for fake


def test_what_the_hub_does_not_give_is_told(hub):
    hub(error=OSError("We couldn't connect\nCheck your connection"))
    with pytest.raises(WeightsError) as caught:
        huggingface_scorer("owner/name", "fake", COMMIT)
    told = str(caught.value)
    assert f"owner/name, revision {COMMIT}, could not be had" in told and "couldn't connect" in told
    assert f"hf download owner/name --revision {COMMIT} --local-dir" in told and "FOLDER" in told
    hub(missing=["classifier.weight"])
    with pytest.raises(WeightsError, match=r"owner/name lacks 1 tensors, first classifier\.weight"):
        huggingface_scorer("owner/name", "fake", COMMIT)


@pytest.mark.parametrize(
    "path, revision, error, text",
    [
        (".", "", FileNotFoundError, "is no folder of a model: it has no config.json$"),
        ("./models/vit", "", FileNotFoundError, "models/vit is no folder of a model.*json$"),
        ("owner/name", "", FileNotFoundError, "no config.json; for owner/name on the .* commit"),
        ("owner/name", "main", ValueError, "revision is 'main', expected the 40 hexadecimal"),
        ("a/b/c", COMMIT, ValueError, "path is 'a/b/c', .* has to be owner/name"),
        ("own/copy", COMMIT, ValueError, "path is 'own/copy', .* has to be no folder here"),
    ],
)
def test_a_folder_is_not_taken_for_the_hub(tmp_path, monkeypatch, path, revision, error, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "copy").mkdir(parents=True)
    with pytest.raises(error, match=text):
        huggingface_scorer(path, "fake", revision)


# --- the deepfake detectors --------------------------------------------------------------------

# Blocks of EfficientNet-B4: repeats, kernel, stride of the first, expansion, channels in and out.
B4 = [
    (2, 3, 1, 1, 48, 24),
    (4, 3, 2, 6, 24, 32),
    (4, 5, 2, 6, 32, 56),
    (6, 3, 2, 6, 56, 112),
    (6, 5, 1, 6, 112, 160),
    (8, 5, 2, 6, 160, 272),
    (2, 3, 1, 6, 272, 448),
]


def b4_blocks():
    "Kernel, stride, expansion, channels in and out of each of 32 blocks."
    blocks = []
    for repeats, kernel, stride, expansion, before, out in B4:
        blocks.append((kernel, stride, expansion, before, out))
        blocks += [(kernel, 1, expansion, out, out)] * (repeats - 1)
    return blocks


def norm(name, channels):
    shapes = {f"{name}.{key}": (channels,) for key in ("weight", "bias")}
    shapes |= {f"{name}.{key}": (channels,) for key in ("running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def b4_shapes(attention):
    "Keys and shapes of EfficientNetB4_*.pth and EfficientNetAutoAttB4_*.pth."
    shapes = {"_conv_stem.weight": (48, 3, 3, 3)} | norm("_bn0", 48)
    for i, (kernel, _, expansion, before, out) in enumerate(b4_blocks()):
        name, wide, squeezed = f"_blocks.{i}", before * expansion, before // 4
        if expansion > 1:
            shapes[f"{name}._expand_conv.weight"] = (wide, before, 1, 1)
            shapes |= norm(f"{name}._bn0", wide)
        shapes[f"{name}._depthwise_conv.weight"] = (wide, 1, kernel, kernel)
        shapes[f"{name}._se_reduce.weight"] = (squeezed, wide, 1, 1)
        shapes[f"{name}._se_reduce.bias"] = (squeezed,)
        shapes[f"{name}._se_expand.weight"] = (wide, squeezed, 1, 1)
        shapes[f"{name}._se_expand.bias"] = (wide,)
        shapes[f"{name}._project_conv.weight"] = (out, wide, 1, 1)
        shapes |= norm(f"{name}._bn1", wide) | norm(f"{name}._bn2", out)
    shapes |= {"_conv_head.weight": (1792, 448, 1, 1)} | norm("_bn1", 1792)
    if attention:
        shapes |= {"attconv.weight": (1, 56, 1, 1), "attconv.bias": (1,)}
    shapes = {f"efficientnet.{key}": shape for key, shape in shapes.items()}
    return shapes | {"classifier.weight": (1, 1792), "classifier.bias": (1,)}


def xception_shapes():
    "Keys and shapes of Xception_*.pth."

    def separable(name, before, out):
        return {
            f"{name}.conv1.weight": (before, 1, 3, 3),
            f"{name}.pointwise.weight": (out, before, 1, 1),
        }

    shapes = {"conv1.weight": (32, 3, 3, 3), "conv2.weight": (64, 32, 3, 3)}
    shapes |= norm("bn1", 32) | norm("bn2", 64) | norm("bn3", 1536) | norm("bn4", 2048)
    shapes |= separable("conv3", 1024, 1536) | separable("conv4", 1536, 2048)
    sizes = [(64, 128, 128), (128, 256, 256), (256, 728, 728), *[(728, 728, 728)] * 8]
    for i, (before, first, out) in enumerate([*sizes, (728, 728, 1024)], start=1):
        if before != out:
            shapes[f"block{i}.skip.weight"] = (out, before, 1, 1)
            shapes |= norm(f"block{i}.skipbn", out)
        chain = [before, first, out] if before != out else [before, first, out, out]
        for k, (a, b) in enumerate(zip(chain, chain[1:], strict=False)):
            place = 3 * k + (i > 1)  # all but the first block begin with a ReLU
            shapes |= separable(f"block{i}.rep.{place}", a, b)
            shapes |= norm(f"block{i}.rep.{place + 1}", b)
    shapes = {f"xception.{key}": shape for key, shape in shapes.items()}
    return shapes | {"xception.last_linear.weight": (1, 2048), "xception.last_linear.bias": (1,)}


def published_shapes(arch):
    if arch == "Xception":
        return xception_shapes()
    shapes = b4_shapes("AutoAtt" in arch)
    if not arch.endswith("ST"):
        return shapes
    shapes = {f"feat_ext.{key}": shape for key, shape in shapes.items()}
    head = {"classifier.1.weight": (1, 1792), "classifier.1.bias": (1,)}
    return shapes | head | norm("classifier.0", 1792)


@torch.inference_mode()
def trained_like(arch):
    "A detector whose batch norms know their features, so that every layer has a say."
    torch.manual_seed(0)
    network = DeepfakeDetector(arch).train()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for module in norms:
        module.momentum = 1.0
    for name, value in network.named_parameters():
        if "attconv" in name:
            value.normal_(0, 1)
    network(torch.randn(4, 3, 64, 64))
    for module in norms:
        module.running_var.clamp_(min=0.01)
    return network.eval()


@pytest.mark.parametrize("arch", DEEPFAKE_DETECTORS)
def test_keys_and_shapes_are_the_published_ones(arch):
    state = DeepfakeDetector(arch).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_shapes(arch)


def literal_b4(state, image, attention):
    "Pooled features of EfficientNet-B4, from tensors by published name."

    def conv(x, name, stride=1, groups=1):
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        kernel, side = weight.shape[-1], x.shape[-1]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)  # as TensorFlow's SAME
        x = F.pad(x, [total // 2, total - total // 2] * 2)
        return F.conv2d(x, weight, bias, stride, groups=groups)

    def scaled(x, name):
        mean, var, weight, bias = (
            state[f"{name}.{key}"].view(-1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-3) * weight + bias

    def swish(x):
        return x * torch.sigmoid(x)

    x = swish(scaled(conv(image, "efficientnet._conv_stem", 2), "efficientnet._bn0"))
    for i, (_, stride, expansion, before, out) in enumerate(b4_blocks()):
        name, inner = f"efficientnet._blocks.{i}", x
        if expansion > 1:
            inner = swish(scaled(conv(inner, f"{name}._expand_conv"), f"{name}._bn0"))
        inner = conv(inner, f"{name}._depthwise_conv", stride, inner.shape[1])
        inner = swish(scaled(inner, f"{name}._bn1"))
        squeezed = swish(conv(inner.mean((2, 3), keepdim=True), f"{name}._se_reduce"))
        inner = inner * torch.sigmoid(conv(squeezed, f"{name}._se_expand"))
        inner = scaled(conv(inner, f"{name}._project_conv"), f"{name}._bn2")
        x = x + inner if stride == 1 and before == out else inner
        if attention and i == 9:
            x = x * torch.sigmoid(conv(x, "efficientnet.attconv"))
    x = swish(scaled(conv(x, "efficientnet._conv_head"), "efficientnet._bn1"))
    return x.mean((2, 3))


@torch.inference_mode()
def test_the_attentive_siamese_network_is_what_its_description_says():
    network = trained_like("EfficientNetAutoAttB4ST")
    image = torch.randn(1, 3, 224, 224)
    state = network.state_dict()
    inner = {k.removeprefix("feat_ext."): v for k, v in state.items() if k.startswith("feat_ext")}
    features = literal_b4(inner, image, attention=True)
    assert (features - literal_b4(inner, image, attention=False)).abs().max() > 0.1
    mean, var = state["classifier.0.running_mean"], state["classifier.0.running_var"]
    features = (features - mean) / torch.sqrt(var + 1e-5)  # weight 1 and bias 0
    wanted = features @ state["classifier.1.weight"].T + state["classifier.1.bias"]
    torch.testing.assert_close(network(image), wanted, rtol=1e-3, atol=1e-4)


def test_files_that_do_not_fit_name_what_differs(tmp_path):
    state = DeepfakeDetector("EfficientNetB4").state_dict()
    path = tmp_path / "EfficientNetB4_DFDC_bestval.pth"
    torch.save(state, path)
    assert deepfake_scorer(path).settings["file"] == content_hash(path)
    with pytest.raises(WeightsError, match=r"616 missing: feat_ext\.efficientnet\._conv_stem"):
        deepfake_scorer(path, "EfficientNetB4ST")
    with pytest.raises(WeightsError, match=r"2 missing: efficientnet\.attconv\.weight"):
        deepfake_scorer(path, "EfficientNetAutoAttB4")
    renamed = dict(state)
    renamed["head.weight"] = renamed.pop("classifier.weight")
    torch.save(renamed, path)
    with pytest.raises(WeightsError, match="missing: classifier.weight.*not known: head.weight"):
        deepfake_scorer(path)
    torch.save(state | {"classifier.weight": torch.zeros(2, 1792)}, path)
    with pytest.raises(WeightsError, match=r"classifier.weight is \(2, 1792\)"):
        deepfake_scorer(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="not a readable weights file"):
        deepfake_scorer(path)
    other = tmp_path / "resnet_DFDC.pth"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match="arch is 'resnet'"):
        deepfake_scorer(other)
    hashed = tmp_path / f"EfficientNetB4_FFPP_bestval-{content_hash(other)}.pth"
    hashed.write_bytes(b"more")
    with pytest.raises(WeightsError, match="cut short"):
        deepfake_scorer(hashed)


# --- scores of a manifest ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("scorers") / "demo", n=60, size=64, workers=1)


class Counted:
    "Brightness, counting pictures and stopping where told."

    def __init__(self, stop=10**9):
        self.n, self.stop = 0, stop

    def __call__(self, pixels):
        if self.n + len(pixels) > self.stop:
            raise KeyboardInterrupt
        self.n += len(pixels)
        return pixels.mean((1, 2, 3)) / 128 - 1


def scorer(outputs, **more):
    return Scorer(outputs, 8, {"rule": "brightness"} | more)


def test_scores_are_read_like_a_run(demo, tmp_path):
    test = demo.split("test")
    path = score_manifest(scorer(Counted()), test, tmp_path, "bright")
    found = read_predictions(tmp_path)
    assert list(found["image"]) == list(test.table["image"])
    assert found[list(METRICS)].isna().all(axis=None)
    odds = (found["logit_1"] - found["logit_0"]).to_numpy()
    np.testing.assert_allclose(expit(odds), found["score"], atol=1e-6)
    assert (found["predicted"] == np.where(odds > 0, *test.classes[::-1])).all()
    assert found.attrs["settings"]["name"] == "bright"
    auc = auc_table(found).set_index("source")["auc"]["pooled"]
    kept = measured(tmp_path).measures.query("measure == 'auc' and source == 'pooled'")
    assert kept["value"].item() == pytest.approx(auc)
    stamp = path.stat().st_mtime_ns
    score_manifest(scorer(Counted(0)), test, tmp_path, "bright")  # done: nothing is scored
    assert path.stat().st_mtime_ns == stamp
    with pytest.raises(PredictionsError, match="scorer differ"):
        score_manifest(scorer(Counted(), side=2), test, tmp_path, "bright")
    with pytest.raises(PredictionsError, match="seen differ"):
        score_manifest(scorer(Counted()), test, tmp_path, "bright", [test.table["source"][0]])
    score_manifest(scorer(Counted(), side=2), test, tmp_path, "bright", overwrite=True)
    assert read_predictions(tmp_path).attrs["settings"]["scorer"]["side"] == 2


def test_shards_of_which_nothing_says_whose_they_are_are_not_taken(demo, tmp_path):
    test = demo.split("test")
    with pytest.raises(KeyboardInterrupt):
        score_manifest(scorer(Counted(20)), test, tmp_path / "a", batch_size=4, shard_size=8)
    (tmp_path / "a" / PARTS / "settings.json").unlink()
    other = scorer(lambda pixels: -pixels.mean((1, 2, 3)), side=2)
    found = read_predictions(score_manifest(other, test, tmp_path / "a", shard_size=8))
    wanted = read_predictions(score_manifest(other, test, tmp_path / "b", shard_size=8))
    assert found["score"].tolist() == wanted["score"].tolist()


def test_overwriting_scores_leaves_a_run_alone(demo, tmp_path):
    (tmp_path / "config.json").write_text('{"settings": {"arch": "resnet50"}}')
    with pytest.raises(PredictionsError, match=r"holds no scores.*nothing was removed"):
        score_manifest(scorer(Counted()), demo.split("test"), tmp_path, overwrite=True)
    assert (tmp_path / "config.json").exists()


def test_what_was_stopped_goes_on(demo, tmp_path):
    test = demo.split("test")
    whole = score_manifest(scorer(Counted()), test, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        score_manifest(scorer(Counted(9)), test, tmp_path / "cut", batch_size=3, shard_size=6)
    with pytest.raises(FileNotFoundError, match="not finished"):
        read_predictions(tmp_path / "cut")
    with pytest.raises(PredictionsError, match="other settings"):
        score_manifest(scorer(Counted(), side=2), test, tmp_path / "cut")
    rest = Counted()
    path = score_manifest(scorer(rest), test, tmp_path / "cut", batch_size=3, shard_size=6)
    assert rest.n == len(test) - 6
    pd.testing.assert_frame_equal(read_predictions(path), read_predictions(whole))
    assert not (tmp_path / "cut" / "predictions.parts").exists()


def test_corrupt_images_are_told_and_left_out(demo, tmp_path):
    table = demo.split("test").table
    broken = [table["image"][1], "absent.png"]
    table = pd.concat([table, table.iloc[[0]].assign(image="absent.png")], ignore_index=True)
    for name in table["image"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name not in broken:
            (tmp_path / name).symlink_to(demo.root / name)
    (tmp_path / broken[0]).write_bytes(b"\x89PNG torn")
    manifest = Manifest(table, tmp_path, demo.classes)
    with pytest.warns(UserWarning, match=f"2 of {len(table)} images could not be read"):
        score_manifest(scorer(Counted()), manifest, tmp_path / "out")
    assert not set(broken) & set(read_predictions(tmp_path / "out")["image"])
    lost = pd.read_csv(tmp_path / "out" / "excluded.csv")
    assert list(lost["path"]) == broken and set(lost["kind"]) == {"image"}
    assert "No such file" in lost["reason"][1] and lost["reason"][0]
    assert sum(read_predictions(tmp_path / "out").attrs["excluded"].values()) == 2


def test_scores_that_are_not_numbers_are_refused(demo, tmp_path):
    nan = scorer(lambda pixels: np.full(len(pixels), np.nan))
    with pytest.raises(PredictionsError, match="scores are not finite"):
        score_manifest(nan, demo.split("test"), tmp_path)
    three = Manifest(demo.table, demo.root, ("authentic", "synthetic", "other"))
    with pytest.raises(ValueError, match="expected images of two classes"):
        score_manifest(scorer(Counted()), three, tmp_path)


# --- fusion ------------------------------------------------------------------------------------


def test_fusion_is_by_image_not_by_row():
    rng = np.random.default_rng(0)
    images = [f"{i}.png" for i in range(30)]
    tables = {
        name: pd.DataFrame(
            {
                "image": images,
                "label": ["authentic", "synthetic"] * 15,
                "logit_0": -(z := rng.normal(size=30)),
                "logit_1": z,
            }
        )
        for name in "abc"
    }
    wanted = sum(2 * table["logit_1"] for table in tables.values()) / 3
    mixed = [tables["a"], tables["b"].sample(frac=1, random_state=0), tables["c"][::-1]]
    np.testing.assert_allclose(fused(mixed), wanted)
    found = ensemble_table(tables)
    assert sorted(found["n"]) == [1, 1, 1, 2, 2, 2, 3] and found["auc"].is_monotonic_decreasing
    assert len(ensemble_table(tables, largest=1)) == 3


def test_settings_are_json(tmp_path):
    path = onnx_file(tmp_path / "same.onnx", (1, 3, 1, 1), (1, 3, 1, 1))
    assert json.loads(json.dumps(onnx_scorer(path, Preprocessing(1), 1).settings))["size"] == 1


# --- systems of a study ------------------------------------------------------------------------


class Contrast(nn.Module):
    "One logit from the upper or the lower half of a picture."

    def __init__(self, lower: bool):
        super().__init__()
        self.lower = lower

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x[:, :, 16:] if self.lower else x[:, :, :16]
        return half.std((1, 2, 3)).unsqueeze(1) * 4 - 1


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    "Two TorchScript networks, an ONNX network and two ensembles, as a study file says it."
    folder = tmp_path_factory.mktemp("networks")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated")
        for name, lower in (("upper", False), ("lower", True)):
            torch.jit.save(torch.jit.script(Contrast(lower)), folder / f"{name}.pt")
    onnx_file(folder / "mean.onnx", (1, 3, 8, 8), (1, 1, 1, 1), b"ReduceMean")
    scripted = {"kind": "torchscript", "size": 32, "label": 1}
    entries = {name: scripted | {"path": f"{name}.pt"} for name in ("upper", "lower")}
    entries["mean"] = {"kind": "onnx", "path": "mean.onnx", "size": 8, "label": 1, "seen": ["iris"]}
    entries["all"] = {"fusion": ["upper", "lower", "mean"]}
    return folder, {"halves": {"fusion": ["upper", "lower"]}} | entries


def test_frozen_systems_from_files_to_tables(demo, declared, tmp_path):
    here, entries = declared
    home = tmp_path / FROZEN / "demo"
    paths = score_frozen(entries, demo, home, here, trusted=True)
    assert [path.parent.name for path in paths[-2:]] == ["halves", "all"]  # after their members
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert [p.stat().st_mtime_ns for p in score_frozen(entries, demo, home, here, True)] == stamps
    tables = {name: read_predictions(home / name) for name in entries}
    odds = {n: (t["logit_1"] - t["logit_0"]).to_numpy(float) for n, t in tables.items()}
    wanted = [sum(odds[n][i] for n in ("upper", "lower", "mean")) / 3 for i in range(len(odds))]
    np.testing.assert_allclose(odds["all"][: len(wanted)], wanted, atol=1e-6)
    for name in entries:
        inner = read_predictions(home / name / VALIDATION)
        assert set(inner["split"]) == {"val"} and set(tables[name]["split"]) == {"test"}
    assert predicted_with(home / "upper")["scorer"]["file"] == content_hash(here / "upper.pt")
    assert predicted_with(home / "halves")["seen"] == []
    assert predicted_with(home / "all")["seen"] == ["iris"]
    combinations = pd.read_csv(home / "all" / "ensembles.csv")
    best = auc_table(tables["all"]).set_index("source")["auc"]["pooled"]
    assert combinations.set_index("members")["auc"]["upper+lower+mean"] == pytest.approx(best)
    found = read_frozen(tmp_path)
    assert found.problems == [] and sorted(found.systems["network"]) == sorted(entries)
    members = found.systems.set_index("network")["members"]
    assert members["halves"] == "upper+lower" and members["upper"] == ""
    aucs = found.measures.query("measure == 'auc' and source == 'pooled'").set_index("network")
    assert aucs["value"]["all"] == pytest.approx(best) and set(aucs["scenario"]) == {FROZEN}
    trained = found.measures.query("network == 'mean' and measure == 'auc' and source == 'iris'")
    assert trained["seen"].tolist() == [True]
    temperature = found.measures.query("measure == 'temperature'")["value"]
    assert temperature.notna().all()  # from the validation images
    (home / "upper" / "predictions.parquet").write_bytes(b"torn")
    again = read_frozen(tmp_path)
    assert "upper" not in set(again.systems["network"]) and "frozen/demo/upper" in again.problems[0]


def test_an_interrupted_system_is_told_and_goes_on(demo, tmp_path):
    home = tmp_path / FROZEN / "demo" / "bright"
    validation = len(demo.split("val"))
    with pytest.raises(KeyboardInterrupt):
        score_into(scorer(Counted(validation + 5)), demo, home, batch_size=3, shard_size=3)
    (problem,) = read_frozen(tmp_path).problems
    assert "frozen/demo/bright" in problem
    rest = Counted()
    score_into(scorer(rest), demo, home, batch_size=3, shard_size=3)
    assert rest.n == len(demo.split("test")) - 3  # validation and one shard were there
    assert read_frozen(tmp_path).problems == []
    with pytest.raises(PredictionsError, match="scorer differ"):
        score_into(scorer(Counted(), side=2), demo, home)


def test_a_fusion_wants_members_of_the_same_images(demo, tmp_path):
    for name, manifest in (("a", demo), ("b", demo.split("test"))):
        score_into(scorer(Counted()), manifest, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nothing to fuse in .*absent"):
        fuse_into(demo, ["a", "absent"], tmp_path / "both")
    with pytest.raises(FileNotFoundError, match="validation"):
        fuse_into(demo, ["a", "b"], tmp_path / "both")  # one without validation images
    fuse_into(demo.split("test"), ["a", "b"], tmp_path / "both")
    with pytest.raises(PredictionsError, match="scorer differ"):
        fuse_into(demo.split("test"), ["a"], tmp_path / "both")
    part = Manifest(demo.split("test").table.iloc[:-1], demo.root, demo.classes)
    with pytest.raises(PredictionsError, match="scores of other images"):
        fuse_into(part, ["a", "b"], tmp_path / "other")
    with pytest.raises(ValueError, match="members is empty"):
        fuse_into(demo, [], tmp_path / "other")
    with pytest.raises(ValueError, match="no test images"):
        score_into(scorer(Counted()), demo.split("train"), tmp_path / "c")


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"path": "x"}, "kind is None"),
        ({"kind": "onxx", "path": "x"}, "did you mean 'onnx'"),
        ({"kind": "onnx", "size": 8, "label": 1}, "onnx lacks path"),
        ({"kind": "onnx", "path": "x", "size": 8}, "onnx lacks label, the place of the synthetic"),
        ({"kind": "huggingface", "path": "x"}, "huggingface lacks label"),
        ({"kind": "deepfake", "path": "x", "size": 8}, "deepfake has no 'size'"),
        ({"kind": "torchscript", "path": "x", "size": 8, "layer": 1}, "has no 'layer'"),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(entry, text):
    with pytest.raises(ValueError, match=text):
        make_scorer(entry)


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"path": 5}, r"path is 5 .int., expected text"),
        ({"path": ""}, "path is '' .str., expected text"),
        ({"path": "~no such user/x"}, "path is '~no such user/x'"),
        ({"path": "absent.onnx"}, "there is no weights file or folder .*absent.onnx"),
        ({"size": True}, "size is True .bool., expected a whole number"),
        ({"mean": [0.5, "x", 0.5]}, "mean is .* expected three numbers"),
        ({"colours": 3}, "colours is 3"),
    ],
)
def test_settings_of_a_scorer_are_checked_before_a_file_is_opened(entry, text, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    whole = {"kind": "onnx", "path": "x.onnx", "size": 8, "label": 1}
    check_entry(whole, tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        check_entry(whole | entry, tmp_path)


def test_trust_is_never_taken_from_the_file_that_wants_it(declared, demo, tmp_path, monkeypatch):
    here, entries = declared
    wanting = entries["upper"] | {"trusted": True}
    with pytest.raises(ValueError, match="stands in the file that wants .*cyborg-study --trust"):
        make_scorer(wanting, here, trusted=True)
    with pytest.raises(ValueError, match="upper.pt was not opened: .*CYBORG_TRUST=1"):
        make_scorer(entries["upper"], here)
    with pytest.raises(ValueError, match="was not opened"):
        make_scorer(entries["upper"], here, trusted="false")
    assert make_scorer(entries["upper"], here, trusted=True).size == 32
    monkeypatch.setenv("CYBORG_TRUST", "0")
    with pytest.raises(ValueError, match="was not opened"):
        make_scorer(entries["upper"], here)
    monkeypatch.setenv("CYBORG_TRUST", "1")
    assert make_scorer(entries["upper"], here).size == 32


# --- which of a network's outputs is synthetic ----------------------------------------------------


def small_run(folder, classes, **origin):
    "A run folder of an untrained network."
    from dataclasses import asdict

    from safetensors.torch import save_file

    from cyborg.epoch import build_network
    from cyborg.settings import RunConfig

    config = RunConfig("m.csv", arch="test_resnet", weights="none", size=64)
    folder.mkdir()
    network = build_network(config, 2)
    save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors"
    )
    provenance = {"classes": classes, "training_sources": ["camera"], **origin}
    record = {"settings": asdict(config), "provenance": provenance}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text("epoch\n1\n")
    return folder


def test_the_polarity_of_a_run_is_known_stated_or_asked_for(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    known = run_scorer(small_run(tmp_path / "known", ["real", "fake"]))(pixels)
    assert np.ptp(known) > 0
    noted = small_run(tmp_path / "noted", ["1", "0"], positive="synthetic (label '0'), by ...")
    np.testing.assert_array_equal(run_scorer(noted)(pixels), known)
    old = small_run(tmp_path / "old", ["ai", "nature"])  # in the order of the alphabet
    with pytest.raises(ValueError, match="before it was noted .* label: ai or label: nature"):
        run_scorer(old)
    np.testing.assert_array_equal(run_scorer(old, "nature")(pixels), known)
    turned = make_scorer({"kind": "run", "path": str(old), "label": "ai"})
    np.testing.assert_allclose(turned(pixels), -known, rtol=1e-6)
    assert turned.settings["label"] == "ai" and "label" not in run_scorer(noted).settings
    with pytest.raises(ValueError, match="label is 'natur' .did you mean 'nature'"):
        run_scorer(old, "natur")


def test_combinations_follow_the_classes_and_never_the_alphabet():
    labels = np.array(["nature", "ai"] * 5)
    table = pd.DataFrame({"image": [str(i) for i in range(10)], "label": labels, "logit_0": 0.0})
    table["logit_1"] = np.where(labels == "ai", 1.0, -1.0)
    assert ensemble_table({"a": table})["auc"].tolist() == [1.0]
    table["label"] = np.where(labels == "ai", "cat", "dog")
    with pytest.raises(ValueError, match="synthetic="):
        ensemble_table({"a": table})
    table.attrs["classes"] = ["dog", "cat"]
    assert ensemble_table({"a": table})["auc"].tolist() == [1.0]
