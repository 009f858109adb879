"""One search from start to end: the only place that knows script, journal, engine, slots and screen."""

from hyperband.study.detaching import Detached, detach
from hyperband.study.opening import Opened, open_script
from hyperband.study.run import SearchResult, dry_run, run_search
from hyperband.study.stop import stop_study

__all__ = [
    "Detached",
    "Opened",
    "SearchResult",
    "detach",
    "dry_run",
    "open_script",
    "run_search",
    "stop_study",
]
