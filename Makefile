# Needs git, make, a Python with venv and pip, and the package index; everything else is fetched.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
BENCH := .venv/bench-installed
MATRIX := .venv/matrix-installed
COVERAGE := .venv/coverage-installed
MUTANTS := .venv/mutants-installed
# Handed to pytest, as in: make test ARGS="-k servers"
ARGS ?=
BROKERS ?= redis rabbitmq

.DEFAULT_GOAL := help
.PHONY: help venv hooks test test-all sweep chaos format lint types imports migrations-check docs messages package coverage mutants demo bench bench-growth bench-pages bench-peers clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

venv: $(STAMP) ## Create .venv with the package and all that its development needs

# The stamp is younger than pyproject.toml exactly when what that file asks for is installed.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv; this takes a minute or two."
# pip 25.1 is the first that knows --group.
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[redis,postgres,beat]" --group dev
	@touch $@

hooks: venv ## Have git check style before each commit, and types before each push
	$(BIN)/pre-commit install

test: venv ## Run the suite on SQLite and MariaDB, and beside them on PostgreSQL
	@$(BIN)/python -m tests.suites $(ARGS)

# Whole runs, or some by their names, as in: make test-all ARGS="py313 mariadb"; ARGS=--help tells more.
test-all: $(MATRIX) ## Run the suite on every Python, Django, database and broker; takes long
	@$(BIN)/python -m tests.matrix $(ARGS)

$(MATRIX): $(STAMP)
	@$(BIN)/python -m pip install --quiet --group matrix
	@touch $@

# Far from every death is part of the suite; see tests/sweep/test_crash_sweep.py.
sweep: venv ## Kill processes before and after every call, on SQLite and on PostgreSQL; takes long
	@status=0; \
	for database in sqlite postgres; do \
		echo "== The crash sweep on $$database"; \
		PM_TEST_DB=$$database PM_SWEEP=all $(BIN)/python -m pytest -s tests/sweep $(ARGS) || status=1; \
	done; \
	exit $$status

# The other broker also where one has failed: one run tells all. Options go in ARGS, as in:
# make chaos BROKERS=redis ARGS="--orders 500 --seconds 30 --seed 7"; ARGS=--help tells them.
chaos: venv ## Kill everything while 5,000 orders flow, once with Redis and once with RabbitMQ
	@status=0; \
	for broker in $(BROKERS); do \
		echo "== Chaos with $$broker"; \
		$(BIN)/python -m tests.chaos --broker $$broker $(ARGS) || status=1; \
	done; \
	exit $$status

format: venv ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: venv ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv ## Check the types of the package and of what its users write
	$(BIN)/mypy

imports: venv ## Check that imports run downwards only
	$(BIN)/lint-imports

migrations-check: venv ## Check that every model has its migration
	$(BIN)/python -m django makemigrations --check --dry-run --settings tests.settings pm_celery
	cd example_project && ../$(BIN)/python manage.py makemigrations --check --dry-run

docs: venv ## Build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx --fresh-env --write-all --fail-on-warning --keep-going --quiet --jobs auto docs build/docs

# Some of it, as in: make package ARGS="redis 3.13"
package: venv ## Install the wheel, each extra alone, into empty environments, and try it; takes minutes
	@$(BIN)/python -m tests.installed $(ARGS)

# Other tests, as in: make coverage ARGS="tests/test_time.py"
coverage: $(COVERAGE) ## Measure which lines and branches of package and tests the suite runs; takes long
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

$(COVERAGE): $(STAMP)
	@$(BIN)/python -m pip install --quiet --group coverage
	@touch $@

# Some of them, as in: make mutants ARGS="'pm_celery.batches.*'"; then .venv/bin/mutmut results, and show.
mutants: $(MUTANTS) ## Change each line of the heart and see a test fail; takes hours, and goes on where it was
	@$(BIN)/mutmut run --max-children 1 $(ARGS)

$(MUTANTS): $(STAMP)
	@$(BIN)/python -m pip install --quiet --group mutants
	@touch $@

messages: venv ## Collect what is marked for translation, and compile the catalogues; needs gettext
	cd pm_celery && ../$(BIN)/django-admin makemessages --all --no-obsolete --add-location file --no-wrap
	cd pm_celery && ../$(BIN)/django-admin compilemessages

demo: venv ## Take 200 orders through every outcome, with a real worker and a real Beat
	@cd example_project && ../$(BIN)/python demo.py

# Options go in ARGS, as in: make bench ARGS="backlog --rounds 5"; ARGS=--help tells them.
bench: $(BENCH) ## Measure beside tasks by hand, bare tasks and plain psycopg; needs ten quiet minutes
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-growth: $(BENCH) ## Measure with a million instances, a storm of timers, a hot key; takes minutes
	$(BIN)/python -m tests.benchmarks.growth $(ARGS)

bench-pages: venv ## Measure every page of the admin with two million instances; needs 6 GB, takes ten minutes
	$(BIN)/python -m tests.benchmarks.pages $(ARGS)

bench-peers: $(BENCH) ## Compare with other libraries for durable execution, fetched into build/peers
	$(BIN)/python -m tests.benchmarks.peers $(ARGS)

$(BENCH): $(STAMP)
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

clean: ## Remove .venv and what tools have left behind
	rm -rf .venv .tox build dist mutants .coverage .coverage.* htmlcov .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
