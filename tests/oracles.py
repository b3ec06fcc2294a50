"""Measures of scores and tables in the slow and literal way, to hold the package against."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from cyborg.measure.auc import auc_table, compared, comparisons, pooled
from cyborg.measure.bootstrap import BLOCKS, AUCBlocks, blocked
from cyborg.measure.corners import roc_corners
from cyborg.measure.errors import (
    EER,
    AveragePrecision,
    OperatingPoint,
    PartialAUC,
    average_precision_of,
    bpcer_threshold,
    calibration,
    eer_of,
    fitted_temperature,
    operating_point,
    partial_auc_of,
)
from cyborg.measure.statistics import influence, influence_of


def tpr_at_fpr(scores, positive, fpr: float = 0.01) -> OperatingPoint:
    return operating_point(roc_corners(scores, positive), fpr)


def partial_auc(scores, positive, max_fpr: float = 0.1) -> PartialAUC:
    return partial_auc_of(roc_corners(scores, positive), max_fpr)


def equal_error_rate(scores, positive) -> EER:
    return eer_of(roc_corners(scores, positive))


def average_precision(scores, positive) -> AveragePrecision:
    return average_precision_of(roc_corners(scores, positive))


class AUCDifference(NamedTuple):
    "Difference of two AUCs on the same images, by DeLong's paired test."

    difference: float  # a - b
    se: float
    low: float
    high: float
    p: float


def auc_difference(a, b, positive) -> AUCDifference:
    "What two networks share cancels image by image."
    a, b = (influence(roc_corners(scores, positive), positive) for scores in (a, b))
    difference, se = a.auc - b.auc, np.sqrt(np.square(a.images - b.images).sum())
    half = norm.isf(0.025) * se
    p = 2 * norm.sf(abs(difference) / se)
    return AUCDifference(difference, se, difference - half, difference + half, p)


def source_table(predictions: pd.DataFrame, measure) -> pd.DataFrame:
    "A measure of scores and labels for each generator, then for all; source, its fields, reason."
    scores, rows = predictions["score"].to_numpy(), []
    for pair in [*comparisons(predictions), pooled(predictions)]:
        used = pair.synthetic | pair.authentic
        there = pair.synthetic.any() and pair.authentic.any()
        found = measure(scores[used], pair.synthetic[used])._asdict() if there else {}
        rows.append({"source": pair.source} | found)
    reasons = auc_table(predictions)["reason"][: len(rows)]
    return pd.DataFrame(rows).assign(reason=reasons)


def error_rates(predictions: pd.DataFrame, threshold: float) -> pd.DataFrame:
    "APCER of each generator and BPCER of its counterpart; then the worst APCER (max)."
    flagged = predictions["score"].to_numpy() >= threshold
    rate = lambda rows: flagged[rows].mean() if rows.any() else np.nan  # noqa: E731
    rows = [
        {"source": p.source, "apcer": 1 - rate(p.synthetic), "bpcer": rate(p.authentic)}
        for p in comparisons(predictions)
    ]
    table = pd.DataFrame(rows)
    worst = table["apcer"].idxmax()
    last = {"source": "max", "apcer": table["apcer"][worst]}
    last |= {"bpcer": rate(pooled(predictions).authentic)}
    table = pd.DataFrame([*rows, last]).assign(reason="")
    table.loc[len(rows), "reason"] = f"APCER of {table['source'][worst]}"
    return table


def validated_error_rates(
    validation: pd.DataFrame, test: pd.DataFrame, bpcers=(0.01, 0.05, 0.10)
) -> pd.DataFrame:
    "`error_rates` of the test split at thresholds of the validation split: limit, threshold, ..."
    authentic, tables = validation["score"].to_numpy()[pooled(validation).authentic], []
    for limit in bpcers:
        found = bpcer_threshold(authentic, limit)
        table = error_rates(test, np.inf if found.reason else found.threshold)
        if found.reason:
            table[["apcer", "bpcer"]] = np.nan
            table["reason"] = f"validation: {found.reason}"
        tables.append(table.assign(limit=limit, threshold=found.threshold))
    return pd.concat(tables, ignore_index=True)


def calibration_table(validation: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    "Calibration of both splits, before and after the temperature fitted on validation."
    sets = {
        name: (table[["logit_0", "logit_1"]].to_numpy(), pooled(table).synthetic)
        for name, table in (("validation", validation), ("test", test))
    }
    fitted = fitted_temperature(*sets["validation"])
    return pd.DataFrame(
        {"split": name, "temperature": by} | calibration(logits / by, own)._asdict()
        for name, (logits, own) in sets.items()
        for by in (1.0, fitted.temperature)
    )


def auc_blocks(predictions: pd.DataFrame, blocks: int = BLOCKS) -> AUCBlocks:
    "What replicates need to know of one run."
    own = [side for side in compared(predictions)[:-1] if side.corners]
    return blocked(predictions, own, [influence_of(side) for side in own], blocks)
