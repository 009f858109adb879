"""What can be said of a script by importing it: its functions, its sampler, its config ids, its identity.

Nothing is trained here, and nothing waits but for the script's own code.
"""

import os
import time
from pathlib import Path

from hyperband.check.decoding import check_decoding
from hyperband.check.findings import Report, Status
from hyperband.errors import ContractError, HyperbandError, MachineError
from hyperband.report.text import counted, duration
from hyperband.script.contract import shortened
from hyperband.script.failures import NoFunctionError
from hyperband.script.host import ScriptHost
from hyperband.settings import Settings

_N_DRAWS = 1000
#: a sampler may be slow: then fewer are drawn
_DRAW_S = 5.0
_N_CANDIDATES = 40


def inspect(settings: Settings, report: Report) -> tuple[str, ...]:
    """Import the script and look at all that needs no training.

    Returns:
        Distinct config ids that no earlier check has trained, for the trainings; empty when nothing more can
        be done.

    Raises:
        UsageError: the interpreter cannot be used.
    """
    with ScriptHost(
        settings.python, settings.script, settings.script_args, cwd=Path.cwd(), write_bytecode=True
    ) as host:
        if not _import(host, report) or not _functions(host, report):
            return ()
        drawn = _sampler(host, settings, report)
        if drawn is None:
            return ()
        check_decoding(host, drawn, report)
        _options(host, settings, report)
        # Another seed each time: what an earlier check trained must not answer for this one.
        seed = int.from_bytes(os.urandom(6))
        return tuple(dict.fromkeys(host.draw(seed, range(_N_CANDIDATES), limit_s=_DRAW_S)))


def _import(host: ScriptHost, report: Report) -> bool:
    began_s = time.monotonic()
    try:
        host.load(lambda words: report.say(f"         {words}"))
    except NoFunctionError as error:
        _import_is_ok(report, began_s)
        report.add("functions", Status.FAILS, str(error))
        report.add_rest(("sampler", "decoding", "options"), "a function is missing")
        return False
    except (ContractError, MachineError) as error:
        report.add("import", Status.FAILS, str(error))
        report.add_rest(("functions", "sampler", "decoding", "options"), "the script cannot be imported")
        return False
    _import_is_ok(report, began_s)
    return True


def _import_is_ok(report: Report, began_s: float) -> None:
    took = duration(time.monotonic() - began_s)
    report.add("import", Status.OK, f"imports without running, in {took} (each job pays that once)")


def _functions(host: ScriptHost, report: Report) -> bool:
    """Whether both functions answer with strings."""
    try:
        report.identity = host.identity()
        config_id = host.draw_one(report.settings.seed)
    except (ContractError, MachineError) as error:
        report.add("functions", Status.FAILS, str(error))
        report.add_rest(("sampler", "decoding", "options"), "a function does not answer")
        return False
    report.add(
        "functions",
        Status.OK,
        f"run_identity gives {shortened(report.identity)}, get_random_config_id gives {shortened(config_id)}",
    )
    return True


def _sampler(host: ScriptHost, settings: Settings, report: Report) -> tuple[str, ...] | None:
    """Draw in this process and, the other way round, in another one; the distinct ids."""
    try:
        drawn = host.draw(settings.seed, range(_N_DRAWS), limit_s=_DRAW_S)
        with ScriptHost(
            settings.python, settings.script, settings.script_args, cwd=Path.cwd(), write_bytecode=True
        ) as other:
            other.load()
            trials = range(len(drawn) - 1, -1, -1)
            again = other.draw(settings.seed, trials, limit_s=10 * _DRAW_S)
    except (ContractError, MachineError) as error:
        report.add("sampler", Status.FAILS, str(error))
        report.add_rest(("decoding", "options"), "the sampler does not work")
        return None
    distinct = tuple(dict.fromkeys(drawn))
    differing = [trial for trial, config_id in zip(trials, again, strict=False) if drawn[trial] != config_id]
    if differing:
        trial = min(differing)
        theirs = dict(zip(trials, again, strict=False))[trial]
        report.add(
            "sampler",
            Status.FAILS,
            f"it is not deterministic: trial {trial} draws {shortened(drawn[trial])} in one process and "
            f"{shortened(theirs)} in another ({len(differing):,} of {len(again):,} differ)",
            "draw from the rng that is given and from nothing else: no global random state, no time, no "
            "counter, no order of a set",
        )
    elif len(distinct) == 1 and len(drawn) > 1:
        report.add(
            "sampler",
            Status.FAILS,
            f"every one of {len(drawn):,} draws gives {shortened(distinct[0])}: there is nothing to search",
            "draw from the rng that is given, and write all hyperparameters into the id",
        )
    else:
        report.add(
            "sampler",
            Status.OK,
            f"the same ids for one seed in two processes; {len(distinct):,} distinct in {len(drawn):,} draws",
        )
    return distinct


def _options(host: ScriptHost, settings: Settings, report: Report) -> None:
    """Whether the options that are handed on make another search of it."""
    if not settings.script_args:
        report.add("options", Status.NONE, "none are handed on to the script")
        return
    n = counted(len(settings.script_args), "word")
    try:
        without = host.identity([])
    except HyperbandError:
        # It needs its options, or was asked in a way that it does not know: so it looks at them.
        report.add("options", Status.OK, f"run_identity reads the {n}: it does not answer without")
        return
    if without != report.identity:
        report.add(
            "options",
            Status.OK,
            f"run_identity gives {shortened(report.identity or '')} with them, {shortened(without)} without",
        )
        return
    report.add(
        "options",
        Status.UNKNOWN,
        f"run_identity gives {shortened(without)} with and without them: both would be one search",
        "if they change the loss, let run_identity tell them apart; if they do not, all is well",
    )
