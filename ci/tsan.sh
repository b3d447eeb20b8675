#!/usr/bin/env bash
# The structures of the shared memory under ThreadSanitizer, which finds data races: tests in which threads of one process
# share them. The standard library is built with it too. Needs a nightly toolchain with its sources; arguments, if there
# are some, go to cargo in place of the usual tests.
source "$(dirname "$0")/environment.sh"
find_rust
nightly=${NIGHTLY:-nightly}
cargo "+$nightly" --version >/dev/null 2>&1 ||
    fail "ThreadSanitizer needs a nightly toolchain: rustup toolchain install $nightly --component rust-src (or name another in NIGHTLY)."
host=$(rustc "+$nightly" -vV | sed -n 's/^host: //p')
sources=$(rustc "+$nightly" --print sysroot)/lib/rustlib/src/rust/library
[ -d "$sources" ] || rustup component add --toolchain "$nightly" rust-src ||
    fail "The sources of the standard library aren't part of the toolchain $nightly, and rustup could not add them."
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=thread"
# The first report is the end. Nothing is suppressed.
export TSAN_OPTIONS="halt_on_error=1 ${TSAN_OPTIONS:-}"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/tsan-build
# Not `scribbled`: it limits its memory, of which ThreadSanitizer needs more.
if [ $# -gt 0 ]; then
    timeout 1800 cargo "+$nightly" test -Zbuild-std --target "$host" "$@"
else
    timeout 1800 cargo "+$nightly" test -Zbuild-std --target "$host" -p procession-shm \
        --lib --test threads --test members --test corners --test garbled
fi
