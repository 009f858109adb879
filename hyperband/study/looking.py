"""What a model could read from a script's config ids: found out from a few draws, before anything starts.

Owns the choice between the script's own `get_config` and the text of the ids. The draws are the same at each
start of a study, and so is what is found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hyperband.report import text
from hyperband.script.candidates import Candidates
from hyperband.script.config import Value, decode
from hyperband.script.contract import shortened
from hyperband.script.host import ScriptHost

#: so many draws are looked at, fewer of a sampler that is slow
_N_DRAWS = 64
_DRAW_S = 0.5
#: text that differs in each of so many ids is a name of the id, such as a hash, and no hyperparameter
_N_NAMES = 8
#: a longer name loses its middle where it is shown
_NAME_WIDTH = 40


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

    def warnings(self) -> list[str]:
        """What the user should know."""
        if not self.refusal:
            return []
        instead = (
            "nothing else can be read from them either" if not self.names else "their text is read instead"
        )
        return [f"Warning: get_config refuses the config ids, and {instead}. {self.refusal}"]

    def describe(self) -> str:
        """In words: what is read, or that nothing is."""
        if not self.names:
            return (
                f"no hyperparameters are recognised in ids like {shortened(self.example, 60)}, so that all "
                "trials are random draws"
            )
        shown = self.names if len(self.names) <= 12 else (*self.names[:11], f"{len(self.names) - 11} more")
        source = "get_config gives" if self.by_get_config else "the config ids say"
        # names come from outside, as ids do
        return f"{source} {', '.join(text.shortened(name, _NAME_WIDTH) for name in shown)}"


def look_at(host: ScriptHost, seed: int) -> Look:
    """Draw a few candidates and read them; waits for that.

    Raises:
        ContractError: the sampler raises, or gives something that is no config id.
        UsageError: the interpreter's numpy is missing or too old.
        MachineError: a signal ended the process.
    """
    found = host.draw_candidates(seed, _N_DRAWS, limit_s=_DRAW_S)
    ids = tuple(dict.fromkeys(config_id for part in found for config_id in part.ids))
    given = own_configs(found)
    has_any = any(config is not None for config in given.values())
    configs = [given[config_id] if has_any else decode(config_id) for config_id in ids]
    names = varying_names(configs)
    common = frozenset(name for name in names if all(config and name in config for config in configs))
    refusal = "" if has_any else next((part.refusal for part in found if part.refusal), "")
    return Look(names, common, has_any, ids[0], refusal)


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
    n_distinct = len({repr(value) for value in values})
    are_names = n_distinct == len(values) >= _N_NAMES and all(isinstance(value, str) for value in values)
    return n_distinct > 1 and not are_names
