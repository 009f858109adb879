"""Search hyperparameters: python hyperband.py my_script.py (see README.md)."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback

if sys.version_info < (3, 11):  # noqa: UP036 (this file alone is read by an older one too)
    sys.exit(
        f"hyperband: this is Python {sys.version.split()[0]}, but 3.11 or newer is needed to run the search; "
        "the script itself may have an older one: --python PATH"
    )

from hyperband.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
