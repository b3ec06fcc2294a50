"""Which of timm's networks have maps of a class: kinds, identity, place and cost, as a page.

    python benchmarks/networks.py run    goes on where it stopped; about 30 min
    python benchmarks/networks.py page   writes nbs/docs/pages/about/networks.md

Of every architecture file of timm the networks that are small by their names are taken, with random
weights and a last layer of noise, each in a process of its own that ends after `LIMIT` seconds.
They run at 96 pixels where they take that, else at their own size.
"""

import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import timm
import torch
from fastcore.script import call_parse

from cyborg.cam import class_activation, maps_of
from cyborg.models import NetworkError, make_network

PAGE = Path(__file__).parents[1] / "nbs" / "docs" / "pages" / "about" / "networks.md"
SMALL = (
    "test",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xxt",
    "050",
    "_s0",
    "_b0",
    "_t0",
    "xs",
    "tiny",
)
SMALL += ("_ti", "small", "18", "_s", "_t", "26", "50", "b1", "base")
LARGE = (
    "giant",
    "huge",
    "large",
    "xlarge",
    "gigantic",
    "7b",
    "so400m",
    "_in22ft",
    "384",
    "448",
    "512",
)
PER_FILE, WANTED, LIMIT, SIDE = 2, 200, 150, 96
# Asked about by name.
ALSO = ("vit_base_patch16_siglip_224", "resnet50_clip", "vit_small_patch16_dinov3")
ALSO += ("vit_small_patch14_dinov2", "vit_base_patch16_clip_224", "vit_tiny_patch16_224")
ALSO += ("mobilenetv3_large_100", "ghostnet_100", "convnext_atto", "mixer_s32_224", "vgg11")
ALSO += ("vit_base_patch16_siglip_gap_224", "eva02_small_patch14_224", "convnext_tiny")


def sample() -> list[str]:
    "Names of small networks, two of each architecture file, then more of those that have many."

    def rank(name: str) -> tuple:
        word = next((i for i, word in enumerate(SMALL) if word in name), len(SMALL))
        return any(word in name for word in LARGE), word, len(name), name

    files = {m: sorted(timm.list_models(module=m), key=rank) for m in timm.list_modules()}
    chosen = [*ALSO, *(name for names in files.values() for name in names[:PER_FILE])]
    for k in range(PER_FILE, 99):
        chosen += [names[k] for names in files.values() if len(names) > k]
        if len(dict.fromkeys(chosen)) >= WANTED:
            break
    return [*dict.fromkeys(chosen)][:WANTED]


def quadrants_in_place(network, images: torch.Tensor) -> int:  # of 4
    "In how many quadrants of the picture a change changes the map most in that quadrant."
    half, found = network.size // 2, 0
    with torch.no_grad():
        maps = lambda x: class_activation(network(x).features, network.head_weight)[:, 0]  # noqa: E731
        before = maps(images)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            changed = images.clone()
            y, x = (slice(k * half + half // 4, k * half + 3 * half // 4) for k in (row, column))
            changed[:, :, y, x] = torch.randn(changed[:, :, y, x].shape)
            apart = (maps(changed) - before).abs().mean(0)[None]
            four = torch.nn.functional.adaptive_avg_pool2d(apart, 2)[0]
            found += int(four.argmax()) == 2 * row + column
    return found


def seconds(work, rounds: int = 3) -> float:
    "The least of some rounds."
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(name: str) -> dict:
    "One row of the table."
    torch.manual_seed(0)
    try:
        network = make_network(name, weights="none", size=SIDE)
    except NetworkError:
        network = make_network(name, weights="none")
    if "features" not in network.gives:
        raise NetworkError(f"{name} has two heads, and so its attention rollout only")
    with torch.no_grad():
        network.last.weight.normal_(0, 0.1)
        images = torch.randn(2, 3, network.size, network.size)
        output = network(images)
        maps = class_activation(output.features, network.head_weight)
        logits = maps.mean((2, 3)) + network.head_bias
        theirs = network.backbone(images)
        error = torch.stack([(logits - output.logits).abs(), (logits - theirs).abs()]).max()

        def with_map() -> None:
            output = network(images)
            class_activation(output.features, network.head_weight)

        with_map()
        cost = seconds(with_map) / seconds(lambda: network.backbone(images))
    ending = getattr(network, "ending", None)
    how = "mean, linear" if ending is None else "mean, then more" if ending.layout else "attention"
    how = "class token" if ending is not None and ending.block else how
    return {
        "pools": how,
        "size": network.size,
        "cells": network.map_size,
        "kinds": len(maps_of(network)),
        "error": float(error / theirs.abs().max()),
        "place": quadrants_in_place(network, images),
        "cost": cost,
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def _work(name: str, path: str) -> None:
    torch.set_num_threads(1)
    try:
        row = measure(name)
    except NetworkError as error:
        row = {"refused": str(error)}
    except Exception as error:  # whatever it is, it is what the table has to say of this network
        row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"}
    with Path(path).open("a") as file:
        file.write(json.dumps({"name": name} | row) + "\n")


def run(path: Path, most: int) -> None:
    "Measure what is not in the file yet."
    done = (
        [json.loads(line)["name"] for line in path.read_text().splitlines()]
        if path.exists()
        else []
    )
    context = multiprocessing.get_context("fork")
    for name in [n for n in sample() if n not in done][: most or None]:
        process = context.Process(target=_work, args=(name, str(path)))
        process.start()
        process.join(LIMIT)
        if process.is_alive() or process.exitcode:
            process.kill()
            told = "took too long" if process.exitcode is None else "ended by itself"
            with path.open("a") as file:
                file.write(json.dumps({"name": name, "failed": f"{told} ({LIMIT} s)"}) + "\n")
        print(name, flush=True)


INTRODUCTION = """# Which networks have maps

Every network of timm's that ends in pooling and one linear layer has class activation maps here:
those that pool by a mean and do more than a linear layer afterwards (norm, convolution, MLP), those
that pool by attention, and vision transformers with a class token. How the maps are made is told in
the notebook `heads`; nothing in the package knows a network by its name.

The table is what `python benchmarks/networks.py` found for {n} of the networks of timm {version},
with random weights and a last layer of noise: {works} have maps, {refused} are refused, {failed}
could not be made or measured. *Pools* says how. *Identity* is the largest difference between
mean(map) + bias and the logit that timm's own code computes, over the largest logit. *In place*
counts in how many quadrants of the picture a change there changes the map there most: a map whose
cells lay in the wrong order would fail it; so may a network with random weights that mixes all, and
a map of 3x3 cells, whose middle ones belong to no quadrant. *Cost* is a forward pass with the maps
of all classes over a bare one, on one core of a busy machine: 1.1 cannot be told from 1.0.

"""

ENDING = """
## Refused

{refused}

A refusal names the nearest network that works. Refused are networks with two heads, whose logits
are the mean of two linear layers, those that flatten their cells or run a layer that bends between
`forward_features` and the pooling, and class tokens whose attention torch's own function does not
compute.
"""


def page(path: Path) -> None:
    "Write the table."
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = Counter(
        "failed" if "failed" in r else "refused" if "refused" in r else "works" for r in rows
    )
    head = ["network", "pools", "side", "cells", "kinds of map", "identity", "in place", "cost"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in sorted((r for r in rows if "pools" in r), key=lambda r: (r["pools"], r["name"])):
        values = [
            row["name"],
            row["pools"],
            row["size"],
            "{}x{}".format(*row["cells"]),
            row["kinds"],
        ]
        values += [f"{row['error']:.0e}", f"{row['place']}/4", f"{row['cost']:.2f}"]
        lines.append("| " + " | ".join(map(str, values)) + " |")
    told = [f"- {r['name']}: {r['refused']}" for r in rows if "refused" in r]
    failed = [f"- {r['name']}: {r['failed']}" for r in rows if "failed" in r]
    told += ["", "Could not be measured:", "", *failed] if failed else []
    text = INTRODUCTION.format(
        n=len(rows),
        version=timm.__version__,
        **{k: kinds[k] for k in ("works", "refused", "failed")},
    )
    PAGE.write_text(text + "\n".join(lines) + "\n" + ENDING.format(refused="\n".join(told)))


@call_parse
def main(
    what: str,  # run or page
    results: str = "networks.jsonl",  # a line a network
    most: int = 0,  # networks in this call; 0: all
):
    "Measure networks, or write the page of what was measured."
    run(Path(results), most) if what == "run" else page(Path(results))
