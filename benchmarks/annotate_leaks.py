"""Whether anything that a subject's browser receives tells the answer.

    python benchmarks/annotate_leaks.py                # 600 pairs of the demo set
    python benchmarks/annotate_leaks.py --unlike       # synthetic images as larger PNG files

Scripted subjects go through a study on a real server on loopback and write down all that a browser
could look at: of each picture the length of the response, its headers, name, side and times, of
each trial the same and every field. Then each is held against the label, which only the store
knows: the area under the ROC curve, 0.5 where it tells nothing, with DeLong's 95 % interval. The
first rows are what would be seen if the files were sent as they are, or encoded alike but not
filled up to one length. The length of the JPEG code within the response comes of the pixels, which
the subject is shown; it is listed to say how much.
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

from cyborg.annotation import AnnotationStore, pairs_table, trials
from cyborg.demo import make_demo
from cyborg.manifest import Manifest, write_manifest
from cyborg.pictures import read_picture
from cyborg.statistics import auc_interval

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


HIDDEN = ["trial", "left_label", "kind", "authentic", "synthetic", "fake", "right", "image"]


@call_parse
def main(
    subjects: Param("one after another", int) = 10,
    unlike: Param("synthetic images as larger PNG files", store_true) = False,
):
    "Gather what a browser sees, and print what it tells."
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
