# make run: the whole chain.  make report: report.html about it.  make test: the tests.
# All first bring .venv up to date.
# make chaos: what the tests do to running jobs, by the hundred.
# make test-slurm: the workflow on a Slurm cluster, which it sets up on a Debian machine, as root.
# ARGS is handed on: make run ARGS="--configfile mine.yaml", make test ARGS="-k masking".

PYTHON ?= python3
# Where torch comes from, when not from where pip looks: https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=

# Snakemake starts scripts with the path of Python unquoted.
ifneq ($(words $(CURDIR)),1)
$(error no script can be run from "$(CURDIR)": move the folder to a path without spaces)
endif

STAMP := .venv/up-to-date
BENCH_STAMP := .venv-bench/up-to-date
IN_VENV := . .venv/bin/activate &&

.PHONY: setup run report test test-slurm chaos bench lint lock

setup: $(STAMP)

run: setup
	$(IN_VENV) snakemake $(ARGS)

report: setup
	$(IN_VENV) snakemake report.html $(ARGS)

# Two at a time: most of the time goes to test_chain.py, whose tests share one run of the workflow.
test: setup
	$(IN_VENV) pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slurm: setup
	@PATH="$$PATH:/usr/sbin"; command -v munged && command -v slurmctld && command -v slurmd || \
		(apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge)
	$(IN_VENV) pip install --quiet --requirement requirements-slurm.txt
	$(IN_VENV) pytest -m slurm $(ARGS)

# Stops a small run some 140 times and fails its disk 30 times; about an hour.
chaos: setup
	$(IN_VENV) python tests/chaos.py $(ARGS)

lint: setup
	$(IN_VENV) snakefmt --check . && ruff format --check . && ruff check . && snakemake --lint

# Our stages against their peers, in the folder of a finished run: bench/results.csv, results.svg.
bench: $(BENCH_STAMP)
	$(IN_VENV) .venv-bench/bin/python bench/run.py $(ARGS)

# requirements.txt from the .in files. It must fit every machine: no local build of torch, none of
# the CUDA packages, which torch's CUDA build asks for by itself.
lock: setup
	$(IN_VENV) pip install --quiet pip-tools==7.6.2
	$(IN_VENV) CUSTOM_COMPILE_COMMAND="make lock" pip-compile --quiet --allow-unsafe \
		--strip-extras --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --output-file requirements.txt $(ARGS) \
		requirements.in requirements-dev.in
	sed -i.bak -E -e '/^(cuda|nvidia|triton)/d' -e 's/^(torch==[^+]*)\+.*/\1/' requirements.txt
	rm requirements.txt.bak

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python " \
		+ sys.version.split()[0] + ", 3.11 or newer is needed: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),.venv/bin/pip install --no-deps --index-url $(TORCH_INDEX) \
		"$$(grep ^torch== requirements.txt)")
	.venv/bin/pip install --requirement requirements.txt
	@touch $@

# The peers stay out of .venv, which is as requirements.txt says, but see what is installed there.
$(BENCH_STAMP): $(STAMP) bench/requirements.txt
	.venv/bin/python -m venv .venv-bench
	for lib in $(CURDIR)/.venv/lib/python*/site-packages; do \
		echo $$lib > .venv-bench/$${lib#$(CURDIR)/.venv/}/workflow.pth; done
	.venv-bench/bin/pip install --requirement bench/requirements.txt --constraint requirements.txt
	@touch $@
