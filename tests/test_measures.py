"""Measures of a run against literal counts, and what is kept of them."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oracles import (
    average_precision,
    calibration_table,
    equal_error_rate,
    partial_auc,
    source_table,
    tpr_at_fpr,
    validated_error_rates,
)
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from cyborg.files import kept
from cyborg.grids import open_maps
from cyborg.manifest import METRICS, read_manifest
from cyborg.marks import strokes_mask
from cyborg.measure import measures
from cyborg.measure.auc import compared
from cyborg.measure.bootstrap import bootstrap_auc
from cyborg.measure.errors import fitted_temperature
from cyborg.measure.measures import (
    RATES,
    MeasuredRun,
    mean_map_baseline,
    measured,
    remembered,
    scenario_intervals,
)
from cyborg.people import ceiling
from cyborg.people.ceiling import (
    annotation_rows,
    annotator_agreement,
    annotator_maps,
    find_annotations,
    study_annotators,
)
from cyborg.people.exchange import write_annotations
from cyborg.people.tables import as_table
from cyborg.predictions import PredictionsError
from cyborg.saliency import agreement, human_map, resize_map, unit_range, write_map

SEEN = ["a", "b", "g"]


def predictions_of(seed, n=150, sources=("a", "b", "g", "h", "k"), split="test", levels=None):
    """Cameras a and b, generators g (of a), h (of a and b) and k (of both, for want of a name)."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"source": np.repeat(sources, n)})
    table["image"] = [f"{split}{i}.png" for i in range(len(table))]
    synthetic = ~table["source"].isin(["a", "b"])
    table["label"] = np.where(synthetic, "synthetic", "authentic")
    table["subject"] = [str(i // 3) for i in range(len(table))]
    table["counterpart"] = table["source"].map({"g": "a", "h": "a|b"}).fillna("")
    z = rng.normal(size=len(table)) + table["source"].map({"g": 1.5, "h": 1.0, "k": 0.4}).fillna(0)
    z = z if levels is None else np.round(z * levels) / levels
    table = table.assign(split=split, logit_0=-z, logit_1=z, score=expit(2 * z))
    table["predicted"] = np.where(z > 0, "synthetic", "authentic")
    table[list(METRICS)] = rng.random((len(table), len(METRICS)))
    table.loc[table["source"] == "k", list(METRICS)] = np.nan
    return table


def write(folder, test, validation=None, classes=("authentic", "synthetic"), **note):
    """A run folder as far as measures read it."""
    for table, where in ((test, folder), (validation, folder / "validation")):
        if table is None:
            continue
        where.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"classes": list(classes), **note}).encode()
        table = pa.Table.from_pandas(table, preserve_index=False)
        pq.write_table(
            table.replace_schema_metadata({b"cyborg": text}), where / "predictions.parquet"
        )
    (folder / "config.json").write_text(
        json.dumps({"settings": {}, "provenance": {"training_sources": SEEN}})
    )
    return folder


def values(found):
    table = found.measures.set_index(["measure", "source"])
    assert table.index.is_unique
    return table["value"], table["reason"]


@pytest.fixture(scope="module", params=[None, 4], ids=["all unlike", "many alike"])
def run(request, tmp_path_factory):
    test = predictions_of(0, levels=request.param)
    validation = predictions_of(1, split="val", sources=("a", "g"), levels=request.param)
    folder = tmp_path_factory.mktemp("runs") / "run"
    write(folder, test, validation, settings={"map_size": "7x5"})
    return test, validation, measured(folder)


def rows_of(test, source):
    """Scores and labels of a generator and its counterpart."""
    cameras = {"g": ["a"], "h": ["a", "b"], "k": ["a", "b"]}
    sources = list(test["source"].unique()) if source == "pooled" else [source, *cameras[source]]
    own = test[test["source"].isin(sources)]
    return own["score"].to_numpy(), (own["label"] == "synthetic").to_numpy()


def test_order_is_that_of_the_functions_on_scores(run):
    test, _, found = run
    value, _ = values(found)
    for source in ("g", "h", "k", "pooled"):
        scores, positive = rows_of(test, source)
        assert value["auc", source] == pytest.approx(roc_auc_score(positive, scores))
        assert value["eer", source] == pytest.approx(equal_error_rate(scores, positive).eer)
        assert value["pauc_0.1", source] == pytest.approx(partial_auc(scores, positive).pauc)
        assert value["tpr_at_fpr_0.01", source] == tpr_at_fpr(scores, positive, 0.01).tpr
        ap, prevalence, balanced = average_precision(scores, positive)
        assert value["ap", source] == pytest.approx(ap)
        assert value["prevalence", source] == pytest.approx(prevalence)
        assert value["balanced_ap", source] == pytest.approx(balanced)
        assert value["n_synthetic", source] == positive.sum()
        assert value["n_authentic", source] == (~positive).sum()
    for measure in ("auc", "pauc_0.1", "eer", "balanced_ap", "tpr_at_fpr_0.01"):
        of = [value[measure, source] for source in ("g", "h", "k")]
        assert value[measure, "macro"] == pytest.approx(np.mean(of))
        assert value[measure, "macro_seen"] == pytest.approx(of[0])
        assert value[measure, "macro_unseen"] == pytest.approx(np.mean(of[1:]))
    assert value["auc", "worst"] == value["auc", "k"]
    assert source_table(test, equal_error_rate)["eer"].tolist() == pytest.approx(
        [value["eer", source] for source in ("g", "h", "k", "pooled")]
    )


def test_thresholds_come_from_validation(run):
    test, validation, found = run
    value, reason = values(found)
    table = validated_error_rates(validation, test).set_index(["limit", "source"])
    for limit in (0.01, 0.05, 0.1):
        for source in ("g", "h", "k"):
            wanted = table.loc[(limit, source)]
            assert value[f"apcer_at_bpcer_{limit:g}", source] == pytest.approx(wanted["apcer"])
            assert value[f"bpcer_at_bpcer_{limit:g}", source] == pytest.approx(wanted["bpcer"])
        wanted = table.loc[(limit, "max")]
        assert value[f"apcer_at_bpcer_{limit:g}", "max"] == pytest.approx(wanted["apcer"])
        assert value[f"bpcer_at_bpcer_{limit:g}", "pooled"] == pytest.approx(wanted["bpcer"])
        assert reason[f"apcer_at_bpcer_{limit:g}", "max"] == wanted["reason"]
        assert value[f"threshold_at_bpcer_{limit:g}", ""] == wanted["threshold"]


def test_a_score_at_the_threshold_is_flagged(run):
    test, _, _ = run
    side = compared(test, SEEN)[0]
    scores, positive = rows_of(test, "g")
    for threshold in [*scores[::20], scores.max() + 1, scores.min() - 1]:
        flagged = scores >= threshold
        wanted = 1 - flagged[positive].mean(), flagged[~positive].mean()
        assert measures._at(side, threshold) == pytest.approx(wanted)


def test_calibration_is_that_of_the_table(run):
    test, validation, found = run
    value, _ = values(found)
    table = calibration_table(validation, test)
    before, after = (row for _, row in table[table["split"] == "test"].iterrows())
    for name in ("ece", "brier", "nll"):
        assert value[name, ""] == pytest.approx(before[name])
        assert value[f"{name}_scaled", ""] == pytest.approx(after[name])
    positive = test["label"] == "synthetic"
    assert value["brier", ""] == pytest.approx(brier_score_loss(positive, test["score"]))
    assert value["nll", ""] == pytest.approx(log_loss(positive, test["score"]))
    logits = validation[["logit_0", "logit_1"]].to_numpy()
    fitted = fitted_temperature(logits, validation["label"] == "synthetic")
    assert value["temperature", ""] == fitted.temperature
    curves = found.reliability
    assert set(zip(curves["split"], curves["scaled"], strict=True)) == {
        (split, scaled) for split in ("val", "test") for scaled in (False, True)
    }
    for split, whole in (("val", validation), ("test", test)):
        for _, own in curves[curves["split"] == split].groupby("scaled"):
            assert own["n"].sum() == len(whole)
            mean = np.average(own["observed"], weights=own["n"])
            assert mean == pytest.approx((whole["label"] == "synthetic").mean())


def test_agreement_and_accuracy_by_source(run):
    test, _, found = run
    value, reason = values(found)
    for source, own in [("", test), *test.groupby("source")]:
        assert value["n_images", source] == len(own)
        assert value["n_maps", source] == own["cc"].count()
        right = (own["label"] == own["predicted"]).mean()
        assert value["accuracy", source] == pytest.approx(right)
        for metric in METRICS:
            assert value[metric, source] == pytest.approx(own[metric].mean(), nan_ok=True)
    assert reason["iou", "k"] == "no image has a map"


def test_what_is_seen_and_what_is_missing_is_said(run):
    test, _, found = run
    table = found.measures
    generators = table[table["seen"].notna()]
    assert set(generators["source"]) == {"g", "h", "k"}
    assert set(generators.loc[generators["seen"].astype(bool), "source"]) == {"g"}
    missing = table[table["value"].isna()]
    assert (missing["reason"] != "").all()
    assert ("tpr_at_fpr_0.001", "pooled") in set(
        zip(missing["measure"], missing["source"], strict=True)
    )
    assert found.cells == "7x5"


def literal_rate(curve, given, at):
    """The better end of a curve made of straight pieces above one place."""
    hits = []
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= at <= x1:
            hits += [y0, y1] if x0 == x1 else [y0 + (at - x0) / (x1 - x0) * (y1 - y0)]
    return max(hits) if given == "fpr" else min(hits)


def test_curves_pass_through_what_thresholds_reach(run):
    test, _, found = run
    assert len(RATES) == len(np.unique(RATES)) >= 220
    assert found.rocs.groupby("source").size().tolist() == [len(RATES)] * 6
    for source in ("h", "pooled"):
        scores, positive = rows_of(test, source)
        thresholds = [np.inf, *np.unique(scores)[::-1]]
        points = [
            ((scores >= t)[~positive].mean(), (scores >= t)[positive].mean()) for t in thresholds
        ]
        own = found.rocs[found.rocs["source"] == source]
        for row in own.iloc[:: len(own) // 12].itertuples():
            at = RATES[np.abs(RATES - row.rate).argmin()]
            assert row.tpr == pytest.approx(literal_rate(points, "fpr", at), abs=1e-6)
            turned = [(tpr, fpr) for fpr, tpr in points]
            assert row.fpr == pytest.approx(literal_rate(turned, "tpr", at), abs=1e-6)
    seen = found.rocs[found.rocs["source"] == "pooled_seen"]
    assert seen["tpr"].tolist() == found.rocs.loc[found.rocs["source"] == "g", "tpr"].tolist()


def test_runs_with_little_in_them(tmp_path):
    few = predictions_of(0, n=1)
    value, reason = values(measured(write(tmp_path / "few", few, few.assign(split="val"))))
    assert np.isnan(value["auc_se", "g"])
    assert reason["auc_se", "g"] == "one image in a class: no variance"
    assert reason["apcer_at_bpcer_0.01", "g"].startswith("validation: 2 authentic images do not")
    lone = predictions_of(0, sources=("a", "g"))
    found = measured(write(tmp_path / "lone", lone, unread=["k|synthetic"]))
    value, reason = values(found)
    assert reason["auc", "k"] == "no synthetic images"
    assert reason["auc", "macro"] == "mean of 1 of 2 sources"
    assert reason["auc", "macro_unseen"] == "mean of 0 of 1 sources"
    assert "k" not in set(found.rocs["source"])
    assert found.blocks.reason == "without k: no images"
    assert set(found.reliability["split"]) == {"test"}
    real = predictions_of(0, sources=("a", "b"))
    found = measured(write(tmp_path / "real", real))
    assert found.blocks is None and len(found.rocs) == 0
    assert values(found)[1]["auc", "worst"] == "no such source"


def test_what_cannot_be_measured_is_refused(tmp_path):
    test = predictions_of(0, n=5)
    broken = test.assign(score=test["score"].where(test.index != 3))
    with pytest.raises(ValueError, match="score is not finite in 1 of 25 rows"):
        measured(write(tmp_path / "nan", broken))
    with pytest.raises(ValueError, match="no images"):
        measured(write(tmp_path / "none", test.iloc[:0]))
    with pytest.raises(PredictionsError, match="columns .'cc'. are not in"):
        measured(write(tmp_path / "cc", test.drop(columns="cc")))
    with pytest.raises(ValueError, match="expected two"):
        measured(write(tmp_path / "three", test, classes=("authentic", "synthetic", "other")))


def test_columns_that_a_manifest_need_not_have(tmp_path):
    test = predictions_of(0).drop(columns=["subject", "counterpart", "split"])
    value, _ = values(measured(write(tmp_path / "run", test)))
    assert value["n_authentic", "g"] == 300  # against both cameras


def test_the_hash_tells_images_apart(tmp_path):
    test = predictions_of(0)
    changes = {
        "image": test.assign(image=test["image"].replace("test3.png", "test_.png")),
        "order": test.iloc[::-1],
        "subject": test.assign(subject=""),
        "fewer": test.iloc[:-1],
        "label": test.assign(label=test["label"].where(test.index != 400, "authentic")),
    }
    first = measured(write(tmp_path / "first", test)).images
    for name, table in changes.items():
        assert measured(write(tmp_path / name, table)).images != first, name
    other_scores = predictions_of(5)
    assert measured(write(tmp_path / "scores", other_scores)).images == first


def test_what_is_kept_is_what_was_measured(tmp_path, monkeypatch):
    run, path = (
        write(tmp_path / "run", predictions_of(0), predictions_of(1, split="val")),
        tmp_path / "k.npz",
    )
    first = remembered(run, path)
    monkeypatch.setattr(measures, "measured", None)
    again = remembered(run, path)
    for name in ("measures", "rocs", "reliability"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
    for x, y in zip(first.blocks, again.blocks, strict=True):
        assert np.array_equal(x, y) if isinstance(x, np.ndarray) else str(x) == str(y)
    assert (first.images, first.cells) == (again.images, again.cells)
    monkeypatch.setattr(measures, "measures_digest", lambda: "other code")
    with pytest.raises(TypeError):
        remembered(run, path)  # measures anew


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"nonsense"])
def test_a_damaged_file_is_made_anew(content, tmp_path):
    path = tmp_path / "kept.npz"
    path.write_bytes(content)
    assert kept(path, {}, lambda: {"word": "x"}) == {"word": "x"}
    assert kept(path, {}, dict) == {"word": "x"}


def of_study(tmp_path, n=60, seeds=3):
    runs, tables = {}, {}
    for k, scenario in enumerate(("classical", "cyborg", "noise")):
        for seed in range(seeds):
            table = predictions_of([seed, k], n)
            tables[scenario, seed] = table
            folder = write(tmp_path / f"{scenario}{seed}", table)
            runs[scenario, seed] = MeasuredRun(folder, measured(folder))
    return runs, tables


def test_intervals_are_those_of_the_bootstrap(tmp_path, monkeypatch):
    runs, tables = of_study(tmp_path)
    exact = scenario_intervals(runs, "classical")
    monkeypatch.setattr(measures, "WORK", 0)
    linear = scenario_intervals(runs, "classical")
    keys = ["scenario", "baseline", "measure"]
    assert exact[keys].to_numpy().tolist() == linear[keys].to_numpy().tolist()
    assert len(exact) == 5 * 3  # three alone, two against the first; all, seen, unseen
    sides = {s: [tables[s, seed] for seed in range(3)] for s in ("classical", "cyborg", "noise")}
    sources = {"macro": None, "macro_seen": ["g"], "macro_unseen": ["h", "k"]}
    for (_, e), (_, x) in zip(exact.iterrows(), linear.iterrows(), strict=True):
        against = sides.get(e["baseline"])
        wanted = bootstrap_auc(sides[e["scenario"]], against, sources[e["measure"]], n=2000)
        assert e["estimate"] == pytest.approx(wanted.estimate)
        assert x["estimate"] == pytest.approx(wanted.estimate)
        for found in (e, x):
            assert found["se"] == pytest.approx(wanted.se, rel=0.12)
            ends = pytest.approx([wanted.low, wanted.high], abs=0.06 * (wanted.high - wanted.low))
            assert [found["low"], found["high"]] == ends
            counts = ["n_runs", "n_images", "n_subjects", "n_sources"]
            assert found[counts].tolist() == list(wanted[4:8])
        assert e["reason"].startswith("exact, 2,000 replicates")
        assert x["reason"].startswith("linearised, 100 blocks, 2,000 replicates")


def test_intervals_of_what_is_there(tmp_path):
    runs, _ = of_study(tmp_path)
    for key in (("cyborg", 0), ("cyborg", 1), ("noise", 0), ("noise", 1), ("noise", 2)):
        del runs[key]
    runs["noise", 7] = runs["classical", 0]
    table = scenario_intervals(runs, "classical").set_index(["scenario", "baseline", "measure"])
    assert table.loc[("cyborg", "classical", "macro"), "n_runs"] == 1
    assert "2 runs have no partner" in table.loc[("cyborg", "classical", "macro"), "reason"]
    assert table.loc[("noise", "classical", "macro"), "reason"] == "no seed in common"
    assert np.isnan(table.loc[("noise", "classical", "macro"), "estimate"])
    assert len(scenario_intervals({}, "classical")) == 0


def test_the_mean_map_is_measured_as_networks_are(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        split = ("train", "test", "test")[i % 3]
        source = ("camera", "maker")[i % 2]
        label = ("authentic", "synthetic")[i % 2]
        map = f"map{i}.png" if i % 5 else ""
        if map:
            write_map(tmp_path / map, rng.random((32, 32)) ** 3)
        rows.append((f"{i}.png", label, source, split, map, ""))
    table = pd.DataFrame(rows, columns=["image", "label", "source", "split", "map", "subject"])
    table.to_csv(tmp_path / "manifest.csv", index=False)
    manifest = read_manifest(tmp_path / "manifest.csv", tmp_path)
    found = mean_map_baseline(manifest, (4, 4), tmp_path / "cache")
    own = {s: open_maps(manifest.split(s), (4, 4), tmp_path / "cache") for s in ("train", "test")}
    maps = {s: m.cells[m.slot[m.slot >= 0]] for s, m in own.items()}
    mean = unit_range(np.mean([unit_range(one) for one in maps["train"]], axis=0))
    wanted = [agreement(mean[None], one[None])["sim"][0] for one in maps["test"]]
    row = found[(found["source"] == "") & (found["metric"] == "sim")].iloc[0]
    assert row["value"] == pytest.approx(np.mean(wanted))
    assert row["n_images"] == len(wanted)
    by_source = found[(found["source"] != "") & (found["metric"] == "sim")]
    assert by_source["n_images"].sum() == len(wanted)
    for i in range(24):
        (tmp_path / f"map{i}.png").unlink(missing_ok=True)
    with pytest.raises(ValueError, match="no training image .* map that can be read"):
        mean_map_baseline(manifest, (4, 4), tmp_path / "other")
    table.assign(map="").to_csv(tmp_path / "manifest.csv", index=False)
    assert len(mean_map_baseline(read_manifest(tmp_path / "manifest.csv", tmp_path), (4, 4))) == 0


# --- the released score -------------------------------------------------------------------------


def test_auc_by_the_released_score_is_that_of_pairs(tmp_path):
    test = predictions_of(5, n=12)
    test["logit_1"] += np.where(test["label"] == "authentic", 0.7, 0.0)  # softmax moves with it
    found = measured(write(tmp_path, test)).measures
    aucs = found[found["measure"] == "auc_released"].set_index("source")["value"]
    literal = {}
    for source in sorted(set(test.loc[test["label"] == "synthetic", "source"])):
        own = test[test["source"] == source]
        sides = set("|".join(own["counterpart"].unique()).split("|")) - {""}
        low = test[(test["label"] == "authentic") & (test["source"].isin(sides) | (not sides))]
        pairs = [(a > b) + (a == b) / 2 for a in own["logit_1"] for b in low["logit_1"]]
        literal[source] = np.mean(pairs)
        assert aucs[source] == pytest.approx(literal[source])
    assert aucs["macro"] == pytest.approx(np.mean([*literal.values()]))
    unseen = [auc for source, auc in literal.items() if source not in SEEN]
    assert aucs["macro_unseen"] == pytest.approx(np.mean(unseen))


# --- what people reach --------------------------------------------------------------------------


def stroke(x, y, radius=14):
    points = [[x, y, 0.0], [x + 20, y + 6, 1.0]]
    return {"points": points, "radius": radius, "erase": False}


def people_of(folder, images=6, seed=0):
    "A manifest, and marks: of each test image three people, one wrong, and one who marked twice."
    rng, rows, marks = np.random.default_rng(seed), [], []
    for i in range(images + 4):
        split = "train" if i < 4 else "test"
        write_map(folder / f"map{i}.png", rng.random((32, 32)) ** 3)
        label = ("authentic", "synthetic")[i % 2]
        rows.append((f"{i}.png", label, ("camera", "maker")[i % 2], split, f"map{i}.png", ""))
        for who in range(4 if split == "test" else 1):
            own = [stroke(*rng.uniform(10, 80, 2)) for _ in range(2)]
            same = {"image": f"{i}.png", "width": 112.0, "height": 112.0, "kind": "pair"}
            same |= {"subject": f"s{who}", "correct": who != 3}
            marks.append(same | {"strokes": own, "trial": f"{i}-{who}"})
            if who == 1:
                marks.append(same | {"strokes": [stroke(60, 20)], "trial": f"{i}-again"})
    table = pd.DataFrame(rows, columns=["image", "label", "source", "split", "map", "subject"])
    table.to_csv(folder / "manifest.csv", index=False)
    return read_manifest(folder / "manifest.csv", folder), as_table(marks)


def literal_annotators(marks, images, grid):
    "Image -> maps of each person who answered correctly, one at a time."
    found = {}
    for image in images:
        own = marks[(marks["image"] == image) & marks["correct"]]
        masks = {}
        for row in own.itertuples():
            mask = strokes_mask(row.strokes, row.width, row.height, (224, 224))
            masks[row.subject] = masks.get(row.subject, False) | mask
        found[image] = [resize_map(human_map(mask[None]), grid) for mask in masks.values()]
    return found


def test_the_ceiling_leaves_one_out_as_written(tmp_path):
    manifest, marks = people_of(tmp_path)
    write_annotations(marks, tmp_path / "annotations.parquet")
    again = annotation_rows(find_annotations(tmp_path / "none", tmp_path))
    people = annotator_maps(manifest, again, (4, 4), cache=tmp_path / "cache")
    test = manifest.split("test").table
    wanted = literal_annotators(marks, test["image"], (4, 4))
    assert sorted(people.image) == sorted(wanted) and people.counts.tolist() == [3] * len(wanted)
    model = np.random.default_rng(1).integers(0, 256, (len(test), 4, 4), dtype=np.uint8)
    np.save(tmp_path / "saliency.npy", model)
    note = {b"cyborg": json.dumps({"classes": manifest.classes})}
    pq.write_table(
        pa.Table.from_pandas(test[["image"]]).replace_schema_metadata(note),
        tmp_path / "predictions.parquet",
    )
    found = annotator_agreement(tmp_path, people).set_index("metric")
    for metric in ("cc", "sim", "kl"):
        sums = {"model": [], "ceiling": [], "mean_map": []}
        for place, image in enumerate(test["image"]):
            maps, each = [unit_range(m) for m in wanted[image]], {name: [] for name in sums}
            for k, target in enumerate(maps):
                others = unit_range(np.mean([m for j, m in enumerate(maps) if j != k], axis=0))
                rivals = {"model": unit_range(model[place] / 255), "ceiling": others}
                for name, rival in (rivals | {"mean_map": people.mean}).items():
                    each[name].append(agreement(rival[None], target[None])[metric][0])
            for name in sums:
                sums[name].append(np.mean(each[name]))
        for name, values in sums.items():
            assert found.loc[metric, name] == pytest.approx(np.mean(values), abs=1e-5), metric
    assert found.loc["cc", "n_images"] == len(test)
    few = annotator_maps(manifest, again, (4, 4), most=2, cache=tmp_path / "cache")
    assert len(few.image) == 2 and set(few.image) < set(people.image)


def test_marks_of_one_person_make_no_ceiling(tmp_path):
    manifest, marks = people_of(tmp_path)
    alone = marks[marks["subject"] == "s1"]  # twice, and yet one
    with pytest.raises(ValueError, match="no test image was marked by two people"):
        annotator_maps(manifest, alone, (4, 4), cache=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match=r"no annotations.parquet in .*/a or .*/b"):
        find_annotations(tmp_path / "a", tmp_path / "b")


def test_a_study_is_measured_against_people_once(tmp_path, monkeypatch):
    manifest, marks = people_of(tmp_path)
    write_annotations(marks, tmp_path / "annotations.parquet")
    runs, test = [], manifest.split("test").table
    places = {"manifest": str(tmp_path / "manifest.csv"), "root": str(tmp_path)}
    for seed in range(2):
        run = write(tmp_path / f"run{seed}", test.assign(**dict.fromkeys(METRICS, 0.5)))
        (run / "config.json").write_text(json.dumps({"settings": places, "provenance": {}}))
        np.save(run / "saliency.npy", np.arange(len(test) * 16, dtype=np.uint8).reshape(-1, 4, 4))
        runs.append(("faces", "net", "cyborg", seed, run.name, "4x4"))
    runs.append(("faces", "net", "classical", 0, "waiting", ""))
    columns = ["data", "network", "scenario", "seed", "name", "cells"]
    pd.DataFrame(runs, columns=columns).to_csv(tmp_path / "runs.csv", index=False)
    monkeypatch.setenv("CYBORG_DATA", str(tmp_path / "cache"))
    found = study_annotators(tmp_path)
    assert found["seed"].tolist() == [0] * 5 + [1] * 5 and (found["reason"] == "").all()
    monkeypatch.setattr(ceiling, "annotator_maps", None)  # would fail if it were called
    pd.testing.assert_frame_equal(study_annotators(tmp_path), found, check_dtype=False)
    (tmp_path / "annotations.parquet").unlink()
    (lacking,) = study_annotators(tmp_path).itertuples()
    assert lacking.data == "faces" and "no annotations.parquet" in lacking.reason
