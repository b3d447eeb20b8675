#!/usr/bin/env bash
# The crates as they would be published: what is in each, and each built from its package alone. Nothing is uploaded.
# Arguments are passed on: --no-verify leaves the building out.
source "$(dirname "$0")/environment.sh"
find_rust
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/package
chosen=()
for crate in procession-sys procession-shm procession-engine procession-macros procession; do
    say "$crate:"
    cargo package -p "$crate" --list --allow-dirty --quiet | sed 's/^/    /' >&2
    chosen+=(-p "$crate")
done
# All at once: cargo takes for published what is packed in the same go.
cargo package "${chosen[@]}" --allow-dirty "$@"
