"""The study page's server: what it refuses, what it never tells, what the administrator gets."""

import io
import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from PIL import Image
from starlette.testclient import TestClient

from cyborg.commands import started
from cyborg.demo import make_demo
from cyborg.manifest import Manifest
from cyborg.marks import strokes_mask
from cyborg.people.crowd import (
    PREVIEW,
    encode_pictures,
    fitted,
    link_signature,
    page_text,
    signature,
    signed_links,
    size_giveaways,
    to_picture,
    turk_address,
)
from cyborg.people.server import BODY_LIMIT, HEADERS, CrowdPage, _threads, open_page
from cyborg.people.server import main as serve
from cyborg.people.tables import StudySettings, consents, make_pairs, pairs_table, trials
from cyborg.saliency import read_map

MARK = {"points": [[30, 30, 0.5], [60, 60, 0.9]], "radius": 8, "erase": False}
BOSS = {"Authorization": "Bearer secret"}
COMMAND = "from cyborg.commands import annotate_command; annotate_command()"
main = partial(started, "cyborg-annotate", serve)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    """Authentic images as small JPEG files, synthetic ones as large PNG files with metadata."""
    root = tmp_path_factory.mktemp("unlike") / "set"
    demo = make_demo(root, n=60, size=64, workers=1)
    table = demo.table.copy()
    for i, row in table[table["label"] == "synthetic"].iterrows():
        name = row["image"].replace(".jpg", ".png")
        with Image.open(root / row["image"]) as picture:
            wide = picture.resize((300, 200))
        exif = Image.Exif()
        exif[270] = "made by a generator"
        wide.save(root / name, exif=exif)
        table.loc[i, "image"] = name
    return Manifest(table, root, demo.classes)


@pytest.fixture
def client(tmp_path, unlike):
    settings = StudySettings(answers=3, trials=8, practice=1, attention_every=8)
    shared = unlike.root.parent / "pictures"
    page = open_page(unlike, tmp_path / "s.sqlite", 12, settings, shared, 128, admin="secret")
    with TestClient(page.app()) as opened:
        opened.page = page
        yield opened
    page.store.close()


@pytest.mark.parametrize("what", ["truncated", "EPS"])
def test_a_study_with_a_picture_that_is_none_names_it_before_it_starts(tmp_path, what):
    demo = make_demo(tmp_path / "set", n=40, size=64, workers=1)
    for name in demo.table["image"]:
        whole = (demo.root / name).read_bytes()
        cut = whole[: len(whole) * 2 // 3]
        (demo.root / name).write_bytes(cut if what == "truncated" else b"%!PS-Adobe-3.0 EPSF-3.0\n")
    settings = StudySettings(answers=1, trials=4, practice=1, attention_every=4)
    reason = "damaged image" if what == "truncated" else "not an image .* PostScript"
    with pytest.raises(ValueError, match=rf"{demo.root}/images/.*\.jpg: {reason}"):
        open_page(demo, tmp_path / "s.sqlite", 4, settings, tmp_path / "sent", 64)


def agreed(client):
    "What a browser sends of somebody who has read the text."
    return client.get("/api/texts").json()["consent_hash"]


def enter(client, worker="A1"):
    entry = {"hitId": "H", "assignmentId": "3X"}
    body = {"worker": worker, "entry": entry, "consent": agreed(client)}
    return {"Authorization": f"Bearer {client.post('/api/enter', json=body).json()['token']}"}


def answer_to(trial, /, **change):
    strokes = {"left": [MARK], "right": []}
    body = {"trial": trial["trial"], "choice": "left", "seconds": 3.2, "strokes": strokes}
    return {**body, **change}


def right_side(client, trial):
    "The side that is asked for, which only the store knows."
    own = sa.select(trials.c.left_label).where(trials.c.trial == trial["trial"])
    with client.page.store.reads() as connection:
        return "left" if connection.scalar(own) == trial["question"] else "right"


def session(client, worker, right=False):
    """All trials of a subject, answered left, or right; what the browser was told of each."""
    headers, told = enter(client, worker), []
    while not (trial := client.get("/api/trial", headers=headers).json())["done"]:
        choice = right_side(client, trial) if right else "left"
        reply = client.post("/api/answer", json=answer_to(trial, choice=choice), headers=headers)
        assert reply.status_code == 200
        told.append((trial, reply.json()))
    return told, trial


def test_nothing_a_browser_receives_tells_the_answer(client, unlike):
    told, _ = session(client, "A1")
    told += session(client, "B2")[0]
    replies = [[client.get("/" + trial[side]) for side in ("left", "right")] for trial, _ in told]
    heads = [{k: v for k, v in r.headers.items() if k != "date"} for pair in replies for r in pair]
    assert all(head == heads[0] for head in heads)
    assert len({len(r.content) for pair in replies for r in pair}) == 1
    pictures = [Image.open(io.BytesIO(r.content)) for pair in replies for r in pair]
    assert {(p.format, p.size, p.mode, tuple(sorted(p.info))) for p in pictures} == {
        (pictures[0].format, (128, 128), "RGB", tuple(sorted(pictures[0].info)))
    }
    assert {tuple(p.quantization[0]) for p in pictures} == {tuple(pictures[0].quantization[0])}
    names = [trial[side] for trial, _ in told for side in ("left", "right")]
    assert len(set(names)) == len(names)  # the same picture has another name in another trial
    text = json.dumps(told) + str([dict(r.headers) for pair in replies for r in pair])
    words = [*unlike.table["image"], *unlike.table["source"], "attention", "shuffled", "pair-"]
    assert not [word for word in words if word in text]
    assert len({tuple(trial) for trial, _ in told}) == 1
    assert all((reply["feedback"] is None) != trial["practice"] for trial, reply in told)


def test_left_and_right_are_what_the_store_says(client, unlike):
    """The picture served under a name is the one whose label the store has for that side."""
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    with client.page.store.reads() as connection:
        row = connection.execute(
            sa.select(trials, pairs_table)
            .join(pairs_table, pairs_table.c.pair == trials.c.pair)
            .where(trials.c.trial == trial["trial"])
        ).one()
    images = {"authentic": row.authentic, "synthetic": row.synthetic}
    left = images.pop(row.left_label)
    for side, image in (("left", left), ("right", *images.values())):
        served = Image.open(io.BytesIO(client.get("/" + trial[side]).content))
        with Image.open(unlike.root / image) as original:
            edge = (original.width - original.height) // 2
            square = original.crop((edge, 0, original.width - edge, original.height))
            wanted = np.asarray(square.convert("RGB").resize((128, 128))).astype(float)
        assert np.abs(np.asarray(served) - wanted).mean() < 12, side


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"trial": "forged"}, 404, "no such trial"),
        ({"trial": None}, 404, "no such trial"),
        ({"trial": "' OR 1=1 --"}, 404, "no such trial"),
        ({"choice": "both"}, 400, "choice"),
        ({"choice": None}, 400, "choice"),
        ({"seconds": "x"}, 400, "seconds"),
        ({"strokes": {"left": [MARK]}}, 400, "strokes"),
        ({"strokes": {"left": [], "right": []}}, 400, "mark either"),
        ({"strokes": {"left": "x", "right": []}}, 400, "strokes"),
        ({"strokes": {"left": [{**MARK, "points": [[129, 0, 0]]}], "right": []}}, 400, "leaves"),
        ({"strokes": {"left": [{**MARK, "radius": 1e9}], "right": []}}, 400, "radius"),
        ({"strokes": {"left": [MARK] * 501, "right": []}}, 400, "500"),
    ],
)
def test_refused_answers(client, change, status, words):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    reply = client.post("/api/answer", json=answer_to(trial, **change), headers=headers)
    assert (reply.status_code, words in reply.json()["error"]) == (status, True), reply.text
    assert not len(client.page.store.annotations())
    assert client.get("/api/trial", headers=headers).json() == trial


def test_another_subjects_trial(client):
    trial = client.get("/api/trial", headers=enter(client, "A1")).json()
    reply = client.post("/api/answer", json=answer_to(trial), headers=enter(client, "B2"))
    assert (reply.status_code, reply.json()["error"]) == (
        403,
        "trial: it was handed out to somebody else",
    )


def test_an_answer_twice(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    first, again = (
        client.post("/api/answer", json=answer_to(trial), headers=headers) for _ in range(2)
    )
    assert first.json() == again.json() and again.status_code == 200
    other = client.post("/api/answer", json=answer_to(trial, choice="right"), headers=headers)
    assert (other.status_code, "another answer" in other.json()["error"]) == (409, True)
    assert client.page.store.annotations()["trial"].nunique() == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b" " * (BODY_LIMIT + 1), 413),
        (b'{"worker": "A1"}', 400),
        (b'{"worker": "A1", "consent": true}', 400),
        (b'{"worker": "A1", "consent": "AGREED"}', 409),
        (b'{"worker": "<script>", "consent": "HASH"}', 400),
        (b'{"worker": ["A1"], "consent": "HASH"}', 400),
        (b'{"worker": "A1", "consent": "HASH", "entry": 3}', 400),
    ],
)
def test_bad_bodies(client, body, status):
    reply = client.post("/api/enter", content=body.replace(b"HASH", agreed(client).encode()))
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert "<script>" not in reply.text


def test_who_is_nobody(client):
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
        assert client.get("/api/trial", headers=headers).status_code == 401
        assert client.post("/api/answer", json={}, headers=headers).status_code == 401
    assert client.get("/picture/forged").status_code == 404
    assert client.get("/static/../annotation.py").status_code == 404
    assert client.get("/api/enter").status_code == 405


def test_headers_are_on_every_response(client):
    for path in ("/", "/admin", "/static/brush.js", "/api/texts", "/picture/x", "/nothing"):
        assert HEADERS.items() <= {
            k.title(): v for k, v in client.get(path).headers.items()
        }.items() or all(client.get(path).headers[key] == value for key, value in HEADERS.items())


def test_return_and_end(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    assert enter(client) == headers  # the same link after a break: the same subject
    assert client.get("/api/trial", headers=headers).json() == trial
    told, end = session(client, "A1")
    assert len(told) == 10 and end["done"] and len(end["code"]) == 10
    assert client.get("/api/trial", headers=headers).json() == end


def test_a_full_disk_is_a_503_and_the_answer_can_be_sent_again(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    store, room = client.page.store, {"pages": 1}

    def small(connection):
        connection.exec_driver_sql(f"PRAGMA max_page_count={room['pages']}")

    sa.event.listen(store.engine, "begin", small)
    long = {**MARK, "points": [[30 + i / 1000, 30, i] for i in range(9000)]}
    body = answer_to(trial, strokes={"left": [long], "right": []})
    reply = client.post("/api/answer", json=body, headers=headers)
    assert (reply.status_code, "try again" in reply.json()["error"]) == (503, True)
    room["pages"] = 100_000
    assert client.post("/api/answer", json=body, headers=headers).status_code == 200


# --- links ------------------------------------------------------------------------------------


@pytest.fixture
def signed(client):
    "The same study, to be entered by signed links alone."
    page = client.page
    closed = CrowdPage(page.store, page.manifest, page.encoded, "secret", page.side, signed=True)
    with TestClient(closed.app()) as opened:
        opened.store = page.store
        yield opened


def come(client, worker, code=None, **entry):
    entry |= {} if code is None else {"signature": code}
    body = json.dumps({"worker": worker, "consent": agreed(client), "entry": entry})
    return client.post("/api/enter", content=body.encode())


def test_a_signed_link_opens_the_study(signed):
    [link] = signed_links(signed.store, ["A1"], "https://x.example")
    given = dict(part.split("=") for part in link.removeprefix("https://x.example/?").split("&"))
    reply = come(signed, given["worker"], given["signature"])
    assert reply.status_code == 200
    again = come(signed, given["worker"], given["signature"])
    assert again.json()["token"] == reply.json()["token"]


def bad_signatures(store):
    good, study, secret = link_signature(store, "A1"), store._value("pairs"), store._value("secret")
    return {
        "none": None,
        "empty": "",
        "truncated": good[:-1],
        "longer": good + "A",
        "first changed": ("B" if good[0] == "A" else "A") + good[1:],
        "another worker's": link_signature(store, "A2"),
        "another study's": signature("A1", "0" * len(study), secret),
        "another secret's": signature("A1", study, "0" * len(secret)),
        "other letters": good.swapcase(),
        "a surrogate": "\ud800",
        "very long": "A" * 100_000,
        "none of ASCII": "é" * 43,
    }


def test_forged_signatures_are_refused_and_store_nobody(signed):
    for name, code in bad_signatures(signed.store).items():
        reply = come(signed, "A1", code)
        assert reply.status_code == 403 and "not made for this" in reply.json()["error"], name
    for worker in ("A1 ", "a1", "\ud800", ["A1"], {"a": 1}, None, ""):
        assert come(signed, worker, link_signature(signed.store, "A1")).status_code in (400, 403)
    assert signed.store.counts()["subjects"] == 0


def test_one_stores_signature_is_worth_nothing_in_another(signed, tmp_path, unlike):
    settings = StudySettings(answers=3, trials=8, practice=1, attention_every=8)
    shared = unlike.root.parent / "pictures"
    page = open_page(unlike, tmp_path / "other.sqlite", 12, settings, shared, 128)
    assert page.store._value("pairs") == signed.store._value("pairs")  # the very same study
    assert come(signed, "A1", link_signature(page.store, "A1")).status_code == 403
    page.store.close()


def test_open_recruitment_needs_no_signature(client):
    assert come(client, "5f1Prolific").status_code == 200
    assert come(client, "A2", "forged").status_code == 200  # what nobody asks for is not looked at


def test_signed_and_guests_exclude_each_other(client):
    page = client.page
    with pytest.raises(ValueError, match="guests have no link"):
        CrowdPage(page.store, page.manifest, page.encoded, "x", guests=True, signed=True)


def test_a_preview_stores_nothing(client):
    reply = come(client, "A1", assignmentId=PREVIEW, turkSubmitTo="https://www.mturk.com")
    assert reply.status_code == 403 and "accept the task" in reply.json()["error"]
    assert client.page.store.counts()["subjects"] == 0


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("https://www.mturk.com", "https://www.mturk.com/mturk/externalSubmit"),
        ("https://workersandbox.mturk.com/x?y", "https://workersandbox.mturk.com"),
        ("https://www.mturk.com.evil.org", ""),
        ("https://evilmturk.com", ""),
        ("https://evil.org/.mturk.com", ""),
        ("https://evil.org#.mturk.com", ""),
        ("https://evil.org\\.mturk.com", ""),
        ("https://www.mturk.com@evil.org", ""),
        ("https://evil@www.mturk.com", ""),
        ("https://www.mturk.com:8443", ""),
        ("https://www.mturk.com:x", ""),
        ("https://[", ""),
        ("http://www.mturk.com", ""),
        ("javascript:alert(1)//.mturk.com", ""),
        ("", ""),
    ],
)
def test_assignments_are_sent_to_mechanical_turk_alone(client, address, wanted):
    reply = come(client, "A1", assignmentId="3X", turkSubmitTo=address).json()["submit"]
    assert reply.startswith(wanted) if wanted else reply == ""
    assert turk_address({"turkSubmitTo": address}) == ""


def test_command_prints_links(tmp_path, unlike, capsys):
    from cyborg.manifest import write_manifest

    path = write_manifest(unlike, unlike.root / "all.csv")
    (tmp_path / "workers.txt").write_text("ann\nbob\n")
    options = dict(manifest=str(path), root=str(unlike.root), split="", pairs=8, trials=4, side=64)
    options |= {"store": str(tmp_path / "s.sqlite"), "practice": 0, "attention_every": 0}
    links = str(tmp_path / "workers.txt")
    main(**options, signed=True, links=links, page_url="https://x.example")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("&")[0] for line in lines] == [
        "https://x.example/?worker=ann",
        "https://x.example/?worker=bob",
    ]
    (tmp_path / "workers.txt").write_text("<b>")
    with pytest.raises(SystemExit, match="worker id '<b>'"):
        main(**options, links=links, page_url="https://x.example")
    for host in ("127.0.0.1", "localhost"):  # nobody else could open such a link
        with pytest.raises(SystemExit, match="give the page's with --page_url"):
            main(**options, links=links, host=host)
    with pytest.raises(SystemExit, match="guests have no link"):
        main(**options, signed=True, guests=True)


def test_signed_once_is_signed_for_good(tmp_path, unlike):
    settings = StudySettings(trials=4, practice=0, attention_every=0)
    page = open_page(unlike, tmp_path / "s.sqlite", 8, settings, side=64, signed=True)
    page.store.close()
    again = open_page(unlike, tmp_path / "s.sqlite", 8, settings, side=64)
    assert again.signed and come(TestClient(again.app()), "A1").status_code == 403
    again.store.close()


def test_command_asks_which_label_is_synthetic_where_no_word_tells(monkeypatch, unlike, tmp_path):
    table = unlike.table.assign(
        label=unlike.table["label"].map({"authentic": "1", "synthetic": "0"})
    )
    table.to_csv(tmp_path / "m.csv", index=False)
    opened = []
    monkeypatch.setattr(
        "cyborg.people.server.open_page",
        lambda images, *_, **__: opened.append(images) or 1 / 0,
    )
    options = {"manifest": str(tmp_path / "m.csv"), "root": str(unlike.root), "split": ""}
    with pytest.raises(SystemExit, match="cyborg-annotate: .*labels are '0' and '1'.* synthetic="):
        main(**options)
    with pytest.raises(ZeroDivisionError):
        main(**options, synthetic="0")
    pairs = make_pairs(opened[0], 3, 0, 0)
    label = table.set_index("image")["label"]
    assert set(label[pairs["synthetic"]]) == {"0"} and set(label[pairs["authentic"]]) == {"1"}


def test_command_passes_every_setting_on(monkeypatch, unlike):
    from dataclasses import fields

    given, wanted = {}, StudySettings(7, 6, 1, 3, 60.0, "both", 5, "CODE", 0.25)
    monkeypatch.setattr("cyborg.people.server.make_demo", lambda: unlike)
    monkeypatch.setattr(
        "cyborg.people.server.open_page",
        lambda images, store, pairs, own, *rest, **texts: given.update(vars(own)) or 1 / 0,
    )
    own = {f.name: getattr(wanted, f.name) for f in fields(wanted) if f.name != "break_every"}
    with pytest.raises(ZeroDivisionError):
        main(demo=True, **own)
    assert given == vars(wanted) | {"break_every": 10}


# --- consent, and a study that is full --------------------------------------------------------


def test_consent_is_to_this_text_of_this_study(client, tmp_path, unlike):
    settings = StudySettings(answers=3, trials=8, practice=1, attention_every=8)
    shared = unlike.root.parent / "pictures"
    texts = {"consent": "We film you."}
    page = open_page(unlike, tmp_path / "o.sqlite", 12, settings, shared, 128, **texts)
    other = TestClient(page.app())
    here, there = (one.get("/api/texts").json() for one in (client, other))
    assert here["study"] != there["study"] and here["consent_hash"] != there["consent_hash"]
    body = {"worker": "A1", "entry": {}, "consent": here["consent_hash"]}
    stale = other.post("/api/enter", json=body)
    assert (stale.status_code, "text has changed" in stale.json()["error"]) == (409, True)
    assert page.store.counts()["subjects"] == 0
    enter(other)
    assert page.store.people().loc["A1", "consent"] == there["consent_hash"]
    with page.store.reads() as connection:
        assert connection.scalar(sa.select(consents.c.text)) == "<p>We film you.</p>"
    page.store.close()


@pytest.fixture
def full(client):
    """The study with all its answers, and somebody who came before that but answered nothing."""
    client.early = enter(client, "EARLY")
    for i in range(40):
        if client.page.store.has_room():  # who fails the attention check does not count
            session(client, f"W{i}")
    assert not client.page.store.has_room()
    return client


def test_a_full_study_lets_nobody_in_and_pays_nobody(full):
    late = come(full, "LATE")
    assert (late.status_code, "all the answers" in late.json()["error"]) == (410, True)
    assert "LATE" not in full.page.store.people().index
    end = full.get("/api/trial", headers=full.early).json()
    assert end["done"] and end["full"] and end["code"] == "" and end["url"] == ""
    again = full.get("/api/trial", headers=enter(full, "W0")).json()
    assert not again["full"] and len(again["code"]) == 10


# --- administrator ---------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
def test_admin_needs_the_token(client, headers):
    for path in ("/admin/progress", "/admin/export/maps.zip", "/admin/progress?token=secret"):
        assert client.get(path, headers=headers).status_code == 403


def test_admin_sees_progress_and_exclusions(client):
    empty = client.get("/admin/progress", headers=BOSS)
    assert empty.status_code == 200 and empty.json()["progress"]["answers"] == 0
    session(client, "A1")
    shown = client.get("/admin/progress", headers=BOSS).json()
    assert shown["progress"]["answers"] == 8 and shown["progress"]["wanted"] == 36
    assert shown["progress"]["finished"] == 1
    [row] = shown["subjects"]
    assert row["subject"] == "A1" and row["answers"] == 8
    assert len(row["code"]) == 10 and row["assignment"] == "3X" and row["study"] == "H"


def test_codes_can_be_checked_of_everybody_who_came(client):
    enter(client, "LOOKER")
    _, end = session(client, "A1")
    content = client.get("/admin/export/subjects.csv", headers=BOSS).text
    table = pd.read_csv(io.StringIO(content), index_col="subject", keep_default_na=False)
    assert set(table.index) == {"LOOKER", "A1"}
    assert table.loc["A1", "code"] == end["code"] and table.loc["LOOKER", "code"] == ""
    assert table.loc["A1", "finished"] >= table.loc["A1", "entered"] > "2020"
    assert table.loc["LOOKER", ["assignment", "study"]].tolist() == ["3X", "H"]
    assert json.loads(table.loc["A1", "entry"]) == {"hitId": "H", "assignmentId": "3X"}
    assert set(table["consent"]) == {agreed(client)}
    shown = client.get("/admin/progress", headers=BOSS).json()["subjects"]
    assert {row["subject"]: row["code"] for row in shown} == {"LOOKER": "", "A1": end["code"]}


def test_admin_leaves_somebody_out_and_takes_it_back(client):
    session(client, "A1")
    path, body = "/admin/exclude", {"worker": "A1", "excluded": True}
    assert client.post(path, json=body).status_code == 403
    assert client.post(path, json=body | {"excluded": "yes"}, headers=BOSS).status_code == 400
    assert client.post(path, json=body | {"worker": "<b>"}, headers=BOSS).status_code == 400
    for excluded, kept in ((True, 0), (False, None)):
        done = client.post(path, json=body | {"excluded": excluded}, headers=BOSS)
        assert done.json() == {"stored": True}
        shown = client.get("/admin/progress", headers=BOSS).json()
        by_hand = "by hand" in shown["subjects"][0]["excluded"]
        assert by_hand == excluded and shown["progress"]["answers"] == 8
        assert kept is None or shown["progress"]["answers kept"] == kept


def test_progress_reads_no_strokes(client):
    session(client, "A1")
    seen = []
    listen = (client.page.store.engine, "before_cursor_execute", lambda *a: seen.append(a[2]))
    sa.event.listen(*listen)
    client.get("/admin/progress", headers=BOSS)
    client.get("/admin/export/subjects.csv", headers=BOSS)
    sa.event.remove(*listen)
    assert any("marks" in text for text in seen)
    assert not [text for text in seen if "marks.strokes" in text]


def test_one_export_at_a_time_and_no_subject_waits_for_it(client):
    session(client, "A1", right=True)  # who fails the check leaves no marks to export
    taken = _threads("export")
    taken.acquire_on_behalf_of_nowait("an export")
    try:
        busy = client.get("/admin/export/coco.json", headers=BOSS)
        assert (busy.status_code, "busy" in busy.json()["error"]) == (429, True)
        assert client.get("/admin/progress", headers=BOSS).status_code == 200
        assert client.get("/api/trial", headers=enter(client, "B2")).status_code == 200
    finally:
        taken.release_on_behalf_of("an export")
    assert client.get("/admin/export/coco.json", headers=BOSS).status_code == 200


def test_admin_exports(client, tmp_path):
    assert client.get("/admin/export/maps.zip", headers=BOSS).status_code == 409
    session(client, "A1", right=True)
    got = {
        name: client.get(f"/admin/export/{name}", headers=BOSS)
        for name in client.get("/admin/progress", headers=BOSS).json()["exports"]
    }
    assert all(reply.status_code == 200 for reply in got.values())
    assert len(pd.read_parquet(io.BytesIO(got["annotations.parquet"].content))) == 20
    archive = zipfile.ZipFile(io.BytesIO(got["maps.zip"].content))
    assert {"annotated/manifest.csv", "annotated/annotations.parquet"} <= {*archive.namelist()}
    archive.extractall(tmp_path / "maps")
    table = pd.read_csv(tmp_path / "maps/annotated/manifest.csv", keep_default_na=False)
    named = table.loc[table["map"] != "", "map"]
    assert all(read_map(tmp_path / "maps" / name).max() == 1 for name in named)
    assert client.get("/admin/export/..%2Fs.sqlite", headers=BOSS).status_code == 404


# --- pictures --------------------------------------------------------------------------------


def test_pictures_of_another_folder_or_a_changed_file_are_made_again(tmp_path):
    names = {"authentic": ["a/0.png"], "synthetic": ["s/0.png"], "kind": ["pair"]}

    def shade(folder, value=None, moment=0):
        for name in ("a/0.png", "s/0.png") if value is not None else ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 64), (value,) * 3).save(folder / name)
            os.utime(folder / name, (moment, moment))
        made = encode_pictures(pd.DataFrame(names), folder, tmp_path / "shared", 64)
        return Image.open(io.BytesIO(made.read("a/0.png"))).getpixel((5, 5))[0]

    assert [shade(tmp_path / "one", 10), shade(tmp_path / "two", 240)] == [10, 240]
    assert [shade(tmp_path / "one"), shade(tmp_path / "one", 99, moment=9)] == [10, 99]


def test_no_bars_tell_portraits_from_squares(tmp_path):
    """178 x 218 beside 256 x 256, as photographs beside generated faces are."""
    for size in ((178, 218), (256, 256), (300, 200)):
        square = np.asarray(fitted(Image.new("RGB", size, (255, 255, 255)), 128))
        assert (square == 255).all()


def test_sizes_that_tell_the_label_are_told(client, tmp_path, unlike, capsys, monkeypatch):
    [first, second] = size_giveaways(client.page.store)
    assert "proportions" in first and "pixels" in second and "100%" in first + second
    monkeypatch.setattr("uvicorn.run", lambda *a, **k: None)
    monkeypatch.setattr("cyborg.people.server.make_demo", lambda: unlike)
    main(demo=True, split="", store=str(tmp_path / "w.sqlite"), pairs=20, trials=4, side=64)
    assert capsys.readouterr().err.count("WARNING: ") == 2
    alike = make_demo(tmp_path / "alike", n=60, size=64, workers=1)
    settings = StudySettings(trials=4, practice=0, attention_every=0)
    page = open_page(alike, tmp_path / "a.sqlite", 20, settings, side=64)
    assert size_giveaways(page.store) == []
    page.store.close()


# --- the rest --------------------------------------------------------------------------------


def test_marks_are_where_they_were_painted_on_the_picture():
    for width, height in ((300, 200), (200, 300), (178, 218), (256, 256)):
        side = min(width, height)
        x, y = (width - side) // 2, (height - side) // 2
        [moved] = to_picture([{**MARK, "points": [[0, 0, 0], [128, 64, 1]]}], width, height, 128)
        assert moved["points"] == [[x, y, 0], [x + side, y + side / 2, 1]]
        assert moved["radius"] == 8 * side / 128


@pytest.mark.parametrize("size", [(178, 218), (300, 200), (256, 256)])
def test_what_is_painted_over_on_the_page_is_painted_over_on_the_picture(size):
    """A white spot is found on the square that is shown, painted, and the mask lies on it."""
    spot = np.zeros(size[::-1], np.uint8)
    spot[size[1] // 2 + 30 : size[1] // 2 + 50, size[0] // 2 - 60 : size[0] // 2 - 40] = 255
    shown = np.asarray(fitted(Image.fromarray(spot), 128))[..., 0]
    y, x = np.argwhere(shown > 127).mean(0) + 0.5
    [stroke] = to_picture([{"points": [[x, y, 0]], "radius": 4, "erase": False}], *size, 128)
    mask = strokes_mask([stroke], *size)
    assert mask.any() and (spot[mask] == 255).all()


def test_texts(tmp_path):
    (tmp_path / "own.html").write_text("<h2>Ours</h2>")
    assert page_text(tmp_path / "own.html") == "<h2>Ours</h2>"
    assert page_text(str(tmp_path / "own.html")) == "<h2>Ours</h2>"
    assert page_text("<h2>x</h2>") == "<p>&lt;h2&gt;x&lt;/h2&gt;</p>"


def test_a_study_started_again_with_other_settings_is_refused(tmp_path, unlike):
    settings = StudySettings(trials=4, practice=0, attention_every=0)
    open_page(unlike, tmp_path / "s.sqlite", 8, settings, side=64).store.close()
    with pytest.raises(ValueError, match="other pairs"):
        open_page(unlike, tmp_path / "s.sqlite", 9, settings, side=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which images"),
        ({"manifest": "missing.csv"}, "missing.csv"),
        ({"demo": False, "manifest": "x.txt"}, "must end in"),
    ],
)
def test_command_refuses_in_words(options, message):
    with pytest.raises(SystemExit, match=message):
        main(**options)


def test_command_help():
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--help"], capture_output=True, text=True, check=True
    )
    assert "--attention_every" in done.stdout and "administrator" in done.stdout


def test_static_files_are_there():
    import cyborg

    here = Path(cyborg.__file__).parent / "static"
    wanted = {"brush.js", "brush.css", "study.js", "study.css", "study.html", "admin.js"}
    wanted |= {"drop.js", "drop.css", "figure.js", "follow.js", "card.md.jinja"}
    assert wanted | {"admin.html", "workbench"} == {path.name for path in here.iterdir()}
