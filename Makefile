# make demo   a talking video from a shipped picture, a shipped voice and the shipped weights
# make live   a page on which one talks with a drawn character
# make test   every test
PYTHON ?= python3
RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: env demo live test lint clean

# What streaming needs, and no more.
.venv/.base: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --no-compile --editable ".[jax]"
	touch $@

# Everything: training, the PyTorch engine, the tests.
env: .venv/.all

.venv/.all: requirements.txt .venv/.base
	$(PIP) -r requirements.txt
	touch $@

demo: .venv/.base
	mkdir -p out
	$(RUN) infer.py --image tm_jax/assets/shaded.png --audio tm_jax/assets/speech.wav \
	  --out out/demo.mp4 --frames-out out/demo.png
	$(RUN) -m tm_jax.evaluation.watch --video out/demo.mp4 --truth tm_jax/assets/speech.json

live: .venv/.live
	$(RUN) -m tm_jax.serve

.venv/.live: pyproject.toml .venv/.base
	$(PIP) --no-compile --editable ".[jax,live]"
	touch $@

test: env
	$(RUN) -m ruff check .
	$(RUN) -m pytest -n 2 --dist loadfile --durations 20 --durations-min 5

lint: env
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:
	rm -rf .venv out
