"""The journal of a study: its events in order, in one SQLite file, with a plain copy beside it.

It stores events and gives them back; what they mean is the engine's business. `store` is the door of whoever
writes, `reading` of whoever only reads; `database` has all the SQL, `copy` the plain copy, and `belief` says
which of the two is believed where they differ.
"""

from hyperband.journal.reading import read_events
from hyperband.journal.store import Journal

__all__ = ["Journal", "read_events"]
