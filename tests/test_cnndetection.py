"""CNNDetection: the augmentation step by step as it was released, the published file's keys, and
the schedule against the released sequence of early stops."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.models import resnet50

from cyborg.models import WeightsError
from cyborg.others.cnndetection import (
    RECIPE,
    BlurJpeg,
    Draws,
    PlateauSchedule,
    augmented,
    compressed,
    draw_augmentation,
    gaussian_blurred,
    read_cnndetection,
)
from cyborg.settings import RunConfig


def pictures(n=3, size=24):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8)


# --- augmentation ------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.9])
def test_blur_is_channel_by_channel_in_whole_grey_levels(sigma):
    picture = pictures()[0]
    wanted = picture.copy()
    for channel in range(3):
        gaussian_filter(wanted[:, :, channel], output=wanted[:, :, channel], sigma=sigma)
    np.testing.assert_array_equal(gaussian_blurred(picture, sigma), wanted)
    exact = gaussian_filter(picture.astype(float), sigma, axes=(0, 1))
    assert (exact - wanted).min() > -1e-9 and 0.5 < (exact - wanted).mean() < 1.5  # darker


@pytest.mark.parametrize("quality", [30, 71, 100])
def test_jpeg_keeps_the_order_of_colours(quality):
    picture = cv2.GaussianBlur(pictures()[0], (0, 0), 4)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    np.testing.assert_array_equal(compressed(picture, quality, "pil"), Image.open(file))
    apart = compressed(picture, quality, "cv2").astype(int) - compressed(picture, quality, "pil")
    assert np.abs(apart).max() <= 12 and np.abs(apart).mean() < 2


def test_only_what_was_drawn_is_changed_and_blur_comes_first():
    batch = pictures(4)
    before = batch.copy()
    draws = Draws(np.array([np.nan, 2, np.nan, 2]), np.array([0, 0, 40, 40]), np.array(["cv2"] * 4))
    out = augmented(batch, draws)
    np.testing.assert_array_equal(batch, before)
    np.testing.assert_array_equal(out[0], batch[0])
    np.testing.assert_array_equal(out[1], gaussian_blurred(batch[1], 2))
    np.testing.assert_array_equal(out[2], compressed(batch[2], 40, "cv2"))
    np.testing.assert_array_equal(out[3], compressed(gaussian_blurred(batch[3], 2), 40, "cv2"))


def test_draws_have_the_published_distribution():
    draws = draw_augmentation(40_000, 0.5, np.random.default_rng(1))
    blur, jpeg = np.isfinite(draws.sigma), draws.quality > 0
    assert np.corrcoef(blur, jpeg)[0, 1] == pytest.approx(0, abs=0.02)  # one without the other
    assert blur.mean() == pytest.approx(0.5, abs=0.01)
    assert set(draws.quality[jpeg]) == set(range(30, 101))
    assert 0 <= np.nanmin(draws.sigma) < 0.01 and 2.99 < np.nanmax(draws.sigma) <= 3
    assert (draws.method == "cv2").mean() == pytest.approx(0.5, abs=0.01)
    never = draw_augmentation(100, 0, np.random.default_rng(1))
    assert np.isnan(never.sigma).all() and not never.quality.any()
    with pytest.raises(ValueError, match=r"probability is 1\.5"):
        draw_augmentation(1, 1.5, np.random.default_rng(1))


def test_the_augmentation_of_an_image_depends_on_seed_epoch_and_image_alone():
    batch = pictures(6, 16)
    rng = np.random.default_rng([5, 3, 2])
    wanted = augmented(batch, draw_augmentation(6, 0.5, rng))
    found = BlurJpeg(6, 0.5, seed=5)(batch, np.arange(6), epoch=3)
    np.testing.assert_array_equal(found, wanted)
    order = np.array([4, 1, 5])
    np.testing.assert_array_equal(BlurJpeg(6, 0.5, 5)(batch[order], order, 3), wanted[order])


# --- the network -------------------------------------------------------------------------------


def test_a_published_file_gives_the_logit_of_torchvisions_network(tmp_path):
    torch.manual_seed(0)
    original = resnet50(num_classes=1).train()
    with torch.no_grad():
        original(torch.randn(4, 3, 64, 64))  # batch norms that have seen something
    path = tmp_path / "blur_jpg_prob0.1.pth"
    optimiser = torch.optim.Adam(original.parameters()).state_dict()
    content = {"model": original.state_dict(), "optimizer": optimiser, "total_steps": 3}
    torch.save(content, path)
    network = read_cnndetection(path)
    assert network.mean == (0.485, 0.456, 0.406) and network.std == (0.229, 0.224, 0.225)
    assert (network.size, network.one_logit) == (224, True)
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        z, output = original.eval()(images), network(images)
    torch.testing.assert_close(output.logits, torch.cat([-z / 2, z / 2], dim=1))
    cams = torch.einsum("cn,bnij->bcij", network.head_weight, output.features)
    torch.testing.assert_close(cams.mean((2, 3)) + network.head_bias, output.logits)
    cross_entropy = torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 1]))
    binary = torch.nn.BCEWithLogitsLoss()(z[:, 0], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(cross_entropy, binary)


def test_wrong_files_name_what_differs(tmp_path):
    path = tmp_path / "w.pth"
    state = resnet50(num_classes=2).state_dict()
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=r"fc\.weight is \(2, 2048\), expected \(1, 2048\)"):
        read_cnndetection(path)
    del state["layer1.0.conv1.weight"]
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=r"1 missing: layer1\.0\.conv1\.weight"):
        read_cnndetection(path)
    whole = path.read_bytes()
    for length in (0, 1000, 5000, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="not a readable weights file|is no weights file"):
            read_cnndetection(path)
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(WeightsError, match="unpickling can run code"):
        read_cnndetection(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_cnndetection(tmp_path / "absent.pth")


def test_its_settings_are_settings_of_a_run():
    config = RunConfig(manifest="m.csv", **RECIPE)
    assert (config.arch, config.batch_size, config.lr) == ("resnet50", 64, 1e-4)


# --- the schedule ------------------------------------------------------------------------------


def released(accuracies, patience=5, lr=1e-4):
    "Learning rate after each epoch, from the released order of steps; ends where that did."
    best, count, delta, rates = None, 0, 0.001, []
    for accuracy in accuracies:
        if best is None:
            best = accuracy
        elif accuracy < best + delta:
            count += 1
            if count >= patience:
                lr /= 10
                if lr < 1e-6:
                    return rates
                best, count, delta = None, 0, 0.002
        else:
            best, count = accuracy, 0
        rates.append(lr)
    return rates


@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_stops_where_the_released_one_does(seed):
    rng = np.random.default_rng(seed)
    accuracies = np.minimum(0.5 + 0.001 * rng.integers(-2, 5, 200).cumsum(), 1).tolist()
    optimizer = torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), lr=1e-4)
    schedule, rates = PlateauSchedule(optimizer), []
    for accuracy in accuracies:
        if not schedule.step(accuracy):
            break
        rates.append(schedule.optimizer.param_groups[0]["lr"])
        again = PlateauSchedule(schedule.optimizer)
        again.load_state_dict(schedule.state_dict())
        schedule = again  # as after a stop
    assert rates == pytest.approx(released(accuracies))
