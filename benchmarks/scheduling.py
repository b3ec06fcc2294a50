"""How much of its workers' time the scheduling of a study loses: runs stubbed by a sleep.

    python benchmarks/scheduling.py                             160 tasks on 1, 2, 8, 64 workers
    python benchmarks/scheduling.py --tasks 16 --seconds 5      a quick look
    python benchmarks/scheduling.py --own_process               each worker in a process of its own

Efficiency is tasks x length / (workers x wall time). The last round is only partly filled where the
workers do not divide the tasks: 160 on 64 take at least 3 rounds and can reach 160 / (3 x 64) =
83 % at most, whoever schedules them. So what is reached of the possible stands beside it. Tasks
are so long that each number of workers takes about a minute: 0.4 s for 1, 20 s for 64. A run of a
real study takes minutes, so scheduling loses less there. With --own_process 64 processes share this
machine's cores, whose own upkeep is then most of what is measured.
"""

import math
import time

import pandas as pd
from distributed import Client, LocalCluster
from fastcore.script import call_parse, store_true


def wall_time(
    workers: int,  # that take one task each
    tasks: int,
    seconds: float,  # that each task sleeps
    processes: int,  # that the workers are threads of
) -> float:  # from the first submission to the last result, seconds
    "Schedule sleeping tasks as `run_study` does runs."
    from cyborg.study.run import Cluster, schedule

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
    own_process: store_true = False,  # for each worker; otherwise they are threads of two
):
    "Print the efficiency for each number of workers."
    rows = []
    for n in map(int, workers.split(",")):
        rounds = math.ceil(tasks / n)
        length = seconds / rounds
        processes = n if own_process else min(2, n)  # each takes seconds to start
        wall, worked = wall_time(n, tasks, length, processes), tasks * length / n
        rows.append([n, rounds, length, wall, worked / wall, worked / seconds, seconds / wall])
        print(f"{n} workers: {wall:.1f} s", flush=True)
    names = ["workers", "rounds", "a task, s", "wall, s"]
    names += ["efficiency", "at most", "of what is possible"]
    print(pd.DataFrame(rows, columns=names).round(3).to_string(index=False))
