"""The command line: the way from words to frozen settings, or to one of the other commands.

Owns how words become values. It reads no study and starts nothing. What is of Slurm or Ray alone is imported
where it is used: nobody else waits for it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband import __version__
from hyperband.cli import values
from hyperband.cli.check_options import check_parser, refuse_others, script_in
from hyperband.cli.commands import (
    Help,
    ReportOptions,
    SlotsOptions,
    SlurmInitOptions,
    StopOptions,
    parse_report,
    parse_slots,
    parse_slurm,
    parse_stop,
)
from hyperband.cli.definitions import search_parser
from hyperband.cli.groups import Parser
from hyperband.cli.where import refuse_unsent, refuse_where
from hyperband.cli.words import Words, take_apart, within_one_edit
from hyperband.errors import UsageError
from hyperband.machine.checkpoint_files import check_pattern
from hyperband.report.text import shown
from hyperband.search.trial import Algorithm
from hyperband.settings import GuideKind, KeepCheckpoints, On, Settings, WhenShared

#: options that are heeded before a search detaches itself
_DONE_BEFORE = ("--detach", "--clean", "--yes", "--from-copy")
#: what the first word may be instead of an option or SCRIPT
_COMMANDS = ("report", "stop", "slots", "check", "slurm")


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """`check SCRIPT`."""

    #: what a check has no use for has its default
    settings: Settings


def parse(
    argv: Sequence[str], *, cwd: Path, environ: Mapping[str, str], prog: str = "python hyperband.py"
) -> Settings | ReportOptions | StopOptions | SlotsOptions | SlurmInitOptions | CheckOptions | Help:
    """Read the words after the program's name.

    Args:
        argv: the words; `report` and `stop` are commands as first word only.
        cwd: relative paths start here.
        environ: where PATH is looked up for `--python`.
        prog: how the user starts us, for the help.

    Raises:
        UsageError: with what was found and what was expected.
    """
    command = argv[0] if argv else ""
    if command == "report":
        return parse_report(argv[1:], cwd, prog)
    if command == "stop":
        return parse_stop(argv[1:], cwd, prog)
    if command == "slots":
        return parse_slots(argv[1:], cwd, prog)
    if command == "slurm":
        return parse_slurm(argv[1:], cwd, prog)
    if command == "check":
        return _parse_check(argv[1:], cwd, environ, prog)
    _refuse_misspelt(command, cwd)
    parser = search_parser(prog)
    words = take_apart(argv, _takes_value(parser))
    names = {name for name, _ in words.ours}
    if names & {"-h", "--help"}:
        return Help(parser.format_help())
    if "--version" in names:
        return Help(f"hyperband {__version__}\n")
    if words.script is None:
        raise UsageError(
            f"Found no SCRIPT, expected: {prog} [options] SCRIPT [options and the script's own]."
        )
    return _settings(_values_of(parser, words), words, words.script, cwd, environ)


def _refuse_misspelt(word: str, cwd: Path) -> None:
    """Raise for a first word that is no file, and most likely a command with a slip of the hand."""
    near = [command for command in _COMMANDS if within_one_edit(word, command)]
    if near and not (cwd / word).exists():
        raise UsageError(
            f"Found no file {shown(word)}, expected a SCRIPT or a command. Did you mean {' or '.join(near)}?"
        )


def _takes_value(parser: Parser) -> dict[str, bool]:
    return {name: action.nargs != 0 for action in parser._actions for name in action.option_strings}


def _values_of(parser: Parser, words: Words) -> argparse.Namespace:
    """The values of all options, later words over earlier ones, or after them where there may be several.

    argparse only describes the options: its own reading would take the value `--` for the end of options.
    """
    actions = {name: action for action in parser._actions for name in action.option_strings}
    found = argparse.Namespace(**{action.dest: action.default for action in parser._actions})
    for name, value in words.ours:
        action = actions[name]
        read = action.type if callable(action.type) else str
        given = True if value is None else read(value)
        is_list = isinstance(action.default, list)
        setattr(found, action.dest, [*getattr(found, action.dest), given] if is_list else given)
    return found


def _settings(
    found: argparse.Namespace, words: Words, script: str, cwd: Path, environ: Mapping[str, str]
) -> Settings:
    if found.min_epochs > found.max_epochs:
        raise UsageError(
            f"--min-epochs is {found.min_epochs} and --max-epochs is {found.max_epochs}; expected the first"
            " to be at most the second."
        )
    refuse_where({name for name, _ in words.ours}, On(found.on))
    slurm_profile = _slurm_profile(found, cwd, mode=found.slurm_mode, detaches=found.detach)
    if found.on == On.RAY:
        from hyperband.launch.ray.environment import refuse_storage

        _refuse_ray(found, found.jobs_per_gpu)
        refuse_unsent({name for name, _ in words.ours}, found.ray_files)
        removes = found.ray_files == "sent" and found.keep_checkpoints != KeepCheckpoints.ALL
        refuse_storage(found.storage, found.checkpoints, removes=removes)
    algorithm = Algorithm(found.algorithm)
    for option, value, goes_with in (
        ("--brackets", found.brackets, (Algorithm.HYPERBAND,)),
        ("--async", found.asynchronous or None, (Algorithm.HYPERBAND, Algorithm.HALVING)),
        ("--max-trials", found.max_trials, (Algorithm.RANDOM, Algorithm.ASHA, Algorithm.PASHA)),
        ("--max-total-epochs", found.max_total_epochs, (Algorithm.ASHA, Algorithm.PASHA)),
    ):
        if value is not None and algorithm not in goes_with:
            names = " or ".join(goes_with)
            raise UsageError(f"{option} goes with --algorithm {names} only; found {algorithm}.")
    _refuse_repeat(found, algorithm)
    if found.max_total_epochs is not None and found.max_total_epochs < found.min_epochs:
        raise UsageError(
            f"--max-total-epochs is {found.max_total_epochs} and --min-epochs is {found.min_epochs}; expected"
            " the first to pay for a job at least."
        )
    if found.clean and found.dry_run:
        raise UsageError("--clean removes files and --dry-run writes nothing; expected one of the two.")
    for option, is_given in (("--dry-run", found.dry_run), ("--json", found.json)):
        if found.detach and is_given:
            raise UsageError(
                f"{option} does not go with --detach: the command returns when the search has begun; leave"
                " one of them out. (`report --json` shows the search at any time.)"
            )
    keeps_all = found.keep_checkpoints == KeepCheckpoints.ALL
    if found.checkpoints is None and not keeps_all:
        raise UsageError(
            f"--keep-checkpoints {found.keep_checkpoints} removes files, but whose they are is not known;"
            " name them with --checkpoints, for example --checkpoints 'runs/{config_id}/**'."
        )
    if found.checkpoints is not None:
        check_pattern(found.checkpoints, cwd=cwd)
    if not found.logs:
        raise values.refused("--logs", found.logs, "the path of a folder")
    return Settings(
        script=values.script_path(script, cwd),
        script_args=words.handed_on,
        algorithm=algorithm,
        max_epochs=found.max_epochs,
        eta=found.eta,
        min_epochs=found.min_epochs,
        brackets=found.brackets,
        repeat=found.repeat,
        max_trials=found.max_trials,
        max_total_epochs=found.max_total_epochs,
        lifts_max_total_epochs=found.max_total_epochs is None
        and any(name == "--max-total-epochs" for name, _ in words.ours),
        asynchronous=found.asynchronous,
        seed=found.seed,
        start_with=None
        if found.start_with is None
        else values.ids_file("--start-with", found.start_with, cwd),
        guide=GuideKind(found.guide),
        learn_from=_learn_from(found, cwd),
        penalty=found.penalty,
        on=On(found.on),
        slurm_profile=slurm_profile,
        slurm_set=tuple(found.slurm_set),
        slurm_mode=found.slurm_mode,
        ray_address=found.ray_address,
        ray_resources=tuple(found.ray_resources),
        ray_token=None if found.ray_token is None else values.absolute(found.ray_token, cwd),
        ray_files=found.ray_files,
        ray_working_dir=None
        if found.ray_working_dir is None
        else values.absolute(found.ray_working_dir, cwd),
        ray_runtime_env=None
        if found.ray_runtime_env is None
        else values.absolute(found.ray_runtime_env, cwd),
        storage=found.storage,
        max_slots=found.max_slots,
        gpus=found.gpus,
        slots=found.slots,
        jobs_per_gpu=found.jobs_per_gpu,
        isolate=found.isolate,
        when_shared=WhenShared(found.when_shared),
        leave_free=found.leave_free,
        multi_gpu=not found.no_multi_gpu,
        timeout_s=found.timeout,
        timeout_per_epoch_s=found.timeout_per_epoch,
        stall_timeout_s=found.stall_timeout,
        retries=found.retries,
        quarantine_s=found.quarantine_s,
        min_free_disk_gib=found.min_free_disk,
        keep_checkpoints=KeepCheckpoints(found.keep_checkpoints),
        checkpoints=found.checkpoints,
        warm=found.warm,
        max_time_s=found.max_time,
        python=_python(found.python, cwd, environ),
        logs=values.absolute(found.logs, cwd),
        grace_s=found.grace,
        keep_going=found.keep_going,
        dry_run=found.dry_run,
        clean=found.clean,
        from_copy=found.from_copy,
        detach=_detached(words) if found.detach else None,
        yes=found.yes,
        json=found.json,
        debug=found.debug,
    )


def _refuse_ray(found: argparse.Namespace, jobs_per_gpu: int | None) -> None:
    """Raise for what is said of Ray and is wrong."""
    from hyperband.launch.ray.words import LOCAL, check_address, slot_resources

    check_address(found.ray_address)
    if found.ray_address == LOCAL and found.ray_token is not None:
        raise UsageError(
            "--ray-token does not go with --ray-address local: that Ray is the search's own, and has a token "
            "of its own. Leave --ray-token out."
        )
    slot_resources(found.ray_resources, jobs_per_gpu)


def _detached(words: Words) -> tuple[str, ...]:
    """The words of a search that runs on its own; what is asked and done before it begins is left out."""
    assert words.script is not None
    ours = [(name, value) for name, value in words.ours if name not in _DONE_BEFORE]
    named = (name if value is None else f"{name}={value}" for name, value in ours)
    return (*named, "--", words.script, *words.handed_on)


def _slurm_profile(found: argparse.Namespace, cwd: Path, *, mode: str | None, detaches: bool) -> Path | None:
    """The file of the profile; a mistake in it is told before anything happens."""
    path = None if found.slurm_profile is None else values.absolute(found.slurm_profile, cwd)
    if found.on == On.SLURM:
        from hyperband.launch.slurm.profile_file import read_profile
        from hyperband.launch.slurm.search_time import refuse_short

        profile = read_profile(path, found.slurm_set, mode=mode)
        if detaches:
            refuse_short(profile, found.grace)
    return path


def _refuse_repeat(found: argparse.Namespace, algorithm: Algorithm) -> None:
    """Raise for repeats of what is not repeated: they would be left out, or double something else."""
    if found.repeat == 1:
        return
    if algorithm.has_one_ladder:
        raise UsageError(
            f"--repeat is {found.repeat} and --algorithm is {algorithm}, which has no brackets to go through"
            " again; expected --algorithm hyperband, halving or random with it. For a longer search leave it"
            " out and raise --max-trials or --max-total-epochs."
        )
    if found.max_trials is not None:
        raise UsageError(
            f"--repeat is {found.repeat} and --max-trials is {found.max_trials}; expected one of the two:"
            " each says how many trials there are. Leave out --repeat."
        )


def _learn_from(found: argparse.Namespace, cwd: Path) -> tuple[Path, ...]:
    if found.learn_from and found.guide == GuideKind.NONE:
        raise UsageError("--learn-from feeds the model of --guide model; found --guide none.")
    folders = tuple(values.study_folder("--learn-from", given, cwd) for given in found.learn_from)
    for folder in folders:
        if sum(folder.samefile(other) for other in folders) > 1:
            raise values.refused("--learn-from", str(folder), "each study once")
    return folders


def _python(found: str | None, cwd: Path, environ: Mapping[str, str]) -> Path:
    if found is not None:
        return values.interpreter("--python", found, cwd, environ.get("PATH"))
    if not sys.executable:
        raise UsageError("Python does not say where it is installed; name an interpreter with --python PATH.")
    return Path(sys.executable)


def _parse_check(
    argv: Sequence[str], cwd: Path, environ: Mapping[str, str], prog: str
) -> CheckOptions | Help:
    parser = check_parser(prog)
    ours = _takes_value(parser)
    words = take_apart(argv, {**_takes_value(search_parser(prog)), **ours})
    if {name for name, _ in words.ours} & {"-h", "--help"}:
        return Help(parser.format_help())
    refuse_others(words, ours)
    script = script_in(words, prog, cwd)
    found = _values_of(parser, words)
    refuse_where({name for name, _ in words.ours}, On(found.on))
    if found.on == On.RAY:
        _refuse_ray(found, 1)
    return CheckOptions(
        Settings(
            script=script,
            script_args=words.handed_on,
            seed=found.seed,
            on=On(found.on),
            slurm_profile=_slurm_profile(found, cwd, mode=None, detaches=False),
            slurm_set=tuple(found.slurm_set),
            ray_address=found.ray_address,
            ray_resources=tuple(found.ray_resources),
            ray_token=None if found.ray_token is None else values.absolute(found.ray_token, cwd),
            ray_files=found.ray_files,
            gpus=found.gpus,
            slots=found.slots,
            isolate=found.isolate,
            timeout_s=found.timeout,
            checkpoints=found.checkpoints,
            python=_python(found.python, cwd, environ),
            logs=values.absolute(found.logs, cwd),
            json=found.json,
            debug=found.debug,
        )
    )
