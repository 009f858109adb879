"""The rules of the script's contract that need no running script."""

import hashlib
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperband.errors import ContractError, MachineError, UsageError
from hyperband.script.contract import (
    LOSS_WINDOW_BYTES,
    MAX_CONFIG_ID_BYTES,
    Reading,
    check_config_id,
    clean_lines,
    job_argv,
    last_lines,
    read_outcome,
    read_start_with,
    study_folder_name,
)
from hyperband.search.trial import Outcome

WINDOW = LOSS_WINDOW_BYTES


def reading_of(folder: Path, output: bytes, exit_status: int = 0) -> Reading:
    path = folder / "stdout"
    path.write_bytes(output)
    return read_outcome(path, exit_status)


def test_the_command_line_of_a_job_is_the_contracts() -> None:
    config_id = "lr:0.1 'quoted' ü"
    assert job_argv(
        python="/env/bin/python",
        script="/a b/train.py",
        config_id=config_id,
        epochs=27,
        slot_arguments=("--gpu", "1"),
        script_args=("--model", "vgg", "--", "-x"),
    ) == [
        *("/env/bin/python", "/a b/train.py", config_id, "--epochs", "27", "--gpu", "1"),
        *("--model", "vgg", "--", "-x"),
    ]


def test_several_gpus_take_the_place_of_one() -> None:
    argv = job_argv(
        python="p", script="s", config_id="c", epochs=1, slot_arguments=("--multi_gpu",), script_args=()
    )
    assert argv == ["p", "s", "c", "--epochs", "1", "--multi_gpu"]


@pytest.mark.parametrize(
    ("output", "loss"),
    [
        (b"0.5\n", 0.5),
        (b"0.5", 0.5),
        (b"epoch 1\r\nval 3\r\n0.5\r\n", 0.5),
        (b"0.5\r\n\r\n", 0.5),
        (b"10%\r20%\r0.5\n", 0.5),
        (b"100%\r    \r0.5\n", 0.5),
        (b"0.5\n\n  \n\t\n", 0.5),
        (b"  0.5  \n", 0.5),
        (b"1\n2\n3", 3.0),
        (b"-1e-3\n", -0.001),
        (b"+7\n", 7.0),
        (b".5\n", 0.5),
        (b"1E5\n", 1e5),
        (b"1e-999\n", 0.0),
        (b"\xff\xfe\x80\n0.25\n", 0.25),
        ("Verlust \N{SNOWMAN}\n\N{NO-BREAK SPACE}0.25\n".encode(), 0.25),
    ],
)
def test_the_last_line_is_the_loss(tmp_path: Path, output: bytes, loss: float) -> None:
    assert reading_of(tmp_path, output) == Reading(Outcome.LOSS, loss, "")


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (b"0.5\ndone\n", "'done'"),
        (b"loss: 0.5\n", "'loss: 0.5'"),
        (b"0.5 0.6\n", "'0.5 0.6'"),
        (b"1_000\n", "'1_000'"),
        (b"0x10\n", "'0x10'"),
        (b"0,5\n", "'0,5'"),
        (b"0.5\r99% done\n", "'99% done'"),
        (b"0.5\xff\n", "0.5"),
        (b"0.5\x00\n", r"'0.5\x00'"),
        ("٠.٥\n".encode(), "a number alone was expected"),
        ("\ufeff0.5\n".encode(), r"\ufeff"),
        (b"", "nothing was printed to standard output"),
        (b"\n \r\n\r\r\n", "nothing was printed to standard output"),
        (b"x" * 1000, "xxx...xxx"),
    ],
)
def test_anything_but_a_number_is_no_loss(tmp_path: Path, output: bytes, found: str) -> None:
    reading = reading_of(tmp_path, output)
    assert (reading.outcome, reading.loss) == (Outcome.NO_LOSS, None)
    assert found in reading.note
    assert len(reading.note) < 250
    assert "\n" not in reading.note


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e999", "-1e999", "9" * 400]
)
def test_no_finite_number(tmp_path: Path, text: str) -> None:
    reading = reading_of(tmp_path, b"0.5\n" + text.encode() + b"\n")
    assert (reading.outcome, reading.loss) == (Outcome.NOT_FINITE, None)
    assert "not a finite number" in reading.note


@pytest.mark.parametrize(
    ("text", "kind"), [("nan", "loss nan"), ("-1e999", "loss -inf"), ("0.5", ""), ("x", "")]
)
def test_numbers_that_are_none_are_told_apart(tmp_path: Path, text: str, kind: str) -> None:
    assert reading_of(tmp_path, f"{text}\n".encode()).kind == kind


def test_lines_as_a_terminal_leaves_them() -> None:
    text = "  a\x1b[31mb\n10%\r99%\r\n" + "x" * 5000
    assert [line[:4] for line in clean_lines(text)] == ["  ab", "99%", "xxxx"]
    assert len(clean_lines(text)[2]) == 2000


@pytest.mark.parametrize(
    ("exit_status", "note"),
    [
        (1, "exit code 1"),
        (3, "exit code 3"),
        (-11, "ended by SIGSEGV (signal 11)"),
        (-9, "ended by SIGKILL (signal 9)"),
        (-40, "ended by signal 40"),
    ],
)
def test_a_failed_script_crashed_whatever_it_printed(tmp_path: Path, exit_status: int, note: str) -> None:
    assert reading_of(tmp_path, b"0.5\n", exit_status) == Reading(Outcome.CRASHED, None, note)


def test_a_crash_needs_no_output_file(tmp_path: Path) -> None:
    assert read_outcome(tmp_path / "gone", -6).note == "ended by SIGABRT (signal 6)"


def test_a_missing_output_is_no_loss(tmp_path: Path) -> None:
    reading = read_outcome(tmp_path / "gone", 0)
    assert reading.outcome is Outcome.NO_LOSS
    assert str(tmp_path / "gone") in reading.note


def test_an_unreadable_output_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be read: Is a directory"):
        read_outcome(tmp_path, 0)


def test_an_open_descriptor_is_read_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "stdout"
    path.write_bytes(b"1\n0.5\n")
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        assert read_outcome(file.fileno(), 0).loss == 0.5


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        # the window begins inside the line: what is left of it looks like a number
        (b"val" + b"1" * WINDOW, Outcome.NO_LOSS),
        (b"val 1" + b" " * (WINDOW - 3) + b"1\n", Outcome.NO_LOSS),
        # the window begins with the line: nothing says that it is whole
        (b"x\n" + b"0" * (WINDOW - 1) + b"\n", Outcome.NO_LOSS),
        # all of the file is in the window
        (b"0" * (WINDOW - 2) + b"7\n", Outcome.LOSS),
        # whole, after a newline or a carriage return in the window
        (b"x" * 200_000 + b"\n0.5\n", Outcome.LOSS),
        (b"50%\r" * 100_000 + b"0.5\n", Outcome.LOSS),
        (b"x" * WINDOW + b"\n" + b"0" * (WINDOW - 3) + b"7\n", Outcome.LOSS),
        # the number is before the window
        (b"0.5\n" + b"\n" * WINDOW, Outcome.NO_LOSS),
        (b"0.5\n" + b"\r\n" * WINDOW, Outcome.NO_LOSS),
    ],
)
def test_the_window(tmp_path: Path, output: bytes, outcome: Outcome) -> None:
    assert reading_of(tmp_path, output).outcome is outcome


def test_a_character_cut_by_the_window_does_no_harm(tmp_path: Path) -> None:
    output = "\N{SNOWMAN}".encode() * (WINDOW // 3 + 2) + b"\n0.5\n"
    assert reading_of(tmp_path, output).loss == 0.5


def test_200_mb_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stdout"
    with path.open("wb") as file:
        file.truncate(200 * 1000 * 1000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n0.5\n")
    n_read = 0
    really_read = os.pread

    def counted(descriptor: int, n_bytes: int, position: int) -> bytes:
        nonlocal n_read
        n_read += n_bytes
        return really_read(descriptor, n_bytes, position)

    monkeypatch.setattr(os, "pread", counted)
    assert read_outcome(path, 0).loss == 0.5
    assert n_read <= WINDOW


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_what_python_prints_is_read_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, loss: float
) -> None:
    reading = reading_of(tmp_path_factory.getbasetemp(), f"x\n{loss}\n".encode())
    assert reading.loss is not None
    assert (reading.loss, math.copysign(1, reading.loss)) == (loss, math.copysign(1, loss))


@given(st.binary(max_size=300))
def test_any_bytes_give_an_outcome_and_a_printable_note(
    tmp_path_factory: pytest.TempPathFactory, output: bytes
) -> None:
    reading = reading_of(tmp_path_factory.getbasetemp(), output)
    assert (reading.loss is not None) == (reading.outcome is Outcome.LOSS) == (reading.note == "")
    assert reading.note.isprintable()


def shown(folder: Path, text: bytes, n: int = 10) -> str:
    path = folder / "stderr"
    path.write_bytes(text)
    return last_lines(path, n)


def test_the_last_lines(tmp_path: Path) -> None:
    text = b"".join(b"line %d\n\n" % i for i in range(50))
    assert shown(tmp_path, text, 3) == "line 47\nline 48\nline 49"
    assert shown(tmp_path, b"") == ""
    assert last_lines(tmp_path / "gone") == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after\x1b]0;t\x1b\\!", "after!"),
        (b"\x1b(Bplain\x1bc", "plain"),
        (b"10%\r20%\r", "20%"),
        (b"crlf\r\n", "crlf"),
        (b"bell\x07 nul\x00", r"bell\x07 nul\x00"),
        (b"lone escape \x1b", r"lone escape \x1b"),
        ("c1 \x9b31m".encode(), r"c1 \x9b31m"),
        ("bidi \u202e".encode(), r"bidi \u202e"),
        (b"bad \xff", "bad \N{REPLACEMENT CHARACTER}"),
        ("ü \N{SNOWMAN}".encode(), "ü \N{SNOWMAN}"),
        (b"a\tb", "a   b"),
    ],
)
def test_last_lines_cannot_command_a_terminal(tmp_path: Path, text: bytes, expected: str) -> None:
    assert shown(tmp_path, text) == expected


def test_last_lines_are_bounded(tmp_path: Path) -> None:
    assert len(shown(tmp_path, b"x" * 10_000_000)) < 500
    text = shown(tmp_path, b"first line is cut " + b"y" * 16_300 + b"\n" + b"second\n" * 20)
    assert text == "\n".join(["second"] * 10)


@given(st.binary(max_size=200))
def test_last_lines_are_printable(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    lines = shown(tmp_path_factory.getbasetemp(), text).split("\n")
    assert all(line.isprintable() for line in lines)


def test_a_log_that_cannot_be_read_is_said_in_place(tmp_path: Path) -> None:
    assert "Is a directory" in last_lines(tmp_path)


@pytest.mark.parametrize(
    "config_id",
    [
        "lr:0.01.batch_size:256",
        " ",
        'it\'s "quoted" $(rm -rf /) `x` \\ * ; | &',
        "../../etc/passwd",
        "über \N{SNOWMAN} \N{GRINNING FACE}",
        "\t\r",
        "a-b",
        "x" * MAX_CONFIG_ID_BYTES,
    ],
)
def test_a_config_id_may_hold_what_a_command_line_can(config_id: str) -> None:
    assert check_config_id(config_id) == config_id


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "is empty"),
        ("-lr", "begins with '-'"),
        ("--epochs", "begins with '-'"),
        ("a\0b", "NUL"),
        ("a\nb", "newline"),
        ("a\n", "newline"),
        ("\ud800", r"'\ud800'"),
        ("\udcff", "lone surrogate"),
        ("x" * (MAX_CONFIG_ID_BYTES + 1), "131,072 bytes"),
        ("ü" * 65_536, "131,072 bytes"),
        (5, "of type int"),
        (None, "of type NoneType"),
        (b"lr:1", "of type bytes"),
        (["lr"], "of type list"),
    ],
)
def test_a_bad_config_id_is_named_with_its_rule(value: object, rule: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_config_id(value)
    message = str(caught.value)
    assert rule in message
    assert (repr(value)[:20] if isinstance(value, str) else repr(value)) in message
    assert message.isprintable()
    assert len(message) < 500


def test_the_longest_config_id_is_what_the_kernel_takes() -> None:
    true = "/bin/true"
    assert (
        os.waitstatus_to_exitcode(
            os.waitpid(os.posix_spawn(true, [true, "x" * MAX_CONFIG_ID_BYTES], {}), 0)[1]
        )
        == 0
    )
    if os.sysconf("SC_PAGE_SIZE") == 4096:
        with pytest.raises(OSError, match="Argument list too long"):
            os.posix_spawn(true, [true, "x" * (MAX_CONFIG_ID_BYTES + 1)], {})


@pytest.mark.parametrize("identity", ["resnet", "a.b_c=d,e+f-g", "x" * 80, "0", "-"])
def test_a_plain_identity_is_its_folder(identity: str) -> None:
    assert study_folder_name(identity) == identity


@pytest.mark.parametrize(
    ("identity", "slug"),
    [
        ("a b", "a-b"),
        ("a/../b", "a-..-b"),
        ("..", "study"),
        (".hidden", "hidden"),
        ("name\n", "name"),
        ("x" * 81, "x" * 60),
        ("größe", "groe"),
        ("\N{SNOWMAN}", "study"),
        ("a\0", "a"),
    ],
)
def test_any_other_identity_is_a_slug_and_a_hash(identity: str, slug: str) -> None:
    name = study_folder_name(identity)
    assert name.endswith("-" + hashlib.sha256(identity.encode()).hexdigest()[:8])
    assert name[:-9] == slug


def test_an_empty_identity_is_the_default() -> None:
    assert study_folder_name("") == "default"


@given(st.text())
def test_every_folder_name_is_safe(identity: str) -> None:
    name = study_folder_name(identity)
    assert re.fullmatch(r"[A-Za-z0-9._=,+-]{1,80}", name)
    assert not name.startswith(".")


def test_start_with_keeps_order_and_spaces(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    path.write_bytes("\ufefflr:1\r\n\n   \n lr:2 \nlr:\N{SNOWMAN}".encode())
    assert read_start_with(path) == ("lr:1", " lr:2 ", "lr:\N{SNOWMAN}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\n\na\n", ["'a'", "lines 1 and 4"]),
        (b"a\n-b\n", ["line 2", "'-b'", "begins with '-'"]),
        (b"a\nb\0\n", ["line 2", "NUL"]),
        (b"a\n\xff\n", ["not UTF-8", "byte 2"]),
        (b"\n \n", ["is empty"]),
    ],
)
def test_start_with_refuses(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "ids"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_start_with(path)
    for word in [*words, str(path)]:
        assert word in str(caught.value)


def test_start_with_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_start_with(tmp_path / "gone")
    with pytest.raises(UsageError, match="Is a directory"):
        read_start_with(tmp_path)
