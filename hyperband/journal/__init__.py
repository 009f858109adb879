"""The journal of a study: its events in order, in one SQLite file, with a plain copy beside it.

It stores events and gives them back; what they mean is the engine's business. `beginnings` has what it stores
besides: when an attempt began that had to wait. `store` is the door of whoever
writes, `reading` of whoever only reads; `database` has all the SQL, `copy` the plain copy, and `belief` says
which of the two is believed where they differ. Where the files are is `place`'s to say and `home`'s to bring
about; the `courier` copies them into the study's folder if they are elsewhere, and `spare` removes what was
left of a move that was cut off.
"""

from hyperband.journal.beginnings import Beginnings, JobBegan, StartsMayWait, StudyRead
from hyperband.journal.home import refuse_away, removing
from hyperband.journal.place import where, writer_of
from hyperband.journal.reading import read_events, read_study
from hyperband.journal.store import Journal

__all__ = [
    "Beginnings",
    "JobBegan",
    "Journal",
    "StartsMayWait",
    "StudyRead",
    "read_events",
    "read_study",
    "refuse_away",
    "removing",
    "where",
    "writer_of",
]
