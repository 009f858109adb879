"""`python -m hyperband`: the same as `python hyperband.py` and the installed `hyperband`."""

import sys

from hyperband.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
