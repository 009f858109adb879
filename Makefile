# make demo     a virtual environment in .venv, the package in it, and a search over dummy.py
# make digits   the same with a real training script: examples/digits.py
# make test     the test extras into .venv, then the whole suite
# make lint     ruff: rules and format
# make types    mypy --strict
# make lowest   the suite with the oldest version of everything that setup.cfg allows, in .venv-lowest
#
# PYTHON is the interpreter that makes .venv (3.11 or newer, with venv; on Debian: apt install python3-venv).

PYTHON ?= python3
PYTEST_ARGS ?= -n 3
IN_VENV := .venv/bin/python

.PHONY: demo digits test lint types lowest clean
.DELETE_ON_ERROR:

demo: .venv/package.stamp
	$(IN_VENV) hyperband.py dummy.py

digits: .venv/examples.stamp
	$(IN_VENV) hyperband.py examples/digits.py --slots 2

test: .venv/test.stamp
	$(IN_VENV) -m pytest $(PYTEST_ARGS)

lint: .venv/test.stamp
	$(IN_VENV) -m ruff check .
	$(IN_VENV) -m ruff format --check .

# hyperband.py apart, and without what it imports: the package has its name, and mypy takes one for the other.
types: .venv/test.stamp
	$(IN_VENV) -m mypy hyperband tests
	$(IN_VENV) -m mypy --follow-imports=silent hyperband.py
	$(IN_VENV) -m mypy dummy.py examples benchmarks

lowest:
	@"$(PYTHON)" -m venv --clear .venv-lowest
	sed -n 's/^ *\([A-Za-z-]*\)>=\([0-9.]*\),<.*/\1==\2/p' setup.cfg >.venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt --editable '.[test]'
	.venv-lowest/bin/python -m pytest $(PYTEST_ARGS)

clean:
	rm -rf .venv .venv-lowest build hyperband.egg-info

# The stamps make a second run quick: pip is called again only when what it would install has changed.
.venv/python.stamp:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is not Python 3.11 or newer; name one that is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || \
	  { echo "make: $(PYTHON) could not make .venv; on Debian: apt install python3-venv" >&2; exit 1; }
	@touch $@

.venv/package.stamp: .venv/python.stamp setup.cfg pyproject.toml
	$(IN_VENV) -m pip install --quiet --editable .
	@touch $@

.venv/examples.stamp: .venv/package.stamp
	$(IN_VENV) -m pip install --quiet --editable '.[examples]'
	@touch $@

.venv/test.stamp: .venv/package.stamp
	$(IN_VENV) -m pip install --quiet --editable '.[examples,test]'
	@touch $@
