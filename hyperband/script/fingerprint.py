"""What failures of one kind have in common: a text without what varies from job to job.

Owns the rules of what varies: numbers, addresses, paths, temporary names, config ids. Pure.
"""

import re

from hyperband.script.contract import printable

#: longer texts lose their end
MAX_FINGERPRINT_LENGTH = 120
#: what is looked at of a text at most
_LONGEST_TEXT = 2000
#: what a config id is replaced by; shorter ones are too likely to stand for something else
_CONFIG_ID = "CONFIG_ID"
_SHORTEST_CONFIG_ID = 4
#: replacing makes a text settle at once, almost always
_N_PASSES = 8

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_NAME = r"""[^\s'":;,()\[\]<>{}/]+"""
_TEMPORARY = r"tmp[a-z0-9_]{8}"
_DIGEST = r"(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{10,}"
_VARIES = re.compile(
    rf"""
    (?P<status>\bexit\ code\ \d+|\bended\ by\ signal\ \d+|\(signal\ \d+\))
  | (?P<uuid>\b{_UUID}\b)
  | (?P<url>\b[a-z]+://[^\s'"<>]+)
  | (?P<path>(?<![\w.~/)\]])(?:~|\.{{0,2}})/(?:{_NAME}/)*(?:(?P<file>{_NAME})|(?<=[^\s.~/]/)))
  | (?P<address>\b0[xX][0-9a-fA-F]+\b)
  | (?P<temporary>\b{_TEMPORARY}\b)
  | (?P<digest>\b{_DIGEST}\b)
  | (?P<quoted>(?P<quote>['"])[^\W\d][\w.]{{0,60}}(?P=quote))
  | (?P<word>[^\W\d]\w*)
  | (?P<number>(?:(?<![\w)\]])[-+])?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?)
    """,
    re.VERBOSE,
)
_NO_NAME = re.compile(f"{_TEMPORARY}|{_DIGEST}")
_DIGITS = re.compile(r"\d+")
#: more than the digits of `float32` or `resnet152`: `img_00017`
_MANY_DIGITS = re.compile(r"\d{4,}")
_N_TIMES = re.compile(r"\bN(?:x\d+)+")
_MANY = re.compile(r"\bN(?:, N){4,}")


def fingerprint(text: str, config_id: str = "") -> str:
    """One printable line of at most 120 characters, the same for failures of one kind.

    Numbers become N (but for exit codes and signals), addresses ADDRESS, a path its last part, temporary
    names TMP, digests and UUIDs HEX, the job's config id CONFIG_ID. Names keep up to three digits (`conv1`),
    quoted names all (`'layer.3.bn'`).
    """
    line = " ".join(text[:_LONGEST_TEXT].split())
    if len(config_id) >= _SHORTEST_CONFIG_ID:
        line = line.replace(repr(config_id)[1:-1], _CONFIG_ID).replace(config_id, _CONFIG_ID)
    line = " ".join(printable(line).split())
    for _ in range(_N_PASSES):
        settled = _cut(_MANY.sub("N, ...", _N_TIMES.sub(_n_times, _VARIES.sub(_common, line))))
        if settled == line:
            break
        line = settled
    return line


def _common(found: re.Match[str]) -> str:
    match found.lastgroup:
        case "uuid" | "digest":
            return "HEX"
        case "url":
            return "URL"
        case "path":
            return f".../{_DIGITS.sub('N', found['file'])}" if found["file"] else ".../"
        case "address":
            return "ADDRESS"
        case "temporary":
            return "TMP"
        case "quoted" if _NO_NAME.fullmatch(found[0][1:-1]):
            return f"{found['quote']}TMP{found['quote']}"
        case "number":
            return "N"
        case "word":
            return _MANY_DIGITS.sub("N", found[0])
        case _:
            return found[0]


def _n_times(found: re.Match[str]) -> str:
    return _DIGITS.sub("N", found[0])


def _cut(line: str) -> str:
    if len(line) <= MAX_FINGERPRINT_LENGTH:
        return line
    return line[: MAX_FINGERPRINT_LENGTH - 1].rstrip() + "…"
