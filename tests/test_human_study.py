"""Statistics of a human study: against slow versions, against studies whose truth is known, through
the real server, and on real ratings where those are at hand."""

import os
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from starlette.testclient import TestClient

from cyborg import marks
from cyborg.demo import make_demo
from cyborg.people import analysis, granularity
from cyborg.people import answers as answers_module
from cyborg.people.annotations import ExclusionRules
from cyborg.people.exchange import write_annotations
from cyborg.people.server import open_page
from cyborg.people.tables import StudySettings, as_table
from cyborg.saliency import human_map

ROOT = Path(__file__).resolve().parents[1]
DATA = os.environ.get("CYBORG_FACES")
SHARED = Path(DATA).parent if DATA else ROOT.parent / "shared" / "data"
RATINGS = SHARED / "human_ratings"
needs_ratings = pytest.mark.skipif(
    not (RATINGS / "lago_ratings.csv").is_file(),
    reason="needs the human ratings: no human_ratings/lago_ratings.csv beside the faces "
    f"({SHARED}; CYBORG_FACES names the folder of the faces)",
)


def table(right, subjects=None, pairs=None, **columns):
    n = len(right)
    given = {"subject": range(n) if subjects is None else subjects, "right": right}
    return answers_module.as_answers(
        pd.DataFrame({**given, "pair": range(n) if pairs is None else pairs, **columns})
    )


@pytest.fixture(scope="module")
def paper():
    return answers_module.simulate_answers(seed=100)


# --- the answers table -----------------------------------------------------------------------


def test_a_file_of_others(tmp_path):
    path = tmp_path / "others.csv"
    path.write_text("subject,pair,right,seconds,extra\n01,p,TRUE,,x\n01,q,0,2.5,y\n")
    read = answers_module.read_answers(path)
    assert read["subject"].tolist() == ["01", "01"]  # no number is made of a name
    assert read["right"].tolist() == [True, False]
    assert np.isnan(read["seconds"][0]) and read["seconds"][1] == 2.5
    assert read["order"].tolist() == [1, 2] and read["annotated"].all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("subject,pair,right\n", "no rows"),
        ("subject,right\na,1\n", r"lack the columns \['pair'\]"),
        ("subject,pair,right\na,p,maybe\n", "right is 'maybe' in row 0"),
        ("subject,pair,right\na,p,\n", "right is '' in row 0"),
        ("subject,pair,right\na,p,1\na,p,0\n", "subject 'a' answers pair 'p' twice"),
        ("subject,pair,right,seconds\na,p,1,fast\n", "seconds holds something that is no number"),
        ("subject,pair,right,seconds\na,p,1,-1\n", "negative or infinite"),
    ],
)
def test_refused_files(tmp_path, text, words):
    path = tmp_path / "answers.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        answers_module.read_human_study(path)
    assert "answers.csv" in str(error.value)


def test_what_is_no_store(tmp_path):
    path = tmp_path / "study.sqlite"
    with pytest.raises(FileNotFoundError, match="study.sqlite"):
        answers_module.read_human_study(path)
    assert not path.exists()  # looking for a study does not make one
    path.write_text("this is no database, and long enough to be seen not to be one" * 40)
    with pytest.raises(ValueError, match="is no store of annotations"):
        answers_module.read_human_study(path)


# --- accuracy --------------------------------------------------------------------------------


def test_robust_variance_is_the_double_sum():
    """V = sum of the products of residuals of all answers that share a subject or a pair."""
    answers = answers_module.simulate_answers(7, 9, 40, seed=3)
    right = answers["right"].to_numpy(float)
    e, n = right - right.mean(), len(right)
    same = {c: np.equal.outer(*[answers[c].to_numpy()] * 2) for c in ("subject", "pair")}
    slow = {c: (np.outer(e, e) * m).sum() / n**2 for c, m in same.items()}
    for name, groups in (("subject", 7), ("pair", answers["pair"].nunique())):
        fast = analysis._variance(e, answers[name])
        slow[name] *= groups / (groups - 1)
        assert fast == pytest.approx(slow[name])
    variance = sum(slow.values()) - (e**2).sum() / n**2 * n / (n - 1)
    effective = right.mean() * (1 - right.mean()) / variance
    assert effective < n  # else the interval falls back to independent answers
    wanted = analysis.proportion_confint(right.mean() * effective, effective, method="wilson")
    found = analysis.accuracy_interval(answers)
    assert (found.low, found.high) == pytest.approx(wanted)


def test_bootstrap_is_the_slow_bootstrap():
    answers = answers_module.simulate_answers(12, 15, 90, seed=5)
    fast = analysis.two_way_bootstrap(answers["right"], answers["subject"], answers["pair"], 4000)
    rng, means = np.random.default_rng(1), []
    row, column = (pd.factorize(answers[name])[0] for name in ("subject", "pair"))
    for _ in range(2000):
        drawn = [rng.integers(0, k, k) for k in (row.max() + 1, column.max() + 1)]
        weight = np.array(
            [
                (drawn[0] == r).sum() * (drawn[1] == c).sum()
                for r, c in zip(row, column, strict=True)
            ]
        )
        means.append(np.average(answers["right"], weights=weight) if weight.any() else np.nan)
    assert [fast.low, fast.high] == pytest.approx(np.nanquantile(means, [0.025, 0.975]), abs=0.02)
    assert fast.value == answers["right"].mean()


def test_intervals_hold_what_was_simulated():
    """150 studies: 95 % of the robust intervals hold the truth, and more of the bootstrap's."""
    robust, drawn, naive = [], [], []
    for seed in range(150):
        answers = answers_module.simulate_answers(50, 80, 900, accuracy=0.692, seed=seed)
        one = analysis.accuracy_interval(answers)
        robust.append(one.low <= 0.692 <= one.high)
        parts = (answers[name].to_numpy() for name in ("right", "subject", "pair"))
        two = analysis.two_way_bootstrap(*parts, draws=300, seed=seed)
        drawn.append(two.low <= 0.692 <= two.high)
        low, high = analysis.proportion_confint(answers["right"].sum(), 900, method="wilson")
        naive.append(low <= 0.692 <= high)
    # Three standard errors of 150 draws at 0.95 are 0.053.
    assert 0.897 <= np.mean(robust) <= 1
    assert np.mean(drawn) >= 0.92
    assert np.mean(naive) < np.mean(robust) - 0.1  # as if all answers were independent


def test_no_answer_wrong():
    found = analysis.accuracy_interval(table([1] * 12, [*"abcd"] * 3, np.repeat([*"xyz"], 4)))
    assert (found.value, found.high) == (1, 1)
    assert 0.3 < found.low < 0.6  # three pairs, not twelve answers
    assert np.isfinite(analysis.subject_accuracy(table([1] * 12), ())["d_prime"]).all()


def test_the_papers_study_is_found_again(paper):
    """363 subjects, 10,750 answers, 69.2 %; what went in comes out."""
    found = analysis.accuracy_interval(paper)
    assert (found.n, found.n_subjects, found.n_items) == (10_750, 363, 1000)
    assert found.low < 0.692 < found.high and found.high - found.low < 0.04
    counts = paper.groupby("subject").size()
    assert set(counts) == {29, 30}  # 29.6 on average
    model = analysis.mixed_model(paper)
    assert model.converged
    assert model.subject_sd == pytest.approx(0.4, abs=0.1)
    assert model.pair_sd == pytest.approx(0.8, abs=0.1)
    odds = model.effects["log_odds"]
    assert odds[0] - odds[1] == pytest.approx(0.6, abs=0.25)


def test_mixed_model_draws_nothing():
    answers = answers_module.simulate_answers(20, 30, 200, seed=1)
    pd.testing.assert_frame_equal(
        analysis.mixed_model(answers).effects, analysis.mixed_model(answers).effects
    )


def test_histogram_counts_every_pair(paper):
    plain = answers_module.simulate_answers(100, 200, 2000, accuracy=0.5, annotated=False, seed=12)
    plain["subject"] = "n" + plain["subject"]
    figure = analysis.accuracy_histogram(pd.concat([plain, paper]))
    titles = [note.text for note in figure.layout.annotations]
    assert [text.split(":")[0] for text in titles] == ["without annotation", "with annotation"]
    counts = [sum(trace.y) for trace in figure.data]
    assert counts == [100, 100, 500, 500]
    perfect = analysis.accuracy_histogram(table([1, 1, 0], [*"aab"], [*"xyz"]), by="", bins=10)
    heights = dict(zip(np.round(perfect.data[0].x[1:], 2), perfect.data[0].y[1:], strict=True))
    assert (heights[-0.05], heights[0.95]) == (1, 2)


# --- course, time, agreement -----------------------------------------------------------------


def test_slope_is_that_of_another_library():
    answers = answers_module.simulate_answers(60, 80, 1200, learning=0.05, seed=8)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    fit.fit(answers[["order"]].to_numpy(), answers["right"])
    found = analysis.learning(answers)
    assert found.slope == pytest.approx(fit.coef_[0, 0], rel=1e-4)
    ends = fit.predict_proba(np.array([[1.0], [20.0]]))[:, 1]
    assert [found.first, found.last] == pytest.approx(ends, rel=1e-4)


def test_nothing_to_learn_from():
    found = analysis.learning(table([1, 0, 1]))  # one answer a subject
    assert np.isnan(found.slope) and len(found.table) == 1
    analysis.learning_figure(found)
    assert not len(analysis.answer_times(table([1, 0, 1])))
    assert analysis.time_difference(table([1, 0, 1])) == pytest.approx(
        (np.nan, np.nan, 0), nan_ok=True
    )
    assert analysis.subject_agreement(table([1, 0, 1]))["split_half"].isna().all()


def test_alpha_is_its_definition():
    """One minus disagreeing over expected disagreeing pairs of judgements, counted one by one."""
    rng = np.random.default_rng(0)
    units, values = rng.integers(0, 9, 60), rng.integers(0, 3, 60)
    groups = [values[units == unit] for unit in np.unique(units)]
    groups = [group for group in groups if len(group) >= 2]
    pool = np.concatenate(groups)
    observed = sum(
        2 * sum(a != b for a, b in combinations(group, 2)) / (len(group) - 1) for group in groups
    ) / len(pool)
    expected = sum(a != b for a, b in combinations(pool, 2)) / (len(pool) * (len(pool) - 1) / 2)
    assert analysis.krippendorff_alpha(units, values) == pytest.approx(1 - observed / expected)
    assert np.isnan(analysis.krippendorff_alpha([1, 1, 2, 2], [1, 1, 1, 1]))


def test_split_half_reaches_the_reliability_simulated():
    """Corrected: the variance of pairs over that of the mean of all their answers."""
    answers = answers_module.simulate_answers(400, 300, 6000, subject_sd=0.0, pair_sd=1.0, seed=2)
    by_pair = answers.groupby("pair")["right"].agg(["mean", "size"])
    noise = (by_pair["mean"] * (1 - by_pair["mean"]) / (by_pair["size"] - 1)).mean()
    wanted = 1 - noise / by_pair["mean"].var()
    found = analysis.split_half_accuracy(answers, 50)
    assert found.corrected == pytest.approx(wanted, abs=0.06)
    assert found.low <= found.r <= found.high


def test_halves_are_equal():
    key = np.repeat(np.arange(5), [2, 3, 4, 5, 8])
    half = analysis._halves(key, np.random.default_rng(0))
    for group in range(5):
        own = half[key == group]
        assert (own == 0).sum() == (own == 1).sum() == len(own) // 2


# --- maps ------------------------------------------------------------------------------------


def painted(*masks, right=None):
    rows = [
        {"image": "a.jpg", "subject": str(i), "trial": str(i), "kind": "pair", "pair": "p"}
        | {"correct": right[i] if right else True, "width": 20, "height": 20}
        | {"rle": granularity.rle_counts(mask)}
        for i, mask in enumerate(masks)
    ]
    return as_table(rows)


def spots(*places):
    mask = np.zeros((20, 20), bool)
    for y, x in places:
        mask[y, x] = True
    return mask


def test_granularity_keeps_patches_apart():
    mask = spots((2, 2), (3, 3), (4, 2), (15, 15))
    box, area = marks.granular_mask(mask, "box"), marks.granular_mask(mask, "area")
    assert box.sum() == 6 + 1 and area.sum() == 4 + 1  # (3, 2) closes the triangle
    assert not box[10, 10]
    for coarse in (box, area):
        assert (coarse | ~mask).all()  # nothing painted is lost
    assert not marks.granular_mask(np.zeros((5, 5), bool), "box").any()
    with pytest.raises(ValueError, match="granularity is 'finest'"):
        marks.granular_mask(mask, "finest")


def test_maps_are_the_human_maps_of_the_chosen_answers():
    masks = [spots((5, 5), (5, 8), (8, 5)), spots((12, 12)), spots((3, 16))]
    rows = painted(*masks, right=[True, True, False])
    for answers, chosen in (("correct", [0, 1]), ("incorrect", [2]), ("all", [0, 1, 2])):
        [(image, found, used)] = granularity.study_maps(rows, "fine", answers, size=20, sigma=1.0)
        wanted = np.stack([masks[i] for i in chosen])
        assert image == "a.jpg" and len(used) == len(chosen)
        np.testing.assert_allclose(found, human_map(wanted, sigma=1.0), atol=1e-6)
    [(_, _, used)] = granularity.study_maps(rows, annotators=1, answers="all", size=20)
    assert len(used) == 1
    assert not list(
        granularity.study_maps(answers_module._as_annotations(table([1, 0])))
    )  # nobody marked anything


def test_split_half_of_maps():
    same = granularity.split_half_maps(painted(*[spots((5, 5))] * 4), size=20, sigma=1.0)
    other = granularity.split_half_maps(painted(spots((2, 2)), spots((17, 17))), size=20, sigma=1.0)
    assert same["cc"][0] == pytest.approx(1) and other["cc"][0] < 0
    assert not len(
        granularity.split_half_maps(painted(spots((2, 2))))
    )  # one annotator has no other half


# --- through the server ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Six subjects through the real page; how often each was right is known to the test alone."""
    folder = tmp_path_factory.mktemp("served")
    demo = make_demo(folder / "set", n=60, size=64, workers=1)
    settings = StudySettings(answers=6, trials=8, practice=1, attention_every=4)
    page = open_page(demo, folder / "s.sqlite", 8, settings, folder / "pictures", 128, "secret")
    wanted = {f"A{i}": right for i, right in enumerate((8, 6, 6, 4, 7, 0))}
    with TestClient(page.app()) as client:
        for worker, right in wanted.items():
            one_session(client, page.store, worker, right, paint_all=worker == "A5")
    page.store.close()
    return folder / "s.sqlite", wanted


def one_session(client, store, worker, right, paint_all):
    agreed = client.get("/api/texts").json()["consent_hash"]
    body = {"worker": worker, "entry": {}, "consent": agreed}
    token = client.post("/api/enter", json=body).json()["token"]
    headers, pairs = {"Authorization": f"Bearer {token}"}, 0
    while not (trial := client.get("/api/trial", headers=headers).json())["done"]:
        row = store.trial_of(store.subject_of(token), trial["trial"])  # what no browser is told
        good = row.kind == "attention" or pairs < right
        pairs += row.kind == "pair"
        choice = "left" if (row.left_label == row.question) == good else "right"
        points = [[64, 64, 0.1]] if paint_all else [[30, 30, 0.5], [60, 60, 0.9]]
        mark = {"points": points, "radius": 120 if paint_all else 8, "erase": False}
        strokes = {"left": [mark], "right": [mark]}
        answer = {"trial": trial["trial"], "choice": choice, "seconds": 5.0, "strokes": strokes}
        assert client.post("/api/answer", json=answer, headers=headers).status_code == 200


def test_subjects_of_known_accuracy_through_the_server(served):
    store, wanted = served
    study = answers_module.read_human_study(store)
    found = analysis.accuracy_by(study.answers, "subject").set_index("subject")
    assert found["right"].to_dict() == wanted
    assert set(found["n"]) == {8}  # neither practice nor attention checks
    first = study.answers[study.answers["subject"] == "A3"].sort_values("order")
    assert first["order"].tolist() == [*range(1, 9)]
    assert first["right"].tolist() == [True] * 4 + [False] * 4
    assert study.answers["annotated"].all() and (study.answers["seconds"] == 5).all()
    assert set(study.answers["question"]) == {"authentic", "synthetic"}
    assert analysis.accuracy_interval(study.answers).value == sum(wanted.values()) / 48


def test_exclusion_is_shown(served):
    study = answers_module.read_human_study(served[0])
    rows = analysis.exclusion_table(study).set_index("who")
    assert rows.index.tolist() == ["all", "left out: painted all over", "kept"]
    assert rows["subjects"].tolist() == [6, 1, 5]
    assert rows["accuracy"].tolist() == pytest.approx([31 / 48, 0, 31 / 40])
    kept = analysis.without_excluded_answers(study)
    assert "A5" not in set(kept.answers["subject"]) | set(kept.annotations["subject"])
    with pytest.raises(ValueError, match="rules leave none of 6 subjects"):
        analysis.without_excluded_answers(study, ExclusionRules(seconds=60))


def test_maps_from_the_server(served, tmp_path):
    study = analysis.without_excluded_answers(answers_module.read_human_study(served[0]))
    right = {
        image: len(masks) for image, _, masks in granularity.study_maps(study.annotations, size=32)
    }
    wrong = {
        image: len(masks)
        for image, _, masks in granularity.study_maps(
            study.annotations, answers="incorrect", size=32
        )
    }
    assert (sum(right.values()), sum(wrong.values())) == (2 * 31, 2 * 9)  # both pictures of each
    kept = write_annotations(study.annotations, tmp_path / "kept.parquet")
    again = answers_module.read_human_study(kept)
    pd.testing.assert_frame_equal(again.answers, study.answers)


# --- real ratings ----------------------------------------------------------------------------


@needs_ratings
def test_ratings_of_lago():
    """Means by generator of the file as it stands; StyleGAN2's faces look more real than real."""
    rows = analysis.rating_table(analysis.read_ratings(RATINGS / "lago_ratings.csv")).set_index(
        "generator"
    )
    wanted = {"FFHQ": 3.7012, "PGGAN": 5.5222, "StyleGAN": 3.9554, "StyleGAN2": 2.9674}
    assert rows["mean"].to_dict() == pytest.approx(wanted, abs=1e-4)
    assert rows["n"].to_dict() == {"FFHQ": 6229, "PGGAN": 2158, "StyleGAN": 2065, "StyleGAN2": 2089}
    assert rows["images"].tolist() == [105, 35, 35, 35]
    assert rows.loc["StyleGAN2", "high"] < rows.loc["FFHQ", "low"]
    assert rows.loc["PGGAN", "low"] > rows.loc["StyleGAN", "high"]


@needs_ratings
def test_ratings_of_bozzo():
    rows = analysis.rating_table(analysis.read_ratings(RATINGS / "bozzo_ratings.csv")).set_index(
        "generator"
    )
    assert rows["mean"].to_dict() == pytest.approx(
        {"FFHQ": 3.7922, "StyleGAN3-r": 4.4693}, abs=1e-4
    )
    assert rows["subjects"].tolist() == [51, 51] and rows["n"].sum() == 1047


def test_refused_ratings(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("path,generator,subject,likert\na,G,s,9\n")
    with pytest.raises(ValueError, match="other than 1 to 7"):
        analysis.read_ratings(path)
    path.write_text("path,generator,likert\na,G,9\n")
    with pytest.raises(ValueError, match=re.escape("lacks the columns ['subject']")):
        analysis.read_ratings(path)


# --- the notebook ----------------------------------------------------------------------------


def test_notebook_on_a_store(served, tmp_path):
    """The command as its first cell gives it, on what the server stored."""
    store, _ = served
    command = [sys.executable, "-m", "papermill", str(ROOT / "nbs" / "human_study.ipynb")]
    command += [str(tmp_path / "done.ipynb"), "-p", "store", str(store), "-p", "granularity", "box"]
    command += ["-p", "out", str(tmp_path / "tables"), "-p", "root", str(store.parent / "set")]
    command += ["-p", "manifest", str(store.parent / "set" / "manifest.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    written = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    assert {"answers", "accuracy", "exclusion", "agreement", "effects", "maps"} <= written
    accuracy = pd.read_csv(tmp_path / "tables" / "accuracy.csv")
    assert accuracy["accuracy"][0] == pytest.approx(31 / 40)
    maps = pd.read_csv(store.parent / "set" / "annotated" / "manifest.csv", keep_default_na=False)
    assert (maps["map"] != "").sum() == 16
    text = str(nbformat.read(tmp_path / "done.ipynb", 4).cells)
    assert "converged" in text and "painted all over" in text


def test_answers_say_how_the_pictures_stood_and_warn_where_nobody_knows():
    rows = pd.DataFrame({"subject": list("aab"), "pair": list("xyx"), "right": [1, 0, 1]})
    assert answers_module.as_answers(rows)["layout"].tolist() == ["unknown"] * 3
    known = answers_module.as_answers(rows.assign(layout=["stacked", "", "side by side"]))
    assert known["layout"].tolist() == ["stacked", "unknown", "side by side"]
    assert "may have confused left and right" in answers_module.layout_words(known)
    assert "may have" not in answers_module.layout_words(known.assign(layout="stacked"))
    groups = analysis.subject_accuracy(known, ("layout",), draws=20)["group"].tolist()
    assert {"layout stacked", "layout side by side", "layout unknown"} <= set(groups)
