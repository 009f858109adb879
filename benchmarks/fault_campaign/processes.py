"""Kinds of fault that happen to processes: killed, suspended, told to end, hanging, talking too much."""

import signal
import time

from fault_campaign.kind import Kind
from fault_campaign.scene import Job, Scene
from fault_campaign.scripts import CHILDREN, ENDLESS, FLOOD, SCRIPT, SILENT, SLOW_SAMPLER

_CPU = ("--gpus", "none", "--slots", "2")


def search_killed(scene: Scene) -> None:
    """Kill -9 of the search, one to three times."""
    for _ in range(scene.rng.randint(1, 3)):
        scene.moment()
        scene.kill_search()
        scene.dead()


def host_killed(scene: Scene) -> None:
    """Kill -9 of the process that imports the script and samples, once or twice."""
    scene.start()
    for _ in range(scene.rng.randint(1, 2)):
        if scene.until(lambda: scene.host() is not None):
            scene.pause(0.0, 0.4)
            host = scene.host()
            if host is not None:
                scene.hit(host)
            scene.pause(0.0, 0.3)


def fork_server_killed(scene: Scene) -> None:
    """Kill -9 of the fork server, once or twice."""
    scene.start()
    for _ in range(scene.rng.randint(1, 2)):
        if scene.until(lambda: scene.fork_server() is not None):
            scene.pause(0.0, 0.4 * scene.length_s)
            server = scene.fork_server()
            if server is not None:
                scene.hit(server)


def waiting_keeper_killed(scene: Scene) -> None:
    """Kill -9 of the keeper that waits for the next job, one to three times."""
    scene.start()
    for _ in range(scene.rng.randint(1, 3)):
        if scene.until(lambda: scene.waiting_keeper() is not None):
            scene.pause(0.0, 0.3 * scene.length_s)
            keeper = scene.waiting_keeper()
            if keeper is not None:
                # it may just have been given a job, and that job is Lost then
                scene.harmed.update(range(1000))
                scene.hit(keeper)


def _harm(scene: Scene) -> Job | None:
    """A job at a random moment, which may have to run again."""
    scene.moment()
    job = scene.a_job()
    if job is not None:
        scene.pause(0.0, 0.05)
        scene.harmed.add(job.number)
    return job


def job_killed(scene: Scene) -> None:
    """A SIGKILL from outside, as of a kernel short of memory, for one or two jobs, once each."""
    for _ in range(scene.rng.randint(1, 2)):
        known = set(scene.harmed)
        job = _harm(scene)
        if job is not None and job.number not in known:
            scene.hit(job.pid)


def keeper_killed(scene: Scene) -> None:
    """Kill -9 of a job's keeper, once or twice."""
    for _ in range(scene.rng.randint(1, 2)):
        job = _harm(scene)
        if job is not None:
            scene.hit(job.keeper)


def keeper_and_search_killed(scene: Scene) -> None:
    """Kill -9 of a keeper and of the search, in random order."""
    job = _harm(scene)
    if scene.rng.random() < 0.5:
        scene.kill_search()
    if job is not None:
        scene.hit(job.keeper)
    scene.dead(0.0, 0.1)
    scene.kill_search()


def leader_killed(scene: Scene) -> None:
    """Kill -9 of a job's own process, whose children live on in two sessions."""
    job_killed(scene)


def search_stopped(scene: Scene) -> None:
    """SIGSTOP of the search for longer than its jobs may take, then SIGCONT."""
    scene.moment()
    search = scene.start()
    if scene.hit(search.pid, signal.SIGSTOP):
        time.sleep(scene.rng.uniform(0.5, 2.5))
        scene.hit(search.pid, signal.SIGCONT, counts=False)


def job_stopped(scene: Scene) -> None:
    """SIGSTOP of a job for a while, then SIGCONT."""
    job = _harm(scene)
    if job is not None and scene.hit(job.pid, signal.SIGSTOP):
        time.sleep(scene.rng.uniform(0.1, 1.0))
        scene.hit(job.pid, signal.SIGCONT, counts=False)


def keeper_stopped(scene: Scene) -> None:
    """SIGSTOP of a keeper for a while, with or without kill -9 of the search, then SIGCONT."""
    job = _harm(scene)
    if job is None or not scene.hit(job.keeper, signal.SIGSTOP):
        return
    scene.pause(0.1, 0.6)
    if scene.rng.random() < 0.5 and scene.kill_search():
        scene.start()
        scene.pause(0.0, 0.5)
    scene.hit(job.keeper, signal.SIGCONT, counts=False)


def host_stopped(scene: Scene) -> None:
    """SIGSTOP of the process that samples: the sampler hangs for a while."""
    scene.start()
    if scene.until(lambda: scene.host() is not None):
        scene.pause(0.0, 0.5)
        host = scene.host()
        if host is not None and scene.hit(host, signal.SIGSTOP):
            time.sleep(scene.rng.uniform(0.3, 1.5))
            scene.hit(host, signal.SIGCONT, counts=False)


def shutdown(scene: Scene) -> None:
    """SIGTERM to everything at once, in random order, as when the machine goes down."""
    scene.moment()
    pids = scene.processes()
    scene.rng.shuffle(pids)
    scene.harmed.update(job.number for job in scene.jobs())
    for pid in pids:
        scene.hit(pid, signal.SIGTERM, counts=False)
    scene.n_faults += bool(pids)
    scene.finish()


def interrupted(scene: Scene) -> None:
    """Ctrl-C once or twice, or SIGTERM, to the search."""
    scene.moment()
    search = scene.start()
    number = scene.rng.choice([signal.SIGINT, signal.SIGTERM])
    if scene.hit(search.pid, number) and scene.rng.random() < 0.5:
        scene.pause(0.0, 0.05)
        scene.hit(search.pid, signal.SIGINT, counts=False)
    scene.finish()


def hung_up(scene: Scene) -> None:
    """SIGHUP to the search: its terminal is gone."""
    scene.moment()
    scene.hit(scene.start().pid, signal.SIGHUP)


def told_to_stop(scene: Scene) -> None:
    """`hyperband stop` while it runs, sometimes while it is suspended or dead."""
    scene.moment()
    way = scene.rng.choice(["runs", "is suspended", "is dead"])
    if way == "is suspended":
        scene.hit(scene.start().pid, signal.SIGSTOP, counts=False)
    elif way == "is dead":
        scene.kill_search()
    if not (scene.study / "journal.db").exists():
        scene.hit(scene.start().pid, signal.SIGCONT, counts=False)
        return
    stop = scene.spawn("stop", ["stop", str(scene.study)])
    scene.n_faults += 1
    code = stop.wait(timeout=30)
    # suspended when all was written already, there was nothing left to stop
    scene.hit(scene.start().pid, signal.SIGCONT, counts=False)
    scene.expect(code == 0, f"stop ended with {code}: {(scene.folder / 'stop.err').read_text()[-300:]}")


def two_searches(scene: Scene) -> None:
    """A second search of the same study at random moments: refused, and the first does not notice."""
    scene.start()
    if not scene.until((scene.study / "journal.db").exists):
        return
    for n in range(scene.rng.randint(1, 2)):
        scene.pause(0.0, 0.5)
        if scene.is_over():
            return
        second = scene.spawn(f"second-{n}")
        code = second.wait(timeout=30)
        said = (scene.folder / f"second-{n}.err").read_text()
        refused = code == 1 and "is being written by" in said
        scene.n_faults += refused
        # the first may have ended before the second came to the lock
        scene.expect(refused or (code == 0 and scene.is_over()), f"a second search: {code}, {said[-300:]}")


def several(scene: Scene) -> None:
    """Two or three of the others, one after the other."""
    stories = [search_killed, fork_server_killed, keeper_killed, job_stopped, keeper_stopped, search_stopped]
    stories += [shutdown, interrupted, hung_up, told_to_stop]
    for story in scene.rng.sample(stories, scene.rng.randint(2, 3)):
        if not scene.document:
            story(scene)


def killed_while_endless(scene: Scene) -> None:
    """Jobs that never end, timed out; sometimes the search is killed meanwhile and adopts them."""
    scene.n_faults += 1
    if scene.rng.random() < 0.5:
        search_killed(scene)


def as_it_is(scene: Scene) -> None:
    """The script is the fault."""
    scene.n_faults += 1
    if scene.rng.random() < 0.3:
        search_killed(scene)


KINDS = (
    Kind(name="search-killed", about="kill -9 of the search", story=search_killed),
    Kind(
        name="host-killed",
        about="kill -9 of the process that samples",
        story=host_killed,
        script=SLOW_SAMPLER,
    ),
    Kind(name="fork-server-killed", about="kill -9 of the fork server", story=fork_server_killed),
    Kind(name="waiting-keeper-killed", about="kill -9 of the waiting keeper", story=waiting_keeper_killed),
    Kind(name="job-killed", about="kill -9 of a job from outside", story=job_killed),
    Kind(name="keeper-killed", about="kill -9 of a job's keeper", story=keeper_killed),
    Kind(name="keeper-and-search-killed", about="kill -9 of both", story=keeper_and_search_killed),
    Kind(name="leader-killed", about="kill -9 of a job with children", story=leader_killed, script=CHILDREN),
    Kind(
        name="search-stopped",
        about="SIGSTOP of the search beyond --timeout",
        story=search_stopped,
        options=(*_CPU, "--timeout", "2"),
    ),
    Kind(name="job-stopped", about="SIGSTOP of a job", story=job_stopped),
    Kind(name="keeper-stopped", about="SIGSTOP of a keeper", story=keeper_stopped),
    Kind(name="host-stopped", about="the sampler hangs for a while", story=host_stopped, script=SLOW_SAMPLER),
    Kind(name="shutdown", about="SIGTERM to everything", story=shutdown),
    Kind(name="interrupted", about="Ctrl-C or SIGTERM", story=interrupted),
    Kind(name="hung-up", about="SIGHUP to the search", story=hung_up),
    Kind(name="told-to-stop", about="`hyperband stop`", story=told_to_stop),
    Kind(name="two-searches", about="two searches on one study", story=two_searches),
    Kind(name="several", about="two or three of these", story=several),
    Kind(
        name="endless-job",
        about="jobs that never end (--timeout)",
        story=killed_while_endless,
        script=ENDLESS,
        options=(*_CPU, "--timeout", "1.5", "--grace", "0.5"),
    ),
    Kind(
        name="silent-job",
        about="jobs that fall silent (--stall-timeout)",
        story=killed_while_endless,
        script=SILENT,
        options=(*_CPU, "--stall-timeout", "1.5", "--grace", "0.5"),
    ),
    Kind(name="flood", about="jobs that print 100 MB", story=as_it_is, script=FLOOD, undisturbed=SCRIPT),
)
