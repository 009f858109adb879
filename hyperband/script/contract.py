"""The contract with the user's script: its command line, its last line, its config ids, its folder.

Owns every rule that can be said without running the script. Must not know processes, slots, studies
or journals: it is given strings and files and answers with values of floor 0.
"""

import hashlib
import math
import os
import re
import signal
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hyperband.errors import ContractError, MachineError, UsageError
from hyperband.search.trial import Outcome

#: the loss must stand within this many last bytes of standard output
LOSS_WINDOW_BYTES = 64 * 1024
#: the kernel refuses a longer single argument (MAX_ARG_STRLEN, 32 pages of 4 KiB with its NUL)
MAX_CONFIG_ID_BYTES = 128 * 1024 - 1

_LAST_LINES_WINDOW_BYTES = 16 * 1024
_LAST_LINES_WIDTH = 400
_CLEAN_LINE_WIDTH = 2000
_SLUG_LENGTH = 60
_FOLDER_NAME = re.compile(r"[A-Za-z0-9._=,+-]{1,80}")
#: ECMA-48 control sequences (colours, cursor), operating system commands (titles), two-byte escapes
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one ended job amounts to."""

    #: Loss, Crashed, NoLoss or NotFinite
    outcome: Outcome
    #: the number for Loss, else None
    loss: float | None
    #: a few words on what was found instead of a loss; empty for Loss
    note: str
    #: what it has in common with others of its kind (see script/fingerprint.py); empty if the note says it
    kind: str = ""


def job_argv(
    *,
    python: str,
    script: str,
    config_id: str,
    epochs: int,
    slot_arguments: Sequence[str],
    script_args: Sequence[str],
) -> list[str]:
    """The command line of one job: `python script CONFIG_ID --epochs N --gpu K [what is handed on]`.

    Args:
        python: the interpreter.
        script: the user's script.
        config_id: checked by `check_config_id`.
        epochs: total number of epochs to train to, not the additional one.
        slot_arguments: `("--gpu", "1")` or `("--multi_gpu",)`.
        script_args: handed on verbatim.
    """
    return [python, script, config_id, "--epochs", str(epochs), *slot_arguments, *script_args]


def read_outcome(stdout: Path | int, exit_status: int) -> Reading:
    """Read the loss of an ended job from the last non-empty line of its standard output.

    Reads the final 64 KiB at most, however large the file is.

    Args:
        stdout: the file, or a descriptor of it that can be read from.
        exit_status: the script's exit code, or minus the signal that ended it.

    Raises:
        MachineError: the file is there and cannot be read.
    """
    if exit_status != 0:
        return Reading(Outcome.CRASHED, None, describe_exit(exit_status))
    try:
        tail, is_cut = read_tail(stdout, LOSS_WINDOW_BYTES)
    except FileNotFoundError:
        return Reading(Outcome.NO_LOSS, None, f"its standard output {stdout} is gone, so no loss can be read")
    except OSError as err:
        raise MachineError(
            f"the standard output of a job that ended well, {stdout}, cannot be read: {err.strerror}. "
            "Its loss stands there; repair the disk or the permissions and start the same command again."
        ) from err
    return _read_loss(tail.decode("utf-8", errors="replace"), is_cut)


def _read_loss(text: str, is_cut: bool) -> Reading:
    """The loss in the tail of an output; `is_cut` says that the tail is not the whole of it."""
    line, is_whole = _last_line(text, is_cut)
    if not line:
        where = f"in the last {LOSS_WINDOW_BYTES // 1024} KiB of" if is_cut else "to"
        return Reading(
            Outcome.NO_LOSS, None, f"nothing was printed {where} standard output; a loss was expected"
        )
    found = f"the last line of standard output is {shortened(line)}"
    if not is_whole:
        why = f"longer than {LOSS_WINDOW_BYTES // 1024} KiB"
        return Reading(
            Outcome.NO_LOSS, None, f"{found}, the end of a line {why}; a number alone was expected"
        )
    try:
        # float() also takes 1_000 and the digits of other scripts, which no training script means.
        if not line.isascii() or "_" in line:
            raise ValueError(line)
        loss = float(line)
    except ValueError:
        return Reading(Outcome.NO_LOSS, None, f"{found}; a number alone was expected")
    if not math.isfinite(loss):
        return Reading(Outcome.NOT_FINITE, None, f"{found}, which is not a finite number", f"loss {loss}")
    return Reading(Outcome.LOSS, loss, "")


def _last_line(text: str, is_cut: bool) -> tuple[str, bool]:
    r"""The last text that a terminal would show on a line of its own, stripped, and whether it is whole.

    `\n` ends a line and `\r` begins it anew: a progress bar leaves what it printed last. The `\r` of a
    CRLF has nothing after it and blanks nothing, so empty pieces are passed over.
    """
    lines = text.split("\n")
    for n_before, line in zip(range(len(lines) - 1, -1, -1), reversed(lines), strict=True):
        pieces = line.split("\r")
        for n_pieces_before, piece in zip(range(len(pieces) - 1, -1, -1), reversed(pieces), strict=True):
            if stripped := piece.strip():
                # The first piece of a cut text may lack its beginning: `12345` could be `val 12345`.
                return stripped, not (is_cut and n_before == 0 and n_pieces_before == 0)
    return "", True


def describe_exit(exit_status: int) -> str:
    """`exit code 3`, or `ended by SIGSEGV (signal 11)` for -11."""
    if exit_status >= 0:
        return f"exit code {exit_status}"
    try:
        return f"ended by {signal.Signals(-exit_status).name} (signal {-exit_status})"
    except ValueError:  # the real-time signals between the first and the last have no names
        return f"ended by signal {-exit_status}"


def last_lines(source: Path | int, n: int = 10) -> str:
    r"""The last lines of a job's standard error (or any text), safe to print on a terminal.

    Reads 16 KiB at most. Colours and cursor movements are dropped, what a `\r` overwrote too; other
    characters that are not printable become escapes; long lines lose their middle.

    Args:
        source: the file, or a descriptor of it that can be read from.
        n: number of lines, empty ones not counted and not shown.

    Returns:
        Lines joined by newlines; empty if there is no such file or nothing in it.
    """
    try:
        tail, is_cut = read_tail(source, _LAST_LINES_WINDOW_BYTES)
    except FileNotFoundError:
        return ""
    except OSError as err:  # the caller is about to report something else, which must not be lost
        return f"({source} cannot be read: {err.strerror})"
    text = tail.decode("utf-8", errors="replace")
    if is_cut and "\n" in text:
        text = text.partition("\n")[2]  # the first line lacks its beginning
    return last_printable_lines(text, n)


def last_printable_lines(text: str, n: int) -> str:
    """The last n lines of a text that are not empty, safe to print on a terminal."""
    # From the end, and no more than asked for: the text may be long.
    lines = filter(None, map(printable, reversed(text.split("\n"))))
    return "\n".join(reversed(list(islice(lines, n))))


def printable(line: str) -> str:
    """One line as a terminal would leave it, without anything that a terminal would obey."""
    last = _left_over(line)
    if len(last) > _LAST_LINES_WIDTH:
        last = f"{last[: _LAST_LINES_WIDTH // 2]} ... {last[-_LAST_LINES_WIDTH // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in last)


def clean_lines(text: str) -> list[str]:
    """The lines of a text as a terminal would leave them, of long ones the beginning; not safe to print."""
    return [_left_over(line)[:_CLEAN_LINE_WIDTH] for line in text.split("\n")]


def _left_over(line: str) -> str:
    plain = _ESCAPE_SEQUENCE.sub("", line).expandtabs(4)
    pieces = [piece.rstrip() for piece in plain.split("\r")]
    return next((piece for piece in reversed(pieces) if piece), "")


def shortened(text: str, width: int = 80) -> str:
    """The repr of a text, its middle left out when it is long: one printable line for a message."""
    if len(text) > width:
        text = f"{text[: width // 2]}...{text[-width // 2 :]}"
    return repr(text)


def check_config_id(value: object, source: str = "get_random_config_id") -> str:
    """Return a config id that can be an argument of a command line.

    Args:
        value: what the script (or a file) gave.
        source: where it comes from, for the message.

    Raises:
        ContractError: it is no string, empty, begins with `-`, holds NUL or a newline, cannot be
            encoded, or is too long for one argument; the message names it and the rule.
    """
    if not isinstance(value, str):
        raise ContractError(
            f"{source} gave {shortened(repr(value))}, of type {type(value).__name__}: a config id must be a "
            "string that fully describes one configuration, such as 'lr:0.01.batch_size:256'."
        )
    rule = _broken_rule(value)
    if rule is not None:
        raise ContractError(
            f"{source} gave the config id {shortened(value)}, which {rule}. "
            "It is handed to the script as one argument of its command line; write it differently."
        )
    return value


def _broken_rule(config_id: str) -> str | None:
    """The rule that a config id breaks, to follow `which ...`."""
    if not config_id:
        return "is empty: a config id must describe one configuration"
    if config_id.startswith("-"):
        return "begins with '-': the script would take it for an option"
    if "\0" in config_id:
        return "holds a NUL character: no command line can"
    if "\n" in config_id:
        return "holds a newline: a config id must be one line"
    try:
        config_id.encode()  # the journal and the JSON are UTF-8 whatever the locale is
        n_bytes = len(os.fsencode(config_id))
    except UnicodeEncodeError as err:
        return (
            f"holds {err.object[err.start]!a}: no {err.encoding} text can (a lone surrogate, or "
            "a character that this locale lacks)"
        )
    if n_bytes > MAX_CONFIG_ID_BYTES:
        return f"has {n_bytes:,} bytes: one argument may have {MAX_CONFIG_ID_BYTES:,} at most"
    return None


def study_folder_name(identity: str) -> str:
    """The name of a study's folder under `--logs`: the identity itself if that is a plain file name.

    Else a slug and the first 8 hexadecimal digits of its sha256, so that different identities do not
    share a folder; `default` for an empty identity.
    """
    if not identity:
        return "default"
    if _FOLDER_NAME.fullmatch(identity) and not identity.startswith("."):
        return identity
    ascii_text = unicodedata.normalize("NFKD", identity).encode("ascii", errors="ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", ascii_text)[:_SLUG_LENGTH].strip(".-") or "study"
    digest = hashlib.sha256(identity.encode("utf-8", errors="surrogatepass")).hexdigest()
    return f"{slug}-{digest[:8]}"


def read_start_with(path: Path) -> tuple[str, ...]:
    """Read the file of `--start-with`: one config id a line, blank lines skipped.

    Raises:
        UsageError: the file cannot be read, is empty or not UTF-8, an id breaks a rule or is there twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as err:
        raise UsageError(
            f"--start-with {path} cannot be read: {err.strerror}. Give a file with one config id a line."
        ) from err
    except UnicodeDecodeError as err:
        raise UsageError(
            f"--start-with {path} is not UTF-8 (byte {err.start}). Save it as UTF-8, one config id a line."
        ) from err
    lines: dict[str, int] = {}
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        if not line.strip():
            continue
        try:
            config_id = check_config_id(line, source=f"line {number} of --start-with {path}")
        except ContractError as err:
            raise UsageError(str(err)) from err
        if config_id in lines:
            raise UsageError(
                f"--start-with {path} has the config id {shortened(config_id)} on lines "
                f"{lines[config_id]} and {number}: a config id is one trial. Remove one of the two lines."
            )
        lines[config_id] = number
    if not lines:
        raise UsageError(f"--start-with {path} is empty. Write one config id a line, or leave it out.")
    return tuple(lines)


def read_tail(source: Path | int, n_bytes: int) -> tuple[bytes, bool]:
    """The last bytes of a file, and whether there are others before them.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    if isinstance(source, int):
        return _tail_of_descriptor(source, n_bytes)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _tail_of_descriptor(descriptor, n_bytes)
    finally:
        os.close(descriptor)


def _tail_of_descriptor(descriptor: int, n_bytes: int) -> tuple[bytes, bool]:
    start = max(0, os.fstat(descriptor).st_size - n_bytes)
    parts: list[bytes] = []
    position = start
    while position < start + n_bytes and (part := os.pread(descriptor, start + n_bytes - position, position)):
        parts.append(part)
        position += len(part)
    return b"".join(parts), start > 0
