"""Choose the learning rate of frozen networks on validation images alone; no test image is read.

    python experiments/frozen_faces/choose.py --data DATA --runs RUNS --inception FILE

Trains classical and CYBORG probes over a grid of learning rates; the best mean AUC of the two is
taken. Then classical ones over a grid of weight decays; the best AUC is taken, and with it the
decay that would make classical weights as short as CYBORG's. Prints what PROTOCOL.md quotes. Can
be stopped and started again.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastcore.script import call_parse
from safetensors.torch import load_file

from cyborg.runs import read_history
from cyborg.settings import preset_config
from cyborg.training import train

PAIRS = (("lite0", "ffhq140k"), ("inception_v3", "ffhq140k"), ("lite0", "composites"))
RATES = (0.08, 0.3, 1.0, 3.0)
DECAYS = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (100, 101)  # none of the study's
SCENARIOS = {"classical": {"alpha": 1.0}, "cyborg": {}}


def networks(
    inception: Path,  # the weights file of inception.py
) -> dict[str, dict]:  # name -> settings
    "The frozen networks, each at the side it was trained at."
    return {
        "lite0": {"arch": "tf_efficientnet_lite0", "weights": "package", "size": 224},
        "inception_v3": {"arch": "inception_v3", "weights": str(inception), "size": 299},
    }


def probe(
    data: Path,  # what prepare.py of real_faces wrote
    runs: Path,
    set_: str,  # a manifest in `data`
    **settings,
) -> tuple[float, float]:  # best validation AUC of an epoch, length of the weights in the end
    "Train one, or read what it became."
    name = "-".join([set_, *(f"{value}" for key, value in settings.items() if key != "weights")])
    given = {"manifest": str(data / f"{set_}.csv"), "root": str(data), "runs": str(runs)}
    given |= {"train": "head", "distance": "l2", "device": "cpu", "precision": "fp32"}
    given |= {"epochs": 20, "lr_step": 8}
    folder = train(preset_config("paper", given | {"name": name.replace(".", "_")} | settings))
    weights = load_file(folder / "model.safetensors")
    [head] = [v for k, v in weights.items() if v.ndim == 2 and len(v) == 2]
    return float(read_history(folder)["val_auc"].max()), float(head.norm())


def table(
    rows: list[dict],
    keys: list[str],
) -> str:
    "Means over seeds, to print."
    frame = pd.DataFrame(rows).groupby(keys, sort=False)[["val_auc", "length"]]
    return frame.mean().round(4).to_string() + "\n"


@call_parse
def main(
    data: Path,  # what prepare.py of real_faces wrote
    runs: Path,  # for the run folders
    inception: Path,  # the weights file of inception.py
):
    "Print two tables."
    torch.set_num_threads(1)
    data, runs = Path(data).resolve(), Path(runs).resolve()
    found = networks(Path(inception).resolve())
    rates: list[dict] = []
    decays: list[dict] = []
    for name, set_ in PAIRS:
        of = found[name]
        for (scenario, own), lr, seed in product(SCENARIOS.items(), RATES, SEEDS):
            auc, length = probe(data, runs, set_, **of, **own, lr=lr, seed=seed)
            row = {"network": name, "set": set_, "scenario": scenario, "lr": lr}
            rates.append(row | {"val_auc": auc, "length": length})
        lr = pd.DataFrame(rates).query("network == @name and set == @set_")
        lr = float(lr.groupby("lr")["val_auc"].mean().idxmax())
        rows = {}
        for decay in DECAYS:
            own = SCENARIOS["classical"] | {"weight_decay": decay}
            rows[decay] = probe(data, runs, set_, **of, **own, lr=lr, seed=SEEDS[0])
            row = {"network": name, "set": set_, "lr": lr, "weight_decay": decay}
            decays.append(row | dict(zip(("val_auc", "length"), rows[decay], strict=True)))
        decay = max(rows, key=lambda decay: rows[decay][0])
        _, length = probe(data, runs, set_, **of, lr=lr, weight_decay=decay, seed=SEEDS[0])
        lengths = np.log([rows[d][1] for d in DECAYS])  # ever shorter
        equal = np.exp(np.interp(-np.log(length), -lengths, np.log(DECAYS)))
        told = f"lr {lr}, weight decay {decay}, CYBORG's length {length:.3f}, equal at {equal:.2g}"
        print(f"{name}, {set_}: {told}", flush=True)
    print(table(rates, ["network", "set", "scenario", "lr"]))
    print(table(decays, ["network", "set", "lr", "weight_decay"]))
