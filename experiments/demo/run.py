"""Does it matter what the maps say? On the demo set: classical, CYBORG and inverted maps, paired.

    python experiments/demo/run.py

Runs that are finished are not repeated, so it can be stopped and started again. See README.md.
"""

from pathlib import Path

import pandas as pd
from fastcore.script import call_parse

from cyborg.demo import make_demo
from cyborg.evaluation import predict
from cyborg.files import runs_root
from cyborg.measure.compare import run_results
from cyborg.settings import preset_config
from cyborg.training import load_run, train

SCENARIOS = {
    "classical": {"alpha": 1.0},
    "cyborg": {"alpha": 0.5},
    "inverted": {"alpha": 0.5, "maps": "inverted"},
    "cyborg_mse": {"alpha": 0.5, "distance": "mse"},  # the distance as released, not as printed
}


@call_parse
def main(
    seeds: int = 5,  # seeds 0 to seeds - 1, the same for every scenario
    runs: Path = None,  # parent of the run folders (default: demo_claim in the runs root)
):
    "Train what is missing, then print the mean AUC over unseen generators of every run."
    manifest = make_demo()
    common = {"manifest": str(manifest.root / "manifest.csv"), "root": str(manifest.root)}
    common["runs"] = str(runs_root(runs) if runs else runs_root() / "demo_claim")
    rows = []
    for seed in range(seeds):
        for scenario, changes in SCENARIOS.items():
            print(f"{scenario}, seed {seed}", flush=True)
            settings = {**common, **changes, "seed": seed, "name": f"{scenario}-seed{seed}"}
            folder = train(preset_config("quick", settings))
            predict(load_run(folder).network, manifest.split("test"), folder)
            rows.append({"scenario": scenario, "seed": seed, **run_results(folder)})
    table = pd.DataFrame(rows)
    aucs = table.pivot(index="seed", columns="scenario", values="mean over unseen")[[*SCENARIOS]]
    print("\nmean AUC over the six unseen generators\n")
    print(aucs.round(3).to_string())
    for other in [name for name in SCENARIOS if name != "cyborg"]:
        gain = aucs["cyborg"] - aucs[other]
        print(
            f"\ncyborg - {other}: mean {gain.mean():+.3f}, sd {gain.std():.3f},"
            f" above 0 in {(gain > 0).sum()} of {len(gain)} seeds"
        )
    print("\nmean over seeds\n")
    means = table.drop(columns="seed").groupby("scenario", sort=False).mean().T
    print(means.round(3).to_string())
