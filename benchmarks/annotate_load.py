"""Many subjects at once on the study page's server, and the server killed among them.

    python benchmarks/annotate_load.py                     # 200 subjects, 30 s
    python benchmarks/annotate_load.py --kill 3            # the server is killed three times
    python benchmarks/annotate_load.py --attackers 3       # who post 40,000 random points for ever

Each subject enters, gets a pair, loads both pictures, looks for `--think` seconds on average
(uniform from half to one and a half times), answers with strokes on both, and goes on. Times are
those of whole requests as the client sees them, client and server sharing this machine. In the end
the store is compared with what the server had acknowledged: nothing may be missing or there twice.
"""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import numpy as np
from fastcore.script import Param, call_parse

from cyborg.demo import make_demo
from cyborg.people.store import AnnotationStore

COMMAND = "from cyborg.commands import annotate_command; annotate_command()"


def start(folder: Path, store: str, port: int, subjects: int, **other: int) -> subprocess.Popen:
    """Start cyborg-annotate and wait until it answers."""
    options = {"manifest": folder / "demo/manifest.csv", "root": folder / "demo", "store": store}
    options |= {"split": "", "pairs": 180, "answers": subjects, "trials": 60, "side": 384}
    options |= {"port": port, "admin": "secret of the benchmark", **other}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    own = {**os.environ, "CYBORG_DATA": str(folder)}  # nothing is left behind
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL, env=own
    )
    while process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/api/texts", timeout=2)
            return process
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemExit("the server ended")


class Subject:
    """One scripted subject."""

    def __init__(self, client: httpx.AsyncClient, number: int, think: float, times: dict):
        self.client, self.worker, self.think, self.times = client, f"W{number}", think, times
        self.headers, self.acknowledged, self.random = {}, [], random.Random(number)

    async def ask(self, kind: str, method: str, path: str, **options):
        """A request, repeated as the page repeats it until the server answers."""
        while True:
            begun = time.perf_counter()
            try:
                reply = await self.client.request(method, path, headers=self.headers, **options)
                if reply.status_code < 500:
                    self.times[kind].append(time.perf_counter() - begun)
                    reply.raise_for_status()
                    return reply
            except httpx.TransportError:
                self.times["lost"].append(time.perf_counter() - begun)
            await asyncio.sleep(0.5)

    def strokes(self) -> list[dict]:
        """Two strokes of forty points, as a hand makes them in two seconds."""
        walk = (
            np.cumsum(
                np.random.default_rng(self.random.random().hex().__hash__() % 2**32).normal(
                    0, 4, (2, 40, 2)
                ),
                axis=1,
            )
            + 190
        )
        points = np.clip(walk, 0, 384).round(2)
        seconds = np.linspace(1, 3, 40)
        return [
            {
                "points": [
                    [x, y, t] for (x, y), t in zip(one.tolist(), seconds.tolist(), strict=True)
                ],
                "radius": 20.0,
                "erase": False,
            }
            for one in points
        ]

    async def run(self, deadline: float):
        await asyncio.sleep(self.random.random() * self.think)
        agreed = (await self.ask("texts", "GET", "api/texts")).json()["consent_hash"]
        entry = {"worker": self.worker, "entry": {}, "consent": agreed}
        token = (await self.ask("enter", "POST", "api/enter", json=entry)).json()["token"]
        self.headers = {"Authorization": f"Bearer {token}"}
        while time.perf_counter() < deadline:
            trial = (await self.ask("trial", "GET", "api/trial")).json()
            if trial["done"]:
                break
            await asyncio.gather(
                *(self.ask("picture", "GET", trial[side]) for side in ("left", "right"))
            )
            await asyncio.sleep(self.think * self.random.uniform(0.5, 1.5))
            body = {"trial": trial["trial"], "choice": self.random.choice(["left", "right"])}
            body |= {"strokes": {s: self.strokes() for s in ("left", "right")}, "seconds": 9.0}
            await self.ask("answer", "POST", "api/answer", json=body)
            self.acknowledged.append(trial["trial"])

    async def run_again(self, deadline: float):
        """One session after another, each as somebody new."""
        first = self.worker
        for number in range(100_000):
            self.worker, self.headers = f"{first}-{number}", {}
            await self.run(deadline)


async def crowd(
    url: str, n: int, think: float, seconds: float, interrupt, people: list | None = None
) -> tuple[list, dict]:
    """All subjects at once, and something that happens meanwhile.

    With `people`, which gets their tasks, they come again until they are cancelled.
    """
    times, own = defaultdict(list), people is None
    people = [] if own else people
    limits = httpx.Limits(max_connections=2 * n, max_keepalive_connections=2 * n)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
        subjects = [Subject(client, number, think, times) for number in range(n)]
        deadline = time.perf_counter() + seconds
        people += [
            asyncio.create_task((one.run if own else one.run_again)(deadline)) for one in subjects
        ]
        _, *ends = await asyncio.gather(interrupt(deadline), *people, return_exceptions=True)
    if faults := [one for one in (_, *ends) if isinstance(one, Exception)]:
        raise faults[0]  # who was cancelled raises no Exception
    return subjects, times


async def attack(url: str, number: int, deadline: float) -> list[int]:
    """Somebody who enters and then posts 40,000 random points again and again; the statuses."""
    rng, codes = np.random.default_rng(number), []
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        agreed = (await client.get("api/texts")).json()["consent_hash"]
        entry = {"worker": f"X{number}", "entry": {}, "consent": agreed}
        token = (await client.post("api/enter", json=entry)).json()["token"]
        headers = {"Authorization": f"Bearer {token}"}
        trial = (await client.get("api/trial", headers=headers)).json()["trial"]
        points = rng.uniform(0, 384, (20_000, 2)).round(2).tolist()
        one = [{"points": [[*p, i] for i, p in enumerate(points)], "radius": 60, "erase": False}]
        body = {
            "trial": trial,
            "choice": "left",
            "seconds": 9,
            "strokes": dict(left=one, right=one),
        }
        content = json.dumps(body).encode()
        while time.perf_counter() < deadline:
            try:
                reply = await client.post("api/answer", content=content, headers=headers)
                codes.append(reply.status_code)
            except httpx.TransportError:
                codes.append(0)
            trial_ = (await client.get("api/trial", headers=headers)).json()
            if not trial_["done"] and trial_["trial"] != trial:  # another one, to be painted anew
                trial = body["trial"] = trial_["trial"]
                content = json.dumps(body).encode()
    return codes


def compare(store: str, subjects: list) -> str:
    """What is stored against what was acknowledged."""
    kept = AnnotationStore(store)
    table = kept.annotations()
    kept.close()
    table = table[~table["subject"].str.startswith("X")]  # attackers
    stored = table.drop_duplicates("trial")
    acknowledged = [trial for one in subjects for trial in one.acknowledged]
    lost = set(acknowledged) - set(stored["trial"])
    rows = table.groupby("trial").size()
    numbers = stored.groupby("subject")["number"].agg(["min", "max", "size"])
    gaps = numbers[(numbers["min"] != 0) | (numbers["max"] + 1 != numbers["size"])]
    assert not lost, f"{len(lost)} acknowledged answers are missing"
    assert len(acknowledged) == len(set(acknowledged)), "an answer was acknowledged twice"
    assert (rows == 2).all(), "an answer has not exactly two pictures"
    assert not len(gaps), f"sequences with gaps: {gaps}"
    extra = len(stored) - len(acknowledged)
    return f"{len(acknowledged)} answers acknowledged, {len(stored)} stored, {extra} unacknowledged"


@call_parse
def main(
    subjects: Param("at the same time", int) = 200,
    seconds: Param("to run", float) = 30.0,
    think: Param("seconds between pictures and answer, on average", float) = 10.0,
    kill: Param("times the server is killed (SIGKILL) and started again", int) = 0,
    attackers: Param("who post 40,000 random points again and again", int) = 0,
    store: Param("database URL; empty: an SQLite file", str) = "",
    out: Param("JSON file for the figures", str) = "",
):
    "Load, and perhaps kill, the server of the study page."
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        store = store or str(folder / "study.sqlite")
        make_demo(folder / "demo", n=400, size=64)
        server = [start(folder, store, port, subjects)]

        async def interrupt(deadline: float):
            url = f"http://127.0.0.1:{port}"
            attacks = [attack(url, number, deadline) for number in range(attackers)]
            for codes in await asyncio.gather(kills(), *attacks):
                if codes:
                    print(f"attacker: {dict(Counter(codes))}")

        async def kills():
            for _ in range(kill):
                await asyncio.sleep(seconds / (kill + 1))
                server[0].send_signal(signal.SIGKILL)
                server[0].wait()
                loop = asyncio.get_running_loop()
                server[0] = await loop.run_in_executor(None, start, folder, store, port, subjects)

        load = os.getloadavg()[0]
        begun = time.perf_counter()
        try:
            crowd_, times = asyncio.run(
                crowd(f"http://127.0.0.1:{port}", subjects, think, seconds, interrupt)
            )
        finally:
            server[0].kill()
            server[0].wait()
        wall = time.perf_counter() - begun
        verdict = compare(store, crowd_)
    lost = times.pop("lost", [])
    figures = {
        kind: {
            "n": len(own),
            **{f"p{q}": round(1000 * float(np.percentile(own, q)), 1) for q in (50, 95, 99)},
        }
        for kind, own in {**times, "all": sum(times.values(), [])}.items()
    }
    print(f"{subjects} subjects, {wall:.0f} s, think {think:g} s, load before {load:.1f}")
    for kind, row in figures.items():
        print(
            f"{kind:8} {row['n']:6} requests  p50 {row['p50']:7.1f}  p95 {row['p95']:7.1f}  "
            f"p99 {row['p99']:7.1f} ms"
        )
    print(f"{verdict}; {kill} kills, {len(lost)} requests lost and repeated")
    if out:
        Path(out).write_text(json.dumps(figures, indent=1))
