"""A study for programs: JSON text and CSV. Owns their spelling; what they hold is the document's business."""

import csv
import io
import json
from collections.abc import Mapping

from hyperband.errors import InternalError
from hyperband.report.document import JOB_COLUMNS


def json_text(document: Mapping[str, object], *, is_for_people: bool = False) -> str:
    """One JSON object: ASCII, never NaN; on one line, or indented for people.

    Raises:
        InternalError: a number in it is not finite.
    """
    try:
        # Without an indent the encoder in C is used: 100,000 jobs in a fraction of a second.
        return json.dumps(document, allow_nan=False, indent=2 if is_for_people else None) + "\n"
    except ValueError as err:
        raise InternalError(
            f"A number of the report is not finite ({err}), which JSON cannot hold; expected losses to be"
            " checked before they are journalled. Please report it with the study's journal."
        ) from err


def jobs_csv(document: Mapping[str, object]) -> str:
    """The jobs, one a line after a line of column names; null is an empty field."""
    jobs = document["jobs"]
    assert isinstance(jobs, list)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=JOB_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(jobs)
    return out.getvalue()
