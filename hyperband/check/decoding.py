"""What config ids say: by the script's own `get_config`, which must say it well, or by their text."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperband.check.findings import Report, Status
from hyperband.errors import ContractError, MachineError
from hyperband.report.text import duration, is_number, span_words
from hyperband.script.config import PLACES, Value, decode, flatten, has_places, read_value, same_names, unread
from hyperband.script.contract import shortened
from hyperband.script.host import ScriptHost

#: so long `get_config` is asked about ids
_READ_S = 5.0
#: a search looks at 64 ids in half a second; of a slower `get_config` the model gets less than it could use
_SLOW_S = 0.05
_N_SHOWN = 8
_WORKS = "return for each id a dict of its numbers, strings, booleans and None, such as {'lr': 0.01}"


def check_decoding(host: ScriptHost, ids: Sequence[str], report: Report) -> None:
    """Read the ids as a guided search does.

    Args:
        host: of the script, idle; another process of it if `get_config` ended the first.
        ids: distinct, at least one.
        report: gets the line.

    Raises:
        HyperbandError: the script, which was imported before, cannot be imported again.
    """
    say: Callable[[str], None] = lambda words: report.say(f"         {words}")  # noqa: E731
    began_s = time.monotonic()
    try:
        own = host.configs(ids, limit_s=_READ_S, on_slow=say)
        each_s = (time.monotonic() - began_s) / len(own or ids)
        again = host.configs(ids[: len(own)][::-1], limit_s=_READ_S, on_slow=say) if own else None
    except (ContractError, MachineError) as error:
        fix = f"{_WORKS}; it may also be left out, and then the text of the ids is read"
        report.add("decoding", Status.FAILS, str(error), fix)
        host.load_again()
        return
    if own is None:
        _check_text(ids, report)
        return
    _tell_names([flatten(config) for config in own], report)
    for find in (_empty, _unlike, _not_finite):
        words, fix = find(ids, own, (again or [])[::-1])
        if words:
            report.add("decoding", Status.FAILS, words, fix)
            return
    status, fix = Status.OK, ""
    told = _told("get_config gives", [flatten(config) for config in own])
    texts = _numbers_as_text(own)
    if texts:
        told += f"\n{texts}: text that says a number is read as that number"
        fix = "let get_config return numbers, such as float(...) of the text"
    if each_s > _SLOW_S:
        status = Status.UNKNOWN
        told += f"\nit takes {duration(each_s)} for an id: the model hears of few draws"
        fix = "let get_config only read the id: load nothing, and wait for nothing"
    report.add("decoding", status, told, fix)


def _check_text(ids: Sequence[str], report: Report) -> None:
    configs = [decode(config_id) for config_id in ids]
    read = [config for config in configs if config]
    source = "without a get_config, the ids say"
    fix = "for a search that learns from losses, add: def get_config(config_id): return {'lr': 0.01, ...}"
    if not read:
        report.add("decoding", Status.UNKNOWN, f"nothing can be read out of {shortened(ids[0])}", fix)
        return
    _tell_names(read, report)
    told = _told(source, read)
    if has_places(report.names):
        told += f"\n{PLACES}"
    missing = unread(configs)
    if missing:
        told += f"\nnot read: {', '.join(missing[:_N_SHOWN])}"
    is_whole = len(read) == len(configs)
    report.add("decoding", Status.OK if is_whole else Status.UNKNOWN, told, "" if is_whole else fix)


def _tell_names(configs: Sequence[Mapping[str, Value]], report: Report) -> None:
    report.names = tuple(dict.fromkeys(name for config in configs for name in config))


def _told(source: str, read: Sequence[Mapping[str, Value]]) -> str:
    names = dict.fromkeys(name for config in read for name in config)
    others = "" if same_names(read) else "; not every id has all of them"
    shown = [_range(name, [config[name] for config in read if name in config]) for name in names]
    more = f", and {len(shown) - _N_SHOWN} more" if len(shown) > _N_SHOWN else ""
    return f"{source} {', '.join(shown[:_N_SHOWN])}{more}{others}"


def _range(name: str, values: Sequence[Value]) -> str:
    """`lr 0.0001 to 0.98`, `opt (adam, sgd)`, or `beta (None or 0.9 to 0.99)`."""
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == len(values):
        return f"{name} {span_words(numbers)}"
    words = sorted({shortened(str(value), 20)[1:-1] for value in values if not is_number(value)})
    others = f"{', '.join(words[:4])}{', ...' if len(words) > 4 else ''}"
    return f"{name} ({others}{f' or {span_words(numbers)}' if numbers else ''})"


# What get_config may do wrong. Each: the ids, what it gave, and what it gave when asked again.

_Configs = Sequence[Mapping[str, Any]]


def _empty(ids: Sequence[str], own: _Configs, _: _Configs) -> tuple[str, str]:
    empty = [config_id for config_id, config in zip(ids, own, strict=False) if not flatten(config)]
    if not empty:
        return "", ""
    return f"get_config gives {{}} for {shortened(empty[0])} ({len(empty):,} of {len(own):,} ids)", _WORKS


def _unlike(ids: Sequence[str], own: _Configs, again: _Configs) -> tuple[str, str]:
    if len(again) < len(own):  # the later ids were asked first, and the time was up
        ids, own = ids[len(own) - len(again) :], own[len(own) - len(again) :]
    both = zip(ids, own, again, strict=False)
    unlike = [(config_id, one, other) for config_id, one, other in both if repr(one) != repr(other)]
    if not unlike:
        return "", ""
    config_id, one, other = unlike[0]
    return (
        f"get_config is not deterministic: for {shortened(config_id)} it gives {shortened(repr(one))}, and "
        f"then {shortened(repr(other))} ({len(unlike):,} of {len(again):,} ids differ)",
        "let it depend on the id and on nothing else: no random state, no time, no counter",
    )


def _not_finite(ids: Sequence[str], own: _Configs, _: _Configs) -> tuple[str, str]:
    for config_id, config in zip(ids, own, strict=False):
        for name, value in flatten(config).items():
            if isinstance(value, float) and not math.isfinite(value):
                return (
                    f"get_config gives {name} = {value} for {shortened(config_id)}",
                    "return finite numbers; None stands for what a configuration does not have",
                )
    return "", ""


def _numbers_as_text(own: _Configs) -> str:
    """`lr is '0.01'`, for the names whose numbers are strings; empty if there are none."""
    found: dict[str, str] = {}

    def look(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, part in value.items():
                look(f"{name}.{key}" if name else str(key), part)
        elif isinstance(value, list):
            for place, part in enumerate(value):
                look(f"{name}.{place}", part)
        elif isinstance(value, str) and isinstance(read_value(value), (int, float)):
            found.setdefault(name, value)

    for config in own:
        look("", config)
    return ", ".join(f"{name} is {shortened(value)}" for name, value in list(found.items())[:_N_SHOWN])
