"""The analysis that PROTOCOL.md laid down, from the runs of study.yaml.

    python experiments/real_faces/results.py            of the finished runs, two minutes
    python experiments/real_faces/results.py --spectrum_alone   what the spectrum alone reaches, too

A seed counts where all scenarios have finished it.
"""

from pathlib import Path

import pandas as pd
from fastcore.script import call_parse, store_true

from cyborg.evaluation import auc_table
from cyborg.manifest import Manifest, read_manifest
from cyborg.measure.audit import trait_scores
from cyborg.measure.bootstrap import bootstrap_auc
from cyborg.measure.statistics import holm, over_runs, paired_table
from cyborg.predictions import read_predictions
from cyborg.study.file import read_study
from cyborg.study.grid import plan

STUDY = Path(__file__).with_name("study.yaml")
PRIMARY = [("cyborg", "classical"), ("cyborg", "inverted")]  # a - b, Holm over these


def test_predictions(
    folder: Path,  # of a run
) -> pd.DataFrame:  # only sources that are told from their counterparts in the average
    "Predictions without the synthetic sources that stand in no average."
    table = read_predictions(folder)
    return table[(table["label"] == "authentic") | (table["exposure"] == "unseen")]


def run_rows(
    runs: pd.DataFrame,  # of `plan`
) -> pd.DataFrame:  # scenario, seed, measure, value
    "Macro AUC over the unseen sources and agreement with the maps, of each run."
    rows = []
    for run in runs.itertuples():
        table = test_predictions(run.folder)
        aucs = auc_table(table).set_index("source")["auc"]
        values = {"macro AUC": aucs["macro"], "CC": table["cc"].mean()}
        rows += [(run.scenario, run.seed, *item) for item in values.items()]
    return pd.DataFrame(rows, columns=["scenario", "seed", "measure", "value"])


def predictions_of(
    runs: pd.DataFrame,  # of `plan`
    scenario: str,
) -> list[pd.DataFrame]:  # a table a seed, in order
    "The test predictions of a scenario."
    rows = runs[runs["scenario"] == scenario].sort_values("seed")
    return [test_predictions(folder) for folder in rows["folder"]]


def compared(
    pairs: list[tuple[str, str]],  # scenarios a, b
    rows: pd.DataFrame,  # of `run_rows`
    runs: pd.DataFrame,  # of `plan`
) -> pd.DataFrame:
    "Differences a - b with both intervals and p, Holm over all of them."
    aucs, table = rows[rows["measure"] == "macro AUC"], []
    for a, b in pairs:
        pair = paired_table(aucs[aucs["scenario"].isin([a, b])], baseline=b).iloc[0]
        both = bootstrap_auc(predictions_of(runs, a), predictions_of(runs, b))
        line = {"comparison": f"{a} − {b}", "pairs": pair["n"], "difference": pair["difference"]}
        line |= {"seeds and images": f"[{both.low:.3f}, {both.high:.3f}]"}
        line |= {"seeds alone": f"[{pair['low']:.3f}, {pair['high']:.3f}]"}
        table.append(line | {"p": pair["p_sign_flip"]})
    table = pd.DataFrame(table)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def spectrum(
    manifest: Manifest,
    runs: list[pd.DataFrame],  # test predictions of classical training
) -> str:
    "What a logistic regression on the radial power spectrum reaches, and training beyond it."
    table = trait_scores(manifest, "spectrum").set_index("image")
    alone = [own.assign(score=table.loc[own["image"], "score"].to_numpy()) for own in runs]
    own, more = bootstrap_auc(alone[:1]), bootstrap_auc(runs, alone)
    return (
        f"Spectrum alone: {own.estimate:.3f} [{own.low:.3f}, {own.high:.3f}]; "
        f"classical − spectrum: {more.estimate:.3f} [{more.low:.3f}, {more.high:.3f}]"
    )


def text(
    table: pd.DataFrame,
) -> str:
    "A table to print, numbers with three digits."
    return table.to_string(index=False, float_format="{:.3f}".format) + "\n"


@call_parse
def main(
    runs: str = "",  # folder of study folders (default: CYBORG_RUNS, else runs/)
    spectrum_alone: store_true = False,  # also measure the spectrum
):
    "Print the results of the protocol."
    study = read_study(STUDY, runs)
    table = plan(study)
    whole = table[table["state"] == "finished"].groupby("seed")["scenario"].nunique()
    seeds = whole.index[whole == len(study.scenarios)]
    if not len(seeds):
        raise SystemExit(f"no seed is finished in all scenarios yet in {study.folder}")
    finished = table[table["seed"].isin(seeds)]
    rows = run_rows(finished)
    print(f"{len(seeds)} of {len(study.seeds)} seeds finished in all scenarios\n")
    means = over_runs(rows).pivot(index="scenario", columns="measure", values=["mean", "sd"])
    means = means.loc[list(study.scenarios)]
    cells = {
        name: means["mean", name].map("{:.3f}".format) + means["sd", name].map(" ± {:.3f}".format)
        for name in ("macro AUC", "CC")
    }
    print(text(pd.DataFrame(cells).reset_index()))
    print(text(compared(PRIMARY, rows, finished)))
    for baseline in ("classical", "cyborg"):
        pairs = [(name, baseline) for name in study.scenarios if name != baseline]
        print(f"Exploratory, against {baseline}:\n{text(compared(pairs, rows, finished))}")
    if spectrum_alone:
        data = study.data["ffhq140k"]
        images = read_manifest(data["manifest"], data.get("root"))
        print(spectrum(images, predictions_of(finished, "classical")))
