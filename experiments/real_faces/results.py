"""The analysis that a PROTOCOL.md laid down, from the runs of a study on real faces.

    python experiments/real_faces/results.py            of the finished runs, two minutes
    python experiments/real_faces/results.py --spectrum_alone   what the spectrum alone reaches, too
    python experiments/real_faces/results.py --study FILE --primary cyborg-classical,cyborg-shuffled

A seed counts where all scenarios have finished it. `detectable` is the difference that would have
been found in four of five such studies: 2.8 standard errors of the two-level bootstrap.
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
PRIMARY = "cyborg-classical,cyborg-inverted"  # a - b, Holm over these
POWER = 1.96 + 0.84  # standard errors that a test at 0.05 finds four times of five


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
        line |= {"detectable": POWER * both.se}
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


def pairs_of(
    text: str,  # a-b,c-d
) -> list[tuple[str, str]]:
    "Pairs of scenarios."
    return [tuple(pair.split("-")) for pair in text.split(",")]


def report(
    table: pd.DataFrame,  # of `plan`, one set and one network
    scenarios: list[str],
    seeds: int,  # of the study
    primary: list[tuple[str, str]],
) -> pd.DataFrame:  # rows of the finished seeds; printed
    "Means, the primary comparisons and the exploratory ones."
    whole = table[table["state"] == "finished"].groupby("seed")["scenario"].nunique()
    finished = table[table["seed"].isin(whole.index[whole == len(scenarios)])]
    print(f"{finished['seed'].nunique()} of {seeds} seeds finished in all scenarios\n")
    if finished.empty:
        return finished
    rows = run_rows(finished)
    means = over_runs(rows).pivot(index="scenario", columns="measure", values=["mean", "sd"])
    means = means.loc[scenarios]
    cells = {
        name: means["mean", name].map("{:.3f}".format) + means["sd", name].map(" ± {:.3f}".format)
        for name in ("macro AUC", "CC")
    }
    print(text(pd.DataFrame(cells).reset_index()))
    print(text(compared(primary, rows, finished)))
    for baseline in ("classical", "cyborg"):
        pairs = [(name, baseline) for name in scenarios if name != baseline]
        print(f"Exploratory, against {baseline}:\n{text(compared(pairs, rows, finished))}")
    return finished


@call_parse
def main(
    runs: str = "",  # folder of study folders (default: CYBORG_RUNS, else runs/)
    study: Path = STUDY,  # the study file
    primary: str = PRIMARY,  # pairs of scenarios, a-b
    spectrum_alone: store_true = False,  # also measure the spectrum
):
    "Print the results of the protocol."
    study = read_study(study, runs)
    pairs = pairs_of(primary)
    for (data, network), table in plan(study).groupby(["data", "network"], sort=False):
        print(f"== {data}, {network}: ", end="")
        known = [name for name in study.scenarios if name in set(table["scenario"])]
        of = [pair for pair in pairs if set(pair) <= set(known)]
        finished = report(table, known, len(study.seeds), of)
        if spectrum_alone and len(finished):
            place = study.data[data]
            images = read_manifest(place["manifest"], place.get("root"))
            print(spectrum(images, predictions_of(finished, "classical")))
