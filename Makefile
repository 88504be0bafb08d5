# Each target does all of its own set-up: a virtual environment, the pinned packages, the data.
# Nothing but make and Python 3.11 or newer (with its venv module) need be there before; of several
# the newest is taken, and the oldest for the oldest packages.

PYTHONS := $(shell for p in python3.14 python3.13 python3.12 python3.11 python3; do \
    command -v $$p >/dev/null && $$p -c 'import ensurepip, sys, venv; v = sys.version_info; \
    v < (3, 11) or print(v[1], "'$$p'")' 2>/dev/null; done | sort -n | cut -d " " -f 2)
PYTHON ?= $(lastword $(PYTHONS))
OLDEST_PYTHON ?= $(or $(firstword $(PYTHONS)),$(PYTHON))
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo

# A test that hangs inside XLA ends its process; worksteal then starts another one in its place.
PYTEST := python -m pytest -n 2 --dist worksteal --timeout 600 --timeout-method thread --durations 25
RUFF = $(BIN)/ruff check . && $(BIN)/ruff format --check .
# To compile all of the packages' modules takes a minute; Python compiles the fifth that is imported.
PIP := -m pip install --quiet --disable-pip-version-check --no-compile
OLDEST := .venv-oldest
# Tests start dozens of processes, each of which would compile the packages' modules again.
unexport PYTHONDONTWRITEBYTECODE
NO_PYTHON = Python 3.11 or newer is needed: put it on PATH, or run 'make $(MAKECMDGOALS) PYTHON=/path/to/python3'

.PHONY: demo environments test test-oldest lint benchmark results docs package clean

demo: $(VENV)/installed-experiments  ## train LeNet300, compress it to 2 %, print the paper's table beside ours
	$(BIN)/python -m experiments.lc_lenet300 --preset quick --methods reference l0 l0_l2 --seeds 0 --output $(RUN) --resume

environments: $(VENV)/installed-lint $(OLDEST)/installed-test  ## what test and test-oldest need; --jobs 2 makes both at once

test: $(VENV)/installed-lint $(VENV)/installed-torch  ## lint, type-check (beside the tests) and test
	$(RUFF)
	$(BIN)/mypy & types=$$!; $(BIN)/$(PYTEST); tests=$$?; wait $$types && exit $$tests

test-oldest: $(OLDEST)/installed-test  ## the library's tests, but for long ones, under the oldest packages that pyproject.toml allows
	$(OLDEST)/bin/$(PYTEST) -m 'not long' $(addprefix tests/,projections transforms gates constraints training deploy test_versions.py)

lint: $(VENV)/installed-lint
	$(RUFF)
	$(BIN)/mypy

benchmark: $(VENV)/installed-benchmarks  ## speed ratios (against PyTorch too, where it is installed; JAXPRUNER=a checkout of it)
	$(BIN)/python -m benchmarks.lenet300
	$(BIN)/python -m benchmarks.gated_mlp
	$(BIN)/python -m benchmarks.lenet5
	$(BIN)/python -m benchmarks.tickets
	$(BIN)/python -m benchmarks.shrink
	$(BIN)/python -m benchmarks.structured
	$(BIN)/python -m benchmarks.projection
	$(BIN)/python -m benchmarks.c_steps
	$(BIN)/python -m benchmarks.l_steps
	$(BIN)/python -m benchmarks.transforms $(if $(JAXPRUNER),--jaxpruner $(JAXPRUNER))

results: $(VENV)/installed-benchmarks  ## all that results/ and the README state, made again (rows of JaxPruner: JAXPRUNER=a checkout of it)
	$(BIN)/python -m experiments.lc_lenet300 --preset quick --output runs/lc_lenet300 --results results/lc_lenet300 --resume
	$(BIN)/python -m experiments.lc_lenet300 --preset quick --validation-fold 1 --seeds 3 4 5 6 7 --output runs/lc_lenet300_repeat --results results/lc_lenet300/repeat --resume
	$(BIN)/python -m experiments.lc_toolkit --final --output runs/lc_toolkit --results results/lc_toolkit --resume
	$(BIN)/python -m experiments.compare $(if $(JAXPRUNER),--jaxpruner $(JAXPRUNER)) --output runs/compare --results results/compare --resume
	$(BIN)/python -m experiments.compare $(if $(JAXPRUNER),--jaxpruner $(JAXPRUNER)) --add --time-only --network lenet300_mnist --timing-rounds 7 --output runs/compare --results results/compare --resume
	$(if $(JAXPRUNER),$(BIN)/python -m experiments.compare --jaxpruner $(JAXPRUNER) --network lenet300_mnist --methods rigl rigl_jaxpruner --kept-percent 2 --seeds 0 1 2 3 4 5 6 7 8 9 --timing-rounds 0 --output runs/compare --results results/compare/rigl --resume)
	$(BIN)/python -m experiments.compare --network lenet5_fashion_mnist --methods rigl set static magnitude --kept-percent 1 --seeds 0 --timing-rounds 0 --output runs/compare --results results/compare/layers --resume
	$(BIN)/python -m experiments.tickets --model resnet20 --epochs 10 --seeds 0 --method imp --pruning-rounds 0 --output runs/tickets_dense --results runs/tickets_dense/results --resume
	$(BIN)/python -m experiments.oneshot --row all --final --mixed-precision --images runs/lc_lenet300/reference/seed_0 runs/compare/lenet5_fashion_mnist/dense/kept_100/seed_0 runs/tickets_dense/resnet20_cifar10/imp --trained results/compare --output runs/oneshot --results results/oneshot --resume
	$(BIN)/python -m experiments.constrained_l0 --preset paper --row mlp_33 mlp_layerwise_30 mlp_penalized lenet5_10 controllability mlp_33_restarts mlp_33_ascent bisection --output runs/constrained_l0 --results results/constrained_l0 --resume
	$(BIN)/python -m experiments.constrained_l0 --preset paper --row lenet5_10 --seeds 0 --whole-training-set --output runs/constrained_l0_all_images --results results/constrained_l0/all_images --resume
	$(BIN)/python -m experiments.constrained_l0 --preset paper --row lenet5_10 --seeds 0 --whole-training-set --anneal-fraction 0.8 --output runs/constrained_l0_80 --results results/constrained_l0/anneal_80 --resume
	$(BIN)/python -m experiments.constrained_l0 --preset paper --row lenet5_10 --seeds 0 --whole-training-set --anneal-fraction 0.9 --output runs/constrained_l0_90 --results results/constrained_l0/anneal_90 --resume
	$(BIN)/python -m experiments.gated_decay --preset paper --output runs/gated_decay --results results/gated_decay --resume
	$(BIN)/python -m experiments.gated_decay --preset paper --dataset mnist --dense-kappa 1724 1077 --finetune-distillation 0.7 --output runs/gated_decay_dense --results results/gated_decay/from_dense --resume
	$(BIN)/python -m experiments.tickets --preset paper --method cs imp one_shot random l0 --output runs/tickets --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method cs --initial -1.2 -0.8 -0.5 --rounds 2 --output runs/tickets_low --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method cs --initial -0.01 0.01 0.03 --rounds 1 --output runs/tickets_zero --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method cs --initial -0.3 --penalty 3e-5 1e-4 3e-4 --rounds 1 --output runs/tickets_penalty --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method cs --variant published --output runs/tickets_published --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method imp_continued --pruning-rounds 11 --output runs/tickets --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method l0 --l0-penalties 3e-4 --output runs/tickets_l0 --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --dataset fashion_mnist --preset paper --method cs imp --output runs/tickets --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --dataset fashion_mnist --preset paper --method cs --initial -0.8 -0.5 --rounds 2 --output runs/tickets_low --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --dataset fashion_mnist --preset paper --method cs --initial -0.3 --penalty 1e-4 3e-4 --rounds 1 --output runs/tickets_penalty --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --dataset fashion_mnist --preset paper --method cs --variant published --rounds 3 --output runs/tickets_published --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --preset paper --method imp --fraction 0.5 --pruning-rounds 4 --learning-rate 0.41 --weight-decay 2.4e-5 --output runs/tickets_rate --results results/tickets/rate --resume
	$(BIN)/python -m experiments.tickets --model lenet5 --dataset fashion_mnist --preset quick --pruning-rounds 22 --method cs imp --output runs/tickets --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --model lenet5 --preset quick --pruning-rounds 19 --method cs imp --rounds 1 --output runs/tickets --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --model lenet5 --preset quick --method cs --initial -0.02 -0.01 --rounds 2 --output runs/tickets_zero --results results/tickets --resume
	$(BIN)/python -m experiments.tickets --model resnet20 --epochs 10 --rounds 1 --pruning-rounds 4 --fraction 0.6 --seeds 0 --initial=-0.02 --method cs imp --output runs/tickets --results results/tickets/short --resume
	$(BIN)/python -m experiments.tickets --model resnet20 --epochs 10 --rounds 1 --seeds 0 --initial=-0.12 --method cs --output runs/tickets_low --results results/tickets/short --resume
	$(BIN)/python -m experiments.tickets --model resnet20 --epochs 10 --rounds 1 --seeds 0 --initial=-0.04 --method cs --output runs/tickets_middle --results results/tickets/short --resume
	$(BIN)/python -m experiments.deploy runs/lc_lenet300/l0/seed_0 runs/gated_decay/mnist/seed_0 runs/gated_decay/fashion_mnist/seed_0 --output runs/deploy --results results/deploy
	$(BIN)/python -m benchmarks.shrink --output results/benchmarks/shrink.json
	$(BIN)/python -m benchmarks.structured --output results/benchmarks/structured.json
	$(BIN)/python -m benchmarks.gated_mlp --output results/benchmarks/gated_mlp.json
	$(BIN)/python -m benchmarks.lenet5 --output results/benchmarks/lenet5.json
	$(BIN)/python -m benchmarks.tickets --output results/benchmarks/tickets.json
	$(BIN)/python -m benchmarks.lenet300 --output results/benchmarks/lenet300.json
	$(BIN)/python -m benchmarks.projection --output results/benchmarks
	$(BIN)/python -m benchmarks.c_steps --output results/benchmarks/c_steps.json
	$(BIN)/python -m benchmarks.l_steps --output results/benchmarks/l_steps.json
	$(BIN)/python -m benchmarks.transforms $(if $(JAXPRUNER),--jaxpruner $(JAXPRUNER)) --output results/benchmarks/transforms.json
	$(BIN)/python -m experiments.guide_figures
	$(BIN)/python -m benchmarks.collectives --output results/benchmarks/collectives.json
	$(BIN)/python -m experiments.vgg16_step --output results/vgg16_step/report.json
	$(BIN)/python -m experiments.common.readme

docs: $(VENV)/installed-docs  ## the site, in docs/site; a warning, a broken link or an undocumented public name is an error
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/site

package:  ## the wheel, in an empty environment: all modules are imported, and the README's example runs
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	rm -rf build
	$(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build .
	build/venv/bin/python $(PIP) --constraint constraints.txt build/*.whl
	cd build && JAX_PLATFORMS=cpu venv/bin/python -I ../tests/check_installed.py

# One stamp for each extra, remade when the requirements change.
$(VENV)/installed-%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[$*]'
	@touch $@

$(OLDEST)/installed-test: pyproject.toml constraints-oldest.txt
	@test -n "$(OLDEST_PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	test -x $(OLDEST)/bin/python || $(OLDEST_PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(PIP) --constraint constraints-oldest.txt --editable '.[test]'
	@touch $@

# Few tests need PyTorch. Its CPU build is not in every package index, and no other build will do.
$(VENV)/installed-torch: $(VENV)/installed-lint
	@$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[torch]' \
	    && touch $@ || echo "pip found no CPU build of PyTorch: the tests that need it are skipped"

clean:
	rm -rf $(VENV) $(OLDEST) build runs docs/project docs/reference docs/results docs/site .mypy_cache .pytest_cache .ruff_cache
