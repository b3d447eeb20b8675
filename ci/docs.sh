#!/usr/bin/env bash
# The documentation of the crates, into target/doc.
source "$(dirname "$0")/environment.sh"
find_rust
cargo doc --workspace --no-deps
