#!/usr/bin/env bash
# The structures of the shared memory under Miri, which finds undefined behaviour and data races: the unit tests of
# procession-shm, and its tests with threads. Memory that is shared by threads stands for memory that is shared by
# processes. Needs a nightly toolchain; other arguments than none go to cargo in place of the usual tests.
source "$(dirname "$0")/environment.sh"
find_rust
nightly=${NIGHTLY:-nightly}
cargo "+$nightly" --version >/dev/null 2>&1 ||
    fail "Miri needs a nightly toolchain: rustup toolchain install $nightly --component miri,rust-src (or name another in NIGHTLY)."
cargo "+$nightly" miri --version >/dev/null 2>&1 ||
    rustup component add --toolchain "$nightly" miri rust-src ||
    fail "Miri isn't part of the toolchain $nightly, and rustup could not add it."
# The arena is never given back, hence the leaks. Its memory is an allocation here, its clock the machine's.
export MIRIFLAGS=${MIRIFLAGS:--Zmiri-strict-provenance -Zmiri-ignore-leaks -Zmiri-disable-isolation}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/miri-build
[ $# -gt 0 ] || set -- --lib --test threads
timeout 1800 cargo "+$nightly" miri test -p procession-shm "$@"
