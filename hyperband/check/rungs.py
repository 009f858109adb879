"""What the jobs of one configuration say: the same again, a checkpoint beyond N, the proof of resuming."""

from collections.abc import Sequence
from pathlib import Path

from hyperband.check.bench import Ran, losses
from hyperband.check.findings import Status
from hyperband.check.parts import SECOND, SEED_IT, History, Parts
from hyperband.check.resuming import Evidence, Judgement, is_same, judge
from hyperband.script.contract import shortened
from hyperband.verdicts import Resuming

_SAME_LOSS = "the loss at 1 and at 3 epochs is the same, for two configurations: is --epochs used?"


def judge_again(parts: Parts, history: History) -> None:
    """Whether a job to N epochs prints N's loss again."""
    first, again = history.first, history.again
    whose = shortened(first.config_id)
    if first.loss is None or again.loss is None:
        parts.failed("again", again if first.loss is not None else first)
    elif is_same(first.loss, again.loss):
        words = f"the loss of {whose} at 1 epoch is {first.loss!r}, and again when asked again"
        parts.report.add("again", Status.OK, words)
    else:
        parts.report.add(
            "again",
            Status.FAILS,
            f"asked for 1 epoch of {whose} twice, it printed {losses(first, again)}",
            SEED_IT
            if history.is_random
            else "when the checkpoint has N epochs already, print the loss that it had there; --epochs is "
            "the total number of epochs, not a number of further ones",
        )


def judge_beyond(parts: Parts, history: History) -> None:
    """Whether a checkpoint beyond N is left alone when N epochs are asked for."""
    first, resumed, beyond = history.first, history.resumed, history.beyond
    if first.loss is None or beyond.loss is None or resumed.loss is None:
        parts.failed("beyond", next(ran for ran in (first, resumed, beyond) if ran.loss is None))
    elif history.ignores_epochs:
        parts.report.add("beyond", Status.UNKNOWN, _SAME_LOSS)
    elif is_same(first.loss, beyond.loss):
        words = f"asked for 1 epoch when it had 3, it printed the loss at 1 again: {beyond.loss!r}"
        parts.report.add("beyond", Status.OK, words)
    else:
        is_later = is_same(resumed.loss, beyond.loss)
        whose = ", which is that at 3" if is_later else ""
        parts.report.add(
            "beyond",
            Status.FAILS if is_later or history.repeatable else Status.UNKNOWN,
            f"asked for 1 epoch when it had 3, it printed {beyond.loss!r}{whose}; at 1 it was {first.loss!r}",
            SEED_IT
            if history.is_random and not is_later
            else "use a checkpoint only if it has at most N epochs, or keep the losses of all epochs in it",
        )


def judge_resuming(parts: Parts, history: History) -> None:
    """Whether 1 and then 3 epochs are the same as 3 in one go."""
    report, straight = parts.report, history.straight
    if history.ignores_epochs:
        report.add("resuming", Status.UNKNOWN, _SAME_LOSS)
        return
    others: list[Ran] = []
    if not straight:
        # Its files cannot be put aside: others, trained in one go, show at least how long that takes.
        n = min(2, len(parts.unused) - 2)  # two are for what follows
        others = [parts.bench.run(parts.unused.pop(0), SECOND) for _ in range(n)]
    if history.first.loss is None or any(ran.loss is None for ran in straight):
        parts.failed("resuming", next(ran for ran in (history.first, *straight) if ran.loss is None))
        return
    if history.resumed.loss is None and not straight:
        parts.failed("resuming", history.resumed)
        return
    judgement = judge(
        Evidence(
            resumed_loss=history.resumed.loss,
            straight_losses=[ran.loss for ran in straight if ran.loss is not None],
            has_read=history.has_read,
            first_s=history.first.duration_s,
            resumed_s=history.resumed.duration_s,
            straight_s=[ran.duration_s for ran in straight or others if ran.duration_s is not None],
        )
    )
    report.resuming = judgement.verdict
    words = f"the same configuration to 1 epoch, then to 3: {judgement.verdict}"
    words = "\n".join(filter(None, (words, judgement.words, _about_files(parts, history))))
    if history.resumed.loss is None:
        words += f"\n{history.resumed.describe()}"
    status = {Resuming.RESUMES: Status.OK, Resuming.UNKNOWN: Status.UNKNOWN}
    report.add("resuming", status.get(judgement.verdict, Status.FAILS), words, _fix(judgement, history))


def _about_files(parts: Parts, history: History) -> str:
    if history.files:
        return f"its files: {_names(history.files, parts.places.cwd)}"
    if history.old_files:
        return f"it wrote into files that were there before: {_names(history.old_files, parts.places.cwd)}"
    if parts.places.too_large:
        return f"{parts.places.too_large[0]} is too large to look for its files"
    return f"no file of its own was found below {', '.join(map(str, parts.places.roots))}"


def _names(paths: Sequence[Path], cwd: Path) -> str:
    shown = [str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path) for path in paths[:3]]
    return ", ".join(shown) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _fix(judgement: Judgement, history: History) -> str:
    if judgement.verdict is Resuming.FROM_SCRATCH:
        return "begin with the checkpoint if there is one of at most N epochs, and train the rest"
    if judgement.verdict is Resuming.DISAGREES:
        return (
            "save and load everything that the next epoch depends on: parameters, the optimizer's state, the "
            "learning rate schedule, the states of random generators, the order of the data"
        )
    if judgement.verdict is Resuming.UNKNOWN and history.old_files and not history.files:
        return "if these are checkpoints, keep one for each configuration; move them away and check again"
    if judgement.verdict is Resuming.UNKNOWN:
        return (
            "if it keeps checkpoints, name them: --checkpoints 'FOLDER/{config_id}*', or {config_id_sha256}; "
            "if it keeps none, each rung of a search trains from the beginning"
        )
    return ""
