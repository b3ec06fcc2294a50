"""The study page's server killed at random moments while subjects answer.

    python benchmarks/campaign_server.py                # 20 kills
    python benchmarks/campaign_server.py --kills 200    # three quarters of an hour

Subjects answer without a pause, each session as somebody new. Between half a second and three
seconds after the server answers it is killed (SIGKILL) and started again; subjects repeat what was
not acknowledged. In the end that is compared with the store, opened in place: nothing may be lost
or there twice, no answer may have one picture alone, and SQLite's own check must find it whole.
"""

import asyncio
import json
import random
import signal
import socket
import sqlite3
import tempfile
import time
from pathlib import Path

from annotate_load import crowd, start
from fastcore.script import Param, call_parse

from cyborg.demo import make_demo
from cyborg.people.store import AnnotationStore


def figures(
    path: Path,  # of the store
    subjects: list,  # of `annotate_load.crowd`
    kills: int,
) -> dict:
    "What was acknowledged, and what became of it."
    store = AnnotationStore(path)
    table = store.annotations()
    store.close()
    acknowledged = [trial for one in subjects for trial in one.acknowledged]
    stored, pictures = set(table["trial"]), table.groupby("trial").size()
    with sqlite3.connect(path) as connection:
        [whole] = connection.execute("PRAGMA integrity_check").fetchone()
        orphans = "SELECT count(*) FROM answers WHERE trial NOT IN (SELECT trial FROM marks)"
        [bare] = connection.execute(orphans).fetchone()
    return {
        "kills": kills,
        "acknowledged": len(acknowledged),
        "lost": len(set(acknowledged) - stored),
        "twice": len(acknowledged) - len(set(acknowledged)),
        "torn": int((pictures != 2).sum()) + bare + (whole != "ok"),
        "stored unacknowledged": len(stored - set(acknowledged)),
    }


def kill_server(
    kills: int,
    subjects: int = 8,  # at the same time
    seed: int = 0,  # of the moments
) -> dict:  # of `figures`
    "Kill the server so often, and compare."
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        path = folder / "study.sqlite"
        make_demo(folder / "demo", n=120, size=64, workers=1)
        given = folder, str(path), port, 100_000
        small = {"pairs": 40, "trials": 30}
        server = [start(*given, **small)]

        async def interrupt(_):
            loop = asyncio.get_running_loop()
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.5, 3))
                server[0].send_signal(signal.SIGKILL)
                server[0].wait()
                server[0] = await loop.run_in_executor(None, lambda: start(*given, **small))
            await asyncio.sleep(1)
            for one in people:
                one.cancel()

        people: list = []
        try:
            url = f"http://127.0.0.1:{port}"
            came, _ = asyncio.run(crowd(url, subjects, 0.02, 1e9, interrupt, people))
        finally:
            server[0].kill()
            server[0].wait()
        return figures(path, came, kills)


@call_parse
def main(
    kills: Param("of the server", int) = 20,
    subjects: Param("at the same time", int) = 8,
    seed: Param("of the moments", int) = 0,
):
    "Kill the server at random moments and print what was lost."
    begun = time.perf_counter()
    found = kill_server(kills, subjects, seed)
    print(json.dumps(found | {"seconds": round(time.perf_counter() - begun)}))
    if found["lost"] or found["twice"] or found["torn"]:
        raise SystemExit(1)
