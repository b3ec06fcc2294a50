# Every path is relative to this folder, whose own name may hold spaces.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help venv install train study systems explore annotate docs test lint clean

VENV := .venv
PY := $(VENV)/bin/python
FITS := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
FOUND := import sys; from importlib.util import find_spec as f; \
    print(sys.version.split()[0], "" if f("venv") and f("ensurepip") else "without venv or ensurepip")
CHECK := $(PY) -c 'from cyborg.commands import check_command; check_command()'
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo 'make train     install what is missing, write the demo set, train classical and CYBORG on it'
	@echo 'make study     install what is missing, run a small study (18 runs) on the demo set, write its report'
	@echo 'make systems   run every system once on the demo set (about 20 minutes), write the report'
	@echo 'make explore   look at maps, images and runs in the browser, of all studies in runs/'
	@echo 'make annotate  collect human maps in the browser, on the demo set'
	@echo 'make docs      build the pages to read: _docs/index.html, from the notebooks with their outputs'
	@echo 'make test      install what is missing, run all tests, every notebook among them'
	@echo 'make lint      check notebooks, tests and scripts with ruff'
	@echo 'make venv      make $(VENV), or renew it when settings.ini or setup.py has changed'
	@echo 'make clean     remove caches and build leftovers; $(VENV), data/ and runs/ stay'
	@echo
	@echo 'Python 3.10, 3.11 or 3.12 is looked for; make PYTHON=/path/to/python3.12 ... names one.'

# The stamp says where and from what the environment was made. A copied one would go on importing the
# code of the folder it was copied from, so that is made anew.
venv:
	@if [ -f $(VENV)/stamp ] && [ "$$(head -n 1 $(VENV)/stamp)" != "$$(pwd -P)" ]; then \
	    echo '$(VENV) was made in another folder: making it anew'; rm -rf $(VENV); \
	fi
	@[ -x $(PY) ] || $(MAKE) --no-print-directory $(PY)
	@stamp="$$(pwd -P; cat settings.ini setup.py | cksum)"; \
	if [ "$$stamp" != "$$(cat $(VENV)/stamp 2>/dev/null)" ]; then \
	    $(MAKE) --no-print-directory install && echo "$$stamp" > $(VENV)/stamp; \
	fi
	@grep -qs cyborg.commands $(VENV)/bin/papermill || { \
	    echo 'repairing the papermill command of $(VENV), which is not the project'"'"'s'; \
	    $(PY) -m pip install --quiet --force-reinstall --no-deps -e . && $(CHECK); }

$(PY):
	@for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.10); do \
	    if $$python -c '$(FITS)' 2>/dev/null; then \
	        echo "making $(VENV) with $$python, $$($$python --version)"; \
	        exec $$python -m venv $(VENV); \
	    fi; \
	done; \
	echo 'cyborg needs Python 3.10, 3.11 or 3.12 with its venv module. None of these is one:' >&2; \
	for python in $(or $(PYTHON),python3 python3.12 python3.11 python3.10); do \
	    echo "  $$python: $$($$python -c '$(FOUND)' 2>&1 | head -n 1)" >&2; \
	done; \
	echo 'Debian and Ubuntu: apt-get install python3-venv. Or: make PYTHON=/path/to/python3.12' >&2; \
	exit 1

install:
	@echo 'installing cyborg and what it needs; the log is $(VENV)/install.log'
	@$(PY) -m pip install --quiet --upgrade pip
	@set -o pipefail; \
	$(PY) -m pip install --progress-bar off -e '.[dev,docs,faces,figures,page,weights]' 2>&1 | tee $(VENV)/install.log \
	    | $(PY) -c "$$PROGRESS" || { tail -n 20 $(VENV)/install.log >&2; exit 1; }

# pip on one line: at a terminal it is rewritten, elsewhere only what matters is kept.
define PROGRESS
import sys, time
start, files, tty = time.monotonic(), 0, sys.stdout.isatty()
for line in map(str.strip, sys.stdin):
    files += line.startswith(("Downloading ", "Using cached ", "Processing "))
    unpacking = line.startswith("Installing collected packages")
    if unpacking:
        line = f"unpacking {line.count(',') + 1} packages, which takes a few minutes when torch is among them"
    if line.startswith("WARNING") or not (tty or unpacking):
        continue
    text = f"[{time.monotonic() - start:4.0f} s, {files} files] {line}"[:110]
    print(f"\r\x1b[K{text}" if tty else text, end="" if tty else "\n", flush=True)
print("\r\x1b[K" * tty + f"[{time.monotonic() - start:4.0f} s, {files} files] pip has finished")
endef
export PROGRESS

RUN := $(VENV)/bin/papermill nbs/train.ipynb -r runs "$(CURDIR)/runs"

train: venv
	@$(PY) -c 'from cyborg.demo import make_demo; make_demo()'
	@mkdir -p runs/demo-classical runs/demo-cyborg
	@echo 'classical training: cross-entropy alone'
	@$(RUN) runs/demo-classical/report.ipynb -p name demo-classical -p alpha 1.0
	@echo 'CYBORG: cross-entropy and human maps, same seed'
	@$(RUN) runs/demo-cyborg/report.ipynb -p name demo-cyborg -p alpha 0.5
	@echo; echo 'AUC by generator, and agreement with the human maps'
	@$(VENV)/bin/cyborg-compare runs/demo-classical runs/demo-cyborg
	@echo; echo 'run folders:         runs/demo-classical  runs/demo-cyborg'
	@echo 'executed notebooks:  report.ipynb in each; open with $(VENV)/bin/jupyter lab runs'

# Two runs at a time on two cores: a library that spins on more threads than cores is ten times slower.
systems: export CYBORG_RUNS := $(CURDIR)/runs
systems: venv
	@$(PY) experiments/systems/prepare.py
	@OMP_NUM_THREADS=1 $(VENV)/bin/cyborg-study nbs/studies/systems.yaml
	@echo; echo 'the report'
	@$(VENV)/bin/papermill nbs/report.ipynb runs/systems/report.ipynb -p folder "$(CURDIR)/runs/systems" -q
	@echo 'report:    runs/systems/report/report.html, with figures/ and tables/ beside it'

study: export CYBORG_RUNS := $(CURDIR)/runs
study: export OMP_NUM_THREADS := 1
study: venv
	@$(VENV)/bin/cyborg-study nbs/studies/quick.yaml
	@echo; echo 'the report, seconds'
	@$(VENV)/bin/papermill nbs/report.ipynb runs/quick/report.ipynb -q
	@echo 'report:    runs/quick/report/report.html, with figures/ and tables/ beside it'
	@echo 'notebook:  runs/quick/report.ipynb; open with $(VENV)/bin/jupyter lab runs'

explore: venv
	@compgen -G 'runs/*/*/predictions.parquet' > /dev/null \
	    || compgen -G 'runs/*/predictions.parquet' > /dev/null || $(MAKE) --no-print-directory train
	@$(VENV)/bin/cyborg explore "$(CURDIR)/runs"

annotate: venv
	@$(VENV)/bin/cyborg-annotate --demo

docs: venv
	@$(PY) nbs/docs/make.py

test: venv
	@$(PY) -m pytest tests -n logical --maxprocesses 8 --dist worksteal

lint: venv
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache _proc
	find nbs tests cyborg experiments benchmarks -depth \
	    \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +
