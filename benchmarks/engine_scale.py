"""How the engine scales: searches of 10^3 to 10^6 trials with simulated durations on 1,000 slots.

Run it from the repository:  python benchmarks/engine_scale.py [--trials 1000,10000] [--slots 1000]
                             [--algorithm hyperband|async|asha|pasha]

Each search is Hyperband 81/3 repeated up to the number of trials (`async`: without barriers), or so many
trials by asha or pasha with the same longest and shortest jobs. A job lasts its new epochs times a speed of
its own, drawn log-uniformly from 0.5 to 2, and 2 % of the jobs fail; simulated time jumps from end to end.
Every size is driven in the same way, in a process of its own: config ids drawn 1,000 at a time, the next
start asked for until no slot is free, then the next end.

Columns:
  us/decision   processor time inside the engine (`handle` and `next_start`) per start or end, in
                microseconds, less the cost of reading the timer. The simulation itself is not counted. The
                median over five searches for sizes up to 10,000, where a single one is over too soon.
  ratio         the same, against the smallest size.
  worst ms      the longest single call: a thousand ids drawn while a table of all ids has to grow.
  bytes/trial   memory of the finished engine by `tracemalloc`, in a run apart since tracing slows it down:
                its own arrays and the config ids (80 bytes each), without the plan that it was given.
  busy          share of the slots that are busy until the last tail. The tail begins at the first moment
                from which on, for the rest of the search, no job waits for a slot; `-`: none ever did.
  tail          share of the simulated time that the tail takes: the last promotions, one after the other.
  whole         share of the slots that are busy over the whole search, the tail included.
"""

import argparse
import gc
import heapq
import math
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hyperband.search.brackets import make_plan
from hyperband.search.engine import Engine
from hyperband.search.events import IdsDrawn, JobEnded, JobStarted, PlanMade
from hyperband.search.trial import Algorithm, Outcome, Plan, Start

_DRAW = 1_000


@dataclass
class Measured:
    """What one simulated search showed."""

    n_calls: int = 0
    engine_ns: int = 0
    worst_ns: int = 0
    #: slot-seconds of work done, and the same up to the last moment at which a job waited for a slot
    busy_s: float = 0.0
    busy_until_tail_s: float = 0.0
    tail_s: float = 0.0


def plan_of(n_trials: int, name: str) -> Plan:
    """About this many trials: Hyperband 81/3 repeated, or one ladder of rungs."""
    algorithm = Algorithm.HYPERBAND if name == "async" else Algorithm(name)
    once = make_plan(
        algorithm=algorithm,
        max_epochs=81,
        eta=3,
        min_epochs=1,
        brackets=None,
        repeat=1,
        max_trials=n_trials if algorithm.has_one_ladder else None,
        asynchronous=name == "async",
    )
    return replace(once, brackets=once.brackets * max(1, round(n_trials / once.n_trials)))


class Search:
    """One search, driven through the engine in simulated time."""

    def __init__(self, plan: Plan, n_slots: int) -> None:
        """A search of this plan on so many slots."""
        self.plan = plan
        self.n_slots = n_slots
        self.engine = Engine()
        self.measured = Measured()
        self.clock_s = 0.0
        #: (end, job, attempt) of the running jobs, a heap
        self.running: list[tuple[float, int, int]] = []
        self.random = random.Random(0)
        self.n_ids = 0

    def run(self) -> Engine:
        """Run to the end; the finished engine."""
        self.engine.handle(PlanMade(self.plan))
        while not self.engine.is_complete:
            self.draw()
            self.fill()
            if self.engine.n_startable:
                self.measured.tail_s = self.clock_s
                self.measured.busy_until_tail_s = self.measured.busy_s
            self.finish_next()
        return self.engine

    def draw(self) -> None:
        """Keep more ids ready than there are slots."""
        while self.engine.n_startable <= self.n_slots and self.engine.n_ids_wanted():
            n = min(_DRAW, self.engine.n_ids_wanted())
            ids = tuple(f"lr:{trial:08d}.batch_size:64" for trial in range(self.n_ids, self.n_ids + n))
            self.timed(IdsDrawn(self.n_ids, ids))
            self.n_ids += n

    def fill(self) -> None:
        """Start jobs until every slot is busy or nothing could start."""
        while len(self.running) < self.n_slots:
            before = time.process_time_ns()
            start = self.engine.next_start()
            self.measured.engine_ns += time.process_time_ns() - before
            if start is None:
                return
            event = JobStarted(
                at=self.clock_s,
                job=start.job,
                attempt=start.attempt,
                trial=start.trial,
                rung=start.rung,
                epochs=start.epochs,
                slot="cpu:0",
                several_gpus=False,
                script_sha256="",
                host="",
            )
            self.timed(event)
            self.measured.n_calls += 1
            end_s = self.clock_s + self.duration_s(start)
            heapq.heappush(self.running, (end_s, start.job, start.attempt))

    def duration_s(self, start: Start) -> float:
        """Seconds that a job takes from the checkpoint of the rung below it."""
        reached = start.epochs // 3 if start.rung else 0
        return (start.epochs - reached) * math.exp2(self.random.uniform(-1, 1))

    def finish_next(self) -> None:
        """Go to the next end and tell the engine."""
        end_s, job, attempt = heapq.heappop(self.running)
        self.measured.busy_s += (end_s - self.clock_s) * (len(self.running) + 1)
        self.clock_s = end_s
        failed = self.random.random() < 0.02
        event = JobEnded(
            at=end_s,
            job=job,
            attempt=attempt,
            outcome=Outcome.CRASHED if failed else Outcome.LOSS,
            loss=None if failed else self.random.random(),
            exit_status=int(failed),
            started_at=0.0,
            ended_at=end_s,
            search_alive=True,
            note="",
        )
        self.timed(event)
        self.measured.n_calls += 1

    def timed(self, event: IdsDrawn | JobStarted | JobEnded) -> None:
        """Hand an event to the engine and count its time."""
        before = time.process_time_ns()
        self.engine.handle(event)
        spent_ns = time.process_time_ns() - before
        self.measured.engine_ns += spent_ns
        self.measured.worst_ns = max(self.measured.worst_ns, spent_ns)


def timer_ns() -> float:
    """What it costs to read the timer once."""
    n = 100_000
    before = time.process_time_ns()
    for _ in range(n):
        time.process_time_ns()
    return (time.process_time_ns() - before) / n


def measure(n_trials: int, n_slots: int, algorithm: str) -> None:
    """Print the figures of one size in one line, for the process that makes the table."""
    plan = plan_of(n_trials, algorithm)
    times = []
    for _ in range(5 if n_trials <= 10_000 else 1):
        gc.collect()
        search = Search(plan, n_slots)
        search.run()
        n_calls, engine_ns = search.measured.n_calls, search.measured.engine_ns
        # A start is two timed calls, an end one: 1.5 a decision, each with one reading of the timer in it.
        times.append((engine_ns / n_calls - 1.5 * timer_ns()) / 1e3)
    worst_ms = search.measured.worst_ns / 1e6
    tail_s, clock_s = search.measured.tail_s, search.clock_s
    busy = search.measured.busy_until_tail_s / (tail_s * n_slots) if tail_s else float("nan")
    whole = search.measured.busy_s / (clock_s * n_slots)
    del search
    gc.collect()
    tracemalloc.start()
    traced = Search(plan, n_slots)
    engine = traced.run()
    del traced
    gc.collect()
    n_bytes = tracemalloc.get_traced_memory()[0]
    n_trials = sum(1 for _ in engine.trials())
    tail = (clock_s - tail_s) / clock_s
    print(n_trials, n_calls, statistics.median(times), worst_ms, n_bytes / n_trials, busy, tail, whole)


def main() -> None:
    """Measure each size in a fresh process and print the table."""
    parser = argparse.ArgumentParser(description="How the engine scales with the number of trials.")
    parser.add_argument("--trials", default="1000,10000,100000,1000000", help="sizes, comma-separated")
    parser.add_argument("--slots", type=int, default=1_000, help="jobs that run at once (1000)")
    algorithms = ("hyperband", "async", "asha", "pasha")
    parser.add_argument("--algorithm", choices=algorithms, default="hyperband", help="whose plan (hyperband)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        measure(arguments.one, arguments.slots, arguments.algorithm)
        return
    plan = "Hyperband 81/3 repeated" if arguments.algorithm == "hyperband" else arguments.algorithm
    print(f"{arguments.slots} slots, {plan}, Python {sys.version.split()[0]}")
    print(
        f"{'trials':>9} {'decisions':>10} {'us/decision':>12} {'ratio':>6} {'worst ms':>9} "
        f"{'bytes/trial':>12} {'busy':>8} {'tail':>8} {'whole':>8}"
    )
    first_us = None
    for size in arguments.trials.split(","):
        command = [sys.executable, __file__, "--one", size, "--slots", str(arguments.slots)]
        command += ["--algorithm", arguments.algorithm]
        line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        n_trials, n_decisions = (int(word) for word in line[:2])
        us, worst_ms, n_bytes, busy, tail, whole = (float(word) for word in line[2:])
        first_us = us if first_us is None else first_us
        print(
            f"{n_trials:>9,} {n_decisions:>10,} {us:>12.2f} {us / first_us:>6.2f} {worst_ms:>9.2f} "
            f"{n_bytes:>12.0f} {'-' if math.isnan(busy) else f'{busy:.2%}':>8} {tail:>8.2%} {whole:>8.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
