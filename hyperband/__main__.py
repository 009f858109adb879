"""`python -m hyperband`: the same as `python hyperband.py` and the installed `hyperband`."""

import signal
import sys

if sys.version_info < (3, 11):  # noqa: UP036 (this file may be read by an older one)
    sys.exit(
        f"hyperband: this is Python {sys.version.split()[0]}, but 3.11 or newer is needed to run the search; "
        "the script itself may have an older one: --python PATH"
    )
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback

from hyperband.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
