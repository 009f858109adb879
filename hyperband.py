"""Search hyperparameters: python hyperband.py my_script.py (see README.md)."""

import sys

from hyperband.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
