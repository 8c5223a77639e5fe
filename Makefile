# Two commands do everything on a fresh machine with python3 and make:  make run  and  make test
VENV ?= .venv
PYTHON = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

.PHONY: install run test test-all lint docs bench gpu clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check 'pip>=25.1'  # knows dependency groups
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev --group docs
	touch $(INSTALLED)

# The main job: nce+ on 1D dataset 1, one seed.
run: install
	$(PYTHON) -m ebmbench task=1d method=nce+

# The fast tests, on all cores; each process computes on one.
TESTS = not slow
PROCESSES = auto
test: install
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(PROCESSES) --dist loadfile -m "$(TESTS)"

# Everything, the long ones too: SLURM, a browser, long trainings, the short soak.
test-all:
	$(MAKE) test TESTS=

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# The documents as a site, in build/site.
docs: install
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench: install
	$(PYTHON) -m benchmarks

# Everything that needs a GPU, in about half an hour; without one it says what it would do.
gpu: install
	$(PYTHON) -m benchmarks gpu

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
