# Both targets set up everything they need in .venv, on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: test slow demo lint setup clean

test: setup lint
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not slow"

slow: setup
	$(RUN) -m pytest -q -m slow

demo: setup
	$(RUN) -m jaxseg demo --out demo

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q --upgrade pip
	$(RUN) -m pip install -q -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
