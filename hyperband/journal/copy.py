"""The plain copy of a journal: `journal.copy`, one JSON line an event, for the day when the database fails.

Each line carries the event's number and a checksum over every event up to it, so that the last line tells
whether all of them agree. It is written after the database, with one write a transaction and no fsync of its
own: after a kill it may lack the last transaction, and after a power cut more, or end in a torn line.
"""

import errno
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperband.folder import COPY_FILE
from hyperband.journal.rows import Row, checksum

_LINE = re.compile(r'\{"seq":(\d+),"sum":"([0-9a-f]{8})","kind":"(\w+)","body":(.*)\}')
#: a copy up to this size is checked whole whenever it is opened; of a larger one, its end
_CHECKED_BYTES = 1 << 22
#: the largest line, of config ids drawn at once, is far shorter
_TAIL_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a copy that has the form of one."""

    row: Row
    #: checksum over this event and all before it, as the line says
    total: int


class Copy:
    """A study's plain copy. `n` and `total` are what it holds, whole and checked from its last lines."""

    def __init__(self, folder: Path) -> None:
        """The copy in `folder`, not open yet."""
        self.path = folder / COPY_FILE
        #: how many events it holds, and the checksum over them
        self.n = 0
        self.total = 0
        #: a line was found that is no event or does not follow on the one before: `n` ends before it
        self.is_damaged = False
        self._descriptor = -1
        self._n_bytes = 0

    def open(self, *, to_write: bool) -> None:
        """Open the file and read its end.

        Raises:
            OSError: it cannot be opened; to read, also when it is not there.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if to_write else os.O_RDONLY
        self._descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
        self._read_end()
        if to_write and not self.is_damaged and os.fstat(self._descriptor).st_size > self._n_bytes:
            os.ftruncate(self._descriptor, self._n_bytes)  # a line that was torn by a kill or a power cut

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._descriptor >= 0

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.is_open:
            os.close(self._descriptor)
            self._descriptor = -1

    def is_untouched(self) -> bool:
        """Whether the open file is still in its folder and as long as we left it."""
        found = os.fstat(self._descriptor)
        return found.st_nlink > 0 and found.st_size == self._n_bytes

    def append(self, rows: Sequence[Row]) -> None:
        """Write the next rows, in one write.

        Raises:
            OSError: they could not be written; the copy is as it was.
        """
        total, lines = self.total, []
        for seq, row in enumerate(rows, self.n + 1):
            total = checksum((row,), total)
            lines.append(f'{{"seq":{seq},"sum":"{total:08x}","kind":"{row[0]}","body":{row[1]}}}\n')
        text = "".join(lines).encode("utf-8", "surrogatepass")
        n_written = os.write(self._descriptor, text)
        if n_written < len(text):
            os.ftruncate(self._descriptor, self._n_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._n_bytes += len(text)
        self.n += len(rows)
        self.total = total

    def rewrite(self, batches: Iterable[Sequence[Row]]) -> None:
        """Replace the file by one with these rows, whole at every moment.

        Raises:
            OSError: it could not be written; what was there still is.
        """
        new = Copy(self.path.parent)
        place, new.path = self.path, self.path.with_name(f"{COPY_FILE}.new")
        new.path.unlink(missing_ok=True)
        new.open(to_write=True)
        try:
            for batch in batches:
                new.append(batch)
            new.path.rename(place)
        except BaseException:
            new.close()
            new.path.unlink(missing_ok=True)
            raise
        self.close()
        self.n, self.total, self.is_damaged = new.n, new.total, False
        self._descriptor, self._n_bytes = new._descriptor, new._n_bytes

    def lines(self) -> Mapping[int, Line]:
        """Return every line that has the form of one, by the number of its event; nothing is checked."""
        found: dict[int, Line] = {}
        if not self.is_open:
            return found
        for text in self._bytes(0, os.fstat(self._descriptor).st_size).split(b"\n"):
            if (parsed := _parsed(text)) is not None:
                found.setdefault(*parsed)
        return found

    def ends_badly(self) -> bool:
        """Whether the last line that has an end is no event; one without an end was torn by a kill."""
        if not self.is_open:
            return False
        *whole, _ = self._bytes(0, os.fstat(self._descriptor).st_size).split(b"\n")
        return len(whole) > 0 and _parsed(whole[-1]) is None

    def _read_end(self) -> None:
        """Find `n` and `total` in the last two lines; look at all if they are few, or those are bad."""
        size = os.fstat(self._descriptor).st_size
        begin = 0 if size <= _CHECKED_BYTES else size - _TAIL_BYTES
        text = self._bytes(begin, size - begin)
        ends = text.rfind(b"\n") + 1  # what comes after has no end: it was torn
        self.n, self.total, self._n_bytes, self.is_damaged = 0, 0, begin + ends, False
        if begin > 0:
            last_two = [_parsed(line) for line in text[:ends].split(b"\n")[1:-1][-2:]]
            match last_two:
                case [(int(), Line()) as before, (int(), Line()) as last] if (
                    last[0] == before[0] + 1 and checksum((last[1].row,), before[1].total) == last[1].total
                ):
                    self.n, self.total = last[0], last[1].total
                    return
            text = self._bytes(0, size)
            ends = text.rfind(b"\n") + 1
            self._n_bytes = ends
        for line in text[:ends].split(b"\n")[:-1]:
            found = _parsed(line)
            if (
                found is None
                or found[0] != self.n + 1
                or checksum((found[1].row,), self.total) != found[1].total
            ):
                self.is_damaged = True
                break
            self.n, self.total = found[0], found[1].total

    def _bytes(self, begin: int, n_bytes: int) -> bytes:
        parts: list[bytes] = []
        while n_bytes > 0 and (part := os.pread(self._descriptor, n_bytes, begin)):
            parts.append(part)
            begin += len(part)
            n_bytes -= len(part)
        return b"".join(parts)


def _parsed(text: bytes) -> tuple[int, Line] | None:
    """Return the number and the content of a line, None if it has not the form of one."""
    try:
        found = _LINE.fullmatch(text.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return None
    if found is None:
        return None
    return int(found[1]), Line((found[3], found[4]), int(found[2], 16))


def merge(lines: Mapping[int, Line], rows: Sequence[Row]) -> list[Row]:
    """Return the events of a copy, and those of a database where the copy has none that its checksum allows.

    Ends before the first event that neither has, or before lines that do not follow on what was found.
    """
    merged: list[Row] = []
    total = 0
    n_sure = 0
    while True:
        seq = len(merged) + 1
        line = lines.get(seq)
        if line is not None and checksum((line.row,), total) == line.total:
            row, n_sure = line.row, seq
        elif seq <= len(rows):
            row = rows[seq - 1]
        else:
            break
        total = checksum((row,), total)
        merged.append(row)
    # rows between lines are sure only if the lines after them follow; after the last line there is no such
    # proof
    return merged if n_sure and n_sure == max(lines) else merged[:n_sure]
