# make lab    set everything up (once), say what machine this is, compare three engines, open JupyterLab
# make test   every notebook and every test, browser included
# make bench  the benchmarks, one table each
# make docs   the documentation in _docs/ and README.md, from the notebooks
# make clean  remove what was built; make distclean removes the environment too
#
# ARGS goes to the command behind the target: make lab ARGS=--no-browser, make test ARGS="-k hardware".
# JOBS is how many tests run at once: make test JOBS=1 needs half of the memory.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
JOBS   ?= 2
BIN    := $(VENV)/bin
SETUP  := VENV=$(abspath $(VENV)) $(PYTHON) -I edgewb/_setup.py
export PLOTLY_RENDERER = plotly_mimetype
export EDGEWB_CHROMIUM

.PHONY: lab test bench docs clean distclean

lab:
	@$(SETUP) lab
	@$(BIN)/edgewb lab --compare $(ARGS)

test:
	@$(SETUP) test
	@$(BIN)/python -m pytest -n $(JOBS) --no-loadscope-reorder $(ARGS)

bench:
	@$(SETUP) dev
	@$(BIN)/python benchmarks/run.py $(ARGS)

docs:
	@$(SETUP) dev
	@$(BIN)/python -m edgewb.docs $(ARGS)

clean:
	rm -rf _docs _proc build dist edgewb.egg-info .pytest_cache nbs/nbdev.yml
	find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -print | xargs rm -rf

distclean: clean
	rm -rf $(VENV)
