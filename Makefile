# The commands of this project.  Extra arguments go through ARGS:  make test ARGS="-k socks -x"

.PHONY: run test lab chaos bench lint style types floors format clean
.DELETE_ON_ERROR:
ARGS =
VENV = .venv
# Files that say "installed", older than pyproject.toml when its dependencies may have changed.
READY = $(VENV)/ready
READY_DEV = $(VENV)/ready-dev

run: $(READY)  ## set up, then start the gateway:  make run ARGS="-c config.yaml"
	@exec $(VENV)/bin/cyfs-gateway run $(ARGS)

test: $(READY_DEV)  ## set up what the tests need, then run them all; as root with the lab
	@tools/install-packages test
	@tools/install-chain
	@tools/run-tests tests $(ARGS)

lab: $(READY_DEV)  ## the network-namespace scenarios alone (root)
	@tools/install-packages test
	@tools/run-tests lab $(ARGS)

chaos: $(READY_DEV)  ## bad days of a zone for half an hour (root):  make chaos ARGS="--seed 7 --minutes 60"
	@tools/install-packages test
	@tools/run-tests chaos $(ARGS)

bench: $(READY_DEV)  ## race the rivals, print ratios:  make bench ARGS="--quick"
	@tools/install-packages bench
	@$(VENV)/bin/python bench/run.py $(ARGS)

lint: style types floors  ## what must be clean before a change goes in

style: $(READY_DEV)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(READY_DEV)
	$(VENV)/bin/mypy

floors: $(READY_DEV)
	$(VENV)/bin/lint-imports

format: $(READY_DEV)  ## let ruff write what it can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:  ## forget everything that was made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf bench/bin netns-lab/failures .chain
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@tools/make-venv

$(READY_DEV): pyproject.toml
	@tools/make-venv dev
