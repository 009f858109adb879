"""What a model could read from a script's config ids: found out from a few draws, before anything starts.

Owns the choice between the script's own `get_config` and the text of the ids. The draws are the same at each
start of a study, and so is what is found.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from hyperband.errors import ContractError, MachineError
from hyperband.report import text
from hyperband.report.text import counted, is_number, short_number, span_words
from hyperband.script.candidates import Candidates
from hyperband.script.config import PLACES, Value, are_tags, decode, has_places, unread
from hyperband.script.contract import shortened
from hyperband.script.failures import ProcessEndedError
from hyperband.script.host import ScriptHost

#: so many draws are looked at, fewer of a sampler that is slow
_N_DRAWS = 64
_DRAW_S = 0.5
#: one config id may take get_config so long before a search goes on without it
MOST_S = 10.0
#: a longer name, or value, loses its middle where it is shown
_NAME_WIDTH = 40
_VALUE_WIDTH = 16
_N_SHOWN = 12
_N_WORDS = 3
#: letters right before a number, and a dash if one stands between
_LABEL = re.compile(r"(?<![A-Za-z_])_*([A-Za-z](?:[A-Za-z_]*[A-Za-z])?)(-?)(?=\.?[0-9])")
_TOO_SLOW = f"takes longer than {MOST_S:g} s for one config id"
_BE_QUICK = "Let it only read the id: load nothing, and wait for nothing."


@dataclass(frozen=True, slots=True)
class Look:
    """What was found."""

    #: of the hyperparameters that differ; none: there is nothing for a model to learn from
    names: tuple[str, ...]
    #: those of them that every id has
    common: frozenset[str]
    #: ids are read by the script's `get_config`; else their text is
    by_get_config: bool
    #: one of the ids, to show
    example: str
    #: why `get_config` is not used although there is one; empty if it is, or if there is none
    refusal: str
    #: what `get_config` does then
    fault: str = "refuses the config ids"
    #: fewer were looked at than wanted: nothing may wait for `get_config`
    is_slow: bool = False
    #: for people: the names with values of them, and what is not read
    shown: str = ""
    not_read: tuple[str, ...] = ()
    #: a dash in some ids may be the sign of a number, and is not read as one: words; empty: none may
    unsure: str = ""

    def warnings(self) -> list[str]:
        """What the user should know."""
        unsure = [f"Warning: {self.unsure}"] if self.unsure else []
        return [*self._on_get_config(), *unsure]

    def _on_get_config(self) -> list[str]:
        if not self.refusal:
            return []
        instead = "the text of the ids is read instead"
        if not self.names:
            instead = "nothing can be read from the text of the ids either"
        return [f"Warning: get_config {self.fault}, and {instead}. {self.refusal}"]

    def describe(self) -> tuple[str, ...]:
        """In words, a line each: what is read and what is not, or that nothing is."""
        if not self.names:
            return (
                f"no hyperparameters are recognised in ids like {shortened(self.example, 60)}, so that all "
                "trials are random draws",
            )
        source = "get_config gives" if self.by_get_config else "the config ids say"
        notes = [PLACES] if has_places(self.names) and not self.by_get_config else []
        if self.not_read:
            # names come from outside, as ids do
            notes.append(f"not read: {text.shortened(', '.join(self.not_read), 120)}")
        return (f"{source} {self.shown}", *(["; ".join(notes)] if notes else []))


class TooSlowError(ContractError):
    """One config id took get_config too long."""

    def __init__(self) -> None:
        """Say so, and what to do."""
        super().__init__(f"get_config {_TOO_SLOW}. {_BE_QUICK}")


def impatient(say: Callable[[str], None]) -> Callable[[str, float], None]:
    """What to do while one config id takes long: tell people, and in the end raise TooSlowError.

    Args:
        say: told now and then.
    """

    def heed(words: str, so_far_s: float) -> None:
        if so_far_s >= MOST_S:
            raise TooSlowError
        say(words)

    return heed


def look_at(host: ScriptHost, seed: int, say: Callable[[str], None]) -> Look:
    """Draw a few candidates and read them; waits for that.

    Args:
        host: loaded and idle; another process of it if `get_config` ended it, or was too slow.
        seed: of the search.
        say: told when that takes long.

    Raises:
        ContractError: the sampler raises, or gives something that is no config id.
        UsageError: the interpreter's numpy is missing or too old.
        MachineError: a signal ended the process.
    """
    found, fault, refusal = _drawn(host, seed, say)
    ids = tuple(dict.fromkeys(config_id for part in found for config_id in part.ids))
    given = own_configs(found)
    has_any = any(config is not None for config in given.values())
    configs = [given[config_id] if has_any else decode(config_id) for config_id in ids]
    names = varying_names(configs)
    common = frozenset(name for name in names if all(config and name in config for config in configs))
    refusal = "" if has_any else refusal or next((part.refusal for part in found if part.refusal), "")
    return Look(
        names,
        common,
        has_any,
        ids[0],
        refusal,
        fault=fault or "refuses the config ids",
        is_slow=has_any and (bool(fault) or sum(len(part.ids) for part in found) < _N_DRAWS),
        shown=_shown(names, [config for config in configs if config]),
        not_read=tuple(unread(configs)),
        unsure="" if has_any else unsure_signs(ids, names),
    )


def unsure_signs(ids: Sequence[str], names: Collection[str]) -> str:
    """Words on dashes between a name and its number that are taken for marks, and may well be signs.

    `x-0.5` says 0.5, as `lr-0.01` says 0.01. Where another id has x0.3, nothing stands between the two, and
    the dash was most likely a sign. Empty: there is no such name.
    """
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for config_id in ids:
        for name, dash in _LABEL.findall(config_id):
            found[bool(dash)].setdefault(name, config_id)
    both = [name for name in names if all(name in one for one in found)]
    if not both:
        return ""
    plain, dashed = (shortened(one[both[0]], 60) for one in found)
    return (
        f"in ids like {dashed} the dash after {text.shortened(', '.join(both), 60)} is not read as the sign "
        f"of a number, though others, like {plain}, have none there. If it is one, put a mark before it "
        "(x:-0.5 or x=-0.5), or say what ids mean by get_config."
    )


def _drawn(host: ScriptHost, seed: int, say: Callable[[str], None]) -> tuple[list[Candidates], str, str]:
    """Some draws; what is wrong with get_config, if it held them up; and more words on that."""

    def only_say(words: str, _: float) -> None:
        say(words)

    found: list[Candidates] = []
    on_slow = impatient(say) if host.has_get_config else only_say
    try:
        for part in host.draw_candidates(seed, _N_DRAWS, limit_s=_DRAW_S, on_slow=on_slow):
            found.append(part)
        return found, "", ""
    except TooSlowError:
        fault, refusal = _TOO_SLOW, _BE_QUICK
    except (MachineError, ProcessEndedError) as err:
        if not host.has_get_config:
            raise
        fault, refusal = "ends its process", str(err)
    host.load_again()
    if not found:  # which of the two it was shows now
        found += host.draw_candidates(seed, _N_DRAWS, limit_s=_DRAW_S, with_configs=False, on_slow=only_say)
    return found, fault, refusal


def _shown(names: Sequence[str], read: Sequence[Mapping[str, Value]]) -> str:
    """`the numbers lr (such as 0.003), bs (64) and the words opt (adam, sgd)`."""
    numbers: list[str] = []
    words: list[str] = []
    for name in names[:_N_SHOWN]:
        of_name = [config[name] for config in read if name in config]
        are_numbers = [value for value in of_name if is_number(value)]
        others = list(dict.fromkeys(str(value) for value in of_name if not is_number(value)))
        examples = [text.shortened(value, _VALUE_WIDTH) for value in others[:_N_WORDS]]
        examples += ["..."] if len(others) > _N_WORDS else []
        told = ", ".join(examples)
        if are_numbers and others:
            told = f"{told} or {span_words(are_numbers)}"
        elif are_numbers:
            told = (
                f"{'' if numbers else 'such as '}{text.shortened(short_number(are_numbers[0]), _VALUE_WIDTH)}"
            )
        (numbers if are_numbers else words).append(f"{text.shortened(name, _NAME_WIDTH)} ({told})")
    kinds_shown = [
        f"the {kind}{'' if len(lines) == 1 else 's'} {', '.join(lines)}"
        for kind, lines in (("number", numbers), ("word", words))
        if lines
    ]
    n_more = len(names) - _N_SHOWN
    return " and ".join(kinds_shown) + (f" and {counted(n_more, 'other')}" if n_more > 0 else "")


def own_configs(found: Sequence[Candidates]) -> dict[str, Mapping[str, Value] | None]:
    """What the script's `get_config` makes of each id; None where it refuses, or where there is none."""
    configs: dict[str, Mapping[str, Value] | None] = {}
    for part in found:
        configs.update(zip(part.ids, part.configs or [None] * len(part.ids), strict=True))
    return configs


def varying_names(configs: Sequence[Mapping[str, Value] | None]) -> tuple[str, ...]:
    """The names whose values differ among distinct configurations; none if most could not be read."""
    read = [config for config in configs if config]
    if 2 * len(read) < len(configs):
        return ()
    names = dict.fromkeys(name for config in read for name in config)
    return tuple(name for name in names if _differs([config.get(name, ...) for config in read]))


def _differs(values: Sequence[object]) -> bool:
    """Whether the values of one name tell configurations apart, and are no names of them."""
    if len(values) == 1:
        return True  # a single draw, of a slow sampler: nothing is known against it
    return len({repr(value) for value in values}) > 1 and not are_tags(values)
