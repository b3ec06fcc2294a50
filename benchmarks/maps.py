"""What a training step costs with each model map and guidance, relative to the CAM's step.

    python benchmarks/maps.py                  resnet18 at 112 px, batch 8, about 2 minutes
    python benchmarks/maps.py --arch resnet50 --size 224 --batch 20

The two sides of each ratio take turns, so that what else the machine does hits both alike.
Attention rollout is no map of a pooled network: its ratio is that of a forward and backward pass
of a small vision transformer with and without it.
"""

import os
from collections.abc import Callable

import pandas as pd
import timm
import torch
from accelerate import Accelerator
from fastcore.script import call_parse
from speed import random_batch, side_by_side

from cyborg.epoch import run_epoch
from cyborg.guidance import GUIDANCES
from cyborg.models import attended, attention_rollout, make_network
from cyborg.runs import new_state
from cyborg.settings import RunConfig

KINDS = ("gradcam", "hirescam", "layercam", "input_gradient")
TERMS = ("rrr", "hint", "res_g", "droid", "divisive", "harmonisation")


def step(arch: str, size: int, batch: int, **changes) -> Callable[[], None]:
    "A training step in fp32 with these settings."
    config = RunConfig("none.csv", arch=arch, size=size, **changes)
    network = make_network(arch, weights="none", size=size)
    state = new_state(network.to(memory_format=torch.channels_last), config)
    images, accelerator = random_batch(network, batch), Accelerator(cpu=True)
    return lambda: run_epoch(network, [images], config, accelerator, "fp32", state.optimizer)


def rollout_step(batch: int, with_map: bool) -> Callable[[], None]:
    "Forward and backward pass of a small vision transformer."
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=112).train()
    images = torch.randn(batch, 3, 112, 112)

    def work() -> None:
        if with_map:
            logits, attentions, _ = attended(vit, images)
            extra = attention_rollout(attentions, vit.patch_embed.grid_size).square().sum()
        else:
            logits, extra = vit(images), 0.0
        (logits.square().sum() + extra).backward()

    return work


@call_parse
def main(
    arch: str = "resnet18",  # network
    size: int = 112,  # input side, pixels
    batch: int = 8,  # images a step
    rounds: int = 5,  # timed steps a side
):
    "Ratios of medians, printed as a table."
    cam, rows = step(arch, size, batch), []
    changes = [{"map_kind": kind} for kind in KINDS] + [{"guidance": name} for name in TERMS]
    for change in [{"alpha": 1.0}, *changes]:
        ours, base = side_by_side(step(arch, size, batch, **change), cam, rounds)
        name = "=".join(map(str, *change.items()))
        rows.append({"step": name, "ratio": ours / base, "s": ours, "s of the CAM step": base})
        print(rows[-1], flush=True)
    ours, base = side_by_side(rollout_step(batch, True), rollout_step(batch, False), rounds)
    rows.append({"step": "rollout (ViT-Ti)", "ratio": ours / base, "s": ours})
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    print(
        f"{arch}, {size} px, batch {batch}, {threads} threads, load {load:.1f}, "
        f"{len(GUIDANCES)} guidances known"
    )
