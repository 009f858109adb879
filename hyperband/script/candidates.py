"""Config ids that may be tried, with what they say of themselves: from the sampler, or read again.

Owns the reading of such answers of child.py. Must not know what the ids are for.
"""

from dataclasses import dataclass
from typing import Any

from hyperband.script.config import Value, flatten
from hyperband.script.contract import check_config_id
from hyperband.script.failures import Scene, failure


@dataclass(frozen=True, slots=True)
class Candidates:
    """Some config ids and their configurations."""

    #: number of the first: of its draw, or of its place in what was asked for
    first: int
    ids: tuple[str, ...]
    #: by the script's own `get_config`, flat; None for an id that it refused. None: it has no `get_config`
    configs: tuple[dict[str, Value] | None, ...] | None
    #: words on the first id that it refused; empty if it refused none
    refusal: str
    #: nothing of what was asked for comes after these
    is_last: bool


def read_candidates(message: dict[str, Any], scene: Scene) -> Candidates:
    """Read one message of child.py; each id is checked.

    Raises:
        ContractError: an id breaks a rule, or the message says that the sampler failed.
        UsageError: the interpreter's numpy is missing or too old.
    """
    if message["kind"] != "candidates":
        raise failure(message, scene)
    source = f"get_random_config_id in {scene.script}"
    configs = message["configs"]
    return Candidates(
        first=message["first"],
        ids=tuple(check_config_id(config_id, source) for config_id in message["ids"]),
        configs=None
        if configs is None
        else tuple(None if config is None else flatten(config) for config in configs),
        refusal="" if message["refusal"] is None else str(failure(message["refusal"], scene)),
        is_last=message["is_last"],
    )
