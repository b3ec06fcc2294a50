"""How much of its workers' time the scheduling of a study loses: runs stubbed by a sleep.

    python benchmarks/scheduling.py                             160 tasks on 1, 2, 8, 64 workers
    python benchmarks/scheduling.py --tasks 16 --seconds 5      a quick look

Efficiency is tasks x length / (workers x wall time). The last round is only partly filled where the
workers do not divide the tasks: 160 on 64 take at least 3 rounds and can reach 160 / (3 x 64) =
83 % at most, whoever schedules them. So what is reached of the possible stands beside it. Tasks
are so long that each number of workers takes about a minute: 0.4 s for 1, 20 s for 64. A run of a
real study takes minutes, so scheduling loses less there.
"""

import math
import time

import pandas as pd
from distributed import Client, LocalCluster
from fastcore.script import call_parse


def wall_time(
    workers: int,  # Dask threads that take one task each
    tasks: int,
    seconds: float,  # that each task sleeps
) -> float:  # from the first submission to the last result, seconds
    "Schedule sleeping tasks as `run_study` does runs; the workers are threads of two processes."
    from cyborg.study import Cluster, schedule  # here, or every worker would wait for torch

    processes = min(2, workers)  # each takes seconds to start, and runs are processes of their own
    with (
        LocalCluster(
            n_workers=processes, threads_per_worker=workers // processes, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(processes)
        pool = Cluster(client, 1, (), {})
        start = time.perf_counter()
        schedule(pool, {str(i): (seconds,) for i in range(tasks)}, time.sleep, lambda left: None)
        return time.perf_counter() - start


@call_parse
def main(
    workers: str = "1,2,8,64",  # numbers of workers, comma-separated
    tasks: int = 160,  # number of runs
    seconds: float = 60.0,  # that they would take if nothing were lost
):
    "Print the efficiency for each number of workers."
    rows = []
    for n in map(int, workers.split(",")):
        rounds = math.ceil(tasks / n)
        length = seconds / rounds
        wall, worked = wall_time(n, tasks, length), tasks * length / n
        rows.append([n, rounds, length, wall, worked / wall, worked / seconds, seconds / wall])
        print(f"{n} workers: {wall:.1f} s", flush=True)
    names = ["workers", "rounds", "a task, s", "wall, s"]
    names += ["efficiency", "at most", "of what is possible"]
    print(pd.DataFrame(rows, columns=names).round(3).to_string(index=False))
