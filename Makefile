# Everything sets itself up on the first use: virtual environments, tools, the extension module.
# Each target is one of the scripts in ci/, which .ci/run calls too.

.DEFAULT_GOAL := help
.PHONY: help demo build fmt lint test test-rust test-python suite loom bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo:  ## five programs, in Rust and in Python
	@ci/demo.sh

build:  ## the wheel, installed into a virtual environment for each Python that is found
	@ci/build.sh

fmt:  ## format the sources
	@ci/fmt.sh

lint:  ## formatting, clippy, rustdoc, ruff, mypy, stubtest
	@ci/lint.sh

test: test-rust test-python  ## all tests

test-rust:  ## the tests of the crates
	@ci/test-rust.sh

loom:  ## the protocols of the shared memory, in every order their threads can run
	@ci/loom.sh

test-python:  ## the tests of the package, with each Python that is found
	@ci/test-python.sh

suite:  ## CPython's own tests of multiprocessing; ARGS="--ci", ARGS="--python 3.12 --start-method spawn TestWait"
	@ci/suite.sh $(ARGS)

bench:  ## a first look at speed, beside the standard library
	@ci/bench.sh

docs:  ## the documentation of the crates
	@ci/docs.sh

clean:  ## remove all that was built or installed
	@ci/clean.sh
