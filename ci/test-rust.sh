#!/usr/bin/env bash
# The Rust tests: with cargo-nextest where it is installed (each test in a process of its own, bounded), else with
# cargo test. Arguments are passed on. The extension module is tested from Python.
source "$(dirname "$0")/environment.sh"
find_rust
crates=(--workspace --exclude procession-python --features procession/ndarray,procession/tokio)
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run "${crates[@]}" --no-tests=pass "$@"
    # A child killed at each marked instruction of what is shared, and of pools.
    [ $# -gt 0 ] || cargo nextest run -p procession-shm -p procession-engine \
        --features procession-shm/crash-points,procession-engine/crash-points \
        --test crash_points --test crash_points_later --test crash_points_records --test pool_crash_points
    # nextest leaves out the programs in the documentation.
    [ $# -gt 0 ] || cargo test --quiet --doc "${crates[@]}"
else
    timeout 2400 cargo test "${crates[@]}" "$@"
fi
