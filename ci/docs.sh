#!/usr/bin/env bash
# The documentation of the crates, with all features, into target/doc.
source "$(dirname "$0")/environment.sh"
find_rust
cargo doc --workspace --no-deps --features procession/ndarray,procession/tokio
