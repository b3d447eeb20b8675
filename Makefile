# Everything sets itself up on the first use: virtual environments, tools, the extension module.
# Each target is one of the scripts in ci/, which .ci/run calls too.

.DEFAULT_GOAL := help
.PHONY: help demo build fmt lint test test-rust test-python suite clients msrv cross semver package loom miri tsan chaos soak bench \
	bench-scale bench-rust instructions docs clean

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

msrv:  ## the crates, with the oldest Rust that they are for; rustup installs it, which takes the network
	@ci/msrv.sh $(ARGS)

cross:  ## the crates, compiled for ARM64 as far as clippy does; rustup installs its standard library, which takes the network
	@ci/cross.sh $(ARGS)

semver:  ## the crate's API beside an earlier commit's, by cargo-semver-checks; ARGS="main~20"
	@ci/semver.sh $(ARGS)

package:  ## the crates as they would be published, each built from its package; nothing is uploaded
	@ci/package.sh $(ARGS)

loom:  ## the protocols of the shared memory, in every order their threads can run
	@ci/loom.sh

miri:  ## the shared memory's structures under Miri, which finds undefined behaviour and data races; needs a nightly toolchain
	@ci/miri.sh $(ARGS)

tsan:  ## tests with threads under ThreadSanitizer, which finds data races; needs a nightly toolchain
	@ci/tsan.sh $(ARGS)

chaos:  ## random programs under SIGKILL, SIGSTOP and SIGINT; ARGS="--rounds 10000", ARGS="--seed 4711"
	@ci/chaos.sh $(ARGS)

soak:  ## a mixed load with deaths, in which memory, descriptors and members must stay flat; ARGS="--minutes 20"
	@ci/soak.sh $(ARGS)

test-python:  ## the tests of the package, with each Python that is found
	@ci/test-python.sh

suite:  ## CPython's own tests of multiprocessing; ARGS="--ci", ARGS="--python 3.12 --start-method spawn TestWait"
	@ci/suite.sh $(ARGS)

clients:  ## libraries that use multiprocessing, unmodified: scipy, joblib, pandas, tqdm
	@ci/clients.sh

bench:  ## the benchmarks, beside the standard library and its rivals; ARGS="--only queue", ARGS="--python 3.13"
	@ci/bench.sh $(ARGS)

bench-scale:  ## how it grows: with workers, tasks, sizes, objects, time
	@ci/bench.sh --scale $(ARGS)

bench-rust:  ## the crate beside its rivals
	@ci/bench-rust.sh $(ARGS)

instructions:  ## instructions of the hot paths, counted by callgrind, against ci/instructions.txt
	@ci/instructions.sh $(ARGS)

docs:  ## the documentation of the crates
	@ci/docs.sh

clean:  ## remove all that was built or installed
	@ci/clean.sh
