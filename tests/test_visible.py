"""CUDA_VISIBLE_DEVICES in each form, and `--gpus` on top of it."""

import pytest

from hyperband.errors import MachineError, UsageError
from hyperband.machine.gpu import Gpu, MigInstance
from hyperband.machine.visible import choose_gpus, hides_all, wanted_entries

UUIDS = (
    "GPU-1a2b0000-0000-4000-8000-000000000000",
    "GPU-1a2c0000-0000-4000-8000-000000000000",
    "GPU-3d000000-0000-4000-8000-000000000000",
    "GPU-4e000000-0000-4000-8000-000000000000",
)
FOUR = tuple(Gpu(index, uuid, "H100") for index, uuid in enumerate(UUIDS))
INSTANCES = (
    MigInstance("MIG-aaaa0000-0000-5000-8000-000000000000", 0, 3, 0),
    MigInstance("MIG-bbbb0000-0000-5000-8000-000000000000", 2, 5, 1),
)
MIXED = (FOUR[0], Gpu(1, UUIDS[1], "H100", mig=True, instances=INSTANCES))


def chosen(preset: str | None = None, gpus_option: str = "all", machine: tuple[Gpu, ...] = FOUR) -> list[str]:
    choice = choose_gpus(machine, wanted=wanted_entries(gpus_option), preset=preset)
    return [
        f"{unit.index}" if unit.instance is None else f"{unit.index}/{unit.instance}" for unit in choice.units
    ]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (None, ["0", "1", "2", "3"]),
        ("0", ["0"]),
        ("2,0", ["0", "2"]),
        (" 1 , 3 ", ["1", "3"]),
        ("3,2,1,0", ["0", "1", "2", "3"]),
        (UUIDS[2], ["2"]),
        ("GPU-1a2c", ["1"]),
        ("gpu-1A2B,GPU-4e", ["0", "3"]),
        ("GPU-3,1", ["1", "2"]),
        # CUDA's list ends at the first entry that names nothing, or nothing for certain.
        ("0,9,1", ["0"]),
        ("2,-1,1", ["2"]),
        ("1,", ["1"]),
        ("3,GPU-1a2", ["3"]),
        ("3,GPU-ffff,0", ["3"]),
        ("0,one", ["0"]),
    ],
)
def test_cuda_visible_devices_narrows_the_choice_as_cuda_reads_it(
    preset: str | None, expected: list[str]
) -> None:
    assert chosen(preset) == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (None, False),
        ("", True),
        (" ", True),
        ("-1", True),
        ("-1,0", True),
        ("NoDevFiles", True),
        ("0", False),
        ("0,-1", False),
        ("GPU-1a2b", False),
    ],
)
def test_empty_and_minus_one_hide_everything(preset: str | None, expected: bool) -> None:
    assert hides_all(preset) is expected


@pytest.mark.parametrize(
    ("preset", "problem"),
    [
        ("7", "'7' names no GPU"),
        ("GPU-ffff,0", "'GPU-ffff' names no GPU"),
        ("GPU-1a2", "'GPU-1a2' names several GPUs"),
        ("MIG-aaaa", "'MIG-aaaa' names no GPU"),
        ("all", "'all' names no GPU"),
        ("0,0", "names GPU 0 twice"),
        ("1,GPU-1a2c", "names GPU 1 twice"),
    ],
)
def test_a_list_of_which_cuda_would_show_nothing_is_an_error(preset: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        chosen(preset)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("MIG-aaaa0000-0000-5000-8000-000000000000", ["1/0"]),
        ("MIG-bbbb,MIG-aaaa", ["1/0", "1/2"]),
        (f"MIG-{UUIDS[1]}/3/0", ["1/0"]),
        (f"MIG-{UUIDS[1]}/5/1", ["1/2"]),
        ("0,MIG-bbbb", ["0", "1/2"]),
        (f"0,MIG-{UUIDS[1]}/5/0", ["0"]),
        (f"0,MIG-{UUIDS[0]}/3/0", ["0"]),
        (None, ["0"]),
        ("1,0", ["0"]),
    ],
)
def test_mig_instances_are_units_when_named(preset: str | None, expected: list[str]) -> None:
    assert chosen(preset, machine=MIXED) == expected


def test_old_names_of_mig_instances_are_also_those_of_old_drivers() -> None:
    old = f"MIG-{UUIDS[1]}/3/0"
    gpu = Gpu(1, UUIDS[1], "A100", mig=True, instances=(MigInstance(old, 0, None, None),))
    assert chosen(old, machine=(FOUR[0], gpu)) == ["1/0"]


def test_a_gpu_in_mig_mode_is_no_unit_and_says_what_to_name() -> None:
    choice = choose_gpus(MIXED, wanted=None, preset=None)
    assert len(choice.notes) == 1
    assert "GPU 1 is in MIG mode" in choice.notes[0]
    assert INSTANCES[1].uuid in choice.notes[0]
    with pytest.raises(UsageError, match=r"No GPU is left.*GPU 1 is in MIG mode.*--gpus none"):
        chosen("1", machine=MIXED)


@pytest.mark.parametrize(
    ("option", "preset", "expected"),
    [
        ("0,2", None, ["0", "2"]),
        ("2,0", None, ["0", "2"]),
        ("GPU-4e,1", None, ["1", "3"]),
        (UUIDS[3], None, ["3"]),
        ("1", "3,1", ["1"]),
        ("GPU-4e", "GPU-4e000000,0", ["3"]),
        # the numbers are those of the machine, whatever is visible
        ("3", "3", ["3"]),
    ],
)
def test_gpus_option_names_indices_and_uuids(option: str, preset: str | None, expected: list[str]) -> None:
    assert chosen(preset, option) == expected


def test_gpus_option_names_mig_instances() -> None:
    assert chosen(None, "MIG-bbbb", MIXED) == ["1/2"]
    assert chosen("MIG-aaaa,MIG-bbbb", "1", MIXED) == ["1/0", "1/2"]
    assert chosen("MIG-aaaa,MIG-bbbb", "MIG-bbbb", MIXED) == ["1/2"]


@pytest.mark.parametrize(
    ("option", "preset", "message"),
    [
        ("4", None, "--gpus names 4, which is not on this machine. The machine has GPUs 0 "),
        ("GPU-ffff", None, "--gpus names GPU-ffff, which is not on this machine"),
        ("GPU-1a2", None, "is the beginning of several UUIDs"),
        ("0,GPU-1a2b", None, "--gpus names GPU 0 twice"),
        ("1", "0,2", "CUDA_VISIBLE_DEVICES is '0,2' and hides it"),
        ("1", "0,9,1", "CUDA_VISIBLE_DEVICES is '0,9,1' and hides it"),
        ("", None, "neither an index nor a UUID"),
        ("0,,1", None, "neither an index nor a UUID"),
        ("cuda:0", None, "neither an index nor a UUID"),
        ("-1", None, "neither an index nor a UUID"),
    ],
)
def test_a_gpus_option_that_cannot_be_followed_is_refused(
    option: str, preset: str | None, message: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        chosen(preset, option)
    assert message in str(refusal.value)


def test_every_gpu_is_listed_for_one_that_is_unknown() -> None:
    with pytest.raises(UsageError) as refusal:
        chosen(None, "7", MIXED)
    for uuid in (*UUIDS[:2], *(instance.uuid for instance in INSTANCES)):
        assert uuid in str(refusal.value)


def test_a_lost_gpu_is_left_out_with_a_note_and_not_without_another() -> None:
    machine = (FOUR[0], Gpu(1, "", "NVIDIA GPU", lost="GPU is lost"))
    choice = choose_gpus(machine, wanted=None, preset=None)
    assert [unit.index for unit in choice.units] == [0]
    assert choice.notes == ("GPU 1 is lost (GPU is lost) and not used",)
    with pytest.raises(MachineError, match="GPU 1 is lost"):
        chosen(None, "1", machine)


@pytest.mark.parametrize(
    ("preset", "notes"),
    [
        (None, ()),
        ("0,1,2,3", ()),
        ("0", ("CUDA_VISIBLE_DEVICES=0",)),
        ("1,-1", ("CUDA_VISIBLE_DEVICES=1,-1",)),
        ("0,9", ("CUDA_VISIBLE_DEVICES=0,9 ends before '9', which names no single GPU",)),
    ],
)
def test_what_narrowed_the_choice_is_said(preset: str | None, notes: tuple[str, ...]) -> None:
    assert choose_gpus(FOUR, wanted=None, preset=preset).notes == notes
