"""`python -m hyperband`: the same as `python hyperband.py` and the installed `hyperband`."""

import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports below ends without a traceback

from hyperband.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
