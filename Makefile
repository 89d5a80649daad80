# `make quickstart` and `make test` do everything on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: quickstart test check benchmark clean

quickstart: .venv/ready
	.venv/bin/crosscope quickstart quickstart --overwrite

test: .venv/ready check
	$(PY) -m pytest -n auto --dist worksteal

check: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

benchmark: .venv/ready
	$(PY) benchmarks/quickstart.py
	$(PY) benchmarks/registration.py
	$(PY) benchmarks/real_registration.py
	$(PY) benchmarks/engines.py
	$(PY) benchmarks/paper_widths.py
	$(PY) benchmarks/evaluation.py
	$(PY) benchmarks/measures.py
	$(PY) benchmarks/systems.py systems
	$(PY) benchmarks/systems_page.py --pictures
	$(PY) benchmarks/peers.py peers
	$(PY) benchmarks/scale.py scale
	$(PY) benchmarks/training.py
	$(PY) benchmarks/performance_page.py
	$(PY) benchmarks/quality/domain.py
	$(PY) benchmarks/quality/injections.py
	$(PY) benchmarks/quality/domain_real.py
	$(PY) benchmarks/quality/quantities.py
	$(PY) benchmarks/quality/intervals.py
	$(PY) benchmarks/quality/cost.py
	$(PY) benchmarks/quality/seeds.py seeds
	$(PY) benchmarks/quality/trust_page.py
	$(PY) benchmarks/real_starts.py real_starts

# torch goes first and alone: the pinned version is the one whose CPU build is small.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --constraint constraints.txt torch
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[cluster,nd2,openvino,tensorboard,dev]'
	touch $@

clean:
	rm -rf .venv quickstart systems peers scale seeds real_starts
	rm -rf $(foreach name,beads nuclei tirf widefield real_microtubules real_storm,$(name)-*/)
