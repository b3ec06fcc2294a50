"""Segmentation maps: the published network's keys and shapes, its parts against literal versions,
files that do not fit, the stand-in, and the column of a manifest."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cyborg.manifest import SPLITS, Manifest, read_manifest, write_manifest
from cyborg.models import WeightsError, load_exactly, read_state_dict
from cyborg.prepare.segmentation import (
    CLASS_WEIGHTS,
    PARSING_CLASSES,
    REGIONS,
    BiSeNet,
    FaceParser,
    class_weights,
    face_regions,
    landmark_map,
    landmark_source,
    parsing_map,
)
from cyborg.prepare.sources import landmark_maps, map_manifest, picture_maps
from cyborg.saliency import human_map, read_map
from cyborg.study.file import read_study, study_runs

UPRIGHT = np.array([[44, 50], [84, 50], [64, 74], [64, 90.0]])  # REGIONS, on 128 x 128

# Keys and shapes of the published file 79999_iter.pth, part by part: convolution (out, in, side),
# or batch norm (channels). Blocks of a ResNet-18 are written out below.
CONVOLUTIONS = {
    "cp.resnet.conv1": (64, 3, 7),
    "cp.arm16.conv.conv": (128, 256, 3),
    "cp.arm16.conv_atten": (128, 128, 1),
    "cp.arm32.conv.conv": (128, 512, 3),
    "cp.arm32.conv_atten": (128, 128, 1),
    "cp.conv_head32.conv": (128, 128, 3),
    "cp.conv_head16.conv": (128, 128, 3),
    "cp.conv_avg.conv": (128, 512, 1),
    "ffm.convblk.conv": (256, 256, 1),
    "ffm.conv1": (64, 256, 1),
    "ffm.conv2": (256, 64, 1),
    "conv_out.conv.conv": (256, 256, 3),
    "conv_out.conv_out": (19, 256, 1),
    "conv_out16.conv.conv": (64, 128, 3),
    "conv_out16.conv_out": (19, 64, 1),
    "conv_out32.conv.conv": (64, 128, 3),
    "conv_out32.conv_out": (19, 64, 1),
}
NORMS = {"cp.resnet.bn1": 64, "cp.arm16.bn_atten": 128, "cp.arm32.bn_atten": 128}
NORMS |= {
    name.removesuffix("conv") + "bn": shape[0]
    for name, shape in CONVOLUTIONS.items()
    if name.endswith(".conv")
}
for layer, (before, channels) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
    for block in range(2):
        name = f"cp.resnet.layer{layer}.{block}"
        CONVOLUTIONS[f"{name}.conv1"] = (channels, channels if block else before, 3)
        CONVOLUTIONS[f"{name}.conv2"] = (channels, channels, 3)
        NORMS |= {f"{name}.bn1": channels, f"{name}.bn2": channels}
    if layer > 1:
        name = f"cp.resnet.layer{layer}.0.downsample"
        CONVOLUTIONS[f"{name}.0"] = (channels, before, 1)
        NORMS[f"{name}.1"] = channels
NORM_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_shapes():
    shapes = {f"{name}.weight": (o, i, k, k) for name, (o, i, k) in CONVOLUTIONS.items()}
    for name, channels in NORMS.items():
        for key in NORM_KEYS:
            shapes[f"{name}.{key}"] = () if key == "num_batches_tracked" else (channels,)
    return shapes


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = BiSeNet().eval()
    for name, buffer in network.named_buffers():  # as after training: statistics that are not 0, 1
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


# --- the network ------------------------------------------------------------------------------


def test_keys_and_shapes_are_those_of_the_published_file(network):
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert own == published_shapes()
    assert len(own) == 191 and sum(np.prod(s) for k, s in own.items() if "track" not in k) == (
        13_300_416 + 2 * sum(NORMS.values())
    )


def test_the_way_through_the_network(network):
    "Layer by layer, from the keys alone."
    state = network.state_dict()

    def conv(x, name, stride=1):
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    def block(x, name):
        return norm(conv(x, f"{name}.conv"), f"{name}.bn").clamp(min=0)

    def residual(x, name, stride):
        y = norm(conv(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
        y = norm(conv(y, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in state:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (x + y).clamp(min=0)

    def refined(x, name):
        x = block(x, f"{name}.conv")
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(norm(conv(mean, f"{name}.conv_atten"), f"{name}.bn_atten"))

    def twice(x, like):  # nearest: each cell four times
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : like[0], : like[1]]

    images = torch.randn(2, 3, 64, 96)
    x = norm(conv(images, "cp.resnet.conv1", 2), "cp.resnet.bn1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    scales = []
    for layer in range(1, 5):
        x = residual(x, f"cp.resnet.layer{layer}.0", 1 if layer == 1 else 2)
        x = residual(x, f"cp.resnet.layer{layer}.1", 1)
        scales.append(x)
    _, eighth, sixteenth, deepest = scales
    overall = block(deepest.mean((2, 3), keepdim=True), "cp.conv_avg")
    deep = block(twice(refined(deepest, "cp.arm32") + overall, (4, 6)), "cp.conv_head32")
    context = block(twice(refined(sixteenth, "cp.arm16") + deep, (8, 12)), "cp.conv_head16")
    fused = block(torch.cat([eighth, context], 1), "ffm.convblk")
    weight = conv(conv(fused.mean((2, 3), keepdim=True), "ffm.conv1").clamp(min=0), "ffm.conv2")
    fused = fused * torch.sigmoid(weight) + fused
    scores = conv(block(fused, "conv_out.conv"), "conv_out.conv_out")
    with torch.inference_mode():
        whole = network(images)
    assert whole.shape == (2, 19, 64, 96)
    # enlarged with its corners kept: the corners are the corners' cells
    torch.testing.assert_close(whole[..., ::63, ::95], scores[..., ::7, ::11], atol=1e-4, rtol=1e-3)


def test_it_can_be_trained():
    network = BiSeNet(3).train()
    scores = network(torch.randn(2, 3, 64, 64))
    assert scores.shape == (3, 2, 3, 64, 64)  # all three outputs
    F.cross_entropy(scores[1], torch.zeros(2, 64, 64, dtype=torch.long)).backward()
    assert network.conv_out16.conv_out.weight.grad.abs().sum() > 0
    assert not network.conv_out.conv_out.weight.grad.any()


# --- files --------------------------------------------------------------------------------------


def test_files_that_do_not_fit_are_named(network, tmp_path):
    path, state = tmp_path / "weights.pth", network.state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, path)
    FaceParser(path, size=64)  # as saved from several GPUs
    with pytest.raises(WeightsError, match="absent.pth.*no such file"):
        FaceParser(tmp_path / "absent.pth")
    path.write_bytes(path.read_bytes()[:200_000])  # half downloaded
    with pytest.raises(WeightsError, match="weights.pth: not a readable weights file"):
        FaceParser(path)
    torch.save({"network": BiSeNet}, path)
    with pytest.raises(WeightsError, match="holds more than tensors .* and was not opened"):
        FaceParser(path)
    torch.save({"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}, path)
    message = (
        r"weights.pth does not fit BiSeNet \(191 keys\): 160 missing: cp.resnet.conv1.weight, "
        r"cp.resnet.bn1.weight, cp.resnet.bn1.bias; 2 not known: fc.weight, fc.bias"
    )
    with pytest.raises(WeightsError, match=message):
        FaceParser(path)
    with pytest.raises(WeightsError, match=r"conv1.weight is \(1,\), expected \(64, 3, 7, 7\)"):
        load_exactly(BiSeNet(), state | {"cp.resnet.conv1.weight": torch.zeros(1)}, "x")
    unchanged = BiSeNet()
    before = unchanged.conv_out.conv_out.weight.clone()
    with pytest.raises(WeightsError):
        load_exactly(unchanged, {k: v for k, v in state.items() if "layer4" not in k}, "x")
    assert torch.equal(unchanged.conv_out.conv_out.weight, before)  # nothing half loaded


def planted(tmp_path):
    "Weights with which the network calls everything skin whose fused features are not zero."
    state = BiSeNet().state_dict()
    state["conv_out.conv_out.weight"] = torch.zeros(19, 256, 1, 1)
    state["conv_out.conv_out.weight"][PARSING_CLASSES.index("skin")] = 1
    torch.save(state, tmp_path / "skin.pth")
    return tmp_path / "skin.pth"


def test_a_parser_sees_the_whole_picture_once_normalised(tmp_path):
    parser = FaceParser(planted(tmp_path), size=64)
    seen = []
    parser.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[:, 64:] = 255, 128, 0
    parser.labels(picture)
    (image,) = seen
    assert image.shape == (1, 3, 64, 64)
    left, right = image[0, :, 0, 0], image[0, :, 0, -1]
    torch.testing.assert_close(left, torch.tensor([-2.1179, -2.0357, -1.8044]), atol=1e-4, rtol=0)
    wanted = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    torch.testing.assert_close(right, torch.tensor(wanted), atol=1e-4, rtol=0)


def test_a_picture_without_a_face_is_refused(tmp_path):
    parser = FaceParser(planted(tmp_path), weights={"nose": 1}, size=64)
    with pytest.raises(ValueError, match="no part of a face was found"):
        parser(np.zeros((40, 40, 3), np.uint8))


# --- classes and maps ---------------------------------------------------------------------------


def test_a_parsed_face_is_built_as_a_human_map_is():
    labels = np.zeros((224, 224), int)
    labels[60:160, 70:150] = PARSING_CLASSES.index("skin")
    labels[120:130, 90:130] = PARSING_CLASSES.index("mouth")
    mask = labels > 0
    np.testing.assert_allclose(parsing_map(labels), human_map(mask[None], sigma=5), atol=1e-6)
    mouth = parsing_map(labels, {"mouth": 0.3})  # one class: its weight is scaled away
    np.testing.assert_allclose(mouth, human_map((labels == 11)[None], sigma=5), atol=1e-6)
    both = parsing_map(labels, {"skin": 0.5, "mouth": 1.0})
    assert both[125, 110] > 0.8 and both[80, 110] == pytest.approx(0.5, abs=0.1)


def test_tables_of_weights():
    assert len(PARSING_CLASSES) == 19 and len(set(PARSING_CLASSES)) == 19
    assert class_weights("face") == CLASS_WEIGHTS["face"]
    for name in ("background", "hair", "cloth", "neck", "hat"):
        assert name not in CLASS_WEIGHTS["face"]
    assert set(CLASS_WEIGHTS["features"]) < set(CLASS_WEIGHTS["face"])
    with pytest.raises(ValueError, match="weights is 'fase'.*did you mean 'face'"):
        class_weights("fase")
    with pytest.raises(ValueError, match="weights names 'lip'"):
        class_weights({"lip": 1})
    with pytest.raises(ValueError, match="expected 1 finite numbers >= 0"):
        parsing_map(np.zeros((9, 9), int), {"nose": -1})
    for wrong in (np.full((9, 9), 19), np.zeros((9, 9)), np.zeros((1, 9, 9), int)):
        with pytest.raises(ValueError, match="expected .H, W. of 0 to 18"):
            parsing_map(wrong)


# --- the stand-in -------------------------------------------------------------------------------


def test_the_stand_in_is_all_regions_as_a_human_map():
    regions = face_regions(dict(zip(REGIONS, UPRIGHT, strict=True)), 128)
    union = np.any([regions[name] for name in REGIONS], axis=0)
    slow = human_map(union[None], sigma=5 / 224 * 128)
    np.testing.assert_allclose(landmark_map(UPRIGHT, 128), slow, atol=1e-6)
    only = landmark_map(UPRIGHT, 128, ["mouth"])
    assert only[90, 64] > 0.9 and only[50, 44] < 0.01


def test_the_stand_in_scales_with_the_picture():
    large, small = landmark_map(UPRIGHT * 2, 256), landmark_map(UPRIGHT, 128)
    np.testing.assert_allclose(large.reshape(128, 2, 128, 2).mean((1, 3)), small, atol=0.05)


@pytest.mark.parametrize("points", [UPRIGHT[:3], np.where(UPRIGHT == 44, np.nan, UPRIGHT)])
def test_landmarks_that_are_none(points):
    with pytest.raises(ValueError, match="expected four finite x, y"):
        landmark_map(points, 128)


# --- the column ---------------------------------------------------------------------------------


def crops(folder, n=6):
    "A manifest of crops with landmarks, but none for the first."
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        Image.new("RGB", (128, 128), (i, i, i)).save(folder / f"{i}.png")
        points = UPRIGHT + i % 30 if i else np.full((4, 2), "")
        label = ("authentic", "synthetic")[i % 2]
        split = ("train", "val", "test")[i // 2 % 3]
        rows.append([f"{i}.png", label, f"s{i % 2}", split, "", "", *points.ravel()])
    marks = [f"{name}_{axis}" for name in REGIONS for axis in "xy"]
    columns = ["image", "label", "source", "split", "map", "subject", *marks]
    return Manifest(pd.DataFrame(rows, columns=columns), folder)


def segmented(manifest, source=None):
    "The column of all splits, without the warning of the first image's landmarks."
    source = source or landmark_maps()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return map_manifest(manifest, source, "segmentation", SPLITS, "segmentation")


def test_a_column_of_maps_that_a_study_reads(tmp_path):
    manifest = crops(tmp_path / "faces")
    done = segmented(manifest)
    assert done.missing["image"].tolist() == ["0.png"]
    assert "left_eye_x is no number" in done.missing["reason"][0]
    column = done.manifest.table["segmentation"].tolist()
    assert column == ["", *(f"segmentation/maps/{i}.png" for i in range(1, 6))]
    written = read_map(tmp_path / "faces" / column[3])
    np.testing.assert_allclose(written, landmark_map(UPRIGHT + 3, 128), atol=1 / 255)
    path = write_manifest(done.manifest, tmp_path / "faces" / "manifest.csv")
    assert read_manifest(path).digest == done.manifest.digest
    (tmp_path / "study.yaml").write_text(
        f"name: maps\ndata: {{faces: {{manifest: {path}}}}}\nnetworks: [resnet18]\n"
        "scenarios: [cyborg, segmentation]\nseeds: 1\n"
    )
    runs = study_runs(read_study(tmp_path / "study.yaml"))
    used = {run.scenario: run.config.manifest for run in runs}
    assert used["segmentation"].endswith("faces-segmentation.csv") and used["cyborg"] == str(path)


def test_a_killed_run_goes_on_and_lost_maps_are_made_again(tmp_path):
    manifest, made = crops(tmp_path / "faces", 100), []

    def draw(pixels, row):
        if len(made) == 80:
            raise KeyboardInterrupt
        made.append(row["image"])
        return landmark_source(pixels, row)

    source = picture_maps("toy", draw, {}, landmark_maps().columns, threads=1)
    with pytest.raises(KeyboardInterrupt):
        segmented(manifest, source)
    made.clear()
    done = segmented(manifest, source)
    assert len(made) == 36 and len(done.missing) == 1  # 64 were finished
    made.clear()
    (tmp_path / "faces" / "segmentation" / "maps" / "7.png").unlink()
    Image.new("RGB", (128, 128)).save(tmp_path / "faces" / "9.png")
    segmented(manifest, source)
    assert made == ["7.png", "9.png"]


def test_a_map_follows_the_landmarks_it_is_made_of(tmp_path):
    manifest = crops(tmp_path / "faces")
    place = tmp_path / "faces" / "segmentation" / "maps" / "3.png"
    segmented(manifest)
    moved = manifest.table.copy()
    moved["nose_x"] = ["" if x == "" else str(float(x) + 12) for x in moved["nose_x"]]
    segmented(Manifest(moved, manifest.root))
    expected = landmark_map(UPRIGHT + 3 + [[0, 0], [0, 0], [12, 0], [0, 0]], 128)
    np.testing.assert_allclose(read_map(place), expected, atol=1 / 255)
    made = place.stat().st_mtime_ns
    segmented(Manifest(moved.assign(split="train", quality="0.3"), manifest.root))
    assert place.stat().st_mtime_ns == made  # nobody looked at these columns


def test_no_map_at_all_is_an_error(tmp_path):
    manifest = crops(tmp_path / "faces", 1)
    with pytest.raises(ValueError, match="none of 1 images got a map .*; 0.png: no landmarks"):
        segmented(manifest)


def test_state_dicts_are_read_without_running_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Image.new("RGB", (1, 1)).save, (str(tmp_path / "sprung.png"),))

    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsError):
        read_state_dict(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung.png").exists()
