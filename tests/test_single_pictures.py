"""A study of single pictures over HTTP: real or synthetic, how sure, and why in words."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from cyborg.demo import make_demo
from cyborg.people.analysis import exclusion_table, subject_accuracy
from cyborg.people.answers import read_human_study
from cyborg.people.detection import signal_detection
from cyborg.people.exchange import read_annotations, read_coco, read_label_studio
from cyborg.people.server import open_page
from cyborg.people.store import AnnotationStore
from cyborg.people.tables import StudySettings, pairs_table, remarks_table

MARK = {"points": [[30, 30, 0.5], [60, 60, 0.9]], "radius": 8, "erase": False}
BOSS = {"Authorization": "Bearer secret"}
ALONE = {"layout": "single", "left_at": "alone", "right_at": ""}
ALONE |= {"viewport_width": 1200, "viewport_height": 800}
SETTINGS = StudySettings(
    answers=2,
    trials=6,
    practice=2,
    attention_every=6,
    task="single",
    confidence=3,
    reasons="required",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("single") / "set", n=60, size=64, workers=1)


@pytest.fixture
def client(tmp_path, demo):
    page = open_page(demo, tmp_path / "s.sqlite", 8, SETTINGS, tmp_path / "p", 128, "secret")
    with TestClient(page.app()) as opened:
        opened.page = page
        yield opened
    page.store.close()


def enter(client, worker="A1"):
    agreed = client.get("/api/texts").json()["consent_hash"]
    body = {"worker": worker, "entry": {}, "consent": agreed}
    return {"Authorization": f"Bearer {client.post('/api/enter', json=body).json()['token']}"}


def answer_to(trial, /, **change):
    body = {"trial": trial["trial"], "choice": "synthetic", "seconds": 3.2, "layout": ALONE}
    return body | {"strokes": {"left": [MARK]}, "confidence": 2, "reason": "the ear"} | change


def labels(store):
    "What each open or answered trial shows: by trial authentic or synthetic."
    with store.reads() as connection:
        return dict(connection.execute(sa.text("select trial, left_label from trials")).all())


def session(client, worker, right=True):
    "All trials of somebody who is right, or always wrong."
    headers, told = enter(client, worker), []
    while not (trial := client.get("/api/trial", headers=headers).json())["done"]:
        label = labels(client.page.store)[trial["trial"]]
        other = {"authentic": "synthetic", "synthetic": "authentic"}[label]
        choice = label if right else other
        sure = 3 if label == "synthetic" else 1
        body = answer_to(trial, choice=choice, confidence=sure, reason=f"={label}")
        reply = client.post("/api/answer", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        told.append((trial, reply.json()))
    return told


def test_a_session_shows_one_picture_at_a_time_and_tells_nothing(client, demo):
    texts = client.get("/api/texts").json()
    assert "one at a time" in texts["consent"] and "pair" not in str(texts)
    assert "what you write" in texts["consent"]
    told = session(client, "A1")
    assert len(told) == 9 and len({tuple(trial) for trial, _ in told}) == 1
    assert all(trial["right"] is None and trial["question"] == "" for trial, _ in told)
    assert {(trial["confidence"], trial["reasons"]) for trial, _ in told} == {(3, "required")}
    seen = [client.get("/" + trial["left"]) for trial, _ in told]
    assert {reply.status_code for reply in seen} == {200}
    assert len({len(reply.content) for reply in seen}) == 1
    words = ["picture-0", "attention", "shuffled", *demo.table["image"], *demo.table["source"]]
    assert not [word for word in words if word in json.dumps(told)]
    assert [reply["feedback"] for _, reply in told] == ["right"] * 2 + [None] * 7


def test_answers_their_confidence_and_reasons_are_kept_and_exported(client, tmp_path, demo):
    session(client, "A1")
    table = client.page.store.annotations()
    assert table["kind"].value_counts().to_dict() == {"picture": 6, "practice": 2, "attention": 1}
    assert table["correct"].all() and table["trial"].is_unique
    assert (table["choice"] == table["left"]).all() and (
        table["reason"] == "=" + table["left"]
    ).all()
    assert set(table["confidence"]) == {1, 3} and set(table["layout"]) == {"single"}
    assert set(table["place"]) == {"alone"}
    check = table[table["kind"] == "attention"].iloc[0]
    assert check["left"] == "synthetic" and check["source"] == "shuffled tiles"
    shown = demo.table.set_index("image")["label"]
    counted = table[table["kind"] == "picture"]
    assert (shown[counted["image"]].to_numpy() == counted["left"].to_numpy()).all()
    readers = {"annotations.parquet": read_annotations, "coco.json": read_coco}
    readers["label_studio.json"] = lambda path: read_label_studio(path, [*demo.table["image"]])
    for name, read in readers.items():
        content = client.get(f"/admin/export/{name}", headers=BOSS).content
        (tmp_path / name).write_bytes(content)
        back = read(tmp_path / name)
        back = back[back["kind"].isin(["picture", "import"])].set_index("trial").sort_index()
        own = counted.set_index("trial").sort_index()
        assert back["reason"].tolist() == own["reason"].tolist(), name
        assert back["confidence"].tolist() == own["confidence"].tolist(), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"choice": "left"}, "choice is 'left', wanted authentic or synthetic"),
        ({"confidence": None}, "confidence: wanted a whole number from 1 to 3"),
        ({"confidence": 4}, "confidence"),
        ({"confidence": "2"}, "confidence"),
        ({"reason": " "}, "reason: say in words"),
        ({"reason": 3}, "reason: wanted a text"),
        ({"reason": "x" * 2001}, "reason: wanted a text"),
        ({"strokes": {"left": []}}, "mark either"),
        ({"strokes": {"left": [MARK], "right": []}}, "strokes: wanted one list for left"),
        ({"layout": ALONE | {"layout": "stacked"}}, "layout stacked"),
        ({"layout": ALONE | {"layout": "side by side", "left_at": "left", "right_at": "right"}},
         "side by side, of a trial of 1 pictures"),
    ],
)  # fmt: skip
def test_refused(client, change, words):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    reply = client.post("/api/answer", json=answer_to(trial, **change), headers=headers)
    assert (reply.status_code, words in reply.json()["error"]) == (400, True), reply.text
    assert not len(client.page.store.annotations())


def test_the_same_again_is_one_answer_and_other_words_are_another(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    post = lambda **change: client.post(  # noqa: E731
        "/api/answer", json=answer_to(trial, **change), headers=headers
    )
    assert post().json() == post().json()
    assert [post(reason="the hair").status_code, post(confidence=1).status_code] == [409, 409]
    with client.page.store.reads() as connection:
        [row] = connection.execute(sa.select(remarks_table)).all()
    assert (row.confidence, row.reason) == (2, "the ear")


def test_what_cannot_be_seen_is_taken_out_of_words(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    body = json.dumps(answer_to(trial, reason="a\x00b\ud800 é\n"))
    assert client.post("/api/answer", content=body, headers=headers).status_code == 200
    assert client.page.store.annotations()["reason"].tolist() == ["ab é"]


def test_each_picture_gets_its_answers_and_careless_subjects_do_not_count(client):
    session(client, "WRONG", right=False)  # fails the check, hence asked for again
    for number in range(6):
        if client.page.store.has_room():
            session(client, f"W{number}")
    assert not client.page.store.has_room()
    table = client.page.store.annotations(strokes=False)
    kept = table[(table["kind"] == "picture") & (table["subject"] != "WRONG")]
    with client.page.store.reads() as connection:
        wanted = connection.execute(sa.select(pairs_table)).mappings().all()
    wanted = {row["pair"] for row in wanted if row["kind"] == "picture"}
    assert kept.groupby("pair").size().to_dict() == dict.fromkeys(wanted, 2)
    assert client.page.store.people().loc["WRONG", "not_counted"] == "attention checks"


def test_the_study_is_read_and_measured(client):
    for worker in ("A1", "B2"):
        session(client, worker)
    study = read_human_study(client.page.store.engine.url.database)
    assert set(study.answers["label"]) == {"authentic", "synthetic"}
    row = signal_detection(study.answers, draws=50).iloc[0]
    assert (row["hits"], row["false_alarms"], row["auc"]) == (1, 0, 1)
    assert subject_accuracy(study.answers, draws=50)["d_prime"].isna().all()  # of forced choice
    assert exclusion_table(study)["answers"].tolist() == [12, 12]


def test_the_administrator_sees_who_is_left_out_and_why_files_are_empty(client):
    show = lambda: client.get("/admin/progress", headers=BOSS).json()  # noqa: E731
    mean = lambda: client.get("/admin/mean_map", headers=BOSS).json()  # noqa: E731
    assert show()["empty"]["maps.zip"] == "nothing was answered yet" and mean()["images"] == 0
    session(client, "WRONG", right=False)
    shown, refused = show(), client.get("/admin/export/maps.zip", headers=BOSS)
    assert shown["reasons"] == [{"reason": "attention checks", "subjects": 1, "answers": 6}]
    assert shown["empty"]["coco.json"] == "left out: attention checks"
    assert shown["empty"]["annotations.parquet"] == "" and mean()["images"] == 0
    assert (refused.status_code, "attention checks" in refused.json()["error"]) == (409, True)
    session(client, "A1")
    shown, grown = show(), mean()
    assert set(shown["empty"].values()) == {""} and shown["progress"]["subjects now"] == 0
    assert (grown["images"], grown["marks"], grown["behind"]) == (6, 6, False)
    assert grown["picture"].startswith("data:image/")
    enter(client, "B2")
    client.get("/api/trial", headers=enter(client, "B2"))
    assert show()["progress"]["subjects now"] == 1
    assert client.get("/admin/mean_map").status_code == 403


def test_a_store_of_before_has_no_remarks_and_goes_on(tmp_path, demo):
    settings = StudySettings(answers=1, trials=2, practice=0, attention_every=0)
    page = open_page(demo, tmp_path / "s.sqlite", 4, settings, tmp_path / "p", 64)
    with page.store.writes() as connection:  # as version 0.2 left it
        connection.execute(sa.text("drop table remarks"))
        text = connection.scalar(sa.text("select value from study where key = 'settings'"))
        old = {
            k: v for k, v in json.loads(text).items() if k not in ("task", "confidence", "reasons")
        }
        connection.execute(
            sa.text("update study set value = :v where key = 'settings'"), {"v": json.dumps(old)}
        )
    page.store.close()
    again = open_page(demo, tmp_path / "s.sqlite", 4, settings, tmp_path / "p", 64)
    with TestClient(again.app()) as client:
        headers = enter(client)
        trial = client.get("/api/trial", headers=headers).json()
        body = {"trial": trial["trial"], "choice": "left", "seconds": 3.0}
        body["strokes"] = {"left": [MARK], "right": []}
        assert client.post("/api/answer", json=body, headers=headers).status_code == 200
    table = AnnotationStore(tmp_path / "s.sqlite").annotations()
    assert table["confidence"].isna().all() and (table["reason"] == "").all()
    again.store.close()


def test_pairs_may_ask_for_confidence_and_reasons_too(tmp_path, demo):
    settings = StudySettings(trials=2, practice=0, attention_every=0, confidence=5)
    settings = StudySettings(**vars(settings) | {"reasons": "optional"})
    page = open_page(demo, tmp_path / "s.sqlite", 4, settings, tmp_path / "p", 64)
    with TestClient(page.app()) as client:
        headers = enter(client)
        trial = client.get("/api/trial", headers=headers).json()
        body = {"trial": trial["trial"], "choice": "left", "seconds": 3.0, "confidence": 5}
        body["strokes"] = {"left": [MARK], "right": []}
        assert client.post("/api/answer", json=body, headers=headers).status_code == 200
    table = page.store.annotations()
    assert len(table) == 2 and table["confidence"].tolist() == [5, 5]
    page.store.close()


def test_a_table_written_before_is_read(tmp_path, client):
    session(client, "A1")
    content = client.get("/admin/export/annotations.parquet", headers=BOSS).content
    table = pd.read_parquet(io.BytesIO(content)).drop(columns=["confidence", "reason"])
    table.to_parquet(tmp_path / "old.parquet")
    back = read_annotations(tmp_path / "old.parquet")
    assert back["confidence"].isna().all() and (back["reason"] == "").all()
    assert np.array_equal(back["trial"], table["trial"])
