#!/usr/bin/env bash
# All crates, their tests and examples with the oldest Rust that they are for, which rustup installs if it is missing
# (that takes the network). Arguments are passed on to cargo: the default is `check --all-targets`.
source "$(dirname "$0")/environment.sh"
find_rust
msrv=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
command -v rustup >/dev/null || fail "rustup was not found: it installs Rust $msrv."
rustup run "$msrv" rustc --version >/dev/null 2>&1 ||
    rustup toolchain install "$msrv" --profile minimal --no-self-update
# A build of its own, that leaves the other's results alone.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv
[ $# -gt 0 ] || set -- check --all-targets
command=$1
shift
rustup run "$msrv" cargo "$command" --locked --workspace --features procession/ndarray,procession/tokio "$@"
