"""Whether anything that a subject's browser receives tells the answer.

    python benchmarks/annotate_leaks.py                # 600 pairs of the demo set
    python benchmarks/annotate_leaks.py --unlike       # synthetic images as larger PNG files
    python benchmarks/annotate_leaks.py --sequences 150  # what came before the trial

Scripted subjects go through a study on a real server on loopback and write down all that a browser
could look at: of each picture the length of the response, its headers, name, side and times, of
each trial the same and every field. Then each is held against the label, which only the store
knows: the area under the ROC curve, 0.5 where it tells nothing, with DeLong's 95 % interval. The
first rows are what would be seen if the files were sent as they are, or encoded alike but not
filled up to one length. The length of the JPEG code within the response comes of the pixels, which
the subject is shown; it is listed to say how much. These rows are of trials, of which a subject has
many: sides are drawn for each trial alone, so trials of one subject are as good as independent.

With `--sequences`, simulated subjects know of every earlier trial on which side the right answer
stood, more than practice tells, and where practice and checks were. Rules that count, that follow
the last side, the last practice or check, and a logistic regression on all of it, trained on other
subjects, guess the next side. Intervals are of subjects, who are independent: the mean over their
shares of right guesses, with Student's 95 %.
"""

import base64
import http.client
import json
import os
import socket
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa
from annotate_load import start
from fastcore.script import Param, call_parse, store_true
from PIL import Image
from scipy import stats
from sklearn.linear_model import LogisticRegression

from cyborg.demo import make_demo
from cyborg.manifest import Manifest, write_manifest
from cyborg.measure.statistics import auc_interval
from cyborg.people.store import AnnotationStore
from cyborg.people.tables import StudySettings, answers_table, make_pairs, pairs_table, trials
from cyborg.pictures import read_picture

MARK = {"points": [[90, 90, 0.5], [200, 120, 1.5]], "radius": 20, "erase": False}


def write_unlike(
    demo: Manifest,
) -> None:
    "Synthetic images as PNG files of another size, with metadata; the manifest names them."
    table = demo.table.copy()
    for i, row in table[table["label"] == "synthetic"].iterrows():
        larger = Image.fromarray(read_picture(demo.root / row["image"])).resize((300, 300))
        exif = Image.Exif()
        exif[270] = "made by a generator"
        table.loc[i, "image"] = row["image"].replace(".jpg", ".png")
        larger.save(demo.root / table.loc[i, "image"], exif=exif)
    write_manifest(Manifest(table, demo.root, demo.classes), demo.root / "manifest.csv")


class Browser:
    "A connection that writes down what it sees."

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self.headers = {}

    def ask(self, path: str, body: dict | None = None) -> tuple[bytes, dict]:
        "The content of a response, and what else there is to see of it."
        data = None if body is None else json.dumps(body)
        begun = time.perf_counter()
        self.connection.request("POST" if data else "GET", path, data, self.headers)
        reply = self.connection.getresponse()
        first = time.perf_counter() - begun
        content = reply.read()
        whole = time.perf_counter() - begun
        assert reply.status == 200, content
        heads = [(k.lower(), v) for k, v in reply.getheaders() if k.lower() != "date"]
        seen = {
            "response, bytes": len(content),
            "header names and order": str([k for k, _ in heads]),
        }
        seen |= {"headers with values": str(heads), "headers, bytes": len(str(heads))}
        return content, seen | {"first byte, ms": 1000 * first, "whole response, ms": 1000 * whole}


def a_number(name: str) -> int:
    "A random name as a number."
    return int.from_bytes(base64.urlsafe_b64decode(name + "==")[:6], "big")


def one_subject(
    port: int,
    worker: str,
    rng: np.random.Generator,
) -> tuple[list[dict], list[dict]]:  # pictures, trials
    "A whole session."
    browser, pictures, asked = Browser(port), [], []
    agreed = json.loads(browser.ask("/api/texts")[0])["consent_hash"]
    entry = {"worker": worker, "entry": {}, "consent": agreed}
    token = json.loads(browser.ask("/api/enter", entry)[0])["token"]
    browser.headers = {"Authorization": f"Bearer {token}"}
    while True:
        content, seen = browser.ask("/api/trial")
        trial = json.loads(content)
        if trial["done"]:
            return pictures, asked
        sides = rng.permutation(["left", "right"])
        for place, side in enumerate(sides):
            content, own = browser.ask("/" + trial[side])
            own |= {"JPEG code, bytes": len(content.rstrip(b"\0")), "asked for second": place}
            own |= {"side": side == "right", "name": a_number(trial[side].rpartition("/")[2])}
            pictures.append(own | {"trial": trial["trial"], "right": side == "right"})
        fields = {f"field {k}": str(v) for k, v in trial.items() if k not in ("left", "right")}
        fields["field trial"] = a_number(trial["trial"])
        names = {f"name {side}": a_number(trial[side].rpartition("/")[2]) for side in sides}
        asked.append(seen | fields | names | {"trial": trial["trial"]})
        body = {"trial": trial["trial"], "choice": str(sides[0]), "seconds": 5}
        body |= {"strokes": {"left": [MARK], "right": [MARK]}}
        content, seen = browser.ask("/api/answer", body)
        asked[-1] |= {f"answer: {name}": value for name, value in seen.items()}


def as_numbers(values: pd.Series) -> np.ndarray:
    "An observable as numbers, texts by their order."
    numbers = pd.to_numeric(values, errors="coerce")
    return (values.rank(method="dense") if numbers.isna().any() else numbers).to_numpy(float)


def leaks(
    table: pd.DataFrame,  # observables
    label: np.ndarray,  # (n,) bool
) -> pd.DataFrame:  # by observable: values, auc, low, high
    "What each observable alone tells of the label."
    rows = {}
    for name, column in table.items():
        found = auc_interval(as_numbers(column), label)
        rows[name] = {"values": column.nunique(), "n": len(column), "auc": found.auc}
        rows[name] |= {"low": found.low, "high": found.high}
    return pd.DataFrame(rows).T


def with_labels(
    store: str,
    pictures: pd.DataFrame,
    asked: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    "What the browser never got: image and label; only trials that count."
    kept = AnnotationStore(store)
    wanted = sa.select(trials.c.trial, trials.c.left_label, trials.c.kind, pairs_table.c.authentic)
    wanted = wanted.add_columns(pairs_table.c.synthetic)
    with kept.reads() as connection:
        rows = connection.execute(wanted.join(pairs_table, pairs_table.c.pair == trials.c.pair))
        known = pd.DataFrame(rows.mappings().all()).query("kind == 'pair'")
    kept.close()
    pictures, asked = pictures.merge(known, on="trial"), asked.merge(known, on="trial")
    fake = (pictures["left_label"] == "synthetic") != pictures["right"]
    image = pictures["synthetic"].where(fake, pictures["authentic"])
    return pictures.assign(fake=fake, image=image), asked.assign(
        fake=asked["left_label"] == "synthetic"
    )


def told(title: str, table: pd.DataFrame) -> None:
    "Print a table."
    table = table.astype({"values": int, "n": int})
    print(f"\n{title}\n" + table.to_string(float_format=lambda v: f"{v:.3f}"), flush=True)


# --- what came before -------------------------------------------------------------------------


def sessions(
    store: AnnotationStore,  # of a study that has begun
    subjects: int,  # one after another
) -> pd.DataFrame:  # subject, number, kind, question, side: +1 where the right answer stood left
    "All trials of simulated subjects, whose right answers are written without marks."
    rows, same = [], {"correct": True, "seconds": 5.0, "digest": "", "answered": 0.0}
    for i in range(subjects):
        subject = store.enter(f"W{i}")
        while trial := store.next_trial(subject):
            right = "left" if trial.question == trial.left_label else "right"
            with store.writes(durable=False) as connection:
                answer = same | {"trial": trial.trial, "choice": right}
                connection.execute(sa.insert(answers_table), answer)
            side = 1 if right == "left" else -1
            rows.append((i, trial.number, trial.kind, trial.question, side))
    return pd.DataFrame(rows, columns=["subject", "number", "kind", "question", "side"])


def histories(
    table: pd.DataFrame,  # of `sessions`
) -> pd.DataFrame:  # the same, and what each subject knows before each trial
    "Counts and last sides of all that came before, of practice and of checks."
    table = table.sort_values(["subject", "number"]).reset_index(drop=True)
    signed = pd.DataFrame({"subject": table["subject"]})
    signed["all"] = table["side"]
    signed["practice"] = table["side"].where(table["kind"] == "practice", 0)
    signed["check"] = table["side"].where(table["kind"] == "attention", 0)
    signed["asked"] = table["side"] * np.where(table["question"] == "authentic", 1, -1)
    of = signed.groupby("subject")
    for name in ("all", "practice", "check", "asked"):
        table[f"sum {name}"] = of[name].cumsum() - signed[name]
        seen = signed[name].replace(0, np.nan).groupby(signed["subject"])
        table[f"last {name}"] = seen.ffill().groupby(signed["subject"]).shift().fillna(0)
    table["last but one"] = of["all"].shift(2).fillna(0)
    checks = (table["kind"] == "attention").astype(int).groupby(table["subject"])
    table["checks"] = checks.cumsum() - (table["kind"] == "attention")
    table["asks"] = np.where(table["question"] == "authentic", 1, -1)
    return table


RULES = {
    "less often right": lambda t: -np.sign(t["sum all"]),
    "the other side than last": lambda t: -t["last all"],
    "after two alike the other": lambda t: -(t["last all"] + t["last but one"]) / 2,
    "less often right in practice": lambda t: -np.sign(t["sum practice"]),
    "the other side than at the last check": lambda t: -t["last check"],
    "less often authentic on the left": lambda t: -np.sign(t["sum asked"]) * t["asks"],
}


def learned(
    known: pd.DataFrame,  # of `histories`
) -> np.ndarray:  # (n,) +1 left, -1 right
    "Guesses of a logistic regression on the history, trained on the other half of the subjects."
    names = [n for n in known if n.startswith(("sum", "last"))] + ["checks", "asks", "number"]
    plain = known[names].to_numpy(float)
    inputs = np.concatenate([plain, plain * known[["asks"]].to_numpy(float)], axis=1)
    guess, half = np.zeros(len(known)), known["subject"].to_numpy() // 2 % 2 == 0
    for train, test in ((half, ~half), (~half, half)):
        model = LogisticRegression(max_iter=2000).fit(inputs[train], known["side"][train])
        guess[test] = model.predict(inputs[test])
    return guess


def sequence_leaks(
    table: pd.DataFrame,  # of `sessions`
    level: float = 0.95,  # of the intervals
    learn: bool = True,  # the regression, too
) -> pd.DataFrame:  # rule, trials, right, low, high, subjects
    "How often each rule is right in first trials that count, in trials 1 to 10, the last, and all."
    known = histories(table)
    known = known[known["kind"] == "pair"].reset_index(drop=True)
    place = known.groupby("subject").cumcount()
    left = known.groupby("subject")["side"].transform("size") - place
    windows = {"first": place < 1, "1 to 10": place < 10, "last 3": left <= 3, "all": place >= 0}
    guesses = {name: rule(known) for name, rule in RULES.items()}
    guesses |= {"learned on other subjects": learned(known)} if learn else {}
    rows = []
    for name, guess in guesses.items():
        right = (1 + guess * known["side"]) / 2  # no guess is half right
        for window, inside in windows.items():
            shares = right[inside].groupby(known["subject"][inside]).mean()
            error = shares.std(ddof=1) / np.sqrt(len(shares))
            reach = stats.t.ppf((1 + level) / 2, len(shares) - 1) * error
            row = {"rule": name, "trials": window, "right": shares.mean()}
            row |= {"low": shares.mean() - reach, "high": shares.mean() + reach}
            rows.append(row | {"subjects": len(shares)})
    return pd.DataFrame(rows)


def walk(
    subjects: int,
    trials: int,
    rng: np.random.Generator,
    practice: int = 2,
) -> pd.DataFrame:  # as of `sessions`
    "Sides as earlier versions drew them: a walk held to within two of balance."
    rows = []
    for subject in range(subjects):
        lean = 0
        for number in range(practice + trials):
            side = -np.sign(lean) if abs(lean) >= 2 else rng.choice([-1, 1])
            lean += side
            kind = "practice" if number < practice else "pair"
            question = ("authentic", "synthetic")[(number + subject) % 2]
            rows.append((subject, number, kind, question, int(side)))
    return pd.DataFrame(rows, columns=["subject", "number", "kind", "question", "side"])


def of_sequences(subjects: int) -> None:
    "Print what the sequence tells, of the walk of earlier versions and of this one."
    with tempfile.TemporaryDirectory() as folder:
        demo = make_demo(Path(folder) / "demo", n=400, size=64)
        settings = StudySettings(answers=max(10, subjects * 30 // 150))
        store = AnnotationStore(Path(folder) / "study.sqlite")
        store.begin_study(make_pairs(demo, 150), demo.root, settings)
        table = sessions(store, subjects)
        store.close()
    for title, one in (("earlier", walk(subjects, 30, np.random.default_rng(0))), ("now", table)):
        found = sequence_leaks(one)
        print(f"\n{title}\n" + found.to_string(index=False, float_format=lambda v: f"{v:.3f}"))
        away = ((found["low"] > 0.5) | (found["high"] < 0.5)).sum()
        print(f"{away} of {len(found)} intervals leave out 0.5; by chance {0.05 * len(found):.1f}")


HIDDEN = ["trial", "left_label", "kind", "authentic", "synthetic", "fake", "right", "image"]


@call_parse
def main(
    subjects: Param("one after another", int) = 10,
    unlike: Param("synthetic images as larger PNG files", store_true) = False,
    sequences: Param("subjects whose sequences are looked at, nothing else; 0: none", int) = 0,
):
    "Gather what a browser sees, and print what it tells."
    if sequences:
        of_sequences(sequences)
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        demo = make_demo(folder / "demo", n=400)
        if unlike:
            write_unlike(demo)
        server = start(folder, str(folder / "study.sqlite"), port, subjects)
        try:
            sessions = [one_subject(port, f"W{i}", rng) for i in range(subjects)]
        finally:
            server.kill()
            server.wait()
        seen = [pd.DataFrame(sum(parts, [])) for parts in zip(*sessions, strict=True)]
        pictures, asked = with_labels(str(folder / "study.sqlite"), *seen)
        sizes = {
            image: (folder / "demo" / image).stat().st_size for image in set(pictures["image"])
        }
    print(f"{len(asked)} pairs, {subjects} subjects, load {os.getloadavg()[0]:.1f}")
    once = pictures.groupby("image").agg(
        {"fake": "first", "JPEG code, bytes": "first", "first byte, ms": "min"}
    )
    before = pd.DataFrame({"file as it is, bytes": once.index.map(sizes)}, index=once.index)
    before["encoded alike, bytes"] = once["JPEG code, bytes"]
    told("Would be seen without re-encoding, and without filling up", leaks(before, once["fake"]))
    own = leaks(pictures.drop(columns=HIDDEN), pictures["fake"])
    told("Of a picture: its label", own)
    best = once[["first byte, ms"]].add_suffix(", least of all visits")
    told("Of an image, over all its visits", leaks(best, once["fake"]))
    of_trials = leaks(asked.drop(columns=HIDDEN, errors="ignore"), asked["fake"])
    told("Of a trial: is left synthetic", of_trials)
    sent = pd.concat([own.drop(index="JPEG code, bytes"), of_trials])
    both = sent[sent["values"] > 1]
    away = both[(both["low"] > 0.5) | (both["high"] < 0.5)]
    print(f"\n{len(away)} of {len(both)} intervals that are not a point leave out 0.5; by chance")
    print(f"{0.05 * len(both):.1f} of so many would: {', '.join(away.index) or 'none'}")
