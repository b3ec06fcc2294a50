"""Statistics against literal definitions, by counting, and on simulated data."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from oracles import (
    auc_blocks,
    auc_difference,
    average_precision,
    calibration_table,
    equal_error_rate,
    error_rates,
    partial_auc,
    source_table,
    tpr_at_fpr,
    validated_error_rates,
)
from scipy.special import expit
from scipy.stats import mannwhitneyu, norm, permutation_test, wilcoxon
from scipy.stats import t as student
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cyborg.manifest import SUMMARIES
from cyborg.measure import bootstrap, corners, errors, statistics
from cyborg.measure.auc import auc_table
from cyborg.measure.bootstrap import bootstrap_auc, roc_band
from cyborg.measure.errors import (
    bpcer_threshold,
    calibration,
    fitted_temperature,
    reliability_curve,
)
from cyborg.measure.measures import mean_map_agreement
from cyborg.measure.statistics import (
    aligned_runs,
    auc_interval,
    auc_intervals,
    holm,
    interval_of,
    over_runs,
    paired_table,
    placements,
    probability_of_improvement,
    sign_flip_p,
    wilcoxon_p,
)
from cyborg.people.ceiling import agreement_comparison, inter_annotator, others_maps
from cyborg.saliency import agreement, unit_range


def some_scores(seed, n=60, levels=12, shift=2):
    """Scores with many ties, and labels."""
    rng = np.random.default_rng(seed)
    positive = rng.permutation(n) < n // 3
    return rng.integers(0, levels, n) + shift * positive * rng.integers(0, 2, n), positive


def run_of(seed, n=20, sources=("a", "b", "g", "h"), images=0, subjects=True, levels=None):
    """Predictions of one run: cameras a and b, generators g (of a) and h (of a and b)."""
    rng, hard = np.random.default_rng(seed), np.random.default_rng(images)
    table = pd.DataFrame({"source": np.repeat(sources, n)})
    table["image"] = [f"{i}.png" for i in range(len(table))]
    synthetic = ~table["source"].isin(["a", "b"])
    table["label"] = np.where(synthetic, "synthetic", "authentic")
    table["subject"] = [str(i // 4) if subjects and i % 3 else "" for i in range(len(table))]
    table["counterpart"] = table["source"].map({"g": "a", "h": "a|b"}).fillna("")
    table["split"] = "test"
    z = hard.normal(size=len(table)) + 0.7 * rng.normal(size=len(table))
    z = z + (0.8 + 0.3 * rng.normal()) * synthetic
    z = z if levels is None else np.round(z * levels) / levels
    return table.assign(logit_0=-z / 2, logit_1=z / 2, score=expit(z))


# DeLong, all pairs


def kernel(scores, positive):
    """1 for each pair in the right order, 1/2 for a level one: (synthetic, authentic)."""
    x, y = scores[positive][:, None], scores[~positive][None]
    return (x > y) + 0.5 * (x == y)


def literal_delong(a, b, positive):
    """Covariance of two AUCs by the definition, O(n^2)."""
    ka, kb = kernel(a, positive), kernel(b, positive)
    m, n = ka.shape
    synthetic = ((ka.mean(1) - ka.mean()) * (kb.mean(1) - kb.mean())).sum() / (m - 1) / m
    authentic = ((ka.mean(0) - ka.mean()) * (kb.mean(0) - kb.mean())).sum() / (n - 1) / n
    return synthetic + authentic


@pytest.mark.parametrize("seed", range(5))
def test_delong_counts_all_pairs(seed):
    a, positive = some_scores(seed)
    b = a + np.random.default_rng(seed).integers(-3, 4, len(a))
    found = auc_interval(a, positive)
    assert found.auc == pytest.approx(kernel(a, positive).mean(), abs=1e-12)
    assert found.se == pytest.approx(np.sqrt(literal_delong(a, a, positive)), rel=1e-9)
    pair = auc_difference(a, b, positive)
    variance = literal_delong(a, a, positive) + literal_delong(b, b, positive)
    se = np.sqrt(variance - 2 * literal_delong(a, b, positive))
    assert pair.se == pytest.approx(se, rel=1e-9)
    assert pair.difference == pytest.approx(kernel(a, positive).mean() - kernel(b, positive).mean())
    assert pair.p == pytest.approx(2 * norm.sf(abs(pair.difference) / se))
    half = norm.ppf(0.975) * se
    assert (pair.low, pair.high) == pytest.approx((pair.difference - half, pair.difference + half))
    back = auc_difference(b, a, positive)
    assert (back.difference, back.p) == pytest.approx((-pair.difference, pair.p))


def test_placements_of_either_class_have_the_auc_as_mean():
    scores, positive = some_scores(7)
    shares = placements(corners.roc_corners(scores, positive), positive)
    assert shares[positive] == pytest.approx(kernel(scores, positive).mean(1))
    assert shares[~positive] == pytest.approx(kernel(scores, positive).mean(0))


@pytest.mark.parametrize("swaps", [1, 2, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_nearly_perfect_auc_keeps_its_interval(swaps, sign):
    positive = np.arange(400) >= 200
    scores = np.arange(400.0)
    scores[200 - swaps : 200 + swaps] = scores[200 - swaps : 200 + swaps][::-1].copy()
    found = auc_interval(sign * scores, positive)
    assert 0 < found.low < found.auc < found.high < 1 and found.se > 0
    # not symmetric: more room away from the border
    assert (found.auc - found.low > found.high - found.auc) == (sign == 1)


def test_perfect_auc_is_stated_and_bounded():
    scores, positive = np.arange(50), np.arange(50) >= 10
    up, down = auc_interval(scores, positive), auc_interval(-scores, positive)
    assert (up.auc, up.high, down.auc, down.low) == (1, 1, 0, 0)
    assert up.low**40 == pytest.approx(0.025**4) and down.high == pytest.approx(1 - up.low)
    assert up.reason == "AUC is 1: interval from 10 disjoint pairs"
    one = auc_interval([1, 2, 3], [False, False, True])
    assert (one.low, one.high) == (0, 1) and "one image" in one.reason and np.isnan(one.se)
    level = auc_interval(np.ones(10), np.arange(10) < 5)
    assert level[:4] == (0.5, 0, 0.5, 0.5) and level.reason == "all scores are equal"


@pytest.mark.parametrize("auc", [0.6, 0.95])
def test_delong_interval_covers(auc):
    rng, positive = np.random.default_rng(0), np.arange(80) < 40
    shift = np.sqrt(2) * norm.ppf(auc)
    found = [auc_interval(rng.normal(size=80) + shift * positive, positive) for _ in range(200)]
    share = np.mean([one.low <= auc <= one.high for one in found])
    assert 0.92 <= share <= 0.985


# tables


def test_macro_interval_knows_of_shared_images():
    """Weights of the kernel: the macro AUC as one sum over images, resampled by hand."""
    table = run_of(1, n=15)
    found = auc_intervals(table).set_index("source")
    score, source = table["score"].to_numpy(), table["source"]
    rows = {name: np.flatnonzero(source == name) for name in "abgh"}
    against = {"g": rows["a"], "h": np.concatenate([rows["a"], rows["b"]])}
    part = np.zeros(len(table))  # literal: each AUC's components, halved, added where shared
    for name, authentic in against.items():
        k = (score[rows[name]][:, None] > score[authentic]) * 1.0
        for who, axis in ((rows[name], 1), (authentic, 0)):
            share = k.mean(axis) - k.mean()
            part[who] += share / np.sqrt(len(who) * (len(who) - 1)) / 2
    assert found["se"]["macro"] == pytest.approx(np.sqrt((part**2).sum()))
    alone = np.hypot(found["se"]["g"], found["se"]["h"]) / 2
    assert found["se"]["macro"] > alone  # what is shared does not average out


def test_auc_intervals_is_auc_table_with_intervals():
    table = run_of(2)
    known, found = auc_table(table, ["g"]), auc_intervals(table, ["g"])
    same = [name for name in known if name != "reason"]
    pd.testing.assert_frame_equal(found[same].iloc[:-1], known[same])
    worst = found.iloc[-1]
    assert worst["source"] == "worst" and worst["auc"] == known["auc"][:2].min()
    assert worst["reason"].startswith(known["source"][known["auc"][:2].idxmin()])
    named = found.set_index("source")
    assert named["auc"]["macro_seen"] == named["auc"]["g"]
    assert named["low"]["macro_seen"] == pytest.approx(named["low"]["g"])
    assert named["se"]["macro_unseen"] == pytest.approx(named["se"]["h"])


def test_tables_state_what_is_missing():
    table = run_of(3)
    table = table[table["source"] != "b"].assign(counterpart="")
    table = table.assign(counterpart=table["source"].map({"h": "a"}).fillna(""))
    only = table[table["label"] == "synthetic"]
    found = auc_intervals(only)
    assert found["auc"].isna().all() and found["low"].isna().all()
    assert found["reason"][0] == "no authentic images"
    rates = error_rates(only, 0.5)
    assert rates["apcer"].notna().all() and rates["bpcer"].isna().all()
    assert list(source_table(only, auc_interval)["reason"]) == ["no authentic images"] * 3
    assert list(found["source"]) == ["g", "h", *SUMMARIES]


def test_runs_are_put_in_the_order_of_the_images():
    a, b = run_of(1), run_of(2)
    found = aligned_runs(a, b.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(found[list(b)], b)
    for wrong, text in (
        (b.iloc[1:], "1 are in only one"),
        (b.assign(label=a["label"][::-1].to_numpy()), "differs from the first in label"),
        (pd.concat([b, b.iloc[:1]]), "some twice"),
    ):
        with pytest.raises(ValueError, match=text):
            aligned_runs(a, wrong)


def test_source_table_puts_the_measure_beside_its_source():
    table = run_of(4, levels=2)
    found = source_table(table, average_precision).set_index("source")
    used = table["source"].isin(["a", "b", "h"])
    expected = average_precision(table["score"][used], table["label"][used] == "synthetic")
    assert tuple(found.loc["h", list(expected._fields)]) == pytest.approx(expected)
    assert found["prevalence"]["pooled"] == 0.5


# scenarios over seeds


@pytest.mark.parametrize("seed", range(4))
def test_sign_flips_are_counted(seed):
    d = np.random.default_rng(seed).integers(-3, 6, 9) / 10
    literal = [abs(np.dot(s, np.round(d * 10))) for s in product((1, -1), repeat=9)]
    assert sign_flip_p(d) == np.mean(np.array(literal) >= abs(np.round(d * 10).sum()))
    library = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(d) == pytest.approx(library.pvalue)


def test_sign_flips_are_sampled_beyond_twenty(monkeypatch):
    d = np.random.default_rng(0).normal(0.3, 1, 18)
    exact = sign_flip_p(d)
    monkeypatch.setattr(statistics, "EXACT_PAIRS", 5)
    sampled = sign_flip_p(d)
    assert sampled != exact and sampled == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(d, seed=0) == sampled


def test_wilcoxon_and_holm():
    d = np.array([0.3, -0.1, 0.2, 0.5, 0.4])  # ranks 3 1 2 5 4, the negative one 1
    sums = [
        sum(r for r, s in zip(range(1, 6), signs, strict=True) if s)
        for signs in product((0, 1), repeat=5)
    ]
    assert wilcoxon_p(d) == pytest.approx(2 * np.mean(np.array(sums) <= 1))
    assert wilcoxon_p(np.zeros(4)) == 1
    for ties in ([1, 1, -2, 3, 3], [-1, 3, 0, -4, 2, 2], [0.5, -0.5], [0, 3]):
        assert wilcoxon_p(ties) == pytest.approx(wilcoxon(ties).pvalue)
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    assert np.isnan(holm([np.nan])).all()


def test_probability_of_improvement_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (7, 3)), rng.integers(0, 6, (9, 3))
    u = [mannwhitneyu(x, y).statistic / 63 for x, y in zip(a.T, b.T, strict=True)]
    assert probability_of_improvement(a, b) == pytest.approx(np.mean(u))
    assert probability_of_improvement(a[:, 0], b[:, 0]) == pytest.approx(u[0])


def test_paired_table_pairs_by_seed_not_by_row():
    rng = np.random.default_rng(0)
    base, gain = rng.normal(size=(2, 8)), rng.normal(1, 0.5, size=(2, 8))
    rows = [
        (network, scenario, seed, "auc", base[k, seed] + gain[k, seed] * (scenario == "cyborg"))
        for k, network in enumerate(("x", "y"))
        for scenario in ("classical", "cyborg")
        for seed in range(8)
    ]
    results = pd.DataFrame(rows, columns=["network", "scenario", "seed", "measure", "value"])
    by = ["network", "measure"]
    results = results.sample(frac=1, random_state=1)
    table = paired_table(results, "classical", by).set_index("network").loc[["x", "y"]]
    for k, row in enumerate(table.itertuples()):
        d = gain[k]
        half = 2.364624 * d.std(ddof=1) / np.sqrt(8)  # t at 7 degrees of freedom
        assert (row.n, row.difference) == (8, pytest.approx(d.mean()))
        assert (row.low, row.high) == pytest.approx((d.mean() - half, d.mean() + half), rel=1e-5)
        assert row.p_sign_flip == sign_flip_p(d) and row.p_wilcoxon == wilcoxon_p(d)
        assert row.improvement == probability_of_improvement(base[k] + d, base[k])
        assert row.mean == pytest.approx((base[k] + d).mean())
    assert list(table["p_holm"]) == pytest.approx(list(holm(table["p_sign_flip"])))
    with pytest.raises(ValueError, match="16 values twice"):
        paired_table(results, "classical")
    summary = over_runs(results, by).set_index(["scenario", "network"])
    assert summary["sd"]["classical", "x"] == pytest.approx(base[0].std(ddof=1))
    assert set(summary["n"]) == {8}


def test_paired_table_says_what_it_lacks():
    rows = [("classical", seed, "auc", 0.5) for seed in range(4)]
    rows += [("cyborg", seed, "auc", 0.6 if seed else np.nan) for seed in range(5)]
    rows += [("box", 9, "auc", 0.6)]
    results = pd.DataFrame(rows, columns=list(statistics.RESULTS))
    table = paired_table(results, "classical").set_index("scenario")
    assert table["n"]["cyborg"] == 3 and table["difference"]["cyborg"] == pytest.approx(0.1)
    assert table["reason"]["cyborg"] == "2 seeds have no partner; 3 pairs: no p below 0.25"
    assert table["n"]["box"] == 0 and "no pairs" in table["reason"]["box"]
    assert np.isnan(table["p_holm"]["box"])
    with pytest.raises(ValueError, match="no column 'value'"):
        paired_table(results.rename(columns={"value": "auc"}), "classical")
    with pytest.raises(ValueError, match="did you mean"):
        paired_table(results, "clasical")


# two-level bootstrap


def literal_bootstrap(a, b, n, rng):
    """Resample runs, then rows, and count all pairs."""
    first, values = a[0], []
    keys = first["subject"].where(first["subject"] != "", [f"#{i}" for i in range(len(first))])
    for _ in range(n):
        drawn = {}
        for source, rows in first.groupby("source").indices.items():
            own = keys.to_numpy()[rows]
            names = np.unique(own)
            picked = rng.choice(names, len(names))
            drawn[source] = np.concatenate([rows[own == name] for name in picked])
        seeds = rng.integers(0, len(a), len(a))
        total = 0.0
        for generator, cameras in (("g", ["a"]), ("h", ["a", "b"])):
            rows = np.concatenate([drawn[generator], *[drawn[name] for name in cameras]])
            label = (first["label"] == "synthetic").to_numpy()[rows]
            for seed in seeds:
                for side, sign in ((a, 1), (b, -1)):
                    score = side[seed]["score"].to_numpy()[rows]
                    total += sign * kernel(score, label).mean() / 2 / len(a)
        values.append(total)
    return np.array(values)


def test_bootstrap_is_the_literal_one():
    a, b = ([run_of(10 * k + s, n=10, levels=1) for s in range(3)] for k in (1, 2))
    slow = literal_bootstrap(a, b, 400, np.random.default_rng(1))
    fast = bootstrap_auc(a, b, n=4000, widen=False)
    assert fast.replicates.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / 20)
    assert fast.se == pytest.approx(slow.std(), rel=0.15)
    macro = [np.mean([auc_table(x)["auc"][:2].mean() for x in side]) for side in (a, b)]
    assert fast.estimate == pytest.approx(macro[0] - macro[1])
    assert (fast.low, fast.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.06)


def test_weighted_auc_is_that_of_repeated_rows():
    """One replicate exactly: weights against rows repeated so often, ties and all."""
    run = run_of(5, n=12, levels=1)
    pairs, _ = bootstrap._chosen_pairs(run, None)
    strata = bootstrap.strata_of(run, np.ones(len(run), bool))
    weights = bootstrap._drawn(strata, len(run), 3, np.random.default_rng(0))
    found = bootstrap._weighted_aucs(bootstrap._sorted_run(run["score"].to_numpy(), pairs), weights)
    for replicate in range(3):
        again = run.iloc[np.repeat(np.arange(len(run)), weights[:, replicate].astype(int))]
        assert found[:, replicate].mean() == pytest.approx(auc_table(again)["auc"][:2].mean())


def test_blocks_are_the_first_order_of_the_exact_replicates():
    """Subjects of many images, ties, shared cameras; then so few blocks that they share them."""
    runs = [run_of(s, n=160, levels=4) for s in range(4)]
    exact = bootstrap.replicated_auc(runs, n=1500, seed=1)
    for blocks, within in ((2000, 0.06), (40, 0.25)):
        kept = [auc_blocks(run, blocks) for run in runs]
        linear = bootstrap.replicated_blocks(kept, n=1500, seed=2)
        assert linear.sources == exact.sources
        assert linear.auc == pytest.approx(exact.auc)
        assert linear.drawn.std(axis=2) == pytest.approx(exact.drawn.std(axis=2), rel=within)
        of_runs = [np.corrcoef(x.drawn.mean(axis=1))[0, 1:] for x in (exact, linear)]
        assert of_runs[1] == pytest.approx(of_runs[0], abs=within)  # the same images are hard
        for b in (None, [2, 3]):
            ends = [bootstrap.two_level(x, [0, 1], b, widen=False) for x in (exact, linear)]
            spread = 4 * ends[0].se * within
            assert ends[1][2:4] == pytest.approx(ends[0][2:4], abs=spread)
            assert ends[1][4:8] == ends[0][4:8]


def test_blocks_add_up_to_delongs_variance():
    """Images that are their own subjects: the squared sums are the variance of the AUC."""
    run = run_of(3, subjects=False)
    kept = auc_blocks(run)
    table = auc_intervals(run).set_index("source")["se"]
    found = np.sqrt(np.square(kept.sums).sum(axis=1))
    assert found == pytest.approx([table[name] for name in kept.sources], rel=1e-5)
    with pytest.raises(ValueError, match="not all of the same images"):
        bootstrap.replicated_blocks([kept, auc_blocks(run.iloc[:-1])])


@pytest.mark.parametrize("seed", range(4))
def test_corners_are_scikit_learns(seed):
    scores, positive = some_scores(seed, n=200)
    curve = corners.roc_corners(scores, positive)
    found = (curve.fpr, curve.tpr, curve.threshold)
    for ours, theirs in zip(
        found, roc_curve(positive, scores, drop_intermediate=False), strict=True
    ):
        assert ours == pytest.approx(theirs)
    assert corners.auc_of(curve) == pytest.approx(roc_auc_score(positive, scores))
    for limit in (0.05, 0.1, 0.33):
        wanted = roc_auc_score(positive, scores, max_fpr=limit)
        assert partial_auc(scores, positive, limit).pauc == pytest.approx(wanted)
    ap, prevalence, balanced = average_precision(scores, positive)
    weights = np.where(positive, 0.5 / prevalence, 0.5 / (1 - prevalence))
    assert ap == pytest.approx(average_precision_score(positive, scores))
    wanted = average_precision_score(positive, scores, sample_weight=weights)
    assert balanced == pytest.approx(wanted)


def test_subjects_come_together_within_their_source():
    run = run_of(6, n=24)
    strata = bootstrap.strata_of(run, (run["source"] != "b").to_numpy())
    weights = bootstrap._drawn(strata, len(run), 200, np.random.default_rng(0))
    assert (weights[run["source"] == "b"] == 0).all()
    for (source, subject), rows in run.groupby(["source", "subject"]).indices.items():
        if source != "b" and subject:
            assert (weights[rows] == weights[rows[0]]).all()
    alone = np.flatnonzero((run["source"] == "g") & (run["subject"] == ""))
    assert (weights[alone[0]] != weights[alone[1]]).any()
    for rows, subjects in strata:  # as many subjects as there are
        once = np.unique(subjects, return_index=True)[1]
        assert (weights[rows[once]].sum(axis=0) == len(once)).all()
    assert weights[run["source"] == "g"].mean() == pytest.approx(1, abs=0.1)


def test_bootstrap_is_paired_and_reproducible():
    a, b = ([run_of(10 * k + s) for s in range(4)] for k in (1, 2))
    found = bootstrap_auc(a, b, n=300)
    assert np.array_equal(found.replicates, bootstrap_auc(a, b, n=300).replicates)
    swapped = bootstrap_auc(b, a, n=300)
    assert swapped.replicates == pytest.approx(-found.replicates)
    shuffled = [table.sample(frac=1, random_state=0) for table in b]
    assert bootstrap_auc(a, shuffled, n=300).replicates == pytest.approx(found.replicates)
    two = bootstrap_auc(a, n=300).se, bootstrap_auc(b, n=300).se
    assert found.se < np.hypot(*two)  # the same images are hard for both
    plain = bootstrap_auc(a, b, n=300, widen=False)
    assert plain.high - plain.low < found.high - found.low
    assert found.se == plain.se == plain.replicates.std(ddof=1)  # widening is for the ends only


@pytest.mark.parametrize("runs", [3, 10])
def test_few_seeds_are_widened_to_students_interval_of_their_mean(runs):
    "Without noise of images: the standard error of the mean times Student's over the normal tail."
    own = np.random.default_rng(runs).normal(size=runs)
    values, rng = np.repeat(own[:, None], 20_000, axis=1), np.random.default_rng(0)
    drawn = bootstrap.seed_level(values, True, 0.95, rng)
    tails = student.isf(0.025, runs - 1) / norm.isf(0.025)
    assert drawn.std() == pytest.approx(tails * own.std(ddof=1) / np.sqrt(runs), rel=0.03)
    assert drawn.mean() == pytest.approx(own.mean(), abs=0.03)


def test_small_memory_gives_the_same_kind_of_replicates(monkeypatch):
    a = [run_of(s) for s in range(3)]
    whole = bootstrap_auc(a, n=500)
    monkeypatch.setattr(bootstrap, "WEIGHTS", 7 * len(a[0]))
    pieces = bootstrap_auc(a, n=500)
    assert pieces.estimate == whole.estimate and pieces.se == pytest.approx(whole.se, rel=0.2)
    assert np.isfinite(pieces.replicates).all()


def test_bootstrap_covers():
    """Runs and images both random, the true difference known: 95 % intervals hold it."""
    n, runs, hits = 80, 5, []
    positive, shifts = np.arange(n) % 2 == 0, (1.0, 1.2)
    front = {"image": [str(i) for i in range(n)], "subject": ""}
    front |= {"label": np.where(positive, "synthetic", "authentic")}
    front |= {"source": np.where(positive, "g", "a")}
    sd_run, sd_image = 0.3, 0.4
    truth = np.diff(norm.cdf(shifts / np.sqrt(2 * (1 + sd_image**2) + sd_run**2))).item()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        hard = rng.normal(size=n)
        sides = [
            [
                pd.DataFrame(front).assign(
                    score=hard
                    + (shift + sd_run * rng.normal()) * positive
                    + sd_image * rng.normal(size=n)
                )
                for _ in range(runs)
            ]
            for shift in shifts
        ]
        found = bootstrap_auc(sides[1], sides[0], n=150, seed=seed)
        hits.append(found.low <= truth <= found.high)
    assert np.mean(hits) >= 0.92


def test_bootstrap_says_what_it_cannot_hold():
    one = bootstrap_auc([run_of(0)], n=50)
    assert one.reason == "one run: images only"
    same = [run_of(s).assign(subject="x") for s in range(2)]
    assert "one subject in a source" in bootstrap_auc(same, n=50).reason
    assert bootstrap_auc(same, n=50, sources=["g"])[5:8] == (40, 2, 1)
    unread = run_of(0)
    unread.attrs["unread"] = ["k|synthetic"]
    assert bootstrap_auc([unread, run_of(1)], n=50).reason == "without k: no images"
    with pytest.raises(ValueError, match="a has 1 runs, b 2"):
        bootstrap_auc([run_of(0)], same)
    with pytest.raises(ValueError, match="sources names 'gg'"):
        bootstrap_auc([run_of(0)], sources=["gg"])
    with pytest.raises(ValueError, match=r"a\[1\] has other images"):
        bootstrap_auc([run_of(0), run_of(1).iloc[1:]])
    broken = run_of(1)
    broken.loc[3, "score"] = np.nan
    with pytest.raises(ValueError, match="score of b is not finite in 1 rows"):
        bootstrap_auc([run_of(0)], [broken])


# curves and operating points


def curve_of(seed, **how):
    scores, positive = some_scores(seed, **how)
    return pd.DataFrame(dict(zip(("fpr", "tpr"), roc_curve(positive, scores)[:2], strict=True)))


def test_bands_take_the_better_end_and_are_each_others_inverse():
    curves = [curve_of(seed) for seed in range(4)]
    grid = np.linspace(0, 1, 41)
    for given, other, best in (("fpr", "tpr", max), ("tpr", "fpr", min)):
        band = roc_band(curves, given, grid)
        for g, mean, sd in zip(grid, band["mean"], band["sd"], strict=True):
            values = []
            for curve in curves:  # literal: pieces of the curve that reach g
                points, hits = curve[[given, other]].to_numpy(), []
                for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
                    if x0 <= g <= x1:
                        hits += [y0, y1] if x0 == x1 else [y0 + (g - x0) / (x1 - x0) * (y1 - y0)]
                values.append(best(hits))
            assert mean == pytest.approx(np.mean(values)), (given, g)
            assert sd == pytest.approx(np.std(values, ddof=1))
    one = roc_band(curves[:1])
    assert one["sd"].isna().all() and len(one) == 201 and set(one["n"]) == {1}
    for arguments, text in ((([],), "empty"), ((curves, "auc"), "expected 'fpr' or 'tpr'")):
        with pytest.raises(ValueError, match=text):
            roc_band(*arguments)


@pytest.mark.parametrize("seed", range(5))
def test_tpr_at_fpr_is_that_of_the_best_threshold(seed):
    scores, positive = some_scores(seed, n=90)
    thresholds = [*np.unique(scores), np.inf]
    rates = [((scores >= t)[~positive].mean(), (scores >= t)[positive].mean()) for t in thresholds]
    for limit in (0.02, 0.1, 1 / 3):
        found = tpr_at_fpr(scores, positive, limit)
        best = max(tpr for fpr, tpr in rates if fpr <= limit + 1e-12)
        assert found.tpr == best and found.fpr <= limit + 1e-12
        assert (scores >= found.threshold)[positive].mean() == best


def test_rates_that_cannot_be_told_are_refused():
    scores, positive = np.arange(200.0), np.arange(200) >= 100
    assert tpr_at_fpr(scores, positive, 0.01).tpr == 1
    few = tpr_at_fpr(scores, positive, 0.001)
    assert np.isnan(few.tpr) and few.reason == "100 authentic images do not show a rate of 0.001"
    assert np.isnan(partial_auc(scores, positive, 0.001).pauc)
    assert partial_auc(scores, positive, 0.1) == (1, "")
    # all are found before the first false alarm: none is spent that buys nothing
    assert tpr_at_fpr(scores, np.arange(200) >= 30, 0.1) == (1, 0, 30, "")
    for limit in (0, 1, 5):
        with pytest.raises(ValueError, match="expected a share between 0 and 1"):
            tpr_at_fpr(scores, positive, limit)


def test_level_scores_share_one_threshold():
    """All authentic images at one score with half of the synthetic ones: none can be taken."""
    scores = np.array([1, 1, 1, 1, 1, 2])
    found = tpr_at_fpr(scores, [False, False, False, True, True, True], 0.4)
    assert found == (pytest.approx(1 / 3), 0, 2, "")


# error rates


@pytest.mark.parametrize("seed", range(8))
def test_eer_lies_on_the_curve_where_errors_are_equal(seed):
    scores, positive = some_scores(seed, levels=6)
    found = equal_error_rate(scores, positive)
    fpr, tpr, thresholds = roc_curve(positive, scores, drop_intermediate=False)
    part = np.linspace(0, 1, 1001)[:, None]  # walk along every piece of the curve
    along = [rate[:-1] + part * np.diff(rate) for rate in (fpr, tpr)]
    nearest = np.abs(along[0] + along[1] - 1).argmin()
    assert found.eer == pytest.approx(along[0].flat[nearest], abs=1e-3)
    before = fpr + tpr <= 1 + 1e-12
    assert found.threshold == thresholds[before].min()
    assert equal_error_rate(-scores, ~positive).eer == pytest.approx(found.eer)


def test_eer_of_perfect_and_useless_scores():
    positive = np.arange(10) >= 5
    assert equal_error_rate(np.arange(10), positive).eer == 0
    assert equal_error_rate(-np.arange(10), positive).eer == 1
    assert equal_error_rate(np.zeros(10), positive).eer == 0.5


@pytest.mark.parametrize("n", [20, 30, 100, 700])
def test_bpcer_threshold_is_the_lowest_that_keeps_the_limit(n):
    scores = np.random.default_rng(n).integers(0, 3 * n, n) / n
    for limit in (0.05, 0.1, 0.29):
        found = bpcer_threshold(scores, limit)
        assert found.bpcer == (scores >= found.threshold).mean() <= limit + 1e-12
        below = scores[scores < found.threshold].max()
        assert (scores >= below).mean() > limit + 1e-12


def test_errors_of_a_literal_table():
    rows = [("a", "authentic", 0.1), ("a", "authentic", 0.6), ("g", "synthetic", 0.5)]
    rows += [("g", "synthetic", 0.4), ("h", "synthetic", 0.9), ("h", "synthetic", 0.7)]
    table = error_rates(pd.DataFrame(rows, columns=["source", "label", "score"]), threshold=0.5)
    assert list(table["apcer"]) == [0.5, 0, 0.5]  # g: 0.4 passes; h: none; max is g's
    assert list(table["bpcer"]) == [0.5, 0.5, 0.5]


def test_thresholds_come_from_validation_alone():
    validation, test = run_of(1, n=30, images=1).assign(split="val"), run_of(2, n=30)
    found = validated_error_rates(validation, test, bpcers=(0.1, 0.01))
    authentic = validation["score"][validation["label"] == "authentic"].to_numpy()
    for limit, rows in found.groupby("limit"):
        at = bpcer_threshold(authentic, limit)
        if limit == 0.01:  # 60 images
            assert rows["apcer"].isna().all() and "60 authentic" in rows["reason"].iloc[0]
            continue
        assert (rows["threshold"] == at.threshold).all() and at.bpcer == 0.1
        own = rows.set_index("source")
        for generator, cameras in (("g", ["a"]), ("h", ["a", "b"])):
            passed = (test["score"][test["source"] == generator] < at.threshold).mean()
            refused = (test["score"][test["source"].isin(cameras)] >= at.threshold).mean()
            assert own["apcer"][generator] == pytest.approx(passed)
            assert own["bpcer"][generator] == pytest.approx(refused)
        assert own["apcer"]["max"] == own["apcer"][["g", "h"]].max()
    altered = test.assign(score=test["score"] * 0.5)
    assert found["threshold"].equals(
        validated_error_rates(validation, altered, (0.1, 0.01))["threshold"]
    )


def test_balanced_ap_does_not_depend_on_prevalence():
    scores, positive = some_scores(3, n=300)
    twice = np.concatenate([scores, np.repeat(scores[~positive], 6)])
    more = np.concatenate([positive, np.zeros(len(twice) - len(scores), bool)])
    few, many = average_precision(scores, positive), average_precision(twice, more)
    assert many.balanced_ap == pytest.approx(few.balanced_ap) and many.ap < few.ap
    assert (few.prevalence, many.prevalence) == (1 / 3, pytest.approx(1 / 15))


# calibration


def test_reliability_is_scikit_learns():
    rng = np.random.default_rng(0)
    for p in (rng.random(200), np.round(rng.random(200), 1)):
        y = rng.random(200) < p
        ours = reliability_curve(p, y, 8)
        observed, predicted = calibration_curve(y, p, n_bins=8, strategy="quantile")
        assert list(ours["observed"]) == pytest.approx(list(observed))
        assert list(ours["predicted"]) == pytest.approx(list(predicted))
        assert ours["n"].sum() == 200
        assert np.average(ours["predicted"], weights=ours["n"]) == pytest.approx(p.mean())
        shuffled = rng.permutation(200)  # equal scores stay together: the order plays no part
        pd.testing.assert_frame_equal(ours, reliability_curve(p[shuffled], y[shuffled], 8))


def test_a_constant_score_is_one_bin():
    found = reliability_curve(np.full(10, 0.3), np.arange(10) < 4)
    assert found.to_numpy().tolist() == [[10, pytest.approx(0.3), 0.4]]


def test_an_interval_needs_no_images():
    rng, positive = np.random.default_rng(0), np.arange(60) >= 25
    for scores in (rng.normal(size=60) + positive, np.arange(60.0), np.ones(60)):
        found = auc_interval(scores, positive)
        assert interval_of(found.auc, found.se, 25) == found
    assert interval_of(1.0, 0.0, 25).low < 0.9  # no image was wrong: not the same as certain
    with pytest.raises(ValueError, match="level is 95"):
        interval_of(0.7, 0.1, 25, 95)


def test_ece_weighs_bins_by_their_images():
    p, y = np.repeat([0.2, 0.5, 0.9], [6, 2, 2]), np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1])
    found = calibration(np.stack([np.zeros(10), np.log(p / (1 - p))], axis=1), y, bins=3)
    assert found.ece == pytest.approx(0.6 * 0.3 + 0.2 * 0.5 + 0.2 * 0.1)


def test_temperature_is_the_best_of_a_grid():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 3)) * 4
    labels = np.where(rng.random(300) < 0.6, logits.argmax(1), rng.integers(0, 3, 300))
    found = fitted_temperature(logits, labels)
    grid = np.geomspace(0.5, 50, 400)
    nll = [errors._nll(logits / value, labels) for value in grid]
    assert found.temperature == pytest.approx(grid[np.argmin(nll)], rel=0.02) and not found.reason
    wrong = fitted_temperature(logits, (logits.argmax(1) + 1) % 3)
    assert wrong.temperature > 99 and wrong.reason == "at the end of the range"
    with pytest.raises(ValueError, match="expected 0 to 2"):
        fitted_temperature(logits, labels + 1)
    for right in (logits, np.zeros_like(logits)):  # told apart without an error, and not at all
        sure = fitted_temperature(right, logits.argmax(1))
        assert sure == (1, "no error on validation: not fitted")
    with pytest.raises(ValueError, match=r"logits has shape \(300,\)"):
        fitted_temperature(logits[:, 0], labels)


def test_calibration_table_fits_on_validation_only():
    validation, test = run_of(1, n=50, images=1).assign(split="val"), run_of(2, n=50)
    table = calibration_table(validation, test)
    logits = validation[["logit_0", "logit_1"]].to_numpy()
    fitted = fitted_temperature(logits, validation["label"] == "synthetic").temperature
    assert list(table["temperature"]) == [1, fitted, 1, fitted]
    assert table["nll"][1] < table["nll"][0]
    expected = calibration(
        test[["logit_0", "logit_1"]].to_numpy() / fitted, test["label"] == "synthetic"
    )
    assert tuple(table.loc[3, list(expected._fields)]) == pytest.approx(expected)
    p = test["score"].to_numpy()
    assert table["brier"][2] == pytest.approx(((p - (test["label"] == "synthetic")) ** 2).mean())


# agreement


def test_others_are_the_mean_of_all_but_one():
    maps = np.random.default_rng(0).random((4, 6, 5))
    for i, other in enumerate(others_maps(maps)):
        rest = np.mean([unit_range(m) for j, m in enumerate(maps) if j != i], axis=0)
        assert other == pytest.approx(unit_range(rest), abs=1e-6)
        expected = agreement(unit_range(rest)[None], unit_range(maps[i])[None])
        for name, values in inter_annotator(maps).items():
            assert values[i] == pytest.approx(expected[name][0], abs=1e-4)
    with pytest.raises(ValueError, match="A >= 2"):
        others_maps(maps[:1])


def test_agreement_is_compared_on_the_same_targets():
    rng = np.random.default_rng(1)
    annotators = [rng.random((n, 5, 5)) for n in (3, 2, 1, 4)]  # the third has no others
    annotators[3][0] = 0.2  # flat: says nothing, and nobody is measured by it
    model, mean_map = rng.random((4, 5, 5)), rng.random((5, 5))
    table = agreement_comparison(model, annotators, mean_map).set_index("metric")
    assert set(table["n_images"]) == {3} and set(table["n_annotators"]) == {8}
    means = {"model": [], "ceiling": [], "mean_map": []}
    for i, there in ((0, [0, 1, 2]), (1, [0, 1]), (3, [1, 2, 3])):
        stack = annotators[i][there]
        means["model"].append(
            agreement(unit_range(model[[i] * len(there)]), unit_range(stack))["cc"]
        )
        means["ceiling"].append(inter_annotator(annotators[i])["cc"][there])
        means["mean_map"].append(mean_map_agreement(mean_map, stack)["cc"])
    for name, by_image in means.items():
        assert table[name]["cc"] == pytest.approx(np.mean([x.mean() for x in by_image]), abs=1e-6)
    with pytest.raises(ValueError, match="1 an image at most"):
        agreement_comparison(model[:1], [annotators[2]], mean_map)
    with pytest.raises(ValueError, match="annotators 3"):
        agreement_comparison(model, annotators[:3], mean_map)


# bad input


@pytest.mark.parametrize(
    ("scores", "positive", "text"),
    [
        ([1, 2, 3], [True, False], r"scores has shape \(3,\), positive \(2,\)"),
        ([1, 2], [0, 2], "expected True and False"),
        ([1, np.inf], [0, 1], "not finite in 1 of 2"),
        ([1, 2], [1, 1], "positive is 2 of 2"),
        ([], [], "positive is 0 of 0"),
    ],
)
def test_what_cannot_be_ranked_is_refused(scores, positive, text):
    measures = (auc_interval, tpr_at_fpr, partial_auc, equal_error_rate)
    for measure in (*measures, average_precision):
        with pytest.raises(ValueError, match=text):
            measure(scores, positive)


def test_other_bad_input():
    for call, text in (
        (lambda: sign_flip_p([]), "one finite number a pair"),
        (lambda: wilcoxon_p([np.nan]), "one finite number a pair"),
        (lambda: probability_of_improvement([1], [[1, 2]]), "expected .runs,."),
        (lambda: bpcer_threshold([np.nan] * 30), "expected finite scores"),
        (lambda: reliability_curve([0.5, 1.5], [0, 1]), r"in \[0, 1\]"),
        (lambda: reliability_curve([0.5], [0], bins=0), "bins is 0"),
        (lambda: auc_interval([1, 2], [0, 1], level=95), "level is 95"),
        (lambda: auc_intervals(run_of(0).drop(columns="score")), "no column of predictions"),
    ):
        with pytest.raises(ValueError, match=text):
            call()
