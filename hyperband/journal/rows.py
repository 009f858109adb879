"""Events as rows of text and back, and the checksum over them. Knows no file."""

import contextlib
import gc
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from hyperband.journal.beginnings import Entry, JobBegan, StartsMayWait
from hyperband.search import events as event_types
from hyperband.search.trial import Bracket, Outcome, Plan, Promotion, Rung

#: the name of an event's class, and its fields as JSON
Row = tuple[str, str]

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        event_types.StudyCreated,
        event_types.SearchStarted,
        event_types.PlanMade,
        event_types.IdsDrawn,
        event_types.IdProposed,
        event_types.SpaceExhausted,
        event_types.JobStarted,
        event_types.JobEnded,
        event_types.SlotQuarantined,
        event_types.SlotReleased,
        event_types.CheckpointsRemoved,
        event_types.SearchEnded,
        StartsMayWait,
        JobBegan,
    )
}


def row_of(event: Entry) -> Row:
    """Return an event as text.

    Raises:
        TypeError: a field is nothing that JSON knows.
    """
    return type(event).__name__, json.dumps(_body(event), separators=(",", ":"))


def events_of(rows: Sequence[Row]) -> list[Entry]:
    """Return the events that these rows tell of.

    Raises:
        KeyError, TypeError, ValueError: one of them cannot be read; `unreadable` says which.
    """
    # one text for many rows: three times as fast as a call for each
    bodies = json.loads(f"[{','.join([body for _, body in rows])}]")
    return [_event(kind, body) for (kind, _), body in zip(rows, bodies, strict=True)]


def unreadable(rows: Sequence[Row], first: int) -> str:
    """Return words on the first of some rows, numbered from `first` on, that cannot be read."""
    for seq, (kind, body) in enumerate(rows, first):
        try:
            _event(kind, json.loads(body))
        except (KeyError, TypeError, ValueError) as err:
            return f"event {seq} ({kind}: {err})"
    return "no events at all"


def checksum(rows: Iterable[Row], before: int) -> int:
    """Return the CRC-32 over all rows so far, given that over those before."""
    text = "".join([f"{kind} {body}\n" for kind, body in rows])
    return zlib.crc32(text.encode("utf-8", "surrogatepass"), before)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Make many objects that all stay: looking for garbage among them again and again finds none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _body(event: Entry) -> dict[str, object]:
    body: dict[str, object] = {}
    for field in fields(event):
        value = getattr(event, field.name)
        # most events leave out most of what may be said: a third of the journal's size
        if field.default is not MISSING and value == field.default:
            continue
        if isinstance(value, Plan):
            value = _plan_body(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        body[field.name] = value
    return body


def _plan_body(plan: Plan) -> dict[str, object]:
    body: dict[str, object] = {
        "brackets": [[[rung.n, rung.epochs] for rung in bracket.rungs] for bracket in plan.brackets],
        "max_epochs": plan.max_epochs,
    }
    if plan.promotion is not Promotion.SYNCHRONOUS:
        body["promotion"] = plan.promotion
    if plan.eta:
        body["eta"] = plan.eta
    if plan.max_total_epochs is not None:
        body["max_total_epochs"] = plan.max_total_epochs
    return body


def _plan(body: dict[str, Any]) -> Plan:
    brackets = tuple(Bracket(tuple(Rung(n, epochs) for n, epochs in rungs)) for rungs in body["brackets"])
    return Plan(
        brackets,
        body["max_epochs"],
        Promotion(body.get("promotion", Promotion.SYNCHRONOUS)),
        body.get("eta", 0),
        body.get("max_total_epochs"),
    )


def _event(kind: str, body: dict[str, Any]) -> Entry:
    found = _KINDS[kind]
    match found:
        case event_types.JobStarted:
            if "gpu_uuids" in body:
                body["gpu_uuids"] = tuple(body["gpu_uuids"])
        case event_types.PlanMade:
            body["plan"] = _plan(body["plan"])
        case event_types.JobEnded:
            body["outcome"] = Outcome(body["outcome"])
        case event_types.CheckpointsRemoved:
            body["trials"] = tuple(body["trials"])
        case event_types.IdsDrawn:
            body["ids"] = tuple(body["ids"])
        case event_types.IdProposed:
            body["source"] = event_types.IdSource(body["source"])
        case event_types.StudyCreated:
            body["script_args"] = tuple(body["script_args"])
            body["start_with_ids"] = tuple(body["start_with_ids"])
    event: Entry = found(**body)
    return event
