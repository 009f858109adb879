"""`hyperband check SCRIPT`: what the script keeps of its contract, and what to do about the rest."""

import sys

from hyperband.check.interrupts import CheckStoppedError
from hyperband.check.run import check_script
from hyperband.cli.options import CheckOptions
from hyperband.cli.output import is_terminal, print_out
from hyperband.report.export import json_text
from hyperband.report.screen import Console


def check(options: CheckOptions) -> int:
    """Check the script and print what was found; 0 if everything holds, else 1.

    Raises:
        HyperbandError: the check could not be made.
    """
    try:
        return _check(options)
    except CheckStoppedError:
        if sys.stderr is not None and sys.stderr.isatty():
            # the terminal shows ^C without an end of its line
            with Console(sys.stderr, live=False) as console:
                console.line()
        raise


def _check(options: CheckOptions) -> int:
    as_json = options.settings.json
    with Console(sys.stderr if as_json else sys.stdout, live=False) as console:
        report = check_script(options.settings, say=console.line)
        console.line(f"\n{report.summary()}")
        console.drain()
        if as_json:
            print_out(json_text(report.document(), is_for_people=is_terminal(sys.stdout)))
    return 0 if report.holds else 1
