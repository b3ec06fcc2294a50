"""The study page's server under bad input, attack and signals: words and a 4xx, never a 500; what
was acknowledged is in the file."""

import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from browser import free_port
from PIL import Image
from starlette.testclient import TestClient

from cyborg.commands import started
from cyborg.demo import make_demo
from cyborg.marks import AnnotationError
from cyborg.people.crowd import page_text, worker_ids
from cyborg.people.server import BODY_LIMIT, COPY, Allowance, _threads, open_page
from cyborg.people.server import main as serve
from cyborg.people.tables import StudySettings

COMMAND = "from cyborg.commands import annotate_command; annotate_command()"
main = partial(started, "cyborg-annotate", serve)
MARK = {"points": [[30, 30, 0.5], [60, 60, 0.9]], "radius": 8, "erase": False}
TOKEN = "a-long-administrator-token"
BOSS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory.mktemp("faults") / "set", n=60, size=64, workers=1)


@pytest.fixture
def client(tmp_path, demo):
    settings = StudySettings(answers=9, trials=8, practice=1, attention_every=8)
    shared = demo.root.parent / "pictures"
    page = open_page(demo, tmp_path / "s.sqlite", 12, settings, shared, 64, admin=TOKEN)
    with TestClient(page.app(), raise_server_exceptions=False) as opened:
        opened.page = page
        yield opened
    page.store.close()


def entry(client, worker="A1"):
    agreed = client.get("/api/texts").json()["consent_hash"]
    return {"worker": worker, "entry": {"hitId": "H"}, "consent": agreed}


def enter(client, worker="A1"):
    reply = client.post("/api/enter", json=entry(client, worker))
    return {"Authorization": f"Bearer {reply.json()['token']}"}


def answer_to(trial, **change):
    layout = {"layout": "stacked", "left_at": "upper", "right_at": "lower"}
    layout |= {"viewport_width": 360, "viewport_height": 740}
    body = {"trial": trial["trial"], "choice": "left", "seconds": 3.2, "layout": layout}
    return body | {"strokes": {"left": [MARK], "right": []}} | change


# --- every field of every endpoint, and everything that is none of its values ------------------

WRONG = ["null", "true", "false", "0", "-1", "1.5", "1e999", "-1e999", "NaN", "Infinity", "[]"]
WRONG += ["{}", "[[]]", "[null]", "[1]", '{"a":1}', '""', '"x"', '"../../x"', '"8"']
WRONG += ['"\\ud800"', '"\\u0000"', '"\\udfff\\ud800"']
WRONG += ["1" * 5000, "1" + "0" * 400, "-1" + "0" * 400, "1" + "0" * 4000, f'"{"x" * 3000}"']
WRONG += ["[" * n + "]" * n for n in (60, 900, 50_000)] + ['{"a":' * 900 + "1" + "}" * 900]


def places(value, path=()):
    "Every place of a JSON value."
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, one in inner:
        yield from places(one, (*path, key))


def with_text(value, path, text):
    "JSON of a value with a text in place of what stands at a path."
    mark = "@@here@@"

    def changed(one, rest):
        if not rest:
            return mark
        copy = one.copy()
        copy[rest[0]] = changed(one[rest[0]], rest[1:])
        return copy

    return json.dumps(changed(value, path)).replace(f'"{mark}"', text)


FINE = {"worker": ['"x"', '"8"'], "entry": ["{}"], "seconds": ["0", "1.5"], "right": ["[]"]}
FINE |= {"erase": ["false"], "layout": ["null"], "excluded": ["true", "false"]}
FINE |= dict.fromkeys(("radius", "viewport_width", "viewport_height"), ["1.5"])


def is_fine(path, text):
    "Whether a value in place of a good one is another good one."
    names = [part for part in path if isinstance(part, str)]
    if names == ["layout", "layout"]:
        return False
    if [type(part) for part in path[-2:]] == [int, int]:
        return None  # a number of a point: it depends on those beside it
    if names and names[-1] == "hitId":
        return text.startswith('"')  # kept as the crowd service gave it
    return bool(names) and text in FINE.get(names[-1], [])


def bodies(good):
    "A good body with each of its places made wrong, and bodies that are none; whether it is fine."
    for path, text in itertools.product(places(good), WRONG):
        unknown = path == ("worker",) and "consent" not in good  # nobody who could be excluded
        yield (
            f"{path} {text[:12]}",
            with_text(good, path, text).encode(),
            is_fine(path, text) if not unknown else False,
        )
    for name in good:
        less = json.dumps({k: v for k, v in good.items() if k != name}).encode()
        yield f"without {name}", less, name in ("entry", "layout")
    whole = json.dumps(good).encode()
    broken = [whole[:-3], b"", b"\xff\xfe\x00" * 9, b"\0" * 50, whole * 2]
    yield from ((f"broken {one[:9]}", one, False) for one in broken)


@pytest.mark.parametrize("endpoint", ["enter", "answer", "exclude"])
def test_no_body_is_a_500(client, endpoint):
    """Also: what is refused is refused in words, in JSON, and nothing is stored of it."""
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    path, good, who = {
        "enter": ("/api/enter", entry(client), {}),
        "answer": ("/api/answer", answer_to(trial), headers),
        "exclude": ("/admin/exclude", {"worker": "A1", "excluded": True}, BOSS),
    }[endpoint]
    client.page.sent.burst = 1e12  # the rate has a test of its own
    asked = 0
    for name, body, fine in bodies(good):
        reply = client.post(path, content=body, headers=who)
        asked += 1
        assert fine is None or (reply.status_code == 200) == fine, (name, reply.text)
        if reply.status_code == 200:
            with client.page.store.writes() as connection:  # or the next one came too late
                for table in ("marks", "layouts", "answers"):
                    connection.exec_driver_sql(f"DELETE FROM {table}")
            continue
        assert 400 <= reply.status_code < 500, (name, reply.status_code, reply.text[:200])
        assert len(reply.json()["error"]) > 8, name
        assert not len(client.page.store.annotations()), name
    assert asked > 100
    assert client.post(path, json=good, headers=who).status_code == 200  # and it still works


@pytest.mark.parametrize(
    "path", ["/picture/{}", "/admin/export/{}", "/static/{}", "/api/{}", "/{}"]
)
def test_no_address_is_a_500(client, path):
    odd = ("%ED%A0%80", "%00", "%FF", "..%2F..%2Fetc", "x" * 3000, "%F0%9F%98%80", "'--", "%2e%2e")
    for name in odd:
        reply = client.get(path.format(name), headers=BOSS)
        assert 400 <= reply.status_code < 500, (path, name, reply.status_code)


@pytest.mark.parametrize(
    "token", [b"\xff\xfe", b"x" * 5000, b"", b"'; DROP TABLE", b"\xed\xa0\x80"]
)
def test_no_token_is_a_500(client, token):
    head = {b"Authorization": b"Bearer " + token}
    assert client.get("/api/trial", headers=head).status_code == 401
    assert client.post("/api/answer", json={}, headers=head).status_code == 401
    assert client.get("/admin/progress", headers=head).status_code == 403


def test_a_fault_of_ours_is_told_in_words_of_json(client, monkeypatch):
    headers = enter(client)
    monkeypatch.setattr(type(client.page.store), "next_trial", lambda self, who: 1 / 0)
    reply = client.get("/api/trial", headers=headers)
    assert reply.status_code == 500 and "made a mistake" in reply.json()["error"]
    assert reply.headers["content-type"] == "application/json"


# --- who sends too much -----------------------------------------------------------------------


def test_an_allowance_drains_with_time():
    allowance = Allowance(burst=10, rate=2)
    assert [allowance.take("a", 5, now=0), allowance.take("a", 5, now=0)] == [0, 0]
    assert allowance.take("a", 4, now=0) == 2  # and nothing is taken
    assert allowance.take("b", 10, now=0) == 0
    assert allowance.take("a", 4, now=2) == 0


def test_cheap_checks_come_first(client, monkeypatch):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    assert client.post("/api/answer", json=answer_to(trial), headers=headers).status_code == 200
    painted = []
    monkeypatch.setattr("cyborg.marks.strokes_mask", lambda *a: painted.append(a))
    again = client.post("/api/answer", json=answer_to(trial), headers=headers)
    assert again.status_code == 200 and not painted
    other = client.post("/api/answer", json=answer_to(trial, choice="right"), headers=headers)
    assert other.status_code == 409 and not painted
    read = []
    monkeypatch.setattr("cyborg.people.server.json.loads", read.append)
    assert client.post("/api/answer", content=b"{" * 9).status_code == 401
    large = client.post("/api/answer", content=b" " * (BODY_LIMIT + 1), headers=headers)
    assert large.status_code == 413 and not read


def test_a_token_that_sends_too_much_waits_and_nobody_else_does(client):
    headers, other = enter(client), enter(client, "B2")
    trial, theirs = (client.get("/api/trial", headers=h).json() for h in (headers, other))
    points = [[i % 60, (7 * i) % 60, i] for i in range(19_999)]
    strokes = {"left": [{**MARK, "points": points}], "right": [{**MARK, "points": points}]}
    body = json.dumps(answer_to(trial, strokes=strokes) | {"pad": "x" * 900_000})
    replies = [client.post("/api/answer", content=body, headers=headers) for _ in range(6)]
    codes = [reply.status_code for reply in replies]
    assert codes[0] == 200 and codes[-1] == 429  # the most that can be painted is taken at once
    assert "tried again" in replies[-1].json()["error"]
    assert 0 < int(replies[-1].headers["retry-after"]) < 300
    reply = client.post("/api/answer", json=answer_to(theirs), headers=other)
    assert reply.status_code == 200


def test_large_answers_wait_for_each_other_alone(client):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    seen, taken = [], _threads("large")
    whole = type(client.page.store).answer

    def answer(self, *given, **how):
        seen.append((taken.borrowed_tokens, _threads("subjects").borrowed_tokens))
        return whole(self, *given, **how)

    type(client.page.store).answer = answer
    try:
        for pad in (0, 100_000):
            body = answer_to(trial) | {"pad": "x" * pad}
            assert client.post("/api/answer", json=body, headers=headers).status_code == 200
    finally:
        type(client.page.store).answer = whole
    assert seen == [(0, 1), (1, 0)]


def test_tries_of_the_administrators_token_are_logged_and_limited(client, caplog):
    with caplog.at_level(logging.WARNING):
        wrong = [
            client.get("/admin/progress", headers={"Authorization": f"Bearer guess{i}"}).status_code
            for i in range(14)
        ]
    assert wrong == [403] * 10 + [429] * 4
    assert sum("wrong token" in record.message for record in caplog.records) == 10
    assert "testclient" in caplog.records[0].message
    assert client.get("/admin/progress", headers=BOSS).status_code == 429  # no guess is looked at
    client.page.tries.taken.clear()
    for _ in range(30):  # right ones are not counted
        assert client.get("/admin/progress", headers=BOSS).status_code == 200


# --- the store as a file ------------------------------------------------------------------------


def answers_in(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_the_administrator_gets_a_whole_copy(client, tmp_path):
    headers = enter(client)
    for _ in range(3):
        trial = client.get("/api/trial", headers=headers).json()
        client.post("/api/answer", json=answer_to(trial), headers=headers)
    assert COPY in client.get("/admin/progress", headers=BOSS).json()["exports"]
    assert client.get(f"/admin/export/{COPY}").status_code == 403
    (tmp_path / "copy.sqlite").write_bytes(
        client.get(f"/admin/export/{COPY}", headers=BOSS).content
    )
    assert answers_in(tmp_path / "copy.sqlite") == 3


def test_an_export_leaves_everything_in_the_file(client, tmp_path):
    headers = enter(client)
    trial = client.get("/api/trial", headers=headers).json()
    client.post("/api/answer", json=answer_to(trial), headers=headers)
    assert client.get("/admin/export/subjects.csv", headers=BOSS).status_code == 200
    alone = shutil.copy(tmp_path / "s.sqlite", tmp_path / "alone.sqlite")
    assert answers_in(alone) == 1


class Server:
    "cyborg-annotate in a process of its own."

    def __init__(self, folder, demo):
        from cyborg.manifest import write_manifest

        self.store, self.port = folder / "study.sqlite", free_port()
        manifest = write_manifest(demo, folder / "all.csv")
        words = {"manifest": manifest, "root": demo.root, "split": "", "store": self.store}
        words |= {"pairs": 12, "answers": 99, "trials": 8, "practice": 1, "attention_every": 8}
        words |= {"side": 64, "admin": TOKEN, "port": self.port}
        self.words = [str(word) for k, v in words.items() for word in (f"--{k}", v)]
        self.start()

    def start(self):
        command = [sys.executable, "-c", COMMAND, *self.words]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env={**os.environ}, **quiet)
        for _ in range(600):
            assert self.process.poll() is None, "the server ended"
            with contextlib.suppress(OSError):
                self.ask("/api/texts")
                return
            time.sleep(0.1)
        raise AssertionError("the server did not answer")

    def ask(self, path, body=None, token=""):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    def answers(self, worker, n):
        "Acknowledged trials of somebody who answers at most so many."
        agreed, told = self.ask("/api/texts")["consent_hash"], []
        token = self.ask("/api/enter", {"worker": worker, "consent": agreed})["token"]
        for _ in range(n):
            trial = self.ask("/api/trial", token=token)
            if trial["done"]:
                break
            self.ask("/api/answer", answer_to(trial), token)
            told.append(trial["trial"])
        return told


@pytest.fixture
def server(tmp_path, demo):
    running = Server(tmp_path, demo)
    yield running
    running.process.kill()
    running.process.wait(20)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_after_a_signal_to_end_the_file_alone_holds_every_answer(server, tmp_path, how):
    told = [one for i in range(3) for one in server.answers(f"W{i}", 10)]
    server.process.send_signal(getattr(signal, how))
    server.process.wait(30)
    (tmp_path / "elsewhere").mkdir()
    alone = shutil.copy(server.store, tmp_path / "elsewhere")
    assert len(told) == 30 == answers_in(alone)


def test_after_sigkill_what_was_acknowledged_is_stored_in_place(server):
    told = server.answers("W0", 10)
    server.process.kill()
    server.process.wait(20)
    assert answers_in(server.store) == 10
    server.start()
    assert len(server.answers("W0", 10)) == 0 and len(told) == 10  # it has finished


# --- what is wrong before the server starts -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no text"),
        (b" \n", "holds no text"),
        (b"\x89PNG\r\n\x1a\n\xff", "no text in UTF-8"),
        ("Größe".encode("latin-1"), "no text in UTF-8"),
        ("text".encode("utf-16"), "no text in UTF-8"),
        (b"text\0text", "holds no text"),
        (b"x" * 1_000_001, "more than a page could show"),
    ],
)
def test_texts_and_links_that_are_none_are_named(tmp_path, content, words):
    for name, read in (("consent.md", page_text), ("links.txt", worker_ids)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AnnotationError, match=f"{name}.*{words}"):
            read(tmp_path / name)
    with pytest.raises(AnnotationError, match="cannot be read"):
        page_text(tmp_path)


def test_texts_with_a_byte_order_mark_are_read(tmp_path):
    (tmp_path / "consent.txt").write_bytes(b"\xef\xbb\xbfWe store answers.")
    (tmp_path / "links.txt").write_bytes(b"\xef\xbb\xbfann bob")
    assert page_text(tmp_path / "consent.txt") == "<p>We store answers.</p>"
    assert worker_ids(tmp_path / "links.txt") == ["ann", "bob"]


def refused(tmp_path, demo, **options):
    "What the command says."
    from cyborg.manifest import write_manifest

    path = write_manifest(demo, demo.root / "all.csv")
    given = dict(manifest=str(path), root=str(demo.root), split="", pairs=8, trials=4, side=64)
    given |= {"store": str(tmp_path / "s.sqlite"), "practice": 0, "attention_every": 0}
    with pytest.raises(SystemExit) as told:
        main(**given | options)
    assert str(told.value).startswith("cyborg-annotate: ") and "\n" not in str(told.value)
    return str(told.value)


def test_the_command_names_what_is_broken(tmp_path, demo, monkeypatch):
    monkeypatch.setattr("uvicorn.run", lambda *a, **k: pytest.fail("the server started"))
    (tmp_path / "broken").write_bytes(b"\xff\xfe\x00\x01" * 400)
    broken = str(tmp_path / "broken")
    shutil.copy(broken, broken + ".md")
    assert "broken.md is no text" in refused(tmp_path, demo, consent=broken + ".md")
    assert "broken is no text" in refused(tmp_path, demo, links=broken, host="x")
    assert "there is no text file" in refused(tmp_path, demo, links=broken + "2", host="x")
    said = refused(tmp_path, demo, store=broken)
    assert broken in said and "not a database" in said and "sqlalche" not in said
    assert "guessed, wanted at least 12" in refused(tmp_path, demo, admin="secret")
    assert "cannot be used" in refused(tmp_path, demo, store="nodriver://x/y")


def test_a_picture_that_is_cut_off_is_named(tmp_path, monkeypatch):
    own = make_demo(tmp_path / "set", n=40, size=64, workers=1)
    for image in own.table["image"]:
        whole = (own.root / image).read_bytes()
        (own.root / image).write_bytes(whole[: len(whole) // 2])
    said = refused(tmp_path, own)
    assert any(image in said for image in own.table["image"]), said
    with pytest.raises(OSError, match="truncated"), Image.open(own.root / image) as picture:
        picture.load()


def test_a_server_killed_under_load_loses_nothing(monkeypatch):
    """The longer campaign is benchmarks/campaign_server.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    from campaign_server import kill_server

    found = kill_server(kills=2, subjects=4)
    assert found["kills"] == 2 and found["acknowledged"] > 10
    assert (found["lost"], found["twice"], found["torn"]) == (0, 0, 0)
