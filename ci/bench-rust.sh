#!/usr/bin/env bash
# The crate beside its rivals. Arguments are passed on: --only TEXT, --rounds N, --smoke.
source "$(dirname "$0")/environment.sh"
find_rust
make_default_venv
cargo build --release --quiet --locked --bins --examples --manifest-path benchmarks/rust/Cargo.toml
"$default_venv/bin/python" -m benchmarks --rust "${CARGO_TARGET_DIR:-benchmarks/rust/target}/release/procession-bench" "$@"
